"""A table laid out in a file that is mapped into memory: columns of a million rows at no cost.

Numbers are arrays that lie in the file as they lie in memory, text of few kinds is categories,
other text is Arrow's; a cell or a column is read, never the table. Workers share the pages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from serving import lookup
from serving.writing import replacing

__all__ = ["Columns", "write"]

KINDS: Final = 4_096  # different texts up to which a column is categories


def write(frame: pd.DataFrame, out: Path) -> None:
    """Lay out a table, whole or not at all: numbers stay numbers, all else is text or nothing."""
    arrays = [_array(frame[name]) for name in frame]
    schema = pa.schema(
        [pa.field(str(name), each.type) for name, each in zip(frame, arrays, strict=True)]
    )
    batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
    with (
        replacing(out) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        writer.write_batch(batch)


def _array(column: pd.Series) -> pa.Array:
    if column.dtype.kind in "iufb":
        kind = np.float64 if column.dtype.kind == "f" else np.int64
        return pa.array(column.to_numpy(kind))  # what is not a number stays so: nothing is missing
    codes, levels = pd.factorize(column.astype(object))
    if len(levels) <= KINDS:
        kept = pa.array(codes.astype(np.int32), mask=codes < 0)
        names = pa.array([str(level) for level in levels], pa.large_string())
        return pa.DictionaryArray.from_arrays(kept, names)
    cells = column.astype(object)
    return pa.array(cells.where(cells.notna(), None), pa.large_string())


class Columns:
    """A table that `write` laid out."""

    def __init__(self, path: Path) -> None:
        self._batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        self._known: dict[str, pd.Series] = {}

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    @cached_property
    def names(self) -> list[str]:
        """Its columns."""
        return list(self._batch.schema.names)

    def series(self, name: str) -> pd.Series:
        """A column: mapped numbers, categories, or mapped text."""
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = _series(self._batch.column(name))
        return found

    def numbers(self, name: str) -> npt.NDArray[Any]:
        """A column of numbers, as it lies in the file."""
        return np.asarray(self._batch.column(name).to_numpy(zero_copy_only=True))

    def frame(self, names: Sequence[str] | None = None) -> pd.DataFrame:
        """Some columns, or all, as a frame that holds no copy of them."""
        chosen = self.names if names is None else names
        return pd.DataFrame({name: self.series(name) for name in chosen}, copy=False)

    def rows(self, places: Sequence[int], names: Sequence[str]) -> pd.DataFrame:
        """Some columns of some rows as objects; a place of -1 is nobody's."""
        at = pa.array([None if place < 0 else int(place) for place in places], pa.int64())
        found = {name: _objects(self._batch.column(name).take(at)) for name in names}
        return pd.DataFrame(found, columns=list(names), dtype=object)

    def row(self, place: int) -> dict[str, Any]:
        """A row as plain values, None for what is not known."""
        told: Mapping[str, Any] = self._batch.slice(place, 1).to_pylist()[0]
        return {name: _plain(value) for name, value in told.items()}

    def find(self, name: str, text: str) -> int | None:
        """The row of a text in a column of text that is sorted bytewise; None if there is none."""
        place = self.first(name, text)
        here = place < len(self) and self._batch.column(name)[place].as_py() == text
        return place if here else None

    def first(self, name: str, text: str) -> int:
        """The first row of a sorted column of text that is not before `text`."""
        return lookup.first(self._batch.column(name), text)

    def cell(self, name: str, place: int) -> Any:
        """One cell as a plain value."""
        return _plain(self._batch.column(name)[place].as_py())


def _series(column: pa.Array) -> pd.Series:
    if pa.types.is_dictionary(column.type):
        codes = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        levels = column.dictionary.to_pylist()
        return pd.Series(pd.Categorical.from_codes(codes, levels))
    if pa.types.is_large_string(column.type):
        return pd.Series(pd.arrays.ArrowExtensionArray(column))
    return pd.Series(column.to_numpy(zero_copy_only=True), copy=False)


def _objects(column: pa.Array) -> npt.NDArray[np.object_]:
    made = np.empty(len(column), object)
    made[:] = [_plain(value) for value in column.to_pylist()]
    return made


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
