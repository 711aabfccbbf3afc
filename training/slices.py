"""Is the model as good for every kind of customer: all metrics by slice, and totals out of band."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import InputError
from training.metrics import (
    AUROC,
    BIAS,
    BINS,
    BRIER,
    CHURN_METRICS,
    ECE,
    GINI,
    MAE,
    VALUE_METRICS,
    N,
    bins_of,
    churn_metrics,
    column,
    is_churn,
    same_length,
    value_metrics,
)
from training.ranks import ties_of
from training.scores import bootstraps

__all__ = [
    "ALL", "FIRST_CHANNEL", "LEAST", "OTHER", "STANDARD", "UNKNOWN", "WITH_INTERVAL", "by_slice",
    "out_of_band", "require_slice", "standard_slices",
]  # fmt: skip

Labels = npt.NDArray[np.object_]
ALL, OTHER, UNKNOWN = "all", "other", "unknown"
EVERYBODY = "customers"
STANDARD: Final = (ALL, "orders", "cohort", "decile")  # of any data; attributes are added
FIRST_CHANNEL: Final = "first_channel"
WITH_INTERVAL: Final = (MAE, GINI, BIAS, AUROC, BRIER, ECE)
LEAST: Final = 100  # customers of a slice whose metrics are shown
MOST_LEVELS: Final = 16  # of a slice, as in the features; the rarer ones are `OTHER`


def standard_slices(
    predicted: npt.ArrayLike,
    orders: npt.ArrayLike,
    first_order: npt.ArrayLike,
    attributes: Mapping[str, npt.ArrayLike] | None = None,
) -> dict[str, Labels]:
    """The slices that every model is looked at by, one label per customer, (n,) each.

    Parameters
    ----------
    predicted
        Predicted value, in money.
    orders
        Number of orders before the cutoff.
    first_order
        Local day of the first order, ``datetime64``; ``NaT`` where there is none.
    attributes
        Categories of the customers such as channel or country, by name.

    Returns
    -------
    dict
        ``all``; ``orders``: 0, 1, 2+; ``cohort``: year and quarter of the first order;
        ``decile`` of predicted value, 01 the highest, equal predictions in one; the attributes.

    Raises
    ------
    InputError
        Columns of unequal length, values that are not numbers, first orders that are not dates.
    """
    value, count = column(predicted, "predictions"), column(orders, "numbers of orders")
    days = np.asarray(first_order)
    if not np.issubdtype(days.dtype, np.datetime64):
        raise InputError(f"First orders must be dates (datetime64). Got {days.dtype}.")
    same_length([value, count, days], "predictions, numbers of orders and first orders")
    tenth = 1 + bins_of(ties_of(value), np.ones(len(value)))
    quarter = pd.PeriodIndex(pd.DatetimeIndex(days), freq="Q")
    return {
        ALL: np.full(len(value), EVERYBODY, object),
        "orders": np.where(count > 1, "2+", np.where(count > 0, "1", "0")).astype(object),
        "cohort": np.where(quarter.isna(), UNKNOWN, quarter.astype(str)).astype(object),
        "decile": np.array([f"{each:02d}" for each in range(BINS + 1)], object)[tenth],
        **{name: _labels(given) for name, given in (attributes or {}).items()},
    }


def require_slice(name: str, known: Sequence[str]) -> None:
    """Refuse a slice that there is not.

    Raises
    ------
    InputError
        Naming those that there are.
    """
    if name not in known:
        raise InputError(
            f"A slice must be one of {', '.join(known)}. Got {name!r}. Name one of them, or list "
            "the column of the table customers in [customers] static."
        )


def by_slice(
    actual: npt.ArrayLike,
    predicted: npt.ArrayLike,
    churned: npt.ArrayLike,
    probability: npt.ArrayLike,
    slices: Mapping[str, npt.ArrayLike],
    least: int = LEAST,
    *,
    intervals: Sequence[str] = WITH_INTERVAL,
    draws: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Every metric of value and churn for each level of each slice.

    Parameters
    ----------
    actual, predicted, churned, probability
        As for ``value_metrics`` and ``churn_metrics``, shape (n,).
    slices
        Name of the slice -> label of each customer, (n,). A missing label is ``unknown``; levels
        beyond the 16 most frequent (ties by name) are ``other``.
    least
        Slices of fewer customers are ``small``: their metrics are not shown.
    intervals
        Metrics with a 95 % bootstrap interval, within the slice.

    Returns
    -------
    DataFrame
        One row per slice, in the order given, and level, by name with ``other`` last: slice,
        level, n, small, the metrics, then METRIC_low and METRIC_high. nan where small or undefined.

    Raises
    ------
    InputError
        As ``value_metrics`` and ``churn_metrics``; no slice, labels of another length, an unknown
        metric, ``least`` or ``draws`` below 1.
    """
    columns = [column(actual, "actual values"), column(predicted, "predictions")]
    columns += [column(churned, "churned"), column(probability, "probabilities")]
    if not slices or least < 1:
        raise InputError(
            f"Slices need at least one name and `least` of at least 1. Got "
            f"{len(slices)} and {least}."
        )
    found = []
    for name, given in slices.items():
        labels = _labels(given)
        same_length([*columns, labels], f"outcomes and labels of slice {name!r}")
        for level, which in _levels(labels):
            n = int(which.sum())
            row = {"slice": name, "level": level, N: n, "small": n < least}
            parts = [each[which] for each in columns]
            found.append(row | ({} if n < least else _scores(parts, intervals, draws, seed)))
    ends = [f"{metric}_{end}" for metric in intervals for end in ("low", "high")]
    measured = [*VALUE_METRICS, *CHURN_METRICS, *ends]
    frame = pd.DataFrame(found, columns=["slice", "level", N, "small", *measured])
    return frame.astype(dict.fromkeys(measured, np.float64))


