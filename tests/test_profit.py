"""Profit of a churn campaign against literal campaigns, closed forms and every order of ties."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from outcomes import churn

from features.errors import InputError
from serving.words import _campaign
from training.profit import Best, best_share, profit_curve
from training.scores import Interval

OFFER: dict[str, Any] = {"contact_cost": 4.0, "save_rate": 0.3}


def contacted(
    churned: np.ndarray, rank: np.ndarray, gain: np.ndarray, share: float, cost: float
) -> float:
    """Mean profit over every order of the customers that the ranks allow, the last one in part."""
    totals = []
    for order in itertools.permutations(range(len(rank))):
        if all(rank[i] >= rank[j] for i, j in itertools.pairwise(order)):
            left, total = share * len(rank), 0.0
            for who in order:
                total += min(1.0, left) * (gain[who] - cost)
                left -= min(1.0, left)
            totals.append(total)
    return sum(totals) / len(totals)


@pytest.mark.parametrize("by", ["probability", "gain"])
def test_the_curve_is_the_mean_of_campaigns_over_every_order_of_ties(by: str) -> None:
    churned = np.array([1, 0, 1, 1, 0, 0, 1.0])
    p = np.array([0.8, 0.8, 0.5, 0.5, 0.5, 0.1, 0.1])
    value = np.array([50, 20, 80, 80, 80, -10, 200.0])
    rank = p if by == "probability" else p * value
    curve = profit_curve(churned, p, value, by=by, **OFFER)  # type: ignore[arg-type]
    for share in (0.0, 0.1, 0.35, 0.5, 0.77, 1.0):
        row = curve[np.isclose(curve["share"], share)].iloc[0]
        assert row["customers"] == pytest.approx(7 * share)
        for column, happens in (("expected", p), ("realised", churned)):
            told = contacted(churned, rank, 0.3 * happens * value, share, 4.0)
            assert row[column] == pytest.approx(told, rel=1e-12, abs=1e-9)


def test_by_gain_beats_by_probability_where_values_differ() -> None:
    random = np.random.default_rng(0)
    p, value = random.random(2000), random.gamma(0.5, 100, 2000)
    churned = (random.random(2000) < p).astype(float)
    both = [best_share(churned, p, value, by=by, draws=10, **OFFER)
            for by in ("probability", "gain")]  # fmt: skip
    assert both[1].expected > both[0].expected
    assert both[1].realised.value > both[0].realised.value
    # With the truth as model, all whose expected gain exceeds the cost are contacted.
    assert both[1].share == pytest.approx(np.mean(0.3 * p * value > 4.0))
    assert both[1].expected == pytest.approx(np.maximum(0.3 * p * value - 4.0, 0).sum())


def test_what_calibrated_chances_promise_is_kept() -> None:
    """With uniform chances and one value the best share and profit are known in closed form."""
    random = np.random.default_rng(1)
    n = 40_000
    p = random.random(n)
    churned = (random.random(n) < p).astype(float)
    best = best_share(churned, p, 100, contact_cost=12.0, save_rate=0.3, draws=200)
    # Contact where p > .4: the integral of 30 p - 12 over .4 to 1 is 5.4 a customer.
    assert best.share == pytest.approx(0.6, abs=0.01)
    assert best.expected / n == pytest.approx(5.4, rel=0.02)
    assert best.hindsight >= best.realised.value
    # The spread of a sum of independent customers, by hand.
    gain = np.where(p > 0.4, 30 * churned - 12, 0)
    spread = math.sqrt(n) * gain.std()
    assert abs(best.realised.value - 5.4 * n) < 4 * spread
    assert best.realised.high - best.realised.low == pytest.approx(2 * 1.96 * spread, rel=0.2)


def test_interval_is_that_of_resampled_customers() -> None:
    churned, p, _ = churn(60, ties=False)
    value = np.round(np.random.default_rng(2).gamma(1, 60, 60), 2)
    best = best_share(churned, p, value, draws=25, seed=3, **OFFER)
    table = np.array(sorted(zip(churned, p, value, strict=True)))
    random = np.random.default_rng(3)
    drawn = []
    for _ in range(25):
        rows = table[random.integers(0, 60, 60)]
        rows = rows[np.argsort(-rows[:, 1], kind="stable")]
        gains = 0.3 * rows[:, 0] * rows[:, 2] - 4.0
        drawn.append(gains[: round(best.share * 60)].sum())
    assert best.realised[1:] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), rel=1e-9)


def test_nobody_is_contacted_where_no_contact_pays() -> None:
    best = best_share([1, 0, 1], [0.5, 0.2, 0.9], 10, contact_cost=9, save_rate=0.2, draws=5)
    assert (best.share, best.expected, best.realised) == (0, 0, (0, 0, 0))
    everybody = best_share([1, 0], [0.5, 0.2], 10, contact_cost=0, save_rate=0.2, draws=5)
    assert everybody.share == 1
    assert everybody.as_dict()["n"] == 2


def test_no_profit_depends_on_the_order_of_rows() -> None:
    churned, p, _ = churn(300)
    value = np.random.default_rng(4).gamma(1, 60, 300).round(0)
    first = None
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(300)
        rows = churned[order], p[order], value[order]
        got = (
            profit_curve(*rows, **OFFER).to_numpy().tobytes(),
            best_share(*rows, draws=20, **OFFER),
        )
        first = first or got
        assert got == first


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: profit_curve([1], [0.5], 1, contact_cost=-1, save_rate=0.1), "at least 0. Got -1"),
        (lambda: profit_curve([1], [0.5], 1, contact_cost=math.nan, save_rate=0.1), "Got nan"),
        (lambda: profit_curve([1], [0.5], 1, contact_cost=1, save_rate=1.1), "0 to 1. Got 1.1"),
        (lambda: profit_curve([1], [0.5], [1, 2], **OFFER), "equally long. Got 1, 1, 2"),
        (lambda: profit_curve([1], [0.5], math.nan, **OFFER), "values must be finite"),
        (lambda: profit_curve([2], [0.5], 1, **OFFER), "0 or 1. Got 2.0"),
        (lambda: profit_curve([1], [1.5], 1, **OFFER), "0 to 1. Got 1.5"),
        (lambda: profit_curve([1], [0.5], 1, by="age", **OFFER), "Got 'age'"),  # type: ignore[arg-type]
        (lambda: best_share([1], [0.5], 1, draws=0, **OFFER), "at least 1. Got 0"),
    ],
)
def test_refusals_say_what_came(call: Callable[[], object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (1.0, "A campaign to all customers would have brought 1,200 (900 to 1,500) EUR"),
        (0.998, "A campaign to nearly all customers would have brought 1,200 (900 to 1,500) EUR"),
        (0.37, "A campaign to the 37% with most to lose would have brought 1,200 (900 to 1,500)"),
        (0.0, "No campaign: no contact was expected to bring more than it costs"),
    ],
)
def test_a_campaign_is_told_by_whom_it_goes_to(share: float, said: str) -> None:
    """Where a contact costs nothing it goes to everybody, not to a part that has most to lose."""
    best = Best(10, share, 1.0, Interval(1_200.0, 900.0, 1_500.0), 0.5, 2.0)
    assert _campaign(best, "EUR").startswith(said)
