"""Retention for people: a folder of tables, pictures and a page, and lines for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from features.errors import InputError
from serving.decisions import files
from serving.decisions.cohorts import ALL
from serving.decisions.retained import AGAIN, Retained
from serving.decisions.retention import FEWEST
from serving.decisions.survival import MONTH, Curve, Share
from serving.decisions.words import table as aligned
from serving.writing import replacing
from training import charts, pages
from training.charts import Step
from training.drawing import svg
from training.pages import NOTHING, Block, Bullets, Document, Picture, Section, Table, Text

__all__ = ["FILES", "document", "require_folder", "tables", "terminal", "write"]

#: All that a run may write; a folder with anything else is not taken for one of ours.
FILES: Final = (
    "cohorts.csv", "survival.csv", "channels.csv", "surveys.csv", "cohorts.svg", "life.svg",
    "life_by_channel.svg", "second_order.svg", "channels.svg", "surveys.svg", "index.html",
)  # fmt: skip
SHOWN: Final = 8  # cohorts and periods on the terminal
HONEST: Final = (
    "What goes together is not yet a cause: a channel may bring other people, and who stays answers"
    " surveys. Only a test against a control group tells what a change brings."
)


def require_folder(out: Path) -> None:
    """Refuse a folder that holds anything but what an earlier run wrote.

    Raises
    ------
    InputError
        It is a file, or holds something else.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out must be a folder. Got the file {out}. Name another place.")
    other = sorted(path.name for path in out.iterdir() if path.name not in FILES) if (
        out.exists()
    ) else []  # fmt: skip
    if other:
        raise InputError(
            "--out must be a new or empty folder, or one that clv retention wrote. Got "
            f"{other[0]!r} in {out}. Name another place."
        )


def write(made: Retained, out: Path) -> list[str]:
    """Write the folder, each file whole or not at all, the page last; names of what was written.

    Raises
    ------
    InputError
        The folder holds something else, or cannot be written.
    """
    require_folder(out)
    drawn = pictures(made)
    names = []
    for name, frame in tables(made).items():
        files.write(frame, out / name)
        names.append(name)
    texts = {picture.file: f"{picture.svg.rstrip()}\n" for picture in drawn.values()}
    for name, content in {**texts, "index.html": pages.html(document(made, drawn))}.items():
        with replacing(out / name) as temporary:
            temporary.write_text(content, encoding="utf-8", newline="\n")
        names.append(name)
    for name in FILES:  # of an earlier run on data that had more to tell
        if name not in names:
            (out / name).unlink(missing_ok=True)
    return names


def tables(made: Retained) -> dict[str, pd.DataFrame]:
    """The tables by file name."""
    found = {"cohorts.csv": made.cohorts.table.round(6), "survival.csv": _survival(made)}
    if made.channels is not None and len(made.channels):
        found["channels.csv"] = made.channels.round(6)
    if len(made.beside.table):
        found["surveys.csv"] = made.beside.table.round(6)
    return found


def _survival(made: Retained) -> pd.DataFrame:
    """All curves below one another; `survival` is the share without the event, with its ends."""
    parts = []
    for k, event in enumerate(("lapsed", "second_order")):
        for name, curve in {ALL: (made.life, made.again), **_channels(made)}.items():
            one = curve[k]
            parts.append(
                pd.DataFrame(
                    {
                        "event": event, "channel": name, "day": one.days,
                        "months": one.days / MONTH, "at_risk": one.at_risk, "events": one.events,
                        "survival": one.survival, "low": one.low, "high": one.high,
                    }
                )
            )  # fmt: skip
    return pd.concat(parts, ignore_index=True).round(6)


def _channels(made: Retained) -> dict[str, tuple[Curve, Curve]]:
    # A channel of that name must not be taken for everybody.
    return {f"channel {name}" if name == ALL else name: c for name, c in made.by_channel.items()}


# Pictures


