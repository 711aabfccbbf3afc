"""Pictures of the customer base: recency by frequency, the spread of value, segments, channels.

As in ``plots``: each function returns a matplotlib ``Figure``, the same for the same input, told
apart by marker, line style, fill and words where not by colour. Labels come in from outside, in
whatever language, as do numbers through `write`; without them they are English.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import InputError
from training.drawing import (
    DARK,
    INK,
    LEGEND_LINE,
    PALE,
    QUIET,
    SIZE,
    STYLES,
    Write,
    blank,
    english,
    frame,
    ink_on,
    legend_below,
    note,
    plain,
    ramp,
    words,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

__all__ = [
    "ChannelLabels", "MapLabels", "MatrixLabels", "SpreadLabels", "Write", "channel_bars",
    "english", "matrix_chart", "recency_frequency", "segment_map", "spread_chart",
]  # fmt: skip

Floats = npt.NDArray[np.float64]
Names = npt.NDArray[np.object_]
RECENCY: Final = (0, 31, 91, 181, 366)  # days since the newest order, from
FREQUENCY: Final = (1, 2, 3, 5, 10)  # orders, from
LEAST: Final = 10  # customers; a figure of fewer would be a figure of persons
BINS: Final = 24
SMALL: Final = 10.0  # below which a sum is told to the cent
EDGE: Final = 0.98  # quantile beyond which values share one bar
POINTS: Final = 1_500  # of a map; more only cover each other


class MatrixLabels(NamedTuple):
    """Words of `matrix_chart`."""

    title: str = "How recent and how frequent"
    recency: str = "recency: days since the newest order"
    frequency: str = "frequency: orders so far"
    value: str = "mean value per customer ({unit})"
    churn: str = "mean churn (%)"
    note: str = "{customers} customers · in brackets: how many they are"
    more: str = "{low} and more"
    up_to: str = "{low} to {high}"


class SpreadLabels(NamedTuple):
    """Words of `spread_chart`."""

    title: str = "How value is spread"
    value: str = "value per customer ({unit})"
    customers: str = "customers (%)"
    total: str = "share of all value (%)"
    held: str = "the top tenth hold {share}% of all value"
    median: str = "half are below {value}"
    mean: str = "mean {value}"
    beyond: str = "hatched: {value} and more"


class MapLabels(NamedTuple):
    """Words of `segment_map`."""

    title: str = "Segment map"
    churn: str = "churn (%)"
    value: str = "value if they order again ({unit}, log)"
    note: str = "{customers} customers, {points} drawn"
    line: str = "lines of the grid"
    share: str = "{segment}: {share}%"


class ChannelLabels(NamedTuple):
    """Words of `channel_bars`."""

    title: str = "What a customer costs and brings"
    money: str = "per new customer ({unit})"
    cac: str = "cost to win (CAC)"
    ltv: str = "value (LTV) with its 10 to 90% interval"
    ratio: str = "LTV:CAC {ratio}"
    note: str = "value of the first {months} months"
    few: str = "too few to tell"
    free: str = "no spend"


def recency_frequency(days: npt.ArrayLike, orders: npt.ArrayLike, figure: npt.ArrayLike) -> Any:
    """Customers and the mean of `figure` by recency and frequency, as two 5 x 5 tables.

    `days` since the newest order and `orders` so far say where a customer is; all are (customers,).
    Rows are the steps of `FREQUENCY`, the most orders first; columns those of `RECENCY`. A mean of
    nobody, or of fewer than `LEAST`, is NaN.

    Raises
    ------
    InputError
        Arrays of unequal length or with gaps, nobody, or somebody without an order.
    """
    since, count, values = (np.asarray(each, np.float64) for each in (days, orders, figure))
    if not since.shape == count.shape == values.shape or since.ndim != 1 or not len(since):
        raise InputError(
            "days, orders and figure must be equally long and of at least one customer. Got "
            f"{since.shape}, {count.shape} and {values.shape}."
        )
    if not (np.isfinite([since, count, values]).all() and (since >= 0).all() and count.min() >= 1):
        raise InputError(
            "days must be 0 or more, orders 1 or more, and figure a number. Got others. Leave "
            "people without an order out."
        )
    i = np.searchsorted(FREQUENCY, count, side="right") - 1
    j = np.searchsorted(RECENCY, since, side="right") - 1
    # Sums of floats depend on their order, which must not depend on that of the rows.
    order = np.argsort(values, kind="stable")
    i, j, values = i[order], j[order], values[order]
    shape = (len(FREQUENCY), len(RECENCY))
    number, total = np.zeros(shape, np.int64), np.zeros(shape)
    np.add.at(number, (i, j), 1)
    np.add.at(total, (i, j), values)
    mean = np.where(number >= LEAST, total / np.maximum(number, 1), np.nan)
    axes: dict[str, Any] = {"index": FREQUENCY[::-1], "columns": RECENCY}
    return pd.DataFrame(number[::-1], **axes), pd.DataFrame(mean[::-1], **axes)


def matrix_chart(
    customers: pd.DataFrame,
    mean: pd.DataFrame,
    kind: Literal["value", "churn"],
    *,
    currency: str,
    labels: MatrixLabels | None = None,
    write: Write = english,
) -> Figure:
    """The matrix of `recency_frequency`, darker where more: value in `currency`, or churn.

    Each field says its figure and how many customers it is of.
    """
    said = labels or MatrixLabels()
    scale = 100.0 if kind == "churn" else 1.0
    values, many = scale * mean.to_numpy(np.float64), customers.to_numpy(np.int64)
    known = values[~np.isnan(values)]
    low, high = (min(0.0, known.min()), max(known.max(), 1.0)) if len(known) else (0.0, 1.0)
    figure = blank(SIZE[0], 4.9)
    axes = figure.subplots()
    image = axes.imshow(values, cmap=ramp(), vmin=low, vmax=high, aspect="auto")
    for i, j in itertools.product(*map(range, values.shape)):
        if many[i, j]:
            text = "-" if math.isnan(values[i, j]) else write(float(values[i, j]), 0)
            size = f"<{LEAST}" if many[i, j] < LEAST else write(float(many[i, j]), 0)
            axes.text(j, i, f"{text}\n({size})", ha="center", va="center", fontsize=9,
                      color=ink_on(*_cell(image, i, j)))  # fmt: skip
    frame(axes, said.title)
    axes.grid(visible=False)
    words(axes, said.recency, said.frequency)
    axes.set_xticks(range(len(RECENCY)), _steps(RECENCY, said, write))
    axes.set_yticks(range(len(FREQUENCY)), _steps(FREQUENCY, said, write)[::-1])
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=30, format=_ticks(write))
    named = said.churn if kind == "churn" else said.value.format(unit=currency)
    bar.set_label(plain(named), fontsize=9, color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=9, length=3)
    note(axes, said.note.format(customers=write(float(many.sum()), 0)))
    return figure


def _cell(image: AxesImage, i: int, j: int) -> tuple[float, float, float]:
    """The colour of a field; one without a figure is white."""
    value = np.ma.asarray(image.get_array())[i, j]
    if np.ma.is_masked(value) or math.isnan(value):
        return 1.0, 1.0, 1.0
    red, green, blue, _ = image.to_rgba(np.array([value]))[0]
    return float(red), float(green), float(blue)


def _steps(lows: Sequence[int], said: MatrixLabels, write: Write) -> list[str]:
    """Names of steps by where they begin."""
    found = []
    for low, end in itertools.pairwise(lows):
        one = write(low, 0)
        several = said.up_to.format(low=one, high=write(end - 1, 0))
        found.append(one if end == low + 1 else several)
    return [*found, said.more.format(low=write(lows[-1], 0))]


def _ticks(write: Write) -> Callable[[float, Any], str]:
    """Numbers on an axis: whole, unless they are small fractions."""

    def text(value: float, _: Any) -> str:
        return write(value, 0 if abs(value) >= 10 or value == round(value) else 1)

    return text


def spread_chart(
    values: npt.ArrayLike,
    *,
    currency: str,
    labels: SpreadLabels | None = None,
    write: Write = english,
) -> Figure:
    """How many customers are of which value, and how much of all value they hold; (customers,).

    Above: customers per bar. Below: what the same customers hold of the whole. The highest 2 in
    100 share one hatched bar at the edge.

    Raises
    ------
    InputError
        Nobody, or a value that is not a finite number.
    """
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or not len(found) or not np.isfinite(found).all():
        raise InputError(
            "A spread of value needs the finite values of at least one customer. Got "
            f"{found.shape}, {int((~np.isfinite(found)).sum())} of them not finite."
        )
    found = np.sort(found)
    said, edges = labels or SpreadLabels(), _edges(found)
    place = np.clip(np.searchsorted(edges, found, side="right") - 1, 0, BINS)
    total = math.fsum(found.tolist())
    shares = 100 * np.bincount(place, minlength=BINS + 1) / len(found)
    held = np.bincount(place, found, BINS + 1) * (100 / total if total > 0 else math.nan)
    figure = blank(height=5.8)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for axes, heights in ((upper, shares), (lower, held)):
        drawn = np.nan_to_num(heights)
        bars = axes.bar(edges, drawn, np.diff(edges)[0], align="edge", color=PALE,
                        edgecolor=QUIET, linewidth=0.8, zorder=2)  # fmt: skip
        bars[-1].set_hatch("///")
        axes.set_ylim(min(0.0, drawn.min() * 1.05), max(drawn.max() * 1.08, 1.0))
    for at, style, text in (
        (float(np.median(found)), "solid", said.median),
        (total / len(found), (0, (4, 2)), said.mean),
    ):
        upper.axvline(at, color=INK, linewidth=1.6, linestyle=style, zorder=3,
                      label=plain(text.format(value=f"{_told(at, write)} {currency}")))  # fmt: skip
    _spread_words(upper, lower, said, (currency, float(edges[-1])), write)
    if total > 0:
        note(upper, said.held.format(share=write(100 * _top(found, total), 0)))
    return figure


def _told(money: float, write: Write) -> str:
    """A small sum to the cent: half of the customers may be worth less than one of the currency."""
    return write(money, 0 if abs(money) >= SMALL else 2)


def _edges(values: Floats) -> Floats:
    """Lower ends of the bars: even ones and, last, that of all beyond."""
    low, high = min(0.0, float(values.min())), float(np.quantile(values, EDGE))
    return np.linspace(low, high if high > low else low + 1.0, BINS + 1)


def _top(values: Floats, total: float) -> float:
    """What the tenth with the highest of the sorted values holds of the whole."""
    return math.fsum(values[-max(1, len(values) // 10) :].tolist()) / total


def _spread_words(
    upper: Axes, lower: Axes, said: SpreadLabels, edge: tuple[str, float], write: Write
) -> None:
    currency, end = edge
    frame(upper, said.title)
    frame(lower, "")
    words(upper, "", said.customers)
    words(lower, said.value.format(unit=currency), said.total)
    for axes in (upper, lower):
        axes.yaxis.set_major_formatter(_ticks(write))
    lower.xaxis.set_major_formatter(_ticks(write))
    upper.bar([end], [0], color=PALE, edgecolor=QUIET, hatch="///",
              label=plain(said.beyond.format(value=f"{write(end, 0)} {currency}")))  # fmt: skip
    upper.legend(loc="upper right", frameon=False, fontsize=9)


def segment_map(
    churn: npt.ArrayLike,
    worth: npt.ArrayLike,
    segments: npt.ArrayLike,
    *,
    lines: tuple[float, float] | None,
    names: Mapping[str, str],
    currency: str,
    labels: MapLabels | None = None,
    write: Write = english,
) -> Figure:
    """Customers by churn and by their value if they order again, a marker per segment.

    `lines` are where the grid parts them, value and churn; `names` maps each segment to how it is
    called, in the order of the legend, which tells its share. All arrays are (customers,); of many
    customers every so-manyth by value is drawn.

    Raises
    ------
    InputError
        Arrays of unequal length, nobody, or a segment without a name.
    """
    x, y = (np.asarray(each, np.float64) for each in (churn, worth))
    kinds = np.asarray(segments, object)
    if not x.shape == y.shape == kinds.shape or not len(x) or x.ndim != 1:
        raise InputError(
            "churn, worth and segments must be equally long and of at least one customer. Got "
            f"{x.shape}, {y.shape} and {kinds.shape}."
        )
    unnamed = sorted(set(kinds.tolist()) - set(names))
    if unnamed or len(names) > len(STYLES):
        raise InputError(
            f"Each segment must have a name, and a map shows at most {len(STYLES)}. Got "
            f"{len(names)} names, none for {', '.join(map(str, unnamed)) or 'none'}."
        )
    said = labels or MapLabels()
    figure = blank(height=5.0 + LEGEND_LINE * (1 + len(names)))
    axes = figure.subplots()
    floor = _floor(y, lines)
    order = np.lexsort((kinds.astype(str), x, y))
    x, y, kinds = x[order], y[order], kinds[order]
    drawn = np.arange(len(x)) % math.ceil(len(x) / POINTS) == 0
    for (kind, name), style in zip(names.items(), STYLES, strict=False):
        own = kinds == kind
        share = said.share.format(segment=name, share=write(100 * float(own.mean()), 1))
        axes.plot(100 * x[own & drawn], np.maximum(y[own & drawn], floor), style[1],
                  color=style[0], markerfacecolor="none", markersize=4, markeredgewidth=0.8,
                  alpha=0.75, clip_on=False, label=plain(share), zorder=2)  # fmt: skip
    _grid_lines(axes, lines, said, floor)
    frame(axes, said.title)
    words(axes, said.churn, said.value.format(unit=currency))
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.set(xlim=(0, 100), ylim=(floor, max(float(y.max()) * 1.3, floor * 10)))
    axes.yaxis.set_major_formatter(_ticks(write))
    counts = (write(float(each), 0) for each in (len(x), drawn.sum()))
    note(axes, said.note.format(**dict(zip(("customers", "points"), counts, strict=True))))
    legend_below(figure, axes)
    return figure


def _floor(worth: Floats, lines: tuple[float, float] | None) -> float:
    """The lowest value shown on an axis of logarithms; who is worth less lies on it."""
    middle = lines[0] if lines else float(np.quantile(worth, 0.75))
    return max(middle, 1.0) / 100.0


def _grid_lines(
    axes: Axes, lines: tuple[float, float] | None, said: MapLabels, floor: float
) -> None:
    if lines is None:
        return
    look: dict[str, Any] = {"color": INK, "linewidth": 1.4, "linestyle": (0, (6, 3)), "zorder": 3}
    axes.axhline(max(lines[0], floor), label=said.line, **look)
    axes.axvline(100 * lines[1], **look)


def channel_bars(
    table: pd.DataFrame,
    months: int,
    *,
    currency: str,
    labels: ChannelLabels | None = None,
    write: Write = english,
) -> Figure:
    """LTV with its interval beside CAC, a pair of bars per channel, and their ratio.

    `table` has channel, cac, ltv, ltv_low, ltv_high and ltv_to_cac, in `currency` per new customer;
    what is not known is NaN, and `months` is the time that LTV looks at.

    Raises
    ------
    InputError
        There is no channel.
    """
    if table.empty:
        raise InputError("Bars of channels need at least one channel. Got none.")
    said = labels or ChannelLabels()
    figure = blank(height=2.2 + 0.62 * len(table))
    axes = figure.subplots()
    places = np.arange(len(table))
    cac, ltv, low, high = (
        table[name].to_numpy(np.float64) for name in ("cac", "ltv", "ltv_low", "ltv_high")
    )
    look: dict[str, Any] = {"height": 0.34, "zorder": 2, "linewidth": 1}
    axes.barh(places - 0.18, np.nan_to_num(ltv), color=PALE, edgecolor=DARK, label=said.ltv, **look)
    axes.barh(places + 0.18, np.nan_to_num(cac), color="white", edgecolor=QUIET, hatch="////",
              label=said.cac, **look)  # fmt: skip
    known = ~np.isnan(low) & ~np.isnan(high)
    axes.hlines(places[known] - 0.18, low[known], high[known], color=INK, linewidth=1.8, zorder=3)
    for end in (low, high):
        axes.plot(end[known], places[known] - 0.18, "|", color=INK, markersize=7, zorder=3)
    ends = np.nan_to_num(np.column_stack([cac, ltv, high]))
    ratios = table["ltv_to_cac"].to_numpy(np.float64)
    for place, ratio, paid, end in zip(places, ratios, cac, ends, strict=True):
        none = said.free if paid == 0 else said.few
        text = none if math.isnan(ratio) else said.ratio.format(ratio=write(float(ratio), 2))
        axes.annotate(text, (float(end.max()), float(place)), (8, 0), va="center", fontsize=9,
                      textcoords="offset points", color=INK)  # fmt: skip
    frame(axes, said.title)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color="#ececec", zorder=0)
    axes.set_yticks(places, [plain(str(name)) for name in table["channel"]])
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.set_xlim(min(0.0, float(np.nan_to_num(low).min()) * 1.1), max(float(ends.max()) * 1.3, 1))
    axes.xaxis.set_major_formatter(_ticks(write))
    words(axes, said.money.format(unit=currency), "")
    note(axes, said.note.format(months=months))
    legend_below(figure, axes)
    return figure
