"""The pictures of a test that are made of curves: value by tenth, gain, calibration.

What they show is a few hundred numbers and nobody's in particular, so a model's card carries them
and whoever reads the card draws the same picture as the run that tested it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from training.drawing import (
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
    from_zero,
    legend,
    legend_below,
    note,
    number_axis,
    percent,
    plain,
    styled,
    words,
    written,
)
from training.metrics import (
    BRIER,
    CAPTURE_10,
    ECE,
    GINI,
    churn_metrics,
    decile_table,
    gain_points,
    reliability_table,
    value_metrics,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "CalibrationLabels", "Curves", "DecileLabels", "Deciles", "Gain", "GainLabels", "Reliability",
    "deciles_drawn", "gain_drawn", "reliability_drawn",
]  # fmt: skip

HALF: Final = 0.5  # where nobody stands on an axis of logarithms
KEPT: Final = 201  # points of a curve on a card; more cannot be seen
DIGITS: Final = 6  # behind the point, of what a card keeps


class DecileLabels(NamedTuple):
    """Words of `deciles_drawn`."""

    title: str = "Value by decile of prediction"
    tenth: str = "tenth of the customers, by prediction"
    value: str = "mean value per customer ({unit})"
    actual: str = "actual"
    predicted: str = "predicted"
    highest: str = "highest"
    lowest: str = "lowest"
    note: str = "{customers} customers · total {gap} against actual"


class GainLabels(NamedTuple):
    """Words of `gain_drawn`."""

    title: str = "Share of value reached"
    customers: str = "customers, highest prediction first (%)"
    value: str = "share of actual value (%)"
    random: str = "random order"
    perfect: str = "perfect order"
    curve: str = "{name}: Gini {gini}, top 10% hold {share}%"
    note: str = "{customers} customers"
    none: str = "no value in this window"


class CalibrationLabels(NamedTuple):
    """Words of `reliability_drawn`; `before` and `after` name its curves where a card does."""

    title: str = "Calibration of churn"
    churned: str = "customers who churned (%)"
    predicted: str = "predicted probability of churn (%)"
    many: str = "customers (log)"
    ideal: str = "calibrated"
    curve: str = "{name}: ECE {ece}, Brier {brier}"
    note: str = "{customers} customers · up to ten bins of equal count"
    before: str = "before calibration"
    after: str = "after calibration"


@dataclass(frozen=True)
class Deciles:
    """Mean value per tenth of the customers, highest predictions first, and the total's bias."""

    customers: int
    bias: float
    predicted: list[float]
    actual: list[float]

    @classmethod
    def of(cls, actual: npt.ArrayLike, predicted: npt.ArrayLike) -> Deciles:
        """Worked out as `metrics.decile_table`."""
        table, metrics = decile_table(actual, predicted), value_metrics(actual, predicted)
        means = (table[name].tolist() for name in ("predicted", "actual"))
        return cls(int(metrics["n"]), metrics["bias"], *means)


@dataclass(frozen=True)
class Gain:
    """A gain curve, shares from 0 to 1: of customers and of value; both empty where undefined."""

    gini: float
    capture: float  # share of value held by the first tenth
    customers: list[float]
    value: list[float]

    @classmethod
    def of(cls, actual: npt.ArrayLike, predicted: npt.ArrayLike, most: int) -> Gain:
        """With at most `most` points."""
        metrics = value_metrics(actual, predicted)
        customers, value = gain_points(actual, predicted)
        if np.isnan(value).any():
            customers = value = np.zeros(0)
        elif len(customers) > most:
            even = np.linspace(0, 1, most)
            customers, value = even, np.interp(even, customers, value)
        return cls(metrics[GINI], metrics[CAPTURE_10], customers.tolist(), value.tolist())


@dataclass(frozen=True)
class Reliability:
    """Predicted and observed churn in bins of equal count, and customers by twentieth of it."""

    customers: int
    ece: float
    brier: float
    probability: list[float]
    churned: list[float]
    spread: list[int]

    @classmethod
    def of(cls, churned: npt.ArrayLike, probability: npt.ArrayLike) -> Reliability:
        """Worked out as `metrics.reliability_table`."""
        table, metrics = (
            reliability_table(churned, probability),
            churn_metrics(churned, probability),
        )
        p = np.asarray(probability, dtype=np.float64)
        counts, _ = np.histogram(100 * p, bins=20, range=(0.0, 100.0))
        return cls(
            np.size(churned), metrics[ECE], metrics[BRIER], table["probability"].tolist(),
            table["churned"].tolist(), counts.tolist(),
        )  # fmt: skip


