"""The table of events, checked and normalised: visits, opened mails, support, surveys, points.

Two passes like those over the orders, and as bounded in memory. The first streams the input once:
each record meets the first rule it breaks, the rest goes to parts by customer. The second knows
how far the orders cover, and writes each bucket sorted.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features import foreign
from features.errors import InputError
from features.formats import Sheet, Table
from features.layouts import places
from features.rules import (
    CODES,
    LAST_DAY,
    RULES,
    TURNED,
    Pass,
    bucket_of,
    clock_time,
    number,
    offset,
    timed,
)
from features.settings import Settings

__all__ = ["ASKED", "COLUMNS", "MEMBER", "SCORE", "Staged", "read", "write"]

#: Kinds of events that speak of surveys, and of loyalty.
SCORE: Final = re.compile(r"survey|score|nps|csat|rating|review", re.IGNORECASE)
MEMBER: Final = re.compile(r"loyal|member|club|point|tier", re.IGNORECASE)
ASKED: Final = f"{SCORE.pattern}|{MEMBER.pattern}"
NEEDED: Final = ("customer_id", "ts", "kind")
COLUMNS: Final = (*NEEDED, "value", "channel")
KEPT: Final = ("part", "customer_id", "event_ts", "kind", "value", "channel", "file", "line")
TYPES: Final = (
    pa.uint8(), pa.string(), pa.int64(), pa.string(), pa.int64(), pa.string(), pa.int32(),
    pa.int64(),
)  # fmt: skip
PARTS: Final = 64
LARGE: Final = 1_000_000  # events; fewer stay in one part
LIMIT: Final = 10**9  # a value reaches it: no sum of a customer may pass 2^62
EXAMPLES: Final = 3
WHOLE_SHARE: Final = 0.01  # from this share of bad rows on, the file as a whole was misread
SHOWN: Final = 40
NAMES: Final = {code: name for name, code in CODES.items()}
SHOWS: Final = {r.name: COLUMNS.index(r.column) for r in RULES if r.table == "events"}
LOST: Final = CODES["event_unreadable_value"]


@dataclass
class Staged:
    """What is known of the table on its way: what the rules met, and where the rest lies."""

    table: Table
    raw: Path
    refused: Path
    parts: int = 1
    rows_in: int = 0
    kept: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[tuple[int, int, str]]] = field(default_factory=dict)
    digest: tuple[int, int] = (0, 0)
    naive: int | None = None  # first place of a time without a zone, file << 40 | line
    aware: int | None = None  # and of one with

    def meet(self, rule: str, rows: int, shown: list[tuple[int, int, str]]) -> None:
        """Count what a rule met; of all examples the first by file and line stay."""
        self.counts[rule] += rows
        self.places[rule] = sorted([*self.places.get(rule, []), *shown])[:EXAMPLES]

    def _where(self, place: int) -> str:
        return f"{self.table.files[place >> 40]} line {place & ((1 << 40) - 1)}"

    def require_sound(self) -> None:
        """Refuse the whole where single rows cannot tell."""
        if self.naive is not None and self.aware is not None:
            raise InputError(
                "ts must be local times throughout, or have a time zone throughout. Got one "
                f"without in {self._where(self.naive)} and one with in {self._where(self.aware)}. "
                "Export all in one form."
            )
        for rule, must, cure in (
            ("event_unreadable_line", "readable UTF-8", "Save it as UTF-8, or set [orders] "
             "encoding in clv.toml."),
            ("event_ambiguous_time", "times whose day and month can be told apart",
             'Set [orders] date_order to "dmy" or "mdy" in clv.toml.'),
        ):  # fmt: skip
            if self.counts[rule] >= max(2, WHOLE_SHARE * self.rows_in):
                file, line, value = self.places[rule][0]
                raise InputError(
                    f"{self.table.files[file]} must hold {must}. Got {self.counts[rule]} lines "
                    f"without; line {line}: '{value[:SHOWN]}'. {cure}"
                )


def read(
    con: duckdb.DuckDBPyConnection,
    table: Table,
    settings: Settings,
    aliases: bool,
    stage: Path,
    kinds: str | None = None,
) -> Staged:
    """Scan the table once; kept events go to parts below `stage`, refused ones apart.

    `kinds` is a pattern that the kind must hold, in any case; other events are passed over unread.

    Raises
    ------
    InputError
        A needed column is missing, times with and without a zone, a file misread as a whole.
    """
    found = Staged(table, stage / "raw_events", stage / "refused" / "events")
    found.raw.mkdir()
    found.refused.mkdir()
    sink = _Sink(found)
    try:
        for sheet in table.sheets():
            _scan(con, sheet, settings, aliases, found, sink, kinds)
    finally:
        sink.close()
    found.require_sound()
    return found


def _scan(
    con: duckdb.DuckDBPyConnection,
    sheet: Sheet,
    settings: Settings,
    aliases: bool,
    found: Staged,
    sink: _Sink,
    kinds: str | None,
) -> None:
    at = _places(sheet, settings, found.table.files[sheet.index])
    fault: list[BaseException] = []
    schema = pa.schema(
        [(f"c{i}", pa.string()) for i in range(len(sheet.columns))]
        + [("line", pa.int64()), ("bad", pa.string())]
    )
    batches = sheet.batches if kinds is None else _of_kinds(sheet.batches, at["kind"], kinds)
    reader = pa.RecordBatchReader.from_batches(schema, foreign.watched(batches, fault))
    con.register("event_rows", reader)
    query = _query(at, sheet, Pass(settings, aliases=aliases))
    try:
        for batch in foreign.batches(con, query, []):
            sink.add(batch)
    except (duckdb.Error, pa.ArrowException, OSError):
        # DuckDB wraps an error of its source in its own.
        if fault:
            raise fault[0] from None
        raise
    finally:
        with suppress(duckdb.Error):
            con.unregister("event_rows")


def _of_kinds(
    batches: Iterator[pa.RecordBatch], place: int, kinds: str
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        here = pc.match_substring_regex(batch.column(place), kinds, ignore_case=True)
        yield batch.filter(pc.fill_null(here, False))


def _places(sheet: Sheet, settings: Settings, name: str) -> dict[str, int]:
    mapping = settings.columns.get("events", {})
    unknown = sorted(set(mapping) - {*COLUMNS})
    if unknown:
        raise InputError(
            f"[columns.events] takes the names {', '.join(COLUMNS)}. Got '{unknown[0]}'. Correct "
            "it in clv.toml."
        )
    found = places(sheet.columns, {c: mapping.get(c, c) for c in COLUMNS}, mapping, name)
    missing = [column for column in NEEDED if column not in found]
    if missing:
        raise InputError(
            f"{name} must have the columns {', '.join(NEEDED)}. Missing: {', '.join(missing)}. "
            f'Set [columns.events] {missing[0]} = "..." in clv.toml, or give the file another name.'
        )
    return found


def _query(at: dict[str, int], sheet: Sheet, about: Pass) -> str:
    """SQL from the view ``event_rows`` to normalised events, refused ones marked by ``rule``."""
    text = {c: f"c{i}" if i not in sheet.floats else f"nullif(c{i}, 'nan')" for c, i in at.items()}
    x = ", ".join(f"{text.get(c, 'NULL')}::VARCHAR AS x_{c}" for c in COLUMNS)
    customer, join = "nullif(x_customer_id, '')", ""
    if about.aliases:
        customer = f"coalesce(aliases.customer_id, {customer})"
        join = " LEFT JOIN aliases ON aliases.old_id = x_customer_id"
    order = about.settings.orders.date_order
    value = number("x_value", 18, 3)
    typed = (
        f"SELECT written.*, {customer} AS customer, {clock_time('x_ts', order)} AS naive, "
        f"{offset('x_ts')} AS east, false AS in_utc, nullif(trim(x_kind), '') AS sort, "
        f"CASE WHEN abs({value}) < {LIMIT} THEN ({value} * 1000)::BIGINT END AS amount "
        f"FROM (SELECT {x}, line, bad FROM event_rows) AS written{join}"
    )
    raw = ", ".join(f"x_{column}" for column in COLUMNS)
    lost = "nullif(trim(x_value), '') IS NOT NULL AND amount IS NULL"
    return (
        f"WITH typed AS ({typed}), timed AS ({timed(about)}) SELECT "
        f"{bucket_of('customer', PARTS)} AS part, {_rule(at, sheet, about)}::UTINYINT AS rule, "
        f"customer AS customer_id, epoch_us(utc) AS event_ts, sort AS kind, amount AS value, "
        f"nullif(x_channel, '') AS channel, {sheet.index}::INTEGER AS file, line, "
        f"({lost}) AS lost, east IS NOT NULL AS aware, [{raw}] AS raw, bad FROM timed"
    )


def _rule(at: dict[str, int], sheet: Sheet, about: Pass) -> str:
    """The code of the first rule an event breaks, 0 for none."""
    turned = f"regexp_matches(x_ts, '{TURNED}')"
    imprecise = "coalesce(abs(TRY_CAST(customer AS DOUBLE)) >= 9007199254740992, false)"
    cases = {
        "event_unreadable_line": "bad IS NOT NULL",
        "event_missing_customer": "customer IS NULL",
        "event_imprecise_customer": imprecise if at["customer_id"] in sheet.floats else "false",
        "event_missing_time": "naive IS NULL AND nullif(trim(x_ts), '') IS NULL",
        "event_ambiguous_time": "false" if about.settings.orders.date_order
        else f"naive IS NULL AND {turned}",
        "event_unreadable_time": "naive IS NULL",
        "event_impossible_time": f"utc < TIMESTAMP '1970-01-01' OR utc >= {LAST_DAY}",
        "event_missing_kind": "sort IS NULL",
    }  # fmt: skip
    whens = " ".join(f"WHEN {sql} THEN {CODES[name]}" for name, sql in cases.items())
    return f"CASE {whens} ELSE 0 END"


class _Sink:
    """Events on their way into parts by customer; few of them stay in one."""

    def __init__(self, found: Staged) -> None:
        self.found = found
        self.held: list[pa.RecordBatch] = []
        self.writers: dict[int, Any] = {}
        self.refused = _Refused(found.refused / "read.parquet")

    def add(self, batch: pa.RecordBatch) -> None:
        """Count one batch by rule, note its times, and divide it."""
        found = self.found
        found.rows_in += batch.num_rows
        rules = batch.column("rule").to_numpy()
        kept = batch.filter(pa.array(rules == 0))
        for code in np.unique(rules[rules > 0]).tolist():
            _meet(found, code, batch.filter(pa.array(rules == code)))
        if kept.num_rows < batch.num_rows:
            self.refused.add(batch.filter(pa.array(rules > 0)).select(["rule", *_REFUSED]))
        lost = kept.filter(pc.fill_null(kept.column("lost"), False))
        if lost.num_rows:
            _meet(found, LOST, lost)
        if kept.num_rows:
            self._note_times(kept)
            self.held.append(kept.select(KEPT))
            self._divide()

    def _note_times(self, kept: pa.RecordBatch) -> None:
        place = (kept.column("file").to_numpy().astype(np.int64) << 40) + kept.column("line")
        aware = kept.column("aware").to_numpy(zero_copy_only=False)
        for name, which in (("naive", ~aware), ("aware", aware)):
            if which.any():
                first, before = int(place[which].min()), getattr(self.found, name)
                setattr(self.found, name, first if before is None else min(first, before))

    def _divide(self) -> None:
        if self.found.parts == 1 and sum(batch.num_rows for batch in self.held) > LARGE:
            self.found.parts = PARTS
        if self.found.parts == PARTS:
            for batch in self.held:
                self._write(batch)
            self.held = []

    def _write(self, batch: pa.RecordBatch) -> None:
        codes = batch.column("part").to_numpy()
        codes = codes if self.found.parts == PARTS else np.zeros_like(codes)
        order = np.argsort(codes, kind="stable")
        bounds = np.searchsorted(codes[order], np.arange(self.found.parts + 1))
        rows = batch.select(KEPT).take(pa.array(order))
        for part in range(self.found.parts):
            first, last = int(bounds[part]), int(bounds[part + 1])
            if last > first:
                self._writer(part, rows.schema).write_batch(rows.slice(first, last - first))

    def _writer(self, part: int, schema: pa.Schema) -> Any:
        if part not in self.writers:
            path = self.found.raw / f"part-{part:03d}.arrow"
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self.writers[part] = pa.ipc.new_file(str(path), schema, options=options)
        return self.writers[part]

    def close(self) -> None:
        """End all files."""
        for batch in self.held:
            self._write(batch)
        for writer in self.writers.values():
            writer.close()
        self.refused.close()


_REFUSED = ("file", "line", "raw", "bad")


class _Refused:
    """The file of refused events, made when the first one comes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writer: pq.ParquetWriter | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        if self.writer is None:
            self.writer = pq.ParquetWriter(self.path, batch.schema)
        self.writer.write_batch(batch)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def _meet(found: Staged, code: int, rows: pa.RecordBatch) -> None:
    """Count the rows that met a rule, with the first of them."""
    name = NAMES[code]
    order = np.lexsort((rows.column("line").to_numpy(), rows.column("file").to_numpy()))
    shown = []
    for row in rows.take(pa.array(order[:EXAMPLES])).to_pylist():
        value = row["bad"] or row["raw"][SHOWS[name]] or ""
        shown.append((row["file"], row["line"], value))
    found.meet(name, rows.num_rows, shown)


