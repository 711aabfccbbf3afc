from __future__ import annotations

import calendar
from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from dateutil.relativedelta import relativedelta
from hypothesis import given
from hypothesis import strategies as st

from features.errors import InputError
from features.spine import (
    DAY,
    Cutoffs,
    add_months,
    days_later,
    instant,
    instants,
    local_day,
    months_between,
    months_later,
    text,
)

ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "America/Havana",
    "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Kiritimati", "Africa/Cairo",
]  # fmt: skip
zones = st.sampled_from(ZONES)
#: Whole microseconds from 1990 to 2040, dense around changes of the clocks.
TURNS = [
    datetime(2023, 3, 26, 1, tzinfo=UTC), datetime(2023, 10, 29, 1, tzinfo=UTC),
    datetime(2018, 11, 4, 3, tzinfo=UTC), datetime(2024, 11, 3, 5, tzinfo=UTC),
    datetime(2024, 2, 29, 12, tzinfo=UTC),
]  # fmt: skip
moments = st.one_of(
    st.integers(631_152_000_000_000, 2_208_988_800_000_000),
    st.builds(
        lambda turn, off: round(turn.timestamp()) * 1_000_000 + off,
        st.sampled_from(TURNS),
        st.integers(-2 * DAY, 2 * DAY),
    ),
    st.builds(instant, st.dates(date(1990, 1, 1), date(2040, 1, 1)), zones),
)


def micros(iso: str) -> int:
    """An aware ISO time, by pandas."""
    return pd.Timestamp(iso).value // 1_000


@pytest.mark.parametrize(
    ("value", "zone", "told"),
    [
        ("2024-03-01", "UTC", "2024-03-01T00:00:00Z"),
        ("2024-03-01", "Europe/Berlin", "2024-02-29T23:00:00Z"),
        ("2024-07-01", "Europe/Berlin", "2024-06-30T22:00:00Z"),
        ("2024-07-01", "Asia/Kolkata", "2024-06-30T18:30:00Z"),
        (date(2024, 7, 1), "America/New_York", "2024-07-01T04:00:00Z"),
        (datetime(2024, 7, 1, 13, 5), "America/New_York", "2024-07-01T17:05:00Z"),
        ("2024-07-01T13:05:07.000001", "UTC", "2024-07-01T13:05:07.000001Z"),
        ("2024-07-01 13:05", "UTC", "2024-07-01T13:05:00Z"),
        # An aware time is itself, whatever the zone of the business.
        ("2024-07-01T13:05:00Z", "Asia/Kolkata", "2024-07-01T13:05:00Z"),
        ("2024-07-01T13:05:00-03:30", "Asia/Kolkata", "2024-07-01T16:35:00Z"),
        (
            datetime(2024, 7, 1, tzinfo=timezone(timedelta(hours=5))), "UTC",
            "2024-06-30T19:00:00Z",
        ),
        # The hour that does not exist: as the clocks went before it.
        ("2024-03-31T02:30", "Europe/Berlin", "2024-03-31T01:30:00Z"),
        # The hour that comes twice: the first.
        ("2024-10-27T02:30", "Europe/Berlin", "2024-10-27T00:30:00Z"),
        ("2024-10-27T02:30:00+01:00", "Europe/Berlin", "2024-10-27T01:30:00Z"),
        # Midnight does not exist, or comes twice: the day's first instant.
        ("2018-11-04", "America/Sao_Paulo", "2018-11-04T03:00:00Z"),
        ("2024-11-03", "America/Havana", "2024-11-03T04:00:00Z"),
        ("1969-12-31", "UTC", "1969-12-31T00:00:00Z"),
    ],
)  # fmt: skip
def test_instants(value, zone, told):
    assert instant(value, zone) == micros(told)


