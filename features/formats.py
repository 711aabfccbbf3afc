"""Any file, folder, database or frame -> streams of text, table by table.

What comes out is the same whatever came in: `Sheet`, a stream of batches with text columns
``c0, c1, ...``, the line (or row) each record stands in, and why a record could not be read. What
the columns mean is the matter of `features.layouts`, what is accepted that of `features.rules`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from features import foreign
from features.delimited import Csv, open_regular
from features.errors import InputError
from features.settings import Settings

__all__ = ["Sheet", "Table", "tables"]

READ = ("orders", "customers", "rates", "aliases", "events", "spend", "contacts")
ENDINGS = (".csv", ".csv.gz", ".parquet")
CHUNK = 50_000  # rows taken from a frame or a database at a time


@dataclass(frozen=True)
class Sheet:
    """Records with equal columns: one file, frame or database table.

    ``floats`` are the places of columns that were binary floating point, where a not-a-number
    stands for a missing id.
    """

    index: int  # of the file within its table
    columns: tuple[str, ...]
    batches: Iterator[pa.RecordBatch]
    floats: tuple[int, ...] = ()


def _nothing() -> None:
    pass


@dataclass
class Table:
    """One table: the names people know its files by, and a stream of its sheets (once).

    `begin` lets what must start first start before anybody waits for the sheets; then `close` must
    be called, whether they were read or not.
    """

    name: str
    files: tuple[str, ...]
    sheets: Callable[[], Iterator[Sheet]]
    done: Callable[[], float] = field(default=lambda: 0.0)  # part read, 0 to 1
    begin: Callable[[], None] = field(default=_nothing)
    close: Callable[[], None] = field(default=_nothing)


def tables(
    data: str | Path | pd.DataFrame | Mapping[str, pd.DataFrame], settings: Settings
) -> dict[str, Table]:
    """The tables in `data` by name; ``orders`` is always there.

    Raises
    ------
    InputError
        No orders, an unknown ending, two files for one table, a path that is no regular file or
        leaves the folder, a database that cannot be reached.
    """
    if isinstance(data, pd.DataFrame):
        return {"orders": _frame("orders", data)}
    if isinstance(data, Mapping):
        return _frames(data)
    if "://" in str(data):
        return _database(str(data), settings)
    return _paths(Path(data), settings)


def _paths(path: Path, settings: Settings) -> dict[str, Table]:
    if not path.exists():
        raise InputError(f"The data must exist. Got {path}. Name a folder, a file or a URL.")
    if not path.is_dir():
        return {"orders": _files("orders", [path], path.parent, settings)}
    root = path.resolve()
    named = {name: _named(root, name, settings) for name in READ}
    found = {name: entry for name, entry in named.items() if entry is not None}
    if "orders" not in found:
        found["orders"] = _parts_folder(root)
    out = {}
    for name, entry in found.items():
        inside = _inside(entry, root)
        members = _members(inside, root) if inside.is_dir() else [inside]
        out[name] = _files(name, members, root, settings)
    return out


def _named(root: Path, name: str, settings: Settings) -> Path | None:
    """The file or folder of table `name`, by the settings or by its own name."""
    if name in settings.tables:
        entry = root / settings.tables[name]
        if not entry.exists():
            raise InputError(
                f"[tables] {name} must name a file in the data folder. Got "
                f"'{settings.tables[name]}'. Correct it in clv.toml."
            )
        return entry
    candidates = [root / f"{name}{ending}" for ending in ENDINGS] + [root / name]
    present = [entry for entry in candidates if entry.is_symlink() or entry.exists()]
    if len(present) > 1:
        names = ", ".join(entry.name for entry in present)
        raise InputError(
            f"Table '{name}' must be one file or one folder. Got {names}. Remove all but one, or "
            f"name one in clv.toml: [tables] {name} = ..."
        )
    return present[0] if present else None


def _parts_folder(root: Path) -> Path:
    """`root` itself, when it holds nothing but parts of the orders table."""
    inside = [entry for entry in sorted(root.iterdir()) if not _aside(entry)]
    data = [entry for entry in inside if entry.name.endswith(ENDINGS)]
    if not data or any(entry.name.split(".")[0] in READ for entry in inside):
        came = ", ".join(entry.name for entry in inside[:8]) or "an empty folder"
        raise InputError(
            f"The data folder must hold orders.csv, orders.csv.gz, orders.parquet or orders/. Got "
            f"{came}. Rename the file, or set [tables] orders in clv.toml."
        )
    return root


def _aside(entry: Path) -> bool:
    return entry.name.startswith((".", "_", "truth")) or entry.name == "clv.toml"


def _members(folder: Path, root: Path) -> list[Path]:
    members = []
    for entry in sorted(folder.rglob("*")):
        inner = entry.relative_to(folder)
        if any(part.startswith((".", "_", "truth")) for part in inner.parts):
            continue
        if entry.name.endswith(ENDINGS):
            members.append(_inside(entry, root))
        elif entry.is_symlink() or not (entry.is_dir() or entry.name == "clv.toml"):
            raise InputError(
                f"The folder {folder.name} must hold only {', '.join(ENDINGS)}. Got {inner}. "
                "Move it elsewhere."
            )
    if not members:
        raise InputError(
            f"The folder {folder.name} must hold at least one of {', '.join(ENDINGS)}. Got none. "
            "Put the order files there."
        )
    return members


def _inside(entry: Path, root: Path) -> Path:
    target = entry.resolve()
    if not target.is_relative_to(root.resolve()):
        raise InputError(
            f"{entry.name} must lie in the data folder. Got a path or link that leaves it. Copy "
            "the file there."
        )
    return target


def _files(name: str, paths: list[Path], root: Path, settings: Settings) -> Table:
    paths = [_inside(path, root) for path in paths]
    names = tuple(_shown(path, root) for path in paths)
    for path, shown in zip(paths, names, strict=True):
        open_regular(path).close()
        if not path.name.endswith(ENDINGS):
            raise InputError(
                f"{shown} must end in {', '.join(ENDINGS)}. Got '{path.suffix}'. Save it as one "
                "of these."
            )
    state = {"now": 0, "part": 0.0}
    runs = dict(_parquet_runs(paths))

    def sheets() -> Iterator[Sheet]:
        index = 0
        while index < len(paths):
            if index in runs:
                yield from _parquet(runs[index], names, index, state)
                index += len(runs[index].paths)
            else:
                reader = Csv(paths[index], names[index], settings.orders.encoding)
                state["now"] = index
                batches = _tracked(reader, state)
                yield Sheet(index, reader.columns, batches)
                index += 1

    first = runs.get(0)
    return Table(
        name, names, sheets, lambda: (state["now"] + state["part"]) / len(paths),
        first.begin if first else _nothing, first.close if first else _nothing,
    )  # fmt: skip


def _shown(path: Path, root: Path) -> str:
    resolved = root.resolve()
    return str(path.relative_to(resolved)) if path.is_relative_to(resolved) else path.name


def _tracked(reader: Csv, state: dict[str, Any]) -> Iterator[pa.RecordBatch]:
    for batch in reader.batches():
        state["part"] = reader.share
        yield batch


class _Child:
    """A process with limits that reads Parquet files which stand one after the other."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.before: list[os.stat_result] = []
        self.process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start it before anybody waits for it."""
        self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, unless that was done; it waits where its pipe is full."""
        if self.process is None:
            self.before = [path.stat() for path in self.paths]
            command = [sys.executable, "-I", str(Path(foreign.__file__)), *map(str, self.paths)]
            self.process = subprocess.Popen(  # noqa: S603  our own file, no shell
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
            )
        return self.process

    def close(self) -> None:
        """End it, whatever it is at."""
        if self.process is not None:
            with self.process as process:
                process.kill()
            self.process = None


