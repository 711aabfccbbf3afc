"""Golden rows: synthetic feature rows in a bundle, and the predictions they must give again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.catalogue import Catalogue
from features.errors import BundleError

__all__ = ["golden_rows", "golden_values", "require_same"]

Floats = npt.NDArray[np.float64]
GOLDEN_ROWS: Final = 12


def golden_values(golden: Mapping[str, Any]) -> Floats:
    """The rows of a bundle's golden part."""
    return np.array(golden["rows"], np.float64)


def require_same(found: Mapping[str, list[float]], expected: Mapping[str, list[float]]) -> None:
    """Refuse a model whose golden rows do not give what they gave when it was saved.

    Raises
    ------
    BundleError
        A prediction differs by one bit or is not finite.
    """
    for name in sorted({*found, *expected}):
        values = expected.get(name, [np.nan])
        if found.get(name) != values or not np.isfinite(values).all():
            raise BundleError(
                f"The golden rows must give their predictions bit for bit. '{name}' differs. "
                "Train again with these libraries, or install those it was trained with."
            )


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
