"""What every request must pass before the application sees it: plain ASGI, no framework.

    host and origin -> token and role -> rate -> length -> application, in bounded time

A refusal is one short JSON form and never tells what came. What ASGI sees too late, connections
that send nothing or half a request and more requests than can be answered, is the matter of
`serving.connections`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from features.settings import Serving
from serving.answers import Problem
from serving.desk import is_own
from serving.tokens import Token

__all__ = [
    "LOOPBACK",
    "OPEN",
    "UNQUEUED",
    "Finder",
    "Guard",
    "RefusalError",
    "answer",
    "is_loopback",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("clv.guard")

#: Answered to anybody at any time: who watches over the service has no token and cannot wait.
OPEN: Final = frozenset({"/health", "/ping", "/v2/health/live", "/v2/health/ready"})
#: Never made to wait either, but not for everybody.
UNQUEUED: Final = OPEN | {"/metrics", "/version"}
ADMIN: Final = "/admin/"
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
BUSY: Final = 1  # seconds after which to come again


class Finder(Protocol):
    """What finds a token, see `serving.tokens.Tokens`."""

    def find(self, text: str) -> Token | None:
        """The token that `text` is."""


class Counter(Protocol):
    """What counts refusals, see `serving.metrics.Metrics`."""

    def refused(self, reason: str) -> None:
        """Count one."""


@dataclass(eq=False)
class RefusalError(Exception):
    """A request that goes no further, and the answer it gets."""

    status: int
    reason: str  # for the metrics: host, origin, token, role, body, rate, busy, slow
    type: str
    message: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Guard:
    """An ASGI application around another one.

    Parameters
    ----------
    app
        The application.
    limits
        Lengths, seconds, the queue and the names of this host.
    tokens
        Who may ask; None lets anybody in.
    metrics
        Told of every refusal.
    """

    def __init__(
        self,
        app: App,
        limits: Serving,
        tokens: Finder | None = None,
        metrics: Counter | None = None,
    ) -> None:
        self.app, self.limits, self.tokens, self.metrics = app, limits, tokens, metrics
        self.hosts = _hosts(limits)
        self._buckets: dict[str, _Bucket] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            answer = _Answer(send)
            try:
                await self._admitted(scope, _Body(receive, self.limits.body_bytes, answer), answer)
            except RefusalError as refusal:
                await self._refuse(answer, refusal)
            except Exception as error:
                await self._fault(answer, error)

    async def _admitted(self, scope: Scope, body: _Body, answer: _Answer) -> None:
        path, headers = scope["path"], _Headers(scope["headers"])
        self._check_host(headers)
        if path not in OPEN:
            self._check_rate(self._who(path, headers, scope))
        body.check_length(headers)
        await self._timed(scope, body, answer)

    async def _timed(self, scope: Scope, body: _Body, answer: _Answer) -> None:
        try:
            async with asyncio.timeout(self.limits.seconds) as limit:
                try:
                    await self.app(scope, body.receive, answer.send)
                except Exception:
                    if not body.cut:  # else it only says that its body ended too soon
                        raise
        except TimeoutError:
            if not limit.expired():
                raise
            raise RefusalError(
                503, "deadline", "too_slow", "The answer took too long. Ask for less at once.",
                _later(BUSY),
            ) from None  # fmt: skip
        if body.refusal is not None:
            raise body.refusal

    # What must hold

    def _check_host(self, headers: _Headers) -> None:
        """Names that are not ours are somebody else's, or a browser led here by a foreign page."""
        if self.hosts is None:
            return
        host = headers.only(b"host")
        if host is None or _name(f"//{host}") not in self.hosts:
            raise RefusalError(400, "host", "unknown_host", "Host must name this service.")
        origin = headers.only(b"origin")
        if origin is not None and _name(origin) not in self.hosts:
            raise RefusalError(403, "origin", "foreign_origin", "Pages of other sites may not ask.")

    def _who(self, path: str, headers: _Headers, scope: Scope) -> str:
        """The name of who asks: that of the token, else the address."""
        if self.tokens is None:
            return str((scope.get("client") or ("",))[0])
        kind, _, text = (headers.only(b"authorization") or "").partition(" ")
        token = self.tokens.find(text.strip()) if kind.lower() == "bearer" else None
        if token is None:
            if is_own(path):  # it asks for a session instead
                return str((scope.get("client") or ("",))[0])
            raise RefusalError(
                401, "token", "no_token", "Send a token: Authorization: Bearer TOKEN.",
                ((b"www-authenticate", b"Bearer"),),
            )  # fmt: skip
        if path.startswith(ADMIN) and token.role != "admin":
            raise RefusalError(403, "role", "wrong_role", "This needs a token of the role admin.")
        return token.name

    def _check_rate(self, who: str) -> None:
        if not self.limits.rate:
            return
        bucket = self._buckets.get(who)
        if bucket is None:
            if len(self._buckets) >= 10_000:  # addresses cost nothing: forget the oldest
                self._buckets.pop(next(iter(self._buckets)))
            bucket = self._buckets[who] = _Bucket(self.limits.rate)
        wait = bucket.take()
        if wait:
            raise RefusalError(
                429, "rate", "too_many", "You ask too often. See Retry-After.", _later(wait)
            )

    # Answers

    async def _refuse(self, answer: _Answer, refusal: RefusalError) -> None:
        if self.metrics is not None:
            self.metrics.refused(refusal.reason)
        await answer.whole(refusal)

    async def _fault(self, answer: _Answer, error: Exception) -> None:
        """The last net: nothing of the error, which may hold a customer's data, gets out."""
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        code = place.tb_frame.f_code if place else None
        where = f"{code.co_qualname}, line {place.tb_lineno}" if code and place else "nowhere"
        log.error("our fault: %s in %s", type(error).__name__, where)
        await answer.whole(
            RefusalError(500, "fault", "our_fault", "Our fault. It has been logged.")
        )


