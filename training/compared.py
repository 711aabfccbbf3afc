"""Several models on the same people: what each of them said, and what came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from training import leaderboard

__all__ = ["OURS", "Compared", "plain_values"]

Floats = npt.NDArray[np.float64]
OURS: Final = "anchored boosting"


@dataclass(frozen=True)
class Compared:
    """What came of people in so many months, and what each model had said of it, ours first.

    Values are net revenue in currency, churn is the chance of no order; (people,) per model.
    """

    months: int
    actual: Floats
    churned: Floats
    values: dict[str, Floats]
    churn: dict[str, Floats]

    @property
    def ours(self) -> str:
        """Name of our model."""
        return next(iter(self.values))

    def leaderboard(self) -> pd.DataFrame:
        """One row per model, all metrics."""
        return self._leaderboard.copy()

    @cached_property
    def _leaderboard(self) -> pd.DataFrame:
        return leaderboard.leaderboard(self.actual, self.values, self.churned, self.churn)

    def models(self) -> dict[str, dict[str, float | None]]:
        """The same as plain values; undefined metrics are None."""
        return dict(plain_values(self.leaderboard().to_dict("index")))


def plain_values(value: Any) -> Any:
    """JSON's own types; what is not a number becomes None."""
    if isinstance(value, Mapping):
        return {str(k): plain_values(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain_values(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, bool | np.bool_):
        return bool(value)
    return int(value) if isinstance(value, np.integer) else value
