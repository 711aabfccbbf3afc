"""How sure a value is: 10, 50 and 90 % points per customer, and intervals of totals.

A customer buys nothing with the chance of churn; given that they buy, their value over what was
expected has a distribution that narrows with the number of orders expected. That distribution is
read off rehearsals, where models that had not seen the outcome are held against it (split
conformal prediction in the form of Chernozhukov et al. 2021, Distributional conformal prediction,
PNAS 118), in bins of the expected number of orders given any.

A total is surer than its customers, but not by as much as if they erred independently: seasons
and times hit all of them. `common` is that shared part, from the totals of the rehearsals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import inv_boxcox, xlogy
from scipy.stats import norm

from training.kernels import points
from training.rehearsal import Rehearsal

__all__ = ["HIGH", "LOW", "MEDIAN", "Interval", "Intervals", "total"]

Floats = npt.NDArray[np.float64]
LOW, MEDIAN, HIGH = 0.1, 0.5, 0.9
BINS: Final = 8
LEAST: Final = 150  # buyers in a bin
LEVELS: Final = np.arange(1, 200) / 200
#: Even a large base's total is known no better: what comes next year was never seen.
FLOOR: Final = 0.05
#: Log spread per e-fold that a horizon is longer than what was rehearsed.
WIDER: Final = 0.25
SMALLEST: Final = 1e-12  # chance of an order
Z: Final = float(norm.ppf(HIGH))


class Interval(NamedTuple):
    """A total and its 10 % and 90 % points."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Intervals:
    """The distribution of value over expected value, given any order; see the module."""

    centres: tuple[float, ...]  # log expected orders given any: the bins' medians, rising
    ratios: tuple[tuple[float, ...], ...]  # (bins, levels) quantiles
    squares: tuple[float, ...]  # mean squared ratio per bin
    common: float  # relative standard deviation of a total that all customers share
    months: int  # of the rehearsals
    rows: int

    @classmethod
    def fit(cls, rehearsals: Sequence[Rehearsal]) -> Intervals:
        """From at least one rehearsal with a buyer, its churn calibrated."""
        crowd = np.concatenate([_crowd(r.orders, r.churn)[r.churned == 0] for r in rehearsals])
        ratio = np.concatenate(
            [(r.actual * _stay(r.churn) / r.value)[r.churned == 0] for r in rehearsals]
        )
        # One order whatever the input's, so that sums have the same bits.
        parts = _bins(crowd, np.lexsort((ratio, crowd)))
        shape = cls(
            tuple(float(np.median(crowd[part])) for part in parts),
            tuple(tuple(np.quantile(ratio[part], LEVELS).tolist()) for part in parts),
            tuple(float(np.mean(ratio[part] ** 2)) for part in parts),
            FLOOR, rehearsals[0].months, len(ratio),
        )  # fmt: skip
        shared = [shape._shared(each) for each in rehearsals]
        common = math.sqrt(max(FLOOR**2, float(np.mean(shared))))
        return replace(shape, common=common)

    def _shared(self, each: Rehearsal) -> float:
        """Squared log error of a rehearsal's total, beyond what its customers' own chance makes."""
        predicted, came = float(each.value.sum()), float(each.actual.sum())
        if predicted <= 0 or came <= 0:
            return 1.0
        spread = self.spread(each.value, each.orders, each.churn)
        own = float((spread**2).sum()) / predicted**2
        return math.log(came / predicted) ** 2 - own

    def quantile(
        self, level: float, value: Floats, orders: Floats, churn: Floats, months: int
    ) -> Floats:
        """The `level` point of value, (rows,): 0 where `churn` alone exceeds the level.

        `value` and `orders` are expected, of `months`; beyond the months of the rehearsals the
        interval widens.
        """
        return np.asarray(self.quantiles((level,), value, orders, churn, months)[0])

    def quantiles(
        self, levels: Sequence[float], value: Floats, orders: Floats, churn: Floats, months: int
    ) -> Floats:
        """As `quantile`, for several levels at once, (levels, rows)."""
        return np.asarray(
            self.table(levels, value[None], orders[None], churn[None], (months,))[:, 0]
        )

    def table(
        self, levels: Sequence[float], value: Floats, orders: Floats, churn: Floats,
        months: Sequence[int],
    ) -> Floats:  # fmt: skip
        """As `quantile`, for several levels and horizons: (horizons, rows) in, a level more out."""
        stay = _stay(churn)
        at = (np.array([*levels, MEDIAN])[:, None, None] - churn) / stay
        crowd = np.empty(at.shape)
        crowd[:] = _crowd(orders, churn)
        ratio = self._ratio(at.ravel(), crowd.ravel()).reshape(at.shape)
        found = ratio[:-1]
        beyond = [j for j, h in enumerate(months) if h > self.months]
        if beyond:
            more = [(Z * WIDER * math.log(months[j] / self.months)) ** 2 for j in beyond]
            wide = np.ix_([k for k, level in enumerate(levels) if level != MEDIAN], beyond)
            found[wide] = _widened(found[wide], ratio[-1, beyond], np.array(more)[:, None])
        return np.where(at[:-1] > 0, found * (value / stay), 0.0)

    def _ratio(self, at: Floats, crowd: Floats) -> Floats:
        """Quantiles at levels of their own for each row, between the bins by their centres."""
        centres, ratios = self._table
        return points(at, crowd, centres, LEVELS, ratios)

    @cached_property
    def _table(self) -> tuple[Floats, Floats]:
        return np.array(self.centres), np.array(self.ratios)

    def spread(self, value: Floats, orders: Floats, churn: Floats) -> Floats:
        """Standard deviation of a customer's value around what is expected, (rows,)."""
        stay = _stay(churn)
        square = np.interp(_crowd(orders, churn), self.centres, self.squares)
        return np.asarray(value * np.sqrt(np.maximum(square / stay - 1.0, 0.0)))

    def shared(self, months: int) -> float:
        """Relative standard deviation of a total of `months` that all customers share."""
        return self.common * math.sqrt(max(1.0, months / self.months))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the model card."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Intervals:
        """The inverse of `as_dict`."""
        return cls(
            tuple(raw["centres"]), tuple(tuple(row) for row in raw["ratios"]),
            tuple(raw["squares"]), raw["common"], raw["months"], raw["rows"],
        )  # fmt: skip


