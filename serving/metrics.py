"""Counters of the service in the text format that Prometheus reads (version 0.0.4).

Each worker counts for itself and posts what it has where the others read it: whoever is asked tells
the sum. Nothing here can name a customer: routes are those of the application, not the paths that
were asked for.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from serving.board import Board

__all__ = ["Metrics"]

SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
CHURN: Final = tuple(k / 10 for k in range(1, 11))
VALUE: Final = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0)  # currency


class _Histogram:
    """Counts by upper bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def plus(self, counts: Sequence[int], total: float) -> None:
        """Take over what another one has counted."""
        self.counts = [a + b for a, b in zip(self.counts, counts, strict=True)]
        self.total += total

    def told(self) -> tuple[list[int], float]:
        """As `plus` takes it."""
        return self.counts, self.total

    def lines(self, name: str, labels: str = "") -> Iterable[str]:
        seen, more = 0, f",{labels}" if labels else ""
        for bound, count in zip([*self.bounds, "+Inf"], self.counts, strict=True):
            seen += count
            yield f'{name}_bucket{{le="{bound}"{more}}} {seen}'
        own = f"{{{labels}}}" if labels else ""
        yield f"{name}_sum{own} {self.total!r}"
        yield f"{name}_count{own} {seen}"


class Metrics:
    """What one process has answered, and by `text` all of them.

    `worker` is the process's number, which names it among them.
    """

    def __init__(self, worker: int | None = None) -> None:
        self.worker = worker or os.getpid()
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._refused: Counter[str] = Counter()
        self._seconds: dict[str, _Histogram] = {}
        self._churn, self._value = _Histogram(CHURN), _Histogram(VALUE)
        self._board: Board | None = None
        self._workers: dict[int, tuple[str, bool]] = {}  # version, and whether one was refused

    def share(self, board: Board) -> None:
        """Count together with those who post on the same board."""
        self._board = board

    def post(self, status: Mapping[str, Any]) -> None:
        """Tell the others what is counted here and which model answers."""
        if self._board is not None:
            with self._lock:
                self._board.post(self._told(status))

    def _told(self, status: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "worker": self.worker, "version": str(status.get("version", "")),
            "degraded": bool(status.get("error")),
            "requests": [[*key, count] for key, count in self._requests.items()],
            "refused": dict(self._refused),
            "seconds": {route: each.told() for route, each in self._seconds.items()},
            "churn": self._churn.told(), "value": self._value.told(),
        }  # fmt: skip

    def _plus(self, told: Mapping[str, Any], there: bool) -> None:
        """Take over what a worker told; of one that is gone the counts alone."""
        for route, status, count in told["requests"]:
            self._requests[route, status] += count
        self._refused.update(told["refused"])
        for route, each in told["seconds"].items():
            self._seconds.setdefault(route, _Histogram(SECONDS)).plus(*each)
        self._churn.plus(*told["churn"])
        self._value.plus(*told["value"])
        if there:
            self._workers[told["worker"]] = told["version"], told["degraded"]

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count an answer of the application and how long it took."""
        with self._lock:
            self._requests[route, status] += 1
            self._seconds.setdefault(route, _Histogram(SECONDS)).add(seconds)

    def refused(self, reason: str) -> None:
        """Count a request that did not reach the application, or that it refused."""
        with self._lock:
            self._refused[reason] += 1

    def scored(self, rows: Iterable[Mapping[str, Any]], months: int) -> None:
        """Count predictions by churn and value of `months`: how they drift shows here first."""
        with self._lock:
            for row in rows:
                self._churn.add(row[f"churn_{months}m"])
                self._value.add(row[f"clv_{months}m"])

    def text(self, status: Mapping[str, Any]) -> str:
        """All of it; `status` is that of the model which serves here."""
        self.post(status)  # so that no other one tells less than this one does now
        whole = Metrics()
        with self._lock:
            whole._plus(self._told(status), True)
        for told, there in self._board.others() if self._board is not None else ():
            whole._plus(told, there)
        return "\n".join([*whole._lines(), ""])

    def _lines(self) -> Iterable[str]:
        yield from _head("clv_requests_total", "counter", "Answers by route and status.")
        for (route, code), count in sorted(self._requests.items()):
            yield f'clv_requests_total{{route="{route}",status="{code}"}} {count}'
        yield from _head("clv_refused_total", "counter", "Requests refused, by reason.")
        for reason, count in sorted(self._refused.items()):
            yield f'clv_refused_total{{reason="{_label(reason)}"}} {count}'
        yield from _head("clv_request_seconds", "histogram", "Time to answer.")
        for route, histogram in sorted(self._seconds.items()):
            yield from histogram.lines("clv_request_seconds", f'route="{route}"')
        yield from _head("clv_churn", "histogram", "Predicted churn of the first horizon.")
        yield from self._churn.lines("clv_churn")
        yield from _head("clv_value", "histogram", "Predicted value of the first horizon.")
        yield from self._value.lines("clv_value")
        workers = sorted(self._workers.items())
        yield from _head("clv_model_info", "gauge", "The versions that serve.")
        for version in sorted({version for _, (version, _) in workers}):
            yield f'clv_model_info{{version="{_label(version)}"}} 1'
        yield from _head("clv_worker_info", "gauge", "The version that each worker serves.")
        for worker, (version, _) in workers:
            yield f'clv_worker_info{{worker="{worker}",version="{_label(version)}"}} 1'
        yield from _head("clv_model_degraded", "gauge", "1 while a newer model was refused.")
        yield f"clv_model_degraded {int(any(degraded for _, (_, degraded) in workers))}"


def _head(name: str, kind: str, text: str) -> Iterable[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
