"""Retention held against SQL and naive loops over the same orders."""

from __future__ import annotations

import itertools
import math
from datetime import date
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import numpy as np
import pandas as pd
import pytest
from dateutil.relativedelta import relativedelta

from features import tables
from features.errors import InputError
from features.settings import Settings, parse
from features.spine import instant
from features.store import Store
from serving.decisions import retention
from serving.decisions.journeys import Journeys, journeys

ZONE = "Europe/Berlin"


def settings() -> Settings:
    return parse({"business": {"time_zone": ZONE}, "orders": {"complete_until": "2024-07-17"}})


@cache
def lines(seed: int = 1) -> pd.DataFrame:
    """Order lines of 2021 to July 2024: several an order, refunds, people who only give back."""
    rng = np.random.default_rng(seed)
    n = 3_600
    who = np.minimum(rng.geometric(0.012, n), 260)
    start = pd.Timestamp("2021-01-05").value // 10**9
    day = start + (rng.integers(0, 300, 300)[who] + rng.integers(0, 990, n)) * 86_400
    made = pd.DataFrame(
        {
            "customer_id": [f"{k:03d}" for k in who],
            "order_ts": pd.to_datetime(day + rng.integers(0, 86_400, n), unit="s"),
            "order_id": [f"o{k}" for k in range(n)],
            "amount": rng.integers(100, 20_000, n) / 100,
        }
    )
    made["cost"] = (made["amount"] * 0.7).round(2).where(rng.random(n) < 0.3)
    twice = made.sample(frac=0.2, random_state=seed)
    back = made.sample(frac=0.1, random_state=seed + 1).assign(
        amount=lambda t: -(t["amount"] / 2).round(2),
        cost=lambda t: -(t["cost"] / 2).round(2),
        order_ts=lambda t: t["order_ts"] + pd.Timedelta(days=5),
    )
    only_back = back.head(7).assign(customer_id="gives", order_id=[f"b{k}" for k in range(7)])
    made = pd.concat([made, twice, back, only_back], ignore_index=True)
    return made[made["order_ts"] < "2024-07-18"].reset_index(drop=True)


@cache
def found(seed: int = 1, shuffle: int = 0) -> Journeys:
    with TemporaryDirectory() as folder:
        frame = lines(seed).sample(frac=1, random_state=shuffle)
        made = tables.ingest(frame, settings(), Path(folder))
        return journeys(Store.of(made))


def sql(query: str, rows: pd.DataFrame) -> pd.DataFrame:
    """A query over the view ``rows``."""
    with duckdb.connect() as con:
        con.register("rows", rows)
        return con.execute(query).df()


@cache
def orders(seed: int = 1) -> pd.DataFrame:
    """One row per order by SQL: customer_id, day (local date), ts."""
    return sql(
        "SELECT customer_id, order_id, min(order_ts) AS ts, min(order_ts)::DATE AS day FROM rows "
        "WHERE amount > 0 GROUP BY ALL ORDER BY customer_id, ts",
        lines(seed),
    )


def test_journeys_are_the_orders_of_sql() -> None:
    got, rows = found(), orders()
    assert "gives" not in got.ids
    assert got.ids.tolist() == sorted(set(rows["customer_id"]))
    assert got.counts.tolist() == rows.groupby("customer_id").size().tolist()
    days = [(day.date() - date(1970, 1, 1)).days for day in rows["day"]]
    assert got.day.tolist() == days
    local = rows["ts"].dt.tz_localize(ZONE, ambiguous=False, nonexistent="shift_forward")
    assert got.ts.tolist() == local.dt.as_unit("us").astype("int64").tolist()
    assert got.until == instant("2024-07-18", ZONE)


def test_money_by_month_is_that_of_sql() -> None:
    got = found()
    known = set(got.ids)
    want = sql(
        "SELECT customer_id, (year(order_ts) - 1970) * 12 + month(order_ts) - 1 AS month, "
        "sum(round(amount * 100)::BIGINT)::BIGINT AS money FROM rows GROUP BY ALL "
        "ORDER BY customer_id, month",
        lines(),
    )
    want = want[want["customer_id"].isin(known)]
    assert got.ids[got.who].tolist() == want["customer_id"].tolist()
    assert got.month.tolist() == want["month"].tolist()
    assert got.money.tolist() == want["money"].tolist()


def test_row_order_has_no_say() -> None:
    one, other = found(), found(1, 5)
    for name in ("ids", "starts", "ts", "day", "who", "month", "money"):
        assert (getattr(one, name) == getattr(other, name)).all()