def write(
    con: duckdb.DuckDBPyConnection, found: Staged, coverage: int, buckets: int, stage: Path
) -> None:
    """Write ``events/bucket-NNN.parquet`` below `stage`: what lies before `coverage`, sorted.

    `buckets` is 1 or 64, and 64 if the events themselves were many.
    """
    folder = stage / "events"
    folder.mkdir()
    late = _Refused(found.refused / "late.parquet")
    try:
        for bucket, rows in enumerate(_by_bucket(found, buckets)):
            con.register("staged_events", rows)
            _bucket(con, found, f"event_ts < {coverage}", folder / f"bucket-{bucket:03d}.parquet")
            _late(con, found, f"event_ts >= {coverage}", late)
            con.unregister("staged_events")
    finally:
        late.close()


def _by_bucket(found: Staged, buckets: int) -> Iterator[pa.Table]:
    """The kept events of each bucket; parts are the buckets of 64, but few lie all in the first."""
    if found.parts == buckets:
        yield from (_part(found, bucket) for bucket in range(buckets))
        return
    rows = _part(found, 0)
    codes = rows.column("part").to_numpy() & (buckets - 1)  # as `bucket_of` takes fewer bits
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(buckets + 1))
    rows = rows.take(pa.array(order))
    for first, last in itertools.pairwise(bounds.tolist()):
        yield rows.slice(first, last - first)


