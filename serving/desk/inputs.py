"""What the desk is worked out from, and the name of its folder: other inputs, another folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from serving.configured import settings_of
from training import tracking

__all__ = ["FORMAT", "Inputs", "place"]

FORMAT: Final = 1  # of the folder; another one is not read


def place() -> Path:
    """The folder of all that is worked out."""
    return tracking.home() / "desk"


@dataclass(frozen=True)
class Inputs:
    """The tables that are shown: predictions, and the data where they are named."""

    table: Path
    data: str | None = None
    config: Path | None = None

    @property
    def settings(self) -> Path | None:
        """The settings file."""
        return settings_of(self.data, self.config)

    @property
    def family(self) -> str:
        """A name for the same inputs at any time."""
        file = self.table.absolute()
        table = file.parents[1] if file.parent.name.startswith("as_of=") else file
        data = str(Path(self.data).absolute()) if self.data and self._local else self.data
        return _digest([str(table), data, str(self.config)])[:16]

    @property
    def _local(self) -> bool:
        return self.data is not None and "://" not in self.data

    def key(self) -> str:
        """A name for the inputs as they are now.

        Raises
        ------
        OSError
            One of them is gone.
        """
        found = [self.table.absolute(), *([self.settings] if self.settings else [])]
        if self.data is not None and self._local:
            found += sorted(_files(Path(self.data)))
        stats = [(str(file), file.stat()) for file in found]
        told = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        return _digest([FORMAT, version("clv"), self.data, self.family, told])[:24]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "table": str(self.table.absolute()),
            "data": self.data,
            "config": str(self.config) if self.config else None,
        }


def _files(data: Path) -> list[Path]:
    """The files of a folder of tables and of its folders; one file is itself."""
    if data.is_file():
        return [data]
    return [one for pattern in ("*", "*/*") for one in data.glob(pattern) if one.is_file()]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()
