"""The small tables beside the orders: aliases of ids, currency rates, attributes of customers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import InputError
from features.foreign import batches, quoted, row
from features.formats import Sheet, Table
from features.layouts import places
from features.rules import bucket_of
from features.settings import Settings

__all__ = ["Attributes", "load_aliases", "load_rates", "write_customers"]

RATE_DAYS = 7  # a rate holds for its own day and this many after it
EPOCH = date(1970, 1, 1)
TRIED = 50_000  # rows taken from a small table at a time


def _rows(
    table: Table, wanted: Sequence[str], settings: Settings
) -> Iterator[tuple[str, int, tuple[str | None, ...]]]:
    """File, line and the wanted columns of every record; a record that is no text is refused."""
    mapping = settings.columns.get(table.name, {})
    for sheet in table.sheets():
        name = table.files[sheet.index]
        found = _found(sheet, wanted, mapping, name, table.name)
        for batch in sheet.batches:
            columns = [batch.column(found[w]).to_pylist() for w in wanted]
            lines, bads = batch.column("line").to_pylist(), batch.column("bad").to_pylist()
            for line, bad, *values in zip(lines, bads, *columns, strict=True):
                if bad is not None:
                    raise InputError(
                        f"{name} line {line}: every record must be readable. Got one that {bad}. "
                        "Mend that line."
                    )
                yield name, line, tuple(values)


def _found(
    sheet: Sheet, wanted: Sequence[str], mapping: dict[str, str], name: str, table: str
) -> dict[str, int]:
    found = places(sheet.columns, {w: mapping.get(w, w) for w in wanted}, mapping, name)
    missing = [w for w in wanted if w not in found]
    if missing:
        raise InputError(
            f"{name} must have the columns {', '.join(wanted)}. Missing: {', '.join(missing)}. "
            f'Set [columns.{table}] {missing[0]} = "..." in clv.toml.'
        )
    return found


def load_aliases(con: duckdb.DuckDBPyConnection, table: Table, settings: Settings) -> None:
    """Make the table ``aliases(old_id, customer_id)`` with chains followed to their end.

    Raises
    ------
    InputError
        An id with two different successors, or ids that lead back to themselves.
    """
    step: dict[str, str] = {}
    for name, line, (old, new) in _rows(table, ("old_id", "customer_id"), settings):
        if not old or not new or step.get(old, new) != new:
            raise InputError(
                f"{name} line {line}: every old_id must lead to one customer_id. Got an empty "
                "value or a second one. Mend that line."
            )
        if old != new:
            step[old] = new
    ends = {old: _end(step, old, table.files[0]) for old in step}
    pairs = pa.table({"old_id": list(ends), "customer_id": list(ends.values())}, schema=_PAIR)
    con.register("alias_rows", pairs)
    con.execute("CREATE TABLE aliases AS SELECT * FROM alias_rows")
    con.unregister("alias_rows")


_PAIR = pa.schema({"old_id": pa.string(), "customer_id": pa.string()})
_RATE = pa.schema({"currency": pa.string(), "day": pa.int32(), "rate": pa.decimal128(16, 10)})


def _end(step: dict[str, str], start: str, name: str) -> str:
    path = [start]
    while path[-1] in step:
        following = step[path[-1]]
        if following in path[-64:] and following in path:
            raise InputError(
                f"{name} must not lead an id back to itself. Got a circle of {len(path)} ids. "
                "Remove one of its lines."
            )
        if len(path) > len(step):
            raise InputError(
                f"{name} must not lead an id back to itself. Got a circle. Remove one of its lines."
            )
        path.append(following)
    for old in path[:-1]:
        step[old] = path[-1]
    return path[-1]


def load_rates(con: duckdb.DuckDBPyConnection, table: Table, settings: Settings) -> None:
    """Make the table ``daily(currency, day, rate)``: the latest rate of at most 7 days before.

    A rate is how many units of the business currency one unit of the foreign currency is worth.

    Raises
    ------
    InputError
        A rate or day that cannot be read, a rate that is not positive, two rates for one day.
    """
    rates: dict[str, dict[int, Decimal]] = {}
    for name, line, (currency, day, rate) in _rows(table, ("currency", "day", "rate"), settings):
        when, value = _day(day), _rate(rate)
        code = (currency or "").strip().upper()
        if not code or when is None or value is None:
            raise InputError(
                f"{name} line {line}: must hold a currency, a day such as 2024-05-31 and a "
                f"positive rate. Got '{currency}', '{day}', '{rate}'. Mend that line."
            )
        if rates.setdefault(code, {}).setdefault(when, value) != value:
            raise InputError(
                f"{name} line {line}: one currency must have one rate a day. Got a second one for "
                f"{code} on {day}. Remove one."
            )
    con.register("rate_rows", pa.Table.from_pylist(list(_daily(rates)), schema=_RATE))
    con.execute("CREATE TABLE daily AS SELECT * FROM rate_rows")
    con.unregister("rate_rows")


def _daily(rates: dict[str, dict[int, Decimal]]) -> Iterator[dict[str, object]]:
    for currency, known in sorted(rates.items()):
        days = sorted(known)
        for day, following in zip(days, [*days[1:], 1 << 30], strict=True):
            for held in range(day, min(following, day + RATE_DAYS + 1)):
                yield {"currency": currency, "day": held, "rate": known[day]}


def _day(text: str | None) -> int | None:
    match = re.fullmatch(r"(\d{4}-\d{2}-\d{2})(?:[ T].*)?", (text or "").strip())
    try:
        return (date.fromisoformat(match[1]) - EPOCH).days if match else None
    except ValueError:
        return None


def _rate(text: str | None) -> Decimal | None:
    try:
        value = Decimal((text or "").strip())
    except InvalidOperation:
        return None
    ok = value.is_finite() and Decimal("1e-9") <= value < Decimal(10**6)
    return value.quantize(Decimal("1e-10")) if ok and "_" not in (text or "") else None


class Attributes:
    """The table of customers, gathered sheet by sheet."""

    def __init__(self) -> None:
        self.columns: list[str] = []
        self.rows_in = self.missing = self.double = 0


def write_customers(
    con: duckdb.DuckDBPyConnection,
    table: Table,
    settings: Settings,
    folder: Path,
    buckets: int,
    aliases: bool,
) -> Attributes:
    """Write ``bucket-NNN.parquet`` with customer_id and all attributes as text, one row each.

    Of several different rows for one customer the first in the order of the alphabet is kept.
    """
    about = Attributes()
    mapping = settings.columns.get("customers", {})
    for number, sheet in enumerate(table.sheets()):
        name = table.files[sheet.index]
        key = _found(sheet, ("customer_id",), mapping, name, "customers")["customer_id"]
        renamed = {theirs.strip().lower(): ours for ours, theirs in mapping.items()}
        names = [renamed.get(c.strip().lower(), c.strip()) for c in sheet.columns]
        names[key] = "customer_id"
        _check_names(names, name)
        columns = ", ".join(
            f"CASE WHEN bad IS NULL THEN nullif(c{i}, '') END AS {quoted(column)}"
            for i, column in enumerate(names)
        )
        schema = pa.schema(
            [(f"c{i}", pa.string()) for i in range(len(names))]
            + [("line", pa.int64()), ("bad", pa.string())]
        )
        reader = pa.RecordBatchReader.from_batches(schema, sheet.batches)
        con.register("people", reader)
        con.execute(f"CREATE TABLE people_{number} AS SELECT {columns} FROM people")
        con.unregister("people")
    return _merged(con, number + 1, folder, buckets, aliases, about)


def _check_names(names: list[str], file: str) -> None:
    lower = [name.lower() for name in names]
    twice = sorted({name for name in lower if lower.count(name) > 1 or not name})
    if twice:
        raise InputError(
            f"{file} must have every column once, with a name. Got '{twice[0]}' more than once or "
            "empty. Rename or remove it."
        )


def _free(columns: Sequence[str]) -> str:
    """A name that no column has, however its letters are written."""
    return "bucket" + "_" * max(map(len, columns))


def _merged(
    con: duckdb.DuckDBPyConnection,
    sheets: int,
    folder: Path,
    buckets: int,
    aliases: bool,
    about: Attributes,
) -> Attributes:
    union = " UNION ALL BY NAME ".join(f"SELECT * FROM people_{i}" for i in range(sheets))
    con.execute(f"CREATE TABLE people_all AS {union}")
    if aliases:
        con.execute(
            "UPDATE people_all SET customer_id = aliases.customer_id FROM aliases "
            "WHERE people_all.customer_id = aliases.old_id"
        )
    described = con.execute("DESCRIBE people_all").fetchall()
    about.columns = ["customer_id", *sorted(r[0] for r in described if r[0] != "customer_id")]
    listed, place = ", ".join(map(quoted, about.columns)), quoted(_free(about.columns))
    con.execute(f"CREATE TABLE people_once AS SELECT DISTINCT {listed} FROM people_all")
    about.rows_in, about.missing, about.double = row(
        con,
        "SELECT (SELECT count(*) FROM people_all), "
        "(SELECT count(*) FROM people_all WHERE customer_id IS NULL), "
        "(SELECT count(*) - count(DISTINCT customer_id) FROM people_once "
        "WHERE customer_id IS NOT NULL)",
    )
    folder.mkdir()
    # Sorted once and cut: a query for each bucket, or DISTINCT ON, takes ten times as long.
    order = ", ".join(f"{quoted(c)} NULLS LAST" for c in about.columns)
    query = (
        f"SELECT {listed}, {bucket_of('customer_id', buckets)} AS {place} FROM people_once "
        f"WHERE customer_id IS NOT NULL ORDER BY {place}, {order}"
    )
    _cut(batches(con, query, []), folder, buckets)
    return about


def _cut(rows: pa.RecordBatchReader, folder: Path, buckets: int) -> None:
    """Write the first row of each customer to the file of its bucket, the last column of `rows`."""
    schema = pa.schema(list(rows.schema)[:-1])
    with ExitStack() as files:
        out = [
            files.enter_context(pq.ParquetWriter(folder / f"bucket-{bucket:03d}.parquet", schema))
            for bucket in range(buckets)
        ]
        last: str | None = None
        for batch in (one for one in rows if one.num_rows):
            ids, codes = batch.column(0), batch.column(batch.num_columns - 1).to_numpy()
            before = pa.concat_arrays([pa.array([last], pa.string()), ids[:-1]])
            first, last = pc.fill_null(pc.not_equal(ids, before), True), ids[-1].as_py()
            bounds = np.searchsorted(codes, np.arange(buckets + 1))
            for bucket in np.unique(codes).tolist():
                here = batch.slice(bounds[bucket], bounds[bucket + 1] - bounds[bucket])
                kept = here.filter(first[bounds[bucket] : bounds[bucket + 1]])
                out[bucket].write_batch(kept.select(schema.names))
