"""Corrections of feature rows by boosted trees: what trees see, and the sum of their leaves.

A call of xgboost costs hundreds of microseconds before its first tree; of few rows, these loops
give the same bits sooner (`training.members` makes sure of that for every model).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from features.windows import compiled

__all__ = ["Forest", "narrowed", "sums"]

Floats = npt.NDArray[np.float64]
Narrow = npt.NDArray[np.float32]
MOST: Final = float(np.finfo(np.float32).max)


@compiled("float32(float64)")
def _narrow(value):  # type: ignore[no-untyped-def]
    if value > MOST:
        value = MOST
    elif value < -MOST:
        value = -MOST
    return np.float32(value)  # what is not a number stays so


@compiled("void(float64[:,::1],int64[::1],float64[:,::1],float32[:,::1])")
def _narrowed(values, places, beside, out):  # type: ignore[no-untyped-def]
    k = len(places)
    for i in range(len(out)):
        for j in range(k):
            out[i, j] = _narrow(values[i, places[j]])
        for j in range(len(beside)):
            out[i, k + j] = _narrow(beside[j, i])


def narrowed(values: Floats, places: npt.NDArray[np.int64], beside: Floats) -> Narrow:
    """As trees read it, (rows, inputs): columns of `values` by their `places`, then `beside`.

    `beside` is (columns, rows). What is beyond 32 bits stays the largest number.
    """
    out = np.empty((len(values), len(places) + len(beside)), np.float32)
    _narrowed(np.ascontiguousarray(values), places, np.ascontiguousarray(beside), out)
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