def pictures(made: Retained) -> dict[str, Picture]:
    """The pictures by name; those are left out for which the data have too little."""
    found = {}
    grid = made.cohorts.grid()
    if grid.loc[:, grid.columns.to_numpy() > 0].notna().to_numpy().any():
        period = made.cohorts.period
        told = f"whole {period}s to {made.as_of}"
        heat = charts.heat_map(grid, period=period, note_text=told)
        found["cohorts"] = Picture(
            "Cohorts", svg(heat), f"Share of each cohort active in each {period} since its first "
            "order; the same numbers are in cohorts.csv.", "cohorts.svg")  # fmt: skip
    if made.life.reach > 0:
        found["life"] = _life(made)
        curves = {n: _step(pair[0]) for n, pair in made.by_channel.items() if pair[0].reach > 0}
        if len(curves) > 1:
            found["lives"] = _lives(made, curves)
        found["second_order"] = _second(made)
    if made.channels is not None and made.channels["repeat_rate"].notna().any():
        found["channels"] = _shares(
            "channels", made.channels, "channel", "repeat", "covered",
            f"Ordered again within {made.months} months, by acquisition channel",
            "customers with a second order (%)")  # fmt: skip
    if len(made.beside.table) and made.beside.table["retention"].notna().any():
        found["surveys"] = _surveys(made)
    return found


def _life(made: Retained) -> Picture:
    title = "Customers who stay"
    said = ", ".join(f"{_ranged(made.life.at(h * MONTH))} after {h} months" for h in made.stayed)
    drawn = _staying(made, title, {ALL: _step(made.life)})
    alt = f"Share of customers who have not lapsed, by months since the first order: {said}."
    return Picture(title, drawn, alt, "life.svg")


def _lives(made: Retained, curves: dict[str, Step]) -> Picture:
    title = "Customers who stay, by acquisition channel"
    return Picture(title, _staying(made, title, curves), f"{title}; the same numbers are in "
                   "survival.csv.", "life_by_channel.svg")  # fmt: skip


def _staying(made: Retained, title: str, curves: dict[str, Step]) -> str:
    event, rule = "customers who have not lapsed (%)", f"lapsed: {made.lives.rule}"
    return svg(charts.life_chart(curves, title=title, event=event, note_text=rule))


def _second(made: Retained) -> Picture:
    figure = charts.life_chart(
        {"all": _step(made.again, turned=True)}, title="Time to the second order", start=0.0,
        event="customers with a second order (%)",
    )  # fmt: skip
    said = ", ".join(f"{_ranged(_turned(made.again.at(h * MONTH)))} by month {h}" for h in AGAIN)
    return Picture("Time to the second order", svg(figure), "Share of customers who have ordered a "
                   f"second time: {said}.", "second_order.svg")  # fmt: skip


def _surveys(made: Retained) -> Picture:
    table = made.beside.table.assign(
        level=lambda t: [f"{a}: {b}" for a, b in zip(t["source"], t["level"], strict=True)],
        retention_low=made.beside.table["low"], retention_high=made.beside.table["high"],
    )  # fmt: skip
    return _shares(
        "surveys", table.rename(columns={"retention": "retention_rate"}), "level", "retention",
        "customers", f"Retention over {made.months} months, by what was known before",
        "customers who ordered again (%)")  # fmt: skip


def _shares(
    name: str, table: pd.DataFrame, label: str, rate: str, count: str, title: str, share: str
) -> Picture:
    shown = pd.DataFrame(
        {
            "label": table[label], "value": table[f"{rate}_rate"], "low": table[f"{rate}_low"],
            "high": table[f"{rate}_high"], "customers": table[count],
        }
    )  # fmt: skip
    how = "with 95 % intervals; customers in brackets"
    figure = charts.shares_chart(shown, title=title, share=share, note_text=how)
    return Picture(title, svg(figure), f"{title}, with intervals; the same numbers are in "
                   f"{name}.csv.", f"{name}.svg")  # fmt: skip


def _step(one: Curve, turned: bool = False) -> Step:
    if turned:
        return Step(one.days, 1 - one.survival, 1 - one.high, 1 - one.low, one.reach, one.customers)
    return Step(one.days, one.survival, one.low, one.high, one.reach, one.customers)


