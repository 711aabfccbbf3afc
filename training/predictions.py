"""Predictions of rows and the columns they become in the predictions table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from features.money import Flow
from training import kernels
from training.intervals import Intervals
from training.labels import Labels
from training.rehearsal import Rehearsal

__all__ = ["Predictions"]

Floats = npt.NDArray[np.float64]
MEANS: Final = kernels.TOLD[: kernels.TOLD.index("low")]  # columns that need no intervals


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
    flow: Flow
    intervals: Intervals | None = None
    pace: Floats | None = None  # orders per month while active
    silence: Floats | None = None  # churn at the end of months 1 to 24

    def revenue(self, month: int) -> Floats:
        """Expected net revenue, not discounted."""
        return self.gross[:, month - 1] * (1.0 - self.return_share) - self.pending

    def value(self, month: int) -> Floats:
        """Discounted margin before the cost to keep and before what is pending, (rows,)."""
        return self.flow.discounted(self.gross, month) * (1.0 - self.return_share)

    def clv(self, month: int) -> Floats:
        """The column ``clv_{month}m``, (rows,), whether its horizon was asked for or not."""
        if month in self.months:
            table, j = self._told[0], self.months.index(month)
        else:
            none = np.zeros((len(self.gross), 1))
            plain = replace(self, months=(month,), orders=none, churn=none, intervals=None)
            table, j = plain._told[0], 0
        value: Floats = table[j, kernels.TOLD.index("clv")]
        return value

    def churn_by(self, month: int) -> Floats:
        """The column ``churn_{month}m``, (rows,); `KeyError` if it was neither asked nor kept."""
        if self.silence is not None:
            return np.ascontiguousarray(self.silence[:, month - 1])
        if month not in self.months:
            raise KeyError(month)
        return np.ascontiguousarray(self.churn[:, self.months.index(month)])

    @property
    def pending_value(self) -> Floats:
        """Margin of the refunds still expected on past orders, all in month 1, (rows,)."""
        return self.pending * (self.flow.margin * self.flow.factor(1))

    def cashflow(self, months: int) -> Floats:
        """Discounted margin less the cost to keep of months 1 to `months`, (rows, months).

        The first h of them add up to the column ``clv_{h}m``, but for the rounding of doubles.
        """
        return self.flow.monthly(self._net()[:, :months])

    def _net(self) -> Floats:
        """Expected net revenue by the end of months 1 to 24, (rows, 24)."""
        return self.gross * (1.0 - self.return_share)[:, None] - self.pending[:, None]

    def rehearsed(
        self, labels: Mapping[int, Labels], cutoff: int, months: int, rest: float
    ) -> Rehearsal:
        """Beside what came: the labels of months 1 to `months`.

        Where costs are known it is the margin that was earned, `rest` being the share of lines
        without one; else the predicted share of the revenue.
        """
        at, each = self.months.index(months), range(1, months + 1)
        if labels[months].any_cost:
            earned = np.column_stack([labels[m].earned(rest) for m in each])
            came = self.flow.present(earned)
        else:
            came = self.flow.discounted(np.column_stack([labels[m].net for m in each]), months)
        return Rehearsal(
            cutoff, months, self.value(months), np.ascontiguousarray(self.orders[:, at]),
            np.ascontiguousarray(self.churn[:, at]), came + self.pending_value,
            labels[months].churned,
        )  # fmt: skip

    @property
    def names(self) -> tuple[str, ...]:
        """Names of `columns`, in the contract's order."""
        return _names(self.months, self.intervals is not None)

    def columns(self) -> dict[str, Floats]:
        """The predictions table's columns of every horizon, in the contract's order."""
        return dict(zip(self.names, self._numbers(), strict=True))

    def rows(self) -> list[list[float | None]]:
        """The values of `columns` by row; None for what is no number."""
        return _plain(self._numbers())

    def _numbers(self) -> Floats:
        """The values of `columns`, (columns, rows)."""
        table, _ = self._told
        own = table if self.intervals else table[:, : len(MEANS)]
        return own.reshape(len(self.names), len(self.gross))

    def next_order(self) -> Floats:
        """Months until the next order, the median of those who come back: see `kernels`."""
        if self.silence is None:
            return np.full(len(self.gross), np.nan)
        return kernels.next_orders(self.silence)

    @property
    def driver_names(self) -> tuple[str, ...]:
        """Names of `drivers`; without a pace there are none."""
        return () if self.pace is None else _driver_names(self.months)

    def drivers(self) -> dict[str, Floats]:
        """What makes up gross revenue, which is the product of the three at each horizon.

        ``orders_per_month`` while active, then for each horizon ``order_value_{h}m`` (expected
        money of an order) and ``active_months_{h}m`` (expected months within it before the
        customer leaves, of average season); without orders both are 0.
        """
        if self.pace is None:
            return {}
        parts = self._told[1].reshape(2 * len(self.months), len(self.pace))
        return dict(zip(self.driver_names, (self.pace, *parts), strict=True))

    def driver_rows(self) -> list[list[float | None]]:
        """The values of `drivers` by row; None for what is no number."""
        if self.pace is None:
            return [[] for _ in self.gross]
        parts = self._told[1].reshape(2 * len(self.months), len(self.pace))
        return _plain(np.vstack((self.pace, parts)))

    @cached_property
    def _told(self) -> tuple[Floats, Floats]:
        """All columns and drivers, in one pass over the rows."""
        flow, sure, h = self.flow, self.intervals, self.months
        pace = np.zeros(len(self.gross)) if self.pace is None else self.pace
        rows = (self.gross, self.orders, self.churn, pace, self.return_share, self.pending)
        wider, common = sure.beyond(h) if sure else np.zeros((2, len(h)))
        return kernels.told(
            *rows, flow.margin, flow.factors, flow.costs(h), np.array(h, np.int64), wider, common,
            sure.shape if sure else kernels.NO_SHAPE,
        )  # fmt: skip


@lru_cache(maxsize=64)
def _names(months: tuple[int, ...], sure: bool) -> tuple[str, ...]:
    """Name of each column, in the contract's order."""
    return tuple(
        f"clv_{h}m_{name}" if k >= len(MEANS) else f"{name}_{h}m"
        for h in months
        for k, name in enumerate(kernels.TOLD if sure else MEANS)
    )


@lru_cache(maxsize=64)
def _driver_names(months: tuple[int, ...]) -> tuple[str, ...]:
    each = (f"{name}_{h}m" for h in months for name in ("order_value", "active_months"))
    return ("orders_per_month", *each)


def _plain(columns: Floats) -> list[list[float | None]]:
    """Values by row as Python's own, None for what is no number."""
    rows: list[list[float | None]] = columns.T.tolist()
    if np.isnan(columns).any():
        return [[None if value != value else value for value in row] for row in rows]  # noqa: PLR0124
    return rows
