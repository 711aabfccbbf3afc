"""What is given back: the share of purchases that is refunded, and what is still on its way.

Buy-till-you-die models and Tweedie boosting speak of gross purchases; net value is gross less what
is given back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from training.samples import Samples

__all__ = ["Returns", "tamed"]

Floats = npt.NDArray[np.float64]
#: A customer who spends more than this many times the median teaches as one who spends just that.
GIANT: Final = 100.0


@dataclass(frozen=True)
class Returns:
    """Share of purchases that is given back, per customer, and what is still on its way.

    A customer's share is pulled to the population's as if they had bought `strength` (currency)
    more at that share. ``pending`` is the part of the last 30 days' expected refunds that is
    still to come at a cutoff.
    """

    share: float
    strength: float
    pending: float

    MOST = 0.95  # of purchases: beyond it, net value would no longer rise with the horizon

    @classmethod
    def fit(
        cls, samples: Samples, spend: Floats, refunds: Floats, recent: Floats, tamed: Floats
    ) -> Returns:
        """Level from all purchases so far; what is pending from labels against that level.

        `spend`, `refunds` and `recent` (last 30 days' spend) are the rows' features, currency;
        `tamed` is each row's factor from the function `tamed`.
        """
        bought = float((spend * tamed).sum())
        share = min(float((refunds * tamed).sum()) / bought, cls.MOST) if bought > 0 else 0.0
        buyers = spend > 0
        strength = float((spend * tamed)[buyers].mean()) if buyers.any() else 1.0
        plain = cls(share, strength, 0.0)
        each = plain.of(spend, refunds) * tamed
        expected, due = float((each * samples.gross).sum()), float((each * recent).sum())
        late = (float((samples.refunds * tamed).sum()) - expected) / due if due > 0 else 0.0
        return replace(plain, pending=min(max(late, 0.0), 1.0))

    def of(self, spend: Floats, refunds: Floats) -> Floats:
        """Expected share of each customer, (rows,)."""
        share = (refunds + self.share * self.strength) / (spend + self.strength)
        return np.clip(share, 0.0, self.MOST)


def tamed(size: Floats) -> Floats:
    """Factor on money, (rows,): below 1 for giants only, so that one cannot teach all the others.

    It scales label and forecast of a row alike, hence what is learned of their ratio stays.
    """
    some = size[size > 0]
    most = GIANT * float(np.median(some)) if len(some) else 1.0
    return np.asarray(most / np.maximum(size, most))
