"""The Excel workbook: key figures, sheets for four readers, and the tables that they pick from.

Everything shown comes from `serving.decisions.report`: here columns and rows are picked and laid
out, and no number is worked out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pandas as pd

from serving.decisions.cohorts import ALL
from serving.decisions.report import Report
from serving.views import cells, shown
from serving.views.cells import Chart, Part, Sheet
from serving.views.language import Note, Words, words
from serving.views.pictures import Drawing, drawings
from training import slices

__all__ = ["lead", "sheets", "terminal", "write"]

NATIVE: Final = ("tracking",)  # pictures that the workbook has as a chart of its own
FEW, SOME = 20, 50  # customers that a reader's sheet shows
#: The columns of channels by what they tell, so that each table fits a printed page.
CHANNELS: Final = (
    ("part.channels", "spend|fees|cost|signups|customers|cpa|cac|note"),
    ("part.realised", "realised_.*"),
    ("part.ltv", "ltv_\\d+m.*"),
    ("part.return", "ltv_to_cac.*|roi.*|payback.*"),
    ("part.ahead", "ahead_.*"),
    ("part.again", "repeat.*|retention.*"),
)
PARTED: Final = (
    ("part.segments", "customers|share|clv_.*|churn_.*"),
    ("part.drivers", "orders_per_month|order_value_.*|active_months_.*|categories|one_category"),
)
AGAIN: Final = (
    ("part.retention", "customers|base|retention.*"),
    ("part.repeat", "covered|repeat.*|loyal.*|orders"),
    ("part.stays", "stayed.*|mean_life.*"),
)


def write(
    made: Report,
    out: Path,
    say: Words | None = None,
    progress: Any = None,
    drawn: Mapping[str, Drawing] | None = None,
) -> dict[str, int]:
    """Write the workbook whole or not at all; the rows of data on each sheet.

    `drawn` are its pictures, if they are drawn already.

    Raises
    ------
    InputError
        Another ending, more than a worksheet takes, a place that cannot be written.
    """
    say = say or words()
    there, images = drawings(made, say) if drawn is None else drawn, {}
    for done, (name, one) in enumerate(there.items()):
        if name not in NATIVE:
            images[name] = one.image()
        if progress:
            progress("drawing pictures", (done + 1) / len(there))
    return cells.write(
        sheets(made, say), out, lead(made, say), say=say, drawn=images, progress=progress
    )


def lead(made: Report, say: Words) -> str:
    """The line below every title: moment, months, currency, model."""
    return say("workbook.subtitle", as_of=say.date(made.as_of), months=made.months,
               currency=made.currency, version=made.version)  # fmt: skip


def sheets(made: Report, say: Words) -> list[Sheet]:
    """All sheets in their order: the summary, four readers, then the whole tables."""
    parts = {
        "figures": (_figures(made, say), *_parted(_segments(made), PARTED)),
        "product": (*_all_cohorts(made), _reach(made, say)),
        "experience": (_leaving(made), _surveys(made), _slipping(made, say)),
        "marketing": (_economics(made), _again_short(made), _steps(made), _first_targets(made)),
        "sales": (_best(made, say), _slipping(made, say)),
        "segments": (*_parted(_segments(made), PARTED), _steps(made), _categories(made)),
        "channels": (*_parted(_channels(made), CHANNELS), *_parted(_again(made), AGAIN)),
        "cohorts": (*_all_cohorts(made), _active(made), _cohorts(made)),
        "targets": (_targets(made),),
        "quality": (_quality(made, say), *_tested(made)),
        "customers": (Part("sheet.customers", made.customers),),
    }
    long = ("targets", "customers")
    return [
        Sheet(f"sheet.{name}", say(f"workbook.lead.{name}"), tuple(_in_words(p, say) for p in some),
              name in long, say.lists.get(f"workbook.do.{name}", ()))
        for name, some in parts.items()
    ]  # fmt: skip


def _in_words(part: Part, say: Words) -> Part:
    """Cells that hold names of ours, in the reader's language."""
    return part if part.frame is None else replace(part, frame=shown.told(part.frame, say))


def _lacking(made: Report, *names: str) -> str:
    """What to add for the first of these parts that lacks something."""
    return next((made.missing[name] for name in names if name in made.missing), "")


def _figures(made: Report, say: Words) -> Part:
    frame = _worded(made.figures(), "figure", say)
    return Part("part.figures", frame, notes=made.worth.notes, pictures=("spread",))


def _worded(frame: pd.DataFrame, column: str, say: Words) -> pd.DataFrame:
    """Names of columns that stand in cells, in words."""
    return frame.assign(**{column: frame[column].map(say.heading)})


