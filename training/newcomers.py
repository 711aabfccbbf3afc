"""Judged apart: prospects, and customers in their first days.

Both are few in any calendar test and lost in its figures, and they are those whom marketing asks
about: what is a lead worth, and what can be said N days after a first order?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features import people
from features.behaviour import Rows, build
from features.errors import InputError
from features.settings import Settings
from features.spine import DAY, Cutoffs, add_months, instant, local_day, text
from features.store import Bucket, Store
from training import labels, leaderboard
from training.anchor import History
from training.backtest import OURS
from training.baselines import BASELINES, Answer, Evidence
from training.fitting import Progress, fit
from training.labels import Labels, require_ripe
from training.model import Model
from training.prospects import ORIGINS
from training.samples import Samples, each_bucket, gather, plan
from training.waiting import Waiting, collect, each_people, labelled

__all__ = ["Early", "Prospects", "early", "judge_prospects"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
BUY_TILL_YOU_DIE: Final = ("BG/NBD + gamma-gamma", "Pareto/NBD + gamma-gamma")
VALUE: Final = ("mae", "bias", "normalised_gini")
CHURN: Final = ("auroc", "brier", "ece")
CHANNEL: Final = "acquisition_channel"
#: A channel's own mean counts as much as the population's at so many people.
STRENGTH: Final = 20.0


@dataclass(frozen=True)
class Prospects:
    """Our model of prospects beside averages, on people without an order at `cutoff`.

    Values are net revenue in currency, (people,) per model; churn is the chance of no order.
    """

    cutoff: str
    months: int
    actual: Floats
    churned: Floats
    values: dict[str, Floats]
    churn: dict[str, Floats]

    def leaderboard(self) -> pd.DataFrame:
        """One row per model, all metrics."""
        return leaderboard.leaderboard(self.actual, self.values, self.churned, self.churn)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; undefined metrics are None."""
        return {
            "cutoff": self.cutoff,
            "months": self.months,
            "people": len(self.actual),
            "conversions": int((self.churned == 0).sum()),
            "revenue": float(self.actual.sum()),
            "predicted": {name: float(value.sum()) for name, value in self.values.items()},
            "models": _plain(self.leaderboard()),
        }


