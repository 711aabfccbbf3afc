"""Survey scores and loyalty membership beside retention.

What is compared must have been known before: whoever answers a survey late has stayed until then,
and would be counted for their own staying. So a landmark is taken (Anderson, Cain and Gelber 1983,
Journal of Clinical Oncology 1): answers and memberships before it divide those who were customers
then, and retention is what they did after it. It shows what goes together, not what causes what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from features.errors import InputError
from features.events import MEMBER, SCORE
from features.spine import add_months
from features.store import Events, Store
from serving.decisions.campaigns import attributes
from serving.decisions.journeys import Journeys
from serving.decisions.retention import FEWEST, by_group
from serving.views.language import Note

__all__ = ["Beside", "banded", "beside", "kinds"]

Floats = npt.NDArray[np.float64]
Texts = npt.NDArray[np.object_]
FEW: Final = 5  # different values that each stand for themselves
MOST: Final = 20  # levels of a column
NONE: Final = "none"
NOT_KNOWN: Final = "not known"


@dataclass(frozen=True)
class Beside:
    """Retention by what was known before: source, level, customers, retention, low, high.

    Levels of fewer than 10 customers are left out.
    """

    table: pd.DataFrame
    notes: tuple[str, ...] = field(default_factory=tuple)


def kinds(store: Store) -> list[str]:
    """Kinds of events whose names speak of surveys or of loyalty, sorted."""
    names: set[str] = set()
    for i in range(store.buckets):
        some = store.events(i)
        if some is not None:
            names |= {some.levels[k] for k in np.unique(some.kind).tolist()}
    return sorted(name for name in names if SCORE.search(name) or MEMBER.search(name))


def beside(
    found: Journeys, store: Store, months: int, columns: Sequence[str] | None = None
) -> Beside:
    """Retention by survey score, by membership and by `columns` of the table customers.

    Without `columns` those are taken whose names speak of surveys or of loyalty. ``customers`` are
    those who ordered in the `months` before the landmark.

    Raises
    ------
    InputError
        A column that the table customers lacks, or one with more than 20 levels.
    """
    landmark = add_months(found.until, -months, found.zone)
    tables = []
    for kind in kinds(store):
        known, value = _newest(found, store, kind, landmark)
        scored = bool(SCORE.search(kind)) and bool(np.isfinite(value).any())
        level = banded(value) if scored else np.where(known, "with", NONE).astype(object)
        tables.append(_table(found, f"event {kind}", level, months))
    notes = []
    for name in _columns(store) if columns is None else columns:
        level = _levels(attributes(store, found.ids.tolist(), [name])[name], name)
        tables.append(_table(found, f"customers.{name}", level, months))
    if any(str(table["source"].iloc[0]).startswith("customers.") for table in tables):
        notes.append(Note.of("notes.as_of_today"))
    names = ["source", "level", "customers", "retention", "low", "high"]
    whole = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=names)
    return Beside(whole, tuple(notes))


def _columns(store: Store) -> list[str]:
    path = store.people(0)
    have = pq.read_schema(path).names if path.exists() else []
    return sorted(name for name in have if SCORE.search(name) or MEMBER.search(name))


def _newest(
    found: Journeys, store: Store, kind: str, landmark: int
) -> tuple[npt.NDArray[np.bool_], Floats]:
    """Who has an event of a kind before the landmark, and its newest value, (customers,) each."""
    known, value = np.zeros(len(found), bool), np.full(len(found), np.nan)
    ids = pd.Index(found.ids, dtype=object)
    for i in range(store.buckets):
        some = store.events(i)
        if some is None or kind not in some.levels:
            continue
        who, row = _last(some, some.levels.index(kind), landmark)
        place = ids.get_indexer(pd.Index(some.ids[who], dtype=object))
        here = place >= 0
        known[place[here]] = True
        told = np.where(some.has_value[row], some.value[row] / 1000.0, np.nan)
        value[place[here]] = told[here]
    return known, value


def _last(
    some: Events, kind: int, landmark: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Customers with an event of a kind before the landmark, and the row of the newest one."""
    owner = np.repeat(np.arange(len(some)), np.diff(some.starts))
    rows = np.flatnonzero((some.kind == kind) & (some.ts < landmark))
    who, back = np.unique(owner[rows][::-1], return_index=True)
    return who, rows[::-1][back]


def banded(value: Floats, missing: str = NONE) -> Texts:
    """Levels of scores, (rows,): each of at most 5 values, else bands; NaN is `missing`.

    Whole numbers from 0 to 10 are taken in the bands of the net promoter score, 0-6, 7-8 and 9-10
    (Reichheld 2003, Harvard Business Review 81), others in thirds.
    """
    known = np.isfinite(value)
    told = np.unique(value[known])
    level = np.full(len(value), missing, object)
    if len(told) <= FEW:
        level[known] = [f"{each:g}" for each in value[known]]
    elif (told == np.round(told)).all() and told[0] >= 0 and told[-1] <= 10:
        names = np.array(["0-6", "7-8", "9-10"], object)
        level[known] = names[np.searchsorted([6, 8], value[known])]
    else:
        low, high = np.quantile(value[known], [1 / 3, 2 / 3], method="inverted_cdf")
        names = np.array([f"up to {low:g}", f"up to {high:g}", f"above {high:g}"], object)
        level[known] = names[np.searchsorted([low, high], value[known])]
    return level


def _levels(column: pd.Series, name: str) -> Texts:
    text = column.astype(object).where(column.notna(), None)
    if bool(SCORE.search(name)):
        numbers = pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
        if (np.isfinite(numbers) == text.notna().to_numpy()).all():
            return banded(numbers, NOT_KNOWN)
    level = text.where(text.notna(), NOT_KNOWN).astype(str).to_numpy(object)
    if len(set(level)) > MOST:
        raise InputError(
            f"customers, {name}: must have at most {MOST} levels to be shown beside retention. Got "
            f"{len(set(level)):,}. Name another column by --by."
        )
    return level


def _table(found: Journeys, source: str, level: Texts, months: int) -> pd.DataFrame:
    made = by_group(found, pd.DataFrame({"level": level}), months)
    made = made[made["base"] >= FEWEST]
    return pd.DataFrame(
        {
            "source": source,
            "level": made["level"],
            "customers": made["base"],
            "retention": made["retention"],
            "low": made["retention_low"],
            "high": made["retention_high"],
        }
    )
