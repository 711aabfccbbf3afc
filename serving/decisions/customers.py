"""What a store tells of customers beside their predictions: features, attributes, categories."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from features import windows
from features.behaviour import build
from features.catalogue import Catalogue, Vocabulary, catalogue
from features.spine import Cutoffs
from features.store import Bucket, Store
from training.samples import each_bucket

__all__ = ["attribute_names", "categories", "feature_names", "features"]

SPEND: Final = windows.COLUMNS.index("spend")


@cache
def _plain() -> Catalogue:
    """Features that need no vocabulary of a model."""
    return catalogue(Vocabulary())


def feature_names() -> tuple[str, ...]:
    """The features that `features` knows, as ``clv features --dictionary`` explains them."""
    return _plain().names


def attribute_names(store: Store) -> list[str]:
    """The columns of the table customers but the id; none without that table."""
    path = store.people(0)
    names = pq.read_schema(path).names if path.exists() else []
    return sorted(set(names) - {"customer_id"})


def features(
    store: Store, ids: Sequence[str], as_of: int, names: Sequence[str]
) -> dict[str, npt.NDArray[np.float64]]:
    """Features of customers at the instant `as_of`, (ids,) by name; NaN without an order before."""
    cutoffs = Cutoffs.at([as_of], store.zone)
    words = _plain()
    at = [words.places[name] for name in names]
    found = np.full((len(names), len(ids)), np.nan)
    wanted = pd.Index(np.array(ids, object), dtype=object)

    def one(bucket: Bucket) -> None:
        rows = build(bucket, cutoffs, words)
        place = pd.Index(rows.ids[rows.who], dtype=object).get_indexer(wanted)
        here = np.flatnonzero(place >= 0)
        found[:, here] = rows.values[place[here]][:, at].T

    each_bucket(store, one, 1)
    return dict(zip(names, found, strict=True))


def categories(store: Store, ids: Sequence[str], as_of: int) -> pd.DataFrame:
    """Each category that a customer bought before `as_of`, once: place (in `ids`) and category.

    Sorted by place, then category. What was sent back counts as bought.
    """
    wanted = pd.Index(np.array(ids, object), dtype=object)

    def one(bucket: Bucket) -> pd.DataFrame:
        who = np.repeat(np.arange(len(bucket)), np.diff(bucket.starts))
        bought = (bucket.columns[:, SPEND] > 0) & (bucket.ts < as_of) & (bucket.category >= 0)
        place = wanted.get_indexer(pd.Index(bucket.ids, dtype=object))[who[bought]]
        pairs = pd.DataFrame({"place": place, "code": bucket.category[bought]}).drop_duplicates()
        names: npt.NDArray[Any] = np.array([*bucket.levels["category"], ""], object)
        return pairs.assign(category=names[pairs["code"]]).query("place >= 0")

    parts = pd.concat(each_bucket(store, one, 1))[["place", "category"]]
    return parts.sort_values(["place", "category"], ignore_index=True)
