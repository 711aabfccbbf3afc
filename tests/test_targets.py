"""Target lists: who is on them, who is control, and that `clv measure` reads them back."""

from __future__ import annotations

import math
import re
import tempfile
import tracemalloc
import zipfile
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import Ran, clv
from scipy import stats

from features import tables
from features.errors import InputError
from features.settings import Settings
from features.spine import text
from features.store import Store
from serving.decisions import files, targets, winback
from serving.decisions.known import OfStore
from serving.decisions.targets import Gain
from training.rehearsal import Rehearsal

N = 600


@cache
def predictions(n: int = N) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    churn = rng.beta(2, 1, n)
    clv = (1 - churn) * rng.gamma(2, 40, n)
    return pd.DataFrame(
        {
            "customer_id": [f"{k:04d}" for k in range(n)],
            "as_of": "2025-01-01",
            "churn_12m": churn,
            "revenue_3m": clv * 0.8,
            "retention_cost_12m": 1.0,
            "clv_12m": clv - 1.0,
            "clv_12m_low": 0.0,
            "clv_12m_high": clv * 2,
            "clv_12m_sd": clv * np.sqrt(1.5 / (1 - churn) - 1),
            "clv_12m_common": 0.1,
            "reasons": '[{"feature": "x", "money": 1.5, "text": "=seldom | late"}]',
            "model_version": "1",
        }
    )


def customers(n: int = N) -> pd.DataFrame:
    k = np.arange(n)
    return pd.DataFrame(
        {
            "customer_id": predictions(n)["customer_id"],
            "country": np.where(k % 3 == 0, "AT", "DE"),
            "consent_email": np.where(k % 4 == 0, "no", np.where(k % 4 == 1, "", "yes")),
            "consent_ads": np.where(k % 2 == 0, "true", "false"),
            "email": [f" Person.{i}@Example.org" for i in k],
            "first_name": "=cmd|' /C calc'!A0",
            "birth_year": 1980,
            "acquired_at": "2024-01-01",
            "acquisition_channel": "ads",
        }
    )


