"""Finished buckets of a batch, kept until the whole is written: a run that was killed goes on.

    CLV_HOME/batch/KEY/manifest.jsonl     a line for each finished bucket: its file's digest
    CLV_HOME/batch/KEY/bucket-007.arrow   its predictions, sorted by customer

``KEY`` names all that the predictions depend on: data, model, moment, options and the code's
release. The same run gives the same bytes whether it was killed or not, since in both cases the
parts are read back from here: a little of each at a time, so that the base is never in memory as a
whole. With one bucket, which takes seconds, nothing is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from features.catalogue import feature_hash
from features.store import Store
from serving.writing import GROUP
from training import registry, tracking
from training.model import Model
from training.packing import pack

__all__ = ["Parts", "kept", "key"]

MANIFEST: Final = "manifest.jsonl"
STALE: Final = 7 * 24 * 3600  # seconds after which nobody is expected to go on
ROWS: Final = 1_024  # of each part that are in memory, at least, while they are merged


class Parts:
    """Tables by bucket, with the attributes that any of their customers has.

    Without a folder, or where that cannot be written, they are held in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._held: dict[int, pa.Table] = {}
        self._names: dict[int, list[str]] = {}
        self._files: dict[int, str] = {}
        self._rows: dict[int, int] = {}
        if folder is not None:
            self._read_manifest(folder)

    def done(self, bucket: int) -> bool:
        """Whether a bucket is finished."""
        return bucket in self._names

    def put(self, bucket: int, table: pd.DataFrame, names: Sequence[str]) -> None:
        """Keep a finished bucket; on disk it is there whole or not at all."""
        columns = pa.Table.from_pandas(table, preserve_index=False)
        columns = columns.take(pc.sort_indices(columns["customer_id"])).combine_chunks()
        if self.folder is None:
            self._held[bucket] = columns
        else:
            try:
                self._keep(self.folder, bucket, columns, sorted(names))
            except OSError:  # no room: the run itself need not fail for that
                self._held[bucket] = columns
        self._names[bucket], self._rows[bucket] = sorted(names), len(table)

    def names(self) -> set[str]:
        """The attributes that any customer has."""
        return {name for names in self._names.values() for name in names}

    @property
    def rows(self) -> int:
        """How many rows all finished buckets have."""
        return sum(self._rows.values())

    def pieces(self, only: Sequence[str] = (), without: Sequence[str] = ()) -> Iterator[pa.Table]:
        """All rows in the bytewise order of customer_id, `GROUP` at a time and the rest at last.

        Every piece has the same schema; a column in which nobody has anything is text. All columns,
        or `only` some, one of them customer_id, or those `without` some.
        """
        # An empty part does not know the types of its columns.
        buckets = sorted(bucket for bucket, rows in self._rows.items() if rows)
        buckets = buckets or sorted(self._rows)[:1]
        schema = _whole([self._schema(bucket) for bucket in buckets], only, without)
        waiting: list[pa.Table] = []
        for some in _merged([self._batches(bucket, schema) for bucket in buckets]):
            waiting.append(some)
            while (count := sum(map(len, waiting))) >= GROUP:
                table = pa.concat_tables(waiting)
                yield table.slice(0, GROUP)
                waiting = [table.slice(GROUP)] if count > GROUP else []
        if waiting or not self.rows:
            yield pa.concat_tables(waiting) if waiting else schema.empty_table()

    def frame(self, without: Sequence[str] = ()) -> pd.DataFrame:
        """All rows as one frame."""
        whole = pa.concat_tables(self.pieces(without=without))
        frame: pd.DataFrame = whole.to_pandas(split_blocks=True, self_destruct=True)
        return frame

    @contextmanager
    def _open(self, bucket: int) -> Iterator[pa.ipc.RecordBatchFileReader]:
        # Not mapped into memory: what was read would stay there until the file is closed.
        if self.folder is None:
            raise AssertionError("a bucket without a file")
        with pa.OSFile(str(self.folder / self._files[bucket])) as file:
            yield pa.ipc.open_file(file)

    def _schema(self, bucket: int) -> pa.Schema:
        if bucket in self._held:
            return self._held[bucket].schema
        with self._open(bucket) as reader:
            return reader.schema

    def _batches(self, bucket: int, schema: pa.Schema) -> Iterator[pa.Table]:
        """The rows of a bucket, a few at a time; the file is open as long as that lasts."""
        if bucket in self._held:
            for batch in self._held[bucket].to_batches(max_chunksize=ROWS):
                yield pa.Table.from_batches([batch]).select(schema.names).cast(schema)
            return
        with self._open(bucket) as reader:
            for i in range(reader.num_record_batches):
                some = pa.Table.from_batches([reader.get_batch(i)])
                yield some.select(schema.names).cast(schema)

    def _keep(self, folder: Path, bucket: int, table: pa.Table, names: list[str]) -> None:
        file = f"bucket-{bucket:03d}.arrow"
        temporary = folder / f".{file}.tmp"
        try:
            with pa.OSFile(str(temporary), "wb") as out, pa.ipc.new_file(out, table.schema) as to:
                to.write_table(table, max_chunksize=ROWS)
            digest = _digest(temporary)
            temporary.replace(folder / file)
        finally:
            temporary.unlink(missing_ok=True)
        self._files[bucket] = file
        told = {
            "bucket": bucket,
            "file": file,
            "sha256": digest,
            "names": names,
            "rows": len(table),
        }
        line = json.dumps(told)
        with (folder / MANIFEST).open("a", encoding="utf-8") as manifest:
            manifest.write(line + "\n")  # one write: buckets are finished by several threads

    def _read_manifest(self, folder: Path) -> None:
        """Take over what an earlier run finished, if it is still as it was written."""
        with contextlib.suppress(OSError):
            for line in (folder / MANIFEST).read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
                    told = json.loads(line)  # the last line may be torn
                    bucket, file = int(told["bucket"]), f"bucket-{int(told['bucket']):03d}.arrow"
                    names, rows = list(told["names"]), int(told["rows"])
                    if _digest(folder / file) == told["sha256"]:
                        self._files[bucket], self._names[bucket] = file, names
                        self._rows[bucket] = rows


