"""What a model of prospects learns from: how long people wait for a first order, and its worth.

A life table counts occurrence over exposure: people still without an order count for as long as
they were seen. Rows are taken at past cutoffs, each with a label that was ripe in time.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from scipy.special import inv_boxcox

from features import people
from features.behaviour import Counts, Rows
from features.catalogue import Vocabulary
from features.people import NEVER, People
from features.settings import MAX_MONTHS, Settings
from features.spine import DAY, Cutoffs
from features.store import ALWAYS, Store
from training import labels
from training.lifetimes import CERTAIN
from training.samples import Origin

__all__ = ["LifeTable", "Survey", "Waiting", "collect", "each_people", "labelled", "survey"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
T = TypeVar("T")
HOUR: Final = 3_600  # seconds
#: Bounds of the life table in days since sign-up; the last interval is open.
KNOTS: Final = (
    0.0, 1 / 24, 0.25, 1.0, 2.0, 4.0, 7.0, 14.0, 21.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 270.0,
    365.0, 545.0, 730.0, 1095.0,
)  # fmt: skip


@dataclass(frozen=True)
class LifeTable:
    """First orders per day of waiting, by days since sign-up: constant between `KNOTS`."""

    rates: tuple[float, ...]

    @classmethod
    def fit(cls, orders: Ints, seconds: Ints) -> LifeTable:
        """From first orders and seconds of waiting in each interval, (knots,).

        An interval is pulled to the one before it as if one more first order had come at its rate.
        """
        days = seconds / (DAY / 1e6)
        rate = float(orders.sum()) / max(float(days.sum()), 1e-9)
        found = []
        for count, exposed in zip(orders.tolist(), days.tolist(), strict=True):
            rate = (count + 1.0) / (exposed + 1.0 / rate) if rate > 0 else 0.0
            found.append(rate)
        return cls(tuple(found))

    def waited(self, age: Floats) -> Floats:
        """First orders expected of somebody who waits from sign-up to `age` days, any shape."""
        sums = np.concatenate([[0.0], np.cumsum(np.diff(KNOTS) * np.asarray(self.rates[:-1]))])
        beyond = np.maximum(age - KNOTS[-1], 0.0) * self.rates[-1]
        return np.asarray(np.interp(age, KNOTS, sums) + beyond)

    def none(self, age: Floats, days: Floats) -> Floats:
        """Chance of no order within the next `days`, given none up to `age` days."""
        waited = self.waited(age + days) - self.waited(age)
        # inv_boxcox(x, 0) is exp by scipy's scalar loop: exact by row.
        return np.clip(inv_boxcox(-waited, 0.0), CERTAIN, 1.0 - CERTAIN)


@dataclass(frozen=True)
class Waiting:
    """Training rows of prospects in the order person, cutoff; (rows,) each, `rows` their features.

    ``months`` is the length of a row's label, ``came`` the net revenue by the end of months 1 to
    24 (rows, 24), NaN beyond it.
    """

    rows: Rows
    gross: Floats
    churned: Floats
    came: Floats
    months: Ints
    fold: Ints

    def __len__(self) -> int:
        return len(self.gross)

    @classmethod
    def join(cls, parts: Sequence[Waiting]) -> Waiting:
        """Rows of several buckets, one below the other."""
        names = ("gross", "churned", "came", "months", "fold")
        arrays = [np.concatenate([getattr(part, name) for part in parts]) for name in names]
        return cls(Rows.join([part.rows for part in parts]), *arrays)

    def take(self, which: npt.NDArray[np.intp]) -> Waiting:
        """The rows of an index."""
        rows = self.rows
        some = replace(rows, who=rows.who[which], cut=rows.cut[which], values=rows.values[which])
        names = ("gross", "churned", "came", "months", "fold")
        return Waiting(some, *(getattr(self, name)[which] for name in names))

    @property
    def conversions(self) -> int:
        """People with an order in any label."""
        return len(np.unique(self.rows.who[self.churned == 0]))


@dataclass(frozen=True)
class Survey:
    """What one bucket of people says before features are built."""

    signed: int  # people with a known sign-up before the moment
    silent: int  # of these, without any order at any time
    orders: Ints  # first orders in each interval of the life table
    seconds: Ints  # waited in each of them
    counts: Counts


def survey(one: People, known_until: int, static: Sequence[str]) -> Survey:
    """Count the people of one bucket; only `silent` looks beyond the instant `known_until`."""
    here = (one.acquired > ALWAYS) & (one.acquired < known_until)
    began = here & (one.first >= one.acquired)
    start = one.acquired[began]
    end = np.minimum(one.first[began], known_until)
    edges = np.array([round(day * 24 * HOUR) for day in KNOTS] + [1 << 40], np.int64)
    waited = (end - start) // 1_000_000
    seconds = np.diff(np.minimum(waited[:, None], edges), axis=1).sum(axis=0)
    came = waited[one.first[began] < known_until]
    orders = np.bincount(np.searchsorted(edges, came, "right") - 1, minlength=len(KNOTS))
    return Survey(
        int(here.sum()), int((here & (one.first == NEVER)).sum()), orders, seconds,
        one.counts(known_until, static),
    )  # fmt: skip


def collect(
    store: Store,
    vocabulary: Vocabulary,
    origins: Sequence[Origin],
    known_until: int,
    settings: Settings,
    workers: int = 1,
) -> Waiting:
    """Features and labels of prospects at every origin, for as many people as `max_rows` allows."""
    zone = settings.business.time_zone
    cutoffs = Cutoffs.at([origin.cutoff for origin in origins], zone)
    months = np.array([origin.months for origin in origins], np.int64)
    parts = each_people(
        store, lambda one: labelled(one, cutoffs, months, vocabulary, known_until, zone), workers
    )
    rows = sum(len(part) for part in parts)
    parts = [_thinned(part, settings.model.max_rows / max(rows, 1)) for part in parts]
    joined = Waiting.join(parts)
    who = np.unique(joined.rows.ids[joined.rows.who], return_inverse=True)[1]
    return joined.take(np.lexsort((joined.rows.cut, who)))


def labelled(
    one: People, cutoffs: Cutoffs, months: Ints, vocabulary: Vocabulary, known_until: int, zone: str
) -> Waiting:
    """Rows of one bucket's prospects at every cutoff, with labels of ``months[k]`` at cutoff k."""
    rows = people.prospects(one, cutoffs, vocabulary)
    length = months[rows.cut]
    asked = Rows(one.ids, one.place[rows.who], rows.cut, rows.values, rows.catalogue)
    each = range(1, int(months.max()) + 1)
    found = labels.build(one.lines, asked, cutoffs, each, known_until, zone)
    gross, churned = np.zeros(len(rows)), np.zeros(len(rows))
    came = np.full((len(rows), MAX_MONTHS), np.nan)
    for h, label in found.items():
        inside = length >= h
        came[inside, h - 1] = label.net[inside]
        here = length == h
        if not label.ripe[here].all():
            raise AssertionError("a training label reaches beyond the moment of training")
        gross[here], churned[here] = label.gross[here], label.churned[here]
    fold = np.array([zlib.crc32(name.encode()) for name in one.ids], np.int64)[rows.who] % 5
    return Waiting(rows, gross, churned, came, length, fold)


def _thinned(part: Waiting, share: float) -> Waiting:
    if share >= 1.0:
        return part
    digest = np.array([zlib.crc32(name.encode()) for name in part.rows.ids], np.int64)
    return part.take(np.flatnonzero((digest // 5 % 100_000 < share * 100_000)[part.rows.who]))


def each_people(store: Store, work: Callable[[People], T], workers: int) -> list[T]:
    """`work` on the people of every bucket, results in the buckets' order."""
    jobs = (delayed(lambda i: work(People.of(store, i)))(i) for i in range(store.buckets))
    return list(Parallel(n_jobs=workers, prefer="threads")(jobs))
