"""What the service goes by: options, the environment, clv.toml, defaults, in this order.

clv serve --port 9000          option
CLV_SERVING_PORT=9000          environment
[serving] port = 9000          clv.toml: --config, beside --data, else in CLV_HOME
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from features.errors import InputError
from features.settings import Serving, load, parse, written

__all__ = ["PREFIX", "Chosen", "choose", "settings_of"]

PREFIX: Final = "CLV_SERVING_"
LISTS: Final = ("hosts",)


@dataclass(frozen=True)
class Chosen:
    """The settings of the service, and where each value comes from."""

    serving: Serving
    origin: Mapping[str, str]  # key -> option, the environment's name, the file, default

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            key: {"value": list(value) if isinstance(value, tuple) else value, "from": origin}
            for key, origin in self.origin.items()
            for value in [getattr(self.serving, key)]
        }


def choose(options: Mapping[str, Any], file: Path | None) -> Chosen:
    """Settings from options (None: not given), the environment and a file.

    Raises
    ------
    InputError
        A value is not as it must be, or the environment names a key that there is not.
    """
    keys = [each.name for each in fields(Serving)]
    known = load(file).serving
    values = {key: getattr(known, key) for key in keys}
    origin = dict.fromkeys(keys, "default")
    origin |= dict.fromkeys(written(file, "serving"), str(file))
    for name, text in _environment(keys).items():
        key = name.removeprefix(PREFIX).lower()
        values[key], origin[key] = _value(key, text), name
        _checked({key: values[key]}, f"${name}")
    for key, value in options.items():
        if value is not None:
            values[key], origin[key] = value, f"--{key.replace('_', '-')}"
            _checked({key: value}, origin[key])
    return Chosen(_checked(values, "settings"), origin)


def settings_of(data: str | None, config: Path | None) -> Path | None:
    """The settings file: `config`, else that beside `data`, else that of CLV_HOME, if there is."""
    from training.tracking import home

    if config is None and data is not None and "://" not in data:
        place = Path(data)
        if not place.exists():
            raise InputError(f"--data must be a folder or a file. Got {data}. Name one there is.")
        beside = (place if place.is_dir() else place.parent) / "clv.toml"
        return beside if beside.is_file() else None
    own = home() / "clv.toml"
    return config or (own if own.is_file() else None)


def _environment(keys: list[str]) -> dict[str, str]:
    found = {name: text for name, text in sorted(os.environ.items()) if name.startswith(PREFIX)}
    for name in found:
        if name.removeprefix(PREFIX).lower() not in keys:
            known = ", ".join(PREFIX + key.upper() for key in keys)
            raise InputError(f"A variable of the service must be one of {known}. Got {name}.")
    return found


def _value(key: str, text: str) -> Any:
    """A number where it reads as one, as in TOML; else the text itself, or a list of its words."""
    if key in LISTS:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        found = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text
    return found if isinstance(found, int | float) else text


def _checked(values: Mapping[str, Any], source: str) -> Serving:
    return parse({"serving": dict(values)}, source).serving
