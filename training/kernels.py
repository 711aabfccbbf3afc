"""From gross spend, orders and churn by month to the columns of a prediction, compiled.

Row by row, with the system's own ``exp`` and ``log`` and no sums over rows, so a row has the same
bits alone, in a batch and in chunks; the compiler joins no operations and leaves none out.
"""

from __future__ import annotations

from math import exp, floor, log, sqrt
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from features.windows import compiled

__all__ = [
    "LEVELS", "NO_SHAPE", "POINTS", "SMALLEST", "TOLD", "Shape", "days_after", "next_orders",
    "quantiles", "spreads", "told",
]  # fmt: skip

Floats = npt.NDArray[np.float64]
MONTHS: Final = 24
SMALLEST: Final = 1e-12  # chance of an order, where values are divided by it
GONE: Final = 0.5  # more likely gone than not: no date is told
MEDIAN: Final = 0.5
POINTS: Final = (0.1, MEDIAN, 0.9)  # levels that are told of a value
#: Levels at which the quantiles of `Shape` are kept.
LEVELS: Final = np.arange(1, 200) / 200


class Shape(NamedTuple):
    """The distribution of value over expected value, given any order: `training.intervals`."""

    centres: Floats  # (bins,), log expected orders given any, rising
    levels: Floats  # of the quantiles, rising
    ratios: Floats  # (bins, levels)
    squares: Floats  # (bins,), mean squared ratio


NO_SHAPE: Final = Shape(np.empty(0), np.empty(0), np.empty((0, 0)), np.empty(0))


@compiled("float64(float64,float64[::1],float64[::1])")
def _interp(x, xp, fp):  # type: ignore[no-untyped-def]
    last = len(xp) - 1
    if np.isnan(x):
        return x
    if x < xp[0]:
        return fp[0]
    if x >= xp[last]:
        return fp[last]
    j = np.searchsorted(xp, x, side="right") - 1
    if xp[j] == x:
        return fp[j]
    slope = (fp[j + 1] - fp[j]) / (xp[j + 1] - xp[j])
    return slope * (x - xp[j]) + fp[j]


@compiled("float64(float64,float64,float64[::1],float64[::1],float64[:,::1])")
def _ratio(at, crowd, centres, levels, ratios):  # type: ignore[no-untyped-def]
    """The quantile at a level of its own, between the bins by their centres."""
    level = min(max(at, levels[0]), levels[-1])
    below, part = 0, 0.0
    if len(centres) > 1 and crowd > centres[0]:
        below = min(np.searchsorted(centres, crowd, side="right") - 1, len(centres) - 1)
        if below + 1 < len(centres):
            part = (crowd - centres[below]) / (centres[below + 1] - centres[below])
    found = (1.0 - part) * _interp(level, levels, ratios[below])
    if below + 1 < len(centres):
        found += part * _interp(level, levels, ratios[below + 1])
    return found


@compiled("float64(float64,float64,float64)")
def _widened(ratio, middle, squared):  # type: ignore[no-untyped-def]
    """A quantile moved away from the median: independent spreads add up in squares, in logs."""
    if not (ratio > 0.0 and middle > 0.0):
        return ratio
    away = log(ratio / middle)
    if away == 0.0:
        return ratio
    moved = sqrt(away * away + squared)
    return ratio * exp((moved if away > 0.0 else -moved) - away)


@compiled(
    "float64(float64,float64,float64,float64,float64,float64[::1],float64[::1],float64[:,::1])"
)
def _quantile(level, value, orders, churn, squared, centres, levels, ratios):  # type: ignore[no-untyped-def]
    stay = max(1.0 - churn, SMALLEST)
    at = (level - churn) / stay
    if not at > 0.0:
        return 0.0
    crowd = log(orders / stay)
    found = _ratio(at, crowd, centres, levels, ratios)
    if squared > 0.0 and level != MEDIAN:
        middle = _ratio((MEDIAN - churn) / stay, crowd, centres, levels, ratios)
        found = _widened(found, middle, squared)
    return found * (value / stay)


