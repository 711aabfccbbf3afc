from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import bucket, history, same_bits, table

from features import behaviour, catalogue, passes
from features.settings import Settings
from features.spine import Cutoffs, instant
from features.store import SCHEMA, Bucket, Store
from features.tables import ingest
from features.windows import COLUMNS

ZONE = "Australia/Lord_Howe"
CUTOFFS = Cutoffs.at([instant("2022-05-01", ZONE), instant("2023-08-01", ZONE)], ZONE)


@pytest.fixture(scope="module")
def lines() -> pd.DataFrame:
    return history(41, customers=50, lines=3_000)


@pytest.fixture(scope="module")
def people(lines: pd.DataFrame) -> pd.DataFrame:
    ids = sorted(lines["customer_id"].unique(), reverse=True)
    return pd.DataFrame({"customer_id": ids, "country": [f"of {name}" for name in ids]})


def test_a_bucket_against_plain_loops(lines, people):
    made = bucket(lines, ZONE, people.set_index("customer_id"))
    rows = table(lines, ZONE).to_pylist()
    ids = sorted({row["customer_id"] for row in rows}, key=lambda name: name.encode())
    assert made.ids.tolist() == ids
    assert len(made) == 50
    assert made.starts.tolist() == [0, *np.cumsum([sum(r["customer_id"] == name for r in rows)
                                                   for name in ids])]  # fmt: skip
    assert list(made.attributes["country"]) == [f"of {name}" for name in ids]
    for name in ("ts", "day", "hour", "amount"):
        assert getattr(made, name).tolist() == [row[name] for row in rows]
    for name in ("channel", "category"):
        codes, levels = getattr(made, name), [*made.levels[name], None]
        assert [levels[code] for code in codes] == [row[name] for row in rows]
        assert codes.min() == -1
        assert len(set(levels)) == len(levels)
    key = [r["order_id"] if r["order_id"] is not None else r["day"] for r in rows]
    assert len(set(zip(key, made.order.tolist(), strict=True))) == len(set(key))
    assert len(set(made.order.tolist())) == len(set(key))


def test_columns_against_plain_loops(lines):
    rows = table(lines, ZONE).to_pylist()
    told: list[dict[str, int]] = []
    seen: set[tuple[object, ...]] = set()
    last: dict[str, int] = {}

    def fresh(*key: object) -> bool:
        if None in key or key in seen:
            return False
        seen.add(key)
        return True

    for row in rows:
        who, amount, day = row["customer_id"], row["amount"], row["day"]
        known = 0 if row["cost"] is None else amount
        found = dict.fromkeys(COLUMNS, 0) | {"cost": row["cost"] or 0, "costed": known}
        if amount < 0:
            found |= {"refunds": -amount, "refund_lines": 1}
        if amount > 0:
            order = ("o", row["order_id"]) if row["order_id"] is not None else ("d", day)
            new = fresh(who, "order", order)
            new_day = new and fresh(who, "day", day)
            gap = day - last.get(who, day) if new_day else 0
            if new_day:
                last[who] = day
            month = np.datetime64(day, "D").astype("datetime64[M]")
            whole = (amount + 50) // 100
            found |= {
                "spend": amount, "orders": new, "order_days": new_day, "lines": 1,
                "discounted_lines": (row["discount"] or 0) > 0, "discount": row["discount"] or 0,
                "quantity": row["quantity"] or 0,
                "new_products": fresh(who, "product", row["product_id"]),
                "new_categories": fresh(who, "category", row["category"]),
                "active_months": new and fresh(who, "month", str(month)),
                "gap_days": gap, "gap_days_squared": gap * gap, "spend_squared": whole * whole,
                    "spend_whole": whole,
            }  # fmt: skip
        told.append(found)
    columns = bucket(lines, ZONE).columns
    for j, name in enumerate(COLUMNS):
        assert columns[:, j].tolist() == [int(found[name]) for found in told], name
        assert np.count_nonzero(columns[:, j]) > 20


def test_orders_without_an_id_are_those_of_a_day():
    noon = instant("2023-05-05T12:00", "UTC")
    made = pd.DataFrame(
        {
            "customer_id": ["a", "a", "a", "a", "b", "b"],
            "ts": [noon, noon + 1, noon + 2, noon - 86_400_000_000, noon, noon + 1],
            "amount": [1, 2, 4, 8, 16, -32],
            "order_id": [None, "x", None, None, "x", None],
        }
    )
    orders = bucket(made).columns[:, COLUMNS.index("orders")]
    assert orders.tolist() == [1, 1, 1, 0, 1, 0]  # sorted: yesterday's, today's, x, today's again


def test_the_unit_of_money_is_that_of_the_currency(lines):
    few = lines.head(200)
    yen = bucket(few, unit=1)
    made = behaviour.build(yen, CUTOFFS, catalogue.catalogue())
    cents = behaviour.build(bucket(few), CUTOFFS, catalogue.catalogue())
    assert (made.column("spend") / 100 == cents.column("spend")).all()
    squares = yen.columns[:, COLUMNS.index("spend_squared")]
    assert (squares == np.maximum(yen.amount, 0) ** 2).all()


