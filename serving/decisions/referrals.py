"""Referrals: what the customers are worth whom somebody brought, shown with who brought them.

The value of a customer is counted once in the base. Beside a referrer stands the value of those
they brought directly; since everybody is brought by one other at most, these values add up to the
value of all who were brought. What those brought in turn stands in columns of its own, downstream,
which must not be added up: a chain of three would count its last twice. Neither is ever added to
the referrer's own value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features import foreign, formats, side
from features.errors import InputError
from features.reading import Data
from features.settings import Settings
from features.spine import instant
from features.store import Store, acquired_of
from serving.decisions import files
from serving.decisions.campaigns import attributes
from serving.decisions.money import realised_before
from serving.decisions.targets import numbers
from training.intervals import Interval, total

__all__ = ["RULES", "Referrals", "links", "of_data", "referrals", "referred", "worth"]

Ints = npt.NDArray[np.int64]
#: Rules by which a referral does not count, in their order; each is met once.
RULES: Final = {
    "referral_self": "somebody is their own referrer",
    "referral_unknown": "the referrer is in no table",
    "referral_circle": "the referral belongs to a circle, in which all would have brought "
    "themselves; none of its referrals counts",
}
TOP: Final = 0.1  # of the referrers


@dataclass(frozen=True)
class Referrals:
    """Who brought whom and what they are worth, in money of ``currency``.

    ``table`` has a row per referrer, by the value brought: customer_id, brought (people), ordered
    (those with an order), past_margin, future (predicted value of ``months``), brought_value (the
    two together), downstream and downstream_value (all generations, never to be added up),
    own_value. ``base`` is the value of everybody, ``brought`` that of all who were brought, whose
    predicted part is ``future`` with its 10 and 90 % points; ``rules`` counts what did not count.
    """

    table: pd.DataFrame
    rules: dict[str, int]
    base: float
    brought: float
    future: Interval
    named: int
    longest: int
    months: int
    as_of: str
    currency: str

    @property
    def top(self) -> tuple[int, float]:
        """The first tenth of the referrers, and their share of all value that was brought."""
        most = math.ceil(TOP * len(self.table))
        if not self.brought:
            return most, math.nan
        return most, math.fsum(self.table["brought_value"].head(most)) / self.brought

    def as_dict(self) -> dict[str, Any]:
        """Plain values; no customer's."""
        most, share = self.top
        return {
            "as_of": self.as_of, "horizon": self.months, "currency": self.currency,
            "named": self.named, "counted": int(self.table["brought"].sum()),
            "referrers": len(self.table), "left_out": self.rules,
            "ordered": int(self.table["ordered"].sum()), "longest_chain": self.longest,
            "value_of_base": round(self.base, 2), "value_brought": round(self.brought, 2),
            "future_brought": [round(end, 2) for end in self.future],
            "top_referrers": most, "top_share": None if math.isnan(share) else round(share, 4),
        }  # fmt: skip


def links(data: Data, store: Store, settings: Settings, until: int) -> pd.DataFrame:
    """Customers who signed up before `until`: customer_id, referrer_id (aliases followed, or None).

    Who has no moment of sign-up was always there.

    Raises
    ------
    InputError
        The table customers has no column referrer_id, or nobody has one.
    """
    attributes(store, [], ["referrer_id"])  # refuses what is missing
    parts = [store.attributes(i).reset_index() for i in range(store.buckets)]
    table = pd.concat(parts, ignore_index=True).sort_values("customer_id", ignore_index=True)
    table = table[acquired_of(table, len(table), store.zone) < until].reset_index(drop=True)
    given = table["referrer_id"].astype(object).where(table["referrer_id"].notna(), None)
    if not given.notna().any():
        raise InputError(
            "The table customers must name who brought whom in referrer_id. Got an empty column. "
            "Fill it in for those who were brought."
        )
    known = _aliases(data, settings)
    referrer = pd.Series([known.get(name, name) for name in given], dtype=object)
    return pd.DataFrame({"customer_id": table["customer_id"], "referrer_id": referrer})


def _aliases(data: Data, settings: Settings) -> Mapping[str | None, str]:
    """Old ids and what they are called today."""
    found = formats.tables(data, settings)
    if "aliases" not in found:
        return {}
    con = foreign.connect("500MB", 1)
    try:
        side.load_aliases(con, found["aliases"], settings)
        return dict(con.execute("SELECT old_id, customer_id FROM aliases").fetchall())
    finally:
        con.close()


def worth(
    store: Store, predictions: pd.DataFrame, months: int, until: int, margin: float
) -> pd.DataFrame:
    """Value of everybody with an order line or a prediction, by id; money in whole minor units.

    customer_id, orders, past (margin earned before `until`; `margin` is the share of lines without
    a cost), future (predicted ``clv`` of `months`), sd (its standard deviation, in minor units).
    """
    earned = realised_before(store, until, margin)
    past = earned[["orders", "margin"]].set_axis(["orders", "past"], axis=1)
    ahead = pd.DataFrame(
        {
            "future": np.rint(numbers(predictions, f"clv_{months}m") * store.unit),
            "sd": numbers(predictions, f"clv_{months}m_sd") * store.unit,
        },
        index=predictions["customer_id"].to_numpy(object),
    )
    both = past.join(ahead, how="outer").fillna(0.0).sort_index()
    whole = dict.fromkeys(("orders", "past", "future"), "int64")
    return both.astype(whole).rename_axis("customer_id").reset_index()


