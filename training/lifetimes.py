"""From a customer's history to gross spend, orders and churn by month: loops by row, compiled.

    history -> forecast (Pareto/NBD, gamma-gamma) -> corrected (by trees, calibrated)

Row by row, with the system's own ``exp`` and ``log`` and no sums over rows, so a row has the same
bits alone, in a batch and in chunks; the compiler joins no operations and leaves none out.
"""

from __future__ import annotations

from math import exp, expm1, log, log1p
from typing import Final

import numpy as np
import numpy.typing as npt

from features.windows import compiled

__all__ = ["CERTAIN", "corrected", "forecast", "leaves_first"]

Floats = npt.NDArray[np.float64]
STEPS: Final = 160
BEAT: Final = 8  # steps between two looks at whether a row is done
MONTHS: Final = 24
CERTAIN: Final = (
    1e-9  # probabilities keep this distance from 0 and 1, so that their logit is finite
)


@compiled("UniTuple(float64,2)(float64,float64,float64)")
def _fraction(b, e, q):  # type: ignore[no-untyped-def]
    """2F1(b, 1; b + e; -q) for q >= 0 by Gauss's continued fraction, and 1 where it converged.

    All coefficients are positive, so the true value lies between any two successive convergents: a
    last step of no effect proves the result (Lentz's form).
    """
    c = b + e
    f, up, down = 1.0, 1.0, 0.0
    for m in range(STEPS):
        low = c + 2.0 * m
        part = (b + m) * (c - 1.0 + m) / ((low - 1.0) * low)
        down = 1.0 / (1.0 + part * q * down)
        up = 1.0 + part * q / up
        step = up * down
        f = f * step
        part = (m + 1.0) * (e + m) / (low * (low + 1.0))
        down = 1.0 / (1.0 + part * q * down)
        up = 1.0 + part * q / up
        step = up * down
        f = f * step
        if m % BEAT == BEAT - 1 and abs(step - 1.0) < 1e-15:
            return 1.0 / f, 1.0
    return 1.0, 0.0


@compiled("float64(float64,float64,float64)")
def _race(k, m, q):  # type: ignore[no-untyped-def]
    """k times the integral over v > 0 of e^-kv (1 + (1 + q)(e^v - 1))^-m, for large q.

    The trapezoid rule in log v is exact to rounding here, since the integrand is analytic and dies
    off at both ends.
    """
    low = -log(k + m * (1.0 + q)) - 37.0
    total = 0.0
    for j in range(300):
        v = exp(low + 0.25 * j)
        total += v * exp(-(k + m) * v - m * log1p(-q * expm1(-v)))
    return 0.25 * k * total


@compiled("float64(float64,float64,float64,float64,float64)")
def _leaves_first(n, s, alpha, beta, age):  # type: ignore[no-untyped-def]
    # Of the two forms of the 2F1 the one with an argument -q <= 0, where nothing cancels.
    slow = beta >= alpha
    q = abs(beta - alpha) / (min(alpha, beta) + age)
    value, sure = _fraction(n, s + 1.0, q) if slow else _fraction(s + 1.0, n, q)
    if sure > 0.0:
        chance = value * (s / (n + s) * (1.0 if slow else 1.0 + q))
    else:
        chance = _race(s, n, q) if slow else 1.0 - _race(n, s, q)
    return min(max(chance, 0.0), 1.0)


@compiled("void(float64[::1],float64,float64,float64,float64[::1],float64[::1])")
def _leaves(n, s, alpha, beta, age, out):  # type: ignore[no-untyped-def]
    for i in range(len(n)):
        out[i] = _leaves_first(n[i], s, alpha, beta, age[i])


def leaves_first(n: Floats, s: float, alpha: float, beta: float, age: Floats) -> Floats:
    """Chance that a customer alive at ``age`` leaves before the next order. Shapes (rows,).

    The purchase rate is gamma(n, alpha + age), the dropout rate gamma(s, beta + age), so it is
    s times the integral over u > age of (alpha + u)^-n (beta + u)^-(s + 1), in units of
    (alpha + age)^-n (beta + age)^-s: the 2F1 of the Pareto/NBD likelihood (Fader, Hardie 2005).
    """
    out = np.empty(len(n))
    _leaves(np.ascontiguousarray(n), s, alpha, beta, np.ascontiguousarray(age), out)
    return out


