"""What customers bring month by month since they were won: earned so far, then predicted.

For a customer won at t0, of age a months at the moment of prediction, the value of the first m
months is, at prices of t0 and with the discounting of `features.money`,

    the margin of months 1 .. m less the cost to keep               where m <= a
    that of a months + clv(m - a) / (1 + r)^(a / 12)                where m > a

clv(h) lies on straight lines between the horizons that the predictions carry, from 0 at 0: a
little less than it is, since most is bought early. Beyond the longest horizon it is not known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.money import Cashflow
from features.spine import months_later
from features.store import Store
from serving.decisions import money

__all__ = ["MONTHS", "Returns", "horizons", "returns"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
MONTHS: Final = 24


@dataclass(frozen=True)
class Returns:
    """Value of each customer's first 1 to 24 months; arrays are (customers, 24) or (customers,).

    ``value`` is NaN where the predictions do not reach. ``ahead`` is the predicted part of it,
    ``sd`` the standard deviation of that part, ``common`` (24,) the relative one that all share.
    """

    value: Floats
    ahead: Floats
    sd: Floats
    common: Floats
    age: Floats  # months since they were won

    def matured(self, months: int) -> npt.NDArray[np.bool_]:
        """Whose first `months` months are over: nothing of their value is predicted."""
        return self.age >= months


def returns(
    store: Store,
    ids: list[str],
    begin: Ints,
    as_of: int,
    predictions: pd.DataFrame,
    flow: Cashflow,
) -> Returns:
    """Of customers won at `begin` (microseconds UTC), all before `as_of`.

    Who stands not in `predictions` is expected to bring nothing more.
    """
    marks = np.stack([np.asarray(begin, np.int64)] + [
        months_later(begin, m, store.zone) for m in range(1, MONTHS + 1)
    ])  # fmt: skip
    age = _age(marks, as_of)
    clipped = np.minimum(marks, as_of)
    spans = list(pairwise(clipped))
    earned = money.realised(store, ids, spans, flow.margin)
    margin = np.column_stack([each["margin"].to_numpy(np.float64) for each in earned])
    lived = np.clip(age[:, None] - np.arange(MONTHS), 0.0, 1.0)  # share of each month that is over
    factors = np.array([flow.factor(m) for m in range(1, MONTHS + 1)])
    past = np.cumsum((margin / store.unit - flow.retention * lived) * factors, axis=1)
    left = np.maximum(np.arange(1, MONTHS + 1) - age[:, None], 0.0)
    discount = (1.0 + flow.discount_rate) ** (-age / 12.0)
    table = predictions.set_index("customer_id").reindex(ids)
    ahead = _between(table, "clv_{}m", left) * discount[:, None]
    sd = _between(table, "clv_{}m_sd", left) * discount[:, None]
    return Returns(past + ahead, ahead, sd, _common(predictions), age)


def _age(marks: Ints, as_of: int) -> Floats:
    """Months from the first mark to `as_of`, the last one in part; at most `MONTHS`."""
    whole = (marks[1:] <= as_of).sum(axis=0)
    at = np.minimum(whole, MONTHS - 1)
    start, end = (np.take_along_axis(marks, (at + i)[None], axis=0)[0] for i in (0, 1))
    return np.asarray(np.where(whole == MONTHS, MONTHS, whole + (as_of - start) / (end - start)))


def horizons(predictions: pd.DataFrame) -> list[int]:
    """The months of value that predictions carry, rising."""
    return sorted(int(str(c)[4:-1]) for c in predictions if re.fullmatch(r"clv_\d+m", str(c)))


def _between(table: pd.DataFrame, column: str, left: Floats) -> Floats:
    """A column at horizons of each row's own, (rows, columns of `left`); NaN beyond the longest."""
    known = [h for h in horizons(table) if column.format(h) in table]
    found = np.zeros(left.shape)
    if not known:
        return found
    at = [table[column.format(h)].fillna(0.0).to_numpy(np.float64) for h in known]
    low, start = 0.0, np.zeros(len(table))
    for h, end in zip(known, at, strict=True):
        inside = (left > low) & (left <= h)
        line = start[:, None] + (end - start)[:, None] * ((left - low) / (h - low))
        found = np.where(inside, line, found)
        low, start = float(h), end
    return np.where(left > low, np.nan, found)


def _common(predictions: pd.DataFrame) -> Floats:
    """The shared relative deviation of each month, that of the next horizon carried."""
    known = [h for h in horizons(predictions) if f"clv_{h}m_common" in predictions]
    found = np.zeros(MONTHS)
    for m in range(1, MONTHS + 1):
        if known:
            h = next((h for h in known if h >= m), known[-1])
            found[m - 1] = float(predictions[f"clv_{h}m_common"].iloc[0])
    return found
