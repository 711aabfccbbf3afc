"""Whatever the data come in, the same orders come out."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from features import formats, layouts
from features.errors import InputError
from features.settings import Settings, parse
from features.tables import Ingested, ingest

ORDERS = pd.DataFrame(
    {
        "customer_id": ["007", "b", "b", "é"],
        "order_ts": ["2024-01-05 10:00:00", "2024-01-06 11:30:00", "2024-02-01 00:00:00",
                     "2024-02-02 23:59:59.25"],
        "amount": ["19.99", "5", "-5", "100.10"],
        "order_id": ["1", "2", "2", None],
        "quantity": ["1", "2.5", None, "3"],
    }
)  # fmt: skip


def store(found: Ingested) -> pd.DataFrame:
    files = sorted((found.folder / "orders").glob("*.parquet"))
    return pd.concat([pq.read_table(f).to_pandas() for f in files], ignore_index=True)


@pytest.fixture
def plain(tmp_path: Path) -> Ingested:
    ORDERS.to_csv(tmp_path / "plain.csv", index=False)
    return ingest(tmp_path / "plain.csv", Settings(), tmp_path / "plain-work")


def typed() -> pd.DataFrame:
    return ORDERS.assign(
        order_ts=pd.to_datetime(ORDERS["order_ts"], format="ISO8601"),
        amount=ORDERS["amount"].astype(float),
        quantity=pd.to_numeric(ORDERS["quantity"]),
    )


def write(kind: str, folder: Path) -> Any:
    """The orders in one of the forms that are read."""
    text = ORDERS.to_csv(index=False)
    if kind == "csv.gz":
        (folder / "orders.csv.gz").write_bytes(gzip.compress(text.encode()))
    elif kind == "gzip of two members":
        half = len(text) // 2
        parts = gzip.compress(text[:half].encode()) + gzip.compress(text[half:].encode())
        (folder / "orders.csv.gz").write_bytes(parts)
    elif kind == "parquet":
        typed().to_parquet(folder / "orders.parquet")
    elif kind == "folder of parts":
        (folder / "orders").mkdir()
        ORDERS[:1].to_csv(folder / "orders" / "a.csv", index=False)
        ORDERS[1:3].astype({"amount": float}).to_parquet(folder / "orders" / "b.parquet")
        ORDERS[3:].to_csv(folder / "orders" / "c.csv", index=False)
        (folder / "orders" / "_SUCCESS").touch()
    elif kind == "bare parts":
        ORDERS[:2].to_csv(folder / "part-1.csv", index=False)
        ORDERS[2:].to_csv(folder / "part-2.csv", index=False)
    elif kind == "frame":
        return typed()
    elif kind == "aware frame":
        frame = typed()
        return {"orders": frame.assign(order_ts=frame["order_ts"].dt.tz_localize("UTC"))}
    return folder


@pytest.mark.parametrize(
    "kind",
    ["csv.gz", "gzip of two members", "parquet", "folder of parts", "bare parts", "frame",
     "aware frame"],
)  # fmt: skip
def test_every_form_gives_the_same_store(kind: str, tmp_path: Path, plain: Ingested) -> None:
    place = tmp_path / "data"
    place.mkdir()
    found = ingest(write(kind, place), Settings(), tmp_path / "work")
    pd.testing.assert_frame_equal(store(found), store(plain))
    assert found.fingerprint == plain.fingerprint
    assert found.columns_present == ("order_id", "quantity")


def test_the_plain_store_is_what_the_file_says(plain: Ingested) -> None:
    lines = store(plain)
    assert lines["customer_id"].tolist() == ["007", "b", "b", "é"]
    assert lines["amount"].tolist() == [1999, 500, -500, 10010]
    assert lines["quantity"].fillna(-1).tolist() == [1000, 2500, -1, 3000]
    moments = [pd.Timestamp(t).value // 1000 for t in ORDERS["order_ts"]]
    assert lines["ts"].tolist() == moments
    assert lines["hour"].tolist() == [10, 11, 0, 23]


def test_other_tables_and_truth_are_left_alone(tmp_path: Path, plain: Ingested) -> None:
    ORDERS.to_csv(tmp_path / "orders.csv", index=False)
    for name in ("spend.csv", "contacts.parquet", "truth.parquet", "truth_x.csv"):
        (tmp_path / name).write_text("not,for\nthis,reader\n")
    (tmp_path / "plain.csv").unlink()
    assert ingest(tmp_path, Settings(), tmp_path / "w").fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["orders.csv", "orders.parquet"], "one file or one folder"),
        (["customers.csv"], r"must hold orders\.csv"),
        (["notes.txt"], r"must hold orders\.csv"),
    ],
)
def test_a_folder_must_say_which_file_holds_orders(
    tmp_path: Path, files: list[str], said: str
) -> None:
    for name in files:
        (tmp_path / name).write_text("x\n")
    with pytest.raises(InputError, match=said):
        formats.tables(tmp_path, Settings())


def test_settings_may_name_the_file_and_the_columns(tmp_path: Path, plain: Ingested) -> None:
    renamed = ORDERS.rename(columns={"customer_id": "Kunde", "amount": "Betrag"})
    renamed.to_csv(tmp_path / "export.csv", index=False, sep=";")
    settings = parse(
        {
            "tables": {"orders": "export.csv"},
            "columns": {"orders": {"customer_id": "Kunde", "amount": "betrag"}},
        }
    )
    found = ingest(tmp_path, settings, tmp_path / "w")
    assert found.fingerprint == plain.fingerprint


@pytest.mark.parametrize("name", ["orders.xlsx", "orders.json", "orders"])
def test_unknown_endings_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match="must end in"):
        formats.tables(tmp_path / name, Settings())


def test_missing_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must exist"):
        formats.tables(tmp_path / "nowhere", Settings())


def test_frames_must_have_known_names() -> None:
    with pytest.raises(InputError, match="hold 'orders'"):
        formats.tables({"order": ORDERS}, Settings())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None), (pd.NA, None), (pd.NaT, None), ("NA", "NA"), (7, "7"), (7.0, "7"),
        (0.1, "0.1"), (float("nan"), "nan"), (float("inf"), "inf"), (1e300, "1e+300"),
        (Decimal("1E+2"), "100"), (Decimal("NaN"), "NaN"), (True, "true"), (b"ab\xff", "ab\\xff"),
        (datetime(2024, 1, 2, 3, 4, 5, 6), "2024-01-02 03:04:05.000006"),
        (datetime(2024, 1, 2, tzinfo=UTC), "2024-01-02 00:00:00+00:00"),
        (datetime(2024, 1, 2).date(), "2024-01-02"),
    ],
)  # fmt: skip
def test_values_become_the_text_a_file_would_hold(value: Any, text: str | None) -> None:
    assert formats.text_of(value) == text


def test_a_lone_surrogate_in_a_frame_is_refused(tmp_path: Path) -> None:
    ids = pd.Series(["\ud800", "a", "b", "c"], dtype=object)
    frame = ORDERS.astype(object).assign(customer_id=ids)
    with pytest.raises(InputError, match="lone surrogate"):
        ingest(frame, Settings(), tmp_path / "w")


# Databases


def load(url: str, extra: str = "") -> None:
    """Fill a database with the orders, an alias and rates, in its own types."""
    engine = sa.create_engine(url)
    with engine.begin() as link:
        for table in ("orders", "aliases", "customers"):
            link.execute(sa.text(f"DROP TABLE IF EXISTS {table}"))
        link.execute(
            sa.text(
                "CREATE TABLE orders (customer_id TEXT, order_ts TIMESTAMP, amount NUMERIC(14,2), "
                'order_id TEXT, quantity DOUBLE PRECISION, "odd ""name" TEXT)'
            )
        )
        rows = typed().assign(amount=ORDERS["amount"]).astype(object)
        rows = rows.where(rows.notna(), None)
        rows["order_ts"] = [str(ts) for ts in rows["order_ts"]]
        insert = "INSERT INTO orders VALUES (:customer_id, :order_ts, :amount, :order_id, :quantity, 'x')"  # noqa: E501
        link.execute(sa.text(insert), rows.to_dict("records"))
        link.execute(sa.text("CREATE TABLE customers (customer_id TEXT, country TEXT, age INT)"))
        link.execute(sa.text("INSERT INTO customers VALUES ('007', 'DE', 40), ('b', NULL, 41)"))
    engine.dispose()


def check(url: str, work: Path, plain: Ingested) -> None:
    found = ingest(url, Settings(), work)
    pd.testing.assert_frame_equal(store(found), store(plain))
    people = pq.read_table(work / "customers").to_pydict()
    assert people == {"customer_id": ["007", "b"], "age": ["40", "41"], "country": ["DE", None]}


def test_sqlite_gives_the_same_store(tmp_path: Path, plain: Ingested) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    load(url)
    check(url, tmp_path / "work", plain)


def test_a_database_without_orders_or_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Got no file"):
        formats.tables(f"sqlite:///{tmp_path / 'none.db'}", Settings())
    assert not (tmp_path / "none.db").exists()
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    engine = sa.create_engine(url)
    with engine.begin() as link:
        link.execute(sa.text("CREATE TABLE sales (a TEXT)"))
    engine.dispose()
    with pytest.raises(InputError, match=r"table 'orders'.*Got tables: sales"):
        formats.tables(url, Settings())


def test_large_tables_are_streamed(tmp_path: Path) -> None:
    """More rows than one chunk; the count and the sum are those of the database."""
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    engine = sa.create_engine(url)
    rows = 2 * formats.CHUNK + 17
    with engine.begin() as link:
        link.execute(sa.text("CREATE TABLE orders (customer_id INT, order_ts TEXT, amount INT)"))
        link.execute(
            sa.text(
                f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) "
                "INSERT INTO orders SELECT i % 1000, '2024-01-01', i FROM n"
            )
        )
        total = link.execute(sa.text("SELECT sum(amount) FROM orders")).scalar_one()
    engine.dispose()
    found = ingest(url, Settings(), tmp_path / "work")
    assert found.rows_kept == rows
    assert store(found)["amount"].sum() == 100 * total


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A real server: the one CLV_TEST_POSTGRES names, else a cluster of our own for this run."""
    given = os.environ.get("CLV_TEST_POSTGRES")
    if given:
        yield given
        return
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    assert binaries, "PostgreSQL must be installed (Debian: postgresql), or CLV_TEST_POSTGRES set"
    tools = binaries[-1].parent
    user = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
    # Not in pytest's own folder: another run may clear that while the server lives.
    with tempfile.TemporaryDirectory(prefix="clv-postgres-", ignore_cleanup_errors=True) as name:
        place = Path(name)
        (place / "password").write_text(SECRET)
        if user:
            place.chmod(0o755)
            shutil.chown(place, user)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        make = [tools / "initdb", "-D", place / "data", "-U", "clv", "-A", "scram-sha-256",
                "--pwfile", place / "password", "-E", "UTF8", "--no-sync"]  # fmt: skip
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd=place, user=user)
        serve = [tools / "postgres", "-D", place / "data", "-p", str(port), "-c",
                 "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
                 "-c", "fsync=off"]  # fmt: skip
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(serve, cwd=place, user=user, **quiet) as server:
            try:
                _await(port, server)
                yield f"postgresql+psycopg://clv:{SECRET}@127.0.0.1:{port}/postgres"
            finally:
                server.send_signal(signal.SIGQUIT)


