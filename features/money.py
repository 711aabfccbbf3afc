"""Money over months: margin, discounting and the cost to keep. Pure, tested to the cent.

Value of h months = sum over months m = 1 .. h of margin_m / (1 + r)^((m - 1/2) / 12), with r the
discount rate of a year and each month's money in its middle, less the cost to keep, discounted
the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from features.settings import MAX_MONTHS, Business

__all__ = ["Cashflow", "Cashflows", "Flow", "flow_of", "monthly_rate", "yearly_rate"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def monthly_rate(yearly: float) -> float:
    """The rate of a month that compounds to the rate of a year: (1 + r)^(1/12) - 1."""
    return float((1.0 + yearly) ** (1.0 / 12.0) - 1.0)


def yearly_rate(monthly: float) -> float:
    """The rate of a year that a month's rate compounds to: (1 + i)^12 - 1."""
    return float((1.0 + monthly) ** 12 - 1.0)


@dataclass(frozen=True)
class Cashflow:
    """What turns revenue by month into value."""

    margin: float  # share of net revenue
    discount_rate: float  # per year
    retention: float  # currency per customer and month

    @classmethod
    def of(cls, business: Business) -> Cashflow:
        """From the settings of the business."""
        return cls(business.margin, business.discount_rate, business.retention_cost)

    def factor(self, month: int) -> float:
        """Present value of one unit in the middle of month 1, 2, ..."""
        return float((1.0 + self.discount_rate) ** (-(month - 0.5) / 12.0))

    def discounted(self, cumulative: Floats, months: int) -> Floats:
        """Present margin of `months` months, (rows,), from cumulative net revenue (rows, 24).

        Summed month by month in order, so that a row's bits do not depend on the others.
        """
        return _last(self.running(cumulative[:, :months]))

    def present(self, earned: Floats) -> Floats:
        """Present value of margin that is there already, (rows,), from its running sums."""
        return _last(_running(earned, self.factors))

    def running(self, cumulative: Floats) -> Floats:
        """Present margin by the end of each month, (rows, months), as `discounted` sums it."""
        return _running(cumulative, self.weights)

    def monthly(self, cumulative: Floats) -> Floats:
        """Present margin less the cost to keep of each month on its own, (rows, months)."""
        return _apart(cumulative, self.weights) - _keeping(self)[: cumulative.shape[1]]

    def earning(self, margins: Floats) -> Cashflows:
        """The same for rows that earn shares of their own, (rows,)."""
        return Cashflows((self,), np.zeros(len(margins), np.int64), margins)

    @property
    def factors(self) -> Floats:
        """`factor` of each of 24 months, (1, 24)."""
        return _factors(self.discount_rate)

    @property
    def weights(self) -> Floats:
        """What a unit of net revenue of each of 24 months is worth now, (1, 24)."""
        return _weights(self)

    def costs(self, months: tuple[int, ...]) -> Floats:
        """`retention_cost` of several horizons, (1, horizons)."""
        return _costs(self, months)

    def retention_cost(self, months: int) -> float:
        """Present cost to keep one customer for `months` months."""
        return _to_keep(self, months)


