"""The contract: any order data -> checked, normalised order lines in buckets of customers.

Two passes. The first streams the input once: each record becomes a normalised line with the first
rule it breaks, and goes to the bucket of its customer. The second takes bucket by bucket: what only
shows among the lines of one customer (copies, overlaps, sums), then the sorted, final file. Memory
is bounded by a block of input and by a bucket.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pyarrow.parquet as pq
from pyarrow.dataset import dataset

from features import events, foreign, formats, side
from features.errors import InputError
from features.layouts import ORDERS, Reading
from features.passes import (
    BUCKETS,
    GIVEN,
    Bucketed,
    Limits,
    Work,
    examples,
    first_pass,
    second_pass,
)
from features.report import Ingested, quarantine
from features.rules import CODES, RULES, Pass, RuleCount, minor_digits
from features.settings import Settings

__all__ = ["Ingested", "ingest", "local_midnight", "quarantine"]

LONELY_DAYS = 400
LONELY_SHARE = 0.001
SENTINELS = (-1, -99, -999, -9999, -99999, 999, 9999, 99999, 999999)  # major units
SENTINEL_SHARE = 0.01
SENTINEL_ROWS = 5
SENTINEL_FACTOR = 10  # a positive one stands this far above the median
WHOLE_SHARE = 0.01  # from this share of bad lines on, the file as a whole was misread
GIANT_SHARE = 0.001  # of all sales, and
GIANT_LINES = 10  # average lines
DAY = 86_400_000_000  # microseconds
WORKERS = 4
ORDER = ("aliases", "rates", "events", "orders", "customers")  # in which tables are read
SHOWN = 40  # characters of a value in an example
Progress = Callable[[str, float], None]


def ingest(
    data: str | Path | pd.DataFrame | Mapping[str, pd.DataFrame],
    settings: Settings,
    work: Path,
    *,
    progress: Progress | None = None,
    kinds: str | None = None,
) -> Ingested:
    """Read, check and normalise `data` into ``work/orders/bucket-NNN.parquet``.

    Lines are sorted by customer (bytewise), time and every further column, missing values first,
    so the same lines give the same files in whatever order they came. With a table of customers,
    ``work/customers/bucket-NNN.parquet`` holds its attributes as text in the same buckets; with one
    of events, ``work/events/bucket-NNN.parquet`` holds customer_id, ts, kind and value; with
    `kinds` only events whose kind holds that pattern, for readers who need no others.

    Raises
    ------
    InputError
        The input as a whole cannot be trusted or holds no order; nothing stays in `work` then.
    """
    work.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=".ingest-", dir=work))
    try:
        told = progress or (lambda _stage, _part: None)
        done = _Ingest(data, settings, stage, told, kinds).run()
        for name in ("orders", "customers", "events", "refused"):
            shutil.rmtree(work / name, ignore_errors=True)
            if (stage / name).exists():
                (stage / name).replace(work / name)
        return replace(done, folder=work)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def local_midnight(day: date, zone: str) -> int:
    """Microseconds UTC at which `day` begins in time zone `zone`."""
    start = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone))
    return int(start.timestamp()) * 1_000_000


class _Ingest:
    """One run over the input, stage by stage."""

    def __init__(
        self, data: Any, settings: Settings, stage: Path, progress: Progress, kinds: str | None
    ) -> None:
        self.settings, self.stage, self.progress = settings, stage, progress
        self.kinds = kinds
        self.tables = formats.tables(data, settings)
        self.files = self.tables["orders"].files
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
        self.workers = min(cores, WORKERS)
        self.scratch = stage / "scratch"
        for name in ("scratch", "raw", "orders", "refused"):
            (stage / name).mkdir()
        self.con = foreign.connect("1GB", self.workers, self.scratch)
        foreign.lock(self.con, [], [stage])
        self.work = Work(stage / "raw", stage / "refused")
        self.total = Bucketed()
        self.rows_in = self.sales = self.people_in = 0
        self.events: events.Staged | None = None

    def run(self) -> Ingested:
        """All stages; raises `InputError` when the input as a whole cannot be trusted."""
        used = [self.tables[name] for name in ORDER if name in self.tables]
        try:
            for table in used:
                table.begin()
            self._scan()
            self._survey()
            limits = self._limits()
            self._buckets(limits)
            self._customers()
            if self.events is not None:
                until = self._coverage_end()
                events.write(self.con, self.events, until, self.work.buckets, self.stage)
            return self._result()
        finally:
            self.con.close()
            for table in used:
                table.close()

    def _scan(self) -> None:
        """First pass; the share of the input read is told as it goes."""
        for name, load in (("aliases", side.load_aliases), ("rates", side.load_rates)):
            if name in self.tables:
                load(self.con, self.tables[name], self.settings)
        if "events" in self.tables:
            told, aliases = self._telling(self.tables["events"]), "aliases" in self.tables
            self.events = events.read(
                self.con, told, self.settings, aliases, self.stage, self.kinds
            )
            if self.events.parts > 1:  # so many that memory asks for buckets, however few orders
                self.work.buckets = BUCKETS
        orders = self.tables["orders"]
        first_pass(self.con, self._telling(orders), self.settings, self._pass, self.work)
        self.progress("read", 1.0)

    def _telling(self, table: formats.Table) -> formats.Table:
        """The same table, which tells its progress as it is read."""
        stage = "read" if table.name == "orders" else f"read {table.name}"

        def each(batches: Any) -> Any:
            for batch in batches:
                self.progress(stage, min(table.done(), 1.0))
                yield batch

        def told() -> Any:
            for sheet in table.sheets():
                yield replace(sheet, batches=each(sheet.batches))
            self.progress(stage, 1.0)

        return replace(table, sheets=told)

    def _pass(self, buckets: int, reading: Reading) -> Pass:
        floats = ("x_customer_id",) if "nullif" in reading.text["customer_id"] else ()
        return Pass(
            self.settings, floats, "aliases" in self.tables, "rates" in self.tables,
            self._complete(), buckets,
        )  # fmt: skip

    def _complete(self) -> int | None:
        until = self.settings.orders.complete_until
        zone = self.settings.business.time_zone
        return None if until is None else local_midnight(until + timedelta(days=1), zone)

    def _survey(self) -> None:
        """Count what the row rules met; refuse the whole where single rows cannot tell."""
        kept, refused = self.work.files(), sorted(self.work.refused.glob("*.parquet"))
        if kept:
            self.con.register("kept", dataset(list(map(str, kept)), format="ipc"))
            self._by_day()
        if refused:
            self.con.register("refused", dataset(list(map(str, refused)), format="parquet"))
            self.rows_in += int(self._one("SELECT count(*) FROM refused"))
        if not self.rows_in:
            raise InputError(
                f"{self.files[0]} must hold at least one order line. Got only a header. Export it "
                "again."
            )
        if refused:
            self._count_refused()
            self._refuse_whole()
        if not kept:
            raise self._nothing_kept()
        self._sentinels()
        self._refuse_mixed_times()

    def _by_day(self) -> None:
        """One scan of the kept lines, from which all that concerns the whole is answered."""
        unit = 10 ** minor_digits(self.settings.business.currency)
        hits = ", ".join(
            f"count(*) FILTER (amount = {value * unit}) AS s{i}"
            for i, value in enumerate(SENTINELS)
        )
        self.con.execute(
            "CREATE TABLE days AS SELECT day, aware, file, extract, count(*) AS n, min(ts) AS "
            f"first, min(line) AS line, sum(greatest(amount, 0)) AS money, {hits} FROM kept "
            "GROUP BY ALL"
        )
        rows, money = foreign.row(self.con, "SELECT sum(n), sum(money) FROM days")
        self.rows_in += int(rows)
        self.sales += int(money)

    def _one(self, query: str) -> Any:
        # All rows: an unread result would keep the connection from whatever comes next.
        rows = self.con.execute(query).fetchall()
        return rows[0][0] if rows else None

    def _count_refused(self) -> None:
        names = {code: name for name, code in CODES.items()}
        columns = {rule.name: rule.column for rule in RULES}
        for code, count, money in self.con.execute(
            "SELECT rule, count(*), coalesce(sum(greatest(amount, 0)), 0) FROM refused GROUP BY 1"
        ).fetchall():
            name = names[code]
            self.total.counts[name] += count
            self.total.money[name] += int(money)
            place = ORDERS.index(columns[name]) + 1
            rows = self.con.execute(
                f"SELECT file, line, coalesce(bad, raw[{place}], '') FROM refused WHERE rule = "
                f"{code} ORDER BY file, line LIMIT 3"
            ).fetchall()
            self.total.places[name] = [(int(f), int(n), str(v)) for f, n, v in rows]
        self.sales += sum(self.total.money.values())

    def _refuse_whole(self) -> None:
        count = self.total.counts
        if count["unreadable_line"] >= max(2, WHOLE_SHARE * self.rows_in):
            file, line, reason = self.total.places["unreadable_line"][0]
            raise InputError(
                f"{self.files[file]} must be readable UTF-8. Got {count['unreadable_line']} bad "
                f"lines; line {line} {reason}. Save it as UTF-8, or set [orders] encoding in "
                "clv.toml."
            )
        if count["ambiguous_dates"] >= WHOLE_SHARE * self.rows_in:
            file, line, value = self.total.places["ambiguous_dates"][0]
            raise InputError(
                f"{self.files[file]} line {line}, order_ts: day and month must be told apart. Got "
                f'\'{value[:SHOWN]}\'. Set [orders] date_order to "dmy" or "mdy" in clv.toml.'
            )
        if count["missing_rate"] and "rates" not in self.tables:
            file, line, value = self.total.places["missing_rate"][0]
            raise InputError(
                f"{self.files[file]} line {line}, currency: all amounts must be in "
                f"{self.settings.business.currency}, or a table of rates must be given. Got "
                f"'{value[:SHOWN]}'. Add rates.csv with currency, day, rate."
            )

    def _nothing_kept(self) -> InputError:
        name, rows = self.total.counts.most_common(1)[0]
        meaning = next(rule.meaning for rule in RULES if rule.name == name)
        file, line, value = self.total.places[name][0]
        return InputError(
            f"{self.files[file]} must hold at least one order line that can be used. Got "
            f"{self.rows_in} lines, all refused, {rows} by the rule {name} ({meaning}); first line "
            f"{line}: '{value[:SHOWN]}'."
        )

    def _sentinels(self) -> None:
        unit = 10 ** minor_digits(self.settings.business.currency)
        sums = ", ".join(f"sum(s{i})" for i in range(len(SENTINELS)))
        counts = foreign.row(self.con, f"SELECT {sums} FROM days")
        for value, count in zip(SENTINELS, counts, strict=True):
            if count < max(SENTINEL_SHARE * self.rows_in, SENTINEL_ROWS):
                continue
            amount = value * unit
            usual = f"SELECT median(amount) FROM kept WHERE amount > 0 AND amount <> {amount}"
            if value > 0 and amount < SENTINEL_FACTOR * (self._one(usual) or amount):
                continue
            self.total.counts["sentinel_amount"] += int(count)
            shown = examples(self.con, f"FROM kept WHERE amount = {amount}")
            places = [(file, line, f"{value}") for file, line, _ in shown]
            self.total.places.setdefault("sentinel_amount", []).extend(places)

    def _refuse_mixed_times(self) -> None:
        first = self.con.execute(
            "SELECT aware, min((file::BIGINT << 40) + line) FROM days GROUP BY 1 ORDER BY 1"
        ).fetchall()
        if len(first) > 1:
            (_, naive), (_, aware) = first
            raise InputError(
                "order_ts must be local times throughout, or have a time zone throughout. Got one "
                f"without in {self._where(naive)} and one with in {self._where(aware)}. Export "
                "all in one form."
            )

    def _where(self, place: int) -> str:
        return f"{self.files[place >> 40]} line {place & ((1 << 40) - 1)}"

    def _limits(self) -> Limits:
        extracts = self._one("SELECT count(*) FROM (SELECT DISTINCT file, extract FROM days)")
        giant = max(int(max(GIANT_SHARE, GIANT_LINES / self.rows_in) * self.sales), 1)
        lonely = {} if self._complete() is not None else self._lonely()
        return Limits(extracts=int(extracts), giant=giant, **lonely)

    def _lonely(self) -> dict[str, int]:
        """Where the last lines begin, if they are few and far from all the rest."""
        days = self.con.execute(
            "SELECT day, sum(n)::BIGINT, min(first) FROM days GROUP BY 1 ORDER BY 1"
        ).fetchall()
        total, after = sum(row[1] for row in days), 0
        found: dict[str, int] = {}
        for (before, _, _), (day, count, start) in zip(
            reversed(days[:-1]), reversed(days[1:]), strict=True
        ):
            after += count
            if after >= LONELY_SHARE * total:
                break
            if day - before > LONELY_DAYS:
                found = {"lonely": int(start)}
        return found

    def _buckets(self, limits: Limits) -> None:
        def one(bucket: int) -> Bucketed:
            return second_pass(
                self.work.files(bucket), bucket, self.stage, self.scratch, self.settings, limits
            )

        self._empty = [b for b in range(self.work.buckets) if not self.work.files(b)]
        filled = [b for b in range(self.work.buckets) if b not in self._empty]
        with ThreadPoolExecutor(self.workers) as pool:
            for done, found in enumerate(pool.map(one, filled), start=1):
                self.total.add(found)
                self.progress("sort", done / len(filled))
        self._fill_empty(filled[0])
        if not self.total.rows:
            raise self._nothing_kept()
        if not self.total.positive:
            raise InputError(
                f"{self.files[0]} must hold at least one order with a positive amount. Got "
                f"{self.rows_in} lines without one. Check the amount column and its sign."
            )

    def _fill_empty(self, like: int) -> None:
        folder = self.stage / "orders"
        schema = pq.read_schema(folder / f"bucket-{like:03d}.parquet")
        for bucket in self._empty:
            pq.write_table(schema.empty_table(), folder / f"bucket-{bucket:03d}.parquet")

    def _customers(self) -> None:
        if "customers" not in self.tables:
            return
        about = side.write_customers(
            self.con, self.tables["customers"], self.settings, self.stage / "customers",
            self.work.buckets, "aliases" in self.tables,
        )  # fmt: skip
        self.people_in = about.rows_in
        self.total.counts["duplicate_customer"] = about.double
        self.total.counts["unusable_customer"] = about.missing

    def _coverage_end(self) -> int:
        end, last = self._complete(), self.total.last
        if end is None:
            zone = self.settings.business.time_zone
            day = datetime.fromtimestamp((last or 0) / 1e6, UTC).astimezone(ZoneInfo(zone)).date()
            end = local_midnight(day + timedelta(days=1), zone)
        return end

    def _result(self) -> Ingested:
        total = self.total
        if total.first is None or total.last is None:
            raise self._nothing_kept()
        return Ingested(
            folder=self.stage,
            buckets=self.work.buckets,
            rows_in=self.rows_in,
            rows_kept=total.rows,
            rows_refused=self.rows_in - total.rows,
            customers=total.customers,
            first_ts=total.first,
            last_ts=total.last,
            coverage_end=self._coverage_end(),
            columns_present=tuple(column for column in GIVEN if total.given[column]),
            recognised=self.work.recognised,
            fingerprint=self._fingerprint(),
            rules=self._rules(),
            files=self.files,
            currency=self.settings.business.currency,
            time_zone=self.settings.business.time_zone,
            events_in=self.events.rows_in if self.events else 0,
            events_kept=self.events.kept if self.events else 0,
            event_files=self.events.table.files if self.events else (),
        )

    def _fingerprint(self) -> str:
        business = self.settings.business
        text = f"clv-1 {business.currency} {business.time_zone} {self.total.rows} "
        text += f"{self.total.digest[0]:x} {self.total.digest[1]:x}"
        people = self.stage / "customers"
        if people.exists():
            query = (
                "SELECT coalesce(sum((md5_number(p::VARCHAR) >> 64)::UBIGINT), 0) "
                f"FROM read_parquet({foreign.literal(people / '*.parquet')}) AS p"
            )
            text += f" {self._one(query)}"
        if self.events is not None and self.events.kept:
            low, high = self.events.digest
            text += f" events {self.events.kept} {low:x} {high:x}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _rules(self) -> tuple[RuleCount, ...]:
        total, out = self.total, []
        dropped = self.settings.orders.duplicates == "drop"
        size = {"orders": self.rows_in, "customers": self.people_in}
        files = {"events": ()} if self.events is None else {"events": self.events.table.files}
        if self.events is not None:
            size["events"] = self.events.rows_in
            total.counts.update(self.events.counts)
            total.places.update(self.events.places)
        for rule in RULES:
            rows = total.counts[rule.name]
            if not rows:
                continue
            action = "dropped" if rule.name == "duplicate_line" and dropped else rule.action
            shown = tuple(
                (files.get(rule.table, self.files)[file], line, rule.column, value[:SHOWN])
                for file, line, value in total.places.get(rule.name, [])
            )
            money = total.money[rule.name] / self.sales if self.sales else 0.0
            share = rows / size[rule.table]
            out.append(
                RuleCount(rule.name, rule.meaning, rows, share, action, shown, money, rule.table)
            )
        return tuple(out)
