from __future__ import annotations

import duckdb
import numpy as np
import pandas as pd
import pytest
from conftest import bucket, history, table

from features import windows
from features.formulas import Program, Take
from features.spine import DAY, Cutoffs, instant
from features.store import Bucket

ZONE = "America/New_York"
TIMES = [
    instant(day, ZONE)
    for day in ("2019-03-01", "2020-07-01T11:30", "2021-11-07", "2022-02-28", "2022-03-02")
]
SUMS = ("spend", "orders", "lines", "refunds", "refund_lines", "quantity", "discount")


@pytest.fixture(scope="module")
def lines() -> pd.DataFrame:
    return history(21, customers=80, lines=6_000, marks=TIMES)


def inputs_of(made: Bucket, times: list[int]) -> pd.DataFrame:
    """The kernel's integers themselves (rows: customer, as_of), by a program that only loads."""
    names = windows.inputs(0, 0)
    cutoffs = Cutoffs.at(times, ZONE)
    n, k = len(made), len(cutoffs)
    spine = (np.arange(n + 1) * k, *(np.tile(a, n) for a in (cutoffs.times, cutoffs.days,
             cutoffs.months)))  # fmt: skip
    slots = np.zeros((len(made.ts), len(windows.GROUPS)), np.int32)
    values, who, which = windows.features_of(
        made.starts, made.ts, made.day, made.order, made.columns, slots, (0, 0), spine, made.unit,
        Program.of([Take(name) for name in names], names),
    )  # fmt: skip
    index = pd.MultiIndex.from_arrays([made.ids[who], cutoffs.times[which]])
    return pd.DataFrame(values, index, names)


QUERY = """
    with line as (
        select customer_id, ts, amount, quantity, discount, coalesce(order_id, 'day ' || day) as o
        from lines
    ), head as (
        select customer_id, o, min(ts) as ts from line where amount > 0 group by all
    )
    select cuts.customer_id, as_of, spend, orders, lines, refunds, refund_lines, quantity, discount
    from (select distinct customer_id, as_of from head, cutoffs where ts < as_of) cuts
    left join (
        select customer_id, as_of,
            sum(amount) filter (amount > 0) as spend, count(*) filter (amount > 0) as lines,
            -sum(amount) filter (amount < 0) as refunds,
            count(*) filter (amount < 0) as refund_lines,
            sum(quantity) filter (amount > 0) as quantity,
            sum(discount) filter (amount > 0) as discount
        from line, cutoffs where ts >= as_of - $width and ts < as_of group by all
    ) using (customer_id, as_of)
    left join (
        select customer_id, as_of, count(*) as orders
        from head, cutoffs where ts >= as_of - $width and ts < as_of group by all
    ) using (customer_id, as_of)
"""


@pytest.mark.parametrize("days", [*windows.WINDOWS, None])
def test_sums_against_sql(lines, days):
    found = inputs_of(bucket(lines, ZONE), TIMES)
    width = 1 << 60 if days is None else days * 86_400_000_000
    with duckdb.connect() as db:
        db.register("lines", table(lines, ZONE))
        db.register("cutoffs", pd.DataFrame({"as_of": TIMES}))
        told = db.execute(QUERY, {"width": width}).df()
    told = told.set_index(["customer_id", "as_of"]).fillna(0).astype("int64").loc[found.index]
    assert len(told) == len(found) > 250
    held = windows.COLUMNS[: windows.WINDOWS.get(days, 99)]
    for name in (name for name in SUMS if name in held):
        column = name if days is None else f"{name}[{days}]"
        assert found[column].tolist() == told[name].tolist()
        assert told[name].nunique() > 3


def test_every_input_has_a_name_of_its_own():
    names = windows.inputs(3, 2)
    assert len(set(names)) == len(names)
    assert windows.group_sizes(3, 2) == [7, 4, 4, 3, 2]
    assert names[-5:] == [
        "first_channel:0", "first_channel:1", "first_channel:2", "first_category:0",
        "first_category:1",
    ]  # fmt: skip