def _parquet_runs(paths: list[Path]) -> Iterator[tuple[int, _Child]]:
    """Where Parquet files begin that stand one after the other, and who reads them."""
    begin = 0
    for parquet, some in groupby(paths, lambda path: path.name.endswith(".parquet")):
        run = list(some)
        if parquet:
            yield begin, _Child(run)
        begin += len(run)


def _parquet(
    run: _Child, names: tuple[str, ...], first: int, state: dict[str, Any]
) -> Iterator[Sheet]:
    """Sheets of Parquet files, read by a child process with limits."""
    child = run.start()
    try:
        for index, (path, was) in enumerate(zip(run.paths, run.before, strict=True), start=first):
            state["now"] = index
            yield _received(child, names[index], index, state)
            after = path.stat()
            if (after.st_size, after.st_mtime_ns) != (was.st_size, was.st_mtime_ns):
                raise InputError(
                    f"{names[index]} must not change while it is read. Its size or time changed. "
                    "Wait until it is written to the end."
                )
    finally:
        run.close()


def _received(
    child: subprocess.Popen[bytes], name: str, index: int, state: dict[str, Any]
) -> Sheet:
    try:
        reader = pa.ipc.open_stream(child.stdout)
    except (pa.ArrowException, OSError, EOFError):
        raise _unreadable(child, name) from None
    about = json.loads((reader.schema.metadata or {})[b"about"])

    def batches() -> Iterator[pa.RecordBatch]:
        rows = 0
        try:
            for batch in reader:
                batch.validate(full=True)
                rows += batch.num_rows
                state["part"] = min(rows / max(about["rows"], 1), 1.0)
                bad = pa.nulls(batch.num_rows, pa.string())
                arrays = [*batch.columns, bad]
                yield pa.RecordBatch.from_arrays(arrays, names=[*batch.schema.names, "bad"])
        except (pa.ArrowException, OSError, EOFError):
            raise _unreadable(child, name) from None
        if rows != about["rows"]:
            raise _unreadable(child, name)

    columns = tuple(about["columns"])
    return Sheet(index, columns, batches(), tuple(about["floats"]))


