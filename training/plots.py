"""The pictures of a model: value by decile, gain, calibration, tracking, leaderboard.

Each function returns a matplotlib ``Figure`` made without pyplot and so without global state;
``save`` writes it as PNG, the same bytes for the same input. What is drawn can be told apart
without colour: by marker, line style, fill and words. matplotlib is imported at the first call.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import InputError
from training import scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "calibration_plot",
    "decile_chart",
    "gain_curve",
    "leaderboard_chart",
    "save",
    "tracking_plot",
]

DPI = 150
SIZE = (7.2, 4.6)  # inches
INK = "#222222"
QUIET = "#6b6b6b"
PALE = "#d5dde5"
LEGEND_LINE = 0.22  # inches
LINE_OF_TICKS = 72  # characters that fit under the axes
HALF = 0.5  # where nobody stands on an axis of logarithms
MAX_POINTS = 1001  # of a drawn curve; more cannot be seen
# Colours that the colour-blind can tell apart (Okabe and Ito), each with its own marker and line.
STYLES = (
    ("#0072b2", "o", "solid"),
    ("#d55e00", "s", (0, (5, 2))),
    ("#009e73", "^", (0, (1, 1.4))),
    ("#cc79a7", "D", (0, (6, 2, 1, 2))),
    ("#56b4e9", "v", (0, (3, 1, 1, 1, 1, 1))),
    ("#e69f00", "P", (0, (8, 3))),
)
METRICS_SHOWN = (scores.MAE, scores.GINI, scores.ABS_BIAS, scores.AUROC, scores.BRIER)


def decile_chart(
    actual: npt.ArrayLike, predicted: npt.ArrayLike, *, currency: str, title: str | None = None
) -> Figure:
    """Mean predicted against mean actual value per tenth of the customers by prediction.

    Bars are what happened, diamonds what was predicted; money in ``currency`` per customer.

    Raises
    ------
    InputError
        As ``scores.value_metrics``.
    """
    table = scores.decile_table(actual, predicted)
    metrics = scores.value_metrics(actual, predicted)
    figure = _figure()
    axes = figure.subplots()
    axes.bar(
        table["decile"],
        table["actual"],
        0.72,
        color=PALE,
        edgecolor=QUIET,
        label="actual",
        zorder=2,
    )
    look: dict[str, Any] = {"color": INK, "markersize": 7, "zorder": 3, "clip_on": False}
    axes.plot(table["decile"], table["predicted"], "D", label="predicted", **look)
    names = ["1\nhighest", *map(str, range(2, 10)), "10\nlowest"]
    axes.set_xticks(table["decile"].to_numpy(), names)
    _frame(axes, title or "Value by decile of prediction")
    _words(axes, "tenth of the customers, by prediction", f"mean value per customer ({currency})")
    _from_zero(axes)
    _note(axes, f"{_count(metrics['n'])} · total {_percent(metrics['bias'])} against actual")
    _legend(axes)
    return figure


def gain_curve(
    actual: npt.ArrayLike,
    predictions: Mapping[str, npt.ArrayLike],
    *,
    title: str | None = None,
) -> Figure:
    """Share of the value held by the customers with the highest predictions, for each model.

    The upper limit is the order by actual value, the diagonal a random order. Without a positive
    total the shares are undefined: only the diagonal is drawn, and a note says so.
    """
    figure = _figure(height=SIZE[1] + LEGEND_LINE * (2 + len(predictions)))
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color=QUIET, linewidth=1, label="random order")
    defined = _gain(axes, actual, actual, "perfect order", color=QUIET, linewidth=1, linestyle=":")
    for (name, predicted), style in zip(predictions.items(), itertools.cycle(STYLES), strict=False):
        metrics = scores.value_metrics(actual, predicted)
        label = f"{name}: Gini {metrics[scores.GINI]:.3f}, top 10 % hold "
        label += f"{100 * metrics[scores.CAPTURE_10]:.0f} %"
        _gain(axes, actual, predicted, label, **_style(style), markevery=(0.1, 0.1))
    _frame(axes, title or "Share of value reached")
    _words(axes, "customers, highest prediction first (%)", "share of actual value (%)")
    axes.set_xlim(0, 100)
    _from_zero(axes)
    axes.grid(axis="x", color="#ececec", zorder=0)
    _note(axes, _count(np.size(actual)) + ("" if defined else " · no value in this window"))
    _legend_below(figure, axes)
    return figure


def _gain(
    axes: Axes, actual: npt.ArrayLike, predicted: npt.ArrayLike, label: str, **style: Any
) -> bool:
    """Draw one gain curve in percent; False where it is undefined."""
    customers, value = scores.gain_points(actual, predicted)
    if np.isnan(value).any():
        return False
    if len(customers) > MAX_POINTS:
        even = np.linspace(0, 1, MAX_POINTS)
        customers, value = even, np.interp(even, customers, value)
    axes.plot(100 * customers, 100 * value, label=_plain(label), zorder=3, **style)
    return True


def calibration_plot(
    churned: npt.ArrayLike,
    probabilities: Mapping[str, npt.ArrayLike],
    *,
    title: str | None = None,
) -> Figure:
    """Observed against predicted churn in ten bins of equal count, and how probabilities spread.

    Points on the diagonal are calibrated. Below: customers per twentieth of the probability.
    """
    figure = _figure(height=5.4 + LEGEND_LINE * (1 + len(probabilities)))
    axes, spread = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 100], [0, 100], color=QUIET, linewidth=1, label="calibrated")
    for (name, p), style in zip(probabilities.items(), itertools.cycle(STYLES), strict=False):
        _reliability(axes, churned, p, name, _style(style))
        _spread(spread, p, _style(style))
    _frame(axes, title or "Calibration of churn")
    _frame(spread, "")
    _words(axes, "", "customers who churned (%)")
    _words(spread, "predicted probability of churn (%)", "customers (log)")
    axes.set(xlim=(0, 100), ylim=(0, 100))
    spread.set_yscale("log")
    spread.set_ylim(HALF, max(10.0, spread.get_ylim()[1]))
    spread.minorticks_off()
    _number_axis(spread)
    _note(axes, f"{_count(np.size(churned))} · up to ten bins of equal count")
    _legend_below(figure, axes)
    return figure


def _reliability(
    axes: Axes, churned: npt.ArrayLike, p: npt.ArrayLike, name: str, look: dict[str, Any]
) -> None:
    table = 100 * scores.reliability_table(churned, p)
    metrics = scores.churn_metrics(churned, p)
    label = f"{name}: ECE {metrics[scores.ECE]:.3f}, Brier {metrics[scores.BRIER]:.3f}"
    axes.plot(
        table["probability"],
        table["churned"],
        label=_plain(label),
        zorder=3,
        clip_on=False,
        **look,
    )


def _spread(axes: Axes, p: npt.ArrayLike, look: dict[str, Any]) -> None:
    counts, edges = np.histogram(100 * np.asarray(p, dtype=np.float64), bins=20, range=(0.0, 100.0))
    line = {key: look[key] for key in ("color", "linestyle")}
    axes.stairs(np.maximum(counts, HALF), edges, baseline=HALF, linewidth=1.5, **line)


def tracking_plot(
    months: Sequence[object],
    predicted: npt.ArrayLike,
    actual: npt.ArrayLike,
    *,
    currency: str,
    title: str | None = None,
) -> Figure:
    """Predicted against real totals per month (above) and cumulated (below), in ``currency``.

    ``actual`` may be nan in the last months, which have not happened yet; the difference in the
    note is that of the months known.

    Raises
    ------
    InputError
        Arrays of unequal length, without a month, or with a gap that months follow.
    """
    forecast, real = (np.asarray(column, dtype=np.float64) for column in (predicted, actual))
    known = _known_months(months, forecast, real)
    figure = _figure(height=5.6)
    upper, lower = figure.subplots(2, 1, sharex=True)
    real_look: dict[str, Any] = {"color": INK, "marker": "o", "label": "actual"}
    forecast_look: dict[str, Any] = {
        **_style(STYLES[1]),
        "marker": "D",
        "markerfacecolor": "none",
        "label": "predicted",
    }
    # Before the first month is known a line is empty, and has no extent that a layout could use.
    both: dict[str, Any] = {"markersize": 5, "clip_on": False, "in_layout": False}
    for axes, change in ((upper, np.asarray), (lower, np.cumsum)):
        for line, look in ((real[:known], real_look), (forecast, forecast_look)):
            axes.plot(change(line), **(look | both))
        _from_zero(axes)
    _frame(upper, title or "Predicted against real value")
    _frame(lower, "")
    _words(upper, "", f"per month ({currency})")
    _words(lower, "month", f"cumulated ({currency})")
    _month_ticks(lower, [_plain(str(month)) for month in months])
    lower.set_xlim(-0.5, len(months) - 0.5)
    gap = forecast[:known].sum() / real[:known].sum() - 1 if real[:known].sum() > 0 else math.nan
    _note(upper, f"{known} of {len(months)} months known · total {_percent(gap)} against actual")
    _legend(upper)
    return figure


def _month_ticks(axes: Axes, names: Sequence[str]) -> None:
    """As many names as stand side by side."""
    fitting = max(1, LINE_OF_TICKS // (3 + max(len(name) for name in names)))
    shown = range(0, len(names), math.ceil(len(names) / fitting))
    axes.set_xticks(shown, [names[place] for place in shown])


def _known_months(
    months: Sequence[object], predicted: npt.NDArray[np.float64], actual: npt.NDArray[np.float64]
) -> int:
    """How many months, from the first, have an actual value."""
    sizes = (len(months), *predicted.shape, *actual.shape)
    if len(sizes) != 3 or len(set(sizes)) > 1 or not sizes[0]:
        raise InputError(
            "Months, predicted and actual must be equally long and hold at least one month. "
            f"Got {', '.join(map(str, sizes))}."
        )
    known = len(actual) - int(np.argmin(np.isnan(actual[::-1]))) if (~np.isnan(actual)).any() else 0
    wrong = ~np.isfinite(predicted)
    wrong[:known] |= ~np.isfinite(actual[:known])
    if wrong.any():
        raise InputError(
            "Only the last months may lack an actual value, and none a prediction. "
            f"Got a gap at {months[int(np.argmax(wrong))]}. Fill months without orders with 0."
        )
    return known


def leaderboard_chart(
    board: pd.DataFrame,
    *,
    metrics: Sequence[str] = METRICS_SHOWN,
    title: str | None = None,
) -> Figure:
    """A panel per metric with a dot per model; the best dot is filled, each says its number.

    ``board`` is that of ``leaderboard.leaderboard``; metrics that it lacks are passed over, and
    ``abs_bias`` is read from ``bias``.
    """
    table = board.assign(abs_bias=board["bias"].abs()) if "bias" in board else board
    shown = [name for name in metrics if name in table and table[name].notna().any()]
    if not shown:
        raise InputError(f"The leaderboard must hold one of {', '.join(metrics)}. Got none.")
    figure = _figure(width=2 + 1.9 * len(shown), height=1.5 + 0.36 * len(table))
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, shown, strict=True):
        _metric_panel(axes, name, table[name].to_numpy(dtype=np.float64))
    panels[0].set_yticks(range(len(table)), [_plain(str(model)) for model in table.index])
    panels[0].set_ylim(len(table) - 0.4, -0.6)
    figure.suptitle(_plain(title or "Models compared"), x=0.01, ha="left", fontsize=12, color=INK)
    return figure


def _metric_panel(axes: Axes, name: str, values: npt.NDArray[np.float64]) -> None:
    lower = scores.LOWER_IS_BETTER[name]
    best = np.nanmin(values) if lower else np.nanmax(values)
    for row, value in enumerate(values):
        axes.axhline(row, color="#ececec", linewidth=1, zorder=0)
        if math.isnan(value):
            continue
        fill = INK if value == best else "white"
        axes.plot([value], [row], "o", color=INK, markerfacecolor=fill, markersize=7, zorder=3)
        text = f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
        axes.annotate(
            text, (value, row), (0, 5), textcoords="offset points", ha="center", fontsize=8
        )
    axes.set_title(f"{name}\n({'lower' if lower else 'higher'} is better)", fontsize=9, color=INK)
    axes.margins(x=0.3)
    axes.tick_params(length=0, labelsize=9, labelbottom=False)
    axes.spines[:].set_visible(False)


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG of 150 dpi, without date or version; give back the path.

    Raises
    ------
    InputError
        A file name that does not end in ``.png``.
    """
    if path.suffix.lower() != ".png":
        raise InputError(f"A picture must be a .png file. Got {path.name}.")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    path.write_bytes(buffer.getvalue())
    return path


