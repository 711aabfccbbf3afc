"""The model that answers: it follows the champion, and stays when the next one is broken.

    look -> the champion has changed -> load and verify beside the old one -> warm up -> swap

A request reads `Live.loaded` once and so is answered by one version. Every version that served is
copied to ``CLV_HOME/models/DIGEST``, from where the service starts when the registry does not
answer; a copy is verified like any other bundle.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from features.errors import ClvError, InputError
from serving import loader
from serving.loader import Loaded
from training import bundle, registry, tracking
from training.registry import Version

__all__ = ["Live"]

log = logging.getLogger("clv.live")

#: What `Live.status` says of trouble: fixed words, since anybody may read them.
UNREACHABLE: Final = "the registry cannot be read or has no such model"
REFUSED: Final = "the new version was refused, the last good one serves"
AGAIN: Final = 60.0  # seconds until a refused version is tried again: it may have been restored
DIGEST: Final = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class _State:
    """Everything that a swap changes, in one value: readers see the old one or the new one."""

    loaded: Loaded
    digest: str
    since: str  # ISO time at which it began to serve
    source: str  # registry, copy or folder
    error: str | None = None


class Live:
    """A verified model, always there; a thread swaps it when the champion changes.

    Parameters
    ----------
    model
        An alias, which is followed; a version number or a bundle's folder stays.
    every
        Seconds between two looks at the registry.
    warm
        Called with a new model before it serves; what it raises refuses the model.
    spread
        Called by `reload`, so that other workers look too.

    Raises
    ------
    InputError, BundleError
        There is no such model, nor a copy of it that was served before.
    """

    def __init__(
        self,
        model: str = "champion",
        every: float = 5.0,
        warm: Callable[[Loaded], object] | None = None,
        spread: Callable[[], None] | None = None,
    ) -> None:
        self._wanted, self._every = str(model), every
        self._warm = warm or (lambda _: None)
        self._spread = spread or (lambda: None)
        self._refused: tuple[str, float] | None = None  # digest, and when it may be tried again
        self._one = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._state = self._first()

    @property
    def loaded(self) -> Loaded:
        """The model that answers now: read it once per request."""
        return self._state.loaded

    @property
    def follows(self) -> bool:
        """Whether the model is an alias, which may come to name another version."""
        return self._state.source != "folder" and not self._wanted.isdigit()

    def status(self) -> dict[str, Any]:
        """Plain values for whoever asks: no path, no text from outside.

        ``healthy`` is true as long as a model answers, ``degraded`` where it may not be the one
        wanted; then ``error`` says why in fixed words.
        """
        now = self._state
        return {
            "version": now.loaded.version,
            "since": now.since,
            "source": now.source,
            "following": self._wanted if self.follows else None,
            "healthy": True,
            "degraded": now.error is not None,
            "error": now.error,
        }

    def start(self) -> None:
        """Look every few seconds from now on, in a thread of its own."""
        if self.follows and self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="clv-live", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Look no more; the model goes on answering."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)  # it may wait for a server that does not answer

    def look(self) -> bool:
        """Look now; true if another version serves from here on. Trouble is told by `status`."""
        if not self.follows:
            return False
        with self._one:
            try:
                found = registry.glance(self._wanted)
            except Exception as error:  # whatever it is, the model that serves is none the worse
                self._trouble(UNREACHABLE, error)
                return False
            return self._follow(found)

    def reload(self) -> bool:
        """As `look`, in all workers, and also at a version that was refused lately."""
        self._refused = None
        self._spread()
        return self.look()

    def _follow(self, found: Version) -> bool:
        now = self._state
        if str(found.number) == now.loaded.version and found.digest in ("", now.digest):
            self._refused = None
            if now.error is not None or now.source == "copy":
                self._state = replace(now, error=None, source="registry")
            return False
        if (
            self._refused
            and self._refused[0] == _name(found)
            and time.monotonic() < self._refused[1]
        ):
            return False
        try:
            self._state = self._open(found)
        except Exception as error:  # a broken model can fail in any way
            self._refused = (_name(found), time.monotonic() + AGAIN)
            self._trouble(f"{REFUSED}: {found.number}", error)
            return False
        self._refused = None
        log.info("model %s serves, after %s", self.loaded.version, now.loaded.version)
        return True

    def _trouble(self, words: str, error: Exception) -> None:
        if self._state.error != words:  # once per trouble, not every few seconds
            log.warning("%s (%s: %s)", words, type(error).__name__, _one_line(error))
            self._state = replace(self._state, error=words)

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self.look()

    # Loading

    def _first(self) -> _State:
        if loader.is_folder(self._wanted):
            folder = Path(self._wanted)
            loaded = loader.open_folder(folder)
            self._warm(loaded)
            return _State(loaded, bundle.digest(folder), _now(), "folder")
        if tracking.database() is None:
            # A server far away may take long to answer or to fail: the watching thread asks it.
            with contextlib.suppress(ClvError):
                return self._from_copy()
        try:
            return self._open(registry.glance(self._wanted))
        except Exception as error:
            with contextlib.suppress(ClvError):
                state = self._from_copy()
                log.warning(
                    "started from the copy of model %s: %s", state.loaded.version, _one_line(error)
                )
                return replace(state, error=UNREACHABLE)
            raise

    def _open(self, version: Version) -> _State:
        folder = registry.locate(version)
        loaded = loader.open_folder(folder, str(version.number))
        digest = bundle.digest(folder)
        self._warm(loaded)
        try:
            self._copy(folder, digest, loaded.version)
        except OSError as error:  # a full disk or a read-only home: serving needs neither
            log.warning("no copy of model %s: %s", loaded.version, error.strerror)
        return _State(loaded, digest, _now(), "registry")

    def _from_copy(self) -> _State:
        """The version that served last under this name."""
        note = _notes(self._wanted)
        try:
            kept = json.loads(note.read_text(encoding="utf-8"))
            version, digest = str(kept["version"]), str(kept["digest"])
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"A model must have served before. Got no readable {note}.") from None
        if not DIGEST.fullmatch(digest):  # it becomes part of a path
            raise InputError(f"{note} must name a copy by its digest. Got {digest[:70]!r}.")
        folder = registry.home() / "models" / digest
        loaded = loader.open_folder(folder, version)
        if bundle.digest(folder) != digest:
            raise InputError(f"{folder} must hold the bundle it is named after. Got another one.")
        self._warm(loaded)
        return _State(loaded, digest, _now(), "copy")

    def _copy(self, folder: Path, digest: str, version: str) -> None:
        """Keep what serves; a process killed in between leaves the old copy and note."""
        place = registry.home() / "models" / digest
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".copy-") as scratch:
            if not place.exists():
                came = shutil.copytree(folder, Path(scratch) / "bundle")
                # Several workers may copy at once; whoever comes second finds the same bytes there.
                with contextlib.suppress(OSError):
                    Path(came).rename(place)
            note = Path(scratch) / "note"
            note.write_text(json.dumps({"version": version, "digest": digest}), encoding="utf-8")
            note.replace(_notes(self._wanted))


def _notes(wanted: str) -> Path:
    name = re.sub(r"[^a-z0-9_-]", "_", wanted.lower())  # a name that came from outside
    return registry.home() / "models" / f"{name}.json"


def _name(version: Version) -> str:
    return f"{version.number} {version.digest}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]
