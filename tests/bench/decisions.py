"""What the decisions about campaigns and budgets reach: known effects, known truth, and speed."""

from __future__ import annotations

import os
import tempfile
import time
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd

from features import campaigns as tables_of_campaigns
from features import tables
from features.settings import Settings, parse
from features.simulate import shop
from features.store import Store
from serving.decisions import budget, campaigns, effects, uplift

SHOPS = 13
CUSTOMERS = 1_500


def hillstrom() -> None:
    """K. Hillstrom's e-mail test: two mails against none, spend in two weeks per head."""
    place = Path(os.environ.get("CLV_DATA", "")) / "hillstrom.parquet"
    if not place.is_file():
        print("CLV_DATA names no folder with hillstrom.parquet: passed over")
        return
    found = effects.measure(
        pd.read_parquet(place), arm="segment", control="No E-Mail", outcome="spend",
        before=["history", "recency"], share=1 / 3,
    )  # fmt: skip
    for one, wanted in zip(found.plain, (0.770, 0.424), strict=True):
        print(
            f"{one.arm}: {one.effect:+.3f} ({one.low:+.3f} to {one.high:+.3f}), wanted "
            f"{wanted:+.3f}"
        )
    print(f"sample ratio p {found.ratio_p:.2f}, warnings {found.warnings}")


def _ingested(seed: int, customers: int) -> tuple[Store, dict[str, pd.DataFrame], Settings]:
    made = shop(customers, 4.5, seed)
    settings = parse(tomllib.loads(made.settings))
    wanted = ("orders", "customers", "rates", "aliases", "contacts")
    found = {name: made.tables[name] for name in wanted}
    store = Store.of(tables.ingest(found, settings, Path(tempfile.mkdtemp())))
    return store, found | {"truth": made.truth["campaigns"]}, settings


def known_effects() -> None:
    """Extra orders of simulated campaigns in nominal 80 % intervals, plain and adjusted."""
    inside, kept, n = np.zeros(2), 0.0, 0
    for seed in range(SHOPS):
        store, found, settings = _ingested(seed, CUSTOMERS)
        truth = found.pop("truth")
        told = tables_of_campaigns.contacts(found, settings)
        for name, part in truth.groupby("campaign_id"):
            if part["contacted"].sum() < 100:
                continue
            made = campaigns.measured(store, told, str(name), days=29, outcome="orders", level=0.8)
            known = np.average(part["extra_orders"], weights=part["contacted"])
            for k, one in enumerate((made.plain[0], made.adjusted[0])):
                inside[k] += one.low <= known <= one.high
            kept += made.adjusted[0].variance
            n += 1
    print(
        f"{n} campaigns: {inside[0] / n:.1%} plain, {inside[1] / n:.1%} adjusted of 80 % intervals "
        f"hold the truth (wanted 75 to 85 %); variance left after CUPED {kept / n:.1%}"
    )


def a_a() -> None:
    """Two arms that were treated alike: how often a difference is called one."""
    rng, rejected = np.random.default_rng(0), 0
    for _ in range(1_000):
        spend, arms = rng.gamma(0.4, 50.0, 2_000), rng.random(2_000) < 0.4
        rejected += effects.compare(spend[arms], spend[~arms]).p < 0.05
    print(f"{rejected / 1_000:.1%} of 1,000 rejected (wanted 3 to 7 %)")


def uplift_shop() -> None:
    """One campaign of a large shop, whose channels answer differently by construction."""
    store, found, settings = _ingested(0, 40_000)
    truth = found.pop("truth")
    told = tables_of_campaigns.contacts(found, settings)
    name = sorted(truth["campaign_id"].unique())[-2]
    model = uplift.of_campaign(
        store, told.of(name), settings, campaign=name, days=29, outcome="orders"
    )
    slope, low, high = model.slope
    print(
        f"{model.customers:,} customers: Qini {model.qini:+.5f}, AUUC {model.auuc:+.5f}, slope "
        f"{slope:.2f} ({low:.2f} to {high:.2f})"
    )


def plan() -> None:
    """A budget over 50 channels x segments, exact to the cent."""
    rng = np.random.default_rng(0)
    many = [
        budget.Response(f"c{i}", float(rng.uniform(5, 60)), float(rng.uniform(0.2, 0.95)), 0.1)
        for i in range(50)
    ]
    start = time.perf_counter()
    made = budget.plan(many, 50_000.0)
    print(f"{time.perf_counter() - start:.2f} s, gain {made.gain:,.2f} (wanted under 2 s)")