@dataclass(frozen=True, eq=False)
class Cashflows:
    """As `Cashflow`, each row with a discount rate, and a share of revenue, of its own.

    A row has the same bits as by a `Cashflow` of its own.
    """

    kinds: tuple[Cashflow, ...]  # they differ in the rate only
    which: Ints  # (rows,), the kind of each row
    margins: Floats | None = None  # (rows,), in place of the kinds' own

    @property
    def margin(self) -> float | Floats:
        """Share of net revenue: of all, or (rows,)."""
        return self.kinds[0].margin if self.margins is None else self.margins

    def earning(self, margins: Floats) -> Cashflows:
        """As `Cashflow.earning`."""
        return replace(self, margins=margins)

    @cached_property
    def factors(self) -> Floats:
        """As `Cashflow.factors`, (1 or rows, 24)."""
        if len(self.kinds) == 1:
            return self.kinds[0].factors
        return np.concatenate([kind.factors for kind in self.kinds])[self.which]

    @cached_property
    def weights(self) -> Floats:
        """As `Cashflow.weights`, (rows, 24)."""
        return np.reshape(self.margin, (-1, 1)) * self.factors

    def costs(self, months: tuple[int, ...]) -> Floats:
        """As `Cashflow.costs`, (1 or rows, horizons)."""
        if len(self.kinds) == 1:
            return self.kinds[0].costs(months)
        return np.concatenate([kind.costs(months) for kind in self.kinds])[self.which]

    def factor(self, month: int) -> Floats:
        """Present value of one unit in the middle of a month, (rows,)."""
        return np.array([kind.factor(month) for kind in self.kinds])[self.which]

    def discounted(self, cumulative: Floats, months: int) -> Floats:
        """As `Cashflow.discounted`."""
        return _last(self.running(cumulative[:, :months]))

    def present(self, earned: Floats) -> Floats:
        """As `Cashflow.present`."""
        return _last(_running(earned, self.factors))

    def running(self, cumulative: Floats) -> Floats:
        """As `Cashflow.running`."""
        return _running(cumulative, self.weights)

    def monthly(self, cumulative: Floats) -> Floats:
        """As `Cashflow.monthly`."""
        keep = np.stack([_keeping(kind) for kind in self.kinds])[self.which]
        return _apart(cumulative, self.weights) - keep[:, : cumulative.shape[1]]

    def retention_cost(self, months: int) -> Floats:
        """Present cost to keep each customer for `months` months, (rows,)."""
        return np.array([kind.retention_cost(months) for kind in self.kinds])[self.which]


Flow = Cashflow | Cashflows


def flow_of(
    business: Business, levels: Sequence[str], rows: Ints, base: Cashflow | None = None
) -> Cashflows:
    """The cash flow of rows by their customers' levels of ``discount_rate_by_segment``.

    `rows` (rows,) indexes `levels`, one per customer; a level without a rate of its own takes
    ``discount_rate``. `base` is that of the settings where it is not given.
    """
    base, own = base or Cashflow.of(business), business.discount_rate_by_segment.rates
    kinds = (base, *(replace(base, discount_rate=rate) for rate in own.values()))
    place: Mapping[str, int] = {level: k for k, level in enumerate(own, start=1)}
    return Cashflows(kinds, np.array([place.get(level, 0) for level in levels], np.int64)[rows])


def _apart(cumulative: Floats, weights: Floats) -> Floats:
    """Present margin of each month, from `weights` (1 or rows, months)."""
    flows = np.array(cumulative, np.float64, order="C")
    flows[:, 1:] -= cumulative[:, :-1]
    flows *= weights[:, : cumulative.shape[1]]
    return flows


def _running(cumulative: Floats, weights: Floats) -> Floats:
    # Sums run from left to right; a zero is positive, as 0 plus it would be.
    return np.asarray(np.cumsum(_apart(cumulative, weights), axis=1) + 0.0)


def _last(running: Floats) -> Floats:
    return np.ascontiguousarray(running[:, -1])


@lru_cache(maxsize=1024)
def _to_keep(flow: Cashflow, months: int) -> float:
    return sum(flow.retention * flow.factor(m) for m in range(1, months + 1))


@lru_cache(maxsize=64)
def _factors(rate: float) -> Floats:
    """Present value of one unit in the middle of each month, (1, 24)."""
    flow = Cashflow(1.0, rate, 0.0)
    return np.array([[flow.factor(m) for m in range(1, MAX_MONTHS + 1)]])


@lru_cache(maxsize=64)
def _weights(flow: Cashflow) -> Floats:
    """What a unit of net revenue of each month is worth now, (1, 24)."""
    return np.asarray(flow.margin * flow.factors)


@lru_cache(maxsize=64)
def _costs(flow: Cashflow, months: tuple[int, ...]) -> Floats:
    return np.array([[_to_keep(flow, m) for m in months]])


@lru_cache(maxsize=64)
def _keeping(flow: Cashflow) -> Floats:
    """What keeping a customer through each month costs now."""
    return np.array([flow.retention * flow.factor(m) for m in range(1, MAX_MONTHS + 1)])