SECRET = "s3cret-word"  # noqa: S105  of a server that lives for one test run


def _await(port: int, server: subprocess.Popen[bytes]) -> None:
    engine = sa.create_engine(f"postgresql+psycopg://clv:{SECRET}@127.0.0.1:{port}/postgres")
    for _ in range(300):
        try:
            engine.connect().close()
        except sa.exc.OperationalError:
            assert server.poll() is None, "the server ended"
            time.sleep(0.1)
        else:
            break
    engine.dispose()


def test_postgresql_gives_the_same_store(postgres: str, tmp_path: Path, plain: Ingested) -> None:
    load(postgres)
    check(postgres, tmp_path / "work", plain)
    bare = postgres.replace("+psycopg", "")
    assert ingest(bare, Settings(), tmp_path / "again").rows_kept == len(ORDERS)


def test_postgresql_is_read_with_a_cursor_on_the_server(postgres: str, tmp_path: Path) -> None:
    """The first chunk is there long before the server has made the last row."""
    engine = sa.create_engine(postgres)
    with engine.begin() as link:
        link.execute(sa.text("CREATE SCHEMA IF NOT EXISTS shop"))
        link.execute(sa.text("DROP VIEW IF EXISTS shop.endless"))
        link.execute(
            sa.text(
                "CREATE VIEW shop.endless AS SELECT i::text AS customer_id, "
                "timestamptz '2024-01-01 00:30+02' AS order_ts, i AS amount "
                "FROM (SELECT generate_series(1, 2000000000) AS i) AS t"
            )
        )
    engine.dispose()
    settings = parse({"tables": {"orders": "shop.endless"}})
    engine = sa.create_engine(postgres)
    assert sa.inspect(engine).has_table("endless", schema="shop")
    engine.dispose()
    sheet = next(formats.tables(postgres, settings)["orders"].sheets())
    first = next(sheet.batches)
    sheet.batches.close()  # type: ignore[attr-defined]
    assert first.num_rows == formats.CHUNK
    assert first.column("c1")[0].as_py() == "2023-12-31 22:30:00+00:00"


