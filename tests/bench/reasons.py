"""Reasons of every customer of CDNOW: how exactly they add up, and what they cost."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
from scipy.special import logit

from features.reading import read
from features.settings import Settings
from serving.reasons import column
from training.drivers import drivers
from training.fitting import fit
from training.reasons import explain, explain_churn
from training.samples import gather

MONTHS = 12


def cdnow() -> None:
    """A model of the whole history, explained at its end."""
    folder = os.environ.get("CLV_DATA")
    if not folder:
        print("passed over: CLV_DATA does not name the folder of cdnow.parquet")
        return
    settings = Settings()
    with read(Path(folder) / "cdnow.parquet", settings) as (store, _):
        model = fit(store, store.coverage_end, MONTHS, settings).model
        rows, _ = gather(store, model.catalogue, store.coverage_end, "UTC", 1.0)
        as_of = store.coverage_end
    found = model.predict(rows, as_of, [MONTHS])
    money = explain(model, rows, as_of, MONTHS)
    off = np.abs(money.total - found.columns()[f"clv_{MONTHS}m"]).max()
    print(f"{len(rows):,} customers, off by {off:.1e} at most (wanted 1e-06)")
    churn = explain_churn(model, rows, as_of, MONTHS)
    print(f"logit of churn off by {np.abs(churn.total - logit(found.churn[:, 0])).max():.1e}")
    some = rows.take(np.arange(len(rows)) < 10_000)
    for name, work in (
        ("reasons", lambda: explain(model, some, as_of, MONTHS)),
        ("the column with three of them", lambda: column(model, some, as_of, MONTHS, 3)),
        ("drivers", lambda: drivers(model, some, as_of, MONTHS)),
    ):
        began = time.process_time()
        work()
        print(f"{name} of {len(some):,} customers: {time.process_time() - began:.1f} CPU s "
              "(wanted 10)")  # fmt: skip
