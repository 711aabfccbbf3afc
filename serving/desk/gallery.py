"""The pictures of the desk: those of a report and of a run, drawn beforehand in each language.

    CLV_HOME/desk/KEY/pictures/de/NAME.svg
    CLV_HOME/desk/KEY/pictures/de/list.json    which there are, and their words; written last

A picture is asked for by a name of that file alone, so no other file is ever handed out.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from serving.views.language import words
from serving.writing import replacing

if TYPE_CHECKING:
    from serving.decisions.report import Report
    from serving.views.pictures import Drawing

__all__ = ["Picture", "Pictures", "draw", "read", "shown"]

PLACE: Final = "pictures"
LIST: Final = "list.json"


class Picture(NamedTuple):
    """A picture that is drawn: title, what it shows in words, pixels, and a mark of its content."""

    title: str
    alt: str
    width: int
    height: int
    version: str


#: By name; None stands for one that could not be drawn.
Pictures = Mapping[str, Picture | None]


def draw(made: Report, folder: Path, language: str, wanted: Callable[[], bool]) -> None:
    """Draw all that there is something to draw of, each whole or not at all, the list last.

    `wanted` tells before each picture whether anybody still wants them.

    Raises
    ------
    InputError
        The folder cannot be written.
    """
    # Not at the top: who only reads pictures needs nothing that draws them.
    from serving.views.pictures import drawings

    place, told = folder / PLACE / language, dict[str, Picture | None]()
    for name, one in drawings(made, words(language)).items():
        raw = _drawn(one) if wanted() else None
        if not wanted():  # it shows customers, of whom one may have been erased meanwhile
            return
        told[name] = _kept(one, raw, place / f"{name}.svg") if raw else None
    listed = {name: one and one._asdict() for name, one in told.items()}
    if wanted():
        _write(json.dumps(listed).encode(), place / LIST)


def _drawn(one: Drawing) -> bytes | None:
    try:
        return one.svg().encode()
    except Exception:
        # One that fails takes neither the others nor any table along: its page says so.
        if os.environ.get("CLV_DEBUG"):
            raise
        return None


def _kept(one: Drawing, raw: bytes, out: Path) -> Picture:
    _write(raw, out)
    return Picture(one.title, one.alt, *one.size, hashlib.sha256(raw).hexdigest()[:16])


def _write(raw: bytes, out: Path) -> None:
    with replacing(out) as temporary:
        temporary.write_bytes(raw)


def shown(folder: Path, language: str) -> Pictures | None:
    """The pictures of a language; None until all of them are there."""
    try:
        told: Mapping[str, Any] = json.loads((folder / PLACE / language / LIST).read_bytes())
        return {name: one and Picture(**one) for name, one in told.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return None  # none yet, or no list of ours: drawn anew


def read(folder: Path, language: str, name: str) -> bytes | None:
    """A picture that `shown` named, as SVG; None where its file is gone."""
    try:
        return (folder / PLACE / language / f"{name}.svg").read_bytes()
    except OSError:
        return None
