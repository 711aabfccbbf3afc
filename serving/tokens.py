"""Who may ask: tokens with a role, kept as digests, made by ``clv token`` and shown once.

A token is 256 random bits, so one pass of SHA-256 hides it as well as a slow hash would; what
leaks from ``CLV_HOME/tokens.json`` opens nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, get_args

from features.errors import InputError

__all__ = ["ROLES", "Role", "Token", "Tokens", "load", "make", "place", "revoke"]

Role = Literal["read", "export", "admin"]
ROLES: Final = get_args(Role)  # each may what those before it may
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
LOOK: Final = 1.0  # seconds between two looks at the file
START: Final = "clv_"  # by which scanners for lost secrets know one


@dataclass(frozen=True)
class Token:
    """What is known of a token: all but itself."""

    name: str
    role: Role
    sha256: str
    made: str  # ISO date
    until: str | None = None  # last day on which it is good, UTC

    @property
    def expired(self) -> bool:
        """Whether its last day is over."""
        return self.until is not None and date.fromisoformat(self.until) < _today()

    def public(self) -> dict[str, Any]:
        """What may be shown of it."""
        shown = {key: value for key, value in asdict(self).items() if key != "sha256"}
        return shown | {"expired": self.expired}


def place(home: Path) -> Path:
    """The file of the tokens."""
    return home / "tokens.json"


def load(home: Path) -> list[Token]:
    """All tokens, expired ones too; none where there is no file.

    Raises
    ------
    InputError
        The file cannot be read, is of another make, or others than its owner may read it.
    """
    path = place(home)
    try:
        mode = path.stat().st_mode
        listed = json.loads(path.read_text(encoding="utf-8"))
        found = [_token(each) for each in listed]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"The tokens must be a readable file that clv token made. Got {path}: "
            f"{type(error).__name__}. Restore it, or remove it and make new ones."
        ) from None
    if os.name == "posix" and mode & 0o077:
        raise InputError(
            f"The file of tokens must be readable by its owner alone. Got mode "
            f"{stat.S_IMODE(mode):04o} of {path}. Run: chmod 600 {path}"
        )
    return found


def make(home: Path, name: str, role: str = "read", days: int | None = None) -> str:
    """A new token, which nobody can read again; good for `days`, or for ever.

    Raises
    ------
    InputError
        The name is taken or not one, the role is unknown, or the file cannot be written.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            f"The name of a token must be letters, digits, dot, dash. Got {name[:70]!r}. "
            "Call it after who uses it, such as shop."
        )
    if role not in ROLES:
        raise InputError(
            f"The role must be one of {', '.join(ROLES)}. Got {role!r}. Take one of them."
        )
    known = load(home)
    if name in [each.name for each in known]:
        raise InputError(
            f"The name of a token must be new. Got {name!r}, which is taken. Take another one, "
            f"or revoke the old one: clv token {name} --revoke"
        )
    text = START + secrets.token_urlsafe(32)
    until = None if days is None else (_today() + timedelta(days=days)).isoformat()
    fresh = Token(name, role, _digest(text), _today().isoformat(), until)  # type: ignore[arg-type]
    _write(home, [*known, fresh])
    return text


def revoke(home: Path, name: str) -> None:
    """Take a token away; a service that runs refuses it within seconds.

    Raises
    ------
    InputError
        There is none of that name, or the file cannot be written.
    """
    known = load(home)
    kept = [each for each in known if each.name != name]
    if len(kept) == len(known):
        names = ", ".join(each.name for each in known) or "none"
        raise InputError(f"The token must be one of: {names}. Got {name[:70]!r}. Name one of them.")
    _write(home, kept)


class Tokens:
    """The tokens of a running service: what is made or revoked meanwhile counts within a second.

    A file that cannot be read any more lets nobody in.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._known: Sequence[Token] = load(home)
        self._seen, self._next = self._state(), time.monotonic() + LOOK

    def find(self, text: str) -> Token | None:
        """The token that `text` is, if it is one and not expired.

        Every known digest is compared, each in constant time: how long it takes tells nothing.
        """
        self._refresh()
        given = _digest(text)
        found = None
        for each in self._known:
            if hmac.compare_digest(each.sha256, given):
                found = each
        return None if found is None or found.expired else found

    def named(self, name: str) -> Token | None:
        """The token of a name, unless it is expired."""
        self._refresh()
        found = next((each for each in self._known if each.name == name), None)
        return None if found is None or found.expired else found

    def _refresh(self) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LOOK
        state = self._state()
        if state != self._seen:
            self._seen = state
            try:
                self._known = load(self._home)
            except InputError:
                self._known = ()

    def _state(self) -> tuple[int, ...]:
        try:
            about = place(self._home).stat()
        except OSError:
            return ()
        return about.st_ino, about.st_mtime_ns, about.st_size, about.st_mode


def _token(each: dict[str, Any]) -> Token:
    token = Token(**each)
    if token.role not in ROLES or not re.fullmatch("[0-9a-f]{64}", token.sha256):
        raise ValueError("no token")
    if token.until is not None:
        date.fromisoformat(token.until)
    return token


def _write(home: Path, known: Sequence[Token]) -> None:
    path = place(home)
    try:
        home.mkdir(parents=True, exist_ok=True)
        # Made with mode 0600, and there whole or not at all.
        handle, name = tempfile.mkstemp(prefix=".tokens.", dir=home)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump([asdict(each) for each in known], file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"The file of tokens must be writable. Got '{error.strerror}' for {path}. "
            "Free some space, mend its mode or set CLV_HOME to another folder."
        ) from None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _today() -> date:
    return datetime.now(UTC).date()