def test_a_password_is_in_no_message(postgres: str, tmp_path: Path) -> None:
    wrong = postgres.replace("s3cret-word", "wr0ng-word")
    closed = "postgresql://clv:wr0ng-word@127.0.0.1:1/postgres"
    odd = "postgresql+nodriver://clv:wr0ng-word@127.0.0.1:1/postgres"
    for url in (wrong, closed, odd):
        with pytest.raises(InputError, match="must be reachable") as refusal:
            ingest(url, Settings(), tmp_path / "work")
        assert "wr0ng" not in str(refusal.value)
        assert "wr0ng" not in repr(refusal.value.__cause__)


# Shop exports


def test_shopify_orders(tmp_path: Path) -> None:
    """Order-level columns stand on the first line only; the sum is the order's total."""
    (tmp_path / "orders.csv").write_text(
        "Name,Email,Financial Status,Created at,Currency,Total,Discount Amount,Refunded Amount,"
        "Lineitem quantity,Lineitem name,Lineitem price,Lineitem sku\n"
        "#1001,a@x.example,paid,2024-01-05 10:00:00 -0500,USD,35.50,4.50,0.00,1,Mug,10.00,M1\n"
        "#1001,a@x.example,,2024-01-05 10:00:00 -0500,,,,,3,Cup,10.00,\n"
        "#1002,b@x.example,partially_refunded,2024-01-06 09:00:00 -0500,USD,20.00,0.00,5.25,2,Mug,"
        "10.00,M1\n"
        "#1003,b@x.example,voided,2024-01-07 09:00:00 -0500,USD,99.00,0.00,0.00,1,Mug,99.00,M1\n"
    )
    found = ingest(tmp_path, parse({"business": {"time_zone": "America/New_York"}}), tmp_path / "w")
    lines = store(found)
    assert found.recognised == "Shopify orders export"
    totals = lines.groupby(["customer_id", "order_id"])["amount"].sum().to_dict()
    assert totals == {("a@x.example", "#1001"): 3550, ("b@x.example", "#1002"): 1475}
    assert sorted(lines["product_id"].dropna()) == ["Cup", "M1", "M1", "M1"]
    assert {r.name: r.rows for r in found.rules} == {
        "not_paid": 1, "refund_line": 1, "negative_amount": 1, "zero_amount": 1,
    }  # fmt: skip
    assert (found.rows_in, found.rows_kept, found.rows_refused) == (5, 4, 1)
    assert set(lines["hour"]) == {10, 9}