@compiled("float64(float64,float64,float64,float64[::1],float64[::1])")
def _deviation(value, orders, churn, centres, squares):  # type: ignore[no-untyped-def]
    stay = max(1.0 - churn, SMALLEST)
    square = _interp(log(orders / stay), centres, squares)
    return value * sqrt(max(square / stay - 1.0, 0.0))


@compiled(
    "void(float64,float64[::1],float64[::1],float64[::1],float64,float64[::1],float64[::1],"
    "float64[:,::1],float64[::1])"
)
def _quantiles(level, value, orders, churn, squared, centres, levels, ratios, out):  # type: ignore[no-untyped-def]
    for i in range(len(value)):
        out[i] = _quantile(level, value[i], orders[i], churn[i], squared, centres, levels, ratios)


def quantiles(
    level: float, value: Floats, orders: Floats, churn: Floats, squared: float, shape: Shape
) -> Floats:
    """The `level` point of value, (rows,), which is 0 where `churn` alone exceeds the level.

    `value` and `orders` are expected; `squared` is the further spread of the log, squared.
    """
    out = np.empty(len(value))
    rows = (np.ascontiguousarray(each, np.float64) for each in (value, orders, churn))
    _quantiles(level, *rows, squared, *shape[:3], out)
    return out


@compiled("void(float64[::1],float64[::1],float64[::1],float64[::1],float64[::1],float64[::1])")
def _spreads(value, orders, churn, centres, squares, out):  # type: ignore[no-untyped-def]
    for i in range(len(value)):
        out[i] = _deviation(value[i], orders[i], churn[i], centres, squares)


def spreads(value: Floats, orders: Floats, churn: Floats, shape: Shape) -> Floats:
    """Standard deviation of a customer's value around what is expected, (rows,)."""
    out = np.empty(len(value))
    rows = (np.ascontiguousarray(each, np.float64) for each in (value, orders, churn))
    _spreads(*rows, shape.centres, shape.squares, out)
    return out


#: Columns of each horizon, in the contract's order; the last five say how sure the value is.
TOLD: Final = (
    "revenue", "orders", "churn", "margin", "retention_cost", "clv", "low", "median", "high", "sd",
    "common",
)  # fmt: skip


@compiled("float64(float64[::1])")
def _next_order(silence):  # type: ignore[no-untyped-def]
    never = silence[MONTHS - 1]
    if not never < GONE:
        return np.nan
    coming = 1.0 - never
    half, month = coming / 2.0, 0
    # Of the months' ends, those by which fewer than half of them have come.
    for j in range(MONTHS - 1):
        month += silence[j] - never > half
    before = silence[month - 1] - never if month > 0 else coming
    after = silence[month] - never
    if after > 0.0:
        fall = log(before / after)
        part = log(before / half) / fall if fall > 0.0 else 0.0
    else:
        part = (before - half) / (before - after) if before > after else before - half
    return month + min(max(part, 0.0), 1.0)


@compiled("void(float64[:,::1],float64[::1])")
def _next_orders(silence, out):  # type: ignore[no-untyped-def]
    for i in range(len(out)):
        out[i] = _next_order(silence[i])


def next_orders(silence: Floats) -> Floats:
    """Months until the next order, the median of those who order within 24 months, (rows,).

    `silence` is the chance of no order by the end of months 1 to 24, (rows, 24). Not a number
    where that of 24 months is a half or more. Within a month the chance still to come back falls
    at an even pace, as it does for one rate of orders; in the last month, where it ends, in a line.
    """
    out = np.empty(len(silence))
    _next_orders(np.ascontiguousarray(silence), out)
    return out


@compiled("void(float64[::1],float64[::1],int64[::1])")
def _days_after(months, ends, out):  # type: ignore[no-untyped-def]
    for i in range(len(months)):
        out[i] = -1
        if months[i] >= 0.0:
            month = min(int(months[i]), len(ends) - 2)
            at = ends[month] + (ends[month + 1] - ends[month]) * (months[i] - month)
            out[i] = floor(at) - floor(ends[0])


