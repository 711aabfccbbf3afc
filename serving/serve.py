"""The service as processes: one that watches, and workers that answer.

The parent binds the port and does nothing else, so that it cannot fail: it starts workers, starts
them again when they die or hang, and stops them in peace. A worker is a clean process with the
libraries loaded (forked from a server without threads, where the system can), one event loop, one
model. Workers share the listening socket, so a dead one takes no callers with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from features.errors import ClvError, InputError
from features.settings import Serving
from serving.guard import is_loopback

if TYPE_CHECKING:
    from serving.live import Live

__all__ = ["Build", "application", "listening", "require_tokens", "run"]

Build = Callable[[Serving, "Live"], tuple[Any, Any]]
HUNG: Final = 60.0  # seconds without a sign of life after which a worker is killed
STEADY: Final = 10.0  # seconds that a worker must live, else the next one waits before it starts
LONGEST: Final = 30.0  # seconds of such a wait, at most
#: Loaded once and shared by all workers; none of them starts a thread when it is imported.
LIBRARIES: Final = ["serving.serve", "serving.live", "serving.connections", "serving.batch"]


def run(chosen: Serving, build: Build | None = None, config: Path | None = None) -> int:
    """Serve until told to stop by SIGTERM or SIGINT; the exit code, 0 if all ended in peace.

    `build` makes the application in each worker, by default `application`, whose desk goes by the
    settings of `config`.

    Raises
    ------
    InputError
        Tokens are needed and there are none, the port is taken, or there is no such uplift model.
    """
    require_tokens(chosen)
    _require_uplift(chosen)
    # One thread for each worker: together they fill the processors, and one row needs no more.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # What workers tell one another lies in a folder that is new at every start.
    with listening(chosen) as sock, tempfile.TemporaryDirectory(prefix="clv-serve-") as board:
        made = build or partial(application, config=config)
        return _Supervisor(chosen, sock, made, Path(board)).run()


def require_tokens(chosen: Serving) -> bool:
    """Whether tokens are asked for.

    Raises
    ------
    InputError
        They are, and there are none.
    """
    from serving.tokens import load
    from training.tracking import home

    wanted = chosen.tokens == "always" or not is_loopback(chosen.host)
    if wanted and not load(home()):
        raise InputError(
            f"To listen on {chosen.host} there must be a token. Got none in {home()}. Make one by "
            "clv token NAME, or listen on 127.0.0.1."
        )
    return wanted


def _require_uplift(chosen: Serving) -> None:
    """Read the uplift model once: what is wrong with it is told before anybody is served."""
    if not chosen.uplift:
        return
    for option, given in (("--predictions", chosen.predictions), ("--data", chosen.data)):
        if not given:
            raise InputError(
                f"--uplift needs {option}, since lists are made of the predictions and the model "
                f"asks the orders. Got none. Add {option}, or leave out --uplift."
            )
    from serving.decisions.uplift import load, require_money

    require_money(load(Path(chosen.uplift)))


def listening(chosen: Serving) -> socket.socket:
    """A socket bound to host and port.

    Raises
    ------
    InputError
        The port is taken, or the address is none of this machine's.
    """
    try:
        found = socket.getaddrinfo(chosen.host, chosen.port, type=socket.SOCK_STREAM)
        family, kind, _, _, address = found[0]
        # Named as TCP, or asyncio would let small answers wait for the caller's acknowledgement.
        sock = socket.socket(family, kind, socket.IPPROTO_TCP)
        try:
            if os.name == "posix":  # a port just left may be taken at once; elsewhere by anybody
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(1024)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        where = f"{chosen.host} port {chosen.port}"
        cure = (
            "End the process that has it, or take another one by --port"
            if error.errno == errno.EADDRINUSE
            else "Name an address of this machine by --host and a free port by --port"
        )
        raise InputError(
            f"The service must have a port of its own. Got '{error.strerror}' for {where}. {cure}."
        ) from None
    return sock


# The parent


class _Worker:
    """A process that answers, as its parent sees it."""

    def __init__(self, chosen: Serving, sock: socket.socket, build: Build, board: Path) -> None:
        methods = multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context(
            "forkserver" if "forkserver" in methods else "spawn"
        )
        if "forkserver" in methods:
            context.set_forkserver_preload(LIBRARIES)
            _start_forkserver()
        self.pipe, theirs = context.Pipe(duplex=False)
        self.process = context.Process(
            target=_work, args=(chosen, sock, theirs, build, board), daemon=True
        )
        self.process.start()
        theirs.close()  # so that its end is seen
        self.born = self.heard = time.monotonic()
        self.version = ""  # of its model, once it answers

    def listen(self) -> None:
        """Take its signs of life."""
        with contextlib.suppress(EOFError, OSError):
            while self.pipe.poll():
                self.version = self.pipe.recv_bytes().decode()
                self.heard = time.monotonic()

    def end(self, how: signal.Signals) -> None:
        """Send it a signal, if it is still there."""
        with contextlib.suppress(OSError):
            if self.process.pid is not None and self.process.exitcode is None:
                os.kill(self.process.pid, how)


def _start_forkserver() -> None:
    """The process that workers are forked from, deaf to SIGTERM as it is to SIGINT.

    A signal to the whole group, as a terminal, systemd or a container sends it, would end it before
    the workers: nobody could tell then how those ended. It ends with its parent.
    """
    from multiprocessing import forkserver, resource_tracker

    resource_tracker.ensure_running()  # before: it would take the mask off again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        forkserver.ensure_running()  # what is blocked stays so in a child
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Supervisor:
    """Workers started, watched, started again, stopped."""

    def __init__(self, chosen: Serving, sock: socket.socket, build: Build, board: Path) -> None:
        self.given = (chosen, sock, build, board)
        self.chosen, self.sock = chosen, sock
        self.stopping = False
        self.workers: list[_Worker] = []
        self.missing = chosen.workers
        self.deaths = 0  # one after the other, each soon after its start
        self.not_before = 0.0

    def run(self) -> int:
        """Serve until told to stop."""
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self._stop)
        # One first: what keeps it from starting is told once, and not by all of them.
        self._start()
        first = self.workers[0]
        while not self.stopping and not first.version:
            self._wait()
            if first.process.exitcode is not None:
                return self._failed(first)
        if not self.stopping:
            _say(_welcome(self.chosen, self.sock, first.version))
        while not self.stopping:
            while self.missing and time.monotonic() >= self.not_before:
                self._start()
            self._wait()
            self._bury()
        return self._end()

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def _start(self) -> None:
        self.workers.append(_Worker(*self.given))
        self.missing -= 1

    def _wait(self) -> None:
        """Sleep until a worker says something or dies, or a short time is over."""
        handles: list[Any] = [each.pipe for each in self.workers]
        wait([*handles, *(each.process.sentinel for each in self.workers)], timeout=0.2)
        for each in self.workers:
            each.listen()

    def _failed(self, first: _Worker) -> int:
        code = first.process.exitcode or 0
        return code if code in (1, 2) else 1

    def _bury(self) -> None:
        """Replace the dead, and kill those that no longer answer."""
        now = time.monotonic()
        for each in list(self.workers):
            if now - each.heard > HUNG:
                _say(f"worker {each.process.pid} hangs and is ended")
                each.end(signal.SIGKILL)
                each.process.join(5)
            if each.process.exitcode is None:
                continue
            _say(f"worker {each.process.pid} ended ({each.process.exitcode}); another one starts")
            each.pipe.close()
            self.workers.remove(each)
            self.missing += 1
            self.deaths = self.deaths + 1 if now - each.born < STEADY else 0
            if self.deaths:
                self.not_before = now + min(LONGEST, 0.25 * 2**self.deaths)

    def _end(self) -> int:
        """Tell all to finish what they admitted, and wait for them."""
        self.sock.close()
        for each in self.workers:
            each.end(signal.SIGTERM)
        until = time.monotonic() + self.chosen.drain_seconds + 5.0
        for each in self.workers:
            each.process.join(max(0.1, until - time.monotonic()))
            if each.process.exitcode is None:
                each.end(signal.SIGKILL)
                each.process.join(5)
        # One that had not begun to serve ends by the signal itself.
        codes = [each.process.exitcode for each in self.workers]
        peace = all(code in (0, -signal.SIGTERM) for code in codes)
        _say("stopped" if peace else "stopped, but a worker had to be ended")
        return 0 if peace else 1


def _welcome(chosen: Serving, sock: socket.socket, version: str) -> str:
    host = f"[{chosen.host}]" if ":" in chosen.host else chosen.host
    who = "with a token" if require_tokens(chosen) else "from this machine"
    workers = f"{chosen.workers} worker" + ("s" if chosen.workers > 1 else "")
    where = f"http://{host}:{sock.getsockname()[1]}"
    return f"model {version} answers on {where} ({workers}, {who})"


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody reads: no reason to stop serving
        print(f"clv: {text}", file=sys.stderr, flush=True)


# A worker


def _work(chosen: Serving, sock: socket.socket, pipe: Pipe, build: Build, board: Path) -> None:
    """Load the model and answer; exit code 2 where it cannot be loaded, having said why."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal tells the parent, who tells us
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # see _start_forkserver
    _log_plainly()
    try:
        _serve(chosen, sock, pipe, build, board)
    except ClvError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except Exception as error:
        if os.environ.get("CLV_DEBUG"):
            raise
        _say(f"our fault ({type(error).__name__}). CLV_DEBUG=1 shows where; please report it.")
        sys.exit(1)