class _Headers:
    """Headers by lower-case name; a name that comes twice where one may come is nobody's."""

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        self._all: dict[bytes, list[bytes]] = {}
        for name, value in pairs:
            self._all.setdefault(name, []).append(value)

    def only(self, name: bytes) -> str | None:
        """The one value; None if there is none, "" if there are several."""
        values = self._all.get(name)
        if not values:
            return None
        return values[0].decode("latin-1") if len(values) == 1 else ""


class _Answer:
    """Sending, with the memory of what was sent: nothing follows the end, nothing comes twice."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = self.closed = False

    async def send(self, message: Message) -> None:
        """Hand on what the application says, unless a refusal has been sent already."""
        if self.closed:
            return
        self.started = True
        await self._send(message)

    async def whole(self, refusal: RefusalError) -> None:
        """The refusal, if nothing was answered yet; else the connection is left to break off."""
        if self.started or self.closed:
            return
        self.closed = True
        body = _body(refusal.type, refusal.message)
        length = str(len(body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length)]
        start = {"status": refusal.status, "headers": [*headers, *refusal.headers]}
        await self._send({"type": "http.response.start", **start})
        await self._send({"type": "http.response.body", "body": body})


class _Body:
    """Receiving, counted: a body that grows beyond the limit is refused while it comes."""

    def __init__(self, receive: Receive, most: int, answer: _Answer) -> None:
        self._receive, self._most, self._answer = receive, most, answer
        self._came = 0
        self.refusal: RefusalError | None = None
        self.cut = False

    def check_length(self, headers: _Headers) -> None:
        """Refuse by what is announced, before a byte of it is read."""
        announced = headers.only(b"content-length")
        if announced is None:
            return
        if not (announced.isascii() and announced.isdigit()):
            raise RefusalError(400, "body", "bad_length", "Content-Length must be a number.")
        if len(announced) > 18 or int(announced) > self._most:
            raise self._too_long()

    async def receive(self) -> Message:
        """The next part; the end of the connection once too much has come."""
        if self.refusal is None:
            message = await self._receive()
            self.cut = message["type"] == "http.disconnect"
            self._came += len(message.get("body", b""))
            if self._came <= self._most:
                return message
            self.refusal, self.cut = self._too_long(), True
        return {"type": "http.disconnect"}

    def _too_long(self) -> RefusalError:
        text = f"A body may have at most {self._most} bytes. Send less at once."
        return RefusalError(413, "body", "too_long", text)


class _Bucket:
    """A bucket of leaking tokens: `rate` a second on average, twice that at once."""

    def __init__(self, rate: float) -> None:
        self._rate, self._left, self._last = rate, 2 * rate, time.monotonic()

    def take(self) -> int:
        """0 if there is one left, else the whole seconds until there is."""
        now = time.monotonic()
        self._left = min(2 * self._rate, self._left + (now - self._last) * self._rate)
        self._last = now
        if self._left >= 1:
            self._left -= 1
            return 0
        return max(1, round((1 - self._left) / self._rate + 0.5))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


#: What is said of requests that never become one.
PLAIN: Final = {
    400: ("bad_request", "This is no HTTP request that can be answered."),
    408: ("too_slow", "The request took too long to arrive."),
    413: ("too_long", "The body is too long. Send less at once."),
    431: ("too_long", "The headers are too long."),
    503: ("too_busy", "All places are taken. Come again."),
}


@cache
def answer(status: int, keep: bool = False) -> bytes:
    """A whole answer of HTTP/1.1 to what the application never sees; then we hang up, or `keep`."""
    body = _body(*PLAIN[status])
    again = f"retry-after: {BUSY}\r\n" if status == 503 else ""
    end = "" if keep else "connection: close\r\n"
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n{again}{end}\r\n"
    )
    return head.encode() + body


def _body(kind: str, message: str) -> bytes:
    return Problem(0, kind, message).body()


def _hosts(limits: Serving) -> frozenset[str] | None:
    """The names that a request may ask for; None for any."""
    if limits.hosts:
        return frozenset(each.lower() for each in limits.hosts)
    return frozenset((*LOOPBACK, limits.host.lower())) if is_loopback(limits.host) else None


def _name(url: str) -> str | None:
    """The host's name in lower case, without port and brackets."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _later(seconds: int) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"retry-after", str(seconds).encode()),)
