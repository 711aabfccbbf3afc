"""How sure is a metric: resampled customers, paired differences of two models, who is better."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from features.errors import InputError
from training.metrics import METRICS, better, bins_of, check_churn, column, is_churn, rows_of
from training.ranks import Floats, Outcomes, Rows, Sample, ties_of

__all__ = [
    "Difference",
    "Interval",
    "bootstrap",
    "bootstraps",
    "calibrated_ece",
    "paired",
    "paired_bootstrap",
    "percentiles",
    "resamples",
    "verdict",
]

Standing = Literal["better", "worse", "level"]


class Interval(NamedTuple):
    """A metric on all rows and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """metric(a) - metric(b): mean over the resamples and its 95 % interval."""

    mean: float
    low: float
    high: float


def verdict(metric: str, difference: Difference) -> Standing:
    """Is a better or worse than b, or level: the interval holds 0 or is undefined."""
    favours = [better(metric, side) for side in (difference.low, difference.high)]
    if all(favours):
        return "better"
    against = [better(metric, -side) for side in (difference.low, difference.high)]
    return "worse" if all(against) else "level"


def bootstrap(
    actual: npt.ArrayLike,
    predicted: npt.ArrayLike,
    metric: str,
    *,
    draws: int = 500,
    seed: int = 0,
) -> Interval:
    """A metric with its 95 % percentile interval over resampled customers.

    Resamples in which the metric is undefined are left out; where none is left, nan.

    Raises
    ------
    InputError
        As ``value_metrics`` and ``churn_metrics``; an unknown metric; ``draws`` below 1.
    """
    return bootstraps(actual, predicted, [metric], draws=draws, seed=seed)[metric]


def bootstraps(
    actual: npt.ArrayLike,
    predicted: npt.ArrayLike,
    metrics: Sequence[str],
    *,
    draws: int = 500,
    seed: int = 0,
) -> dict[str, Interval]:
    """`bootstrap` of several metrics, all of value or all of churn, on the same resamples."""
    rows = rows_of(actual, predicted, churn=is_churn(metrics))
    whole, drawn = Sample.whole(rows[0]), _resampled(rows, metrics, draws, seed)
    return {
        metric: Interval(METRICS[metric](whole), *percentiles(drawn[:, 0, i])[1:])
        for i, metric in enumerate(metrics)
    }


def paired(
    actual: npt.ArrayLike,
    ours: npt.ArrayLike,
    theirs: Sequence[npt.ArrayLike],
    metrics: Sequence[str],
    *,
    draws: int = 500,
    seed: int = 0,
) -> list[list[tuple[float, float, Difference]]]:
    """Our predictions against several others, all on the same resamples.

    For each of `theirs` and each metric: ours and theirs on all rows, and ours less theirs.
    """
    rows = rows_of(actual, ours, *theirs, churn=is_churn(metrics))
    whole = [[METRICS[metric](Sample.whole(each)) for metric in metrics] for each in rows]
    drawn = _resampled(rows, metrics, draws, seed)
    return [
        [
            (whole[0][i], whole[k][i], Difference(*percentiles(drawn[:, 0, i] - drawn[:, k, i])))
            for i in range(len(metrics))
        ]
        for k in range(1, len(rows))
    ]


def paired_bootstrap(
    actual: npt.ArrayLike,
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    metric: str,
    *,
    draws: int = 500,
    seed: int = 0,
) -> Difference:
    """metric(a) - metric(b), both on the same resampled customers; see ``bootstrap``."""
    return paired(actual, a, [b], [metric], draws=draws, seed=seed)[0][0][2]


def _resampled(rows: Sequence[Rows], metrics: Sequence[str], draws: int, seed: int) -> Floats:
    """Scores of shape (draws, models, metrics): each draw is one resample for all of them."""
    found = []
    for weights in resamples(len(rows[0].actual), draws, seed):
        outcomes = Outcomes(rows[0], weights)
        samples = [Sample(model, outcomes) for model in rows]
        found.append([[METRICS[metric](sample) for metric in metrics] for sample in samples])
    return np.array(found)


def resamples(n: int, draws: int, seed: int) -> Iterator[Floats]:
    """How often each of `n` customers is in a resample, (n,), `draws` times.

    Raises
    ------
    InputError
        ``draws`` below 1.
    """
    if draws < 1:
        raise InputError(f"The number of draws must be at least 1. Got {draws}.")
    random = np.random.default_rng(seed)
    for _ in range(draws):
        yield np.bincount(random.integers(0, n, n), minlength=n).astype(np.float64)


def calibrated_ece(
    probability: npt.ArrayLike, *, level: float = 0.95, draws: int = 500, seed: int = 0
) -> float:
    """The ``ece`` below which a share `level` of the worlds lie in which the probabilities hold.

    With few customers even true probabilities show a gap: consistency resampling (Broecker and
    Smith 2007, Weather and Forecasting 22) draws churn from the probabilities themselves.
    """
    p = np.sort(column(probability, "probabilities"))
    check_churn([np.zeros(1), p])
    bins = bins_of(ties_of(p), np.ones(len(p)))
    random, found = np.random.default_rng(seed), np.empty(draws)
    for draw in range(draws):
        gap = p - (random.random(len(p)) < p)
        found[draw] = np.abs(np.bincount(bins, weights=gap)).sum() / len(p)
    return float(np.quantile(found, level))


def percentiles(outcomes: Floats) -> tuple[float, float, float]:
    """Mean and 95 % interval of the outcomes that are known; nan where none is."""
    known = outcomes[~np.isnan(outcomes)]
    if not len(known):
        return math.nan, math.nan, math.nan
    low, high = np.percentile(known, [2.5, 97.5])
    return float(known.mean()), float(low), float(high)
