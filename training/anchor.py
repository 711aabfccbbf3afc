"""The forecast that boosting starts from: Pareto/NBD for order days, gamma-gamma for their spend.

It answers for any customer with an order and any horizon, needs few data, and its numbers are the
fallback when data are too few for more. Order days are counted, not orders: several orders on one
day are one decision to buy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from features.behaviour import Rows
from features.errors import InputError
from training import lifetimes
from training.btyd import GammaGamma, ParetoNBD
from training.season import FLAT, Season

__all__ = ["Anchor", "Forecast", "History"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
WEEK = 7.0
# A customer who came within the hour has an age too: a likelihood at age 0 knows no rate.
YOUNGEST = 0.25  # days


@dataclass(frozen=True)
class History:
    """What buy-till-you-die models know of a customer, (rows,) each; times in seasonal weeks."""

    frequency: Floats  # repeat order days
    recency: Floats  # first to newest order day
    age: Floats  # first order day to the cutoff
    spend: Floats  # mean spend of an order day, currency

    @classmethod
    def of(cls, rows: Rows, season: Season = FLAT, day: Ints | int = 0) -> History:
        """Read from feature rows; `day` is the cutoff's local day, where time has seasons."""
        span = rows.column("order_span_days")
        age = np.maximum(np.maximum(rows.column("tenure_days"), span), YOUNGEST)
        plain = cls(
            rows.column("order_days") - 1.0, span / WEEK, age / WEEK,
            rows.column("spend_per_order_day"),
        )  # fmt: skip
        return plain.on(season, day)

    def on(self, season: Season, day: Ints | int) -> History:
        """The same customers, from plain weeks to the clock of a season; `day` as in `of`."""
        if season.flat:
            return self
        start = day - np.floor(self.age * WEEK + 0.5)
        first = season.weeks(start)
        recency = season.weeks(start + np.floor(self.recency * WEEK + 0.5)) - first
        age = season.weeks(np.broadcast_to(day, first.shape)) - first
        return replace(self, recency=recency, age=np.maximum(age, YOUNGEST / WEEK))

    def take(self, which: npt.NDArray[Any]) -> History:
        """The rows chosen by an index or a mask."""
        return History(
            self.frequency[which], self.recency[which], self.age[which], self.spend[which]
        )

    def newcomers(self, spend: float) -> History:
        """As many rows of customers who have just ordered for the first time, for `spend`."""
        none = np.zeros(len(self.frequency))
        return History(none, none, none + YOUNGEST / WEEK, none + spend)

    @classmethod
    def join(cls, parts: Sequence[History]) -> History:
        """Rows one below the other."""
        return cls(
            *(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls))
        )


@dataclass(frozen=True)
class Forecast:
    """Forecasts of rows for several horizons."""

    order_days: Floats  # (rows, horizons), expected
    no_order: Floats  # (rows, horizons), chance of none
    spend: Floats  # (rows,), expected per order day, currency
    rate: Floats  # (rows,), order days a week of somebody who has not left

    @property
    def value(self) -> Floats:
        """Expected gross spend, (rows, horizons), currency."""
        return self.order_days * self.spend[:, None]


@dataclass(frozen=True)
class Anchor:
    """A fitted forecast."""

    orders: ParetoNBD
    spend: GammaGamma
    season: Season = FLAT

    @classmethod
    def fit(cls, history: History, season: Season = FLAT) -> Anchor:
        """Maximum likelihood on the histories of all customers, measured in `season`'s weeks.

        Raises
        ------
        InputError
            Nobody has an order.
        """
        if len(history.frequency) == 0:
            raise InputError(
                "Training needs customers with an order before the cutoff. Got none. "
                "Take a later --as-of or more data."
            )
        return cls(
            ParetoNBD.fit(history.frequency, history.recency, history.age),
            GammaGamma.fit(history.frequency + 1.0, history.spend),
            season,
        )

    def newcomers_orders(self, weeks: Floats) -> Floats:
        """Expected order days after the first, of somebody of whom nothing else is known."""
        return np.asarray(self.orders.expected_orders(0.0, 0.0, 0.0, weeks))

    @property
    def mean_spend(self) -> float:
        """Expected spend of an order day of somebody of whom nothing is known, currency."""
        return float(self.spend.expected_spend(np.zeros(1), np.zeros(1))[0])

    def forecast(self, history: History, weeks: Sequence[float] | Floats) -> Forecast:
        """Expected order days, chance of none, spend and rate.

        `weeks` are the horizons, of all rows (horizons,) or of each (rows, horizons).

        Raises
        ------
        InputError
            A history or a time ahead is impossible.
        """
        t = np.ascontiguousarray(np.atleast_2d(np.asarray(weeks, np.float64)))
        columns = (history.frequency, history.recency, history.age, history.spend)
        found = lifetimes.forecast(*columns, t, self._law)
        if found is None:
            raise self._impossible(history, t)
        none, days, spend, rate = found
        return Forecast(days, none, spend, rate)

    def _impossible(self, history: History, t: Floats) -> InputError:
        """What is wrong with a row or a time, in the words of the models."""
        x, recency, age = (v[:, None] for v in (history.frequency, history.recency, history.age))
        try:
            self.orders.forecast(x, recency, age, t)
            self.spend.expected_spend(history.frequency + 1.0, history.spend)
        except InputError as error:
            return error
        raise AssertionError("the compiled forecast refuses what the models take")

    @cached_property
    def _law(self) -> Floats:
        """All parameters, in the order of the compiled loops."""
        known = (*self.orders.as_dict().values(), *self.spend.as_dict().values())
        return np.array(known, np.float64)

    def as_dict(self) -> dict[str, Any]:
        """Parameters for the model card; time in seasonal weeks, money in currency."""
        return {
            "pareto_nbd": self.orders.as_dict(),
            "gamma_gamma": self.spend.as_dict(),
            "season": list(self.season.index),
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Anchor:
        """The inverse of `as_dict`."""
        return cls(
            ParetoNBD.from_dict(raw["pareto_nbd"]),
            GammaGamma.from_dict(raw["gamma_gamma"]),
            Season(tuple(raw["season"])),
        )
