"""Real sockets on loopback: what half-sends, sends too much, comes too often or never reads."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from features.settings import Serving
from serving.connections import HEAD, Server, configured
from serving.guard import Guard

LIMITS = Serving(body_bytes=100_000, receive_seconds=1.0, idle_seconds=30.0, queue=4)
POST = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n"


@dataclass
class Service:
    """A server in a thread, and what it counted."""

    port: int
    counts: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)  # as they came to the application
    open: list[socket.socket] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)  # lets /slow answer

    def connect(self) -> socket.socket:
        """A connection that is closed with the service."""
        self.open.append(socket.create_connection(("127.0.0.1", self.port), timeout=20))
        return self.open[-1]

    def ask(self, text: bytes) -> bytes:
        """All that comes back until the server hangs up or is silent for a while."""
        with self.connect() as sock:
            sock.sendall(text)
            return everything(sock)


def everything(sock: socket.socket, silence: float = 0.4) -> bytes:
    found = b""
    sock.settimeout(silence)
    with contextlib.suppress(TimeoutError, ConnectionError):
        while data := sock.recv(65_536):
            found += data
    return found


def one(sock: socket.socket) -> bytes:
    """One whole answer."""
    sock.settimeout(20)
    found = sock.recv(65_536)
    while b"\r\n\r\n" not in found:
        found += sock.recv(65_536)
    head, _, body = found.partition(b"\r\n\r\n")
    length = int(re.findall(rb"content-length: (\d+)", head)[0])
    while len(body) < length:
        body += sock.recv(65_536)
    return head + b"\r\n\r\n" + body


def statuses(text: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", text)]


def post(body: bytes = b"{}", more: bytes = b"") -> bytes:
    return POST + more + b"Content-Length: %d\r\n\r\n" % len(body) + body


@contextlib.contextmanager
def serving(limits: Serving) -> Iterator[Service]:
    sock = socket.create_server(("127.0.0.1", 0))
    service = Service(sock.getsockname()[1])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (kind := (await receive())["type"]) != "lifespan.shutdown":
                await send({"type": f"{kind}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        service.paths.append(scope["path"])
        length, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            length, more = length + len(message["body"]), message["more_body"]
        if scope["path"] == "/slow":
            while not service.release.is_set():
                await asyncio.sleep(0.005)
        if scope["path"] == "/spin":
            time.sleep(0.02)
        body = b"z" * 30_000_000 if scope["path"] == "/big" else b"%d" % length
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    server = Server(configured(Guard(app, limits), limits, service.counts.append))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        yield service
    finally:
        for each in service.open:
            each.close()
        service.release.set()
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def shared() -> Iterator[Service]:
    """One for all tests that leave it as it was."""
    with serving(LIMITS) as service:
        yield service


def until(true: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


# Slow and silent ones


HALVES = {
    "nothing": b"",
    "a letter": b"P",
    "a line": b"POST /v1/predict HTTP/1.1\r\n",
    "a header": POST + b"X-A: b",
    "no body": POST + b"Content-Length: 10\r\n\r\n",
    "half a body": POST + b"Content-Length: 10\r\n\r\n12345",
    "half a chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12",
    "a second one": post() + POST,
}


def test_half_sent_requests_are_closed_while_others_are_served() -> None:
    """100 of 100, in the seconds they have and a little; none of them reaches the application."""
    with serving(replace(LIMITS, queue=64)) as service:
        halves = [*HALVES.values()] * 13
        began = time.monotonic()
        open_ones = [service.connect() for _ in halves[:100]]
        for sock, half in zip(open_ones, halves, strict=False):
            sock.sendall(half)
        served = [statuses(service.ask(post())) for _ in range(3)]
        ended = [everything(sock, silence=10) for sock in open_ones]
        took = time.monotonic() - began
        closed = [sock.recv(1) for sock in open_ones]
        assert served == [[200]] * 3
        assert closed == [b""] * 100
        assert took < 10 + 3
        assert service.counts.count("slow") == 100
        told = [statuses(each) for each in ended[: len(HALVES)]]
        assert told == [[], [408], [408], [408], [408], [408], [408], [200, 408]]
        assert service.paths.count("/v1/predict") == 3 + halves[:100].count(HALVES["a second one"])


def test_a_byte_now_and_then_is_no_excuse() -> None:
    with serving(LIMITS) as service, service.connect() as sock:
        sock.sendall(POST)
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - began < 15 and not service.counts:
                sock.sendall(b"X")
                time.sleep(0.05)
        assert service.counts == ["slow"]


def test_an_answer_that_nobody_takes_is_dropped() -> None:
    with serving(LIMITS) as service, service.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sock.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert until(lambda: service.counts == ["unread"])
        assert statuses(service.ask(post())) == [200]


def test_a_silent_connection_gives_way_to_a_new_one() -> None:
    limits = replace(LIMITS, connections=20, receive_seconds=30.0)
    with serving(limits) as service:
        idle = []
        for _ in range(60):
            idle.append(service.connect())
            idle[-1].sendall(post())
            assert statuses(one(idle[-1])) == [200]
        assert statuses(service.ask(post())) == [200]
        assert until(lambda: service.counts.count("connections") == 41)
        # Those that were silent the longest went.
        assert [sock.recv(1) for sock in idle[:41]] == [b""] * 41
        idle[-1].sendall(post())
        assert statuses(one(idle[-1])) == [200]


def test_where_all_are_at_work_the_new_one_goes() -> None:
    limits = replace(LIMITS, connections=8, queue=8)
    with serving(limits) as service:
        busy = [service.connect() for _ in range(8)]
        for sock in busy:
            sock.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert until(lambda: len(service.paths) == 8)
        assert service.ask(post()) == b""
        service.release.set()
        assert [statuses(everything(sock)) for sock in busy] == [[200]] * 8


# Bodies and heads


def test_a_long_body_is_refused_before_it_comes(shared: Service) -> None:
    text = POST + b"Content-Length: 49000000\r\n\r\n"
    assert statuses(shared.ask(text)) == [413]
    with shared.connect() as sock:  # and while it comes, and after all of it
        with contextlib.suppress(ConnectionError):
            sock.sendall(text + b"x" * 49_000_000)
        assert statuses(everything(sock)) == [413]
    assert shared.counts[-1] == "body"


def test_a_body_of_chunks_is_refused_when_it_grows_too_long(shared: Service) -> None:
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    with shared.connect() as sock:
        sock.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 6)
        assert everything(sock) == b""
        sock.sendall(chunk)
        assert statuses(everything(sock)) == [413]
        sock.sendall(chunk * 50 + b"0\r\n\r\n" + post(b"123"))
        answer = everything(sock)
        assert statuses(answer) == [200]
        assert answer.endswith(b"\r\n\r\n3")


def test_bodies_of_every_way_of_sending_arrive(shared: Service) -> None:
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
    assert shared.ask(chunked).endswith(b"\r\n\r\n7")
    assert shared.ask(post(b"x" * 99_999)).endswith(b"\r\n\r\n99999")
    with shared.connect() as sock:
        for byte in post(b"abc"):
            sock.sendall(bytes([byte]))
        assert everything(sock).endswith(b"\r\n\r\n3")
    with shared.connect() as sock:
        sock.sendall(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert everything(sock) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"abc")
        assert everything(sock).endswith(b"\r\n\r\n3")
    with shared.connect() as sock:
        sock.sendall(POST + b"Expect: 100-continue\r\nContent-Length: 300000\r\n\r\n")
        assert statuses(everything(sock)) == [413]


def test_requests_in_one_go_are_answered_in_their_order(shared: Service) -> None:
    bodies = [b"x" * length for length in (5, 0, 7, 300, 2)]
    answers = re.findall(rb"\r\n\r\n(\d+)", shared.ask(b"".join(map(post, bodies))))
    assert answers == [b"5", b"0", b"7", b"300", b"2"]


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 400),
        (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
        (POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: gzip, chunked, x\r\n\r\n0\r\n\r\n", 400),
        (POST + b"Content-Length: -1\r\n\r\n", 400),
        (POST + b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
        (POST + b"A: " + b"x" * HEAD + b"\r\nContent-Length: 2\r\n\r\n{}", 431),
        (POST + b"A: " + b"x" * 200_000, 431),
        (b"GET /" + b"x" * 200_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 10_000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n", 400),
        (b"GET \xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    ],
)
def test_what_is_no_http_is_told_so(text: bytes, status: int, shared: Service) -> None:
    seen = len(shared.paths)
    answer = shared.ask(text)
    assert statuses(answer) == [status]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"]
    assert len(shared.paths) == seen  # no second request hid within
    assert statuses(shared.ask(post())) == [200]


def test_an_upgrade_is_not_made(shared: Service) -> None:
    text = (
        b"GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    assert statuses(shared.ask(text)) == [200]


# The queue


def test_beyond_the_queue_one_is_told_to_come_again_and_health_is_not() -> None:
    with serving(LIMITS) as service:
        inside = [service.connect() for _ in range(4)]
        for sock in inside:
            sock.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert until(lambda: len(service.paths) == 4)
        ways = [
            post(), post(more=b"Connection: close\r\n"),
            b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n",
            POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", post() + post(),
        ]  # fmt: skip
        for text in ways:
            answer = service.ask(text)
            assert set(statuses(answer)) == {503}
            assert answer.count(b"retry-after: 1\r\n") == len(statuses(answer))
        assert statuses(service.ask(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")) == [200]
        assert len(service.paths) == 5
        assert service.counts == ["busy"] * 6
        service.release.set()
        assert [statuses(everything(sock)) for sock in inside] == [[200]] * 4
        assert statuses(service.ask(post())) == [200]


def test_a_refused_connection_goes_on() -> None:
    """Also where the next request comes before the refusal that is held back."""
    with serving(replace(LIMITS, queue=1)) as service, service.connect() as busy:
        busy.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert until(lambda: service.paths == ["/slow"])
        with service.connect() as sock:
            sock.sendall(post())
            assert statuses(everything(sock)) == [503]
            sock.sendall(post())
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert statuses(everything(sock)) == [503, 200]
            service.release.set()
            assert statuses(everything(busy)) == [200]
            sock.sendall(post(b"abc"))
            assert everything(sock).endswith(b"\r\n\r\n3")


def test_many_at_once_are_served_in_turn_and_counted_out() -> None:
    """A flood: some are answered, the others refused, none is lost, places come back."""
    with serving(LIMITS) as service:
        socks = [service.connect() for _ in range(60)]
        for _ in range(3):
            for sock in socks:
                sock.sendall(b"GET /spin HTTP/1.1\r\nHost: localhost\r\n\r\n")
            found = [statuses(one(sock)) for sock in socks]
            assert set(map(tuple, found)) <= {(200,), (503,)}
            assert 4 <= found.count([200]) < 60
        assert statuses(service.ask(post())) == [200]
        assert len(service.paths) + service.counts.count("busy") == 181
