"""What a churn model is worth to a campaign: profit of contacting the customers at highest risk.

Profit of contacting a group = sum over it of (save_rate x churns x value - contact_cost), the form
of Neslin, Gupta, Kamakura, Lu and Mason 2006 (Journal of Marketing Research 43, 204-211) with the
cost of the offer inside ``contact_cost`` and no fixed cost. Expected profit puts the probability in
the place of "churns"; realised profit puts what happened.

Realised profit is an assumption, not a measurement, where nobody was contacted: it takes it that a
contact would have kept a share ``save_rate`` of those who left, and moved nobody else. A campaign
with a control group measures it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import InputError
from training.metrics import check_churn, column, same_length
from training.ranks import Floats, Ties, cumulated, ties_of
from training.scores import Interval, percentiles, resamples

__all__ = ["Best", "Rank", "best_share", "profit_curve"]

Rank = Literal["probability", "gain"]
POINTS: Final = 100  # of the curve: whole percents of the customers


@dataclass(frozen=True)
class Best:
    """The share of the customers to contact, as one can know it beforehand, and what came of it.

    ``share`` maximises the expected profit (the smaller one of equals; 0 where no contact pays),
    ``expected`` is that profit and ``realised`` the one on what happened, with its 95 % bootstrap
    interval at this share. ``hindsight_share`` and ``hindsight`` say what the same ranking could
    have earned at most. Money in all, for the ``n`` customers.
    """

    n: int
    share: float
    expected: float
    realised: Interval
    hindsight_share: float
    hindsight: float

    def as_dict(self) -> dict[str, float]:
        """Plain values for JSON and the model card."""
        told = {"n": float(self.n), "share": self.share, "expected": self.expected}
        told |= {"realised": self.realised.value, "realised_low": self.realised.low}
        told |= {"realised_high": self.realised.high, "hindsight_share": self.hindsight_share}
        return told | {"hindsight": self.hindsight}


@dataclass(frozen=True)
class _Campaign:
    """Gain of contacting each customer, cost included, in canonical order."""

    ties: Ties
    expected: Floats
    realised: Floats

    def curve(self, amounts: Floats, weights: Floats) -> tuple[Floats, Floats]:
        """Corners: share of the customers contacted, total of ``amounts``."""
        place = cumulated(self.ties, weights)
        return place / place[-1], cumulated(self.ties, weights * amounts)


def profit_curve(
    churned: npt.ArrayLike,
    probability: npt.ArrayLike,
    value: npt.ArrayLike,
    *,
    contact_cost: float,
    save_rate: float,
    by: Rank = "probability",
) -> pd.DataFrame:
    """Profit of contacting the top 0, 1, ... 100 % of the customers by risk.

    Parameters
    ----------
    churned, probability
        0/1 and the model's chance of it, shape (n,).
    value
        Money that a customer is worth who stays: one number, or shape (n,). Negative ones are
        possible (refunds): keeping such a customer costs.
    contact_cost
        Money per contact, at least 0.
    save_rate
        Share of those about to leave that a contact keeps, 0 to 1.
    by
        Rank by ``probability``, or by ``gain`` = probability x value.

    Returns
    -------
    DataFrame
        share (0 to 1), customers (contacted; a customer on the edge counts in part), expected,
        realised: profit in all, in money. Equal ranks are contacted as if in random order and
        the outcome averaged.

    Raises
    ------
    InputError
        As ``churn_metrics``; a cost below 0, a save rate outside 0 to 1, an unknown ``by``.
    """
    made = _campaign(churned, probability, value, contact_cost, save_rate, by)
    ones, shares = np.ones(len(made.expected)), np.arange(POINTS + 1) / POINTS
    totals = [np.interp(shares, *made.curve(each, ones)) for each in (made.expected, made.realised)]
    return pd.DataFrame(
        {
            "share": shares,
            "customers": shares * len(ones),
            "expected": totals[0],
            "realised": totals[1],
        }
    )


def best_share(
    churned: npt.ArrayLike,
    probability: npt.ArrayLike,
    value: npt.ArrayLike,
    *,
    contact_cost: float,
    save_rate: float,
    by: Rank = "probability",
    draws: int = 500,
    seed: int = 0,
) -> Best:
    """How many to contact, and the profit of that; parameters and errors as `profit_curve`.

    The interval resamples customers and contacts the same share of each resample.
    """
    made = _campaign(churned, probability, value, contact_cost, save_rate, by)
    n = len(made.expected)
    share, expected = _highest(*made.curve(made.expected, np.ones(n)))
    hindsight_share, hindsight = _highest(*made.curve(made.realised, np.ones(n)))
    # The profit at a fixed share of each resample: what chance alone would have made of the plan.
    drawn = [
        np.interp(share, *made.curve(made.realised, weights))
        for weights in resamples(n, draws, seed)
    ]
    came = float(np.interp(share, *made.curve(made.realised, np.ones(n))))
    interval = Interval(came, *percentiles(np.array(drawn))[1:])
    return Best(n, share, expected, interval, hindsight_share, hindsight)


def _highest(shares: Floats, totals: Floats) -> tuple[float, float]:
    """The corner with the highest total: between corners the curve is straight."""
    top = int(np.argmax(totals))
    return float(shares[top]), float(totals[top])


def _campaign(
    churned: npt.ArrayLike,
    probability: npt.ArrayLike,
    value: npt.ArrayLike,
    contact_cost: float,
    save_rate: float,
    by: Rank,
) -> _Campaign:
    if not 0 <= contact_cost < np.inf:
        raise InputError(f"contact_cost must be money of at least 0. Got {contact_cost}.")
    if not 0 <= save_rate <= 1:
        raise InputError(f"save_rate must be a share, 0 to 1. Got {save_rate}.")
    if by not in ("probability", "gain"):
        raise InputError(f"Customers are ranked by 'probability' or 'gain'. Got {by!r}.")
    z, p = column(churned, "churned"), column(probability, "probabilities")
    worth = np.full(len(z), value, np.float64) if np.ndim(value) == 0 else value
    v = column(worth, "values")
    same_length([z, p, v], "churned, probabilities and values")
    check_churn([z, p])
    order = np.lexsort((v, p, z))
    z, p, v = z[order], p[order], v[order]
    ranks = ties_of(p if by == "probability" else p * v)
    return _Campaign(ranks, save_rate * p * v - contact_cost, save_rate * z * v - contact_cost)
