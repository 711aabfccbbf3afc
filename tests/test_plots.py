"""What is drawn is read back and held against independent computation."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from features.errors import InputError
from training import leaderboard, plots
from training.profit import profit_curve

N = 60
MONTHS = [f"2024-{month:02d}" for month in range(1, 13)]


def shop(n: int = N) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    actual = np.where(random.random(n) < 0.4, 0, random.gamma(1, 100, n)).round(2)
    return actual, actual * 0.5 + random.random(n) * 60, random.permutation(n) * 1.0


def churn(n: int = N) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(4)
    probability = random.random(n)
    return (random.random(n) < probability).astype(float), probability


def lines(axes: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Label up to its colon -> what the line shows."""
    return {
        str(line.get_label()).split(":")[0]: (
            np.asarray(line.get_xdata(), float),
            np.asarray(line.get_ydata(), float),
        )
        for line in axes.get_lines()
    }


def every_figure() -> dict[str, Callable[[], Any]]:
    actual, a, b = shop()
    churned, p = churn()
    board = leaderboard.leaderboard(actual, {"ours": a, "other": b}, churned, {"ours": p})
    curve = profit_curve(churned, p, 50.0, contact_cost=2.0, save_rate=0.1)
    return {
        "decile": lambda: plots.decile_chart(actual, a, currency="EUR"),
        "gain": lambda: plots.gain_curve(actual, {"ours": a, "other": b}),
        "calibration": lambda: plots.calibration_plot(churned, {"ours": p, "other": p**2}),
        "tracking": lambda: plots.tracking_plot(MONTHS, actual[:12], a[:12], currency="EUR"),
        "board": lambda: plots.leaderboard_chart(board),
        "coverage": lambda: plots.coverage_chart(outside()),
        "profit": lambda: plots.profit_chart(curve, 0.37, currency="EUR"),
    }


def outside() -> pd.DataFrame:
    """Shares outside intervals, some not known."""
    names = ["all", *(f"decile {k:02d}" for k in range(1, 11)), "buyers"]
    shares = np.linspace(0, 0.3, len(names))
    below = np.where(shares > 0.2, np.nan, shares[::-1])
    return pd.DataFrame({"group": names, "n": N, "above": shares, "below": below})


def test_decile_chart_shows_mean_of_each_tenth() -> None:
    actual, a, _ = shop()
    (axes,) = plots.decile_chart(actual, a, currency="EUR").axes
    order = sorted(range(N), key=lambda row: -a[row])
    tenths = [order[k * 6 : k * 6 + 6] for k in range(10)]
    bars = [bar.get_height() for bar in axes.patches]
    np.testing.assert_allclose(bars, [actual[rows].mean() for rows in tenths], rtol=1e-9, atol=1e-9)
    places, predicted = lines(axes)["predicted"]
    np.testing.assert_allclose(predicted, [a[rows].mean() for rows in tenths], rtol=1e-9)
    assert places.tolist() == list(range(1, 11))
    assert [bar.get_x() + bar.get_width() / 2 for bar in axes.patches] == pytest.approx(places)
    assert "EUR" in axes.get_ylabel()
    bias = 100 * (a.sum() / actual.sum() - 1)
    assert f"60 customers · total {bias:+.1f} %" in axes.texts[0].get_text()


def test_gain_curve_shows_running_shares_perfect_and_diagonal() -> None:
    actual, a, b = shop()
    (axes,) = plots.gain_curve(actual, {"ours": a, "other": b}).axes
    shown = lines(axes)
    assert list(shown) == ["random order", "perfect order", "ours", "other"]
    for name, score in (("ours", a), ("other", b)):
        running, expected = 0.0, [0.0]
        for row in sorted(range(N), key=lambda row: -score[row]):
            running += actual[row]
            expected.append(100 * running / actual.sum())
        np.testing.assert_allclose(shown[name][1], expected, atol=1e-9)
        np.testing.assert_allclose(shown[name][0], np.arange(N + 1) / N * 100)
    x, y = shown["perfect order"]
    best = np.cumsum(np.sort(actual)[::-1]) / actual.sum() * 100
    np.testing.assert_allclose(np.interp(np.arange(1, N + 1) / N * 100, x, y), best, atol=1e-9)
    assert [side.tolist() for side in shown["random order"]] == [[0, 100], [0, 100]]


def test_gain_curve_of_many_customers_is_thinned_but_true() -> None:
    actual, a, _ = shop(5000)
    (axes,) = plots.gain_curve(actual, {"ours": a}).axes
    x, y = lines(axes)["ours"]
    assert len(x) == 1001
    running = np.append(0, np.cumsum(actual[np.argsort(-a)])) / actual.sum() * 100
    np.testing.assert_allclose(y, running[::5], atol=1e-9)


