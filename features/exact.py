"""Times and numbers of plain records, read as the SQL of `features.rules` reads their text."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal
from math import isfinite
from typing import Final
from zoneinfo import ZoneInfo

__all__ = ["EXACT", "SECOND", "clock_time", "finer", "halved", "later", "local", "micros", "scaled"]

SECOND: Final = 1_000_000  # microseconds
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
HALF_UP: Final = Context(prec=80, rounding=ROUND_HALF_UP)
EXACT: Final = 1e15
LARGEST: Final = 1e30  # no column holds numbers of that size
FINEST: Final = 10**22  # millionths: those of a decimal with 22 digits
SHAPE: Final = re.compile(
    r"\s*(\d{4})([-/])(\d{1,2})\2(\d{1,2})(?:[T ](\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d+))?)?)?"
    r" ?(Z|z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?\s*",
    re.ASCII,
)
COMPACT: Final = re.compile(r"\s*(\d{4})(\d{2})(\d{2})\s*", re.ASCII)


def clock_time(text: str) -> tuple[datetime | None, int | None]:
    """The clock time in the text and microseconds east of UTC, None each where there is none."""
    if text[4:5] == "-" == text[7:8] and (
        len(text) == 10
        or (
            text[13:14] == ":" == text[16:17]
            and text[10] in "T "
            and (len(text) == 19 or (len(text) == 26 and text[19] == "."))
        )
    ):  # the common shapes, by the library's own reader
        with suppress(ValueError):
            plain = datetime.fromisoformat(text)
            if plain.tzinfo is None:
                return plain, None
    match = SHAPE.fullmatch(text)
    if match is None:
        match = COMPACT.fullmatch(text)
        if match is None:
            return None, None
        year, month, day = match.groups()
        hour = minute = second = part = zone = None
    else:
        year, _, month, day, hour, minute, second, part, zone = match.groups()
    end = timedelta()
    if hour == "24" and not int((minute or "") + (second or "0") + (part or "0")):
        hour, end = "0", timedelta(days=1)  # ISO 8601's other name of midnight
    try:
        clock = end + datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0),
            int(part[:6].ljust(6, "0")) if part else 0,
        )  # fmt: skip
    except (ValueError, OverflowError):
        return None, None
    return clock, None if zone is None else _east(zone)


def micros(span: timedelta) -> int:
    """Microseconds."""
    return (span.days * 86_400 + span.seconds) * SECOND + span.microseconds


def _east(zone: str) -> int:
    if zone[0] not in "+-":
        return 0
    minutes = int(zone[1:3]) * 60 + int(zone[3:].replace(":", "") or 0)
    return (-minutes if zone[0] == "-" else minutes) * 60 * SECOND


def later(clock: datetime, zone: ZoneInfo | None) -> int:
    """1 for the later of a repeated hour, 0 otherwise, also within a gap."""
    early, late = (clock.replace(tzinfo=zone, fold=k).utcoffset() for k in (0, 1))
    return int(early is not None and late is not None and late < early)


def local(clock: datetime, east: int | None, zone: ZoneInfo | None) -> tuple[int, int]:
    """Microseconds UTC and those of the local clock; in a gap the clock moves forward.

    `east` is None for a clock time of the zone itself, of whose repeated hours the later one is
    meant, as DuckDB has it.
    """
    if east is None:
        utc = micros(clock.replace(tzinfo=zone, fold=later(clock, zone)) - EPOCH)
    else:
        utc = micros(clock.replace(tzinfo=UTC) - EPOCH) - east
    try:
        there = (EPOCH + timedelta(microseconds=utc)).astimezone(zone)
    except OverflowError:
        return utc, utc
    return utc, micros(there.replace(tzinfo=UTC) - EPOCH)


def scaled(value: float, digits: int) -> int | None:
    """A number times 10^digits, rounded half away from zero as it is written; None if infinite."""
    factor: int = 10**digits
    if type(value) is int:
        return value * factor
    near = value * factor
    if -EXACT < near < EXACT:
        whole = round(near)
        # The quotient of a number of 15 digits is the one double that is written with them.
        if whole / factor == value:
            return whole
    if not isfinite(value) or abs(value) > LARGEST:
        return None
    return int(HALF_UP.to_integral_value(HALF_UP.scaleb(Decimal(repr(value)), digits)))


def finer(value: float, digits: int) -> int | None:
    """As `scaled`, rounded to six decimals first: discounts and costs may have that many."""
    found = scaled(value, 6)
    if found is None or not -FINEST < found < FINEST:
        return None
    return halved(found, int(10 ** (6 - digits)))


def halved(value: int, by: int) -> int:
    """A quotient rounded half away from zero."""
    size = (2 * abs(value) + by) // (2 * by)
    return -size if value < 0 else size
