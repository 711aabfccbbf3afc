"""What a campaign brought: the difference between those treated and those held out by chance.

The effect is the difference of the means of two arms that chance alone divided; its interval is
Welch's (1947, Biometrika 34), which asks for no equal spreads. What was known of a customer before
the campaign explains part of the outcome: with it taken off (CUPED; Deng, Xu, Kohavi and Walker
2013, WSDM) the same difference has a narrower interval. Nothing here knows where rows come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from features.errors import InputError
from serving.views.language import Note

__all__ = ["LEVEL", "Balance", "Effect", "Measured", "adjusted", "compare", "measure"]

Floats = npt.NDArray[np.float64]
LEAST: Final = 10  # customers in an arm; fewer tell no spread
SUSPICIOUS: Final = 0.001  # a chance so small says that it was not chance that divided the arms
LEVEL: Final = 0.95


@dataclass(frozen=True)
class Effect:
    """A treatment arm against the control: per head, in the unit of the outcome.

    ``low`` and ``high`` enclose the effect with the chance ``level``; ``p`` is the two-sided chance
    of a difference this large if there were no effect. ``variance`` is the share of the variance
    that stayed after CUPED, 1 without it. ``total`` is the effect times the treated, ``cost`` and
    ``roi`` = (total - cost) / cost are None where the cost is not known.
    """

    group: str
    arm: str
    treated: int
    control: int
    mean_treated: float
    mean_control: float
    effect: float
    low: float
    high: float
    p: float
    level: float = LEVEL
    variance: float = 1.0
    cost: float | None = None

    @property
    def total(self) -> tuple[float, float, float]:
        """What all the treated brought together, with its interval."""
        n = self.treated
        return n * self.effect, n * self.low, n * self.high

    @property
    def roi(self) -> tuple[float, float, float] | None:
        """(total - cost) / cost with its interval; None without a cost."""
        cost = self.cost
        if not cost:
            return None
        middle, low, high = self.total
        return (middle - cost) / cost, (low - cost) / cost, (high - cost) / cost

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"total": list(self.total), "roi": self.roi and list(self.roi)}


@dataclass(frozen=True)
class Balance:
    """How equal the arms were before the campaign: one thing known of them.

    ``difference`` is that of the means in standard deviations, ``p`` the chance of one so large.
    """

    name: str
    treated: float
    control: float
    difference: float
    p: float


@dataclass(frozen=True)
class Measured:
    """The effects of an experiment, plain and adjusted, and whether chance divided the arms.

    ``plain`` and ``adjusted`` hold one effect per treatment arm (``adjusted`` is empty without
    anything known beforehand); ``groups`` those within levels. ``ratio_p`` is the chance of such a
    share of control if the intended one held, None if that is not known.
    """

    outcome: str
    plain: tuple[Effect, ...]
    adjusted: tuple[Effect, ...]
    groups: tuple[Effect, ...]
    balance: tuple[Balance, ...]
    control_share: float
    intended_share: float | None
    ratio_p: float | None
    before: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def best(self) -> tuple[Effect, ...]:
        """The adjusted effects where there are, else the plain ones."""
        return self.adjusted or self.plain

    @property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against a random division, in words; empty where nothing does."""
        found = list[str]()
        if self.ratio_p is not None and self.ratio_p < SUSPICIOUS:
            found.append(
                Note.of(
                    "notes.control",
                    found=f"{self.control_share:.2%}",
                    meant=f"{self.intended_share:.2%}",
                    times=_odds(self.ratio_p),
                )
            )
        limit = SUSPICIOUS / max(len(self.balance), 1)
        found += [
            Note.of(
                "notes.differed",
                name=one.name,
                treated=f"{one.treated:,.4g}",
                control=f"{one.control:,.4g}",
                times=_odds(one.p),
            )
            for one in self.balance
            if one.p < limit
        ]
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "outcome": self.outcome,
            "effects": [one.as_dict() for one in self.plain],
            "adjusted": [one.as_dict() for one in self.adjusted],
            "adjusted_by": list(self.before),
            "groups": [one.as_dict() for one in self.groups],
            "balance": [asdict(one) for one in self.balance],
            "control_share": self.control_share,
            "intended_share": self.intended_share,
            "sample_ratio_p": self.ratio_p,
            "left_out": list(self.left_out),
            "sound": not self.warnings,
            "warnings": list(self.warnings),
        }


def _odds(p: float) -> str:
    return f"{1 / max(p, 1e-9):,.0f}"


