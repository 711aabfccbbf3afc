"""The leaderboard and its tables as text."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from outcomes import churn, shop
from sklearn.metrics import brier_score_loss

from features.errors import InputError
from training import leaderboard, metrics, scores


def test_no_comparison_depends_on_the_order_of_rows() -> None:
    actual, a, b = shop(300)
    first = None
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(300)
        models = {"a": a[order], "b": b[order]}
        got = repr(leaderboard.compare(actual[order], models, "a", draws=20).to_numpy().tolist())
        first = first or got
        assert got == first


def test_leaderboard_has_a_row_per_model_in_the_order_given() -> None:
    actual, a, b = shop(80)
    churned, p, _ = churn(80)
    board = leaderboard.leaderboard(actual, {"z": a, "b": b}, churned, {"z": p, "only churn": p})
    assert list(board.index) == ["z", "b", "only churn"]
    assert list(board.columns) == ["n", *metrics.VALUE_METRICS, *metrics.CHURN_METRICS]
    assert board.loc["z"].to_dict() == {
        **metrics.value_metrics(actual, a),
        **metrics.churn_metrics(churned, p),
    }
    assert board.loc["b", list(metrics.CHURN_METRICS)].isna().all()
    assert board.loc["only churn", list(metrics.VALUE_METRICS)].isna().all()
    assert list(leaderboard.leaderboard(actual, {"b": b}).columns) == ["n", *metrics.VALUE_METRICS]


def test_compare_gives_the_same_figures_as_one_question_at_a_time() -> None:
    actual, a, b = shop(80)
    table = leaderboard.compare(
        actual, {"b": b, "ours": a, "flat": b * 0 + 9}, "ours", draws=30, seed=5
    )
    assert list(table["model"]) == ["b", "flat"] * len(metrics.COMPARED)
    assert list(dict.fromkeys(table["metric"])) == list(metrics.COMPARED)
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


def test_our_model_must_be_among_them() -> None:
    with pytest.raises(InputError, match=r"among a\. Got 'b'"):
        leaderboard.compare([1], {"a": [1]}, "b")
