"""The last prediction of a known customer, out of a million, without reading the others.

A table of predictions is sorted by customer. Its rows are laid out once as an Arrow file that is
mapped into memory, so that a lookup touches a few pages: blocks by bisection, then rows.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from bisect import bisect_left, bisect_right
from itertools import chain
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from serving.writing import replacing
from training.tracking import home

__all__ = ["Lookup", "first", "latest", "newest"]

ROWS: Final = 16_384  # of a block
#: Columns of text; other files than CSV tell it themselves.
TEXTS: Final = (
    "customer_id", "as_of", "evidence", "next_order_on", "segment", "reasons", "model_version",
)  # fmt: skip
LOOK: Final = 5.0  # seconds between two looks at whether there is a newer table


def latest(folder: Path) -> Path:
    """Where the home `folder` keeps predictions: of this folder, a `Lookup` follows the newest."""
    return folder / "predictions"


class Lookup:
    """Rows of the newest table at a place: a file, or a folder in which batches are kept."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._lock = threading.Lock()
        self._looked = -LOOK
        self._state: tuple[tuple[str, int, int], _Table] | None = None

    def find(self, customer: str) -> dict[str, Any] | None:
        """The row of a customer as plain values, None if there is none."""
        table = self._table()
        return None if table is None else table.find(customer)

    @property
    def fresh(self) -> bool:
        """Whether `find` answers at once: it neither looks for a newer table nor waits for one."""
        late = time.monotonic() - self._looked >= LOOK
        return not late and (self._state is not None or not self._lock.locked())

    def _table(self) -> _Table | None:
        # While another thread lays out a newer table, the one before it answers.
        if self._lock.acquire(blocking=self._state is None):
            try:
                self._look()
            finally:
                self._lock.release()
        return None if self._state is None else self._state[1]

    def _look(self) -> None:
        if time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        file = newest(self._place)
        if file is not None:
            stat = file.stat()
            key = (str(file.absolute()), stat.st_size, stat.st_mtime_ns)
            if self._state is None or self._state[0] != key:
                self._state = (key, _Table(_laid_out(file, key)))


def first(texts: Any, text: str) -> int:
    """The first place of a sorted Arrow array of text that does not stand before `text`."""
    return bisect_left(range(len(texts)), text, key=lambda i: texts[i].as_py())


def newest(place: Path) -> Path | None:
    """The newest table at a place: a file itself, or of a folder in which batches are kept."""
    if place.is_file():
        return place
    files = [(f.parent.name, f.stat().st_mtime_ns, f) for f in place.glob("as_of=*/*.parquet")]
    return max(files)[2] if files else None


def _laid_out(file: Path, key: tuple[str, int, int]) -> Path:
    """The Arrow file of a table, made if it is not there yet."""
    name = hashlib.sha256(repr(key).encode()).hexdigest()[:24]
    out = home() / "lookup" / f"{name}.arrow"
    if not out.exists():
        with replacing(out) as temporary:
            _lay_out(file, temporary)
        for old in out.parent.glob("*.arrow"):
            if old != out and time.time() - old.stat().st_mtime > 24 * 3_600:
                old.unlink(missing_ok=True)
    return out


def _lay_out(file: Path, out: Path) -> None:
    if file.suffix == ".csv":
        # Else days would become dates and a version a number.
        types = dict.fromkeys(TEXTS, pa.string())
        options = pa_csv.ConvertOptions(
            column_types=types, null_values=[""], strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )  # fmt: skip
        parsing = pa_csv.ParseOptions(newlines_in_values=True)
        table = pa_csv.read_csv(file, parse_options=parsing, convert_options=options)
        _write(_sorted(table).to_batches(max_chunksize=ROWS), table.schema, out)
        return
    source = pq.ParquetFile(file)
    if _in_order(source):
        # One group of rows after the other: asked for all of them, Arrow holds all.
        groups = (source.iter_batches(ROWS, row_groups=[i]) for i in range(source.num_row_groups))
        _write(chain.from_iterable(groups), source.schema_arrow, out)
    else:
        table = _sorted(source.read())
        _write(table.to_batches(max_chunksize=ROWS), table.schema, out)


def _in_order(source: pq.ParquetFile) -> bool:
    before = ""
    for batch in source.iter_batches(batch_size=1 << 18, columns=["customer_id"]):
        ids = batch.column(0).cast(pa.string())
        if len(ids) == 0:
            continue
        if ids[0].as_py() < before or pc.any(pc.less(ids[1:], ids[:-1])).as_py():
            return False
        before = ids[-1].as_py()
    return True


def _sorted(table: pa.Table) -> pa.Table:
    return table.sort_by("customer_id").combine_chunks()


def _write(batches: Any, schema: pa.Schema, out: Path) -> None:
    with pa.OSFile(str(out), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


class _Table:
    """An Arrow file mapped into memory."""

    def __init__(self, path: Path) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        read = (reader.get_batch(i) for i in range(reader.num_record_batches))
        self.blocks = [batch for batch in read if batch.num_rows]
        self.ids = [batch.column("customer_id") for batch in self.blocks]
        self.firsts = [ids[0].as_py() for ids in self.ids]

    def find(self, customer: str) -> dict[str, Any] | None:
        block = bisect_right(self.firsts, customer) - 1
        if block < 0:
            return None
        ids = self.ids[block]
        low = first(ids, customer)
        if low == len(ids) or ids[low].as_py() != customer:
            return None
        row: dict[str, Any] = self.blocks[block].slice(low, 1).to_pylist()[0]
        if isinstance(row.get("reasons"), str):
            row["reasons"] = json.loads(row["reasons"])
        # What is not a number is not known; JSON has no word for it but null.
        return {k: None if v != v else v for k, v in row.items()}  # noqa: PLR0124
