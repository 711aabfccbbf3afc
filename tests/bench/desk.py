"""The desk over a million scored customers: pages, the list builder, a download of 10,000 rows.

A small shop is scored by a small model and repeated under fresh ids, orders and all.
``CLV_BENCH_CUSTOMERS`` says how many there are in the end.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pandas as pd

from features import simulate
from features.settings import parse
from features.spine import instant
from features.store import Store
from features.tables import ingest
from serving import batch
from serving.loader import Loaded
from training import bundle
from training.fitting import fit
from training.packing import pack

AS_OF = "2024-07-01"
BASE, CUSTOMERS = 2_000, int(os.environ.get("CLV_BENCH_CUSTOMERS", "1000000"))
ROUNDS, ROWS = 20, 10_000
WAIT = 1_800.0  # seconds until all is worked out
TICK = os.sysconf("SC_CLK_TCK")


def desk() -> None:
    """Medians of twenty requests each, with the worker's processor time, and its memory."""
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        began = time.perf_counter()
        _prepare(home)
        print(f"  {CUSTOMERS:,} customers made in {time.perf_counter() - began:.0f} s")
        with _served(home) as (port, parent):
            _ready(port, home)
            worker = _worker(parent, port)
            print(f"  memory of the worker before: {_memory(worker)}")
            _measured(port, worker)
            print(f"  memory of the worker after: {_memory(worker)}")


def _prepare(home: Path) -> None:
    made, settings = simulate.bench(BASE, 1), parse({"model": {"origins": 3, "max_rows": 3_000}})
    tables = {name: made.tables[name] for name in ("orders", "customers")}
    store = Store.of(ingest(tables, settings, home / "work"))
    os.environ["CLV_HOME"] = str(home / "home")
    (home / "home").mkdir()
    model = fit(store, instant(AS_OF, "UTC"), 12, settings).model
    bundle.save(pack(model), home / "model", bundle.make_key(home / "home"))
    table = batch.score(
        Loaded(model, "1"), tables, as_of=AS_OF, horizons=(12,), workers=1, reasons=3
    ).frame
    copies = -(-CUSTOMERS // len(table))
    data = home / "data"
    data.mkdir()
    (data / "clv.toml").write_text("[orders]\ncomplete_until = 2024-06-30\n")
    orders = tables["orders"]
    orders = orders[orders["order_ts"] < pd.Timestamp(AS_OF)]
    rng = np.random.default_rng(0)
    people = tables["customers"].merge(table[["customer_id"]], on="customer_id")
    people = people.assign(
        country=rng.choice(["AT", "CH", "DE", "FR"], len(people)),
        consent_email=rng.choice(["yes", "no"], len(people)),
    )
    orders = orders[orders["customer_id"].isin(people["customer_id"])]
    for name, one in (("orders", orders), ("customers", people)):
        _repeated(one, copies).to_parquet(data / f"{name}.parquet")
    many = _repeated(table, copies).head(CUSTOMERS)
    # No two are worth the same, as in a real base.
    factor = rng.uniform(0.5, 1.5, len(many))
    many = many.assign(**{n: many[n] * factor for n in many if str(n).startswith("clv_12m")})
    many.sort_values("customer_id").to_parquet(home / "p.parquet")


def _repeated(table: pd.DataFrame, copies: int) -> pd.DataFrame:
    """The table so many times, the ids of each time its own."""
    whole = pd.concat([table] * copies, ignore_index=True)
    number = np.repeat(np.arange(copies), len(table)).astype(str)
    whole["customer_id"] = whole["customer_id"].astype(object) + "-" + number.astype(object)
    return whole


@contextmanager
def _served(home: Path) -> Iterator[tuple[int, int]]:
    """The service with one worker: its port, and the process that started it."""
    command = [sys.executable, "-m", "serving", "serve", "--port", "0", "--model",
               str(home / "model"), "--predictions", str(home / "p.parquet"), "--data",
               str(home / "data")]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r":(\d+) ", line)
        assert found, line
        yield int(found[1]), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        print(process.communicate(timeout=60)[1], end="")


def _worker(parent: int, port: int) -> int:
    """The process that answers: of all below `parent` the one whom questions cost most."""
    found, rest = [], [parent]
    while rest:
        for children in Path(f"/proc/{rest.pop()}/task").glob("*/children"):
            below = [int(word) for word in children.read_text().split()]
            found += below
            rest += below
    before = {each: _seconds(each) for each in found}
    for _ in range(50):
        _ask(port, "GET", "/")
    return max(found, key=lambda each: _seconds(each) - before[each])


def _seconds(process: int) -> float:
    words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICK


