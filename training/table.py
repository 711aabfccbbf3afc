"""The predictions table of the contract: arrays by column, a frame, or plain rows for one answer.

customer_id, as_of, evidence, columns of each horizon, rules of churn, next_order_on, drivers,
segment, model_version
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.behaviour import Rows
from features.spine import text
from training.outlook import days
from training.predictions import Predictions

__all__ = ["Table"]

Column = npt.NDArray[Any]
HEAD: Final = ("customer_id", "as_of", "evidence")


@dataclass(frozen=True)
class Table:
    """Predictions of rows at one instant, as the contract has them."""

    rows: Rows
    as_of: int  # microseconds UTC
    zone: str  # of the business
    evidence: str
    found: Predictions
    marked: Mapping[str, Column]  # by another definition of churn than "no order"
    segments: Column  # (rows,), None where not known
    version: str

    def columns(self) -> dict[str, Column]:
        """Arrays (rows,) by column; None where there is no date or segment."""
        n = len(self.rows)
        return {
            "customer_id": self._ids,
            "as_of": np.full(n, self._day, object),
            "evidence": np.full(n, self.evidence, object),
            **self.found.columns(),
            **self.marked,
            "next_order_on": self._next,
            **self.found.drivers(),
            "segment": self.segments,
            "model_version": np.full(n, self.version, object),
        }

    def frame(self) -> pd.DataFrame:
        """The same as a frame."""
        columns = self.columns()
        # Columns in which nobody may have anything are text all the same.
        texts = {
            name: pd.array(columns[name], dtype=pd.StringDtype(na_value=np.nan))
            for name in ("next_order_on", "segment")
        }
        return pd.DataFrame(columns | texts)

    def plain(self, reasons: Sequence[Any] | None = None) -> list[dict[str, Any]]:
        """The same row by row, as plain values; None where not known.

        `reasons` of the rows stand before the last column, as in a table that has them.
        """
        found, more = self.found, () if reasons is None else (reasons,)
        names = (
            *HEAD, *found.names, *self.marked, "next_order_on", *found.driver_names, "segment",
            *("reasons" for _ in more), "model_version",
        )  # fmt: skip
        numbers, drivers = found.rows(), found.driver_rows()
        marks = [column.tolist() for column in self.marked.values()]
        who = zip(self._ids.tolist(), self._next.tolist(), self.segments.tolist(), strict=True)
        start, end = (self._day, self.evidence), self.version
        return [
            dict(zip(names, (
                name, *start, *numbers[i], *(mark[i] for mark in marks), day, *drivers[i], segment,
                *(why[i] for why in more), end,
            ), strict=True))
            for i, (name, day, segment) in enumerate(who)
        ]  # fmt: skip

    @property
    def _ids(self) -> Column:
        return self.rows.ids[self.rows.who]

    @property
    def _day(self) -> str:
        return text(self.as_of, self.zone)

    @property
    def _next(self) -> Column:
        return days(self.found.next_order(), self.as_of, self.zone)
