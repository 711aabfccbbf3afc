"""The service from Python, with the standard library alone.

>>> from serving.client import Client
>>> orders = [{"order_ts": "2025-05-02", "amount": 24.5}]
>>> with Client("http://127.0.0.1:8080") as shop:  # doctest: +SKIP
...     answer = shop.predict([{"customer_id": "0042", "orders": orders}], as_of="2025-07-01")
...     0 < answer["predictions"][0]["churn_12m"] < 1
True
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping, Sequence
from typing import Any, Self
from urllib.parse import quote, urlsplit

from features.errors import InputError

__all__ = ["Client", "ServiceError"]


class ServiceError(InputError):
    """The service refused: its status, and the type, place and message it gave."""

    def __init__(self, status: int, told: Mapping[str, Any], retry_after: str | None) -> None:
        self.status, self.kind = status, str(told.get("type", "refused"))
        self.where, self.retry_after = told.get("where"), retry_after
        place = f"{self.where} " if self.where else ""
        super().__init__(f"The service answered {status}: {place}{told.get('message', '')}.")


class Client:
    """One connection, kept open; not to be shared by threads.

    `token` is sent as a bearer token; `timeout` is in seconds.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 10.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"The url must be like http://127.0.0.1:8080. Got {url!r}.")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else (
            http.client.HTTPConnection
        )  # fmt: skip
        self._connection = kind(parts.hostname, parts.port, timeout=timeout)
        self._headers = {"content-type": "application/json"}
        if token:
            self._headers["authorization"] = f"Bearer {token}"

    def predict(
        self,
        customers: Sequence[Mapping[str, Any]],
        as_of: str,
        horizons: Sequence[int] | None = None,
        reasons: int = 0,
    ) -> dict[str, Any]:
        """Predictions of customers with their raw orders; see POST /v1/predict.

        Raises
        ------
        ServiceError
            The service refused; its ``where`` names the field.
        OSError
            It did not answer.
        """
        asked: dict[str, Any] = {"as_of": as_of, "customers": list(customers), "reasons": reasons}
        if horizons is not None:
            asked["horizons"] = list(horizons)
        return self._ask("POST", "/v1/predict", json.dumps(asked, allow_nan=False).encode())

    def customer(self, customer_id: str) -> dict[str, Any]:
        """The last batch's prediction of a known customer; `ServiceError` 404 if there is none."""
        row: dict[str, Any] = self._ask("GET", f"/v1/customers/{quote(customer_id, safe='')}")[
            "prediction"
        ]
        return row

    def health(self) -> dict[str, Any]:
        """Which model serves."""
        return self._ask("GET", "/health")

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, method: str, place: str, body: bytes | None = None) -> dict[str, Any]:
        try:
            found = self._once(method, place, body)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            # The service closes a connection that was idle; to predict twice changes nothing.
            self._connection.close()
            found = self._once(method, place, body)
        status, headers, raw = found
        try:
            told = json.loads(raw)
        except ValueError:
            told = {}
        if status != http.client.OK:
            error = told.get("error", {}) if isinstance(told, dict) else {}
            raise ServiceError(status, error, headers.get("Retry-After"))
        return dict(told)

    def _once(self, method: str, place: str, body: bytes | None) -> tuple[int, Any, bytes]:
        self._connection.request(method, place, body, self._headers)
        answer = self._connection.getresponse()
        return answer.status, answer.headers, answer.read()
