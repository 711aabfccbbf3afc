"""The contract of the orders table: rules, counts, buckets and what is written."""

from __future__ import annotations

import csv
import json
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from features import passes, rules
from features.errors import InputError
from features.rules import minor_digits
from features.settings import Settings, parse
from features.store import SCHEMA
from features.tables import Ingested, ingest, local_midnight, quarantine

HEAD = "customer_id,order_ts,amount,order_id\n"


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text, encoding="utf-8")
    return folder


def store(found: Ingested) -> pd.DataFrame:
    files = sorted((found.folder / "orders").glob("*.parquet"))
    return pd.concat([pq.read_table(f).to_pandas() for f in files], ignore_index=True)


def counts(found: Ingested) -> dict[str, int]:
    return {rule.name: rule.rows for rule in found.rules}


def shop(seed: int, rows: int) -> pd.DataFrame:
    """Random order lines with something wrong in some of them."""
    rng = np.random.default_rng(seed)
    days = rng.integers(0, 700, rows)
    frame = pd.DataFrame(
        {
            "customer_id": [f"c{k:04d}" if k % 50 else "" for k in rng.integers(0, 400, rows)],
            "order_ts": [f"{d} {h:02d}:15:00" for d, h in zip(
                (pd.Timestamp("2022-01-01") + pd.to_timedelta(days, "D")).strftime("%Y-%m-%d"),
                rng.integers(0, 24, rows), strict=True)],
            "amount": [f"{a:.2f}" for a in rng.normal(30, 30, rows)],
            "order_id": [f"o{k // 3}" for k in range(rows)],
            "product_id": rng.choice(["p1", "p2", ""], rows),
            "category": rng.choice(["x", "y"], rows),
            "channel": rng.choice(["web", "app", ""], rows),
            "quantity": rng.choice(["1", "2", "0.5", ""], rows),
            "discount": rng.choice(["", "1.10", "-2"], rows),
            "cost": rng.choice(["", "3.333"], rows),
        }
    )  # fmt: skip
    frame.loc[rng.random(rows) < 0.02, "amount"] = "?"
    frame.loc[rng.random(rows) < 0.02, "order_ts"] = ""
    return frame


def test_the_store_is_what_plain_sql_says(tmp_path: Path) -> None:
    """The same lines by one simple query over the same file."""
    shop(1, 3000).to_csv(tmp_path / "orders.csv", index=False)
    found = ingest(tmp_path, Settings(), tmp_path / "work")
    with duckdb.connect() as con:
        expected = con.execute(
            f"""
            SELECT customer_id, epoch_us(order_ts::TIMESTAMP) AS ts,
                   floor(epoch(order_ts::TIMESTAMP) / 86400)::INT AS day,
                   hour(order_ts::TIMESTAMP) AS hour,
                   (amount::DECIMAL(18, 2) * 100)::BIGINT AS amount, order_id, product_id,
                   category, channel, (quantity::DECIMAL(18, 3) * 1000)::BIGINT AS quantity,
                   abs((discount::DECIMAL(18, 2) * 100)::BIGINT) AS discount,
                   (cost::DECIMAL(18, 2) * 100)::BIGINT AS cost
            FROM read_csv('{tmp_path / "orders.csv"}', all_varchar = true, nullstr = '')
            WHERE customer_id IS NOT NULL AND order_ts IS NOT NULL AND amount <> '?'
            ORDER BY customer_id, ts, order_id NULLS FIRST, product_id NULLS FIRST,
                     category NULLS FIRST, channel NULLS FIRST, amount, quantity NULLS FIRST,
                     discount NULLS FIRST, cost NULLS FIRST
            """
        ).df()
    pd.testing.assert_frame_equal(store(found), expected, check_dtype=False)
    assert found.customers == expected["customer_id"].nunique()
    assert (found.first_ts, found.last_ts) == (expected["ts"].min(), expected["ts"].max())


def test_every_row_is_accounted_for(tmp_path: Path) -> None:
    frame = shop(2, 2000)
    found = ingest(frame, Settings(), tmp_path / "work")
    bad = (frame["customer_id"] == "") | (frame["amount"] == "?") | (frame["order_ts"] == "")
    assert found.rows_in == len(frame) == found.rows_kept + found.rows_refused
    assert found.rows_refused == bad.sum()
    refused = sum(r.rows for r in found.rules if r.action == "refused")
    assert refused == found.rows_refused
    for rule in found.rules:
        assert rule.share == rule.rows / found.rows_in
        assert len(rule.examples) == min(rule.rows, 3)
    assert counts(found)["negative_amount"] == (store(found)["amount"] < 0).sum()


