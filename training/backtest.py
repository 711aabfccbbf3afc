"""Out of time: fit everything before a cutoff, predict, and hold it against what then happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.settings import MAX_MONTHS, Settings
from features.spine import add_months, months_between, text
from features.store import Store
from training import leaderboard, scores
from training.baselines import Evidence, fit_all
from training.fitting import Progress, fit
from training.labels import require_ripe
from training.model import Model
from training.samples import gather

__all__ = ["OURS", "Judgement", "backtest", "latest_test"]

Floats = npt.NDArray[np.float64]
OURS: Final = "anchored boosting"
#: A test origin keeps this much more history before it than its horizon is long.
SPARE_MONTHS: Final = 3
#: Metrics are of at most this many customers, chosen by their id.
MOST_JUDGED: Final = 200_000
DRAWS = 500  # of the paired bootstrap


@dataclass(frozen=True)
class Judgement:
    """One out-of-time test: all models on the same customers.

    Values are net revenue in currency, (customers,) per model; churn likewise. ``by_month`` is the
    cumulative revenue of our model and the real one at the end of months 1 to `months`.
    ``differences`` are the paired ones between our model and each other, value and churn.
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

    def leaderboard(self) -> pd.DataFrame:
        """One row per model, all metrics."""
        return leaderboard.leaderboard(self.actual, self.values, self.churned, self.churn)

    def as_dict(self, compare: bool = True) -> dict[str, Any]:
        """Plain values for JSON and the model card; undefined metrics are None."""
        found: dict[str, Any] = {
            "cutoff": self.cutoff,
            "months": self.months,
            "customers": len(self.actual),
            "models": _plain(self.leaderboard().to_dict("index")),
        }
        if compare:
            found["differences"] = _plain(self.differences.to_dict("records"))
        return found


def latest_test(first_ts: int, as_of: int, longest: int, zone: str) -> tuple[int, int] | None:
    """Cutoff and months of the newest out-of-time test, the longest that history allows.

    The cutoff is as_of less h months, with at least h + 3 months of history before it; None where
    not even one month can be tested.
    """
    for months in range(min(longest, MAX_MONTHS), 0, -1):
        cutoff = add_months(as_of, -months, zone)
        if months_between(first_ts, cutoff, zone) >= months + SPARE_MONTHS:
            return cutoff, months
    return None


def backtest(
    store: Store,
    cutoff: int,
    months: int,
    settings: Settings,
    *,
    seed: int = 0,
    workers: int = 1,
    progress: Progress | None = None,
) -> Judgement:
    """Fit our model and every baseline before `cutoff` and judge them on what followed.

    Raises
    ------
    InputError
        The data do not cover the window, or hold too little to learn from before it.
    """
    zone = settings.business.time_zone
    require_ripe(cutoff, months, store.coverage_end, zone)
    fitted = fit(store, cutoff, months, settings, seed=seed, workers=workers, progress=progress)
    model = fitted.model
    share = min(1.0, MOST_JUDGED / max(model.customers, 1))
    each = tuple(range(1, months + 1))
    rows, labels = gather(store, fitted.catalogue, cutoff, zone, share, each, workers)
    found = model.predict(rows, cutoff, [months])
    evidence = Evidence(rows, fitted.samples, fitted.catalogue.names, cutoff, zone)
    values = {OURS: found.revenue(months)}
    churn = {OURS: np.ascontiguousarray(found.churn[:, 0])}
    kept = 1.0 - model.returns.share  # baselines speak of gross value; everybody's mean share
    for name, answer in fit_all(evidence).items():
        given = answer(rows, months)
        values[name], churn[name] = given.gross * kept, given.churn
    actual, churned = labels[months].net, labels[months].churned
    return Judgement(
        cutoff=text(cutoff, zone),
        months=months,
        actual=actual,
        churned=churned,
        values=values,
        churn=churn,
        by_month={
            "predicted": [float(found.revenue(m).sum()) for m in each],
            "actual": [float(labels[m].net.sum()) for m in each],
        },
        differences=_differences(actual, churned, values, churn),
        model=model,
    )


def _differences(
    actual: Floats, churned: Floats, values: dict[str, Floats], churn: dict[str, Floats]
) -> pd.DataFrame:
    churn_metrics = scores.COMPARED_CHURN
    parts = [
        leaderboard.compare(actual, values, OURS, draws=DRAWS),
        leaderboard.compare(churned, churn, OURS, metrics=churn_metrics, draws=DRAWS),
    ]
    return pd.concat(parts, ignore_index=True)


def _plain(value: Any) -> Any:
    """JSON's own types; what is not a number becomes None."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
