"""The whole base, bucket by bucket: read, score, write whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from joblib import Parallel, delayed

from features import people
from features.behaviour import Rows, build
from features.errors import InputError
from features.people import People
from features.reading import Data, as_of_in, read
from features.spine import Cutoffs, instant, text
from features.store import Store
from features.tables import Ingested
from serving import parts
from serving.loader import Loaded
from serving.parts import Parts
from serving.progress import counted
from serving.reasons import How, column
from serving.writing import replacing, write_pieces
from training import registry
from training.fitting import Progress
from training.model import Model, Predictions
from training.reasons import explain, explain_prospects

__all__ = ["Scored", "score"]

Priced = Callable[[Rows, int, Sequence[int]], Predictions]


@dataclass(frozen=True)
class Scored:
    """The predictions table and where it came from.

    ``table`` is the frame itself, or the file in which a batch keeps it. ``missing`` are the
    columns that the model learned from and these data lack, first those of the orders, then
    ``customer_NAME`` for those of the table customers. It predicts without them.
    """

    table: pd.DataFrame | Path
    as_of: str
    ingested: Ingested
    missing: tuple[str, ...] = ()

    @property
    def frame(self) -> pd.DataFrame:
        """The whole table; of a million customers it takes a gigabyte."""
        return self.some(self.names)

    @property
    def names(self) -> list[str]:
        """The names of its columns."""
        if isinstance(self.table, Path):
            return list(pq.read_schema(self.table).names)
        return [str(name) for name in self.table]

    def some(self, names: Sequence[str]) -> pd.DataFrame:
        """The columns `names` alone."""
        if isinstance(self.table, Path):
            return pd.read_parquet(self.table, columns=list(names))
        return self.table[list(names)]


@dataclass(frozen=True)
class _Asked:
    """What is asked of every bucket."""

    loaded: Loaded
    as_of: int
    months: tuple[int, ...]
    reasons: int
    prospects: bool
    flows: int  # months of cash flow beside each row; 0 for none
    workers: int
    language: str  # of the reasons

    @property
    def model(self) -> Model:
        return self.loaded.model

    @property
    def flow_names(self) -> list[str]:
        """The columns of the cash flow."""
        return [f"month_{m}" for m in range(1, self.flows + 1)]

    def kept(self, store: Store) -> AbstractContextManager[Parts]:
        """The parts of this batch, which an earlier run may have finished."""
        options = (self.as_of, self.months, self.reasons, self.prospects, self.flows,
                   self.language)  # fmt: skip
        return parts.kept(store, self.model, self.loaded.version, *options)


def score(
    loaded: Loaded,
    data: Data,
    *,
    as_of: str | None = None,
    horizons: Sequence[int] | None = None,
    config: Path | None = None,
    workers: int | None = None,
    allow_gap: bool = False,
    reasons: int = 0,
    prospects: bool = False,
    cashflow: Path | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
    language: str = "en",
) -> Scored:
    """Predictions for every customer with an order before `as_of`, sorted by customer_id.

    With `out`, a CSV or Parquet file, they are written there piece by piece, never held whole, and
    kept under ``CLV_HOME/predictions``, to be held against what will happen.

    With `reasons` above 0 there is the column of that name: JSON, so many terms by their money,
    told in `language`.
    With `prospects` also for everybody in the table customers who signed up before `as_of` and has
    no order before it; their evidence is ``cold_start``.

    `cashflow` is a file to write, .csv or .parquet: customer_id, as_of and ``month_1`` to
    ``month_H``, up to the longest horizon, each the discounted margin less the cost to keep of that
    month. The first h of them add up to ``clv_{h}m``.

    Raises
    ------
    InputError
        Data, settings, `as_of` or horizons are not as they must be.
    """
    settings, months = loaded.settings(data, config), loaded.months(horizons)
    if reasons < 0:
        raise InputError(f"reasons must be 0 or more. Got {reasons}. 3 tells the three largest.")
    zone = settings.business.time_zone
    if as_of is not None:
        instant(as_of, zone)  # a slip in the date is told before a long read, not after
    if prospects:
        loaded.model.require_prospects()
    with read(data, settings, progress) as (store, ingested):
        moment = as_of_in(store, as_of, settings, allow_gap)
        cores = workers or os.cpu_count() or 1
        flows = max(months) if cashflow else 0
        asked = _Asked(loaded, moment, months, reasons, prospects, flows, cores, language)
        with asked.kept(store) as some:
            _all(asked, store, progress, some)
            given, hidden = some.names(), asked.flow_names
            if cashflow and some.rows:
                each_month = some.pieces(only=["customer_id", "as_of", *hidden])
                write_pieces(each_month, cashflow, "--cashflow")
            if out and some.rows:
                place = _kept_at(text(moment, zone), loaded.version)
                table: pd.DataFrame | Path = _put(some, hidden, out, place, progress)
            else:
                table = some.frame(without=hidden)
    if not some.rows:
        raise InputError(
            f"Somebody must have an order before {text(moment, zone)}. Nobody has. "
            "Take a later --as-of."
        )
    known = loaded.model.vocabulary
    wanted = [column for column in ("channel", "category") if known.slots(column)]
    missing = [column for column in wanted if column not in ingested.columns_present]
    rate = loaded.model.settings.business.discount_rate_by_segment.column
    learned = dict.fromkeys([*(name for name, _ in known.attributes), *([rate] if rate else [])])
    missing += [f"customer_{name}" for name in learned if name not in given]
    return Scored(table, text(moment, zone), ingested, tuple(missing))


def _all(asked: _Asked, store: Store, progress: Progress | None, finished: Parts) -> None:
    """Score what an earlier run has not finished: customers by bucket, after them prospects."""
    if asked.prospects and not people.known(store):
        raise InputError(
            "--prospects needs a table customers with acquired_at, the moment of sign-up. Got "
            "none. Bring customers.csv, or go without it."
        )
    model, as_of, done = asked.model, asked.as_of, [0, 0]  # buckets, customers
    cutoffs = Cutoffs.at([as_of], model.settings.business.time_zone)

    def customers(index: int) -> tuple[pd.DataFrame, list[str]]:
        bucket = store.bucket(index)
        rows = build(bucket, cutoffs, model.catalogue)
        table = model.table(rows, as_of, asked.months, asked.loaded.version)
        return _more(table, asked, rows, explain, model.priced), sorted(_known(bucket.attributes))

    def waiting(index: int) -> tuple[pd.DataFrame, list[str]]:
        vocabulary = model.require_prospects().vocabulary
        rows = people.prospects(People.of(store, index), cutoffs, vocabulary)
        table = model.prospect_table(rows, as_of, asked.months, asked.loaded.version)
        return _more(table, asked, rows, explain_prospects, model.priced_prospects), []

    def one(part: int) -> None:
        kind, index = divmod(part, store.buckets)
        table, names = (waiting if kind else customers)(index)
        finished.put(part, table, names)
        done[0], done[1] = done[0] + 1, done[1] + len(table)
        if progress:
            counted(progress, "customers", done[1])
            progress("scoring", done[0] / len(left))

    count = store.buckets * (2 if asked.prospects else 1)
    left = [part for part in range(count) if not finished.done(part)]
    list(Parallel(n_jobs=asked.workers, prefer="threads")(delayed(one)(part) for part in left))


def _more(table: pd.DataFrame, asked: _Asked, rows: Rows, how: How, priced: Priced) -> pd.DataFrame:
    """The table with reasons of the first horizon's value and each month's cash flow, as asked."""
    if asked.reasons:
        about = (asked.as_of, min(asked.months), asked.reasons)
        told = column(asked.model, rows, *about, how, asked.language) if len(rows) else []
        table.insert(len(table.columns) - 1, "reasons", told)  # before the model's version
    if not asked.flows:
        return table
    values = np.zeros((0, asked.flows))
    if len(rows):
        values = priced(rows, asked.as_of, [asked.flows]).cashflow(asked.flows)
    return pd.concat([table, pd.DataFrame(values, table.index, asked.flow_names)], axis=1)


def _known(attributes: pd.DataFrame | None) -> set[str]:
    if attributes is None:
        return set()
    return {str(name) for name in attributes if attributes[name].notna().any()}


def _put(
    made: Parts, hidden: Sequence[str], out: Path, place: Path, progress: Progress | None
) -> Path:
    """Write the table without `hidden` columns to `out` and to `place`, which is returned."""

    def told(share: float) -> Iterator[pa.Table]:
        written = 0
        for piece in made.pieces(without=hidden):
            yield piece
            written += len(piece)
            if progress:
                progress("writing", 1.0 - share * (1.0 - written / made.rows))

    write_pieces(told(1.0 if out.suffix == place.suffix else 2.0), out)
    if out.suffix == place.suffix:
        with replacing(place) as temporary:
            shutil.copyfile(out, temporary)
    else:
        write_pieces(told(1.0), place)
    return place


def _kept_at(as_of: str, version: str) -> Path:
    """Where the home keeps the table of a moment by a model."""
    name = as_of.replace(":", "")
    return registry.home() / "predictions" / f"as_of={name}" / f"model-{version}.parquet"