def test_examples_point_at_the_line(tmp_path: Path) -> None:
    text = HEAD + "a,2024-01-01,1,o1\na,2024-01-01,oops,o2\n,2024-01-01,1,o3\n"
    found = ingest(write(tmp_path / "d", orders=text), Settings(), tmp_path / "work")
    examples = {rule.name: rule.examples for rule in found.rules}
    assert examples["unreadable_amount"] == (("orders.csv", 3, "amount", "oops"),)
    assert examples["missing_customer"][0][:3] == ("orders.csv", 4, "customer_id")
    report = found.format()
    assert "Rows in 3 = kept 1 + refused 2; customers 1" in report
    assert "orders.csv line 3, amount: oops" in report


def test_examples_of_lines_that_stay_show_the_column_of_the_rule(tmp_path: Path) -> None:
    """As a file would hold it: money in major units, moments in UTC; an order id where it counts.

    The lines 2 to 6 have an order id each, which is no amount.
    """
    text = "customer_id,order_ts,amount,order_id,quantity,discount\n"
    text += "a,2024-01-01,-12.50,o1,2.5,-0.05\na,2024-01-02,0,o2,,\n"
    text += "b,2024-01-03,7,o3,many,\nb,2024-01-03,7,o3,many,\nz,2030-01-01 08:00,1,,1,\n"
    text += "".join(f"c,2024-02-{1 + i % 28:02d},{i}.5,p{i},1,\n" for i in range(1, 3_000))
    found = ingest(write(tmp_path / "d", orders=text), Settings(), tmp_path / "work")
    shown = {rule.name: [e[1:] for e in rule.examples] for rule in found.rules}
    assert shown == {
        "negative_amount": [(2, "amount", "-12.50")],
        "zero_amount": [(3, "amount", "0.00")],
        "negative_discount": [(2, "discount", "0.05")],
        "unreadable_optional": [(4, "quantity", ""), (5, "quantity", "")],
        "duplicate_line": [(5, "order_id", "o3")],
        "lonely_future": [(6, "order_ts", "2030-01-01 08:00:00+00:00")],
    }
    report = found.format()
    assert "orders.csv line 2, amount: -12.50\n" in report
    assert "orders.csv line 4, quantity: (none)\n" in report


def test_examples_in_a_currency_without_minor_units(tmp_path: Path) -> None:
    text = HEAD + "a,2024-01-01,1250,o1\na,2024-01-02,-1250,o2\n"
    settings = parse({"business": {"currency": "JPY"}})
    found = ingest(write(tmp_path / "d", orders=text), settings, tmp_path / "work")
    examples = {rule.name: rule.examples for rule in found.rules}
    assert examples["negative_amount"] == (("orders.csv", 3, "amount", "-1250"),)


def test_the_report_is_plain_json(tmp_path: Path) -> None:
    found = ingest(shop(3, 50), Settings(), tmp_path / "work")
    back = json.loads(json.dumps(found.as_dict()))
    assert back["rows_in"] == 50
    assert {r["name"] for r in back["rules"]} == set(counts(found))


def test_the_number_of_buckets_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = shop(4, 4000)
    people = pd.DataFrame({"customer_id": [f"c{k:04d}" for k in range(400)], "country": "DE"})
    data = {"orders": frame, "customers": people}
    one = ingest(data, Settings(), tmp_path / "one")
    monkeypatch.setattr(passes, "SMALL", 1000)
    many = ingest(data, Settings(), tmp_path / "many")
    assert (one.buckets, many.buckets) == (1, passes.BUCKETS)
    assert one.fingerprint == many.fingerprint
    assert one.as_dict()["rules"] == many.as_dict()["rules"]
    both = [store(f).sort_values(list(passes.KEY), na_position="first") for f in (one, many)]
    pd.testing.assert_frame_equal(*(b.reset_index(drop=True) for b in both))
    where: dict[str, set[int]] = {}
    for number in range(many.buckets):
        name = f"bucket-{number:03d}.parquet"
        lines = pq.read_table(many.folder / "orders" / name)
        assert lines.schema.names == SCHEMA.names
        assert lines.schema.types == SCHEMA.types
        ids = lines["customer_id"].to_pylist()
        assert ids == sorted(ids)
        beside = pq.read_table(many.folder / "customers" / name)["customer_id"].to_pylist()
        for customer in {*ids, *beside}:
            where.setdefault(customer, set()).add(number)
    assert all(len(numbers) == 1 for numbers in where.values())


