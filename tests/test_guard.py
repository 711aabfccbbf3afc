"""What passes the guard and what does not, by plain ASGI."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from features.settings import Serving
from serving import tokens
from serving.guard import OPEN, Guard, is_loopback

LIMITS = Serving(body_bytes=1_000, seconds=5.0)
HOST = (b"host", b"localhost:8080")
CANARY = "canary@example.org"


@dataclass
class Asked:
    """A request, and what the application saw of it."""

    path: str = "/v1/predict"
    headers: Sequence[tuple[bytes, bytes]] = (HOST,)
    parts: Sequence[bytes] = (b"",)
    seen: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def type(self) -> str:
        assert self.headers[b"content-type"] == b"application/json"
        assert int(self.headers[b"content-length"]) == len(self.body)
        error = json.loads(self.body)["error"]
        assert set(error) == {"type", "message"}
        return str(error["type"])


class Counts:
    def __init__(self) -> None:
        self.reasons: list[str] = []

    def refused(self, reason: str) -> None:
        self.reasons.append(reason)


async def reads_all(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads its body and says how long it was."""
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError(CANARY)
        length += len(message["body"])
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(length).encode()})


def ask(guard: Guard, asked: Asked) -> Answer:
    """Put one request to the guard; receiving counts the parts taken."""
    sent: list[Any] = []
    parts = list(asked.parts)

    async def receive() -> Any:
        if not parts:
            return {"type": "http.disconnect"}
        asked.seen.append(len(parts[0]))
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "path": asked.path, "headers": list(asked.headers),
        "client": ("1.2.3.4", 5), "method": "POST", "query_string": b"",
    }  # fmt: skip
    asyncio.run(guard(scope, receive, send))
    body = b"".join(each.get("body", b"") for each in sent[1:])
    return Answer(sent[0]["status"], dict(sent[0]["headers"]), body)


def test_a_good_request_goes_through() -> None:
    answer = ask(Guard(reads_all, LIMITS), Asked(parts=[b"x" * 600, b"y" * 400]))
    assert (answer.status, answer.body) == (200, b"1000")


# Hosts and origins


@pytest.mark.parametrize("host", [b"evil.example", b"evil.example:8080", b"", b"[", b"127.0.0.1.x"])
def test_another_host_is_refused(host: bytes) -> None:
    counts = Counts()
    guard = Guard(reads_all, LIMITS, metrics=counts)
    answer = ask(guard, Asked(headers=[(b"host", host)]))
    assert (answer.status, answer.type, counts.reasons) == (400, "unknown_host", ["host"])
    assert b"evil" not in answer.body


def test_a_missing_or_double_host_is_refused() -> None:
    guard = Guard(reads_all, LIMITS)
    assert ask(guard, Asked(headers=[])).type == "unknown_host"
    assert ask(guard, Asked(headers=[HOST, HOST])).type == "unknown_host"
    assert ask(guard, Asked(path="/health", headers=[])).type == "unknown_host"


@pytest.mark.parametrize("host", [b"localhost", b"LOCALHOST:1", b"127.0.0.1:80", b"[::1]:8080"])
def test_loopback_names_are_ours(host: bytes) -> None:
    assert ask(Guard(reads_all, LIMITS), Asked(headers=[(b"host", host)])).status == 200


def test_listed_hosts_alone_are_ours() -> None:
    limits = replace(LIMITS, host="0.0.0.0", hosts=("clv.example",))  # noqa: S104
    assert ask(Guard(reads_all, limits), Asked(headers=[(b"host", b"CLV.example")])).status == 200
    assert ask(Guard(reads_all, limits), Asked()).status == 400
    anywhere = replace(limits, hosts=())
    assert ask(Guard(reads_all, anywhere), Asked(headers=[(b"host", b"any.example")])).status == 200


def test_pages_of_other_sites_are_refused() -> None:
    guard = Guard(reads_all, LIMITS)
    for origin in (b"http://evil.example", b"null", b"http://["):
        assert ask(guard, Asked(headers=[HOST, (b"origin", origin)])).type == "foreign_origin"
    assert ask(guard, Asked(headers=[HOST, (b"origin", b"http://localhost:3000")])).status == 200


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True),
     ("::", False), ("10.0.0.1", False), ("127.evil.example", False),
     ("", False)],
)  # fmt: skip
def test_what_loopback_is(host: str, here: bool) -> None:
    assert is_loopback(host) is here


# Tokens


@pytest.fixture
def kept(tmp_path: Path) -> dict[str, str]:
    """Tokens by name, and their home."""
    made = {
        "shop": tokens.make(tmp_path, "shop"),
        "boss": tokens.make(tmp_path, "boss", "admin"),
    }
    return made | {"home": str(tmp_path)}


def bearer(text: str, kind: str = "Bearer") -> Asked:
    return Asked(headers=[HOST, (b"authorization", f"{kind} {text}".encode("latin-1"))])


