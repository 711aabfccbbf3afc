"""Everything that is thrown at the reader of orders, case by case (R-A1 to R-A24)."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from features import delimited, foreign, formats
from features.errors import InputError
from features.settings import Settings, parse
from features.tables import Ingested, ingest, quarantine

HEAD = "customer_id,order_ts,amount\n"
Read = Callable[..., Ingested]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Ingest text, bytes, a path or frames; settings as keywords of their sections."""
    number = iter(range(1_000_000))

    def run(data: Any, name: str = "orders.csv", **sections: Any) -> Ingested:
        place = tmp_path / f"in-{next(number)}"
        if isinstance(data, str | bytes):
            place.mkdir()
            content = data.encode() if isinstance(data, str) else data
            (place / name).write_bytes(content)
            data = place / name
        return ingest(data, parse(sections), place.with_name(place.name + "-work"))

    return run


def lines_of(found: Ingested) -> pd.DataFrame:
    files = sorted((found.folder / "orders").glob("*.parquet"))
    return pd.concat([pq.read_table(f).to_pandas() for f in files], ignore_index=True)


def ids_of(found: Ingested) -> list[str]:
    return sorted(set(lines_of(found)["customer_id"]))


def counts(found: Ingested) -> dict[str, int]:
    return {rule.name: rule.rows for rule in found.rules}


def place_of(found: Ingested, rule: str) -> list[int]:
    return [e[1] for r in found.rules if r.name == rule for e in r.examples]


def content(found: Ingested) -> list[bytes]:
    files = sorted((found.folder / "orders").glob("*.parquet"))
    return [hashlib.sha256(f.read_bytes()).digest() for f in files]


def good_lines(rows: int) -> list[str]:
    return [f"c{i % 97},2024-01-{1 + i % 28:02d},{i % 50 + 1}.25" for i in range(rows)]


@pytest.mark.parametrize("text", ["", "\n\n", HEAD, "\ufeff" + HEAD])
def test_empty_file_and_header_only_are_refused(read: Read, text: str) -> None:
    """R-A1."""
    with pytest.raises(InputError, match="must hold"):
        read(text)


def test_nothing_stays_behind_after_a_refusal(tmp_path: Path) -> None:
    """R-A1: nothing half-written."""
    file = tmp_path / "orders.csv"
    file.write_text(HEAD)
    with pytest.raises(InputError):
        ingest(file, Settings(), tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("customer_id,order_ts\n", "missing: amount"),
        ("customer_id,amount\n", "missing: order_ts"),
        ("id,order_ts,amount\n", "missing: customer_id"),
        ("customer_id,order_ts,amount,Amount \n", "'amount' once"),
        ("customer_id,customer_id,order_ts,amount\n", "'customer_id' once"),
    ],
)
def test_missing_and_duplicated_columns_are_named(read: Read, head: str, said: str) -> None:
    """R-A2: the message names the column, what came, and the cure."""
    with pytest.raises(InputError, match=said):
        read(head + "a,2024-01-01,1,1\n")


def test_a_mapping_to_a_column_that_is_not_there_is_refused(read: Read) -> None:
    """R-A2."""
    with pytest.raises(InputError, match=r"'Betrag'.*clv\.toml names for amount"):
        read(HEAD + "a,2024-01-01,1\n", columns={"orders": {"amount": "Betrag"}})