def test_ids_sort_bytewise(tmp_path: Path) -> None:
    ids = ["b", "B", "a", "é", "Z", "10", "9", "\U0001f600", "\uffee"]
    text = HEAD + "".join(f"{i},2024-01-01,1,\n" for i in ids)
    found = ingest(write(tmp_path / "d", orders=text), Settings(), tmp_path / "work")
    assert store(found)["customer_id"].tolist() == sorted(ids, key=str.encode)


@pytest.mark.parametrize(("policy", "kept"), [("keep", 3), ("drop", 2)])
def test_exact_copies_are_kept_or_dropped_by_setting(
    tmp_path: Path, policy: str, kept: int
) -> None:
    """A line that differs in any column, even one that is not used, is no copy."""
    text = "customer_id,order_ts,amount,note\n" + "a,2024-01-01,1,x\n" * 2 + "a,2024-01-01,1,y\n"
    settings = parse({"orders": {"duplicates": policy}})
    found = ingest(write(tmp_path / "d", orders=text), settings, tmp_path / "work")
    assert found.rows_kept == kept
    assert counts(found) == {"duplicate_line": 1}
    assert found.rules[0].action == ("kept" if policy == "keep" else "dropped")


def test_overlapping_extracts(tmp_path: Path) -> None:
    """The same order in two files is dropped once; one that differs is kept and named."""
    first = HEAD + "a,2024-01-01,1,o1\na,2024-01-01,2,o1\nb,2024-01-02,5,o2\nc,2024-01-03,7,o3\n"
    second = HEAD + "c,2024-01-03,7,o3\nb,2024-01-02,6,o2\na,2024-01-01,2,o1\na,2024-01-01,1,o1\n"
    folder = write(tmp_path / "d" / "orders", jan=first, feb=second + "d,2024-02-01,9,o4\n").parent
    found = ingest(folder, Settings(), tmp_path / "work")
    assert counts(found) == {"overlapping_extract": 3, "conflicting_extract": 2}
    lines = store(found)
    assert sorted(zip(lines["order_id"], lines["amount"], strict=True)) == [
        ("o1", 100), ("o1", 200), ("o2", 500), ("o2", 600), ("o3", 700), ("o4", 900),
    ]  # fmt: skip


def test_aliases_are_followed_before_anything_else(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "d",
        orders=HEAD
        + "old,2024-01-01,1,\nolder,2024-01-01,2,\nnew,2024-01-01,3,\nx,2024-01-01,4,\n",
        aliases="old_id,customer_id\nolder,old\nold,new\n",
        customers="customer_id,country\nolder,DE\nx,FR\n",
    )
    found = ingest(folder, Settings(), tmp_path / "work")
    assert store(found).groupby("customer_id")["amount"].sum().to_dict() == {"new": 600, "x": 400}
    people = pq.read_table(found.folder / "customers").to_pydict()
    assert people == {"customer_id": ["new", "x"], "country": ["DE", "FR"]}


@pytest.mark.parametrize("lines", ["a,b\nb,a\n", "a,b\nb,c\nc,a\n", "a,b\na,c\n", "a,\n"])
def test_aliases_must_lead_somewhere(tmp_path: Path, lines: str) -> None:
    orders = HEAD + "a,2024-01-01,1,\n"
    folder = write(tmp_path / "d", orders=orders, aliases="old_id,customer_id\n" + lines)
    with pytest.raises(InputError, match=r"aliases\.csv"):
        ingest(folder, Settings(), tmp_path / "work")


@pytest.mark.parametrize("line", ["EUR,2024-01-01,x", "EUR,soon,1", "EUR,2024-01-01,-1",
                                  "EUR,2024-01-01,1\nEUR,2024-01-01,2"])  # fmt: skip
def test_rates_must_be_rates(tmp_path: Path, line: str) -> None:
    orders = HEAD + "a,2024-01-01,1,\n"
    folder = write(tmp_path / "d", orders=orders, rates="currency,day,rate\n" + line + "\n")
    with pytest.raises(InputError, match=r"rates\.csv line"):
        ingest(folder, Settings(), tmp_path / "work")


def test_rates_apply_to_money_of_all_kinds_at_the_local_day(tmp_path: Path) -> None:
    """22:30 UTC on the 1st is the 2nd in Berlin: the rate of the 2nd."""
    folder = write(
        tmp_path / "d",
        orders="customer_id,order_ts,amount,currency,discount,cost\n"
        "a,2024-07-01T22:30:00Z,10.00,USD,1.00,4.00\nb,2024-07-01T12:00:00Z,10,,1,4\n",
        rates="currency,day,rate\nUSD,2024-07-01,0.5\nUSD,2024-07-02,0.91235\n",
    )
    settings = parse({"business": {"currency": "EUR", "time_zone": "Europe/Berlin"}})
    lines = store(ingest(folder, settings, tmp_path / "work"))
    assert lines["amount"].tolist() == [912, 1000]
    assert lines["discount"].tolist() == [91, 100]
    assert lines["cost"].tolist() == [365, 400]