@pytest.mark.parametrize(
    "bad",
    ["", "yesterday", "2024-13-01", "2024-02-30", "01/02/2024", "2024-1-1", "2024-01-01T25:00",
     " 2024-01-01", "2024-01-01\n", "2024-01-01T10:00 Europe/Berlin", "1704067200000000"],
)  # fmt: skip
def test_what_is_no_date_is_refused(bad):
    with pytest.raises(InputError, match="YYYY-MM-DD") as told:
        instant(bad, "UTC")
    assert repr(bad) in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("bad", "zone"), [("0001-01-01", "Europe/Berlin"), ("9999-12-31T23:00:00", "America/New_York")]
)
def test_the_ends_of_the_calendar_are_refused(bad, zone):
    with pytest.raises(InputError, match="1 to 9999"):
        instant(bad, zone)


@given(st.dates(date(1990, 1, 1), date(2040, 1, 1)), zones)
def test_a_date_is_the_first_instant_of_its_day(day, zone):
    start = instant(day, zone)
    number = (day - date(1970, 1, 1)).days
    assert local_day(start, zone) == number
    assert local_day(start - 1, zone) == number - 1


@given(moments, zones)
def test_text_can_be_read_back(moment, zone):
    assert instant(text(moment, zone), zone) == moment


def test_text_is_a_date_at_midnight():
    assert text(micros("2024-06-30T22:00:00Z"), "Europe/Berlin") == "2024-07-01"
    assert text(micros("2024-06-30T22:00:01Z"), "Europe/Berlin") == "2024-07-01T00:00:01+02:00"
    # The second midnight of one day.
    assert text(micros("2024-11-03T05:00:00Z"), "America/Havana") == "2024-11-03T00:00:00-05:00"


@pytest.mark.parametrize(
    ("start", "months", "zone", "told"),
    [
        ("2024-01-31", 1, "UTC", "2024-02-29"),
        ("2023-01-31", 1, "UTC", "2023-02-28"),
        ("2024-02-29", 12, "UTC", "2025-02-28"),
        ("2024-02-29", 48, "UTC", "2028-02-29"),
        ("2024-02-29", -24, "UTC", "2022-02-28"),
        ("2024-12-31", 2, "UTC", "2025-02-28"),
        ("2024-05-31", -1, "UTC", "2024-04-30"),
        ("2024-03-15", 0, "UTC", "2024-03-15"),
        ("2024-01-15", -13, "UTC", "2022-12-15"),
        # The same local time, on either side of a change of the clocks.
        ("2024-03-01", 1, "Europe/Berlin", "2024-04-01"),
        ("2024-09-30T14:45", 1, "Europe/Berlin", "2024-10-30T14:45"),
        # Into the hour that is missing, and into the one that comes twice.
        ("2024-02-29T02:30", 1, "Europe/Berlin", "2024-03-29T02:30"),
        ("2024-02-10T02:30", 1, "America/New_York", "2024-03-10T03:30"),
        ("2024-10-03T01:30", 1, "America/New_York", "2024-11-03T01:30"),
        ("2018-10-04", 1, "America/Sao_Paulo", "2018-11-04T01:00"),
    ],
)
def test_months_are_added_by_the_calendar(start, months, zone, told):
    assert add_months(instant(start, zone), months, zone) == instant(told, zone)


@given(moments, st.integers(-60, 60), zones)
def test_added_months_keep_the_day_and_the_time(moment, months, zone):
    def local(at: int) -> datetime:
        utc = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)
        return utc.astimezone(ZoneInfo(zone))

    here, there = local(moment), local(add_months(moment, months, zone))
    assert (there.year - here.year) * 12 + there.month - here.month == months
    last = calendar.monthrange(there.year, there.month)[1]
    wall = here.replace(year=there.year, month=there.month, day=min(here.day, last), tzinfo=None)
    # A time that the clocks skip moves by what they skip, never by more.
    exists = wall.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC).astimezone(ZoneInfo(zone))
    skipped = exists.replace(tzinfo=None) != wall.replace(fold=0)
    assert (there.replace(tzinfo=None, fold=0) == wall.replace(fold=0)) or skipped


