"""The one-file report: the sheets of the workbook as a page that asks nobody for anything.

The same parts as in the workbook, in the same order, each where it comes first: later sections
name that place. Lists of customers stay in the workbook: a page is handed around more freely than
it should be. Pictures are drawn as SVG inside the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from serving import writing
from serving.decisions.report import Report
from serving.views import shown, workbook
from serving.views.cells import Chart, Part, Sheet
from serving.views.language import Words, words
from serving.views.pictures import Drawing, drawings
from training import drawing, pages
from training.pages import Block, Document, Picture, Section, Table, Text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["document", "write"]

MOST: Final = 60  # rows of a table on a page; longer ones stand in the workbook
NAME: Final = 24  # characters of a name below a bar


def write(
    made: Report,
    out: Path,
    say: Words | None = None,
    progress: Any = None,
    drawn: Mapping[str, Drawing] | None = None,
) -> dict[str, int]:
    """Write the page whole or not at all; the blocks of each section.

    `drawn` are its pictures, if they are drawn already.

    Raises
    ------
    InputError
        Another ending, a place that cannot be written.
    """
    writing.require_writable(out, (".html",))
    say = say or words()
    told = document(made, say, progress, drawn)
    text = pages.html(told, say.language, say("workbook.contents"))
    with writing.replacing(out) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return {section.title: len(section.blocks) for section in told.sections}


def document(
    made: Report,
    say: Words,
    progress: Any = None,
    drawn: Mapping[str, Drawing] | None = None,
) -> Document:
    """The page: a section for each sheet that tells of groups."""
    wanted = [sheet for sheet in workbook.sheets(made, say) if not sheet.long]
    page, sections = _Page(say, drawings(made, say) if drawn is None else drawn), []
    for done, sheet in enumerate(wanted):
        sections.append(page.section(sheet))
        if progress:
            progress("drawing the page", (done + 1) / len(wanted))
    lead = (workbook.lead(made, say),)
    return Document(say("workbook.title"), lead, tuple(sections))


class _Page:
    """What was shown already, while the page is made from the top down."""

    def __init__(self, say: Words, drawn: Mapping[str, Drawing]) -> None:
        self.say, self.drawn = say, drawn
        self.seen: dict[str, str] = {}  # where each part and picture stands

    def section(self, sheet: Sheet) -> Section:
        title = self.say(f"workbook.{sheet.name}")
        blocks: list[Block] = [Text(sheet.lead)]
        if sheet.steps:
            blocks.append(pages.Bullets(sheet.steps))
        for part in sheet.parts:
            blocks += self.blocks(part, title)
        return Section(title, tuple(blocks))

    def blocks(self, part: Part, here: str) -> list[Block]:
        title, key = self.say(f"workbook.{part.title}"), _key(part)
        if part.frame is not None and part.listed and part.title in self.seen:
            key = part.title
        if part.frame is not None and key in self.seen:
            told = self.say("workbook.seen", title=title, sheet=self.seen[key])
            return [Text(told, "quiet"), *self.pictures(part, here)]
        if part.frame is None or part.frame.empty:
            return [self.nothing(part, title)]
        if "customer_id" in part.frame or part.listed or len(part.frame) > MOST:
            return [Text(self.say("workbook.elsewhere", title=title), "quiet"),
                    *self.pictures(part, here)]  # fmt: skip
        self.seen[key] = self.seen[part.title] = here
        notes = [Text(self.say.told(note), "quiet") for note in part.notes]
        return [_table(title, part, part.frame, self.say), *notes, *self.pictures(part, here)]

    def nothing(self, part: Part, title: str) -> Text:
        if part.empty and part.frame is not None:
            return Text(f"{title}. {part.empty}", "quiet")
        what = self.say.told(part.missing)
        return Text(f"{title}. {self.say('workbook.missing', what=what)}", "warning")

    def pictures(self, part: Part, here: str) -> list[Block]:
        """Those of a part, each the first time only."""
        found: list[Block] = []
        twins = [chart.twin for chart in part.charts if chart.twin in self.drawn]
        for name in (*part.pictures, *twins):
            if name in self.drawn and name not in self.seen:
                self.seen[name] = here
                one = self.drawn[name]
                found.append(Picture(one.title, one.svg(), one.alt, ""))
        frame = part.frame
        for chart in part.charts:
            if frame is not None and chart.twin not in self.drawn and chart.title not in self.seen:
                self.seen[chart.title] = here
                found.append(_picture(chart, frame, self.say))
        return found


def _key(part: Part) -> str:
    """By what a table shows: its columns and rows, whatever it is called."""
    return part.title if part.frame is None else f"{part.title}:{','.join(map(str, part.frame))}"


def _table(title: str, part: Part, frame: pd.DataFrame, say: Words) -> Table:
    units = frame["unit"].tolist() if "unit" in frame else None
    told = frame.drop(columns="unit") if units else frame
    numbers = [pd.api.types.is_numeric_dtype(told[name].dtype) for name in told]
    kinds = [part.kind or shown.kind(str(name)) for name in told]
    head, rows = [part.heading(j, say) for j in range(told.shape[1])], []
    forms = _forms(say)
    for i, cells in enumerate(told.astype(object).itertuples(index=False)):
        rows.append([
            _cell(cell, forms[units[i] if units else own] if number else None)
            for cell, number, own in zip(cells, numbers, kinds, strict=True)
        ])  # fmt: skip
    if not told.iloc[:, 0].is_unique and len(head) > 1 and not numbers[1]:
        # A row is read by its first cell, which so has to be its own.
        rows = [[f"{row[0]}: {row[1]}", *row[2:]] for row in rows]
        head, numbers = [f"{head[0]}: {head[1]}", *head[2:]], [False, *numbers[2:]]
    texts = frozenset(j for j, number in enumerate(numbers) if not number)
    # A number stays beside what it counts: 12 months.
    heads = tuple(re.sub(r"(\d) ", "\\1\u00a0", text) for text in head)
    return Table(title, heads, tuple(map(tuple, rows)), texts)


def _forms(say: Words) -> dict[str, Callable[[float], str]]:
    return {
        "money": lambda x: say.number(x, 2), "number": lambda x: say.number(x, 2),
        "count": say.number, "fine": lambda x: say.number(x, 4), "share": say.percent,
    }  # fmt: skip


def _cell(value: Any, form: Callable[[float], str] | None) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return pages.NOTHING if form else ""
    return form(value) if form else str(value)


def _picture(chart: Chart, frame: pd.DataFrame, say: Words) -> Picture:
    title, some = say(f"workbook.{chart.title}"), frame.head(chart.rows)
    figure = drawing.blank(height=3.6)
    axes = figure.subplots()
    {"column": _columns, "line": _line}[chart.kind](axes, chart, some, say)
    drawing.frame(axes, title)
    sides = [
        shown.axis(name, say, unit, name in chart.share)
        for name, unit in ((chart.x, ""), (chart.y[0], chart.unit))
    ]
    drawing.words(axes, *sides)
    drawing.from_zero(axes)
    drawing.number_axis(axes, drawing.written(say.number))
    if chart.y[0] in chart.share:
        axes.set_ylim(0, 105)
    if len(chart.y) > 1:
        drawing.legend(axes)
    alt = say("workbook.alt", title=title, x=sides[0], y=sides[1])
    return Picture(title, drawing.svg(figure), alt, "")


def _values(frame: pd.DataFrame, chart: Chart, name: str) -> list[float]:
    scale = 100.0 if name in chart.share else 1.0
    return [math.nan if pd.isna(value) else scale * float(value) for value in frame[name]]


def _columns(axes: Axes, chart: Chart, frame: pd.DataFrame, say: Words) -> None:
    width = 0.8 / len(chart.y)
    for k, name in enumerate(chart.y):
        left = [i - 0.4 + width * (k + 0.5) for i in range(len(frame))]
        axes.bar(left, _values(frame, chart, name), width * 0.92, color=drawing.STYLES[k][0],
                 label=say.heading(name), zorder=2)  # fmt: skip
    axes.set_xticks(range(len(frame)), _short(frame[chart.x].tolist()))


def _line(axes: Axes, chart: Chart, frame: pd.DataFrame, say: Words) -> None:
    for k, name in enumerate(chart.y):
        axes.plot(_values(frame, chart, chart.x), _values(frame, chart, name),
                  label=say.heading(name), **drawing.styled(drawing.STYLES[k]))  # fmt: skip
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    axes.xaxis.set_major_formatter(lambda value, _: say.number(value))


def _short(names: Sequence[object]) -> list[str]:
    texts = (str(name) for name in names)
    return [drawing.plain(t if len(t) <= NAME else f"{t[: NAME - 1]}…") for t in texts]