def orders() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "customer_id": predictions()["customer_id"],
            "order_ts": "2024-06-01",
            "amount": 10.0,
        }
    )


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data and a predictions file."""
    folder = tmp_path_factory.mktemp("desk")
    data = folder / "data"
    data.mkdir()
    orders().to_csv(data / "orders.csv", index=False)
    customers().to_csv(data / "customers.csv", index=False)
    pd.DataFrame(
        {
            "campaign_id": "old",
            "customer_id": predictions()["customer_id"].head(100),
            "ts": ["2024-12-20"] * 50 + ["2024-09-01"] * 50,
            "arm": ["treatment", "control"] * 50,
        }
    ).to_csv(data / "contacts.csv", index=False)
    (data / "clv.toml").write_text("[orders]\ncomplete_until = 2024-12-31\n")
    predictions().to_csv(folder / "p.csv", index=False)
    return folder


def target(desk: Path, out: Path, *words: object, command: str = "target") -> Ran:
    return clv(command, desk / "data", "--predictions", desk / "p.csv", "--out", out, *words)


def refused(ran: Ran, words: str) -> None:
    assert ran.code == 2, ran
    assert re.search(words, ran.err.splitlines()[-1]), ran.err
    assert ran.err.splitlines()[-1].startswith("clv: ")
    assert "Traceback" not in ran.err


# Ranking and the control


def test_the_expected_gain_is_the_mean_of_a_simulated_campaign() -> None:
    """A customer at churn c is kept with chance s c, and then worth what who stays is worth."""
    some = predictions().head(3)
    gain = targets.kept_gain(some, 12, 0.2)
    rng = np.random.default_rng(1)
    for i, row in some.iterrows():
        stay = 1 - row["churn_12m"]
        worth = (row["clv_12m"] + 1.0) / stay
        relative = (1 + (row["clv_12m_sd"] / (row["clv_12m"] + 1.0)) ** 2) * stay - 1
        value = rng.gamma(1 / relative, worth * relative, 400_000)
        kept = (rng.random(400_000) < 0.2 * row["churn_12m"]) * value
        assert gain.value[i] == pytest.approx(kept.mean(), rel=0.03)
        assert gain.sd[i] == pytest.approx(kept.std(), rel=0.05)


def test_the_list_is_the_best_by_gain_within_the_rules() -> None:
    table = predictions()
    gain = targets.kept_gain(table, 12, 0.1)
    bad = (np.arange(N) % 5 == 0, np.arange(N) % 2 == 0)
    made = targets.choose(table, gain, cost=0.8, top=80, control=0.25,
                          out=[("fifth", bad[0]), ("even", bad[1])])  # fmt: skip
    net = pd.Series(gain.value - 0.8, index=table["customer_id"])
    free = net[~(bad[0] | bad[1])]
    assert made.frame["customer_id"].tolist() == list(
        free.sort_values(ascending=False, kind="stable").index[:80]
    )
    assert made.left_out == {"fifth": 120, "even": 240}
    assert made.unprofitable == int((free <= 0).sum())
    assert (made.frame["gain"] > 0).all()
    assert len(made.frame) - len(made.treated) == 20
    assert made.cost == pytest.approx(60 * 0.8)
    assert made.gain[0] == pytest.approx(made.treated["gain"].sum())
    assert made.gain[1] < made.gain[0] < made.gain[2]


def test_a_budget_is_never_passed_and_nearly_spent() -> None:
    table, free = predictions(), Gain(np.full(N, 99.0), np.ones(N), 0.0, "", "")
    for seed in range(20):
        made = targets.choose(table, free, cost=0.7, budget=50.0, control=0.15, seed=seed)
        assert made.cost == pytest.approx(0.7 * len(made.treated))
        assert 50 - 2 * 0.7 <= made.cost <= 50


@pytest.mark.parametrize("control", [0.0, 0.1, 1 / 3, 0.9])
def test_a_budget_pays_for_the_longest_list_there_is(control: float) -> None:
    def naive(budget: float, cost: float, most: int) -> int:
        paid = Fraction(budget) / Fraction(cost) + Fraction(1e-9)
        fits = (n for n in range(most + 1) if n - math.floor(n * control) <= math.floor(paid))
        return min(max(fits), math.floor(math.floor(paid) / (1 - control)))

    for budget in (0.5, 7.0, 33.3, 1e3):
        for most in (1, 20, 300):
            assert targets._affordable(budget, 0.7, control, most) == naive(budget, 0.7, most)


def test_no_budget_takes_longer_than_there_are_customers() -> None:
    # Counted down from what the budget pays, the first would take days.
    for budget, cost, control in ((1e11, 0.01, 1 - 2**-53), (1e12, 5e-324, 0.9), (1e12, 1e-9, 0.5)):
        assert targets._affordable(budget, cost, control, 1_000) == 1_000


def test_the_control_is_fair_stratified_and_deterministic() -> None:
    ids = predictions()["customer_id"].to_numpy(object)
    layer = np.arange(N) * 5 // N
    held = np.array([targets.divided(ids, layer, 0.1, f"c|{seed}") for seed in range(400)])
    assert set(held.sum(axis=1)) == {60}
    for k in range(5):
        inside = held[:, layer == k].sum(axis=1)
        assert 11 <= inside.min() <= inside.max() <= 13
    # Everybody has the same chance: 400 draws at 0.1 each.
    counts = held.sum(axis=0)
    chi = ((counts - 40) ** 2 / (400 * 0.1 * 0.9)).sum()
    assert stats.chi2.cdf(chi, N - 5) < 0.999
    mixed = np.random.default_rng(0).permutation(N)
    again = targets.divided(ids[mixed], layer[mixed], 0.1, "c|7")
    assert (again == held[7][mixed]).all()
    assert (held[7] != held[8]).any()


def test_rows_in_any_order_give_the_same_list() -> None:
    table = predictions()
    mixed = table.sample(frac=1, random_state=2)
    gain = targets.kept_gain(table, 12, 0.1)
    part = Gain(gain.value[mixed.index], gain.sd[mixed.index], gain.common, "", "")
    one = targets.choose(table, gain, cost=0.1, top=50)
    other = targets.choose(mixed.reset_index(drop=True), part, cost=0.1, top=50)
    pd.testing.assert_frame_equal(one.frame, other.frame)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({}, "--top N or --budget B. Got neither"),
        ({"top": 5, "budget": 1.0}, "Got both"),
        ({"top": 0}, "--top must be 1 or more"),
        ({"top": 5, "control": 1.0}, "--control must be a share"),
        ({"top": 5, "control": 0.901}, "--control must be a share from 0 to 0.9"),
        ({"budget": 5.0, "cost": 0.0}, "--offer-cost above 0"),
        ({"top": 5, "cost": -1.0}, "--offer-cost must be money"),
        ({"top": 5, "cost": 1e6}, "Somebody must be left"),
    ],
)
def test_what_cannot_be_a_list_is_refused(how: dict[str, float], words: str) -> None:
    gain = targets.kept_gain(predictions(), 12, 0.1)
    with pytest.raises(InputError, match=words):
        targets.choose(predictions(), gain, **{"cost": 1.0, **how})  # type: ignore[arg-type]


# The command


def test_target_writes_a_list_that_says_who_and_why(desk: Path, tmp_path: Path) -> None:
    ran = target(desk, tmp_path / "l.csv", "--top", 100, "--channel", "email", "--offer", "=gift",
                 "--exclude", "contacted:30", "--exclude", "churned:0.95", "--exclude",
                 "country=AT")  # fmt: skip
    assert ran.code == 0, ran.err
    found = pd.read_csv(tmp_path / "l.csv", dtype=str)
    people = customers().set_index("customer_id")
    k = found["customer_id"].astype(int)
    assert (people.loc[found["customer_id"], "consent_email"] == "yes").all()
    assert (k >= 50).all()  # the first fifty stood in a campaign twelve days before
    assert (people.loc[found["customer_id"], "country"] == "DE").all()
    assert (found["churn_12m"].astype(float) < 0.95).all()
    assert set(found["offer"]) == {"'=gift"}
    assert set(found["reasons"]) == {"'=seldom | late (+1.50)"}
    assert "The riskiest customer is not the most persuadable one" in ran.out
    assert "300 left out: no consent for email" in ran.out
    assert "held out by chance as control" in ran.out


def test_contacts_of_a_list_are_measured_again(desk: Path, tmp_path: Path) -> None:
    """The list becomes a campaign; who is treated then spends 8 more, which measure finds."""
    contacts = tmp_path / "contacts.csv"
    words = ("--top", 400, "--offer-cost", 0.05, "--control", 0.4, "--campaign", "A=1", "--seed", 3,
             "--contacts-out", contacts)  # fmt: skip
    said = target(desk, tmp_path / "l.xlsx", *words, "--json").json
    assert (said["listed"], said["control"]) == (400, 160)
    told = pd.read_csv(contacts, dtype={"customer_id": str})
    assert told["campaign_id"].unique().tolist() == ["A=1"]
    data = tmp_path / "data"
    data.mkdir()
    told.to_csv(data / "contacts.csv", index=False)
    rng = np.random.default_rng(0)
    amount = rng.gamma(2, 10, len(told)) + 8.0 * (told["arm"] == "treatment")
    later = pd.DataFrame({"customer_id": told["customer_id"], "order_ts": "2025-01-20",
                          "amount": amount.round(2)})  # fmt: skip
    pd.concat([orders(), later]).to_csv(data / "orders.csv", index=False)
    (data / "clv.toml").write_text("[orders]\ncomplete_until = 2025-06-30\n")
    found = clv("measure", data, "--campaign", "A=1", "--outcome", "margin", "--days", 60, "--by",
                "segment", "--json").json  # fmt: skip
    effect = found["adjusted"][0]
    assert effect["low"] < 8 < effect["high"]
    assert effect["low"] > 4
    assert found["intended_share"] == 0.4
    assert found["sample_ratio_p"] > 0.9
    assert found["sound"] is True
    assert "the value predicted before" in found["adjusted_by"]
    assert [one["group"] for one in found["groups"]] == [f"segment layer {k}" for k in range(1, 6)]
    assert effect["cost"] == pytest.approx(240 * 0.05)
    # A file of contacts is history: it is never replaced.
    refused(target(desk, tmp_path / "l.csv", *words), "--contacts-out must be a new file")


def test_the_same_list_has_the_same_bytes(desk: Path, tmp_path: Path) -> None:
    for ending in ("csv", "parquet", "xlsx"):
        files_made = [tmp_path / f"{name}.{ending}" for name in "ab"]
        for out in files_made:
            assert target(desk, out, "--top", 30, "--seed", 5).code == 0
        assert files_made[0].read_bytes() == files_made[1].read_bytes()
    with zipfile.ZipFile(tmp_path / "a.xlsx") as book:
        sheet = book.read("xl/worksheets/sheet1.xml").decode()
        texts = book.read("xl/sharedStrings.xml").decode()
    assert "<f>" not in sheet
    assert "=seldom | late" in texts
    assert "'=seldom" not in texts
    assert sheet.count("<row ") == 31


def _inside(path: Path) -> tuple[list[str], list[list[str]]]:
    """The columns of a worksheet as they are laid out, and its cells as text."""
    with zipfile.ZipFile(path) as book:
        sheet = book.read("xl/worksheets/sheet1.xml").decode()
        texts = [book.read(name).decode() for name in book.namelist() if "sharedStrings" in name]
    shared = re.findall(r"<t[^>]*>([^<]*)</t>", "".join(texts))
    rows = []
    for row in re.findall(r"<row [^>]*>(.*?)</row>", sheet):
        cells = re.findall(r'<c r="([A-Z]+)\d+"( s="1")?( t="\w+")?>(.*?)</c>', row)
        texts = [re.sub("<[^>]*>", "", inner) for *_, inner in cells]
        texts = [
            shared[int(text)] if "s" in kind.split('"') else text
            for (*_, kind, _), text in zip(cells, texts, strict=True)
        ]
        rows.append(
            [f"{at}{bold} {text}" for (at, bold, *_), text in zip(cells, texts, strict=True)]
        )
    return re.findall(r"<(?:col|pane) [^>]*>", sheet), rows


def test_a_large_worksheet_is_that_of_a_small_one_in_less_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = predictions(6_000)[["customer_id", "as_of", "churn_12m", "clv_12m"]].copy()
    table.insert(
        1, "text", np.array(["=1+1", None, "a long text " * 9, "  x"])[np.arange(6_000) % 4]
    )
    table["flag"] = np.arange(6_000) % 2 == 0
    monkeypatch.setattr(files, "BLOCK", 500)
    peaks = []
    for name, many in (("small.xlsx", 10**9), ("large.xlsx", 100)):
        monkeypatch.setattr(files, "MANY", many)
        tracemalloc.start()
        files.write(table, tmp_path / name)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert _inside(tmp_path / "small.xlsx") == _inside(tmp_path / "large.xlsx")
    assert len(_inside(tmp_path / "large.xlsx")[1]) == 6_001
    assert peaks[1] < peaks[0] / 2


@pytest.mark.parametrize("many", [0, 10**9])
def test_a_worksheet_on_a_full_disk_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "MANY", many)
    monkeypatch.setattr(zipfile.ZipFile, "write", full)
    with pytest.raises(InputError, match=r"l\.xlsx: No space left on device"):
        files.write(predictions(), tmp_path / "l.xlsx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--top", 5, "--channel", "sms"), "must have the column 'consent_sms'. Got .*consent_ads"),
        (("--top", 5, "--channel", "email", "--exclude", "vip"), "no-consent, contacted:DAYS"),
        (("--top", 5, "--exclude", "no-consent"), "needs --channel"),
        (("--top", 5, "--exclude", "shoe=4"), "must have the column 'shoe'"),
        (("--top", 5, "--horizon", 24), "must carry --horizon 24. Got 12"),
        (("--top", 5, "--format", "fax"), "--format must be csv, google, meta, klaviyo. Got 'fax'"),
        (("--budget", 5), "--budget needs the cost of one contact"),
        (("--top", 5, "--uplift", "nowhere"), "must be a folder. Got none|key"),
    ],
)
def test_missing_inputs_are_asked_for(
    desk: Path, tmp_path: Path, words: tuple[object, ...], told: str
) -> None:
    refused(target(desk, tmp_path / "l.csv", *words), told)
    assert list(tmp_path.iterdir()) == []


def test_missing_tables_are_asked_for(desk: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    orders().to_csv(bare / "orders.csv", index=False)
    words = ("target", bare, "--predictions", desk / "p.csv", "--out", tmp_path / "l.csv")
    refused(clv(*words, "--top", 5, "--exclude", "contacted:30"), "table contacts. Got none")
    refused(clv(*words, "--top", 5, "--channel", "email"), "no such table. Add it")
    refused(clv(*words[:-1], tmp_path / "l.txt", "--top", 5), r"\.csv or \.parquet or \.xlsx")
    ran = clv(*words[:-1], tmp_path / "c.csv", "--top", 5, "--control", 0, "--campaign", "A",
              "--contacts-out", tmp_path / "x.csv")  # fmt: skip
    refused(ran, "needs a control group")
    plan = ("plan", bare, "--predictions", desk / "p.csv", "--out", tmp_path / "p.csv")
    refused(clv(*plan, "--budget", 100), "table spend. Got none. Add spend.csv")
    refused(clv(*plan), "Got neither")


def test_predictions_must_be_predictions(tmp_path: Path) -> None:
    good = predictions()
    for change, words in (
        (good.drop(columns="as_of"), "what clv predict writes. Missing: as_of"),
        (good.drop(columns="clv_12m"), "Missing: clv_12m"),
        (pd.concat([good, good.assign(as_of="2025-02-01")]), "predictions of one moment"),
        (pd.concat([good, good.head(1)]), "every customer once"),
        (good.assign(clv_12m="much"), "clv_12m: must be numbers. Got 'much'"),
        (good.head(0), "Got a header only|at least one"),
    ):
        change.to_csv(tmp_path / "p.csv", index=False)
        with pytest.raises(InputError, match=words):
            files.predictions(tmp_path / "p.csv")
    good.sample(frac=1, random_state=0).to_parquet(tmp_path / "p.parquet")
    found = files.predictions(tmp_path / "p.parquet")
    assert found["customer_id"].tolist() == good["customer_id"].tolist()
    assert found["clv_12m"].tolist() == good["clv_12m"].tolist()


def test_a_list_for_a_platform_holds_the_treated_who_agreed(desk: Path, tmp_path: Path) -> None:
    said = target(desk, tmp_path / "m.csv", "--top", 60, "--format", "meta", "--json").json
    lines = (tmp_path / "m.csv").read_text().splitlines()
    assert len(lines) == 1 + said["treatment"] == 1 + said["matchable"]
    assert said["left_out"] == {"no consent for ads": N // 2}
    assert "Example" not in "".join(lines)
    assert "cmd" not in "".join(lines)
    words = ("--top", 60, "--format", "google", "--channel", "email", "--json")
    both = target(desk, tmp_path / "g.csv", *words).json["left_out"]
    assert list(both) == ["no consent for email", "no consent for ads"]
    assert min(both.values()) > 0


def test_consent_is_yes_or_no() -> None:
    people = customers().assign(consent_email="perhaps")
    store = Store.of(tables.ingest({"orders": orders(), "customers": people}, Settings(),
                                   Path(tempfile.mkdtemp())))  # fmt: skip
    with pytest.raises(InputError, match=r"consent_email: must be true or false. Got 'perhaps'"):
        targets.consenting(OfStore(store, pd.Series(["0001"]), "2025-01-01"), "email")
    some = OfStore(store, pd.Series(["0001", "0000", "nobody"]), "2025-01-01")
    got = targets.consenting(some, "ads")
    assert got.tolist() == [False, True, False]


# Win-back


def test_winback_ranks_who_has_left_by_chance_times_value(desk: Path, tmp_path: Path) -> None:
    ran = target(desk, tmp_path / "w.csv", "--top", 50, "--offer-cost", 2, "--lapsed", 0.6,
                 "--no-test", command="winback")  # fmt: skip
    assert ran.code == 0, ran.err
    found = pd.read_csv(tmp_path / "w.csv", dtype={"customer_id": str})
    table = predictions().set_index("customer_id")
    gone = table[table["churn_12m"] >= 0.6]
    value = (gone["clv_12m"] + 1.0).sort_values(ascending=False)
    assert found["customer_id"].tolist() == list(value.index[:50])
    assert np.allclose(found["gain"], value.iloc[:50] - 2, atol=0.006)
    assert np.allclose(found["p_return"] * found["value_if_back"], value.iloc[:50], rtol=0.02)
    assert "expected value of those who return" in ran.out
    assert "expected gain" not in ran.out


def test_the_business_own_rule_says_who_has_left() -> None:
    table = predictions().assign(inactive_own_gap=np.arange(N) % 2)
    assert (winback.lapsed(table, 12, 0.5) == (np.arange(N) % 2 == 1)).all()
    assert winback.lapsed(predictions(), 12, 0.7).sum() == (predictions()["churn_12m"] >= 0.7).sum()
    with pytest.raises(InputError, match=r"--lapsed must be a chance"):
        winback.lapsed(predictions(), 12, 30)
    assert math.isclose(winback.LAPSED, 0.5)


def rehearsal(n: int = 4_000, noise: bool = False) -> Rehearsal:
    """Predictions that are right, or that have nothing to do with what came."""
    rng = np.random.default_rng(0)
    churn, worth = rng.beta(3, 1, n), rng.gamma(2, 30, n)
    gone = (rng.random(n) < (rng.permutation(churn) if noise else churn)).astype(float)
    came = (1 - gone) * rng.gamma(2, 30, n) if noise else (1 - gone) * worth
    return Rehearsal(0, 6, (1 - churn) * worth, 1 - churn, churn, came, gone)


def test_the_evaluation_of_a_win_back_is_the_naive_one() -> None:
    past = rehearsal()
    found = winback.evaluate(past, "2024-07-01", 0.5)
    frame = pd.DataFrame({"churn": past.churn, "value": past.value, "came": past.actual,
                          "back": 1 - past.churned})  # fmt: skip
    gone = frame[frame["churn"] >= 0.5].sort_values("value", ascending=False)
    top = gone.head(round(len(gone) / 10))
    assert (found.customers, found.top) == (len(gone), len(top))
    assert found.returned == pytest.approx(gone["back"].mean())
    assert found.predicted == pytest.approx(1 - gone["churn"].mean())
    assert found.top_returned == pytest.approx(top["back"].mean())
    assert found.money_share == pytest.approx(top["came"].sum() / gone["came"].sum())
    assert 0.15 < found.money_share < found.best_share
    assert found.predicted == pytest.approx(found.returned, abs=0.02)
    for said, came, _ in found.groups:
        assert said == pytest.approx(came, abs=0.06)
    blind = winback.evaluate(rehearsal(noise=True), "2024-07-01", 0.5)
    assert blind.money_share == pytest.approx(0.1, abs=0.03)
    with pytest.raises(InputError, match="At least 50 customers must have left"):
        winback.evaluate(rehearsal(60), "2024-07-01", 0.9)


def test_winback_tells_how_its_ranking_did(
    desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command fits everything once more before a past moment; that is tested elsewhere."""
    asked = []

    def once(store: Store, cutoff: int, months: int, *_: object, **__: object) -> SimpleNamespace:
        asked.append((text(cutoff, store.zone), months))
        return SimpleNamespace(said=rehearsal(), cutoff=text(cutoff, store.zone))

    monkeypatch.setattr("training.backtest.backtest", once)
    ran = target(desk, tmp_path / "w.csv", "--top", 5, "--offer-cost", 2, command="winback")
    assert ran.code == 0, ran.err
    assert asked == [("2024-01-01", 12)]
    assert "Out of time, at 2024-01-01: of" in ran.out
    assert "a random tenth 10%" in ran.out