def _unreadable(child: subprocess.Popen[bytes], name: str) -> InputError:
    child.kill()
    said = child.stderr.read().decode("utf-8", "replace") if child.stderr else ""
    code = child.wait()
    try:
        reason = str(json.loads(said[said.rindex("{") :])["reason"])
    except (ValueError, KeyError):
        reason = f"its reader stopped with signal {-code}" if code < 0 else "its reader stopped"
    return InputError(
        f"{name} must be a whole Parquet file. Got: {reason}. Write or copy it again."
    )


def _frames(data: Mapping[str, pd.DataFrame]) -> dict[str, Table]:
    unknown = sorted(set(data) - {*READ})
    if unknown or "orders" not in data:
        raise InputError(
            f"Frames must be named {', '.join(READ)} and hold 'orders'. Got "
            f"{', '.join(map(repr, data)) or 'none'}. Rename them."
        )
    return {name: _frame(name, frame) for name, frame in data.items()}


def _frame(name: str, frame: pd.DataFrame) -> Table:
    columns = tuple(str(column) for column in frame.columns)
    state = {"part": 0.0}
    floats = [i for i, kind in enumerate(frame.dtypes) if pd.api.types.is_float_dtype(kind)]

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(frame), CHUNK):
            chunk = frame.iloc[start : start + CHUNK]
            values = [_column(name, columns[i], chunk.iloc[:, i]) for i in range(len(columns))]
            state["part"] = min((start + CHUNK) / len(frame), 1.0)
            yield _batch(values, start)

    def sheets() -> Iterator[Sheet]:
        yield Sheet(0, columns, batches(), tuple(floats))

    return Table(name, (f"{name} frame",), sheets, lambda: state["part"])


def _batch(values: list[pa.Array], start: int) -> pa.RecordBatch:
    rows = len(values[0]) if values else 0
    line = pa.array(range(start + 1, start + rows + 1), pa.int64())
    names = [f"c{i}" for i in range(len(values))]
    arrays = [*values, line, pa.nulls(rows, pa.string())]
    return pa.RecordBatch.from_arrays(arrays, names=[*names, "line", "bad"])


def _column(table: str, column: str, series: pd.Series[Any]) -> pa.Array:
    kind = series.dtype
    if pd.api.types.is_integer_dtype(kind):
        return pa.array(series, from_pandas=True).cast(pa.string())
    values = series.astype(object)
    if not pd.api.types.is_float_dtype(kind):  # in a column of floats it may be a true NaN
        values = values.where(series.notna(), None)
    return _texts(table, column, values)


