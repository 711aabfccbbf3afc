"""Retention: who comes again, by group and by cohort.

Two questions, each asked only of those whose answer the data already hold:

- repeat rate: did a customer order again within so many months of their own first order? Asked of
  those whose first order lies at least so long back.
- retention: of those who ordered in the months before a landmark, who ordered in as many months
  after it? The landmark lies so many months before the end of the data. 1 - retention is the share
  that churned by the definition of the predictions, "no order within so many months".

Both compare like with like: a group of young customers has no more and no less time than an old
one. Intervals of shares are Wilson's (1927, Journal of the American Statistical Association 22).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from features.errors import InputError
from features.spine import add_months, days_later, local_day, text
from serving.decisions.journeys import Journeys

__all__ = ["FEWEST", "LEVEL", "by_group", "shares", "span"]

FEWEST: Final = 10  # customers; of fewer no share is told, so that nobody can be made out
LEVEL: Final = 0.95
SPANS: Final = (12, 6, 3, 1)  # months to ask by, the longest that the data allow
LOYAL: Final = 3  # orders


def span(found: Journeys, wanted: int | None = None) -> int:
    """Months to ask by: `wanted`, else the longest of 12, 6, 3 and 1 that the data hold twice.

    Raises
    ------
    InputError
        The data do not hold twice `wanted` months, or not even two months.
    """
    for months in (wanted,) if wanted else SPANS:
        if _holds(found, 2 * months):
            return months
    least = 2 * (wanted or SPANS[-1])
    raise InputError(
        f"The data must hold {least} months, half of them to see who was a customer, half to see "
        f"who stayed. They hold {text(int(found.ts.min()), found.zone)[:10]} to "
        f"{text(found.until, found.zone)}. Take "
        + ("a shorter --months." if wanted else "a longer history.")
    )


def _holds(found: Journeys, months: int) -> bool:
    """Whether the data begin `months` before their end, to the day."""
    begin = add_months(found.until, -months, found.zone)
    return local_day(begin, found.zone) >= int(found.day.min())


def by_group(found: Journeys, by: pd.DataFrame, months: int = 12) -> pd.DataFrame:
    """Repeat rate, loyalty and retention of groups of customers, one row per group, sorted.

    Parameters
    ----------
    found : see `serving.decisions.journeys.journeys`.
    by : one row per customer in the order of ``found.ids``; each combination of its values is a
        group, missing values are none.
    months : within which a customer comes again.

    Returns
    -------
    The columns of `by`, then customers; covered (first order at least `months` back), repeat_rate,
    repeat_low, repeat_high (a second order within `months` of the first), loyal_rate (three or
    more), orders (mean within `months`); base (ordered in the `months` before the landmark),
    retention, retention_low, retention_high. Shares are 0 to 1 with 95 % intervals; NaN where fewer
    than 10 customers could be asked, or the data do not hold twice the months.

    Raises
    ------
    InputError
        `by` has no column, or not one row per customer.
    """
    names = [str(name) for name in by]
    if not names or len(by) != len(found):
        raise InputError(
            f"Groups must have a column and a row for each of {len(found):,} customers. Got "
            f"{len(names)} columns and {len(by):,} rows."
        )
    flags = _asked(found, months).assign(**{name: by[name].to_numpy(object) for name in names})
    made = flags.dropna(subset=names).groupby(names, sort=True, as_index=False).sum()
    for rate, number, of in (
        ("repeat", "repeated", "covered"), ("loyal", "loyal", "covered"),
        ("retention", "retained", "base"),
    ):  # fmt: skip
        share, low, high = shares(made[number].to_numpy(), made[of].to_numpy())
        rate_name = rate if rate == "retention" else f"{rate}_rate"
        made = made.assign(**{rate_name: share, f"{rate}_low": low, f"{rate}_high": high})
    asked = made["covered"].to_numpy(np.float64)
    made["orders"] = np.where(asked >= FEWEST, made["orders"] / np.maximum(asked, 1), np.nan)
    return made[[
        *names, "customers", "covered", "repeat_rate", "repeat_low", "repeat_high", "loyal_rate",
        "orders", "base", "retention", "retention_low", "retention_high",
    ]]  # fmt: skip


def _asked(found: Journeys, months: int) -> pd.DataFrame:
    """Per customer: who could be asked each question, and what the answer is."""
    ends = days_later(found.first_day, months)
    covered = ends <= found.complete
    orders = np.where(covered, found.within(ends), 0)
    landmark = add_months(found.until, -months, found.zone)
    begin = add_months(found.until, -2 * months, found.zone)
    before = _ordered(found, begin, landmark) & _holds(found, 2 * months)
    after = _ordered(found, landmark, found.until)
    return pd.DataFrame(
        {
            "customers": 1,
            "covered": covered.astype(np.int64),
            "orders": orders,
            "repeated": (orders >= 2).astype(np.int64),
            "loyal": (orders >= LOYAL).astype(np.int64),
            "base": before.astype(np.int64),
            "retained": (before & after).astype(np.int64),
        }
    )


def _ordered(found: Journeys, begin: int, end: int) -> npt.NDArray[np.bool_]:
    """Who has an order in ``[begin, end)``, (customers,)."""
    hit = np.zeros(len(found), bool)
    hit[found.owner[(begin <= found.ts) & (found.ts < end)]] = True
    return hit


def shares(
    number: npt.NDArray[np.int64], of: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """``number / of`` with Wilson's 95 % interval; NaN where fewer than 10 were asked."""
    found = np.full((3, len(of)), math.nan)
    for i, (k, n) in enumerate(zip(number.tolist(), of.tolist(), strict=True)):
        if n >= FEWEST:
            ends = stats.binomtest(k, n).proportion_ci(LEVEL, method="wilson")
            found[:, i] = k / n, ends.low, ends.high
    return found[0], found[1], found[2]
