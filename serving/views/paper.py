"""How a worksheet comes to paper: its scale, which way the sheet lies, where a page ends.

Fitting to a page's width is worked out here, because a spreadsheet program that does it passes
over the page breaks that it was given, and so cuts charts in two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Final

__all__ = ["MARGINS", "Block", "Layout", "layout", "lines", "pixels"]

#: Inches left free.
MARGINS: Final = {"left": 0.4, "right": 0.4, "top": 0.5, "bottom": 0.6}
A4: Final = (8.27, 11.69)  # inches
SCREEN: Final = 96  # pixels of an inch
#: Programs differ in how wide a column of so many characters is, by up to 6 in 100.
SPARE: Final = 0.92
SMALLEST, STEP = 65, 5  # per cent of scale: smaller print only where the width asks for it
LEAST: Final = 10  # per cent that programs take
MOST_LINES: Final = 10


@dataclass(frozen=True)
class Block:
    """Rows that belong together: a table with its heading, a row of charts."""

    row: int  # the first one
    height: float  # pixels


@dataclass(frozen=True)
class Layout:
    """What a printer is told; each of `breaks` is the first row of a page."""

    landscape: bool
    scale: int  # per cent
    page: float  # pixels of a sheet's rows on a page
    breaks: tuple[int, ...]


def layout(blocks: Sequence[Block], width: float) -> Layout:
    """The way in which fewest blocks are cut; then with fewest pages, then with the largest print.

    `width` are the pixels from the first column to the end of the last.
    """
    made = []
    for landscape in (True, False):
        wide, high = _room(landscape)
        most = max(LEAST, int(100 * min(1.0, wide / width)))
        if most < SMALLEST and not landscape:
            continue
        for scale in range(most, min(SMALLEST, most) - 1, -STEP):
            page = 100 * high / scale
            cut = sum(block.height > page for block in blocks)
            breaks, pages = _breaks(blocks, page)
            told = Layout(landscape, max(scale, LEAST), page, breaks)
            made.append(((cut, pages, -scale, not landscape), told))
    return min(made, key=lambda one: one[0])[1]


def _room(landscape: bool) -> tuple[float, float]:
    """Pixels of a page that are free, across and down."""
    wide, high = sorted(A4, reverse=landscape)
    across = wide - MARGINS["left"] - MARGINS["right"]
    down = high - MARGINS["top"] - MARGINS["bottom"]
    return SPARE * SCREEN * across, SPARE * SCREEN * down


def _breaks(blocks: Sequence[Block], page: float) -> tuple[tuple[int, ...], int]:
    """No block is cut that fits on a page; a longer one begins in a page's upper half.

    With the number of pages.
    """
    found, used, pages = list[int](), 0.0, 1
    for block in blocks:
        whole = block.height <= page
        if used and used + block.height > page and (whole or used > page / 2):
            found.append(block.row)
            used, pages = 0.0, pages + 1
        over, used = divmod(used + block.height, page)
        pages += int(over)
    return tuple(found), pages


def pixels(width: float) -> int:
    """Of a column of so many characters, as a screen shows it."""
    return int(width * 7 + 5)


def lines(text: str, width: int) -> int:
    """Lines that a text takes in a column of so many characters, at most ten."""
    return min(sum(len(wrap(line, width - 2)) or 1 for line in text.split("\n")), MOST_LINES)