def _part(found: Staged, part: int) -> pa.Table:
    path = found.raw / f"part-{part:03d}.arrow"
    if path.exists():
        return pa.ipc.open_file(str(path)).read_all()
    return pa.schema(list(zip(KEPT, TYPES, strict=True))).empty_table()


def _bucket(con: duckdb.DuckDBPyConnection, found: Staged, which: str, path: Path) -> None:
    con.execute(
        f"COPY (SELECT customer_id, event_ts AS ts, kind, value FROM staged_events WHERE {which} "
        "ORDER BY customer_id, event_ts, kind, value NULLS FIRST) "
        f"TO {foreign.literal(path)} (FORMAT parquet, ROW_GROUP_SIZE 122880)"
    )
    # A sum of row digests depends on no order and on no division into buckets.
    text = "concat_ws(chr(31), customer_id, event_ts, kind, coalesce(value::VARCHAR, chr(30)))"
    count, low, high = foreign.row(
        con,
        "SELECT count(*), coalesce(sum((m & 18446744073709551615::UHUGEINT)::UBIGINT), 0), "
        f"coalesce(sum((m >> 64)::UBIGINT), 0) FROM (SELECT md5_number({text}) AS m "
        f"FROM staged_events WHERE {which})",
    )
    found.kept += int(count)
    found.digest = (found.digest[0] + int(low), found.digest[1] + int(high))


def _late(con: duckdb.DuckDBPyConnection, found: Staged, which: str, late: _Refused) -> None:
    code = CODES["event_after_coverage"]
    value = "CASE WHEN value IS NOT NULL THEN (value / 1000.0)::VARCHAR END"
    query = (
        f"SELECT {code}::UTINYINT AS rule, file, line, [customer_id, "
        f"make_timestamp(event_ts)::VARCHAR || '+00:00', kind, {value}, channel] AS raw, "
        f"NULL::VARCHAR AS bad FROM staged_events WHERE {which}"
    )
    for batch in foreign.batches(con, query, []):
        if batch.num_rows:
            _meet(found, code, batch)
            late.add(batch)