def _serve(chosen: Serving, sock: socket.socket, pipe: Pipe, build: Build, folder: Path) -> None:
    from serving.board import Board
    from serving.connections import Server, configured
    from serving.guard import Guard
    from serving.live import Live
    from serving.online import warm
    from serving.tokens import Tokens
    from training.tracking import home

    board = Board(folder)
    live = Live(chosen.model, chosen.follow_seconds, warm, board.ask)
    app, metrics = build(chosen, live)
    if metrics is not None and chosen.workers > 1:
        metrics.share(board)
    tokens = Tokens(home()) if require_tokens(chosen) else None
    guard = Guard(app, chosen, tokens, metrics)
    count = metrics.refused if metrics else None
    os.set_blocking(pipe.fileno(), False)  # a parent that is held up must not hold us up
    server: Server

    async def tell() -> None:
        try:
            pipe.send_bytes(live.loaded.version.encode())
        except BlockingIOError:
            pass
        except OSError:
            server.should_exit = True  # the parent is gone
        if metrics is not None:
            metrics.post(live.status())
        if board.asked():
            await asyncio.to_thread(live.look)

    server = Server(configured(guard, chosen, count, tell))
    gc.collect()
    gc.freeze()  # libraries and model stay: to look through them again and again costs requests
    live.start()
    server.run(sockets=[sock])
    live.stop()


