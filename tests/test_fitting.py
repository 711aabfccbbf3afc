"""From a store to a fitted and judged model: what is learned, what is refused, what is seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from statistics import fmean

import fitted
import naive
import numpy as np
import pandas as pd
import pytest
from conftest import same_bits
from fitted import KNOWN, LONGEST, ZONE
from hypothesis import given
from hypothesis import settings as rules
from hypothesis import strategies as st

from features.behaviour import Rows, build
from features.errors import InputError
from features.spine import DAY, Cutoffs, add_months, instant
from features.store import Store
from training.anchor import History
from training.backtest import OURS, Judgement, backtest, latest_test
from training.baselines import BASELINES, Evidence, fit_all
from training.btyd import BGNBD, GammaGamma, ParetoNBD
from training.calibration import NONE
from training.fitting import Fitted, fit
from training.model import Model
from training.samples import Origin, Samples, chosen, collect, plan
from training.season import weeks_ahead

HOUR = DAY // 24
START = instant("2015-01-01", ZONE)
SINCE = pd.Timestamp("1970-01-01")
Tables = Mapping[str, pd.DataFrame]


@pytest.fixture(scope="module")
def base() -> Fitted:
    return fitted.base()


def moment(micros: int) -> pd.Timestamp:
    return SINCE + pd.Timedelta(microseconds=micros)


def shuffled(tables: Tables, seed: int = 3) -> dict[str, pd.DataFrame]:
    return {
        name: table.sample(frac=1, random_state=seed).reset_index(drop=True)
        for name, table in tables.items()
    }


# The plan of origins


@given(
    st.integers(0, 900 * 24).map(lambda hours: hours * HOUR),
    st.integers(31 * 24, 2_500 * 24).map(lambda hours: hours * HOUR),
    st.integers(1, 24),
    st.integers(1, 60),
    st.sampled_from(["UTC", "Europe/Berlin", "Pacific/Auckland"]),
)
@rules(max_examples=50)
def test_every_label_is_ripe_and_as_long_as_can_be(shift, span, longest, most, zone):
    first, known = START + shift, START + shift + span
    history = 0
    while naive.later(first, history + 1, zone) <= known:
        history += 1
    if history < 1:
        with pytest.raises(InputError, match="one whole month"):
            plan(first, known, longest, zone, most)
        return
    found = plan(first, known, longest, zone, most)
    assert 1 <= len(found) <= most
    assert [o.cutoff for o in found] == sorted({o.cutoff for o in found})
    # Two months of history before the earliest origin, where there are more than two in all.
    oldest = history - 2 if history > 2 else history
    places = {add_months(known, -back, zone): back for back in range(1, oldest + 1)}
    seasonal = longest >= 12 and history >= longest + 12
    for origin in found:
        assert naive.later(origin.cutoff, origin.months, zone) <= known
        back = places[origin.cutoff]
        length = min(back, longest)
        assert origin.months == (length // 12 * 12 if seasonal else length)
        assert origin.months >= 1
    # The newest possible origin is always among them, and with room for two the oldest.
    newest = next(b for b in range(1, 25) if not seasonal or b >= 12)
    assert places[found[-1].cutoff] == newest
    if most > 1 and oldest > newest:
        assert places[found[0].cutoff] == oldest


def test_too_short_a_history_is_told():
    with pytest.raises(InputError) as told:
        plan(START, START + 30 * DAY, 12, ZONE, 12)
    assert "2015-01-01 to 2015-01-31" in str(told.value)
    assert "longer history" in str(told.value)
    assert plan(START, START + 31 * DAY, 12, ZONE, 12) == (Origin(START, 1),)


def test_weeks_are_those_of_the_calendar():
    assert weeks_ahead(instant("2024-02-01", ZONE), 1, ZONE) == 29 / 7
    assert weeks_ahead(instant("2023-02-01", ZONE), 24, ZONE) == 731 / 7
    # A day of 23 hours lies within.
    berlin = "Europe/Berlin"
    assert weeks_ahead(instant("2024-03-01", berlin), 1, berlin) == (31 - 1 / 24) / 7


# The rows


def expected(origins: tuple[Origin, ...]) -> pd.DataFrame:
    """Rows and labels from the tables, one origin at a time."""
    orders = fitted.shop()["orders"]
    found = []
    for k, origin in enumerate(origins):
        cutoff = moment(origin.cutoff)
        end = cutoff + pd.DateOffset(months=origin.months)
        bought = orders[(orders["order_ts"] < cutoff) & (orders["amount"] > 0)]
        inside = orders[(orders["order_ts"] >= cutoff) & (orders["order_ts"] < end)]
        plus = inside[inside["amount"] > 0].groupby("customer_id")["amount"].sum()
        minus = -inside[inside["amount"] < 0].groupby("customer_id")["amount"].sum()
        ids = sorted(set(bought["customer_id"]))
        row = pd.DataFrame({"id": ids, "origin": k, "months": origin.months, "end": end})
        row["gross"] = plus.reindex(ids).fillna(0.0).to_numpy()
        row["refunds"] = minus.reindex(ids).fillna(0.0).to_numpy()
        found.append(row)
    return pd.concat(found).sort_values(["id", "origin"], ignore_index=True)


def test_samples_are_the_ripe_rows_of_the_tables(base):
    samples, naive_rows = base.samples, expected(base.model.origins)
    assert len(samples) == len(naive_rows) > 2_000
    assert samples.origin.tolist() == naive_rows["origin"].tolist()
    assert samples.months.tolist() == naive_rows["months"].tolist()
    assert np.allclose(samples.gross, naive_rows["gross"], atol=1e-6)
    assert np.allclose(samples.refunds, naive_rows["refunds"], atol=1e-6)
    assert samples.churned.tolist() == (naive_rows["gross"] == 0).astype(float).tolist()
    assert (naive_rows["end"] <= moment(KNOWN)).all()
    assert samples.refunds.sum() > 0
    # Whole customers are held out.
    assert naive_rows.assign(fold=samples.fold).groupby("id")["fold"].nunique().max() == 1
    assert set(samples.fold) == set(range(5))


def same(a: Samples, b: Samples) -> bool:
    plain = all(
        np.array_equal(getattr(a, f.name), getattr(b, f.name))
        for f in fields(Samples)
        if f.name not in ("features", "history")
    )
    past = all(
        same_bits(getattr(a.history, f.name), getattr(b.history, f.name)) for f in fields(History)
    )
    return plain and past and same_bits(a.features, b.features)


def gathered(store: Store, base: Fitted, share: float, workers: int = 1) -> Samples:
    return collect(
        store, base.catalogue, base.model.origins, KNOWN, ZONE, share, workers
    )  # fmt: skip


def test_rows_come_in_one_order_whatever_the_buckets(base):
    other = fitted.ingest(shuffled(fitted.shop()))
    assert same(gathered(fitted.split(other, 7), base, 1.0, 2), base.samples)
    half = gathered(fitted.store(), base, 0.5)
    assert same(gathered(fitted.split(other, 3), base, 0.5), half)
    assert 0.4 < len(half) / len(base.samples) < 0.6


def test_a_share_is_of_the_same_customers_everywhere():
    whole = fitted.store().bucket(0)

    def names(store: Store, share: float) -> set[str]:
        return {str(i) for b in store for i in b.ids[chosen(b, share)]}

    some = names(fitted.store(), 0.3)
    assert 0.25 < len(some) / len(whole) < 0.35
    assert names(fitted.split(fitted.store(), 4), 0.3) == some
    assert some < names(fitted.store(), 0.6) < names(fitted.store(), 1.0) == set(whole.ids)


def test_max_rows_bounds_the_rows(base):
    chosen_settings = fitted.settings(
        model={**fitted.PLAIN["model"], "max_rows": 1_000, "origins": 4, "objective": "btyd"}
    )
    found = fit(fitted.store(), KNOWN, LONGEST, chosen_settings)
    assert found.share == pytest.approx(1_000 / len(base.samples), rel=0.02)
    assert len(found.samples) == pytest.approx(1_000, rel=0.12)
    assert found.model.thin
    assert found.model.anchor == base.model.anchor  # of all customers


def test_a_label_beyond_the_moment_of_training_is_an_error_of_ours(base):
    late = (Origin(add_months(KNOWN, -12, ZONE), 13),)
    with pytest.raises(AssertionError, match="beyond the moment of training"):
        collect(fitted.store(), base.catalogue, late, KNOWN, ZONE, 1.0)


# The fit


def test_the_same_data_and_seed_give_the_same_bytes(base):
    again = fit(fitted.store(), KNOWN, LONGEST, fitted.settings())
    assert fitted.contents(again.model) == fitted.contents(base.model)


def test_rows_in_another_order_buckets_and_workers_give_the_same_bytes(base):
    store = fitted.split(fitted.ingest(shuffled(fitted.shop(), 8)), 5)
    found = fit(store, KNOWN, LONGEST, fitted.settings(), workers=2)
    assert fitted.contents(found.model) == fitted.contents(base.model)


def changed_future() -> dict[str, pd.DataFrame]:
    """Another world from `KNOWN` on: a third is gone, the rest dearer, old orders get new lines."""
    tables = fitted.shop()
    orders = tables["orders"]
    past = orders[orders["order_ts"] < moment(KNOWN)]
    ahead = orders[orders["order_ts"] >= moment(KNOWN)].iloc[::3]
    ahead = ahead.assign(amount=(ahead["amount"] * 7).round(2), channel="elsewhere")
    more = past.iloc[::2].assign(order_ts=moment(KNOWN), amount=-5.0)
    late = past.iloc[1::2].assign(order_ts=moment(KNOWN) + pd.Timedelta(days=9), amount=88.0)
    return {**tables, "orders": pd.concat([past, ahead, more, late], ignore_index=True)}


def test_nothing_from_the_moment_of_training_on_is_seen(base):
    store = fitted.ingest(changed_future())
    assert store.rows != fitted.store().rows
    found = fit(store, KNOWN, LONGEST, fitted.settings())
    assert fitted.contents(found.model) == fitted.contents(base.model)
    assert same(found.samples, base.samples)


def planted(values: pd.Series, noise: float) -> Store:
    people = fitted.shop()["customers"].copy()
    found = people["customer_id"].map(values).fillna(0.0).to_numpy()
    people["insight"] = found + np.random.default_rng(2).normal(0, noise, len(people))
    return fitted.ingest({**fitted.shop(), "customers": people}, leaky())


def leaky():
    return fitted.settings(customers={"static": ["acquisition_channel", "insight"]})


def year_before_known() -> pd.DataFrame:
    orders = fitted.shop()["orders"]
    inside = (orders["order_ts"] >= moment(add_months(KNOWN, -12, ZONE))) & (
        orders["order_ts"] < moment(KNOWN)
    )
    return orders[inside & (orders["amount"] > 0)]


def test_an_attribute_that_knows_the_label_stops_training():
    year = year_before_known().groupby("customer_id")["amount"]
    for label, noise in ((year.size().clip(upper=1).astype(float), 0.2), (year.sum(), 3.0)):
        with pytest.raises(InputError, match="must not know the future") as told:
            fit(planted(label, noise), KNOWN, LONGEST, leaky())
        assert "'customer_insight'" in str(told.value)
        assert "[customers] static" in str(told.value)


def test_an_attribute_that_knows_little_does_not():
    label = year_before_known().groupby("customer_id").size().clip(upper=1).astype(float)
    found = fit(planted(label, 1.0), KNOWN, LONGEST, leaky())
    assert "customer_insight" in found.model.columns


def predicted(model: Model, store: Store) -> pd.DataFrame:
    bucket = store.bucket(0)
    rows = build(bucket, Cutoffs.at([KNOWN], ZONE), model.catalogue)
    return model.table(rows, KNOWN, [LONGEST], "1").set_index("customer_id")


def test_a_giant_does_not_teach_the_others(base):
    """One customer a million times as large: the order of all others stays."""
    orders = fitted.shop()["orders"].copy()
    past = orders[orders["order_ts"] < moment(KNOWN)]
    giant = past["customer_id"].value_counts().sort_index().loc[lambda n: n > 15].index[0]
    orders.loc[orders["customer_id"] == giant, "amount"] *= 1e6
    gross = orders[orders["amount"] > 0].groupby("customer_id")["amount"].sum()
    assert gross[giant] > 0.99 * gross.sum()
    store = fitted.ingest({**fitted.shop(), "orders": orders})
    found = predicted(fit(store, KNOWN, LONGEST, fitted.settings()).model, store)
    usual = predicted(base.model, fitted.store())
    assert found.loc[giant, "revenue_12m"] > 1e5 * usual.loc[giant, "revenue_12m"]
    found, usual = found.drop(giant), usual.drop(giant)
    for name in ("revenue_12m", "clv_12m", "orders_12m", "churn_12m"):
        assert found[name].corr(usual[name], method="spearman") >= 0.99
    assert found["revenue_12m"].sum() == pytest.approx(usual["revenue_12m"].sum(), rel=0.1)


# Too little, or of one kind


def weekly(customers: int, weeks: range, first: str = "2022-01-03") -> dict[str, pd.DataFrame]:
    who, week = np.divmod(np.arange(customers * len(weeks)), len(weeks))
    day = np.array(weeks)[week] * 7 + who % 7
    return {
        "orders": pd.DataFrame(
            {
                "customer_id": [f"c{i:03d}" for i in who],
                "order_ts": pd.Timestamp(first) + pd.to_timedelta(day, unit="D"),
                "amount": 10.0 + who % 5,
            }
        )
    }


def trained(tables: Tables, until: str) -> tuple[Fitted, Store]:
    chosen_settings = fitted.settings(orders={"complete_until": until})
    store = fitted.ingest(tables, chosen_settings)
    return fit(store, store.coverage_end, LONGEST, chosen_settings), store


@pytest.mark.parametrize(
    ("tables", "got"),
    [
        (weekly(1, range(100)), "Got 1."),  # a single customer
        (weekly(1, range(1)), "Got 0."),  # a single order
        (weekly(300, range(1)), "Got 0."),  # no repeat buyers
        (weekly(19, range(60)), "Got 19."),
    ],
)
def test_too_little_is_refused_with_the_reason(tables, got):
    with pytest.raises(InputError, match="at least 20 customers") as told:
        trained(tables, "2024-06-30")
    assert got in str(told.value)


@pytest.mark.parametrize("weeks", [range(3), range(130)])
def test_all_or_none_churned_is_a_forecast_without_members(weeks):
    found, store = trained(weekly(200, weeks), "2024-06-30")
    assert found.model.thin
    assert set(found.samples.churned) == ({1.0} if len(weeks) == 3 else {0.0})
    rows = build(store.bucket(0), Cutoffs.at([store.coverage_end], ZONE), found.model.catalogue)
    table = found.model.table(rows, store.coverage_end, [1, 12, 24], "1")
    numbers = table.select_dtypes("float64")
    assert np.isfinite(numbers.to_numpy()).all()
    assert set(table["evidence"]) == {"thin"}
    if len(weeks) == 3:
        assert table["churn_24m"].min() > 0.99
    else:
        assert table["churn_1m"].max() < 0.1
        assert table["orders_12m"].mean() == pytest.approx(52, rel=0.1)


def test_no_order_before_any_origin_is_refused():
    tables = weekly(60, range(6))
    with pytest.raises(InputError, match="order before 2022-01-03") as told:
        trained(tables, "2022-02-02")  # a month to the day
    assert "longer history" in str(told.value)
    found, _ = trained(tables, "2022-03-05")
    assert len(found.samples) > 0


def test_few_customers_lean_on_the_forecast(base):
    found = fit(
        fitted.store(), KNOWN, LONGEST, fitted.settings(model={"origins": 4, "thin_below": 1_501})
    )
    assert found.model.thin
    assert found.model.customers == base.model.customers == 1_500
    assert not base.model.thin


def test_progress_is_told_to_the_end():
    told: dict[str, float] = {}
    few = fitted.settings(model={"origins": 1, "thin_below": 0, "objective": "btyd"})
    fit(fitted.store(), KNOWN, 1, few, progress=lambda stage, part: told.update({stage: part}))
    assert len(told) == 3
    assert set(told.values()) == {1.0}


# Baselines


@pytest.fixture(scope="module")
def evidence(base: Fitted) -> Evidence:
    return Evidence(fitted.rows(base.model), base.samples, base.catalogue.names, KNOWN, ZONE)


@pytest.fixture(scope="module")
def answers(evidence: Evidence):
    return fit_all(evidence)


@pytest.mark.parametrize("months", [3, 12, 24])
def test_average(answers, base, evidence, months):
    samples = base.samples
    mine = [i for i in range(len(samples)) if samples.months[i] == 12]
    value = fmean(samples.gross[i] for i in mine) / 12 * months
    left = fmean(samples.churned[i] for i in mine) ** (months / 12)
    given_rows = evidence.rows
    found = answers["average"](given_rows, months)
    assert np.allclose(found.gross, value)
    assert np.allclose(found.churn, left)
    assert found.gross.shape == found.churn.shape == (len(given_rows),)


def test_last_year(answers, base, evidence):
    samples, rows = base.samples, evidence.rows
    spend = samples.features[:, base.catalogue.names.index("spend_365d")]
    total = sum(spend[i] * samples.months[i] / 12 for i in range(len(samples)))
    factor = sum(samples.gross) / total
    found = answers["last year scaled"](rows, 6)
    assert np.allclose(found.gross, rows.column("spend_365d") * factor / 2)
    # On the training rows the totals are equal by construction.
    assert factor * total == pytest.approx(samples.gross.sum())
    since = samples.features[:, base.catalogue.names.index("days_since_order")]
    edges = sorted(set(np.quantile(since, [k / 10 for k in range(1, 10)])))

    def group(days: float) -> int:
        return sum(edge < days for edge in edges)

    by: dict[int, list[int]] = {}
    for i, days in enumerate(since):
        by.setdefault(group(days), []).append(i)
    year = answers["last year scaled"](rows, 12)
    for i in range(0, len(rows), 101):
        mine = by[group(rows.column("days_since_order")[i])]
        share = fmean(samples.churned[j] for j in mine)
        assert year.churn[i] == pytest.approx(share)  # all labels are of 12 months
        assert found.churn[i] == pytest.approx(share**0.5)


def test_retention_formula(answers, base, evidence):
    samples, rows = base.samples, evidence.rows
    rate = (1 - fmean(samples.churned[samples.months == 12])) ** (1 / 12)
    found = answers["retention formula"](rows, 12)
    month = rows.column("spend_per_month")
    assert np.allclose(found.gross, month * sum(rate**m for m in range(1, 13)))
    assert np.allclose(found.churn, fmean(samples.churned[samples.months == 12]))


def test_buy_till_you_die(answers, evidence):
    rows = evidence.rows
    history = History.of(rows)
    key = (history.frequency, history.recency, history.age)
    t = 365 / 7
    bought = rows.column("spend")
    repeats = np.array([
        max(bought[i] - rows.column("first_order_spend")[i], 0) / max(history.frequency[i], 1)
        for i in range(len(rows))
    ])  # fmt: skip
    for name, kind, n, mean in (
        ("BG/NBD + gamma-gamma", BGNBD, history.frequency, repeats),
        ("Pareto/NBD + gamma-gamma", ParetoNBD, history.frequency + 1, history.spend),
    ):
        model, spend = kind.fit(*key), GammaGamma.fit(n, mean)
        found = answers[name](rows, 12)
        for i in range(0, len(rows), 67):
            one = [column[i] for column in key]
            each = float(spend.expected_spend(n[i], mean[i]))
            value = float(model.expected_orders(*one, t)) * each
            assert found.gross[i] == pytest.approx(value, rel=1e-9)
            assert found.churn[i] == pytest.approx(float(model.p_no_order(*one, t)), rel=1e-9)
    # Repeat spend alone is what a customer of one order has none of.
    assert (repeats[history.frequency == 0] >= 0).all()


# Out of time


@pytest.fixture(scope="module")
def judged() -> Judgement:
    return backtest(fitted.store(), KNOWN, LONGEST, fitted.settings())


def test_what_really_happened(judged, base):
    orders = fitted.shop()["orders"]
    rows: Rows = fitted.rows(base.model)
    ids = rows.ids[rows.who]
    inside = orders[(orders["order_ts"] >= "2024-07-01") & (orders["order_ts"] < "2025-07-01")]
    net = inside.groupby("customer_id")["amount"].sum().reindex(ids).fillna(0.0)
    bought = set(inside.loc[inside["amount"] > 0, "customer_id"])
    assert np.allclose(judged.actual, net, atol=1e-6)
    assert judged.churned.tolist() == [float(i not in bought) for i in ids]
    assert (judged.cutoff, judged.months) == ("2024-07-01", 12)
    ends = [pd.Timestamp("2024-07-01") + pd.DateOffset(months=m) for m in range(1, 13)]
    known = inside[inside["customer_id"].isin(set(ids))]
    totals = [known.loc[known["order_ts"] < end, "amount"].sum() for end in ends]
    assert np.allclose(judged.by_month["actual"], totals)


def test_the_judged_model_is_the_one_that_saw_nothing(judged, base):
    """It is the model whose bytes no change after its cutoff moves, see above."""
    known = {"calibration": NONE, "intervals": None}  # from rehearsals, which `base` has not
    assert fitted.contents(replace(judged.model, **known)) == fitted.contents(
        replace(base.model, **known)
    )
    rows = fitted.rows(base.model)
    model = replace(base.model, calibration=judged.model.calibration)
    found = model.predict(rows, KNOWN, range(1, 13))
    assert same_bits(judged.values[OURS], found.revenue(12))
    assert same_bits(judged.churn[OURS], np.ascontiguousarray(found.churn[:, 11]))
    sums = [found.revenue(m).sum() for m in range(1, 13)]
    assert np.allclose(judged.by_month["predicted"], sums)


def test_all_models_answer_for_the_same_customers(judged, base, answers):
    names = [OURS, *BASELINES]
    assert list(judged.values) == list(judged.churn) == names
    rows = fitted.rows(base.model)
    for name in BASELINES:
        given_one = answers[name](rows, 12)
        assert np.allclose(judged.values[name], given_one.gross * (1 - base.model.returns.share))
        assert np.allclose(judged.churn[name], given_one.churn)
    board = judged.leaderboard()
    assert sorted(board.index) == sorted(names)
    plain = judged.as_dict(compare=False)
    assert (plain["customers"], plain["months"]) == (1_500, 12)
    assert set(plain["models"]) == set(names)
    # Better than the mean for everybody, or all of this is for nothing.
    wrong = {name: np.abs(v - judged.actual).mean() for name, v in judged.values.items()}
    assert wrong[OURS] < 0.9 * wrong["average"]


def test_a_window_that_the_data_do_not_cover_is_refused():
    for store, months in ((fitted.store(), 24), (fitted.store().until(KNOWN), 1)):
        with pytest.raises(InputError, match="data end at") as told:
            backtest(store, KNOWN, months, fitted.settings())
        assert "2024-07-01" in str(told.value)


@given(
    st.integers(0, 60 * 31 * 24).map(lambda hours: hours * HOUR),
    st.integers(0, 70 * 31 * 24).map(lambda hours: hours * HOUR),
    st.integers(1, 24),
)
@rules(max_examples=50)
def test_the_newest_test_is_the_longest_that_history_allows(shift, span, longest):
    first, as_of = START + shift, START + shift + span
    fits = [
        h
        for h in range(1, longest + 1)
        if naive.later(first, h + 3, ZONE) <= add_months(as_of, -h, ZONE)
    ]
    found = latest_test(first, as_of, longest, ZONE)
    if not fits:
        assert found is None
    else:
        assert found == (add_months(as_of, -max(fits), ZONE), max(fits))
