"""Behavioural features of every customer at every cutoff, and the vocabulary they need.

One code path for training, batch and online: a bucket of customers and cutoffs in, rows out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features import windows
from features.catalogue import OTHER, Catalogue, Vocabulary
from features.errors import InputError
from features.spine import Cutoffs
from features.store import Bucket, Events

__all__ = ["Counts", "Rows", "build", "engaged", "learn", "profile"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Texts = Mapping[str, npt.NDArray[np.object_]]
LEVELS: Final = 16  # a vocabulary keeps the most frequent; the rest is "other"


@dataclass(frozen=True)
class Counts:
    """How often each level occurs in one bucket before a moment."""

    levels: dict[str, Counter[str]]
    numeric: dict[str, bool]
    events: Counter[str] = field(default_factory=Counter)  # by kind
    valued: frozenset[str] = frozenset()  # kinds of which an event carries a value

    @classmethod
    def of(
        cls, bucket: Bucket, before: int, static: Sequence[str], events_before: int | None = None
    ) -> Counts:
        """Orders by level, and events by kind, in `bucket` before the instant `before`.

        Events are counted before an instant of their own where one is given.
        """
        seen = (bucket.ts < before) & (bucket.columns[:, 1] > 0)
        levels = {}
        for name, codes in (("channel", bucket.channel), ("category", bucket.category)):
            here = codes[seen & (codes >= 0)]
            names = bucket.levels[name]
            count = np.bincount(here, minlength=len(names))
            levels[name] = Counter({names[i]: int(n) for i, n in enumerate(count) if n})
        numeric: dict[str, bool] = {}
        if bucket.attributes is not None:
            known = np.zeros(len(bucket), bool)
            known[np.repeat(np.arange(len(bucket)), np.diff(bucket.starts))[seen]] = True
            for name in (n for n in static if n in bucket.attributes):
                values = bucket.attributes[name][known].dropna().astype(str)
                values = values[values != ""]
                numeric[name] = bool(pd.to_numeric(values, errors="coerce").notna().all())
                levels[name] = Counter(values.tolist())
        if bucket.events is None:
            return cls(levels, numeric)
        until = before if events_before is None else events_before
        past, names = bucket.events.ts < until, bucket.events.levels
        count = np.bincount(bucket.events.kind[past], minlength=len(names))
        valued = np.unique(bucket.events.kind[past & bucket.events.has_value])
        kinds = Counter({names[i]: int(n) for i, n in enumerate(count) if n})
        return cls(levels, numeric, kinds, frozenset(names[i] for i in valued))


def learn(counts: Iterable[Counts]) -> Vocabulary:
    """The `LEVELS` most frequent levels of each column over all buckets, ties by name."""
    merged: dict[str, Counter[str]] = {}
    numeric: dict[str, bool] = {}
    kinds: Counter[str] = Counter()
    valued: set[str] = set()
    for part in counts:
        kinds.update(part.events)
        valued |= part.valued
        for name, counter in part.levels.items():
            merged.setdefault(name, Counter()).update(counter)
        for name, flag in part.numeric.items():
            numeric[name] = numeric.get(name, True) and flag
    top = {name: _top(counter) for name, counter in merged.items()}
    events = _ranked(kinds)[:LEVELS]
    return Vocabulary(
        top.pop("channel", ()),
        top.pop("category", ()),
        tuple((n, None if numeric[n] else top.get(n, ())) for n in sorted(numeric)),
        events,
        tuple(kind for kind in events if kind in valued),
    )


def _top(counter: Counter[str]) -> tuple[str, ...]:
    # A level that is itself called "other" belongs to the slot of that name.
    return tuple(name for name in _ranked(counter) if name != OTHER)[:LEVELS]


def _ranked(counter: Counter[str]) -> tuple[str, ...]:
    return tuple(sorted(counter, key=lambda name: (-counter[name], name)))


@dataclass(frozen=True)
class Rows:
    """Features of (customer, cutoff) rows of one bucket.

    ``who`` (rows,) indexes the bucket's customers, ``cut`` (rows,) the cutoffs; ``values`` is
    (rows, features) float64 with NaN where a quotient has no divisor.
    """

    ids: npt.NDArray[np.object_]
    who: Ints
    cut: Ints
    values: Floats
    catalogue: Catalogue
    attributes: pd.DataFrame | None = None  # of the bucket's customers, in the order of `ids`
    texts: Texts | None = None  # the same, where no frame was made of them

    def __len__(self) -> int:
        return len(self.who)

    def take(self, which: npt.NDArray[np.bool_]) -> Rows:
        """The rows where `which` is true."""
        return replace(self, who=self.who[which], cut=self.cut[which], values=self.values[which])

    @classmethod
    def join(cls, parts: Sequence[Rows]) -> Rows:
        """Rows of several buckets with the same catalogue, one below the other."""
        offsets = np.cumsum([0, *(len(part.ids) for part in parts)])
        known = [part.attributes for part in parts if part.attributes is not None]
        return cls(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.who + offsets[i] for i, part in enumerate(parts)]),
            np.concatenate([part.cut for part in parts]),
            np.concatenate([part.values for part in parts]),
            parts[0].catalogue,
            pd.concat(known) if known else None,
        )

    def column(self, name: str) -> Floats:
        """One feature, (rows,), contiguous."""
        return np.ascontiguousarray(self.values[:, self.catalogue.places[name]])

    def knows(self, name: str) -> bool:
        """Whether anything is said of an attribute of the customers table, if only that none is."""
        told = self.texts is not None and name in self.texts
        return told or (self.attributes is not None and name in self.attributes)

    def attribute(self, name: str) -> list[str]:
        """An attribute of the customers table as text, one per customer; "" where not known."""
        if self.texts is not None and name in self.texts:
            return [str(text) for text in self.texts[name]]
        if self.attributes is None or name not in self.attributes:
            raise InputError(
                f"The customers table must have the column '{name}' that the settings ask for. "
                "Add it, or change the setting."
            )
        values = self.attributes[name]
        return ["" if missing else str(v) for v, missing in zip(values, values.isna(), strict=True)]


def build(
    bucket: Bucket,
    cutoffs: Cutoffs,
    catalogue: Catalogue,
    pairs: tuple[Ints, Ints] | None = None,
) -> Rows:
    """Features of every customer with an order before a cutoff, at that cutoff.

    Rows come in the order customer, cutoff. Nothing at or after a cutoff is seen. `pairs` are the
    customers and cutoffs wanted, by their index and in that order; by default all with all.

    Raises
    ------
    InputError
        The catalogue reads events, and the bucket comes from data without that table.
    """
    n, k = len(bucket), len(cutoffs)
    if pairs is None:
        every, starts = np.arange(n * k) % k, np.arange(n + 1, dtype=np.int64) * k
    else:
        every, starts = pairs[1], np.searchsorted(pairs[0], np.arange(n + 1)).astype(np.int64)
    spine = (starts, cutoffs.times[every], cutoffs.days[every], cutoffs.months[every])
    values, who, place = windows.features_of(
        bucket.starts, bucket.ts, bucket.day, bucket.order, bucket.columns,
        _slots(bucket, catalogue.vocabulary), catalogue.sizes, spine, bucket.unit,
        catalogue.program,
    )  # fmt: skip
    cut = every[starts[who] + place]
    if catalogue.vocabulary.events:
        if bucket.events is None:
            # Taking them for zero would read as: nobody came.
            raise InputError(
                "The data must hold the table events, since the model reads it. Got none. Bring "
                "events.csv; where nobody has any, its header alone."
            )
        beyond = engaged(bucket.events, who, cutoffs.times[cut], catalogue)
        values = np.hstack([values, beyond])
    if catalogue.vocabulary.attributes:
        hidden = bucket.acquired[who] >= cutoffs.times[cut]
        known = profile(bucket.attributes, catalogue.vocabulary, who, hidden, bucket.texts)
        values = np.hstack([values, known])
    return Rows(bucket.ids, who, cut, values, catalogue, bucket.attributes, bucket.texts)


def engaged(events: Events, who: Ints, as_of: Ints, catalogue: Catalogue) -> Floats:
    """Features of events for any rows (customer ``who[r]``, instant ``as_of[r]``), in any order.

    Customers need no order. Columns, (rows, features), are those of the catalogue's family
    "behaviour beyond orders". Nothing at or after a row's own instant is seen.
    """
    kinds = catalogue.vocabulary.events
    slots = np.array([*(_index(kinds).get(kind, -1) for kind in events.levels), -1], np.int64)
    value = np.where(events.has_value, events.value, windows.NO_VALUE)
    order = np.lexsort((as_of, who))
    found = np.empty((len(who), len(catalogue.event_program.outputs)))
    found[order] = windows.event_features(
        events.starts, events.ts, slots[events.kind], value,
        np.asarray(who, np.int64)[order], np.asarray(as_of, np.int64)[order],
        len(kinds), catalogue.event_program,
    )  # fmt: skip
    return found


def _slots(bucket: Bucket, vocabulary: Vocabulary) -> npt.NDArray[np.int32]:
    return windows.slots_of(
        bucket.day, bucket.hour, bucket.channel, bucket.category,
        _placed(bucket.levels["channel"], vocabulary.channel),
        _placed(bucket.levels["category"], vocabulary.category),
    )  # fmt: skip


def _placed(names: list[str], levels: tuple[str, ...]) -> Ints:
    """The slot of each code, and at last that of code -1."""
    if not levels:
        return np.full(len(names) + 1, -1, np.int64)
    place, other = _index(levels), len(levels)
    return np.array([*(place.get(name, other) for name in names), -1], np.int64)


@lru_cache(maxsize=64)
def _index(levels: tuple[str, ...]) -> dict[str, int]:
    return {level: i for i, level in enumerate(levels)}


def profile(
    attributes: pd.DataFrame | None,
    vocabulary: Vocabulary,
    who: Ints,
    hidden: npt.NDArray[np.bool_],
    texts: Texts | None = None,
) -> Floats:
    """Attributes of customers, (rows, attribute features); unknown is NaN, all 0 for text.

    `attributes` has a row per customer, or `texts` an entry; ``who[r]`` is a row's
    customer. Rows whose customer was acquired at or after the cutoff know nothing yet: `hidden`.
    """
    width = sum(1 if levels is None else len(levels) + 1 for _, levels in vocabulary.attributes)
    found, start = np.zeros((len(who), width)), 0
    for name, levels in vocabulary.attributes:
        text = _text(attributes, texts, name)
        end = start + (1 if levels is None else len(levels) + 1)
        if levels is None:
            found[:, start] = np.nan
            if text is not None:
                numbers = _numbers(text, texts is not None)[who]
                known = np.isfinite(numbers) & ~hidden
                found[known, start] = numbers[known]
        elif text is not None:
            place, other = _index(levels), len(levels)
            codes = np.array([place.get(t, other) if t else -1 for t in text.tolist()], np.int64)
            known = (codes[who] >= 0) & ~hidden
            found[known, start + codes[who[known]]] = 1.0
        start = end
    return found


def _text(
    attributes: pd.DataFrame | None, texts: Texts | None, name: str
) -> npt.NDArray[np.object_] | None:
    """An attribute of each customer as text, empty where not known; None where nobody has it."""
    if texts is not None and name in texts:
        return texts[name]
    if attributes is None or name not in attributes:
        return None
    values = attributes[name]
    return np.where(values.notna(), values.astype(str).to_numpy(object), "").astype(object)


def _numbers(text: npt.NDArray[np.object_], few: bool) -> Floats:
    """Numbers in the texts, NaN where there is none."""
    if few:
        return np.array([_number(each) for each in text.tolist()])
    return np.asarray(pd.to_numeric(pd.Series(text), errors="coerce"), np.float64)


@lru_cache(maxsize=4096)
def _number(text: str) -> float:
    # By the same reader as whole columns, so that a number has the same bits in both.
    return float(pd.to_numeric(pd.Series([text], dtype=object), errors="coerce").iloc[0])
