"""The population's answer: what is said of somebody of whom nothing at all is known.

Where there is no model of prospects, nobody can tell what people without an order come to. What
can be told is the average of the customers as they are predicted at the moment of training, with
an interval as wide as these customers differ and each of them is unsure. Sums and quantiles over
all of them are kept, and nothing of any one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.money import Cashflow
from features.settings import MAX_MONTHS
from training.intervals import Intervals
from training.margins import LEAST
from training.predictions import Predictions
from training.rehearsal import Rehearsal

__all__ = ["Population"]

Floats = npt.NDArray[np.float64]
#: Points of each customer's own distribution: the middles of twenty parts of equal chance.
POINTS: Final = (np.arange(20) + 0.5) / 20


@dataclass(frozen=True)
class Population:
    """Means of the customers' predictions at the moment of training; it holds no person's data."""

    gross: tuple[float, ...]  # cumulative at the end of months 1 to 24, currency
    orders: tuple[float, ...]  # likewise
    churn: tuple[float, ...]  # chance of no order by the end of months 1 to 24
    return_share: float
    pending: float  # refunds still expected on past orders, currency
    pace: float  # orders per month while active
    customers: int  # whose mean it is
    intervals: Intervals  # of one customer drawn at random
    margin: float | None = None  # share of revenue; none where it is the settings' for everybody

    @classmethod
    def of(cls, found: Predictions, cutoff: int) -> Population:
        """From predictions for all of 1 to 24 months, of at least one customer.

        Raises
        ------
        ValueError
            The predictions are of other months, or without intervals.
        """
        if found.months != tuple(range(1, MAX_MONTHS + 1)) or found.intervals is None:
            raise ValueError("a population needs predictions of every month, with intervals")
        net = _means(found.gross * (1.0 - found.return_share)[:, None])
        gross = _means(found.gross)
        share = 1.0 - net[-1] / gross[-1] if gross[-1] > 0 else 0.0
        pace = np.zeros(len(found.gross)) if found.pace is None else found.pace
        return cls(
            # What is left after returns is the customers' mean at every horizon.
            gross=tuple(each / (1.0 - share) for each in net),
            orders=_means(found.orders),
            churn=_means(found.churn),
            return_share=share,
            pending=_means(found.pending[:, None])[0],
            pace=_means(pace[:, None])[0],
            customers=len(found.gross),
            intervals=_spread(found, found.intervals, cutoff),
            margin=_margin(found),
        )

    def predict(self, months: Sequence[int], flow: Cashflow) -> Predictions:
        """One row, for any horizons of 1 to 24 months."""
        asked = tuple(sorted(set(months)))
        at = [h - 1 for h in asked]
        flow = flow if self.margin is None else replace(flow, margin=self.margin)
        gross, orders, churn = (np.array([each]) for each in (self.gross, self.orders, self.churn))
        return Predictions(
            months=asked, gross=gross, orders=orders[:, at], churn=churn[:, at],
            return_share=np.array([self.return_share]), pending=np.array([self.pending]),
            flow=flow, intervals=self.intervals, pace=np.array([self.pace]), silence=churn,
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the model card."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Population:
        """The inverse of `as_dict`."""
        series = {name: tuple(raw[name]) for name in ("gross", "orders", "churn")}
        return cls(**{**raw, **series, "intervals": Intervals.from_dict(raw["intervals"])})


def _means(columns: Floats) -> tuple[float, ...]:
    """Rounded once: the same in whatever order the customers stand."""
    return tuple(math.fsum(column.tolist()) / len(column) for column in columns.T)


def _margin(found: Predictions) -> float | None:
    """What all of the customers' revenue earns of itself; None where all earn one share."""
    if np.ndim(found.flow.margin) == 0:
        return None
    net = found.revenue(MAX_MONTHS)
    whole = math.fsum(net.tolist())
    earned = math.fsum((net * found.flow.margin).tolist())
    return min(max(earned / whole, LEAST), 1.0) if whole > 0 else None


def _spread(found: Predictions, own: Intervals, cutoff: int) -> Intervals:
    """Outcomes of all customers, each at every part of their own distribution, as one's."""
    months, at = own.months, own.months - 1
    value = found.value(months)
    orders, churn = (np.ascontiguousarray(each[:, at]) for each in (found.orders, found.churn))
    parts = [own.quantile(float(p), value, orders, churn, months) for p in POINTS]
    gone = np.concatenate([churn >= p for p in POINTS]).astype(np.float64)
    if gone.all():
        return own
    mean = [np.full(len(gone), _means(each[:, None])[0]) for each in (value, orders, churn)]
    drawn = Rehearsal(cutoff, months, mean[0], mean[1], mean[2], np.concatenate(parts), gone)
    one = Intervals.fit([drawn])
    return replace(one, common=own.common)
