"""How good are predictions: metrics of value and churn, and the tables behind the pictures.

Every metric is a function of rows and their weights. With weights of one it is the metric itself;
with the counts of a resample it is the metric of the resampled rows. Rows with equal predictions
are treated as if their order were drawn at random and the outcome averaged, in closed form, and
all rows are first put into one canonical order: no figure depends on the order of its input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import InputError

__all__ = [
    "CHURN_METRICS",
    "COMPARED",
    "COMPARED_CHURN",
    "LOWER_IS_BETTER",
    "METRICS",
    "VALUE_METRICS",
    "Floats",
    "Rows",
    "Ties",
    "better",
    "bins_of",
    "check_churn",
    "churn_metrics",
    "column",
    "cumulated",
    "decile_table",
    "gain_points",
    "is_churn",
    "measure",
    "reliability_table",
    "rows_of",
    "same_length",
    "ties_of",
    "value_metrics",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

BINS = 10
# A sum that should be zero comes out as a few last bits of its terms: those are not a total.
ROUNDING = 1e-12
# As scikit-learn clips: a sure and wrong answer costs 36, not infinity.
CLIP = float(np.finfo(np.float64).eps)

# The names of the metrics.
MAE, RMSE, BIAS, ABS_BIAS, WAPE = "mae", "rmse", "bias", "abs_bias", "wape"
GINI, DECILE_MAPE, SPEARMAN = "normalised_gini", "decile_mape", "spearman"
CAPTURE_1, CAPTURE_5 = "capture_1", "capture_5"
CAPTURE_10, CAPTURE_20 = "capture_10", "capture_20"
AUROC, AVERAGE_PRECISION = "auroc", "average_precision"
LIFT_5, LIFT_10, LIFT_20 = "lift_5", "lift_10", "lift_20"
BRIER, LOG_LOSS, ECE, BASE_RATE, N = "brier", "log_loss", "ece", "base_rate", "n"

_LOWER = (MAE, RMSE, ABS_BIAS, WAPE, DECILE_MAPE, BRIER, LOG_LOSS, ECE)
_HIGHER = (GINI, SPEARMAN, CAPTURE_1, CAPTURE_5, CAPTURE_10, CAPTURE_20)
_HIGHER_CHURN = (AUROC, AVERAGE_PRECISION, LIFT_5, LIFT_10, LIFT_20)
# The direction of every metric that has one: bias has none, abs_bias has.
LOWER_IS_BETTER: Final[Mapping[str, bool]] = MappingProxyType(
    dict.fromkeys(_LOWER, True) | dict.fromkeys(_HIGHER + _HIGHER_CHURN, False)
)
# What a comparison of two models looks at when nothing else is asked.
COMPARED: Final = (MAE, RMSE, ABS_BIAS, GINI, SPEARMAN, DECILE_MAPE)
COMPARED_CHURN: Final = (AUROC, AVERAGE_PRECISION, BRIER, LOG_LOSS)


class Ties(NamedTuple):
    """Rows from the highest score to the lowest; rows of equal score make one step."""

    order: Ints  # the row at each place
    last: Ints  # the last place of each step
    step: Ints  # the step of each row


@dataclass(frozen=True)
class Rows:
    """Customers in canonical order with what the metrics share, worked out at most once."""

    actual: Floats
    predicted: Floats

    @cached_property
    def by_prediction(self) -> Ties:
        """Rows from the highest prediction to the lowest."""
        return ties_of(self.predicted)

    @cached_property
    def by_actual(self) -> Ties:
        """Rows from the highest outcome to the lowest."""
        return ties_of(self.actual)

    @cached_property
    def surprise(self) -> Floats:
        """-log of the probability given to what happened."""
        p = np.clip(self.predicted, CLIP, 1 - CLIP)
        return -np.log(np.where(self.actual > 0, p, 1 - p))


def ties_of(score: Floats) -> Ties:
    """Rows from the highest score to the lowest, equal scores in one step."""
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    step = np.empty(len(score), dtype=np.intp)
    step[order] = np.repeat(np.arange(len(last)), np.diff(last, prepend=-1))
    return Ties(order, last, step)


def cumulated(ties: Ties, amounts: Floats) -> Floats:
    """Sums of ``amounts`` after 0, 1, 2, ... steps, from the highest score downwards."""
    sums = np.empty(len(ties.last) + 1)
    sums[0] = 0.0
    np.take(np.cumsum(amounts[ties.order]), ties.last, out=sums[1:])
    return sums


def _centred(ties: Ties, weights: Floats) -> Floats:
    """Twice (average rank - mean rank) of each row, highest positive: exact whole numbers."""
    place = cumulated(ties, weights)
    centred: Floats = (place[-1] - place[:-1] - place[1:])[ties.step]
    return centred


def _mean(amounts: Floats, weights: Floats) -> float:
    return float((weights * amounts).sum() / weights.sum())


def _over(part: float, total: float, size: float) -> float:
    """``part / total``; nan when the total is not positive (``size``: sum of absolute terms)."""
    return float(part / total) if total > ROUNDING * size else math.nan


def _bias(rows: Rows, weights: Floats) -> float:
    actual = weights * rows.actual
    return _over((weights * rows.predicted).sum(), actual.sum(), np.abs(actual).sum()) - 1


def _wape(rows: Rows, weights: Floats) -> float:
    size = (weights * np.abs(rows.actual)).sum()
    return _over((weights * np.abs(rows.actual - rows.predicted)).sum(), size, size)


def _gini(rows: Rows, weights: Floats) -> float:
    # The area between gain curve and diagonal is the covariance of value and rank; the total,
    # over which the shares are taken, cancels, so refunds beyond sales do no harm.
    amounts = weights * rows.actual
    area = float((amounts * _centred(rows.by_prediction, weights)).sum())
    perfect = float((amounts * _centred(rows.by_actual, weights)).sum())
    return area / perfect if perfect > 0 else math.nan


def _spearman(rows: Rows, weights: Floats) -> float:
    a = _centred(rows.by_actual, weights)
    p = _centred(rows.by_prediction, weights)
    spread_a, spread_p = float((weights * a * a).sum()), float((weights * p * p).sum())
    if spread_a == 0 or spread_p == 0:
        return math.nan if spread_a == 0 else 0.0
    return float((weights * a * p).sum()) / (math.sqrt(spread_a) * math.sqrt(spread_p))


def _deciles(rows: Rows, weights: Floats) -> tuple[Floats, Floats]:
    """Mean prediction and mean actual value per tenth of the customers, highest first."""
    place = cumulated(rows.by_prediction, weights)
    edges = place[-1] * np.arange(BINS + 1) / BINS
    sums = [cumulated(rows.by_prediction, weights * x) for x in (rows.predicted, rows.actual)]
    means = [np.diff(np.interp(edges, place, x)) * BINS / place[-1] for x in sums]
    return means[0], means[1]


def _decile_mape(rows: Rows, weights: Floats) -> float:
    predicted, actual = _deciles(rows, weights)
    earning = actual > ROUNDING * _mean(np.abs(rows.actual), weights)
    off = np.abs(predicted - actual)[earning] / actual[earning]
    return float(off.mean()) if len(off) else math.nan


def _capture(rows: Rows, weights: Floats, percent: float) -> float:
    place = cumulated(rows.by_prediction, weights)
    amounts = weights * rows.actual
    value = cumulated(rows.by_prediction, amounts)
    part = float(np.interp(place[-1] * percent / 100, place, value))
    return _over(part, value[-1], np.abs(amounts).sum())


def _classes(rows: Rows, weights: Floats) -> tuple[Floats, Floats] | None:
    """Churned and stayed after each step, or None when one class is missing."""
    churned = cumulated(rows.by_prediction, weights * rows.actual)
    stayed = cumulated(rows.by_prediction, weights) - churned
    return (churned, stayed) if churned[-1] > 0 and stayed[-1] > 0 else None


def _auroc(rows: Rows, weights: Floats) -> float:
    if (found := _classes(rows, weights)) is None:
        return math.nan
    churned, stayed = found
    twice = float((np.diff(stayed) * (churned[1:] + churned[:-1])).sum())
    return twice / (2 * float(churned[-1]) * float(stayed[-1]))


def _average_precision(rows: Rows, weights: Floats) -> float:
    if (found := _classes(rows, weights)) is None:
        return math.nan
    churned, stayed = found
    # A resample may hold nobody yet in the first steps: one stands in for that zero.
    precision = churned[1:] / np.maximum(churned[1:] + stayed[1:], 1)
    return float((np.diff(churned) * precision).sum() / churned[-1])


def _lift(rows: Rows, weights: Floats, percent: float) -> float:
    if _classes(rows, weights) is None:
        return math.nan
    return 100 / percent * _capture(rows, weights, percent)


def bins_of(ties: Ties, weights: Floats) -> Ints:
    """One of ten bins of equal count for each row, 0 the highest: that of its step's middle."""
    place = cumulated(ties, weights)
    middle = np.floor_divide(BINS * (place[:-1] + place[1:]), 2 * place[-1])
    bins: Ints = np.minimum(middle, BINS - 1).astype(np.intp)[ties.step]
    return bins