def test_facts_by_hand():
    def at(day: str) -> int:
        return instant(day, ZONE)

    made = pd.DataFrame(
        [
            ("2022-01-01T10:00", -500, "z", None),  # a refund before all orders
            ("2022-01-03T10:00", 250, "a", 20),
            ("2022-01-03T10:00", 149, "a", 0),
            ("2022-01-03T23:59", 1_000, "b", 0),
            ("2022-01-10T00:01", 50, "a", 5),  # a late line of the first order
            ("2022-01-10T12:00", 0, "c", 0),  # nothing
            ("2022-02-02T12:00", 70, "c", 0),
            ("2022-02-02T13:00", -70, "c", 0),
            ("2022-02-05T12:00", 30, "c", 0),
            ("2022-02-04T12:00", 10, "d", 0),
        ],
        columns=["ts", "amount", "order_id", "discount"],
    )
    made = made.assign(customer_id="x", ts=[at(ts) for ts in made["ts"]])
    cutoff = at("2022-02-10")
    got = inputs_of(bucket(made, ZONE), [cutoff]).iloc[0]
    assert got["unit"] == 100
    assert got["since_order"] == cutoff - at("2022-02-04T12:00")
    assert got["tenure"] == cutoff - at("2022-01-03T10:00")
    assert got["since_refund"] == cutoff - at("2022-02-02T13:00")
    assert got["span_days"] == 32
    assert got["tenure_days"] == 38
    assert (got["first_gap"], got["last_gap"], got["largest_gap"]) == (30, 2, 30)
    assert (got["first_amount"], got["first_lines"], got["first_discounted"]) == (449, 3, 1)
    assert (got["last_amount"], got["largest_line"], got["month"]) == (10, 1_000, 2)
    assert (got["orders"], got["order_days"], got["lines"]) == (4, 3, 7)
    assert (got["gap_days"], got["gap_days_squared"], got["active_months"]) == (32, 904, 2)
    # Whole units, halves upward: 2.50 -> 3, 1.49 -> 1, 10, 0.50 -> 1, 0.70 -> 1, 0.30, 0.10 -> 0.
    assert got["spend_squared"] == 9 + 1 + 100 + 1 + 1


def test_sums_may_wrap_around_on_the_way():
    # The sum of all time passes 2^63; the windows behind it are exact nevertheless.
    huge = (1 << 62) - 12_345
    as_of = instant("2023-01-01", ZONE)
    ts = [as_of - days * DAY for days in (900, 899, 898, 897, 20, 10)]
    made = pd.DataFrame(
        {"customer_id": "x", "ts": ts, "amount": [huge, huge, huge, huge, 41, 1], "discount": huge}
    )
    got = inputs_of(bucket(made, ZONE), [as_of - 800 * DAY, as_of]).iloc[1]
    assert (got["spend[30]"], got["spend[730]"], got["lines[30]"]) == (42, 42, 2)


def test_a_window_of_labels_against_a_loop(lines):
    made = bucket(lines, ZONE)
    rng = np.random.default_rng(2)
    who = rng.integers(0, len(made), 500)
    begin = rng.choice(made.ts, 500)  # bounds that are lines' own instants
    end = np.where(rng.random(500) < 0.5, rng.choice(made.ts, 500), begin + 90 * DAY)
    values = rng.integers(-(1 << 40), 1 << 40, (len(made.ts), 2))
    found = windows.window_of(made.starts, made.ts, values, who, begin, end)
    for r in range(500):
        told = [0, 0]
        for i in range(made.starts[who[r]], made.starts[who[r] + 1]):
            if begin[r] <= made.ts[i] < end[r]:
                told = [told[0] + int(values[i, 0]), told[1] + int(values[i, 1])]
        assert found[r].tolist() == told
    assert np.count_nonzero(found[:, 0]) > 50


def test_slots_of_lines_are_those_of_the_calendar():
    day = np.arange(-800, 48_000)
    hour, codes = day % 24, day % 3 - 1
    found = windows.slots_of(day, hour, codes, codes, np.array([5, 6, -1]), np.array([0, 1, 9]))
    dates = day.astype("datetime64[D]")
    when = pd.DatetimeIndex(dates)
    assert np.array_equal(found[:, 0], when.day_of_week)
    assert np.array_equal(found[:, 1], hour // 6)
    assert np.array_equal(found[:, 2], when.quarter - 1)
    assert np.array_equal(found[:, 3], np.array([-1, 5, 6])[codes + 1])
    assert np.array_equal(found[:, 4], np.array([9, 0, 1])[codes + 1])