def test_only_a_token_opens(kept: dict[str, str]) -> None:
    guard = Guard(reads_all, LIMITS, tokens.Tokens(Path(kept["home"])))
    shop = kept["shop"]
    assert ask(guard, bearer(shop)).status == 200
    assert ask(guard, bearer(shop, "bearer")).status == 200
    wrong = [bearer(text) for text in ("", "x", shop[:-1], shop + "x", "\xff", "clv_")]
    digest = tokens.load(Path(kept["home"]))[0].sha256
    for asked in (*wrong, Asked(), bearer(shop, "Basic"), bearer(digest)):
        answer = ask(guard, asked)
        assert (answer.status, answer.type) == (401, "no_token")
        assert answer.headers[b"www-authenticate"] == b"Bearer"
        assert asked.seen == []  # not a byte of the body was read
    twice = Asked(headers=[*bearer(shop).headers, *bearer(shop).headers[1:]])
    assert ask(guard, twice).status == 401


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/customers/7", "/invocations", "/metrics",
                                  "/version", "/docs", "/openapi.json", "/v2/models/clv", "/desk",
                                  "/health/", "//health", "/health/../v1/predict", "/admin/reload",
                                  "/none"])  # fmt: skip
def test_every_path_but_health_needs_one(path: str, kept: dict[str, str]) -> None:
    guard = Guard(reads_all, LIMITS, tokens.Tokens(Path(kept["home"])))
    assert ask(guard, Asked(path=path)).status == 401
    for free in OPEN:
        assert ask(guard, Asked(path=free)).status == 200


def test_admin_paths_need_the_role(kept: dict[str, str]) -> None:
    guard = Guard(reads_all, LIMITS, tokens.Tokens(Path(kept["home"])))
    for name, status in (("shop", 403), ("boss", 200)):
        assert ask(guard, replace(bearer(kept[name]), path="/admin/reload")).status == status


# Length, rate, time


@pytest.mark.parametrize("announced", [True, False])
def test_a_long_body_is_refused_as_it_comes(announced: bool) -> None:
    counts = Counts()
    guard = Guard(reads_all, LIMITS, metrics=counts)
    length = [(b"content-length", b"100000")] if announced else []
    asked = Asked(headers=[HOST, *length], parts=[b"x" * 400] * 250)
    answer = ask(guard, asked)
    assert (answer.status, answer.type, counts.reasons) == (413, "too_long", ["body"])
    assert asked.seen == ([] if announced else [400] * 3)
    assert CANARY.encode() not in answer.body


@pytest.mark.parametrize("length", [b"-1", b"1e3", b"0x10", b"", b" ", "\u0661".encode(), b"1, 1"])
def test_a_length_that_is_none_is_refused(length: bytes) -> None:
    asked = Asked(headers=[HOST, (b"content-length", length)])
    assert ask(Guard(reads_all, LIMITS), asked).type == "bad_length"


def test_a_long_length_is_no_trouble() -> None:
    asked = Asked(headers=[HOST, (b"content-length", b"9" * 5_000)])
    assert ask(Guard(reads_all, LIMITS), asked).type == "too_long"


def test_whoever_asks_too_often_is_told_when_to_come_again() -> None:
    guard = Guard(reads_all, replace(LIMITS, rate=2.0))
    statuses = [ask(guard, Asked()).status for _ in range(40)]
    assert statuses[:4] == [200] * 4
    assert statuses.count(429) > 30
    answer = ask(guard, Asked())
    assert (answer.type, answer.headers[b"retry-after"]) == ("too_many", b"1")
    assert ask(guard, Asked(path="/health")).status == 200


def test_an_answer_has_a_deadline() -> None:
    async def sleeps(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(60)

    answer = ask(Guard(sleeps, replace(LIMITS, seconds=0.05)), Asked())
    assert (answer.status, answer.type) == (503, "too_slow")
    assert answer.headers[b"retry-after"] == b"1"


def test_a_timeout_of_the_application_is_its_own() -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        raise TimeoutError(CANARY)

    assert ask(Guard(fails, LIMITS), Asked()).type == "our_fault"


def test_a_fault_tells_nothing_to_anybody(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError(CANARY)

    with caplog.at_level(logging.DEBUG):
        answer = ask(Guard(fails, LIMITS), Asked())
    assert (answer.status, answer.type) == (500, "our_fault")
    assert "KeyError in" in caplog.text
    assert "fails, line" in caplog.text
    assert CANARY not in caplog.text + answer.body.decode()


def test_a_caller_who_is_gone_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[Any] = []

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/v1/predict", "headers": [HOST]}
    asyncio.run(Guard(reads_all, LIMITS)(scope, gone, send))
    assert (sent, caplog.text) == ([], "")


def test_nothing_follows_an_answer_that_was_begun() -> None:
    async def breaks_off(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError(CANARY)

    answer = ask(Guard(breaks_off, LIMITS), Asked())
    assert (answer.status, answer.body) == (200, b"")
