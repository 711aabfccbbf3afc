"""The pictures of how customers stay: a heat map of cohorts, curves over time, shares by level.

As in ``plots``: each function returns a matplotlib ``Figure``, the same for the same input, told
apart by marker, line style and words where not by colour. The heat map is one hue from light to
dark, which every kind of sight puts in the same order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import InputError
from training.drawing import (
    INK,
    LEGEND_LINE,
    QUIET,
    SIZE,
    STYLES,
    Write,
    blank,
    count,
    english,
    frame,
    ink_on,
    legend_below,
    note,
    plain,
    ramp,
    styled,
    words,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

__all__ = ["HeatLabels", "Step", "heat_map", "life_chart", "shares_chart"]

Floats = npt.NDArray[np.float64]
LABELLED: Final = 20  # periods that leave room for a number in each cell
ROWS: Final = 20  # names that stand under one another
CURVES: Final = len(STYLES)
NAME: Final = 40  # characters of a level


class HeatLabels(NamedTuple):
    """Words of `heat_map`."""

    title: str = "Customers active again, by cohort"
    since: str = "{period}s since the first order"
    cohort: str = "{period} of the first order"
    active: str = "active customers (%)"


class Step(NamedTuple):
    """A curve of shares, falling or rising at ``days``, with its interval."""

    days: npt.NDArray[np.int64]
    share: Floats
    low: Floats
    high: Floats
    reach: int
    customers: int


def heat_map(
    grid: pd.DataFrame,
    *,
    title: str | None = None,
    period: str,
    note_text: str = "",
    most: float | None = None,
    labels: HeatLabels | None = None,
    write: Write = english,
) -> Figure:
    """Shares of each cohort active in each period since; `grid` is cohorts x periods, NaN unknown.

    The period of the first order, in which all are active, is left out.

    Raises
    ------
    InputError
        No cohort has a period after its first.
    """
    later = grid.loc[:, grid.columns.to_numpy() > 0]
    shown = later.dropna(how="all").dropna(how="all", axis=1)
    if shown.empty:
        raise InputError(
            f"A heat map needs a cohort with a whole {period} after its first. Got none. Bring a "
            "longer history."
        )
    values, said = 100 * shown.to_numpy(np.float64), labels or HeatLabels()
    rows, columns = values.shape
    figure = blank(SIZE[0], min(2.0 + 0.24 * rows, 11.0))
    axes = figure.subplots()
    top = max(100 * most if most else float(np.nanmax(values)), 1.0)
    image = axes.imshow(values, cmap=ramp(), vmin=0, vmax=top, aspect="auto")
    if columns <= LABELLED:
        _numbers(axes, image, values)
    frame(axes, said.title if title is None else title)
    axes.grid(visible=False)
    words(axes, said.since.format(period=period), said.cohort.format(period=period))
    axes.set_xticks(*_some([str(c) for c in shown], LABELLED))
    axes.set_yticks(*_some([plain(str(name)) for name in shown.index], ROWS))
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=30)
    bar.set_label(said.active, fontsize=9, color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=9, length=3)
    bar.ax.yaxis.set_major_formatter(lambda value, _: write(value, 0))
    note(axes, note_text)
    return figure


def _numbers(axes: Axes, image: AxesImage, values: Floats) -> None:
    for i, j in itertools.product(*map(range, values.shape)):
        if not math.isnan(values[i, j]):
            red, green, blue, _ = image.to_rgba(values[i : i + 1, j])[0]
            text, ink = f"{values[i, j]:.0f}", ink_on(float(red), float(green), float(blue))
            axes.text(j, i, text, ha="center", va="center", fontsize=7, color=ink)


def _some(names: Sequence[str], most: int) -> tuple[list[int], list[str]]:
    """Places and names of as many ticks as there is room for."""
    step = math.ceil(len(names) / most)
    return list(range(0, len(names), step)), list(names[::step])


def life_chart(
    curves: Mapping[str, Step], *, title: str, event: str, note_text: str = "", start: float = 1.0
) -> Figure:
    """Shares over the time since the first order: one curve with its 95 % band, or one per group.

    `start` is the share on the first day, before any event. Of several curves the bands are left
    out, and of more than 8 the largest groups are drawn.

    Raises
    ------
    InputError
        There is no curve.
    """
    if not curves:
        raise InputError("A chart of lives needs at least one curve. Got none.")
    sized = sorted(curves.items(), key=lambda item: -item[1].customers)[:CURVES]
    kept = [(name, curve) for name, curve in curves.items() if (name, curve) in sized]
    figure = blank(height=SIZE[1] + (LEGEND_LINE * (1 + len(kept)) if len(kept) > 1 else 0))
    axes = figure.subplots()
    months = max(max(curve.reach for _, curve in kept) / 30.4375, 1.0)
    for (name, curve), style in zip(kept, STYLES, strict=False):
        _step(axes, curve, name, styled(style), start, len(kept) == 1)
    frame(axes, title)
    words(axes, "months since the first order", event)
    axes.set(xlim=(0, months), ylim=(0, 100))
    axes.set_xticks(np.arange(0, months + 1e-9, 6 if months <= 60 else 12))
    note(axes, note_text or count(sum(curve.customers for _, curve in kept)))
    if len(kept) > 1:
        legend_below(figure, axes)
    return figure


def _step(
    axes: Axes, curve: Step, name: str, style: dict[str, Any], start: float, band: bool
) -> None:
    """A curve with steps from the first day to its reach, and its band."""
    days = np.concatenate([[0], curve.days, [curve.reach]]) / 30.4375

    def full(values: Floats) -> Floats:
        last = values[-1:] if len(values) else [start]
        return 100 * np.concatenate([[start], values, last])

    look = {**style, "markevery": (0.1, 0.15), "drawstyle": "steps-post", "label": plain(name)}
    if band:
        look["marker"] = ""
        low, high = full(curve.low), full(curve.high)
        axes.fill_between(days, low, high, step="post", color=style["color"], alpha=0.2, zorder=2)
    axes.plot(days, full(curve.share), zorder=3, **look)


def shares_chart(table: pd.DataFrame, *, title: str, share: str, note_text: str = "") -> Figure:
    """Shares of levels with their 95 % intervals, one under the other.

    `table` has label, value, low, high (0 to 1) and customers; a level without a value is left out.

    Raises
    ------
    InputError
        No level has a value.
    """
    shown = table[table["value"].notna()].reset_index(drop=True)
    if shown.empty:
        raise InputError("A chart of shares needs a level with a value. Got none.")
    figure = blank(height=1.7 + 0.34 * len(shown))
    axes = figure.subplots()
    places = np.arange(len(shown))
    value, low, high = (100 * shown[name].to_numpy(np.float64) for name in ("value", "low", "high"))
    axes.hlines(places, low, high, color=QUIET, linewidth=2.2, zorder=2)
    axes.plot(value, places, "o", color=INK, markerfacecolor="white", markersize=7, zorder=3)
    names = [_named(row) for row in shown.to_dict("records")]
    axes.set_yticks(places, names)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    frame(axes, title)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color="#ececec", zorder=0)
    axes.set_xlim(0, min(100.0, max(float(np.nanmax(high)) * 1.1, 1.0)))
    words(axes, share, "")
    note(axes, note_text)
    return figure


def _named(row: Mapping[Any, Any]) -> str:
    text = str(row["label"])
    text = text if len(text) <= NAME else f"{text[: NAME - 1]}…"
    return plain(f"{text} ({row['customers']:,.0f})")
