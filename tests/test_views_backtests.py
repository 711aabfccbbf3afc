"""The page of a backtest says what the test found, and nothing that it holds can do harm."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import fitted
import numpy as np
import pandas as pd
import pytest
from conftest import clv
from reading import Page, shown

from features.errors import InputError
from serving.views import backtests
from training import pages, plots, sections
from training.judgement import Judgement
from training.pages import Document
from training.profit import profit_curve

VALUE = ("mae", "rmse", "bias", "normalised_gini", "spearman", "decile_mape")
CHURN = ("auroc", "average_precision", "brier", "log_loss", "ece")
CAPTURE = ("capture_1", "capture_5", "capture_10", "capture_20")


@pytest.fixture(scope="module")
def test() -> Judgement:
    return fitted.judged()


@pytest.fixture(scope="module")
def both(test: Judgement) -> list[Judgement]:
    """Two cutoffs, the earlier of which was told other values."""
    return [replace(test, cutoff="2024-04-01", actual=test.actual * 1.5), test]


@pytest.fixture(scope="module")
def told(both: list[Judgement]) -> Document:
    return backtests.document(both)


@pytest.fixture(scope="module")
def page(told: Document) -> Page:
    return Page.of(pages.html(told))


def test_a_row_for_every_cutoff_with_intervals(page: Page, both: list[Judgement]) -> None:
    table = page.table("Our model at each cutoff")
    assert list(table.rows) == ["2024-04-01 12 months", "2024-07-01 12 months"]
    for row, test in zip(table.rows.values(), both, strict=True):
        found = test.intervals()
        shown(row[0], len(test.actual))
        assert len(row) == 1 + len(found)
        for cell, name in zip(row[1:], found, strict=True):
            shown(cell, *found[name])
    assert table.head[2].startswith("mean absolute error, USD")


def test_all_models_beside_each_other(page: Page, test: Judgement) -> None:
    board, own = test.leaderboard(), test.intervals()
    for caption, metrics in (
        ("Value:", VALUE), ("Share of the value", CAPTURE), ("Churn: no order", CHURN),
        ("Churn found", ("lift_5", "lift_10", "lift_20")),
    ):  # fmt: skip
        rows = page.table(caption).rows
        assert list(rows) == list(test.values)
        for model, row in rows.items():
            for cell, metric in zip(row, metrics, strict=True):
                ranged = model == test.ours and metric in own and caption != "Share"
                shown(cell, *(own[metric] if ranged else [board.loc[model, metric]]))


def test_differences_are_told_in_words(page: Page, test: Judgement) -> None:
    for model, rows in test.differences.groupby("model", sort=False):
        (line,) = (text for text in page.texts if text.startswith(f"{model}: ours is better in"))
        better, level, worse = line.removesuffix(".").split("; ")
        for part, kind in ((better, "better"), (level, "level"), (worse, "worse")):
            names = [sections.NAMES[m] for m in rows["metric"][rows["verdict"] == kind]]
            assert part.endswith(" in " + (", ".join(names) or "nothing"))


def test_intervals_calibration_and_months(page: Page, test: Judgement) -> None:
    rows = list(page.table("Customers outside").rows.values())
    for row, true in zip(rows, test.coverage().to_dict("records"), strict=True):
        for cell, name in zip(
            row, ("n", "above", "n_above", "below", "n_below", "inside"), strict=True
        ):
            shown(cell, float(true[name]))
    for name, true in test.calibration().items():
        row = page.table("Is a churn").rows[f"{name} calibration"]
        for cell, value in zip(row, true.values(), strict=True):
            shown(cell, value)
    months = page.table("Net revenue of all").rows
    sums = [np.array(test.by_month[name]) for name in ("predicted", "actual")]
    for k, row in enumerate(months.values()):
        each = [*(s[k] - (s[k - 1] if k else 0.0) for s in sums), *(s[k] for s in sums)]
        for cell, value in zip(row, each, strict=True):
            shown(cell, value)
    assert list(months) == [str(k) for k in range(1, 13)]


def test_slices_with_small_ones_marked(page: Page, test: Judgement) -> None:
    rows = page.table("Every kind of customer").rows
    assert len(rows) == len(test.slices)
    metrics = ("bias", "normalised_gini", "mae", "auroc", "brier", "ece")
    for (name, row), true in zip(rows.items(), test.slices.to_dict("records"), strict=True):
        assert name.startswith(f"{true['slice']}: ")
        assert row[0].endswith(" (small)") == true["small"]
        shown(row[0], true["n"])
        for cell, metric in zip(row[1:], metrics, strict=True):
            shown(cell, *(true[f"{metric}{end}"] for end in ("", "_low", "_high")))
    assert test.slices["small"].any()
    assert not test.slices["small"].all()


def test_names_by_somebody_who_means_harm_stay_names(page: Page) -> None:
    page.asks_nobody()
    rows = page.table("Every kind of customer").rows
    shops = [name for name in rows if name.startswith(("country", "first_channel"))]
    said = {" ".join(name.split()) for name in fitted.HOSTILE}
    assert {name.partition(": ")[2] for name in shops} == said


def test_every_picture_has_words_and_is_whole(page: Page) -> None:
    assert len(page.pictures) == 6
    for picture in page.pictures:
        assert len(picture["alt"]) > 60
        svg = base64.b64decode(picture["src"].partition(",")[2])
        root = ElementTree.fromstring(svg)  # noqa: S314  our own
        assert root.tag.endswith("svg")
        assert b"script" not in svg
        assert {ref for ref in root.iter() if "href" in ref.attrib} == set()
    assert len({picture["alt"] for picture in page.pictures}) == 6


def test_total_and_campaign_in_words(page: Page, test: Judgement) -> None:
    (line,) = (text for text in page.texts if text.startswith("Total of discounted margin"))
    numbers = [test.total.value, 0.8, test.total.low, test.total.high, test.said.actual.sum()]
    shown(line.partition(": ")[2], *numbers)
    inside = test.total.low <= test.said.actual.sum() <= test.total.high
    assert line.endswith(f"which is {'inside' if inside else 'outside'} the interval.")
    (line,) = (text for text in page.texts if text.startswith("A contact costs"))
    best = test.campaign
    numbers = [
        1.0, 0.1, best.share, best.n, best.expected, best.realised.value, 0.95, best.realised.low,
        best.realised.high, best.hindsight, best.hindsight_share,
    ]  # fmt: skip
    shown(line, *numbers)


def test_the_same_test_gives_the_same_bytes(
    both: list[Judgement], told: Document, tmp_path: Path
) -> None:
    out = tmp_path / "new/page.html"
    backtests.write_page(both, out)
    assert out.read_bytes() == pages.html(told).encode()
    assert list(out.parent.iterdir()) == [out]


def test_a_page_that_cannot_be_written_leaves_the_old_one(
    told: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "page.html"
    out.write_text("old")

    def full(self: Path, *args: object, **more: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backtests, "document", lambda tests: told)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match="No space left"):
        backtests.write_page([], out)
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_the_command_writes_the_page(
    test: Judgement, told: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    monkeypatch.setattr("training.backtest.backtest", lambda *args, **more: test)
    monkeypatch.setattr(backtests, "document", lambda tests: given.append(tests) or told)
    fitted.shop()["orders"].iloc[::200].to_csv(tmp_path / "orders.csv", index=False)
    out = tmp_path / "page.html"
    days = "2024-07-01,2024-04-01"
    ran = clv("backtest", tmp_path / "orders.csv", "--as-of", days, "--out", out)
    assert ran.code == 0, ran.err
    assert ran.out.endswith(f"Written to {out}\n")
    assert given == [[test, test]]
    assert out.read_bytes() == pages.html(told).encode()


# The two pictures made for these pages


def test_coverage_chart_shows_the_shares(test: Judgement) -> None:
    table = test.coverage()
    (axes,) = plots.coverage_chart(table).axes
    drawn = {str(line.get_label()): line.get_ydata() for line in axes.get_lines()}
    rows = table.set_index("group").loc[["all", *(f"decile {k:02d}" for k in range(1, 11))]]
    for name, point in (("above", "above the 90 % point"), ("below", "below the 10 % point")):
        np.testing.assert_allclose(drawn[point], 100 * rows[name])
    assert axes.get_ylim()[1] >= 100 * np.nanmax(rows[["above", "below"]].to_numpy())
    markers = {line.get_marker() for line in axes.get_lines() if line.get_marker() != "None"}
    assert markers == {"^", "v"}


def test_profit_chart_shows_the_curve_of_the_campaign(test: Judgement) -> None:
    said = test.said
    worth = said.value / (1 - said.churn)
    curve = profit_curve(
        said.churned, said.churn, worth, contact_cost=1.0, save_rate=0.1, by="gain"
    )
    figure = sections.figures(test)["profit"]
    (axes,) = figure.axes
    drawn = {str(line.get_label()): line.get_ydata() for line in axes.get_lines()}
    np.testing.assert_allclose(drawn["expected"], curve["expected"], rtol=1e-6)
    np.testing.assert_allclose(drawn["as it would have come"], curve["realised"], rtol=1e-6)
    assert f"chosen: {test.campaign.share:.0%}" in drawn


def test_pictures_of_nothing_known_are_drawn() -> None:
    empty = pd.DataFrame({"group": ["all"], "n": [0], "above": [np.nan], "below": [np.nan]})
    curve = pd.DataFrame({"share": [0.0, 1.0], "customers": [0.0, 3.0], "expected": [0.0, -3.0],
                          "realised": [0.0, -3.0]})  # fmt: skip
    for figure in (plots.coverage_chart(empty), plots.profit_chart(curve, 0.0, currency="EUR")):
        text = plots.svg(figure)
        assert text.startswith("<svg")
        assert text == plots.svg(figure)
        assert "<dc:date>" not in text
