"""Where the next money goes: a split over channels that brings the most margin.

What a channel brings grows slower than what is spent on it: margin(x) = scale x^elasticity with an
elasticity of at most 1, the constant-elasticity response of marketing mix models (Hanssens, Parsons
and Schultz 2001, Market Response Models). Such a sum is greatest where the last unit brings the
same everywhere, which an exact search by units finds (Gross 1956; Fox 1966, Operations Research
14): no other split in whole units, within the bounds, brings more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special
from scipy.stats import norm

from features.errors import InputError

__all__ = ["Plan", "Response", "allocate", "fit", "given", "plan"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Z: Final = float(norm.ppf(0.9))
MONTHS: Final = 6  # of spend; fewer tell no slope
SPREAD: Final = 0.1  # of log spend, as a standard deviation; less tells no slope
STRETCH: Final = 2.0  # times the largest month: further out nobody has looked
COLUMNS: Final = ("channel", "segment", "scale", "elasticity", "sd")


@dataclass(frozen=True)
class Response:
    """What spending on one channel (and segment) brings in a month: scale x^elasticity, in money.

    ``sd`` is the relative standard deviation of what it brings at a spend of e^``middle``, and
    ``slope_sd`` that of the elasticity, by which it grows away from there; ``most`` is how far
    spending may go, infinite where the user gave the response.
    """

    name: str
    scale: float
    elasticity: float
    sd: float = 0.0
    most: float = math.inf
    note: str = ""
    slope_sd: float = 0.0
    middle: float = 0.0

    def margin(self, spend: float) -> float:
        """Margin that `spend` brings before the spend itself is taken off."""
        return self.scale * spend**self.elasticity if spend > 0 else 0.0

    def spread(self, spend: float) -> float:
        """Standard deviation of `margin`, in money."""
        if spend <= 0:
            return 0.0
        away = self.slope_sd * (math.log(spend) - self.middle)
        return self.margin(spend) * math.hypot(self.sd, away)


@dataclass(frozen=True)
class Line:
    """One channel of a plan: money a month."""

    name: str
    spend: float
    margin: float
    gain: float  # margin less spend
    low: float
    high: float
    last_unit: float  # margin of one more unit of money
    minimum: float
    maximum: float | None
    note: str


@dataclass(frozen=True)
class Plan:
    """A budget divided; ``low`` and ``high`` are the 10 and 90 % points of the gain in all."""

    budget: float
    lines: tuple[Line, ...]
    spent: float
    gain: float
    low: float
    high: float
    left_out: tuple[str, ...] = ()  # channels of which too little is known, with the reason

    @property
    def kept(self) -> float:
        """What is better not spent: the next unit would bring less than it costs."""
        return self.budget - self.spent

    def table(self) -> pd.DataFrame:
        """One row per channel, the columns of `Line`."""
        lines = pd.DataFrame([asdict(line) for line in self.lines])
        return lines.rename(columns={"name": "channel"}).round(2)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"kept": self.kept, "lines": [asdict(line) for line in self.lines]}


def plan(
    responses: Sequence[Response],
    budget: float,
    *,
    minimum: Mapping[str, float] | None = None,
    maximum: Mapping[str, float] | None = None,
    unit: int = 100,
    accept_loss: bool = False,
) -> Plan:
    """Divide at most `budget` so that margin less spend is greatest, within the bounds.

    `unit` is the number of smallest units in one of money: the split is exact to that unit. What
    would bring less than it costs is not spent, except to reach a minimum.

    Raises
    ------
    InputError
        Bounds that name no channel or contradict each other or the budget; the 10 % point of the
        gain lies below zero, unless `accept_loss`.
    """
    low, high = _bounds(responses, budget, minimum or {}, maximum or {}, unit)
    scale = np.array([one.scale for one in responses])
    power = np.array([one.elasticity for one in responses])
    spend = allocate(scale, power, low, high, round(budget * unit), unit) / unit
    given_most = maximum or {}
    lines = []
    for one, x, least in zip(responses, spend.tolist(), low.tolist(), strict=True):
        brings = one.margin(x)
        reach = Z * one.spread(x)
        lines.append(
            Line(one.name, x, brings, brings - x, brings - reach - x, brings + reach - x,
                 one.margin(x + 1) - brings, least / unit,
                 given_most.get(one.name, one.most if math.isfinite(one.most) else None), one.note)
        )  # fmt: skip
    gain = math.fsum(line.gain for line in lines)
    # Channels err on their own; what they share is not known from their spend.
    reach = Z * math.sqrt(
        math.fsum(r.spread(line.spend) ** 2 for r, line in zip(responses, lines, strict=True))
    )
    made = Plan(budget, tuple(lines), math.fsum(spend), gain, gain - reach, gain + reach)
    if made.low < 0 and not accept_loss:
        raise InputError(
            f"A plan must not lose money at the low end of what is likely. Got a gain of "
            f"{gain:,.2f} with a 10 % point of {made.low:,.2f} on {made.spent:,.2f} spent. Lower "
            "the minimum of the weakest channel, or say --accept-loss."
        )
    return made


def _bounds(
    responses: Sequence[Response],
    budget: float,
    minimum: Mapping[str, float],
    maximum: Mapping[str, float],
    unit: int,
) -> tuple[Ints, Ints]:
    names = [one.name for one in responses]
    if not names:
        raise InputError("A plan needs at least one channel. Got none.")
    for option, bounds in (("--minimum", minimum), ("--maximum", maximum)):
        for name, value in bounds.items():
            if name not in names:
                raise InputError(f"{option} must name a channel: {', '.join(names)}. Got {name!r}.")
            if not 0 <= value < math.inf:
                raise InputError(f"{option} {name} must be money of at least 0. Got {value}.")
    if not 0 < budget < 1e13:
        raise InputError(f"--budget must be money above 0. Got {budget}.")
    low = np.array([round(minimum.get(n, 0.0) * unit) for n in names], np.int64)
    most = [min(maximum.get(r.name, r.most), budget) for r in responses]
    high = np.array([math.floor(m * unit + 1e-6) for m in most], np.int64)
    for name, least, top in zip(names, low.tolist(), high.tolist(), strict=True):
        if least > top:
            raise InputError(
                f"--minimum {name} must be at most {top / unit:,.2f}, its maximum (of the bounds, "
                f"the budget or twice the largest month of its history). Got {least / unit:,.2f}. "
                "Change one of the two."
            )
    if int(low.sum()) > round(budget * unit):
        raise InputError(
            f"The minimums must fit into the budget of {budget:,.2f}. Got {low.sum() / unit:,.2f} "
            "in all. Lower them."
        )
    return low, high


def allocate(
    scale: Floats, power: Floats, low: Ints, high: Ints, budget: int, unit: int = 1
) -> Ints:
    """Units of money for each channel, (k,), whose margin less spend is greatest in all.

    `low`, `high` and `budget` count units, of which `unit` make one of money. Channels of equal
    worth are served in their order.
    """

    def value(x: Ints) -> Floats:
        return np.asarray(scale * (np.maximum(x, 0) / unit) ** power * unit)

    def last(x: Ints) -> Floats:
        # Without curvature every unit brings the same, to the last bit.
        return np.where(power == 1, scale, value(x) - value(x - 1))

    def bought(price: float) -> Ints:
        """The most units of each channel, every one of which brings at least `price`."""
        a, b = low.copy(), high.copy()
        while (a < b).any():
            middle = a + (b - a + 1) // 2
            worth = last(middle) >= price
            a, b = np.where(worth, middle, a), np.where(worth, b, middle - 1)
        return a

    whole = bought(1.0)
    if int(whole.sum()) <= budget:
        return whole
    # Dearer until what is bought fits, then the last units by worth.
    cheap, dear = 1.0, 2.0
    while int(bought(dear).sum()) > budget:
        cheap, dear = dear, dear * 2
        if not math.isfinite(dear):
            return low
    for _ in range(80):
        middle = (cheap + dear) / 2
        if int(bought(middle).sum()) > budget:
            cheap = middle
        else:
            dear = middle
    x = bought(dear)
    left = budget - int(x.sum())
    while left > 0:
        worth = np.where(x < high, last(x + 1), -math.inf)
        best = int(np.argmax(worth))
        # A channel without curvature is worth the same to its end.
        step = min(left, int(high[best] - x[best])) if power[best] == 1 else 1
        x[best] += step
        left -= step
    return x


def given(frame: pd.DataFrame, name: str) -> list[Response]:
    """Responses out of a table of the user's: channel, scale, elasticity; segment, sd if given.

    Raises
    ------
    InputError
        A column is missing, a number is none, an elasticity outside (0, 1], a channel twice.
    """
    for column in ("channel", "scale", "elasticity"):
        if column not in frame:
            raise InputError(
                f"{name} must have the columns channel, scale, elasticity (and segment, sd if need "
                f"be). Missing: {column}. Margin of a month = scale x spend^elasticity."
            )
    found = []
    for row, (_, line) in enumerate(frame.iterrows(), 1):
        cells = {k: None if pd.isna(line.get(k)) else line.get(k) for k in COLUMNS}
        label = str(cells["channel"]) + (f"/{cells['segment']}" if cells["segment"] else "")
        numbers = [_number(cells[key], key) for key in ("scale", "elasticity", "sd")]
        scale, elasticity, sd = numbers
        if not (scale >= 0 and 0 < elasticity <= 1 and sd >= 0) or not cells["channel"]:
            raise InputError(
                f"{name} row {row}: must hold a channel, a scale of at least 0, an "
                "elasticity above 0 and at most 1 (the next unit brings no more than the last) and "
                "an sd of at "
                f"least 0. Got {', '.join(str(cells[key]) for key in COLUMNS)}. Mend that line."
            )
        found.append(Response(label, scale, elasticity, sd, note="given"))
    names = [one.name for one in found]
    twice = sorted({label for label in names if names.count(label) > 1})
    if twice:
        raise InputError(f"{name} must hold every channel and segment once. Got {twice[0]} twice.")
    return sorted(found, key=lambda one: one.name)


def _number(value: object, column: str) -> float:
    if value is None and column == "sd":
        return 0.0
    try:
        number = float(str(value))
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def fit(months: pd.DataFrame, values: pd.DataFrame) -> tuple[list[Response], list[str]]:
    """Responses from history, and the channels that tell none, with the reason.

    Parameters
    ----------
    months : channel, month, cost (money spent), customers (new ones of that channel and month).
    values : channel, value (margin that a new customer brings in all), sd (standard error of it).

    New customers follow a Poisson regression on log spend, with errors widened by their
    over-dispersion (McCullagh and Nelder 1989, chapter 6); an elasticity above 1 is taken as 1.
    """
    found, without = [], []
    worth = {str(row["channel"]): row for row in values.to_dict("records")}
    for name, every in months.groupby("channel", sort=True):
        channel = str(name)
        rows = every[every["cost"] > 0].sort_values("month")
        spend = np.log(rows["cost"].to_numpy(np.float64))
        count = rows["customers"].to_numpy(np.float64)
        if channel not in worth:
            without.append(f"{channel} (no new customer whose value is predicted)")
            continue
        if len(rows) < MONTHS or count.sum() == 0:
            without.append(f"{channel} ({len(rows)} months of spend, {count.sum():.0f} customers)")
            continue
        if spend.std() < SPREAD:
            without.append(f"{channel} (its spend hardly varied, so nothing tells its slope)")
            continue
        value, error = (float(worth[channel][key]) for key in ("value", "sd"))
        if value <= 0:
            without.append(f"{channel} (a new customer is worth {value:,.2f})")
            continue
        level, slope, spread, slope_sd, middle = _poisson(spend, count)
        sd = math.hypot(spread, error / value)
        found.append(
            Response(channel, value * math.exp(level), slope, sd,
                     STRETCH * float(rows["cost"].max()), f"fitted on {len(rows)} months",
                     slope_sd, middle)
        )  # fmt: skip
    return found, without


def _poisson(x: Floats, count: Floats) -> tuple[float, float, float, float, float]:
    """Level and slope (at most 1) of log customers on log spend; their errors; the x between."""
    middle = float(np.average(x, weights=count))
    columns = np.column_stack([np.ones(len(x)), x - middle])
    beta = np.array([math.log(count.mean()), 0.5])
    for _ in range(50):
        mean = np.exp(np.clip(columns @ beta, -30, 30))
        step = np.linalg.solve((columns.T * mean) @ columns, columns.T @ (count - mean))
        beta = beta + np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-10:
            break
    slope = float(min(max(beta[1], 0.05), 1.0))
    # The level again, at a slope that may have been held back.
    expected = np.exp(slope * (x - middle))
    level = math.log(count.sum() / expected.sum())
    mean = expected * math.exp(level)
    surplus = float((special.xlogy(count, count / mean) - (count - mean)).sum())
    wider = max(1.0, 2 * surplus / max(len(x) - 2, 1))
    error = math.sqrt(wider / count.sum())
    slope_error = math.sqrt(wider / float(mean @ (x - middle) ** 2))
    return level - slope * middle, slope, error, slope_error, middle
