"""Training rows: many past cutoffs of the same customers, each with a label that was ripe in time.

For every row ``cutoff + label length <= known_until`` is asserted: nothing that happened at or
after the moment of training is seen, by features or by labels.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed

from features.behaviour import Rows, build
from features.catalogue import Catalogue
from features.errors import InputError
from features.spine import Cutoffs, add_months, months_between, text
from features.store import Bucket, Store
from training import labels
from training.anchor import History
from training.season import FLAT, Season

__all__ = ["Origin", "Samples", "chosen", "collect", "each_bucket", "gather", "plan"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
T = TypeVar("T")
MIN_HISTORY: Final = 2  # months before the earliest origin: less is no behaviour
YEAR: Final = 12


@dataclass(frozen=True)
class Origin:
    """A past cutoff and the length of its label in calendar months."""

    cutoff: int
    months: int


def plan(first_ts: int, known_until: int, longest: int, zone: str, most: int) -> tuple[Origin, ...]:
    """Past cutoffs, whole months before `known_until`, each with the longest ripe label.

    With a year more history than the longest horizon needs, labels span whole years, so that no
    season is learned as growth; with less, any length up to the horizon serves.

    Raises
    ------
    InputError
        The history holds no cutoff with a label of one month.
    """
    history = months_between(first_ts, known_until, zone)
    oldest = history - MIN_HISTORY if history > MIN_HISTORY else history
    if oldest < 1:
        raise InputError(
            "Training needs at least one whole month of label after some history. The orders from "
            f"{text(first_ts, zone)} to {text(known_until, zone)} hold none. Give a longer history."
        )
    seasonal = longest >= YEAR and history >= longest + YEAR
    found = []
    for back in range(oldest, 0, -1):
        length = min(back, longest)
        if seasonal and length % YEAR:
            length -= length % YEAR
        if length:
            found.append(Origin(add_months(known_until, -back, zone), length))
    if len(found) > most:
        # From the newest on: where only one is wanted, it is that one.
        keep = np.unique(np.linspace(len(found) - 1, 0, most).round().astype(int))
        found = [found[i] for i in keep]
    for origin in found:
        labels.require_ripe(origin.cutoff, origin.months, known_until, zone)
    return tuple(found)


@dataclass(frozen=True)
class Samples:
    """Rows to learn from, in the order customer, cutoff, whatever the order of the input.

    ``features`` is (rows, features); the rest (rows,). ``fold`` is 0 to 4 by customer: early
    stopping holds out whole customers.
    """

    features: Floats
    history: History
    gross: Floats  # currency
    refunds: Floats  # currency
    churned: Floats  # 0 or 1
    months: Ints
    origin: Ints  # index of the origin
    fold: Ints

    def __len__(self) -> int:
        return len(self.gross)


@dataclass(frozen=True)
class _Part:
    ids: npt.NDArray[np.object_]
    samples: Samples


def each_bucket(
    store: Store, work: Callable[[Bucket], T], workers: int, tick: Callable[[], None] | None = None
) -> list[T]:
    """`work` on every bucket, results in the buckets' order. Kernels release the lock: threads."""

    def one(index: int) -> T:
        result = work(store.bucket(index))
        if tick:
            tick()
        return result

    jobs = (delayed(one)(i) for i in range(store.buckets))
    return list(Parallel(n_jobs=workers, prefer="threads")(jobs))


def chosen(bucket: Bucket, share: float) -> npt.NDArray[np.bool_]:
    """A `share` of the customers, (customers,), the same ones wherever they stand."""
    if share >= 1.0:
        return np.ones(len(bucket), bool)
    return _digest(bucket) // 5 % 100_000 < share * 100_000


def _digest(bucket: Bucket) -> Ints:
    return np.array([zlib.crc32(name.encode()) for name in bucket.ids], np.int64)


def gather(
    store: Store,
    catalogue: Catalogue,
    cutoff: int,
    zone: str,
    share: float,
    months: Sequence[int] = (),
    workers: int = 1,
) -> tuple[Rows, dict[int, labels.Labels]]:
    """Rows of one cutoff with labels of each horizon, for a `share` of the customers."""
    cutoffs = Cutoffs.at([cutoff], zone)

    def one(bucket: Bucket) -> tuple[Rows, dict[int, labels.Labels]]:
        rows = build(bucket, cutoffs, catalogue)
        rows = rows.take(chosen(bucket, share)[rows.who])
        return rows, labels.build(bucket, rows, cutoffs, months, store.coverage_end, zone)

    parts = each_bucket(store, one, workers)
    found = {h: labels.Labels.join([part[1][h] for part in parts]) for h in months}
    return Rows.join([part[0] for part in parts]), found


def collect(
    store: Store,
    catalogue: Catalogue,
    origins: Sequence[Origin],
    known_until: int,
    zone: str,
    share: float,
    workers: int = 1,
    tick: Callable[[], None] | None = None,
    season: Season = FLAT,
) -> Samples:
    """Features and labels at every origin for a `share` of the customers, chosen by their id."""

    def one(bucket: Bucket) -> _Part:
        return _bucket(bucket, catalogue, origins, known_until, zone, share, season)

    parts = each_bucket(store, one, workers, tick)
    ids = np.concatenate([part.ids for part in parts])
    samples = _join([part.samples for part in parts])
    order = np.lexsort((samples.origin, np.unique(ids, return_inverse=True)[1]))
    return _take(samples, order)


def _bucket(
    bucket: Bucket,
    catalogue: Catalogue,
    origins: Sequence[Origin],
    known_until: int,
    zone: str,
    share: float,
    season: Season,
) -> _Part:
    cutoffs = Cutoffs.at([origin.cutoff for origin in origins], zone)
    rows = build(bucket, cutoffs, catalogue)
    if share < 1.0:
        rows = rows.take(chosen(bucket, share)[rows.who])
    length = {origin.cutoff: origin.months for origin in origins}
    months = np.array([length[int(t)] for t in cutoffs.times], np.int64)[rows.cut]
    out = np.zeros((3, len(rows)))
    for h, found in labels.build(
        bucket, rows, cutoffs, sorted(set(length.values())), known_until, zone
    ).items():
        here = months == h
        if not found.ripe[here].all():
            raise AssertionError("a training label reaches beyond the moment of training")
        out[0][here], out[1][here] = found.gross[here], found.refunds[here]
        out[2][here] = found.churned[here]
    samples = Samples(
        rows.values, History.of(rows, season, cutoffs.days[rows.cut]), out[0], out[1], out[2],
        months, rows.cut, _digest(bucket)[rows.who] % 5,
    )  # fmt: skip
    return _Part(bucket.ids[rows.who], samples)


def _join(parts: Sequence[Samples]) -> Samples:
    return Samples(
        np.concatenate([p.features for p in parts]),
        History.join([p.history for p in parts]),
        *(
            np.concatenate([getattr(p, name) for p in parts])
            for name in ("gross", "refunds", "churned", "months", "origin", "fold")
        ),
    )


def _take(samples: Samples, which: npt.NDArray[np.intp]) -> Samples:
    return Samples(
        samples.features[which],
        samples.history.take(which),
        *(
            getattr(samples, name)[which]
            for name in ("gross", "refunds", "churned", "months", "origin", "fold")
        ),
    )
