"""What is earned of revenue: the contribution margin of each customer as a share, from costs.

Orders with a cost (or a rate of margin) tell what a customer's revenue has earned so far. A share
is learned for everybody and pulled to the population's as far as a customer has bought little
(Buehlmann and Straub 1970, Glaubwuerdigkeit fuer Schadensaetze; Buehlmann and Gisler 2005, A course
in credibility theory, chapter 4):

    own share   = level + Z x (earned / revenue - mean)      of revenue whose cost is known
    Z           = revenue / (revenue + within / between)
    share       = covered x own share + (1 - covered) x rest

``mean`` is the population's share of all time and ``level`` that of the newest year, so that prices
and costs that have moved move everybody; ``within`` is how much orders of one customer differ (per
unit of money) and ``between`` how much customers do, both estimated from the orders before the
moment of training by the unbiased estimators of these sources. ``covered`` is the part of revenue
whose cost is known; the ``rest`` earns the share of the settings, as it does in the past
(`serving.decisions.money`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features import windows
from features.behaviour import Rows
from features.costs import COSTED, COSTS
from features.money import Cashflow, Flow, flow_of
from features.settings import Business
from features.spine import add_months
from features.store import ALWAYS, Bucket
from training.returns import tamed

__all__ = ["LEAST", "Earned", "Margin", "Margins", "base", "priced",
           "variances"]  # fmt: skip

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
#: Nobody is expected to earn less of revenue: value would fall with the horizon.
LEAST: Final = 0.01
YEAR: Final = 12  # months that tell the level of today
TINY: Final = 1e-9
NAMES: Final = ("costed", "cost", "spend", "refunds")


@dataclass(frozen=True)
class Earned:
    """What customers of one bucket earned before a moment, (customers,) each; minor units.

    ``costed`` and ``cost`` are of all time (net revenue of lines whose cost is known), ``newest``
    (customers, 3) those of the newest year and its net revenue. Of orders with a cost there are
    ``orders`` of each customer, worth ``weight`` in all; they earned ``share`` of it on average and
    ``spread`` is the sum of their squared distances from that, each times its worth.
    """

    costed: Ints
    cost: Ints
    newest: Ints
    orders: Floats
    weight: Floats
    share: Floats
    spread: Floats

    @classmethod
    def of(cls, bucket: Bucket, until: int, zone: str) -> Earned:
        """From lines before the instant `until`."""
        columns = bucket.columns[:, [windows.COLUMNS.index(name) for name in NAMES]]
        values, who = np.ascontiguousarray(columns), np.arange(len(bucket), dtype=np.int64)
        end = np.full(len(bucket), until, np.int64)
        ever, newest = (
            windows.window_of(bucket.starts, bucket.ts, values, who, np.full_like(end, begin), end)
            for begin in (ALWAYS, add_months(until, -YEAR, zone))
        )
        latest = np.column_stack([newest[:, :2], newest[:, 2] - newest[:, 3]])
        return cls(ever[:, 0], ever[:, 1], latest, *_orders(bucket, values, until))

    @classmethod
    def join(cls, parts: Sequence[Earned]) -> Earned:
        """Those of several buckets, one below the other."""
        return cls(*(np.concatenate([getattr(p, n) for p in parts]) for n in cls.__annotations__))


def _orders(bucket: Bucket, values: Ints, until: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Number, worth, mean share and spread of each customer's orders, refunds left out."""
    n = len(bucket)
    if not values[:, 0].any():
        return np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n)
    owner = np.repeat(np.arange(n), np.diff(bucket.starts))
    bought = (bucket.ts < until) & (bucket.amount >= 0)
    size = int(bucket.order.max(initial=0)) + 1
    keys, order = np.unique((owner * size + bucket.order)[bought], return_inverse=True)
    money = values[bought].astype(np.float64)
    costed, cost = (_added(order, money[:, k], len(keys)) for k in (0, 1))
    some = costed > 0  # what is given away for nothing has no share of anything
    costed, who = costed[some], keys[some] // size
    # A line of a cent that cost a hundred says no more than that nothing was left.
    share = np.clip(1.0 - cost[some] / costed, -1.0, 1.0)
    weight = _added(who, costed, n)
    mean = _added(who, costed * share, n) / np.maximum(weight, 1.0)
    spread = _added(who, costed * (share - mean[who]) ** 2, n)
    return _added(who, np.ones(len(who)), n), weight, mean, spread


def _added(place: Ints, each: Floats, n: int) -> Floats:
    return np.bincount(place, each, n).astype(np.float64)


