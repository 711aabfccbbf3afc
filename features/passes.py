"""The two passes over the order lines: one scan of the input, then bucket by bucket."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from features import foreign
from features.disk import LINE, Sink, Work, room
from features.formats import Sheet, Table
from features.layouts import Reading, read_orders
from features.report import as_written
from features.rules import BITS, CODES, RULES, Pass, minor_digits, normalised
from features.settings import Settings

__all__ = ["GIVEN", "Bucketed", "Limits", "Work", "examples", "first_pass", "second_pass"]

SMALL = 200_000  # rows; fewer go to one bucket
BUCKETS = 64
EXAMPLES = 3
LIMIT = 1 << 62
DAY = 86_400_000_000  # microseconds
KEY = (
    "customer_id", "ts", "order_id", "product_id", "category", "channel", "amount", "quantity",
    "discount", "cost",
)  # fmt: skip
COLUMNS = {rule.name: rule.column for rule in RULES}
LOCAL = threading.local()
GIVEN = ("order_id", "product_id", "category", "channel", "quantity", "discount", "cost")


@dataclass
class Bucketed:
    """What the second pass found in one bucket, or in all of them together."""

    rows: int = 0
    customers: int = 0
    first: int | None = None
    last: int | None = None
    positive: int = 0
    given: Counter[str] = field(default_factory=Counter)
    digest: tuple[int, int] = (0, 0)
    counts: Counter[str] = field(default_factory=Counter)
    money: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[tuple[int, int, str]]] = field(default_factory=dict)
    unit: int = 100  # minor units in a major one

    def add(self, other: Bucketed) -> None:
        """Take in another bucket."""
        self.rows += other.rows
        self.customers += other.customers
        times = [t for t in (self.first, other.first) if t is not None]
        self.first = min(times, default=None)
        times = [t for t in (self.last, other.last) if t is not None]
        self.last = max(times, default=None)
        self.positive += other.positive
        self.given += other.given
        low, high = (a + b for a, b in zip(self.digest, other.digest, strict=True))
        self.digest = (low, high)
        self.counts += other.counts
        self.money += other.money
        for name, places in other.places.items():
            self.places[name] = sorted([*self.places.get(name, []), *places])[:EXAMPLES]


@dataclass
class _Run:
    """Sheets in a row that have equal columns, as one stream."""

    sheet: Sheet
    batches: Iterator[pa.RecordBatch]


def _runs(sheets: Iterator[Sheet]) -> Iterator[_Run]:
    ahead = next(sheets, None)
    while ahead is not None:
        head = ahead
        after: list[Sheet | None] = []

        def batches(head: Sheet = head, after: list[Sheet | None] = after) -> Iterator[Any]:
            sheet: Sheet | None = head
            while sheet and (sheet.columns, sheet.floats) == (head.columns, head.floats):
                for batch in sheet.batches:
                    yield batch.append_column("file", _constant(sheet.index, batch.num_rows))
                sheet = next(sheets, None)
            after.append(sheet)

        yield _Run(head, batches())
        ahead = after[0]


def _constant(value: int, rows: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, pa.int32()), rows)


def first_pass(
    con: duckdb.DuckDBPyConnection,
    table: Table,
    settings: Settings,
    about: Callable[[int, Reading], Pass],
    work: Work,
) -> None:
    """Scan the input once; normalised lines go to their buckets, refused ones apart.

    Raises
    ------
    InputError
        The input cannot be read, or the disk has no room for the lines.
    """
    with room(work.raw.parent):
        _scan_all(con, table, settings, about, work)


def _scan_all(
    con: duckdb.DuckDBPyConnection,
    table: Table,
    settings: Settings,
    about: Callable[[int, Reading], Pass],
    work: Work,
) -> None:
    held: list[tuple[_Run, Iterator[pa.RecordBatch]]] = []
    rows, decided = 0, False
    number = 0
    for run in _runs(table.sheets()):
        batches = run.batches
        if not decided:
            taken = []
            for batch in batches:
                taken.append(batch)
                rows += batch.num_rows
                if rows > SMALL:
                    work.buckets, decided = BUCKETS, True
                    break
            batches = chain(taken, batches)
        held.append((run, batches))
        if decided:
            for one, stream in held:
                _scan(con, table, one, stream, settings, about, work, number)
                number += 1
            held = []
    for one, stream in held:
        _scan(con, table, one, stream, settings, about, work, number)
        number += 1


def _scan(
    con: duckdb.DuckDBPyConnection,
    table: Table,
    run: _Run,
    batches: Iterator[pa.RecordBatch],
    settings: Settings,
    about: Callable[[int, Reading], Pass],
    work: Work,
    number: int,
) -> None:
    sheet = run.sheet
    mapping = settings.columns.get("orders", {})
    reading = read_orders(sheet.columns, mapping, table.files[sheet.index], sheet.floats)
    work.recognised = work.recognised or reading.recognised
    fault: list[BaseException] = []
    schema = pa.schema(
        [(f"c{i}", pa.string()) for i in range(len(sheet.columns))]
        + [("line", pa.int64()), ("bad", pa.string()), ("file", pa.int32())]
    )
    reader = pa.RecordBatchReader.from_batches(schema, foreign.watched(batches, fault))
    con.register("stream", reader)
    query = normalised(reading, len(sheet.columns), about(work.buckets, reading))
    sink = Sink(work, number)
    try:
        with foreign.batches(con, query, []) as lines:
            for batch in lines:
                sink.add(batch)
    except (duckdb.Error, pa.ArrowException, OSError):
        if fault:
            raise fault[0] from None
        raise
    finally:
        sink.close()
        con.unregister("stream")


@dataclass(frozen=True)
class Limits:
    """What the second pass must know of the whole."""

    lonely: int = LIMIT  # microseconds UTC from which lines stand alone in the future
    extracts: int = 1  # files and sheets
    giant: int = LIMIT  # minor units


def second_pass(
    files: list[Path], number: int, out: Path, scratch: Path, settings: Settings, limits: Limits
) -> Bucketed:
    """Copies, overlaps and sums of one bucket; then its lines, sorted, and those refused.

    Raises
    ------
    InputError
        The disk has no room for the lines.
    """
    with room(out):
        con = _own(scratch)
        try:
            return _bucket(con, files, number, out, settings, limits)
        finally:
            con.execute("DROP TABLE IF EXISTS r")
            con.execute("DROP TABLE IF EXISTS extra")


def _bucket(
    con: duckdb.DuckDBPyConnection,
    files: list[Path],
    number: int,
    out: Path,
    settings: Settings,
    limits: Limits,
) -> Bucketed:
    unit = 10 ** minor_digits(settings.business.currency)
    con.register("lines", pa.concat_tables(pa.ipc.open_file(str(f)).read_all() for f in files))
    con.execute(
        "CREATE TABLE r AS SELECT *, (CASE WHEN ts >= ? THEN ? ELSE 0 END)::UTINYINT AS "
        "verdict FROM lines",
        [limits.lonely, CODES["lonely_future"]],
    )
    con.unregister("lines")
    found = Bucketed(unit=unit)
    _mark_large(con, unit)
    if limits.extracts > 1:
        _mark_overlaps(con, found)
    _mark_copies(con, found, settings.orders.duplicates)
    _note_reversed(con, found, limits.giant)
    _collect(con, found)
    _write(con, out, number)
    return found


def _own(scratch: Path) -> duckdb.DuckDBPyConnection:
    """One connection for each thread and run: making them costs more than a small bucket."""
    if getattr(LOCAL, "scratch", None) != scratch:
        LOCAL.scratch = scratch
        LOCAL.con = foreign.connect("400MB", 1, scratch)
        LOCAL.con.execute("SET preserve_insertion_order = true")
        foreign.lock(LOCAL.con, [], [scratch.parent])
    con: duckdb.DuckDBPyConnection = LOCAL.con
    return con


def _mark_large(con: duckdb.DuckDBPyConnection, unit: int) -> None:
    whole = f"(abs(amount) // {unit} + 1)::HUGEINT"
    sums = (
        "sum(abs(amount))",
        f"sum(CASE WHEN {whole} < {1 << 32} THEN {whole} * {whole} ELSE {LIMIT} END)",
        "sum(abs(coalesce(quantity, 0)))", "sum(abs(coalesce(cost, 0)))",
        "sum(coalesce(discount, 0))",
    )  # fmt: skip
    if max(foreign.row(con, f"SELECT {', '.join(sums)} FROM r")) < LIMIT:
        return  # the customers together do not pass it, so nobody does
    con.execute(
        "UPDATE r SET verdict = ? WHERE verdict = 0 AND customer_id IN (SELECT customer_id FROM r "
        f"GROUP BY customer_id HAVING {' OR '.join(f'{each} >= {LIMIT}' for each in sums)})",
        [CODES["amount_too_large"]],
    )


def _mark_overlaps(con: duckdb.DuckDBPyConnection, found: Bucketed) -> None:
    """An order whose lines stand, all of them and no others, in an earlier file is dropped."""
    con.execute(
        "CREATE TABLE copies AS SELECT *, row_number() OVER (PARTITION BY customer_id, okey, n, "
        "digest ORDER BY file, extract) AS copy FROM (SELECT customer_id, "
        "coalesce('o' || order_id, 'd' || day) AS okey, file, extract, count(*) AS n, "
        "sum(hash(ts, amount, product_id, category, channel, quantity, discount, cost)) AS digest "
        "FROM r WHERE verdict = 0 GROUP BY ALL)"
    )
    con.execute(
        "UPDATE r SET verdict = ? FROM copies WHERE copy > 1 AND verdict = 0 AND r.customer_id = "
        "copies.customer_id AND coalesce('o' || order_id, 'd' || day) = okey AND r.file = "
        "copies.file AND r.extract = copies.extract",
        [CODES["overlapping_extract"]],
    )
    _note(
        con, found, "conflicting_extract",
        "FROM r WHERE verdict = 0 AND order_id IS NOT NULL AND (customer_id, 'o' || order_id) IN "
        "(SELECT (customer_id, okey) FROM copies WHERE copy = 1 GROUP BY customer_id, okey HAVING "
        "count(*) > 1)",
    )  # fmt: skip
    con.execute("DROP TABLE copies")


def _mark_copies(con: duckdb.DuckDBPyConnection, found: Bucketed, policy: str) -> None:
    same = "file, extract, record, customer_id, ts, amount"
    con.execute(
        "CREATE TABLE extra AS SELECT rowid AS place FROM (SELECT rowid, row_number() OVER "
        f"(PARTITION BY {same} ORDER BY line) AS k FROM r WHERE verdict = 0 AND record IN (SELECT "
        "record FROM r WHERE verdict = 0 GROUP BY record HAVING count(*) > 1)) WHERE k > 1"
    )
    if policy == "drop":
        con.execute(
            "UPDATE r SET verdict = ? WHERE rowid IN (FROM extra)", [CODES["duplicate_line"]]
        )
    else:
        _note(con, found, "duplicate_line", "FROM r WHERE rowid IN (FROM extra)")


def _note_reversed(con: duckdb.DuckDBPyConnection, found: Bucketed, giant: int) -> None:
    if foreign.row(con, "SELECT coalesce(max(amount), 0) FROM r WHERE verdict = 0")[0] < giant:
        return
    _note(
        con, found, "reversed_order",
        f"FROM (FROM r WHERE verdict = 0 AND amount >= {giant}) AS a WHERE EXISTS (FROM r AS b "
        f"WHERE b.verdict = 0 AND b.amount = -a.amount AND b.customer_id = a.customer_id AND "
        f"abs(b.ts - a.ts) <= {DAY})",
    )  # fmt: skip


def _note(con: duckdb.DuckDBPyConnection, found: Bucketed, name: str, rows: str) -> None:
    query = f"SELECT count(*), coalesce(sum(greatest(amount, 0)), 0) {rows}"
    count, money = foreign.row(con, query)
    if count:
        found.counts[name] += count
        found.money[name] += int(money)
        found.places[name] = examples(con, rows, COLUMNS[name], found.unit)


def examples(
    con: duckdb.DuckDBPyConnection, rows: str, column: str = "amount", unit: int = 100
) -> list[tuple[int, int, str]]:
    """File, line and value of `column` in the first lines that a rule met.

    `rows` is SQL from FROM on, `column` one of the contract's that the store keeps, `unit` the
    number of minor units in a major one. The value is as a file would hold it.
    """
    kept = "ts" if column == "order_ts" else column
    query = f"SELECT file, line, {kept} {rows} ORDER BY file, line LIMIT {EXAMPLES}"
    return [
        (int(file), int(line), as_written(column, value, unit))
        for file, line, value in con.execute(query).fetchall()
    ]


def _collect(con: duckdb.DuckDBPyConnection, found: Bucketed) -> None:
    given = ", ".join(f"count({column})" for column in GIVEN)
    kept = "FROM r WHERE verdict = 0"
    row = foreign.row(
        con,
        "SELECT count(*), count(DISTINCT customer_id), min(ts), max(ts), "
        f"count(*) FILTER (amount > 0), {given} {kept}",
    )
    found.rows, found.customers, found.first, found.last, found.positive = row[:5]
    found.given.update(dict(zip(GIVEN, row[5:], strict=True)))
    # Bit operations: division of 128-bit integers is 30 times slower.
    # A sum of row digests depends on no order and on no division into buckets.
    text = ", ".join(f"coalesce({column}::VARCHAR, chr(30))" for column in KEY)
    low = "(m & 18446744073709551615::UHUGEINT)::UBIGINT"
    high = "(m >> 64)::UBIGINT"
    sums = foreign.row(
        con,
        f"SELECT coalesce(sum({low}), 0), coalesce(sum({high}), 0) FROM "
        f"(SELECT md5_number(concat_ws(chr(31), {text})) AS m {kept})",
    )
    found.digest = (int(sums[0]), int(sums[1]))
    marked = con.execute(f"SELECT DISTINCT notes {kept} AND notes > 0").fetchall()
    for name, bit in BITS.items():
        if any(notes & bit for (notes,) in marked):
            _note(con, found, name, f"{kept} AND (notes & {bit}) > 0")
    names = {code: name for name, code in CODES.items()}
    for code, count, money in con.execute(
        "SELECT verdict, count(*), sum(greatest(amount, 0)) FROM r WHERE verdict > 0 GROUP BY 1"
    ).fetchall():
        name = names[code]
        found.counts[name] += count
        found.money[name] += int(money)
        rows = f"FROM r WHERE verdict = {code}"
        found.places[name] = examples(con, rows, COLUMNS[name], found.unit)


def _write(con: duckdb.DuckDBPyConnection, out: Path, number: int) -> None:
    order = ", ".join(f"{column} NULLS FIRST" for column in KEY)
    name = f"bucket-{number:03d}.parquet"
    con.execute(
        f"COPY (SELECT {', '.join(LINE)} FROM r WHERE verdict = 0 ORDER BY {order}) "
        f"TO {foreign.literal(out / 'orders' / name)} (FORMAT parquet, ROW_GROUP_SIZE 122880)"
    )
    con.execute(
        "COPY (SELECT verdict AS rule, * EXCLUDE (verdict), NULL::VARCHAR[] AS raw, NULL::VARCHAR "
        "AS bad FROM r WHERE verdict > 0) "
        f"TO {foreign.literal(out / 'refused' / name)} (FORMAT parquet)"
    )
