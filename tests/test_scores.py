"""Metrics against naive loops, scikit-learn, scipy and literally resampled rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import norm, spearmanr
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from features.errors import InputError
from training import leaderboard, scores
from training.scores import Difference

VALUE_WITH_INTERVAL = [*scores.VALUE_METRICS, "abs_bias"]


def shop(n: int, seed: int = 0, ties: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values (many zeros, some refunds beyond sales) and two models, with many ties if asked."""
    random = np.random.default_rng(seed)
    actual = np.where(random.random(n) < 0.5, 0, random.gamma(0.6, 80, n)).round(2)
    actual[: n // 50] *= -0.1
    a = 0.4 * actual + random.gamma(0.7, 40, n)
    b = 0.2 * actual + random.gamma(0.7, 50, n)
    return (actual, a.round(-1), b.round(-1)) if ties else (actual, a, b)


def churn(n: int, seed: int = 0, ties: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    a, b = random.random(n), random.random(n)
    churned = (random.random(n) < 0.2 + 0.5 * a + 0.2 * b).astype(float)
    churned[:2] = 0, 1
    return (churned, a.round(1), b.round(1)) if ties else (churned, a, b)


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


# ---- each metric -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 10, 57, 400])
@pytest.mark.parametrize("ties", [True, False])
def test_value_metrics_equal_naive_loops(n: int, ties: bool) -> None:
    actual, predicted, _ = shop(n, seed=n, ties=ties)
    got = scores.value_metrics(actual, predicted)
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
    got = scores.value_metrics(actual, predicted)["normalised_gini"]
    assert got == pytest.approx(naive_gini(actual, predicted), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("n", [4, 57, 400])
@pytest.mark.parametrize("ties", [True, False])
def test_churn_metrics_equal_scikit_learn(n: int, ties: bool) -> None:
    churned, probability, _ = churn(n, seed=n, ties=ties)
    got = scores.churn_metrics(churned, probability)
    expected = {
        "auroc": roc_auc_score(churned, probability),
        "average_precision": average_precision_score(churned, probability),
        "brier": brier_score_loss(churned, probability),
        "log_loss": log_loss(churned, probability),
        "ece": naive_ece(churned, probability),
        "lift_10": 10 * naive_capture(churned, probability, 10),
        "base_rate": churned.mean(),
        "n": n,
    }
    assert set(got) == set(expected)
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name


def test_sure_and_wrong_probability_costs_what_scikit_learn_says() -> None:
    churned, probability = [1, 0, 1], [0.0, 1.0, 0.5]
    got = scores.churn_metrics(churned, probability)["log_loss"]
    assert got == pytest.approx(log_loss(churned, probability), rel=1e-12)


def test_undefined_metrics_are_nan() -> None:
    zeros = scores.value_metrics([0, 0, 0], [1, 2, 3])
    undefined = {name for name, value in zeros.items() if math.isnan(value)}
    assert undefined == set(scores.VALUE_METRICS) - {"mae", "rmse"}
    refunded = scores.value_metrics([0.1, 0.2, -0.3], [1, 2, 3])
    undefined = {name for name, value in refunded.items() if math.isnan(value)}
    assert undefined == {"bias", "capture_1", "capture_5", "capture_10", "capture_20"}
    for churned in ([0, 0, 0], [1, 1, 1]):
        got = scores.churn_metrics(churned, [0.2, 0.4, 0.9])
        undefined = {name for name, value in got.items() if math.isnan(value)}
        assert undefined == {"auroc", "average_precision", "lift_10"}


# ---- order of rows, properties -----------------------------------------------------------------


def test_no_figure_depends_on_the_order_of_rows() -> None:
    actual, a, b = shop(300)
    churned, p, q = churn(300)
    first = None
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(300)
        y, a1, b1, z, p1, q1 = (x[order] for x in (actual, a, b, churned, p, q))
        got = (
            repr(scores.value_metrics(y, a1)),
            repr(scores.churn_metrics(z, p1)),
            repr(leaderboard.compare(y, {"a": a1, "b": b1}, "a", draws=20).to_numpy().tolist()),
            repr(scores.paired_bootstrap(z, p1, q1, "auroc", draws=20)),
            repr(scores.bootstrap(y, a1, "normalised_gini", draws=20)),
            scores.decile_table(y, a1).to_numpy().tobytes(),
            scores.reliability_table(z, p1).to_numpy().tobytes(),
            b"".join(side.tobytes() for side in scores.gain_points(y, a1)),
        )
        first = first or got
        assert got == first


def test_minus_zero_is_zero() -> None:
    plus = scores.value_metrics([0.0, 3.0, 0.0, 1.0], [0.0, 0.0, 1.0, 2.0])
    minus = scores.value_metrics([-0.0, 3.0, 0.0, 1.0], [-0.0, 0.0, 1.0, 2.0])
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
    perfect = scores.value_metrics(actual, actual)
    flat = scores.value_metrics(actual, np.full(len(actual), scale))
    guess = scores.value_metrics(actual, random.integers(0, 4, len(actual)))
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
    got = scores.churn_metrics(churned, probability)
    assert 0 <= got["ece"] <= 1
    assert 0 <= got["brier"] <= 1
    if 0 < churned.mean() < 1:
        turned = scores.churn_metrics(1 - churned, probability)
        assert got["auroc"] + turned["auroc"] == pytest.approx(1, abs=1e-12)
        assert got["lift_10"] <= min(10, 1 / got["base_rate"]) + 1e-9


# ---- bootstrap ---------------------------------------------------------------------------------


def resamples(columns: list[np.ndarray], draws: int, seed: int) -> list[list[np.ndarray]]:
    """The resampled rows themselves: sorted rows, then the same draws of row numbers."""
    table = np.array(sorted(zip(*(c.tolist() for c in columns), strict=True)))
    random = np.random.default_rng(seed)
    drawn = [table[random.integers(0, len(table), len(table))] for _ in range(draws)]
    return [list(rows.T) for rows in drawn]


def literal(metric: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """The metric of plain rows, by other software where there is any."""
    other = {
        "auroc": roc_auc_score,
        "average_precision": average_precision_score,
        "brier": brier_score_loss,
        "log_loss": log_loss,
        "spearman": lambda y, p: float(spearmanr(y, p).statistic),
        "abs_bias": lambda y, p: abs(float(p.sum() / y.sum()) - 1),
    }
    if metric in other:
        return other[metric]
    family = scores.churn_metrics if metric in scores.CHURN_METRICS else scores.value_metrics
    return lambda y, p: family(y, p)[metric]


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("metric", [*VALUE_WITH_INTERVAL, *scores.CHURN_METRICS])
def test_bootstrap_is_the_metric_of_the_resampled_rows(metric: str, ties: bool) -> None:
    make = churn if metric in scores.CHURN_METRICS else shop
    outcome, a, b = make(60, seed=1, ties=ties)
    measure, draws = literal(metric), 15
    gaps = [measure(y, p) - measure(y, q) for y, p, q in resamples([outcome, a, b], draws, 3)]
    got = scores.paired_bootstrap(outcome, a, b, metric, draws=draws, seed=3)
    expected = (np.mean(gaps), *np.percentile(gaps, [2.5, 97.5]))
    assert got == pytest.approx(expected, rel=1e-9, abs=1e-11)
    alone = [measure(y, p) for y, p in resamples([outcome, a], draws, 3)]
    single = scores.bootstrap(outcome, a, metric, draws=draws, seed=3)
    expected = (measure(outcome, a), *np.percentile(alone, [2.5, 97.5]))
    assert single == pytest.approx(expected, rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("metric", ["mae", "auroc"])
def test_bootstrap_covers_the_truth_about_as_often_as_it_says(metric: str) -> None:
    inside, tries = 0, 150
    for seed in range(tries):
        random = np.random.default_rng(seed)
        if metric == "mae":
            truth = math.sqrt(2 / math.pi)
            outcome, predicted = random.normal(10, 1, 150), np.full(150, 10.0)
        else:
            truth = norm.cdf(1 / math.sqrt(2))
            outcome = (random.random(150) < 0.4).astype(float)
            predicted = norm.cdf(random.normal(outcome, 1))
        found = scores.bootstrap(outcome, predicted, metric, draws=200, seed=seed)
        inside += found.low <= truth <= found.high
    # 95 % of 150 with four standard errors on either side.
    assert 0.88 <= inside / tries <= 1.0


def test_paired_interval_of_equal_models_is_zero_and_level() -> None:
    actual, a, _ = shop(100)
    for metric in VALUE_WITH_INTERVAL:
        if metric != "bias":
            found = scores.paired_bootstrap(actual, a, a, metric, draws=10)
            assert found == (0, 0, 0)
            assert scores.verdict(metric, found) == "level"


def test_pairing_narrows_the_interval() -> None:
    actual, a, _ = shop(400, ties=False)
    slightly_worse = a + np.where(np.arange(400) % 2, 1.0, -0.5)
    paired = scores.paired_bootstrap(actual, a, slightly_worse, "mae", draws=200)
    alone = scores.bootstrap(actual, a, "mae", draws=200)
    assert paired.high - paired.low < 0.2 * (alone.high - alone.low)


def test_undefined_resamples_are_left_out() -> None:
    churned, probability = [1, 0, 0], [0.9, 0.5, 0.1]
    found = scores.bootstrap(churned, probability, "auroc", draws=50)
    assert found == (1, 1, 1)
    nothing = scores.bootstrap([0, 0, 0], probability, "auroc", draws=50)
    assert all(math.isnan(number) for number in nothing)
    gap = scores.paired_bootstrap([0, 0, 0], probability, probability, "auroc", draws=5)
    assert scores.verdict("auroc", gap) == "level"


# ---- directions, tables ------------------------------------------------------------------------


def test_every_metric_but_bias_base_rate_and_n_has_a_direction() -> None:
    names = {*scores.VALUE_METRICS, *scores.CHURN_METRICS, "abs_bias"} - {"bias", "base_rate"}
    assert set(scores.LOWER_IS_BETTER) == names


@pytest.mark.parametrize("metric", sorted(scores.LOWER_IS_BETTER))
def test_direction_says_that_the_truth_beats_a_guess(metric: str) -> None:
    make = churn if metric in scores.CHURN_METRICS else shop
    outcome, _, guess = make(200)
    gap = literal(metric)(outcome, outcome) - literal(metric)(outcome, guess)
    assert scores.better(metric, gap)
    assert not scores.better(metric, -gap)
    assert not scores.better(metric, math.nan)


@pytest.mark.parametrize(
    ("metric", "low", "high", "expected"),
    [
        ("mae", -2, -1, "better"),
        ("mae", 1, 2, "worse"),
        ("mae", -1, 2, "level"),
        ("mae", -1, 0, "level"),
        ("auroc", 0.1, 0.2, "better"),
        ("auroc", -0.2, -0.1, "worse"),
        ("auroc", math.nan, math.nan, "level"),
    ],
)
def test_verdict(metric: str, low: float, high: float, expected: str) -> None:
    assert scores.verdict(metric, Difference((low + high) / 2, low, high)) == expected


def test_leaderboard_has_a_row_per_model_in_the_order_given() -> None:
    actual, a, b = shop(80)
    churned, p, _ = churn(80)
    board = leaderboard.leaderboard(actual, {"z": a, "b": b}, churned, {"z": p, "only churn": p})
    assert list(board.index) == ["z", "b", "only churn"]
    assert list(board.columns) == ["n", *scores.VALUE_METRICS, *scores.CHURN_METRICS]
    assert board.loc["z"].to_dict() == {
        **scores.value_metrics(actual, a),
        **scores.churn_metrics(churned, p),
    }
    assert board.loc["b", list(scores.CHURN_METRICS)].isna().all()
    assert board.loc["only churn", list(scores.VALUE_METRICS)].isna().all()
    assert list(leaderboard.leaderboard(actual, {"b": b}).columns) == ["n", *scores.VALUE_METRICS]


def test_compare_gives_the_same_figures_as_one_question_at_a_time() -> None:
    actual, a, b = shop(80)
    table = leaderboard.compare(
        actual, {"b": b, "ours": a, "flat": b * 0 + 9}, "ours", draws=30, seed=5
    )
    assert list(table["model"]) == ["b", "flat"] * len(scores.COMPARED)
    assert list(dict.fromkeys(table["metric"])) == list(scores.COMPARED)
    for row in table[table["model"] == "b"].itertuples():
        alone = scores.paired_bootstrap(actual, a, b, row.metric, draws=30, seed=5)
        assert (row.difference, row.low, row.high) == alone
        assert row.ours == scores.bootstrap(actual, a, row.metric, draws=1).value
        assert row.theirs == scores.bootstrap(actual, b, row.metric, draws=1).value
        assert row.verdict == scores.verdict(row.metric, alone)


def test_compare_takes_churn() -> None:
    churned, p, q = churn(80)
    table = leaderboard.compare(churned, {"ours": p, "q": q}, "ours", metrics=["brier"], draws=10)
    assert table["ours"][0] == pytest.approx(brier_score_loss(churned, p))


def test_tables_behind_the_charts_equal_naive_ones() -> None:
    actual, a, _ = shop(57)
    ranked = np.array(naive_ranked(actual, a, 10)).reshape(10, 57, 2).mean(axis=1)
    table = scores.decile_table(actual, a)
    assert list(table["decile"]) == list(range(1, 11))
    np.testing.assert_allclose(table[["predicted", "actual"]], ranked, rtol=1e-9, atol=1e-9)
    churned, p, _ = churn(57)
    bins = np.array([9 - naive_bin(p, own) for own in p])
    expected = [
        [np.sum(bins == k), p[bins == k].mean(), churned[bins == k].mean()] for k in np.unique(bins)
    ]
    np.testing.assert_allclose(scores.reliability_table(churned, p), expected, rtol=1e-12)
    customers, value = scores.gain_points(actual, a)
    ranked = np.array(naive_ranked(actual, a, 1))
    running = np.append(0, np.cumsum(ranked[:, 1])) / actual.sum()
    np.testing.assert_allclose(np.interp(np.arange(58) / 57, customers, value), running, atol=1e-12)
    assert (customers[0], value[0], customers[-1], value[-1]) == (0, 0, 1, 1)


def test_ece_bins_hold_a_tenth_each_without_ties() -> None:
    churned, p, _ = churn(200, ties=False)
    assert scores.reliability_table(churned, p)["n"].tolist() == [20] * 10


# ---- text --------------------------------------------------------------------------------------


def test_table_as_text() -> None:
    frame = pd.DataFrame(
        {
            "n": [25000, 7],
            "mae": [31.956, 132.5],
            "gini": [0.7195, math.nan],
            "good": ["yes", "no"],
        },
        index=pd.Index(["ours", "Pareto/NBD"], name="model"),
    )
    assert leaderboard.format_table(frame).split("\n") == [
        "model            n     mae    gini  good",
        "ours        25,000   31.96  0.7195  yes",
        "Pareto/NBD       7  132.50       -  no",
    ]


def test_wide_table_is_cut_into_blocks_that_repeat_the_first_column() -> None:
    actual, a, b = shop(80)
    churned, p, q = churn(80)
    board = leaderboard.leaderboard(actual, {"ours": a, "x": b}, churned, {"ours": p, "x": q})
    text = leaderboard.format_table(board, width=80)
    blocks = text.split("\n\n")
    assert len(blocks) > 1
    assert max(len(line) for line in text.split("\n")) <= 80
    heads = [block.split("\n")[0].split() for block in blocks]
    assert all(head[0] == "model" for head in heads)
    assert [name for head in heads for name in head[1:]] == list(board.columns)
    assert all(len(block.split("\n")) == 3 for block in blocks)


def test_text_cannot_break_the_table() -> None:
    frame = pd.DataFrame({"a": ["x\ny\tz", "w" * 500], "b": [True, False], "c": [None, 1e9]})
    lines = leaderboard.format_table(frame).split("\n")
    assert len(lines) == 3
    assert max(map(len, lines)) <= 96
    assert lines[1].split() == ["x", "y", "z", "True", "-"]
    assert lines[2].split() == ["w" * 40, "False", "1,000,000,000"]
    assert leaderboard.format_table(pd.DataFrame()) == ""
    assert leaderboard.format_table(frame[:0]).split() == ["a", "b", "c"]


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: scores.value_metrics([1, 2], [1, 2, 3]), "equally long. Got 2, 3"),
        (lambda: scores.value_metrics([], []), "at least one customer"),
        (lambda: scores.value_metrics([[1]], [[1]]), r"shape \(1, 1\)"),
        (lambda: scores.value_metrics([1, math.nan], [1, 2]), "finite numbers. Got nan in row 1"),
        (lambda: scores.value_metrics([1, 2], [math.inf, 2]), "predictions must be finite"),
        (lambda: scores.value_metrics([1, 2], ["1", "much"]), "must be numbers.*much"),
        (lambda: scores.churn_metrics([0, 2], [0.1, 0.2]), "0 or 1. Got 2.0 in row 1"),
        (lambda: scores.churn_metrics([0, 1], [0.1, 1.2]), "0 to 1. Got 1.2 in row 1"),
        (lambda: scores.bootstrap([0, 1], [0.1, 0.2], "r2"), "one of mae.*Got 'r2'"),
        (lambda: scores.bootstrap([0, 1], [0.1, 0.2], "mae", draws=0), "at least 1. Got 0"),
        (lambda: scores.better("bias", 1), "must have a direction.*Got 'bias'"),
        (lambda: leaderboard.compare([1], {"a": [1]}, "b"), "among a. Got 'b'"),
    ],
)
def test_refusals_say_what_came(call: Callable[[], object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()