@dataclass(frozen=True)
class Margins:
    """What a customer's future revenue is expected to earn, as a share of it; see the module."""

    level: float
    mean: float
    within: float  # currency
    between: float
    covered: float

    @classmethod
    def fit(cls, parts: Sequence[Earned], unit: int) -> Margins | None:
        """From all customers before a moment; None where no cost is known.

        `unit` is the number of minor units in a major one. One giant cannot teach all the others:
        see `training.returns.tamed`.
        """
        all_ = Earned.join(parts)
        if not all_.costed.any():
            return None
        factor = tamed(all_.weight)
        ever, newest = (_sums(np.column_stack(c), factor) for c in (
            (all_.costed, all_.cost), (all_.newest,)))  # fmt: skip
        if ever[0] <= 0:
            return None
        mean = 1.0 - ever[1] / ever[0]
        level = 1.0 - newest[1] / newest[0] if newest[0] > 0 else mean
        covered = min(max(newest[0] / newest[2], 0.0), 1.0) if newest[2] > 0 else 1.0
        within, between = variances(all_, factor)
        return cls(_bounded(level), mean, max(within / unit, TINY), between, covered)

    @property
    def strength(self) -> float:
        """Revenue, currency, at which a customer's own share counts as much as everybody's."""
        return self.within / self.between if self.between > 0 else math.inf

    def of(self, costed: Floats, cost: Floats, rest: float) -> Floats:
        """Expected share of each customer, (rows,); `rest` of revenue without a known cost.

        `costed` is a customer's net revenue whose cost is known, and `cost` what it cost, currency;
        where either is not known, which features may be that others have made, it is none.
        """
        # What was earned beyond everybody's share, over revenue and within / between.
        beyond = (costed - cost) - self.mean * costed
        away = beyond * self.between / (np.maximum(costed, 0.0) * self.between + self.within)
        own = self.level + np.where(np.isnan(away), 0.0, away)
        own = np.minimum(np.maximum(own, LEAST), 1.0)
        return np.asarray(self.covered * own + (1.0 - self.covered) * rest)

    def of_rows(self, rows: Rows, rest: float) -> Floats:
        """As `of`, of feature rows."""
        return self.of(rows.column(COSTED), rows.column(COSTS), rest)

    def of_all(self, rest: float) -> float:
        """Expected share of somebody of whom no order is known."""
        return self.covered * self.level + (1.0 - self.covered) * rest

    def as_dict(self) -> dict[str, float]:
        """Plain values for the model card."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Margins:
        """The inverse of `as_dict`."""
        return cls(**raw)


def _bounded(share: float) -> float:
    return min(max(share, LEAST), 1.0)


def _sums(columns: Ints, factor: Floats) -> list[float]:
    """Sums over customers, rounded once: the same in whatever order they stand."""
    return [math.fsum((column * factor).tolist()) for column in columns.T]


def variances(found: Earned, factor: Floats) -> tuple[float, float]:
    """Within (minor units) and between customers, by unbiased estimators; each at least 0.

    With any weights w of customers, of whose orders n are worth v:

        within  = sum of factor x spread / sum of factor x (n - 1)
        between = (sum of w (share - mean)^2 - within x sum of w / v (1 - w / W))
                  / (W - sum of w^2 / W),                              W = sum of w
    """
    here = found.weight > 0
    n, v, share, spread, f = (
        x[here] for x in (found.orders, found.weight, found.share, found.spread, factor)
    )
    freedom = math.fsum((f * (n - 1.0)).tolist())
    within = math.fsum((f * spread).tolist()) / freedom if freedom > 0 else 0.0
    w = v * f
    total = math.fsum(w.tolist())
    mean = math.fsum((w * share).tolist()) / total
    part = 1.0 - w / total
    seen = math.fsum((w * (share - mean) ** 2).tolist())
    chance = within * math.fsum((f * part).tolist())
    room = math.fsum((w * part).tolist())
    # Differences that rounding of minor units makes are none.
    between = (seen - chance) / room if room > 0 and freedom > 0 else 0.0
    return within, between if between > TINY else 0.0


@dataclass(frozen=True)
class Margin:
    """Margin in an out-of-time test: what was said before beside what was earned, currency.

    ``told`` is the margin that customers' own shares make of the revenue that came, ``flat`` what
    the one share of the settings makes of it; ``error`` and ``flat_error`` are how far either lies
    from what a customer earned, on average.
    """

    revenue: float
    earned: float
    told: float
    flat: float
    error: float
    flat_error: float

    @classmethod
    def of(cls, share: float | Floats, net: Floats, earned: Floats, rest: float) -> Margin:
        """From each customer's expected `share`, revenue and margin; `rest` is the settings'."""
        told, flat = share * net, rest * net
        sums = (math.fsum(each.tolist()) for each in (net, earned, told, flat))
        errors = (math.fsum(np.abs(each - earned).tolist()) / len(net) for each in (told, flat))
        return cls(*sums, *errors)

    def sentence(self, unit: str) -> str:
        """In words; `unit` is the currency."""
        whole = self.revenue or math.nan
        return (
            f"Margin: {self.earned / whole:.1%} of the revenue that came was earned; customers' own"
            f" shares, learned before, make it {self.told / whole:.1%} and err by {self.error:,.2f}"
            f" {unit} per customer, the one share of the settings {self.flat / whole:.1%} and by "
            f"{self.flat_error:,.2f}"
        )

    def as_dict(self) -> dict[str, float]:
        """Plain values; each bias is relative to what was earned."""
        whole = self.earned or math.nan
        return asdict(self) | {
            "bias": self.told / whole - 1.0, "flat_bias": self.flat / whole - 1.0
        }  # fmt: skip


def base(business: Business, margins: Margins | None) -> Cashflow:
    """How the money is counted of somebody of whom no order is known."""
    plain = Cashflow.of(business)
    return replace(plain, margin=margins.of_all(business.margin)) if margins else plain


def priced(business: Business, flow: Cashflow, rows: Rows) -> Flow:
    """`flow`, at discount rates of rows' own where the settings name some.

    Rows of which the attribute is not known, those made of ready features for instance, take the
    base rate. So do labels, tests and intervals: an interval is a distribution of value over
    expected value, and moves along with it.
    """
    by = business.discount_rate_by_segment.column
    if not by or not rows.knows(by):
        return flow
    return flow_of(business, rows.attribute(by), rows.who, flow)
