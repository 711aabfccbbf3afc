"""Baselines: models like any other, fitted on the same rows and judged by the same code.

All of them see the training rows (features and ripe labels before the cutoff) and the histories
at the cutoff, and answer value and churn for any horizon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.behaviour import Rows
from training.anchor import History
from training.btyd import BGNBD, GammaGamma, ParetoNBD
from training.samples import Samples
from training.season import weeks_ahead

__all__ = ["BASELINES", "Answer", "Evidence", "fit_all"]

Floats = npt.NDArray[np.float64]
BINS: Final = 10


@dataclass(frozen=True)
class Evidence:
    """What a baseline may learn from: rows at the moment of training, and samples before it."""

    rows: Rows
    samples: Samples
    names: Sequence[str]  # of the samples' features
    cutoff: int
    zone: str

    def column(self, name: str) -> Floats:
        """A feature of the training samples, (samples,)."""
        return np.asarray(self.samples.features[:, list(self.names).index(name)])

    @property
    def longest(self) -> npt.NDArray[np.bool_]:
        """Samples of the longest label."""
        return np.asarray(self.samples.months == self.samples.months.max())


@dataclass(frozen=True)
class Answer:
    """Gross value (currency) and chance of no order within the horizon, (rows,) each."""

    gross: Floats
    churn: Floats


Baseline = Callable[[Evidence], Callable[[Rows, int], Answer]]


def average(evidence: Evidence) -> Callable[[Rows, int], Answer]:
    """Everybody is worth the mean: mean label, per month, times the months."""
    here = evidence.longest
    length = float(evidence.samples.months.max())
    monthly = float(evidence.samples.gross[here].mean()) / length
    # The chance of an order grows with the horizon as if months were alike.
    stay = float(np.clip(evidence.samples.churned[here].mean(), 1e-6, 1.0)) ** (1.0 / length)

    def answer(rows: Rows, months: int) -> Answer:
        n = len(rows)
        return Answer(np.full(n, monthly * months), np.full(n, stay**months))

    return answer


def last_year(evidence: Evidence) -> Callable[[Rows, int], Answer]:
    """The last 365 days' spend again, scaled to the horizon so that totals fitted in training.

    Churn by days since the newest order, in ten groups.
    """
    spend, months = evidence.column("spend_365d"), evidence.samples.months / 12.0
    expected = float((spend * months).sum())
    factor = float(evidence.samples.gross.sum()) / expected if expected > 0 else 0.0
    since = evidence.column("days_since_order")
    edges = np.unique(np.quantile(since, np.linspace(0, 1, BINS + 1)[1:-1]))
    group = np.searchsorted(edges, since)
    size = np.bincount(group, minlength=len(edges) + 1)
    length = np.bincount(group, evidence.samples.months, len(edges) + 1) / np.maximum(size, 1)
    churned = np.bincount(group, evidence.samples.churned, len(edges) + 1) / np.maximum(size, 1)
    stay = np.clip(churned, 1e-6, 1.0) ** (1.0 / np.maximum(length, 1.0))

    def answer(rows: Rows, months: int) -> Answer:
        here = np.searchsorted(edges, rows.column("days_since_order"))
        gross = rows.column("spend_365d") * (factor * months / 12.0)
        return Answer(gross, stay[here] ** months)

    return answer


def retention_formula(evidence: Evidence) -> Callable[[Rows, int], Answer]:
    """Own mean month times the sum of the monthly retention rate's powers.

    The rate is the population's: the share that orders within the longest label, per month.
    """
    here = evidence.longest
    length = float(evidence.samples.months.max())
    active = float(np.clip(1.0 - evidence.samples.churned[here].mean(), 1e-6, 1 - 1e-6))
    rate = active ** (1.0 / length)

    def answer(rows: Rows, months: int) -> Answer:
        powers = float(np.sum(rate ** np.arange(1, months + 1)))
        return Answer(
            rows.column("spend_per_month") * powers, np.full(len(rows), 1.0 - rate**months)
        )

    return answer


def _buy_till_you_die(orders: type[BGNBD] | type[ParetoNBD], repeats_only: bool) -> Baseline:
    def fit(evidence: Evidence) -> Callable[[Rows, int], Answer]:
        history = History.of(evidence.rows)
        model = orders.fit(history.frequency, history.recency, history.age)
        n, mean = _purchases(evidence.rows, history, repeats_only)
        spend = GammaGamma.fit(n, mean) if (n > 0).any() else None

        def answer(rows: Rows, months: int) -> Answer:
            h = History.of(rows)
            key = (h.frequency, h.recency, h.age)
            t = weeks_ahead(evidence.cutoff, months, evidence.zone)
            each: Any = h.spend
            if spend:
                each = spend.expected_spend(*_purchases(rows, h, repeats_only))
            return Answer(model.expected_orders(*key, t) * each, model.p_no_order(*key, t))

        return answer

    return fit


def _purchases(rows: Rows, history: History, repeats_only: bool) -> tuple[Floats, Floats]:
    """Number and mean spend of the order days that gamma-gamma counts."""
    n = history.frequency + 1.0
    if not repeats_only:
        return n, history.spend
    rest = np.maximum(rows.column("spend") - rows.column("first_order_spend"), 0.0)
    return history.frequency, rest / np.maximum(history.frequency, 1.0)


BASELINES: Final[dict[str, Baseline]] = {
    "average": average,
    "last year scaled": last_year,
    "retention formula": retention_formula,
    "BG/NBD + gamma-gamma": _buy_till_you_die(BGNBD, repeats_only=True),
    "Pareto/NBD + gamma-gamma": _buy_till_you_die(ParetoNBD, repeats_only=False),
}


def fit_all(evidence: Evidence) -> dict[str, Callable[[Rows, int], Answer]]:
    """Every baseline, fitted."""
    return {name: fit(evidence) for name, fit in BASELINES.items()}
