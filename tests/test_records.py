import random
from datetime import datetime, timedelta

import duckdb
import numpy as np
import pandas as pd
import pytest
from conftest import bucket as bucket_of_lines
from conftest import history

from features import plain, records, rules, windows
from features.exact import clock_time, finer, scaled
from features.records import RecordError, read
from features.settings import Settings, parse
from features.spine import instant

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata")


def times(rng: random.Random, count: int) -> list[str]:
    """Times as people and programs write them, right and wrong."""
    found = [
        "2024-01-01T24:00:00", "2024-01-01 24:00:01", "2024-01-01/02", "2023-02-29", "now",
        "2024-02-29T23:59:59.9999999", "20240229", "2024-W01-1", "", " 2024-01-01 ",
    ]  # fmt: skip
    for _ in range(count):
        year, sign = rng.choice([1, 1583, 1969, 1970, 2024, 2099, 2100, 9999]), rng.choice("-/")
        month, day = rng.randint(0, 13), rng.randint(0, 32)
        text = f"{year:04d}{sign}{month:02d}{sign}{day:02d}"
        if rng.random() < 0.2:
            text = f"{year}{sign}{month}{sign}{day}"
        if rng.random() < 0.7:
            text += f"{rng.choice('T ')}{rng.randint(0, 25):02d}:{rng.randint(0, 61):02d}"
            if rng.random() < 0.7:
                text += f":{rng.randint(0, 61):02d}"
                text += rng.choice(["", "", f".{rng.randint(0, 10**7)}"])
            text += rng.choice(["", "", "Z", " UTC", "GMT", "+02", "-0530", "+14:00", "+2"])
        found.append(rng.choice(["", "", "", " "]) + text)
    return [text for text in found if len(text) != 10 or text[-1] not in "Zz"]


def test_times_are_read_as_the_rules_of_files_read_them():
    texts = times(random.Random(1), 4_000)
    query = (
        f"SELECT x, {rules.clock_time('x', None)}, {rules.offset('x')} "
        "FROM (SELECT unnest($1::VARCHAR[]) AS x)"
    )
    rows = duckdb.execute(query, [texts]).fetchall()
    assert sum(naive is not None for _, naive, _ in rows) > 1_000
    for text, naive, east in rows:
        assert clock_time(text) == (naive, None if naive is None else east), text


@pytest.mark.parametrize("zone", ZONES)
def test_local_days_and_hours_are_those_of_files_also_where_clocks_change(zone):
    settings = parse({"business": {"time_zone": zone}})
    rng = random.Random(2)
    start = datetime(2000, 1, 1)
    texts = [
        (start + timedelta(minutes=15 * rng.randrange(4 * 24 * 365 * 30))).isoformat(" ")
        for _ in range(3_000)
    ]
    texts += [f"2024-03-31T{h:02d}:30:00" for h in range(5)]
    texts += [f"2024-10-27T{h:02d}:30:00" for h in range(5)]
    texts += [f"2024-11-03T{h:02d}:30:00" for h in range(5)]
    typed = (
        f"SELECT x, {rules.clock_time('x', None)} AS naive, NULL::BIGINT AS east, false AS in_utc "
        "FROM (SELECT unnest($1::VARCHAR[]) AS x)"
    )
    query = (
        f"WITH typed AS ({typed}), timed AS ({rules.timed(rules.Pass(settings))}) SELECT "
        "epoch_us(utc), (here::DATE - DATE '1970-01-01'), hour(here) FROM timed"
    )
    lines = [{"order_ts": text, "amount": 1} for text in texts]
    mine = read([{"customer_id": "a", "orders": lines}], settings).bucket
    found = zip(mine.ts.tolist(), mine.day.tolist(), mine.hour.tolist(), strict=True)
    assert sorted(found) == sorted(duckdb.execute(query, [texts]).fetchall())


def carefully(customers: list[dict], settings: Settings) -> plain.Lines:
    """As the rules have it, line by line."""
    reader = records._Reader(settings, ("customers",))
    return plain.in_order(reader._carefully(customers), reader.form.drop_copies)


def quickly(customers: list[dict], settings: Settings) -> plain.Lines | None:
    return plain.read(customers, records._Reader(settings, ("customers",)).form)


def same(mine: plain.Lines, theirs: plain.Lines) -> bool:
    return (
        np.array_equal(mine.starts, theirs.starts)
        and np.array_equal(mine.numbers, theirs.numbers)
        and [list(x) for x in mine.texts] == [list(x) for x in theirs.texts]
    )


