"""The outcome of an out-of-time test: every model on the same customers, and more of ours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import pandas as pd

from training.baselines import BASELINES
from training.compared import Compared, plain_values
from training.coverage import Points, coverage
from training.curves import Curves
from training.intervals import Interval
from training.margins import Margin
from training.metrics import AUROC, BIAS, BRIER, ECE, GINI, MAE, RMSE, churn_metrics
from training.model import Model
from training.newcomers import Prospects
from training.profit import Best
from training.rehearsal import Rehearsal
from training.scores import bootstraps
from training.slices import out_of_band

__all__ = ["Judgement"]

DRAWS = 500  # of the intervals' bootstrap
VALUE_INTERVALS: Final = (MAE, RMSE, BIAS, GINI)
CHURN_INTERVALS: Final = (AUROC, BRIER, ECE)


@dataclass(frozen=True)
class Judgement(Compared):
    """One out-of-time test: all models on the same customers.

    ``by_month`` is the cumulative revenue of our model and the real one at the end of months 1 to
    `months`, ``returned`` the number of customers with an order by then. ``differences`` are the
    paired ones between our model and each other, value and churn. ``prospects`` are judged apart,
    ``no_prospects`` says why not.
    """

    cutoff: str
    by_month: dict[str, list[float]]
    returned: dict[str, list[float]]
    differences: pd.DataFrame
    model: Model
    said: Rehearsal  # our predictions in discounted margin, beside what came
    points: Points
    total: Interval  # of the sum of `said.value`
    slices: pd.DataFrame
    campaign: Best
    rehearsals: tuple[Rehearsal, ...]  # of earlier origins, by which the model was calibrated
    prospects: Prospects | None = None
    no_prospects: str = ""
    margin: Margin | None = None  # none where no cost of an order is known

    @property
    def baselines(self) -> tuple[str, ...]:
        """Names of the baselines."""
        return tuple(name for name in BASELINES if name in self.values)

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

    def curves(self) -> Curves:
        """What the pictures of tenths, gain and calibration show."""
        churn = self.churn[self.ours]
        both = {"before": self.model.calibration.undone(churn), "after": churn}
        return Curves.of(self.actual, self.values, self.ours, self.churned, both)

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
            "models": self.models(),
        }
        if compare:
            real = float(self.said.actual.sum())
            found |= {
                "intervals": self.intervals(),
                "differences": self.differences.to_dict("records"),
                "calibration": self.calibration(),
                "curves": self.curves().as_dict(),
                "coverage": self.coverage().to_dict("records"),
                "total": {**self.total._asdict(), "actual": real},
                "campaign": self.campaign.as_dict(),
                "slices": self.slices.to_dict("records"),
                "warnings": self.warnings(),
                "by_month": self.by_month,
                "returned": self.returned,
                "prospects": self.prospects.as_dict() if self.prospects else None,
                "no_prospects": self.no_prospects,
                "margin": self.margin.as_dict() if self.margin else None,
                "rehearsals": [[r.months, len(r.value)] for r in self.rehearsals],
            }
        return dict(plain_values(found))
