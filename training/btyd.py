"""Buy-till-you-die models fitted by maximum likelihood: baselines, and the anchor of the booster.

A customer is three numbers, with one time unit throughout (weeks): ``frequency`` x, the repeat
purchases; ``recency`` tx, the time from the first purchase to the last; ``age`` T, the time from
the first purchase to now. Sources of the formulas, which are rearranged here so that nothing
overflows or cancels:

- Fader, Hardie, Lee (2005): "Counting your customers" the easy way. Marketing Science 24(2).
- Fader, Hardie (2005): A note on deriving the Pareto/NBD model and related expressions.
- Fader, Hardie (2013): The gamma-gamma model of monetary value.

Predictions are exact by element: see ``training.integrals``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import betaln, expit, expm1, exprel, gammaln, log1p, log_expit

from features.errors import InputError
from training.integrals import (
    Array,
    by_distinct,
    distinct,
    exp,
    log,
    orders_until_leaving,
)
from training.lifetimes import leaves_first

__all__ = ["BGNBD", "GammaGamma", "ParetoNBD"]

MAX_FIT_ROWS = 8_000  # distinct rows that a likelihood sums over
LOG_BOUND = 8.0  # log parameters, in units of the mean age or spend, stay within +-8
PULL_SD = 2.0  # of the normal pull on log parameters: one weak prior, whatever the number of rows
COHORTS = 8  # bands of age that thinning keeps apart


@dataclass(frozen=True)
class _Parameters:
    """What the models share: positive parameters, to and from a dictionary."""

    def __post_init__(self) -> None:
        for name, value in self.as_dict().items():
            if not (np.isfinite(value) and value > 0):
                raise InputError(
                    f"{type(self).__name__}: '{name}' must be positive and finite. Got {value!r}. "
                    "Fit the model again."
                )

    def as_dict(self) -> dict[str, float]:
        """The parameters by name, as plain floats."""
        return {field.name: float(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The model of :meth:`as_dict`; ``InputError`` for other names or impossible values."""
        names = [field.name for field in fields(cls)]
        try:
            if set(values) != set(names):
                raise ValueError
            return cls(**{name: float(values[name]) for name in names})
        except (TypeError, ValueError):
            raise InputError(
                f"{cls.__name__} needs a number for each of {', '.join(names)}. "
                f"Got {dict(values)!r}. Fit the model again."
            ) from None