def _picked(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    return frame[[name for name in names if name in frame]]


def _segments(made: Report) -> Part:
    h, table = made.months, made.groups.table
    frame = table.drop(columns="next_step")
    n = len(frame) - 1  # the last row is of all
    chart = Chart("column", "chart.value", "segment", (f"clv_{h}m",), n, unit=made.currency)
    return Part("part.segments", frame, notes=made.groups.notes, charts=(chart,),
                pictures=("map", "matrix"))  # fmt: skip


def _steps(made: Report) -> Part:
    table = made.groups.table
    names = ("segment", "customers", f"clv_{made.months}m", "next_step")
    return Part("part.steps", _picked(table[table["segment"] != "All"], names))


def _leaving(made: Report) -> Part:
    h, table = made.months, made.groups.table
    names = ("segment", "customers", "share", f"churn_{h}m", f"clv_{h}m_per_customer", f"clv_{h}m")
    charts = (Chart("column", "chart.leaving", "segment", (f"churn_{h}m",), len(table) - 1,
                    (f"churn_{h}m",)),)  # fmt: skip
    return Part("part.leaving", _picked(table, names), charts=charts)


def _categories(made: Report) -> Part:
    lacks = _lacking(made, "categories")
    return Part("part.categories", made.groups.reach, lacks, listed=True)


def _reach(made: Report, say: Words) -> Part:
    """The same as a grid of shares, which is easier to read."""
    every = _categories(made)
    if every.frame is None or every.frame.empty:
        return every
    order = every.frame["segment"].drop_duplicates().tolist()
    grid = every.frame.pivot_table(index="category", columns="segment", values="share", sort=True)
    shares = _picked(grid, order).rename(columns=say.segment).reset_index()
    return Part(every.title, shares, kind="share", heat=1, named=1)


def _channels(made: Report) -> Part:
    if made.channels is None:
        return Part("part.channels", None, made.missing["channels"])
    whole = made.channels.whole.drop(columns="cohort")
    return Part("part.channels", whole, notes=made.channels.notes, pictures=("channels",))


def _parted(part: Part, groups: Sequence[tuple[str, str]]) -> tuple[Part, ...]:
    """A table's columns as several tables with the same rows."""
    if part.frame is None:
        return (part,)
    first, made = str(part.frame.columns[0]), list[Part]()
    for title, pattern in groups:
        names = [name for name in part.frame if re.fullmatch(pattern, str(name))]
        if names:
            made.append(Part(title, part.frame[[first, *names]]))
    made[0] = replace(made[0], charts=part.charts)
    made[-1] = replace(made[-1], notes=part.notes, pictures=part.pictures)
    return tuple(made)


def _economics(made: Report) -> Part:
    every = _channels(made)
    if every.frame is None or made.channels is None:
        return Part("part.economics", None, every.missing)
    names = ("channel", "customers", "cost", "cac", f"ltv_{made.channels.months}m", "ltv_to_cac",
             "ltv_to_cac_low", "ltv_to_cac_high", "roi", "payback_month", "note")  # fmt: skip
    return Part("part.economics", _picked(every.frame, names), pictures=every.pictures)


def _again(made: Report) -> Part:
    if made.retained is None or made.retained.channels is None:
        return Part("part.retention", None, _lacking(made, "retention", "acquisition"))
    return Part("part.retention", made.retained.channels)


def _again_short(made: Report) -> Part:
    every = _again(made)
    if every.frame is None or made.retained is None:
        return every
    stays = [f"stayed_{h}m" for h in made.retained.stayed]
    names = ("channel", "customers", "repeat_rate", "retention", *stays, "mean_life")
    return Part(every.title, _picked(every.frame, names))


def _surveys(made: Report) -> Part:
    if made.retained is None or made.retained.beside.table.empty:
        return Part("part.surveys", None, _lacking(made, "surveys", "retention"))
    notes = made.retained.beside.notes
    return Part("part.surveys", made.retained.beside.table, notes=notes)


def _all_cohorts(made: Report) -> tuple[Part, ...]:
    if made.retained is None:
        return (Part("part.all", None, made.missing["retention"]),)
    table = made.retained.cohorts.table
    names = ("since", "customers", "active", "revenue", "margin", "revenue_so_far",
             "margin_so_far")  # fmt: skip
    every = _picked(table[table["cohort"] == ALL], names).reset_index(drop=True)
    n = len(every)
    return (Part("part.all", every, charts=(
        Chart("line", "chart.active", "since", ("active",), n, ("active",)),
        Chart("line", "chart.margin", "since", ("margin_so_far",), n, unit=made.currency),
    )),)  # fmt: skip


def _active(made: Report) -> Part:
    if made.retained is None:
        return Part("part.active", None, made.missing["retention"])
    grid = made.retained.cohorts.grid("active")
    grid.columns = pd.Index([str(column) for column in grid])
    return Part("part.active", grid.reset_index(), kind="share", heat=2, named=1,
                pictures=("heat",))  # fmt: skip


def _cohorts(made: Report) -> Part:
    if made.retained is None:
        return Part("part.cohorts", None, made.missing["retention"])
    return Part("part.cohorts", made.retained.cohorts.table)


def _targets(made: Report) -> Part:
    notes = made.listed.chosen.notes if made.listed is not None else ()
    frame = made.targets()
    if frame is not None:
        frame = frame.dropna(axis=1, how="all")  # no channel or offer was named
    return Part("sheet.targets", frame, _lacking(made, "targets"), notes=notes)


def _first_targets(made: Report) -> Part:
    every = made.targets()
    if every is None:
        return Part("part.first", None, made.missing["targets"])
    h = made.months
    names = ("customer_id", "rank", "arm", "gain", f"churn_{h}m", f"clv_{h}m", "segment")
    return Part("part.first", _picked(every.head(FEW), names))


def _slipping(made: Report, say: Words) -> Part:
    frame = _listed(made, made.slipping(SOME))
    return Part("part.slipping", frame, empty=say("workbook.nobody_slipping"))


def _best(made: Report, say: Words) -> Part:
    frame = _listed(made, made.best(SOME))
    return Part("part.best", frame, empty=say("workbook.nobody_best"))


def _listed(made: Report, frame: pd.DataFrame) -> pd.DataFrame:
    h = made.months
    names = ("customer_id", "segment", "past_orders", "past_revenue", f"churn_{h}m", f"clv_{h}m",
             f"clv_{h}m_low", f"clv_{h}m_high", f"keep_at_most_{h}m", "next_order_on")  # fmt: skip
    return _picked(frame, names)


def _quality(made: Report, say: Words) -> Part:
    frame = made.quality()
    if frame is None:
        return Part("part.quality", None, _lacking(made, "model"))
    names = {name: shown.model(str(name), say) for name in frame.columns[1:]}
    frame = frame.assign(unit=frame["metric"].map(shown.kind)).rename(columns=names)
    notes = tuple(made.missing[name] for name in ("curves",) if name in made.missing)
    return Part("part.quality", _worded(frame, "metric", say), notes=notes, named=1,
                pictures=("deciles", "gain", "calibration"))  # fmt: skip


def _tested(made: Report) -> tuple[Part, ...]:
    """More of the test, where there was one; what is missing then is said above."""
    picked = (
        ("slices", "part.slices", ("slice", "level", "n", "bias", "bias_low", "bias_high", "wape",
                                   "mae", "auroc", "normalised_gini")),
        ("coverage", "part.coverage", ("group", "n", "below", "inside", "above")),
    )  # fmt: skip
    parts = []
    track = made.tracking()
    if track is not None:
        chart = Chart("line", "chart.tracking", "month", ("predicted", "actual"), len(track),
                      unit=made.currency, twin="tracking")  # fmt: skip
        parts.append(Part("part.tracking", track, charts=(chart,)))
    for name, title, columns in picked:
        frame = made.tested(name)
        if frame is not None:
            parts.append(Part(title, _picked(frame, columns), notes=_untold(frame)))
    return tuple(parts)


def _untold(frame: pd.DataFrame) -> tuple[str, ...]:
    """Why some rows hold no figures."""
    few = "small" in frame and bool(frame["small"].any())
    return (Note.of("notes.small", least=slices.LEAST),) if few else ()


def terminal(made: Report, out: Path, rows: dict[str, int], say: Words) -> str:
    """What the command prints; no customer's name stands in it."""
    lines = [lead(made, say)]
    forms = {"money": lambda x: say.number(x, 2), "count": say.number, "share": say.percent}
    for row in made.figures().to_dict("records"):
        value = float("nan") if row["value"] is None else row["value"]
        lines.append(f"  {say.heading(row['figure'])}: {forms[row['unit']](value)}")
    lines += [say("workbook.lacks", what=say.told(what)) for what in made.missing.values()]
    told = ", ".join(f"{name} ({say.number(count)})" for name, count in rows.items())
    return "\n".join([*lines, say("workbook.rows", sheets=told),
                      say("parted.written", out=out)])  # fmt: skip
