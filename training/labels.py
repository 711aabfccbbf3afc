"""What happened after a cutoff: value, orders and churn in ``[as_of, as_of + h months)``.

A label exists only where the data cover its whole window. What is not ripe is left out and
counted, never taken for zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features import windows
from features.behaviour import Rows
from features.errors import InputError
from features.spine import Cutoffs, add_months, text
from features.store import Bucket

__all__ = ["Labels", "build", "require_ripe", "ripe"]

Floats = npt.NDArray[np.float64]
SUMS = [windows.COLUMNS.index(name) for name in ("spend", "refunds", "orders", "costed", "cost")]


@dataclass(frozen=True)
class Labels:
    """Labels of feature rows, (rows,) each; money in currency units.

    ``gross`` is what was bought, ``refunds`` what was given back (by its own date), both >= 0;
    ``orders`` counts orders, at least 1 where something was bought; ``ripe`` says where the window
    is covered; ``costed`` is the net revenue of lines whose cost is known, ``cost`` that cost.
    Unripe rows hold NaN.
    """

    gross: Floats
    refunds: Floats
    orders: Floats
    ripe: npt.NDArray[np.bool_]
    costed: Floats
    cost: Floats

    @classmethod
    def join(cls, parts: Sequence[Labels]) -> Labels:
        """Labels of several buckets, one below the other."""
        names = ("gross", "refunds", "orders", "ripe", "costed", "cost")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    @property
    def net(self) -> Floats:
        """Revenue: bought less given back; may be negative."""
        return self.gross - self.refunds

    @property
    def any_cost(self) -> bool:
        """Whether the cost of any line is known."""
        return bool((self.costed[self.ripe] != 0).any() or (self.cost[self.ripe] != 0).any())

    def earned(self, rest: float) -> Floats:
        """Margin: revenue less cost where that is known, elsewhere the share `rest` of it."""
        return self.costed - self.cost + rest * (self.net - self.costed)

    @property
    def churned(self) -> Floats:
        """1 where no order fell into the window, else 0; NaN where unripe."""
        return np.where(self.ripe, (self.orders == 0).astype(np.float64), np.nan)


def ripe(cutoff: int, months: int, known_until: int, zone: str) -> bool:
    """Whether ``[cutoff, cutoff + months)`` ends by `known_until` (both microseconds UTC)."""
    return add_months(cutoff, months, zone) <= known_until


def require_ripe(cutoff: int, months: int, known_until: int, zone: str) -> None:
    """Refuse a label window that the data do not cover.

    Raises
    ------
    InputError
        The window ends after `known_until`.
    """
    end = add_months(cutoff, months, zone)
    if end > known_until:
        raise InputError(
            f"Labels of {months} months at {text(cutoff, zone)} need data until {text(end, zone)}; "
            f"the data end at {text(known_until, zone)}. Take an earlier date or a shorter horizon."
        )


def build(
    bucket: Bucket,
    rows: Rows,
    cutoffs: Cutoffs,
    months: Sequence[int],
    known_until: int,
    zone: str,
) -> dict[int, Labels]:
    """Labels of each horizon for feature rows of the same bucket and cutoffs.

    `known_until` is the embargo: nothing at or after it counts, and windows that reach beyond it
    are not ripe.
    """
    return {h: _one(bucket, rows, cutoffs, h, known_until, zone) for h in months}


def _one(
    bucket: Bucket, rows: Rows, cutoffs: Cutoffs, months: int, known_until: int, zone: str
) -> Labels:
    ends = np.array([add_months(int(t), months, zone) for t in cutoffs.times], np.int64)
    covered = (ends <= known_until)[rows.cut]
    who = rows.who[covered]
    sums = windows.window_of(
        bucket.starts, bucket.ts, _values(bucket), who,
        cutoffs.times[rows.cut[covered]], ends[rows.cut[covered]],
    )  # fmt: skip
    out = np.full((len(rows), len(SUMS)), np.nan)
    out[covered] = sums
    # An order begun before the cutoff may go on after it: whoever buys has not left.
    orders = np.maximum(out[:, 2], np.where(out[:, 0] > 0, 1.0, 0.0))
    gross, refunds, _, costed, cost = np.ascontiguousarray(out.T) / bucket.unit
    return Labels(gross, refunds, orders, covered, costed, cost)


def _values(bucket: Bucket) -> npt.NDArray[np.int64]:
    return np.ascontiguousarray(bucket.columns[:, SUMS])
