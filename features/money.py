"""Money over months: margin, discounting and the cost to keep. Pure, tested to the cent.

Value of h months = sum over months m = 1 .. h of margin_m / (1 + r)^((m - 1/2) / 12), with r the
discount rate of a year and each month's money in its middle, less the cost to keep, discounted
the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from features.settings import MAX_MONTHS, Business

__all__ = ["Cashflow", "monthly_rate", "yearly_rate"]

Floats = npt.NDArray[np.float64]


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
        return np.ascontiguousarray(self.running(cumulative[:, :months])[:, -1])

    def running(self, cumulative: Floats) -> Floats:
        """Present margin by the end of each month, (rows, months), as `discounted` sums it."""
        weights = _weights(self)[: cumulative.shape[1]]
        flows = np.array(cumulative, np.float64, order="C")
        flows[:, 1:] -= cumulative[:, :-1]
        flows *= weights
        # Sums run from left to right; a zero is positive, as 0 plus it would be.
        return np.asarray(np.cumsum(flows, axis=1) + 0.0)

    def retention_cost(self, months: int) -> float:
        """Present cost to keep one customer for `months` months."""
        return _to_keep(self, months)


@lru_cache(maxsize=1024)
def _to_keep(flow: Cashflow, months: int) -> float:
    return sum(flow.retention * flow.factor(m) for m in range(1, months + 1))


@lru_cache(maxsize=64)
def _weights(flow: Cashflow) -> Floats:
    """What a unit of net revenue of each month is worth now."""
    return np.array([flow.margin * flow.factor(m) for m in range(1, MAX_MONTHS + 1)])
