"""Ranking by what an uplift model said of customers, without the model and its trees.

What it said is small enough to be kept, so that a list is ranked by it at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from serving.decisions.targets import Gain

__all__ = ["Said"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Said:
    """What a model says of some customers, and all that a ranking by it needs.

    ``away`` (customers,) is what the trees say less their centre, NaN of who has no order yet; the
    rest is that of `serving.decisions.uplift.Uplift`.
    """

    away: Floats
    line: tuple[float, float]
    covariance: tuple[tuple[float, float], tuple[float, float]]
    telling: bool
    campaign: str
    days: int

    @classmethod
    def of(cls, away: Floats, told: Mapping[str, Any]) -> Said:
        """From `away` and what `as_dict` gave."""
        (a, b), (c, d) = told["covariance"]
        one, two = told["line"]
        return cls(away, **{**told, "line": (one, two), "covariance": ((a, b), (c, d))})

    def as_dict(self) -> dict[str, Any]:
        """Plain values of all but ``away``."""
        return {name: value for name, value in vars(self).items() if name != "away"}

    def ranked(self, predictions: pd.DataFrame) -> tuple[pd.DataFrame, Gain]:
        """`predictions` of these customers with a column uplift, and the gain it means.

        Who has no order yet gains 0.
        """
        known = ~np.isnan(self.away)
        away = np.where(known, self.away, 0.0)
        slope = min(max(self.line[1], 0.0), 1.0)
        gain = np.where(known, self.line[0] + slope * away, 0.0)
        (a, b), (_, c) = self.covariance
        c = c if slope else 0.0
        b = b if slope else 0.0
        sd = np.sqrt(np.maximum(a + 2 * away * b + away**2 * c, 0.0)) * known

        def whole(rows: npt.NDArray[np.intp]) -> float:
            """Standard deviation of the sum: all customers stand on the same line."""
            n, reach = int(known[rows].sum()), math.fsum(away[rows])
            return math.sqrt(max(n**2 * a + 2 * n * reach * b + reach**2 * c, 0.0))

        sure = "" if self.telling else (
            "; in that campaign customers could not be told apart by what a contact changed in "
            "them, so the ranking means little"
        )  # fmt: skip
        told = f"the uplift measured in campaign {self.campaign}{sure}"
        return predictions.assign(uplift=gain), Gain(
            gain, sd, 0.0, told, f"{self.days} days", whole=whole
        )
