"""Moments of prediction: (customer, as_of), and the windows before and after.

Time is cut here and in the compiled kernel that this module feeds, nowhere else. Instants are
int64 microseconds UTC. Features see ``ts < as_of``; labels see ``as_of <= ts < as_of + h`` with h
in calendar months of the business time zone.
"""

from __future__ import annotations

import calendar
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import InputError

__all__ = [
    "DAY", "Cutoffs", "add_months", "days_later", "instant", "instants", "local_day",
    "months_between", "months_later", "text",
]  # fmt: skip

DAY = 86_400_000_000  # microseconds
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
#: How programs write a local time, and what they add to one of UTC.
CLOCK = r"^[12]\d{3}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?"
NAIVE, IN_UTC = f"{CLOCK})?$", rf"{CLOCK}(Z|\+00(:?00)?))$"
NO_OFFSET = r"(Z|\+00(:?00)?)$"


def instant(value: str | date | datetime, zone: str) -> int:
    """Microseconds UTC of an ``as_of``.

    A date is local midnight, a naive time is local, an aware time is itself.

    Raises
    ------
    InputError
        Text that is no ISO date or time, or a moment outside the years 1 to 9999 in UTC.
    """
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value) if len(value) <= 10 else datetime.fromisoformat(value)
        except ValueError:
            raise InputError(
                f"A date must be written YYYY-MM-DD, with a time if need be. Got {value!r}."
            ) from None
    if not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if value.tzinfo is None:
        value = value.replace(tzinfo=ZoneInfo(zone))
    try:
        return _micros(value)
    except OverflowError:
        raise InputError(
            f"A date must lie in the years 1 to 9999, in UTC too. Got {value.isoformat()}."
        ) from None


def instants(values: npt.ArrayLike, zone: str) -> tuple[Ints, Flags]:
    """As `instant` of many texts, (values,), and which of them can be read; missing ones cannot."""
    texts = pa.array(np.asarray(values, object), pa.string(), from_pandas=True)
    found = np.zeros(len(texts), np.int64)
    known = np.zeros(len(texts), np.bool_)
    for pattern, naive in ((NAIVE, True), (IN_UTC, False)):
        here = np.flatnonzero(_matches(texts, pattern))
        some = pc.replace_substring_regex(texts.take(pa.array(here)), NO_OFFSET, "")
        try:
            clock = some.to_numpy(zero_copy_only=False).astype("datetime64[us]")
        except ValueError:  # a day that no calendar has: one by one
            continue
        if naive:
            moments = pd.DatetimeIndex(clock).tz_localize(zone, ambiguous="NaT", nonexistent="NaT")
            told = moments.notna()  # where clocks turn, which is rare: one by one
            clock, here = moments[told].tz_convert("UTC").tz_localize(None).to_numpy(), here[told]
        found[here], known[here] = clock.astype("datetime64[us]").astype(np.int64), True
    for i in np.flatnonzero(~known & texts.is_valid().to_numpy(zero_copy_only=False)):
        with suppress(InputError):
            found[i], known[i] = instant(texts[i].as_py(), zone), True
    return found, known


def _matches(texts: pa.Array, pattern: str) -> Flags:
    found = pc.fill_null(pc.match_substring_regex(texts, pattern), False)
    return np.asarray(found.to_numpy(zero_copy_only=False), np.bool_)


def _micros(moment: datetime) -> int:
    return (moment.astimezone(UTC) - EPOCH) // timedelta(microseconds=1)


def _local(micros: int, zone: str) -> datetime:
    return (EPOCH + timedelta(microseconds=int(micros))).astimezone(ZoneInfo(zone))


def local_day(micros: int, zone: str) -> int:
    """Number of the local day since 1970-01-01."""
    return _local(micros, zone).date().toordinal() - date(1970, 1, 1).toordinal()


@lru_cache(maxsize=1 << 14)  # asked of the same few moments, bucket after bucket
def add_months(micros: int, months: int, zone: str) -> int:
    """The instant `months` calendar months later (or earlier), clamped to the month's end.

    2024-01-31 plus one month is 2024-02-29, at the same local time of day.
    """
    local = _local(micros, zone)
    index = local.year * 12 + local.month - 1 + months
    year, month = divmod(index, 12)
    day = min(local.day, calendar.monthrange(year, month + 1)[1])
    moved = local.replace(year=year, month=month + 1, day=day, tzinfo=None)
    return _micros(moved.replace(tzinfo=ZoneInfo(zone)))


def months_later(moments: Ints, months: int, zone: str) -> Ints:
    """As `add_months` of many instants at once, (moments,)."""
    local = pd.to_datetime(moments, unit="us", utc=True).tz_convert(zone).tz_localize(None)
    clock = local.to_numpy("datetime64[us]")
    day = clock.astype("datetime64[D]")
    there = days_later(day.astype(np.int64), months).astype("datetime64[D]") + (clock - day)
    moved = pd.DatetimeIndex(there).tz_localize(zone, ambiguous="NaT", nonexistent="NaT")
    found = moved.tz_convert("UTC").tz_localize(None).to_numpy("datetime64[us]").astype(np.int64)
    for i in np.flatnonzero(moved.isna()):  # where clocks turn, which is rare
        found[i] = add_months(int(moments[i]), months, zone)
    return np.asarray(found)


def days_later(days: Ints, months: int) -> Ints:
    """The local day numbers `months` calendar months after `days`, clamped to the month's end."""
    local = days.astype("datetime64[D]")
    month = local.astype("datetime64[M]")
    there = month + np.timedelta64(months, "M")
    length = (there + 1).astype("datetime64[D]") - there.astype("datetime64[D]")
    within = np.minimum(local - month.astype("datetime64[D]"), length - 1)
    return np.asarray((there.astype("datetime64[D]") + within).astype(np.int64))


def months_between(start: int, end: int, zone: str) -> int:
    """The largest number of whole calendar months that fit into [start, end)."""
    if end <= start:
        return 0
    a, b = _local(start, zone), _local(end, zone)
    guess = (b.year - a.year) * 12 + b.month - a.month + 1
    while add_months(start, guess, zone) > end:
        guess -= 1
    return guess


@lru_cache(maxsize=1024)
def text(micros: int, zone: str) -> str:
    """ISO form in the business time zone: a date at local midnight, else the full instant."""
    local = _local(micros, zone)
    # Where clocks go back to midnight there are two; a date means the first.
    if local.time() == time() and not local.fold:
        return local.date().isoformat()
    return local.isoformat()


@dataclass(frozen=True)
class Cutoffs:
    """Calendar cutoffs that hold for every customer.

    ``times`` (k,) rising, ``days`` their local day numbers, ``months`` their local months 1-12.
    """

    times: Ints
    days: Ints
    months: Ints
    years: Ints

    @classmethod
    def at(cls, times: list[int], zone: str) -> Cutoffs:
        """Cutoffs at instants, sorted; equal ones once."""
        unique = sorted(set(times))
        local = [_local(t, zone) for t in unique]
        return cls(
            np.array(unique, np.int64),
            np.array([local_day(t, zone) for t in unique], np.int64),
            np.array([moment.month for moment in local], np.int64),
            np.array([moment.year for moment in local], np.int64),
        )

    def __len__(self) -> int:
        return len(self.times)