def _texts(table: str, column: str, values: Iterable[Any]) -> pa.Array:
    try:
        return pa.array([text_of(value) for value in values], pa.string())
    except UnicodeEncodeError:
        raise InputError(
            f"{table}, column {column}: text must be valid Unicode. Got a lone surrogate. Clean "
            "the column first."
        ) from None


def text_of(value: Any) -> str | None:  # noqa: PLR0911  one line for each type is clearest
    """A value from a frame or a database as the text a CSV file would hold; None when missing."""
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        whole = abs(value) < 2**53 and value == int(value) if abs(value) < 2**63 else False
        return str(int(value)) if whole else repr(float(value))
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, Decimal):
        return f"{value:f}" if value.is_finite() else str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value)


def _database(url: str, settings: Settings) -> dict[str, Table]:
    import sqlalchemy as sa

    try:
        address = sa.engine.make_url(url)
        if address.drivername == "postgresql":
            address = address.set(drivername="postgresql+psycopg")
        shown = f"{address.get_backend_name()}:{address.database or ''}"
        _sqlite_exists(address)
        engine = sa.create_engine(address)
        names = _database_tables(engine, settings)
    except (sa.exc.SQLAlchemyError, ModuleNotFoundError, ValueError) as error:
        raise InputError(
            f"The database must be reachable. Got {type(error).__name__}"
            f"{_cause(error)}. Check the URL, the server and the driver."
        ) from None
    return {
        name: Table(name, (f"{shown}.{table}",), _query(engine, name, table))
        for name, table in names.items()
    }


def _cause(error: Exception) -> str:
    """The kind of driver error, never its text: that may hold a password."""
    if isinstance(error, ModuleNotFoundError):
        return f" for {error.name}"
    origin = getattr(error, "orig", None)
    return f" ({type(origin).__name__})" if origin is not None else ""


def _sqlite_exists(address: Any) -> None:
    path = address.database
    if address.get_backend_name() == "sqlite" and path and not Path(path).is_file():
        raise InputError(f"The database must exist. Got no file {Path(path).name}. Check the URL.")


def _database_tables(engine: Any, settings: Settings) -> dict[str, str]:
    import sqlalchemy as sa

    inspector = sa.inspect(engine)
    out = {}
    for name in READ:
        table = settings.tables.get(name, name)
        schema, _, bare = table.rpartition(".")
        if inspector.has_table(bare, schema=schema or None):
            out[name] = table
        elif name == "orders" or name in settings.tables:
            have = ", ".join(inspector.get_table_names(schema=schema or None)[:12]) or "none"
            raise InputError(
                f"The database must have a table '{table}' for {name}. Got tables: {have}. Set "
                f"[tables] {name} in clv.toml."
            )
    return out


def _query(engine: Any, name: str, table: str) -> Callable[[], Iterator[Sheet]]:
    import sqlalchemy as sa

    schema, _, bare = table.rpartition(".")

    def sheets() -> Iterator[Sheet]:
        inspector = sa.inspect(engine)
        described = inspector.get_columns(bare, schema=schema or None)
        columns = [str(column["name"]) for column in described]
        floats = tuple(
            i for i, column in enumerate(described) if isinstance(column["type"], sa.Float)
        )
        # Untyped columns: the driver's own values, so that dates kept as text stay as they are.
        source = sa.table(bare, *map(sa.column, columns), schema=schema or None)
        yield Sheet(0, tuple(columns), _rows(engine, name, source, columns), floats)

    return sheets


def _rows(engine: Any, name: str, source: Any, columns: list[str]) -> Iterator[pa.RecordBatch]:
    import sqlalchemy as sa

    start = 0
    try:
        with engine.connect() as link:
            # Rows stay on the server until they are asked for.
            stream = link.execution_options(stream_results=True, yield_per=CHUNK)
            with stream.execute(sa.select(source)) as result:
                for rows in result.partitions(CHUNK):
                    values = zip(columns, zip(*rows, strict=True), strict=True)
                    yield _batch([_texts(name, column, v) for column, v in values], start)
                    start += len(rows)
    except sa.exc.SQLAlchemyError as error:
        raise InputError(
            f"The database must answer to the end. Got {type(error).__name__}{_cause(error)} "
            f"after {start} rows of {name}. Try again."
        ) from None
    finally:
        engine.dispose()
