"""The model card is made from the run: its numbers are those of the model, the test, the gate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fitted
import numpy as np
import pytest
from reading import Page, shown

from features import simulate
from features.catalogue import feature_hash
from features.report import Ingested
from features.rules import RuleCount
from features.spine import DAY
from training import card, gate, pages, sections
from training.card import Facts
from training.compared import OURS
from training.drivers import drivers
from training.gate import Verdict
from training.judgement import Judgement
from training.model import Model
from training.newcomers import Prospects
from training.pages import Bullets, Document
from training.population import Population
from training.samples import gather
from training.season import FLAT, Season

EXAMPLE = (("orders.csv", 7, "amount", "canary-of-a-customer"),)


def facts() -> Facts:
    rules = (
        RuleCount("null_id", "no customer", 12, 0.01, "refused", EXAMPLE),
        RuleCount("never_met", "nothing", 0, 0.0, "refused", ()),
    )
    store = fitted.hostile()
    found = Ingested(
        folder=Path("gone"), buckets=1, rows_in=4_012, rows_kept=4_000, rows_refused=12,
        customers=600, first_ts=store.first_ts, last_ts=store.coverage_end - 1,
        coverage_end=store.coverage_end, columns_present=("order_id", "channel"), recognised=None,
        fingerprint="f" * 64, rules=rules, files=("canary-of-a-file.csv",), currency="USD",
        time_zone="UTC", events_in=30, events_kept=28,
    )  # fmt: skip
    return Facts(found, 41, {"Python": "3.11.0", "numpy": "2.2.0"})


@pytest.fixture(scope="module")
def test() -> Judgement:
    return fitted.judged()


@pytest.fixture(scope="module")
def shipped(test: Judgement) -> Model:
    """As if fitted a year later: other numbers than the judged one's, and a season."""
    season = Season(tuple([0.9] * 6 + [1.1] * 6))
    later = test.model.trained_until + 365 * 86_400_000_000
    return replace(
        test.model, trained_until=later, customers=777, anchor=replace(test.model.anchor,
        season=season), calibration=test.model.calibration._replace(level=0.125),
    )  # fmt: skip


@pytest.fixture(scope="module")
def verdict(test: Judgement) -> Verdict:
    return gate.judge(
        test.actual, test.churned, test.values, test.churn, test.ours, None, test.baselines,
        draws=20,
    )  # fmt: skip


@pytest.fixture(scope="module")
def told(shipped: Model, test: Judgement, verdict: Verdict) -> Document:
    return card.document(shipped, test, verdict, facts())


@pytest.fixture(scope="module")
def page(told: Document) -> Page:
    return Page.of(pages.html(told))


def test_counts_of_the_data_and_no_data(page: Page, told: Document) -> None:
    rows = page.table("Counts, dates").rows
    for name, n in (
        ("order lines read", 4_012), ("order lines refused", 12), ("order lines kept", 4_000),
        ("customers", 600), ("events read", 30), ("events kept", 28),
    ):  # fmt: skip
        shown(rows[name][0], n)
    first = simulate.bench(600, 3).tables["orders"]["order_ts"].min()
    assert rows["first order"] == [f"{first:%Y-%m-%d}"]
    assert rows["covered up to (not included)"] == ["2026-06-29"]
    assert rows["newest order"] == ["2026-06-28"]
    assert (rows["fingerprint"], rows["currency"]) == (["f" * 64], ["USD"])
    assert page.table("Rules that rows").rows == {"null_id": ["refused", "12", "no customer"]}
    assert "canary" not in pages.html(told) + pages.markdown(told)


def test_what_it_learned_from(page: Page, shipped: Model) -> None:
    rows = page.table("Past moments").rows
    assert [row[0] for row in rows.values()] == [str(o.months) for o in shipped.origins]
    assert max(rows) < "2024-07-01"
    families = page.table("Features").rows
    known = {entry["family"] for entry in shipped.catalogue.dictionary()}
    assert set(families) == {*known, "all"}
    assert families["all"] == [str(len(shipped.catalogue.names)), str(len(shipped.columns))]
    for column in (0, 1):
        parts = [int(row[column]) for name, row in families.items() if name != "all"]
        assert sum(parts) == int(families["all"][column])


