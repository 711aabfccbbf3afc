"""What the pictures of staying customers show is read back from them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from test_plots import require_legible

from features.errors import InputError
from training import charts, drawing
from training.charts import Step


def grid(cohorts: int = 9, periods: int = 9) -> pd.DataFrame:
    values = np.full((cohorts, periods), np.nan)
    for i in range(cohorts):
        known = min(periods, cohorts - i)
        values[i, :known] = [1.0, *(0.5 / k + 0.01 * i for k in range(1, known))]
    names = [f"2024-{i + 1:02d}" for i in range(cohorts)]
    return pd.DataFrame(values, index=names, columns=range(periods))


def step(n: int = 50, customers: int = 900) -> Step:
    days = np.arange(10, 10 * n + 10, 10)
    share = 0.99 ** np.arange(1, n + 1)
    return Step(days, share, share - 0.05, np.minimum(share + 0.05, 1), 10 * n + 40, customers)


def levels(n: int = 5) -> pd.DataFrame:
    value = np.linspace(0.2, 0.7, n)
    return pd.DataFrame(
        {
            "label": [f"a kind of survey with a long name: {k}" for k in range(n)],
            "value": np.where(np.arange(n) == 1, np.nan, value),
            "low": value - 0.05,
            "high": value + 0.06,
            "customers": 1_000 + np.arange(n),
        }
    )


FIGURES = {
    "heat": lambda: charts.heat_map(grid(), title="Cohorts", period="month", note_text="whole"),
    "large": lambda: charts.heat_map(grid(60, 60), title="Cohorts", period="month"),
    "life": lambda: charts.life_chart({"all": step()}, title="Life", event="stay (%)"),
    "lives": lambda: charts.life_chart(
        {f"channel {k}": step(40 + k) for k in range(8)}, title="Life", event="stay (%)"
    ),
    "shares": lambda: charts.shares_chart(levels(), title="Retention", share="again (%)"),
}


@pytest.mark.parametrize("name", list(FIGURES))
def test_a_picture_can_be_read_and_is_the_same_each_time(name: str) -> None:
    figure = FIGURES[name]()
    text = drawing.svg(figure)
    assert text == drawing.svg(FIGURES[name]())
    assert text.startswith("<svg")
    require_legible(figure)


def test_the_heat_map_shows_the_grid_without_the_first_period() -> None:
    figure = charts.heat_map(grid(), title="Cohorts", period="month")
    axes = figure.axes[0]
    shown = np.ma.filled(axes.get_images()[0].get_array(), np.nan)
    want = 100 * grid().to_numpy()[:-1, 1:]
    np.testing.assert_allclose(shown, want)
    numbers = [text.get_text() for text in axes.texts if text.get_text().isdigit()]
    assert numbers == [f"{value:.0f}" for value in want.ravel() if not math.isnan(value)]
    assert [t.get_text() for t in axes.get_yticklabels()] == list(grid().index[:-1])


def test_the_heat_map_darkens_evenly_in_grey_too() -> None:
    """Luminance falls all the way, so that no kind of sight confuses two values."""
    figure = charts.heat_map(grid(), title="Cohorts", period="month")
    image = figure.axes[0].get_images()[0]
    rgb = image.get_cmap()(np.linspace(0, 1, 64))[:, :3]
    grey = rgb @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(grey) < 0).all()
    # Numbers keep a contrast of 4.5 to their cell (WCAG 2.1).
    for text in (t for t in figure.axes[0].texts if t.get_text().isdigit()):
        x, y = text.get_position()
        value = image.get_array()[int(y), int(x)]
        cell = np.array(image.to_rgba([value])[0][:3])
        ink = (1.0, 1.0, 1.0) if text.get_color() == "white" else (34 / 255,) * 3
        low, high = sorted((luminance(cell), luminance(np.array(ink))))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def luminance(rgb: np.ndarray) -> float:
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_a_life_starts_at_all_and_ends_at_its_reach() -> None:
    one = step()
    (axes,) = charts.life_chart({"all": one}, title="Life", event="stay (%)").axes
    (line,) = axes.get_lines()
    np.testing.assert_allclose(line.get_ydata(), 100 * np.array([1, *one.share, one.share[-1]]))
    months = np.array([0, *one.days, one.reach]) / (365.25 / 12)
    np.testing.assert_allclose(line.get_xdata(), months)
    assert line.get_drawstyle() == "steps-post"
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(100 * one.low[-1])
    nothing = np.zeros(0)
    flat = Step(np.zeros(0, np.int64), nothing, nothing, nothing, 400, 20)
    (axes,) = charts.life_chart({"a": flat}, title="x", event="y", start=0.0).axes
    assert axes.get_lines()[0].get_ydata().tolist() == [0, 0]


def test_the_largest_groups_are_drawn() -> None:
    many = {f"channel {k}": step(customers=100 + k) for k in range(11)}
    (axes,) = charts.life_chart(many, title="Life", event="stay (%)").axes
    names = [line.get_label() for line in axes.get_lines()]
    assert names == [f"channel {k}" for k in range(3, 11)]
    assert len({(line.get_marker(), line.get_color()) for line in axes.get_lines()}) == 8


def test_shares_stand_at_their_values() -> None:
    (axes,) = charts.shares_chart(levels(), title="Retention", share="again (%)").axes
    known = levels()["value"].notna()
    (dots,) = axes.get_lines()
    np.testing.assert_allclose(dots.get_xdata(), 100 * levels()["value"][known])
    ends = np.array([seg[:, 0] for seg in axes.collections[0].get_segments()])
    np.testing.assert_allclose(ends, 100 * levels()[["low", "high"]][known])
    assert "(1,000)" in axes.get_yticklabels()[0].get_text()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: charts.heat_map(grid(1, 1), title="", period="month"), "whole month after"),
        (lambda: charts.life_chart({}, title="", event=""), "at least one curve"),
        (
            lambda: charts.shares_chart(levels().assign(value=np.nan), title="", share=""),
            "a level with a value",
        ),
    ],
)
def test_refusals_say_what_is_missing(call, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()
