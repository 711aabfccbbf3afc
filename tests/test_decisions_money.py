"""Money earned and paid: to the minor unit, against SQL and plain loops over a whole shop."""

from __future__ import annotations

import tempfile
import tomllib
from decimal import ROUND_HALF_EVEN, Decimal
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from features import simulate, tables
from features.campaigns import spend
from features.errors import InputError
from features.people import NEVER
from features.settings import Settings, parse
from features.spine import instant
from features.store import Store
from serving.decisions import money

NOW = "2026-07-01"
UNTIL = instant(NOW, "UTC")


@cache
def made() -> simulate.Shop:
    return simulate.shop(600, 3.0, 0)


@cache
def settings() -> Settings:
    return parse(tomllib.loads(made().settings))


def stored(found: dict[str, pd.DataFrame]) -> Store:
    return Store.of(tables.ingest(found, settings(), Path(tempfile.mkdtemp())))


@cache
def shop() -> Store:
    """Every table of the contract: foreign orders with rates, aliases, spend and all."""
    return stored(made().tables)


def lines(store: Store) -> pd.DataFrame:
    places = str(store.folder / "orders" / "bucket-*.parquet")
    return duckdb.sql(f"SELECT customer_id, ts, amount, cost, order_id FROM '{places}'").df()


def everybody(store: Store) -> list[str]:
    return sorted(set(lines(store)["customer_id"]))


def test_margin_is_amount_less_cost_and_a_share_where_the_cost_is_unknown() -> None:
    """Against SQL over the same lines, each customer with spans of their own."""
    found = dict(made().tables)
    rng = np.random.default_rng(3)
    cost = found["orders"]["cost"].mask(rng.random(len(found["orders"])) < 0.4)
    store = stored(found | {"orders": found["orders"].assign(cost=cost)})
    ids = [*everybody(store)[::-1], "nobody"]
    begin = rng.integers(instant("2024-01-01", "UTC"), UNTIL, len(ids))
    spans = [(begin, begin + 200 * 86_400_000_000), (np.zeros_like(begin), begin)]
    asked = pd.DataFrame({"customer_id": ids, "a": begin})
    assert len(lines(store)) > 1_000
    for (lower, upper), told in zip(spans, money.realised(store, ids, spans, 0.37), strict=True):
        asked = asked.assign(a=lower, b=upper, place=range(len(ids)))
        known = lines(store)
        sql = duckdb.sql(
            "SELECT place, coalesce(sum(amount), 0)::BIGINT AS revenue, "
            "coalesce(sum(amount - cost), 0)::BIGINT AS known, "
            "coalesce(sum(CASE WHEN cost IS NULL THEN amount END), 0)::BIGINT AS rest, "
            "count(DISTINCT CASE WHEN amount > 0 THEN order_id END) AS orders FROM asked LEFT JOIN "
            "known ON known.customer_id = asked.customer_id AND ts >= a AND ts < b "
            "GROUP BY place ORDER BY place"
        ).df()
        assert len(known)
        assert (told["revenue"].to_numpy() == sql["revenue"].to_numpy()).all()
        for margin, known_part, rest in zip(told["margin"], sql["known"], sql["rest"], strict=True):
            share = (Decimal("0.37") * int(rest)).quantize(Decimal(1), ROUND_HALF_EVEN)
            assert margin == known_part + share
        assert told.dtypes.eq(np.int64).all()
        assert tuple(told.iloc[-1]) == (0, 0, 0)
        assert told["orders"].sum() > 100
    whole = money.realised_before(store, UNTIL, 0.37)
    past = lines(store)
    assert whole.index.tolist() == sorted(set(past["customer_id"][past["ts"] < UNTIL]))
    span = (np.zeros(len(whole), np.int64), np.full(len(whole), UNTIL))
    (told,) = money.realised(store, whole.index.tolist(), [span], 0.37)
    pd.testing.assert_frame_equal(whole.reset_index(drop=True), told)
    early = money.realised_before(store, instant("2024-06-01", "UTC"), 0.37)
    assert 0 < len(early) < len(whole)


def test_without_costs_the_margin_is_the_share_of_the_settings() -> None:
    store = stored({"orders": made().tables["orders"].drop(columns=["cost", "currency"])})
    ids = everybody(store)
    span = (np.zeros(len(ids), np.int64), np.full(len(ids), UNTIL))
    (told,) = money.realised(store, ids, [span], 1.0)
    assert (told["margin"] == told["revenue"]).all()
    total = sum(Decimal(str(x)) for x in made().tables["orders"]["amount"].tolist())
    assert told["revenue"].sum() == total * 100
    (told,) = money.realised(store, ids, [span], 0.25)
    exact = [(Decimal(x) / 4).quantize(Decimal(1), ROUND_HALF_EVEN) for x in told["revenue"]]
    assert told["margin"].tolist() == [int(x) for x in exact]