def _ece(rows: Rows, weights: Floats) -> float:
    gap = weights * (rows.predicted - rows.actual)
    per_bin = np.bincount(bins_of(rows.by_prediction, weights), weights=gap, minlength=BINS)
    return float(np.abs(per_bin).sum() / weights.sum())


Metric = Callable[[Rows, Floats], float]
_VALUE: Final[dict[str, Metric]] = {
    MAE: lambda rows, weights: _mean(np.abs(rows.actual - rows.predicted), weights),
    RMSE: lambda rows, weights: math.sqrt(_mean((rows.actual - rows.predicted) ** 2, weights)),
    BIAS: _bias,
    GINI: _gini,
    DECILE_MAPE: _decile_mape,
    SPEARMAN: _spearman,
    WAPE: _wape,
    CAPTURE_1: partial(_capture, percent=1),
    CAPTURE_5: partial(_capture, percent=5),
    CAPTURE_10: partial(_capture, percent=10),
    CAPTURE_20: partial(_capture, percent=20),
}
_CHURN: Final[dict[str, Metric]] = {
    AUROC: _auroc,
    AVERAGE_PRECISION: _average_precision,
    BRIER: lambda rows, weights: _mean((rows.actual - rows.predicted) ** 2, weights),
    LOG_LOSS: lambda rows, weights: _mean(rows.surprise, weights),
    ECE: _ece,
    LIFT_5: partial(_lift, percent=5),
    LIFT_10: partial(_lift, percent=10),
    LIFT_20: partial(_lift, percent=20),
    BASE_RATE: lambda rows, weights: _mean(rows.actual, weights),
}
METRICS: Final[dict[str, Metric]] = {
    **_VALUE,
    ABS_BIAS: lambda rows, weights: abs(_bias(rows, weights)),
    **_CHURN,
}
VALUE_METRICS: Final = tuple(_VALUE)
CHURN_METRICS: Final = tuple(_CHURN)


