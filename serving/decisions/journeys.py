"""Each customer's orders from the first one on: what retention, life and referrals are read from.

Orders are those of the contract: lines of one order_id (without one: of one customer and local
day) that sum to more than zero. Refunds lower the money of the month they fall into.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from features import windows
from features.errors import InputError
from features.spine import local_day, text
from features.store import Bucket, Store, month_of
from serving.decisions.money import earning
from training.samples import each_bucket

__all__ = ["PERIODS", "Journeys", "Period", "journeys", "labels", "period_of"]

Ints = npt.NDArray[np.int64]
Period = Literal["month", "quarter"]
PERIODS: Final = get_args(Period)
MONTHS: Final = 1 << 12  # more than there are from 1970 to 2099
ORDERS: Final = windows.COLUMNS.index("orders")


@dataclass(frozen=True)
class Journeys:
    """Everybody with an order before `until`, sorted by id (bytewise), and all their orders.

    ``starts`` (customers + 1,) is the first order of each; ``ts`` (microseconds UTC) and ``day``
    (local day number) are (orders,), in the order of time. ``who``, ``month`` (number since
    1970-01), ``money`` (minor units, bought less given back, may be negative), ``known`` (the part
    of it whose cost is known) and ``cost`` are one entry per customer and month with any line.
    ``complete`` is the local day up to which all is known.
    """

    ids: npt.NDArray[np.object_]
    starts: Ints
    ts: Ints
    day: Ints
    who: Ints
    month: Ints
    money: Ints
    known: Ints
    cost: Ints
    until: int
    complete: int
    unit: int
    zone: str

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def counts(self) -> Ints:
        """Orders of each customer, (customers,), at least 1."""
        return np.diff(self.starts)

    @cached_property
    def owner(self) -> Ints:
        """Whose each order is, (orders,)."""
        return np.repeat(np.arange(len(self)), self.counts)

    @cached_property
    def first_day(self) -> Ints:
        """Local day of each customer's first order, (customers,)."""
        return self.day[self.starts[:-1]]

    def within(self, ends: Ints) -> Ints:
        """Orders of each customer before the local day ``ends[customer]``, (customers,)."""
        return np.bincount(self.owner[self.day < ends[self.owner]], minlength=len(self))

    def cohort(self, period: Period = "month") -> npt.NDArray[np.object_]:
        """When each customer ordered first, (customers,): ``2024-03`` or ``2024-Q1``."""
        return labels(period_of(month_of(self.first_day), period), period)


def period_of(months: Ints, period: Period) -> Ints:
    """Numbers of months since 1970-01 as numbers of periods.

    Raises
    ------
    InputError
        A period that is neither month nor quarter.
    """
    if period not in PERIODS:
        raise InputError(f"--period must be {' or '.join(PERIODS)}. Got {period!r}.")
    return months if period == "month" else months // 3


def labels(periods: Ints, period: Period) -> npt.NDArray[np.object_]:
    """Names of numbers of periods: ``2024-03`` or ``2024-Q1``."""
    size, mark = (12, "") if period == "month" else (4, "Q")
    wide = 2 if period == "month" else 1
    return np.array(
        [f"{1970 + p // size}-{mark}{p % size + 1:0{wide}d}" for p in periods.tolist()], object
    )


def journeys(store: Store, until: int | None = None) -> Journeys:
    """Read the store up to the instant `until`, by default the end of the data's coverage.

    Raises
    ------
    InputError
        Nobody has an order before it.
    """
    end = store.coverage_end if until is None else min(until, store.coverage_end)
    parts = [part for part in each_bucket(store, lambda one: _of(one, end), 1) if len(part[0])]
    if not parts:
        raise InputError(
            f"Somebody must have an order before {text(end, store.zone)}. Nobody has. Take a later "
            "--as-of."
        )
    return _joined(parts, end, store)


_Part = tuple[npt.NDArray[np.object_], Ints, Ints, Ints, Ints, Ints, Ints]


def _of(bucket: Bucket, until: int) -> _Part:
    """Ids, and orders (whose, instant, day) and months (whose, month, sums) before `until`."""
    owner = np.repeat(np.arange(len(bucket)), np.diff(bucket.starts))
    past = bucket.ts < until
    ordered = np.flatnonzero(past & (bucket.columns[:, ORDERS] > 0))
    buyers, new = np.unique(owner[ordered], return_inverse=True)
    place = np.full(len(bucket), -1, np.int64)
    place[buyers] = np.arange(len(buyers))
    lines = np.flatnonzero(past & (place[owner] >= 0))
    keys = place[owner[lines]] * MONTHS + month_of(bucket.day[lines])
    pairs, group = np.unique(keys, return_inverse=True)
    sums = np.zeros((len(pairs), 3), np.int64)
    # Not bincount: its weights are floats, and money is exact.
    np.add.at(sums, group, earning(bucket)[lines, :3])
    return (
        bucket.ids[buyers], new.astype(np.int64), bucket.ts[ordered], bucket.day[ordered],
        pairs // MONTHS, pairs % MONTHS, sums,
    )  # fmt: skip


def _joined(parts: Sequence[_Part], until: int, store: Store) -> Journeys:
    """All buckets together, by id."""
    shift = np.cumsum([0, *(len(part[0]) for part in parts)])
    ids = np.concatenate([part[0] for part in parts])
    order = np.argsort(ids, kind="stable")
    rank = np.empty(len(ids), np.int64)
    rank[order] = np.arange(len(ids))
    whose, ts, day, who, month, sums = (
        np.concatenate([part[k] + (start if k in (1, 4) else 0)
                        for part, start in zip(parts, shift[:-1], strict=True)])
        for k in range(1, 7)
    )  # fmt: skip
    whose, who = rank[whose], rank[who]
    by, at = np.lexsort((ts, whose)), np.lexsort((month, who))
    starts = np.concatenate([[0], np.cumsum(np.bincount(whose, minlength=len(ids)))])
    money, known, cost = (np.ascontiguousarray(column) for column in sums[at].T)
    return Journeys(
        ids[order], starts.astype(np.int64), ts[by], day[by], who[at], month[at], money, known,
        cost, until, local_day(until, store.zone), store.unit, store.zone,
    )  # fmt: skip
