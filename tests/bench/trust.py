"""Can the numbers be trusted: intervals of totals over many shops, coverage, a small base."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from features.reading import read, with_horizons
from features.settings import Settings, parse
from features.simulate import BENCH_AS_OF, bench, write
from features.spine import instant
from training.fitting import fit, rehearse
from training.intervals import total
from training.samples import gather

__all__ = ["small", "totals"]

MONTHS = 23  # the shop's 104 weeks ahead hold 23 whole months
SETTINGS = {"orders": {"complete_until": "2026-06-28"}}


@dataclass(frozen=True)
class _Shop:
    low: float
    value: float
    high: float
    actual: float
    seconds: float


def totals(shops: int = 100, customers: int = 2_000) -> None:
    """The interval of the base's total: does it hold in 80 of 100 shops, and how wide is it?"""
    found = [_one(customers, seed) for seed in range(shops)]
    held = sum(each.low <= each.actual <= each.high for each in found)
    ratio = np.log([each.actual / each.value for each in found])
    width = float(np.median([np.log(each.high / each.low) for each in found]))
    spread = float(np.quantile(ratio, 0.9) - np.quantile(ratio, 0.1))
    slow = max(each.seconds for each in found)
    print(
        f"{shops} shops of {customers:,} customers, {MONTHS} months: the 80 % interval of the "
        f"total held in {held} (wanted 70 to 90 of 100); median width {width:.3f} in logs, "
        f"{width / spread:.2f} times the 80 % spread over seeds of {spread:.3f} (wanted 3 at "
        f"most); slowest shop {slow:.1f} s (wanted 10)"
    )


def _settings() -> Settings:
    return with_horizons(parse(SETTINGS), [MONTHS])


def _one(customers: int, seed: int) -> _Shop:
    began = time.process_time()
    orders = bench(customers, seed).tables["orders"]
    cutoff = instant(str(pd.Timestamp(BENCH_AS_OF).date()), "UTC")
    settings = _settings()
    with read({"orders": orders}, settings) as (store, _):
        past = rehearse(store, cutoff, MONTHS, settings)
        fitted = fit(store, cutoff, MONTHS, settings, rehearsals=past)
        rows, labels = gather(store, fitted.catalogue, cutoff, "UTC", 1.0, range(1, MONTHS + 1))
    found = fitted.model.predict(rows, cutoff, [MONTHS])
    said = found.rehearsed(labels, cutoff, MONTHS, settings.business.margin)
    intervals = fitted.model.intervals
    assert intervals is not None
    spread = intervals.spread(said.value, said.orders, said.churn)
    whole = total(said.value, spread, intervals.shared(MONTHS))
    return _Shop(
        whole.low, whole.value, whole.high, float(said.actual.sum()), time.process_time() - began
    )


def small(customers: int = 5_000, seeds: int = 3) -> None:
    """A small base: distance to the known expectation, 24 months ahead."""
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "shop"
            made = bench(customers, seed)
            write(made, folder)
            truth = next(iter(made.truth.values())).set_index("customer_id")
            settings = with_horizons(Settings(), [24])
            cutoff = instant(str(pd.Timestamp(BENCH_AS_OF).date()), "UTC")
            with read(folder, settings) as (store, _):
                fitted = fit(store, cutoff, 24, settings, workers=2)
                rows, _ = gather(store, fitted.catalogue, cutoff, "UTC", 1.0, (), 2)
            gross = fitted.model.predict(rows, cutoff, [24]).gross[:, 23]
        expected = truth.loc[rows.ids[rows.who]]["expected_revenue"].to_numpy(float)
        print(
            f"{customers:,} customers, seed {seed}: distance to the expectation "
            f"{np.abs(gross - expected).mean() / expected.mean():.2%} of the mean value "
            f"(wanted 11 %), total {gross.sum() / expected.sum() - 1:+.1%}"
        )
