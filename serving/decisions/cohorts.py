"""Cohorts: customers by the month or quarter of their first order, and what became of them since.

Periods are those of the calendar, in the business time zone. Only whole periods are told: a month
that is not over yet would look like customers leaving. The first cohort holds whoever was a
customer before the data begin as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import InputError
from features.store import month_of
from serving.decisions.journeys import Journeys, Period, labels, period_of
from serving.decisions.retention import FEWEST

__all__ = ["ALL", "Cohorts", "cohorts", "period_for"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
ALL: Final = "all"
MOST: Final = 24  # months that are told one by one, unless asked


@dataclass(frozen=True)
class Cohorts:
    """One row per cohort and period since, and those of all cohorts together, named ``all``.

    ``table``: cohort, customers, since (0 is the period of the first order), active (share of the
    cohort with an order in that period), revenue and margin (net, of that period, money per
    customer of the cohort; margin as `serving.decisions.money` has it), revenue_so_far,
    margin_so_far. A row of ``all`` is of those cohorts that the data cover so long; ``customers``
    says of how many. ``hidden`` counts cohorts of fewer than 10 customers, which are in ``all``
    only.
    """

    table: pd.DataFrame
    period: Period
    hidden: int

    def grid(self, column: str = "active") -> pd.DataFrame:
        """A column as cohorts x periods since, NaN where not known yet."""
        own = self.table[self.table["cohort"] != ALL]
        return own.pivot_table(index="cohort", columns="since", values=column, sort=True)


def period_for(found: Journeys, asked: str | None = None) -> Period:
    """The period as asked, else months for histories up to two years and quarters beyond.

    Raises
    ------
    InputError
        Neither month nor quarter.
    """
    if asked is None:
        months = month_of(found.day[[int(found.day.argmin()), int(found.day.argmax())]])
        return "month" if months[1] - months[0] < MOST else "quarter"
    for known in ("month", "quarter"):
        if asked == known:
            return "month" if known == "month" else "quarter"
    raise InputError(f"--period must be month or quarter. Got {asked!r}.")


def cohorts(found: Journeys, period: Period, margin: float = 1.0) -> Cohorts:
    """What became of each cohort; `margin` is the share that is earned of lines without a cost.

    Raises
    ------
    InputError
        The data cover no whole period.
    """
    start = period_of(month_of(found.first_day), period)
    base = int(start.min())
    # The period that holds the first day not covered is not whole.
    over = int(period_of(month_of(np.array([found.complete])), period)[0])
    size = over - base
    if size < 1:
        raise InputError(
            f"The data must cover a whole {period}. They begin and end in "
            f"{labels(np.array([base]), period)[0]}. Bring a longer history."
        )
    customers = np.bincount(start - base, minlength=size)[:size]
    active = _active(found, start, base, size, period)
    money, earned = _money(found, start, base, size, period, margin)
    known = np.add.outer(np.arange(size), np.arange(size)) < size
    shown = np.flatnonzero(customers >= FEWEST)
    rows = [_rows(str(labels(np.array([base + i]), period)[0]), np.full(size - i, customers[i]),
                  active[i, : size - i], money[i, : size - i], earned[i, : size - i])
            for i in shown.tolist()]  # fmt: skip
    of = (customers[:, None] * known).sum(axis=0)
    rows.append(_rows(ALL, of, *((each * known).sum(axis=0) for each in (active, money, earned))))
    hidden = int((customers > 0).sum()) - len(shown)
    return Cohorts(pd.concat(rows, ignore_index=True), period, hidden)


def _active(found: Journeys, start: Ints, base: int, size: int, period: Period) -> Ints:
    """Customers with an order, by cohort and period since, (size, size)."""
    since = period_of(month_of(found.day), period) - start[found.owner]
    pairs = np.unique(found.owner * (1 << 12) + since)
    who, since = pairs >> 12, pairs & ((1 << 12) - 1)
    return _grid(start[who] - base, since, np.ones(len(who), np.int64), size)


def _money(
    found: Journeys, start: Ints, base: int, size: int, period: Period, margin: float
) -> tuple[Floats, Floats]:
    """Net revenue and margin by cohort and period since, (size, size) each, money."""
    # What came back before the first order known was bought before the data begin.
    since = np.maximum(period_of(found.month, period) - start[found.who], 0)
    cohort = start[found.who] - base
    money, known, cost = (
        _grid(cohort, since, values, size) for values in (found.money, found.known, found.cost)
    )
    earned = known - cost + margin * (money - known)
    return money / found.unit, earned / found.unit


def _grid(cohort: Ints, since: Ints, values: Ints, size: int) -> Ints:
    """Sums over cohort and period since; exact, and without what lies beyond whole periods."""
    inside = cohort + since < size
    made = np.zeros((size, size), np.int64)
    np.add.at(made, (cohort[inside], since[inside]), values[inside])
    return made


def _rows(name: str, customers: Ints, active: Ints, money: Floats, earned: Floats) -> pd.DataFrame:
    of, enough = np.maximum(customers, 1), customers >= FEWEST
    # Of all cohorts the customers differ by period, so means add up and not sums.
    share, revenue, margin = (np.where(enough, each / of, np.nan)
                              for each in (active, money, earned))  # fmt: skip
    return pd.DataFrame(
        {
            "cohort": name,
            "customers": customers,
            "since": np.arange(len(customers)),
            "active": share,
            "revenue": revenue,
            "margin": margin,
            "revenue_so_far": np.cumsum(revenue),
            "margin_so_far": np.cumsum(margin),
        }
    )
