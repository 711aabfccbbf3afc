"""Bootstraps against literally resampled rows and against the truth."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from outcomes import churn, literal, shop
from scipy.stats import norm

from features.errors import InputError
from training import metrics, scores
from training.scores import Difference

VALUE_WITH_INTERVAL = [*metrics.VALUE_METRICS, "abs_bias"]


def test_no_interval_depends_on_the_order_of_rows() -> None:
    actual, a, _ = shop(300)
    churned, p, q = churn(300)
    first = None
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(300)
        y, a1, z, p1, q1 = (x[order] for x in (actual, a, churned, p, q))
        got = (
            repr(scores.paired_bootstrap(z, p1, q1, "auroc", draws=20)),
            repr(scores.bootstrap(y, a1, "normalised_gini", draws=20)),
        )
        first = first or got
        assert got == first


def resamples(columns: list[np.ndarray], draws: int, seed: int) -> list[list[np.ndarray]]:
    """The resampled rows themselves: sorted rows, then the same draws of row numbers."""
    table = np.array(sorted(zip(*(c.tolist() for c in columns), strict=True)))
    random = np.random.default_rng(seed)
    drawn = [table[random.integers(0, len(table), len(table))] for _ in range(draws)]
    return [list(rows.T) for rows in drawn]


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("metric", [*VALUE_WITH_INTERVAL, *metrics.CHURN_METRICS])
def test_bootstrap_is_the_metric_of_the_resampled_rows(metric: str, ties: bool) -> None:
    make = churn if metric in metrics.CHURN_METRICS else shop
    outcome, a, b = make(60, seed=1, ties=ties)
    measure, draws = literal(metric), 15
    gaps = [measure(y, p) - measure(y, q) for y, p, q in resamples([outcome, a, b], draws, 3)]
    got = scores.paired_bootstrap(outcome, a, b, metric, draws=draws, seed=3)
    expected = (np.mean(gaps), *np.percentile(gaps, [2.5, 97.5]))
    assert got == pytest.approx(expected, rel=1e-9, abs=1e-11)
    alone = [measure(y, p) for y, p in resamples([outcome, a], draws, 3)]
    single = scores.bootstrap(outcome, a, metric, draws=draws, seed=3)
    expected = (measure(outcome, a), *np.percentile(alone, [2.5, 97.5]))
    assert single == pytest.approx(expected, rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("metric", ["mae", "auroc"])
def test_bootstrap_covers_the_truth_about_as_often_as_it_says(metric: str) -> None:
    inside, tries = 0, 150
    for seed in range(tries):
        random = np.random.default_rng(seed)
        if metric == "mae":
            truth = math.sqrt(2 / math.pi)
            outcome, predicted = random.normal(10, 1, 150), np.full(150, 10.0)
        else:
            truth = norm.cdf(1 / math.sqrt(2))
            outcome = (random.random(150) < 0.4).astype(float)
            predicted = norm.cdf(random.normal(outcome, 1))
        found = scores.bootstrap(outcome, predicted, metric, draws=200, seed=seed)
        inside += found.low <= truth <= found.high
    # 95 % of 150 with four standard errors on either side.
    assert 0.88 <= inside / tries <= 1.0


def test_paired_interval_of_equal_models_is_zero_and_level() -> None:
    actual, a, _ = shop(100)
    for metric in VALUE_WITH_INTERVAL:
        if metric != "bias":
            found = scores.paired_bootstrap(actual, a, a, metric, draws=10)
            assert found == (0, 0, 0)
            assert scores.verdict(metric, found) == "level"


def test_several_metrics_at_once_are_the_same_as_one_at_a_time() -> None:
    actual, a, _ = shop(80)
    names = ["mae", "bias", "normalised_gini"]
    found = scores.bootstraps(actual, a, names, draws=20, seed=2)
    assert found == {name: scores.bootstrap(actual, a, name, draws=20, seed=2) for name in names}


def test_calibrated_ece_is_what_chance_leaves() -> None:
    """One probability for all is one bin: the gap of a binomial share, by the normal law."""
    for n, p in ((400, 0.3), (5_000, 0.5)):
        told = scores.calibrated_ece(np.full(n, p), draws=2_000)
        assert told == pytest.approx(norm.ppf(0.975) * math.sqrt(p * (1 - p) / n), rel=0.08)
    # Ten bins of 100: the sum of ten gaps exceeds its 95 % quantile in 5 % of the worlds.
    random, above = np.random.default_rng(0), 0
    p = random.random(1_000)
    limit = scores.calibrated_ece(p)
    for _ in range(300):
        churned = (random.random(1_000) < p).astype(float)
        above += metrics.churn_metrics(churned, p)["ece"] > limit
    assert 2 <= above <= 30
    with pytest.raises(InputError, match=r"Got 1\.5"):
        scores.calibrated_ece([1.5])


def test_pairing_narrows_the_interval() -> None:
    actual, a, _ = shop(400, ties=False)
    slightly_worse = a + np.where(np.arange(400) % 2, 1.0, -0.5)
    paired = scores.paired_bootstrap(actual, a, slightly_worse, "mae", draws=200)
    alone = scores.bootstrap(actual, a, "mae", draws=200)
    assert paired.high - paired.low < 0.2 * (alone.high - alone.low)


def test_undefined_resamples_are_left_out() -> None:
    churned, probability = [1, 0, 0], [0.9, 0.5, 0.1]
    found = scores.bootstrap(churned, probability, "auroc", draws=50)
    assert found == (1, 1, 1)
    nothing = scores.bootstrap([0, 0, 0], probability, "auroc", draws=50)
    assert all(math.isnan(number) for number in nothing)
    gap = scores.paired_bootstrap([0, 0, 0], probability, probability, "auroc", draws=5)
    assert scores.verdict("auroc", gap) == "level"


@pytest.mark.parametrize(
    ("metric", "low", "high", "expected"),
    [
        ("mae", -2, -1, "better"),
        ("mae", 1, 2, "worse"),
        ("mae", -1, 2, "level"),
        ("mae", -1, 0, "level"),
        ("auroc", 0.1, 0.2, "better"),
        ("auroc", -0.2, -0.1, "worse"),
        ("auroc", math.nan, math.nan, "level"),
    ],
)
def test_verdict(metric: str, low: float, high: float, expected: str) -> None:
    assert scores.verdict(metric, Difference((low + high) / 2, low, high)) == expected


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: scores.bootstrap([0, 1], [0.1, 0.2], "r2"), "one of mae.*Got 'r2'"),
        (lambda: scores.bootstrap([0, 1], [0.1, 0.2], "mae", draws=0), "at least 1. Got 0"),
    ],
)
def test_refusals_say_what_came(call: Callable[[], object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()