MONEY = (
    "0.0049999995", "0.005", "2.675", "-2.675", "1e3", "12345678.9", "99999999999.999999",
    "100000000000.005", "-99999999999999.98", "5000000000000.125", "1.0000005",
)  # fmt: skip


@pytest.mark.parametrize("currency", ["EUR", "JPY", "BHD"])
@pytest.mark.parametrize("foreign", [False, True])
def test_money_is_rounded_once_however_many_digits_it_has(
    tmp_path: Path, currency: str, foreign: bool
) -> None:
    """Against Python's decimals: first to millionths as all text is, then half up at its rate."""
    rate, places = Decimal("0.91235") if foreign else Decimal(1), minor_digits(currency)

    def half_up(value: Decimal, digits: int) -> Decimal:
        return value.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)

    lines = [f"c{i:02},2024-07-01,1,{'USD' if foreign else ''},{each}\n"
             for i, each in enumerate(MONEY)]  # fmt: skip
    folder = write(
        tmp_path / "d",
        orders="customer_id,order_ts,amount,currency,cost\n" + "".join(lines),
        rates="currency,day,rate\nUSD,2024-07-01,0.91235\n",
    )
    found = store(ingest(folder, parse({"business": {"currency": currency}}), tmp_path / "work"))
    most = Decimal(10) ** (18 - 2 * places)  # beyond it money is not known
    for text, cost in zip(MONEY, found["cost"].tolist(), strict=True):
        money = half_up(half_up(Decimal(text), 6) * rate, places)
        assert (None if pd.isna(cost) else int(cost)) == (
            None if abs(money) >= most else int(money.scaleb(places))
        ), text


@pytest.mark.parametrize("currency", ["EUR", "JPY", "BHD"])
def test_a_price_by_piece_is_rounded_once_after_its_rate(tmp_path: Path, currency: str) -> None:
    lines = [("1", "1.49"), ("3", "0.335"), ("-2", "1.005"), ("7", "123456.789")]
    orders = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country,c\n"
    for i, (pieces, price) in enumerate(lines):
        orders += f"{i},a,x,{pieces},2024-01-01 10:00,{price},{i},UK,USD\n"
    folder = write(tmp_path / "d", orders=orders, rates="currency,day,rate\nUSD,2024-01-01,150.5\n")
    settings = {"business": {"currency": currency}, "columns": {"orders": {"currency": "c"}}}
    found = store(ingest(folder, parse(settings), tmp_path / "work"))
    places = minor_digits(currency)
    exact = [Decimal(pieces) * Decimal(price) * Decimal("150.5") for pieces, price in lines]
    told = [each.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP).scaleb(places)
            for each in exact]  # fmt: skip
    assert found["amount"].tolist() == [int(each) for each in told]


def test_prices_by_piece_may_be_large_beside_a_table_of_rates(tmp_path: Path) -> None:
    orders = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
    orders += "1,a,x,2,2024-01-01 10:00,4744755.41,7,UK\n2,a,x,1,2024-01-01 10:00,3,8,UK\n"
    folder = write(tmp_path / "d", orders=orders, rates="currency,day,rate\nUSD,2024-01-01,2\n")
    lines = store(ingest(folder, Settings(), tmp_path / "work"))
    assert lines["amount"].tolist() == [948951082, 300]


def test_cost_comes_from_the_margin_where_it_is_not_given(tmp_path: Path) -> None:
    text = "customer_id,order_ts,amount,cost,margin_rate\n"
    text += "a,2024-01-01,10.01,,0.35\nb,2024-01-01,10,2,0.35\nc,2024-01-01,10,,\n"
    text += "d,2024-01-01,-10.01,,0.35\n"
    lines = store(ingest(write(tmp_path / "d", orders=text), Settings(), tmp_path / "work"))
    assert lines["cost"].fillna(0).tolist() == [651, 200, 0, -651]


def test_unreadable_optional_values_are_noted_not_lost(tmp_path: Path) -> None:
    text = "customer_id,order_ts,amount,quantity,discount\n"
    text += "a,2024-01-01,1,many,\nb,2024-01-01,1,2,-3\n"
    found = ingest(write(tmp_path / "d", orders=text), Settings(), tmp_path / "work")
    assert counts(found) == {"unreadable_optional": 1, "negative_discount": 1}
    lines = store(found)
    assert lines["quantity"].fillna(0).tolist() == [0, 2000]
    assert lines["discount"].fillna(0).tolist() == [0, 300]


