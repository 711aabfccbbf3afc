"""Intervals of customers and of totals, where the distribution is known."""

from __future__ import annotations

import math

import fitted
import numpy as np
import pandas as pd
import pytest
from conftest import same_bits
from scipy.stats import gamma

from training.coverage import Points, coverage
from training.imagined import imagined
from training.intervals import FLOOR, HIGH, LOW, MEDIAN, Intervals, total
from training.rehearsal import Rehearsal


def population(n: int, seed: int, months: int = 12, bias: float = 1.0) -> Rehearsal:
    """Customers who stay with a known chance and then spend gamma(orders) around a known mean."""
    rng = np.random.default_rng(seed)
    stay = rng.uniform(0.02, 0.98, n)
    shape = rng.choice([0.5, 1.0, 4.0], n)  # of spend given any order
    mean = rng.uniform(5, 500, n)
    buys = rng.random(n) < stay
    spent = np.where(buys, rng.gamma(shape, mean / shape) * bias, 0.0)
    orders = stay * (1 + shape)
    return Rehearsal(0, months, stay * mean, orders, 1 - stay, spent, 1.0 - buys)


@pytest.fixture(scope="module")
def known() -> Intervals:
    return Intervals.fit([population(40_000, 1), population(40_000, 2)])


def test_points_are_those_of_the_true_distribution(known):
    """Three kinds of customers, whose quantiles are in closed form."""
    for shape in (0.5, 1.0, 4.0):
        stay = np.array([0.5, 0.8, 0.99])
        mean = 100.0
        for level in (MEDIAN, HIGH):
            at = (level - (1 - stay)) / stay
            true = np.where(at > 0, gamma.ppf(np.maximum(at, 0), shape, scale=mean / shape), 0.0)
            found = known.quantile(level, stay * mean, stay * (1 + shape), 1 - stay, 12)
            assert np.allclose(found, true, rtol=0.2, atol=6.0), (shape, level, found, true)


def test_shares_outside_are_the_nominal_ones(known):
    fresh = population(40_000, 3)
    table = coverage(fresh, Points.of(known, fresh)).set_index("group")
    assert table.loc["all", "above"] == pytest.approx(0.10, abs=0.01)
    assert table.loc["all", "below"] == pytest.approx(0.10, abs=0.015)
    assert table.loc["decile 01", "above"] == pytest.approx(0.10, abs=0.025)
    assert table.loc["all", "n"] == 40_000


def test_coverage_is_a_count():
    said = Rehearsal(
        0, 3, np.array([9.0, 5.0, 1.0, 0.1]), np.ones(4), np.array([0.1, 0.5, 0.8, 0.95]),
        np.array([30.0, 1.0, 0.0, 7.0]), np.array([0.0, 0.0, 1.0, 0.0]),
    )  # fmt: skip
    points = Points(np.array([2.0, 2.0, 0, 0]), np.ones(4), np.array([20.0, 9.0, 3.0, 0.0]))
    table = coverage(said, points).set_index("group")
    # The last is above too, but so likely gone that zero is its right upper end.
    assert table.loc["all", ["above", "n_above"]].tolist() == [1 / 3, 3]
    assert table.loc["all", ["below", "n_below"]].tolist() == [1 / 2, 2]
    assert table.loc["all", "inside"] == 1 / 4
    assert table.loc["buyers", "n"] == 3
    assert math.isnan(table.loc["decile 10", "below"])


def test_points_are_in_order_and_zero_where_leaving_is_likely(known):
    said = population(5_000, 4)
    points = Points.of(known, said)
    assert (points.low <= points.median).all()
    assert (points.median <= points.high).all()
    assert (points.low[said.churn >= LOW] == 0).all()
    assert (points.high[said.churn >= HIGH] == 0).all()
    assert (points.low >= 0).all()


def test_a_horizon_beyond_what_was_rehearsed_is_wider(known):
    said = population(2_000, 5)
    parts = said.value, said.orders, said.churn
    for months, more in ((12, False), (24, True)):
        high = known.quantile(HIGH, *parts, months) - known.quantile(HIGH, *parts, 12)
        low = known.quantile(LOW, *parts, months) - known.quantile(LOW, *parts, 12)
        assert (high >= 0).all()
        assert (low <= 0).all()
        assert bool(high.max() > 0) is more
    assert same_bits(known.quantile(MEDIAN, *parts, 24), known.quantile(MEDIAN, *parts, 12))
    assert known.shared(24) == known.common * math.sqrt(2)
    assert known.shared(6) == known.common


