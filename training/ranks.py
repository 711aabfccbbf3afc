"""Rows in the order of their predictions, and the sums over a resample that metrics share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "Floats",
    "Ints",
    "Outcomes",
    "Rows",
    "Sample",
    "Ties",
    "centred",
    "cumulated",
    "ties_of",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

# As scikit-learn clips: a sure and wrong answer costs 36, not infinity.
CLIP = float(np.finfo(np.float64).eps)


class Ties(NamedTuple):
    """Rows from the highest score to the lowest; rows of equal score make one step."""

    order: Ints  # the row at each place
    last: Ints  # the last place of each step
    step: Ints  # the step of each row


@dataclass(frozen=True)
class Rows:
    """Customers in canonical order with what the metrics share, worked out at most once."""

    actual: Floats
    predicted: Floats

    @cached_property
    def by_prediction(self) -> Ties:
        """Rows from the highest prediction to the lowest."""
        return ties_of(self.predicted)

    @cached_property
    def by_actual(self) -> Ties:
        """Rows from the highest outcome to the lowest."""
        return ties_of(self.actual)

    @cached_property
    def error(self) -> Floats:
        """Distance of each prediction from what came."""
        return np.abs(self.actual - self.predicted)

    @cached_property
    def squared(self) -> Floats:
        """Its square."""
        return self.error**2

    @cached_property
    def surprise(self) -> Floats:
        """-log of the probability given to what happened."""
        p = np.clip(self.predicted, CLIP, 1 - CLIP)
        return -np.log(np.where(self.actual > 0, p, 1 - p))


def ties_of(score: Floats) -> Ties:
    """Rows from the highest score to the lowest, equal scores in one step."""
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    step = np.empty(len(score), dtype=np.intp)
    step[order] = np.repeat(np.arange(len(last)), np.diff(last, prepend=-1))
    return Ties(order, last, step)


def cumulated(ties: Ties, amounts: Floats) -> Floats:
    """Sums of ``amounts`` after 0, 1, 2, ... steps, from the highest score downwards."""
    sums = np.empty(len(ties.last) + 1)
    sums[0] = 0.0
    np.take(np.cumsum(amounts[ties.order]), ties.last, out=sums[1:])
    return sums


def centred(place: Floats) -> Floats:
    """Twice (average rank - mean rank) of each step, highest positive: exact whole numbers."""
    found: Floats = place[-1] - place[:-1] - place[1:]
    return found


class Outcomes:
    """What came, with the weights of one resample: the same for every model judged on it."""

    def __init__(self, rows: Rows, weights: Floats) -> None:
        self.weights = weights
        self.total = float(weights.sum())
        self._rows = rows

    @cached_property
    def amounts(self) -> Floats:
        """Weighted outcome of each row."""
        return self.weights * self._rows.actual

    @cached_property
    def sum(self) -> float:
        """Sum of the weighted outcomes."""
        return float(self.amounts.sum())

    @cached_property
    def size(self) -> float:
        """Sum of their absolute values."""
        return float(np.abs(self.amounts).sum())

    @cached_property
    def _place(self) -> Floats:
        return cumulated(self._rows.by_actual, self.weights)

    @cached_property
    def perfect(self) -> float:
        """The area of the Gini of rows ranked by what came."""
        value = np.diff(cumulated(self._rows.by_actual, self.amounts))
        return float((value * centred(self._place)).sum())

    @cached_property
    def ranks(self) -> Floats:
        """Centred rank of each row by what came, times its weight."""
        return self.weights * centred(self._place)[self._rows.by_actual.step]

    @cached_property
    def spread(self) -> float:
        """Sum of squares of the centred ranks."""
        return float((np.diff(self._place) * centred(self._place) ** 2).sum())


class Sample:
    """The rows of one model in one resample; the sums that metrics share are made at most once."""

    def __init__(self, rows: Rows, outcomes: Outcomes) -> None:
        self.rows, self.outcomes = rows, outcomes

    @classmethod
    def whole(cls, rows: Rows) -> Sample:
        """Every row once."""
        return cls(rows, Outcomes(rows, np.ones(len(rows.actual))))

    @cached_property
    def place(self) -> Floats:
        """Customers after 0, 1, 2, ... steps, from the highest prediction downwards."""
        return cumulated(self.rows.by_prediction, self.outcomes.weights)

    @cached_property
    def gained(self) -> Floats:
        """Outcome after as many steps."""
        return cumulated(self.rows.by_prediction, self.outcomes.amounts)

    @cached_property
    def promised(self) -> Floats:
        """Prediction after as many steps."""
        return cumulated(self.rows.by_prediction, self.outcomes.weights * self.rows.predicted)

    def mean(self, amounts: Floats) -> float:
        """Weighted mean of one number per row."""
        return float((self.outcomes.weights * amounts).sum()) / self.outcomes.total
