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

from features import people
from features.behaviour import Rows, build
from features.errors import InputError
from features.settings import Settings
from features.spine import DAY, Cutoffs, add_months, instant, local_day, text
from features.store import Bucket, Store
from training import labels
from training.anchor import History
from training.baselines import BASELINES, Answer, Evidence
from training.compared import OURS, Compared
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
CHANNEL: Final = "acquisition_channel"
#: A channel's own mean counts as much as the population's at so many people.
STRENGTH: Final = 20.0


@dataclass(frozen=True)
class Prospects(Compared):
    """Our model of prospects beside averages, on people without an order at `cutoff`."""

    cutoff: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; undefined metrics are None."""
        return {
            "cutoff": self.cutoff,
            "months": self.months,
            "people": len(self.actual),
            "conversions": int((self.churned == 0).sum()),
            "revenue": float(self.actual.sum()),
            "predicted": {name: float(value.sum()) for name, value in self.values.items()},
            "models": self.models(),
        }


@dataclass(frozen=True)
class Early(Compared):
    """Our model beside buy-till-you-die models, `days` after customers' first orders.

    The customers are all who ordered first within [`start`, `end`), which the models never saw.
    """

    days: int
    start: str
    end: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; undefined metrics are None."""
        return {
            "days": self.days,
            "first_orders_from": self.start,
            "first_orders_before": self.end,
            "months": self.months,
            "customers": len(self.actual),
            "models": self.models(),
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
    cutoffs, asked = Cutoffs.at([cutoff], zone), np.array([months], np.int64)
    test = Waiting.join(
        each_people(
            store,
            lambda one: labelled(one, cutoffs, asked, own.vocabulary, store.coverage_end, zone),
            workers,
        )
    )
    if not len(test):
        return None
    found = own.predict(test.rows, cutoff, [months], model.newcomer)
    origins = plan(store.first_ts, cutoff, months, zone, ORIGINS)
    length = max(origin.months for origin in origins)
    longest = [origin for origin in origins if origin.months == length]
    past = collect(store, own.vocabulary, longest, cutoff, settings, workers)
    values = {OURS: found.revenue(months)}
    churn = {OURS: np.ascontiguousarray(found.churn[:, 0])}
    for name, by in {"average": False, "average of the channel": True}.items():
        gross, none = _averages(past, test, length, months, by)
        values[name], churn[name] = gross * (1.0 - model.returns.share), none
    actual = np.ascontiguousarray(test.came[:, months - 1])
    return Prospects(months, actual, test.churned, values, churn, text(cutoff, zone))


def _averages(
    past: Waiting, test: Waiting, length: int, months: int, by: bool
) -> tuple[Floats, Floats]:
    """Mean gross value and chance of no order in `length` months, as if months were alike."""
    groups = [_channel(part.rows, by) for part in (past, test)]
    names, place = np.unique(np.concatenate(groups), return_inverse=True)
    before, now = place[: len(past)], place[len(past) :]
    size = np.bincount(before, minlength=len(names))
    means = []
    for label in (past.gross, past.churned):
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
    found = _aligned(store, model, asked, (cutoff, end), months, workers)
    return [_read(each, model, months, answers) for each in found]


def _require_days(days: Sequence[int]) -> None:
    if not days or days[0] < 0 or days[-1] > 730:
        raise InputError(
            f"Days after the first order must be 0 to 730. Got {list(days)}. Write them like 0,30."
        )


@dataclass(frozen=True)
class _Aligned:
    """Customers some days after their first orders: features, labels, and each one's moment."""

    days: int
    start: str
    end: str
    rows: Rows
    label: Labels
    as_of: Ints


def _aligned(
    store: Store,
    model: Model,
    days: Sequence[int],
    between: tuple[int, int],
    months: int,
    workers: int,
) -> list[_Aligned]:
    """Who ordered first within [start, end), read at all `days` while their bucket is open."""
    zone, words, (start, end) = store.zone, model.catalogue, between
    cutoffs = _midnights(local_day(start, zone), local_day(end, zone) + days[-1] + 2, zone)

    def one(bucket: Bucket) -> list[tuple[Rows, Labels]]:
        first = people.first_orders(bucket)
        who = np.flatnonzero((first >= start) & (first < end))
        # Cutoffs are midnights of days in a row: the next one ends the day of the first order.
        ends = np.searchsorted(cutoffs.times, first[who], "right")
        found = []
        for n in days:
            rows = build(bucket, cutoffs, words, (who, ends + n))
            label = labels.build(bucket, rows, cutoffs, [months], store.coverage_end, zone)
            found.append((rows, label[months]))
        return found

    found = []
    for n, parts in zip(days, zip(*each_bucket(store, one, workers), strict=True), strict=True):
        rows, label = Rows.join([p[0] for p in parts]), Labels.join([p[1] for p in parts])
        named = text(start, zone), text(end, zone)
        found.append(_Aligned(n, *named, rows, label, cutoffs.times[rows.cut]))
    if not len(found[0].rows):
        raise InputError(
            f"An early read needs customers who order first from {found[0].start} to "
            f"{found[0].end}. Got none. Take another date."
        )
    return found


def _read(
    here: _Aligned,
    model: Model,
    months: int,
    answers: dict[str, Callable[[Rows, int], Answer]],
) -> Early:
    found, label = model.predict(here.rows, here.as_of, [months]), here.label
    values = {OURS: found.revenue(months)}
    churn = {OURS: np.ascontiguousarray(found.churn[:, 0])}
    for name, answer in answers.items():
        told = answer(here.rows, months)
        values[name], churn[name] = told.gross * (1.0 - model.returns.share), told.churn
    return Early(months, label.net, label.churned, values, churn, here.days, here.start, here.end)


def _midnights(first: int, last: int, zone: str) -> Cutoffs:
    """The local midnights that begin the days [first, last), by their numbers."""
    begin = date(1970, 1, 1).toordinal()
    days = (date.fromordinal(begin + day) for day in range(first, last))
    return Cutoffs.at([instant(day, zone) for day in days], zone)


def _no_samples() -> Samples:
    none, numbers = np.zeros(0), np.zeros(0, np.int64)
    history = History(none, none, none, none)
    return Samples(np.zeros((0, 0)), history, none, none, none, numbers, numbers, numbers)
