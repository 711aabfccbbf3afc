"""Prospects (I2): people who signed up and have not ordered yet."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import fitted
import numpy as np
import pandas as pd
import pytest
from asking import post
from conftest import same_bits, use_home
from test_online import assert_same, by_customer

from features import people, simulate
from features.behaviour import Rows
from features.catalogue import Vocabulary
from features.errors import BundleError, InputError
from features.people import People
from features.settings import Settings, parse
from features.spine import Cutoffs, add_months, instant
from features.store import Store
from serving import words
from serving.api import Fixed, application
from serving.batch import score
from serving.loader import Loaded, load
from serving.online import Scorer
from training import bundle, prospects, run
from training.bundle import Parts
from training.fitting import fit
from training.intervals import Intervals
from training.labels import ripe
from training.model import COLD_START, Model
from training.newcomers import Prospects, judge_prospects
from training.packing import pack, unpack
from training.prospects import ProspectModel
from training.reasons import Reasons, explain_prospects
from training.samples import Origin
from training.scores import calibrated_ece
from training.waiting import KNOTS, LifeTable, collect, survey

CUTOFF = "2025-07-01"
T = instant(CUTOFF, "UTC")
NAMES = ("orders", "rates", "aliases", "events", "customers")
DAY = 86_400


@cache
def shop() -> simulate.Shop:
    return simulate.shop(3_000, 2.25, seed=11)


@cache
def settings() -> Settings:
    few = {"origins": 3, "thin_below": 100, "max_rows": 3_000}
    return parse({**tomllib.loads(shop().settings), "model": few, "horizons": {"months": [12]}})


def data() -> dict[str, pd.DataFrame]:
    return {name: shop().tables[name] for name in NAMES}


@cache
def store() -> Store:
    return fitted.ingest(data(), settings())


@cache
def model() -> Model:
    return fit(store(), T, 12, settings()).model


@cache
def own() -> ProspectModel:
    found = model().prospects
    assert found is not None
    return found


@cache
def judged() -> Prospects:
    found = judge_prospects(store(), T, 12, settings(), model=model())
    assert found is not None
    return found


def ids(orders: pd.DataFrame) -> pd.Series:
    """Today's ids."""
    alias = shop().tables["aliases"].set_index("old_id")["customer_id"]
    return orders["customer_id"].map(alias).fillna(orders["customer_id"])


def seconds(stamps: pd.Series) -> pd.Series:
    return stamps.astype("datetime64[us]").astype("int64") / 1e6


@cache
def raw() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """People with their first order, order lines in EUR and events; times in seconds."""
    orders, rates = data()["orders"], data()["rates"]
    rate = rates.set_index(rates["day"].dt.date)["rate"]
    factor = orders["order_ts"].dt.date.map(rate).where(orders["currency"] == "CHF", 1.0)
    lines = pd.DataFrame(
        {"id": ids(orders), "ts": seconds(orders["order_ts"]), "eur": orders["amount"] * factor}
    )
    who = data()["customers"].copy()
    who["signed"] = seconds(who["acquired_at"])
    first = lines[lines["eur"] > 0].groupby("id")["ts"].min()
    who["first"] = who["customer_id"].map(first).fillna(math.inf)
    events = data()["events"].assign(seconds=seconds(data()["events"]["ts"]))
    return who, lines, events