def test_calibration_plot_shows_each_bin_and_the_counts() -> None:
    churned, p = churn()
    axes, spread = plots.calibration_plot(churned, {"ours": p}).axes
    order = sorted(range(N), key=lambda row: p[row])
    tenths = [order[k * 6 : k * 6 + 6] for k in range(10)]
    x, y = lines(axes)["ours"]
    np.testing.assert_allclose(x, [100 * p[rows].mean() for rows in tenths])
    np.testing.assert_allclose(y, [100 * churned[rows].mean() for rows in tenths], atol=1e-9)
    (stairs,) = spread.patches
    counts = [sum(1 for own in p if k <= own * 20 < k + 1) for k in range(20)]
    np.testing.assert_array_equal(stairs.get_data().values, np.maximum(counts, 0.5))


def test_tracking_plot_shows_months_and_running_totals() -> None:
    predicted = np.arange(12) * 10.0
    actual = np.append(np.arange(9) * 11.0 + 1, [np.nan] * 3)
    upper, lower = plots.tracking_plot(MONTHS, predicted, actual, currency="EUR").axes
    np.testing.assert_array_equal(lines(upper)["predicted"][1], predicted)
    np.testing.assert_array_equal(lines(upper)["actual"][1], actual[:9])
    assert lines(lower)["predicted"][1].tolist() == list(itertools.accumulate(predicted))
    assert lines(lower)["actual"][1].tolist() == list(itertools.accumulate(actual[:9]))
    gap = 100 * (sum(predicted[:9]) / sum(actual[:9]) - 1)
    assert f"9 of 12 months known · total {gap:+.1f} %" in upper.texts[0].get_text()
    assert "EUR" in upper.get_ylabel()
    assert "EUR" in lower.get_ylabel()
    for place, label in zip(lower.get_xticks(), lower.get_xticklabels(), strict=True):
        assert label.get_text() == MONTHS[int(place)]


def test_leaderboard_chart_fills_the_best_dot_of_each_panel() -> None:
    actual, a, b = shop()
    churned, p = churn()
    board = leaderboard.leaderboard(actual, {"b": b, "a": a}, churned, {"a": p})
    panels = plots.leaderboard_chart(board, metrics=["mae", "abs_bias", "auroc"]).axes
    expected = [board["mae"], board["bias"].abs(), board["auroc"]]
    for axes, column in zip(panels, expected, strict=True):
        dots = [line for line in axes.get_lines() if line.get_marker() == "o"]
        values = [float(dot.get_xdata()[0]) for dot in dots]
        assert values == column.dropna().tolist()
        best = max(values) if "higher" in axes.get_title() else min(values)
        filled = [
            v for v, d in zip(values, dots, strict=True) if d.get_markerfacecolor() != "white"
        ]
        assert filled == [best]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["b", "a"]
    assert len(panels[2].texts) == 1


def test_lines_differ_by_more_than_colour() -> None:
    actual, a, _ = shop()
    models = {f"model {k}": a * (k + 1) for k in range(6)}
    (axes,) = plots.gain_curve(actual, models).axes
    curves = axes.get_lines()[2:]
    assert len({curve.get_marker() for curve in curves}) == 6
    assert len({str(curve._dash_pattern) for curve in curves}) == 6


@pytest.mark.parametrize("name", list(every_figure()))
def test_same_input_gives_the_same_bytes_without_date(name: str, tmp_path: Path) -> None:
    draw = every_figure()[name]
    first = plots.save(draw(), tmp_path / "first.png").read_bytes()
    assert plots.save(draw(), tmp_path / "other.png").read_bytes() == first
    assert first.startswith(b"\x89PNG")
    for chunk in (b"tIME", b"tEXt", b"iTXt", b"zTXt"):
        assert chunk not in first
    start = first.index(b"pHYs") + 4
    assert int.from_bytes(first[start : start + 4], "big") == round(150 / 0.0254)


def test_saving_twice_changes_nothing(tmp_path: Path) -> None:
    figure = every_figure()["calibration"]()
    first = plots.save(figure, tmp_path / "first.png").read_bytes()
    assert plots.save(figure, tmp_path / "again.png").read_bytes() == first


def tick_labels(axis: Any) -> list[Any]:
    """Those that are drawn: matplotlib also keeps some beyond the limits."""
    low, high = sorted(axis.get_view_interval())
    ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [tick.label1 for tick in ticks]


@pytest.mark.parametrize("name", list(every_figure()))
def test_no_text_lies_upon_another_or_outside(name: str) -> None:
    require_legible(every_figure()[name]())


