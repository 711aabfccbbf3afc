"""Do intervals hold: shares of customers above and below them, out of time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from training.intervals import HIGH, LOW, MEDIAN, Intervals
from training.metrics import BINS, bins_of
from training.ranks import ties_of
from training.rehearsal import Rehearsal

__all__ = ["Points", "coverage"]

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
#: Where hardly anybody buys, the upper end is zero as well and cannot be exceeded by its share.
LIKELY_GONE = 0.9


@dataclass(frozen=True)
class Points:
    """The interval of each customer's value, (rows,) each, before the cost to keep."""

    low: Floats
    median: Floats
    high: Floats

    @classmethod
    def of(cls, intervals: Intervals, said: Rehearsal) -> Points:
        """Of the predictions of one origin."""
        known = said.value, said.orders, said.churn
        low, median, high = (
            intervals.quantile(level, *known, said.months) for level in (LOW, MEDIAN, HIGH)
        )
        return cls(low, median, high)


def coverage(said: Rehearsal, points: Points) -> pd.DataFrame:
    """Shares outside the interval, overall, per decile of predicted value, and of buyers.

    Returns
    -------
    DataFrame
        group (all, decile 01 to 10 with 01 the highest, buyers), n, above: share of those with
        churn below .9 whose value came out above the 90 % point (10 % is right), n_above; below:
        share of those with a 10 % point above 0 who came out below it (10 % is right where the
        interval is sharp, and less where it stands on zero), n_below; inside: share between both.
    """
    decile = bins_of(ties_of(said.value), np.ones(len(said.value)))
    groups: dict[str, Flags] = {"all": np.ones(len(decile), bool)}
    groups |= {f"decile {k + 1:02d}": decile == k for k in range(BINS)}
    groups["buyers"] = said.churned == 0
    over, under = said.actual > points.high, said.actual < points.low
    may_exceed, may_miss = said.churn < LIKELY_GONE, points.low > 0
    return pd.DataFrame(
        [
            {
                "group": name,
                "n": int(here.sum()),
                "above": _share(over, here & may_exceed),
                "n_above": int((here & may_exceed).sum()),
                "below": _share(under, here & may_miss),
                "n_below": int((here & may_miss).sum()),
                "inside": _share(~over & ~under, here),
            }
            for name, here in groups.items()
        ]
    )


def _share(hits: Flags, among: Flags) -> float:
    return float(hits[among].mean()) if among.any() else float("nan")
