"""Whether a customer gets the same bits by whatever way; how quickly one of a million is found."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from features import simulate
from features.settings import parse
from features.spine import instant
from serving import batch
from serving.loader import Loaded
from serving.lookup import Lookup
from serving.online import Scorer
from tests import fitted
from training.fitting import fit

DATE, CUSTOMERS, ROWS = "2025-07-01", 9_000, 1_000_000


def _resident() -> float:
    """Megabytes of this process in memory, less what is mapped from files."""
    words = Path("/proc/self/statm").read_text().split()
    return (int(words[1]) - int(words[2])) * os.sysconf("SC_PAGE_SIZE") / 2**20


def bits() -> None:
    """Batch in one bucket, in several, and online in one request, in chunks and one by one."""
    tables = {name: simulate.bench(CUSTOMERS, 2).tables[name] for name in ("orders", "customers")}
    settings = parse({"model": {"origins": 2, "max_rows": 3_000}})
    as_of = instant(DATE, "UTC")
    some = {"orders": tables["orders"][tables["orders"]["customer_id"].str[-1].isin(list("012"))]}
    loaded = Loaded(fit(fitted.ingest(some, settings), as_of, 12, settings).model, "1")
    table = batch.score(loaded, tables, as_of=DATE, workers=1).frame
    names = [name for name in table if table[name].dtype.kind == "f"]
    expected = table[names].to_numpy()

    def told(way: str, found: np.ndarray[Any, np.dtype[np.float64]]) -> None:
        right = expected[: len(found)]
        differ = np.bitwise_xor(np.ascontiguousarray(found).view(np.uint64),
                                np.ascontiguousarray(right).view(np.uint64))  # fmt: skip
        count = int(np.unpackbits(differ.view(np.uint8)).sum())
        print(f"  {way}: {count} differing bits in {len(found):,} customers x {len(names)} columns")

    from features import passes
    from features import tables as read

    before = passes.SMALL, passes.BUCKETS, read.BUCKETS
    passes.SMALL, passes.BUCKETS, read.BUCKETS = 1, 7, 7
    with tempfile.TemporaryDirectory() as home:
        os.environ["CLV_HOME"] = home
        found = batch.score(loaded, tables, as_of=DATE, workers=2).frame
        told("in 7 buckets", found[names].to_numpy())
    passes.SMALL, passes.BUCKETS, read.BUCKETS = before
    asked, months = _asked(tables, table["customer_id"]), loaded.months(None)
    scorer = Scorer(loaded)
    for size, some_of in ((len(asked), asked), (100, asked), (7, asked), (1, asked[:1_000])):
        rows: list[dict[str, Any]] = []
        for i in range(0, len(some_of), size):
            rows += scorer.predict(some_of[i : i + size], as_of, months).predictions
        told(f"online, {size:,} a request", pd.DataFrame(rows)[names].astype(float).to_numpy())


def _asked(tables: dict[str, pd.DataFrame], ids: pd.Series[str]) -> list[dict[str, Any]]:
    orders = tables["orders"].assign(order_ts=tables["orders"]["order_ts"].astype(str))
    lines: dict[str, Sequence[Any]] = {
        name: rows.drop(columns="customer_id").to_dict("records")
        for name, rows in orders.groupby("customer_id")
    }
    people = tables["customers"].astype(str).set_index("customer_id").to_dict("index")
    return [{"customer_id": k, "orders": lines[k], "profile": people.get(k, {})} for k in ids]


def lookup() -> None:
    """One of a million rows: the first look, each further one, and memory."""
    with tempfile.TemporaryDirectory() as place:
        os.environ["CLV_HOME"] = place
        file = Path(place) / "predictions.parquet"
        rng = np.random.default_rng(0)
        columns: dict[str, Any] = {"customer_id": [f"c{k:09d}" for k in range(ROWS)]}
        columns |= {f"x{k}": rng.random(ROWS) for k in range(40)}
        pq.write_table(pa.table(columns), file, row_group_size=1 << 16)
        del columns
        for what in ("laying out", "opening what is laid out"):
            found, before, began = Lookup(file), _resident(), time.process_time()
            found.find("c000000007")
            took = time.process_time() - began
            print(f"  {what}: {took * 1000:.1f} CPU ms, memory {_resident() - before:+.1f} MB")
        names = [f"c{k:09d}" for k in rng.integers(0, ROWS, 5_000)]
        seconds, before = [], _resident()
        for name in names:
            began = time.thread_time()
            row = found.find(name)
            seconds.append(time.thread_time() - began)
            assert row is not None
            assert row["customer_id"] == name
        print(f"  a look: median {np.median(seconds) * 1000:.3f} CPU ms, p99 "
              f"{np.percentile(seconds, 99) * 1000:.3f} (wanted 1), memory of 5,000 looks "
              f"{_resident() - before:+.1f} MB")  # fmt: skip