@dataclass(frozen=True)
class _PurchaseTimes(_Parameters, ABC):
    """What the two models of purchase times share: fitting, and the checks before the formulas."""

    _centre: ClassVar[Mapping[str, float]]
    _starts: ClassVar[Sequence[tuple[float, ...]]]
    _times: ClassVar[tuple[str, ...]]  # the parameters that are times

    @classmethod
    def fit(
        cls,
        frequency: ArrayLike,
        recency: ArrayLike,
        age: ArrayLike,
        weights: ArrayLike | None = None,
    ) -> Self:
        """Maximum likelihood, with a weak pull that keeps every parameter finite.

        Shapes (n,); ``weights`` count customers (default 1 each). The same rows in any order give
        the same bits. Raises ``InputError`` for no rows or impossible ones.
        """
        x, tx, T, w, unit = _fit_rows(frequency, recency, age, weights)
        total = float(np.sum(w))

        names = list(cls._centre)

        def loss(values: Array) -> float:
            model = cls(**dict(zip(names, values.tolist(), strict=True)))
            return -float(np.sum(w * model._log_likelihood(x, tx, T))) / total

        best = _minimise(loss, total, list(cls._centre.values()), cls._starts)
        named = zip(names, best, strict=True)
        return cls(**{name: value * unit if name in cls._times else value for name, value in named})

    def log_likelihood(self, x: ArrayLike, tx: ArrayLike, T: ArrayLike) -> Array:
        """Log-likelihood of each customer."""
        return self._log_likelihood(*_history(x, tx, T))

    def p_alive(self, x: ArrayLike, tx: ArrayLike, T: ArrayLike) -> Array:
        """Chance that the customer has not left; BG/NBD has it at 1 for one-time buyers."""
        return self._p_alive(*_history(x, tx, T))

    def p_no_order(self, x: ArrayLike, tx: ArrayLike, T: ArrayLike, t: ArrayLike) -> Array:
        """Chance of no order in (T, T + t]: L(x, tx, T + t) / L(x, tx, T). ``t`` broadcasts."""
        rows, ahead = _history(x, tx, T), _ahead(t)
        order = np.clip(self._p_order(*np.broadcast_arrays(rows[0], rows[2], ahead)), 0.0, 1.0)
        return np.asarray(1.0 - self._p_alive(*rows) * order)

    def expected_orders(self, x: ArrayLike, tx: ArrayLike, T: ArrayLike, t: ArrayLike) -> Array:
        """Expected number of orders in (T, T + t]; ``t`` broadcasts against the rows."""
        rows, ahead = _history(x, tx, T), _ahead(t)
        orders = self._orders(*np.broadcast_arrays(rows[0], rows[2], ahead))
        return np.asarray(self._p_alive(*rows) * orders)

    def forecast(
        self, x: ArrayLike, tx: ArrayLike, T: ArrayLike, t: ArrayLike
    ) -> tuple[Array, Array]:
        """`p_no_order` and `expected_orders` at once: the chance of life is worked out once."""
        rows, ahead = _history(x, tx, T), _ahead(t)
        spread, alive = np.broadcast_arrays(rows[0], rows[2], ahead), self._p_alive(*rows)
        none = 1.0 - alive * np.clip(self._p_order(*spread), 0.0, 1.0)
        return np.asarray(none), np.asarray(alive * self._orders(*spread))

    @abstractmethod
    def _log_likelihood(self, x: Array, tx: Array, T: Array) -> Array:
        """Log-likelihood of checked rows."""

    @abstractmethod
    def _p_alive(self, x: Array, tx: Array, T: Array) -> Array:
        """Chance of being alive at T."""

    @abstractmethod
    def _p_order(self, x: Array, T: Array, t: Array) -> Array:
        """Chance of an order in (T, T + t] for a customer alive at T."""

    @abstractmethod
    def _orders(self, x: Array, T: Array, t: Array) -> Array:
        """Expected orders in (T, T + t] for a customer alive at T."""


@dataclass(frozen=True)
class BGNBD(_PurchaseTimes):
    """BG/NBD: Poisson purchases with gamma rates, and a beta chance to leave after each repeat.

    ``r`` and ``alpha`` (time) are shape and rate of the gamma; ``a`` and ``b`` those of the beta.
    """

    r: float
    alpha: float
    a: float
    b: float

    _centre: ClassVar[Mapping[str, float]] = {"r": 0.5, "alpha": 0.25, "a": 0.8, "b": 2.5}
    _starts = tuple(
        (r, alpha, a, b)
        for r in (0.3, 1.5)
        for alpha in (0.1, 1.0)
        for a, b in ((0.3, 3.0), (1.0, 3.0), (2.0, 1.0))
    )
    _times = ("alpha",)

    def _log_likelihood(self, x: Array, tx: Array, T: Array) -> Array:
        rate = gammaln(self.r + x) - gammaln(self.r) - self.r * log1p(T / self.alpha)
        stay = betaln(self.a, self.b + x) - betaln(self.a, self.b)
        left = -log_expit(-self._log_odds_left(x, tx, T))
        return np.asarray(rate + stay - x * log(self.alpha + T) + left)

    def _log_odds_left(self, x: Array, tx: Array, T: Array) -> Array:
        silence = (self.r + x) * log1p((T - tx) / (self.alpha + tx))
        odds = log(self.a / (self.b + np.maximum(x, 1.0) - 1.0)) + silence
        return np.where(x > 0, odds, -np.inf)

    def _p_alive(self, x: Array, tx: Array, T: Array) -> Array:
        return np.asarray(expit(-self._log_odds_left(x, tx, T)))

    def _p_order(self, x: Array, T: Array, t: Array) -> Array:
        return np.asarray(-expm1(-(self.r + x) * log1p(t / (self.alpha + T))))

    def _orders(self, x: Array, T: Array, t: Array) -> Array:
        def each(x: Array, T: Array, t: Array) -> Array:
            return orders_until_leaving(self.r + x, self.a, self.b + x, t / (self.alpha + T))

        return by_distinct(each, x, T, t)


