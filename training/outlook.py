"""What stands behind a value: when the next order comes, how often, for how much, for how long.

    gross revenue (h) = orders per month while active x order value (h) x active months (h)

A month here is a twelfth of a year on the season's clock, so that a December counts for more than
a July; twelve of them make a year all the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import xlogy

from features.settings import MAX_MONTHS
from features.spine import DAY, add_months, instant, local_day, text

__all__ = ["MONTH", "days", "next_order", "pace", "split"]

Floats = npt.NDArray[np.float64]
MONTH: Final = 365.2425 / 12 / 7  # weeks
#: More likely gone than not: no date is told.
GONE: Final = 0.5


def pace(rate: Floats, orders: Floats, ahead: Sequence[float] | Floats) -> Floats:
    """Orders per month while active, (rows,).

    `rate` is the forecast's, orders per seasonal week; `orders` (rows, 24) are corrected and
    cumulative; `ahead` is the length of 1 to 24 months in seasonal weeks, (24,) or (rows, 24). A
    correction upward is taken for a longer life first, and for a higher rate where life cannot be
    longer: nobody is active for more time than there is.
    """
    most = (orders / np.asarray(ahead)).max(axis=1, initial=0.0)
    return np.asarray(np.maximum(rate, most) * MONTH)


def split(gross: Floats, orders: Floats, per_month: Floats) -> tuple[Floats, Floats]:
    """Money per order and active months of one horizon, (rows,) each; without orders both are 0."""
    some = orders > 0
    worth = np.divide(gross, orders, out=np.zeros(len(gross)), where=some)
    return worth, np.where(some, orders / per_month, 0.0)


def next_order(silence: Floats) -> Floats:
    """Months until the next order, the median of those who order within 24 months, (rows,).

    `silence` is the chance of no order by the end of months 1 to 24, (rows, 24). Not a number
    where that of 24 months is a half or more. Within a month the chance still to come back falls
    at an even pace, as it does for one rate of orders; in the last month, where it ends, in a line.
    """
    never = np.ascontiguousarray(silence[:, -1])
    coming = 1.0 - never
    half = coming / 2.0
    # Of the months' ends, those by which fewer than half of them have come.
    month = (silence[:, :-1] - never[:, None] > half[:, None]).sum(axis=1)
    each = np.arange(len(silence))
    before = np.where(month > 0, silence[each, month - 1] - never, coming)
    after = silence[each, month] - never
    known = (never < GONE) & (after > 0)
    fall = xlogy(1.0, np.where(known, before / np.where(known, after, 1.0), 2.0))
    into = xlogy(1.0, np.where(known, before / np.where(known, half, 1.0), 1.0)) / fall
    line = (before - half) / np.where(before > after, before - after, 1.0)
    part = np.clip(np.where(after > 0, into, line), 0.0, 1.0)
    return np.where(never < GONE, month + part, np.nan)


def days(months: Floats, as_of: int, zone: str) -> npt.NDArray[np.object_]:
    """The local day so many calendar months after `as_of`, as ISO text, (rows,), or None."""
    ends, names = _ahead(as_of, zone)
    known = ~np.isnan(months)
    at = np.interp(np.where(known, months, 0.0), np.arange(MAX_MONTHS + 1), ends)
    told: npt.NDArray[np.object_] = names[np.floor(at).astype(np.int64) - math.floor(ends[0])]
    told[~known] = None
    return told


@lru_cache(maxsize=64)
def _ahead(as_of: int, zone: str) -> tuple[Floats, npt.NDArray[np.object_]]:
    """Day numbers at which months 0 to 24 end, with the time of day, and the names of all days."""
    start = text(as_of, zone)[:10]
    clock = (as_of - instant(start, zone)) / DAY  # all months end at the same time of day
    ends = [local_day(add_months(as_of, m, zone), zone) for m in range(MAX_MONTHS + 1)]
    days = np.arange(ends[0], ends[-1] + 2).astype("datetime64[D]")
    return np.array(ends) + clock, np.datetime_as_string(days, unit="D").astype(object)
