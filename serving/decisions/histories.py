"""Every customer's orders and refunds one by one, as a page tells them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.store import Bucket, Store
from training.samples import each_bucket

__all__ = ["Histories", "histories"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Histories:
    """The orders of the customers asked for: those of row i are [starts[i], starts[i + 1]).

    ``day`` are local days since 1970-01-01, rising; ``amount`` is money in minor units, of which
    there are ``unit`` in a major one: all lines of an order on a day, below zero for refunds.
    """

    starts: Ints
    day: Ints
    amount: Ints
    unit: int


def histories(store: Store, ids: pd.Series, until: int) -> Histories:
    """The orders before the instant `until` of customers `ids`, of which each stands once."""
    names = pd.Index(ids, dtype=object)
    parts = each_bucket(store, lambda bucket: _of(bucket, names, until), 1)
    who, day, amount = (np.concatenate([part[k] for part in parts]) for k in range(3))
    order = np.argsort(who, kind="stable")
    counts = np.bincount(who, minlength=len(names))
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Histories(starts, day[order], amount[order], store.unit)


def _of(bucket: Bucket, names: pd.Index, until: int) -> tuple[Ints, Ints, Ints]:
    """Row, day and sum of each order on a day, those of a customer by day."""
    place = names.get_indexer(pd.Index(bucket.ids, dtype=object))
    who = np.repeat(place, np.diff(bucket.starts))
    here = np.flatnonzero((who >= 0) & (bucket.ts < until))
    if not len(here):
        none = np.zeros(0, np.int64)
        return none, none, none
    keys = (who[here], bucket.day[here], bucket.order[here])
    by = np.lexsort(keys[::-1])
    sorted_keys = [key[by] for key in keys]
    new = np.ones(len(by), bool)
    new[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in sorted_keys])
    first = np.flatnonzero(new)
    sums = np.add.reduceat(bucket.amount[here][by], first)
    kept = sums != 0
    return (
        sorted_keys[0][first][kept].astype(np.int64), sorted_keys[1][first][kept],
        sums[kept].astype(np.int64),
    )  # fmt: skip
