"""Accuracy out of time on real and simulated data, beside the baselines."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from features.reading import find_settings, read, with_horizons
from features.settings import Business, Settings
from features.simulate import BENCH_AS_OF, bench, write
from features.spine import instant
from serving import words
from training import leaderboard, metrics
from training.backtest import OURS, Judgement, backtest
from training.fitting import fit
from training.samples import gather


def _data(name: str) -> Path | None:
    folder = os.environ.get("CLV_DATA")
    if not folder:
        print(f"passed over: CLV_DATA does not name the folder of {name}")
        return None
    return Path(folder) / name


def _show(test: Judgement) -> None:
    print(words.judged(test))
    compared = test.differences
    print(leaderboard.format_table(compared.set_index("metric").round(4)))


def cdnow() -> None:
    """The published 39 + 39 weeks: labels from before the cutoff only."""
    path = _data("cdnow.parquet")
    if path is None:
        return
    settings = with_horizons(Settings(), [9])
    with read(path, settings) as (store, _):
        test = backtest(store, instant("1997-10-01", "UTC"), 9, settings, workers=2)
    _show(test)
    print("wanted: normalised_gini >= .723, rmse <= 92.5, auroc >= .770, brier <= .163, "
          "mae <= 32.6 at |bias| <= .15")  # fmt: skip


def retail() -> None:
    """A gift wholesaler, raw as published: cutoff 2010-12-01, 12 months."""
    path = _data("online_retail_ii_quarter.parquet")
    if path is None:
        return
    settings = replace(Settings(), business=Business(currency="GBP", time_zone="Europe/London"))
    settings = with_horizons(settings, [12])
    with read(path, settings) as (store, found):
        print(found.format())
        cutoff = instant("2010-12-01", "Europe/London")
        test = backtest(store, cutoff, 12, settings, workers=2)
    _show(test)
    small = np.argsort(-test.actual)[5:]
    for name, values in test.values.items():
        whole = metrics.value_metrics(test.actual, values)["rmse"]
        rest = metrics.value_metrics(test.actual[small], values[small])["rmse"]
        print(f"rmse of {name}: {whole:.1f}, without the five largest customers {rest:.1f}")


def bench_shop(customers: int = 30_000, seed: int = 0) -> None:
    """Distance to the known expectation, 24 months ahead of 130 weeks."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "shop"
        made = bench(customers, seed)
        write(made, folder)
        truth = next(iter(made.truth.values())).set_index("customer_id")
        settings = with_horizons(find_settings(folder), [24])
        with read(folder, settings) as (store, _):
            cutoff = instant(str(pd.Timestamp(BENCH_AS_OF).date()), "UTC")
            fitted = fit(store, cutoff, 24, settings, workers=2)
            rows, labels = gather(store, fitted.catalogue, cutoff, "UTC", 1.0, [23], 2)
        found = fitted.model.predict(rows, cutoff, [23, 24])
    known = truth.loc[rows.ids[rows.who]]
    expected = known["expected_revenue"].to_numpy(float)
    actual = labels[23].net
    gross = found.gross[:, 23]
    ours = metrics.value_metrics(actual, gross)["normalised_gini"]
    own = metrics.value_metrics(actual, expected)["normalised_gini"]
    none = np.abs(found.churn[:, 1] - known["p_no_order"].to_numpy(float)).mean()
    print(f"{OURS}, {customers:,} customers: distance to the expectation "
          f"{np.abs(gross - expected).mean() / expected.mean():.2%} of the mean value (wanted 10 %)"
          f", total {gross.sum() / expected.sum() - 1:+.1%}, normalised Gini {ours:.4f} against the"
          f" truth's own {own:.4f} (wanted within .004), distance of churn {none:.4f}")  # fmt: skip
