"""Definitions of churn other than "no order": columns that say for whom they hold already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from features.behaviour import Rows
from features.settings import Settings
from features.spine import instant, local_day

__all__ = ["columns", "nobody"]

Floats = npt.NDArray[np.float64]
Marks = dict[str, npt.NDArray[Any]]


def columns(rows: Rows, as_of: int, settings: Settings, alive: Callable[[], Floats]) -> Marks:
    """The column of the settings' definition, (rows,): 1 where it holds at `as_of`.

    `alive` tells the chance that a customer has not left, (rows,): one order has no gap of its own,
    so there the chance decides.
    """
    rule = settings.business.churn
    if rule == "no_order":
        return {}
    if rule == "contract_end":
        ends = rows.attribute("contract_end")
        zone = settings.business.time_zone
        # It holds through its last day, and is over from the local midnight after it.
        today = local_day(as_of, zone)
        over = [bool(end) and local_day(instant(end[:10], zone), zone) < today for end in ends]
        return {"inactive_contract_end": np.array(over, np.int64)[rows.who]}
    multiple = float(rule.split(":")[1])
    overdue = rows.column("overdue_ratio")
    over_due = np.where(np.isnan(overdue), alive() < 0.5, overdue > multiple)
    return {"inactive_own_gap": over_due.astype(np.int64)}


def nobody(settings: Settings, count: int) -> Marks:
    """The same for people without an order: they have no gap of their own to be silent for."""
    rule = settings.business.churn.split(":")[0]
    return {} if rule == "no_order" else {f"inactive_{rule}": np.zeros(count, np.int64)}
