"""The integral behind BG/NBD forecasts, and functions that are exact by element.

The value of a row has the same bits alone, in a batch and in chunks. So ``exp`` and ``log`` come
from scipy's scalar loops (numpy's vector code rounds otherwise for some lengths and strides),
iterations stop by each row's own error on a fixed beat, and sums run node by node, without BLAS.
The integral has a fast form that proves its own accuracy, and a slow one for the rows where the
proof fails; that of Pareto/NBD is in `training.lifetimes`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaln, expit, expm1, exprel, inv_boxcox, log1p, log_expit, xlogy

__all__ = [
    "FEW",
    "Array",
    "by_distinct",
    "distinct",
    "exp",
    "log",
    "orders_until_leaving",
]

Array: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

BLOCK = 1 << 14  # rows worked on together: they fit the cache
FEW = 64  # rows
BEAT = 8  # steps between two looks at which rows are done
PANELS = 24
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


def exp(y: Any) -> Array:
    """e^y by a scalar loop."""
    return np.asarray(inv_boxcox(y, 0.0))


def log(y: Any) -> Array:
    """Natural logarithm by a scalar loop; -inf at 0."""
    return np.asarray(xlogy(1.0, y))


def distinct(columns: Sequence[Array]) -> tuple[list[Array], NDArray[np.intp]]:
    """Distinct rows of equally long columns, sorted by the first, then the next; each row's place.

    ``[column[place] for column in rows]`` gives the columns back.
    """
    order = np.lexsort(columns[::-1])
    ordered = [column[order] for column in columns]
    first = np.zeros(order.size, dtype=bool)
    first[:1] = True
    for column in ordered:
        first[1:] |= column[1:] != column[:-1]
    place = np.empty(order.size, dtype=np.intp)
    place[order] = np.cumsum(first) - 1
    return [column[first] for column in ordered], place


def by_distinct(function: Callable[..., Array], *columns: Array) -> Array:
    """``function`` by element, worked out once for each distinct row, in blocks.

    Few rows are worked out as they are: finding equal ones would take longer.
    """
    if columns[0].size <= FEW:
        flat = function(*(np.ravel(column) for column in columns))
        return flat.reshape(columns[0].shape)
    rows, place = distinct([np.ravel(column) for column in columns])
    out = np.empty(rows[0].size)
    for start in range(0, out.size, BLOCK):
        block = slice(start, start + BLOCK)
        out[block] = function(*(column[block] for column in rows))
    return out[place].reshape(columns[0].shape)


def orders_until_leaving(s: Array, a: float, b: Array, tau: Array) -> Array:
    """E[(1 - (1 + p tau)^-s) / p] for p ~ Beta(a, b): orders of a living BG/NBD customer.

    ``s`` = r + x, ``b`` counts the repeats too, and ``tau`` is the time ahead over alpha + T;
    shapes (rows,). Fader, Hardie, Lee (2005), equation 10, without its factor P(alive).
    """
    orders, sure = _series(s, a, b, tau)
    hard = np.flatnonzero(~sure)
    if hard.size:
        orders[hard] = _panels(s[hard], a, b[hard], tau[hard])
    # At least the chance of one order, at most what somebody who never leaves would buy.
    return np.asarray(np.clip(orders, -expm1(-s * log1p(tau)), s * tau))


def _series(s: Array, a: float, b: Array, tau: Array) -> tuple[Array, Mask]:
    """The expectation as a power series, and where that converged and kept its digits.

    With z = tau / (1 + tau), V = log(1 + tau), C = a + b - 1 and A = C - s it is
    C V exprel(-(a - 1) V) - e^(-(a - 1) V) A z 3F2(A + 1, a, 1; C + 1, 2; z):
    the published 2F1, transformed to this z, with its division by a - 1 carried out.
    """
    z, v, c = tau / (1.0 + tau), log1p(tau), a + b - 1.0
    total, size, sure = _three_two(c - s, a, c, z)
    head = c * v * exprel(-(a - 1.0) * v)
    tail = exp(-(a - 1.0) * v) * (c - s) * z
    orders = np.asarray(head - tail * total)
    lost = 1e-16 * (np.abs(head) + np.abs(tail) * size)
    return orders, sure & (lost <= 1e-12 * np.abs(orders))


def _three_two(upper: Array, a: float, lower: Array, z: Array) -> tuple[Array, Array, Mask]:
    """3F2(upper + 1, a, 1; lower + 1, 2; z), the same of absolute terms, and where it is done."""
    total, size, sure = np.zeros_like(z), np.zeros_like(z), np.zeros(z.shape, dtype=bool)
    rows = np.arange(z.size)
    term, part, magnitude = np.ones_like(z), np.ones_like(z), np.ones_like(z)
    for n in range(600):
        ratio = z * (upper + 1.0 + n) * (a + n) / ((lower + 1.0 + n) * (n + 2.0))
        term = term * ratio
        part = part + term
        magnitude = magnitude + np.abs(term)
        if n % BEAT < BEAT - 1:
            continue
        rate = np.maximum(np.abs(ratio), z)
        done = np.abs(term) * rate < (1.0 - rate) * 1e-17 * magnitude
        done &= n > -upper  # before that an alternating series may grow again
        total[rows[done]], size[rows[done]], sure[rows[done]] = part[done], magnitude[done], True
        going = ~done & (magnitude < 1e15)  # what grows further has no digits left, or overflows
        if not going.any():
            break
        rows = rows[going]
        upper, lower, z, term, part, magnitude = (
            v[going] for v in (upper, lower, z, term, part, magnitude)
        )
    return total, size, sure


def _panels(s: Array, a: float, b: Array, tau: Array) -> Array:
    """The expectation by Gauss-Legendre panels over log(p / (1 - p)).

    Both ends, where (1 - (1 + p tau)^-s) / p no longer changes, go to the incomplete beta
    function: a small a or b would otherwise need very long tails.
    """
    reach, centre = 9.0 * np.sqrt(1.0 / a + 1.0 / b), log(a / b)
    left = np.maximum(centre - reach - 40.0 / a, -14.0 - log(1.0 + (s + 2.0) * tau))
    left = np.minimum(left, 13.0)
    right = np.maximum(np.minimum(centre + reach + 40.0 / b, 14.0), left + 1.0)
    half, log_norm = (right - left) / (2.0 * PANELS), betaln(a, b)

    def orders(p: Any) -> Array:
        return np.asarray(-expm1(-s * log1p(p * tau)) / p)

    total = np.zeros_like(tau)
    for panel in range(PANELS):
        for node, weight in zip(_NODES, _WEIGHTS, strict=True):
            u = left + half * (2.0 * panel + 1.0 + node)
            density = exp(a * log_expit(u) + b * log_expit(-u) - log_norm)
            total += weight * half * density * orders(expit(u))
    total += _end(a, b, expit(left), orders)
    return np.asarray(total + _end(b, a, expit(-right), lambda p: orders(1.0 - p)))


def _end(a: Any, b: Any, edge: Array, orders: Callable[[Array], Array]) -> Array:
    """The expectation's part where p ~ Beta(a, b) is below ``edge``, taken at p's mean there."""
    mass = betainc(a, b, edge)
    mean = a / (a + b) * betainc(a + 1.0, b, edge) / np.where(mass > 0, mass, 1.0)
    return np.asarray(mass * orders(np.where(mass > 0, mean, edge)))