WORDS = HEAD + "Müller,2024-01-01,1.50\nÅsa,2024-01-02,2\nrené,2024-01-03,3\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf8_is_read_with_and_without_a_mark(read: Read, encoding: str) -> None:
    """R-A3."""
    assert ids_of(read(WORDS.encode(encoding))) == ["Müller", "rené", "Åsa"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_other_encodings_are_refused_with_the_cure(read: Read, encoding: str) -> None:
    """R-A3: never ids in broken letters."""
    with pytest.raises(InputError, match=r"\[orders\] encoding"):
        read(WORDS.encode(encoding))


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings_are_read_when_set(read: Read, encoding: str) -> None:
    """R-A3: the same lines in four encodings are the same data."""
    plain = read(WORDS)
    other = read(WORDS.encode(encoding), orders={"encoding": encoding})
    assert content(other) == content(plain)
    assert other.fingerprint == plain.fingerprint


def test_a_wrong_setting_of_latin1_is_refused(read: Read) -> None:
    """R-A3: UTF-8 read as Latin-1 would give other ids."""
    with pytest.raises(InputError, match="Got UTF-8"):
        read(WORDS, orders={"encoding": "latin-1"})


@pytest.mark.parametrize("bad", [b"c\x00x,2024-01-01,5", b"M\xfcller,2024-01-01,5", b"a,b"])
def test_one_bad_line_in_ten_thousand_is_refused_alone(read: Read, bad: bytes) -> None:
    """R-A4: NUL bytes, another encoding, a missing field; with the line's number."""
    lines = [line.encode() for line in good_lines(10_000)]
    lines[6_999] = bad
    found = read(HEAD.encode() + b"\n".join(lines) + b"\n")
    assert (found.rows_in, found.rows_kept) == (10_000, 9_999)
    assert counts(found)["unreadable_line"] == 1
    assert place_of(found, "unreadable_line") == [7_001]


def test_line_numbers_count_breaks_within_quotes_and_blank_lines(read: Read) -> None:
    """R-A4: the number is the one an editor shows."""
    text = HEAD + '\n"a\nb\r\nc",2024-01-01,1\n\nx,2024-01-01,oops\nshort\n'
    found = read(text + "y,nodate,1\nz,2024-01-01,2")
    assert text.split("\n").index("x,2024-01-01,oops") + 1 == 7
    assert place_of(found, "unreadable_amount") == [7]
    assert place_of(found, "unreadable_line") == [8]
    assert place_of(found, "unreadable_date") == [9]
    assert ids_of(found) == ["a\nb\r\nc", "z"]


field_text = st.text(st.sampled_from("ab 7é\"',;|\t\n"), max_size=6)


@hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(field_text, field_text), min_size=1, max_size=6))
def test_dialects_give_the_same_records(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    """R-A5: 40 tables in 3 line endings x 4 delimiters against the csv module's own reading."""
    rows = [(a or "x", b) for a, b in rows]
    for end in ("\n", "\r\n", "\r"):
        for mark in delimited.DELIMITERS:
            path = tmp_path / "x.csv"
            with path.open("w", encoding="utf-8", newline="") as out:
                # The csv module does not quote a line break other than its own.
                broken = any("\n" in value for row in rows for value in row)
                style = csv.QUOTE_ALL if broken else csv.QUOTE_MINIMAL
                writer = csv.writer(out, delimiter=mark, lineterminator=end, quoting=style)
                writer.writerows([("one", "two", "n"), *((a, b, "1") for a, b in rows)])
            with path.open(encoding="utf-8", newline="") as back:
                expected = list(csv.reader(back, delimiter=mark))[1:]
            parsed = [
                [record["c0"], record["c1"], record["c2"]]
                for batch in delimited.Csv(path, "x.csv", "utf-8").batches()
                for record in batch.to_pylist()
            ]
            assert parsed == expected == [[a, b, "1"] for a, b in rows]


def test_dialects_give_the_same_store(read: Read) -> None:
    """R-A5: the same bytes on disk."""
    text = HEAD + '"a,b",2024-01-01,1\nc,2024-01-02,"2.5"\n"d\ne",2024-01-03,3\n'
    rows = list(csv.reader(text.splitlines(keepends=True)))
    made = set()
    for end in ("\n", "\r\n", "\r"):
        for mark in delimited.DELIMITERS:
            quoted = [mark.join(f'"{value}"' for value in row) for row in rows]
            made.add(tuple(content(read(end.join(quoted) + end))))
    assert len(made) == 1


MEMORY = """
import resource, sys
from pathlib import Path
from features.settings import Settings
from features.tables import ingest
found = ingest(Path(sys.argv[1]), Settings(), Path(sys.argv[2]))
print(found.rows_kept, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_a_longer_file_takes_no_more_memory(tmp_path: Path) -> None:
    """R-A6: four times the lines, at most 1.2 times the peak (the block and the bucket bound it).

    The shorter file is already longer than what is held in memory to choose the buckets.
    """
    peaks = []
    for rows in (220_000, 880_000):
        path = tmp_path / f"orders-{rows}.csv"
        with duckdb.connect() as con:
            con.execute(
                f"COPY (SELECT 'c' || (i * 7919 % {rows // 10}) AS customer_id, "
                "TIMESTAMP '2021-01-01' + to_minutes(i % 1000000) AS order_ts, "
                f"(i % 9973) / 100 AS amount FROM range({rows}) t(i)) TO '{path}' (HEADER)"
            )
        command = [sys.executable, "-c", MEMORY, str(path), str(tmp_path / f"work-{rows}")]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        assert int(out[0]) == rows
        peaks.append(int(out[1]))
    assert peaks[1] <= 1.2 * peaks[0], peaks


@pytest.mark.parametrize("line", [b"\0", b"a,2024-01-01,1\n"])
def test_a_gzip_bomb_is_refused(tmp_path: Path, line: bytes) -> None:
    """R-A7: long before it is unpacked, with little memory, whether it holds lines or not."""
    block = line * ((1 << 20) // len(line))
    bomb = tmp_path / "orders.csv.gz"
    with gzip.open(bomb, "wb", compresslevel=9) as out:
        out.write(HEAD.encode())
        for _ in range(300):
            out.write(block)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"must not unpack") as refusal:
        delimited.Csv(bomb, "orders.csv.gz", "utf-8")
    unpacked = int(str(refusal.value).split("Got ")[1].split(" ")[0])
    assert unpacked < 64 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_damaged_gzip_is_refused(read: Read) -> None:
    """R-A7."""
    whole = gzip.compress((HEAD + "\n".join(good_lines(100))).encode())
    for data in (whole[:-20], b"not gzip at all, but long enough to try"):
        with pytest.raises(InputError, match="gzip"):
            read(data, "orders.csv.gz")


def test_a_file_given_twice_counts_once(read: Read, tmp_path: Path) -> None:
    """R-A8: the store is the same, the number of dropped lines exact; by order and by day."""
    for head, tail in ((HEAD, ""), ("customer_id,order_ts,amount,order_id\n", ",o{}")):
        lines = [line + tail.format(i // 2) for i, line in enumerate(good_lines(500))]
        text = head + "\n".join([*lines, lines[3]]) + "\n"
        once = read(text)
        folder = tmp_path / f"twice{len(tail)}" / "orders"
        folder.mkdir(parents=True)
        for name in ("a.csv", "b.csv"):
            (folder / name).write_text(text)
        twice = read(folder.parent)
        assert content(twice) == content(once)
        assert twice.fingerprint == once.fingerprint
        assert counts(twice)["overlapping_extract"] == 501
        assert counts(twice)["duplicate_line"] == counts(once)["duplicate_line"] == 1
        assert (twice.rows_in, twice.rows_kept, twice.rows_refused) == (1002, 501, 501)


IDS = [
    "007",
    "7",
    "NA",
    "null",
    "nan",
    "None",
    "1e5",
    "100000",
    "9007199254740993",
    " a",
    "a ",
    "a",
]


def test_ids_stay_text(read: Read, tmp_path: Path) -> None:
    """R-A9: byte for byte, from CSV, Parquet and frames."""
    text = HEAD + "".join(f"{i},2024-01-01,1\n" for i in IDS)
    frame = pd.DataFrame({"customer_id": IDS, "order_ts": "2024-01-01", "amount": 1})
    frame.to_parquet(tmp_path / "orders.parquet")
    for data in (text, frame, tmp_path / "orders.parquet"):
        assert ids_of(read(data)) == sorted(IDS)


def test_number_ids_of_typed_sources_are_exact(read: Read, tmp_path: Path) -> None:
    """R-A9: 2^53 + 1 as an integer stays; as a float it is refused, since neighbours merge."""
    big = 2**53 + 1
    frame = pd.DataFrame({"customer_id": [big, 7], "order_ts": "2024-01-01", "amount": 1})
    frame.to_parquet(tmp_path / "orders.parquet")
    for data in (frame, tmp_path / "orders.parquet"):
        assert ids_of(read(data)) == ["7", str(big)]
    floats = frame.astype({"customer_id": float})
    floats.loc[2] = [float("nan"), "2024-01-01", 1]
    floats.to_parquet(tmp_path / "floats.parquet")
    for data in (floats, tmp_path / "floats.parquet"):
        found = read(data)
        assert ids_of(found) == ["7"]
        assert counts(found) == {"missing_customer": 1, "imprecise_customer": 1}


@hypothesis_settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sets(
        st.text(
            st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
            min_size=1,
            max_size=8,
        ),
        min_size=1,
        max_size=20,
    )
)
def test_any_text_id_comes_through(tmp_path_factory: pytest.TempPathFactory, ids: set[str]) -> None:
    """R-A10: as many different ids out as in, byte for byte."""
    place = tmp_path_factory.mktemp("ids")
    with (place / "orders.csv").open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(["customer_id", "order_ts", "amount"])
        writer.writerows([i, "2024-01-01", "1"] for i in sorted(ids))
    found = ingest(place / "orders.csv", Settings(), place / "work")
    assert ids_of(found) == sorted(ids)
    assert found.customers == len(ids)


def test_look_alike_ids_stay_apart(read: Read) -> None:
    """R-A10: no normalisation at all: composed, decomposed, right to left, emoji, homoglyphs."""
    ids = [unicodedata.normalize(form, "Zoé") for form in ("NFC", "NFD")]
    ids += ["דנה", "\u202eabc", "👩‍👧", "раураl", "paypal", "\ufb01", "fi"]  # noqa: RUF001
    found = read(HEAD + "".join(f"{i},2024-01-01,1\n" for i in ids))
    assert ids_of(found) == sorted(ids)


def test_refunds_and_zeros_are_kept_to_the_cent(read: Read) -> None:
    """R-A11: golden totals."""
    found = read(
        HEAD + "a,2024-01-01,10.10\na,2024-01-05,-3.33\na,2024-01-06,0\nb,2024-01-01,0.03\n"
    )
    totals = lines_of(found).groupby("customer_id")["amount"].sum()
    assert totals.to_dict() == {"a": 677, "b": 3}
    assert counts(found) == {"negative_amount": 1, "zero_amount": 1}


NUMBERS = {
    "nan": "nonfinite_amount", "inf": "nonfinite_amount", "-Infinity": "nonfinite_amount",
    "1e400": "nonfinite_amount", "": "missing_amount", " ": "missing_amount",
    "12,50": "unreadable_amount", "1_000": "unreadable_amount", "0x1F": "unreadable_amount",
    "1,234.50": "unreadable_amount", "$5": "unreadable_amount",
}  # fmt: skip


def test_amounts_that_are_no_numbers_are_refused(read: Read) -> None:
    """R-A12: each by its rule; no amount that is not finite goes on."""
    rows = "".join(f'a,2024-01-01,"{value}"\n' for value in NUMBERS)
    found = read(HEAD + rows + "a,2024-01-01,5\n")
    expected = pd.Series(NUMBERS).value_counts().to_dict()
    assert counts(found) == expected
    assert lines_of(found)["amount"].tolist() == [500]
    frame = pd.DataFrame(
        {"customer_id": "a", "order_ts": "2024-01-01", "amount": [5.0, float("nan"), float("inf")]}
    )
    assert counts(read(frame)) == {"nonfinite_amount": 2}


@pytest.mark.parametrize("value", ["-1", "9999", "-999"])
def test_sentinel_amounts_raise_an_alarm(read: Read, value: str) -> None:
    """R-A13: five in a hundred; the alarm blocks training."""
    rows = [f"c{i},2024-01-01,{value if i % 20 == 0 else 10 + i % 40}" for i in range(400)]
    found = read(HEAD + "\n".join(rows))
    assert [rule.name for rule in found.alarms] == ["sentinel_amount"]
    assert counts(found)["sentinel_amount"] == 20
    assert not read(HEAD + "\n".join(good_lines(400))).alarms


def test_a_usual_price_is_no_sentinel(read: Read) -> None:
    """R-A13: 9999 yen among prices like it."""
    rows = [f"c{i},2024-01-01,{9999 if i % 10 == 0 else 4000 + i}" for i in range(400)]
    assert not read(HEAD + "\n".join(rows), business={"currency": "JPY"}).alarms


MIXED = "customer_id,order_ts,amount,currency\na,2024-01-09,10,USD\nb,2024-01-09,10,eur\n"


def test_mixed_currencies_need_rates(read: Read) -> None:
    """R-A14."""
    with pytest.raises(InputError, match=r"line 3, currency.*'eur'.*rates"):
        read(MIXED)


@pytest.mark.parametrize(("day", "kept"), [("2024-01-09", 2), ("2024-01-02", 2), ("2024-01-01", 1),
                                           ("2024-01-10", 1)])  # fmt: skip
def test_rates_hold_for_a_week(read: Read, tmp_path: Path, day: str, kept: int) -> None:
    """R-A14: the latest rate on or before the day, at most 7 days old."""
    (tmp_path / "orders.csv").write_text(MIXED)
    (tmp_path / "rates.csv").write_text(f"currency,day,rate\nEUR,{day},1.0945\n")
    found = read(tmp_path)
    assert found.rows_kept == kept
    if kept == 2:
        assert lines_of(found)["amount"].tolist() == [1000, 1095]  # 10.945, half away from zero
    else:
        assert counts(found) == {"missing_rate": 1}


@pytest.mark.parametrize("kind", ["csv", "parquet", "frame"])
def test_money_is_exact(read: Read, tmp_path: Path, kind: str) -> None:
    """R-A15: 0.1 ten times, 123,456,789.99, halves away from zero: error 0 cents."""
    texts = ["0.1"] * 10 + ["123456789.99", "0.005", "-0.005", "2.675", "1e2", "999999999.99"]
    if kind == "csv":
        data: Any = HEAD + "".join(f"a,2024-01-01,{t}\n" for t in texts)
    else:
        data = pd.DataFrame({"customer_id": "a", "order_ts": "2024-01-01", "amount": texts})
        data["amount"] = data["amount"].astype(float)
    if kind == "parquet":
        data.to_parquet(tmp_path / "orders.parquet")
        data = tmp_path / "orders.parquet"
    cents = [int((Decimal(t) * 100).quantize(Decimal(1), "ROUND_HALF_UP")) for t in texts]
    assert sorted(lines_of(read(data))["amount"]) == sorted(cents)


@pytest.mark.parametrize(("code", "unit"), [("JPY", 1), ("KWD", 1000), ("EUR", 100)])
def test_minor_units_follow_the_currency(read: Read, code: str, unit: int) -> None:
    """R-A15."""
    found = read(HEAD + "a,2024-01-01,12\n", business={"currency": code})
    assert lines_of(found)["amount"].tolist() == [12 * unit]


def test_amounts_too_large_to_sum_refuse_their_customer(read: Read) -> None:
    """R-A15: one amount, a sum, a sum of squares; the other customers stay."""
    rows = ["huge,2024-01-01,1e17", "huge,2024-01-02,1", "ok,2024-01-01,5"]
    rows += ["square,2024-01-01,2147483648.00", "square,2024-01-02,-2147483648"]
    found = read(HEAD + "\n".join(rows))
    assert ids_of(found) == ["ok"]
    assert counts(found) == {"amount_too_large": 4}


def test_impossible_dates_are_refused(read: Read) -> None:
    """R-A16: year 1, year 9999, before 1970, no date at all, a day that does not exist."""
    days = [
        "0001-01-01",
        "9999-12-31",
        "1969-12-31",
        "2100-01-01",
        "2024-02-30",
        "soon",
        "",
        "2024",
    ]
    found = read(HEAD + "".join(f"a,{day},1\n" for day in days) + "a,2024-01-01,1\n")
    assert counts(found) == {"impossible_date": 4, "unreadable_date": 3, "missing_date": 1}
    assert found.rows_kept == 1


def test_one_typo_does_not_move_the_end_of_the_data(read: Read) -> None:
    """R-A16: a few lines years after all the rest are refused with the cure."""
    usual = HEAD + "\n".join(good_lines(3000)) + "\n"
    found = read(usual + "a,2042-01-15,1\na,2042-01-16,1\n")
    assert counts(found)["lonely_future"] == 2
    assert found.coverage_end == read(usual).coverage_end
    many = read(usual + "a,2026-01-15,1\n" * 10)
    assert "lonely_future" not in counts(many)


def test_orders_after_the_stated_end_are_refused(read: Read) -> None:
    """R-A16: complete_until names the last day that is covered."""
    text = HEAD + "a,2024-01-31T23:59:59,1\na,2024-02-01T00:00:00,1\n"
    found = read(text, orders={"complete_until": "2024-01-31"})
    assert counts(found) == {"after_coverage": 1}
    assert found.coverage_end == pd.Timestamp("2024-02-01").value // 1000


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"])
def test_the_day_is_the_declared_zones_day(read: Read, zone: str) -> None:
    """R-A17: against Python's own zones; 00:30+02:00 is the day before in UTC."""
    texts = ["2024-03-01T00:30:00+02:00", "2024-07-01 23:30:00-0500", "2024-07-01 12:00Z",
             "2024-10-27T02:30:00+01:00", "2024-07-01 12:00:00.123456 +0000"]  # fmt: skip
    found = read(HEAD + "".join(f"c{i},{t},1\n" for i, t in enumerate(texts)),
                 business={"time_zone": zone})  # fmt: skip
    for line, text in zip(lines_of(found).itertuples(), texts, strict=True):
        moment = pd.Timestamp(text)
        local = moment.tz_convert(zone)
        assert line.ts == moment.value // 1000
        assert line.day == (local.tz_localize(None).normalize() - pd.Timestamp(0)).days
        assert line.hour == local.hour


def test_naive_times_belong_to_the_declared_zone(read: Read) -> None:
    """R-A17: also across a change of clocks; a time in the gap moves forward."""
    texts = ["2024-03-30 12:00", "2024-03-31 02:30", "2024-03-31 12:00", "2024-12-01"]
    text = HEAD + "".join(f"c{i},{t},1\n" for i, t in enumerate(texts))
    found = lines_of(read(text, business={"time_zone": "Europe/Berlin"}))
    expected = [
        pd.Timestamp(t).tz_localize("Europe/Berlin", nonexistent=pd.Timedelta("1h")).value // 1000
        for t in texts
    ]
    assert found["ts"].tolist() == expected
    assert found["hour"].tolist() == [12, 3, 12, 0]


def test_naive_and_aware_times_do_not_mix(read: Read) -> None:
    """R-A17: the whole input is refused, with one line of each kind."""
    text = HEAD + "a,2024-01-01 10:00,1\na,2024-01-01T10:00:00Z,1\n"
    with pytest.raises(InputError, match=r"line 2 and one with in .* line 3"):
        read(text)


@pytest.mark.parametrize("days", [("01/02/2024", "13/02/2024"), ("13/02/2024",), ("1.2.24",)])
def test_ambiguous_dates_are_refused(read: Read, days: tuple[str, ...]) -> None:
    """R-A18: also where all values would fit one order: nothing is guessed."""
    with pytest.raises(InputError, match=r"line 2, order_ts.*date_order"):
        read(HEAD + "".join(f"a,{day},1\n" for day in days))


def test_dates_are_read_in_the_order_that_is_set(read: Read) -> None:
    """R-A18: what does not fit the set order is refused line by line."""
    text = HEAD + "a,01/02/2024,1\na,13/02/2024,1\na,3.4.24 17:05,1\na,2/13/2024 5:06 PM,1\n"
    for order, days in (("dmy", ["2024-02-01", "2024-02-13", "2024-04-03"]),
                        ("mdy", ["2024-01-02", "2024-02-13", "2024-03-04"])):  # fmt: skip
        found = read(text, orders={"date_order": order})
        got = [str(pd.Timestamp(ts, unit="us").date()) for ts in lines_of(found)["ts"]]
        assert got == days
        assert counts(found) == {"unreadable_date": 1}


def test_coverage_ends_with_the_last_day_and_not_at_the_last_order(read: Read) -> None:
    """R-A19: an order at the cutoff is never before it: the end is the local midnight after."""
    found = read(HEAD + "a,2024-01-05 10:00,1\n", business={"time_zone": "Europe/Berlin"})
    assert found.coverage_end == pd.Timestamp("2024-01-06", tz="Europe/Berlin").value // 1000


@pytest.mark.parametrize(
    "rows",
    [
        ["a,2024-01-01,5"],
        ["a,2024-01-01,5", "a,2024-05-01,5"],
        [f"c{i},2024-01-01,5" for i in range(50)],
    ],
)
def test_little_data_are_read_all_the_same(read: Read, rows: list[str]) -> None:
    """R-A20: one customer, one order, nobody who came back: reading does not judge."""
    assert read(HEAD + "\n".join(rows)).rows_kept == len(rows)


@pytest.mark.parametrize("amount", ["0", "-5"])
def test_without_a_positive_amount_there_is_no_order(read: Read, amount: str) -> None:
    """R-A20."""
    with pytest.raises(InputError, match="positive amount"):
        read(HEAD + f"a,2024-01-01,{amount}\n")


def test_one_giant_customer_changes_nothing_for_the_others(read: Read) -> None:
    """R-A21: the other customers' lines are the same bytes with and without."""
    text = HEAD + "\n".join(good_lines(300)) + "\n"
    alone, beside = read(text), read(text + "giant,2024-01-03,1000000000\n")
    others = lines_of(beside).query("customer_id != 'giant'").reset_index(drop=True)
    pd.testing.assert_frame_equal(others, lines_of(alone))


def test_the_order_of_rows_leaves_no_trace(read: Read, tmp_path: Path) -> None:
    """R-A22: same bytes and fingerprint, shuffled, split in files, as Parquet or frame."""
    rows = [f"{line},o{i // 3},p{i % 7}" for i, line in enumerate(good_lines(2000))]
    head = "customer_id,order_ts,amount,order_id,product_id\n"
    first = read(head + "\n".join(rows))
    mixed = rows.copy()
    random.Random(0).shuffle(mixed)
    folder = tmp_path / "split" / "orders"
    folder.mkdir(parents=True)
    for i in range(3):
        (folder / f"{i}.csv").write_text(head + "\n".join(rows[i::3]))
    frame = pd.DataFrame([row.split(",") for row in mixed], columns=head.strip().split(","))
    frame.astype({"amount": float}).to_parquet(tmp_path / "orders.parquet")
    for other in (read(head + "\n".join(mixed)), read(frame), read(tmp_path / "orders.parquet"),
                  read(folder.parent)):  # fmt: skip
        assert content(other) == content(first)
        assert other.fingerprint == first.fingerprint
    assert read(head + "\n".join(rows[1:])).fingerprint != first.fingerprint


def parquet_bytes(rows: int = 300) -> bytes:
    frame = pd.DataFrame([line.split(",") for line in good_lines(rows)])
    frame.columns = HEAD.strip().split(",")
    frame["order_ts"] = pd.to_datetime(frame["order_ts"])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(frame.astype({"amount": float})), sink)
    return bytes(sink.getvalue())