def _memory(process: int) -> str:
    words = Path(f"/proc/{process}/statm").read_text().split()
    page = os.sysconf("SC_PAGE_SIZE") / 2**20
    own = (int(words[1]) - int(words[2])) * page
    return f"{own:.0f} MB of its own, {int(words[2]) * page:.0f} MB mapped from files"


def _ready(port: int, home: Path) -> None:
    """Wait for the first page of the predictions, then of all."""
    began = time.perf_counter()
    first = None
    while time.perf_counter() - began < WAIT:
        _ask(port, "GET", "/")
        for about in (home / "home" / "desk").glob("*/about.json"):
            first = first or time.perf_counter() - began
            if json.loads(about.read_text())["whole"]:
                took = time.perf_counter() - began
                print(f"  worked out beside the service: predictions in {first:.0f} s, all in "
                      f"{took:.0f} s")  # fmt: skip
                time.sleep(3)
                return
        time.sleep(0.5)
    failed = [path.read_text() for path in (home / "home" / "desk").glob("*/failed.json")]
    raise SystemExit(f"never ready: {failed}")


def _ask(
    port: int, method: str, place: str, form: dict[str, str] | None = None, cookie: str = ""
) -> tuple[int, dict[str, str], bytes]:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"cookie": cookie, "origin": f"http://127.0.0.1:{port}"}
    if form is not None:
        headers["content-type"] = "application/x-www-form-urlencoded"
    link.request(method, place, urlencode(form) if form else None, headers)
    answer = link.getresponse()
    raw = answer.read()
    link.close()
    return answer.status, {k.lower(): v for k, v in answer.getheaders()}, raw


def _measured(port: int, worker: int) -> None:
    query = {"show": "1", "top": str(ROWS), "control": "10", "offer_cost": "0"}
    chosen = query | {"consent": "email", "churn_from": "10", "country.DE": "1", "country.AT": "1",
                      "newer": "400"}  # fmt: skip
    status, headers, raw = _ask(port, "GET", f"/desk/lists/new?{urlencode(query)}")
    cookie = headers["set-cookie"].split(";")[0]
    proof = re.search(r'name="proof" value="(\w+)"', raw.decode())
    assert status == 200
    assert proof, raw.decode()[:2_000]
    form = {"proof": proof[1], **query}
    found = re.search(r"/desk/customer\?id=([\w%-]+)", raw.decode())
    assert found
    told = {
        "first page (wanted 300)": lambda _: _ask(port, "GET", "/", cookie=cookie),
        "a customer (wanted 300)": lambda _: _ask(
            port, "GET", f"/desk/customer?id={found[1]}", cookie=cookie
        ),
        "search": lambda _: _ask(port, "GET", "/desk/customers?q=1", cookie=cookie),
        f"list builder, {ROWS:,} of all": lambda _: _ask(
            port, "GET", f"/desk/lists/new?{urlencode(query)}", cookie=cookie
        ),
        "list builder, five filters": lambda _: _ask(
            port, "GET", f"/desk/lists/new?{urlencode(chosen)}", cookie=cookie
        ),
        f"save {ROWS:,} rows": lambda k: _ask(
            port, "POST", "/desk/lists/save", form | {"name": f"bench-{k}"}, cookie
        ),
        f"download {ROWS:,} rows, CSV (wanted 3,000)": lambda _: _have(
            port, proof[1], cookie, "csv"
        ),
        f"download {ROWS:,} rows, Excel (wanted 3,000)": lambda _: _have(
            port, proof[1], cookie, "xlsx"
        ),
    }
    for name, ask in told.items():
        _timed(name, worker, ask)


def _have(port: int, proof: str, cookie: str, form: str) -> tuple[int, dict[str, str], bytes]:
    wanted = {"proof": proof, "name": "bench-0", "form": form}
    return _ask(port, "POST", "/desk/list/download", wanted, cookie)


def _timed(name: str, worker: int, ask: Callable[[int], Any]) -> None:
    walls, before = [], _seconds(worker)
    first = 0.0
    for k in range(ROUNDS + 1):
        began = time.perf_counter()
        status, _, raw = ask(k)
        took = time.perf_counter() - began
        assert status in (200, 303), raw[:2_000]
        if k:
            walls.append(took)
        else:
            first, before = took, _seconds(worker)
    cpu = (_seconds(worker) - before) / ROUNDS
    told = [f"{1_000 * value:.0f}" for value in (np.median(walls), max(walls), first, cpu)]
    print(f"  {name}: median {told[0]} ms, worst {told[1]}, first {told[2]}, CPU {told[3]} ms, "
          f"{len(raw) / 1e3:.0f} kB")  # fmt: skip
