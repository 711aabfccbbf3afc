"""People before their first order: those of the customers table, and what is known of them.

Somebody is a prospect at a cutoff if they signed up before it and have no order before it. Known
are time since sign-up, month, static attributes and events before the cutoff, and nothing else:
what they order later is a label and no feature.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from features import windows
from features.behaviour import Counts, Rows, engaged, profile
from features.catalogue import BEYOND, PROFILE, SEASON, Catalogue, Feature, Vocabulary, catalogue
from features.errors import InputError
from features.spine import DAY, Cutoffs
from features.store import ALWAYS, Bucket, Events, Store, acquired_of

__all__ = ["NEVER", "People", "first_orders", "known", "prospects", "words"]

Ints = npt.NDArray[np.int64]
NEVER: Final = np.iinfo(np.int64).max
ORDERS: Final = windows.COLUMNS.index("orders")
AGE: Final = Feature(
    "days_since_signup", PROFILE, "days", "customers.acquired_at", "days since the sign-up"
)
MONTH: Final = Feature(
    "cutoff_month", SEASON, "month 1-12", "month of the cutoff", "month of the cutoff"
)


@dataclass(frozen=True)
class People:
    """The customers table of one bucket, sorted by id, with or without an order; (people,) each.

    ``acquired`` and ``first`` (the first order) are microseconds UTC; ``ALWAYS`` is an unknown
    sign-up, ``NEVER`` no order at all. ``lines`` are their orders: customer ``place[i]`` of it.
    """

    ids: npt.NDArray[np.object_]
    acquired: Ints
    first: Ints
    attributes: pd.DataFrame
    events: Events | None
    lines: Bucket
    place: Ints

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, store: Store, index: int, events: bool = True) -> People:
        """Read one bucket of a store that holds a table of customers; without `events` if asked."""
        bucket = store.bucket(index)
        attributes = store.attributes(index)
        ids = attributes.index.to_numpy(object)
        # One customer more, who has no line, stands for all who never ordered.
        starts = np.append(bucket.starts, bucket.starts[-1])
        place = pd.Index(bucket.ids, dtype=object).get_indexer(pd.Index(ids, dtype=object))
        place = np.where(place < 0, len(bucket), place).astype(np.int64)
        told = store.events(index) if events else None
        # Who has ordered was read with their lines.
        acquired, others = np.append(bucket.acquired, ALWAYS)[place], place == len(bucket)
        acquired[others] = acquired_of(attributes[others], int(others.sum()), store.zone)
        return cls(
            ids, acquired,
            np.append(first_orders(bucket), NEVER)[place], attributes,
            None if told is None else told.of_customers(ids),
            replace(bucket, starts=starts), place,
        )  # fmt: skip

    def counts(self, before: int, static: Sequence[str]) -> Counts:
        """How often each attribute's level and kind of event occurs among prospects.

        Counted are people who signed up before the instant `before` and had not ordered then, and
        their events before it and before their first order.
        """
        here = (self.acquired > ALWAYS) & (self.acquired < np.minimum(before, self.first))
        levels: dict[str, Counter[str]] = {}
        numeric: dict[str, bool] = {}
        for name in (name for name in static if name in self.attributes):
            values = self.attributes[name][here].dropna().astype(str)
            values = values[values != ""]
            numeric[name] = bool(pd.to_numeric(values, errors="coerce").notna().all())
            levels[name] = Counter(values.tolist())
        if self.events is None:
            return Counts(levels, numeric)
        owner = np.repeat(np.arange(len(self)), np.diff(self.events.starts))
        past = self.events.ts < np.minimum(self.first, before)[owner]
        seen, names = past & here[owner], self.events.levels
        count = np.bincount(self.events.kind[seen], minlength=len(names))
        valued = np.unique(self.events.kind[seen & self.events.has_value])
        kinds = Counter({names[i]: int(n) for i, n in enumerate(count) if n})
        return Counts(levels, numeric, kinds, frozenset(names[i] for i in valued))


def known(store: Store) -> bool:
    """Whether the store has a table of customers that tells when they signed up."""
    path = store.people(0)
    return path.exists() and "acquired_at" in pq.read_schema(path).names


def words(vocabulary: Vocabulary) -> Catalogue:
    """The features of prospects under a vocabulary: days since sign-up, month, events, profile."""
    rest = (f for f in catalogue(vocabulary).features if f.family in (BEYOND, PROFILE))
    return Catalogue(vocabulary, (AGE, MONTH, *rest))


def prospects(people: People, cutoffs: Cutoffs, vocabulary: Vocabulary) -> Rows:
    """Features of everybody who signed up before a cutoff and has no order before it.

    Rows come in the order person, cutoff. Nothing at or after a row's cutoff is seen.

    Raises
    ------
    InputError
        The vocabulary has events, and the people come from data without that table.
    """
    signed = people.acquired[:, None] < cutoffs.times
    waiting = people.first[:, None] >= cutoffs.times
    who, cut = np.nonzero((people.acquired > ALWAYS)[:, None] & signed & waiting)
    as_of = cutoffs.times[cut]
    parts = [
        ((as_of - people.acquired[who]) / DAY)[:, None],
        cutoffs.months[cut].astype(np.float64)[:, None],
    ]
    full = catalogue(vocabulary)
    if vocabulary.events:
        if people.events is None:
            raise InputError(
                "The data must hold the table events, since the model reads it. Got none. Bring "
                "events.csv; where nobody has any, its header alone."
            )
        parts.append(engaged(people.events, who, as_of, full))
    if vocabulary.attributes:
        nobody = np.zeros(len(who), bool)
        parts.append(profile(people.attributes, vocabulary, who, nobody))
    return Rows(people.ids, who, cut, np.hstack(parts), words(vocabulary), people.attributes)


def first_orders(bucket: Bucket) -> Ints:
    """The instant of each customer's first order, (customers,); NEVER without one."""
    found = np.full(len(bucket), NEVER, np.int64)
    owner = np.repeat(np.arange(len(bucket)), np.diff(bucket.starts))
    ordered = np.flatnonzero(bucket.columns[:, ORDERS] > 0)
    who, first = np.unique(owner[ordered], return_index=True)
    found[who] = bucket.ts[ordered[first]]
    return found
