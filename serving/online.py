"""Customers from the raw orders of a request: the same bits as `serving.batch`, in a millisecond.

No database and no frames: records become a bucket (`features.records`), the rest is what batch
scoring does with a bucket. `Scorer` keeps what depends on the model alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from features import records
from features.behaviour import Rows, build
from features.catalogue import Catalogue
from features.records import Note, RecordError, Where
from features.spine import Cutoffs
from features.store import Bucket
from serving import prospective
from serving.loader import Loaded
from serving.reasons import lines_of

__all__ = ["Answer", "Scorer", "scorer_of", "warm"]


@dataclass(frozen=True)
class Answer:
    """Rows of the predictions table, in the order of the request, and what should be known."""

    predictions: list[dict[str, Any]]
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class Scorer:
    """Scores requests with one loaded model."""

    loaded: Loaded

    @cached_property
    def catalogue(self) -> Catalogue:
        """The model's features; making their list takes longer than a prediction."""
        return self.loaded.model.catalogue

    def predict(
        self,
        customers: Sequence[Mapping[str, Any]],
        as_of: int,
        months: tuple[int, ...],
        reasons: int = 0,
    ) -> Answer:
        """Predictions of customers with their raw ``orders``, as of an instant.

        Raises
        ------
        RecordError
            The first field that is not as it must be, or a customer without an order before
            `as_of` who is no prospect either.
        """
        model = self.loaded.model
        read = records.read(customers, model.settings)
        self._require_events(customers)
        self._require_contract(read.bucket)
        at = cutoff(as_of, model.settings.business.time_zone)
        rows = build(read.bucket, at, self.catalogue)
        found = self.answer(rows, as_of, months, reasons) if len(rows) else []
        if len(rows) < len(customers):
            waiting = sorted(set(range(len(customers))) - set(rows.who.tolist()))
            own = (self.loaded, customers, read.bucket, waiting, at, months, reasons)
            for i, row in zip(waiting, prospective.predict(*own), strict=True):
                found.insert(i, row)
        return Answer(found, (*read.notes, *self._notes(read.bucket, customers)))

    def answer(
        self, rows: Rows, as_of: int, months: tuple[int, ...], reasons: int = 0
    ) -> list[dict[str, Any]]:
        """The predictions table of feature rows, as plain values by row; None where not known."""
        model = self.loaded.model
        why = lines_of(model, rows, as_of, min(months), reasons) if reasons else None
        return model.tabled(rows, as_of, months, self.loaded.version).plain(why)

    def _require_events(self, customers: Sequence[Mapping[str, Any]]) -> None:
        if not self.catalogue.vocabulary.events:
            return
        for i, customer in enumerate(customers):
            if customer.get("events") is None:
                # Taking them for none would read as: they never came.
                raise RecordError(("customers", i, "events"), "missing_events", "must be "
                                  "given, since the model reads them; [] for none")  # fmt: skip

    def _require_contract(self, bucket: Bucket) -> None:
        rule = self.loaded.model.settings.business.churn
        if rule == "contract_end" and "contract_end" not in (bucket.texts or ()):
            where = ("customers", 0, "profile", "contract_end")
            must = "must be given: the model's churn is the end of contracts"
            raise RecordError(where, "missing_field", must)

    def _notes(self, bucket: Bucket, customers: Sequence[Mapping[str, Any]]) -> list[Note]:
        """What the model learned from and these customers lack, and levels it does not know."""
        known, found = self.catalogue.vocabulary, []
        for name in ("channel", "category"):
            levels: tuple[str, ...] = getattr(known, name)
            if levels and not bucket.levels[name]:
                found.append(Note(("customers",), "missing_column", f"no order has a {name}"))
            elif levels and not set(bucket.levels[name]) <= {*levels, ""}:
                found += _unknown(customers, name, frozenset(levels))
        for name, places in known.attributes:
            texts = None if bucket.texts is None else bucket.texts.get(name)
            if texts is None or not any(texts):
                found.append(Note(("customers",), "missing_column", f"no profile has {name}"))
            elif places is not None:
                found += [
                    _other(("customers", i, "profile", name))
                    for i, text in enumerate(texts) if text and text not in places
                ]  # fmt: skip
        rate = self.loaded.model.settings.business.discount_rate_by_segment.column
        if rate and rate not in dict(known.attributes) and rate not in (bucket.texts or ()):
            found.append(Note(("customers",), "missing_column", f"no profile has {rate}"))
        return found


def _unknown(
    customers: Sequence[Mapping[str, Any]], name: str, levels: frozenset[str]
) -> list[Note]:
    return [
        _other(("customers", i, "orders", j, name))
        for i, customer in enumerate(customers)
        for j, order in enumerate(customer["orders"])
        if order.get(name) and order[name] not in levels
    ]


def _other(where: Where) -> Note:
    return Note(where, "unknown_level", "not among the levels the model learned: counts as other")


@lru_cache(maxsize=1024)
def cutoff(as_of: int, zone: str) -> Cutoffs:
    """One moment of prediction."""
    return Cutoffs.at([as_of], zone)


def scorer_of(loaded: Loaded) -> Scorer:
    """The scorer of a model: the same one for each request, until other models are loaded."""
    for known in tuple(_KNOWN):  # another thread may be warming up the next model
        if known.loaded is loaded:
            return known
    _KNOWN.append(Scorer(loaded))
    return _KNOWN[-1]


def warm(loaded: Loaded) -> None:
    """Score one synthetic customer: what is made once is made before somebody waits for it."""
    scorer = scorer_of(loaded)
    as_of = loaded.model.trained_until
    orders = [
        {"order_ts": str(np.datetime64(as_of - 86_400_000_000 * k, "us")), "amount": 10.0}
        for k in (400, 30, 2)
    ]
    profile = {"contract_end": "2000-01-01"}
    customer = {"customer_id": "warm", "orders": orders, "events": [], "profile": profile}
    scorer.predict([customer], as_of, loaded.model.settings.horizons.months, reasons=3)


#: The one that serves and the one before or after it; older models can go.
_KNOWN: deque[Scorer] = deque(maxlen=2)
