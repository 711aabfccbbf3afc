"""What changed between two scorings: how many, what they are worth, whose value moved most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

__all__ = ["SHOWN", "Changes", "changes"]

SHOWN: Final = 20  # customers of each kind


@dataclass(frozen=True)
class Changes:
    """Of the scorings ``before`` and ``as_of``, in money of ``months``.

    ``whole`` is one row: customers and value then and now, how many joined and left, and what part
    of the change in value they and those who stayed make (``joined_value``, ``left_value``,
    ``stayed_value``, which add up to it). ``rises`` and ``falls`` are customers of both scorings:
    customer_id, before, now, change, largest first.
    """

    before: str
    as_of: str
    months: int
    whole: dict[str, Any]
    rises: pd.DataFrame
    falls: pd.DataFrame


def changes(
    predictions: pd.DataFrame, before: pd.DataFrame, months: int, shown: int = SHOWN
) -> Changes:
    """Compare two tables of predictions, each with a row per customer and `months` of value."""
    column = f"clv_{months}m"
    names = pd.Index(before["customer_id"], dtype=object)
    place = names.get_indexer(pd.Index(predictions["customer_id"], dtype=object))
    now, then = (one[column].to_numpy(np.float64) for one in (predictions, before))
    both = np.flatnonzero(place >= 0)
    gone = np.ones(len(before), bool)
    gone[place[both]] = False
    change = now[both] - then[place[both]]
    parts = {
        "joined_value": math.fsum(now[place < 0]),
        "left_value": 0.0 - math.fsum(then[gone]),
        "stayed_value": math.fsum(change),
    }
    whole: dict[str, Any] = {
        "customers_before": len(before), "customers": len(predictions),
        "joined": int((place < 0).sum()), "left": int(gone.sum()),
        "value_before": math.fsum(then), "value": math.fsum(now), **parts,
    }  # fmt: skip
    ids = predictions["customer_id"].to_numpy(object)[both]
    table = pd.DataFrame(
        {"customer_id": ids, "before": then[place[both]], "now": now[both], "change": change}
    )
    order = np.argsort(-change, kind="stable")
    rises = table.iloc[order[:shown]].query("change > 0").reset_index(drop=True)
    falls = table.iloc[np.argsort(change, kind="stable")[:shown]].query("change < 0")
    return Changes(
        str(before["as_of"].iloc[0]), str(predictions["as_of"].iloc[0]), months, whole, rises,
        falls.reset_index(drop=True),
    )  # fmt: skip
