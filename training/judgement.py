"""The outcome of an out-of-time test: every model on the same customers, and more of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from training import leaderboard
from training.baselines import BASELINES
from training.coverage import Points, coverage
from training.intervals import Interval
from training.metrics import AUROC, BIAS, BRIER, ECE, GINI, MAE, RMSE, churn_metrics
from training.model import Model
from training.profit import Best
from training.rehearsal import Rehearsal
from training.scores import bootstraps
from training.slices import out_of_band

__all__ = ["Judgement", "plain_values"]

Floats = npt.NDArray[np.float64]
DRAWS = 500  # of the intervals' bootstrap
VALUE_INTERVALS: Final = (MAE, RMSE, BIAS, GINI)
CHURN_INTERVALS: Final = (AUROC, BRIER, ECE)


@dataclass(frozen=True)
class Judgement:
    """One out-of-time test: all models on the same customers.

    Values are net revenue in currency, (customers,) per model, ours first; churn likewise.
    ``by_month`` is the cumulative revenue of our model and the real one at the end of months 1 to
    `months`. ``differences`` are the paired ones between our model and each other, value and churn.
    """

    cutoff: str
    months: int
    actual: Floats
    churned: Floats
    values: dict[str, Floats]
    churn: dict[str, Floats]
    by_month: dict[str, list[float]]
    differences: pd.DataFrame
    model: Model
    said: Rehearsal  # our predictions in discounted margin, beside what came
    points: Points
    total: Interval  # of the sum of `said.value`
    slices: pd.DataFrame
    campaign: Best
    rehearsals: tuple[Rehearsal, ...]  # of earlier origins, by which the model was calibrated

    @property
    def ours(self) -> str:
        """Name of our model."""
        return next(iter(self.values))

    @property
    def baselines(self) -> tuple[str, ...]:
        """Names of the baselines."""
        return tuple(name for name in BASELINES if name in self.values)

    def leaderboard(self) -> pd.DataFrame:
        """One row per model, all metrics."""
        return leaderboard.leaderboard(self.actual, self.values, self.churned, self.churn)

    @cached_property
    def _intervals(self) -> dict[str, tuple[float, float, float]]:
        found = bootstraps(self.actual, self.values[self.ours], VALUE_INTERVALS, draws=DRAWS)
        found |= bootstraps(self.churned, self.churn[self.ours], CHURN_INTERVALS, draws=DRAWS)
        return {name: (one.value, one.low, one.high) for name, one in found.items()}

    def intervals(self) -> dict[str, tuple[float, float, float]]:
        """Our metrics with their 95 % bootstrap intervals, worked out once."""
        return self._intervals

    def calibration(self) -> dict[str, dict[str, float]]:
        """Expected calibration error and Brier score of churn before and after calibration."""
        raw = self.model.calibration.undone(self.churn[self.ours])
        both = {"before": raw, "after": self.churn[self.ours]}
        found = {name: churn_metrics(self.churned, chance) for name, chance in both.items()}
        return {name: {m: each[m] for m in (ECE, BRIER)} for name, each in found.items()}

    def coverage(self) -> pd.DataFrame:
        """Shares of customers above and below their intervals, see `coverage`."""
        return coverage(self.said, self.points)

    def warnings(self) -> list[str]:
        """Totals out of their band, by slice."""
        return out_of_band(self.slices, self.model.settings.judgement.bias_band)

    def as_dict(self, compare: bool = True) -> dict[str, Any]:
        """Plain values for JSON and the model card; undefined metrics are None."""
        found: dict[str, Any] = {
            "cutoff": self.cutoff,
            "months": self.months,
            "customers": len(self.actual),
            "models": self.leaderboard().to_dict("index"),
        }
        if compare:
            real = float(self.said.actual.sum())
            found |= {
                "intervals": self.intervals(),
                "differences": self.differences.to_dict("records"),
                "calibration": self.calibration(),
                "coverage": self.coverage().to_dict("records"),
                "total": {**self.total._asdict(), "actual": real},
                "campaign": self.campaign.as_dict(),
                "slices": self.slices.to_dict("records"),
                "warnings": self.warnings(),
                "by_month": self.by_month,
                "rehearsals": [[r.months, len(r.value)] for r in self.rehearsals],
            }
        return dict(plain_values(found))


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
