"""The pictures of a report, each drawn once: the page shows it as SVG, the workbook as PNG.

They are those of MLflow's runs (`training.portraits`, `training.curves`, `training.charts`), in the
reader's language.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import pandas as pd

from serving.decisions.channels import ALL
from serving.decisions.report import Report
from serving.views import shown
from serving.views.cells import Image
from serving.views.language import Words
from training import charts, curves, drawing, plots, portraits
from training.compared import OURS
from training.grid import NAMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Drawing", "drawings"]

SCREEN: Final = 96  # pixels of an inch


@dataclass(frozen=True)
class Drawing:
    """A picture that is drawn when it is asked for: its title and, in words, what it shows."""

    title: str
    alt: str
    draw: Callable[[], Figure]

    @cached_property
    def figure(self) -> Figure:
        """Drawn once, and laid out once, which takes half of the time."""
        made = self.draw()
        made.draw_without_rendering()
        made.set_layout_engine("none")
        return made

    @property
    def size(self) -> tuple[int, int]:
        """Width and height on a screen, in pixels."""
        width, height = (round(SCREEN * float(side)) for side in self.figure.get_size_inches())
        return width, height

    def svg(self) -> str:
        """As SVG."""
        return drawing.svg(self.figure)

    def image(self) -> Image:
        """As PNG."""
        return Image(drawing.png(self.figure), self.alt, self.size)


def drawings(made: Report, say: Words) -> dict[str, Drawing]:
    """All that there is something to draw of, by name; nothing is drawn yet."""
    found = {"spread": _spread, "map": _map, "matrix": _matrix, "channels": _channels,
             "heat": _heat, "deciles": _deciles, "gain": _gain, "calibration": _calibration,
             "tracking": _tracking}  # fmt: skip
    there = {name: make(made, say) for name, make in found.items()}
    return {name: one for name, one in there.items() if one is not None}


def _drawing(say: Words, title: str, x: str, y: str, draw: Callable[[], Figure]) -> Drawing:
    return Drawing(title, say("workbook.alt_picture", title=title, x=x, y=y), draw)


def _share(say: Words) -> Callable[[float], str]:
    def text(share: float) -> str:
        return say("form.percent", number=say.number(100 * share, 1, sign=True))

    return text


def _spread(made: Report, say: Words) -> Drawing | None:
    told, said = made.portrait, say.labels("spread", portraits.SpreadLabels)
    if told is None:
        return None
    return _drawing(
        say, said.title, said.value.format(unit=made.currency), said.customers,
        lambda: portraits.spread_chart(told.value, currency=made.currency, labels=said,
                                       write=say.number),
    )  # fmt: skip


def _map(made: Report, say: Words) -> Drawing | None:
    told, said = made.portrait, say.labels("map", portraits.MapLabels)
    if told is None:
        return None
    points = told.points
    names = {name: say.segment(name) for name in NAMES if (points["segment"] == name).any()}
    return _drawing(
        say, said.title, said.churn, said.value.format(unit=made.currency),
        lambda: portraits.segment_map(
            points["churn"], points["worth"], points["segment"], lines=made.groups.lines,
            names=names, currency=made.currency, labels=said, write=say.number,
        ),
    )  # fmt: skip


def _matrix(made: Report, say: Words) -> Drawing | None:
    told, said = made.portrait, say.labels("matrix", portraits.MatrixLabels)
    if told is None:
        return None
    return _drawing(
        say, said.title, said.recency, said.frequency,
        lambda: portraits.matrix_chart(told.customers, told.mean, "value", currency=made.currency,
                                       labels=said, write=say.number),
    )  # fmt: skip


def _channels(made: Report, say: Words) -> Drawing | None:
    if made.channels is None:
        return None
    whole, months = made.channels.whole, made.channels.months
    ltv = f"ltv_{months}m"
    needed = ["channel", "cac", ltv, f"{ltv}_low", f"{ltv}_high", "ltv_to_cac"]
    if not set(needed) <= set(whole):
        return None
    table = whole.loc[whole["channel"] != ALL, needed].astype(dict.fromkeys(needed[1:], "float64"))
    table = shown.told(table, say).set_axis(
        ["channel", "cac", "ltv", "ltv_low", "ltv_high", "ltv_to_cac"], axis=1
    )
    said = say.labels("channels", portraits.ChannelLabels)
    return _drawing(
        say, said.title, said.money.format(unit=made.currency), say.heading("channel"),
        lambda: portraits.channel_bars(table, months, currency=made.currency, labels=said,
                                       write=say.number),
    )  # fmt: skip


def _heat(made: Report, say: Words) -> Drawing | None:
    if made.retained is None:
        return None
    grid = made.retained.cohorts.grid()
    later = grid.loc[:, grid.columns.to_numpy() > 0]
    if not later.notna().to_numpy().any():
        return None
    said = say.labels("heat", charts.HeatLabels)
    period = say(f"periods.{made.retained.cohorts.period}")
    return _drawing(
        say, said.title, said.since.format(period=period), said.cohort.format(period=period),
        lambda: charts.heat_map(grid, period=period, labels=said, write=say.number),
    )  # fmt: skip


def _deciles(made: Report, say: Words) -> Drawing | None:
    told, said = made.curves(), say.labels("deciles", curves.DecileLabels)
    if told is None:
        return None
    return _drawing(
        say, said.title, said.tenth, said.value.format(unit=made.currency),
        lambda: curves.deciles_drawn(told.deciles, currency=made.currency, labels=said,
                                     write=say.number, share=_share(say)),
    )  # fmt: skip


def _gain(made: Report, say: Words) -> Drawing | None:
    told, said = made.curves(), say.labels("gain", curves.GainLabels)
    if told is None:
        return None
    ranked = sorted(told.gains, key=lambda name: (name != OURS, name))  # as in the table of scores
    gains = {shown.model(name, say): told.gains[name] for name in ranked}
    return _drawing(
        say, said.title, said.customers, said.value,
        lambda: curves.gain_drawn(told.perfect, gains, told.deciles.customers, labels=said,
                                  write=say.number),
    )  # fmt: skip


def _calibration(made: Report, say: Words) -> Drawing | None:
    told, said = made.curves(), say.labels("calibration", curves.CalibrationLabels)
    if told is None:
        return None
    both = {said.before: told.calibration["before"], said.after: told.calibration["after"]}
    return _drawing(
        say, said.title, said.predicted, said.churned,
        lambda: curves.reliability_drawn(both, labels=said, write=say.number),
    )  # fmt: skip


def _tracking(made: Report, say: Words) -> Drawing | None:
    told, said = made.tracking(), say.labels("tracking", plots.TrackingLabels)
    if told is None:
        return None
    each = pd.DataFrame({name: _steps(told[name]) for name in ("predicted", "actual")})
    return _drawing(
        say, said.title, said.month, said.each.format(unit=made.currency),
        lambda: plots.tracking_plot(
            told["month"].tolist(), each["predicted"], each["actual"], currency=made.currency,
            labels=said, number=drawing.written(say.number), share=_share(say),
        ),
    )  # fmt: skip


def _steps(sums: pd.Series) -> pd.Series:
    """What each month added; the picture takes months and shows the sums below them."""
    return sums.diff().fillna(sums)
