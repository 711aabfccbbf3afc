"""Predictions of rows and the columns they become in the predictions table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.money import Cashflow
from training import outlook
from training.intervals import HIGH, LOW, MEDIAN, Intervals
from training.labels import Labels
from training.rehearsal import Rehearsal

__all__ = ["Predictions"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Predictions:
    """Predictions of rows; money in currency units, (rows,) or (rows, months).

    ``gross`` is cumulative at the end of months 1 to 24; ``churn`` and ``orders`` are those of
    ``months``, the horizons that were asked for. Without ``pace`` there are no `drivers`, without
    ``silence`` no `next_order`.
    """

    months: tuple[int, ...]
    gross: Floats
    orders: Floats
    churn: Floats
    return_share: Floats
    pending: Floats
    flow: Cashflow
    intervals: Intervals | None = None
    pace: Floats | None = None  # orders per month while active
    silence: Floats | None = None  # churn at the end of months 1 to 24

    def revenue(self, month: int) -> Floats:
        """Expected net revenue, not discounted."""
        return self.gross[:, month - 1] * (1.0 - self.return_share) - self.pending

    def value(self, month: int) -> Floats:
        """Discounted margin before the cost to keep and before what is pending, (rows,)."""
        return self.flow.discounted(self.gross, month) * (1.0 - self.return_share)

    @property
    def pending_value(self) -> Floats:
        """Margin of the refunds still expected on past orders, all in month 1, (rows,)."""
        return self.pending * (self.flow.margin * self.flow.factor(1))

    def rehearsed(self, labels: Mapping[int, Labels], cutoff: int, months: int) -> Rehearsal:
        """Beside what came: the labels of months 1 to `months`."""
        at = self.months.index(months)
        came = np.column_stack([labels[m].net for m in range(1, months + 1)])
        return Rehearsal(
            cutoff, months, self.value(months), np.ascontiguousarray(self.orders[:, at]),
            np.ascontiguousarray(self.churn[:, at]),
            self.flow.discounted(came, months) + self.pending_value, labels[months].churned,
        )  # fmt: skip

    def columns(self) -> dict[str, Floats]:
        """The predictions table's columns of every horizon, in the contract's order."""
        net = self.gross * (1.0 - self.return_share)[:, None] - self.pending[:, None]
        value, found = self.flow.running(net), {}
        intervals = self._intervals()
        for j, h in enumerate(self.months):
            cost = self.flow.retention_cost(h)
            found[f"revenue_{h}m"] = revenue = np.ascontiguousarray(net[:, h - 1])
            found[f"orders_{h}m"] = np.ascontiguousarray(self.orders[:, j])
            found[f"churn_{h}m"] = np.ascontiguousarray(self.churn[:, j])
            found[f"margin_{h}m"] = self.flow.margin * revenue
            found[f"retention_cost_{h}m"] = np.full(len(net), cost)
            found[f"clv_{h}m"] = np.ascontiguousarray(value[:, h - 1]) - cost
            found |= intervals[j] if intervals else {}
        return found

    def next_order(self) -> Floats:
        """Months until the next order, the median of those who come back: see `outlook`."""
        if self.silence is None:
            return np.full(len(self.gross), np.nan)
        return outlook.next_order(self.silence)

    def drivers(self) -> dict[str, Floats]:
        """What makes up gross revenue, which is the product of the three at each horizon.

        ``orders_per_month`` while active, then for each horizon ``order_value_{h}m`` (expected
        money of an order) and ``active_months_{h}m`` (expected months within it before the
        customer leaves, of average season).
        """
        if self.pace is None:
            return {}
        found = {"orders_per_month": self.pace}
        for j, h in enumerate(self.months):
            parts = outlook.split(self.gross[:, h - 1], self.orders[:, j], self.pace)
            found[f"order_value_{h}m"], found[f"active_months_{h}m"] = parts
        return found

    def _intervals(self) -> list[dict[str, Floats]]:
        """Of each horizon 10, 50 and 90 % points of value, deviation, and what a total shares."""
        if self.intervals is None:
            return []
        own = self.flow.running(self.gross) * (1.0 - self.return_share)[:, None]
        at = [h - 1 for h in self.months]
        value, orders, churn = (
            np.ascontiguousarray(each.T) for each in (own[:, at], self.orders, self.churn)
        )
        points = self.intervals.table((LOW, MEDIAN, HIGH), value, orders, churn, self.months)
        spread = self.intervals.spread(value, orders, churn)
        pending, found = self.pending_value, []
        for j, h in enumerate(self.months):
            low, median, high = points[:, j] - (pending + self.flow.retention_cost(h))
            found.append({
                f"clv_{h}m_low": low, f"clv_{h}m_median": median, f"clv_{h}m_high": high,
                f"clv_{h}m_sd": spread[j],
                f"clv_{h}m_common": np.full(len(pending), self.intervals.shared(h)),
            })  # fmt: skip
        return found