def test_which_figures_belong_to_which_model(page: Page, shipped: Model, test: Judgement) -> None:
    rows = page.table("Judged and shipped").rows
    assert rows["fitted on what came before"] == ["2024-07-01", "2025-07-01"]
    assert rows["customers"] == ["600", "777"]
    level = rows["calibration of churn: level, slope"]
    shown(level[0], *test.model.calibration)
    shown(level[1], 0.125, shipped.calibration.slope)
    (told,) = (text for text in page.texts if "saw nothing at or after its cutoff" in text)
    assert "the gate below speak of the judged model" in told


def test_metrics_with_intervals_beside_the_baselines(page: Page, test: Judgement) -> None:
    board, own = test.leaderboard(), test.intervals()
    rows = page.table("Value:").rows
    assert list(rows) == list(test.values)
    for model, row in rows.items():
        for cell, metric in zip(row[:4], ("mae", "rmse", "bias", "normalised_gini"), strict=True):
            shown(cell, *(own[metric] if model == test.ours else [board.loc[model, metric]]))
    outside = test.coverage().set_index("group")
    for who, group in (("All customers", "all"), ("Highest tenth by value", "decile 01")):
        (line,) = (text for text in page.texts if text.startswith(f"{who}: "))
        above, below = (outside.loc[group, name] for name in ("above", "below"))
        shown(line, above, 0.9, below, 0.1, 0.1)
    assert sum(name.endswith("(small)") for (name, *_) in page.table("Every kind").rows.values())


def test_the_gate_line_by_line(page: Page, verdict: Verdict) -> None:
    rows = page.table("Every line of it").rows
    assert list(rows) == [line.name for line in verdict.lines]
    for line in verdict.lines:
        assert rows[line.name] == [line.must, line.came, "yes" if line.passed else "NO"]
    assert f"{verdict.status}: {verdict.reason}" in page.texts


def test_totals_out_of_band_are_said(page: Page, test: Judgement) -> None:
    assert set(test.warnings()) <= set(page.texts)
    slices = test.slices.copy()
    slices.loc[1, ["bias", "bias_low", "bias_high"]] = 0.9, 0.8, 1.0
    off = replace(test, slices=slices)
    said = sections.warnings(off)[-1]
    assert isinstance(said, Bullets)
    assert said.items == tuple(off.warnings())
    assert any(text.startswith("orders 1: predicted total +90%") for text in said.items)


def test_seasons_or_why_there_are_none(page: Page, shipped: Model) -> None:
    assert list(page.table("Seasons").rows.values()) == [["0.90"]] * 6 + [["1.10"]] * 6
    flat = replace(shipped, anchor=replace(shipped.anchor, season=FLAT))
    assert "None were found beyond" in card.markdown(flat, None, None, facts())
    begun = replace(facts().ingested, first_ts=shipped.trained_until - 400 * DAY)
    young = card.markdown(flat, None, None, replace(facts(), ingested=begun))
    assert "None: telling them takes 15 months of history." in young


def test_which_behaviours_matter(shipped: Model) -> None:
    store = fitted.hostile()
    rows, _ = gather(store, shipped.catalogue, shipped.trained_until, "UTC", 1.0)
    found = drivers(shipped, rows, shipped.trained_until, 12)
    page = Page.of(card.html(shipped, None, None, replace(facts(), drivers=found)))
    families = page.table("Families of behaviour").rows
    assert list(families) == found.families["family"].tolist()
    for row in found.families.to_dict("records"):
        shown(families[row["family"]][0], row["weight"])
    heaviest = page.table("The heaviest behaviours").rows
    assert len(heaviest) == 12
    assert next(iter(heaviest)) == found.features["meaning"][0].removeprefix("1 if ")
    shown(next(iter(heaviest.values()))[2], found.features["churn_high"][0])
    assert any(f"measured on {len(rows)} customers" in text for text in page.texts)
    assert "They were not measured." in card.markdown(shipped, None, None, facts())


def test_how_many_ordered_again(page: Page, test: Judgement) -> None:
    rows = page.table("Customers with another order").rows
    assert len(rows) == test.months
    for month, row in rows.items():
        m = int(month) - 1
        due, came = (test.returned[name][m] for name in ("predicted", "actual"))
        shown(row[0], round(due))
        shown(row[1], due / 600)
        shown(row[2], came)
    said = test.churn[test.ours]
    assert test.returned["predicted"][-1] == pytest.approx((1 - said).sum())
    assert test.returned["actual"][-1] == (test.churned == 0).sum()