def value_metrics(actual: npt.ArrayLike, predicted: npt.ArrayLike) -> dict[str, float]:
    """All metrics of predicted value, for ``n`` customers (both arrays of shape (n,), in money).

    ``mae`` and ``rmse`` in money; ``wape`` = sum of absolute errors / sum of absolute values.
    ``bias`` = sum(predicted) / sum(actual) - 1. State it beside ``mae``, which falls when too
    little is predicted. ``normalised_gini`` (1 perfect, 0 no order) and ``decile_mape`` follow
    arXiv 1912.07753; deciles without positive value are left out of the latter. ``spearman``
    uses average ranks and is 0 for constant predictions. ``capture_k`` is the share of the
    value held by the k % of customers with the highest predictions, read off the gain curve:
    the customer on the edge counts in part.

    nan means undefined: ``bias`` and ``capture_k`` when the actual total is not positive,
    ``wape`` when all values are 0, ``decile_mape`` when no decile earned anything,
    ``normalised_gini`` and ``spearman`` when all values are equal.

    Raises
    ------
    InputError
        Arrays that are empty, of unequal length, not one-dimensional or not finite.
    """
    return _measured(rows_of(actual, predicted)[0], _VALUE)


def churn_metrics(churned: npt.ArrayLike, probability: npt.ArrayLike) -> dict[str, float]:
    """All metrics of churn probabilities, for ``n`` customers (``churned`` 0/1, shape (n,)).

    ``auroc`` and ``average_precision`` (no interpolation) treat ties as scikit-learn does.
    ``brier`` and ``log_loss`` are means. ``ece`` is the expected calibration error over ten
    bins of equal count, equal probabilities kept in one bin. ``lift_k`` is the churn rate of
    the k % of customers with the highest probabilities / ``base_rate``.

    nan means undefined: ``auroc``, ``average_precision`` and ``lift_k`` when one class is
    missing.

    Raises
    ------
    InputError
        As ``value_metrics``; ``churned`` other than 0 or 1; a probability outside 0 to 1.
    """
    return _measured(rows_of(churned, probability, churn=True)[0], _CHURN)