def test_rows_and_labels_against_a_naive_loop():
    who, lines, events = raw()
    months = {"2024-10-01": 9, "2025-01-01": 6, "2025-05-01": 2}
    origins = [Origin(instant(day, "UTC"), m) for day, m in months.items()]
    words = Vocabulary(attributes=(("country", ("DE",)),), events=("visit",))
    found = collect(store(), words, origins, T, settings())
    rows, bought = found.rows, dict(list(lines.groupby("id")))
    visits = events[events["kind"] == "visit"].groupby("customer_id")["seconds"].apply(np.array)
    expected = []
    for person in who.sort_values("customer_id").itertuples():
        for k, origin in enumerate(origins):
            at = origin.cutoff / 1e6
            if not (person.signed < at <= person.first):
                continue
            end = add_months(origin.cutoff, origin.months, "UTC") / 1e6
            gross, net = 0.0, 0.0
            if person.customer_id in bought:
                own = bought[person.customer_id]
                inside = own[(own["ts"] >= at) & (own["ts"] < end)]["eur"]
                gross, net = inside[inside > 0].sum(), inside.sum()
            seen = np.array([t for t in visits.get(person.customer_id, []) if t < at])
            expected.append((
                person.customer_id, k, (at - person.signed) / DAY, pd.Timestamp(at, unit="s").month,
                (seen >= at - 30 * DAY).sum(), len(seen), person.country == "DE", gross,
                gross == 0, net, origin.months,
            ))  # fmt: skip
    names = ["days_since_signup", "cutoff_month", "visit_count_30d", "visit_count",
             "customer_country[DE]"]  # fmt: skip
    net = found.came[np.arange(len(found)), found.months - 1]
    got = [rows.ids[rows.who], rows.cut, *(rows.column(name) for name in names), found.gross,
           found.churned, net, found.months]  # fmt: skip
    assert len(expected) == len(found) > 200
    for mine, naive in zip(got, zip(*expected, strict=True), strict=True):
        if mine.dtype == object:
            assert mine.tolist() == list(naive)
        else:
            np.testing.assert_allclose(mine.astype(float), np.array(naive, float), atol=0.03)
    assert (found.churned == 0).sum() > 50


def test_the_life_table_against_a_naive_loop():
    who = raw()[0]
    one = People.of(store(), 0)
    found = survey(one, T, ())
    orders, waited = np.zeros(len(KNOTS)), np.zeros(len(KNOTS))
    edges = [*KNOTS, math.inf]
    for person in who.itertuples():
        if not person.signed < T / 1e6:
            continue
        days = (min(person.first, T / 1e6) - person.signed) / DAY
        for k, (a, b) in enumerate(pairwise(edges)):
            waited[k] += max(min(days, b) - a, 0.0)
            orders[k] += a <= days < b and person.first < T / 1e6
    assert store().buckets == 1
    np.testing.assert_array_equal(found.orders, orders)
    # Whole seconds are counted.
    np.testing.assert_allclose(found.seconds / DAY, waited, rtol=1e-5, atol=0.02)
    assert (found.signed, found.silent) == (
        (who["signed"] < T / 1e6).sum(), ((who["signed"] < T / 1e6) & (who["first"] > 1e12)).sum()
    )  # fmt: skip
    table = LifeTable((2.0, 0.1, *([0.01] * 17), 0.001))
    # Half an hour at 2 a day, the rest of the first quarter of a day at 0.1, and so on.
    assert table.waited(np.array([1 / 48])) == pytest.approx(1 / 24)
    assert table.waited(np.array([0.25])) == pytest.approx(2 / 24 + 0.1 * (0.25 - 1 / 24))
    beyond = table.waited(np.array([1095.0, 1195.0]))
    assert beyond[1] - beyond[0] == pytest.approx(0.1)
    assert table.none(np.array([1095.0]), np.array([100.0]))[0] == pytest.approx(math.exp(-0.1))


