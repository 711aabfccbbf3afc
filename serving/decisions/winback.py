"""Whom to win back: those who have left, by their chance to return and what they are worth then.

The chance and the value are of who comes back by themselves: what a contact adds, only the control
group of the list can tell. That the ranking finds who returns is shown out of time: everything is
fitted before a past moment and held against what followed.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import InputError
from serving.decisions.targets import LEAST_STAY, Gain, numbers
from training.rehearsal import Rehearsal

__all__ = ["LAPSED", "Evaluation", "evaluate", "lapsed", "returning_gain"]

Floats = npt.NDArray[np.float64]
LAPSED: Final = 0.5  # churn from which a customer is more likely gone than not
TOP: Final = 0.1  # share of the lapsed that an evaluation looks at
GROUPS: Final = 5


def lapsed(predictions: pd.DataFrame, months: int, chance: float = LAPSED) -> npt.NDArray[np.bool_]:
    """Who has left: by the business's own rule where the predictions carry it, else by churn."""
    if not 0 < chance <= 1:
        raise InputError(f"--lapsed must be a chance above 0 and at most 1. Got {chance}.")
    inactive = [c for c in predictions if str(c).startswith("inactive_")]
    if inactive:
        return (predictions[inactive[0]] == 1).to_numpy(bool)
    return (predictions[f"churn_{months}m"] >= chance).to_numpy(bool)


def returning_gain(predictions: pd.DataFrame, months: int) -> Gain:
    """Chance of an order within `months` x value of who orders, in money, before any cost."""
    column = f"clv_{months}m"
    cost = numbers(predictions, f"retention_cost_{months}m")
    value = np.maximum(numbers(predictions, column) + cost, 0.0)
    spread, common = numbers(predictions, f"{column}_sd"), numbers(predictions, f"{column}_common")
    told = (
        "chance to return x value then, of those who come back by themselves; what a contact adds "
    )
    told += "is not in it, only the control group will tell"
    return Gain(value, spread, float(common[0]), told, f"{months} months",
                "expected value of those who return")  # fmt: skip


def returning(predictions: pd.DataFrame, months: int) -> pd.DataFrame:
    """The two parts of the ranking: p_return and value_if_back."""
    chance = 1.0 - predictions[f"churn_{months}m"].to_numpy(np.float64)
    value = returning_gain(predictions, months).value / np.maximum(chance, LEAST_STAY)
    return predictions.assign(p_return=chance, value_if_back=value)


@dataclass(frozen=True)
class Evaluation:
    """How the ranking would have done at a past moment, over customers who had left by then.

    ``predicted`` and ``returned`` are the mean chance and the share who really came back in
    ``months``; the top tenth by rank held ``money_share`` of the money they then brought (a random
    tenth holds 10 %, the best possible one ``best_share``). ``groups`` are fifths by chance:
    predicted, real, customers.
    """

    cutoff: str
    months: int
    customers: int
    predicted: float
    returned: float
    top: int
    top_returned: float
    money_share: float
    best_share: float
    groups: tuple[tuple[float, float, int], ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def evaluate(said: Rehearsal, cutoff: str, chance: float = LAPSED) -> Evaluation:
    """The ranking by chance x value among who had left by `cutoff`, beside what followed.

    Raises
    ------
    InputError
        Fewer than 50 customers had left by then.
    """
    churn, value, came = said.churn, said.value, said.actual
    here = np.flatnonzero(churn >= chance)
    if len(here) < 50:
        raise InputError(
            f"At least 50 customers must have left by {cutoff} to judge a win-back by. Got "
            f"{len(here)}. Take a lower --lapsed, or go without the evaluation by --no-test."
        )
    back = 1.0 - said.churned[here]
    predicted, money = 1.0 - churn[here], np.maximum(came[here], 0.0)
    rank = np.lexsort((came[here], -value[here]))
    top = rank[: max(1, round(TOP * len(here)))]
    whole = math.fsum(money)
    best = np.sort(money)[::-1][: len(top)]
    groups = []
    for part in np.array_split(np.lexsort((back, predicted)), GROUPS):
        groups.append((float(predicted[part].mean()), float(back[part].mean()), len(part)))
    return Evaluation(
        cutoff, said.months, len(here), float(predicted.mean()), float(back.mean()), len(top),
        float(back[top].mean()), math.fsum(money[top]) / whole if whole else 0.0,
        math.fsum(best) / whole if whole else 0.0, tuple(groups),
    )  # fmt: skip
