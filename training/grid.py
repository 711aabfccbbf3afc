"""The grid of value and churn: four segments whose names say what to do.

                      likely to stay     likely to leave
    worth much        Keep close         Win over
    worth less        Grow               Let rest

A customer's worth is the value that they have if they order again, so that it does not count their
churn twice: worth = (clv + retention cost) / (1 - churn), all of the same months. Where the lines
run is found once, at training, and travels with the model: a customer's segment follows from their
own row alone, in a batch as for one customer, and a move from one segment to another is theirs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.settings import Segments
from training.predictions import Predictions

__all__ = ["GROW", "KEEP", "NAMES", "PROSPECT", "REST", "WIN", "Grid", "worth"]

Floats = npt.NDArray[np.float64]
KEEP, WIN, GROW, REST = "Keep close", "Win over", "Grow", "Let rest"
PROSPECT: Final = "Prospect"  # who has not ordered yet lies outside the grid
NAMES: Final = (KEEP, WIN, GROW, REST, PROSPECT)
LEAST_STAY: Final = 1e-6


def worth(clv: Floats, retention_cost: Floats | float, churn: Floats) -> Floats:
    """Value of each customer if they order again, (rows,), before the cost to keep; at least 0."""
    return np.asarray(np.maximum(clv + retention_cost, 0.0) / np.maximum(1.0 - churn, LEAST_STAY))


@dataclass(frozen=True)
class Grid:
    """Where the lines run: from `value` on a customer is worth much, from `churn` on they leave."""

    months: int  # of value and churn
    value: float  # currency, of a customer who orders again
    churn: float

    @classmethod
    def fit(cls, found: Predictions, months: int, chosen: Segments) -> Grid:
        """Lines as they are set, or such that the set share of these customers is worth much.

        `found` are predictions of at least one customer.
        """
        value = chosen.value
        if value is None:
            value = top(cls._of(found, months)[0], chosen.valuable)
        return cls(months, value, chosen.churn)

    def names(self, worths: Floats, churn: Floats) -> npt.NDArray[np.object_]:
        """The segment of each customer, (rows,)."""
        stays = np.where(worths >= self.value, KEEP, GROW)
        leaves = np.where(worths >= self.value, WIN, REST)
        return np.asarray(np.where(churn < self.churn, stays, leaves), object)

    def of(self, found: Predictions) -> npt.NDArray[np.object_]:
        """The segment of each customer, (rows,), whatever horizons were asked for."""
        return self.names(*self._of(found, self.months))

    @staticmethod
    def _of(found: Predictions, months: int) -> tuple[Floats, Floats]:
        churn = found.churn_by(months)
        return worth(found.clv(months), found.flow.retention_cost(months), churn), churn

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the model card."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Grid:
        """The inverse of `as_dict`."""
        return cls(raw["months"], raw["value"], raw["churn"])


def top(values: Floats, share: float) -> float:
    """The value from which on the `share` highest lie; more of them where several are equal."""
    ranked = np.sort(values)
    return float(ranked[len(ranked) - min(max(math.ceil(share * len(ranked)), 1), len(ranked))])