def test_prospects_or_the_population(shipped: Model, test: Judgement, page: Page) -> None:
    assert any("not judged: the table customers holds buyers only" in text for text in page.texts)
    assert any("There is no model of people without an order" in text for text in page.texts)
    rows, _ = gather(fitted.hostile(), shipped.catalogue, shipped.trained_until, "UTC", 1.0)
    everybody = shipped.predict(rows, shipped.trained_until, range(1, 25))
    known = replace(shipped, population=Population.of(everybody, shipped.trained_until))
    (told,) = (
        text for text in Page.of(card.html(known, test, None, facts())).texts
        if text.startswith("Somebody whom no table knows")
    )  # fmt: skip
    columns = everybody.columns()
    shown(told.split(" USD")[0].split("clv_12m ")[1], columns["clv_12m"].mean())
    actual, none = np.array([0.0, 0.0, 50.0, 30.0]), np.array([1.0, 1.0, 0.0, 0.0])
    values = {OURS: np.array([1.0, 2.0, 40.0, 20.0]), "average": np.full(4, 20.0)}
    chances = {OURS: np.array([0.9, 0.8, 0.2, 0.3]), "average": np.full(4, 0.5)}
    apart = Prospects(12, actual, none, values, chances, "2024-07-01")
    other = Page.of(card.html(shipped, replace(test, prospects=apart), None, facts()))
    table = other.table("Prospects: net revenue").rows
    shown(table[OURS][0], apart.leaderboard().loc[OURS, "bias"])
    assert any(text.startswith("4 people had signed up before 2024-07-01") for text in other.texts)


def test_limits_and_how_to_make_it_again(page: Page, shipped: Model) -> None:
    said = "\n".join(page.texts)
    for words in (
        "no cost of single orders", "no product categories", "no events beside orders",
        "at least one order before", "longest label it has seen is 12 months",
    ):  # fmt: skip
        assert words in said
    for words in ("no sales channel", "no attributes of customers", "Evidence is thin"):
        assert words not in said
    assert "clv train DATA --as-of 2025-07-01 --horizons 12,18,24 --seed 41" in said
    assert f"Seed 41; features {feature_hash()}; Python 3.11.0, numpy 2.2.0." in said
    rows = page.table("Evidence by horizon").rows
    assert {h: shipped.evidence([int(h)]) for h in rows} == {h: row[0] for h, row in rows.items()}
    assert rows["24"] == ["extrapolated"]
    for rule, words in (("own_gap:3", "inactive_own_gap"), ("contract_end", "inactive_contract")):
        chosen = fitted.settings(business={"churn": rule})
        other = replace(shipped, settings=chosen, members={})
        text = card.markdown(other, None, None, facts())
        assert words in text
        assert "Evidence is thin" in text


def test_a_card_without_a_test_says_so(shipped: Model) -> None:
    page = Page.of(card.html(shipped, None, None, facts()))
    page.asks_nobody()
    said = "\n".join(page.texts)
    assert "It has not been tested out of time" in said
    assert "No figure here says how good the model is" in said
    assert page.pictures == []
    assert not any("judged" in caption.lower() for caption in page.tables)
    assert "The gate" not in card.markdown(shipped, None, None, facts())


def test_nothing_in_it_can_do_harm(page: Page, told: Document) -> None:
    page.asks_nobody()
    assert len(page.pictures) == 6
    assert all(picture["alt"] for picture in page.pictures)
    text = pages.markdown(told)
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_the_same_run_gives_the_same_bytes(
    shipped: Model, test: Judgement, verdict: Verdict, told: Document
) -> None:
    assert card.html(shipped, test, verdict, facts()) == pages.html(told)
    assert card.markdown(shipped, test, verdict, facts()) == pages.markdown(told)


def test_versions_are_those_installed() -> None:
    import numpy as np

    found = Facts.of(facts().ingested, 1).versions
    assert found["numpy"] == np.__version__
    assert {"Python", "pandas", "scipy"} <= set(found)
    assert {"xgboost", "xgboost-cpu"} & set(found)
