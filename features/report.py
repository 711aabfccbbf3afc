"""What became of the input: the counts of every rule, and the file of refused lines."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from features import foreign
from features.layouts import ORDERS
from features.rules import CODES, RULES, RuleCount, minor_digits

__all__ = ["Ingested", "as_written", "quarantine"]

OF_EVENTS = ("customer_id", "ts", "kind", "value", "channel")
EVENTS = ("ts", "kind", "value")  # that orders do not have


@dataclass(frozen=True)
class Ingested:
    """Normalised order lines on disk, and what the rules met on the way.

    ``rows_in = rows_kept + rows_refused``; dropped lines are among the refused. Times are
    microseconds UTC; ``coverage_end`` is exclusive, the local midnight after the last day covered.
    ``columns_present`` are the optional columns with any value. ``fingerprint`` depends on the kept
    content only, not on row order, file format or number of buckets. Events count apart from rows,
    which are order lines.
    """

    folder: Path
    buckets: int
    rows_in: int
    rows_kept: int
    rows_refused: int
    customers: int
    first_ts: int
    last_ts: int
    coverage_end: int
    columns_present: tuple[str, ...]
    recognised: str | None
    fingerprint: str
    rules: tuple[RuleCount, ...]
    files: tuple[str, ...]
    currency: str
    time_zone: str
    events_in: int = 0
    events_kept: int = 0
    event_files: tuple[str, ...] = ()

    @property
    def refused(self) -> int:
        """Refused rows of all tables that keep them for the quarantine."""
        return self.rows_refused + self.events_in - self.events_kept

    @property
    def alarms(self) -> tuple[RuleCount, ...]:
        """Rules that block training until the data are mended."""
        return tuple(rule for rule in self.rules if rule.action == "alarm")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; times in microseconds UTC."""
        told = asdict(self)
        del told["folder"]  # gone when the command ends
        return told

    def format(self) -> str:
        """The report for a person at the terminal, with examples from the data."""
        lines = [f"Read {', '.join(self.files[:5])}" + (" and more" if self.files[5:] else "")]
        if self.recognised:
            lines.append(f"Recognised: {self.recognised}")
        lines.append(
            f"Rows in {self.rows_in:,} = kept {self.rows_kept:,} + refused {self.rows_refused:,}; "
            f"customers {self.customers:,}"
        )
        if self.event_files:
            refused = self.events_in - self.events_kept
            lines.append(
                f"Events in {self.events_in:,} = kept {self.events_kept:,} + refused {refused:,}"
            )
        zone = ZoneInfo(self.time_zone)
        first, last, end = (
            datetime.fromtimestamp(ts / 1e6, UTC).astimezone(zone)
            for ts in (self.first_ts, self.last_ts, self.coverage_end)
        )
        lines.append(
            f"Orders from {first:%Y-%m-%d} to {last:%Y-%m-%d}, covered up to {end:%Y-%m-%d %H:%M} "
            f"({self.time_zone}, not included); amounts in {self.currency}"
        )
        for rule in self.rules:
            money = f", {rule.money_share:.1%} of the money" if rule.money_share >= 0.0005 else ""
            lines.append(
                f"  {rule.name}: {rule.rows:,} rows ({rule.share:.2%}{money}) {rule.action}: "
                f"{rule.meaning}"
            )
            for file, line, column, value in rule.examples:
                lines.append(f"      {file} line {line}, {column}: {value or '(none)'}")
        lines.append(f"Fingerprint {self.fingerprint[:16]}")
        return "\n".join(lines)


def quarantine(ingested: Ingested, path: Path) -> int:
    """Write the refused and dropped order lines, then refused events, to a CSV file.

    Gives their number. Events bring the columns ts, kind and value of their own. Every field is
    quoted, and a text that a spreadsheet would run as a formula gets a leading apostrophe. The file
    appears whole or not at all.
    """
    parts = sorted((ingested.folder / "refused").glob("*.parquet"))
    events = sorted((ingested.folder / "refused" / "events").glob("*.parquet"))
    columns = [*ORDERS, *EVENTS] if events else ORDERS
    names = {code: name for name, code in CODES.items()}
    meanings = {rule.name: rule.meaning for rule in RULES}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    rows = 0
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
            writer.writerow(["rule", "reason", "file", "line", *columns])
            for record in _refused(parts):
                rule = names[record["rule"]]
                reason = record["bad"] or meanings[rule]
                where = [ingested.files[record["file"]], str(record["line"])]
                values = _as_came(record, 10 ** minor_digits(ingested.currency))
                values += [""] * (len(columns) - len(values))
                writer.writerow([_harmless(v) for v in (rule, reason, *where, *values)])
                rows += 1
            for record in _refused(events):
                rule = names[record["rule"]]
                where = [ingested.event_files[record["file"]], str(record["line"])]
                given = dict(zip(OF_EVENTS, record["raw"], strict=True))
                values = [given.get(column) or "" for column in columns]
                reason = record["bad"] or meanings[rule]
                writer.writerow([_harmless(v) for v in (rule, reason, *where, *values)])
                rows += 1
            out.flush()
            os.fsync(out.fileno())
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
    return rows


def _refused(parts: list[Path]) -> Iterator[dict[str, Any]]:
    """Refused lines in the order of file and line, as a stream."""
    if not parts:
        return
    con = foreign.connect("400MB", 1)
    con.execute("SET preserve_insertion_order = true")
    foreign.lock(con, [], [parts[0].parent])
    listed = ", ".join(map(foreign.literal, parts))
    query = (
        f"SELECT * FROM read_parquet([{listed}], union_by_name = true) ORDER BY file, line, rule"
    )
    for batch in foreign.batches(con, query, []):
        yield from batch.to_pylist()
    con.close()


def _as_came(record: dict[str, Any], unit: int) -> list[str]:
    """The contract's columns as text: raw where the row rules refused, else as understood."""
    if record["raw"] is not None:
        return ["" if value is None else value for value in record["raw"]]
    values = {**record, "order_ts": record["ts"]}
    return [as_written(column, values.get(column), unit) for column in ORDERS]


def as_written(column: str, value: Any, unit: int) -> str:
    """A value of the store as a file would hold it: money in major units, moments in UTC.

    `unit` is the number of minor units in a major one. Empty where there is no value.
    """
    if value is None:
        return ""
    if column == "order_ts":
        return datetime.fromtimestamp(value / 1e6, UTC).isoformat(sep=" ")
    divisor = {"amount": unit, "discount": unit, "cost": unit, "quantity": 1000}.get(column)
    if divisor is None:
        return str(value)
    whole, rest = divmod(abs(value), divisor)
    sign = "-" if value < 0 else ""
    decimals = f".{rest:0{len(str(divisor)) - 1}d}" if divisor > 1 else ""
    return f"{sign}{whole}{decimals}"


def _harmless(text: str) -> str:
    clean = text.replace("\0", "\ufffd")
    number = clean.lstrip("-").replace(".", "", 1).isdigit()
    if clean[:1] in ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"):
        return clean if number else f"'{clean}"
    return clean
