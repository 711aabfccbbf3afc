"""Churn that means what it says: of customers given 30 %, three in ten do leave.

Platt's scaling (2000, Probabilistic outputs for support vector machines), fitted on rehearsals:
logit of the calibrated chance = level + slope x logit of the chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit, logit

from training.rehearsal import Rehearsal

__all__ = ["NONE", "Calibration", "calibrate"]

Floats = npt.NDArray[np.float64]
#: Precision of the belief that nothing needs to be mended: some 50 customers speak against it.
RIDGE: Final = 10.0
#: The windows of rehearsals overlap, and models then had less to learn from than now: half of
#: what was amiss is taken for lasting.
HALF: Final = 0.5


class Calibration(NamedTuple):
    """What is done to the logit of churn."""

    level: float = 0.0
    slope: float = 1.0

    def of(self, odds: Floats) -> Floats:
        """Calibrated chance from the logit of a chance, any shape."""
        return np.asarray(expit(self.level + self.slope * odds))

    def undone(self, chance: Floats) -> Floats:
        """The chance as it was before."""
        return np.asarray(expit((logit(chance) - self.level) / self.slope))


NONE: Final = Calibration()


def calibrate(rehearsals: Sequence[Rehearsal]) -> Calibration:
    """Level and slope as far as the rehearsals agree on them.

    Both differ from origin to origin with the season and the times. What is common to the origins
    is taken over, what scatters is not: each mean is pulled to "nothing to mend" by its own error.
    """
    if not rehearsals:
        return NONE
    odds = [logit(each.churn) for each in rehearsals]
    # Around the middle a slope leaves the mean alone, so that level and slope part.
    middle = float(np.mean(np.concatenate(odds)))
    found = [_fit(x - middle, r.churned, middle) for x, r in zip(odds, rehearsals, strict=True)]
    level = _agreed(np.array([one.level for one in found]) - middle)
    slope = 1.0 + _agreed(np.array([one.slope for one in found]) - 1.0)
    return Calibration(middle + level - slope * middle, slope)


def _agreed(found: Floats) -> float:
    """Half the mean of what single origins say, less where they scatter (James and Stein 1961)."""
    mean = float(found.mean())
    scatter = float(found.var(ddof=1)) if len(found) > 1 else 0.0
    return HALF * mean * max(0.0, 1.0 - scatter / max(mean * mean, 1e-12))


def _fit(odds: Floats, churned: Floats, usual: float) -> Calibration:
    """Penalised maximum likelihood around level `usual` and slope 1."""

    def loss(values: Floats) -> tuple[float, Floats]:
        level, slope = float(values[0]), float(values[1])
        z = level + slope * odds
        gap = expit(z) - churned
        away = np.array([level - usual, slope - 1.0])
        value = float(np.logaddexp(0.0, z).sum() - churned @ z + RIDGE / 2 * (away @ away))
        return value, np.array([gap.sum(), gap @ odds]) + RIDGE * away

    bounds = [(usual - 3.0, usual + 3.0), (0.2, 3.0)]
    start = np.array([usual, 1.0])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return Calibration(float(found[0]), float(found[1]))
