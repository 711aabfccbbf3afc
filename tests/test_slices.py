"""Metrics by slice against the metrics of literally selected customers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from outcomes import churn, shop

from features.errors import InputError
from training import metrics, scores
from training.slices import OTHER, UNKNOWN, by_slice, out_of_band, standard_slices

Four = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def base(n: int, seed: int = 0) -> Four:
    actual, predicted, _ = shop(n, seed)
    churned, probability, _ = churn(n, seed)
    return actual, predicted, churned, probability


def test_each_row_is_the_metrics_of_the_selected_customers() -> None:
    given = base(900)
    label = np.random.default_rng(1).choice(["b", "a", "c"], 900, p=[0.5, 0.4, 0.1])
    frame = by_slice(*given, {"channel": label}, least=1, draws=15, seed=4)
    assert list(zip(frame["slice"], frame["level"], strict=True)) == [
        ("channel", level) for level in ("a", "b", "c")
    ]
    for row in frame.to_dict("records"):
        actual, predicted, churned, probability = (x[label == row["level"]] for x in given)
        wanted = metrics.value_metrics(actual, predicted)
        wanted |= metrics.churn_metrics(churned, probability)
        assert {name: row[name] for name in wanted} == wanted
        for name in ("mae", "normalised_gini", "bias", "auroc", "brier", "ece"):
            pair = (churned, probability) if metrics.is_churn([name]) else (actual, predicted)
            alone = scores.bootstrap(*pair, name, draws=15, seed=4)
            assert (row[f"{name}_low"], row[f"{name}_high"]) == alone[1:]
    assert frame["n"].sum() == 900


def test_small_slices_show_their_number_and_nothing_else() -> None:
    label = np.array(["few"] * 99 + ["many"] * 100)
    frame = by_slice(*base(199), {"s": label}, draws=5).set_index("level")
    assert frame["n"].to_dict() == {"few": 99, "many": 100}
    assert frame["small"].to_dict() == {"few": True, "many": False}
    measured = frame.drop(columns=["slice", "n", "small"])
    assert measured.loc["few"].isna().all()
    assert measured.loc["many"].notna().all()


def test_rare_levels_become_other_and_missing_ones_unknown() -> None:
    # 20 levels: s00 to s09 four times, the others three times; ties go by name.
    names = [f"s{k:02d}" for k in range(20)] * 3 + [f"s{k:02d}" for k in range(10)]
    label = np.array([*names, None, math.nan, pd.NA, None, None], object)
    frame = by_slice(*base(75), {"s": label}, least=100, draws=2)
    assert list(frame["level"]) == [*[f"s{k:02d}" for k in range(15)], UNKNOWN, OTHER]
    assert frame["n"].tolist() == [4] * 10 + [3] * 5 + [5, 15]
    taken = by_slice(*base(4), {"s": ["other", "a", "z", "z"]}, least=100, draws=2)
    assert list(taken["level"]) == ["a", "z", OTHER]


def test_no_figure_depends_on_the_order_of_rows() -> None:
    given, label = base(400), np.random.default_rng(0).choice(["a", "b"], 400)
    first = None
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(400)
        shuffled = (x[order] for x in given)
        frame = by_slice(*shuffled, {"s": label[order]}, draws=10)
        got = frame.drop(columns=["slice", "level"]).to_numpy(np.float64).tobytes()
        first = first or got
        assert got == first


def test_what_is_undefined_in_a_slice_is_nan_and_no_fault() -> None:
    actual, predicted, churned, probability = base(300)
    label = np.where(np.arange(300) < 150, "dead", "alive")
    actual[:150], churned[:150] = 0, 1
    row = by_slice(actual, predicted, churned, probability, {"s": label}, draws=5).iloc[1]
    assert row["level"] == "dead"
    assert row[["bias", "bias_low", "auroc", "auroc_high"]].isna().all()
    assert row[["mae", "mae_low", "brier", "ece_high"]].notna().all()


def test_standard_slices() -> None:
    random = np.random.default_rng(3)
    n = 1000
    predicted = random.permutation(n) * 1.5
    orders = random.integers(0, 4, n)
    days = np.datetime64("2021-02-10") + random.integers(0, 500, n)
    days[7] = np.datetime64("NaT")
    given = standard_slices(predicted, orders, days, {"country": ["AT", None] * 500})
    assert list(given) == ["all", "orders", "cohort", "decile", "country"]
    assert set(given["all"]) == {"customers"}
    assert list(given["orders"]) == [{0: "0", 1: "1"}.get(k, "2+") for k in orders]
    for label, day in zip(given["cohort"], days, strict=True):
        stamp = pd.Timestamp(day)
        assert label == (UNKNOWN if np.isnat(day) else f"{stamp.year}Q{(stamp.month + 2) // 3}")
    tenth = pd.qcut(-predicted, 10, labels=[f"{k:02d}" for k in range(1, 11)])
    assert list(given["decile"]) == list(tenth)
    assert list(given["country"][:2]) == ["AT", UNKNOWN]
    frame = by_slice(*base(n), given, draws=2)
    assert frame.groupby("slice")["n"].sum().eq(n).all()


def test_a_slice_out_of_band_is_named_and_noise_is_not() -> None:
    random = np.random.default_rng(5)
    n = 4_000
    expected = random.gamma(1, 50, n)
    actual = expected * random.gamma(0.3, 1 / 0.3, n)
    churned, probability = churn(n)[:2]
    label = random.choice(["web", "app", "shop"], n)
    predicted = np.where(label == "app", 1.6, np.where(label == "shop", 1.2, 1.0)) * expected
    frame = by_slice(actual, predicted, churned, probability, {"channel": label}, draws=100)
    (warning,) = out_of_band(frame)
    assert warning.startswith("channel app: predicted total +")
    assert f"{(label == 'app').sum():,} customers), allowed are 25%" in warning
    (down,) = out_of_band(by_slice(actual, 0.4 * expected, churned, probability, {"all": ["x"] * n},
                                   draws=50))  # fmt: skip
    assert "total -6" in down
    # Forty-eight slices of a sound model with heavy tails: the point leaves the band often, the
    # interval hardly ever.
    many = random.integers(0, 16, n).astype(str)
    frames = [
        by_slice(actual[order], expected[order], churned, probability, {"s": many}, draws=100)
        for order in (random.permutation(n) for _ in range(3))
    ]
    points = sum((abs(frame["bias"]) > 0.1).sum() for frame in frames)
    shouts = sum(len(out_of_band(frame, 0.1)) for frame in frames)
    assert points >= 10
    assert shouts <= 3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: by_slice(*base(9), {}), "at least one name"),
        (lambda: by_slice(*base(9), {"s": ["a"] * 9}, least=0), "Got 1 and 0"),
        (lambda: by_slice(*base(9), {"s": ["a"] * 8}), "slice 's' must be equally long.*8 rows"),
        (lambda: by_slice(*base(9), {"s": ["a"] * 9}, 1, intervals=["r2"]), "Got 'r2'"),
        (lambda: by_slice(*base(9), {"s": ["a"] * 9}, 1, draws=0), "at least 1. Got 0"),
        (lambda: standard_slices([1], [1], ["2024"]), "must be dates"),
        (lambda: standard_slices([1], [1, 2], np.array(["2024"], "M8[D]")), "Got 1, 2, 1 rows"),
        (lambda: out_of_band(pd.DataFrame({"a": [1]})), "bias_low.*and a"),
        (lambda: out_of_band(by_slice(*base(9), {"s": ["a"] * 9}), 0), "Got 0 and"),
    ],
)
def test_refusals_say_what_came(call: Callable[[], object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()
