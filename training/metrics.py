"""How good are predictions: metrics of value and churn, and the tables behind the pictures.

Every metric is a function of rows and their weights, a `Sample`. With weights of one it is the
metric itself; with the counts of a resample it is the metric of the resampled rows. Rows with equal
predictions are treated as if their order were drawn at random and the outcome averaged, in closed
form, and all rows are first put into one canonical order: no figure depends on the order of its
input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import InputError
from training.ranks import Floats, Ints, Rows, Sample, Ties, centred, cumulated

__all__ = [
    "CHURN_METRICS",
    "COMPARED",
    "COMPARED_CHURN",
    "LOWER_IS_BETTER",
    "METRICS",
    "VALUE_METRICS",
    "better",
    "bins_of",
    "check_churn",
    "churn_metrics",
    "column",
    "decile_table",
    "gain_points",
    "is_churn",
    "measure",
    "reliability_table",
    "rows_of",
    "same_length",
    "value_metrics",
]

BINS = 10
# A sum that should be zero comes out as a few last bits of its terms: those are not a total.
ROUNDING = 1e-12

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


def _over(part: float, total: float, size: float) -> float:
    """``part / total``; nan when the total is not positive (``size``: sum of absolute terms)."""
    return float(part / total) if total > ROUNDING * size else math.nan


def _bias(sample: Sample) -> float:
    came = sample.outcomes
    return _over((came.weights * sample.rows.predicted).sum(), came.sum, came.size) - 1


def _wape(sample: Sample) -> float:
    off = np.abs(sample.rows.actual - sample.rows.predicted)
    size = sample.outcomes.size
    return _over((sample.outcomes.weights * off).sum(), size, size)


def _gini(sample: Sample) -> float:
    # The area between gain curve and diagonal is the covariance of value and rank; the total,
    # over which the shares are taken, cancels, so refunds beyond sales do no harm.
    area = float((np.diff(sample.gained) * centred(sample.place)).sum())
    perfect = sample.outcomes.perfect
    return area / perfect if perfect > 0 else math.nan


def _spearman(sample: Sample) -> float:
    ranks = centred(sample.place)
    spread_a = sample.outcomes.spread
    spread_p = float((np.diff(sample.place) * ranks**2).sum())
    if spread_a == 0 or spread_p == 0:
        return math.nan if spread_a == 0 else 0.0
    both = float((sample.outcomes.ranks * ranks[sample.rows.by_prediction.step]).sum())
    return both / (math.sqrt(spread_a) * math.sqrt(spread_p))


def _deciles(sample: Sample) -> tuple[Floats, Floats]:
    """Mean prediction and mean actual value per tenth of the customers, highest first."""
    place = sample.place
    edges = place[-1] * np.arange(BINS + 1) / BINS
    sums = (sample.promised, sample.gained)
    means = [np.diff(np.interp(edges, place, x)) * BINS / place[-1] for x in sums]
    return means[0], means[1]


def _decile_mape(sample: Sample) -> float:
    predicted, actual = _deciles(sample)
    earning = actual > ROUNDING * sample.outcomes.size / sample.outcomes.total
    off = np.abs(predicted - actual)[earning] / actual[earning]
    return float(off.mean()) if len(off) else math.nan


def _capture(sample: Sample, percent: float) -> float:
    part = float(np.interp(sample.place[-1] * percent / 100, sample.place, sample.gained))
    return _over(part, sample.gained[-1], sample.outcomes.size)


def _classes(sample: Sample) -> tuple[Floats, Floats] | None:
    """Churned and stayed after each step, or None when one class is missing."""
    churned, stayed = sample.gained, sample.place - sample.gained
    return (churned, stayed) if churned[-1] > 0 and stayed[-1] > 0 else None


def _auroc(sample: Sample) -> float:
    if (found := _classes(sample)) is None:
        return math.nan
    churned, stayed = found
    twice = float((np.diff(stayed) * (churned[1:] + churned[:-1])).sum())
    return twice / (2 * float(churned[-1]) * float(stayed[-1]))


def _average_precision(sample: Sample) -> float:
    if (found := _classes(sample)) is None:
        return math.nan
    churned = found[0]
    # A resample may hold nobody yet in the first steps: one stands in for that zero.
    precision = churned[1:] / np.maximum(sample.place[1:], 1)
    return float((np.diff(churned) * precision).sum() / churned[-1])


def _lift(sample: Sample, percent: float) -> float:
    if _classes(sample) is None:
        return math.nan
    return 100 / percent * _capture(sample, percent)


def bins_of(ties: Ties, weights: Floats) -> Ints:
    """One of ten bins of equal count for each row, 0 the highest: that of its step's middle."""
    return _bins(cumulated(ties, weights))[ties.step]


def _bins(place: Floats) -> Ints:
    """The bin of each step."""
    middle = np.floor_divide(BINS * (place[:-1] + place[1:]), 2 * place[-1])
    bins: Ints = np.minimum(middle, BINS - 1).astype(np.intp)
    return bins


def _ece(sample: Sample) -> float:
    gap = np.diff(sample.promised - sample.gained)
    per_bin = np.bincount(_bins(sample.place), weights=gap, minlength=BINS)
    return float(np.abs(per_bin).sum() / sample.outcomes.total)


Metric = Callable[[Sample], float]
_VALUE: Final[dict[str, Metric]] = {
    MAE: lambda sample: sample.mean(sample.rows.error),
    RMSE: lambda sample: math.sqrt(sample.mean(sample.rows.squared)),
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
    BRIER: lambda sample: sample.mean(sample.rows.squared),
    LOG_LOSS: lambda sample: sample.mean(sample.rows.surprise),
    ECE: _ece,
    LIFT_5: partial(_lift, percent=5),
    LIFT_10: partial(_lift, percent=10),
    LIFT_20: partial(_lift, percent=20),
    BASE_RATE: lambda sample: sample.outcomes.sum / sample.outcomes.total,
}
METRICS: Final[dict[str, Metric]] = {
    **_VALUE,
    ABS_BIAS: lambda sample: abs(_bias(sample)),
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
    return METRICS[metric](Sample.whole(rows))


def _measured(rows: Rows, metrics: Mapping[str, Metric]) -> dict[str, float]:
    sample = Sample.whole(rows)
    n = {N: float(len(rows.actual))}
    return {name: metric(sample) for name, metric in metrics.items()} | n


def decile_table(actual: npt.ArrayLike, predicted: npt.ArrayLike) -> pd.DataFrame:
    """Columns decile (1 = highest predictions), predicted, actual: means in money per customer.

    Each decile is exactly a tenth of the customers; one on an edge counts in part on each side.
    """
    rows = rows_of(actual, predicted)[0]
    means = _deciles(Sample.whole(rows))
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
    sample = Sample.whole(rows)
    place, value = sample.place, sample.gained
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