def total(value: Floats, spread: Floats, common: float) -> Interval:
    """A group's total with its 10 and 90 % points, log-normal: own errors and the common one.

    `value` and `spread` (standard deviation) of each customer in the group, (rows,).
    """
    middle = math.fsum(value)
    if middle <= 0:
        reach = Z * math.hypot(math.sqrt(math.fsum(spread**2)), common * math.fsum(np.abs(value)))
        return Interval(middle, middle - reach, middle + reach)
    relative = math.fsum(spread**2) / middle**2 + common**2
    sigma = math.sqrt(math.log1p(relative))
    start = math.log(middle) - sigma**2 / 2
    return Interval(middle, math.exp(start - Z * sigma), math.exp(start + Z * sigma))


def _bins(crowd: Floats, order: npt.NDArray[np.intp]) -> list[npt.NDArray[np.intp]]:
    """Bins of about equal count along `crowd`; equal ones stay together, whatever came of them."""
    size = max(LEAST, len(order) // BINS)
    ranked = crowd[order]
    begins = np.flatnonzero(np.append(True, ranked[1:] > ranked[:-1]))
    cuts = [0]
    for begin in begins.tolist():
        if begin - cuts[-1] >= size and len(order) - begin >= LEAST:
            cuts.append(begin)
    return np.split(order, cuts[1:])


def _stay(churn: Floats) -> Floats:
    """Chance of an order; never 0, since values are divided by it."""
    return np.maximum(1.0 - churn, SMALLEST)


def _crowd(orders: Floats, churn: Floats) -> Floats:
    """Log of the orders expected given any, (rows,); scipy's scalar loop makes it exact by row."""
    return np.asarray(xlogy(1.0, orders / _stay(churn)))


def _widened(ratio: Floats, middle: Floats, squared: Floats) -> Floats:
    """A quantile moved away from the median: independent spreads add up in squares, in logs."""
    known = (ratio > 0) & (middle > 0)
    away = np.asarray(xlogy(1.0, np.where(known, ratio / np.where(known, middle, 1.0), 1.0)))
    moved = np.sign(away) * np.sqrt(away**2 + squared)
    factor = np.where(known, inv_boxcox(moved - away, 0.0), 1.0)
    return np.asarray(np.where(ratio > 0, ratio * factor, ratio))