def people(**columns: Any) -> pd.DataFrame:
    """Table customers of the shop, less its acquisition costs."""
    return made().tables["customers"].drop(columns="acquisition_cost").assign(**columns)


def test_given_costs_are_taken_to_the_cent() -> None:
    found = money.acquisitions(shop(), UNTIL, spend(made().tables, settings()))
    given = made().tables["customers"].set_index("customer_id")["acquisition_cost"]
    own = found.set_index("customer_id")
    exact = [round(Decimal(repr(x)) * 100) for x in given.loc[own.index].tolist()]
    assert own["cost"].tolist() == exact
    assert set(own["source"]) == {money.GIVEN}
    assert own.index.is_monotonic_increasing
    assert (own["month"] == made().tables["customers"].set_index("customer_id")["acquired_at"]
            .dt.strftime("%Y-%m").loc[own.index]).all()  # fmt: skip


def test_spend_is_shared_by_the_new_customers_and_none_of_it_is_lost() -> None:
    """By plain loops: each channel's month adds up to its spend, fees included."""
    found = made().tables | {"customers": people()}
    store = stored(found)
    known = lines(store)
    first = known[known["amount"] > 0].groupby("customer_id")["ts"].min()
    told = money.acquisitions(store, UNTIL, spend(found, settings())).set_index("customer_id")
    assert (told["first"].drop(told.index[told["first"] == NEVER]) == first).all()
    paid = {
        (row.channel, row.month): round((Decimal(repr(row.amount)) + Decimal(repr(row.fees))) * 100)
        for row in found["spend"].itertuples()
    }
    assert len(paid) > 50
    for key, whole in paid.items():
        here = told[(told["channel"] == key[0]) & (told["month"] == key[1])]
        buyers = here[here.index.isin(first.index)]
        if len(buyers):
            assert buyers["cost"].sum() == whole
            assert buyers["cost"].max() - buyers["cost"].min() <= 1
            assert buyers["cost"].is_monotonic_decreasing
            assert set(buyers["source"]) == {money.SHARED if whole else money.NONE}
        others = here[~here.index.isin(first.index)]
        assert (others["cost"] == 0).all()
        assert set(others["source"]) <= {money.NONE}
    free = told[~told["channel"].isin(found["spend"]["channel"])]
    assert len(free)
    assert (free["cost"] == 0).all()


def test_what_is_not_known_is_missing_and_said_so() -> None:
    sold = made().tables["orders"].drop(columns="currency")
    only = stored({"orders": sold})
    bare = money.acquisitions(only, UNTIL)
    assert bare["customer_id"].tolist() == everybody(only)
    assert bare["cost"].isna().all()
    assert set(bare["source"]) == {money.UNKNOWN}
    assert (bare["acquired"] == bare["first"]).all()

    table = people()
    table.loc[::7, "acquisition_channel"] = None
    found = {"orders": sold, "customers": table, "spend": made().tables["spend"]}
    store = stored(found)
    paid = spend(found, settings())
    late = paid[paid["month"] >= "2025-01"]
    # In the middle of a month its spend is not yet all there.
    told = money.acquisitions(store, instant("2026-06-11", "UTC"), late)
    no_channel = told["channel"].isna()
    outside = (told["month"] < "2025-01") | (told["month"] == "2026-06")
    assert (told["cost"].isna() == (no_channel | outside)).all()
    assert (told["cost"].isna() == (told["source"] == money.UNKNOWN)).all()
    assert 0 < no_channel.sum() < outside.sum() < len(told)
    # Nobody who came at that instant or later, and no order of then, is known.
    assert told["acquired"].max() < instant("2026-06-11", "UTC")


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "1_0", "much", "1e40"])
def test_a_cost_that_is_no_money_is_refused(value: str) -> None:
    table = pd.DataFrame({"customer_id": ["1"], "acquisition_cost": [value]})
    sold = pd.DataFrame({"customer_id": ["1"], "order_ts": ["2025-01-01"], "amount": [3.0]})
    store = stored({"orders": sold, "customers": table})
    with pytest.raises(InputError, match="acquisition_cost: must be money"):
        money.acquisitions(store, UNTIL)


def test_a_whole_is_dealt_out_without_a_rest() -> None:
    for whole in (0, 1, 99, 100, 10**15 + 7):
        for parts in (1, 3, 100):
            found = money.dealt(whole, parts)
            assert found.sum() == whole
            assert found.max() - found.min() <= 1
