"""The service under more than it can bear, swaps, long use, slow senders and kills.

Traffic goes over loopback and is bounded in number and time. `CLV_BENCH_HOME` names a home with two
trained versions; without it one is made, which takes a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.traffic import Seen, closed, opened, request

__all__ = ["kills", "overload", "slow", "soak", "swaps"]


@dataclass
class Served:
    """A service that runs, as one looks at it from outside."""

    port: int
    parent: int
    worker: int
    text: bytes  # of a request for one customer with 20 orders

    def cpu(self) -> float:
        """Seconds of the worker."""
        words = Path(f"/proc/{self.worker}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Resident megabytes of the worker."""
        text = Path(f"/proc/{self.worker}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024


def _run(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "CLV_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-m", "serving", *words], check=True, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip


@contextmanager
def _home() -> Iterator[Path]:
    """A home with two versions, 1 the champion, and a shop in it as ``shop``."""
    given = os.environ.get("CLV_BENCH_HOME")
    if given:
        yield Path(given)
        return
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        _run("simulate", str(home / "shop"), "--profile", "bench", "--customers", "1500", home=home)
        for seed in ("0", "1"):
            _run("train", str(home / "shop"), "--horizons", "3,12,24", "--seed", seed, home=home)
        yield home


def _children(pid: int) -> list[int]:
    found = subprocess.run(
        ["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False
    ).stdout
    return [int(each) for each in found.split()]


@contextmanager
def _serving(home: Path, *words: str) -> Iterator[Served]:
    """One worker of ``clv serve`` on a free port."""
    env = {**os.environ, "CLV_HOME": str(home), "CLV_SERVING_FOLLOW_SECONDS": "0.2"}
    process = subprocess.Popen(
        [sys.executable, "-m", "serving", "serve", "--port", "0", *words],
        env=env, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        line = next(each for each in process.stderr if "answers on" in each)
        port = int(line.partition("127.0.0.1:")[2].split()[0])
        # The parent's children are helpers of multiprocessing; the worker is a grandchild.
        worker = next(each for child in _children(process.pid) for each in _children(child))
        yield Served(port, process.pid, worker, _customer(port))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stderr.close()
        print(f"  ended with exit code {process.returncode}")


def _customer(port: int) -> bytes:
    days = [f"202{3 + k // 12}-{1 + k % 12:02d}-1{k % 9}" for k in range(20)]
    orders = [{"order_ts": day, "amount": 10.5 + k} for k, day in enumerate(days)]
    customer = {"customer_id": "7", "orders": orders}
    body = json.dumps({"as_of": "2025-01-01", "customers": [customer]}).encode()
    text = request("/v1/predict", body)
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(text)
        answer = sock.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 200"), answer[:300]
    return text


def _told(seen: Seen) -> str:
    counts = {status: len(some) for status, some in sorted(seen.seconds.items())}
    return f"median {seen.p(50):.1f} ms, p99 {seen.p(99):.1f} ms, answers {counts}"


ROUNDS = 6


def overload() -> None:
    """10 times the load that it can bear, by callers who never wait, and at random moments.

    The load of the peak and those beyond it come in turn, so that whatever else the machine does is
    borne by all of them; what is told are medians of the rounds' ratios.
    """
    with _home() as home, _serving(home) as served:
        rates = {}
        for some in (1, 4, 8, 12):
            seen, _ = asyncio.run(closed(served.port, [served.text], some, 3.0))
            rates[some] = seen.rate()
            print(f"  {some} callers: {seen.rate():.0f} a second, {_told(seen)}")
        clients = max(rates, key=lambda some: rates[some])
        loads = {"10 times the callers": 10 * clients, "160 callers": 160}
        found: dict[str, list[tuple[float, float, float, float, float]]] = {k: [] for k in loads}
        probe = request("/health")
        for _ in range(ROUNDS):
            before = served.cpu()
            peak, _ = asyncio.run(closed(served.port, [served.text], clients, 2.0))
            efficiency = peak.count(200) / (served.cpu() - before)
            calm = asyncio.run(opened(served.port, [served.text], 0.8 * peak.rate(), 2.0, 64))
            for name, many in loads.items():
                before = served.cpu()
                seen, health = asyncio.run(
                    closed(served.port, [served.text], many, 2.0, probe=probe)
                )
                worth = seen.count(200) / (served.cpu() - before) / efficiency
                refused = float(np.percentile(seen.refused() or [np.nan], 99)) * 1000
                found[name].append(
                    (seen.rate() / peak.rate(), worth, seen.p(99) / calm.p(99), refused,
                     health.p(99))
                )  # fmt: skip
        for name, rounds in found.items():
            goodput, worth, admitted, refused, watched = np.median(rounds, axis=0)
            print(
                f"  {name}: goodput {goodput:.2f} of the peak (wanted 0.90), by the server's CPU "
                f"second {worth:.2f}; p99 admitted {admitted:.2f} of that at 80 % (wanted 2); "
                f"refusals p99 {refused:.0f} ms (wanted 50); health p99 {watched:.0f} ms (wanted "
                "100)"
            )


def swaps(count: int = 50) -> None:
    """The champion changes again and again under load: nothing fails, nothing is mixed."""
    with _home() as home, _serving(home) as served:
        versions: dict[str, set[str]] = {}

        def look(status: int, body: bytes) -> None:
            found = json.loads(body)
            if status == 200:
                row = found["predictions"][0]
                named = {found["model_version"], row.get("model_version", found["model_version"])}
                same = {str(v) for k, v in row.items() if k != "model_version"}
                digest = hashlib.sha256("".join(sorted(same)).encode()).hexdigest()
                versions.setdefault("+".join(sorted(named)), set()).add(digest)

        async def both() -> tuple[Seen, list[float]]:
            seen, sizes = Seen(bodies=look), list[float]()
            load = asyncio.create_task(
                closed(served.port, [served.text], 2, 600.0, most=10**9, seen=seen)
            )
            for number in range(count):
                await asyncio.to_thread(_point, home, 2 - number % 2)
                wanted, end = str(2 - number % 2), time.monotonic() + 20
                while wanted != await asyncio.to_thread(_version, served.port):
                    assert time.monotonic() < end, "the model was not swapped"
                    await asyncio.sleep(0.05)
                sizes.append(served.memory())
            load.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await load
            return seen, sizes

        seen, sizes = asyncio.run(both())
        bad = sum(len(some) for status, some in seen.seconds.items() if status != 200)
        mixed = sum("+" in name for name in versions) + sum(len(v) > 1 for v in versions.values())
        print(
            f"  {count} swaps: {bad} failed, {mixed} mixed of {seen.count(200):,} (wanted 0, 0); "
            f"versions seen {sorted(versions)}; memory after 5 swaps {sizes[4]:.0f} MB, after "
            f"{count} {sizes[-1]:.0f} MB, {sizes[-1] / sizes[4] - 1:+.1%} (wanted within 10 %); "
            f"{_told(seen)}"
        )
        _point(home, 1)


def _point(home: Path, version: int) -> None:
    """The last write of a promotion."""
    with contextlib.closing(sqlite3.connect(home / "mlruns/mlflow.db", timeout=20)) as store, store:
        store.execute(
            "UPDATE registered_model_aliases SET version = ? WHERE alias = 'champion'", (version,)
        )


def _version(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        text = b""
        while data := sock.recv(65_536):
            text += data
    return str(json.loads(text.partition(b"\r\n\r\n")[2])["version"])


def soak(count: int = 100_000) -> None:
    """So many requests: memory stays."""
    with _home() as home, _serving(home) as served:
        asyncio.run(closed(served.port, [served.text], 2, 600.0, most=count // 10))
        before = served.memory()
        seen, _ = asyncio.run(closed(served.port, [served.text], 2, 900.0, most=count))
        print(
            f"  {seen.count(200):,} requests after {count // 10:,} to warm up: memory "
            f"{before:.1f} -> {served.memory():.1f} MB (wanted at most 5 more); {_told(seen)}"
        )


def slow(count: int = 100) -> None:
    """Half-sent requests, and a body of 49 MB."""
    with _home() as home, _serving(home) as served:
        alone, _ = asyncio.run(closed(served.port, [served.text], 1, 3.0))
        halves = [b"", b"POST /v1/predict HTTP/1.1\r\nHost: x\r\n", served.text[:-20]]
        began = time.monotonic()
        socks = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(count)]
        for number, sock in enumerate(socks):
            sock.sendall(halves[number % 3])
        beside, _ = asyncio.run(closed(served.port, [served.text], 1, 3.0))
        shut = 0
        for sock in socks:
            sock.settimeout(max(0.1, 15 - (time.monotonic() - began)))
            with contextlib.suppress(TimeoutError, ConnectionError):
                while sock.recv(65_536):
                    pass
                shut += 1
            sock.close()
        print(
            f"  {shut} of {count} slow senders closed within {time.monotonic() - began:.1f} s "
            f"(wanted all within 10); p99 of others {beside.p(99) / alone.p(99):.2f} of that alone"
        )
        for way in ("Content-Length: 49000000", "Transfer-Encoding: chunked"):
            before = served.memory()
            took, status, peak = _pour(served, way)
            print(
                f"  49 MB by {way.partition(':')[0]}: {status} after {took * 1000:.0f} ms "
                f"(wanted 413 within 200), memory {peak - before:+.1f} MB (wanted +5)"
            )


def _pour(served: Served, way: str) -> tuple[float, int, float]:
    """Seconds until the status came, the status, and the worker's memory at its highest."""
    chunk = b"x" * 64_000
    if "chunked" in way:
        chunk = b"%x\r\n" % len(chunk) + chunk + b"\r\n"
    head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n{way}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", served.port)) as sock:
        began = time.perf_counter()
        sock.sendall(head)
        took, status, highest = 0.0, 0, served.memory()
        for number in range(49_000_000 // 64_000):
            sock.sendall(chunk)
            if number % 50 == 0:
                highest = max(highest, served.memory())
            if not status:
                sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    status, took = int(sock.recv(65_536)[9:12]), time.perf_counter() - began
                sock.setblocking(True)
        if not status:
            status, took = int(sock.recv(65_536)[9:12]), time.perf_counter() - began
        time.sleep(0.2)
        return took, status, max(highest, served.memory())


def kills(count: int = 20) -> None:
    """A batch killed at random moments: no torn file, and in the end the same bytes."""
    with _home() as home, tempfile.TemporaryDirectory() as place:
        shop, out, other = home / "shop", Path(place) / "out.csv", Path(place) / "other.csv"
        began = time.monotonic()
        _run(*_predict(shop, other), home=home)
        whole = time.monotonic() - began
        dice, torn, written = np.random.default_rng(0), 0, 0
        for _ in range(count):
            env = {**os.environ, "CLV_HOME": str(home)}
            process = subprocess.Popen(
                [sys.executable, "-c", BUCKETS, *_predict(shop, out)],
                env=env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(dice.uniform(0.3, 1.1) * whole)
            process.kill()
            process.wait()
            if out.exists():
                written += 1
                torn += out.read_bytes() != other.read_bytes()
        env = {**os.environ, "CLV_HOME": str(home)}
        subprocess.run(
            [sys.executable, "-c", BUCKETS, *_predict(shop, out)], env=env, check=True,
            stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        same = out.read_bytes() == other.read_bytes()
        print(f"  killed {count} times within {whole:.1f} s: {torn} torn files (wanted 0), "
              f"{written} whole ones; final bytes equal: {same}")  # fmt: skip


#: The command in buckets however small the data, as a large base is.
BUCKETS = """
import sys
from features import passes
from serving.__main__ import main
passes.SMALL = 1
sys.argv[0] = "clv"
main()
"""


def _predict(shop: Path, out: Path) -> list[Any]:
    return ["predict", str(shop), "--as-of", "2025-01-01", "--out", str(out)]