def days_after(months: Floats, ends: Floats) -> npt.NDArray[np.int64]:
    """Whole days from the first of `ends` to so many months after it, (rows,); -1 for no number.

    `ends` are the days at which months 0, 1, ... end, with the time of day.
    """
    out = np.empty(len(months), np.int64)
    _days_after(np.ascontiguousarray(months), ends, out)
    return out


@compiled(
    "void(float64[:,::1],float64[:,::1],float64[:,::1],float64[::1],float64[::1],float64[::1],"
    "float64[::1],float64[:,::1],float64[:,::1],int64[::1],float64[::1],float64[::1],float64[::1],"
    "float64[:,::1],float64[::1],float64[:,:,::1],float64[:,:,::1])"
)
def _told(  # type: ignore[no-untyped-def]
    gross, orders, churn, pace, share, pending, margins, factors, keeping, months, wider, centres,
    levels, ratios, squares, out, drivers
):  # fmt: skip
    for i in range(len(share)):
        margin = margins[i if len(margins) > 1 else 0]
        now = factors[i if len(factors) > 1 else 0]
        keep = keeping[i if len(keeping) > 1 else 0]
        left, late = 1.0 - share[i], pending[i]
        value, own, net_before, gross_before, j = 0.0, 0.0, 0.0, 0.0, 0
        for m in range(MONTHS):
            net = gross[i, m] * left - late
            weight = margin * now[m]
            value += (net - net_before) * weight
            own += (gross[i, m] - gross_before) * weight
            net_before, gross_before = net, gross[i, m]
            if j == len(months) or months[j] != m + 1:
                continue
            cost = keep[j]
            out[j, 0, i] = net
            out[j, 1, i] = orders[i, j]
            out[j, 2, i] = churn[i, j]
            out[j, 3, i] = margin * net
            out[j, 4, i] = cost
            out[j, 5, i] = value - cost
            some = orders[i, j] > 0.0
            drivers[j, 0, i] = gross[i, m] / orders[i, j] if some else 0.0
            drivers[j, 1, i] = orders[i, j] / pace[i] if some and pace[i] > 0.0 else 0.0
            if len(centres):
                mine = own * left
                beyond = late * (margin * now[0]) + cost
                for k in range(len(POINTS)):
                    point = _quantile(POINTS[k], mine, orders[i, j], churn[i, j], wider[j], centres,
                                      levels, ratios)  # fmt: skip
                    out[j, 6 + k, i] = point - beyond
                out[j, 9, i] = _deviation(mine, orders[i, j], churn[i, j], centres, squares)
            j += 1


def told(
    gross: Floats, orders: Floats, churn: Floats, pace: Floats, share: Floats, pending: Floats,
    margin: float | Floats, factors: Floats, keep: Floats, months: npt.NDArray[np.int64],
    wider: Floats, common: Floats, shape: Shape,
) -> tuple[Floats, Floats]:  # fmt: skip
    """The columns of the predictions table, and what drives them.

    Parameters
    ----------
    gross
        Cumulative gross spend of months 1 to 24, (rows, 24).
    orders, churn
        Of the horizons, (rows, horizons).
    pace, share, pending
        Orders a month while active, share that is given back, refunds still due; (rows,).
    margin, factors, keep
        Share of revenue, of all or (rows,); what a unit of each month is worth now, (1 or rows,
        24); the cost to keep somebody, (1 or rows, horizons).
    months, wider, common
        The horizons, rising; the further spread of the log of each, squared; the relative error
        that all customers share.

    Returns
    -------
    (horizons, columns of `TOLD`, rows), whose last five are not set where `shape` is empty, and
    (horizons, 2, rows): money an order and months while active.
    """
    n, h = len(share), len(months)
    out, drivers = np.empty((h, len(TOLD), n)), np.empty((h, 2, n))
    rows = (np.ascontiguousarray(v) for v in (gross, orders, churn, pace, share, pending))
    margins = np.asarray(margin, np.float64).reshape(-1)
    _told(*rows, margins, factors, keep, months, wider, *shape, out, drivers)
    out[:, -1] = common[:, None]
    return out, drivers
