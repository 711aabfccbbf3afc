"""Segments by recency, frequency and monetary value, under the names of the trade.

A score is 1 + floor(5 x share of the customers who are strictly worse), from 1 to 5: equal
customers have equal scores, whatever the order of the rows, and who ordered once has frequency 1.
Segments follow from the score of recency and the mean of the other two, rounded up, by the usual
map of 5 x 5 fields (Putler, RFM analysis for successful customer segmentation).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from training.grid import PROSPECT

__all__ = ["FEATURES", "STEPS", "score", "segments"]

Floats = npt.NDArray[np.float64]
#: What is known of the history: money is net of refunds.
FEATURES: Final = ("days_since_order", "orders", "spend", "refunds")
STEPS: Final = {
    "Champions": "Reward them, ask for reviews and referrals; no discounts are needed.",
    "Loyal": "Offer the dearer product; invite them to the club.",
    "Potential loyalist": "Recommend a second category; make the club tempting.",
    "New customer": "Welcome them; make the second order easy.",
    "Promising": "Remind them what there is while they remember the shop.",
    "Need attention": "A limited offer, chosen by what they bought.",
    "About to sleep": "Show what is popular; a small reason to come back.",
    "At risk": "Write personally, with an offer; hold out a control group.",
    "Can't lose them": "Win them back: call, ask what went wrong, renew.",
    "Hibernating": "Cheap channels only.",
    PROSPECT: "Win the first order.",
}
#: Rows: recency 1 to 5; columns: mean of frequency and money 1 to 5.
FIELDS: Final = (
    ("Hibernating", "Hibernating", "At risk", "At risk", "Can't lose them"),
    ("Hibernating", "Hibernating", "At risk", "At risk", "Can't lose them"),
    ("About to sleep", "About to sleep", "Need attention", "Loyal", "Loyal"),
    ("Promising", "Potential loyalist", "Potential loyalist", "Loyal", "Loyal"),
    ("New customer", "Potential loyalist", "Potential loyalist", "Champions", "Champions"),
)


def score(values: Floats) -> npt.NDArray[np.int64]:
    """Scores of 1 to 5, (rows,), the highest values best."""
    worse = np.searchsorted(np.sort(values), values, side="left")
    return np.asarray(1 + 5 * worse // max(len(values), 1), np.int64)


def segments(days_since: Floats, orders: Floats, money: Floats) -> npt.NDArray[np.object_]:
    """The segment of each customer, (rows,); not a number in `orders`: no order yet."""
    names = np.full(len(orders), PROSPECT, object)
    known = np.flatnonzero(orders > 0)
    recency = score(-days_since[known])
    both = score(orders[known]) + score(money[known])
    fields = np.array(FIELDS, object)
    names[known] = fields[recency - 1, (both + 1) // 2 - 1]
    return names
