"""Prospects in a request: people who signed up and have no order yet, as `clv predict --prospects`.

Somebody without an order before ``as_of`` is one if the profile tells ``acquired_at``, the moment
of sign-up, and that lies before it. The answers are those of the model of prospects, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from features import people
from features.people import NEVER, People
from features.records import RecordError
from features.spine import Cutoffs
from features.store import ALWAYS, Bucket
from serving.loader import Loaded
from serving.reasons import lines_of
from training.reasons import explain_prospects

__all__ = ["predict"]

NO_ORDER: Final = (
    "must hold an order with a positive amount before as_of; for somebody who has none yet, "
    "profile.acquired_at must be the moment of sign-up, before as_of"
)
UNKNOWN: Final = (
    "must hold an order with a positive amount before as_of: this model was trained without "
    "people who had not ordered yet"
)


def predict(
    loaded: Loaded,
    customers: Sequence[Mapping[str, Any]],
    bucket: Bucket,
    which: Sequence[int],
    cutoff: Cutoffs,
    months: tuple[int, ...],
    reasons: int = 0,
) -> list[dict[str, Any]]:
    """Rows of the predictions table of the customers ``which``, who have no order before `cutoff`.

    `bucket` holds all `customers` of the request, in their order.

    Raises
    ------
    RecordError
        Somebody is no prospect either, or the model knows none, or reads events that are missing.
    """
    model, as_of = loaded.model, int(cutoff.times[0])
    for i in which:
        if not ALWAYS < bucket.acquired[i] < as_of:
            raise RecordError(("customers", i, "orders"), "no_order", NO_ORDER)
    if model.prospects is None:
        raise RecordError(("customers", which[0], "orders"), "no_prospects", UNKNOWN)
    vocabulary = model.prospects.vocabulary
    for i in which:
        if vocabulary.events and customers[i].get("events") is None:
            must = "must be given, since the model reads them; [] for none"
            raise RecordError(("customers", i, "events"), "missing_events", must)
    rows = people.prospects(_people(bucket, np.array(which)), cutoff, vocabulary)
    told = None
    if reasons:
        told = lines_of(model, rows, as_of, min(months), reasons, explain_prospects)
    return model.tabled_prospects(rows, as_of, months, loaded.version).plain(told)


def _people(bucket: Bucket, which: Any) -> People:
    ids, nothing = bucket.ids[which], np.full(len(which), NEVER, np.int64)
    texts = {name: text[which] for name, text in (bucket.texts or {}).items()}
    events = None if bucket.events is None else bucket.events.of_customers(ids)
    return People(
        ids, bucket.acquired[which], nothing, pd.DataFrame(texts, index=ids), events, bucket, which
    )
