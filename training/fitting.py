"""From a store to a fitted model at one moment, seeing nothing at or after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata, spearmanr

from features import windows
from features.behaviour import Counts, build, learn
from features.catalogue import Catalogue, catalogue
from features.errors import InputError
from features.settings import Settings
from features.spine import Cutoffs, local_day, months_between, text
from features.store import Bucket, Store
from training import prospects, rehearsal
from training.anchor import Anchor, History
from training.labels import require_ripe
from training.margins import Earned, Margins
from training.model import Model
from training.rehearsal import Rehearsal
from training.samples import Origin, Samples, collect, each_bucket, gather, plan
from training.season import LEAST_MONTHS, Season

__all__ = ["Fitted", "Prepared", "fit", "prepare", "rehearse"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Progress = Callable[[str, float], None]
ORDER_DAYS: Final = windows.COLUMNS.index("order_days")
MIN_REPEAT_BUYERS: Final = 20
REHEARSED_ROWS: Final = 50_000  # training rows of a rehearsal: a quarter of the usual, for speed
REHEARSED_CUSTOMERS: Final = 50_000
#: An attribute that alone orders churn this well, and better than the forecast, knows the future.
LEAK_AUROC: Final = 0.98
LEAK_SPEARMAN: Final = 0.97
LEAK_MARGIN: Final = 0.03
LEAK_ROWS: Final = 20_000
LEAK_LEAST: Final = 50  # rows of each kind: among fewer, chance orders as well


@dataclass(frozen=True)
class Fitted:
    """A model and what it was fitted on."""

    model: Model
    samples: Samples
    catalogue: Catalogue
    share: float  # of customers whose rows were learned from


@dataclass(frozen=True)
class Prepared:
    """All that a fit needs and that how the trees learn does not change."""

    samples: Samples
    catalogue: Catalogue
    share: float  # of customers whose rows are learned from
    bare: Model  # without corrections


@dataclass(frozen=True)
class _Survey:
    """What one bucket says before features are built."""

    counts: Counts
    history: History  # at the moment of training, in plain weeks
    customers: Ints  # with an order before each origin
    months: Ints  # number since 1970-01 of the month of each order day after a first one
    earned: Earned  # before the moment of training


def fit(
    store: Store,
    known_until: int,
    longest: int,
    settings: Settings,
    *,
    seed: int = 0,
    workers: int = 1,
    progress: Progress | None = None,
    rehearsals: Sequence[Rehearsal] = (),
    with_prospects: bool = True,
) -> Fitted:
    """Fit a model that sees nothing at or after `known_until` (microseconds UTC).

    `rehearsals` are of earlier moments; its churn is calibrated and its intervals are made by them.
    Without `with_prospects` the model of people who have not ordered yet is left out.

    Raises
    ------
    InputError
        Too little to learn from, or a feature that knows the future.
    """
    ready = prepare(store, known_until, longest, settings, workers=workers, progress=progress)
    if progress:
        progress("fitting the corrections", 0.0)
    model = ready.bare.corrected(ready.samples, ready.catalogue.names, seed)
    model = model.rehearsed(rehearsals, seed)
    zone = settings.business.time_zone
    # Where seasons are not known, a level that was learned may be one of them.
    short = months_between(store.first_ts, known_until, zone) < LEAST_MONTHS
    if model.members and (short or model.longest < longest):
        now, _ = gather(store, ready.catalogue, known_until, zone, ready.share, (), workers)
        model = model.levelled(now, known_until, longest)
    if with_prospects:
        found, why = prospects.fit(
            store, known_until, longest, model.newcomer, seed=seed, workers=workers
        )
        model = replace(model, prospects=found, no_prospects=why)
    if progress:
        progress("fitting the corrections", 1.0)
    return Fitted(model, ready.samples, ready.catalogue, ready.share)


def prepare(
    store: Store,
    known_until: int,
    longest: int,
    settings: Settings,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> Prepared:
    """Rows to learn from and the forecast to correct, for a fit at `known_until`.

    Raises
    ------
    InputError
        As for `fit`.
    """
    zone = settings.business.time_zone
    origins = plan(store.first_ts, known_until, longest, zone, settings.model.origins)
    tick = _ticker(progress, store.buckets)
    surveys = each_bucket(
        store, lambda b: _survey(b, origins, known_until, settings), workers, tick("reading")
    )
    history = History.join([survey.history for survey in surveys])
    _require_enough(history, known_until, zone)
    margins = Margins.fit([survey.earned for survey in surveys], store.unit)
    learned = learn(survey.counts for survey in surveys)
    words = catalogue(replace(learned, costs=margins is not None))
    rows = int(sum(survey.customers.sum() for survey in surveys))
    share = min(1.0, settings.model.max_rows / max(rows, 1))
    anchor = _anchor(history, surveys, store.first_ts, known_until, zone)
    samples = collect(
        store, words, origins, known_until, zone, share, workers, tick("features and labels"),
        anchor.season,
    )  # fmt: skip
    _require_rows(samples, origins, zone)
    _watch_leaks(samples, words, anchor)
    bare = Model.bare(
        samples, anchor, words.names, settings=settings, vocabulary=words.vocabulary,
        origins=origins, trained_until=known_until, customers=len(history.age), margins=margins,
    )  # fmt: skip
    return Prepared(samples, words, share, bare)


def rehearse(
    store: Store,
    known_until: int,
    longest: int,
    settings: Settings,
    *,
    seed: int = 0,
    workers: int = 1,
    progress: Progress | None = None,
) -> list[Rehearsal]:
    """Fit before each origin of the plan and predict what came until `known_until`, newest first.

    Origins with too little to learn from are left out; where all are, the list is empty.
    """
    zone = settings.business.time_zone
    rows = min(settings.model.max_rows, REHEARSED_ROWS)
    quick = replace(settings, model=replace(settings.model, max_rows=rows))
    planned = rehearsal.plan(store.first_ts, known_until, longest, zone)
    found = []
    for k, (cutoff, months) in enumerate(planned):
        require_ripe(cutoff, months, known_until, zone)
        if progress:
            progress("rehearsing earlier moments", k / len(planned))
        with suppress(InputError):
            fitted = fit(
                store, cutoff, months, quick, seed=seed, workers=workers, with_prospects=False
            )
            found.append(_rehearsed(store, fitted, cutoff, months, workers))
    if progress:
        progress("rehearsing earlier moments", 1.0)
    return found


def _rehearsed(store: Store, fitted: Fitted, cutoff: int, months: int, workers: int) -> Rehearsal:
    business = fitted.model.settings.business
    zone = business.time_zone
    share = min(1.0, REHEARSED_CUSTOMERS / max(fitted.model.customers, 1))
    each = tuple(range(1, months + 1))
    rows, labels = gather(store, fitted.catalogue, cutoff, zone, share, each, workers)
    found = fitted.model.predict(rows, cutoff, [months])
    return found.rehearsed(labels, cutoff, months, business.margin)


def _ticker(progress: Progress | None, total: int) -> Callable[[str], Callable[[], None] | None]:
    def start(stage: str) -> Callable[[], None] | None:
        if progress is None:
            return None
        done = [0]

        def step() -> None:
            done[0] += 1
            progress(stage, done[0] / total)

        return step

    return start


def _survey(
    bucket: Bucket, origins: tuple[Origin, ...], known_until: int, settings: Settings
) -> _Survey:
    zone = settings.business.time_zone
    rows = build(bucket, Cutoffs.at([known_until], zone), catalogue())
    first = known_until - rows.column("tenure_days") * 86_400_000_000
    customers = np.array([(first <= origin.cutoff).sum() for origin in origins], np.int64)
    # A kind of event is a name and tells nothing by itself. Shops often begin to track late: where
    # rows of the newest origin can tell what it is worth, it counts, and older rows have none yet.
    counts = Counts.of(
        bucket, origins[0].cutoff, settings.customers.static, events_before=origins[-1].cutoff
    )
    bought = (bucket.columns[:, ORDER_DAYS] > 0) & (bucket.ts < known_until)
    again = np.ones(int(bought.sum()), bool)
    owner = np.repeat(np.arange(len(bucket)), np.diff(bucket.starts))[bought]
    again[np.unique(owner, return_index=True)[1]] = False
    return _Survey(
        counts, History.of(rows), customers, _month(bucket.day[bought][again]),
        Earned.of(bucket, known_until, zone),
    )  # fmt: skip


def _month(day: Ints) -> Ints:
    return day.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)


def _anchor(
    history: History, surveys: Sequence[_Survey], first_ts: int, known_until: int, zone: str
) -> Anchor:
    """The forecast, on the clock of the season where the history tells one."""
    plain = Anchor.fit(_canonical(history))
    if months_between(first_ts, known_until, zone) < LEAST_MONTHS:
        return plain
    day = local_day(known_until, zone)
    first = day - np.floor(history.age * 7.0 + 0.5).astype(np.int64)
    months = np.concatenate([survey.months for survey in surveys])
    start = int(_month(first.min(keepdims=True))[0])
    last = int(_month(np.array([day], np.int64))[0])
    repeats = np.bincount(months - start, minlength=last - start + 1)
    season = Season.fit(first, repeats, start, day, plain.newcomers_orders)
    return Anchor.fit(_canonical(history.on(season, day)), season)


def _canonical(history: History) -> History:
    """One order of customers whatever the buckets: sums over them then have the same bits."""
    keys = (history.spend, history.age, history.recency, history.frequency)
    return history.take(np.lexsort(keys))


def _require_enough(history: History, known_until: int, zone: str) -> None:
    repeat = int((history.frequency > 0).sum())
    if repeat < MIN_REPEAT_BUYERS:
        raise InputError(
            f"Training needs at least {MIN_REPEAT_BUYERS} customers with orders on two days or "
            f"more before {text(known_until, zone)}. Got {repeat}. Give a longer history."
        )


def _require_rows(samples: Samples, origins: tuple[Origin, ...], zone: str) -> None:
    if not len(samples):
        raise InputError(
            f"Training needs customers with an order before {text(origins[-1].cutoff, zone)}, the "
            "newest moment with a label of a month. Got none. Give a longer history."
        )


def _watch_leaks(samples: Samples, words: Catalogue, anchor: Anchor) -> None:
    """Refuse training where one attribute of customers alone tells the future.

    Attributes are of today, so one may tell the label of a single origin. Behaviour is cut at the
    origin by construction, and may well tell much: a subscriber's last month is like the next.

    Raises
    ------
    InputError
        Naming the feature.
    """
    few = np.linspace(0, len(samples) - 1, min(len(samples), LEAK_ROWS)).round().astype(np.intp)
    attributes = [j for j, f in enumerate(words.features) if isinstance(f.formula, str)]
    if not attributes:
        return
    _watch(samples, few, attributes, words, anchor)
    for origin in np.unique(samples.origin[few]):
        _watch(samples, few[samples.origin[few] == origin], attributes, words, anchor)


def _watch(
    samples: Samples,
    few: npt.NDArray[np.intp],
    columns: Sequence[int],
    words: Catalogue,
    anchor: Anchor,
) -> None:
    churned, gross = samples.churned[few], samples.gross[few]
    year = anchor.forecast(samples.history.take(few), [52.0])
    known = _separation(churned, year.no_order[:, 0])
    likely = _agreement(gross, year.value[:, 0])
    for j in columns:
        column = np.nan_to_num(samples.features[few, j], nan=-1.0)
        auroc, rank = _separation(churned, column), _agreement(gross, column)
        knows_churn = auroc > max(LEAK_AUROC, known + LEAK_MARGIN * (1 - known))
        if knows_churn or rank > max(LEAK_SPEARMAN, likely + LEAK_MARGIN * (1 - likely)):
            raise InputError(
                f"Features must not know the future. '{words.names[j]}' alone tells churn with "
                f"AUROC {auroc:.3f} and value with rank correlation {rank:.3f}. "
                "Remove it from [customers] static."
            )


def _separation(churned: Floats, column: Floats) -> float:
    """AUROC of one column for churn, in whichever direction is better."""
    ranks, lost = rankdata(column), float(churned.sum())
    kept = len(churned) - lost
    if min(lost, kept) < LEAK_LEAST:
        return 0.5
    auroc = float((ranks[churned == 1].sum() - lost * (lost + 1) / 2) / (lost * kept))
    return max(auroc, 1.0 - auroc)


def _agreement(gross: Floats, column: Floats) -> float:
    """Rank correlation of one column with value, among those who bought."""
    buyers = gross > 0
    here = column[buyers]
    if buyers.sum() < LEAK_LEAST or here.min() == here.max():
        return 0.0
    return abs(float(spearmanr(gross[buyers], here).statistic))
