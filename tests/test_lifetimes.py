"""The compiled forecast and its corrections against plain numpy and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import same_bits
from scipy.special import expit, logit

from features.errors import InputError
from training import lifetimes
from training.anchor import Anchor, History
from training.btyd import GammaGamma, ParetoNBD


def test_the_forecast_is_that_of_plain_numpy():
    """Of all kinds of histories and parameters, with an own horizon for each row."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, 40, 300).astype(float)
    age = rng.gamma(1.0, 60.0, 300)
    recency = age * rng.random(300)
    mean, ahead = rng.gamma(2.0, 30.0, 300), rng.gamma(1.0, 40.0, (300, 5))
    for law in ((0.7, 6.0, 0.5, 12.0), (3.0, 0.5, 2.0, 90.0), (0.9, 300.0, 0.7, 0.03)):
        orders, spend = ParetoNBD(*law), GammaGamma(6.0, 3.6, 15.0)
        anchor = Anchor(orders, spend)
        found = anchor.forecast(History(x, recency, age, mean), ahead)
        key = [each[:, None] for each in (x, recency, age)]
        none, days = orders.forecast(*key, ahead)
        near = np.clip(none, lifetimes.CERTAIN, 1 - lifetimes.CERTAIN)
        np.testing.assert_allclose(found.no_order, near, rtol=1e-9)
        np.testing.assert_allclose(found.order_days, np.maximum(days, 1 - near), rtol=1e-9)
        np.testing.assert_allclose(found.spend, spend.expected_spend(x + 1.0, mean), rtol=1e-14)
        np.testing.assert_allclose(found.rate, (law[0] + x) / (law[1] + age), rtol=1e-14)


@pytest.mark.parametrize("bad", [{"recency": 9.0}, {"frequency": -1.0}, {"spend": math.inf}])
def test_the_forecast_refuses_impossible_rows_in_the_words_of_the_models(bad):
    good = {"frequency": 2.0, "recency": 4.0, "age": 8.0, "spend": 5.0}
    anchor = Anchor(ParetoNBD(0.7, 6.0, 0.5, 12.0), GammaGamma(6.0, 3.6, 15.0))
    rows = {name: np.array([good[name], (good | bad)[name]]) for name in good}
    with pytest.raises(InputError, match="Row 1 has"):
        anchor.forecast(History(**rows), [4.0])
    with pytest.raises(InputError, match="time ahead"):
        anchor.forecast(History(**{k: v[:1] for k, v in rows.items()}), [4.0, -1.0])


def test_corrections_are_those_of_plain_numpy():
    rng = np.random.default_rng(2)
    none, days = rng.random((50, 25)), rng.gamma(1.0, 2.0, (50, 25))
    spend, rate, up, odds = rng.gamma(1.0, 1.0, (4, 50))
    ahead = np.cumsum(rng.random((1, 25)), axis=1)
    gross, orders, churn, pace = lifetimes.corrected(
        none, days, spend, rate, up, odds, ahead, (0.2, 1.1), 1.5
    )
    near = {"rtol": 1e-12}
    some = slice(24)
    expected = expit(0.2 + 1.1 * (logit(none) + odds[:, None]))
    np.testing.assert_allclose(churn, expected[:, some], **near)
    np.testing.assert_allclose(gross, (days * (spend * np.exp(up))[:, None])[:, some], **near)
    any_order = (1 - expected) * days / (1 - none) * 1.5
    np.testing.assert_allclose(orders, any_order[:, some], **near)
    fastest = np.maximum(rate * 1.5, (any_order / ahead)[:, some].max(axis=1))
    np.testing.assert_allclose(pace, fastest, **near)


def test_a_correction_is_a_longer_life_before_it_is_a_higher_rate():
    ahead = np.arange(1.0, 26.0)[None]
    days = np.cumsum(np.full((2, 25), [[0.5], [1.5]]), axis=1)
    never, one = np.full((2, 25), 1e-9), np.ones(2)
    *_, pace = lifetimes.corrected(
        never, days, one, one, np.zeros(2), np.zeros(2), ahead, (0.0, 1.0), 1.0
    )
    assert pace == pytest.approx([1.0, 1.5])


def test_a_row_has_the_same_bits_alone_and_among_others():
    rng = np.random.default_rng(4)
    x, age = rng.integers(0, 9, 200).astype(float), rng.gamma(1.0, 50.0, 200)
    anchor = Anchor(ParetoNBD(0.7, 6.0, 0.5, 12.0), GammaGamma(6.0, 3.6, 15.0))
    rows = History(x, age * rng.random(200), age, rng.gamma(2.0, 9.0, 200))
    weeks = np.arange(1.0, 26.0)
    many = anchor.forecast(rows, weeks)
    for i in (0, 7, 199):
        one = anchor.forecast(rows.take(np.array([i])), weeks)
        assert same_bits(one.no_order[0], many.no_order[i])
        assert same_bits(one.order_days[0], many.order_days[i])
        assert same_bits(one.spend, many.spend[i : i + 1])
