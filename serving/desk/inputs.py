"""What the desk is worked out from, and the name of its folder: other inputs, another folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from serving.configured import settings_of
from training import bundle, tracking

__all__ = ["FORMAT", "Inputs", "place"]

FORMAT: Final = 2  # of the folder; another one is not read


def place() -> Path:
    """The folder of all that is worked out."""
    return tracking.home() / "desk"


@dataclass(frozen=True)
class Inputs:
    """What is shown: predictions, and where they are named the data and an uplift model."""

    table: Path
    data: str | None = None
    config: Path | None = None
    uplift: Path | None = None  # a folder of `serving.decisions.uplift.save`

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
        lift = [str(self.uplift.absolute())] if self.uplift else []
        return _digest([str(table), data, str(self.config), *lift])[:16]

    @property
    def _local(self) -> bool:
        return self.data is not None and "://" not in self.data

    def key(self) -> str:
        """A name for the inputs as they are now.

        Raises
        ------
        OSError
            One of them is gone.
        InputError
            The uplift model is, or the settings name a place that there is not.
        """
        found = [self.table.absolute(), *([self.settings] if self.settings else [])]
        if self.data is not None and self._local:
            found += sorted(_files(Path(self.data)))
        stats = [(str(file), file.stat()) for file in found]
        told = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        # Its manifest pins every byte of the model, at whatever time it was written.
        lift = [bundle.digest(self.uplift)] if self.uplift else []
        return _digest([FORMAT, version("clv"), self.data, self.family, told, *lift])[:24]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "table": str(self.table.absolute()),
            "data": self.data,
            "config": str(self.config) if self.config else None,
            "uplift": str(self.uplift.absolute()) if self.uplift else None,
        }


def _files(data: Path) -> list[Path]:
    """The files of a folder of tables and of its folders; one file is itself."""
    if data.is_file():
        return [data]
    return [one for pattern in ("*", "*/*") for one in data.glob(pattern) if one.is_file()]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()
