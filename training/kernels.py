"""Loops by row, compiled: what numpy says in dozens of small calls takes a row a microsecond here.

Only +, -, x, / and comparisons, in the order in which the formulas have them: IEEE 754 rounds each
of them correctly and the compiler joins none, so the bits are those of the plain numpy form. Logs
and exponentials stay with scipy.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from features.windows import compiled

__all__ = ["Forest", "fraction", "points", "sums"]

Floats = npt.NDArray[np.float64]
STEPS: Final = 160
BEAT: Final = 8  # steps between two looks at whether a row is done


@compiled("void(float64[::1],float64[::1],float64[::1],float64[::1],boolean[::1])")
def _fraction(b, e, q, value, sure):  # type: ignore[no-untyped-def]
    for i in range(len(q)):
        c = b[i] + e[i]
        f, up, down = 1.0, 1.0, 0.0
        for m in range(STEPS):
            low = c + 2.0 * m
            part = (b[i] + m) * (c - 1.0 + m) / ((low - 1.0) * low)
            down = 1.0 / (1.0 + part * q[i] * down)
            up = 1.0 + part * q[i] / up
            step = up * down
            f = f * step
            part = (m + 1.0) * (e[i] + m) / (low * (low + 1.0))
            down = 1.0 / (1.0 + part * q[i] * down)
            up = 1.0 + part * q[i] / up
            step = up * down
            f = f * step
            if m % BEAT == BEAT - 1 and abs(step - 1.0) < 1e-15:
                value[i], sure[i] = 1.0 / f, True
                break


def fraction(b: Floats, e: Floats, q: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """2F1(b, 1; b + e; -q) for q >= 0, (rows,), by Gauss's continued fraction; where it converged.

    Elsewhere the value is 1. All coefficients are positive, so the true value lies between any two
    successive convergents: a last step of no effect proves the result (Lentz's form).
    """
    value, sure = np.ones_like(q), np.zeros(q.shape, np.bool_)
    _fraction(*(np.ascontiguousarray(v, np.float64) for v in (b, e, q)), value, sure)
    return value, sure


@compiled("float64(float64,float64[::1],float64[::1])")
def _interp(x, xp, fp):  # type: ignore[no-untyped-def]
    last = len(xp) - 1
    if np.isnan(x):
        return x
    if x < xp[0]:
        return fp[0]
    if x >= xp[last]:
        return fp[last]
    j = np.searchsorted(xp, x, side="right") - 1
    if xp[j] == x:
        return fp[j]
    slope = (fp[j + 1] - fp[j]) / (xp[j + 1] - xp[j])
    return slope * (x - xp[j]) + fp[j]


@compiled(
    "void(float64[::1],float64[::1],float64[::1],float64[::1],float64[::1],float64[:,::1],"
    "float64[::1])"
)
def _points(at, crowd, centres, ranks, levels, ratios, out):  # type: ignore[no-untyped-def]
    for i in range(len(at)):
        level = min(max(at[i], levels[0]), levels[-1])
        place = _interp(crowd[i], centres, ranks)
        below = int(place)
        part = place - below
        found = (1.0 - part) * _interp(level, levels, ratios[below])
        if below + 1 < len(centres):
            found += part * _interp(level, levels, ratios[below + 1])
        out[i] = found


def points(at: Floats, crowd: Floats, centres: Floats, levels: Floats, ratios: Floats) -> Floats:
    """Quantiles at levels of their own, (rows,), between the bins by where `crowd` lies.

    `centres` (bins,) rise; `ratios` (bins, levels) are the bins' quantiles at `levels`.
    """
    out = np.empty(len(at))
    ranks = np.arange(len(centres), dtype=np.float64)
    _points(np.ascontiguousarray(at), np.ascontiguousarray(crowd), centres, ranks, levels, ratios,
            out)  # fmt: skip
    return out


class Forest(NamedTuple):
    """Trees laid end to end; a leaf has feature -1 and its value as threshold."""

    roots: npt.NDArray[np.int64]
    left: npt.NDArray[np.int32]  # counted from the tree's root
    right: npt.NDArray[np.int32]
    feature: npt.NDArray[np.int32]
    threshold: npt.NDArray[np.float32]
    unknown_left: npt.NDArray[np.bool_]
    start: np.float32


@compiled(
    "void(float32[:,::1],int64[::1],int32[::1],int32[::1],int32[::1],float32[::1],boolean[::1],"
    "float32,float32[::1])"
)
def _sums(X, roots, left, right, feature, threshold, unknown_left, start, out):  # type: ignore[no-untyped-def]
    for i in range(X.shape[0]):
        total = start
        for root in roots:
            node = root
            while feature[node] >= 0:
                x = X[i, feature[node]]
                lower = unknown_left[node] if np.isnan(x) else x < threshold[node]
                node = root + (left[node] if lower else right[node])
            total = np.float32(total + threshold[node])
        out[i] = total


def sums(forest: Forest, X: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The sum of the leaves that each row falls into, (rows,), in 32 bits and tree by tree."""
    out = np.empty(len(X), np.float32)
    _sums(np.ascontiguousarray(X), *forest, out)
    return out