def changed() -> dict[str, pd.DataFrame]:
    """The shop with another future: everything at or after the cutoff is dropped, moved or new."""
    tables = {name: table.copy() for name, table in data().items()}
    leads = raw()[0].query("first > @T / 1e6 and signed < @T / 1e6")["customer_id"]
    orders = tables["orders"]
    late = orders["order_ts"] >= CUTOFF
    some = orders[late].sample(frac=0.5, random_state=1)
    # All but a few turn out to buy: only the table as a whole may tell that it lists leads too.
    buyers = leads.to_numpy()[40:]
    new = orders.head(len(buyers)).assign(
        customer_id=buyers, order_ts=pd.Timestamp(CUTOFF),
        order_id=[f"N{k}" for k in range(len(buyers))],
    )  # fmt: skip
    tables["orders"] = pd.concat([orders[~late], some.assign(amount=some["amount"] * 3), new])
    events = tables["events"]
    extra = events.head(len(leads)).assign(
        customer_id=leads.to_numpy(), ts=pd.Timestamp(CUTOFF), kind="visit"
    )
    tables["events"] = pd.concat([events[events["ts"] < CUTOFF], extra])
    customers = tables["customers"]
    joined = customers[customers["acquired_at"] < CUTOFF]
    later = joined.head(50).assign(acquired_at=pd.Timestamp(CUTOFF))
    later["customer_id"] = [f"Z{k}" for k in range(50)]
    tables["customers"] = pd.concat([joined, later])
    return tables


def test_nothing_at_or_after_the_cutoff_is_seen():
    other = fitted.ingest(changed(), settings())
    newcomer = model().newcomer
    parts = [prospects.fit(s, T, 12, newcomer)[0].parts() for s in (store(), other)]
    assert repr(parts[0]) == repr(parts[1])
    cutoffs = Cutoffs.at([T], "UTC")
    rows = [people.prospects(People.of(s, 0), cutoffs, own().vocabulary) for s in (store(), other)]
    assert rows[0].ids[rows[0].who].tolist() == rows[1].ids[rows[1].who].tolist()
    assert same_bits(rows[0].values, rows[1].values)


def test_buckets_change_nothing():
    whole = store()
    parts = fitted.split(whole, 3, ("orders", "customers", "events"))
    found = [prospects.fit(s, T, 12, model().newcomer)[0].parts() for s in (whole, parts)]
    assert repr(found[0]) == repr(found[1])
    assert own().members.keys() == {"value", "churn"}


def test_conversions_are_calibrated_and_ranked_better_than_averages():
    found = judged()
    board = found.leaderboard()
    ours, average, channel = (board.loc[name] for name in board.index)
    assert ours["auroc"] > 0.85 > channel["auroc"] > 0.55 > average["auroc"]
    assert ours["brier"] < 0.8 * channel["brier"]
    assert ours["normalised_gini"] > channel["normalised_gini"] + 0.1
    churn = found.churn["anchored boosting"]
    assert ours["ece"] < max(0.05, calibrated_ece(churn))
    assert abs(ours["bias"]) < abs(channel["bias"])
    told = found.as_dict()
    who = raw()[0]
    waiting = who[(who["signed"] < T / 1e6) & (who["first"] >= T / 1e6)]
    end = instant("2026-07-01", "UTC") / 1e6
    assert (told["people"], told["conversions"]) == (len(waiting), (waiting["first"] < end).sum())
    assert told["predicted"].keys() == told["models"].keys()


def test_a_test_logs_and_tells_prospects_beside_the_others():
    found = judged()
    test = replace(fitted.judged(), prospects=found, no_prospects="")
    board, metrics = found.leaderboard(), run._metrics(test)
    assert metrics["prospects/auroc"] == board.loc["anchored boosting", "auroc"]
    assert metrics["prospects/average_of_the_channel/brier"] == board.iloc[2]["brier"]
    assert metrics["prospects/n"] == len(found.actual)
    assert metrics["auroc"] == test.leaderboard().loc["anchored boosting", "auroc"]
    assert test.as_dict()["prospects"] == found.as_dict()
    shown = words.judged(test).split("\nProspects: ")[1]
    people, conversions = len(found.actual), int((found.churned == 0).sum())
    assert shown.startswith(f"{people} people without an order at {CUTOFF}, {conversions} of them")
    assert f"{found.actual.sum():,.0f} came" in shown
    assert all(name in shown for name in board.index)
    without = words.judged(replace(test, prospects=None, no_prospects="nobody signs up"))
    assert without.splitlines()[-1] == "No prospects judged: nobody signs up"
    assert not any(name.startswith("prospects/") for name in run._metrics(fitted.judged()))


