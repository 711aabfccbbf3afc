"""Connections and their requests before ASGI: deadlines, the queue, and quick refusals.

uvicorn closes a connection that is silent *between* two requests, but lets a half-sent one stand
for ever. Here every connection has a deadline for what it owes, swept twice a second:

    silent between two requests             `idle_seconds`
    from the first byte to the last         `receive_seconds`, also for a new one without any
    an answer that waits to be taken        `receive_seconds`

and there are at most so many; then the one that was silent the longest gives way.

The application sees a request when all of it is here, so a slow sender takes nobody's place. An
answer takes a millisecond of one processor, so they are given one by one, first come, first
served, with a look at the sockets in between: whoever finds the queue full is told at once, and
``/health`` waits for one answer at most. Who is refused again is held back a little, which costs
nothing and keeps those who come again at once from taking the time of those who are served.
"""

from __future__ import annotations

import contextlib
import re
import signal
import threading
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from features.settings import Serving
from serving.guard import UNQUEUED, answer

__all__ = ["HEAD", "Connection", "Queue", "Server", "configured"]

HEAD: Final = 16 * 1024  # bytes of request line and headers
UNFINISHED: Final = 32 * 1024 * 1024  # bytes of all bodies together that are still to be completed
HELD: Final = 0.036  # seconds that a refused caller waits for the refusal, at most
SWEEP: Final = 5  # ticks of uvicorn's, each a tenth of a second
#: A request for a place in the queue whose end is told by one Content-Length and nothing else.
PLAIN: Final = re.compile(
    rb"POST [^\r]* HTTP/1.1\r\n(?:[^\r]*\r\n)*?content-length: *(\d{1,9})\r\n", re.I
)
TWICE: Final = re.compile(
    rb"\r\n(?:transfer-encoding|expect|upgrade|connection):|content-length:", re.I
)