@dataclass(frozen=True)
class ParetoNBD(_PurchaseTimes):
    """Pareto/NBD: Poisson purchases with gamma rates, exponential lifetimes with gamma rates.

    ``r`` and ``alpha`` (time) are shape and rate of the purchase rate's gamma; ``s`` and ``beta``
    (time) those of the dropout rate's.
    """

    r: float
    alpha: float
    s: float
    beta: float

    _centre: ClassVar[Mapping[str, float]] = {"r": 0.5, "alpha": 0.25, "s": 0.6, "beta": 0.5}
    _starts = tuple(
        (r, alpha, s, beta)
        for r in (0.3, 1.5)
        for alpha in (0.1, 1.0)
        for s, beta in ((0.6, 0.5), (0.3, 3.0), (1.5, 0.3))
    )
    _times = ("alpha", "beta")

    def _log_likelihood(self, x: Array, tx: Array, T: Array) -> Array:
        rate = gammaln(self.r + x) - gammaln(self.r) - self.r * log1p(T / self.alpha)
        stay = -self.s * log1p(T / self.beta)
        silence, last_then, last_now = self._terms(x, tx, T)
        here, left = log(1.0 - last_now), silence + log(last_then)
        either = np.maximum(here, left) + log1p(exp(-np.abs(here - left)))
        return np.asarray(rate + stay - x * log(self.alpha + T) + either)

    def _terms(self, x: Array, tx: Array, T: Array) -> tuple[Array, Array, Array]:
        """What the likelihood is made of, each a positive number.

        With S(u) = (alpha + u)^-(r + x) (beta + u)^-s and D(u) the chance to leave before the next
        order when alive at u, the likelihood is S(T) (1 - D(T)) + S(tx) D(tx), times what depends
        on x alone. Returned: log S(tx) / S(T), D(tx), D(T).
        """
        gap, n = T - tx, self.r + x
        silence = n * log1p(gap / (self.alpha + tx)) + self.s * log1p(gap / (self.beta + tx))
        last_then, last_now = self._last(np.stack([x, x]), np.stack([tx, T]))
        return np.asarray(silence), last_then, last_now

    def _last(self, x: Array, age: Array) -> Array:
        def each(x: Array, age: Array) -> Array:
            return leaves_first(self.r + x, self.s, self.alpha, self.beta, age)

        return by_distinct(each, x, age)

    def _p_alive(self, x: Array, tx: Array, T: Array) -> Array:
        def each(x: Array, tx: Array, T: Array) -> Array:
            silence, last_then, last_now = self._terms(x, tx, T)
            left = exp(np.minimum(silence, 700.0)) * last_then
            return np.asarray(np.minimum(1.0 / ((1.0 - last_now) + left), 1.0))

        return by_distinct(each, x, tx, T)

    def _p_order(self, x: Array, T: Array, t: Array) -> Array:
        def each(x: Array, T: Array, t: Array) -> Array:
            last_now, last_then = self._last(np.stack([x, x]), np.stack([T, T + t]))
            decay = (self.r + x) * log1p(t / (self.alpha + T)) + self.s * log1p(t / (self.beta + T))
            return np.asarray((1.0 - last_now) - exp(-decay) * (1.0 - last_then))

        return by_distinct(each, x, T, t)

    def _orders(self, x: Array, T: Array, t: Array) -> Array:
        v = log1p(t / (self.beta + T))
        # exprel(y) = (e^y - 1) / y carries the formula through s = 1, where it divides by zero.
        lifetime = (self.beta + T) * v * exprel(-(self.s - 1.0) * v)
        return np.asarray((self.r + x) / (self.alpha + T) * lifetime)