def test_stripe_payments(tmp_path: Path) -> None:
    """Times are UTC whatever the business zone; refunds on their own date; failures left out."""
    (tmp_path / "orders.csv").write_text(
        "id,Created (UTC),Amount,Amount Refunded,Refunded date (UTC),Currency,Status,Customer ID,"
        "Customer Email\n"
        "ch_1,2024-01-05 23:30,10.00,0.00,,usd,Paid,cus_1,a@x.example\n"
        "ch_2,2024-01-06 10:00,20.00,20.00,2024-02-01 08:00,usd,Refunded,,b@x.example\n"
        "ch_3,2024-01-07 10:00,30.00,0.00,,usd,Failed,cus_1,a@x.example\n"
    )
    found = ingest(tmp_path, parse({"business": {"time_zone": "Europe/Berlin"}}), tmp_path / "w")
    lines = store(found)
    assert found.recognised == "Stripe payments export"
    assert lines["customer_id"].tolist() == ["b@x.example", "b@x.example", "cus_1"]
    assert lines["amount"].tolist() == [2000, -2000, 1000]
    assert lines["hour"].tolist() == [11, 9, 0]
    first = pd.Timestamp("2024-01-06") - pd.Timestamp(0)
    assert lines["day"].tolist()[2] == first.days
    assert {r.name: r.rows for r in found.rules}["not_paid"] == 1


def test_woocommerce_orders(tmp_path: Path) -> None:
    """The total is repeated on every line of an order and counts once; guests go by e-mail."""
    (tmp_path / "orders.csv").write_text(
        "Order Number,Order Status,Order Date,Order Total Amount,Order Refund Amount,"
        "Customer User ID,Email (Billing),Order Currency,SKU,Quantity\n"
        "11,wc-completed,2024-01-05 10:00,30.00,0,7,a@x.example,EUR,S1,1\n"
        "11,wc-completed,2024-01-05 10:00,30.00,0,7,a@x.example,EUR,S2,2\n"
        "12,wc-failed,2024-01-06 10:00,9.00,0,7,a@x.example,EUR,S1,1\n"
        "13,Completed,2024-01-07 10:00,12.00,2.00,0,g@x.example,EUR,S1,1\n"
    )
    found = ingest(tmp_path, parse({"business": {"currency": "EUR"}}), tmp_path / "w")
    lines = store(found)
    assert found.recognised == "WooCommerce orders export"
    assert lines.groupby("customer_id")["amount"].sum().to_dict() == {
        "7": 3000,
        "g@x.example": 1000,
    }
    assert {r.name: r.rows for r in found.rules}["not_paid"] == 1
    assert lines["product_id"].nunique() == 2


