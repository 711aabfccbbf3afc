"""Wrong use of backtest, gate and explain: exit code 2 or 3, one line, and the cure in it."""

from __future__ import annotations

from pathlib import Path

import fitted
import pytest
from conftest import Ran, Trained, clv
from fitted import KNOWN

from features.errors import InputError
from serving import load, words
from training.backtest import possible_slices, rolling
from training.labels import require_ripe
from training.slices import require_slice


def told(ran: Ran, code: int, *parts: str) -> None:
    """One line that says what must hold, what came and the cure, and nothing on standard output."""
    lines = [line for line in ran.err.splitlines() if "done in" not in line]
    assert (ran.code, ran.out, len(lines)) == (code, "", 1), ran.err
    assert lines[0].startswith("clv: ")
    for part in parts:
        assert part in lines[0]


#: Words after `clv backtest DATA`, and what its one line must hold.
BACKTESTS: dict[str, tuple[tuple[object, ...], tuple[str, ...]]] = {
    "no matured label": (
        ("--as-of", "2024-12-01", "--horizon", 12),
        ("Labels of 12 months at 2024-12-01 need data until 2025-12-01", "data end at 2025-07-01",
         "Take an earlier date or a shorter horizon"),
    ),
    "one of several without": (
        ("--as-of", "2023-07-01,2025-01-01", "--horizon", 12), ("at 2025-01-01", "earlier date"),
    ),
    "too long to test": (
        ("--horizon", 24), ("51 months of history", "Got 2022-01-03", "Take --horizon 19 or less"),
    ),
    "longer than anything": (("--horizon", 60), ("1 to 24", "got 60", "--horizon 12")),
    "before all orders": (("--as-of", "2021-06-01"), ("2021-06-01",)),
    "an unknown slice": (
        ("--slice", "colour"),
        ("all, orders, cohort, decile, acquisition_channel", "Got 'colour'", "Name one of them",
         "[customers] static"),
    ),
    "days as words": (("--early", "soon"), ("whole numbers", "'soon'", "Write 0,30,90")),
}  # fmt: skip


@pytest.mark.parametrize("name", BACKTESTS)
def test_a_backtest_that_cannot_be(at_home: Trained, name: str) -> None:
    more, parts = BACKTESTS[name]
    told(clv("backtest", at_home.data, *more), 2, *parts)


def test_nothing_is_fitted_before_all_dates_are_looked_at(
    at_home: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fitted_already(*_: object, **__: object) -> None:
        raise AssertionError("fitted before the second date was looked at")

    monkeypatch.setattr("training.backtest.backtest", fitted_already)
    for more in (("--as-of", "2023-07-01,2025-01-01"), ("--slice", "colour")):
        assert clv("backtest", at_home.data, *more).code == 2


def test_a_version_that_is_refused_or_unknown(at_home: Trained) -> None:
    told(clv("promote", "2"), 3, "must pass the gate. Version 2 was refused",
         "Train a better one, or write clv promote 2 --force")  # fmt: skip
    told(clv("promote", "2", "--force", " "), 2, "needs a reason", '--force "WHY"')
    for wrong in ("12", "best"):
        told(clv("promote", wrong), 2, "1 champion, 2 challenger", repr(wrong), "Name one of them")


def test_a_customer_whom_no_table_knows(at_home: Trained) -> None:
    told(clv("explain", at_home.data, "--customer", "7"), 2,
         "an id of the orders or of the table customers, byte for byte", "before 2025-07-01",
         "Got '7'. Mend the id (007 is not 7) or take a later --as-of.")  # fmt: skip
    # A prediction is not refused: the population's answer says what it is.
    frame = load().predict_unknown("7", at_home.as_of)
    assert frame["evidence"].tolist() == ["cold_start"]


def test_a_prediction_is_never_refused_for_want_of_history(
    at_home: Trained, tmp_path: Path
) -> None:
    out = tmp_path / "p.csv"
    ran = clv("predict", at_home.data, "--as-of", "2022-02-01", "--horizons", "24", "--out", out,
              "--json")  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.json["evidence"] == "extrapolated"
    assert ran.json["customers"] > 5


def test_one_slice_is_told_in_full_of_every_cutoff() -> None:
    test = fitted.judged()
    shown = words.backtested([test, test], "orders")
    parts = shown.split("By orders, cutoff 2024-07-01, with 95 % intervals\n")
    assert len(parts) == 3
    rows = test.slices[test.slices["slice"] == "orders"].set_index("level")
    for level, row in rows.iterrows():
        digits = 1 if row["mae"] >= 10 else 3
        assert f"{level:<5}  {row['n']:>3}  {row['mae']:,.{digits}f} (" in parts[1]
    assert "By slice" not in shown
    assert "By slice" in words.backtested([test])


def test_possible_slices_are_known_before_any_fit() -> None:
    test, store, settings = fitted.judged(), fitted.hostile(), fitted.settings()
    found = set(test.slices["slice"])
    possible = possible_slices(store, settings)
    assert found <= set(possible)
    # Years of birth are numbers, and so make no slice.
    assert set(possible) - found <= {"birth_year"}
    with pytest.raises(InputError, match=r"must be one of all, b\. Got 'c'"):
        require_slice("c", ("all", "b"))
    with pytest.raises(InputError, match="need data until 2030-07-01"):
        require_ripe(KNOWN, 72, store.coverage_end, "UTC")
    with pytest.raises(InputError, match="needs 51 months of history"):
        rolling(store.until(KNOWN), 24, settings)