def out_of_band(frame: pd.DataFrame, band: float = 0.25) -> list[str]:
    """A warning for each slice whose predicted total is off by more than ``band`` (a share).

    Only where the whole bootstrap interval of the bias lies outside the band: what chance can do
    to a slice is no reason to shout. ``frame`` is that of `by_slice`.

    Raises
    ------
    InputError
        A band that is not positive, or a frame without the interval of the bias.
    """
    low, high = f"{BIAS}_low", f"{BIAS}_high"
    if not 0 < band < math.inf or not {low, high} <= set(frame.columns):
        raise InputError(
            f"Totals out of band need a positive band and a frame with {low} and {high}. "
            f"Got {band} and {', '.join(map(str, frame.columns[-4:]))}."
        )
    off = frame[~frame["small"] & ((frame[low] > band) | (frame[high] < -band))]
    return [
        f"{row['slice']} {row['level']}: predicted total "
        f"{row[BIAS]:+.0%} against the real one (95 %: {row[low]:+.0%} to {row[high]:+.0%}; "
        f"{row[N]:,} customers), allowed are {band:.0%}"
        for row in off.to_dict("records")
    ]


def _labels(given: npt.ArrayLike) -> Labels:
    """Text for each customer; what is missing is `UNKNOWN`."""
    values = np.asarray(given, dtype=object)
    return np.where(pd.isna(values), UNKNOWN, values.astype(str)).astype(object)


def _levels(labels: Labels) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Levels by name, `OTHER` last, each with the customers of it."""
    names, codes, counts = np.unique(labels.astype(str), return_inverse=True, return_counts=True)
    common = np.sort(np.lexsort((names, -counts))[:MOST_LEVELS])
    common = common[names[common] != OTHER]
    for code in common:
        yield str(names[code]), codes == code
    rest = ~np.isin(codes, common)
    if rest.any():
        yield OTHER, rest


def _scores(
    parts: Sequence[npt.NDArray[np.float64]], intervals: Sequence[str], draws: int, seed: int
) -> dict[str, float]:
    actual, predicted, churned, probability = parts
    found = value_metrics(actual, predicted) | churn_metrics(churned, probability)
    value = [metric for metric in intervals if not is_churn([metric])]
    churn = [metric for metric in intervals if is_churn([metric])]
    known = bootstraps(actual, predicted, value, draws=draws, seed=seed)
    known |= bootstraps(churned, probability, churn, draws=draws, seed=seed)
    for metric, (_, low, high) in known.items():
        found |= {f"{metric}_low": low, f"{metric}_high": high}
    return {name: measured for name, measured in found.items() if name != N}