@dataclass(frozen=True)
class GammaGamma(_Parameters):
    """Gamma-gamma: an order's value is gamma(p, rate nu), and nu is gamma(q, gamma) over customers.

    ``p`` and ``q`` are shapes; ``gamma`` is money. ``q > 1``, or there would be no mean.
    """

    p: float
    q: float
    gamma: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.q <= 1:
            raise InputError(
                f"GammaGamma: 'q' must be above 1 for a mean to exist. Got {self.q!r}. "
                "Fit the model again."
            )

    @classmethod
    def fit(
        cls, purchases: ArrayLike, mean_spend: ArrayLike, weights: ArrayLike | None = None
    ) -> Self:
        """Maximum likelihood over the mean order value (money) of each customer's purchases.

        Shapes (n,). All purchases make the anchor, repeats only the classical model: the caller
        decides what is counted. Customers without purchases or without positive spend say nothing
        and are left out; ``InputError`` if nobody remains.
        """
        n, m = _spend(purchases, mean_spend)
        w = _weights(weights, n.shape)
        n, m, w = (column[(n > 0) & (m > 0) & (w > 0)] for column in (n, m, w))
        if not n.size:
            raise InputError(
                "Gamma-gamma needs a customer with purchases and positive spend. Got none of them. "
                "Give orders with amounts above 0."
            )
        (n, m), w = _thinned([n, m], w)
        total = float(np.sum(w))
        unit = float(np.exp(np.sum(w * np.log(m)) / total))
        m = m / unit

        def loss(values: Array) -> float:
            p, q, gamma = values[0], 1.0 + values[1], values[2]
            each = gammaln(p * n + q) - gammaln(p * n) - gammaln(q) + p * n * np.log(n * m)
            each += q * np.log(gamma) - (p * n + q) * np.log(gamma + n * m) - np.log(m)
            return -float(np.sum(w * each)) / total

        starts = [(p, q, 1.0) for p in (0.7, 3.0, 15.0) for q in (0.5, 2.5)]
        p, q, gamma = _minimise(loss, total, (3.0, 2.0, 1.0), starts)
        return cls(p, 1.0 + q, gamma * unit)

    def expected_spend(self, purchases: ArrayLike, mean_spend: ArrayLike) -> Array:
        """Expected value of an order (money); without purchases the mean of the population."""
        n, m = _spend(purchases, mean_spend)
        return np.asarray(self.p * (self.gamma + n * m) / (self.p * n + (self.q - 1.0)))


def _history(x: ArrayLike, tx: ArrayLike, T: ArrayLike) -> tuple[Array, Array, Array]:
    """x, tx and T as float64 of one shape; ``InputError`` for an impossible row."""
    x, tx, T = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (x, tx, T)))
    good = (x >= 0) & (tx >= 0) & (tx <= T) & np.isfinite(x) & np.isfinite(T)
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(
            "Each customer must have frequency >= 0 and 0 <= recency <= age, all finite. Row "
            f"{row} has {x.flat[row]}, {tx.flat[row]}, {T.flat[row]}. "
            "Measure both times from the first purchase."
        )
    return x, np.where(x > 0, tx, 0.0), T


def _ahead(t: ArrayLike) -> Array:
    ahead = np.asarray(t, dtype=np.float64)
    good = np.isfinite(ahead) & (ahead >= 0)
    if not good.all():
        raise InputError(
            "The time ahead must be finite and not negative. "
            f"Got {ahead.flat[int(np.argmin(good))]}. Count it from now on."
        )
    return ahead