@dataclass(frozen=True)
class Curves:
    """All of one test: its tenths, a gain curve per model and the perfect one, and calibration."""

    deciles: Deciles
    perfect: Gain
    gains: dict[str, Gain]
    calibration: dict[str, Reliability]

    @classmethod
    def of(
        cls,
        actual: npt.ArrayLike,
        values: Mapping[str, npt.ArrayLike],
        ours: str,
        churned: npt.ArrayLike,
        churn: Mapping[str, npt.ArrayLike],
    ) -> Curves:
        """As a card keeps them: curves of few points. `churn` has the keys before and after."""
        return cls(
            Deciles.of(actual, values[ours]), Gain.of(actual, actual, KEPT),
            {name: Gain.of(actual, each, KEPT) for name, each in values.items()},
            {name: Reliability.of(churned, each) for name, each in churn.items()},
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Plain values, what is undefined None."""
        found: dict[str, Any] = _rounded(asdict(self))
        return found

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Curves:
        """Of what `as_dict` gave."""
        found = _known(told)
        return cls(
            Deciles(**found["deciles"]), Gain(**found["perfect"]),
            {name: Gain(**each) for name, each in found["gains"].items()},
            {name: Reliability(**each) for name, each in found["calibration"].items()},
        )  # fmt: skip


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, DIGITS)
    return value


def _known(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _known(each) for name, each in value.items()}
    return math.nan if value is None else value


def deciles_drawn(
    told: Deciles,
    *,
    currency: str,
    title: str | None = None,
    labels: DecileLabels | None = None,
    write: Write = english,
    share: Callable[[float], str] = percent,
) -> Figure:
    """Mean predicted (diamonds) against mean actual value (bars) per tenth of the customers."""
    said, places = labels or DecileLabels(), list(range(1, len(told.actual) + 1))
    figure = blank()
    axes = figure.subplots()
    look: dict[str, Any] = {"color": PALE, "edgecolor": QUIET, "label": said.actual, "zorder": 2}
    axes.bar(places, told.actual, 0.72, **look)
    look = {"color": INK, "markersize": 7, "zorder": 3, "clip_on": False}
    axes.plot(places, told.predicted, "D", label=said.predicted, **look)
    first, *middle, last = map(str, places)
    axes.set_xticks(places, [f"{first}\n{said.highest}", *middle, f"{last}\n{said.lowest}"])
    frame(axes, title or said.title)
    words(axes, said.tenth, said.value.format(unit=currency))
    from_zero(axes)
    number_axis(axes, written(write))
    note(axes, said.note.format(customers=write(told.customers, 0), gap=share(told.bias)))
    legend(axes)
    return figure


def gain_drawn(
    perfect: Gain,
    gains: Mapping[str, Gain],
    customers: int,
    *,
    title: str | None = None,
    labels: GainLabels | None = None,
    write: Write = english,
) -> Figure:
    """Share of the value held by the customers with the highest predictions, for each model."""
    said = labels or GainLabels()
    figure = blank(height=SIZE[1] + LEGEND_LINE * (2 + len(gains)))
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color=QUIET, linewidth=1, label=said.random)
    _gain(axes, perfect, said.perfect, {"color": QUIET, "linewidth": 1, "linestyle": ":"})
    for (name, one), style in zip(gains.items(), itertools.cycle(STYLES), strict=False):
        share = write(100 * one.capture, 0)
        label = said.curve.format(name=name, gini=write(one.gini, 3), share=share)
        _gain(axes, one, label, {**styled(style), "markevery": (0.1, 0.1)})
    frame(axes, title or said.title)
    words(axes, said.customers, said.value)
    axes.set_xlim(0, 100)
    from_zero(axes)
    number_axis(axes, written(write))
    axes.grid(axis="x", color="#ececec", zorder=0)
    told = said.note.format(customers=write(customers, 0))
    note(axes, told if perfect.value else f"{told} · {said.none}")
    legend_below(figure, axes)
    return figure


def _gain(axes: Axes, one: Gain, label: str, look: dict[str, Any]) -> None:
    if one.value:
        x, y = (100 * np.asarray(side, np.float64) for side in (one.customers, one.value))
        axes.plot(x, y, label=plain(label), zorder=3, **look)


def reliability_drawn(
    told: Mapping[str, Reliability],
    *,
    title: str | None = None,
    labels: CalibrationLabels | None = None,
    write: Write = english,
) -> Figure:
    """Observed against predicted churn in ten bins of equal count, and how probabilities spread.

    Points on the diagonal are calibrated. Below: customers per twentieth of the probability.
    """
    said = labels or CalibrationLabels()
    figure = blank(height=5.4 + LEGEND_LINE * (1 + len(told)))
    axes, spread = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 100], [0, 100], color=QUIET, linewidth=1, label=said.ideal)
    for (name, one), style in zip(told.items(), itertools.cycle(STYLES), strict=False):
        label = said.curve.format(name=name, ece=write(one.ece, 3), brier=write(one.brier, 3))
        x, y = (100 * np.asarray(side, np.float64) for side in (one.probability, one.churned))
        axes.plot(x, y, label=plain(label), zorder=3, clip_on=False, **styled(style))
        line = {key: styled(style)[key] for key in ("color", "linestyle")}
        heights, edges = np.maximum(one.spread, HALF), np.linspace(0.0, 100.0, 21)
        spread.stairs(heights, edges, baseline=HALF, linewidth=1.5, **line)
    frame(axes, title or said.title)
    frame(spread, "")
    words(axes, "", said.churned)
    words(spread, said.predicted, said.many)
    axes.set(xlim=(0, 100), ylim=(0, 100))
    spread.set_yscale("log")
    spread.set_ylim(HALF, max(10.0, spread.get_ylim()[1]))
    spread.minorticks_off()
    number_axis(spread, written(write))
    customers = max((one.customers for one in told.values()), default=0)
    note(axes, said.note.format(customers=write(customers, 0)))
    legend_below(figure, axes)
    return figure
