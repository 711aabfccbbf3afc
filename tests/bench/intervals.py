"""Do intervals hold out of time, is churn calibrated, and is ours better: three data sets."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pandas as pd

from features.reading import Data, read, with_horizons
from features.settings import Business, Settings, parse
from features.simulate import BENCH_AS_OF, bench
from features.spine import instant
from training import leaderboard
from training.backtest import PLAIN, Judgement, backtest
from training.baselines import BASELINES

__all__ = ["intervals"]

RIVALS = (*list(BASELINES)[-2:], PLAIN)  # buy-till-you-die, and boosting without an anchor
METRICS = ("normalised_gini", "rmse", "abs_bias")


def intervals() -> None:
    """CDNOW, the retail quarter and a benchmark shop, each at its own cutoff."""
    folder = os.environ.get("CLV_DATA")
    if folder:
        utc = Settings()
        _one("CDNOW, 9 months", Path(folder) / "cdnow.parquet", "1997-10-01", 9, utc, (7, 13))
        pounds = replace(utc, business=Business(currency="GBP", time_zone="Europe/London"))
        retail = Path(folder) / "online_retail_ii_quarter.parquet"
        _one("retail quarter, 12 months", retail, "2010-12-01", 12, pounds, (8, 12))
    else:
        print("passed over: CLV_DATA does not name the folder of the real data sets")
    made = bench(4_000, 0).tables
    known = {"orders": made["orders"], "customers": made["customers"]}
    covered = parse({"orders": {"complete_until": "2026-06-28"}})
    day = str(pd.Timestamp(BENCH_AS_OF).date())
    _one("benchmark shop of 4,000, 23 months", known, day, 23, covered, (8, 12))


def _one(
    name: str, data: Data, day: str, months: int, settings: Settings, band: tuple[int, int]
) -> None:
    settings = with_horizons(settings, [months])
    with read(data, settings) as (store, _):
        cutoff = instant(day, settings.business.time_zone)
        test = backtest(store, cutoff, months, settings, plain=True, workers=2)
    print(f"\n{name}: {len(test.actual):,} customers, cutoff {test.cutoff}")
    _coverage(test, band)
    told = test.calibration()
    before, after = (told[when]["ece"] for when in ("before", "after"))
    print(f"churn ECE {before:.4f} before calibration, {after:.4f} after (wanted .03 at most)")
    whole, real = test.total, float(test.said.actual.sum())
    print(f"total {whole.value:,.0f} ({whole.low:,.0f} to {whole.high:,.0f}), {real:,.0f} came")
    _differences(test)


def _coverage(test: Judgement, band: tuple[int, int]) -> None:
    shares = test.coverage().set_index("group")
    for group, label in (("all", "all customers"), ("decile 01", "top tenth")):
        row = shares.loc[group]
        print(
            f"{label}: {row['above']:.1%} of {row['n_above']:,.0f} above the 90 % point (wanted "
            f"{band[0]} to {band[1]} %), {row['below']:.1%} of {row['n_below']:,.0f} below the "
            f"10 % point (wanted 12 % at most), {row['inside']:.1%} inside"
        )


def _differences(test: Judgement) -> None:
    """Ours less theirs with the 95 % interval; the total's error in points of the real one."""
    found = test.differences
    kept = found[found["model"].isin(RIVALS) & found["metric"].isin(METRICS)]
    columns = ["metric", "model", "ours", "theirs", "difference", "low", "high", "verdict"]
    # Each metric in digits of its own.
    for _, part in kept[columns].groupby("metric", sort=False):
        print(leaderboard.format_table(part, 120))
    print("wanted: better in normalised_gini and rmse than both buy-till-you-die models; abs_bias "
          "at most .02 above plain boosting's")  # fmt: skip