def test_the_spread_is_that_of_a_naive_sample(known):
    said = population(200_000, 6)
    some = (said.churn < 0.5) & (said.orders / (1 - said.churn) > 4)
    scaled = (said.actual - said.value)[some] / known.spread(said.value, said.orders, said.churn)[
        some
    ]
    assert scaled.std() == pytest.approx(1.0, abs=0.06)


def test_totals_hold_in_nominal_shares():
    """Eighty in a hundred, where all customers share an error of known size."""
    rng = np.random.default_rng(8)
    common = 0.12
    inside = []
    for seed in range(200):
        said = population(400, 100 + seed)
        stay = 1 - said.churn
        shape = said.orders / stay - 1
        spread = said.value * np.sqrt((1 + 1 / shape) / stay - 1)
        found = total(said.value, spread, common)
        came = said.actual.sum() * math.exp(rng.normal(-(common**2) / 2, common))
        inside.append(found.low <= came <= found.high)
    assert 0.72 < np.mean(inside) < 0.88


def test_the_shared_error_is_read_off_the_totals():
    off = [population(40_000, seed, bias=bias) for seed, bias in ((1, 1.3), (2, 0.7), (3, 1.0))]
    found = Intervals.fit(off)
    naive = np.sqrt(np.mean([math.log(r.actual.sum() / r.value.sum()) ** 2 for r in off]))
    assert found.common == pytest.approx(naive, abs=0.01)
    assert Intervals.fit([population(40_000, 1)]).common == FLOOR


def test_a_total_that_may_be_negative_has_an_interval():
    found = total(np.array([-5.0, 2.0]), np.array([3.0, 4.0]), 0.1)
    assert found.low < found.value == -3.0 < found.high
    assert found.high - found.value == pytest.approx(1.2815515655 * math.hypot(5, 0.7))


def test_a_row_alone_has_the_same_bits_and_order_does_not_matter(known):
    said = population(300, 9)
    parts = said.value, said.orders, said.churn
    whole = known.quantile(HIGH, *parts, 18), known.spread(*parts)
    for i in (0, 17, 299):
        one = tuple(np.ascontiguousarray(p[i : i + 1]) for p in parts)
        assert same_bits(known.quantile(HIGH, *one, 18), whole[0][i : i + 1])
        assert same_bits(known.spread(*one), whole[1][i : i + 1])
    shuffled = np.random.default_rng(1).permutation(300)
    mixed = Rehearsal(0, 12, *(getattr(said, f)[shuffled] for f in
                               ("value", "orders", "churn", "actual", "churned")))  # fmt: skip
    assert Intervals.fit([mixed]).ratios == Intervals.fit([said]).ratios
    assert Intervals.from_dict(known.as_dict()) == known


def test_imagined_customers_behave_as_the_anchor_says():
    anchor = fitted.base().model.anchor
    found = imagined(anchor, 12, 3_000, 0)
    assert (1 - found.churned).sum() >= 3_000
    assert found.churn.mean() == pytest.approx(found.churned.mean(), abs=0.02)
    assert found.value.sum() == pytest.approx(found.actual.sum(), rel=0.1)
    decile = pd.qcut(found.churn, 10, labels=False, duplicates="drop")
    gaps = pd.Series(found.churn - found.churned).groupby(decile).mean()
    assert gaps.abs().max() < 0.05


def test_a_model_without_rehearsals_has_intervals_all_the_same():
    model = fitted.base().model
    assert model.intervals is not None
    assert model.intervals.months == model.longest
    frame = model.table(fitted.rows(model), fitted.KNOWN, [12, 24], "1")
    for h in (12, 24):
        low, middle, high = (frame[f"clv_{h}m_{name}"] for name in ("low", "median", "high"))
        assert (low <= middle).all()
        assert (middle <= high).all()
        assert (frame[f"clv_{h}m_sd"] >= 0).all()
        assert frame[f"clv_{h}m_common"].nunique() == 1
