"""Rehearsals: what a model fitted at an earlier moment said, beside what then came.

Calibration and intervals are learned from these and never from the shipped fit: a model has seen
the labels it was fitted on, and looks surer on them than it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from features.spine import add_months, months_between

__all__ = ["Rehearsal", "latest_test", "plan"]

Floats = npt.NDArray[np.float64]
#: An origin that is tested keeps this much more history before it than its horizon is long.
SPARE_MONTHS: Final = 3
MOST: Final = 3  # origins that are pooled


@dataclass(frozen=True)
class Rehearsal:
    """Predictions of one past origin and their outcomes, (rows,) each; money in currency.

    Values are margin, discounted, before the cost to keep and before refunds that were still
    pending at the origin. Nobody can be recognised: there are no ids.
    """

    cutoff: int
    months: int
    value: Floats  # expected
    orders: Floats  # expected
    churn: Floats  # chance of no order
    actual: Floats
    churned: Floats  # 0 or 1

    @property
    def worth(self) -> Floats:
        """Expected value of each customer who stays."""
        return np.asarray(self.value / np.maximum(1.0 - self.churn, 1e-9))


def latest_test(first_ts: int, as_of: int, longest: int, zone: str) -> tuple[int, int] | None:
    """Cutoff and months of the newest out-of-time test, the longest that history allows.

    The cutoff is as_of less h months, with at least h + 3 months of history before it; None where
    not even one month can be tested.
    """
    for months in range(longest, 0, -1):
        cutoff = add_months(as_of, -months, zone)
        if months_between(first_ts, cutoff, zone) >= months + SPARE_MONTHS:
            return cutoff, months
    return None


def plan(
    first_ts: int, known_until: int, longest: int, zone: str, most: int = MOST
) -> tuple[tuple[int, int], ...]:
    """Cutoffs and months of up to `most` rehearsals, all of one length, the newest first."""
    newest = latest_test(first_ts, known_until, longest, zone)
    if newest is None:
        return ()
    months = newest[1]
    step = max(1, months // 4)
    found = [add_months(known_until, -months - k * step, zone) for k in range(most)]
    return tuple((t, months) for t in found if months_between(first_ts, t, zone) >= months)