def application(chosen: Serving, live: Live, config: Path | None = None) -> tuple[Any, Any]:
    """The HTTP application, and what counts its requests and refusals.

    Its desk goes by the settings of `config`, by default by those beside the data.
    """
    from serving import lookup
    from serving.api import Options
    from serving.api import application as make
    from serving.desk.prepared import Source
    from serving.metrics import Metrics
    from training.tracking import home

    metrics = Metrics()
    file = chosen.predictions
    place = lookup.latest(home()) if file == "latest" else Path(file) if file else None
    uplift = Path(chosen.uplift) if chosen.uplift else None
    source = None if place is None else Source(place, chosen.data or None, config, uplift)
    if source is not None:
        source.current()  # begins to work out what there is: the first visitor need not wait
    options = Options(
        predictions=place,
        max_customers=chosen.customers,
        max_orders=chosen.orders,
        max_lines=chosen.lines,
        metrics=metrics,
        tokens=require_tokens(chosen),
        desk=_desk(chosen, live, metrics, source),
        warning=source.warning if source else lambda: None,
    )
    return make(live, options), metrics


def _desk(chosen: Serving, live: Live, metrics: Any, source: Any) -> Any:
    """The pages for people; their sessions are signed with a key made of the models' one."""
    from serving.desk.frame import Desk
    from serving.desk.routes import application as pages
    from serving.desk.session import Sessions
    from serving.tokens import Tokens
    from training import bundle
    from training.tracking import home

    tokens = Tokens(home()) if require_tokens(chosen) else None
    sessions = Sessions(bundle.key(home()), tokens, ended=home() / "desk-left")
    return pages(Desk(live, sessions, metrics, source))


def _log_plainly() -> None:
    """What matters, on standard error, without anybody's data: uvicorn's own lines are left out."""
    logging.raiseExceptions = False  # a closed standard error is no reason to stop serving
    logging.basicConfig(format="clv: %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("clv").setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
