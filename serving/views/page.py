"""The one-file report: the sheets of the workbook as a page that asks nobody for anything.

The same parts as in the workbook, in the same order. Lists of customers stay in the workbook: a
page is handed around more freely than it should be. Charts are drawn as SVG inside the file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from serving import batch
from serving.decisions.report import Report
from serving.views import labels, workbook
from serving.views.cells import Chart, Part, Sheet
from training import drawing, pages
from training.pages import Block, Document, Picture, Section, Table, Text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["document", "write"]

MOST: Final = 60  # rows of a table on a page; longer ones stand in the workbook
FORMS: Final = {
    "money": "{:,.2f}", "count": "{:,.0f}", "number": "{:,.2f}", "fine": "{:.4f}", "share": "{:.1%}"
}  # fmt: skip
NAME: Final = 24  # characters of a name below a bar


def write(made: Report, out: Path, progress: Any = None) -> dict[str, int]:
    """Write the page whole or not at all; the blocks of each section.

    Raises
    ------
    InputError
        Another ending, a place that cannot be written.
    """
    batch.require_writable(out, (".html",))
    told = document(made, progress)
    with batch.replacing(out) as temporary:
        temporary.write_text(pages.html(told), encoding="utf-8", newline="\n")
    return {section.title: len(section.blocks) for section in told.sections}


def document(made: Report, progress: Any = None) -> Document:
    """The page: a section for each sheet that tells of groups."""
    sections, wanted = [], [sheet for sheet in workbook.sheets(made) if not sheet.long]
    for done, sheet in enumerate(wanted):
        sections.append(_section(sheet, made.currency))
        if progress:
            progress("drawing the page", (done + 1) / len(wanted))
    return Document(labels.text("title"), (workbook.lead(made),), tuple(sections))


def _section(sheet: Sheet, currency: str) -> Section:
    blocks: list[Block] = [Text(line) for line in sheet.lead.split("|")]
    for part in sheet.parts:
        blocks += _blocks(part, currency)
    return Section(labels.text(sheet.name), tuple(blocks))


def _blocks(part: Part, currency: str) -> list[Block]:
    title = labels.text(part.title)
    if part.frame is None or part.frame.empty:
        return [Text(f"{title}. {labels.text('missing', what=part.missing or '-')}", "warning")]
    if "customer_id" in part.frame or len(part.frame) > MOST:
        return [Text(labels.text("elsewhere", title=title), "quiet")]
    drawn: list[Block] = [_picture(chart, part.frame, currency) for chart in part.charts]
    notes = [Text(note, "quiet") for note in part.notes]
    return [_table(title, part.frame, part.kind), *notes, *drawn]


def _table(title: str, frame: pd.DataFrame, kind: str) -> Table:
    units = frame["unit"].tolist() if "unit" in frame else None
    shown = frame.drop(columns="unit") if units else frame
    numbers = [pd.api.types.is_numeric_dtype(shown[name].dtype) for name in shown]
    kinds = [kind or labels.kind(str(name)) for name in shown]
    head, rows = [labels.heading(str(name)) for name in shown], []
    for i, cells in enumerate(shown.astype(object).itertuples(index=False)):
        rows.append([
            _cell(cell, (units[i] if units else own) if number else "")
            for cell, number, own in zip(cells, numbers, kinds, strict=True)
        ])  # fmt: skip
    if not shown.iloc[:, 0].is_unique and len(head) > 1 and not numbers[1]:
        # A row is read by its first cell, which so has to be its own.
        rows = [[f"{row[0]}: {row[1]}", *row[2:]] for row in rows]
        head, numbers = [f"{head[0]}: {head[1]}", *head[2:]], [False, *numbers[2:]]
    words = frozenset(j for j, number in enumerate(numbers) if not number)
    return Table(title, tuple(head), tuple(map(tuple, rows)), words)


def _cell(value: Any, kind: str) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return pages.NOTHING if kind else ""
    return FORMS[kind].format(value) if kind else str(value)


def _picture(chart: Chart, frame: pd.DataFrame, currency: str) -> Picture:
    title, shown = labels.text(chart.title), frame.head(chart.rows)
    figure = drawing.blank(height=3.6)
    axes = figure.subplots()
    {"column": _columns, "line": _line, "scatter": _scatter}[chart.kind](axes, chart, shown)
    drawing.frame(axes, title)
    sides = [_axis(chart, name, currency) for name in (chart.x, chart.y[0])]
    drawing.words(axes, *sides)
    _scales(axes, chart)
    if len(chart.y) > 1 or chart.kind == "scatter":
        drawing.legend(axes)
    alt = f"{title}: {sides[1]} / {sides[0]}; the numbers stand in the table above."
    return Picture(title, drawing.svg(figure), alt, "")


def _axis(chart: Chart, name: str, currency: str) -> str:
    """What an axis means, and its unit."""
    heading = labels.heading(name)
    if name in chart.share:
        return f"{heading} (%)"
    money = labels.kind(name) == "money" and (name != chart.x or chart.kind == "scatter")
    return f"{heading} ({currency})" if money else heading


def _values(frame: pd.DataFrame, chart: Chart, name: str) -> list[float]:
    scale = 100.0 if name in chart.share else 1.0
    return [math.nan if pd.isna(value) else scale * float(value) for value in frame[name]]


def _columns(axes: Axes, chart: Chart, frame: pd.DataFrame) -> None:
    width = 0.8 / len(chart.y)
    for k, name in enumerate(chart.y):
        left = [i - 0.4 + width * (k + 0.5) for i in range(len(frame))]
        axes.bar(left, _values(frame, chart, name), width * 0.92, color=drawing.STYLES[k][0],
                 label=labels.heading(name), zorder=2)  # fmt: skip
    axes.set_xticks(range(len(frame)), _short(frame[chart.x].tolist()))


def _line(axes: Axes, chart: Chart, frame: pd.DataFrame) -> None:
    for k, name in enumerate(chart.y):
        axes.plot(_values(frame, chart, chart.x), _values(frame, chart, name),
                  label=labels.heading(name), **drawing.styled(drawing.STYLES[k]))  # fmt: skip


def _scatter(axes: Axes, chart: Chart, frame: pd.DataFrame) -> None:
    x, y = (_values(frame, chart, name) for name in (chart.x, chart.y[0]))
    for k, label in enumerate(_short(frame.iloc[:, 0].tolist())):
        colour, marker, _ = drawing.STYLES[k % len(drawing.STYLES)]
        axes.plot(x[k : k + 1], y[k : k + 1], marker, color=colour, markersize=9, label=label)


def _short(names: Sequence[object]) -> list[str]:
    texts = (str(name) for name in names)
    return [drawing.plain(t if len(t) <= NAME else f"{t[: NAME - 1]}…") for t in texts]


def _scales(axes: Axes, chart: Chart) -> None:
    drawing.from_zero(axes)
    if chart.y[0] in chart.share:
        axes.set_ylim(0, 105)
    if chart.x in chart.share:
        axes.set_xlim(0, 105)
