"""Which features the members of a model see, and where these stand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from features.costs import COSTED, COSTS
from features.errors import InputError

__all__ = ["places", "varying"]


@lru_cache(maxsize=64)
def places(names: tuple[str, ...], columns: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Where the columns that members see stand among the features."""
    named = {name: i for i, name in enumerate(names)}
    missing = [name for name in columns if name not in named]
    if missing:
        raise InputError(
            f"The features must hold the model's columns. Missing: {missing[0]}. "
            "Build them with the model's own vocabulary."
        )
    return np.array([named[name] for name in columns], np.int64)


def varying(features: npt.NDArray[np.float64], names: Sequence[str]) -> tuple[str, ...]:
    """Columns with two different known values, or known and unknown ones."""
    first = features[0]
    same = (features == first) | (np.isnan(features) & np.isnan(first))
    told = zip(names, same.all(axis=0), strict=True)
    # Members tell what is bought; what that costs is told by the margins.
    return tuple(name for name, flat in told if not (flat or name in (COSTED, COSTS)))
