"""What the pictures of the customer base show: by recency and frequency, by value and churn.

Worked out here, so that a view only draws: tables of groups, and for the map of segments a point
per customer without a name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from features.spine import DAY
from serving.decisions.journeys import Journeys
from serving.decisions.targets import numbers
from training.grid import PROSPECT, worth
from training.portraits import recency_frequency

__all__ = ["Portrait", "portrait"]

WANTED: Final = ("churn", "worth", "segment")


@dataclass(frozen=True)
class Portrait:
    """Everybody who has ordered: ``points`` (churn, worth if they order again, segment), ``value``
    (customers,), and by recency and frequency how many (``customers``) and their mean ``mean``.
    """

    points: pd.DataFrame
    value: Any
    customers: pd.DataFrame
    mean: pd.DataFrame


def portrait(
    found: Journeys, predictions: pd.DataFrame, segments: Any, months: int, until: int
) -> Portrait | None:
    """Of predictions and their `segments` (rows,) at the instant `until`; None if of nobody.

    Recency is in days since the newest order, frequency is orders so far, value ``clv_{months}m``.
    """
    place = pd.Index(found.ids, dtype=object).get_indexer(
        pd.Index(predictions["customer_id"].to_numpy(object), dtype=object)
    )
    here = (place >= 0) & (np.asarray(segments, object) != PROSPECT)
    if not here.any():
        return None
    rows, place = predictions[here], place[here]
    value = numbers(rows, f"clv_{months}m")
    newest = found.ts[found.starts[1:] - 1][place]
    customers, mean = recency_frequency((until - newest) / DAY, found.counts[place], value)
    churn = numbers(rows, f"churn_{months}m")
    ahead = worth(value, numbers(rows, f"retention_cost_{months}m"), churn)
    columns = (churn, ahead, np.asarray(segments, object)[here])
    return Portrait(pd.DataFrame(dict(zip(WANTED, columns, strict=True))), value, customers, mean)
