"""What if everybody of a segment got a discount: margin and value before and after.

Nobody can know from orders alone how demand answers a price: what is said here rests on the lift
that the caller assumes, and is marked so.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import InputError
from features.money import Cashflow

__all__ = ["WhatIf", "what_if"]


@dataclass(frozen=True)
class WhatIf:
    """A discount on all sales of a segment for some months; money of all its customers.

    ``revenue`` and ``margin`` are those of the cheaper months, not discounted in time; ``value`` is
    the future value at ``horizon``; each before and after. ``break_even`` is the relative lift of
    sales at which the margin of these months stays what it was, None if no lift reaches it.
    """

    segment: str
    customers: int
    depth: float
    months: int
    lift: float
    horizon: int
    revenue: tuple[float, float]
    margin: tuple[float, float]
    value: tuple[float, float]
    break_even: float | None

    @property
    def assumption(self) -> str:
        """What this rests on, in words."""
        told = f"sales grow by {self.lift:.0%}" if self.lift else "nobody buys more or less"
        return (
            f"Assumption, not a prediction: at list prices {told}, costs per piece stay, and "
            "nothing is bought earlier or later because of it"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"assumption": self.assumption}


def what_if(
    predictions: pd.DataFrame,
    member: npt.NDArray[np.bool_],
    flow: Cashflow,
    *,
    depth: float,
    months: int,
    horizon: int,
    segment: str,
    lift: float = 0.0,
) -> WhatIf:
    """A discount of `depth` (share of the price) for `months`, to the rows where `member`.

    With the margin share m, a sale at list price 1 costs 1 - m whatever is paid for it: margin
    after = revenue (1 + lift) (m - depth).

    Raises
    ------
    InputError
        The predictions lack the revenue of these months, nobody is in the segment, or a share lies
        outside its range.
    """
    if not 0 < depth < 1 or not -1 <= lift < math.inf:
        raise InputError(
            f"--discount must lie between 0 and 1 and --lift be -1 or more. Got {depth} and {lift}"
            ". A tenth off is 0.1."
        )
    column = f"revenue_{months}m"
    if column not in predictions or not 1 <= months <= horizon:
        raise InputError(
            f"The predictions must carry {column}, and --months at most the horizon of {horizon}. "
            f"Write them by clv predict --horizons {months},{horizon}."
        )
    rows = predictions[member]
    if rows.empty:
        raise InputError(f"--segment {segment}: somebody must be in it. Nobody is. Name another.")
    before = math.fsum(rows[column])
    after = before * (1 + lift) * (1 - depth)
    earned = before * flow.margin, before * (1 + lift) * (flow.margin - depth)
    # Within these months the sales are taken as even: each month's money in its middle.
    present = sum(flow.factor(m) for m in range(1, months + 1)) / months
    value = math.fsum(rows[f"clv_{horizon}m"])
    even = flow.margin / (flow.margin - depth) - 1 if depth < flow.margin else None
    return WhatIf(
        segment, len(rows), depth, months, lift, horizon, (before, after), earned,
        (value, value + (earned[1] - earned[0]) * present), even,
    )  # fmt: skip