def naive(rows: pd.DataFrame, group: dict[str, str], months: int) -> pd.DataFrame:
    """The figures of `by_group` by a loop over customers."""
    end = date(2024, 7, 18)
    landmark = end - relativedelta(months=months)
    begin = end - relativedelta(months=2 * months)
    told: dict[str, list[float]] = {}
    for name, mine in rows.groupby("customer_id"):
        days = [day.date() for day in mine["day"]]
        sums = told.setdefault(group[str(name)], [0.0] * 7)
        sums[0] += 1
        close = days[0] + relativedelta(months=months)
        if close <= end:
            inside = sum(day < close for day in days)
            for k, value in ((1, 1), (2, inside >= 2), (3, inside >= 3), (4, inside)):
                sums[k] += value
        if any(begin <= day < landmark for day in days):
            sums[5] += 1
            sums[6] += any(landmark <= day < end for day in days)
    return pd.DataFrame.from_dict(told, orient="index").sort_index()


@pytest.mark.parametrize("months", [3, 6, 12])
def test_groups_are_those_of_a_naive_loop(months: int) -> None:
    got = found()
    group = {name: "abc"[int(name) % 3] for name in got.ids}
    by = pd.DataFrame({"channel": [group[name] for name in got.ids]})
    table = retention.by_group(got, by, months).set_index("channel")
    want = naive(orders(), group, months)
    assert table.index.tolist() == want.index.tolist() == ["a", "b", "c"]
    assert table["customers"].tolist() == want[0].tolist()
    assert table["covered"].tolist() == want[1].tolist()
    assert table["base"].tolist() == want[5].tolist()
    np.testing.assert_allclose(table["repeat_rate"], want[2] / want[1])
    np.testing.assert_allclose(table["loyal_rate"], want[3] / want[1])
    np.testing.assert_allclose(table["orders"], want[4] / want[1])
    np.testing.assert_allclose(table["retention"], want[6] / want[5])
    assert 0 < table["repeat_rate"].min() < table["repeat_rate"].max() < 1
    # Wilson's interval as published.
    z, k, n = 1.959963984540054, want[2], want[1]
    middle, half = (
        (k + z * z / 2) / (n + z * z),
        z / (n + z * z) * np.sqrt(k * (n - k) / n + z * z / 4),
    )
    np.testing.assert_allclose(table["repeat_low"], middle - half)
    np.testing.assert_allclose(table["repeat_high"], middle + half)


def test_two_columns_make_combined_groups_and_missing_values_none() -> None:
    got = found()
    by = pd.DataFrame({"cohort": got.cohort("quarter"), "channel": "x"})
    by.loc[0, "channel"] = None
    table = retention.by_group(got, by)
    assert table["customers"].sum() == len(got) - 1
    first = orders().groupby("customer_id")["day"].min()
    quarter = first.dt.year.astype(str) + "-Q" + first.dt.quarter.astype(str)
    assert table["cohort"].tolist() == sorted(set(quarter[1:]))
    assert got.cohort().tolist() == first.dt.strftime("%Y-%m").tolist()


def test_fewer_than_ten_tell_no_share() -> None:
    got = found()
    by = pd.DataFrame({"group": ["few"] * 9 + ["rest"] * (len(got) - 9)})
    few, rest = retention.by_group(got, by, 1).to_dict("records")
    shown = [name for name in few if isinstance(few[name], float) and not math.isnan(few[name])]
    assert (few["customers"], few["covered"], shown) == (9, 9, [])
    assert rest["repeat_rate"] >= 0


def test_the_span_is_the_longest_that_the_data_hold_twice() -> None:
    assert retention.span(found()) == 12
    assert retention.span(found(), 3) == 3
    with pytest.raises(InputError, match=r"must hold 48 months.*2021-01.*shorter --months"):
        retention.span(found(), 24)
    late = {"customer_id": ["a", "b"], "order_ts": ["2024-04-17", "2024-07-01"], "amount": 5.0}
    with TemporaryDirectory() as folder:
        made = tables.ingest(pd.DataFrame(late), settings(), Path(folder))
        short = journeys(Store.of(made))
    assert retention.span(short) == 1
    table = retention.by_group(short, pd.DataFrame({"g": ["x", "x"]}), 12)
    assert (table["base"] == 0).all()


def test_groups_must_fit_the_customers() -> None:
    for by in (pd.DataFrame({"g": ["x"]}), pd.DataFrame(index=range(len(found())))):
        with pytest.raises(InputError, match="a row for each of"):
            retention.by_group(found(), by)


def test_nobody_before_a_moment_is_told() -> None:
    with TemporaryDirectory() as folder:
        store = Store.of(tables.ingest(lines(), settings(), Path(folder)))
        with pytest.raises(InputError, match="Somebody must have an order before 2020-01-01"):
            journeys(store, instant("2020-01-01", ZONE))
        early = journeys(store, instant("2022-01-01", ZONE))
    assert early.complete == (date(2022, 1, 1) - date(1970, 1, 1)).days
    assert early.day.max() < early.complete
    pairs = itertools.pairwise(early.starts.tolist())
    assert all(b > a for a, b in pairs)