class Queue:
    """Requests that were admitted: one is started in every turn of the event loop."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.inside = 0  # admitted and not yet answered
        self.unfinished = 0  # bytes of bodies
        self._waiting: deque[Callable[[], Any]] = deque()
        self._held: list[Connection] = []

    def hold(self, connection: Connection) -> None:
        """Refuse it, together with the others of the same moment."""
        if not self._held:
            connection.loop.call_later(HELD, self._let_go)
        self._held.append(connection)

    def _let_go(self) -> None:
        held, self._held = self._held, []
        for each in held:
            if each.held:
                each.let_go()

    @property
    def full(self) -> bool:
        """Whether there is no place left."""
        return self.inside >= self.most

    def enter(self, loop: AbstractEventLoop, start: Callable[[], Any]) -> None:
        """Take a place; `start` makes a task, whose end gives it back."""
        self.inside += 1
        self._waiting.append(start)
        if len(self._waiting) == 1:
            loop.call_soon(self._next, loop)

    def _next(self, loop: AbstractEventLoop) -> None:
        task = self._waiting[0]()
        self._waiting.popleft()
        task.add_done_callback(self._leave)
        if self._waiting:
            loop.call_soon(self._next, loop)

    def _leave(self, _: Any) -> None:
        self.inside -= 1


class Connection(HttpToolsProtocol):
    """One connection of HTTP/1.1, and since when it owes a request or the taking of an answer."""

    # Of the subclass that `configured` makes.
    limits: Serving
    queue: Queue
    count: Callable[[str], None]
    transport: Any
    connections: set[Any]

    def connection_made(self, transport: Any) -> None:
        """Take it; beyond the limit the most silent one gives way, or it where all are at work."""
        super().connection_made(transport)
        self.since = self.loop.time()
        self.owes = True  # the rest of a request
        self.head = 0  # bytes of it that came, while its headers are not whole
        self.in_head = True
        self.held = False  # whether a refusal is held back
        self.new = True  # whether nothing was asked of it before
        if len(self.connections) > self.limits.connections:
            silent = [each for each in self.connections if each.silent and each is not self]
            min(silent, key=lambda each: float(each.since), default=self).give_up("connections")

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone, and so is what it owed."""
        self._unfinished(0)
        self.held = False
        super().connection_lost(exc)

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self.held or (self.cycle is not None and not self.cycle.response_complete)

    @property
    def silent(self) -> bool:
        """Whether it is open without a request, even a begun one."""
        return not self.busy and (not self.owes or self.head == 0)

    # What comes

    def data_received(self, data: bytes) -> None:
        """Parse what came; the time runs from a request's first byte."""
        if self.queue.full and self.silent and self._whole(data):
            self._refuse_quickly()
            return
        if self.held:  # answers come in the order of requests
            self.let_go()
        if not self.owes:
            self.owes, self.since, self.head, self.in_head = True, self.loop.time(), 0, True
        if self.in_head:
            self.head += len(data)
        super().data_received(data)
        if self.in_head and self.owes and self.head > HEAD and not self.transport.is_closing():
            self.give_up("head", 431)  # it goes on without an end

    def on_message_begin(self) -> None:
        """A request begins, maybe right behind another one."""
        super().on_message_begin()
        if not self.owes:
            self.owes, self.since, self.head = True, self.loop.time(), 1

    def on_headers_complete(self) -> None:
        """The head is whole; one that is too large makes the parser stop."""
        if sum(len(name) + len(value) for name, value in self.headers) + len(self.url) > HEAD:
            self.head = HEAD + 1  # without blanks and ends of lines it was too much already
            raise ValueError("too large a head")
        self.in_head = False
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Called once the head is here, or when an earlier request was answered: wait for the rest.

        A body that is announced to be too long is refused before any of it comes.
        """
        announced = dict(cycle.scope["headers"]).get(b"content-length", b"")
        if announced.isdigit() and int(announced[:12]) > self.limits.body_bytes:
            self._refuse(cycle, 413, "body")
        elif not cycle.more_body:
            self._enter(cycle, app)
        else:
            self._app = app
            if cycle.waiting_for_100_continue:
                cycle.waiting_for_100_continue = False
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Keep it until all is here; both each and all of them together have a limit."""
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        self._unfinished(len(cycle.body))
        too_long = len(cycle.body) > self.limits.body_bytes
        if too_long or self.queue.unfinished > UNFINISHED:
            if self._earlier():
                self.give_up("body")
            else:
                self._refuse(cycle, *((413, "body") if too_long else (503, "busy")))

    def on_message_complete(self) -> None:
        """The request is whole: from here on we owe."""
        super().on_message_complete()
        self._unfinished(0)
        self.owes, self.in_head = False, True
        cycle = self.cycle
        if not cycle.response_complete and not any(each is cycle for each, _ in self.pipeline):
            self._enter(cycle, self._app)

    _kept = 0

    def _unfinished(self, now: int) -> None:
        self.queue.unfinished += now - self._kept
        self._kept = now

    # Admission

    def _enter(self, cycle: Any, app: Any) -> None:
        path = cycle.scope["path"]
        if path in UNQUEUED:
            super()._start_asgi_task(cycle, app)
        elif self.queue.full:
            self._refuse(cycle, 503, "busy")
        else:
            self.queue.enter(self.loop, lambda: self._task(cycle, app))

    def _task(self, cycle: Any, app: Any) -> Any:
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        return task

    def _refuse(self, cycle: Any, status: int, reason: str) -> None:
        """Answer in the application's place, and let the rest of the request come to nothing."""
        self.count(reason)
        cycle.body = bytearray()
        self._unfinished(0)
        cycle.response_started = cycle.response_complete = True
        self.transport.write(answer(status, keep=cycle.keep_alive))
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _whole(self, data: bytes) -> bool:
        """Whether this is one whole plain request, whose end no two readers could see elsewhere."""
        end = data.find(b"\r\n\r\n")
        found = PLAIN.match(data, 0, end + 2) if 0 < end <= HEAD else None
        if found is None or len(data) != end + 4 + int(found[1]):
            return False
        return len(TWICE.findall(data, 0, end)) == 1

    def _refuse_quickly(self) -> None:
        """Without parsing: who is refused must cost much less than who is served."""
        self._unset_keepalive_if_required()
        self.since, self.owes = self.loop.time(), False
        if self.new:  # it waited to be taken in; many come at once when a flood begins
            self.let_go()
        else:
            self.held = True
            self.queue.hold(self)

    def let_go(self) -> None:
        """Send the refusal that was held back."""
        self.held = self.new = False
        self.count("busy")
        self.transport.write(answer(503, keep=True))

    # Answers and deadlines

    def on_response_complete(self) -> None:
        """It is answered; what is still to come of its body has until the same deadline."""
        super().on_response_complete()
        self.new = False
        if not self.owes:
            self.since = self.loop.time()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  uvicorn's words
        """No HTTP, or none that we understand."""
        if self.head > HEAD:
            self.give_up("head", 431)
        else:
            self.give_up("malformed", 400)

    def sweep(self, now: float) -> None:
        """Close it if it is late with what it owes."""
        if now - self.since <= min(self.limits.receive_seconds, self.limits.idle_seconds):
            return
        waiting = self.transport.get_write_buffer_size() > 0
        if waiting and (not self.busy or self.transport.is_closing()):
            self.give_up("unread")
        elif self.silent and not self.owes:
            if now - self.since > self.limits.idle_seconds:
                self.give_up("idle")
        elif self.owes and not self.flow.read_paused and not self.transport.is_closing():
            self.give_up("slow", 408 if self.head else 0)

    def give_up(self, reason: str, status: int = 0) -> None:
        """Close it, with a status where the request it owes was not answered yet."""
        self.count(reason)
        answered = not self.in_head and self.cycle.response_started
        if status and not answered and not self._earlier():
            self.transport.write(answer(status))
            self.transport.close()
        else:
            self.transport.abort()

    def _earlier(self) -> bool:
        """Whether an earlier request of the same connection is still being answered."""
        return bool(self.pipeline) or (self.in_head and self.busy)


class Server(uvicorn.Server):
    """uvicorn's server that sweeps its connections, and ends in peace when told to stop."""

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if counter % SWEEP == 0:
            connections: list[Any] = list(self.server_state.connections)
            for each in connections:
                each.sweep(each.loop.time())
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGTERM; uvicorn would send it to itself once more when all is done."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self.handle_exit)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def configured(
    app: Any,
    limits: Serving,
    count: Callable[[str], None] | None = None,
    tell: Callable[[], Awaitable[None]] | None = None,
) -> uvicorn.Config:
    """uvicorn for `app` within `limits`.

    `count` is told why a request was refused or a connection closed, `tell` called every second as
    long as all is well.
    """
    own = {
        "limits": limits, "queue": Queue(limits.queue),
        "count": staticmethod(count or (lambda _: None)),
    }  # fmt: skip
    return uvicorn.Config(
        app,
        http=type("Connection", (Connection,), own),
        ws="none",
        loop="asyncio",  # it takes all who knock in one turn, where uvloop takes one a turn
        log_config=None,
        access_log=False,  # paths hold ids of customers
        server_header=False,
        proxy_headers=False,  # whoever asks could claim any address
        timeout_keep_alive=max(1, round(limits.idle_seconds)),
        timeout_graceful_shutdown=max(1, round(limits.drain_seconds)),
        callback_notify=tell,
        timeout_notify=1,
    )
