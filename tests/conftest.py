"""Order lines for tests: random ones with every oddity, and the way from a frame to a bucket."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import settings

from features.spine import DAY

# The compiled kernels load with the store: only where a test needs it.
if TYPE_CHECKING:
    from features.store import Bucket

# Boosting is taught small data here: threads that wait for one another cost more than they bring,
# twice so on a busy machine. It is read when the library loads, also by programs that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Time limits would make a busy machine fail; the same examples each time keep a run repeatable.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

KEY = ("customer_id", "ts", "order_id", "product_id", "category", "channel", "amount", "quantity",
       "discount", "cost")  # fmt: skip


def table(lines: pd.DataFrame, zone: str = "UTC") -> pa.Table:
    """Lines in the schema and the canonical order of the store.

    `lines` has customer_id, ts (microseconds UTC) and amount (minor units); further columns of
    the schema are optional and in its units.
    """
    from features.store import SCHEMA

    local = pd.to_datetime(lines["ts"], unit="us", utc=True).dt.tz_convert(ZoneInfo(zone))
    naive = local.dt.tz_localize(None).astype("datetime64[us]").astype("int64")
    full = lines.assign(day=naive // DAY, hour=naive % DAY // (DAY // 24))
    arrays = [
        pa.array(full[field.name], field.type, from_pandas=True)
        if field.name in full
        else pa.nulls(len(full), field.type)
        for field in SCHEMA
    ]
    made = pa.Table.from_arrays(arrays, schema=SCHEMA)
    # Text sorts by code point, which is bytewise; missing values come first.
    keys = zip(*([(v is not None, v or 0) for v in made[k].to_pylist()] for k in KEY), strict=True)
    order = sorted(enumerate(keys), key=lambda pair: pair[1])
    return made.take(pa.array([place for place, _ in order], pa.int64()))


def bucket(
    lines: pd.DataFrame,
    zone: str = "UTC",
    attributes: pd.DataFrame | None = None,
    unit: int = 100,
) -> Bucket:
    """A bucket from a frame of lines, see `table`; `attributes` are indexed by customer."""
    from features.store import Bucket

    return Bucket.of(table(lines, zone), unit, attributes)


def history(
    seed: int, customers: int = 40, lines: int = 2_000, marks: Sequence[int] = ()
) -> pd.DataFrame:
    """Random lines of 2019 to 2023 with every oddity, for `table`.

    Orders without an id or spread over days, several at one instant, lines exactly at each of
    `marks` and at the starts of the windows before it and just beside, refunds before the first
    order, customers with refunds only, zero lines, missing levels.
    """
    rng = np.random.default_rng(seed)
    orders = lines // 2
    start = pd.Timestamp("2019-01-01").value // 1_000
    head = pd.DataFrame(
        {
            "who": rng.integers(0, customers, orders),
            "ts": start + rng.integers(0, 5 * 365 * 24 * 60, orders) * 60_000_000,
            "order_id": [f"o{k}" if rng.random() < 0.7 else None for k in range(orders)],
            "channel": rng.choice(["web", "app", "shop", "mail", None], orders),
        }
    )
    twin = rng.random(orders) < 0.1  # another order of the same customer at the same instant
    head.loc[twin, ["who", "ts"]] = head[["who", "ts"]].shift(1, fill_value=start)[twin]
    head["who"] %= customers
    made = head.loc[np.sort(rng.integers(0, orders, lines))].reset_index(drop=True)
    late = rng.random(lines) < 0.15
    made.loc[late, "ts"] += rng.integers(1, 5 * 24 * 60, late.sum()) * 60_000_000
    edges = [m - w * DAY + d for m in marks for w in (0, 30, 90, 180, 275, 365, 455, 730)
             for d in (-1, 0, 1)]  # fmt: skip
    place = rng.choice(lines, len(edges), replace=False)
    made.loc[place, "ts"] = edges
    made = made.assign(**_contents(rng, lines))
    made.loc[made["who"] < 3, "amount"] = -made["amount"].abs() - 1
    made.loc[made["who"] == 3, "amount"] = 0
    first = made.sort_values("ts").drop_duplicates("who").index
    made.loc[first[::3], "amount"] = -77
    ids = np.array([f"{k:03d}" for k in range(customers)], dtype=object)
    ids[-5:] = ["NA", "a", "é7", "Z", "\U0001f600"]
    return made.assign(customer_id=ids[made["who"]]).drop(columns="who")


def _contents(rng: np.random.Generator, n: int) -> dict[str, object]:
    kind = rng.choice([-1, 0, 1], n, p=[0.08, 0.04, 0.88])
    skewed = np.minimum(rng.geometric(0.15, n), 22)
    category = np.array([f"c{k}" for k in range(23)], dtype=object)[skewed]
    product = np.array([f"p{k}" for k in range(40)], dtype=object)[rng.integers(0, 40, n)]
    return {
        "amount": kind * rng.integers(1, 20_000, n),
        "product_id": np.where(rng.random(n) < 0.1, None, product),
        "category": np.where(rng.random(n) < 0.1, None, category),
        "quantity": pd.array(rng.integers(0, 5_000, n), "Int64"),
        "discount": pd.array(rng.integers(1, 500, n) * (rng.random(n) < 0.3), "Int64"),
        "cost": pd.Series(pd.array(rng.integers(-100, 5_000, n), "Int64")).mask(
            rng.random(n) < 0.2
        ),
    }


def same_bits(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> bool:
    """Equal shape and equal bits, "not known" included."""
    return a.shape == b.shape and np.array_equal(
        np.ascontiguousarray(a).view(np.uint64), np.ascontiguousarray(b).view(np.uint64)
    )


# The command line and a trained home


@dataclass(frozen=True)
class Ran:
    """What a command gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on standard output."""
        return json.loads(self.out)


def clv(*words: object) -> Ran:
    """Run a command in this process, as ``clv WORDS`` would."""
    from serving.__main__ import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["clv", *map(str, words)])
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Ran(code, out.getvalue(), err.getvalue())


def use_home(patch: pytest.MonkeyPatch, home: Path) -> None:
    """Keep models, key and predictions in `home`, whatever the environment says."""
    for name in ("CLV_KEY", "CLV_DEBUG", "MLFLOW_TRACKING_URI"):
        patch.delenv(name, raising=False)
    patch.setenv("CLV_HOME", str(home))


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that one process of a run makes for all of them; it is to be copied, not changed."""
    from training.tracking import try_lock

    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # which the processes have in common
    folder = base / name
    with (base / f"{name}.lock").open("w") as lock:
        while not try_lock(lock.fileno()):
            time.sleep(0.1)
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (folder / "made").touch()
    return folder


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow without runs, to be copied: migrations take seconds."""

    def make(folder: Path) -> None:
        from training import tracking

        with pytest.MonkeyPatch.context() as patch:
            use_home(patch, folder)
            tracking.open_store(create=True)

    return made_once(tmp_path_factory, "migrated", make) / "mlruns/mlflow.db"


def new_home(folder: Path, migrated: Path) -> Path:
    """A home with an empty store."""
    (folder / "mlruns").mkdir(parents=True)
    shutil.copyfile(migrated, folder / "mlruns/mlflow.db")
    return folder


#: Ids that programs like to change: by type, by spreadsheet, by quoting, by lines.
ODD_IDS = (
    "007", "NA", "1e5", "null", "TRUE", "=1+1", 'say "hi"', "a,b", "a;b", "line\nfeed",
    "carriage\rreturn", "both\r\nof them", "\u00e97", "Z", "\U0001f600",
)  # fmt: skip
CANARY = "canary"  # part of every id, address and order number of two thirds of the customers


@dataclass(frozen=True)
class Trained:
    """A home with two versions of one model (1 champion, 2 challenger) and its data."""

    home: Path
    data: Path  # orders.parquet, customers.parquet, clv.toml
    orders: pd.DataFrame
    customers: pd.DataFrame
    as_of: str
    second: Ran  # clv train --json, which made version 2 of the same data
    chatter: str  # all that both trainings wrote to standard output and standard error

    @property
    def frames(self) -> dict[str, pd.DataFrame]:
        """The same data as frames."""
        return {"orders": self.orders, "customers": self.customers}


SETTINGS = """[business]
currency = "EUR"
margin = 0.4
retention_cost = 0.5
[horizons]
months = [3, 12]
[orders]
complete_until = 2025-06-30
[model]
origins = 2
max_rows = 1000
thin_below = 50
"""


def small_shop() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Orders until 2025-06-30 with refunds, and customers, with odd ids and canaries."""
    from features.simulate import bench

    made = bench(400, 1)
    names = sorted(made.tables["customers"]["customer_id"])
    ids = {name: f"{CANARY}-{k:03d}" if k % 3 else name for k, name in enumerate(names)}
    first = made.tables["orders"].drop_duplicates("customer_id")["customer_id"]
    ids |= dict(zip(first[:: len(first) // len(ODD_IDS)], ODD_IDS, strict=False))
    orders = made.tables["orders"].assign(
        customer_id=lambda t: t["customer_id"].map(ids), order_id=lambda t: CANARY + t["order_id"]
    )
    back = orders.iloc[::20].assign(
        amount=lambda t: -(t["amount"] / 2).round(2),
        order_ts=lambda t: t["order_ts"] + pd.Timedelta(days=9),
    )
    orders = pd.concat([orders, back], ignore_index=True)
    orders = orders[orders["order_ts"] < "2025-07-01"].reset_index(drop=True)
    customers = made.tables["customers"].assign(
        customer_id=lambda t: t["customer_id"].map(ids),
        email=[f"{CANARY}.{k}@example.org" for k in range(len(names))],
    )
    return orders, customers


def few_draws(patch: pytest.MonkeyPatch) -> None:
    """Spare the bootstrap its 500 draws: the intervals have their own tests."""
    for name in ("backtest.DRAWS", "backtest.SLICE_DRAWS", "judgement.DRAWS"):
        patch.setattr(f"training.{name}", 20)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Trained:
    """Trained twice on the same data: in a notebook's way on frames, and by command on files."""
    orders, customers = small_shop()

    def make(folder: Path) -> None:
        second, chatter = train_twice(folder, migrated, orders, customers)
        told = [second.code, second.out, second.err, chatter]
        (folder / "said.json").write_text(json.dumps(told))

    done = made_once(tmp_path_factory, "trained", make)
    folder = Path(shutil.copytree(done, tmp_path_factory.mktemp("own") / "trained"))
    code, out, err, chatter = json.loads((folder / "said.json").read_text())
    return Trained(
        folder / "home", folder / "data", orders, customers, "2025-07-01", Ran(code, out, err),
        chatter,
    )  # fmt: skip


def train_twice(
    folder: Path, migrated: Path, orders: pd.DataFrame, customers: pd.DataFrame
) -> tuple[Ran, str]:
    """What the second training said, and all that both wrote."""
    from features.settings import load
    from training import train

    home, data = new_home(folder / "home", migrated), folder / "data"
    data.mkdir()
    orders.to_parquet(data / "orders.parquet")
    customers.to_parquet(data / "customers.parquet")
    (data / "clv.toml").write_text(SETTINGS)
    noise = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        use_home(patch, home)
        few_draws(patch)
        patch.chdir(folder)
        with contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
            frames = {"orders": orders.sample(frac=1, random_state=0), "customers": customers}
            train(frames, as_of="2025-07-01", settings=load(data / "clv.toml"), workers=1)
        second = clv("train", data, "--as-of", "2025-07-01", "--workers", 2, "--json")
    return second, noise.getvalue() + second.out + second.err


@pytest.fixture
def at_home(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trained]:
    """The trained home, to be read only; the current folder is elsewhere and stays empty."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    use_home(monkeypatch, trained.home)
    few_draws(monkeypatch)
    yield trained
    assert list(elsewhere.iterdir()) == []


#: Channels that a spreadsheet must not take for more than their letters.
ODD_CHANNELS = ("=1+1", "@SUM(A1:A9)", "+cmd|' /C calc'!A0", "https://example.org/?a=1")


@pytest.fixture(scope="session")
def desk(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop with all that a report tells of, and everything that the commands write of it.

    data/ and p.csv; LANGUAGE.xlsx and LANGUAGE.html of four languages, used.json (the words that
    they took); of.csv, s.csv, v.csv, sums.csv, c.csv, kept/ and t.csv of the other commands. It is
    to be read, not changed.
    """
    return made_once(tmp_path_factory, "desk", lambda folder: report_all(folder, trained))


def report_all(folder: Path, trained: Trained) -> None:
    from features import simulate
    from serving.views.language import LANGUAGES, Words

    data = Path(shutil.copytree(trained.data, folder / "data"))
    spend = simulate.bench(400, 1).tables["spend"]
    odd = dict(zip(sorted(spend["channel"].unique()), ODD_CHANNELS, strict=True))
    spend.assign(channel=spend["channel"].map(odd)).to_csv(data / "spend.csv", index=False)
    people, orders = trained.customers, trained.orders
    people = people.assign(acquisition_channel=people["acquisition_channel"].map(odd))
    people.to_parquet(data / "customers.parquet")
    kinds = np.array(["shoes", "books", "<b>toys</b>"], object)
    orders.assign(category=kinds[np.arange(len(orders)) % 3]).to_parquet(data / "orders.parquet")
    asked(orders).to_parquet(data / "events.parquet")
    with pytest.MonkeyPatch.context() as patch:
        use_home(patch, trained.home)
        p, told = folder / "p.csv", ("--data", data)
        every = [
            ("predict", data, "--out", p, "--reasons", 2),
            ("segments", p, *told, "--out", folder / "s.csv", "--summary", folder / "of.csv"),
            ("value", data, "--predictions", p, "--out", folder / "v.csv", "--summary",
             folder / "sums.csv"),
            ("channels", data, "--predictions", p, "--out", folder / "c.csv"),
            ("retention", data, "--out", folder / "kept"),
            ("target", data, "--predictions", p, "--top", 500, "--out", folder / "t.csv"),
            ("report", data, "--predictions", p, "--out", folder / "en.xlsx"),
        ]  # fmt: skip
        for words in every:
            ran = clv(*words)
            assert ran.code == 0, ran.err
        (folder / "said.txt").write_text(ran.out, encoding="utf-8")
        used, look = set[str](), Words._template
        patch.setattr(Words, "_template", lambda say, key: (used.add(key), look(say, key))[1])
        write_views(folder, LANGUAGES)
        (folder / "used.json").write_text(json.dumps(sorted(used)))


def asked(orders: pd.DataFrame) -> pd.DataFrame:
    """Survey scores of every second customer, and visits, which a report does not tell of."""
    ids = sorted(orders["customer_id"].unique())[::2]
    ts = pd.Timestamp("2024-03-01") + pd.to_timedelta(np.arange(len(ids)), "h")
    scores = pd.DataFrame({"customer_id": ids, "ts": ts, "kind": "nps"})
    scores = scores.assign(value=np.arange(len(ids)) % 11)
    return pd.concat([scores, scores.assign(kind="visit", value=np.nan)], ignore_index=True)


def write_views(folder: Path, languages: Sequence[str]) -> None:
    """The workbook and the page in each language, of one and the same report."""
    from features import campaigns
    from features.reading import find_settings, read
    from serving.commands.reports import _scores
    from serving.decisions import files
    from serving.decisions.report import report
    from serving.views import page, workbook
    from serving.views.language import words
    from serving.views.pictures import drawings

    data = str(folder / "data")
    settings, table = find_settings(data), files.predictions(folder / "p.csv")
    paid = campaigns.spend(data, settings)
    with read(data, settings) as (store, _):
        made = report(store, table, settings, spend=paid, scores=_scores(None))
    for language in languages:
        say = words(language)
        drawn = drawings(made, say)
        page.write(made, folder / f"{language}.html", say, drawn=drawn)
        if not (folder / f"{language}.xlsx").exists():
            # One picture shows how it stands there; the page has them all.
            some = {name: drawn[name] for name in ("map",)}
            workbook.write(made, folder / f"{language}.xlsx", say, drawn=some)
