"""What a table of events is worth: out of time, with it, without it, and with a noisy one."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from features import tables
from features.reading import find_settings, with_horizons
from features.settings import Settings
from features.simulate import shop
from features.spine import instant
from features.store import Store
from training import leaderboard
from training.backtest import OURS, backtest

CUTOFF = "2025-07-01"  # a year before the shop's history ends


@dataclass(frozen=True)
class Answers:
    """Our model's predictions of one backtest, and what happened."""

    actual: npt.NDArray[np.float64]
    churned: npt.NDArray[np.float64]
    value: npt.NDArray[np.float64]
    churn: npt.NDArray[np.float64]


def shuffled(events: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The same events, each customer's given to another: as many, and they tell nothing."""
    ids = np.sort(events["customer_id"].unique())
    other = np.random.default_rng(seed).permutation(ids)
    return events.assign(customer_id=events["customer_id"].map(dict(zip(ids, other, strict=True))))


def judged(data: Mapping[str, pd.DataFrame], settings: Settings) -> Answers:
    """Our model, fitted before `CUTOFF` on these tables, 12 months ahead."""
    with tempfile.TemporaryDirectory() as work:
        store = Store.of(tables.ingest(data, settings, Path(work)))
        test = backtest(store, instant(CUTOFF, "UTC"), 12, settings, workers=2)
    return Answers(test.actual, test.churned, test.values[OURS], test.churn[OURS])


def settings_of(text: str) -> Settings:
    """The simulated shop's own settings, one horizon."""
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "clv.toml").write_text(text)
        return with_horizons(find_settings(place), [12])


def three(customers: int, years: float, seed: int, draws: int = 500) -> pd.DataFrame:
    """Paired differences: events against none, and noise against none.

    Columns of `training.leaderboard.compare`, and ``table``: "events" or "noise".
    """
    made = shop(customers, years, seed)
    wanted = {name: made.tables[name] for name in ("orders", "customers", "rates", "aliases")}
    settings = settings_of(made.settings)
    settings = replace(settings, model=replace(settings.model, origins=6))
    without = judged(wanted, settings)
    parts = []
    for name, events in (
        ("events", made.tables["events"]),
        ("noise", shuffled(made.tables["events"])),
    ):
        own = judged({**wanted, "events": events}, settings)
        value = {name: own.value, "none": without.value}
        churn = {name: own.churn, "none": without.churn}
        found = [
            leaderboard.compare(
                own.actual, value, name, metrics=("normalised_gini", "mae"), draws=draws
            ),
            leaderboard.compare(own.churned, churn, name, metrics=("auroc", "brier"), draws=draws),
        ]
        parts.append(pd.concat(found, ignore_index=True).assign(table=name))
    return pd.concat(parts, ignore_index=True)


def worth() -> None:
    """With events, without, and with events of somebody else, on simulated shops."""
    for seed in (0, 1, 2):
        print(f"seed {seed}")
        found = three(4_000, 4.5, seed)
        told = ["table", "metric", "ours", "theirs", "difference", "low", "high", "verdict"]
        print(leaderboard.format_table(found[told].round(4)))
    print("wanted: better in all with events, nowhere worse with noise")