def compare(
    treated: Floats,
    control: Floats,
    *,
    level: float = LEVEL,
    group: str = "all",
    arm: str = "treatment",
    cost: float | None = None,
    known: int = 0,
    variance: float = 1.0,
) -> Effect:
    """The difference of the means of two samples, (n,) and (m,), with Welch's interval.

    `known` columns were taken off the outcome beforehand: so many degrees of freedom fewer.
    """
    n, m = len(treated), len(control)
    means = float(np.mean(treated)), float(np.mean(control))
    parts = float(np.var(treated, ddof=1)) / n, float(np.var(control, ddof=1)) / m
    error = math.sqrt(sum(parts))
    difference = means[0] - means[1]
    if error == 0:  # everybody the same: no doubt is left
        p = 1.0 if difference == 0 else 0.0
        return Effect(group, arm, n, m, *means, difference, difference, difference, p, level,
                      variance, cost)  # fmt: skip
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (n - 1) + parts[1] ** 2 / (m - 1)) - known
    reach = float(stats.t.ppf((1 + level) / 2, max(freedom, 1.0))) * error
    p = float(2 * stats.t.sf(abs(difference) / error, max(freedom, 1.0)))
    return Effect(group, arm, n, m, *means, difference, difference - reach, difference + reach, p,
                  level, variance, cost)  # fmt: skip


def adjusted(outcome: Floats, before: Floats, arms: npt.NDArray[np.int64]) -> Floats:
    """The outcome, (n,), less what was to be expected from `before`, (n, k), known beforehand.

    The slopes come from within the arms, so that an effect does not enter them, and what is taken
    off has mean zero over all: means stay comparable with the plain ones.
    """
    y, x = outcome.copy(), before.copy()
    for arm in np.unique(arms):
        here = arms == arm
        y[here] -= y[here].mean()
        x[here] -= x[here].mean(axis=0)
    scale = x.std(axis=0)
    x = x[:, scale > 0] / scale[scale > 0]
    slopes = np.linalg.lstsq(x, y, rcond=1e-9)[0]
    centred = (before - before.mean(axis=0))[:, scale > 0] / scale[scale > 0]
    return np.asarray(outcome - centred @ slopes)


def measure(
    frame: pd.DataFrame,
    *,
    arm: str,
    control: str,
    outcome: str,
    before: Sequence[str] = (),
    by: Sequence[str] = (),
    customer: str | None = None,
    cost: str | None = None,
    share: float | None = None,
    level: float = LEVEL,
) -> Measured:
    """The effect of every other arm against the control, from one row per customer.

    Parameters
    ----------
    frame : one row per customer, in any order.
    arm, control : the column of the arms and the value that marks the control.
    outcome : a column of numbers: what each customer brought after being contacted, or not.
    before : columns of numbers known before the campaign: the arms' balance is checked by them, and
        they narrow the interval.
    by : columns by whose levels the effect is told apart; one with a small arm is left out.
    customer : the column of ids; nobody may stand in two arms.
    cost : a column of money spent on each customer, for the ROI.
    share : the intended share of the control, for the check of the sample ratio.

    Raises
    ------
    InputError
        A column is missing or no number, an arm is too small or missing, a customer in two arms.
    """
    if not 0.5 <= level < 1:
        raise InputError(f"--level must be a chance of 0.5 to 1. Got {level}. Usual is 0.95.")
    if share is not None and not 0 < share < 1:
        raise InputError(
            f"The intended share of the control must lie between 0 and 1. Got {share}."
        )
    table = _checked(frame, arm, control, [outcome, *before, *([cost] if cost else [])], by,
                     customer)  # fmt: skip
    # One order whatever the input's, so that sums have the same bits.
    numbers = [outcome, *before]
    order = np.lexsort([table[name].to_numpy() for name in (*reversed(numbers), arm)])
    table = table.iloc[order].reset_index(drop=True)
    whole = _Arms.of(table, arm, control, outcome, before, cost, level)
    groups, left_out = _by_level(table, by, arm, control, outcome, before, cost, level)
    total = int((table[arm] == control).sum())
    ratio = None if share is None else float(stats.binomtest(total, len(table), share).pvalue)
    return Measured(
        outcome, whole.plain("all"), whole.narrowed("all") if before else (), groups,
        tuple(_balance(table, arm, control, before)), total / len(table), share, ratio,
        tuple(before), left_out,
    )  # fmt: skip


@dataclass(frozen=True)
class _Arms:
    """The arrays of one group of customers."""

    names: tuple[str, ...]  # the control first
    arms: npt.NDArray[np.int64]
    outcome: Floats
    before: Floats
    cost: Floats | None
    level: float

    @classmethod
    def of(
        cls,
        table: pd.DataFrame,
        arm: str,
        control: str,
        outcome: str,
        before: Sequence[str],
        cost: str | None,
        level: float,
    ) -> _Arms:
        names = (control, *sorted(set(table[arm]) - {control}))
        place = {name: k for k, name in enumerate(names)}
        return cls(
            names, np.array([place[name] for name in table[arm]], np.int64),
            table[outcome].to_numpy(np.float64),
            np.ascontiguousarray(table[list(before)].to_numpy(np.float64)),
            table[cost].to_numpy(np.float64) if cost else None, level,
        )  # fmt: skip

    def _told(self, values: Floats, group: str, known: int, variance: float) -> tuple[Effect, ...]:
        control = values[self.arms == 0]
        return tuple(
            compare(
                values[self.arms == k], control, level=self.level, group=group, arm=name,
                cost=None if self.cost is None else math.fsum(self.cost[self.arms == k]),
                known=known, variance=variance,
            )
            for k, name in enumerate(self.names)
            if k
        )  # fmt: skip

    def plain(self, group: str) -> tuple[Effect, ...]:
        return self._told(self.outcome, group, 0, 1.0)

    def narrowed(self, group: str) -> tuple[Effect, ...]:
        values = adjusted(self.outcome, self.before, self.arms)
        spread = [_within(each, self.arms) for each in (values, self.outcome)]
        return self._told(
            values, group, self.before.shape[1], spread[0] / spread[1] if spread[1] else 1.0
        )


