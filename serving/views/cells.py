"""Sheets of a workbook: texts, tables and charts below one another, row by row.

Text is written as text whatever it begins with, so data can bring neither a formula nor a link.
Rows go to disk as they are written: a large base takes little memory, and no row can be changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from io import BytesIO
from pathlib import Path
from textwrap import wrap
from typing import Any, Final

import pandas as pd

from features.errors import InputError
from serving import writing
from serving.decisions import files
from serving.views import paper, shown
from serving.views.columns import LINE, UNITS, WIDE, Column, formats, measured
from serving.views.language import Words, words

__all__ = ["Chart", "Image", "Part", "Sheet", "write"]

#: Told apart by people who do not see all colours, and in print (Okabe and Ito 2008).
SERIES: Final = ("#0072B2", "#D55E00", "#00805C", "#B0578A", "#2C86BF", "#A06E00")
MARKERS: Final = ("circle", "square", "triangle", "diamond", "x", "star")
PALE, DARK = "#F4F8FB", "#7FB3D5"
LAST: Final = 1 << 20  # beyond any column
LONGEST: Final = 32_767  # characters of a cell
#: Points of a line. Not the usual 15, which is not written, and programs then choose their own.
HIGH: Final = 15.75
TALL: Final = 16  # rows that a chart covers
ROW: Final = 21  # pixels of a row
CHART: Final = 560  # pixels that a chart is wide
PICTURE: Final = 600  # pixels that a picture is wide
GAP: Final = 20  # pixels between two of them
ABREAST: Final = 2  # pictures beside one another
UNTOUCHED: Final = 8.43  # characters of a column that nobody has set
LETTER: Final = 6  # pixels of a letter in a text, on average


@dataclass(frozen=True)
class Chart:
    """A native chart of the first `rows` rows of its table: kind column or line."""

    kind: str
    title: str  # key of the words of the workbook
    x: str
    y: tuple[str, ...]
    rows: int
    share: tuple[str, ...] = ()  # columns that run from 0 to 1
    unit: str = ""  # currency of its money
    twin: str = ""  # the picture that shows the same on a page


@dataclass(frozen=True)
class Part:
    """A table under its heading, or what to add where there is none.

    The names of its columns from ``named`` on are words already, such as those of segments.
    """

    title: str  # key of the words of the workbook
    frame: pd.DataFrame | None
    missing: str = ""
    charts: tuple[Chart, ...] = ()
    pictures: tuple[str, ...] = ()  # names of pictures that belong to it
    notes: tuple[str, ...] = ()
    kind: str = ""  # of all its numbers, where the columns' names do not tell
    heat: int = 0  # column from which on shares are coloured by their size
    named: int = LAST
    empty: str = ""  # what an empty table says: nothing is missing then
    listed: bool = False  # a list that a page leaves to the workbook

    def heading(self, place: int, say: Words) -> str:
        """The heading of a column, in words."""
        name = str((pd.DataFrame() if self.frame is None else self.frame).columns[place])
        return name if place >= self.named else say.heading(name)


@dataclass(frozen=True)
class Image:
    """A picture as PNG: its bytes, what it shows in words, pixels as a screen shows them."""

    png: bytes
    alt: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Sheet:
    """Parts below one another. A sheet with one long table has its header kept in sight."""

    name: str  # key of the words of the workbook
    lead: str
    parts: tuple[Part, ...]
    long: bool = False
    steps: tuple[str, ...] = ()  # what its reader should do


def write(
    sheets: Sequence[Sheet],
    out: Path,
    lead: str,
    *,
    say: Words | None = None,
    drawn: Mapping[str, Image] | None = None,
    progress: Any = None,
) -> dict[str, int]:
    """Write the workbook; the old file stays until the new one is whole. Rows of data by sheet.

    `drawn` are the pictures that parts name; those that it lacks are left out.

    Raises
    ------
    InputError
        Another ending, more rows or longer text than a worksheet takes, a place not to be written.
    """
    say = say or words()
    writing.require_writable(out, (".xlsx",))
    for sheet in sheets:
        _require(sheet, say)
    rows: dict[str, int] = {}
    with _opened(out, say) as book:
        looks = formats(book, say)
        for done, sheet in enumerate(sheets):
            page = _Page(book, looks, sheet, say, drawn or {})
            page.fill(lead)
            rows[page.name] = sum(len(part.frame) for part in sheet.parts if part.frame is not None)
            if progress:
                progress("writing the workbook", (done + 1) / len(sheets))
    return rows


def _require(sheet: Sheet, say: Words) -> None:
    frames = [part.frame for part in sheet.parts if part.frame is not None]
    used = sum(len(frame) + TALL * 2 for frame in frames)
    if used > files.ROWS:
        raise InputError(
            f"A worksheet takes {files.ROWS:,} rows. '{say(f'workbook.{sheet.name}')}' would have "
            f"{used:,}. Report on a part of the predictions, or write the table as .csv."
        )
    for frame in frames:
        for name in frame:
            if not pd.api.types.is_numeric_dtype(frame[name].dtype):
                longest = frame[name].map(lambda v: len(v) if isinstance(v, str) else 0).max()
                if longest > LONGEST:
                    raise InputError(
                        f"A cell takes {LONGEST:,} characters. Got {int(longest):,} in {name}. "
                        "Shorten that text, or write the table as .csv."
                    )


@contextmanager
def _opened(out: Path, say: Words) -> Iterator[Any]:
    import xlsxwriter

    plain = {
        "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False,
        "constant_memory": True,
    }  # fmt: skip
    with writing.replacing(out) as temporary, xlsxwriter.Workbook(str(temporary), plain) as book:
        # The moment of writing would make equal workbooks differ.
        book.set_properties({"title": say("workbook.title"), "created": datetime(2000, 1, 1)})
        yield book


@dataclass
class _Page:
    """A worksheet that is written from the top down."""

    book: Any
    formats: dict[str, Any]
    sheet: Sheet
    say: Words
    drawn: Mapping[str, Image]
    row: int = 0
    widths: dict[int, int] = field(default_factory=dict)  # characters of each column
    head: int = 0  # row of the newest table's headings
    across: int = 0  # pixels to the end of what is widest
    used: int = 0  # pixels of the rows so far
    blocks: list[paper.Block] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = self.say(f"workbook.{self.sheet.name}")
        self.page = self.book.add_worksheet(self.name)
        self.page.set_default_row(HIGH)

    def fill(self, lead: str) -> None:
        columns = [self._columns(part) for part in self.sheet.parts]
        self.across = self._across(columns)
        self.line(self.name, "title", 1.6)
        for text in (lead, self.sheet.lead):
            self.lines(text, "lead")
        for step in self.sheet.steps:
            self.lines(f"→ {step}", "do")
        begin = 0  # the first table stays with the title
        for part, made in zip(self.sheet.parts, columns, strict=True):
            self.next()
            self.part(part, made, begin)
            begin = self.row
        self.finish()

    def _across(self, columns: Sequence[Sequence[Column]]) -> int:
        """Widths that suit all tables below one another; the pixels of what is widest."""
        for made in columns:
            for j, one in enumerate(made):
                self.widths[j] = max(self.widths.get(j, 0), one.width)
        wide = [0]
        for part, made in zip(self.sheet.parts, columns, strict=True):
            before = sum(paper.pixels(self.widths[j]) for j in range(len(made) - 1))
            if made:
                last = LETTER * made[-1].letters + GAP
                wide.append(before + max(last, paper.pixels(self.widths[len(made) - 1])))
            aside = len([name for name in part.pictures if name in self.drawn])
            wide += [len(part.charts) * (CHART + GAP), min(aside, ABREAST) * (PICTURE + GAP)]
        return max(wide)

    def next(self, high: float = 1.0) -> None:
        """The row is done, which was so many lines high."""
        if high != 1.0:
            self.page.set_row(self.row, HIGH * high)
        self.used += round(ROW * high)
        self.row += 1

    def line(self, text: str, look: str, high: float = 1.0) -> None:
        self.page.write_string(self.row, 0, text[:LONGEST], self.formats[look])
        self.next(high)

    def lines(self, text: str, look: str) -> None:
        """A text as long as the sheet is wide, on as many rows as it takes."""
        for part in wrap(text, max(self.across // LETTER, WIDE * ABREAST), break_on_hyphens=False):
            self.line(part, look)

    def block(self, begin: int) -> None:
        """What was written since the last block stays together in print."""
        self.blocks.append(paper.Block(begin, self.used))
        self.used = 0

    def part(self, part: Part, columns: Sequence[Column], begin: int) -> None:
        if not self.sheet.long:
            self.line(self.say(f"workbook.{part.title}"), "part", 1.2)
        if part.frame is None or part.frame.empty:
            if part.empty and part.frame is not None:
                self.lines(part.empty, "lead")
            else:
                what = self.say.told(part.missing)
                self.lines(self.say("workbook.missing", what=what), "missing")
            self.block(begin)
            return
        head = self.head = self.row
        self.table(part, part.frame, columns)
        for note in part.notes:
            self.lines(self.say.told(note), "lead")
        self.block(begin)
        self.charts(part, head)
        self.images([self.drawn[name] for name in part.pictures if name in self.drawn])

    def table(self, part: Part, frame: pd.DataFrame, columns: Sequence[Column]) -> None:
        """Heading and rows. A column `unit`, the last, says how rows are shown."""
        units = None
        if UNITS in frame:
            units = [self.formats[unit] for unit in frame[UNITS]]
        head = self.row
        self._heads(columns)
        self._rows(columns, units)
        last = (self.row - 1, len(columns) - 1)
        # An id such as 007 is meant to be text: no warning beside each.
        self.page.ignore_errors({"number_stored_as_text": _range(head + 1, 0, *last)})
        if part.heat:
            scale = {"type": "2_color_scale", "min_color": PALE, "max_color": DARK}
            self.page.conditional_format(head + 1, part.heat, *last, scale)
        if self.sheet.long:
            self.page.freeze_panes(head + 1, 1)
            self.page.autofilter(head, 0, *last)
            self.page.repeat_rows(head)
            self.page.print_area(0, 0, *last)

    def _columns(self, part: Part) -> list[Column]:
        if part.frame is None or part.frame.empty:
            return []
        frame, made = part.frame.drop(columns=UNITS, errors="ignore"), list[Column]()
        for j, name in enumerate(frame):
            kind = "money" if UNITS in part.frame else part.kind or shown.kind(str(name))
            last = j == frame.shape[1] - 1
            heading = part.heading(j, self.say)
            made.append(measured(heading, frame.iloc[:, j], kind, last=last, long=self.sheet.long))
        return made

    def _heads(self, columns: Sequence[Column]) -> None:
        # Who reads the sheet elsewhere than in Excel keeps the heights that it was given.
        for j, one in enumerate(columns):
            look = self.formats["right" if one.number else "left"]
            self.page.write_string(self.row, j, one.heading, look)
        self.next(max(paper.lines(c.heading, self.widths[j]) for j, c in enumerate(columns)))

    def _rows(self, columns: Sequence[Column], units: Sequence[Any] | None) -> None:
        # Most text is short: only columns with a long one are looked at row by row.
        wrapped = [
            (j, self.widths[j]) for j, one in enumerate(columns)
            if one.wraps and any(len(str(cell or "")) > self.widths[j] - 2 or "\n" in str(cell)
                                 for cell in one.values)
        ]  # fmt: skip
        rows = zip(*(one.values for one in columns), strict=True)
        for i, cells in enumerate(rows):
            for j, (value, one) in enumerate(zip(cells, columns, strict=True)):
                look = units[i] if units and one.number else self.formats[one.look]
                self.cell(j, value, look, one.number)
            tall = (paper.lines(str(cells[j] or ""), width) for j, width in wrapped)
            self.next(max(tall, default=1))

    def cell(self, column: int, value: Any, look: Any, number: bool) -> None:
        if value is None or value == "":
            self.page.write_blank(self.row, column, None, look)
        elif number:
            self.page.write_number(self.row, column, value, look)
        else:
            self.page.write_string(self.row, column, str(value), look)

    def charts(self, part: Part, head: int) -> None:
        """Charts beside one another, below their table."""
        if not part.charts:
            return
        begin = self.row
        self.next()
        for place, chart in enumerate(part.charts):
            self.chart(chart, part, head, place)
        for _ in range(TALL):
            self.next()
        self.block(begin)

    def chart(self, chart: Chart, part: Part, head: int, place: int) -> None:
        made = self.book.add_chart({"type": chart.kind})
        names = [str(name) for name in (pd.DataFrame() if part.frame is None else part.frame)]
        x, name = names.index(chart.x), self.name
        first, last = head + 1, head + chart.rows
        for k, each in enumerate(chart.y):
            y = names.index(each)
            look: dict[str, Any] = {"fill": {"color": SERIES[k]}, "gap": 80}
            if chart.kind == "line":
                look = {"line": {"color": SERIES[k], "width": 2.25}, "marker": _marker(k, 4)}
            made.add_series({"name": [name, head, y], "categories": [name, first, x, last, x],
                             "values": [name, first, y, last, y], **look})  # fmt: skip
        made.set_title({"name": self.say(f"workbook.{chart.title}"), "name_font": {"size": 12}})
        made.set_x_axis(self._axis(chart, chart.x, False))
        made.set_y_axis(self._axis(chart, chart.y[0], True))
        made.set_legend({"position": "bottom"} if len(chart.y) > 1 else {"none": True})
        made.set_size({"width": CHART, "height": TALL * ROW - 10})
        at = {"x_offset": place * (CHART + GAP), "object_position": 3}
        self.page.insert_chart(self.row, 0, made, at)

    def _axis(self, chart: Chart, name: str, number: bool) -> dict[str, Any]:
        look: dict[str, Any] = {
            "name": shown.axis(name, self.say, chart.unit if number else "", name in chart.share),
            "name_font": {"bold": False, "size": 9},
            "num_font": {"size": 9}, "major_gridlines": {"visible": False},
            "label_position": "low",  # below what is less than nothing
        }  # fmt: skip
        if name in chart.share:
            look |= {"min": 0, "max": 1}
        if number:
            line = {"color": LINE, "width": 0.5}
            form = "0%" if name in chart.share else "#,##0"
            look["num_format"] = self.say("form.sheets") + form
            look["major_gridlines"] = {"visible": True, "line": line}
        return look

    def images(self, drawn: Sequence[Image]) -> None:
        """Pictures by twos, below what is there."""
        for first in range(0, len(drawn), ABREAST):
            begin, tallest = self.row, 0
            self.next()
            for place, image in enumerate(drawn[first : first + ABREAST]):
                width, height = image.size
                scale = PICTURE / width
                self.page.insert_image(
                    self.row, 0, "picture.png",
                    {"image_data": BytesIO(image.png), "description": image.alt,
                     "x_offset": place * (PICTURE + GAP), "x_scale": scale, "y_scale": scale,
                     "object_position": 3},
                )  # fmt: skip
                tallest = max(tallest, int(height * scale))
            for _ in range(-(-tallest // ROW) + 1):
                self.next()
            self.block(begin)

    def finish(self) -> None:
        for column, width in self.widths.items():
            self.page.set_column(column, column, width)
        self.page.hide_gridlines(2)
        self.page.set_paper(9)
        self.page.set_margins(**paper.MARGINS)
        self.page.set_footer(f"&L&A&R{self.say('workbook.page')} &P / &N")
        if self.sheet.long:
            self.page.set_landscape()
            self.page.fit_to_pages(1, 0)
            return
        self.page.freeze_panes(1, 0)
        last, width = self._edge()
        told = paper.layout(self.blocks, width)
        if told.landscape:
            self.page.set_landscape()
        self.page.set_print_scale(told.scale)
        self.page.set_h_pagebreaks(list(told.breaks))
        self.page.print_area(0, 0, self.row, last)
        if self.blocks[-1].height > told.page:
            self.page.repeat_rows(self.head)  # from there on, to the sheet's end

    def _edge(self) -> tuple[int, int]:
        """The column in which the sheet's width ends, and the pixels to its end."""
        column = -1
        wide = 0
        while wide < self.across or column < 0:
            column += 1
            wide += paper.pixels(self.widths.get(column, UNTOUCHED))
        return column, wide


def _marker(k: int, size: int) -> dict[str, Any]:
    colour = SERIES[k % len(SERIES)]
    return {"type": MARKERS[k % len(MARKERS)], "size": size, "fill": {"color": colour},
            "border": {"color": colour}}  # fmt: skip


def _day(value: Any) -> int | None:
    """A day as worksheets count them, since 1899-12-30."""
    if not isinstance(value, str) or not value:
        return None
    return (date.fromisoformat(value[:10]) - date(1899, 12, 30)).days


def _range(top: int, left: int, bottom: int, right: int) -> str:
    from xlsxwriter.utility import xl_range

    return str(xl_range(top, left, bottom, right))
