"""How many customers it takes to see the effect of a campaign with a wanted chance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scipy import optimize, stats

from features.errors import InputError
from serving.decisions.effects import LEVEL

__all__ = ["SampleSize", "sample_size_mean", "sample_size_rate"]


@dataclass(frozen=True)
class SampleSize:
    """Customers needed in each arm, and the plan they are needed for."""

    treated: int
    control: int
    power: float
    level: float
    plan: Mapping[str, float]

    @property
    def total(self) -> int:
        """Both arms."""
        return self.treated + self.control

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**self.plan, "power": self.power, "level": self.level, "treatment": self.treated,
                "control": self.control, "total": self.total}  # fmt: skip


def sample_size_rate(
    rate: float, lift: float, power: float, *, share: float = 0.5, level: float = LEVEL
) -> SampleSize:
    """Customers to tell a rate of `rate` x (1 + `lift`) from `rate`, two-sided.

    Fleiss, Levin and Paik 2003, Statistical Methods for Rates and Proportions, 4.14 and 4.18, with
    no correction for continuity; `share` of all is the control. `lift` is relative: 0.2 is a fifth
    more.

    Raises
    ------
    InputError
        A rate outside 0 to 1 (with the lift too), no lift, a power or share outside 0 to 1.
    """
    _require_plan(power, share, level)
    other = rate * (1 + lift)
    if not 0 < rate < 1 or not 0 < other < 1 or lift == 0:
        raise InputError(
            f"--rate and --rate x (1 + --lift) must differ and lie between 0 and 1. Got {rate} and "
            f"{other:.4g}. A lift of 0.2 is a fifth more: 0.10 becomes 0.12."
        )
    ratio = (1 - share) / share  # treated for one control
    mean = (rate + ratio * other) / (1 + ratio)
    alpha, beta = _quantiles(power, level)
    spread = alpha * math.sqrt((ratio + 1) * mean * (1 - mean)) + beta * math.sqrt(
        ratio * rate * (1 - rate) + other * (1 - other)
    )
    control = spread**2 / (ratio * (other - rate) ** 2)
    return SampleSize(math.ceil(control * ratio), math.ceil(control), power, level,
                      {"rate": rate, "lift": lift, "control_share": share})  # fmt: skip


def sample_size_mean(
    sd: float, difference: float, power: float, *, share: float = 0.5, level: float = LEVEL
) -> SampleSize:
    """Customers to tell a `difference` of means where customers spread by `sd`, two-sided t test.

    The power comes from the noncentral t distribution; `share` of all is the control.

    Raises
    ------
    InputError
        A spread or difference that is no positive number, a power or share outside 0 to 1.
    """
    _require_plan(power, share, level)
    if not (0 < sd < math.inf and 0 < abs(difference) < math.inf):
        raise InputError(
            f"--sd must be above 0 and --difference other than 0. Got {sd} and {difference}."
        )
    away = abs(difference) / sd * math.sqrt(share * (1 - share))

    def missing(total: float) -> float:
        freedom, shift = total - 2, away * math.sqrt(total)
        edge = stats.t.ppf((1 + level) / 2, freedom)
        seen = stats.nct.sf(edge, freedom, shift) + stats.nct.cdf(-edge, freedom, shift)
        return float(seen) - power

    start = (sum(_quantiles(power, level)) / away) ** 2  # the normal approximation, just below
    found = start if start > 1e7 else optimize.brentq(missing, 2.5, start * 1.5 + 20)
    return SampleSize(math.ceil(found * (1 - share)), math.ceil(found * share), power, level,
                      {"sd": sd, "difference": difference, "control_share": share})  # fmt: skip


def _quantiles(power: float, level: float) -> tuple[float, float]:
    return float(stats.norm.ppf((1 + level) / 2)), float(stats.norm.ppf(power))


def _require_plan(power: float, share: float, level: float) -> None:
    for name, value, least in (("--power", power, 1 - level), ("--control", share, 0.0),
                               ("--level", level, 0.5)):  # fmt: skip
        if not least < value < 1:
            raise InputError(
                f"{name} must lie between {least:.3g} and 1. Got {value}. Usual are a power of "
                "0.8, a control of 0.5 and a level of 0.95."
            )