@dataclass(frozen=True)
class Early:
    """Our model beside buy-till-you-die models, `days` after customers' first orders.

    The customers are all who ordered first within [`start`, `end`), which the models never saw.
    Values are net revenue in currency, (customers,) per model.
    """

    days: int
    start: str
    end: str
    months: int
    actual: Floats
    churned: Floats
    values: dict[str, Floats]
    churn: dict[str, Floats]

    def leaderboard(self) -> pd.DataFrame:
        """One row per model, all metrics."""
        return leaderboard.leaderboard(self.actual, self.values, self.churned, self.churn)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; undefined metrics are None."""
        return {
            "days": self.days,
            "first_orders_from": self.start,
            "first_orders_before": self.end,
            "months": self.months,
            "customers": len(self.actual),
            "models": _plain(self.leaderboard()),
        }


def judge_prospects(
    store: Store,
    cutoff: int,
    months: int,
    settings: Settings,
    *,
    model: Model | None = None,
    seed: int = 0,
    workers: int = 1,
) -> Prospects | None:
    """Fit before `cutoff` and judge who had signed up and not ordered, on the months after.

    `model` is one that was fitted at `cutoff`, where there is one already. None where there is no
    model of prospects or nobody to judge.

    Raises
    ------
    InputError
        The data do not cover the window, or hold too little to learn from before it.
    """
    zone = settings.business.time_zone
    require_ripe(cutoff, months, store.coverage_end, zone)
    model = model or fit(store, cutoff, months, settings, seed=seed, workers=workers).model
    own = model.prospects
    if own is None:
        return None
    cutoffs, length = Cutoffs.at([cutoff], zone), np.array([months], np.int64)
    test = Waiting.join(
        each_people(
            store,
            lambda one: labelled(one, cutoffs, length, own.vocabulary, store.coverage_end, zone),
            workers,
        )
    )
    if not len(test):
        return None
    found = own.predict(test.rows, cutoff, [months], model.newcomer)
    origins = plan(store.first_ts, cutoff, months, zone, ORIGINS)
    past = collect(store, own.vocabulary, origins, cutoff, settings, workers)
    values = {OURS: found.revenue(months)}
    churn = {OURS: np.ascontiguousarray(found.churn[:, 0])}
    for name, by in {"average": False, "average of the channel": True}.items():
        gross, none = _averages(past, test, months, by)
        values[name], churn[name] = gross * (1.0 - model.returns.share), none
    actual = np.ascontiguousarray(test.came[:, months - 1])
    return Prospects(text(cutoff, zone), months, actual, test.churned, values, churn)


def _averages(past: Waiting, test: Waiting, months: int, by: bool) -> tuple[Floats, Floats]:
    """Mean gross value and chance of no order of the longest label, as if months were alike."""
    length = int(past.months.max())
    here = past.months == length
    groups = [_channel(part.rows, by) for part in (past, test)]
    names, place = np.unique(np.concatenate(groups), return_inverse=True)
    before, now = place[: len(past)][here], place[len(past) :]
    size = np.bincount(before, minlength=len(names))
    means = []
    for label in (past.gross[here], past.churned[here]):
        sums = np.bincount(before, label, len(names)) + STRENGTH * label.mean()
        means.append((sums / (size + STRENGTH))[now])
    return means[0] * (months / length), np.clip(means[1], 1e-6, 1.0) ** (months / length)


def _channel(rows: Rows, by: bool) -> npt.NDArray[np.object_]:
    if not by or rows.attributes is None or CHANNEL not in rows.attributes:
        return np.full(len(rows), "", object)
    return np.array(rows.attribute(CHANNEL), object)[rows.who]


def early(
    store: Store,
    cutoff: int,
    months: int,
    settings: Settings,
    days: Sequence[int],
    *,
    model: Model | None = None,
    seed: int = 0,
    workers: int = 1,
    progress: Progress | None = None,
) -> list[Early]:
    """Fit before `cutoff` and judge who ordered first after it, `days` after that first order.

    A reading of day N is taken at the local midnight that ends the N-th day after the day of the
    first order. The same customers are read at all `days`: those whose label at the last of them
    is ripe. `model` is one that was fitted at `cutoff`, where there is one already.

    Raises
    ------
    InputError
        Nobody can be read, or the data hold too little to learn from before `cutoff`.
    """
    zone = settings.business.time_zone
    asked = sorted(set(days))
    _require_days(asked)
    end = add_months(store.coverage_end, -months, zone) - (asked[-1] + 2) * DAY
    if end <= cutoff:
        raise InputError(
            f"An early read needs customers who order first after {text(cutoff, zone)} and "
            f"{asked[-1]} days and {months} months of data after that. The data end at "
            f"{text(store.coverage_end, zone)}. Take an earlier date, fewer days or months."
        )
    if model is None:
        model = fit(
            store, cutoff, months, settings, seed=seed, workers=workers, progress=progress,
            with_prospects=False,
        ).model  # fmt: skip
    past, _ = gather(store, model.catalogue, cutoff, zone, 1.0, (), workers)
    evidence = Evidence(past, _no_samples(), model.catalogue.names, cutoff, zone)
    answers = {name: BASELINES[name](evidence) for name in BUY_TILL_YOU_DIE}
    return [_read(store, model, n, cutoff, end, months, answers, workers) for n in asked]


def _require_days(days: Sequence[int]) -> None:
    if not days or days[0] < 0 or days[-1] > 730:
        raise InputError(
            f"Days after the first order must be 0 to 730. Got {list(days)}. Write them like 0,30."
        )


def _read(
    store: Store,
    model: Model,
    days: int,
    start: int,
    end: int,
    months: int,
    answers: dict[str, Callable[[Rows, int], Answer]],
    workers: int,
) -> Early:
    zone = store.zone
    cutoffs = _midnights(local_day(start, zone), local_day(end, zone) + days + 2, zone)

    def one(bucket: Bucket) -> tuple[Rows, Labels]:
        rows = build(bucket, cutoffs, model.catalogue, _aligned(bucket, cutoffs, days, start, end))
        return rows, labels.build(bucket, rows, cutoffs, [months], store.coverage_end, zone)[months]

    parts = each_bucket(store, one, workers)
    rows, label = Rows.join([p[0] for p in parts]), Labels.join([p[1] for p in parts])
    if not len(rows):
        raise InputError(
            f"An early read needs customers who order first from {text(start, zone)} to "
            f"{text(end, zone)}. Got none. Take another date."
        )
    value, none = np.empty(len(rows)), np.empty(len(rows))
    for cut in np.unique(rows.cut):
        here = rows.cut == cut
        found = model.predict(rows.take(here), int(cutoffs.times[cut]), [months])
        value[here], none[here] = found.revenue(months), found.churn[:, 0]
    values, churn = {OURS: value}, {OURS: none}
    for name, answer in answers.items():
        told = answer(rows, months)
        values[name], churn[name] = told.gross * (1.0 - model.returns.share), told.churn
    return Early(
        days, text(start, zone), text(end, zone), months, label.net, label.churned, values, churn
    )


def _aligned(
    bucket: Bucket, cutoffs: Cutoffs, days: int, start: int, end: int
) -> tuple[Ints, Ints]:
    """Customers who ordered first in [start, end), each with the cutoff of their own reading."""
    first = people.first_orders(bucket)
    who = np.flatnonzero((first >= start) & (first < end))
    # Cutoffs are the midnights of days in a row: the next one ends the day of the first order.
    return who, np.searchsorted(cutoffs.times, first[who], "right") + days


def _midnights(first: int, last: int, zone: str) -> Cutoffs:
    """The local midnights that begin the days [first, last), by their numbers."""
    begin = date(1970, 1, 1).toordinal()
    days = (date.fromordinal(begin + day) for day in range(first, last))
    return Cutoffs.at([instant(day, zone) for day in days], zone)


def _no_samples() -> Samples:
    none, numbers = np.zeros(0), np.zeros(0, np.int64)
    history = History(none, none, none, none)
    return Samples(np.zeros((0, 0)), history, none, none, none, numbers, numbers, numbers)


def _plain(board: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    rows = board[["n", *VALUE, *CHURN]].to_dict("index")
    return {
        str(model): {str(k): float(v) if np.isfinite(v) else None for k, v in row.items()}
        for model, row in rows.items()
    }
