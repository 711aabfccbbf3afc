"""Sheets of a workbook: texts, tables and charts below one another, row by row.

Text is written as text whatever it begins with, so data can bring neither a formula nor a link.
Rows go to disk as they are written: a large base takes little memory, and no row can be changed.
"""

from __future__ import annotations

import re
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
from serving import batch
from serving.decisions import files
from serving.views import shown
from serving.views.language import Words, words

__all__ = ["Chart", "Image", "Part", "Sheet", "write"]

INK, QUIET, HEAD, LINE = "#1F2328", "#57606A", "#E8EEF4", "#C9D0D8"
#: Told apart by people who do not see all colours, and in print (Okabe and Ito 2008).
SERIES: Final = ("#0072B2", "#D55E00", "#00805C", "#B0578A", "#2C86BF", "#A06E00")
MARKERS: Final = ("circle", "square", "triangle", "diamond", "x", "star")
PALE, DARK = "#F4F8FB", "#7FB3D5"
KINDS: Final = {
    "money": "#,##0.00", "count": "#,##0", "number": "#,##0.00", "share": "0.0%", "fine": "0.0000",
    "date": "",
}  # fmt: skip
LAST: Final = 1 << 20  # beyond any column
LONGEST: Final = 32_767  # characters of a cell
NARROW, WIDE = 14, 44  # characters of a column
HIGH: Final = 15  # points of a line
TALL: Final = 16  # rows that a chart covers
ROW = 20  # pixels of a row
PICTURE: Final = 600  # pixels that a picture is wide


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
    batch.require_writable(out, (".xlsx",))
    for sheet in sheets:
        _require(sheet, say)
    rows: dict[str, int] = {}
    with _opened(out, say) as book:
        formats = _formats(book, say)
        for done, sheet in enumerate(sheets):
            page = _Page(book, formats, sheet, say, drawn or {})
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
    with batch.replacing(out) as temporary, xlsxwriter.Workbook(str(temporary), plain) as book:
        # The moment of writing would make equal workbooks differ.
        book.set_properties({"title": say("workbook.title"), "created": datetime(2000, 1, 1)})
        yield book


def _formats(book: Any, say: Words) -> dict[str, Any]:
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
        "right": book.add_format(head | {"align": "right"}),
    }  # fmt: skip
    # The language's own decimal sign and order of a day, wherever the sheet is opened.
    kinds = {k: say("form.sheets") + form for k, form in KINDS.items()}
    kinds["date"] = say("form.sheets") + say("form.date_of_sheets")
    return made | {k: book.add_format(ruled | {"num_format": f}) for k, f in kinds.items()}


@dataclass(frozen=True)
class _Column:
    """A column of a table as it is written."""

    heading: str
    number: bool
    wraps: bool
    width: int  # characters
    look: Any
    values: list[Any]