# Words


def _percent(value: Any) -> str:
    return NOTHING if value is None or pd.isna(value) else f"{100 * value:.1f}%"


def _ranged(told: Share) -> str:
    if np.isnan(told.value):
        return "not known yet"
    return f"{_percent(told.value)} ({_percent(told.low)} to {_percent(told.high)})"


def _turned(told: Share) -> Share:
    return Share(1 - told.value, 1 - told.high, 1 - told.low)


def _whole(made: Retained, name: str) -> Share:
    rate = name if name == "retention" else f"{name}_rate"
    return Share(made.whole[rate], made.whole[f"{name}_low"], made.whole[f"{name}_high"])


def summary(made: Retained) -> list[str]:
    """The main figures, a sentence each."""
    h, whole = made.months, made.whole
    span, few = f"{h} month{'s' * (h > 1)}", f"not told, fewer than {FEWEST} customers can be asked"
    stayed = "; ".join(f"after {m} months {_ranged(made.life.at(m * MONTH))}" for m in made.stayed)
    again = ", ".join(f"{m}: {_percent(_turned(made.again.at(m * MONTH)).value)}" for m in AGAIN)
    mean, median = made.mean_life, made.life.median() / MONTH
    lines = [
        f"{whole['customers']:,} customers with {made.orders:,} orders before {made.as_of}",
        f"Repeat rate: {_ranged(_whole(made, 'repeat'))} ordered again within {span} of the "
        f"first order, {_percent(whole['loyal_rate'])} three times or more, of "
        f"{whole['covered']:,} who can be asked"
        if whole["covered"] >= FEWEST else f"Repeat rate: {few}",
        f"Retention: {_ranged(_whole(made, 'retention'))} of {whole['base']:,} who ordered in "
        f"the {span} before {made.landmark} ordered again in the {span} after"
        if whole["base"] >= FEWEST else f"Retention: {few}",
        f"Second order by month {again}",
        f"Stays (not lapsed: {made.lives.rule}): {stayed}",
    ]  # fmt: skip
    if made.lives.seen.any():
        half = f"half have lapsed after {median:.1f} months" if median == median else (  # noqa: PLR0124
            "fewer than half have lapsed so far")  # fmt: skip
        lines.append(
            f"Mean life {mean.value:.1f} ({mean.low:.1f} to {mean.high:.1f}) of the first "
            f"{made.within} months{_silent(made)}; {half}"
        )
        lines.append(f"{_percent(made.returned)} of those who lapsed have ordered again since")
    return lines


def _silent(made: Retained) -> str:
    if made.lives.silence is None:
        return ""
    return f", the silence of {made.lives.silence / MONTH:.1f} that ends it included"


def terminal(made: Retained, out: Path, names: list[str]) -> str:
    """What the command prints."""
    lines = summary(made)
    if made.channels is not None and len(made.channels):
        lines += ["", *aligned(_channel_rows(made))]
    if len(made.beside.table):
        lines += ["", *aligned(_beside_rows(made), left=2)]
    lines += ["", *_newest(made), HONEST, *(f"Note: {note}" for note in made.notes)]
    return "\n".join([*lines, f"Written to {out}: {', '.join(names)}"])


def _channel_rows(made: Retained) -> list[list[str]]:
    h, stays = made.months, made.stayed[0]
    rows = [["channel", "customers", f"again in {h}m", "3 orders", f"retention {h}m",
             f"stays {stays}m", f"mean life of {made.within}m"]]  # fmt: skip
    table = made.channels if made.channels is not None else pd.DataFrame()
    for row in table.to_dict("records"):
        ends = [_range(row, name) for name in ("repeat_rate", "retention", f"stayed_{stays}m")]
        life = row["mean_life"]
        rows.append([str(row["channel"]), f"{row['customers']:,}", ends[0],
                     _percent(row["loyal_rate"]), ends[1], ends[2],
                     NOTHING if pd.isna(life) else f"{life:.1f} ({row['mean_life_low']:.1f} to "
                     f"{row['mean_life_high']:.1f})"])  # fmt: skip
    return rows


