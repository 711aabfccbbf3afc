"""How long customers stay: when they lapse, and the curve of those who have not, with intervals.

A shop has no contracts, so nobody tells it that they leave. What can be seen is silence. A customer
lapses when a silence reaches a set length, and lapses once: whoever comes back later is counted as
returned, and their share is told, since it says how often the definition was too early. The moment
is that at which the silence reaches its length, not the last order before it. Two reasons: a last
order is known to be the last only in hindsight, and the hindsight is longer for old customers than
for young ones; and this way all are watched for exactly as long as the data cover them, so that
being cut off by the end of the data says nothing about the customer, as the estimator of Kaplan and
Meier needs it. The silence itself is therefore part of the life.

How long a silence is, the business says by `[business] churn`: no_order is the shortest horizon of
the predictions, own_gap:M is M of the customer's own mean gaps between order days (before a second
order day, the shortest horizon), and contract_end needs no silence: a contract is over after its
last day, and who has none has not left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from features.errors import InputError
from features.spine import instant, local_day
from serving.decisions.journeys import Journeys

__all__ = [
    "MONTH", "Curve", "Lives", "Share", "contracts", "curve", "second_orders", "silences",
]  # fmt: skip

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
FEWEST: Final = 10  # at risk; a curve ends where fewer are
LEVEL: Final = 0.95
Z: Final = float(norm.ppf(0.5 + LEVEL / 2))
MONTH: Final = 365.25 / 12  # days


class Share(NamedTuple):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


UNKNOWN: Final = Share(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Lives:
    """Days from the first order to an event, or to the end of the data where none was seen.

    (customers,) each; ``rule`` is the event in words, ``silence`` the days of a silence that is the
    same for all, ``returned`` how many of those with the event ordered again after it.
    """

    days: Ints
    seen: Flags
    rule: str
    silence: int | None = None
    returned: int = 0


@dataclass(frozen=True)
class Curve:
    """The estimate of Kaplan and Meier (1958, Journal of the American Statistical Association 53).

    One entry per day on which somebody had the event, rising: ``at_risk`` (still watched and
    without it), ``events``, ``survival`` (share without it after that day), ``low`` and ``high``:
    95 % by Greenwood's variance on the scale log(-log) (Kalbfleisch and Prentice 1980), which stays
    within 0 and 1. ``reach`` is the last day on which at least 10 are watched: the curve holds no
    later day.
    """

    days: Ints
    at_risk: Ints
    events: Ints
    survival: Floats
    low: Floats
    high: Floats
    reach: int
    customers: int

    def at(self, day: float) -> Share:
        """The share without the event after `day`; NaN beyond the curve's reach."""
        if day > self.reach:
            return UNKNOWN
        k = int(np.searchsorted(self.days, day, "right")) - 1
        if k < 0:
            return Share(1.0, 1.0, 1.0)
        return Share(float(self.survival[k]), float(self.low[k]), float(self.high[k]))

    def mean(self, upto: float) -> Share:
        """Mean days without the event within the first `upto` (restricted mean survival time).

        Its variance is Greenwood's sum over the area beyond each day (Klein and Moeschberger 2003,
        Survival Analysis, 4.5). NaN beyond the curve's reach.
        """
        if upto > self.reach:
            return UNKNOWN
        here = self.days < upto
        days, survival = self.days[here].astype(np.float64), self.survival[here]
        widths = np.diff(np.append(days, upto))
        beyond = np.cumsum((widths * survival)[::-1])[::-1]
        middle = float(days[0] if len(days) else upto) + math.fsum(widths * survival)
        terms = beyond**2 * _greenwood(self.at_risk[here], self.events[here])
        reach = Z * math.sqrt(math.fsum(terms))
        return Share(middle, max(middle - reach, 0.0), min(middle + reach, float(upto)))

    def median(self) -> float:
        """The day by which half have had the event; NaN where the curve stays above a half."""
        below = np.flatnonzero(self.survival <= 0.5)
        return float(self.days[below[0]]) if len(below) else math.nan


