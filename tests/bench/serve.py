"""The service against MLflow's own server on the same bundle: one client, one connection, loopback.

Ours is given a customer's raw orders, MLflow's the ready feature row.
"""

from __future__ import annotations

import gc
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features import simulate
from features.behaviour import build
from features.settings import parse
from features.spine import Cutoffs, instant
from features.store import Store
from features.tables import ingest
from training import bundle
from training.fitting import fit
from training.packing import pack

AS_OF = "2024-07-01"
ROUNDS = int(os.environ.get("CLV_BENCH_ROUNDS", "2000"))
MANY = 1_000
WAIT = 120.0  # seconds for a server to start


def serve() -> None:
    """Latency, processor time and throughput; one by one against a thousand at once."""
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        row = _prepare(home)
        one = json.dumps({"as_of": AS_OF, "customers": [_customer(0)]}).encode()
        whole = json.dumps({"as_of": AS_OF, "customers": [_whole(0)]}).encode()
        with _ours(home) as ours, _theirs(home) as theirs:
            # In turn, so that whatever else the machine does is borne by both.
            told = _in_turn(
                {
                    "one customer, 20 raw orders": (*ours, "/v1/predict", one, 40),
                    "with every column of an order": (*ours, "/v1/predict", whole, 10),
                    "the ready feature row, MLflow's protocol": (*ours, "/invocations", row, 10),
                    "mlflow models serve, the ready feature row": (*theirs, "/invocations", row, 5),
                }
            )
            _thousand(ours[0])
        mine, other = (told[k]["wall"].mean() for k in (next(iter(told)), [*told][-1]))
        print(f"throughput of ours on raw orders over theirs on the ready row: {other / mine:.1f} "
              "(wanted 8)")  # fmt: skip


def _in_turn(asked: dict[str, tuple[int, int, str, bytes, int]]) -> dict[str, dict[str, Any]]:
    """Ask each in blocks, in turn: port, session, route, body and requests of a block."""
    blocks = max(1, ROUNDS // 40)
    found: dict[str, dict[str, Any]] = {name: {"wall": [], "cpu": 0.0} for name in asked}
    for block in range(blocks + 1):
        for name, (port, session, place, body, rounds) in asked.items():
            some = _asked(port, place, body, session, rounds)
            if block:  # the first one warms up
                found[name]["wall"].append(some["wall"])
                found[name]["cpu"] += some["cpu"] / blocks
    for name, each in found.items():
        each["wall"] = np.concatenate(each["wall"])
        _told(name, each, "median 3, p99 10, CPU 1.5" if name == next(iter(asked)) else "")
    return found


def _prepare(home: Path) -> bytes:
    """Train, write the bundle and MLflow's model of it; a feature row as a request."""
    import mlflow

    made, settings = simulate.bench(2_000, 1), parse({"model": {"origins": 4}})
    store = Store.of(ingest(made.tables, settings, home / "work"))
    as_of = instant(AS_OF, "UTC")
    model = fit(store, as_of, 12, settings).model
    (home / "home").mkdir()
    os.environ["CLV_HOME"] = str(home / "home")
    bundle.save(pack(model), home / "model", bundle.make_key(home / "home"))
    mlflow.pyfunc.save_model(
        str(home / "mlflow"), loader_module="serving.scoring", data_path=str(home / "model"),
        pip_requirements=["numpy"],
    )  # fmt: skip
    rows = build(store.bucket(0).take(0, 1), Cutoffs.at([as_of], "UTC"), model.catalogue)
    frame = pd.DataFrame(rows.values, columns=list(model.catalogue.names))
    split = frame.astype(object).where(frame.notna(), None).to_dict("split")
    return json.dumps({"dataframe_split": {k: split[k] for k in ("columns", "data")}}).encode()


def _customer(k: int) -> dict[str, Any]:
    rng = np.random.default_rng(k)
    days = np.datetime64("2022-01-01") + np.sort(rng.integers(0, 900, 20))
    orders = [
        {"order_ts": f"{day}T12:00:00", "amount": round(float(amount), 2), "order_id": f"{k}-{i}"}
        for i, (day, amount) in enumerate(zip(days, rng.gamma(2.0, 20.0, 20), strict=True))
    ]
    return {"customer_id": f"{k:06d}", "orders": orders}


def _whole(k: int) -> dict[str, Any]:
    customer = _customer(k)
    for i, order in enumerate(customer["orders"]):
        order |= {"product_id": f"p{i % 7}", "category": f"c{i % 3}", "channel": "web",
                  "quantity": 1 + i % 3, "discount": 1.5, "cost": 7.25}  # fmt: skip
    return customer


@contextmanager
def _ours(home: Path) -> Iterator[tuple[int, int]]:
    port = _free()
    words = ["serve", "--port", str(port), "--model", str(home / "model"), "--workers", "1"]
    env = {**os.environ, "CLV_SERVING_BODY_BYTES": "20000000"}
    with _running([sys.executable, "-m", "serving", *words], env, port, "/ping") as pid:
        yield port, pid


@contextmanager
def _theirs(home: Path) -> Iterator[tuple[int, int]]:
    port = _free()
    words = [
        "models",
        "serve",
        "-m",
        str(home / "mlflow"),
        "-p",
        str(port),
        "--env-manager",
        "local",
    ]
    tools = str(Path(sys.executable).parent)  # MLflow starts uvicorn by its name
    paths = os.pathsep.join(str(path) for path in (Path.cwd(), *sys.path) if path)
    env = {**os.environ, "PYTHONPATH": paths, "PATH": tools + os.pathsep + os.environ["PATH"]}
    mlflow = str(Path(tools, "mlflow"))
    with _running([mlflow, *words], env, port, "/ping") as pid:
        yield port, pid


def _free() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def _running(command: list[str], env: dict[str, str], port: int, place: str) -> Iterator[int]:
    """A server that answers, in a session of its own; it is ended at last."""
    with subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            _wait(process, port, place)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _wait(process: subprocess.Popen[bytes], port: int, place: str) -> None:
    until = time.monotonic() + WAIT
    while time.monotonic() < until and process.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", place)
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"{process.args!r} did not answer")


