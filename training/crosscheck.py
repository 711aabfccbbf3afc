"""The closed retention formula beside the model: do the two speak of the same money?

    value = m x r / (1 + d - r)      margin per month while active, monthly retention, discount

(Gupta and Lehmann 2003, Customers as assets, Journal of Interactive Marketing 17(1)), or its first
h months. It knows one margin and one retention for the whole base, and takes everybody for a
customer today: what a pocket calculator makes of the model's own figures. The order of magnitude
should agree; where it does not, the base is mixed, or something is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.money import monthly_rate
from features.settings import Business

__all__ = ["Crosscheck", "closed", "cross_check"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Crosscheck:
    """Totals before the cost to keep, currency: by the formula and by the model."""

    months: int
    margin: float  # m, of a month in which all are active, currency
    retention: float  # r, of a month
    formula: float
    model: float

    @property
    def ratio(self) -> float | None:
        """Formula over model; None where the model sees nothing."""
        return self.formula / self.model if self.model > 0 else None

    def as_dict(self) -> Mapping[str, float | int | None]:
        """Plain values for JSON."""
        ratio = self.ratio
        return {
            "months": self.months,
            "margin_per_month": round(self.margin, 2),
            "monthly_retention": round(self.retention, 4),
            "formula": round(self.formula, 2),
            "model": round(self.model, 2),
            "ratio": None if ratio is None else round(ratio, 4),
        }


def closed(margin: float, retention: float, rate: float, months: int | None = None) -> float:
    """Present value of `margin` x `retention`^k at the ends of months k = 1, 2, ...

    `rate` is the discount rate of a month; `months` None is for ever: m r / (1 + d - r), which is
    infinite where nobody leaves and nothing is discounted.
    """
    kept = retention / (1.0 + rate)
    if kept >= 1.0:  # each month is worth the same
        return margin * (math.inf if months is None else months)
    for_ever = margin * retention / (1.0 + rate - retention)
    return for_ever if months is None else for_ever * (1.0 - kept**months)


def cross_check(frame: pd.DataFrame, months: int, business: Business) -> Crosscheck:
    """Formula and model over a predictions table's rows, for one of its horizons.

    m is what the customers' active months bring, after returns, in one month of all of them; r is
    (1 - mean churn)^(1 / months). As in the model, a month's money comes in its middle; everybody
    is discounted at the base rate, whatever their segment's.
    """

    def column(name: str) -> Floats:
        return frame[f"{name}_{months}m"].to_numpy(np.float64)

    active, rate = column("active_months"), monthly_rate(business.discount_rate)
    each = np.divide(column("margin"), active, out=np.zeros(len(frame)), where=active > 0)
    margin, retention = float(each.sum()), float(1.0 - column("churn").mean()) ** (1.0 / months)
    formula = closed(margin, retention, rate, months) * (1.0 + rate) ** 0.5
    model = float((column("clv") + column("retention_cost")).sum())
    return Crosscheck(months, margin, retention, formula, model)
