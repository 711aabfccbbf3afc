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
from scipy.special import expit, inv_boxcox, logit, xlogy

from features.behaviour import Rows
from features.catalogue import Catalogue, Vocabulary, catalogue, feature_hash
from features.errors import BundleError, InputError
from features.money import Cashflow
from features.settings import MAX_MONTHS, Settings, parse
from features.spine import instant, local_day, text
from training.anchor import Anchor, Forecast, History
from training.bundle import Parts
from training.members import LARGEST_LEAF, Booster, Problem
from training.samples import Origin, Samples, weeks_ahead

__all__ = ["Model", "Predictions", "Returns"]

Floats = npt.NDArray[np.float64]
ANCHOR_COLUMNS: Final = ("anchor_value", "anchor_orders", "anchor_churn", "anchor_spend")
REFERENCE_WEEKS: Final = 52.0  # horizon of the forecast that members see as columns
#: A correction is learned in units of the mean label; forecasts below a thousandth count as that.
LEAST: Final = 1e-3
#: A customer who spends more than this many times the median teaches as one who spends just that.
GIANT: Final = 100.0
GOLDEN_ROWS: Final = 12
LARGEST_SHIFT: Final = 40.0  # logit: every mean between 0 and 1 lies within


@dataclass(frozen=True)
class Returns:
    """Share of purchases that is given back, per customer, and what is still on its way.

    A customer's share is pulled to the population's as if they had bought `strength` (currency)
    more at that share. ``pending`` is the part of the last 30 days' expected refunds that is
    still to come at a cutoff.
    """

    share: float
    strength: float
    pending: float

    MOST = 0.95  # of purchases: beyond it, net value would no longer rise with the horizon

    @classmethod
    def fit(
        cls, samples: Samples, spend: Floats, refunds: Floats, recent: Floats, tamed: Floats
    ) -> Returns:
        """Level from all purchases so far; what is pending from labels against that level.

        `spend`, `refunds` and `recent` (last 30 days' spend) are the rows' features, currency;
        `tamed` is each row's factor from `_tamed`.
        """
        bought = float((spend * tamed).sum())
        share = min(float((refunds * tamed).sum()) / bought, cls.MOST) if bought > 0 else 0.0
        buyers = spend > 0
        strength = float((spend * tamed)[buyers].mean()) if buyers.any() else 1.0
        plain = cls(share, strength, 0.0)
        each = plain.of(spend, refunds) * tamed
        expected, due = float((each * samples.gross).sum()), float((each * recent).sum())
        late = (float((samples.refunds * tamed).sum()) - expected) / due if due > 0 else 0.0
        return replace(plain, pending=min(max(late, 0.0), 1.0))

    def of(self, spend: Floats, refunds: Floats) -> Floats:
        """Expected share of each customer, (rows,)."""
        share = (refunds + self.share * self.strength) / (spend + self.strength)
        return np.clip(share, 0.0, self.MOST)