def referred(people: pd.DataFrame) -> tuple[Ints, dict[str, int]]:
    """The place of each one's referrer among `people`, -1 for none, and what each rule met.

    `people` are all who are known, in any table: customer_id and referrer_id, each id once.
    """
    ids = pd.Index(people["customer_id"].to_numpy(object), dtype=object)
    given = people["referrer_id"].to_numpy(object)
    parent = ids.get_indexer(pd.Index(given, dtype=object)).astype(np.int64)
    named = pd.notna(given)
    parent[~named] = -1
    own = parent == np.arange(len(ids))
    unknown = named & (parent < 0)
    parent[own] = -1
    circle = _circles(parent)
    parent[circle] = -1
    met = (int(flags.sum()) for flags in (own, unknown, circle))
    return parent, dict(zip(RULES, met, strict=True))


def _circles(parent: Ints) -> npt.NDArray[np.bool_]:
    """Who is among their own referrers' referrers, (people,)."""
    inside = parent >= 0
    left = np.bincount(parent[inside], minlength=len(parent))
    # Whoever brought nobody is in no circle, and with them gone, neither is who brought only them.
    free = np.flatnonzero(left == 0)
    while len(free):
        inside[free] = False
        above = parent[free]
        above = above[above >= 0]
        np.subtract.at(left, above, 1)
        free = np.unique(above[left[above] == 0])
    return inside


def referrals(
    people: pd.DataFrame,
    value: pd.DataFrame,
    *,
    unit: int,
    common: float = 0.0,
    months: int = 12,
    as_of: str = "",
    currency: str = "",
) -> Referrals:
    """Value of those brought, by referrer.

    Parameters
    ----------
    people : customer_id, referrer_id (None where nobody); see `links`.
    value : customer_id, orders, past, future, sd; whole minor units, see `worth`.
    unit : minor units in a major one.
    common : relative standard deviation that all predictions share.
    """
    everybody = people.merge(value, how="outer", on="customer_id")
    everybody = everybody.sort_values("customer_id", ignore_index=True)
    columns = ["orders", "past", "future", "sd"]
    everybody[columns] = everybody[columns].fillna(0)
    named = int(everybody["referrer_id"].notna().sum())
    parent, rules = referred(everybody)
    own = everybody[["orders", "past", "future"]].to_numpy(np.int64)
    child = np.flatnonzero(parent >= 0)
    direct = np.zeros((len(parent), 4), np.int64)  # brought, ordered, past, future
    mine = np.column_stack([np.ones(len(child), np.int64), own[child, 0] > 0, own[child, 1:]])
    np.add.at(direct, parent[child], mine)
    chain, longest = _downstream(parent, own[:, 1] + own[:, 2])
    rows = np.flatnonzero(direct[:, 0] > 0)
    money = (direct[rows, 2] + direct[rows, 3]) / unit
    table = pd.DataFrame(
        {
            "customer_id": everybody["customer_id"].to_numpy(object)[rows],
            "brought": direct[rows, 0],
            "ordered": direct[rows, 1],
            "past_margin": direct[rows, 2] / unit,
            "future": direct[rows, 3] / unit,
            "brought_value": money,
            "downstream": chain[rows, 0],
            "downstream_value": chain[rows, 1] / unit,
            "own_value": (own[rows, 1] + own[rows, 2]) / unit,
        }
    )
    table = table.sort_values(["brought_value", "customer_id"], ascending=[False, True])
    sd = everybody["sd"].to_numpy(np.float64)[child] / unit
    return Referrals(
        table.reset_index(drop=True), rules, int(own[:, 1:].sum()) / unit,
        int(own[child, 1:].sum()) / unit, total(own[child, 2] / unit, sd, common), named, longest,
        months, as_of, currency,
    )  # fmt: skip


def _downstream(parent: Ints, value: Ints) -> tuple[Ints, int]:
    """People and value below each, over all generations, (people, 2); and the longest chain."""
    below = np.zeros((len(parent), 2), np.int64)
    waiting = np.bincount(parent[parent >= 0], minlength=len(parent))
    free, longest = np.flatnonzero(waiting == 0), 0
    while len(free):
        some = free[parent[free] >= 0]
        above = parent[some]
        np.add.at(below, above, below[some] + np.column_stack([np.ones_like(some), value[some]]))
        np.subtract.at(waiting, above, 1)
        free = np.unique(above[waiting[above] == 0])
        longest += bool(len(free))
    return below, longest


def of_data(
    data: Data, table: str | Path, store: Store, settings: Settings, horizon: int | None = None
) -> Referrals:
    """Referrals of one store beside a predictions file.

    Raises
    ------
    InputError
        No referrer_id, or predictions that are not as they must be.
    """
    predictions = files.predictions(table)
    months = files.horizon_of(predictions, horizon)
    as_of = str(predictions["as_of"].iloc[0])
    until = instant(as_of, store.zone)
    people = links(data, store, settings, until)
    value = worth(store, predictions, months, until, settings.business.margin)
    common = float(numbers(predictions, f"clv_{months}m_common")[0])
    return referrals(people, value, unit=store.unit, common=common, months=months, as_of=as_of,
                     currency=settings.business.currency)  # fmt: skip
