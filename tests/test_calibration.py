"""Calibration of churn: what is common to all origins is mended, by half; what scatters is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from training.calibration import HALF, NONE, Calibration, calibrate
from training.rehearsal import Rehearsal


def origin(level: float, slope: float, seed: int, n: int = 40_000) -> Rehearsal:
    """Customers whose churn is `level` + `slope` x what was said, in the logit."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(0.5, 1.5, n)
    churned = (rng.random(n) < expit(level + slope * (odds - 0.5) + 0.5)).astype(np.float64)
    one = np.ones(n)
    return Rehearsal(0, 6, one, one, expit(odds), 1 - churned, churned)


def test_half_of_what_all_origins_agree_on_is_mended():
    found = calibrate([origin(0.6, 0.7, seed) for seed in range(3)])
    assert found.slope == pytest.approx(1 - HALF * 0.3, abs=0.02)
    # At the middle, 0.5, the level moves by half of 0.6.
    assert found.level + found.slope * 0.5 == pytest.approx(0.5 + HALF * 0.6, abs=0.03)


def test_origins_that_contradict_each_other_change_little():
    found = calibrate([origin(level, 1.0, 7) for level in (0.6, -0.6)])
    assert found.level + found.slope * 0.5 == pytest.approx(0.5, abs=0.02)
    assert found.slope == pytest.approx(1.0, abs=0.02)


def test_what_is_right_stays():
    found = calibrate([origin(0.0, 1.0, seed) for seed in (1, 2, 3)])
    assert found.level == pytest.approx(0.0, abs=0.02)
    assert found.slope == pytest.approx(1.0, abs=0.02)
    assert calibrate([]) is NONE


def test_few_customers_say_little():
    tiny = origin(3.0, 1.0, 1, n=10)
    assert abs(calibrate([tiny]).level) < 0.5


def test_it_can_be_undone():
    some = Calibration(0.3, 0.8)
    chance = np.array([0.001, 0.2, 0.5, 0.97])
    assert np.allclose(some.undone(some.of(logit(chance))), chance, rtol=1e-12)
    assert np.allclose(NONE.of(logit(chance)), chance, rtol=1e-12)
    # By hand: logit .5 is 0, so 1 / (1 + e^-0.3).
    assert some.of(np.zeros(1))[0] == pytest.approx(1 / (1 + np.exp(-0.3)))