def test_no_chance_falls_and_no_value_shrinks_with_the_horizon():
    rows = people.prospects(People.of(store(), 0), Cutoffs.at([T], "UTC"), own().vocabulary)
    found = own().predict(rows, T, range(1, 25), model().newcomer)
    assert len(rows) > 120
    assert ((found.churn > 0) & (found.churn < 1)).all()
    assert (np.diff(found.churn, axis=1) <= 0).all()
    assert (np.diff(found.gross, axis=1) >= 0).all()
    assert (np.diff(found.orders, axis=1) >= 0).all()
    assert (found.orders >= 1 - found.churn - 1e-12).all()
    some = own().predict(rows, T, [12], model().newcomer)
    assert same_bits(some.churn[:, 0].copy(), found.churn[:, 11].copy())
    few = own().predict(rows.take(np.arange(len(rows)) % 7 == 3), T, [12], model().newcomer)
    assert same_bits(few.gross, found.gross[np.arange(len(rows)) % 7 == 3])


def test_the_value_is_the_newcomers_after_the_first_order():
    """By hand, month by month, without corrections."""
    plain = own().uncorrected()
    row = own().population()
    newcomer = model().newcomer
    found = plain.predict(row, T, [6], newcomer)
    months = [(add_months(T, m, "UTC") - T) / 1e6 / DAY for m in range(7)]
    stay = [float(plain.table.none(np.array([plain.age]), np.array([d]))[0]) for d in months]
    ahead = [newcomer.anchor.season.ahead(T, m, "UTC") for m in range(1, 7)]
    total = 0.0
    for m in range(6):
        middle = (ahead[m] + (ahead[m - 1] if m else 0.0)) / 2
        after = float(newcomer.anchor.newcomers_orders(np.array([ahead[5] - middle]))[0])
        before = stay[m] if m else 1.0
        total += (before - stay[m + 1]) * (1 + after)
    value = total * newcomer.anchor.mean_spend * math.exp(plain.level)
    assert found.churn[0, 0] == pytest.approx(stay[6], rel=1e-9)
    assert found.gross[0, 5] == pytest.approx(value, rel=1e-6)


def test_intervals_are_wide_and_cover():
    rows = people.prospects(People.of(store(), 0), Cutoffs.at([T], "UTC"), own().vocabulary)
    columns = own().predict(rows, T, [12], model().newcomer).columns()
    low, median, high = (columns[f"clv_12m_{name}"] for name in ("low", "median", "high"))
    churn = columns["churn_12m"]
    assert (low[churn > 0.1] == 0).all()
    assert (median[churn >= 0.5] == 0).all()
    assert ((low <= median) & (median <= high)).all()
    likely = churn < 0.5
    assert (high[likely] > 1.5 * columns["clv_12m"][likely]).mean() > 0.8
    actual = judged().actual * settings().business.margin
    # Discounting takes less than a tenth within a year.
    assert (actual * 0.95 > high).mean() < 0.15
    assert (actual < low).mean() < 0.05


