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
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import brentq
from scipy.special import inv_boxcox, logit, xlogy

from features import people
from features.behaviour import Rows
from features.catalogue import Catalogue, Vocabulary, catalogue, feature_hash
from features.errors import BundleError, InputError
from features.money import Cashflow
from features.settings import MAX_MONTHS, Settings, parse
from features.spine import instant, local_day, text
from training.anchor import Anchor, Forecast, History
from training.bundle import Parts
from training.calibration import NONE, Calibration, calibrate
from training.golden import golden_rows, golden_values, require_same
from training.imagined import imagined
from training.intervals import Intervals
from training.members import LARGEST_LEAF, Booster, Problem
from training.outlook import days, pace
from training.predictions import Predictions
from training.prospects import Newcomer, ProspectModel
from training.prospects import golden_rows as golden_prospects
from training.rehearsal import Rehearsal
from training.returns import Returns, tamed
from training.samples import Origin, Samples

__all__ = ["ANCHOR_COLUMNS", "COLD_START", "Model", "Predictions", "Returns", "golden_rows"]

Floats = npt.NDArray[np.float64]
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

    @property
    def newcomer(self) -> Newcomer:
        """What is expected of somebody who orders for the first time."""
        return Newcomer(self.anchor, self.orders_per_day, self.returns.share, self.settings)

    @property
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
            columns=_varying(samples.features, feature_names), members={},
            trained_until=trained_until, origins=origins, customers=customers,
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

    def _start(self, history: History, weeks: Sequence[float]) -> Forecast:
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
        if self.settings.model.objective == "plain":
            return chosen
        year = self.anchor.forecast(history, [REFERENCE_WEEKS])
        return np.column_stack(
            [chosen, year.value[:, 0], year.order_days[:, 0], year.no_order[:, 0], year.spend]
        )

    def history(self, rows: Rows, as_of: int) -> History:
        """What the anchor knows of feature rows at one `as_of`."""
        day = local_day(as_of, self.settings.business.time_zone)
        return History.of(rows, self.anchor.season, day)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what the members see: features and, if anchored, the forecast's year."""
        plain = self.settings.model.objective == "plain"
        return self.columns if plain else (*self.columns, *ANCHOR_COLUMNS)

    def seen(self, rows: Rows, as_of: int) -> Floats:
        """What the members see of feature rows, (rows, inputs).

        Raises
        ------
        InputError
            A column that the model learned from is not among the features.
        """
        named = {name: i for i, name in enumerate(rows.catalogue.names)}
        missing = [name for name in self.columns if name not in named]
        if missing:
            raise InputError(
                f"The features must hold the model's columns. Missing: {missing[0]}. "
                "Build them with the model's own vocabulary."
            )
        return self._inputs(rows.values, named, self.history(rows, as_of))

    def corrections(self, rows: Rows, as_of: int) -> tuple[Floats, Floats]:
        """What is added to log value and to the logit of churn, (rows,) each."""
        if not self.members:
            return np.zeros(len(rows)), np.zeros(len(rows))
        X = self.seen(rows, as_of)
        value, churn = (self.members[kind].correction(X) for kind in ("value", "churn"))
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

    def predict(self, rows: Rows, as_of: int, months: Sequence[int]) -> Predictions:
        """Predictions of feature rows at one `as_of`, for any horizons of 1 to 24 months."""
        zone = self.settings.business.time_zone
        asked = tuple(sorted(set(months)))
        ahead = [self.anchor.season.ahead(as_of, m + 1, zone) for m in range(MAX_MONTHS)]
        history = self.history(rows, as_of)
        forecast = self._start(history, ahead)
        up, odds = self.corrections(rows, as_of)
        factor = inv_boxcox(up, 0.0)[:, None]  # exp, by scipy's scalar loop: exact by row
        churn = self.calibration.of(logit(forecast.no_order) + odds[:, None])
        orders = _orders(forecast, churn, self.orders_per_day)
        known = self._known(history)
        rate = self.anchor.orders.rate(known.frequency, known.age) * max(self.orders_per_day, 1.0)
        at = [h - 1 for h in asked]
        spend, refunds = rows.column("spend"), rows.column("refunds")
        share = self.returns.of(spend, refunds)
        return Predictions(
            months=asked,
            gross=forecast.value * factor,
            orders=orders[:, at],
            churn=churn[:, at],
            return_share=share,
            pending=self.returns.pending * share * rows.column("spend_30d"),
            flow=Cashflow.of(self.settings.business),
            intervals=self.intervals,
            pace=pace(rate, orders, ahead),
            silence=churn,
        )

    def table(self, rows: Rows, as_of: int, months: Sequence[int], version: str) -> pd.DataFrame:
        """The predictions table of the contract for feature rows at one `as_of`."""
        found = self.predict(rows, as_of, months)
        return self._frame(
            rows, as_of, self.evidence(months), found, self.inactive(rows, as_of), version
        )

    def prospect_table(
        self, rows: Rows, as_of: int, months: Sequence[int], version: str
    ) -> pd.DataFrame:
        """The predictions table for prospects' rows of `features.people.prospects`.

        Raises
        ------
        InputError
            The model knows no prospects.
        """
        found = self.require_prospects().predict(rows, as_of, months, self.newcomer)
        rule = self.settings.business.churn.split(":")[0]
        inactive = {}
        if rule == "contract_end" and rows.attributes is not None:
            inactive = self.inactive(rows, as_of)
        elif rule != "no_order":
            # Who has no order has no gap of their own to be silent for.
            inactive = {f"inactive_{rule}": np.zeros(len(rows), np.int64)}
        return self._frame(rows, as_of, COLD_START, found, inactive, version)

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

    def _frame(
        self,
        rows: Rows,
        as_of: int,
        evidence: str,
        found: Predictions,
        inactive: Mapping[str, npt.NDArray[Any]],
        version: str,
    ) -> pd.DataFrame:
        zone = self.settings.business.time_zone
        frame: dict[str, Any] = {
            "customer_id": rows.ids[rows.who],
            "as_of": np.full(len(rows), text(as_of, zone), object),
            "evidence": np.full(len(rows), evidence, object),
            **found.columns(),
            **inactive,
            "next_order_on": days(found.next_order(), as_of, zone),
            **found.drivers(),
            "model_version": np.full(len(rows), version, object),
        }
        return pd.DataFrame(frame)

    def evidence(self, months: Sequence[int]) -> str:
        """How much the history supports predictions of these horizons."""
        if self.thin:
            return "thin"
        return "extrapolated" if max(months) > self.longest else "full"

    def inactive(self, rows: Rows, as_of: int) -> dict[str, npt.NDArray[Any]]:
        """The column of a churn definition other than "no order": 1 where it holds at `as_of`."""
        rule = self.settings.business.churn
        if rule == "no_order":
            return {}
        if rule == "contract_end":
            ends = rows.attribute("contract_end")
            zone = self.settings.business.time_zone
            # It holds through its last day, and is over from the local midnight after it.
            today = local_day(as_of, zone)
            over = [bool(end) and local_day(instant(end[:10], zone), zone) < today for end in ends]
            return {"inactive_contract_end": np.array(over, np.int64)[rows.who]}
        multiple = float(rule.split(":")[1])
        overdue = rows.column("overdue_ratio")
        # One order has no gap of its own: the anchor's chance of life decides.
        history = self.history(rows, as_of)
        alive = self.anchor.orders.p_alive(history.frequency, history.recency, history.age)
        over_due = np.where(np.isnan(overdue), alive < 0.5, overdue > multiple)
        return {"inactive_own_gap": over_due.astype(np.int64)}

    # --- the bundle ---

    def parts(self, scores: Mapping[str, Any] | None = None) -> Parts:
        """What a bundle holds: card, boosters and golden rows."""
        card = {
            "feature_hash": feature_hash(),
            "features": list(self.catalogue.names),
            "settings": self.settings.as_dict(),
            "currency": self.settings.business.currency,
            "churn": self.settings.business.churn,
            "vocabulary": self.vocabulary.as_dict(),
            "anchor": self.anchor.as_dict(),
            "returns": [self.returns.share, self.returns.strength, self.returns.pending],
            "orders_per_day": self.orders_per_day,
            "scale": self.scale,
            "levels": list(self.levels),
            "calibration": list(self.calibration),
            "intervals": self.intervals.as_dict() if self.intervals else None,
            "columns": list(self.columns),
            "members": list(self.members),
            "trained_until": self.trained_until,
            "origins": [[origin.cutoff, origin.months] for origin in self.origins],
            "customers": self.customers,
            "scores": dict(scores or {}),
        }
        files = {f"{kind}.ubj": booster.raw for kind, booster in self.members.items()}
        rows = golden_rows(self.catalogue)
        golden: dict[str, Any] = {"rows": rows.tolist(), "predictions": self._golden(rows)}
        card["prospects"] = {"none": self.no_prospects}
        if self.prospects:
            card["prospects"], more = self.prospects.parts()
            files |= more
            rows = golden_prospects(self.prospects)
            told = self._golden_prospects(rows)
            golden["prospects"] = {"rows": rows.tolist(), "predictions": told}
        return Parts(card, files, golden)

    @classmethod
    def from_parts(cls, parts: Parts) -> Model:
        """The model of verified parts; its golden rows must give what they gave when saved.

        Raises
        ------
        BundleError
            A golden row differs by one bit, a prediction is not finite, or a leaf is absurd.
        """
        card = parts.card
        about = card.get("prospects", {"none": ""})
        model = cls(
            settings=parse(card["settings"], "card.json"),
            vocabulary=Vocabulary.from_dict(card["vocabulary"]),
            anchor=Anchor.from_dict(card["anchor"]),
            returns=Returns(*card["returns"]),
            orders_per_day=card["orders_per_day"],
            scale=card["scale"],
            levels=tuple(card["levels"]),
            calibration=Calibration(*card["calibration"]),
            intervals=Intervals.from_dict(card["intervals"]) if card["intervals"] else None,
            columns=tuple(card["columns"]),
            members={kind: Booster(parts.files[f"{kind}.ubj"]) for kind in card["members"]},
            trained_until=card["trained_until"],
            origins=tuple(Origin(*pair) for pair in card["origins"]),
            customers=card["customers"],
            prospects=None if "none" in about else ProspectModel.from_parts(about, parts.files),
            no_prospects=about.get("none", ""),
        )
        for name, raw in parts.files.items():
            if not Booster(raw).sane:
                raise BundleError(
                    f"The leaves of the trees must be {LARGEST_LEAF:g} at most. Got a larger one "
                    f"in {name}. Train again."
                )
        require_same(model._golden(golden_values(parts.golden)), parts.golden["predictions"])
        if model.prospects:
            golden = parts.golden["prospects"]
            found = model._golden_prospects(golden_values(golden))
            require_same(found, golden["predictions"])
        return model

    def _golden(self, values: Floats) -> dict[str, list[float]]:
        n = len(values)
        ids = np.array([f"golden{i}" for i in range(n)], object)
        rows = Rows(ids, np.arange(n), np.zeros(n, np.int64), values, self.catalogue)
        found = self.predict(rows, self.trained_until, (1, 12, MAX_MONTHS)).columns()
        return {name: column.tolist() for name, column in found.items()}

    def _golden_prospects(self, values: Floats) -> dict[str, list[float]]:
        n, own = len(values), self.require_prospects()
        ids = np.array([f"golden{i}" for i in range(n)], object)
        rows = Rows(ids, np.arange(n), np.zeros(n, np.int64), values, people.words(own.vocabulary))
        months = (1, 12, MAX_MONTHS)
        found = own.predict(rows, self.trained_until, months, self.newcomer).columns()
        return {name: column.tolist() for name, column in found.items()}


def _orders(forecast: Forecast, churn: Floats, orders_per_day: float) -> Floats:
    """Expected orders: the corrected chance of any, times the anchor's number given one."""
    given_one = forecast.order_days / (1.0 - forecast.no_order)
    return np.asarray((1.0 - churn) * given_one * max(orders_per_day, 1.0))


def _varying(features: Floats, names: Sequence[str]) -> tuple[str, ...]:
    """Columns with two different known values, or known and unknown ones."""
    first = features[0]
    same = (features == first) | (np.isnan(features) & np.isnan(first))
    return tuple(name for name, flat in zip(names, same.all(axis=0), strict=True) if not flat)
