"""The whole base, bucket by bucket: read, score, write whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from joblib import Parallel, delayed

from features import people
from features.behaviour import Rows, build
from features.errors import InputError
from features.people import People
from features.spine import Cutoffs, instant, text
from features.store import Store
from features.tables import Ingested
from serving import parts
from serving.loader import Loaded
from serving.parts import Parts
from serving.progress import counted
from serving.reasons import How, column
from training import registry
from training.fitting import Progress
from training.model import Model
from training.reasons import explain, explain_prospects
from training.run import Data, as_of_in, read
from training.waiting import each_people

__all__ = ["KINDS", "Scored", "keep", "replacing", "require_writable", "score", "write"]

KINDS: Final = (".csv", ".parquet")


@dataclass(frozen=True)
class Scored:
    """The predictions table and where it came from.

    ``missing`` are the columns that the model learned from and these data lack, first those of the
    orders, then ``customer_NAME`` for those of the table customers. It predicts without them.
    """

    frame: pd.DataFrame
    as_of: str
    ingested: Ingested
    missing: tuple[str, ...] = ()


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
    progress: Progress | None = None,
) -> Scored:
    """Predictions for every customer with an order before `as_of`, sorted by customer_id.

    With `reasons` above 0 there is the column of that name: JSON, so many terms by their money.
    With `prospects` also for everybody in the table customers who signed up before `as_of` and has
    no order before it; their evidence is ``cold_start``.

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
        with parts.kept(store, loaded.model, loaded.version, moment, months, reasons) as some:
            frame = _all(loaded, store, moment, months, cores, progress, reasons, some)
            given = some.names()
        if prospects:
            frame = _sorted([frame, *_waiting(loaded, store, moment, months, cores, reasons)])
    if frame.empty:
        raise InputError(
            f"Somebody must have an order before {text(moment, zone)}. Nobody has. "
            "Take a later --as-of."
        )
    known = loaded.model.vocabulary
    wanted = [column for column in ("channel", "category") if known.slots(column)]
    missing = [column for column in wanted if column not in ingested.columns_present]
    missing += [f"customer_{name}" for name, _ in known.attributes if name not in given]
    return Scored(frame, text(moment, zone), ingested, tuple(missing))


def _all(
    loaded: Loaded,
    store: Store,
    as_of: int,
    months: tuple[int, ...],
    workers: int,
    progress: Progress | None,
    reasons: int,
    finished: Parts,
) -> pd.DataFrame:
    """The table; buckets that an earlier run has finished are not scored again."""
    model = loaded.model
    words = model.catalogue
    cutoffs = Cutoffs.at([as_of], model.settings.business.time_zone)
    done = [0, 0]  # buckets, customers

    def one(index: int) -> None:
        bucket = store.bucket(index)
        rows = build(bucket, cutoffs, words)
        table = model.table(rows, as_of, months, loaded.version)
        table = _with_reasons(table, model, rows, as_of, min(months), reasons, explain)
        finished.put(index, table, sorted(_known(bucket.attributes)))
        done[0], done[1] = done[0] + 1, done[1] + len(table)
        if progress:
            counted(progress, "customers", done[1])
            progress("scoring", done[0] / len(left))

    left = [index for index in range(store.buckets) if not finished.done(index)]
    list(Parallel(n_jobs=workers, prefer="threads")(delayed(one)(index) for index in left))
    return finished.frame()


def _with_reasons(
    table: pd.DataFrame, model: Model, rows: Rows, as_of: int, months: int, count: int, how: How
) -> pd.DataFrame:
    """The table with `count` reasons of the value of `months` before its last column."""
    if count:
        told = column(model, rows, as_of, months, count, how) if len(rows) else []
        table.insert(len(table.columns) - 1, "reasons", told)  # before the model's version
    return table


def _waiting(
    loaded: Loaded,
    store: Store,
    as_of: int,
    months: tuple[int, ...],
    workers: int,
    reasons: int = 0,
) -> list[pd.DataFrame]:
    """The table of those who have not ordered yet, by bucket."""
    if not people.known(store):
        raise InputError(
            "--prospects needs a table customers with acquired_at, the moment of sign-up. Got "
            "none. Bring customers.csv, or go without it."
        )
    model = loaded.model
    cutoffs = Cutoffs.at([as_of], model.settings.business.time_zone)
    vocabulary = model.require_prospects().vocabulary

    def one(some: People) -> pd.DataFrame:
        rows = people.prospects(some, cutoffs, vocabulary)
        table = model.prospect_table(rows, as_of, months, loaded.version)
        return _with_reasons(table, model, rows, as_of, min(months), reasons, explain_prospects)

    return each_people(store, one, workers)


def _sorted(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One below the other, in the bytewise order of the ids, which is that of their code points."""
    frame = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    order = np.argsort(frame["customer_id"].to_numpy(object), kind="stable")
    return frame.iloc[order].reset_index(drop=True)


def _known(attributes: pd.DataFrame | None) -> set[str]:
    if attributes is None:
        return set()
    return {str(name) for name in attributes if attributes[name].notna().any()}


def write(frame: pd.DataFrame, out: Path) -> None:
    """Write CSV or Parquet by the ending; the old file stays until the new one is whole.

    Raises
    ------
    InputError
        Another ending, or a place that cannot be written.
    """
    require_writable(out, KINDS)
    table = _typed(pa.Table.from_pandas(frame, preserve_index=False))
    with replacing(out) as temporary:
        if out.suffix == ".csv":
            # Every text is quoted, so that no line break in an id starts a row.
            pa_csv.write_csv(table, temporary, pa_csv.WriteOptions(quoting_style="needed"))
        else:
            pq.write_table(table, temporary, compression="zstd")


def _typed(table: pa.Table) -> pa.Table:
    """A column in which nobody has anything is text all the same, for whoever reads it by type."""
    for i, field in enumerate(table.schema):
        if pa.types.is_null(field.type):
            table = table.set_column(i, field.name, table.column(i).cast(pa.string()))
    return table


def require_writable(out: Path, kinds: Sequence[str]) -> None:
    """Refuse an ending or a place that cannot be, before any long work.

    Raises
    ------
    InputError
        Another ending than `kinds`, or a file cannot be made there.
    """
    if out.suffix not in kinds:
        raise InputError(
            f"--out must end in {' or '.join(kinds)}. Got {out.name!r}. Name such a file."
        )
    if out.is_dir():
        raise InputError(f"--out must be a file. Got the folder {out}. Name another place.")
    # Nothing is left behind by work that is refused later: not even the folder is made yet.
    place = next(folder for folder in out.absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise _unwritable(out, error) from None


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A temporary file beside `out` that takes its place once it is whole and on disk.

    Raises
    ------
    InputError
        The place cannot be written; the old file stays.
    """
    name = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent)
        os.close(handle)
        yield Path(name)
        with Path(name).open("rb+") as file:
            os.fsync(file.fileno())
        Path(name).replace(out)
    except OSError as error:
        raise _unwritable(out, error) from None
    finally:
        if name:
            Path(name).unlink(missing_ok=True)


def _unwritable(out: Path, error: OSError) -> InputError:
    return InputError(
        f"--out must be a place that can be written. Got {out}: {error.strerror or error}. "
        "Free some space or name another place."
    )


def keep(scored: Scored, version: str) -> Path:
    """Keep the table under ``CLV_HOME/predictions``, to be held against what will happen."""
    name = scored.as_of.replace(":", "")
    place = registry.home() / "predictions" / f"as_of={name}" / f"model-{version}.parquet"
    write(scored.frame, place)
    return place
