"""What the pictures of the customer base show is read back and held against plain computation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_charts import grid, luminance
from test_plots import require_legible

from features.errors import InputError
from serving.views.language import LANGUAGES, words
from training import charts, drawing, plots, portraits
from training.grid import GROW, KEEP, REST, WIN

N = 3_000
LINES = (60.0, 0.6)


def shop(n: int = N) -> pd.DataFrame:
    random = np.random.default_rng(11)
    orders = 1 + random.negative_binomial(1, 0.35, n)
    days = np.minimum(random.exponential(160, n), 900).round()
    churn = np.clip(days / 500 + random.normal(0, 0.15, n), 0.01, 0.99)
    value = (orders * random.gamma(2, 14, n) * (1 - churn)).round(2)
    return pd.DataFrame({"days": days, "orders": orders, "churn": churn, "value": value})


def kinds(table: pd.DataFrame) -> np.ndarray:
    much, stays = table["value"] >= LINES[0], table["churn"] < LINES[1]
    return np.select([much & stays, much, stays], [KEEP, WIN, GROW], REST).astype(object)


def channels() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "channel": ["search", "$ocial", "a channel with a long name", "fairs"],
            "cac": [12.0, 30.0, 8.0, math.nan],
            "ltv": [55.0, 41.0, -3.0, math.nan],
            "ltv_low": [48.0, 30.0, -9.0, math.nan],
            "ltv_high": [63.0, 50.0, 2.0, math.nan],
            "ltv_to_cac": [4.58, 1.37, -0.37, math.nan],
        }
    )


def drawn(language: str, part: str, n: int = N) -> Any:
    say, table = words(language), shop(n)
    how: dict[str, Any] = {"currency": "EUR", "write": say.number}
    if part in ("value", "churn"):
        many, mean = portraits.recency_frequency(table["days"], table["orders"], table[part])
        labels: Any = say.labels("matrix", portraits.MatrixLabels)
        return portraits.matrix_chart(many, mean, part, labels=labels, **how)  # type: ignore[arg-type]
    if part == "spread":
        labels = say.labels("spread", portraits.SpreadLabels)
        return portraits.spread_chart(table["value"], labels=labels, **how)
    if part == "map":
        labels = say.labels("map", portraits.MapLabels)
        names = {kind: say.segment(kind) for kind in (KEEP, WIN, GROW, REST)}
        return portraits.segment_map(
            table["churn"], table["value"], kinds(table), lines=LINES, names=names, labels=labels,
            **how,
        )  # fmt: skip
    if part == "tracking":
        labels = say.labels("tracking", plots.TrackingLabels)
        months = [say.month(f"2024-{k:02d}") for k in range(1, 5)]
        real, guess = [5.0, 7.0, 6.0, math.nan], [4.0, 7.5, 6.0, 6.0]
        return plots.tracking_plot(months, guess, real, currency="EUR", labels=labels,
                                   number=say.plain, share=say.percent)  # fmt: skip
    if part == "heat":
        labels = say.labels("heat", charts.HeatLabels)
        return charts.heat_map(grid(), title="2024", period="Q", labels=labels)
    labels = say.labels("channels", portraits.ChannelLabels)
    return portraits.channel_bars(channels(), 24, labels=labels, **how)


PARTS = ("value", "churn", "spread", "map", "channels", "tracking", "heat")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_picture_can_be_read_in_every_language(language: str, part: str) -> None:
    figure = drawn(language, part)
    require_legible(figure)
    for axes in figure.axes:
        assert "{" not in axes.get_xlabel() + axes.get_ylabel() + axes.get_title(loc="left")


@pytest.mark.parametrize("part", PARTS)
def test_a_picture_is_the_same_each_time(part: str) -> None:
    text = drawing.svg(drawn("de", part, 400))
    assert text.startswith("<svg")
    assert text == drawing.svg(drawn("de", part, 400))


def test_the_matrix_holds_each_customer_once_and_the_mean_of_its_field() -> None:
    table = shop()
    many, mean = portraits.recency_frequency(table["days"], table["orders"], table["value"])
    assert many.to_numpy().sum() == N
    assert (list(many.index), list(many)) == ([10, 5, 3, 2, 1], [0, 31, 91, 181, 366])
    ends = zip((1, 2, 3, 5, 10), (1, 2, 4, 9, 10**9), strict=True)
    last = dict(zip((0, 31, 91, 181, 366), (30, 90, 180, 365, 10**9), strict=True))
    for i, high in ends:
        for j, until in last.items():
            own = table[table["orders"].between(i, high) & table["days"].between(j, until)]
            assert many.loc[i, j] == len(own)
            want = own["value"].mean() if len(own) >= 10 else math.nan
            assert mean.loc[i, j] == pytest.approx(want, nan_ok=True)
    assert mean.isna().to_numpy().any() == (many < 10).to_numpy().any()


def test_the_matrix_says_figures_and_hides_those_of_few() -> None:
    days, orders = [5] * 12 + [400] * 3, [1] * 12 + [2] * 3
    many, mean = portraits.recency_frequency(days, orders, [0.25] * 12 + [0.9] * 3)
    figure = portraits.matrix_chart(many, mean, "churn", currency="EUR")
    axes, bar = figure.axes
    assert sorted(t.get_text() for t in axes.texts if "(" in t.get_text()) == [
        "-\n(<10)", "25\n(12)",
    ]  # fmt: skip
    assert "(%)" in bar.get_ylabel()
    figure = portraits.matrix_chart(many, mean, "value", currency="EUR")
    assert "EUR" in figure.axes[1].get_ylabel()
    assert axes.get_xticklabels()[0].get_text() == "0 to 30"
    assert [t.get_text() for t in axes.get_yticklabels()] == [
        "10 and more", "5 to 9", "3 to 4", "2", "1",
    ]  # fmt: skip


def test_numbers_of_the_matrix_keep_their_contrast() -> None:
    axes = drawn("en", "value").axes[0]
    image = axes.get_images()[0]
    for text in (t for t in axes.texts if "\n" in t.get_text() and "-" not in t.get_text()):
        x, y = text.get_position()
        cell = np.array(image.to_rgba([image.get_array()[int(y), int(x)]])[0][:3])
        ink = (1.0, 1.0, 1.0) if text.get_color() == "white" else (0.0, 0.0, 0.0)
        low, high = sorted((luminance(cell), luminance(np.array(ink))))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def test_the_spread_shows_all_customers_and_all_value() -> None:
    values = shop()["value"].to_numpy()
    figure = portraits.spread_chart(values, currency="EUR")
    for axes, whole in zip(figure.axes, (len(values), values.sum()), strict=True):
        bars = [bar for bar in axes.patches if bar.get_height()]
        assert sum(bar.get_height() for bar in bars) == pytest.approx(100)
        beyond = values[values >= np.quantile(values, 0.98)]
        part = len(beyond) if whole == len(values) else beyond.sum()
        assert bars[-1].get_height() == pytest.approx(100 * part / whole)
        assert bars[-1].get_hatch()
        assert bars[0].get_hatch() is None
    ranked = np.sort(values)[::-1]
    share = 100 * ranked[: len(values) // 10].sum() / values.sum()
    assert f"{share:.0f}% of all value" in figure.axes[0].texts[0].get_text()
    middle = figure.axes[0].get_lines()[0]
    assert middle.get_xdata()[0] == np.median(values)
    assert f"{np.median(values):,.0f} EUR" in str(middle.get_label())


def test_a_middle_of_less_than_one_is_not_told_as_nothing() -> None:
    values = np.concatenate([np.full(60, 0.31), np.full(40, 90.0)])
    labels = [str(line.get_label()) for line in
              portraits.spread_chart(values, currency="EUR").axes[0].get_lines()]  # fmt: skip
    assert "0.31 EUR" in labels[0]
    assert "36 EUR" in labels[1]


@pytest.mark.parametrize("values", [[0.0], [5.0] * 40, [-3.0, -1.0], [0.0] * 9 + [1e7]])
def test_unusual_spreads_are_drawn(values: list[float]) -> None:
    figure = portraits.spread_chart(values, currency="EUR")
    figure.canvas.draw()
    assert sum(b.get_height() for b in figure.axes[0].patches) == pytest.approx(100)
    for axes in figure.axes:
        assert np.isfinite([*axes.get_xlim(), *axes.get_ylim()]).all()


def test_the_map_shows_shares_lines_and_a_marker_per_segment() -> None:
    table = shop()
    figure = drawn("en", "map")
    (axes,) = figure.axes
    lines = axes.get_lines()
    clouds = [line for line in lines if line.get_linestyle() == "None"]
    own = kinds(table)
    for line, kind in zip(clouds, (KEEP, WIN, GROW, REST), strict=True):
        assert line.get_label() == f"{kind}: {100 * (own == kind).mean():.1f}%"
        x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        assert ((x < 60) == (kind in (KEEP, GROW))).all()
        assert ((y >= 60) == (kind in (KEEP, WIN))).all()
    assert len({line.get_marker() for line in clouds}) == 4
    assert sum(len(line.get_xdata()) for line in clouds) <= 1_500
    value, churn = lines[-2:]
    assert set(value.get_ydata()) == {60.0}
    assert set(churn.get_xdata()) == {60.0}
    assert {"EUR", "log"} <= set(axes.get_ylabel().replace(",", " ").strip(")").replace(
        "(", " ").split())  # fmt: skip


def test_a_map_does_not_depend_on_the_order_of_rows() -> None:
    table = shop(2_000).sample(frac=1, random_state=1)
    pictures = [
        drawing.svg(
            portraits.segment_map(
                each["churn"],
                each["value"],
                kinds(each),
                lines=None,
                currency="EUR",
                names={kind: kind for kind in (KEEP, WIN, GROW, REST)},
            )
        )
        for each in (table, table.sort_index())
    ]
    assert pictures[0].count("<use") > 1_000
    assert pictures[0] == pictures[1]


def test_bars_of_channels_stand_at_their_values() -> None:
    figure = portraits.channel_bars(channels(), 24, currency="EUR")
    (axes,) = figure.axes
    ltv, cac = (([bar.get_width() for bar in group]) for group in axes.containers)
    np.testing.assert_allclose(ltv, [55, 41, -3, 0])
    np.testing.assert_allclose(cac, [12, 30, 8, 0])
    ends = [seg[:, 0].tolist() for seg in axes.collections[0].get_segments()]
    assert ends == [[48, 63], [30, 50], [-9, 2]]
    texts = [text.get_text() for text in axes.texts]
    assert texts[:4] == ["LTV:CAC 4.58", "LTV:CAC 1.37", "LTV:CAC -0.37", "too few to tell"]
    assert "24 months" in texts[4]
    assert axes.get_yticklabels()[1].get_text() == r"\$ocial"
    assert axes.get_xlim()[0] <= -9
    hatches = {bar.get_hatch() for group in axes.containers for bar in group}
    assert len(hatches) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: portraits.recency_frequency([1], [1, 2], [1]), "equally long"),
        (lambda: portraits.recency_frequency([], [], []), "at least one customer"),
        (lambda: portraits.recency_frequency([1], [0], [1]), "without an order"),
        (lambda: portraits.recency_frequency([1], [1], [math.nan]), "a number"),
        (lambda: portraits.spread_chart([], currency="EUR"), "at least one"),
        (lambda: portraits.spread_chart([1, math.inf], currency="EUR"), "1 of them not finite"),
        (
            lambda: portraits.segment_map(
                [0.1], [1.0], ["x"], lines=None, names={"y": "Y"}, currency="EUR"
            ),
            "none for x",
        ),
        (
            lambda: portraits.segment_map([], [], [], lines=None, names={}, currency="EUR"),
            "equally long",
        ),
        (
            lambda: portraits.channel_bars(channels()[:0], 12, currency="EUR"),
            "at least one channel",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
