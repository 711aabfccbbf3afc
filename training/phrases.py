"""What reasons speak of beside the features: lines of their own, each with the key of its words.

How they are worded, in which language, is told elsewhere; the English of the meanings is that of
the data dictionary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from features.catalogue import Feature

__all__ = [
    "ANCHOR", "COST", "FORECAST", "LEVEL", "PENDING", "REST", "RETURNED", "RHYTHM", "START",
    "Term", "begins", "fixed", "level", "own_returns", "rhythm", "waits",
]  # fmt: skip

FORECAST: Final = "the rhythm's forecast"  # family of what the anchor says
START, LEVEL, RETURNED, PENDING, COST, REST, RHYTHM = (
    "start", "level", "own_returns", "refunds_on_their_way", "cost_to_keep", "everything_else",
    "rhythm",
)  # fmt: skip


@dataclass(frozen=True)
class Term(Feature):
    """A line that is no feature: `key` says how it is worded, `share` is what all customers have.

    Lines of one name may be worded differently, so the name does not tell.
    """

    key: str = ""
    share: float | None = None


def _own(name: str, formula: str, words: str, key: str = "") -> Term:
    """A line of its own: a family by itself."""
    return Term(name, words, "", formula, words, key or name)


#: What the members see of the anchor, in the order in which they see it.
ANCHOR: Final = (
    Feature("anchor_value", FORECAST, "currency", "anchor: orders x spend",
            "spend of a year as the rhythm alone foretells it"),
    Feature("anchor_orders", FORECAST, "order days", "anchor: order days",
            "order days of a year as the rhythm alone foretells them"),
    Feature("anchor_churn", FORECAST, "share", "anchor: chance of no order",
            "chance of no order in a year as the rhythm alone foretells it"),
    Feature("anchor_spend", FORECAST, "currency", "anchor: spend per order day",
            "spend per order day, drawn towards that of all customers"),
)  # fmt: skip


def begins(plain: bool) -> Term:
    """Where an explanation starts; `plain` models know no rhythm."""
    who = "new customers" if plain else "customers with this rhythm"
    return _own(START, "margin of the forecast, returns as of all", f"as {who} usually do",
                "start_plain" if plain else "start_rhythm")  # fmt: skip


def waits() -> Term:
    """Where the explanation of somebody without an order starts."""
    return _own(START, "margin of who signed up as long ago, returns as of all",
                "as people without an order who signed up as long ago usually do",
                "start_waiting")  # fmt: skip


def level() -> Term:
    """What is added for everybody alike."""
    return _own(LEVEL, "mean correction", "what all customers differ by from that")


def own_returns(share: float) -> Term:
    """The own share of returns; `share` is that of all customers."""
    return Term(RETURNED, "the own returns", "share", "expected share of returns",
                "share of purchases expected back", RETURNED, share)  # fmt: skip


_FIXED: Final = {
    PENDING: _own(PENDING, "refunds expected on past orders", "refunds still on their way"),
    COST: _own(COST, "cost to keep, discounted", "cost to keep the customer"),
    REST: _own(REST, "sum of the others", "everything else"),
}


def fixed(name: str) -> Term:
    """The lines of their own that are worded alike for every model."""
    return _FIXED[name]


def rhythm(plain: bool) -> Term:
    """What the anchor says of churn, as a driver of it."""
    words = (
        "chance of no order, the same for all"
        if plain
        else "chance of no order as the rhythm alone foretells it"
    )
    return Term(RHYTHM, FORECAST, "share", "anchor: chance of no order", words,
                "rhythm_plain" if plain else RHYTHM)  # fmt: skip
