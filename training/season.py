"""The clock of the season: time that runs faster in months in which customers order more.

Buy-till-you-die models know one rate per customer and no Christmas. Measured in seasonal weeks
instead of plain ones, ages, gaps and horizons fit them again: the weeks before Christmas are long,
those of summer short, and 52 of them make a year all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from features.spine import DAY, add_months, local_day

__all__ = ["FLAT", "Season", "weeks_ahead"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
YEAR: Final = 12
WEEK: Final = 7.0
#: Less history than this says more of how the shop began than of its seasons.
LEAST_MONTHS: Final = 15
#: A month's share is pulled to 1 as if so many order days more had come as expected.
STRENGTH: Final = 30.0
#: Variance of a count of order days over its mean: customers differ, so more than Poisson's 1.
SCATTER: Final = 2.0
FIRST_DAY, LAST_DAY = -60_000, 120_000  # day numbers of the table, years 1805 to 2298


@dataclass(frozen=True)
class Season:
    """How much faster than on average time runs in each calendar month, January first."""

    index: tuple[float, ...] = (1.0,) * YEAR

    @cached_property
    def flat(self) -> bool:
        """Whether time runs evenly."""
        return all(each == 1.0 for each in self.index)

    def weeks(self, day: npt.ArrayLike) -> Floats:
        """Seasonal weeks from 1970-01-01 to the start of local days, given by their numbers."""
        days = np.asarray(day, np.float64)
        if self.flat:
            return days / WEEK
        inside = np.clip(days, FIRST_DAY, LAST_DAY)
        table = _table(self.index)
        return np.asarray((table[inside.astype(np.int64) - FIRST_DAY] + (days - inside)) / WEEK)

    def ahead(self, cutoff: int, months: int, zone: str) -> float:
        """Length of ``[cutoff, cutoff + months)`` in seasonal weeks."""
        if self.flat:
            return weeks_ahead(cutoff, months, zone)
        end = local_day(add_months(cutoff, months, zone), zone)
        return float(self.weeks(end) - self.weeks(local_day(cutoff, zone)))

    @classmethod
    def fit(
        cls,
        first_days: Ints,
        repeats: Ints,
        first_month: int,
        until: int,
        expected: Callable[[Floats], Floats],
    ) -> Season:
        """The seasons of a history, as order days that came over those a fitted model expects.

        Parameters
        ----------
        first_days : (customers,) day number of each customer's first order.
        repeats : (months,) order days after the first ones, by calendar month from `first_month`.
        first_month : number of that month since 1970-01.
        until : day number at which the history ends.
        expected : weeks since the first order -> order days after it, of somebody of whom nothing
            else is known.
        """
        days, customers = np.unique(first_days, return_counts=True)
        came, due = np.zeros(YEAR), np.zeros(YEAR)
        for k, count in enumerate(repeats):
            month = np.datetime64(first_month + k, "M")
            begin, end = (_day(month + j) for j in (0, 1))
            part = [expected(np.maximum(min(t, until) - days, 0) / WEEK) for t in (begin, end)]
            came[(first_month + k) % YEAR] += count
            due[(first_month + k) % YEAR] += float((customers * (part[1] - part[0])).sum())
        due *= came.sum() / max(due.sum(), 1e-9)
        beyond = (came + STRENGTH) / (due + STRENGTH) - 1.0
        # What chance alone would scatter is no season: the rest of the variance is (James-Stein).
        chance = float((SCATTER / (due + STRENGTH)).mean())
        index = 1.0 + beyond * max(0.0, 1.0 - chance / max(float((beyond**2).mean()), 1e-12))
        return cls(tuple((index / index.mean()).tolist()))


FLAT: Final = Season()


def weeks_ahead(cutoff: int, months: int, zone: str) -> float:
    """Length of ``[cutoff, cutoff + months)`` in weeks."""
    return (add_months(cutoff, months, zone) - cutoff) / DAY / WEEK


def _day(month: np.datetime64) -> int:
    return int(month.astype("datetime64[D]").astype(np.int64))


@lru_cache(maxsize=8)
def _table(index: Sequence[float]) -> Floats:
    """Seasonal days from 1970-01-01 to the start of each day of the table."""
    days = np.arange(FIRST_DAY, LAST_DAY)
    month = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) % YEAR
    table = np.concatenate([[0.0], np.cumsum(np.asarray(index)[month])])
    return np.asarray(table - table[-FIRST_DAY])