def require_legible(figure: Any) -> None:
    """No text lies upon another one or outside."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    boxes = []
    for axes in figure.axes:
        texts = [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        texts += [*tick_labels(axes.xaxis), *tick_labels(axes.yaxis)]
        boxes += [t.get_window_extent(renderer) for t in texts if t.get_text() and t.get_visible()]
        if axes.get_legend():
            boxes.append(axes.get_legend().get_window_extent(renderer))
    boxes += [legend.get_window_extent(renderer) for legend in figure.legends]
    assert len(boxes) > 5
    # A pixel of air is taken off: neighbours may touch.
    inner = [box.padded(-1) for box in boxes if min(box.width, box.height) > 3]
    assert not [(a, b) for a, b in itertools.combinations(inner, 2) if a.overlaps(b)]
    width, height = figure.canvas.get_width_height()
    assert all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= width and b.y1 <= height for b in inner)


@pytest.mark.parametrize(
    ("actual", "predicted"), [([0, 0, 0], [0, 0, 0]), ([0.1, 0.2, -0.3], [1, 2, 3])]
)
def test_tiny_inputs_are_drawn(actual: list[float], predicted: list[float]) -> None:
    figures = [
        plots.decile_chart(actual, predicted, currency="EUR"),
        plots.gain_curve(actual, {"ours": predicted}),
        plots.calibration_plot([v > 0 for v in actual], {"ours": np.array(predicted) / 3}),
        plots.tracking_plot([1, 2, 3], predicted, actual, currency="EUR"),
        plots.tracking_plot(["2024-01"], [0], [np.nan], currency="EUR"),
        plots.leaderboard_chart(leaderboard.leaderboard(actual, {"ours": predicted})),
    ]
    for figure in figures:
        figure.canvas.draw()
        ink = np.asarray(figure.canvas.buffer_rgba())[..., :3].min(axis=2) < 100
        assert ink.sum() > 100
        for axes in figure.axes:
            assert np.isfinite([*axes.get_xlim(), *axes.get_ylim()]).all()


def test_gain_curve_without_value_says_so() -> None:
    (axes,) = plots.gain_curve([0, 0, 0], {"ours": [1, 2, 3]}).axes
    assert list(lines(axes)) == ["random order"]
    assert "no value in this window" in axes.texts[0].get_text()


def test_dollar_signs_stay_dollar_signs() -> None:
    figure = plots.gain_curve([1, 2, 3], {"a$b$": [1, 2, 3]}, title="$x_1$ in $")
    texts = [figure.axes[0]._left_title, figure.legends[0].get_texts()[-1]]
    shown = [text._preprocess_math(text.get_text()) for text in texts]
    assert shown[0] == ("$x_1$ in $", False)
    assert shown[1][0].startswith("a$b$: ")
    assert not shown[1][1]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (7, "7"), (1250, "1,250"), (2.5e6, "2.5M"), (-3e9, "-3B")],
)
def test_numbers_on_axes(value: float, text: str) -> None:
    figure = plots.decile_chart([1, 2], [1, 2], currency="EUR")
    assert figure.axes[0].yaxis.get_major_formatter()(value, 0) == text


def test_pyplot_is_never_imported_and_matplotlib_only_when_drawing() -> None:
    program = (
        "import sys, training.plots as p; assert 'matplotlib' not in sys.modules;"
        "p.decile_chart([1, 2], [1, 2], currency='EUR');"
        "assert 'matplotlib.pyplot' not in sys.modules; print('drawn')"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("drawn", "")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plots.tracking_plot([], [], [], currency="EUR"), "Got 0, 0, 0"),
        (lambda: plots.tracking_plot([1, 2], [1], [1, 2], currency="EUR"), "Got 2, 1, 2"),
        (lambda: plots.tracking_plot([1], [[1]], [1], currency="EUR"), "equally long"),
        (
            lambda: plots.tracking_plot(MONTHS[:3], [1, 2, 3], [1, np.nan, 3], currency="EUR"),
            "gap at 2024-02",
        ),
        (
            lambda: plots.tracking_plot(MONTHS[:2], [1, np.inf], [1, np.nan], currency="EUR"),
            "gap at 2024-02",
        ),
        (
            lambda: plots.leaderboard_chart(
                leaderboard.leaderboard([1, 2], {"a": [1, 2]}), metrics=["auroc"]
            ),
            "hold one of auroc",
        ),
        (
            lambda: plots.save(
                plots.decile_chart([1, 2], [1, 2], currency="EUR"), Path("picture.svg")
            ),
            "a .png file. Got picture.svg",
        ),
        (lambda: plots.decile_chart([1, 2], [1], currency="EUR"), "equally long"),
    ],
)
def test_refusals_say_what_came(call: Callable[[], object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()
