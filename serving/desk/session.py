"""Who is at the desk: a session in a cookie that we signed, and what its token's role allows.

The cookie holds the token's name, a mark of its digest, a random id and an end, never the token. A
session lives as long as its token does: one that is revoked or expires takes its sessions along.
Who signs out ends it for all workers: a mark in a folder of the home stands until it would have.
On loopback, where the API asks for no token, whoever is there is let in, as to the API.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import math
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from serving.tokens import ROLES, Token

__all__ = ["COOKIE", "HOURS", "Person", "Sessions", "Tries", "cookie_of", "own_place",
           "same_origin"]  # fmt: skip

COOKIE: Final = "clv_desk"
HOURS: Final = 12  # of a session
MARK: Final = 16  # digits of a token's digest: enough to tell it from one made anew by its name
TRIES: Final = (5, 10.0)  # of signing in from one address, in so many seconds
ADDRESSES: Final = 10_000  # that are kept in mind


class Keeper(Protocol):
    """What knows tokens, see `serving.tokens.Tokens`."""

    def find(self, text: str) -> Token | None:
        """The token that `text` is."""

    def named(self, name: str) -> Token | None:
        """The token of a name, if it is good."""


@dataclass(frozen=True)
class Person:
    """Somebody at the desk: the name and role of their token, and the id of their session."""

    id: str
    name: str = ""
    role: str | None = None  # None: has to sign in first

    def may(self, role: str) -> bool:
        """Whether their role reaches `role`: read, export or admin, each with those before it."""
        return self.role is not None and ROLES.index(self.role) >= ROLES.index(role)


class Sessions:
    """Sessions signed with a key; `tokens` None lets everybody in with every role.

    Parameters
    ----------
    key : a secret, the same in all workers.
    tokens : who may come in.
    clock : seconds since 1970.
    ended : the folder that remembers who signed out; without one a cookie is good until its end.
    """

    def __init__(
        self,
        key: bytes,
        tokens: Keeper | None,
        clock: Callable[[], float] = time.time,
        ended: Path | None = None,
    ) -> None:
        # Another purpose, another key: what seals models signs nothing else.
        self._key = hmac.digest(key, b"clv desk: sessions", "sha256")
        self._tokens, self._clock, self._ended = tokens, clock, ended

    @property
    def open(self) -> bool:
        """Whether nobody has to sign in."""
        return self._tokens is None

    def stranger(self) -> Person:
        """Somebody who comes for the first time."""
        return self._person(secrets.token_urlsafe(16), None)

    def _person(self, own: str, token: Token | None) -> Person:
        if self._tokens is None:
            return Person(own, "local", ROLES[-1])
        return Person(own) if token is None else Person(own, token.name, token.role)

    def signed_in(self, text: str) -> tuple[Person, str] | None:
        """The person who shows the token `text`, in a new session, and its cookie; else None."""
        token = None if self._tokens is None else self._tokens.find(text)
        if token is None:
            return None
        person = self._person(secrets.token_urlsafe(16), token)
        return person, self._sealed(person.id, token)

    def cookie(self, person: Person) -> str:
        """The cookie of somebody who has not signed in."""
        return self._sealed(person.id, None)

    def _sealed(self, own: str, token: Token | None) -> str:
        told: dict[str, Any] = {"id": own, "until": int(self._clock()) + HOURS * 3_600}
        if token is not None:
            told |= {"name": token.name, "mark": token.sha256[:MARK]}
        text = base64.urlsafe_b64encode(json.dumps(told).encode()).decode().rstrip("=")
        return f"{text}.{self._signature(text)}"

    def _signature(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    def who(self, header: str | None) -> Person | None:
        """Whose session the header Cookie names; None without one of ours that is good."""
        text, _, signature = cookie_of(header, COOKIE).partition(".")
        if not (text.isascii() and hmac.compare_digest(self._signature(text).encode(),
                                                       signature.encode())):  # fmt: skip
            return None
        told = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if told["until"] < self._clock() or self._left(told["id"]):
            return None
        if "name" not in told or self._tokens is None:
            return self._person(told["id"], None)
        token = self._tokens.named(told["name"])
        if token is None or not hmac.compare_digest(token.sha256[:MARK], told["mark"]):
            return None
        return self._person(told["id"], token)

    def leave(self, person: Person) -> None:
        """End a session before its time; of strangers, who have none to end, nothing is kept."""
        if self._ended is None or person.role is None:
            return
        with contextlib.suppress(OSError):  # the browser forgets its cookie all the same
            self._ended.mkdir(mode=0o700, parents=True, exist_ok=True)
            now = self._clock()
            mark = self._mark(self._ended, person.id)
            mark.touch(mode=0o600)
            os.utime(mark, (now, now))
            for each in self._ended.iterdir():
                if each.stat().st_mtime < now - HOURS * 3_600:
                    each.unlink(missing_ok=True)

    def _left(self, own: str) -> bool:
        return self._ended is not None and self._mark(self._ended, own).exists()

    def _mark(self, ended: Path, own: str) -> Path:
        return ended / hashlib.sha256(own.encode()).hexdigest()

    def proof(self, person: Person) -> str:
        """What a form of this session carries, so that no other site can send it (CSRF)."""
        return hmac.new(self._key, f"form {person.id}".encode(), hashlib.sha256).hexdigest()

    def proven(self, person: Person, given: str) -> bool:
        """Whether a form carries the proof of its session."""
        return hmac.compare_digest(self.proof(person).encode(), given.encode("utf-8", "replace"))


def cookie_of(header: str | None, name: str) -> str:
    """The value of a cookie as it stands; empty if there is none.

    The library's reader needs quadratic time for a header made for it, and stops at the first
    cookie that it does not like: that of another service of the same host, perhaps.
    """
    for pair in (header or "").split(";"):
        key, _, value = pair.partition("=")
        if key.strip() == name:
            return value.strip()
    return ""


class Tries:
    """How often an address has tried to sign in lately; who tries too often has to wait."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, deque[float]] = {}

    def wait(self, address: str) -> int:
        """0 if it may try now, which counts as a try; else the seconds until it may."""
        most, span = TRIES
        now = self._clock()
        if address not in self._known and len(self._known) >= ADDRESSES:
            self._known.pop(next(iter(self._known)))
        tries = self._known.setdefault(address, deque(maxlen=most))
        if len(tries) == most and now - tries[0] < span:
            return math.ceil(span - (now - tries[0]))
        tries.append(now)
        return 0


def same_origin(headers: Mapping[str, str]) -> bool:
    """Whether a request was sent by a page of ours; the scheme is a proxy's matter."""
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site") == "same-origin"
    try:
        return urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""
    except ValueError:
        return False


def own_place(text: str) -> str:
    """A place of the desk to go on to, the first page for any other."""
    own = text == "/" or text.startswith(("/desk/", "/?"))
    plain = text.isascii() and text.isprintable() and "\\" not in text
    return text if own and plain and not text.startswith("/desk/sign") else "/"
