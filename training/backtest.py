"""Out of time: fit everything before a cutoff, predict, and hold it against what then happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from features.behaviour import Rows
from features.errors import InputError
from features.settings import Settings
from features.spine import local_day, text
from features.store import Store
from training import leaderboard, rehearsal
from training.baselines import Evidence, fit_all
from training.compared import OURS
from training.coverage import Points
from training.fitting import Fitted, Progress, fit, rehearse
from training.intervals import total
from training.judgement import Judgement
from training.labels import Labels, require_ripe
from training.margins import Margin
from training.metrics import COMPARED_CHURN
from training.model import Model
from training.newcomers import judge_prospects
from training.predictions import Predictions
from training.profit import Best, best_share
from training.rehearsal import Rehearsal, latest_test
from training.samples import gather
from training.slices import FIRST_CHANNEL, STANDARD, by_slice, standard_slices

__all__ = ["OURS", "PLAIN", "Judgement", "backtest", "latest_test", "possible_slices",
           "rolling"]  # fmt: skip

Floats = npt.NDArray[np.float64]
PLAIN: Final = "plain boosting"
NAMES: Final = {"anchored": OURS, "plain": PLAIN, "btyd": "buy-till-you-die forecast"}
#: Metrics are of at most this many customers, chosen by their id.
MOST_JUDGED: Final = 100_000
DRAWS = 500  # of the paired bootstrap
SLICE_DRAWS = 100  # of a slice's intervals


def rolling(store: Store, months: int, settings: Settings, cutoffs: int = 3) -> tuple[int, ...]:
    """The newest cutoffs that can be tested over `months`, earliest first, a quarter apart.

    Raises
    ------
    InputError
        The history is too short to test one.
    """
    zone = settings.business.time_zone
    found = rehearsal.plan(store.first_ts, store.coverage_end, months, zone, cutoffs)
    if not found or found[0][1] != months:
        most = found[0][1] if found else 0
        cure = f"Take --horizon {most} or less" if most else "Bring a longer history"
        raise InputError(
            f"A test over {months} months needs {2 * months + rehearsal.SPARE_MONTHS} months of "
            f"history. Got {text(store.first_ts, zone)} to {text(store.coverage_end, zone)}. "
            f"{cure}."
        )
    return tuple(sorted(cutoff for cutoff, _ in found))


def possible_slices(store: Store, settings: Settings) -> tuple[str, ...]:
    """Names of the slices that these data may have; a column of numbers makes none."""
    found = list(STANDARD)
    path = store.people(0)
    given = pq.read_schema(path).names if path.exists() else []
    found += [name for name in sorted(settings.customers.static) if name in given]
    return (*found, FIRST_CHANNEL) if "channel" in store.columns_present else tuple(found)


def backtest(
    store: Store,
    cutoff: int,
    months: int,
    settings: Settings,
    *,
    seed: int = 0,
    workers: int = 1,
    progress: Progress | None = None,
    rivals: Mapping[str, Model] | None = None,
    plain: bool = False,
) -> Judgement:
    """Fit our model and every baseline before `cutoff` and judge them on what followed.

    `rivals` are further models by name that have seen nothing at or after `cutoff`; `plain` adds
    boosting without an anchor.

    Raises
    ------
    InputError
        The data do not cover the window, or hold too little to learn from before it.
    """
    zone = settings.business.time_zone
    require_ripe(cutoff, months, store.coverage_end, zone)
    how: dict[str, Any] = {"seed": seed, "workers": workers, "progress": progress}
    past = rehearse(store, cutoff, months, settings, **how)
    fitted = fit(store, cutoff, months, settings, rehearsals=past, **how)
    others = dict(rivals or {})
    if plain and settings.model.objective != "plain":
        unanchored = replace(settings, model=replace(settings.model, objective="plain"))
        others[PLAIN] = fit(store, cutoff, months, unanchored, with_prospects=False, **how).model
    for name, other in others.items():
        if other.trained_until > cutoff:
            raise AssertionError(f"{name} has seen what it would be judged on")
    test = _judged(store, fitted, others, cutoff, months, past, workers)
    apart = judge_prospects(store, cutoff, months, settings, model=fitted.model, workers=workers)
    why = "" if apart else fitted.model.no_prospects or "nobody waited for a first order"
    return replace(test, prospects=apart, no_prospects=why)


def _judged(
    store: Store,
    fitted: Fitted,
    others: Mapping[str, Model],
    cutoff: int,
    months: int,
    past: Sequence[Rehearsal],
    workers: int,
) -> Judgement:
    model = fitted.model
    zone = model.settings.business.time_zone
    share = min(1.0, MOST_JUDGED / max(model.customers, 1))
    each = tuple(range(1, months + 1))
    rows, labels = gather(store, fitted.catalogue, cutoff, zone, share, each, workers)
    found = model.predict(rows, cutoff, [months])
    ours = NAMES[model.settings.model.objective]
    values, churn = {ours: found.revenue(months)}, {ours: _churn(found)}
    for name, other in others.items():
        theirs, _ = gather(store, other.catalogue, cutoff, zone, share, (), workers)
        told = other.predict(theirs, cutoff, [months])
        values[name], churn[name] = told.revenue(months), _churn(told)
    evidence = Evidence(rows, fitted.samples, fitted.catalogue.names, cutoff, zone)
    kept = 1.0 - model.returns.share  # baselines speak of gross value; everybody's mean share
    for name, answer in fit_all(evidence).items():
        given = answer(rows, months)
        values[name], churn[name] = given.gross * kept, given.churn
    actual, churned = labels[months].net, labels[months].churned
    said = found.rehearsed(labels, cutoff, months, model.settings.business.margin)
    if model.intervals is None:
        raise AssertionError("a fitted model has intervals")
    spread = model.intervals.spread(said.value, said.orders, said.churn)
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
        returned=_returned(found, labels, each),
        differences=_differences(actual, churned, values, churn),
        model=model,
        said=said,
        points=Points.of(model.intervals, said),
        total=total(said.value, spread, model.intervals.shared(months)),
        slices=by_slice(
            actual, values[ours], churned, churn[ours], _slices(rows, values[ours], cutoff, zone),
            draws=SLICE_DRAWS,
        ),
        campaign=_campaign(model.settings, said),
        rehearsals=tuple(past),
        margin=_margin(found, labels[months], model.settings),
    )  # fmt: skip


def _margin(found: Predictions, label: Labels, settings: Settings) -> Margin | None:
    rest = settings.business.margin
    if not label.any_cost:
        return None
    return Margin.of(found.flow.margin, label.net, label.earned(rest), rest)


def _returned(
    found: Predictions, labels: Mapping[int, Labels], each: Sequence[int]
) -> dict[str, list[float]]:
    """How many customers were expected to order, and did, by the end of each month."""
    if found.silence is None:
        raise AssertionError("a model tells the chance of no order at the end of every month")
    return {
        "predicted": [float((1.0 - found.silence[:, m - 1]).sum()) for m in each],
        "actual": [float((labels[m].churned == 0).sum()) for m in each],
    }


def _churn(found: Predictions) -> Floats:
    return np.ascontiguousarray(found.churn[:, 0])


def _slices(rows: Rows, predicted: Floats, cutoff: int, zone: str) -> dict[str, Any]:
    """Orders so far, cohort and decile, and what is known of customers as categories."""
    first = local_day(cutoff, zone) - rows.column("tenure_days").astype(np.int64)
    words = rows.catalogue.vocabulary
    attributes: dict[str, Any] = {
        name: pd.Series(rows.attribute(name), dtype=object)[rows.who].replace("", None).to_numpy()
        for name, levels in words.attributes
        if levels is not None
    }
    if words.channel:
        levels = np.array(words.slots("channel"), object)
        flags = np.column_stack([rows.column(f"first_channel[{level}]") for level in levels])
        known = pd.Series(levels[flags.argmax(axis=1)]).where(pd.Series(flags.any(axis=1)), None)
        attributes[FIRST_CHANNEL] = known.to_numpy()
    return dict(
        standard_slices(predicted, rows.column("orders"), first.astype("datetime64[D]"), attributes)
    )


def _campaign(settings: Settings, said: Rehearsal) -> Best:
    """Profit of contacting those at highest risk, valued at what they are worth if they stay."""
    rules = settings.judgement
    return best_share(
        said.churned, said.churn, said.worth, contact_cost=rules.contact_cost,
        save_rate=rules.save_rate, by="gain", draws=SLICE_DRAWS,
    )  # fmt: skip


def _differences(
    actual: Floats, churned: Floats, values: dict[str, Floats], churn: dict[str, Floats]
) -> pd.DataFrame:
    ours = next(iter(values))
    parts = [
        leaderboard.compare(actual, values, ours, draws=DRAWS),
        leaderboard.compare(churned, churn, ours, metrics=COMPARED_CHURN, draws=DRAWS),
    ]
    return pd.concat(parts, ignore_index=True)
