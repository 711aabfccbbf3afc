"""One small shop with returns, ingested once, and one model fitted on it, for several test files.

The benchmark shop covers two years after `KNOWN`: what is fitted at `KNOWN` must not see them.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features import simulate, tables
from features.behaviour import Rows, build
from features.settings import Settings, parse
from features.spine import Cutoffs, instant
from features.store import Bucket, Store
from training.backtest import backtest
from training.fitting import Fitted, fit
from training.judgement import Judgement
from training.model import Model
from training.packing import pack

ZONE = "UTC"
KNOWN = instant("2024-07-01", ZONE)
LONGEST = 12
KEY = b"a key of the tests, not of anybody"
PLAIN: dict[str, Any] = {
    "business": {"margin": 0.4, "retention_cost": 0.25},
    "orders": {"complete_until": "2026-06-28"},
    # Boosters are fitted however few the customers are; few origins are quick.
    "model": {"thin_below": 0, "origins": 4},
}


def settings(**sections: Mapping[str, Any]) -> Settings:
    """`PLAIN` with keys of some sections changed."""
    merged = {name: {**PLAIN.get(name, {}), **keys} for name, keys in sections.items()}
    return parse({**PLAIN, **merged})


@cache
def shop(customers: int = 1_500) -> dict[str, pd.DataFrame]:
    """Orders of the benchmark shop, a seventh of them sent back in part, and its customers."""
    found = simulate.bench(customers, 1).tables
    orders, people = found["orders"], found["customers"].copy()
    rng = np.random.default_rng(5)
    back = orders[rng.random(len(orders)) < 1 / 7]
    days = pd.to_timedelta(rng.integers(1, 40, len(back)), unit="D")
    part = np.round(back["amount"] * rng.choice([0.25, 0.5, 1.0], len(back)), 2)
    back = back.assign(order_ts=back["order_ts"] + days, amount=-part)
    orders = pd.concat([orders, back[back["order_ts"] < "2026-06-28"]], ignore_index=True)
    ends = pd.to_datetime(people["acquired_at"]) + pd.Timedelta(days=365)
    people["contract_end"] = ends.dt.strftime("%Y-%m-%d").where(people.index % 3 > 0, "")
    return {"orders": orders, "customers": people}


@cache
def _root() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="clv-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def ingest(found: Mapping[str, pd.DataFrame], chosen: Settings | None = None) -> Store:
    """A store of the tables that lives as long as the tests."""
    work = Path(tempfile.mkdtemp(dir=_root()))
    return Store.of(tables.ingest(dict(found), chosen or settings(), work))


@cache
def store() -> Store:
    """The shop, in one bucket."""
    return ingest(shop())


def split(whole: Store, parts: int, kinds: tuple[str, ...] = ("orders", "customers")) -> Store:
    """The same customers in several buckets, dealt out by their ids."""
    folder = Path(tempfile.mkdtemp(dir=_root()))
    for kind in kinds:
        (folder / kind).mkdir()
        table = pa.concat_tables(
            pq.read_table(path) for path in sorted((whole.folder / kind).iterdir())
        )
        names = table["customer_id"].to_pylist()
        place = np.array([zlib.crc32(name.encode()) for name in names]) % parts
        for i in range(parts):
            pq.write_table(table.filter(pa.array(place == i)), folder / kind / _name(i))
    return Store(**{**vars(whole), "folder": folder, "buckets": parts})


def _name(index: int) -> str:
    return f"bucket-{index:03d}.parquet"


@cache
def base() -> Fitted:
    """The model of the shop as known at `KNOWN`, with labels of at most a year."""
    return fit(store(), KNOWN, LONGEST, settings())


HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=a>', "a|b\n# c", "[x](u) `y` *z* _w_")


@cache
def hostile() -> Store:
    """A small shop whose channels and countries were named by somebody who means harm."""
    found = simulate.bench(600, 3).tables
    orders, people = found["orders"].copy(), found["customers"].copy()
    orders["channel"] = [HOSTILE[k % 2] for k in range(len(orders))]
    people["country"] = [HOSTILE[2 * (k % 3 == 0) + (k % 40 == 0)] for k in range(len(people))]
    return ingest({"orders": orders, "customers": people})


@cache
def judged() -> Judgement:
    """A test of a year on that shop, with few resamples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.backtest.DRAWS", 20)
        patch.setattr("training.backtest.SLICE_DRAWS", 20)
        patch.setattr("training.judgement.DRAWS", 20)
        return backtest(hostile(), KNOWN, LONGEST, settings(model={"origins": 2}))


@cache
def _bucket() -> Bucket:
    return store().bucket(0)


def rows(model: Model, as_of: int = KNOWN, first: int = 0, last: int | None = None) -> Rows:
    """Feature rows of the shop's customers, or of a range of them."""
    bucket = _bucket()
    some = bucket.take(first, len(bucket) if last is None else last)
    return build(some, Cutoffs.at([as_of], ZONE), model.catalogue)


def contents(model: Model) -> tuple[str, dict[str, bytes], str]:
    """All that a bundle of the model would hold; floats by the text that reads back exactly."""
    parts = pack(model)
    return repr(parts.card), parts.files, repr(parts.golden)
