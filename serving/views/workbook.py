"""The Excel workbook: key figures, sheets for four readers, and the tables that they pick from.

Everything shown comes from `serving.decisions.report`: here columns and rows are picked and laid
out, and no number is worked out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pandas as pd

from serving.decisions.cohorts import ALL
from serving.decisions.report import Report
from serving.views import cells, labels
from serving.views.cells import Chart, Part, Sheet

__all__ = ["lead", "sheets", "terminal", "write"]

FEW, SOME = 20, 50  # customers that a reader's sheet shows
#: The columns of channels by what they tell, so that each table fits a printed page.
CHANNELS: Final = (
    ("part.channels", "spend|fees|cost|signups|customers|cpa|cac|note"),
    ("part.ltv", "realised_.*|ltv_\\d+m.*"),
    ("part.return", "ltv_to_cac.*|roi.*|payback.*"),
    ("part.ahead", "ahead_.*|repeat.*|retention.*"),
)
AGAIN: Final = (
    ("part.retention", "customers|covered|repeat.*|loyal.*|orders|base|retention.*"),
    ("part.stays", "stayed.*|mean_life.*"),
)


def write(made: Report, out: Path, progress: Any = None) -> dict[str, int]:
    """Write the workbook whole or not at all; the rows of data on each sheet.

    Raises
    ------
    InputError
        Another ending, more than a worksheet takes, a place that cannot be written.
    """
    return cells.write(sheets(made), out, lead(made), progress)


def lead(made: Report) -> str:
    """The line below every title: moment, months, currency, model."""
    return labels.text("subtitle", as_of=made.as_of, months=made.months, currency=made.currency,
                       version=made.version)  # fmt: skip


def sheets(made: Report) -> list[Sheet]:
    """All sheets in their order: the summary, four readers, then the whole tables."""
    parts = {
        "figures": (_figures(made), _segments(made)),
        "product": (*_all_cohorts(made), _reach(made)),
        "experience": (_leaving(made), _surveys(made), _slipping(made)),
        "marketing": (_economics(made), _again_short(made), _steps(made), _first_targets(made)),
        "sales": (_best(made), _slipping(made)),
        "segments": (_segments(made), _steps(made), _categories(made)),
        "channels": (*_parted(_channels(made), CHANNELS), *_parted(_again(made), AGAIN)),
        "cohorts": (*_all_cohorts(made), _active(made), _cohorts(made)),
        "targets": (_targets(made),),
        "quality": (_quality(made), *_tested(made)),
        "customers": (Part("part.customers", made.customers),),
    }
    long = ("targets", "customers")
    return [
        Sheet(f"sheet.{name}", labels.text(f"lead.{name}"), some, name in long)
        for name, some in parts.items()
    ]


def _figures(made: Report) -> Part:
    return Part("part.figures", _worded(made.figures(), "figure"), notes=made.worth.notes)


def _worded(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Names of columns that stand in cells, in words."""
    return frame.assign(**{column: frame[column].map(labels.heading)})


def _picked(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    return frame[[name for name in names if name in frame]]


def _segments(made: Report) -> Part:
    h, table = made.months, made.groups.table
    frame = table.drop(columns="next_step")
    n = len(frame) - 1  # the last row is of all
    return Part("part.segments", frame, notes=made.groups.notes, charts=(
        Chart("column", "chart.value", "segment", (f"clv_{h}m",), n),
        Chart("scatter", "chart.map", f"churn_{h}m", (f"clv_{h}m_per_customer",), n,
              (f"churn_{h}m",)),
    ))  # fmt: skip


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
    return Part("part.categories", made.groups.reach, made.missing.get("categories", ""))


def _reach(made: Report) -> Part:
    """The same as a grid of shares, which is easier to read."""
    every = _categories(made)
    if every.frame is None or every.frame.empty:
        return every
    order = every.frame["segment"].drop_duplicates().tolist()
    grid = every.frame.pivot_table(index="category", columns="segment", values="share", sort=True)
    return Part(every.title, _picked(grid, order).reset_index(), kind="share", heat=1)


def _channels(made: Report) -> Part:
    if made.channels is None:
        return Part("part.channels", None, made.missing["channels"])
    whole, m = made.channels.whole.drop(columns="cohort"), made.channels.months
    n = max(len(whole) - 1, 1)
    ltv = (f"ltv_{m}m", "cac") if f"ltv_{m}m" in whole and "cac" in whole else ()
    charts: tuple[Chart, ...] = ()
    if ltv:
        charts = (Chart("column", "chart.channels", "channel", ltv, n),)
    if "ltv_to_cac" in whole:
        charts += (Chart("column", "chart.ratio", "channel", ("ltv_to_cac",), n),)
    return Part("part.channels", whole, charts=charts, notes=made.channels.notes)


def _parted(part: Part, groups: Sequence[tuple[str, str]]) -> tuple[Part, ...]:
    """A table's columns as several tables with the same rows."""
    if part.frame is None:
        return (part,)
    first, made = str(part.frame.columns[0]), list[Part]()
    for title, pattern in groups:
        names = [name for name in part.frame if re.fullmatch(pattern, str(name))]
        if names:
            made.append(Part(title, part.frame[[first, *names]]))
    made[-1] = replace(made[-1], notes=part.notes)
    return tuple(made)


def _economics(made: Report) -> Part:
    every = _channels(made)
    if every.frame is None or made.channels is None:
        return Part("part.economics", None, every.missing)
    names = ("channel", "customers", "cost", "cac", f"ltv_{made.channels.months}m", "ltv_to_cac",
             "ltv_to_cac_low", "ltv_to_cac_high", "roi", "payback_month", "note")  # fmt: skip
    return Part("part.economics", _picked(every.frame, names), charts=every.charts)


def _again(made: Report) -> Part:
    if made.retained is None or made.retained.channels is None:
        told = made.missing.get("retention", "Add acquisition_channel to the table customers.")
        return Part("part.retention", None, told)
    return Part("part.retention", made.retained.channels)


def _again_short(made: Report) -> Part:
    every = _again(made)
    if every.frame is None or made.retained is None:
        return every
    stays = [f"stayed_{h}m" for h in made.retained.stayed]
    names = ("channel", "customers", "repeat_rate", "retention", *stays, "mean_life")
    return Part(every.title, _picked(every.frame, names))


def _surveys(made: Report) -> Part:
    told = made.missing.get("surveys", made.missing.get("retention", ""))
    if made.retained is None or made.retained.beside.table.empty:
        return Part("part.surveys", None, told)
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
        Chart("line", "chart.margin", "since", ("margin_so_far",), n),
    )),)  # fmt: skip


