"""What the service answers with: JSON bodies, and one form for everything that is refused.

    {"error": {"type": "missing_amount", "where": "customers[0].orders[3].amount",
               "message": "must be a number"}}

An error never holds what came, a path of this machine or a trace: whoever reads logs or answers
must not meet a customer there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from features.records import RecordError, path

__all__ = ["JSON", "Problem", "dumped", "problem_of", "refusal"]

JSON: Final = b"application/json"
Headers = list[tuple[bytes, bytes]]


class Problem(Exception):  # noqa: N818  a request that cannot be answered is no fault of the service
    """A request that is refused: status, type of the problem, what must hold, and where."""

    def __init__(
        self, status: int, kind: str, message: str, where: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(kind)
        self.status, self.kind, self.message = status, kind, message
        self.where, self.headers = where, dict(headers or {})

    def body(self) -> bytes:
        """The one form of errors."""
        told = {"type": self.kind, "message": self.message}
        if self.where is not None:
            told["where"] = self.where
        return dumped({"error": told})


def problem_of(error: RecordError) -> Problem:
    """The answer to a field that is not as it must be."""
    return Problem(422, error.rule, error.must, path(error.where))


def refusal(status: int, kind: str, message: str) -> tuple[int, Headers, bytes]:
    """Status, headers and body of a refusal, for whoever answers without a framework."""
    body = Problem(status, kind, message).body()
    return status, [(b"content-type", JSON), (b"content-length", b"%d" % len(body))], body


def dumped(value: Any) -> bytes:
    """JSON in UTF-8 without spaces; floats as their shortest text, which reads back to the bit."""
    return orjson.dumps(value)