def _within(values: Floats, arms: npt.NDArray[np.int64]) -> float:
    return math.fsum(
        float(((values[arms == k] - values[arms == k].mean()) ** 2).sum()) for k in np.unique(arms)
    )


def _checked(
    frame: pd.DataFrame,
    arm: str,
    control: str,
    numbers: Sequence[str],
    by: Sequence[str],
    customer: str | None,
) -> pd.DataFrame:
    """The needed columns with arms as text and numbers as floats; all that can be wrong."""
    wanted = [arm, *numbers, *by, *([customer] if customer else [])]
    for name in wanted:
        if name not in frame:
            raise InputError(
                f"The table must have the column '{name}'. Got {', '.join(map(str, frame))}. "
                "Name one of them."
            )
    table = frame[list(dict.fromkeys(wanted))].copy()
    if table[arm].isna().any():
        raise InputError(f"Every row must have an arm in '{arm}'. Got {table[arm].isna().sum()} "
                         "rows without. Mend or leave out these rows.")  # fmt: skip
    table[arm] = table[arm].astype(str)
    for name in numbers:
        table[name] = _numbers(table[name], name)
    _require_arms(table[arm], arm, control)
    if customer:
        _require_one_arm(table, arm, customer)
    return table


def _numbers(column: pd.Series[Any], name: str) -> pd.Series[Any]:
    found = pd.to_numeric(column, errors="coerce").astype(np.float64)
    bad = ~np.isfinite(found)
    if bad.any():
        place = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"Column '{name}' must hold a number in every row. Got {str(column.iloc[place])[:40]!r}"
            f" in row {place + 1} ({int(bad.sum())} such rows). Write 0 where nothing came, or "
            "leave those rows out."
        )
    return found


def _require_arms(arms: pd.Series[Any], column: str, control: str) -> None:
    counts = arms.value_counts()
    if control not in counts or len(counts) < 2:
        raise InputError(
            f"There must be a control group: '{column}' must hold {control!r} and another value. "
            f"Got {', '.join(sorted(map(str, counts.index))[:8])}. Without customers who were held "
            "out by chance no effect can be told; draw a control beforehand (clv target --control)."
        )
    if counts.min() < LEAST:
        name = str(counts.index[-1])
        raise InputError(
            f"Every arm must have {LEAST} customers or more. Got {counts.min()} in {name!r}. "
            "Measure a larger campaign (clv sample-size says how large)."
        )


def _require_one_arm(table: pd.DataFrame, arm: str, customer: str) -> None:
    double = table.groupby(customer)[arm].nunique() > 1
    if double.any():
        raise InputError(
            f"Every customer must be in one arm. Got {int(double.sum())} in two or more: who was "
            "treated is no control. Find out why; leave them out if it was by chance."
        )
    if table[customer].duplicated().any():
        raise InputError(
            f"Every customer must stand once. Got {int(table[customer].duplicated().sum())} rows "
            "more. Sum them up to one row per customer first."
        )


def _balance(table: pd.DataFrame, arm: str, control: str, before: Sequence[str]) -> list[Balance]:
    """All treatment arms together against the control, for everything known beforehand."""
    found = []
    held = (table[arm] == control).to_numpy()
    for name in before:
        values = table[name].to_numpy(np.float64)
        one = compare(values[~held], values[held])
        spread = math.sqrt((float(np.var(values[~held])) + float(np.var(values[held]))) / 2)
        size = one.effect / spread if spread else 0.0
        found.append(Balance(name, one.mean_treated, one.mean_control, size, one.p))
    return found


def _by_level(
    table: pd.DataFrame,
    by: Sequence[str],
    arm: str,
    control: str,
    outcome: str,
    before: Sequence[str],
    cost: str | None,
    level: float,
) -> tuple[tuple[Effect, ...], tuple[str, ...]]:
    """Effects within each level, and the levels in which an arm is too small to tell one."""
    found: list[Effect] = []
    left_out = []
    arms = set(table[arm])
    for column in by:
        levels = table[column].astype(object).where(table[column].notna(), "not known").astype(str)
        for name in sorted(set(levels)):
            part = table[levels == name]
            counts = part[arm].value_counts()
            told = f"{column} {name}"
            if set(counts.index) != arms or counts.min() < LEAST:
                left_out.append(told)
                continue
            some = _Arms.of(part, arm, control, outcome, before, cost, level)
            found += some.narrowed(told) if before else some.plain(told)
    return tuple(found), tuple(left_out)