def _cpu(session: int) -> float:
    """Processor seconds of all processes of a session."""
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def _asked(port: int, place: str, body: bytes, session: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of each answer, and processor milliseconds of the server for one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    _once(connection, place, body)
    gc.disable()
    before, wall = _cpu(session), np.empty(rounds)
    for k in range(rounds):
        began = time.perf_counter()
        _once(connection, place, body)
        wall[k] = time.perf_counter() - began
    gc.enable()
    spent = (_cpu(session) - before) / rounds
    connection.close()
    return {"wall": wall * 1000, "cpu": spent * 1000}


def _once(connection: http.client.HTTPConnection, place: str, body: bytes) -> bytes:
    connection.request("POST", place, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    told = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{place} answered {answer.status}: {told[:300]!r}")
    return told


def _told(what: str, found: dict[str, Any], wanted: str = "") -> None:
    tenth, middle, last = np.percentile(found["wall"], [10, 50, 99])
    print(f"{what}: p10 {tenth:.2f} ms, median {middle:.2f} ms, p99 {last:.2f} ms, server CPU "
          f"{found['cpu']:.2f} ms, {1000 / found['wall'].mean():.0f} a second"
          + (f" (wanted {wanted})" if wanted else ""), flush=True)  # fmt: skip


def _thousand(port: int) -> None:
    people = [_customer(k) for k in range(MANY)]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    single = [json.dumps({"as_of": AS_OF, "customers": [each]}).encode() for each in people]
    whole = json.dumps({"as_of": AS_OF, "customers": people}).encode()
    began = time.perf_counter()
    apart = [
        json.loads(_once(connection, "/v1/predict", each))["predictions"][0] for each in single
    ]
    one_by_one = time.perf_counter() - began
    times = []
    for _ in range(5):
        began = time.perf_counter()
        together = json.loads(_once(connection, "/v1/predict", whole))["predictions"]
        times.append(time.perf_counter() - began)
    differ = sum(a != b for a, b in zip(apart, together, strict=True))
    print(f"{MANY:,} customers: one by one {one_by_one:.2f} s, in one request "
          f"{min(times):.3f} s, {one_by_one / min(times):.1f} times faster (wanted 10); "
          f"{differ} answers differ (wanted 0)", flush=True)  # fmt: skip