def curve(days: Ints, seen: Flags) -> Curve:
    """The curve of times to an event, (customers,) each; `seen` is False where it was cut off.

    Who is cut off on a day is still at risk on that day.
    """
    last, most = int(days.max(initial=0)), len(days)
    watched = most - np.concatenate([[0], np.cumsum(np.bincount(days, minlength=last + 1))])
    enough = np.flatnonzero(watched[:-1] >= FEWEST)
    reach = int(enough[-1]) if len(enough) else -1
    count = np.bincount(days[seen], minlength=last + 1)
    when = np.flatnonzero(count[: reach + 1] > 0)
    at_risk, events = watched[when], count[when]
    survival = np.cumprod(1.0 - events / at_risk)
    low, high = _ends(survival, np.cumsum(_greenwood(at_risk, events)))
    return Curve(when, at_risk, events, survival, low, high, reach, most)


def _greenwood(at_risk: Ints, events: Ints) -> Floats:
    """The terms d / (n (n - d)) of Greenwood's sum; 0 after whose day nobody is left."""
    left = at_risk - events
    return np.where(left > 0, events / (at_risk * np.maximum(left, 1.0)), 0.0)


def _ends(survival: Floats, variance: Floats) -> tuple[Floats, Floats]:
    """Both ends of the interval on the scale log(-log); NaN where nobody is left."""
    inside = (survival > 0) & (survival < 1)
    some = np.where(inside, survival, 0.5)
    reach = Z * np.sqrt(variance) / np.abs(np.log(some))
    ends = [np.where(inside, some ** np.exp(sign * reach), np.nan) for sign in (1.0, -1.0)]
    return ends[0], ends[1]


def silences(found: Journeys, days: int, multiple: float | None = None) -> Lives:
    """Days from the first order until a silence first reaches its length.

    Parameters
    ----------
    days : length of a silence, the same for all.
    multiple : of the mean gap between the order days so far, where there is one; `days` holds
        before a second order day.

    Raises
    ------
    InputError
        A length below one day.
    """
    if days < 1:
        raise InputError(f"--silence must be 1 day or more. Got {days}. A year is --silence 365.")
    limit, rule = np.full(len(found.day), days, np.int64), f"no order for {days:,} days"
    if multiple is not None:
        limit = _own(found, days, multiple)
        rule = f"no order for {multiple:g} own mean gaps ({days:,} days before a second order day)"
    last = np.zeros(len(found.day), bool)
    last[found.starts[1:] - 1] = True
    following = np.where(last, found.complete, np.append(found.day[1:], 0))
    lapse = np.flatnonzero(following - found.day > limit)
    who, place = np.unique(found.owner[lapse], return_index=True)
    at = lapse[place]
    watched = found.complete - 1 - found.first_day
    seen = np.zeros(len(found), bool)
    seen[who] = True
    watched[who] = found.day[at] + limit[at] - found.first_day[who]
    returned = int((~last[at]).sum())
    return Lives(watched, seen, rule, days if multiple is None else None, returned)


def _own(found: Journeys, days: int, multiple: float) -> Ints:
    """The length of a silence after each order, (orders,), in whole days."""
    new = np.append(True, found.day[1:] != found.day[:-1])
    new[found.starts[:-1]] = True
    number = np.cumsum(new)
    number = number - number[found.starts[:-1]][found.owner]  # order days before this one
    span = found.day - found.first_day[found.owner]
    mean = span / np.maximum(number, 1)
    return np.where(number > 0, np.floor(multiple * mean), days).astype(np.int64)


def contracts(found: Journeys, ends: npt.NDArray[np.object_]) -> Lives:
    """Days from the first order to the last day of the contract; `ends` (customers,) as text.

    Raises
    ------
    InputError
        An end that is no date.
    """
    watched, seen = found.complete - 1 - found.first_day, np.zeros(len(found), bool)
    for i, end in enumerate(ends):
        if isinstance(end, str) and end:
            day = local_day(instant(end[:10], found.zone), found.zone)
            if day < found.complete:
                watched[i], seen[i] = max(day - int(found.first_day[i]), 0), True
    late = found.day[found.starts[1:] - 1] - found.first_day
    return Lives(watched, seen, "contract_end", None, int((seen & (late > watched)).sum()))


def second_orders(found: Journeys) -> Lives:
    """Days from the first order to the second."""
    again = found.counts > 1
    days = found.complete - 1 - found.first_day
    days[again] = found.day[found.starts[:-1][again] + 1] - found.first_day[again]
    return Lives(days, again, "a second order")
