"""Counters of the service in the text format that Prometheus reads (version 0.0.4).

One process counts for itself; nothing here can name a customer: routes are those of the
application, not the paths that were asked for.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

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

    def lines(self, name: str, labels: str = "") -> Iterable[str]:
        seen, more = 0, f",{labels}" if labels else ""
        for bound, count in zip([*self.bounds, "+Inf"], self.counts, strict=True):
            seen += count
            yield f'{name}_bucket{{le="{bound}"{more}}} {seen}'
        own = f"{{{labels}}}" if labels else ""
        yield f"{name}_sum{own} {self.total!r}"
        yield f"{name}_count{own} {seen}"


class Metrics:
    """What one process has answered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._refused: Counter[str] = Counter()
        self._seconds: dict[str, _Histogram] = {}
        self._churn, self._value = _Histogram(CHURN), _Histogram(VALUE)

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
        """All of it; `status` is that of the model which serves."""
        with self._lock:
            return "\n".join([*self._lines(status), ""])

    def _lines(self, status: Mapping[str, Any]) -> Iterable[str]:
        version = _label(str(status.get("version", "")))
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
        yield from _head("clv_model_info", "gauge", "The version that serves.")
        yield f'clv_model_info{{version="{version}"}} 1'
        yield from _head("clv_model_degraded", "gauge", "1 while a newer model was refused.")
        yield f"clv_model_degraded {int(bool(status.get('error')))}"


def _head(name: str, kind: str, text: str) -> Iterable[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
