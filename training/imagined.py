"""Customers imagined from an anchor's parameters: what it says of people, where none can be asked.

Where a history is too short to rehearse, intervals are read off these. They are as wide as
chance alone makes them when the parameters are right.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from training.anchor import Anchor, History
from training.rehearsal import Rehearsal

__all__ = ["imagined"]

Floats = npt.NDArray[np.float64]
AGES = (1.0, 104.0)  # weeks since the first order
MONTH = 365.2425 / 12 / 7  # weeks
BATCH = 4_000  # customers drawn at a time


def imagined(anchor: Anchor, months: int, buyers: int, seed: int) -> Rehearsal:
    """A rehearsal with at least `buyers` buyers among at most 100,000 imagined customers.

    Rates, lifetimes and spend are drawn as Pareto/NBD and gamma-gamma have them (Schmittlein,
    Morrison and Colombo 1987; Fader and Hardie 2013); money is margin at 1, not discounted.
    """
    rng = np.random.default_rng(seed)
    parts: list[Rehearsal] = []
    while len(parts) < 25 and sum(float((1 - p.churned).sum()) for p in parts) < buyers:
        parts.append(_drawn(anchor, months, rng))
    names = ("value", "orders", "churn", "actual", "churned")
    joined = [np.concatenate([getattr(p, name) for p in parts]) for name in names]
    return Rehearsal(0, months, *joined)


def _drawn(anchor: Anchor, months: int, rng: np.random.Generator) -> Rehearsal:
    orders, spend = anchor.orders, anchor.spend
    rate = rng.gamma(orders.r, 1 / orders.alpha, BATCH)
    life = rng.exponential(1.0, BATCH) / rng.gamma(orders.s, 1 / orders.beta, BATCH)
    age = rng.uniform(*AGES, BATCH)
    ahead = months * MONTH
    before = rng.poisson(rate * np.minimum(life, age))
    after = rng.poisson(rate * np.clip(life - age, 0.0, ahead))
    # The newest of n events that fall evenly on a stretch lies at its n-th root of chance.
    newest = np.minimum(life, age) * rng.random(BATCH) ** (1 / np.maximum(before, 1))
    scale = rng.gamma(spend.q, 1 / spend.gamma, BATCH)
    paid = rng.gamma(spend.p * (before + 1), 1.0) / scale / (before + 1)
    comes = np.where(after > 0, rng.gamma(spend.p * np.maximum(after, 1), 1.0) / scale, 0.0)
    history = History(before.astype(np.float64), np.where(before > 0, newest, 0.0), age, paid)
    found = anchor.forecast(history, [ahead])
    return Rehearsal(
        0, months, found.value[:, 0], found.order_days[:, 0], found.no_order[:, 0], comes,
        (after == 0).astype(np.float64),
    )  # fmt: skip
