"""Files for others: written whole or not at all, refused before the work where they cannot be."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Final

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from features.errors import InputError

__all__ = ["GROUP", "KINDS", "replacing", "require_writable", "write", "write_pieces"]

KINDS: Final = (".csv", ".parquet")
GROUP: Final = 1 << 16  # rows of a piece of the whole, and of a row group in its file


def write(frame: pd.DataFrame, out: Path) -> None:
    """Write CSV or Parquet by the ending; the old file stays until the new one is whole.

    Raises
    ------
    InputError
        Another ending, or a place that cannot be written.
    """
    table = _typed(pa.Table.from_pandas(frame, preserve_index=False))
    write_pieces([table.slice(at, GROUP) for at in range(0, max(len(table), 1), GROUP)], out)


def write_pieces(pieces: Iterable[pa.Table], out: Path, option: str = "--out") -> None:
    """As `write`, from pieces of one schema; each becomes a row group."""
    require_writable(out, KINDS, option)
    rest = iter(pieces)
    first = next(rest)
    with replacing(out, option) as temporary:
        if out.suffix == ".csv":
            # Every text is quoted, so that no line break in an id starts a row.
            to = pa_csv.CSVWriter(
                temporary, first.schema, write_options=pa_csv.WriteOptions(quoting_style="needed")
            )
        else:
            to = pq.ParquetWriter(temporary, first.schema, compression="zstd")
        with to:
            for piece in chain([first], rest):
                to.write_table(piece)


def _typed(table: pa.Table) -> pa.Table:
    """A column in which nobody has anything is text all the same, for whoever reads it by type."""
    for i, field in enumerate(table.schema):
        if pa.types.is_null(field.type):
            table = table.set_column(i, field.name, table.column(i).cast(pa.string()))
    return table


def require_writable(out: Path, kinds: Sequence[str], option: str = "--out") -> None:
    """Refuse an ending or a place that cannot be, before any long work.

    Raises
    ------
    InputError
        Another ending than `kinds`, or a file cannot be made there.
    """
    if out.suffix not in kinds:
        raise InputError(
            f"{option} must end in {' or '.join(kinds)}. Got {out.name!r}. Name such a file."
        )
    if out.is_dir():
        raise InputError(f"{option} must be a file. Got the folder {out}. Name another place.")
    # Nothing is left behind by work that is refused later: not even the folder is made yet.
    place = next(folder for folder in out.absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise _unwritable(out, error, option) from None


@contextmanager
def replacing(out: Path, option: str = "--out") -> Iterator[Path]:
    """A temporary file beside `out` that takes its place once it is whole and on disk.

    `option` is the one that named it.

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
        raise _unwritable(out, error, option) from None
    finally:
        if name:
            Path(name).unlink(missing_ok=True)


def _unwritable(out: Path, error: OSError, option: str = "--out") -> InputError:
    return InputError(
        f"{option} must be a place that can be written. Got {out}: {error.strerror or error}. "
        "Free some space or name another place."
    )
