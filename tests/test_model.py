"""The anchor, what is learned on top of it, and the predictions: the sentences of the design."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import fitted
import numpy as np
import pandas as pd
import pytest
from conftest import same_bits
from fitted import KNOWN, ZONE
from hypothesis import given
from hypothesis import settings as rules
from hypothesis import strategies as st

from features.behaviour import Rows
from features.errors import BundleError, InputError
from features.money import Cashflow
from features.settings import parse
from features.spine import DAY, add_months, instant, local_day
from training import bundle
from training.anchor import Anchor, History
from training.bundle import Parts
from training.golden import golden_rows
from training.lifetimes import CERTAIN
from training.members import Booster, Problem
from training.model import Model, Predictions
from training.packing import pack, unpack
from training.samples import Origin

ALL = tuple(range(1, 25))
TINY = 1e-12


@pytest.fixture(scope="module")
def model() -> Model:
    return fitted.base().model


@pytest.fixture(scope="module")
def rows(model: Model) -> Rows:
    return fitted.rows(model)


@pytest.fixture(scope="module")
def found(model: Model, rows: Rows) -> Predictions:
    return model.predict(rows, KNOWN, ALL)


@pytest.fixture(scope="module")
def past() -> pd.DataFrame:
    """Bought lines before `KNOWN`; one line is one order."""
    orders = fitted.shop()["orders"]
    return orders[(orders["order_ts"] < "2024-07-01") & (orders["amount"] > 0)]


def of(model: Model, values: np.ndarray) -> Rows:
    """Feature rows of nobody."""
    n = len(values)
    ids = np.array([f"x{i:04d}" for i in range(n)], object)
    return Rows(ids, np.arange(n), np.zeros(n, np.int64), values, model.catalogue)


def equal(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    """Equal columns, and equal bits in each."""
    assert list(a) == list(b)
    return all(
        same_bits(a[name].to_numpy(), b[name].to_numpy())
        if a[name].dtype == np.float64
        else a[name].tolist() == b[name].tolist()
        for name in a
    )


# The anchor


def test_history_is_that_of_the_orders(rows, past):
    history = History.of(rows)
    day = past["order_ts"].dt.normalize()
    each = past.assign(day=day).groupby("customer_id")
    by = pd.DataFrame(
        {
            "days": each["day"].nunique(),
            "first": each["day"].min(),
            "last": each["day"].max(),
            "spend": each["amount"].sum(),
        }
    ).loc[rows.ids[rows.who]]
    age = (pd.Timestamp("2024-07-01") - by["first"]).dt.days
    assert len(by) == 1_500
    assert np.array_equal(history.frequency, by["days"] - 1)
    assert np.allclose(history.recency * 7, (by["last"] - by["first"]).dt.days, atol=1e-9)
    assert np.allclose(history.age * 7, np.maximum(age, 0.25), atol=1e-9)
    assert np.allclose(history.spend, by["spend"] / by["days"], rtol=1e-12)


def test_a_customer_of_this_hour_has_an_age(model, rows):
    values = rows.values[:1].copy()
    for name, number in (("tenure_days", 0.0), ("order_span_days", 0.0), ("order_days", 1.0)):
        values[0, rows.catalogue.names.index(name)] = number
    history = History.of(of(model, values))
    assert history.age[0] == 0.25 / 7
    assert np.isfinite(model.anchor.forecast(history, [1.0, 104.0]).value).all()


def test_the_forecast_is_that_of_each_row_and_horizon(model, rows):
    history, weeks = History.of(rows), [4.3, 52.14, 104.4]
    which = np.arange(0, len(rows), 31)
    forecast = model.anchor.forecast(history, weeks)
    orders, spend = model.anchor.orders, model.anchor.spend
    for i in which:
        key = history.frequency[i], history.recency[i], history.age[i]
        for j, t in enumerate(weeks):
            none = min(max(float(orders.p_no_order(*key, t)), CERTAIN), 1 - CERTAIN)
            assert forecast.no_order[i, j] == pytest.approx(none, rel=1e-12)
            days = max(float(orders.expected_orders(*key, t)), 1 - none)
            assert forecast.order_days[i, j] == pytest.approx(days, rel=1e-12)
        each = float(spend.expected_spend(history.frequency[i] + 1, history.spend[i]))
        assert forecast.spend[i] == pytest.approx(each, rel=1e-12)
        assert forecast.value[i, 1] == forecast.order_days[i, 1] * forecast.spend[i]


HISTORY = st.lists(
    st.tuples(
        st.integers(0, 600),
        st.floats(0, 1),
        st.floats(0.25 / 7, 600),
        st.floats(0.01, 1e7),
    ),
    min_size=1,
    max_size=20,
)


@given(HISTORY)
@rules(max_examples=60)
def test_the_forecast_of_any_history(made):
    x, part, age, spend = np.array(made, np.float64).T
    recency = np.where(x > 0, part * age, 0.0)
    anchor = fitted.base().model.anchor
    forecast = anchor.forecast(History(x, recency, age, spend), [4.3 * m for m in ALL])
    for values in (forecast.order_days, forecast.no_order, forecast.spend, forecast.value):
        assert np.isfinite(values).all()
    assert (forecast.no_order > 0).all()
    assert (forecast.no_order < 1).all()
    assert (forecast.order_days >= 1 - forecast.no_order).all()
    assert (forecast.spend > 0).all()


def test_parameters_come_back_and_nobody_is_refused(model):
    again = Anchor.from_dict(model.anchor.as_dict())
    assert again == model.anchor
    none = np.zeros(0)
    with pytest.raises(InputError, match="customers with an order"):
        Anchor.fit(History(none, none, none, none))
    forecast = model.anchor.forecast(History(none, none, none, none), [4.0, 8.0])
    assert forecast.value.shape == (0, 2)


# Members


def problem(kind: str, effect: float, n: int = 4_000, folds: int = 5) -> Problem:
    """A known effect of the first column on the log or the logit, none of the second."""
    rng = np.random.default_rng(7)
    X = rng.random((n, 2))
    margin = rng.normal(0, 0.5, n)
    truth = margin + effect * (X[:, 0] > 0.5)
    if kind == "value":
        target = rng.poisson(np.exp(truth)) * rng.gamma(4.0, 0.25, n)
    else:
        target = (rng.random(n) < 1 / (1 + np.exp(-truth))).astype(np.float64)
    return Problem(kind, X, target, margin, np.ones(n), np.arange(n) % folds)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "effect"), [("value", 0.9), ("churn", -1.2)])
def test_a_member_learns_the_effect_on_top_of_the_margin(kind, effect):
    made = problem(kind, effect)
    booster = Booster.fit(made, 0)
    found = booster.correction(made.X)
    high = made.X[:, 0] > 0.5
    # Strong shrinkage takes a part of it, and the noise column nearly nothing.
    learned = found[high].mean() - found[~high].mean()
    assert 0.6 < learned / effect < 1.1
    assert np.corrcoef(found[high], made.X[high, 1])[0, 1] ** 2 < 0.3
    assert same_bits(found[17:18], booster.correction(made.X[17:18]))
    assert Booster.fit(made, 0).raw == booster.raw
    assert Booster.fit(made, 1).raw != booster.raw


def test_a_member_learns_nothing_where_there_is_nothing():
    found = Booster.fit(problem("value", 0.0), 0).correction(problem("value", 0.0).X)
    assert np.abs(found).mean() < 0.1


def test_a_member_of_one_fold_has_no_held_out_customers():
    made = problem("value", 0.9, 400, folds=1)
    assert np.isfinite(Booster.fit(made, 0).correction(made.X)).all()


# Predictions


def holds(found: Predictions) -> None:
    """What holds for every row whatever the features; `found` has all 24 months."""
    for values in (found.gross, found.orders, found.churn, found.return_share, found.pending):
        assert np.isfinite(values).all()
    assert (found.gross >= 0).all()
    assert (np.diff(found.gross, axis=1) >= 0).all()
    assert ((found.churn >= 0) & (found.churn <= 1)).all()
    assert (np.diff(found.churn, axis=1) <= 0).all()
    assert (found.orders >= (1 - found.churn) - TINY).all()
    assert (np.diff(found.orders, axis=1) >= -TINY * found.orders[:, 1:]).all()
    assert ((found.return_share >= 0) & (found.return_share <= 0.95)).all()
    assert (found.pending >= 0).all()
    revenue = np.column_stack([found.revenue(m) for m in ALL])
    assert (np.diff(revenue, axis=1) >= 0).all()
    # Refunds of past orders all fall into month 1.
    assert np.allclose(revenue, found.gross * (1 - found.return_share[:, None])
                       - found.pending[:, None])  # fmt: skip


def test_every_customer_of_the_shop(found, rows):
    holds(found)
    assert len(found.gross) == len(rows) == 1_500
    assert 0.05 < found.return_share.mean() < 0.2
    assert found.return_share.std() > 0.01
    assert found.pending.max() > 0
    assert found.gross[:, 23].min() > 0


@given(
    st.integers(0, 2**32 - 1),
    st.lists(
        st.tuples(
            st.integers(1, 400),  # order days
            st.integers(0, 3_650),  # age
            st.floats(0, 1),  # part of it until the newest order
            st.floats(0.01, 1e7),  # spend per order day
            st.floats(0, 2),  # refunds in units of spend
        ),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from(["2024-07-01", "2024-01-31", "2025-02-28T13:00"]),
)
@rules(max_examples=60)
def test_any_features_give_rising_value_and_falling_churn(seed, customers, as_of):
    model = fitted.base().model
    rng = np.random.default_rng(seed)
    names = model.catalogue.names
    n = len(customers)
    values = rng.gamma(0.5, 100.0, (n, len(names))) * rng.choice([1, 1, -1, 1e6], (n, len(names)))
    values[rng.random(values.shape) < 0.2] = np.nan
    for row, (days, age, part, spend, back) in zip(values, customers, strict=True):
        named = {
            "order_days": days, "orders": days, "tenure_days": age,
            "order_span_days": np.floor(part * age) if days > 1 else 0,
            "spend_per_order_day": spend, "spend": spend * days, "refunds": spend * days * back,
            "spend_30d": spend,
        }  # fmt: skip
        for name, number in named.items():
            row[names.index(name)] = number
    holds(model.predict(of(model, values), instant(as_of, ZONE), ALL))


def test_value_follows_the_chance_of_an_order(model, found, rows):
    """C6: no order, no value; value is chance times value given an order."""
    # A weekly buyer who then was silent for nine years.
    values = rows.values[:1].copy()
    for name, number in {"order_days": 60, "tenure_days": 3_650, "order_span_days": 420,
                         "spend_per_order_day": 80, "spend": 4_800}.items():  # fmt: skip
        values[0, rows.catalogue.names.index(name)] = number
    gone = model.predict(of(model, values), KNOWN, ALL)
    assert gone.churn.min() > 1 - 1e-6
    assert gone.gross.max() < 0.01
    assert gone.orders.max() < 1e-4
    given_order = found.gross / (1 - found.churn)
    assert np.isfinite(given_order).all()
    # Given an order, its worth is of the size of the orders so far, not of the chance.
    usual = rows.column("spend_per_order_day")
    ratio = given_order[:, 11] / usual
    assert np.median(ratio) == pytest.approx(2, rel=0.6)
    assert ratio.min() > 0.05


def test_horizons_alone_and_together_have_the_same_bits(model, rows, found):
    columns = found.columns()
    for h in (1, 5, 12, 24):
        alone = model.predict(rows, KNOWN, [h]).columns()
        for name, values in alone.items():
            assert f"_{h}m" in name
            assert same_bits(values, columns[name])
    assert model.predict(rows, KNOWN, [24, 1, 24]).months == (1, 24)


def test_columns_are_the_definitions(model, found, rows):
    """Margin, cost and value of two horizons by a plain loop over months."""
    columns = model.predict(rows, KNOWN, [12, 18]).columns()
    names = ["revenue", "orders", "churn", "margin", "retention_cost", "clv"]
    points = ["low", "median", "high", "sd", "common"]
    assert list(columns) == [
        name
        for h in (12, 18)
        for name in (*(f"{name}_{h}m" for name in names), *(f"clv_{h}m_{p}" for p in points))
    ]
    for h in (12, 18):
        for i in (0, 700, 1_499):
            total, before, cost = 0.0, 0.0, 0.0
            for m in range(1, h + 1):
                now = float(found.revenue(m)[i])
                total += (now - before) * 0.4 / 1.1 ** ((m - 0.5) / 12)
                cost += 0.25 / 1.1 ** ((m - 0.5) / 12)
                before = now
            assert columns[f"clv_{h}m"][i] == pytest.approx(total - cost, abs=1e-9)
            assert columns[f"retention_cost_{h}m"][i] == pytest.approx(cost)
            assert columns[f"margin_{h}m"][i] == 0.4 * columns[f"revenue_{h}m"][i]
            assert columns[f"revenue_{h}m"][i] == before
    assert found.flow == Cashflow(0.4, 0.1, 0.25)


def test_gross_value_is_the_forecast_times_the_correction(model, rows, found):
    up, odds = model.corrections(rows, KNOWN)
    season, day = model.anchor.season, local_day(KNOWN, ZONE)
    weeks = [season.ahead(KNOWN, m, ZONE) for m in ALL]
    forecast = model.anchor.forecast(History.of(rows, season, day), weeks)
    assert np.allclose(found.gross, forecast.value * np.exp(up)[:, None], rtol=1e-12)
    none = forecast.no_order
    moved = none * np.exp(odds)[:, None]
    assert np.allclose(found.churn, moved / (moved + 1 - none), rtol=1e-9)
    assert up.std() > 0.01
    assert odds.std() > 0.01


def test_batch_one_by_one_and_chunks_have_the_same_bits(model):
    many = 100
    whole = model.table(fitted.rows(model, last=many), KNOWN, (1, 12, 24), "7")
    for size in (1, 7):
        parts = [
            model.table(fitted.rows(model, first=i, last=min(i + size, many)), KNOWN,
                        (1, 12, 24), "7")
            for i in range(0, many, size)
        ]  # fmt: skip
        assert equal(whole, pd.concat(parts, ignore_index=True))
    assert len(whole) == many


def test_no_rows_give_an_empty_table(model, rows):
    none = model.table(rows.take(np.zeros(len(rows), bool)), KNOWN, (12,), "1")
    assert len(none) == 0
    assert list(none) == list(model.table(rows, KNOWN, (12,), "1"))


def test_one_order_loses_value_with_silence(model, past):
    """Each one of those who bought once, while nothing more happens."""
    days = past.assign(day=past["order_ts"].dt.normalize()).groupby("customer_id")["day"].nunique()
    later = fitted.shop()["orders"].query("order_ts >= '2024-07-01'")["customer_id"]
    silent = sorted(set(days.index[days == 1]) - set(later))
    assert len(silent) > 200
    by = []
    for months in (0, 2, 5, 11, 18):
        as_of = add_months(KNOWN, months, ZONE)
        table = model.table(fitted.rows(model, as_of), as_of, [12, 24], "1")
        by.append(table.set_index("customer_id").loc[silent])
    for sooner, after in pairwise(by):
        for h in (12, 24):
            assert (after[f"churn_{h}m"] > sooner[f"churn_{h}m"]).all()
            # Pending refunds are of the last month; beyond it value is what can fall.
            assert (after[f"orders_{h}m"] < sooner[f"orders_{h}m"]).all()
    for sooner, after in pairwise(by[1:]):
        assert (after["revenue_12m"] < sooner["revenue_12m"]).mean() > 0.99
        assert after["revenue_12m"].sum() < 0.8 * sooner["revenue_12m"].sum()


def test_evidence(model):
    assert (model.longest, model.thin) == (12, False)
    assert model.evidence([12]) == "full"
    assert model.evidence([1, 13]) == "extrapolated"
    thin = replace(model, members={})
    assert thin.evidence([1]) == thin.evidence([24]) == "thin"
    short = replace(model, origins=(Origin(KNOWN, 3),))
    assert short.evidence([3]) == "full"
    assert short.evidence([12]) == "extrapolated"


def test_without_members_it_is_the_forecast(model, rows):
    thin = replace(model, members={})
    found = thin.predict(rows, KNOWN, ALL)
    weeks = [model.anchor.season.ahead(KNOWN, m, ZONE) for m in ALL]
    forecast = model.anchor.forecast(model.history(rows, KNOWN), weeks)
    assert same_bits(found.gross, forecast.value)
    assert np.allclose(found.churn, forecast.no_order, rtol=1e-9)
    holds(found)


def test_features_of_another_vocabulary_are_refused(model, rows):
    from features.catalogue import catalogue

    plain = catalogue()
    lost = [name for name in model.columns if name not in plain.names]
    assert lost
    other = replace(rows, values=rows.values[:, : len(plain.names)], catalogue=plain)
    with pytest.raises(InputError, match="Missing") as told:
        model.predict(other, KNOWN, [12])
    assert lost[0] in str(told.value)


# Other definitions of churn


def with_churn(model: Model, churn: str) -> Model:
    plain = model.settings.as_dict()
    return replace(model, settings=parse({**plain, "business": {**plain["business"],
                                                                "churn": churn}}))  # fmt: skip


@pytest.mark.parametrize("multiple", [1.0, 3.0])
def test_inactive_by_the_own_gap(model, rows, past, multiple):
    found = with_churn(model, f"own_gap:{multiple:g}").table(rows, KNOWN, [12], "1")
    history = model.history(rows, KNOWN)
    alive = model.anchor.orders.p_alive(history.frequency, history.recency, history.age)
    naive = []
    for i, (_, mine) in enumerate(past.groupby("customer_id")):
        days = sorted(set(mine["order_ts"].dt.normalize()))
        if len(days) == 1:
            naive.append(int(alive[i] < 0.5))  # no gap of its own
            continue
        gap = (days[-1] - days[0]).days / (len(days) - 1)
        silence = (pd.Timestamp("2024-07-01") - mine["order_ts"].max()) / pd.Timedelta(days=1)
        naive.append(int(silence > multiple * gap))
    assert found["inactive_own_gap"].tolist() == naive
    assert 0.05 < np.mean(naive) < 0.95
    assert "inactive_own_gap" not in model.table(rows, KNOWN, [12], "1")


def test_inactive_by_the_contract(model, rows):
    found = with_churn(model, "contract_end").table(rows, KNOWN, [12], "1")
    ends = fitted.shop()["customers"].set_index("customer_id")["contract_end"]
    naive = [int("" < ends[who] < "2024-07-01") for who in found["customer_id"]]
    assert found["inactive_contract_end"].tolist() == naive
    assert (ends == "").sum() > 400
    assert 0.1 < np.mean(naive) < 0.9
    bare = replace(rows, attributes=None)
    with pytest.raises(InputError, match="contract_end"):
        with_churn(model, "contract_end").table(bare, KNOWN, [12], "1")


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Europe/Berlin"])
def test_a_contract_holds_through_its_last_day(model, rows, zone):
    """Also on the days of 23 and 25 hours (2024-03-10 and 2024-11-03 in New York)."""
    settings = replace(model.settings.business, churn="contract_end", time_zone=zone)
    model = replace(model, settings=replace(model.settings, business=settings))
    for day in ("2024-03-10", "2024-03-31", "2024-07-01", "2024-10-27", "2024-11-03"):
        attributes = rows.attributes.assign(contract_end=day)
        some = replace(rows, attributes=attributes)
        after = (pd.Timestamp(day) + pd.Timedelta(days=1)).strftime("%Y-%m-%d")
        for moment, over in (
            (day, 0),
            (f"{day}T23:59:59", 0),
            (after, 1),
            (f"{after}T00:30:00", 1),
        ):
            found = model.inactive(some, instant(moment, zone))["inactive_contract_end"]
            assert set(found.tolist()) == {over}, (day, moment)


# The bundle


def test_a_bundle_gives_equal_predictions(model, rows, tmp_path):
    bundle.save(pack(model, {"mae": 1.5}), tmp_path / "one", fitted.KEY)
    parts = bundle.verify(tmp_path / "one", fitted.KEY)
    again = unpack(parts)
    assert equal(model.table(rows, KNOWN, ALL, "1"), again.table(rows, KNOWN, ALL, "1"))
    assert fitted.contents(again) == fitted.contents(model)
    assert again == model
    assert parts.card["scores"] == {"mae": 1.5}
    thin = replace(model, members={})
    bundle.save(pack(thin), tmp_path / "thin", fitted.KEY)
    assert unpack(bundle.verify(tmp_path / "thin", fitted.KEY)) == thin


def sealed(parts: Parts, folder) -> Parts:
    """Changed parts, sealed with the right key: only what they say can give them away."""
    bundle.save(parts, folder, fitted.KEY)
    return bundle.verify(folder, fitted.KEY)


def test_a_changed_model_is_refused_although_its_seal_is_right(model, tmp_path):
    parts = pack(model)
    names = list(parts.golden["predictions"])
    assert any(name.startswith("clv_") for name in names)

    def golden(name: str, i: int) -> Parts:
        changed = {n: list(values) for n, values in parts.golden["predictions"].items()}
        changed[name][i] = float(np.nextafter(changed[name][i], np.inf))
        return replace(parts, golden={**parts.golden, "predictions": changed})

    cases = [golden(name, i) for i, name in enumerate(names[:: len(names) // 4])]
    few = {n: v for n, v in parts.golden["predictions"].items() if not n.startswith("churn")}
    cases.append(replace(parts, golden={**parts.golden, "predictions": few}))
    swapped = {"value.ubj": parts.files["churn.ubj"], "churn.ubj": parts.files["value.ubj"]}
    cases += [
        replace(parts, files={**parts.files, "value.ubj": _bent(parts.files["value.ubj"], 1.01)}),
        replace(parts, files={**parts.files, "churn.ubj": _bent(parts.files["churn.ubj"], 0.99)}),
        replace(parts, files=swapped),
        replace(parts, card={**parts.card, "orders_per_day": 1.7}),
        replace(parts, card={**parts.card, "members": []}),
    ]
    for i, case in enumerate(cases):
        with pytest.raises(BundleError, match="golden rows"):
            unpack(sealed(case, tmp_path / f"{i}"))


def _bent(raw: bytes, factor: float) -> bytes:
    """The same trees with other leaves."""
    import json

    import xgboost as xgb

    booster = xgb.Booster(model_file=bytearray(raw))
    plain = json.loads(bytes(booster.save_raw("json")))
    for tree in plain["learner"]["gradient_booster"]["model"]["trees"]:
        tree["base_weights"] = [w * factor for w in tree["base_weights"]]
        tree["split_conditions"] = [
            c * factor if left < 0 else c
            for c, left in zip(tree["split_conditions"], tree["left_children"], strict=True)
        ]
    changed = xgb.Booster(model_file=bytearray(json.dumps(plain).encode()))
    return bytes(changed.save_raw("ubj"))


def test_an_absurd_leaf_is_refused_even_with_golden_rows_of_its_own(model):
    parts = pack(model)
    for kind in ("value", "churn"):
        bent = Booster(_bent(parts.files[f"{kind}.ubj"], 1e30))
        absurd = replace(model, members={**model.members, kind: bent})
        with pytest.raises(BundleError, match=rf"leaves.*{kind}\.ubj"):
            unpack(pack(absurd))


def test_golden_rows_belong_to_nobody(model, rows):
    golden = golden_rows(model.catalogue)
    assert same_bits(golden, golden_rows(model.catalogue))
    mine = {row.tobytes() for row in rows.values}
    assert not mine & {row.tobytes() for row in golden}
    holds(model.predict(of(model, golden), KNOWN, ALL))


def test_the_card_tells_moments_and_no_customers(model):
    card = pack(model).card
    assert card["trained_until"] == KNOWN
    assert all(c + 12 * 28 * DAY < KNOWN for c, _ in card["origins"])
    text = repr(pack(model))
    assert not any(name in text for name in fitted.shop()["customers"]["customer_id"])