def stopped_once(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Predictions in three buckets, by a batch that is stopped amid the prospects and goes on."""
    asked: list[int] = []
    rows = people.prospects

    def breaks(*words: Any) -> Rows:
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return rows(*words)

    with monkeypatch.context() as patch:
        for name, value in (("passes.SMALL", 1), ("passes.BUCKETS", 3), ("tables.BUCKETS", 3)):
            patch.setattr(f"features.{name}", value)
        patch.setattr(people, "prospects", breaks)
        with pytest.raises(KeyboardInterrupt):
            score(loaded, data(), as_of=CUTOFF, prospects=True, workers=1)
        told = score(loaded, data(), as_of=CUTOFF, prospects=True, workers=1).frame
    assert len(asked) == 3 + 3 - 2
    return told


def test_a_bundle_gives_back_every_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "bundle"
    bundle.save(pack(model()), folder, bundle.make_key(tmp_path))
    assert {f.name for f in folder.iterdir()} >= {"prospect_value.ubj", "prospect_churn.ubj"}
    use_home(monkeypatch, tmp_path)
    loaded = load(folder)
    assert repr(pack(loaded.model)) == repr(pack(model()))
    told = stopped_once(loaded, monkeypatch)
    assert not (tmp_path / "batch").exists()
    cold = told[told["evidence"] == COLD_START].reset_index(drop=True)
    rows = people.prospects(People.of(store(), 0), Cutoffs.at([T], "UTC"), own().vocabulary)
    expected = model().prospect_table(rows, T, (12,), loaded.version)
    pd.testing.assert_frame_equal(cold, expected, check_exact=True)
    customers = loaded.predict(data(), CUTOFF)
    rest = told[told["evidence"] != COLD_START].reset_index(drop=True)
    pd.testing.assert_frame_equal(rest, customers, check_exact=True)
    assert told["customer_id"].is_monotonic_increasing
    assert told["customer_id"].is_unique
    assert np.isfinite(told.select_dtypes("number")).all(axis=None)


def test_prospects_over_http_are_those_of_the_batch_to_the_bit():
    """With orders to come or none, among customers, in one request and one by one."""
    loaded = Loaded(model(), "1")
    table = score(loaded, data(), as_of=CUTOFF, prospects=True, reasons=2, workers=1).frame
    cold = table[table["evidence"] == COLD_START]
    some = pd.concat([cold, table[table["evidence"] != COLD_START].iloc[::60]])
    some = some.sample(frac=1, random_state=0).reset_index(drop=True)
    known = {name: by_customer(data()[name]) for name in ("customers", "events")}
    lines = by_customer(data()["orders"].assign(customer_id=ids(data()["orders"])))
    # Rates are the batch's matter: a request speaks of one currency.
    plain = {name for name, rows in lines.items() if {r["currency"] for r in rows} == {"EUR"}}
    some = some[some["customer_id"].map(lambda name: name not in lines or name in plain)]
    asked = [
        {
            "customer_id": name, "profile": known["customers"][name][0],
            "events": known["events"].get(name, []), "orders": lines.get(name, []),
        }
        for name in some["customer_id"]
    ]  # fmt: skip
    first = some["evidence"].eq(COLD_START).to_numpy()
    assert first.sum() > 100
    assert sum(bool(one["orders"]) for one, f in zip(asked, first, strict=True) if f) > 5
    scorer = Scorer(loaded)
    assert_same(scorer.predict(asked, T, (12,), 2).predictions, some)
    for k in np.flatnonzero(first)[:10]:
        one = scorer.predict([asked[k]], T, (12,), 2).predictions
        assert_same(one, some.iloc[k : k + 1])
    app = application(Fixed(loaded))
    body = {"as_of": CUTOFF, "reasons": 2, "customers": [
        {name: value for name, value in one.items() if value or name != "orders"} for one in asked
    ]}  # fmt: skip
    found = post(app, "/v1/predict", body)
    assert found.status == 200
    assert_same(found.json["predictions"], some)


@pytest.mark.parametrize(
    ("change", "kind", "where"),
    [
        ({"profile": {}}, "type", "customers[0].orders"),
        ({"profile": {"acquired_at": ""}}, "type", "customers[0].orders"),
        ({"profile": {"acquired_at": CUTOFF}}, "no_order", "customers[0].orders"),
        ({"events": None}, "missing_events", "customers[0].events"),
        ({"orders": "none"}, "type", "customers[0].orders"),
    ],
)
def test_who_is_no_prospect_either_is_told_why(
    change: dict[str, Any], kind: str, where: str
) -> None:
    one = {"customer_id": "p", "profile": {"acquired_at": "2025-06-01"}, "events": [], **change}
    found = post(application(Fixed(Loaded(model(), "1"))), "/v1/predict",
                 {"as_of": CUTOFF, "customers": [one]})  # fmt: skip
    assert (found.status, found.json["error"]["type"]) == (422, kind)
    assert found.json["error"]["where"] == where


def test_golden_rows_of_prospects_are_held():
    parts = pack(model())
    golden = parts.golden["prospects"]
    wrong = {**golden, "predictions": {**golden["predictions"], "churn_12m": [0.5] * 6}}
    with pytest.raises(BundleError, match="'churn_12m' differs"):
        unpack(replace(parts, golden={**parts.golden, "prospects": wrong}))


def test_a_card_that_knows_no_prospects_loads():
    parts = pack(replace(model(), prospects=None))
    card = {name: value for name, value in parts.card.items() if name != "prospects"}
    old = unpack(Parts(card, parts.files, parts.golden))
    assert old.prospects is None
    with pytest.raises(InputError, match="trained by a release that knew none"):
        old.require_prospects()


def buyers_only() -> dict[str, pd.DataFrame]:
    """The shop without those who never order; some of it order first after the cutoff."""
    customers = data()["customers"]
    some = customers[customers["customer_id"].isin(ids(data()["orders"]))]
    assert (raw()[0].loc[some.index, "first"] > T / 1e6).sum() > 100
    return {**data(), "customers": some}


@pytest.mark.parametrize("why", ["holds buyers only", "no table customers with acquired_at"])
def test_why_there_is_no_model_of_prospects(why: str, tmp_path: Path):
    other = replace(store(), folder=tmp_path)
    if "buyers" in why:
        other = fitted.ingest(buyers_only(), settings())
    found, reason = prospects.fit(other, T, 12, model().newcomer)
    assert found is None
    assert why in reason
    told = replace(model(), prospects=None, no_prospects=reason)
    with pytest.raises(InputError, match=why):
        Loaded(told, "1").predict(data(), CUTOFF, prospects=True)
    assert unpack(pack(told)).no_prospects == reason


def test_a_table_without_sign_ups_knows_no_prospects():
    tables = {**data(), "customers": data()["customers"].drop(columns="acquired_at")}
    with pytest.raises(InputError, match="--prospects needs a table customers with acquired_at"):
        Loaded(model(), "1").predict(tables, CUTOFF, prospects=True)


def few(share: float) -> Mapping[str, pd.DataFrame]:
    """A share of the people who waited for their first order, with all others."""
    who = raw()[0]
    waited = (who["first"] - who["signed"]).between(DAY, 1e12)
    keep = ~waited | (who.index % 100 < 100 * share)
    return {**data(), "customers": data()["customers"][keep]}


def test_few_conversions_give_the_curve_alone():
    other = fitted.ingest(few(0.3), settings())
    found, _ = prospects.fit(other, T, 12, model().newcomer)
    assert found is not None
    assert 10 <= found.conversions < prospects.ENOUGH
    assert not found.members
    assert isinstance(found.intervals, Intervals)
    rows = people.prospects(People.of(other, 0), Cutoffs.at([T], "UTC"), found.vocabulary)
    told = found.predict(rows, T, [12], model().newcomer)
    order = np.argsort(rows.column("days_since_signup"))
    # The chance of an order falls with the silence once the first weeks have passed.
    late = order[rows.column("days_since_signup")[order] > 120]
    assert (np.diff(told.churn[late, 0]) >= -1e-9).all()
    assert ripe(T, 12, other.coverage_end, "UTC")
    soon = instant("2024-07-01", "UTC")
    none, reason = prospects.fit(other, soon, 12, model().newcomer)
    assert none is None
    assert "people ordered for the first time after a wait" in reason


def test_somebody_unknown_gets_the_populations_answer():
    loaded = Loaded(model(), "7")
    told = loaded.predict_unknown("nobody knows", CUTOFF, [6, 12])
    assert len(told) == 1
    row = told.iloc[0]
    assert (row["customer_id"], row["evidence"], row["model_version"]) == (
        "nobody knows", COLD_START, "7",
    )  # fmt: skip
    assert list(told) == list(loaded.predict(data(), CUTOFF, [6, 12]))
    assert 0 < row["churn_12m"] < row["churn_6m"] < 1
    assert 0 < row["revenue_6m"] < row["revenue_12m"]
    contract = replace(settings(), business=replace(settings().business, churn="contract_end"))
    other = Loaded(replace(model(), settings=contract), "7").predict_unknown("x", CUTOFF)
    assert other["inactive_contract_end"].tolist() == [0]


# Reasons


@cache
def waiting() -> tuple[Rows, Reasons]:
    rows = people.prospects(People.of(store(), 0), Cutoffs.at([T], "UTC"), own().vocabulary)
    return rows, explain_prospects(model(), rows, T, 12)


@pytest.mark.parametrize("months", [1, 12, 24])
def test_the_reasons_of_prospects_add_up(months: int):
    rows, _ = waiting()
    for chosen in (model(), replace(model(), prospects=own().uncorrected())):
        clv = chosen.prospect_table(rows, T, [months], "1")[f"clv_{months}m"].to_numpy()
        told = explain_prospects(chosen, rows, T, months)
        by_hand = np.array([math.fsum(row) for row in told.parts])
        assert np.abs(by_hand - clv).max() < 1e-9 * max(1.0, np.abs(clv).max())
        assert [term.name for term in told.terms[1:-4]] == list(own().columns)


def test_the_reasons_of_prospects_by_hand():
    """One member after the other: the logit of no order through the months, then the value."""
    rows, told = waiting()
    plain, flow = own().uncorrected(), model().newcomer.cashflow
    start = plain.predict(rows, T, [12], model().newcomer).value(12)
    assert np.allclose(told.parts[:, 0], start, rtol=1e-9)
    X = np.column_stack([rows.column(name) for name in own().columns])
    phi, psi = (own().members[kind].contributions(X) for kind in ("value", "churn"))
    up, odds = (own().members[kind].correction(X) for kind in ("value", "churn"))
    chance = own().predict(rows, T, [12], model().newcomer, (np.zeros(len(rows)), odds)).value(12)
    end = chance * np.exp(up)
    each = (end - start) / np.log(end / start)
    pull = np.log(chance / start) / odds
    assert (np.abs(odds) > 0.01).mean() > 0.9
    far = np.abs(odds) > 0.01
    wanted = (phi + psi * pull[:, None]) * each[:, None]
    assert np.allclose(told.parts[far, 1:-4], wanted[far], rtol=1e-5, atol=1e-9)
    # Whoever has less chance of no order is worth more.
    assert (pull < 0).all()
    assert np.allclose(told.parts[:, -1], -flow.retention_cost(12))
    rows_alone = rows.take(np.arange(len(rows)) == 7)
    alone = explain_prospects(model(), rows_alone, T, 12)
    assert same_bits(alone.parts[0], told.parts[7])


def test_a_correction_of_nothing_moves_along_the_tangent():
    rows, _ = waiting()
    phi = np.zeros((len(rows), len(own().columns)))
    phi[:, 0], phi[:, 1] = 0.5, -0.5

    class Even:
        """Two contributions that cancel."""

        def contributions(self, _: np.ndarray) -> np.ndarray:
            return phi

        def correction(self, _: np.ndarray) -> np.ndarray:
            return np.zeros(len(rows))

    flat = replace(model(), prospects=replace(own(), members={"churn": Even()}))
    told = explain_prospects(flat, rows, T, 12)
    assert (told.parts[:, 1] < 0).all()
    assert np.allclose(told.parts[:, 1], -told.parts[:, 2])
    assert np.isfinite(told.parts).all()
