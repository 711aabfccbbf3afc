"""Where the marks of one customer's orders stand: geometry alone, in a frame of so many units.

The template draws them as SVG with words that screen readers read, beside the table of the same
numbers; colours are those of the page, so that dark pages have dark pictures. What is told of many
customers is drawn beforehand, see `serving.desk.gallery`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

__all__ = ["Bars", "History", "history"]

WIDTH: Final = 720.0
HEIGHT: Final = 220.0
LEFT, RIGHT, TOP, BOTTOM = 4.0, 4.0, 32.0, 34.0


@dataclass(frozen=True)
class Bars:
    """A mark for each order: x, top and height; `back` are refunds, below the line."""

    x: float
    y: float
    height: float
    back: bool


@dataclass(frozen=True)
class History:
    """Orders over time: marks, the line they stand on, years, and the largest amount."""

    bars: Sequence[Bars]
    line: float
    years: Sequence[tuple[float, int]]
    largest: float
    begin: str  # the days at its ends
    end: str
    width: float = WIDTH
    height: float = HEIGHT


def history(orders: Sequence[Mapping[str, Any]], as_of: str) -> History | None:
    """The picture of orders (``date``, ``amount``) until `as_of`; None without one."""
    if not orders:
        return None
    days = [date.fromisoformat(str(each["date"])).toordinal() for each in orders]
    amounts = [float(each["amount"]) for each in orders]
    end = max(date.fromisoformat(as_of[:10]).toordinal(), days[-1])
    begin = min(days[0], end - 365)
    up, down = max(0.0, *amounts), max(0.0, *(-each for each in amounts))
    room = HEIGHT - TOP - BOTTOM
    scale = room / ((up + down) or 1.0)
    line = TOP + up * scale

    def place(day: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (day - begin) / max(1, end - begin)

    bars = [
        Bars(place(day), line - max(0.0, amount) * scale, max(1.0, abs(amount) * scale), amount < 0)
        for day, amount in zip(days, amounts, strict=True)
    ]
    first = date.fromordinal(begin).year
    years = [(place(date(year, 1, 1).toordinal()), year)
             for year in range(first + 1, date.fromordinal(end).year + 1)]  # fmt: skip
    left, right = (date.fromordinal(day).isoformat() for day in (begin, end))
    return History(bars, line, years, up, left, right)