@dataclass(frozen=True)
class Predictions:
    """Predictions of rows; money in currency units, (rows,) or (rows, months).

    ``gross`` is cumulative at the end of months 1 to 24; ``churn`` and ``orders`` are those of
    ``months``, the horizons that were asked for.
    """

    months: tuple[int, ...]
    gross: Floats
    orders: Floats
    churn: Floats
    return_share: Floats
    pending: Floats
    flow: Cashflow

    def revenue(self, month: int) -> Floats:
        """Expected net revenue, not discounted."""
        return self.gross[:, month - 1] * (1.0 - self.return_share) - self.pending

    def columns(self) -> dict[str, Floats]:
        """The predictions table's columns of every horizon, in the contract's order."""
        net = np.column_stack([self.revenue(m + 1) for m in range(MAX_MONTHS)])
        found: dict[str, Floats] = {}
        for j, h in enumerate(self.months):
            cost = self.flow.retention_cost(h)
            found[f"revenue_{h}m"] = self.revenue(h)
            found[f"orders_{h}m"] = np.ascontiguousarray(self.orders[:, j])
            found[f"churn_{h}m"] = np.ascontiguousarray(self.churn[:, j])
            found[f"margin_{h}m"] = self.flow.margin * self.revenue(h)
            found[f"retention_cost_{h}m"] = np.full(len(net), cost)
            found[f"clv_{h}m"] = self.flow.discounted(net, h) - cost
        return found


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
    levels: tuple[float, float] = (
        0.0,
        0.0,
    )  # added to log value and logit of churn, see `levelled`

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
    def fit(
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
        seed: int,
    ) -> Model:
        """Fit the corrections on training rows; below `thin_below` customers there are none."""
        named = {name: i for i, name in enumerate(feature_names)}

        def column(name: str) -> Floats:
            return samples.features[:, named[name]]

        spend = column("spend")
        tamed = _tamed(np.maximum(spend, samples.gross))
        returns = Returns.fit(samples, spend, column("refunds"), column("spend_30d"), tamed)
        days = float(column("order_days").sum())
        model = cls(
            settings=settings, vocabulary=vocabulary, anchor=anchor, returns=returns,
            orders_per_day=float(column("orders").sum()) / days if days else 1.0,
            scale=max(float((samples.gross * tamed).mean()), 1e-9),
            columns=_varying(samples.features, feature_names), members={},
            trained_until=trained_until, origins=origins, customers=customers,
        )  # fmt: skip
        few = customers < settings.model.thin_below or settings.model.objective == "btyd"
        if few or samples.churned.min() == samples.churned.max():
            return model
        return replace(model, members=model._learn(samples, named, tamed, seed))

    def _learn(
        self, samples: Samples, named: Mapping[str, int], tamed: Floats, seed: int
    ) -> dict[str, Booster]:
        zone = self.settings.business.time_zone
        value, none = np.empty(len(samples)), np.empty(len(samples))
        for k, origin in enumerate(self.origins):
            here = samples.origin == k
            ahead = weeks_ahead(origin.cutoff, origin.months, zone)
            found = self.anchor.forecast(samples.history.take(here), [ahead])
            value[here], none[here] = found.value[:, 0], found.no_order[:, 0]
        chosen = samples.features[:, [named[name] for name in self.columns]]
        X = np.hstack([chosen, self._anchor_columns(samples.history)])
        weight = samples.months / samples.months.max()
        weight = weight / weight.mean()
        problems = (
            Problem("value", X, samples.gross * tamed / self.scale, self._margin(value * tamed),
                    weight, samples.fold),
            Problem("churn", X, samples.churned, logit(none), weight, samples.fold),
        )  # fmt: skip
        return {p.kind: Booster.fit(p, seed) for p in problems}

    def _margin(self, value: Floats) -> Floats:
        return np.asarray(xlogy(1.0, np.maximum(value / self.scale, LEAST)))

    def _anchor_columns(self, history: History) -> Floats:
        year = self.anchor.forecast(history, [REFERENCE_WEEKS])
        return np.column_stack([year.value[:, 0], year.order_days[:, 0], year.no_order[:, 0],
                                year.spend])  # fmt: skip

    def corrections(self, rows: Rows) -> tuple[Floats, Floats]:
        """What is added to log value and to the logit of churn, (rows,) each."""
        if not self.members:
            return np.zeros(len(rows)), np.zeros(len(rows))
        named = {name: i for i, name in enumerate(rows.catalogue.names)}
        missing = [name for name in self.columns if name not in named]
        if missing:
            raise InputError(
                f"The features must hold the model's columns. Missing: {missing[0]}. "
                "Build them with the model's own vocabulary."
            )
        chosen = rows.values[:, [named[name] for name in self.columns]]
        X = np.hstack([chosen, self._anchor_columns(History.of(rows))])
        value, churn = (self.members[kind].correction(X) for kind in ("value", "churn"))
        return value + self.levels[0], churn + self.levels[1]

    def levelled(self, rows: Rows, as_of: int, months: int) -> Model:
        """The model whose total and mean churn at `months` are the anchor's, for these rows.

        For histories that hold no label of the whole horizon: shorter labels tell who buys more
        than forecast, but their seasons say little of the level of a longer window.
        """
        ahead = weeks_ahead(as_of, months, self.settings.business.time_zone)
        forecast = self.anchor.forecast(History.of(rows), [ahead])
        up, odds = self.corrections(rows)
        value, none = forecast.value[:, 0], forecast.no_order[:, 0]
        # fsum rounds once: the same level in whatever order the customers stand.
        level = math.log(math.fsum(value) / math.fsum(value * np.exp(up)))
        wanted = math.fsum(none)

        def surplus(shift: float) -> float:
            return math.fsum(expit(logit(none) + odds + shift)) - wanted

        shift = float(brentq(surplus, -LARGEST_SHIFT, LARGEST_SHIFT, xtol=1e-9))
        return replace(self, levels=(self.levels[0] + level, self.levels[1] + shift))

    def predict(self, rows: Rows, as_of: int, months: Sequence[int]) -> Predictions:
        """Predictions of feature rows at one `as_of`, for any horizons of 1 to 24 months."""
        zone = self.settings.business.time_zone
        asked = tuple(sorted(set(months)))
        ahead = [weeks_ahead(as_of, m + 1, zone) for m in range(MAX_MONTHS)]
        history = History.of(rows)
        forecast = self.anchor.forecast(history, ahead)
        up, odds = self.corrections(rows)
        factor = inv_boxcox(up, 0.0)[:, None]  # exp, by scipy's scalar loop: exact by row
        churn = expit(logit(forecast.no_order) + odds[:, None])
        at = [h - 1 for h in asked]
        spend, refunds = rows.column("spend"), rows.column("refunds")
        share = self.returns.of(spend, refunds)
        return Predictions(
            months=asked,
            gross=forecast.value * factor,
            orders=_orders(forecast, churn, self.orders_per_day)[:, at],
            churn=churn[:, at],
            return_share=share,
            pending=self.returns.pending * share * rows.column("spend_30d"),
            flow=Cashflow.of(self.settings.business),
        )

    def table(self, rows: Rows, as_of: int, months: Sequence[int], version: str) -> pd.DataFrame:
        """The predictions table of the contract for feature rows at one `as_of`."""
        found = self.predict(rows, as_of, months)
        zone = self.settings.business.time_zone
        frame: dict[str, Any] = {
            "customer_id": rows.ids[rows.who],
            "as_of": np.full(len(rows), text(as_of, zone), object),
            "evidence": np.full(len(rows), self.evidence(months), object),
            **found.columns(),
            **self.inactive(rows, as_of),
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
        history = History.of(rows)
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
            "columns": list(self.columns),
            "members": list(self.members),
            "trained_until": self.trained_until,
            "origins": [[origin.cutoff, origin.months] for origin in self.origins],
            "customers": self.customers,
            "scores": dict(scores or {}),
        }
        files = {f"{kind}.ubj": booster.raw for kind, booster in self.members.items()}
        rows = golden_rows(self.catalogue)
        return Parts(card, files, {"rows": rows.tolist(), "predictions": self._golden(rows)})

    @classmethod
    def from_parts(cls, parts: Parts) -> Model:
        """The model of verified parts; its golden rows must give what they gave when saved.

        Raises
        ------
        BundleError
            A golden row differs by one bit, a prediction is not finite, or a leaf is absurd.
        """
        card = parts.card
        model = cls(
            settings=parse(card["settings"], "card.json"),
            vocabulary=Vocabulary.from_dict(card["vocabulary"]),
            anchor=Anchor.from_dict(card["anchor"]),
            returns=Returns(*card["returns"]),
            orders_per_day=card["orders_per_day"],
            scale=card["scale"],
            levels=tuple(card["levels"]),
            columns=tuple(card["columns"]),
            members={kind: Booster(parts.files[f"{kind}.ubj"]) for kind in card["members"]},
            trained_until=card["trained_until"],
            origins=tuple(Origin(*pair) for pair in card["origins"]),
            customers=card["customers"],
        )
        for kind, booster in model.members.items():
            if not booster.sane:
                raise BundleError(
                    f"The leaves of the trees must be {LARGEST_LEAF:g} at most. Got a larger one "
                    f"in {kind}.ubj. Train again."
                )
        found = model._golden(np.array(parts.golden["rows"], np.float64))
        expected = parts.golden["predictions"]
        for name in sorted({*found, *expected}):
            values = expected.get(name, [np.nan])
            if found.get(name) != values or not np.isfinite(values).all():
                raise BundleError(
                    f"The golden rows must give their predictions bit for bit. '{name}' differs. "
                    "Train again with these libraries, or install those it was trained with."
                )
        return model

    def _golden(self, values: Floats) -> dict[str, list[float]]:
        n = len(values)
        ids = np.array([f"golden{i}" for i in range(n)], object)
        rows = Rows(ids, np.arange(n), np.zeros(n, np.int64), values, self.catalogue)
        found = self.predict(rows, self.trained_until, (1, 12, MAX_MONTHS)).columns()
        return {name: column.tolist() for name, column in found.items()}