def _whole(schemas: Sequence[pa.Schema], only: Sequence[str], without: Sequence[str]) -> pa.Schema:
    """The schema of some columns of all parts; pandas is told of them as it would tell itself."""
    bare = [schema.remove_metadata() for schema in schemas]
    schema = pa.unify_schemas(bare, promote_options="permissive")
    names = [name for name in only or schema.names if name not in without]
    schema = pa.schema([schema.field(name) for name in names])
    for i, field in enumerate(schema):
        if pa.types.is_null(field.type):
            schema = schema.set(i, field.with_type(pa.string()))
    one = pa.table([pa.array(["0"]).cast(field.type) for field in schema], schema=schema)
    written = pa.Table.from_pandas(one.to_pandas(), preserve_index=False).schema
    return schema.with_metadata(written.metadata)


def _merged(streams: Iterable[Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """One sorted table after the other, out of streams that are sorted by customer_id.

    Up to the least of the last ids in memory nobody else can follow: so far goes a step. A stream
    with fewer than `ROWS` in memory has ended and sets no bound.
    """
    heads = [each for stream in streams if (each := _filled(None, stream))]
    while heads:
        lasts = [head["customer_id"][-1].as_py() for head, _ in heads if len(head) >= ROWS]
        ready, left = [], []
        for head, stream in heads:
            here = _up_to(head["customer_id"], min(lasts)) if lasts else len(head)
            ready.append(head.slice(0, here))
            if each := _filled(head.slice(here), stream):
                left.append(each)
        step = pa.concat_tables(ready).combine_chunks()
        yield step.take(pc.sort_indices(step["customer_id"]))
        heads = left


def _filled(
    head: pa.Table | None, stream: Iterator[pa.Table]
) -> tuple[pa.Table, Iterator[pa.Table]] | None:
    """A head of `ROWS` rows or of all that are left; none where nothing is."""
    some = [head] if head is not None and len(head) else []
    while sum(map(len, some)) < ROWS and (more := next(stream, None)) is not None:
        some.append(more)
    return (pa.concat_tables(some), stream) if some else None


def _up_to(ids: pa.ChunkedArray, bound: str) -> int:
    """How many of sorted ids are not beyond `bound`."""
    return int(np.count_nonzero(pc.less_equal(ids, bound).to_numpy()))


def key(store: Store, model: Model, *options: Any) -> str:
    """The name of all that a batch's predictions depend on."""
    made = pack(model)
    boosters = {name: hashlib.sha256(raw).hexdigest() for name, raw in made.files.items()}
    told = [
        store.fingerprint, store.buckets, made.card, boosters, options, feature_hash(),
        version("clv"), pd.__version__,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:32]


@contextmanager
def kept(store: Store, model: Model, *options: Any) -> Iterator[Parts]:
    """The parts of a batch, gone once the block ends without an error.

    A second process at the same batch keeps its own in memory.
    """
    if store.buckets == 1:
        yield Parts(None)
        return
    place = registry.home() / "batch"
    folder = place / key(store, model, *options)
    with alone(folder) as mine:
        yield Parts(folder if mine else None)
        if mine:
            shutil.rmtree(folder, ignore_errors=True)
            _sweep(place)


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Whether this process has the folder to itself; not where it cannot be made."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        yield False
        return
    try:
        yield tracking.try_lock(descriptor)
    finally:
        os.close(descriptor)


def _sweep(place: Path) -> None:
    """Remove what was left behind by runs that nobody went on with."""
    with contextlib.suppress(OSError):
        for folder in place.iterdir():
            if time.time() - folder.stat().st_mtime > STALE:
                shutil.rmtree(folder, ignore_errors=True)
        place.rmdir()  # if it is empty


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
