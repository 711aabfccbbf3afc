"""All campaigns of the table contacts: how large, when, and what each has brought so far."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from features.campaigns import Contacts
from features.errors import InputError
from features.spine import DAY, text
from features.store import Store
from serving.decisions.campaigns import measured
from serving.decisions.effects import LEAST, Measured

__all__ = ["DAYS", "overview"]

DAYS: Final = (90, 60, 30)  # after the contact; the longest that the data cover is told


def overview(store: Store, contacts: Contacts, margin: float) -> list[dict[str, Any]]:
    """A row per campaign, the newest first, as ``clv measure --campaign`` would tell it.

    campaign, first and last (dates), treated, control, days (of the effect, None while too few
    have passed), then per treated customer effect, low, high and p, for all of them total,
    total_low, total_high, and cost and roi where the cost is known; ``reason`` says why there is no
    effect (``early``, ``few`` in an arm, or a sentence), ``warnings`` what speaks against it.
    """
    rows = []
    for campaign, some in contacts.frame.groupby("campaign_id", sort=True):
        begin, end = int(some["ts"].min()), int(some["ts"].max())
        arms = some.groupby("arm")["customer_id"].nunique()
        row: dict[str, Any] = {
            "campaign": str(campaign), "first": text(begin, store.zone)[:10],
            "last": text(end, store.zone)[:10], "treated": int(arms.get("treatment", 0)),
            "control": int(arms.get("control", 0)),
        }  # fmt: skip
        rows.append((-end, row | _effect(store, contacts, str(campaign), end, margin)))
    return [row for _, row in sorted(rows, key=lambda pair: (pair[0], pair[1]["campaign"]))]


def _effect(
    store: Store, contacts: Contacts, campaign: str, end: int, margin: float
) -> dict[str, Any]:
    passed = (store.coverage_end - end) // DAY
    days = next((each for each in DAYS if each <= passed), None)
    sizes = contacts.of(campaign).groupby("arm")["customer_id"].nunique()
    if len(sizes) < 2 or sizes.min() < LEAST:
        return {"days": None, "passed": int(passed), "reason": "few", "warnings": []}
    if days is None:
        return {"days": None, "passed": max(int(passed), 0), "reason": "early", "warnings": []}
    try:
        return _told(measured(store, contacts, campaign, days=days, margin=margin), days)
    except InputError as error:
        return {"days": None, "passed": int(passed), "reason": str(error), "warnings": []}


def _told(found: Measured, days: int) -> dict[str, Any]:
    one = found.best[0]
    total, low, high = one.total
    told = {
        "days": days, "reason": None, "effect": one.effect, "low": one.low, "high": one.high,
        "p": one.p, "level": one.level, "total": total, "total_low": low, "total_high": high,
        "cost": one.cost, "roi": one.roi and one.roi[0], "warnings": list(found.warnings),
    }  # fmt: skip
    return {
        name: None if isinstance(value, float) and np.isnan(value) else value
        for name, value in told.items()
    }