@dataclass
class _Page:
    """A worksheet that is written from the top down."""

    book: Any
    formats: dict[str, Any]
    sheet: Sheet
    say: Words
    drawn: Mapping[str, Image]
    row: int = 0
    widths: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = self.say(f"workbook.{self.sheet.name}")
        self.page = self.book.add_worksheet(self.name)

    def fill(self, lead: str) -> None:
        self.line(self.name, "title")
        self.line(lead, "lead")
        self.line(self.sheet.lead, "lead")
        for step in self.sheet.steps:
            self.line(f"→ {step}", "do")
        for part in self.sheet.parts:
            self.row += 1
            self.part(part)
        self.finish()

    def line(self, text: str, look: str) -> None:
        if look in ("title", "part"):
            self.page.set_row(self.row, 1.6 * HIGH if look == "title" else 1.2 * HIGH)
        self.page.write_string(self.row, 0, text[:LONGEST], self.formats[look])
        self.row += 1

    def part(self, part: Part) -> None:
        if not self.sheet.long:
            self.line(self.say(f"workbook.{part.title}"), "part")
        if part.frame is None or part.frame.empty:
            if part.empty and part.frame is not None:
                self.line(part.empty, "lead")
            else:
                what = self.say.told(part.missing)
                self.line(self.say("workbook.missing", what=what), "missing")
            return
        head = self.row
        self.table(part, part.frame)
        for note in part.notes:
            self.line(self.say.told(note), "lead")
        if part.charts:
            self.row += 1
            for place, chart in enumerate(part.charts):
                self.chart(chart, part, head, place)
            self.row += TALL
        self.images([self.drawn[name] for name in part.pictures if name in self.drawn])

    def table(self, part: Part, frame: pd.DataFrame) -> None:
        """Heading and rows. A column `unit`, the last, says how rows are shown."""
        units = None
        if "unit" in frame:
            units = [self.formats[unit] for unit in frame["unit"]]
            frame = frame.drop(columns="unit")
        columns = [self._column(part, frame, j) for j in range(frame.shape[1])]
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

    def _column(self, part: Part, frame: pd.DataFrame, place: int) -> _Column:
        values, name = frame.iloc[:, place], str(frame.columns[place])
        heading, kind = part.heading(place, self.say), part.kind or shown.kind(name)
        if kind == "date":
            cells = [_day(value) for value in values]
            return _Column(heading, True, False, NARROW, self.formats[kind], cells)
        number = bool(pd.api.types.is_numeric_dtype(values.dtype))
        # Text at a table's end has room to its right, and need not make a column wide or high.
        wraps = not number and place < frame.shape[1] - 1
        width = NARROW
        if wraps or (self.sheet.long and not number):
            longest = values.head(1_000).map(lambda v: len(v) if isinstance(v, str) else 0).max()
            width = max(NARROW, min(int(longest) + 3, WIDE))
        # The words of a heading are never cut.
        width = max(width, min(max(map(len, re.split(r"[\s,]+", heading))) + 4, WIDE))
        look = kind if number else "text" if wraps else "loose"
        cells = values.astype(object).where(values.notna(), None).tolist()
        return _Column(heading, number, wraps, width, self.formats[look], cells)

    def _heads(self, columns: Sequence[_Column]) -> None:
        # Who reads the sheet elsewhere than in Excel keeps the heights that it was given.
        for j, column in enumerate(columns):
            self.widths[j] = max(self.widths.get(j, NARROW), column.width)
        self.page.set_row(
            self.row, HIGH * max(_lines(c.heading, self.widths[j]) for j, c in enumerate(columns))
        )
        for j, column in enumerate(columns):
            look = self.formats["right" if column.number else "left"]
            self.page.write_string(self.row, j, column.heading, look)
        self.row += 1

    def _rows(self, columns: Sequence[_Column], units: Sequence[Any] | None) -> None:
        # Most text is short: only columns with a long one are looked at row by row.
        wrapped = [
            (j, column.width) for j, column in enumerate(columns)
            if column.wraps and any(len(str(cell or "")) > column.width - 2 or "\n" in str(cell)
                                    for cell in column.values)
        ]  # fmt: skip
        rows = zip(*(column.values for column in columns), strict=True)
        for i, cells in enumerate(rows):
            if wrapped:
                tall = max(_lines(str(cells[j] or ""), width) for j, width in wrapped)
                self.page.set_row(self.row, HIGH * tall)
            for j, (value, column) in enumerate(zip(cells, columns, strict=True)):
                look = units[i] if units and column.number else column.look
                self.cell(j, value, look, column.number)
            self.row += 1

    def cell(self, column: int, value: Any, look: Any, number: bool) -> None:
        if value is None or value == "":
            self.page.write_blank(self.row, column, None, look)
        elif number:
            self.page.write_number(self.row, column, value, look)
        else:
            self.page.write_string(self.row, column, str(value), look)

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
        made.set_size({"width": 560, "height": TALL * ROW - 10})
        self.page.insert_chart(self.row, 0, made, {"x_offset": place * 580, "object_position": 3})

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
        """Pictures beside one another, below what is there."""
        if not drawn:
            return
        self.row += 1
        aside = tallest = 0
        for image in drawn:
            width, height = image.size
            scale = PICTURE / width
            self.page.insert_image(
                self.row, 0, "picture.png",
                {"image_data": BytesIO(image.png), "description": image.alt, "x_offset": aside,
                 "x_scale": scale, "y_scale": scale, "object_position": 3},
            )  # fmt: skip
            aside += PICTURE + 20
            tallest = max(tallest, int(height * scale))
        self.row += -(-tallest // ROW) + 1

    def finish(self) -> None:
        for column, width in self.widths.items():
            self.page.set_column(column, column, width)
        if not self.sheet.long:
            self.page.freeze_panes(1, 0)
        self.page.hide_gridlines(2)
        self.page.set_landscape()
        self.page.set_paper(9)
        self.page.set_margins(left=0.4, right=0.4, top=0.5, bottom=0.6)
        self.page.fit_to_pages(1, 0)
        self.page.set_footer(f"&L&A&R{self.say('workbook.page')} &P / &N")


def _marker(k: int, size: int) -> dict[str, Any]:
    colour = SERIES[k % len(SERIES)]
    return {"type": MARKERS[k % len(MARKERS)], "size": size, "fill": {"color": colour},
            "border": {"color": colour}}  # fmt: skip


def _day(value: Any) -> int | None:
    """A day as worksheets count them, since 1899-12-30."""
    if not isinstance(value, str) or not value:
        return None
    return (date.fromisoformat(value[:10]) - date(1899, 12, 30)).days


def _lines(text: str, width: int) -> int:
    """Lines that a text takes in a column of so many characters, at most ten."""
    return min(sum(len(wrap(line, width - 2)) or 1 for line in text.split("\n")), 10)


def _range(top: int, left: int, bottom: int, right: int) -> str:
    from xlsxwriter.utility import xl_range

    return str(xl_range(top, left, bottom, right))
