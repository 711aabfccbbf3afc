"""The model: an anchor forecast, corrected from behaviour, for any horizon of 1 to 24 months.

    gross value (h) = order days (h) x spend x exp(correction)           anchor x members
    churn (h)       = logistic(logit P0(h) + correction)
    net revenue (h) = gross (h) x (1 - return share) - refunds still expected on past orders
    clv (h)         = sum over months of discounted margin, less the cost to keep

The corrections do not depend on the horizon, so a longer horizon never has a lower value or a
higher churn, and 24 monthly values cost as much as one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import brentq
from scipy.special import logit, xlogy

from features.behaviour import Rows
from features.catalogue import Catalogue, Vocabulary, catalogue
from features.errors import InputError
from features.money import Cashflow, Flow
from features.settings import MAX_MONTHS, Settings
from features.spine import local_day
from training import inactive, inputs, lifetimes, margins
from training.anchor import Anchor, Forecast, History
from training.calibration import NONE, Calibration, calibrate
from training.forest import narrowed
from training.grid import PROSPECT, Grid
from training.imagined import imagined
from training.intervals import Intervals
from training.margins import Margins
from training.members import Booster, Problem
from training.outlook import MONTH
from training.population import Population
from training.predictions import Predictions
from training.prospects import Newcomer, ProspectModel
from training.rehearsal import Rehearsal
from training.returns import Returns, tamed
from training.samples import Origin, Samples
from training.season import Season
from training.table import Table

__all__ = ["ANCHOR_COLUMNS", "COLD_START", "Model", "Predictions", "Returns"]

Floats = npt.NDArray[np.float64]
Moments = int | npt.NDArray[np.int64]  # of all rows, or (rows,)
ANCHOR_COLUMNS: Final = ("anchor_value", "anchor_orders", "anchor_churn", "anchor_spend")
REFERENCE_WEEKS: Final = 52.0  # horizon of the forecast that members see as columns
#: A correction is learned in units of the mean label; forecasts below a thousandth count as that.
LEAST: Final = 1e-3
COLD_START: Final = "cold_start"  # evidence of somebody without an order
ENOUGH_BUYERS: Final = 1_000  # in rehearsals, to read intervals off
LARGEST_SHIFT: Final = 40.0  # logit: every mean between 0 and 1 lies within


@dataclass(frozen=True)
class Model:
    """A fitted model. It holds no customer's data."""

    settings: Settings
    vocabulary: Vocabulary
    anchor: Anchor
    returns: Returns
    orders_per_day: float  # orders per day with an order
    scale: float  # mean label, currency: the unit of corrections
    columns: tuple[str, ...]  # features that vary, which the members see
    members: Mapping[str, Booster]  # "value" and "churn"; empty if data are few
    trained_until: int  # microseconds UTC: nothing at or after it was seen
    origins: tuple[Origin, ...]
    customers: int
    levels: tuple[float, float] = (0.0, 0.0)  # added to log value and logit of churn: `levelled`
    calibration: Calibration = NONE
    intervals: Intervals | None = None
    prospects: ProspectModel | None = None
    no_prospects: str = ""  # why there is no model of prospects
    population: Population | None = None  # stands in for it where nothing is known of somebody
    grid: Grid | None = None  # names segments; none in models of releases that knew none
    margins: Margins | None = None  # none where costs of orders were not known: the settings' share

    @property
    def newcomer(self) -> Newcomer:
        """What is expected of somebody who orders for the first time."""
        return Newcomer(
            self.anchor, self.orders_per_day, self.returns.share, self.settings, self.cashflow
        )

    @cached_property
    def cashflow(self) -> Cashflow:
        """How the money is counted of somebody of whom no order is known."""
        return margins.base(self.settings.business, self.margins)

    @cached_property
    def catalogue(self) -> Catalogue:
        """The features this model reads."""
        return catalogue(self.vocabulary)

    @property
    def longest(self) -> int:
        """The longest label that was learned from, calendar months."""
        return max((origin.months for origin in self.origins), default=0)

    @property
    def thin(self) -> bool:
        """Whether data were too few for more than the anchor."""
        return not self.members

    @classmethod
    def bare(
        cls,
        samples: Samples,
        anchor: Anchor,
        feature_names: Sequence[str],
        *,
        settings: Settings,
        vocabulary: Vocabulary,
        origins: tuple[Origin, ...],
        trained_until: int,
        customers: int,
        margins: Margins | None = None,
    ) -> Model:
        """All that training rows tell but the corrections."""
        named = {name: i for i, name in enumerate(feature_names)}

        def column(name: str) -> Floats:
            return samples.features[:, named[name]]

        spend = column("spend")
        factor = tamed(np.maximum(spend, samples.gross))
        returns = Returns.fit(samples, spend, column("refunds"), column("spend_30d"), factor)
        days = float(column("order_days").sum())
        return cls(
            settings=settings, vocabulary=vocabulary, anchor=anchor, returns=returns,
            orders_per_day=float(column("orders").sum()) / days if days else 1.0,
            scale=max(float((samples.gross * factor).mean()), 1e-9),
            columns=inputs.varying(samples.features, feature_names), members={},
            trained_until=trained_until, origins=origins, customers=customers, margins=margins,
        )  # fmt: skip

    def corrected(self, samples: Samples, feature_names: Sequence[str], seed: int) -> Model:
        """With corrections from the same rows; below `thin_below` customers there are none."""
        problems, trees = self.problems(samples, feature_names), self.settings.model.trees
        fitted = Booster.fit_each(problems, seed, trees)
        return replace(self, members={p.kind: one for p, one in zip(problems, fitted, strict=True)})

    def problems(self, samples: Samples, feature_names: Sequence[str]) -> tuple[Problem, ...]:
        """What the members are fitted to: value, then churn; none where there is too little."""
        chosen = self.settings.model
        few = self.customers < chosen.thin_below or chosen.objective == "btyd"
        if few or samples.churned.min() == samples.churned.max():
            return ()
        return self.posed(samples, feature_names)

    def posed(self, samples: Samples, feature_names: Sequence[str]) -> tuple[Problem, Problem]:
        """Rows of the model's `origins` as the members see them, with what came."""
        named = {name: i for i, name in enumerate(feature_names)}
        zone = self.settings.business.time_zone
        factor = tamed(np.maximum(samples.features[:, named["spend"]], samples.gross))
        value, none = np.empty(len(samples)), np.empty(len(samples))
        for k, origin in enumerate(self.origins):
            here = samples.origin == k
            ahead = self.anchor.season.ahead(origin.cutoff, origin.months, zone)
            found = self._start(samples.history.take(here), [ahead])
            value[here], none[here] = found.value[:, 0], found.no_order[:, 0]
        X = self._inputs(samples.features, named, samples.history)
        weight = samples.months / samples.months.max()
        weight = weight / weight.mean()
        return (
            Problem("value", X, samples.gross * factor / self.scale, self._margin(value * factor),
                    weight, samples.fold),
            Problem("churn", X, samples.churned, logit(none), weight, samples.fold),
        )  # fmt: skip

    def _margin(self, value: Floats) -> Floats:
        return np.asarray(xlogy(1.0, np.maximum(value / self.scale, LEAST)))

    def _start(self, history: History, weeks: Sequence[float] | Floats) -> Forecast:
        """What corrections are added to: each customer's forecast, or without an anchor the same
        newcomer's for everybody."""
        return self.anchor.forecast(self._known(history), weeks)

    def _known(self, history: History) -> History:
        if self.settings.model.objective == "plain":
            return history.newcomers(self.anchor.mean_spend)
        return history

    def _inputs(self, features: Floats, named: Mapping[str, int], history: History) -> Floats:
        """What the members see, (rows, columns): features and, if anchored, the forecast's year."""
        chosen = features[:, [named[name] for name in self.columns]]
        return np.column_stack([chosen, *self._year(history)])

    def history(self, rows: Rows, as_of: Moments) -> History:
        """What the anchor knows of feature rows at one `as_of`, or at one of each row's own."""
        season, zone = self.anchor.season, self.settings.business.time_zone
        if season.flat:  # then the day does not matter
            return History.of(rows)
        if np.ndim(as_of) == 0:
            return History.of(rows, season, local_day(int(as_of), zone))
        moments, own = np.unique(as_of, return_inverse=True)
        days = np.array([local_day(moment, zone) for moment in moments.tolist()], np.int64)
        return History.of(rows, season, days[own])

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what the members see: features and, if anchored, the forecast's year."""
        plain = self.settings.model.objective == "plain"
        return self.columns if plain else (*self.columns, *ANCHOR_COLUMNS)

    def seen(self, rows: Rows, as_of: Moments) -> Floats:
        """What the members see of feature rows, (rows, inputs).

        Raises
        ------
        InputError
            A column that the model learned from is not among the features.
        """
        chosen = rows.values[:, inputs.places(rows.catalogue.names, self.columns)]
        return np.column_stack([chosen, *self._year(self.history(rows, as_of))])

    def _year(self, history: History) -> Floats:
        """What the members see of the forecast, (columns, rows)."""
        if self.settings.model.objective == "plain":
            return np.empty((0, len(history.frequency)))
        return _year(self.anchor.forecast(history, [REFERENCE_WEEKS]))

    def corrections(self, rows: Rows, as_of: Moments) -> tuple[Floats, Floats]:
        """What is added to log value and to the logit of churn, (rows,) each."""
        if not self.members:
            return np.zeros(len(rows)), np.zeros(len(rows))
        return self._corrections(rows, self._year(self.history(rows, as_of)))

    def _corrections(self, rows: Rows, year: Floats) -> tuple[Floats, Floats]:
        """The same where the forecast's `ANCHOR_COLUMNS` are known, (columns, rows)."""
        if not self.members:
            return np.zeros(len(rows)), np.zeros(len(rows))
        places = inputs.places(rows.catalogue.names, self.columns)
        X = narrowed(rows.values, places, year)
        value, churn = (self.members[kind].leaves(X) for kind in ("value", "churn"))
        return value + self.levels[0], churn + self.levels[1]

    def levelled(self, rows: Rows, as_of: int, months: int) -> Model:
        """The model whose total and mean churn at `months` are the anchor's, for these rows.

        For histories that hold no label of the whole horizon: shorter labels tell who buys more
        than forecast, but their seasons say little of the level of a longer window.
        """
        ahead = self.anchor.season.ahead(as_of, months, self.settings.business.time_zone)
        forecast = self.anchor.forecast(self.history(rows, as_of), [ahead])
        up, odds = self.corrections(rows, as_of)
        value, none = forecast.value[:, 0], forecast.no_order[:, 0]
        # fsum rounds once: the same level in whatever order the customers stand.
        level = math.log(math.fsum(value) / math.fsum(value * np.exp(up)))
        wanted = math.fsum(none)

        def surplus(shift: float) -> float:
            return math.fsum(self.calibration.of(logit(none) + odds + shift)) - wanted

        shift = float(brentq(surplus, -LARGEST_SHIFT, LARGEST_SHIFT, xtol=1e-9))
        return replace(self, levels=(self.levels[0] + level, self.levels[1] + shift))

    def rehearsed(self, rehearsals: Sequence[Rehearsal], seed: int) -> Model:
        """The model with calibration and intervals from rehearsals.

        Where these hold too few buyers, customers imagined from the anchor's parameters are added.
        """
        calibration = calibrate(rehearsals)
        months = rehearsals[0].months if rehearsals else self.longest
        shown = [replace(r, churn=calibration.of(logit(r.churn))) for r in rehearsals]
        buyers = int(sum((r.churned == 0).sum() for r in shown))
        if buyers < ENOUGH_BUYERS:
            shown.append(imagined(self.anchor, months, ENOUGH_BUYERS - buyers, seed))
        return replace(self, calibration=calibration, intervals=Intervals.fit(shown))

    def predict(self, rows: Rows, as_of: Moments, months: Sequence[int]) -> Predictions:
        """Predictions of feature rows for any horizons of 1 to 24 months.

        They are asked at one `as_of`, or at one of each row's own, (rows,): the same bits, sooner.
        """
        return self._predicted(rows, as_of, months, self.cashflow)

    def _predicted(
        self, rows: Rows, as_of: Moments, months: Sequence[int], flow: Flow
    ) -> Predictions:
        asked = tuple(sorted(set(months)))
        ahead = self._ahead(as_of)
        start = self._start(self.history(rows, as_of), ahead)
        plain = self.settings.model.objective == "plain"
        up, odds = self._corrections(rows, _year(start)[: 0 if plain else None])
        gross, orders, churn, pace = lifetimes.corrected(
            start.no_order, start.order_days, start.spend, start.rate, up, odds, ahead,
            self.calibration, max(self.orders_per_day, 1.0),
        )  # fmt: skip
        at = [h - 1 for h in asked]
        spend, refunds = rows.column("spend"), rows.column("refunds")
        share = self.returns.of(spend, refunds)
        if self.margins:
            flow = flow.earning(self.margins.of_rows(rows, self.settings.business.margin))
        return Predictions(
            months=asked,
            gross=gross,
            orders=orders[:, at],
            churn=churn[:, at],
            return_share=share,
            pending=self.returns.pending * share * rows.column("spend_30d"),
            flow=flow,
            intervals=self.intervals,
            pace=pace * MONTH,
            silence=churn,
        )

    def flow(self, rows: Rows) -> Flow:
        """How rows' money is counted before what is known of their own margins."""
        return margins.priced(self.settings.business, self.cashflow, rows)

    def priced(self, rows: Rows, as_of: int, months: Sequence[int]) -> Predictions:
        """As `predict`, at the discount rates of `flow`."""
        return self._predicted(rows, as_of, months, self.flow(rows))

    def priced_prospects(self, rows: Rows, as_of: int, months: Sequence[int]) -> Predictions:
        """As `priced`, for prospects' rows of `features.people.prospects`.

        Raises
        ------
        InputError
            The model knows no prospects.
        """
        found = self.require_prospects().predict(rows, as_of, months, self.newcomer)
        return replace(found, flow=self.flow(rows))

    def _ahead(self, as_of: Moments) -> Floats:
        """The next 1 to 24 months in seasonal weeks, then the members' year; a row or each its own.

        The year comes with the months: one forecast, not two.
        """
        season, zone = self.anchor.season, self.settings.business.time_zone
        if np.ndim(as_of) == 0:
            return _ahead(season, int(as_of), zone)
        moments, own = np.unique(as_of, return_inverse=True)
        return np.concatenate([_ahead(season, t, zone) for t in moments.tolist()])[own]

    def table(self, rows: Rows, as_of: int, months: Sequence[int], version: str) -> pd.DataFrame:
        """The predictions table of the contract for feature rows at one `as_of`."""
        return self.tabled(rows, as_of, months, version).frame()

    def tabled(self, rows: Rows, as_of: int, months: Sequence[int], version: str) -> Table:
        """As `table`, in whatever form it is wanted."""
        return self._table(
            rows, as_of, self.evidence(months), self.priced(rows, as_of, months),
            self.inactive(rows, as_of), version,
        )  # fmt: skip

    def prospect_table(
        self, rows: Rows, as_of: int, months: Sequence[int], version: str
    ) -> pd.DataFrame:
        """The predictions table for prospects' rows of `features.people.prospects`.

        Raises
        ------
        InputError
            The model knows no prospects.
        """
        return self.tabled_prospects(rows, as_of, months, version).frame()

    def tabled_prospects(
        self, rows: Rows, as_of: int, months: Sequence[int], version: str
    ) -> Table:
        """As `prospect_table`, in whatever form it is wanted.

        Raises
        ------
        InputError
            The model knows no prospects.
        """
        found = self.priced_prospects(rows, as_of, months)
        ends = self.settings.business.churn == "contract_end" and rows.attributes is not None
        told = self.inactive(rows, as_of) if ends else inactive.nobody(self.settings, len(rows))
        return self._table(rows, as_of, COLD_START, found, told, version)

    def unknown_table(
        self, customer_id: str, as_of: int, months: Sequence[int], version: str
    ) -> pd.DataFrame:
        """One row for somebody whom no table knows.

        Raises
        ------
        InputError
            The model knows neither prospects nor its population.
        """
        one = np.array([customer_id], object)
        if self.population and self.prospects is None:
            zero = np.zeros(1, np.int64)
            rows = Rows(one, zero, zero, np.zeros((1, 0)), Catalogue(self.vocabulary, ()))
            found = self.population.predict(months, self.cashflow)
            told = inactive.nobody(self.settings, 1)
            return self._table(rows, as_of, COLD_START, found, told, version).frame()
        own = self.require_prospects()
        rows = replace(own.population(), ids=one)
        known = replace(self, prospects=own.uncorrected())
        return known.prospect_table(rows, as_of, months, version)

    def require_prospects(self) -> ProspectModel:
        """The model of prospects.

        Raises
        ------
        InputError
            There is none.
        """
        if self.prospects is None:
            why = self.no_prospects or "it was trained by a release that knew none"
            raise InputError(
                f"The model must know prospects. It does not: {why}. Train with a table customers "
                "of all who signed up, with or without an order, and when (acquired_at)."
            )
        return self.prospects

    def _table(
        self, rows: Rows, as_of: int, evidence: str, found: Predictions,
        marked: Mapping[str, npt.NDArray[Any]], version: str,
    ) -> Table:  # fmt: skip
        zone, segments = self.settings.business.time_zone, self._segments(found, evidence)
        return Table(rows, as_of, zone, evidence, found, marked, segments, version)

    def _segments(self, found: Predictions, evidence: str) -> npt.NDArray[np.object_]:
        if self.grid is None:
            return np.full(len(found.gross), None, object)
        if evidence == COLD_START:
            return np.full(len(found.gross), PROSPECT, object)
        return self.grid.of(found)

    def evidence(self, months: Sequence[int]) -> str:
        """How much the history supports predictions of these horizons."""
        if self.thin:
            return "thin"
        return "extrapolated" if max(months) > self.longest else "full"

    def inactive(self, rows: Rows, as_of: int) -> dict[str, npt.NDArray[Any]]:
        """The column of a churn definition other than "no order": 1 where it holds at `as_of`."""

        def alive() -> Floats:
            known = self.history(rows, as_of)
            return self.anchor.orders.p_alive(known.frequency, known.recency, known.age)

        return inactive.columns(rows, as_of, self.settings, alive)


def _year(found: Forecast) -> Floats:
    """`ANCHOR_COLUMNS` of a forecast whose last horizon is the year, (columns, rows)."""
    days = found.order_days[:, -1]
    year = np.empty((len(ANCHOR_COLUMNS), len(days)))
    year[0], year[1], year[2], year[3] = (
        days * found.spend,
        days,
        found.no_order[:, -1],
        found.spend,
    )
    return year


@lru_cache(maxsize=64)
def _ahead(season: Season, as_of: int, zone: str) -> Floats:
    months = (season.ahead(as_of, m + 1, zone) for m in range(MAX_MONTHS))
    return np.array([[*months, REFERENCE_WEEKS]])
