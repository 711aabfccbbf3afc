"""The pictures of a model: value by decile, gain, calibration, tracking, intervals, campaign.

Each function returns a matplotlib ``Figure`` made without pyplot and so without global state;
``save`` writes it as PNG and ``svg`` gives it as text, the same bytes for the same input. What is
drawn can be told apart without colour: by marker, line style, fill and words. matplotlib is
imported at the first call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import InputError
from training.curves import Deciles, Gain, Reliability, deciles_drawn, gain_drawn, reliability_drawn
from training.drawing import (
    INK,
    LEGEND_LINE,
    PALE,
    QUIET,
    SIZE,
    STYLES,
    blank,
    compact,
    count,
    frame,
    from_zero,
    legend,
    legend_below,
    note,
    number_axis,
    percent,
    plain,
    save,
    styled,
    svg,
    words,
)
from training.metrics import (
    ABS_BIAS,
    AUROC,
    BRIER,
    GINI,
    LOWER_IS_BETTER,
    MAE,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "TrackingLabels",
    "calibration_plot",
    "coverage_chart",
    "decile_chart",
    "gain_curve",
    "leaderboard_chart",
    "profit_chart",
    "save",
    "svg",
    "tracking_plot",
]

LINE_OF_TICKS = 72  # characters that fit under the axes
MAX_POINTS = 1001  # of a drawn curve; more cannot be seen
NOMINAL = 10.0  # percent of the customers on either side of an interval
NEAR = 5.0  # points around it that are as good as can be asked
METRICS_SHOWN = (MAE, GINI, ABS_BIAS, AUROC, BRIER)


def decile_chart(
    actual: npt.ArrayLike, predicted: npt.ArrayLike, *, currency: str, title: str | None = None
) -> Figure:
    """Mean predicted against mean actual value per tenth of the customers by prediction.

    Bars are what happened, diamonds what was predicted; money in ``currency`` per customer.

    Raises
    ------
    InputError
        As ``metrics.value_metrics``.
    """
    return deciles_drawn(Deciles.of(actual, predicted), currency=currency, title=title)


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
    perfect = Gain.of(actual, actual, MAX_POINTS)
    gains = {name: Gain.of(actual, each, MAX_POINTS) for name, each in predictions.items()}
    return gain_drawn(perfect, gains, np.size(actual), title=title)


def calibration_plot(
    churned: npt.ArrayLike,
    probabilities: Mapping[str, npt.ArrayLike],
    *,
    title: str | None = None,
) -> Figure:
    """Observed against predicted churn in ten bins of equal count, and how probabilities spread.

    Points on the diagonal are calibrated. Below: customers per twentieth of the probability.
    """
    told = {name: Reliability.of(churned, p) for name, p in probabilities.items()}
    return reliability_drawn(told, title=title)


class TrackingLabels(NamedTuple):
    """Words of `tracking_plot`."""

    title: str = "Predicted against real value"
    actual: str = "actual"
    predicted: str = "predicted"
    month: str = "month"
    each: str = "per month ({unit})"
    cumulated: str = "cumulated ({unit})"
    note: str = "{known} of {all} months known · total {gap} against actual"


def tracking_plot(
    months: Sequence[object],
    predicted: npt.ArrayLike,
    actual: npt.ArrayLike,
    *,
    currency: str,
    title: str | None = None,
    labels: TrackingLabels | None = None,
    number: Callable[[float], str] = compact,
    share: Callable[[float], str] = percent,
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
    known, said = _known_months(months, forecast, real), labels or TrackingLabels()
    figure = blank(height=5.6)
    upper, lower = figure.subplots(2, 1, sharex=True)
    real_look: dict[str, Any] = {"color": INK, "marker": "o", "label": said.actual}
    forecast_look: dict[str, Any] = {
        **styled(STYLES[1]),
        "marker": "D",
        "markerfacecolor": "none",
        "label": said.predicted,
    }
    # Before the first month is known a line is empty, and has no extent that a layout could use.
    both: dict[str, Any] = {"markersize": 5, "clip_on": False, "in_layout": False}
    for axes, change in ((upper, np.asarray), (lower, np.cumsum)):
        for line, look in ((real[:known], real_look), (forecast, forecast_look)):
            axes.plot(change(line), **(look | both))
        from_zero(axes)
        number_axis(axes, number)
    frame(upper, title or said.title)
    frame(lower, "")
    words(upper, "", said.each.format(unit=currency))
    words(lower, said.month, said.cumulated.format(unit=currency))
    _month_ticks(lower, [plain(str(month)) for month in months])
    lower.set_xlim(-0.5, len(months) - 0.5)
    gap = forecast[:known].sum() / real[:known].sum() - 1 if real[:known].sum() > 0 else math.nan
    note(upper, said.note.format(known=known, all=len(months), gap=share(gap)))
    legend(upper)
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
    figure = blank(width=2 + 1.9 * len(shown), height=1.5 + 0.36 * len(table))
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, shown, strict=True):
        _metric_panel(axes, name, table[name].to_numpy(dtype=np.float64))
    panels[0].set_yticks(range(len(table)), [plain(str(model)) for model in table.index])
    panels[0].set_ylim(len(table) - 0.4, -0.6)
    figure.suptitle(plain(title or "Models compared"), x=0.01, ha="left", fontsize=12, color=INK)
    return figure


def _metric_panel(axes: Axes, name: str, values: npt.NDArray[np.float64]) -> None:
    lower = LOWER_IS_BETTER[name]
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


def coverage_chart(table: pd.DataFrame, *, title: str | None = None) -> Figure:
    """Shares of customers outside their interval, per tenth of predicted value and in all.

    ``table`` is that of ``coverage.coverage``; a share that is undefined is not drawn. The band is
    5 points around the 10 % that belong on either side.
    """
    places = ["all", *(f"decile {k:02d}" for k in range(1, 11))]
    rows = table.set_index("group").reindex(places)
    figure = blank()
    axes = figure.subplots()
    axes.axhspan(NOMINAL - NEAR, NOMINAL + NEAR, color=PALE, zorder=1, label="within 5 points")
    axes.axhline(NOMINAL, color=QUIET, linewidth=1, zorder=2)
    # Beside each other, since both are often the same.
    for name, label, marker, fill, aside in (
        ("above", "above the 90 % point", "^", INK, -0.13),
        ("below", "below the 10 % point", "v", "white", 0.13),
    ):
        shares = 100 * rows[name].to_numpy(dtype=np.float64)
        look: dict[str, Any] = {
            "color": INK, "markerfacecolor": fill, "markersize": 7, "zorder": 3, "clip_on": False
        }  # fmt: skip
        axes.plot(np.arange(len(places)) + aside, shares, marker, label=label, **look)
    names = ["all", "1\nhighest", *map(str, range(2, 10)), "10\nlowest"]
    axes.set_xticks(range(len(places)), names)
    axes.axvline(0.5, color=QUIET, linewidth=0.8)
    frame(axes, title or "Customers outside their interval")
    words(axes, "tenth of the customers, by predicted value", "customers outside (%)")
    from_zero(axes)
    axes.set(xlim=(-0.5, len(places) - 0.5), ylim=(0, max(20.0, axes.get_ylim()[1])))
    if axes.get_ylim()[1] <= 50:
        axes.set_yticks(range(0, 51, 5))
        axes.set_ylim(0, max(20.0, axes.dataLim.ymax * 1.05))
    note(axes, f"{count(float(np.nan_to_num(rows['n'].iloc[0])))} · 10 % belong on either side")
    legend_below(figure, axes)
    return figure


def profit_chart(
    curve: pd.DataFrame, share: float, *, currency: str, title: str | None = None
) -> Figure:
    """Profit of contacting the first so many customers: as expected, and as it would have come.

    ``curve`` is that of ``profit.profit_curve``; ``share`` (0 to 1) is the one chosen beforehand.
    """
    figure = blank(height=SIZE[1] + 3 * LEGEND_LINE)
    axes = figure.subplots()
    axes.axhline(0, color=QUIET, linewidth=1)
    axes.axvline(
        100 * share, color=QUIET, linewidth=1.2, linestyle=":", label=f"chosen: {share:.0%}"
    )
    for name, label, style in (
        ("expected", "expected", STYLES[1]),
        ("realised", "as it would have come", STYLES[0]),
    ):
        look = {**styled(style), "markevery": 10, "label": label}
        axes.plot(100 * curve["share"], curve[name], zorder=3, **look)
    frame(axes, title or "Profit of a campaign against churn")
    words(axes, "customers contacted, most to lose first (%)", f"profit ({currency})")
    axes.set_xlim(0, 100)
    from_zero(axes)
    note(axes, count(float(curve["customers"].iloc[-1])))
    legend_below(figure, axes)
    return figure