def online_retail() -> pd.DataFrame:
    """A look-alike of the two-sheet export with every trap that it is known for."""
    one, two = "Year 2009-2010", "Year 2010-2011"
    rows = [
        ("489434", "85048", 12, "2009-12-01 07:45:00", 6.95, 13085.0, one),
        ("489434", "POST", 1, "2009-12-01 07:45:00", 18.0, 13085.0, one),
        ("489435", "22350", 3, "2009-12-02 07:46:00", 0.1, None, one),
        ("C489449", "22087", -2, "2009-12-03 10:33:00", 2.95, 13085.0, one),
        ("A506401", "B", 1, "2010-04-29 13:36:00", -53594.36, 12346.0, one),
        ("489436", "TEST001", 5, "2010-01-04 09:24:00", 4.5, 12346.0, one),
        ("489437", "22112", 1, "2010-02-01 10:00:00", 0.0, 13085.0, one),
        ("489438", "22112", 1, "2010-02-02 10:00:00", 3.3, 13085.0, one),
        ("489438", "22112", 1, "2010-02-02 10:00:00", 3.3, 13085.0, one),
        *(
            ("536370", code, 24, "2010-12-01 08:45:00", price, 12583.0, sheet)
            for sheet in (one, two)
            for code, price in (("22728", 3.75), ("22727", 3.75), ("POST", 18.0))
        ),
        ("541431", "23166", 74215, "2011-01-18 10:01:00", 1.04, 12346.0, two),
        ("C541433", "23166", -74215, "2011-01-18 10:17:00", 1.04, 12346.0, two),
    ]
    columns = ["InvoiceNo", "StockCode", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID",
               "sheet"]  # fmt: skip
    frame = pd.DataFrame(rows, columns=columns).astype({"Quantity": float})
    return frame.assign(
        InvoiceDate=pd.to_datetime(frame["InvoiceDate"]), Description="x", Country="UK"
    )


@pytest.mark.parametrize("kind", ["frame", "parquet", "csv"])
def test_online_retail(tmp_path: Path, kind: str) -> None:
    data: Any = online_retail()
    if kind == "parquet":
        data.to_parquet(tmp_path / "orders.parquet")
    if kind == "csv":
        data = data.assign(CustomerID=data["CustomerID"].astype("Int64"))
        data = data.rename(columns={"InvoiceNo": "Invoice", "UnitPrice": "Price",
                                    "CustomerID": "Customer ID"})  # fmt: skip
        data.to_csv(tmp_path / "orders.csv", index=False)
    found = ingest(data if kind == "frame" else tmp_path, parse({"business": {"currency": "GBP"}}),
                   tmp_path / "w")  # fmt: skip
    assert found.recognised == "UCI Online Retail layout"
    assert {r.name: (r.rows, r.action) for r in found.rules} == {
        "missing_customer": (1, "refused"),
        "adjustment": (2, "refused"),
        "overlapping_extract": (3, "dropped"),
        "duplicate_line": (1, "kept"),
        "reversed_order": (1, "kept"),
        "negative_amount": (2, "kept"),
        "zero_amount": (1, "kept"),
        "cancellation": (2, "kept"),
        "non_product_code": (2, "kept"),
    }
    assert (found.rows_in, found.rows_kept, found.rows_refused) == (17, 11, 6)
    lines = store(found)
    assert lines.groupby("customer_id")["amount"].sum().to_dict() == {
        "12346": 0, "12583": 2 * 9000 + 24 * 1800, "13085": 8340 + 1800 - 590 + 660,
    }  # fmt: skip
    assert lines["product_id"].isna().sum() == 2


def test_every_layout_names_itself() -> None:
    assert len({layout.name for layout in layouts.LAYOUTS}) == 4
    for layout in layouts.LAYOUTS:
        match = dict.fromkeys({**layout.needs, **layout.may}, "NULL")
        assert layout.build(match).recognised == layout.name
