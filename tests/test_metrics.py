"""Metrics against naive loops, scikit-learn and scipy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from outcomes import churn, literal, shop
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from features.errors import InputError
from training import metrics

# ---- naive forms ---------------------------------------------------------------------------------


def naive_area(actual: list[float], order: tuple[int, ...]) -> float:
    total, running, area = sum(actual), 0.0, 0.0
    for place, row in enumerate(order, start=1):
        running += actual[row]
        area += running / total - place / len(order)
    return area / len(order)


def naive_gini(actual: list[float], predicted: list[float]) -> float:
    """Mean over every order that the predictions allow, over the best order."""
    areas = [
        naive_area(actual, order)
        for order in itertools.permutations(range(len(actual)))
        if all(predicted[i] >= predicted[j] for i, j in itertools.pairwise(order))
    ]
    best = tuple(sorted(range(len(actual)), key=lambda row: -actual[row]))
    return sum(areas) / len(areas) / naive_area(actual, best)


def naive_ranked(actual: np.ndarray, predicted: np.ndarray, copies: int) -> list[list[float]]:
    """[prediction, mean value of its ties], highest first, each customer ``copies`` times."""
    out = []
    for prediction in sorted(set(predicted.tolist()), reverse=True):
        same = [v for v, p in zip(actual, predicted, strict=True) if p == prediction]
        out += [[prediction, sum(same) / len(same)]] * (len(same) * copies)
    return out


def naive_capture(actual: np.ndarray, predicted: np.ndarray, percent: int) -> float:
    ranked = naive_ranked(actual, predicted, 100)
    top = ranked[: len(actual) * percent]
    return sum(value for _, value in top) / sum(value for _, value in ranked)


def naive_decile_mape(actual: np.ndarray, predicted: np.ndarray) -> float:
    ranked, n, off = naive_ranked(actual, predicted, 10), len(actual), []
    for decile in range(10):
        rows = ranked[decile * n : (decile + 1) * n]
        mean_predicted, mean_actual = (sum(row[i] for row in rows) / n for i in (0, 1))
        if mean_actual > 1e-9:
            off.append(abs(mean_predicted - mean_actual) / mean_actual)
    return sum(off) / len(off)


def naive_bin(probability: np.ndarray, own: float) -> int:
    """0 is the bin of the highest: where the middle of the ties of ``own`` lies."""
    above = sum(1 for p in probability if p > own)
    middle = above + sum(1 for p in probability if p == own) / 2
    return int(10 * middle / len(probability))


def naive_ece(churned: np.ndarray, probability: np.ndarray) -> float:
    gaps: dict[int, float] = {}
    for z, p in zip(churned, probability, strict=True):
        place = naive_bin(probability, p)
        gaps[place] = gaps.get(place, 0.0) + p - z
    return sum(abs(gap) for gap in gaps.values()) / len(churned)


# ---- each metric --------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 10, 57, 400])
@pytest.mark.parametrize("ties", [True, False])
def test_value_metrics_equal_naive_loops(n: int, ties: bool) -> None:
    actual, predicted, _ = shop(n, seed=n, ties=ties)
    got = metrics.value_metrics(actual, predicted)
    pairs = list(zip(actual.tolist(), predicted.tolist(), strict=True))
    absolute = sum(abs(v - p) for v, p in pairs)
    expected = {
        "mae": absolute / n,
        "rmse": math.sqrt(sum((v - p) ** 2 for v, p in pairs) / n),
        "bias": sum(p for _, p in pairs) / sum(v for v, _ in pairs) - 1,
        "wape": absolute / sum(abs(v) for v, _ in pairs),
        "decile_mape": naive_decile_mape(actual, predicted),
        "spearman": spearmanr(actual, predicted).statistic,
        "n": n,
        **{f"capture_{k}": naive_capture(actual, predicted, k) for k in (1, 5, 10, 20)},
    }
    assert set(got) == {*expected, "normalised_gini"}
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name


@pytest.mark.parametrize(
    "predicted", [[5, 4, 3, 2, 1, 0], [2, 2, 1, 1, 1, 0], [3, 3, 3, 0, 3, 0], [0, 1, 1, 2, 2, 9]]
)
@pytest.mark.parametrize("actual", [[9, 0, 4, 0, 1, 0], [1, 2, 3, 4, 5, 6.5], [10, 3, -1, 0, 0, 2]])
def test_gini_is_the_mean_over_every_order_of_the_ties(
    actual: list[float], predicted: list[float]
) -> None:
    got = metrics.value_metrics(actual, predicted)["normalised_gini"]
    assert got == pytest.approx(naive_gini(actual, predicted), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("n", [4, 57, 400])
@pytest.mark.parametrize("ties", [True, False])
def test_churn_metrics_equal_scikit_learn(n: int, ties: bool) -> None:
    churned, probability, _ = churn(n, seed=n, ties=ties)
    got = metrics.churn_metrics(churned, probability)
    expected = {
        "auroc": roc_auc_score(churned, probability),
        "average_precision": average_precision_score(churned, probability),
        "brier": brier_score_loss(churned, probability),
        "log_loss": log_loss(churned, probability),
        "ece": naive_ece(churned, probability),
        **{f"lift_{k}": 100 / k * naive_capture(churned, probability, k) for k in (5, 10, 20)},
        "base_rate": churned.mean(),
        "n": n,
    }
    assert set(got) == set(expected)
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name


def test_sure_and_wrong_probability_costs_what_scikit_learn_says() -> None:
    churned, probability = [1, 0, 1], [0.0, 1.0, 0.5]
    got = metrics.churn_metrics(churned, probability)["log_loss"]
    assert got == pytest.approx(log_loss(churned, probability), rel=1e-12)


def test_undefined_metrics_are_nan() -> None:
    zeros = metrics.value_metrics([0, 0, 0], [1, 2, 3])
    undefined = {name for name, value in zeros.items() if math.isnan(value)}
    assert undefined == set(metrics.VALUE_METRICS) - {"mae", "rmse"}
    refunded = metrics.value_metrics([0.1, 0.2, -0.3], [1, 2, 3])
    undefined = {name for name, value in refunded.items() if math.isnan(value)}
    assert undefined == {"bias", "capture_1", "capture_5", "capture_10", "capture_20"}
    for churned in ([0, 0, 0], [1, 1, 1]):
        got = metrics.churn_metrics(churned, [0.2, 0.4, 0.9])
        undefined = {name for name, value in got.items() if math.isnan(value)}
        assert undefined == {"auroc", "average_precision", "lift_5", "lift_10", "lift_20"}


# ---- order of rows, properties -----------------------------------------------------------------


def test_no_figure_depends_on_the_order_of_rows() -> None:
    actual, a, _ = shop(300)
    churned, p, _ = churn(300)
    first = None
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(300)
        y, a1, z, p1 = (x[order] for x in (actual, a, churned, p))
        got = (
            repr(metrics.value_metrics(y, a1)),
            repr(metrics.churn_metrics(z, p1)),
            metrics.decile_table(y, a1).to_numpy().tobytes(),
            metrics.reliability_table(z, p1).to_numpy().tobytes(),
            b"".join(side.tobytes() for side in metrics.gain_points(y, a1)),
        )
        first = first or got
        assert got == first


def test_minus_zero_is_zero() -> None:
    plus = metrics.value_metrics([0.0, 3.0, 0.0, 1.0], [0.0, 0.0, 1.0, 2.0])
    minus = metrics.value_metrics([-0.0, 3.0, 0.0, 1.0], [-0.0, 0.0, 1.0, 2.0])
    assert repr(plus) == repr(minus)


money = st.floats(0, 1e6, allow_nan=False).map(lambda value: round(value, 2))


@settings(max_examples=80, deadline=None)
@given(
    hnp.arrays(np.float64, st.integers(2, 40), elements=money),
    st.integers(0, 2**32 - 1),
    st.floats(0.01, 100),
)
def test_properties_of_value_metrics(actual: np.ndarray, seed: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    perfect = metrics.value_metrics(actual, actual)
    flat = metrics.value_metrics(actual, np.full(len(actual), scale))
    guess = metrics.value_metrics(actual, random.integers(0, 4, len(actual)))
    assert perfect["mae"] == perfect["rmse"] == 0
    if len(np.unique(actual)) > 1:
        assert perfect["normalised_gini"] == 1
        assert perfect["spearman"] == pytest.approx(1, abs=1e-12)
        assert flat["normalised_gini"] == flat["spearman"] == 0
        assert -1 - 1e-9 <= guess["normalised_gini"] <= 1 + 1e-9
    if actual.sum() > 0:
        assert flat["capture_10"] == pytest.approx(0.1)
        captured = [guess[f"capture_{k}"] for k in (1, 5, 10, 20)]
        assert all(low <= high + 1e-12 for low, high in itertools.pairwise([0, *captured, 1]))
        assert all(perfect[f"capture_{k}"] >= guess[f"capture_{k}"] - 1e-12 for k in (1, 5, 10, 20))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=2, max_size=40))
def test_properties_of_churn_metrics(rows: list[tuple[bool, float]]) -> None:
    churned, probability = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    got = metrics.churn_metrics(churned, probability)
    assert 0 <= got["ece"] <= 1
    assert 0 <= got["brier"] <= 1
    if 0 < churned.mean() < 1:
        turned = metrics.churn_metrics(1 - churned, probability)
        assert got["auroc"] + turned["auroc"] == pytest.approx(1, abs=1e-12)
        for k in (5, 10, 20):
            assert got[f"lift_{k}"] <= min(100 / k, 1 / got["base_rate"]) + 1e-9


# ---- directions, tables ------------------------------------------------------------------------


def test_every_metric_but_bias_base_rate_and_n_has_a_direction() -> None:
    names = {*metrics.VALUE_METRICS, *metrics.CHURN_METRICS, "abs_bias"} - {"bias", "base_rate"}
    assert set(metrics.LOWER_IS_BETTER) == names


@pytest.mark.parametrize("metric", sorted(metrics.LOWER_IS_BETTER))
def test_direction_says_that_the_truth_beats_a_guess(metric: str) -> None:
    make = churn if metric in metrics.CHURN_METRICS else shop
    outcome, _, guess = make(200)
    gap = literal(metric)(outcome, outcome) - literal(metric)(outcome, guess)
    assert metrics.better(metric, gap)
    assert not metrics.better(metric, -gap)
    assert not metrics.better(metric, math.nan)


def test_tables_behind_the_charts_equal_naive_ones() -> None:
    actual, a, _ = shop(57)
    ranked = np.array(naive_ranked(actual, a, 10)).reshape(10, 57, 2).mean(axis=1)
    table = metrics.decile_table(actual, a)
    assert list(table["decile"]) == list(range(1, 11))
    np.testing.assert_allclose(table[["predicted", "actual"]], ranked, rtol=1e-9, atol=1e-9)
    churned, p, _ = churn(57)
    bins = np.array([9 - naive_bin(p, own) for own in p])
    expected = [
        [np.sum(bins == k), p[bins == k].mean(), churned[bins == k].mean()] for k in np.unique(bins)
    ]
    np.testing.assert_allclose(metrics.reliability_table(churned, p), expected, rtol=1e-12)
    customers, value = metrics.gain_points(actual, a)
    ranked = np.array(naive_ranked(actual, a, 1))
    running = np.append(0, np.cumsum(ranked[:, 1])) / actual.sum()
    np.testing.assert_allclose(np.interp(np.arange(58) / 57, customers, value), running, atol=1e-12)
    assert (customers[0], value[0], customers[-1], value[-1]) == (0, 0, 1, 1)


def test_ece_bins_hold_a_tenth_each_without_ties() -> None:
    churned, p, _ = churn(200, ties=False)
    assert metrics.reliability_table(churned, p)["n"].tolist() == [20] * 10


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.value_metrics([1, 2], [1, 2, 3]), "equally long. Got 2, 3"),
        (lambda: metrics.value_metrics([], []), "at least one customer"),
        (lambda: metrics.value_metrics([[1]], [[1]]), r"shape \(1, 1\)"),
        (lambda: metrics.value_metrics([1, math.nan], [1, 2]), "finite numbers. Got nan in row 1"),
        (lambda: metrics.value_metrics([1, 2], [math.inf, 2]), "predictions must be finite"),
        (lambda: metrics.value_metrics([1, 2], ["1", "much"]), "must be numbers.*much"),
        (lambda: metrics.churn_metrics([0, 2], [0.1, 0.2]), "0 or 1. Got 2.0 in row 1"),
        (lambda: metrics.churn_metrics([0, 1], [0.1, 1.2]), "0 to 1. Got 1.2 in row 1"),
        (lambda: metrics.better("bias", 1), "must have a direction.*Got 'bias'"),
    ],
)
def test_refusals_say_what_came(call: Callable[[], object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()