def test_take_is_a_bucket_of_its_own(lines, people):
    whole = bucket(lines, ZONE, people.set_index("customer_id"))
    part = whole.take(10, 23)
    assert part.ids.tolist() == whole.ids[10:23].tolist()
    assert list(part.attributes["country"]) == [f"of {name}" for name in part.ids]
    mine = bucket(lines[lines["customer_id"].isin(part.ids)], ZONE)
    for name in ("starts", "ts", "day", "hour", "amount", "columns"):
        assert np.array_equal(getattr(part, name), getattr(mine, name)), name
    assert len(whole.take(5, 5)) == 0


def test_customers_without_attributes_keep_their_place(lines, people):
    made = bucket(lines, ZONE, people.iloc[::2].set_index("customer_id"))
    given = set(people["customer_id"].iloc[::2])
    assert made.attributes["country"].notna().tolist() == [name in given for name in made.ids]


def stored(folder: Path, lines: pd.DataFrame, people: pd.DataFrame | None, n: int) -> Store:
    ids = sorted(lines["customer_id"].unique())
    (folder / "orders").mkdir(parents=True)
    if people is not None:
        (folder / "customers").mkdir()
    for i in range(n):
        mine = set(ids[i::n])
        name = f"bucket-{i:03d}.parquet"
        pq.write_table(
            table(lines[lines["customer_id"].isin(mine)], ZONE), folder / "orders" / name
        )
        if people is not None:
            chosen = people[people["customer_id"].isin(mine)]
            chosen.to_parquet(folder / "customers" / name, index=False)
    return Store(
        folder, n, 100, int(lines["ts"].max()) + 1, int(lines["ts"].min()), "f" * 64,
        ("order_id",), len(lines), len(ids),
    )  # fmt: skip


@pytest.mark.parametrize("n", [1, 7])
def test_what_was_written_is_read_back(lines, people, tmp_path, n):
    store = stored(tmp_path, lines, people, n)
    whole = behaviour.build(bucket(lines, ZONE), CUTOFFS, catalogue.catalogue())
    told = {
        (whole.ids[w], c): v for w, c, v in zip(whole.who, whole.cut, whole.values, strict=True)
    }
    found = {}
    for part in store:
        assert list(part.attributes["country"]) == [f"of {name}" for name in part.ids]
        rows = behaviour.build(part, CUTOFFS, catalogue.catalogue())
        found |= {
            (rows.ids[w], c): v for w, c, v in zip(rows.who, rows.cut, rows.values, strict=True)
        }
    assert found.keys() == told.keys()
    assert len(found) > 60
    assert all(same_bits(found[key], told[key]) for key in told)


def test_a_store_without_attributes_and_with_an_empty_bucket(lines, tmp_path):
    few = lines[lines["customer_id"].isin(["010", "011"])]
    store = stored(tmp_path, few, None, 3)
    parts = list(store)
    assert [len(part) for part in parts] == [1, 1, 0]
    assert all(part.attributes is None for part in parts)
    assert store.bucket(1).ids.tolist() == ["011"]


def test_one_line_and_many_chunks_are_enough(lines):
    one = Bucket.of(table(lines.head(1)), 100)
    assert (len(one), len(one.ts)) == (1, 1)
    whole = table(lines, ZONE)
    pieces = pa.concat_tables([whole.slice(0, 1_000), whole.slice(1_000, 7), whole.slice(1_007)])
    assert pieces.schema == SCHEMA
    assert pieces["ts"].num_chunks == 3
    a, b = Bucket.of(pieces, 100), Bucket.of(whole, 100)
    for name in ("starts", "ts", "columns", "order", "category"):
        assert np.array_equal(getattr(a, name), getattr(b, name))


def test_one_customer_of_many_buckets(tmp_path, monkeypatch):
    """Whoever has orders is found in the bucket that the store gave them, oddest ids included."""
    lines = history(41, customers=50, lines=3_000)
    day = pd.to_datetime(lines["ts"], unit="us")
    orders = pd.DataFrame(
        {"customer_id": lines["customer_id"], "order_ts": day, "amount": lines["amount"] / 100}
    )
    one = Store.of(ingest(orders, Settings(), tmp_path / "one"))
    monkeypatch.setattr(passes, "SMALL", 1_000)
    many = Store.of(ingest(orders, Settings(), tmp_path / "many"))
    assert (one.buckets, many.buckets) == (1, passes.BUCKETS)
    for name in ("003", "017", "031", "NA", "a", "\u00e97", "Z", "\U0001f600"):
        for store in (one, many):
            found = store.of_customer(name)
            assert found is not None
            assert found.ids.tolist() == [name]
            assert len(found.ts) == (orders["customer_id"] == name).sum()
    assert [many.of_customer(name) for name in ("0", "", "na", "'); --", "001 ")] == [None] * 5
