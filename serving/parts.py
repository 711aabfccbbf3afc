"""Finished buckets of a batch, kept until the whole is written: a run that was killed goes on.

    CLV_HOME/batch/KEY/manifest.jsonl     a line for each finished bucket: its file's digest
    CLV_HOME/batch/KEY/bucket-007.arrow   its predictions

``KEY`` names all that the predictions depend on: data, model, moment, options and the code's
release. The same run gives the same bytes whether it was killed or not, since in both cases the
parts are read back from here. With one bucket, which takes seconds, nothing is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from features.catalogue import feature_hash
from features.store import Store
from training import registry, tracking
from training.model import Model

__all__ = ["Parts", "kept", "key"]

MANIFEST: Final = "manifest.jsonl"
STALE: Final = 7 * 24 * 3600  # seconds after which nobody is expected to go on


class Parts:
    """Tables by bucket, with the attributes that any of their customers has.

    Without a folder, or where that cannot be written, they are held in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._held: dict[int, pa.Table] = {}
        self._names: dict[int, list[str]] = {}
        self._files: dict[int, str] = {}
        if folder is not None:
            self._read_manifest(folder)

    def done(self, bucket: int) -> bool:
        """Whether a bucket is finished."""
        return bucket in self._names

    def put(self, bucket: int, table: pd.DataFrame, names: Sequence[str]) -> None:
        """Keep a finished bucket; on disk it is there whole or not at all."""
        columns = pa.Table.from_pandas(table, preserve_index=False)
        if self.folder is None:
            self._held[bucket] = columns
        else:
            try:
                self._keep(self.folder, bucket, columns, sorted(names))
            except OSError:  # no room: the run itself need not fail for that
                self._held[bucket] = columns
        self._names[bucket] = sorted(names)

    def names(self) -> set[str]:
        """The attributes that any customer has."""
        return {name for names in self._names.values() for name in names}

    def rows(self, bucket: int) -> int:
        """How many customers a finished bucket has."""
        return int(self.table(bucket).num_rows)

    def table(self, bucket: int) -> pa.Table:
        """A finished bucket; from disk it takes memory only where it is read."""
        if bucket in self._held or self.folder is None:
            return self._held[bucket]
        with pa.memory_map(str(self.folder / self._files[bucket])) as file:
            return pa.ipc.open_file(file).read_all()

    def frame(self) -> pd.DataFrame:
        """All rows in the bytewise order of customer_id; the parts in memory are given up."""
        tables = [self.table(bucket) for bucket in sorted(self._names)]
        self._held.clear()
        whole = pa.concat_tables([each for each in tables if each.num_rows] or tables[:1],
                                 promote_options="permissive")  # fmt: skip
        tables.clear()
        order = pc.sort_indices(whole["customer_id"])
        frame: pd.DataFrame = whole.take(order).to_pandas(split_blocks=True, self_destruct=True)
        return frame

    def _keep(self, folder: Path, bucket: int, table: pa.Table, names: list[str]) -> None:
        file = f"bucket-{bucket:03d}.arrow"
        temporary = folder / f".{file}.tmp"
        try:
            with pa.OSFile(str(temporary), "wb") as out, pa.ipc.new_file(out, table.schema) as to:
                to.write_table(table)
            digest = _digest(temporary)
            temporary.replace(folder / file)
        finally:
            temporary.unlink(missing_ok=True)
        self._files[bucket] = file
        line = json.dumps({"bucket": bucket, "file": file, "sha256": digest, "names": names})
        with (folder / MANIFEST).open("a", encoding="utf-8") as manifest:
            manifest.write(line + "\n")  # one write: buckets are finished by several threads

    def _read_manifest(self, folder: Path) -> None:
        """Take over what an earlier run finished, if it is still as it was written."""
        with contextlib.suppress(OSError):
            for line in (folder / MANIFEST).read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
                    told = json.loads(line)  # the last line may be torn
                    bucket, file = int(told["bucket"]), f"bucket-{int(told['bucket']):03d}.arrow"
                    if _digest(folder / file) == told["sha256"]:
                        self._files[bucket], self._names[bucket] = file, list(told["names"])


def key(store: Store, model: Model, *options: Any) -> str:
    """The name of all that a batch's predictions depend on."""
    made = model.parts()
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