def _spend(purchases: ArrayLike, mean_spend: ArrayLike) -> tuple[Array, Array]:
    """Purchases and mean spend as float64 of one shape, the spend of nobody's purchases as 0."""
    n, m = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (purchases, mean_spend)))
    m = np.where(n == 0, 0.0, m)
    good = np.isfinite(n) & (n >= 0) & np.isfinite(m) & (m >= 0)
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(
            "Each customer must have purchases >= 0 and, with purchases, a mean spend >= 0. "
            f"Row {row} has {n.flat[row]} and {m.flat[row]}. Leave refunds out of orders."
        )
    return n, m


def _weights(weights: ArrayLike | None, shape: tuple[int, ...]) -> Array:
    w = np.broadcast_to(np.asarray(1.0 if weights is None else weights, dtype=np.float64), shape)
    good = np.isfinite(w) & (w >= 0)
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(
            f"Weights must be finite and not negative. Row {row} has {w.flat[row]}. "
            "Give the number of customers that a row stands for."
        )
    return w


def _fit_rows(
    frequency: ArrayLike, recency: ArrayLike, age: ArrayLike, weights: ArrayLike | None
) -> tuple[Array, Array, Array, Array, float]:
    """Distinct x, tx, T in units of the mean age, their weights, and that unit."""
    x, tx, T = (column.ravel() for column in _history(frequency, recency, age))
    w = _weights(weights, x.shape)
    x, tx, T, w = (column[w > 0] for column in (x, tx, T, w))
    if not w.size:
        raise InputError(
            "A buy-till-you-die model needs at least one customer. Got none. Give an order history."
        )
    cohort = np.floor(T * (COHORTS / (float(np.max(T)) or 1.0)))
    (x, _, tx, T), w = _thinned([x, cohort, tx, T], w)
    unit = float(np.sum(w * T) / np.sum(w)) or 1.0
    return x, tx / unit, T / unit, w, unit


def _thinned(columns: Sequence[Array], w: Array) -> tuple[list[Array], Array]:
    """Distinct rows, sorted, with their summed weights: ``MAX_FIT_ROWS`` of them at most.

    More are thinned by systematic sampling in that order, in proportion to the orders that a row
    stands for (the first column and one), each kept row then weighing what it stands for. On
    simulated shops that left a fifth of the error of sampling customers alike.
    """
    # Weights take part in the sort, or their floating sums would depend on the rows' order.
    order = np.lexsort((w, *columns[::-1]))
    rows, place = distinct([column[order] for column in columns])
    w = np.asarray(np.bincount(place, weights=w[order]), dtype=np.float64)
    if w.size <= MAX_FIT_ROWS:
        return rows, w
    ends = np.cumsum(w * (1.0 + rows[0]))
    hits = np.searchsorted(ends, (np.arange(MAX_FIT_ROWS) + 0.5) * (ends[-1] / MAX_FIT_ROWS))
    kept, times = np.unique(np.minimum(hits, w.size - 1), return_counts=True)
    rows = [column[kept] for column in rows]
    stands_for = times / (1.0 + rows[0])
    return rows, stands_for * (np.sum(w) / np.sum(stands_for))


def _minimise(
    loss: Callable[[Array], float],
    total: float,
    centre: Sequence[float],
    starts: Sequence[Sequence[float]],
) -> list[float]:
    """Parameters of least loss per customer, found from the two best of ``starts``."""
    middle = log(centre)

    def pulled(log_values: Array) -> float:
        pull = 0.5 * float(np.sum(((log_values - middle) / PULL_SD) ** 2)) / total
        return loss(exp(log_values)) + pull

    found = [
        minimize(
            pulled,
            start,
            method="L-BFGS-B",
            bounds=[(-LOG_BOUND, LOG_BOUND) for _ in middle],
            options={"maxiter": 500, "ftol": 1e-13, "gtol": 1e-8},
        )
        for start in sorted((log(start) for start in (centre, *starts)), key=pulled)[:2]
    ]
    best = min(found, key=lambda result: float(result.fun))
    return [float(value) for value in exp(best.x)]