def _range(row: dict[Any, Any], name: str) -> str:
    stem = name.removesuffix("_rate")
    if pd.isna(row[name]):
        return NOTHING
    return f"{_percent(row[name])} ({100 * row[f'{stem}_low']:.0f}-{100 * row[f'{stem}_high']:.0f})"


def _beside_rows(made: Retained) -> list[list[str]]:
    rows = [["known before", "", "customers", f"retention {made.months}m", "from", "to"]]
    return rows + [
        [str(row["source"]), str(row["level"]), f"{row['customers']:,}",
         *(_percent(row[name]) for name in ("retention", "low", "high"))]
        for row in made.beside.table.to_dict("records")
    ]  # fmt: skip


def _newest(made: Retained) -> list[str]:
    """The newest cohorts and all together: shares active in the first periods since."""
    table, period = made.cohorts.table, made.cohorts.period
    shown = table[(table["since"] > 0) & (table["since"] <= SHOWN)]
    names = [*sorted(set(table["cohort"]) - {ALL})[-SHOWN - 1 :], ALL]
    sizes = table[table["since"] == 0].set_index("cohort")["customers"]
    rows = [[f"active, {period}s since", "customers", *map(str, range(1, SHOWN + 1))]]
    for name in names:
        own = shown[shown["cohort"] == name].set_index("since")["active"]
        cells = [_percent(own.get(k)) if k in own.index else "" for k in range(1, SHOWN + 1)]
        rows.append([str(name), f"{sizes[name]:,}", *cells])
    return aligned(rows)


def document(made: Retained, drawn: dict[str, Picture] | None = None) -> Document:
    """The page: the main figures, pictures and tables."""
    shown = pictures(made) if drawn is None else drawn
    sections = [Section("In short", (Bullets(tuple(summary(made))), Text(HONEST, "quiet")))]
    if "life" in shown:
        drawn_here = [shown[n] for n in ("life", "lives", "second_order") if n in shown]
        sections.append(Section("How long customers stay", tuple(drawn_here)))
    if made.channels is not None and len(made.channels):
        sections.append(Section("Channels", _blocks(shown, "channels", _channel_rows(made))))
    if len(made.beside.table):
        rows = [[f"{row[0]}: {row[1]}" if row[1] else row[0], *row[2:]]
                for row in _beside_rows(made)]  # fmt: skip
        sections.append(Section("Surveys and loyalty", _blocks(shown, "surveys", rows)))
    told = "Whole periods of the calendar only. The first cohort also holds whoever was a customer "
    first = Text(f"{told}before the data begin.", "quiet")
    sections.append(Section("Cohorts", (*_blocks(shown, "cohorts", _cohort_rows(made)), first)))
    if made.notes:
        sections.append(Section("Notes", (Bullets(made.notes),)))
    lead = (f"As of {made.as_of}; money in {made.currency}; intervals of 95 %. Fewer than 10 "
            "customers are never told apart.",)  # fmt: skip
    return Document("Retention", lead, tuple(sections))


def _blocks(shown: dict[str, Picture], name: str, rows: list[list[str]]) -> tuple[Block, ...]:
    table = Table("", tuple(rows[0]), tuple(tuple(row) for row in rows[1:]))
    return (shown[name], table) if name in shown else (table,)


def _cohort_rows(made: Retained) -> list[list[str]]:
    """Each cohort by its newest whole period: customers, money so far per customer."""
    rows = [["cohort", "customers", f"{made.cohorts.period}s since", "active then",
             f"revenue so far ({made.currency})", f"margin so far ({made.currency})"]]  # fmt: skip
    own = made.cohorts.table[made.cohorts.table["cohort"] != ALL]
    for row in own.drop_duplicates("cohort", keep="last").to_dict("records"):
        rows.append([str(row["cohort"]), f"{row['customers']:,}", str(row["since"]),
                     _percent(row["active"]), f"{row['revenue_so_far']:,.2f}",
                     f"{row['margin_so_far']:,.2f}"])  # fmt: skip
    return rows
