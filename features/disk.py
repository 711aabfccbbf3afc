"""Normalised lines on their way to disk, and what is said when that is full."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.errors import InputError

__all__ = ["LINE", "Sink", "Work", "full", "room"]

FULL = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
# DuckDB stops by itself at nine tenths of what was free when it opened the folder.
OWN_LIMIT = "max_temp_directory_size"
LINE = (
    "customer_id", "ts", "day", "hour", "amount", "order_id", "product_id", "category", "channel",
    "quantity", "discount", "cost",
)  # fmt: skip
KEPT = (
    *LINE, "aware", "file", "line", "extract", "record", "notes",
)  # fmt: skip


@dataclass
class Work:
    """What the first pass leaves for the second."""

    raw: Path  # one Arrow file for each bucket and run
    refused: Path  # one Parquet file for each run
    buckets: int = 1
    recognised: str | None = None

    def files(self, bucket: int | None = None) -> list[Path]:
        """The files of one bucket, or of all."""
        which = "*" if bucket is None else f"{bucket:03d}"
        return sorted(self.raw.glob(f"bucket-{which}-run-*.arrow"))


class Sink:
    """Normalised lines on their way into one file for each bucket, refused ones into their own.

    DuckDB's own partitioned writing collects all rows first, and takes twice the time.
    """

    def __init__(self, work: Work, number: int) -> None:
        self._work, self._number = work, number
        self._writers: dict[int, Any] = {}
        self._refused: pq.ParquetWriter | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        """Divide one batch."""
        codes = batch.column("bucket").to_numpy()
        order = np.argsort(codes, kind="stable")
        bounds = np.searchsorted(codes[order], np.arange(self._work.buckets + 1))
        kept = batch.select(KEPT).take(pa.array(order[: bounds[-1]]))
        for bucket in range(self._work.buckets):
            first, last = int(bounds[bucket]), int(bounds[bucket + 1])
            if last > first:
                self._writer(bucket, kept.schema).write_batch(kept.slice(first, last - first))
        if bounds[-1] < len(order):
            refused = batch.take(pa.array(order[bounds[-1] :]))
            if self._refused is None:
                path = self._work.refused / f"read-{self._number:04d}.parquet"
                self._refused = pq.ParquetWriter(path, refused.schema)
            self._refused.write_batch(refused)

    def _writer(self, bucket: int, schema: pa.Schema) -> Any:
        if bucket not in self._writers:
            path = self._work.raw / f"bucket-{bucket:03d}-run-{self._number:04d}.arrow"
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writers[bucket] = pa.ipc.new_file(str(path), schema, options=options)
        return self._writers[bucket]

    def close(self) -> None:
        """End all files, the others too where one cannot be ended."""
        refused = [] if self._refused is None else [self._refused]
        _close([*self._writers.values(), *refused])


def _close(writers: list[Any]) -> None:
    if writers:
        try:
            writers[0].close()
        finally:
            _close(writers[1:])


def full(error: BaseException, work: Path | None = None) -> InputError | None:
    """`error` as a refusal if it says that the folder `work` had no room, else None.

    Without `work`, or where that lies in it, the system's temporary folder is named.

    Arrow raises an ``OSError`` whose number is the system's; DuckDB has a class of its own and the
    system's words in its text.
    """
    said = str(error)
    if not isinstance(error, OSError | duckdb.Error):
        return None
    reason = next((words for words in FULL if words in said), None)
    if reason is None and not (isinstance(error, duckdb.Error) and OWN_LIMIT in said):
        return None
    place = Path(tempfile.gettempdir())
    if work is not None and not work.resolve().is_relative_to(place.resolve()):
        place = work
    return InputError(
        f"The temporary folder must have room for a copy of the orders. Got '{reason or FULL[0]}' "
        f"in {place}. Free some space there, or set TMPDIR to a folder on a larger disk."
    )


@contextmanager
def room(work: Path) -> Iterator[None]:
    """Writing below `work`, in the system's temporary folder or where the caller has chosen.

    Raises
    ------
    InputError
        The disk is full, or a quota or a limit on file sizes is reached.
    """
    try:
        yield
    except (OSError, duckdb.Error) as error:
        # Not kept in a name: with its traceback it would hold this frame, and this frame it.
        if full(error, work) is None:
            raise
        raise full(error, work) or error from None
