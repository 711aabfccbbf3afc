"""What comes before leaving: behaviours by their weight in the chance of churn and in money.

Over customers i, churn p_i has the logit z_i = usual + own rhythm + sum of features' terms + level,
where z = "usual" is the mean over the customers of what the anchor says (p its chance), and "own
rhythm" what it says of i beyond that; the other terms are those of `training.reasons`. For each
term j, with value_i the discounted margin given an order, before the cost to keep:

    weight   = mean over i of |term_ij|, in the logit
    change   = term_ij x (p_i - p) / (z_i - z), in points of the chance of churn
    at risk  = sum over i of change_ij x value_i where the change is above 0
    kept     = the same where it is below 0, with its sign turned

"At risk" is the money that is lost on average since some customers behave as leavers do; "kept" is
what is saved since others behave as stayers do. A family's terms are added up customer by customer
before the two are parted. These are the model's words on who leaves, not on why: whoever changes a
behaviour does not know yet that churn follows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit

from features.behaviour import Rows
from training import phrases
from training.model import Model
from training.reasons import SURE, Reasons, churn_reasons

__all__ = ["Drivers", "drivers"]

Floats = npt.NDArray[np.float64]
QUARTER: Final = 0.25
#: A logit this near to the usual one moves the chance along its tangent.
NEAR: Final = 1e-9


@dataclass(frozen=True)
class Drivers:
    """Tables of features and of families, the heaviest first.

    Both have the columns weight, at_risk and kept (currency); features have family, meaning,
    churn_high and churn_low too: mean churn of the customers with the highest quarter of the
    feature and with the lowest, not a number where all have the same.
    """

    features: pd.DataFrame
    families: pd.DataFrame
    customers: int
    mean_churn: float


def drivers(model: Model, rows: Rows, as_of: int, months: int) -> Drivers:
    """Drivers of ``churn_{months}m`` over feature rows, at least one, at one `as_of`."""
    found = model.priced(rows, as_of, [months])
    churn = np.ascontiguousarray(found.churn[:, 0])
    known, usual = _from_usual(model, churn_reasons(model, rows, as_of, found))
    change = _change(known, churn, usual)
    value = found.value(months) / np.maximum(1.0 - churn, SURE)
    names, added = known.families()
    _, moved = Reasons(known.terms, change, known.values).families()
    features = pd.DataFrame(
        {
            "feature": [term.name for term in known.terms],
            "family": [term.family for term in known.terms],
            "meaning": [term.meaning for term in known.terms],
            **_weights(known.parts, change, value),
            **_sides(known.values, churn),
        }
    )
    # The level is the same for everybody: it says nothing of who leaves.
    features = features[(features["weight"] > NEAR) & (features["feature"] != phrases.LEVEL)]
    families = pd.DataFrame({"family": names, **_weights(added, moved, value)})
    families = families[
        (families["weight"] > NEAR) & (families["family"] != phrases.level().family)
    ]
    return Drivers(_ranked(features), _ranked(families), len(rows), _mean(churn))


def _from_usual(model: Model, known: Reasons) -> tuple[Reasons, float]:
    """The same terms, but the start is told as what it is beyond its mean; and that mean."""
    begins = known.parts[:, 0]
    usual = _mean(begins)
    parts, values = known.parts.copy(), known.values.copy()
    parts[:, 0] = begins - usual
    values[:, 0] = expit(begins)
    plain = model.settings.model.objective == "plain"
    return Reasons((phrases.rhythm(plain), *known.terms[1:]), parts, values), usual


def _change(known: Reasons, churn: Floats, usual: float) -> Floats:
    """Points of the chance of churn, (rows, terms)."""
    way = known.total
    far = np.abs(way) > NEAR
    slope = (churn - expit(usual)) / np.where(far, way, 1.0)
    slope = np.where(far, slope, churn * (1.0 - churn))
    return np.asarray(known.parts * slope[:, None])


def _weights(parts: Floats, change: Floats, value: Floats) -> dict[str, list[float]]:
    moved = change * value[:, None]
    return {
        "weight": [_mean(np.abs(column)) for column in parts.T],
        "at_risk": [_sum(np.maximum(column, 0.0)) for column in moved.T],
        "kept": [_sum(np.maximum(-column, 0.0)) for column in moved.T],
    }


def _sides(values: Floats, churn: Floats) -> dict[str, list[float]]:
    both = [_highest_and_lowest(column, churn) for column in values.T]
    return {"churn_high": [high for high, _ in both], "churn_low": [low for _, low in both]}


def _highest_and_lowest(values: Floats, churn: Floats) -> tuple[float, float]:
    """Mean churn of the highest and of the lowest quarter by a feature.

    Customers with the quarter's last value all belong to it. Where one value is shared by so many
    that both quarters end on it, those above it are held against it, or if none is above, those
    below.
    """
    told = ~np.isnan(values)
    if not told.any():
        return math.nan, math.nan
    x, p = values[told], churn[told]
    ranked, quarter = np.sort(x), math.ceil(QUARTER * len(x))
    low, high = ranked[quarter - 1], ranked[-quarter]
    upper, lower = x >= high, x <= low
    if low == high:
        above = bool((x > high).any())
        upper, lower = (x > high, x == low) if above else (x == high, x < low)
    if not lower.any():
        return math.nan, math.nan
    return _mean(p[upper]), _mean(p[lower])


def _ranked(table: pd.DataFrame) -> pd.DataFrame:
    first = table.columns[0]
    return table.sort_values(["weight", first], ascending=[False, True], ignore_index=True)


def _sum(values: Floats) -> float:
    """Rounded once: the same in whatever order the customers stand."""
    return math.fsum(values.tolist())


def _mean(values: Floats) -> float:
    return _sum(values) / len(values)