def flips(data: bytes, number: int) -> Iterator[bytes]:
    rng = random.Random(23)
    for _ in range(number):
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        yield bytes(flipped)


FORKS = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from features import foreign
codes = []
for name in sys.argv[2:]:
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(into, 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os._exit(foreign.main([name]))
    os.close(into)
    with open(out, "rb") as stream, open(name + ".out", "wb") as copy:
        copy.write(stream.read())
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""


def test_flipped_bits_in_parquet_never_reach_the_parent(tmp_path: Path) -> None:
    """R-A23: 200 flips, each in a child; a stream that is complete equals DuckDB's own reading."""
    names = []
    for i, data in enumerate(flips(parquet_bytes(), 200)):
        (tmp_path / f"{i}.parquet").write_bytes(data)
        names.append(str(tmp_path / f"{i}.parquet"))
    root = str(Path(foreign.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", FORKS, root, *names], capture_output=True, text=True, check=True
    )
    codes = json.loads(done.stdout)
    assert len(codes) == 200
    assert {code for code in codes if code >= 0} <= {0, 3}
    assert codes.count(0) > 0
    assert codes.count(3) > 0
    with duckdb.connect() as con:
        for name in (n for n, code in zip(names, codes, strict=True) if code == 0):
            sent = pa.ipc.open_stream(name + ".out").read_all().column("c0").to_pylist()
            own = con.execute(f"SELECT customer_id::VARCHAR FROM '{name}'").fetchall()
            assert sent == [value for (value,) in own]


@pytest.mark.parametrize("cut", [0, 3, 50, -1, -9])
def test_truncated_parquet_is_refused(read: Read, cut: int) -> None:
    """R-A23."""
    with pytest.raises(InputError, match="whole Parquet file"):
        read(parquet_bytes()[:cut], "orders.parquet")


def test_a_reader_that_dies_is_a_refusal(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-A23: whatever the file did to the child, the parent gives one line."""
    script = tmp_path / "dies.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(foreign, "__file__", str(script))
    with pytest.raises(InputError, match=f"signal {int(signal.SIGSEGV)}"):
        read(parquet_bytes(), "orders.parquet")


def test_only_regular_files_within_the_folder_are_read(tmp_path: Path) -> None:
    """R-A24: device, pipe, links that leave, paths that leave by settings."""
    outside = tmp_path / "outside.csv"
    outside.write_text(HEAD + "a,2024-01-01,1\n")
    folder = tmp_path / "data"
    folder.mkdir()

    def refused(make: Callable[[Path], Any], said: str, **sections: Any) -> None:
        target = folder / "orders.csv"
        target.unlink(missing_ok=True)
        make(target)
        with pytest.raises(InputError, match=said):
            ingest(folder, parse(sections), tmp_path / "work")

    refused(lambda target: target.symlink_to(outside), "leaves it")
    refused(lambda target: target.symlink_to("/dev/zero"), "leaves it")
    refused(os.mkfifo, "regular file")
    refused(lambda _: None, "leaves it", tables={"orders": "../outside.csv"})
    refused(lambda _: None, "leaves it", tables={"orders": str(outside)})
    with pytest.raises(InputError, match=r"leaves it|regular file|must end in"):
        ingest("/dev/zero", Settings(), tmp_path / "work")
    (folder / "orders.csv").unlink(missing_ok=True)
    (folder / "orders").mkdir()
    (folder / "orders" / "part.csv").symlink_to(outside)
    with pytest.raises(InputError, match="leaves it"):
        ingest(folder, Settings(), tmp_path / "work")


def test_a_device_is_never_opened_as_data(tmp_path: Path) -> None:
    """R-A24: even where its name ends as a table does."""
    link = tmp_path / "orders.csv"
    os.mkfifo(link)
    with pytest.raises(InputError, match="device, pipe or folder"):
        ingest(link, Settings(), tmp_path / "work")
    with pytest.raises(InputError, match="regular file"):
        delimited.open_regular(Path("/dev/zero"))


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path) -> None:
    """Still being written upstream: the size or time at the end is not that of the beginning."""
    path = tmp_path / "orders.csv"
    path.write_text(HEAD + "\n".join(good_lines(200_000)))
    table = formats.tables(path, Settings())["orders"]
    sheet = next(table.sheets())
    with path.open("a") as out:
        out.write("\nlate,2024-01-01,1\n")
    os.utime(path, (time.time() + 5, time.time() + 5))
    with pytest.raises(InputError, match="must not change"):
        list(sheet.batches)


def test_the_quarantine_file_is_harmless(read: Read, tmp_path: Path) -> None:
    """Refused values come back as text: no formula runs, no row is injected, none is lost."""
    ids = ["=cmd|'/C calc'!A0", "+1", "-2+3", "@x", "\tx", "a\r=1+1", 'q"uote', "a,b", "plain"]
    with (tmp_path / "orders.csv").open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(HEAD.strip().split(","))
        writer.writerows([i, "2024-01-01", "oops"] for i in ids)
        writer.writerow(["good", "2024-01-01", "1"])
    found = read(tmp_path / "orders.csv")
    assert quarantine(found, tmp_path / "q" / "refused.csv") == len(ids)
    with (tmp_path / "q" / "refused.csv").open(encoding="utf-8", newline="") as back:
        rows = list(csv.DictReader(back))
    assert [row["customer_id"].lstrip("'") for row in rows] == ids
    assert {row["rule"] for row in rows} == {"unreadable_amount"}
    assert rows[0]["line"] == "2"
    text = (tmp_path / "q" / "refused.csv").read_text(encoding="utf-8")
    assert all(cell[:1] not in "=+@\t\r" for row in rows for cell in row.values() if cell)
    assert len(list(csv.reader(text.splitlines(keepends=True)))) == len(ids) + 1
    assert [p.name for p in (tmp_path / "q").iterdir()] == ["refused.csv"]