@given(moments, st.integers(0, 40), st.integers(0, 40), zones)
def test_added_months_never_run_backwards(moment, few, more, zone):
    low, high = sorted((few, more))
    assert add_months(moment, low, zone) <= add_months(moment, high, zone)
    assert add_months(moment, 0, zone) == moment


@given(moments, st.integers(0, 60), zones)
def test_months_between_undoes_add_months(moment, months, zone):
    end = add_months(moment, months, zone)
    assert months_between(moment, end, zone) == months
    if months:
        assert months_between(moment, end - 1, zone) == months - 1


@given(moments, moments, zones)
def test_months_between_is_the_largest_that_fits(a, b, zone):
    start, end = min(a, b), max(a, b)
    months = months_between(start, end, zone)
    assert months >= 0
    assert add_months(start, months, zone) <= end
    assert add_months(start, months + 1, zone) > end
    assert months_between(end, start, zone) == 0


@given(st.lists(moments, max_size=8), zones)
def test_cutoffs_are_sorted_and_local(times, zone):
    made = Cutoffs.at([*times, *times], zone)
    assert made.times.tolist() == sorted(set(times))
    assert len(made) == len(set(times))
    local = pd.to_datetime(made.times, unit="us", utc=True).tz_convert(zone)
    assert made.months.tolist() == local.month.tolist()
    assert made.years.tolist() == local.year.tolist()
    days = local.tz_localize(None).to_numpy().astype("datetime64[D]").astype(np.int64)
    assert made.days.tolist() == days.tolist()
    assert {a.dtype for a in (made.times, made.days, made.months, made.years)} == {
        np.dtype(np.int64)
    }


def test_days_later_is_what_calendars_say() -> None:
    days = np.arange(0, 25_000, 7, dtype=np.int64)
    for months in (1, 3, 12, 13, 24):
        want = [
            (date(1970, 1, 1) + relativedelta(days=d) + relativedelta(months=months)).toordinal()
            for d in days.tolist()
        ]
        assert (days_later(days, months) + date(1970, 1, 1).toordinal()).tolist() == want


@given(st.lists(moments, min_size=1, max_size=30), st.integers(-30, 30), zones)
def test_many_moments_move_as_each_does(many: list[int], months: int, zone: str) -> None:
    told = months_later(np.array(many, np.int64), months, zone)
    assert told.tolist() == [add_months(moment, months, zone) for moment in many]


SPOILED = st.sampled_from([
    "", " ", "nan", "2024-02-30", "2024-13-01", "2024-01-01 24:00", "2024-01-01 12:60:00",
    "0001-01-01", "9999-12-31 23:59:59", "2024-01-01 10:00+01:00", "2024-W05-1", "20240101",
    "2024-01-01T10", "2024-01-01 10:00:00.1234567", "2024-01-01  10:00", "1.1.2024",
])  # fmt: skip
ENDS = st.sampled_from(["", "Z", "+00", "+00:00", "+0000", "+02:00"])
written = st.one_of(
    SPOILED,
    st.none(),
    st.builds(
        lambda moment, form, end: moment.strftime(form) + end,
        st.datetimes(datetime(1970, 1, 1), datetime(2099, 12, 31)),
        st.sampled_from([
            "%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S.%f",
        ]),
        ENDS,
    ),
    st.builds(
        lambda turn, minutes: (turn + timedelta(minutes=minutes)).strftime("%Y-%m-%d %H:%M"),
        st.sampled_from(TURNS), st.integers(-300, 300),
    ),
)  # fmt: skip


@given(st.lists(written, max_size=30), zones)
def test_many_texts_are_read_as_each_is(many: list[str | None], zone: str) -> None:
    found, known = instants(np.array(many, object), zone)
    assert len(found) == len(known) == len(many)
    for i, value in enumerate(many):
        try:
            told = None if value is None else instant(value, zone)
        except InputError:
            told = None
        assert known[i] == (told is not None)
        if told is not None:
            assert found[i] == told