def _figure(width: float = SIZE[0], height: float = SIZE[1]) -> Figure:
    # Not at the top: importing matplotlib takes a second that commands without pictures save.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _style(style: tuple[str, str, Any]) -> dict[str, Any]:
    colour, marker, line = style
    return {
        "color": colour,
        "marker": marker,
        "linestyle": line,
        "linewidth": 1.8,
        "markersize": 6,
        "markerfacecolor": "white",
    }


def _frame(axes: Axes, title: str) -> None:
    if title:
        # The pad leaves one line between title and axes for the note and the legend.
        axes.set_title(_plain(title), loc="left", fontsize=12, color=INK, pad=24)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(colors=INK, labelsize=9, length=3)
    axes.grid(axis="y", color="#ececec", zorder=0)
    axes.set_axisbelow(True)


def _words(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(_plain(x), fontsize=10, color=INK)
    axes.set_ylabel(_plain(y), fontsize=10, color=INK)


def _note(axes: Axes, text: str) -> None:
    """One quiet line under the title."""
    axes.annotate(
        text, (0, 1), (0, 8), "axes fraction", textcoords="offset points", fontsize=9, color=QUIET
    )


def _legend(axes: Axes) -> None:
    """Above the axes on the right, where no data can lie."""
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=2,
        frameon=False,
        fontsize=9,
        borderaxespad=0.2,
    )


def _legend_below(figure: Figure, axes: Axes) -> None:
    """Below the axes, a line per curve: long labels never lie upon data."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", frameon=False, fontsize=9)


def _from_zero(axes: Axes) -> None:
    """The axis of amounts holds zero, and where all is zero stands still from 0 to 1."""
    low, high = axes.dataLim.intervaly
    flat = low == high == 0
    axes.set_ylim(0 if low >= 0 else low * 1.05, 1 if flat else max(0, high) * 1.05)
    _number_axis(axes)


def _number_axis(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(lambda value, _: _compact(value))


def _compact(value: float) -> str:
    """A number for an axis: 1,250 or 2.5M."""
    for size, letter in ((1e9, "B"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:,.0f}" if abs(value) >= 10 or value == round(value) else f"{value:.2g}"


def _plain(text: str) -> str:
    """A dollar sign is a dollar sign, not the start of a formula."""
    return text.replace("$", r"\$")


def _percent(share: float) -> str:
    return "undefined" if math.isnan(share) else f"{100 * share:+.1f} %"


def _count(n: float) -> str:
    return f"{n:,.0f} customers"