def _active(made: Report) -> Part:
    if made.retained is None:
        return Part("part.active", None, made.missing["retention"])
    grid = made.retained.cohorts.grid("active")
    grid.columns = pd.Index([str(column) for column in grid])
    return Part("part.active", grid.reset_index(), kind="share", heat=2)


def _cohorts(made: Report) -> Part:
    if made.retained is None:
        return Part("part.cohorts", None, made.missing["retention"])
    return Part("part.cohorts", made.retained.cohorts.table)


def _targets(made: Report) -> Part:
    notes = made.listed.chosen.notes if made.listed is not None else ()
    frame = made.targets()
    if frame is not None:
        frame = frame.dropna(axis=1, how="all")  # no channel or offer was named
    return Part("part.targets", frame, made.missing.get("targets", ""), notes=notes)


def _first_targets(made: Report) -> Part:
    every = made.targets()
    if every is None:
        return Part("part.first", None, made.missing["targets"])
    h = made.months
    names = ("customer_id", "rank", "arm", "gain", f"churn_{h}m", f"clv_{h}m", "segment")
    return Part("part.first", _picked(every.head(FEW), names))


def _slipping(made: Report) -> Part:
    frame = _listed(made, made.slipping(SOME))
    return Part("part.slipping", frame, "Nobody is worth much and likely to leave.")


def _best(made: Report) -> Part:
    return Part("part.best", _listed(made, made.best(SOME)), "Nobody has ordered yet.")


def _listed(made: Report, frame: pd.DataFrame) -> pd.DataFrame:
    h = made.months
    names = ("customer_id", "segment", "past_orders", "past_revenue", f"churn_{h}m", f"clv_{h}m",
             f"clv_{h}m_low", f"clv_{h}m_high", f"keep_at_most_{h}m", "next_order_on")  # fmt: skip
    return _picked(frame, names)


def _quality(made: Report) -> Part:
    frame = made.quality()
    if frame is not None:
        frame = _worded(frame.assign(unit=frame["metric"].map(labels.kind)), "metric")
    return Part("part.quality", frame, made.missing.get("model", ""))


def _tested(made: Report) -> tuple[Part, ...]:
    """More of the test, where there was one; what is missing then is said above."""
    picked = {
        "slices": ("slice", "level", "n", "bias", "bias_low", "bias_high", "wape", "mae", "auroc",
                   "normalised_gini"),
        "coverage": ("group", "n", "below", "inside", "above"),
    }  # fmt: skip
    parts = []
    track = made.tracking()
    if track is not None:
        chart = Chart("line", "chart.tracking", "month", ("predicted", "actual"), len(track))
        parts.append(Part("part.tracking", track, charts=(chart,)))
    for name, columns in picked.items():
        frame = made.tested(name)
        if frame is not None:
            parts.append(Part(f"part.{name}", _picked(frame, columns)))
    return tuple(parts)


def terminal(made: Report, out: Path, rows: dict[str, int]) -> str:
    """What the command prints; no customer's name stands in it."""
    lines = [lead(made)]
    told = "money", "count"
    for row in made.figures().to_dict("records"):
        shown = "–" if pd.isna(row["value"]) else (  # noqa: RUF001  a dash, no minus
            f"{row['value']:,.{2 * (row['unit'] == 'money')}f}" if row["unit"] in told
            else f"{row['value']:.1%}"
        )  # fmt: skip
        lines.append(f"  {labels.heading(row['figure'])}: {shown}")
    lines += [f"Missing: {what}" for what in made.missing.values()]
    sheets = ", ".join(f"{name} ({count:,})" for name, count in rows.items())
    return "\n".join([*lines, f"Sheets and their rows: {sheets}", f"Written to {out}"])
