"""Columns of a worksheet: how wide they are, and how their cells are shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import pandas as pd

from serving.views import paper
from serving.views.language import Words

__all__ = ["INK", "LINE", "NARROW", "UNITS", "WIDE", "Column", "formats", "measured"]

INK, QUIET, HEAD, LINE = "#1F2328", "#57606A", "#E8EEF4", "#C9D0D8"
KINDS: Final = {
    "money": "#,##0.00", "count": "#,##0", "number": "#,##0.00", "share": "0.0%", "fine": "0.0000",
    "date": "",
}  # fmt: skip
NARROW, WIDE = 14, 52  # characters of a column
HEADING: Final = 3  # lines of a heading, if that is possible
LOOKED_AT: Final = 1_000  # rows whose texts are measured
UNITS: Final = "unit"  # the column that says how the numbers of a row are shown


@dataclass(frozen=True)
class Column:
    """A column of a table as it is written."""

    heading: str
    number: bool
    wraps: bool
    width: int  # characters
    letters: int  # of the longest text that goes on to the right
    look: str
    values: list[Any]


def measured(heading: str, values: pd.Series, kind: str, *, last: bool, long: bool) -> Column:
    """A column of a table; the last one has room to its right, a long table filters its columns."""
    if kind == "date":
        days = [_day(value) for value in values]
        return Column(heading, True, False, _width(heading, NARROW), 0, kind, days)
    cells = values.astype(object).where(values.notna(), None).tolist()
    if pd.api.types.is_numeric_dtype(values.dtype):
        width = _width(heading, _digits(values, kind))
        return Column(heading, True, False, width, 0, kind, cells)
    longest = values.head(LOOKED_AT).map(lambda v: len(v) if isinstance(v, str) else 0).max()
    # Text at a table's end need not make a column wide or high.
    width = _width(heading, min(int(longest) + 3, WIDE) if long or not last else 0)
    look, letters = ("loose", min(int(longest), 2 * WIDE)) if last else ("text", 0)
    return Column(heading, False, not last, max(width, NARROW), letters, look, cells)


def formats(book: Any, say: Words) -> dict[str, Any]:
    """What cells look like, by name; numbers and days by their kind, in the reader's language."""
    look = {"font_color": INK, "valign": "top"}
    ruled = look | {"bottom": 1, "bottom_color": LINE}
    head = ruled | {"bold": True, "bg_color": HEAD, "text_wrap": True, "valign": "bottom"}
    beside = ruled | {"num_format": "@", "align": "left", "indent": 1}
    made = {
        "title": book.add_format(look | {"bold": True, "font_size": 16}),
        "lead": book.add_format({"font_color": QUIET}),
        "do": book.add_format(look | {"bold": True}),
        "part": book.add_format(look | {"bold": True, "font_size": 12}),
        "missing": book.add_format({"font_color": "#7A1F1F", "italic": True}),
        "text": book.add_format(beside | {"text_wrap": True}),
        "loose": book.add_format(beside),
        "left": book.add_format(head | {"align": "left", "indent": 1}),
        "right": book.add_format(head | {"align": "right", "indent": 1}),
    }  # fmt: skip
    # The language's own decimal sign and order of a day, wherever the sheet is opened.
    kinds = {k: say("form.sheets") + form for k, form in KINDS.items()}
    kinds["date"] = say("form.sheets") + say("form.date_of_sheets")
    aside = ruled | {"align": "right", "indent": 1}
    return made | {k: book.add_format(aside | {"num_format": f}) for k, f in kinds.items()}


def _digits(values: pd.Series, kind: str) -> int:
    """Characters of the longest number, as it is shown, and room beside it."""
    far = values.abs().max()
    whole = 1 if pd.isna(far) else len(f"{100 * far if kind == 'share' else far:,.0f}")
    behind = {"count": 0, "fine": 5}.get(kind, 3)  # decimals and per cent
    return whole + behind + int(bool((values < 0).any())) + 3


def _width(heading: str, least: int) -> int:
    """Characters of a column in which a heading's words are whole, on few lines."""
    longest = max(map(len, re.split(r"[\s,]+", heading))) + 4
    width = max(least, min(longest, WIDE), min(len(heading) + 4, NARROW))
    while width < WIDE and paper.lines(heading, width) > HEADING:
        width += 1
    return width


def _day(value: Any) -> int | None:
    """A day as worksheets count them, since 1899-12-30."""
    if not isinstance(value, str) or not value:
        return None
    return (date.fromisoformat(value[:10]) - date(1899, 12, 30)).days