@pytest.mark.parametrize("zone", ZONES)
def test_plain_orders_read_quickly_are_those_read_with_care(zone):
    """Whatever the quick way takes, it takes as the careful one; what it does not, that one has."""
    rng, settings = random.Random(5), parse({"business": {"time_zone": zone}})
    hours = (datetime(2024, 1, 1) + timedelta(hours=11 * k) for k in range(900))
    days = (datetime(1968, 1, 1) + timedelta(days=97 * k) for k in range(510))
    texts = [*times(rng, 500), *(f"{hour}" for hour in hours), *(f"{day:%Y-%m-%d}" for day in days)]
    texts += ["1970-01-01", "2099-12-31", "2000-02-29", "1900-02-29", "2024-04-31", "2024-01-01\0"]
    texts += ["2024-01-01T24:00:00", "2024-01-01T10:0a:00", "2024-01-01\u0661\u0661"]
    amounts = [1, 10.0, 19.99, -0.005, 0.1 + 0.2, 1e17, 1e400, float("nan"), 10**20, 10**400, True,
               "5", -3.5, 0, None]  # fmt: skip
    quick = 0
    for text in texts:
        order = {"order_ts": text, "amount": rng.choice(amounts)}
        if rng.random() < 0.5:
            order |= {
                "order_id": rng.choice(["a", "", None]),
                "channel": rng.choice(["web", 1, []]),
            }
        if rng.random() < 0.2:
            name = rng.choice(["quantity", "discount", "cost", "currency", "margin_rate", "x"])
            order[name] = rng.choice([1, 2.5, -1.25, 0.0005, 1e300, None, "EUR", "1", True, [], {}])
        customers = [{"customer_id": "a", "orders": [order]}]
        found = quickly(customers, settings)
        if found is not None:
            quick += 1
            assert same(found, carefully(customers, settings)), order
    assert quick > 200