def _orders(forecast: Forecast, churn: Floats, orders_per_day: float) -> Floats:
    """Expected orders: the corrected chance of any, times the anchor's number given one."""
    given_one = forecast.order_days / (1.0 - forecast.no_order)
    return np.asarray((1.0 - churn) * given_one * max(orders_per_day, 1.0))


def _tamed(size: Floats) -> Floats:
    """Factor on money, (rows,): below 1 for giants only, so that one cannot teach all the others.

    It scales label and forecast of a row alike, hence what is learned of their ratio stays.
    """
    some = size[size > 0]
    most = GIANT * float(np.median(some)) if len(some) else 1.0
    return np.asarray(most / np.maximum(size, most))


def _varying(features: Floats, names: Sequence[str]) -> tuple[str, ...]:
    """Columns with two different known values, or known and unknown ones."""
    first = features[0]
    same = (features == first) | (np.isnan(features) & np.isnan(first))
    return tuple(name for name, flat in zip(names, same.all(axis=0), strict=True) if not flat)


def golden_rows(catalogue: Catalogue) -> Floats:
    """Synthetic feature rows that belong to nobody, (GOLDEN_ROWS, features)."""
    rng = np.random.default_rng(1997)
    n, names = GOLDEN_ROWS, catalogue.names
    rows = np.round(rng.gamma(0.7, 40.0, (n, len(names))), 2)
    rows[rng.random(rows.shape) < 0.1] = np.nan
    place = {name: i for i, name in enumerate(names)}
    days = rng.integers(1, 9, n).astype(np.float64)
    age = rng.integers(30, 900, n).astype(np.float64)
    for name, value in {
        "order_days": days, "tenure_days": age, "spend_per_order_day": rng.integers(5, 200, n),
        "order_span_days": np.where(days > 1, np.floor(age * rng.random(n)), 0.0),
        "spend": rng.integers(50, 900, n), "refunds": rng.integers(0, 40, n),
        "spend_30d": rng.integers(0, 50, n),
    }.items():  # fmt: skip
        rows[:, place[name]] = value
    return rows