@compiled(
    "int64(float64[::1],float64[::1],float64[::1],float64[::1],float64[:,::1],float64[::1],"
    "float64[:,::1],float64[:,::1],float64[::1],float64[::1])"
)
def _forecast(x, recency, age, mean, ahead, law, none, days, spend, rate):  # type: ignore[no-untyped-def]
    r, alpha, s, beta, p, q, gamma = law
    for i in range(len(x)):
        T, money = age[i], mean[i]
        tx = recency[i]
        if not (0.0 <= x[i] < np.inf and 0.0 <= tx <= T < np.inf and 0.0 <= money < np.inf):
            return i
        if x[i] == 0.0:
            tx = 0.0
        n = r + x[i]
        now = 1.0 - _leaves_first(n, s, alpha, beta, T)
        gap = T - tx
        silence = n * log1p(gap / (alpha + tx)) + s * log1p(gap / (beta + tx))
        left = exp(min(silence, 700.0)) * _leaves_first(n, s, alpha, beta, tx)
        alive = min(1.0 / (now + left), 1.0)
        rate[i] = n / (alpha + T)
        purchases = x[i] + 1.0
        spend[i] = p * (gamma + purchases * money) / (p * purchases + (q - 1.0))
        weeks = ahead[i if len(ahead) > 1 else 0]
        for j in range(len(weeks)):
            t = weeks[j]
            if not 0.0 <= t < np.inf:
                return i
            decay = n * log1p(t / (alpha + T)) + s * log1p(t / (beta + T))
            order = now - exp(-decay) * (1.0 - _leaves_first(n, s, alpha, beta, T + t))
            chance = 1.0 - alive * min(max(order, 0.0), 1.0)
            chance = min(max(chance, CERTAIN), 1.0 - CERTAIN)
            v = log1p(t / (beta + T))
            # (e^y - 1) / y carries the formula through s = 1, where it divides by zero.
            y = -(s - 1.0) * v
            lifetime = (beta + T) * v * (expm1(y) / y if y != 0.0 else 1.0)
            none[i, j] = chance
            # Rounding may leave the mean a last bit below the chance; the chance is the floor.
            days[i, j] = max(alive * (rate[i] * lifetime), 1.0 - chance)
    return -1


def forecast(
    x: Floats, recency: Floats, age: Floats, mean: Floats, ahead: Floats, law: Floats
) -> tuple[Floats, Floats, Floats, Floats] | None:
    """Pareto/NBD and gamma-gamma: chance of no order, order days, spend of one, their rate.

    Parameters
    ----------
    x, recency, age, mean
        Repeat order days, times of the newest and of now since the first (weeks), mean spend of an
        order day (money); (rows,) each.
    ahead
        Times ahead, of all rows (1, horizons) or of each (rows, horizons), weeks.
    law
        r, alpha, s, beta of Pareto/NBD (Fader, Hardie 2005, A note on deriving the Pareto/NBD
        model), then p, q, gamma of gamma-gamma (Fader, Hardie 2013).

    Returns
    -------
    (rows, horizons) twice and (rows,) twice, the rate that of order days a week of somebody who has
    not left; None if a row or a time is impossible.
    """
    none, days = np.empty((2, len(x), ahead.shape[1]))
    spend, rate = np.empty((2, len(x)))
    rows = (np.ascontiguousarray(each, np.float64) for each in (x, recency, age, mean))
    bad = _forecast(*rows, ahead, law, none, days, spend, rate)
    return (none, days, spend, rate) if bad < 0 else None


# What corrections make of it


@compiled("float64(float64)")
def _logistic(x):  # type: ignore[no-untyped-def]
    return 1.0 / (1.0 + exp(-x))


@compiled("float64(float64)")
def _logit(p):  # type: ignore[no-untyped-def]
    return log(p / (1.0 - p))


@compiled(
    "void(float64[:,::1],float64[:,::1],float64[::1],float64[::1],float64[::1],float64[::1],"
    "float64[:,::1],float64,float64,float64,float64[:,:,::1],float64[::1])"
)
def _corrected(  # type: ignore[no-untyped-def]
    none, days, spend, rate, up, odds, ahead, level, slope, per_day, out, pace
):
    for i in range(len(spend)):
        factor = exp(up[i])
        weeks = ahead[i if len(ahead) > 1 else 0]
        most = rate[i] * per_day
        for j in range(MONTHS):
            churn = _logistic(level + slope * (_logit(none[i, j]) + odds[i]))
            # The corrected chance of any, times the forecast's number given one.
            orders = (1.0 - churn) * (days[i, j] / (1.0 - none[i, j])) * per_day
            out[0, i, j] = days[i, j] * spend[i] * factor
            out[1, i, j] = orders
            out[2, i, j] = churn
            if weeks[j] > 0.0:
                most = max(most, orders / weeks[j])
        pace[i] = most


def corrected(
    none: Floats, days: Floats, spend: Floats, rate: Floats, up: Floats, odds: Floats,
    ahead: Floats, calibration: tuple[float, float], per_day: float,
) -> tuple[Floats, Floats, Floats, Floats]:  # fmt: skip
    """A `forecast` of 24 months or more with its corrections `up` (log value) and `odds` (logit).

    `calibration` is level and slope of the logit of churn, `per_day` the orders of an order day.

    Returns
    -------
    Gross spend, orders and churn by the end of months 1 to 24, (rows, 24) each, and the orders a
    week while active, (rows,). A correction upward is taken for a longer life first, and for a
    higher rate where life cannot be longer: nobody is active for more time than there is.
    """
    out, pace = np.empty((3, len(spend), MONTHS)), np.empty(len(spend))
    _corrected(none, days, spend, rate, up, odds, ahead, *calibration, per_day, out, pace)
    return out[0], out[1], out[2], pace