def measure(metric: str, actual: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """One metric by its name; ``InputError`` as `value_metrics`, or for an unknown name."""
    (rows,) = rows_of(actual, predicted, churn=is_churn([metric]))
    return METRICS[metric](rows, np.ones(len(rows.actual)))


def _measured(rows: Rows, metrics: Mapping[str, Metric]) -> dict[str, float]:
    ones = np.ones(len(rows.actual))
    return {name: metric(rows, ones) for name, metric in metrics.items()} | {N: float(len(ones))}


def decile_table(actual: npt.ArrayLike, predicted: npt.ArrayLike) -> pd.DataFrame:
    """Columns decile (1 = highest predictions), predicted, actual: means in money per customer.

    Each decile is exactly a tenth of the customers; one on an edge counts in part on each side.
    """
    rows = rows_of(actual, predicted)[0]
    means = _deciles(rows, np.ones(len(rows.actual)))
    decile = np.arange(1, BINS + 1)
    return pd.DataFrame({"decile": decile, "predicted": means[0], "actual": means[1]})


def reliability_table(churned: npt.ArrayLike, probability: npt.ArrayLike) -> pd.DataFrame:
    """Columns n, probability, churned per bin of ``ece`` that holds anybody, lowest first."""
    rows = rows_of(churned, probability, churn=True)[0]
    bins = BINS - 1 - bins_of(rows.by_prediction, np.ones(len(rows.actual)))
    n = np.bincount(bins, minlength=BINS)
    sums = [np.bincount(bins, weights=a, minlength=BINS) for a in (rows.predicted, rows.actual)]
    held = n > 0
    means = [total[held] / n[held] for total in sums]
    return pd.DataFrame({"n": n[held], "probability": means[0], "churned": means[1]})


def gain_points(actual: npt.ArrayLike, predicted: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Corners of the gain curve: share of customers, share of value (nan without a total).

    Both start at 0 and end at 1; between corners, which are ends of ties, the curve is straight.
    """
    rows = rows_of(actual, predicted)[0]
    place = cumulated(rows.by_prediction, np.ones(len(rows.actual)))
    value = cumulated(rows.by_prediction, rows.actual)
    total = value[-1] if value[-1] > ROUNDING * np.abs(rows.actual).sum() else math.nan
    return place / place[-1], value / total


def better(metric: str, difference: float) -> bool:
    """Does metric(a) - metric(b) = ``difference`` speak for a?"""
    if metric not in LOWER_IS_BETTER:
        raise InputError(
            f"The metric must have a direction: {', '.join(LOWER_IS_BETTER)}. Got {metric!r}."
        )
    return difference < 0 if LOWER_IS_BETTER[metric] else difference > 0


def is_churn(metrics: Sequence[str]) -> bool:
    """Is any of the metrics one of churn? ``InputError`` names one that is not known."""
    for metric in metrics:
        if metric not in METRICS:
            raise InputError(f"The metric must be one of {', '.join(METRICS)}. Got {metric!r}.")
    return any(metric in _CHURN for metric in metrics)


def rows_of(
    actual: npt.ArrayLike, *predictions: npt.ArrayLike, churn: bool = False
) -> tuple[Rows, ...]:
    """Checked columns in canonical order, one ``Rows`` per array of predictions."""
    what = "churned" if churn else "actual values"
    columns = [column(actual, what)]
    columns += [column(p, "probabilities" if churn else "predictions") for p in predictions]
    same_length(columns, f"{what} and predictions")
    if churn:
        check_churn(columns)
    order = np.lexsort(columns[::-1])
    first, *others = (each[order] for each in columns)
    return tuple(Rows(first, other) for other in others)


def same_length(columns: Sequence[npt.NDArray[np.generic]], what: str) -> None:
    """``InputError`` where columns have different numbers of rows."""
    if len({len(each) for each in columns}) > 1:
        lengths = ", ".join(str(len(each)) for each in columns)
        raise InputError(f"The {what} must be equally long. Got {lengths} rows.")


def column(values: npt.ArrayLike, what: str) -> Floats:
    """One finite number for each customer, (n,); ``InputError`` names the row that has none."""
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"The {what} must be numbers without gaps: {error}.") from None
    if found.ndim != 1 or not len(found):
        raise InputError(
            f"The {what} must be one number for each of at least one customer. "
            f"Got shape {found.shape}."
        )
    wrong = np.flatnonzero(~np.isfinite(found))
    if len(wrong):
        raise InputError(
            f"The {what} must be finite numbers. Got {found[wrong[0]]} in row {wrong[0]} "
            f"and {len(wrong) - 1} more. Leave out customers without an outcome."
        )
    return found


def check_churn(columns: Sequence[Floats]) -> None:
    """``InputError`` unless the first column is 0 or 1 and the others lie within 0 to 1."""
    wrong = np.flatnonzero((columns[0] != 0) & (columns[0] != 1))
    if len(wrong):
        raise InputError(f"Churned must be 0 or 1. Got {columns[0][wrong[0]]} in row {wrong[0]}.")
    for each in columns[1:]:
        wrong = np.flatnonzero((each < 0) | (each > 1))
        if len(wrong):
            raise InputError(
                f"A probability must be 0 to 1. Got {each[wrong[0]]} in row {wrong[0]}."
            )
