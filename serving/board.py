"""What the workers of one service tell one another: small files in a folder of theirs alone.

    PID-NUMBER.json     what a worker has counted, written whole each second; it stays when it dies
    reload              touched when all are to look for a new model now

The folder is made empty when the service starts and goes when it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from pathlib import Path
from typing import Any, Final

__all__ = ["Board"]

#: Seconds without a word after which a worker counts as gone.
GONE: Final = 10.0


class Board:
    """The folder, as one worker sees it. Whatever fails here keeps nobody from answering."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own = folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.json"
        self._asked = self._stamp()

    def post(self, told: dict[str, Any]) -> None:
        """Tell the others; what was told before is forgotten."""
        with contextlib.suppress(OSError):
            temporary = self._own.with_suffix(".tmp")
            temporary.write_text(json.dumps(told), encoding="utf-8")
            temporary.replace(self._own)

    def others(self) -> list[tuple[dict[str, Any], bool]]:
        """What the other workers told at last, and whether they are still there."""
        found = []
        for file in sorted(self._folder.glob("*.json")):
            with contextlib.suppress(OSError, ValueError):
                if file != self._own:
                    age = time.time() - file.stat().st_mtime
                    found.append((json.loads(file.read_text(encoding="utf-8")), age < GONE))
        return found

    def ask(self) -> None:
        """Ask the others to look for a new model."""
        with contextlib.suppress(OSError):
            (self._folder / "reload").write_text(uuid.uuid4().hex, encoding="utf-8")
            self._asked = self._stamp()

    def asked(self) -> bool:
        """Whether another one has asked since the last time."""
        before, self._asked = self._asked, self._stamp()
        return self._asked != before

    def _stamp(self) -> str:
        with contextlib.suppress(OSError):
            return (self._folder / "reload").read_text(encoding="utf-8")
        return ""
