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
from scipy.special import xlogy
from scipy.stats import norm

from training import kernels
from training.kernels import LEVELS, POINTS, SMALLEST, Shape
from training.rehearsal import Rehearsal

__all__ = ["HIGH", "LOW", "MEDIAN", "Interval", "Intervals", "total"]

Floats = npt.NDArray[np.float64]
LOW, MEDIAN, HIGH = POINTS
BINS: Final = 8
LEAST: Final = 150  # buyers in a bin
#: Even a large base's total is known no better: what comes next year was never seen.
FLOOR: Final = 0.05
#: Log spread per e-fold that a horizon is longer than what was rehearsed.
WIDER: Final = 0.25
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
        squared = float(self.beyond((months,))[0][0])
        return kernels.quantiles(level, value, orders, churn, squared, self.shape)

    def beyond(self, months: tuple[int, ...]) -> tuple[Floats, Floats]:
        """Of each horizon further spread of the log of value, squared, and what `shared` says."""
        if months not in self._beyond:
            longer = (max(h / self.months, 1.0) for h in months)
            wider = np.array([(Z * WIDER * math.log(each)) ** 2 for each in longer])
            self._beyond[months] = wider, np.array([self.shared(h) for h in months])
        return self._beyond[months]

    @cached_property
    def _beyond(self) -> dict[tuple[int, ...], tuple[Floats, Floats]]:
        return {}  # horizons are few

    @cached_property
    def shape(self) -> Shape:
        """The distribution as the compiled loops read it."""
        arrays = (np.array(each) for each in (self.centres, LEVELS, self.ratios, self.squares))
        return Shape(*arrays)

    def spread(self, value: Floats, orders: Floats, churn: Floats) -> Floats:
        """Standard deviation of a customer's value around what is expected, (rows,)."""
        return kernels.spreads(value, orders, churn, self.shape)

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
    middle, own = math.fsum(value.tolist()), math.fsum((spread**2).tolist())
    if middle <= 0:
        reach = Z * math.hypot(math.sqrt(own), common * math.fsum(np.abs(value).tolist()))
        return Interval(middle, middle - reach, middle + reach)
    relative = own / middle**2 + common**2
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