def test_customers_keep_their_attributes_as_text(tmp_path: Path) -> None:
    people = "Customer_ID,zip,NA\n007,01067,NA\n007,01067,NA\nb,1e5,\nb,2,\n,9,x\n"
    folder = write(tmp_path / "d", orders=HEAD + "007,2024-01-01,1,\n", customers=people)
    found = ingest(folder, Settings(), tmp_path / "work")
    table = pq.read_table(found.folder / "customers").to_pydict()
    assert table == {"customer_id": ["007", "b"], "NA": ["NA", None], "zip": ["01067", "1e5"]}
    assert counts(found) == {"duplicate_customer": 1, "unusable_customer": 1}
    assert {rule.table for rule in found.rules} == {"customers"}
    other = write(tmp_path / "e", orders=HEAD + "007,2024-01-01,1,\n", customers=people + "z,1,\n")
    assert ingest(other, Settings(), tmp_path / "w2").fingerprint != found.fingerprint


def test_quarantine_holds_every_refused_line(tmp_path: Path) -> None:
    """Also those that are only refused in the second pass; written as understood."""
    frame = shop(5, 500)
    frame.loc[len(frame)] = ["big", "2024-01-01 10:00:00", "1e17"] + ["k"] + [""] * 6
    frame.loc[len(frame)] = ["big", "2024-01-02 10:00:00", "5.05"] + ["k"] + [""] * 6
    found = ingest(frame, Settings(), tmp_path / "work")
    path = tmp_path / "refused.csv"
    assert quarantine(found, path) == found.rows_refused
    with path.open(encoding="utf-8", newline="") as out:
        rows = list(csv.DictReader(out))
    by_rule = pd.Series([row["rule"] for row in rows]).value_counts().to_dict()
    assert by_rule == {r.name: r.rows for r in found.rules if r.action == "refused"}
    assert [int(row["line"]) for row in rows] == sorted(int(row["line"]) for row in rows)
    assert [row["amount"] for row in rows if row["customer_id"] == "big"][1] == "5.05"
    first = rows[0]
    assert first["order_ts"] == frame.loc[int(first["line"]) - 1, "order_ts"]


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    ingest(shop(6, 100), Settings(), tmp_path / "w", progress=lambda *step: told.append(step))
    assert told[-1] == ("sort", 1.0)
    assert ("read", 1.0) in told
    assert all(0 <= part <= 1 for _, part in told)


def test_a_second_run_replaces_the_first(tmp_path: Path) -> None:
    work = tmp_path / "it's work"
    people = pd.DataFrame({"customer_id": ["a"], "country": ["DE"]})
    ingest({"orders": shop(7, 100), "customers": people}, Settings(), work)
    found = ingest(shop(8, 60), Settings(), work)
    assert sorted(p.name for p in work.iterdir()) == ["orders", "refused"]
    assert len(store(found)) == found.rows_kept


def test_a_failed_run_leaves_the_last_one_alone(tmp_path: Path) -> None:
    found = ingest(shop(9, 100), Settings(), tmp_path / "work")
    before = store(found)
    with pytest.raises(InputError):
        ingest(shop(9, 100).assign(amount="?"), Settings(), tmp_path / "work")
    pd.testing.assert_frame_equal(store(found), before)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/Sao_Paulo"])
def test_local_midnight(zone: str) -> None:
    for day in pd.date_range("2018-01-01", "2018-12-31", freq="17D"):
        expected = pd.Timestamp(day.date()).tz_localize(zone, nonexistent="shift_forward")
        assert local_midnight(day.date(), zone) == expected.value // 1000


def test_unknown_contract_columns_in_a_mapping_are_refused(tmp_path: Path) -> None:
    settings = parse({"columns": {"orders": {"price": "x"}}})
    with pytest.raises(InputError, match="Got 'price'"):
        ingest(shop(1, 10), settings, tmp_path / "work")


def test_rules_are_named_once_and_each_says_what_to_do() -> None:
    names = [rule.name for rule in rules.RULES]
    assert len(names) == len(set(names)) < 256
    assert sum(rules.BITS.values()) < 256
    assert all(rule.meaning and rule.column for rule in rules.RULES)


@pytest.mark.parametrize("data", [{"orders": pd.DataFrame()}, pd.DataFrame(columns=["a"])])
def test_frames_without_columns_or_rows_are_refused(tmp_path: Path, data: Any) -> None:
    with pytest.raises(InputError, match="must"):
        ingest(data, Settings(), tmp_path / "work")
