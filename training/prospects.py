"""Prospects: people who signed up and have not ordered yet, their chance to and what it is worth.

    chance (h)  = 1 - logistic(logit P0(age, h) + correction)      no order within h, given none yet
    value (h)   = sum over months m <= h of [chance (m) - chance (m - 1)]
                  x newcomer's value of the h - m + 1/2 months left x exp(level + correction)

P0 is the population's: a life table of the first order by time since sign-up (occurrence over
exposure; people still without an order count for as long as they were seen). The newcomer's value
is the anchor's: spend of a first order and of what Pareto/NBD expects after it. Corrections are
boosted from profile, events, age and month, and do not depend on the horizon: so a longer horizon
has no lower value and no higher chance of no order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import inv_boxcox, logit, xlogy

from features import people
from features.behaviour import Rows, learn
from features.catalogue import Vocabulary
from features.money import Cashflow
from features.settings import MAX_MONTHS, Settings
from features.spine import DAY, add_months
from features.store import Store
from training.anchor import Anchor
from training.calibration import NONE
from training.inputs import varying
from training.intervals import Intervals
from training.members import Booster, Problem
from training.predictions import Predictions
from training.rehearsal import Rehearsal
from training.returns import tamed
from training.samples import Origin, plan
from training.waiting import LifeTable, Waiting, collect, each_people, survey

__all__ = ["ENOUGH", "Newcomer", "ProspectModel", "fit", "golden_rows"]

Floats = npt.NDArray[np.float64]
LEAST: Final = 10  # first orders of prospects: fewer say nothing of the chance of one
ENOUGH: Final = 100  # first orders of prospects: below it there is the population's curve alone
#: A table of customers with a smaller share of people without any order holds buyers only.
OTHERS: Final = 0.01
ORIGINS: Final = 24  # past cutoffs at most: rows of prospects are few
LEVEL_STRENGTH: Final = 20.0  # conversions that speak for the anchor's own value of a newcomer
#: Relative error that all prospects' values share, at least: the rows are those learned from, and
#: who signs up changes sooner than who stays.
COMMON: Final = 0.2
TINY: Final = 1e-9  # currency: logarithms need more than nothing
GOLDEN_ROWS: Final = 6


@dataclass(frozen=True)
class Newcomer:
    """What the model of customers says of somebody who orders for the first time."""

    anchor: Anchor
    orders_per_day: float
    return_share: float
    settings: Settings
    cashflow: Cashflow  # how money is counted

    def order_days(self, as_of: int) -> Floats:
        """Expected order days by the end of month h of somebody whose first falls into month m.

        (24, 24) at [m - 1, h - 1], the first one included; 0 where h < m.
        """
        zone = self.settings.business.time_zone
        ends = np.array(
            [0.0, *(self.anchor.season.ahead(as_of, m + 1, zone) for m in range(MAX_MONTHS))]
        )
        middle = (ends[:-1] + ends[1:]) / 2
        left = np.maximum(ends[1:] - middle[:, None], 0.0)
        return np.triu(1.0 + self.anchor.newcomers_orders(left))


@dataclass(frozen=True)
class ProspectModel:
    """A fitted model of prospects. It holds no person's data."""

    table: LifeTable
    vocabulary: Vocabulary
    columns: tuple[str, ...]  # what the members see
    members: Mapping[str, Booster]  # "value" and "churn"; empty where conversions are few
    level: float  # added to log value
    people: int  # who were prospects at a past cutoff
    conversions: int
    age: float  # days since sign-up of a typical prospect
    intervals: Intervals | None = None

    def predict(
        self,
        rows: Rows,
        as_of: int,
        months: Sequence[int],
        newcomer: Newcomer,
        corrections: tuple[Floats, Floats] | None = None,
    ) -> Predictions:
        """Predictions of prospects' rows at one `as_of`, for any horizons of 1 to 24 months.

        `corrections` take the place of the rows' own.
        """
        asked = tuple(sorted(set(months)))
        age = rows.column(people.AGE.name)
        none = self._none(age, as_of, newcomer) if len(rows) else np.zeros((0, MAX_MONTHS))
        up, odds = corrections or self.corrections(rows)
        churn = NONE.of(logit(none) + odds[:, None])
        days = _order_days(churn, newcomer.order_days(as_of))
        factor = inv_boxcox(up + self.level, 0.0)[:, None]
        at = [h - 1 for h in asked]
        orders = days * max(newcomer.orders_per_day, 1.0)
        return Predictions(
            months=asked,
            gross=days * newcomer.anchor.mean_spend * factor,
            orders=orders[:, at],
            churn=churn[:, at],
            return_share=np.full(len(rows), newcomer.return_share),
            pending=np.zeros(len(rows)),
            flow=newcomer.cashflow,
            intervals=self.intervals,
            # Nobody knows the rhythm of somebody who never ordered: it is the mean of two years.
            pace=orders[:, -1] / MAX_MONTHS,
            silence=churn,
        )

    def population(self) -> Rows:
        """One row of somebody of whom nothing is known but that they have not ordered yet."""
        words = people.words(self.vocabulary)
        values = np.full((1, len(words.names)), np.nan)
        values[0, 0] = self.age
        return Rows(np.array([""], object), np.zeros(1, np.int64), np.zeros(1, np.int64), values,
                    words)  # fmt: skip

    def uncorrected(self) -> ProspectModel:
        """The population's answer: the life table and the level, the same for equal ages."""
        return replace(self, members={})

    def _none(self, age: Floats, as_of: int, newcomer: Newcomer) -> Floats:
        """The population's chance of no order by the end of months 1 to 24, (rows, 24)."""
        ends = _month_ends(as_of, newcomer.settings.business.time_zone)
        return self.table.none(age[:, None], ends)

    def corrections(self, rows: Rows) -> tuple[Floats, Floats]:
        """What is added to log value and to the logit of no order, (rows,) each."""
        if not self.members or not len(rows):
            return np.zeros(len(rows)), np.zeros(len(rows))
        X, none = self.seen(rows), np.zeros(len(rows))
        value, churn = (self.members.get(kind) for kind in ("value", "churn"))
        return value.correction(X) if value else none, churn.correction(X) if churn else none

    def contributions(self, rows: Rows) -> tuple[Floats, Floats]:
        """What each column adds to either correction, (rows, columns) each."""
        X = self.seen(rows)
        none = np.zeros(X.shape)
        value, churn = (self.members.get(kind) for kind in ("value", "churn"))
        return value.contributions(X) if value else none, churn.contributions(X) if churn else none

    def seen(self, rows: Rows) -> Floats:
        """What the members see of rows, (rows, columns)."""
        return _inputs(rows, self.columns)

    # --- the bundle ---

    def parts(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Plain values for the model card, and the boosters by file name."""
        card = {
            "rates": list(self.table.rates),
            "vocabulary": self.vocabulary.as_dict(),
            "columns": list(self.columns),
            "members": list(self.members),
            "level": self.level,
            "intervals": self.intervals.as_dict() if self.intervals else None,
            "people": self.people,
            "conversions": self.conversions,
            "age": self.age,
        }
        return card, {f"prospect_{kind}.ubj": b.raw for kind, b in self.members.items()}

    @classmethod
    def from_parts(cls, card: Mapping[str, Any], files: Mapping[str, bytes]) -> ProspectModel:
        """The inverse of `parts`."""
        return cls(
            table=LifeTable(tuple(card["rates"])),
            vocabulary=Vocabulary.from_dict(card["vocabulary"]),
            columns=tuple(card["columns"]),
            members={kind: Booster(files[f"prospect_{kind}.ubj"]) for kind in card["members"]},
            level=card["level"],
            intervals=Intervals.from_dict(card["intervals"]) if card["intervals"] else None,
            people=card["people"],
            conversions=card["conversions"],
            age=card["age"],
        )


def fit(
    store: Store,
    known_until: int,
    longest: int,
    newcomer: Newcomer,
    *,
    seed: int = 0,
    workers: int = 1,
) -> tuple[ProspectModel | None, str]:
    """A model of prospects that sees no order, event or sign-up at or after `known_until`.

    Returns
    -------
    The model and "", or None and why there is none. Whether the table of customers holds buyers
    only is asked of all its people who had signed up by then, whenever they ordered: a table that
    lists somebody because they bought later would otherwise tell that they do.
    """
    settings = newcomer.settings
    if not people.known(store):
        return None, "there is no table customers with acquired_at"
    static = settings.customers.static
    found = each_people(store, lambda one: survey(one, known_until, static), workers)
    signed, silent = (sum(getattr(each, name) for each in found) for name in ("signed", "silent"))
    if not signed:
        return None, "nobody's acquired_at lies before the moment of training"
    if silent < OTHERS * signed:
        return None, "the table customers holds buyers only"
    orders, seconds = (
        np.sum([getattr(each, name) for each in found], axis=0) for name in ("orders", "seconds")
    )
    table = LifeTable.fit(orders, seconds)
    vocabulary = learn(each.counts for each in found)
    zone = settings.business.time_zone
    origins = plan(store.first_ts, known_until, longest, zone, ORIGINS)
    waiting = collect(store, vocabulary, origins, known_until, settings, workers)
    if not len(waiting) or waiting.conversions < LEAST:
        count = waiting.conversions if len(waiting) else 0
        return None, f"only {count} people ordered for the first time after a wait"
    return _fitted(waiting, table, vocabulary, origins, newcomer, seed), ""


def _fitted(
    waiting: Waiting,
    table: LifeTable,
    vocabulary: Vocabulary,
    origins: Sequence[Origin],
    newcomer: Newcomer,
    seed: int,
) -> ProspectModel:
    rows, conversions = waiting.rows, waiting.conversions
    age = rows.column(people.AGE.name)
    model = ProspectModel(
        table=table, vocabulary=vocabulary,
        columns=varying(rows.values, rows.catalogue.names), members={}, level=0.0,
        people=len(np.unique(rows.who)),
        conversions=conversions, age=float(np.median(age)),
    )  # fmt: skip
    weight = waiting.months / waiting.months.mean()
    enough = conversions >= ENOUGH and waiting.churned.max() > 0
    X = _inputs(rows, model.columns)
    factor = tamed(waiting.gross)
    came = waiting.gross * factor
    if enough:
        none = _expected(model, waiting, origins, newcomer)[1]
        problem = Problem("churn", X, waiting.churned, logit(none), weight, waiting.fold)
        model = replace(model, members={"churn": Booster.fit(problem, seed)})
        due = _expected(model, waiting, origins, newcomer)[0] * factor
        scale = max(float(came.mean()), TINY)
        margin = np.asarray(xlogy(1.0, np.maximum(due / scale, TINY)), np.float64)
        problem = Problem("value", X, came / scale, margin, weight, waiting.fold)
        members = {"value": Booster.fit(problem, seed), **model.members}
        model = replace(model, members=members)
    # Boosting leaves the total of the training rows some way off: it is set last.
    due = _expected(model, waiting, origins, newcomer)[0] * factor
    total = math.fsum(weight * came), math.fsum(weight * due)
    trust = conversions / (conversions + LEVEL_STRENGTH)
    model = replace(model, level=trust * math.log(max(total[0], TINY) / max(total[1], TINY)))
    intervals = Intervals.fit(_rehearsed(model, waiting, origins, newcomer))
    return replace(model, intervals=replace(intervals, common=max(COMMON, intervals.common)))


def _at(waiting: Waiting, k: int) -> Waiting:
    """The rows of one origin."""
    return waiting.take(np.flatnonzero(waiting.rows.cut == k))


def _expected(
    model: ProspectModel, waiting: Waiting, origins: Sequence[Origin], newcomer: Newcomer
) -> tuple[Floats, Floats]:
    """Gross value and chance of no order over each row's own label, (rows,) each."""
    gross, none = np.zeros(len(waiting)), np.zeros(len(waiting))
    for k, origin in enumerate(origins):
        here = waiting.rows.cut == k
        found = model.predict(_at(waiting, k).rows, origin.cutoff, [origin.months], newcomer)
        gross[here], none[here] = found.gross[:, origin.months - 1], found.churn[:, 0]
    return gross, none


def _rehearsed(
    model: ProspectModel, waiting: Waiting, origins: Sequence[Origin], newcomer: Newcomer
) -> list[Rehearsal]:
    """Training rows beside their outcomes, by origin, of the label length that most bought in."""
    bought = np.bincount(waiting.months[waiting.churned == 0], minlength=MAX_MONTHS + 1)
    months = MAX_MONTHS - int(np.argmax(bought[::-1]))
    found = []
    for k, origin in enumerate(origins):
        some = _at(waiting, k)
        if origin.months != months or not len(some):
            continue
        told = model.predict(some.rows, origin.cutoff, [months], newcomer)
        actual = told.flow.discounted(np.ascontiguousarray(some.came[:, :months]), months)
        found.append(
            Rehearsal(origin.cutoff, months, told.value(months), told.orders[:, 0],
                      told.churn[:, 0], actual, some.churned)
        )  # fmt: skip
    return found


def _inputs(rows: Rows, columns: Sequence[str]) -> Floats:
    names = rows.catalogue.names
    return np.ascontiguousarray(rows.values[:, [names.index(name) for name in columns]])


def _order_days(churn: Floats, newcomer: Floats) -> Floats:
    """Expected order days by the end of months 1 to 24, (rows, 24), from chances of none.

    ``newcomer[m, h]`` are those by the end of month h of who orders first in month m.
    """
    found, before = np.zeros(churn.shape), np.ones(len(churn))
    for m in range(MAX_MONTHS):
        # Rounding of the logit may leave a month a last bit below none.
        found += np.maximum(before - churn[:, m], 0.0)[:, None] * newcomer[m]
        before = churn[:, m]
    return found


def _month_ends(as_of: int, zone: str) -> Floats:
    """Days from `as_of` to the end of months 1 to 24."""
    return np.array([(add_months(as_of, m + 1, zone) - as_of) / DAY for m in range(MAX_MONTHS)])


def golden_rows(model: ProspectModel) -> Floats:
    """Synthetic rows that belong to nobody, (GOLDEN_ROWS, features)."""
    rng = np.random.default_rng(1998)
    n = len(people.words(model.vocabulary).names)
    rows = np.round(rng.gamma(0.7, 40.0, (GOLDEN_ROWS, n)), 2)
    rows[:, 2:][rng.random((GOLDEN_ROWS, n - 2)) < 0.1] = np.nan
    rows[:, 1] = rng.integers(1, 13, GOLDEN_ROWS)
    return rows