@pytest.mark.parametrize("drop", ["drop", "keep"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_whole_requests_read_quickly_are_those_read_with_care(zone, drop):
    """Customers in one pass: unsorted, lines at one instant, copies, days of clock change."""
    settings = parse({"business": {"time_zone": zone}, "orders": {"duplicates": drop}})
    rng, quick = random.Random(6), 0
    for k in range(200):
        customers = []
        for i in range(rng.randint(1, 5)):
            near = datetime(2024, rng.choice([3, 6, 10]), 28)
            steps = 3 if k % 2 else 10**6  # few instants, or hardly ever the same one
            orders = [
                {"order_ts": f"{near + timedelta(minutes=7 * rng.randrange(steps))}",
                 "amount": rng.choice([1, 19.99, 5.5, -2.25])}
                for _ in range(rng.randint(1, 6))
            ]  # fmt: skip
            for order in orders:
                if rng.random() < 0.7:
                    order["product_id"] = rng.choice(["p", "q", "\u00e9", None])
                if k % 3 == 0 and rng.random() < 0.7:
                    order |= {"quantity": rng.choice([1, 2.5, None]), "cost": 1.25, "discount": 0.5}
            customers.append({"customer_id": f"{i}", "orders": [*orders, *orders[:1]]})
        found = quickly(customers, settings)
        quick += found is not None
        assert same(found, carefully(customers, settings))
    assert quick == 200


def test_a_number_finer_than_money_is_left_to_the_careful_way():
    settings = Settings()
    order = {"order_ts": "2024-01-01", "amount": 1.0}
    for more in ({"amount": 1.005}, {"discount": -1}, {"cost": 0.001}, {"quantity": 0.0001}):
        customers = [{"customer_id": "a", "orders": [order, order | more]}]
        assert quickly(customers, settings) is None
        assert read(customers, settings).bucket.starts.tolist() == [0, 2]


@pytest.mark.parametrize("digits", [0, 2, 3])
def test_numbers_are_rounded_as_the_rules_of_files_round_them(digits):
    rng = random.Random(3)
    texts = [f"{rng.choice(['', '-'])}{rng.randint(0, 10 ** rng.randint(1, 12))}.{tail}"
             for tail in ("5", "05", "005", "0005", "0049999", "0049995", "995", "125", "99")
             for _ in range(200)]  # fmt: skip
    texts += [repr(float(f"{rng.random() * 10 ** rng.randint(-9, 14):.{rng.randint(0, 9)}f}"))
              for _ in range(4_000)]  # fmt: skip
    # A number of a request is a double: what it is written as, the rules of files read.
    texts = [repr(float(text)) for text in texts]
    money, fine = rules.number("x", 18, digits), rules.number("x", 22, 6)
    query = (
        f"SELECT x, {rules._minor(money, digits)}, {rules._minor(fine, digits)}, "
        f"{rules._minor(rules.number('x', 18, 3), 3)} FROM (SELECT unnest($1::VARCHAR[]) AS x)"
    )
    for text, amount, discount, pieces in duckdb.execute(query, [texts]).fetchall():
        value = float(text)
        found = (scaled(value, digits), finer(value, digits), scaled(value, 3))
        for mine, theirs in zip(found, (amount, discount, pieces), strict=True):
            assert mine == theirs or (theirs is None and abs(mine) >= 10**15), text


def recorded(frame: pd.DataFrame) -> list[dict]:
    """Lines in the units of the store as records of a request."""
    found = []
    for row in frame.astype(object).where(frame.notna(), None).to_dict("records"):
        line = {"order_ts": str(np.datetime64(row["ts"], "us")), "amount": row["amount"] / 100}
        line |= {k: row[k] for k in ("order_id", "product_id", "category", "channel")}
        for name, unit in (("quantity", 1000), ("discount", 100), ("cost", 100)):
            line[name] = None if row[name] is None else row[name] / unit
        found.append({k: v for k, v in line.items() if v is not None})
    return found


def test_a_bucket_of_records_is_the_bucket_of_a_file():
    lines = history(5, marks=[instant("2022-07-01", "UTC")])
    made, expected = {}, bucket_of_lines(lines)
    for name, some in lines.sample(frac=1, random_state=1).groupby("customer_id"):
        made[name] = {"customer_id": name, "orders": recorded(some)}
    found = read([made[name] for name in expected.ids], Settings()).bucket
    assert found.ids.tolist() == expected.ids.tolist()
    for name in ("starts", "ts", "day", "hour", "amount", "columns", "acquired"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    for name in ("channel", "category"):
        mine, theirs = (
            np.array([*b.levels[name], None], object)[getattr(b, name)] for b in (found, expected)
        )
        assert mine.tolist() == theirs.tolist()


def one(settings: Settings | None = None, **order):
    line = {"order_ts": "2024-01-31T10:00:00", "amount": 10.0} | order
    return read([{"customer_id": "a", "orders": [line]}], settings or Settings())


@pytest.mark.parametrize(
    ("order", "rule"),
    [
        ({"order_ts": None}, "missing_date"),
        ({"order_ts": "01/02/2024"}, "ambiguous_dates"),
        ({"order_ts": "soon"}, "unreadable_date"),
        ({"order_ts": "1969-12-31T23:59:59"}, "impossible_date"),
        ({"order_ts": "2100-01-01"}, "impossible_date"),
        ({"amount": None}, "missing_amount"),
        ({"amount": float("nan")}, "amount_too_large"),
        ({"amount": float("inf")}, "amount_too_large"),
        ({"amount": 1e17}, "amount_too_large"),
        ({"amount": 9e13}, "amount_too_large"),
        ({"currency": "EUR"}, "missing_rate"),
        ({"amount": "10"}, "type"),
        ({"order_id": 7}, "type"),
        ({"Quantity": 7}, "unknown_field"),
    ],
)
def test_what_the_rules_of_files_refuse_is_refused_by_its_field(order, rule):
    with pytest.raises(RecordError, match=r"customers\[0\]\.orders") as told:
        one(**order)
    assert told.value.rule == rule
    known = {each.name for each in rules.RULES} | {"type", "unknown_field"}
    assert rule in known


def test_the_last_and_the_first_moment_are_taken():
    for text in ("1970-01-01", "2099-12-31T23:59:59.999999"):
        assert len(one(order_ts=text).bucket.ts) == 1


def test_optional_numbers_beyond_the_store_are_left_out_and_noted():
    found = one(quantity=1e16, discount=-2.345, margin_rate=0.25)
    assert [note.rule for note in found.notes] == ["unreadable_optional", "negative_discount"]
    quantity, discount, cost = (windows.COLUMNS.index(n) for n in
                                ("quantity", "discount", "cost"))  # fmt: skip
    row = found.bucket.columns[0]
    assert (row[quantity], row[discount], row[cost]) == (0, 235, 750)


def test_copies_are_dropped_where_the_settings_say_so():
    line = {"order_ts": "2024-01-31", "amount": 10.0}
    customer = [{"customer_id": "a", "orders": [line, line, line | {"amount": 11}]}]
    assert len(read(customer, Settings()).bucket.ts) == 3
    assert len(read(customer, parse({"orders": {"duplicates": "drop"}})).bucket.ts) == 2


def test_times_with_and_without_a_zone_are_not_mixed():
    lines = [
        {"order_ts": "2024-01-31", "amount": 1},
        {"order_ts": "2024-01-31T00:00Z", "amount": 1},
    ]
    customers = [{"customer_id": str(k), "orders": [line]} for k, line in enumerate(lines)]
    with pytest.raises(RecordError) as told:
        read(customers, Settings())
    assert told.value.rule == "mixed_times"
    assert told.value.where == ("customers", 1, "orders", 0, "order_ts")


def test_a_name_in_another_currency_is_the_own_one_in_any_case():
    assert len(one(currency=" usd ").bucket.ts) == 1
