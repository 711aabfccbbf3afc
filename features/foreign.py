"""A foreign Parquet file is read in a process of its own, since a crafted one may crash its reader.

The parent starts this file as a script, isolated, and takes a series of Arrow streams, one for
each Parquet file, from its standard output: all values as text, with the row number. The child has
limits on memory, processor time and files; when it dies, the parent says which file was refused.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import duckdb
import pyarrow as pa

__all__ = [
    "as_text",
    "batches",
    "connect",
    "literal",
    "lock",
    "quoted",
    "row",
    "send",
    "text_query",
    "watched",
]

MEMORY = 4 << 30  # bytes of address space of the child
BATCH = 65_536  # rows
ROWS_PER_BYTE = 2_000  # beyond it a Parquet file is a bomb
FREE_ROWS = 5_000_000
THREADED = 16 << 20  # bytes; a smaller file is not worth a second thread


def watched(
    source: Iterator[pa.RecordBatch], fault: list[BaseException]
) -> Iterator[pa.RecordBatch]:
    """DuckDB wraps an error of its source in its own: keep the first in `fault`."""
    try:
        yield from source
    except Exception as error:
        fault.append(error)
        raise


def quoted(name: str) -> str:
    """`name` as an SQL identifier, whatever stands in it. The only place that quotes names."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: object) -> str:
    """`text` (a path, for a statement that takes no parameter) as an SQL string."""
    return "'" + str(text).replace("'", "''") + "'"


def as_text(name: str, kind: str) -> str:
    """SQL that gives a column of DuckDB's type `kind` as text without loss.

    Floats become the shortest text that reads back as the same float, whole ones without ``.0``
    (an id kept as 17850.0 is 17850). Instants are written in UTC with an offset.
    """
    column = quoted(name)
    if kind in ("FLOAT", "DOUBLE"):
        return (
            f"CASE WHEN isfinite({column}) AND abs({column}) < 9007199254740992 "
            f"AND {column} = trunc({column}) THEN {column}::BIGINT::VARCHAR "
            f"ELSE {column}::VARCHAR END"
        )
    return column if kind == "VARCHAR" else f"{column}::VARCHAR"


def text_query(types: list[tuple[str, str]], source: str, line: str) -> str:
    """SQL for columns ``c0, c1, ...`` of `source` as text, and ``line`` (int64, counts from 1)."""
    columns = ", ".join(f"{as_text(name, kind)} AS c{i}" for i, (name, kind) in enumerate(types))
    return f"SELECT {columns}, ({line})::BIGINT AS line FROM {source}"


def connect(memory: str, threads: int, scratch: Path | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB that loads no extension by itself and knows one time zone, UTC."""
    con = duckdb.connect(":memory:")
    con.execute("SET autoinstall_known_extensions = false")
    con.execute("SET autoload_known_extensions = false")
    con.execute("SET TimeZone = 'UTC'")
    con.execute("SET enable_progress_bar = false")
    con.execute(f"SET memory_limit = '{memory}'")
    con.execute(f"SET threads = {threads}")
    con.execute("SET preserve_insertion_order = false")
    if scratch is not None:
        con.execute("SET temp_directory = ?", [str(scratch)])
    return con


def lock(con: duckdb.DuckDBPyConnection, paths: list[Path], folders: list[Path]) -> None:
    """Let `con` open nothing but `paths` and what lies in `folders`, for good."""
    if paths:
        con.execute("SET allowed_paths = ?", [[str(path) for path in paths]])
    if folders:
        con.execute("SET allowed_directories = ?", [[f"{folder}/" for folder in folders]])
    con.execute("SET enable_external_access = false")
    con.execute("SET lock_configuration = true")


def send(path: str, index: int, out: BinaryIO) -> None:
    """Write one Parquet file to `out` as an Arrow stream whose schema tells what was in it."""
    con = connect("1GB", 2 if Path(path).stat().st_size > THREADED else 1)
    lock(con, [Path(path)], [])
    rows = int(row(con, "SELECT num_rows FROM parquet_file_metadata(?)", path)[0])
    if rows > max(FREE_ROWS, ROWS_PER_BYTE * Path(path).stat().st_size):
        raise ValueError(f"it claims {rows} rows, more than its size can hold")
    source = "read_parquet(?, file_row_number = true)"
    described = con.execute(f"DESCRIBE SELECT * FROM {source}", [path]).fetchall()
    types = [(str(d[0]), str(d[1])) for d in described if d[0] != "file_row_number"]
    about = {"file": index, "rows": rows, "columns": [t[0] for t in types]}
    about["floats"] = [i for i, t in enumerate(types) if t[1] in ("FLOAT", "DOUBLE")]
    query = text_query(types, source, "file_row_number + 1")
    reader = batches(con, query, [path])
    schema = reader.schema.with_metadata({"about": json.dumps(about)})
    with pa.ipc.new_stream(out, schema) as writer:
        for batch in reader:
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))


def row(con: duckdb.DuckDBPyConnection, query: str, *values: Any) -> tuple[Any, ...]:
    """The one row of `query`, fetched to the end: an open result would block the connection."""
    found: tuple[Any, ...] = con.execute(query, list(values)).fetchall()[0]
    return found


def batches(con: duckdb.DuckDBPyConnection, query: str, values: list[Any]) -> pa.RecordBatchReader:
    """The rows of `query` as a stream of Arrow batches."""
    relation = con.sql(query, params=values)
    if hasattr(relation, "to_arrow_reader"):
        return relation.to_arrow_reader(BATCH)
    return relation.fetch_arrow_reader(BATCH)  # DuckDB before 1.5


def limit(seconds: int) -> None:
    """Bound memory and processor time; no file may be written. Without effect on Windows."""
    try:
        import resource
    except ImportError:
        return
    for what, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        lower = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (lower, lower))


def main(paths: list[str]) -> int:
    """Send every path; the number of the file in work goes to standard error."""
    sys.stdout.flush()
    out = sys.stdout.buffer
    size = sum(Path(path).stat().st_size for path in paths)
    limit(60 + size // 1_000_000)
    for index, path in enumerate(paths):
        try:
            send(path, index, out)
            out.flush()
        except Exception as error:
            reason = str(error).splitlines()[0][:200].replace(path, Path(path).name)
            with contextlib.suppress(OSError):
                sys.stderr.write(json.dumps({"file": index, "reason": reason}))
            return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
