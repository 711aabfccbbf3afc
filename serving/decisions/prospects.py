"""People who signed up and have not ordered yet: what they are worth, and may cost to win.

Two limits, since there are two ways to pay. Whoever pays for reaching somebody, won or not, may pay
`justified_cost`: the expected value, which already holds the chance that they never order. Whoever
pays for a first order only may pay `justified_cost_if_won`: the value given an order. Both are the
most that can pay off, reached only if nobody would have ordered without the money; what a contact
adds, the control group of the list tells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import InputError
from serving.decisions.known import Known
from serving.decisions.retention import FEWEST
from serving.decisions.targets import LEAST_STAY, Gain, numbers
from serving.decisions.words import table
from training.intervals import total
from training.model import COLD_START

__all__ = [
    "CHANNEL", "Channels", "by_channel", "channel_of", "others", "prospect_gain", "told", "valued",
    "waiting",
]  # fmt: skip

Floats = npt.NDArray[np.float64]
CHANNEL: Final = "acquisition_channel"
NOT_KNOWN: Final = "not known"


def waiting(predictions: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Who has no order yet, (rows,)."""
    if "evidence" not in predictions:
        return np.zeros(len(predictions), bool)
    return (predictions["evidence"] == COLD_START).to_numpy(bool)


def others(predictions: pd.DataFrame, wanted: bool) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """The rule that leaves out of a list of prospects the customers, and the other way round.

    Raises
    ------
    InputError
        Prospects are `wanted`, and there is none.
    """
    here = waiting(predictions)
    if not wanted:
        return [("no order yet (--prospects lists them)", here)] if here.any() else []
    if not here.any():
        raise InputError(
            "--prospects needs predictions of people without an order (evidence cold_start). Got "
            "none. Make them by clv predict DATA --prospects --out FILE, with a table customers of "
            "all who signed up and when (acquired_at)."
        )
    return [("has ordered already", ~here)]


def valued(predictions: pd.DataFrame, months: int) -> pd.DataFrame:
    """The predictions with p_order, value_if_won, justified_cost and justified_cost_if_won.

    Money of `months`; the cost to keep somebody falls on those who are won only.
    """
    chance = 1.0 - predictions[f"churn_{months}m"].to_numpy(np.float64)
    value, keep = numbers(predictions, f"clv_{months}m"), numbers(
        predictions, f"retention_cost_{months}m"
    )  # fmt: skip
    won = (value + keep) / np.maximum(chance, LEAST_STAY) - keep
    return predictions.assign(
        p_order=chance,
        value_if_won=won,
        justified_cost=np.maximum(chance * won, 0.0),
        justified_cost_if_won=np.maximum(won, 0.0),
    )


def prospect_gain(predictions: pd.DataFrame, months: int) -> Gain:
    """Expected value of each prospect, before any cost; `predictions` went through `valued`."""
    spread = numbers(predictions, f"clv_{months}m_sd")
    shared = numbers(predictions, f"clv_{months}m_common")[waiting(predictions)]
    basis = (
        "chance to order x value then, with or without a contact; what a contact adds is not in "
        "it, only the control group will tell"
    )
    worth = predictions["justified_cost"].to_numpy(np.float64)
    return Gain(worth, spread, float(shared.max(initial=0.0)), basis, f"{months} months",
                "expected value of those who order")  # fmt: skip


def channel_of(known: Known, predictions: pd.DataFrame) -> pd.DataFrame:
    """The predictions with acquisition_channel, where the table customers tells one."""
    if CHANNEL not in known.names:
        return predictions
    found = known.attributes([CHANNEL])[CHANNEL]
    channel = found.astype(object).where(found.notna(), NOT_KNOWN).to_numpy(object)
    return predictions.assign(**{CHANNEL: channel})


@dataclass(frozen=True)
class Channels:
    """What winning a prospect may cost, by acquisition channel, dearest first.

    ``table``: acquisition_channel, prospects, p_order (mean), justified_cost (mean expected value
    per prospect) with its 10 and 90 % points, justified_cost_if_won (value per one who orders).
    ``hidden`` counts channels of fewer than 10 prospects, which are left out.
    """

    table: pd.DataFrame
    hidden: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        rows = self.table.round(4).to_dict("records")
        return {"channels": [dict(row) for row in rows], "channels_hidden": self.hidden}


def by_channel(predictions: pd.DataFrame, months: int) -> Channels | None:
    """What prospects of each channel are worth; None where no channel is known.

    `predictions` went through `valued` and `channel_of`.
    """
    if CHANNEL not in predictions:
        return None
    here = predictions[waiting(predictions)]
    rows, hidden = [], 0
    for channel, some in here.groupby(CHANNEL, sort=True):
        if len(some) < FEWEST:
            hidden += 1
            continue
        value = some["justified_cost"].to_numpy(np.float64)
        spread = numbers(some, f"clv_{months}m_sd")
        whole = total(value, spread, float(numbers(some, f"clv_{months}m_common")[0]))
        orders = math.fsum(some["p_order"])
        rows.append(
            {
                CHANNEL: channel, "prospects": len(some), "p_order": orders / len(some),
                "justified_cost": whole.value / len(some),
                "justified_cost_low": max(whole.low, 0.0) / len(some),
                "justified_cost_high": whole.high / len(some),
                "justified_cost_if_won": whole.value / max(orders, LEAST_STAY),
            }
        )  # fmt: skip
    names = [CHANNEL, "prospects", "p_order", "justified_cost", "justified_cost_low",
             "justified_cost_high", "justified_cost_if_won"]  # fmt: skip
    made = pd.DataFrame(rows, columns=names)
    by = ["justified_cost", CHANNEL]
    return Channels(made.sort_values(by, ascending=[False, True], ignore_index=True), hidden)


def told(found: Channels | None) -> tuple[dict[str, Any], list[str]]:
    """The channels as plain values and as lines."""
    if found is None:
        note = "No channels: the table customers has no acquisition_channel"
        return {"channels": [], "channels_hidden": 0}, [note]
    rows = [["channel", "prospects", "will order", "may cost", "from", "to", "if won"]]
    for row in found.table.to_dict("records"):
        money = [row[f"justified_cost{end}"] for end in ("", "_low", "_high", "_if_won")]
        rows.append([str(row[CHANNEL]), f"{row['prospects']:,}", f"{row['p_order']:.1%}",
                     *(f"{value:,.2f}" for value in money)])  # fmt: skip
    lines = ["The most that winning a prospect may cost: per prospect, and per one who orders",
             *table(rows)]  # fmt: skip
    if found.hidden:
        lines.append(f"  {found.hidden} channels of fewer than {FEWEST} prospects are not told")
    return found.as_dict(), lines
