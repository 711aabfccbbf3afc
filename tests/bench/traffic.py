"""Callers over loopback, cheap enough to overload a server from one processor."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Caller", "Seen", "closed", "opened", "request"]

LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def request(path: str, body: bytes = b"", host: str = "127.0.0.1") -> bytes:
    """A whole request of HTTP/1.1."""
    head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: {host}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


@dataclass
class Seen:
    """Answers by status: the seconds each took."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    bodies: Callable[[int, bytes], None] | None = None
    wall: float = 0.0

    def add(self, status: int, seconds: float) -> None:
        self.seconds.setdefault(status, []).append(seconds)

    def count(self, *statuses: int) -> int:
        return sum(len(self.seconds.get(each, [])) for each in statuses)

    def refused(self) -> list[float]:
        return self.seconds.get(503, []) + self.seconds.get(429, [])

    def rate(self) -> float:
        """Good answers a second."""
        return self.count(200) / self.wall

    def p(self, percent: float, status: int = 200) -> float:
        """A percentile in milliseconds; NaN without answers."""
        some = self.seconds.get(status, [])
        return float(np.percentile(some, percent) * 1000) if some else float("nan")


class Caller(asyncio.Protocol):
    """One connection that is kept, and at most one request on it."""

    def __init__(self, seen: Seen, done: Callable[[Caller, int], None]) -> None:
        self.seen, self.done = seen, done
        self.transport: asyncio.Transport | None = None
        self.came, self.began, self.waiting = b"", 0.0, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def ask(self, text: bytes) -> None:
        assert self.transport is not None
        self.began, self.waiting, self.came = time.perf_counter(), True, b""
        self.transport.write(text)

    def data_received(self, data: bytes) -> None:
        self.came += data
        end = self.came.find(b"\r\n\r\n")
        found = LENGTH.search(self.came, 0, end) if end > 0 else None
        if found and len(self.came) >= end + 4 + int(found[1]):
            status = int(self.came[9:12])
            self.waiting = False
            self.seen.add(status, time.perf_counter() - self.began)
            if self.seen.bodies:
                self.seen.bodies(status, self.came[end + 4 :])
            self.done(self, status)

    def connection_lost(self, _: Exception | None) -> None:
        self.transport = None
        if self.waiting:
            self.waiting = False
            self.seen.add(0, time.perf_counter() - self.began)
            self.done(self, 0)


async def _connect(port: int, seen: Seen, done: Callable[[Caller, int], None]) -> Caller:
    loop = asyncio.get_running_loop()
    _, caller = await loop.create_connection(lambda: Caller(seen, done), "127.0.0.1", port)
    return caller


async def closed(
    port: int,
    texts: list[bytes],
    clients: int,
    seconds: float,
    *,
    most: int | None = None,
    seen: Seen | None = None,
    probe: bytes = b"",
) -> tuple[Seen, Seen]:
    """So many callers, each asking again as soon as it is answered; and a probe ten times a second.

    A caller whose connection was closed opens another one. Status 0 stands for no answer.
    """
    found, probed = seen or Seen(), Seen()
    loop = asyncio.get_running_loop()
    until, asked = loop.time() + seconds, [0]
    tasks: set[asyncio.Task[None]] = set()

    def go_on() -> bool:
        return loop.time() < until and (most is None or asked[0] < most)

    def next_one(caller: Caller) -> None:
        asked[0] += 1
        caller.ask(texts[asked[0] % len(texts)])

    def again(caller: Caller, _: int) -> None:
        if not go_on():
            return
        if caller.transport is not None and not caller.transport.is_closing():
            next_one(caller)
        else:
            task = loop.create_task(fresh())
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def fresh() -> None:
        try:
            caller = await _connect(port, found, again)
        except OSError:
            found.add(0, 0.0)
            await asyncio.sleep(0.05)
            if go_on():
                await fresh()
            return
        callers.append(caller)
        next_one(caller)

    callers: list[Caller] = []
    began = time.perf_counter()
    for _ in range(clients):
        await fresh()
    watcher = await _connect(port, probed, lambda *_: None) if probe else None
    while go_on():
        if watcher is not None and not watcher.waiting:
            if watcher.transport is None:
                watcher = await _connect(port, probed, lambda *_: None)
            watcher.ask(probe)
        await asyncio.sleep(0.1 if most is None else 0.005)
    found.wall = time.perf_counter() - began
    patience = loop.time() + 15
    while any(each.waiting for each in callers) and loop.time() < patience:
        await asyncio.sleep(0.01)
    for each in [*callers, *([watcher] if watcher else [])]:
        if each.transport is not None:
            each.transport.abort()
    return found, probed


async def opened(port: int, texts: list[bytes], rate: float, seconds: float, pool: int) -> Seen:
    """Requests at random moments, `rate` a second on average, however long the answers take.

    The time of an answer runs from the moment it should have been asked for; those for which no
    connection of the `pool` was free count as status -1.
    """
    found = Seen()
    free: list[Caller] = []
    callers = [await _connect(port, found, lambda each, _: free.append(each)) for _ in range(pool)]
    free.extend(callers)
    dice = np.random.default_rng(0)
    moments = np.cumsum(dice.exponential(1 / rate, int(rate * seconds)))
    began = time.perf_counter()
    for number, moment in enumerate(moments):
        left = began + moment - time.perf_counter()
        if left > 0:
            await asyncio.sleep(left)
        elif number % 16 == 0:
            await asyncio.sleep(0)
        if not free:
            found.add(-1, 0.0)
            continue
        caller = free.pop()
        if caller.transport is None:
            caller = await _connect(port, found, lambda each, _: free.append(each))
            callers.append(caller)
        caller.ask(texts[number % len(texts)])
    found.wall = time.perf_counter() - began
    await asyncio.sleep(0.3)
    for each in callers:
        if each.transport is not None:
            each.transport.abort()
    return found
