"""Sentences for reasons: a feature's value in plain words, made from its dictionary entry.

All wording that reasons need stands here; numbers are made elsewhere. Most features are told by
their meaning and unit; where that reads badly, a pattern over meanings says it better.
"""

from __future__ import annotations

import math
import re
from calendar import month_name
from typing import Final

from features.catalogue import Feature
from features.rules import minor_digits

__all__ = [
    "ANCHOR", "COST", "FORECAST", "LEVEL", "PENDING", "REST", "RETURNED", "RHYTHM", "START",
    "amount", "begins", "fixed", "level", "money", "own_returns", "phrase", "plain_number",
    "rhythm", "waits",
]  # fmt: skip

FORECAST: Final = "the rhythm's forecast"  # family of what the anchor says
START, LEVEL, RETURNED, PENDING, COST, REST, RHYTHM = (
    "start", "level", "own_returns", "refunds_on_their_way", "cost_to_keep", "everything_else",
    "rhythm",
)  # fmt: skip


def _own(name: str, formula: str, words: str, unit: str = "") -> Feature:
    """A line of its own: a family by itself."""
    return Feature(name, words, unit, formula, words)


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

_TIME: Final = r"(ever|in the last \d+ days)"
#: Pattern of the meaning, and the sentence; {v} is the value, {0}, {1} what the pattern caught.
_SENTENCES: Final = tuple(
    (re.compile(pattern, re.DOTALL), sentence)
    for pattern, sentence in (
        (rf"orders {_TIME}", "ordered {v} {times} {0}"),
        (rf"days whose first order came {_TIME}", "ordered on {v} {days} {0}"),
        (rf"spend {_TIME}", "spent {v} {0}"),
        (rf"money given back {_TIME}", "{v} given back {0}"),
        (rf"refunds per spend {_TIME}", "gave back {v} of what was bought {0}"),
        (r"silence in units of the (.+)", "silence of {v} times the {0}"),
        (
            r"(newest gap|newest order|spread of the gaps|silence beyond .+?),? in units of (.+)",
            "{0}: {v} times {1}",
        ),
        (r"(?:local )?days (since .+)", "{v} {days} {0}"),
        (r"share of orders: (\w+day)", "{v} of orders on a {0}"),
        (r"share of orders: night", "{v} of orders at night"),
        (r"share of orders: (morning|afternoon|evening)", "{v} of orders in the {0}"),
        (r"share of orders: (\w+ to \w+)", "{v} of orders from {0}"),
        (r"share of (all spend|bought lines|the last \d+ days' \w+) that (.+)", "{v} of {0} {1}"),
        (r"share of (.+)", "{v} of {0}"),
        (r"(of purchases expected back.+)", "{v} {0}"),
    )
)


def begins(plain: bool) -> Feature:
    """Where an explanation starts; `plain` models know no rhythm."""
    who = "new customers" if plain else "customers with this rhythm"
    return _own(START, "margin of the forecast, returns as of all", f"as {who} usually do")


def waits() -> Feature:
    """Where the explanation of somebody without an order starts."""
    return _own(START, "margin of who signed up as long ago, returns as of all",
                "as people without an order who signed up as long ago usually do")  # fmt: skip


def level() -> Feature:
    """What is added for everybody alike."""
    return _own(LEVEL, "mean correction", "what all customers differ by from that")


def own_returns(share: float) -> Feature:
    """The own share of returns; `share` is that of all customers."""
    words = f"of purchases expected back, {_percent(share)} of all customers'"
    return Feature(RETURNED, "the own returns", "share", "expected share of returns", words)


_FIXED: Final = {
    PENDING: _own(PENDING, "refunds expected on past orders", "refunds still on their way"),
    COST: _own(COST, "cost to keep, discounted", "cost to keep the customer"),
    REST: _own(REST, "sum of the others", "everything else"),
}


def fixed(name: str) -> Feature:
    """The lines of their own that are worded alike for every model."""
    return _FIXED[name]


def phrase(feature: Feature, value: float, currency: str) -> str:
    """A sentence that tells the value of a feature, for instance of one customer.

    >>> phrase(Feature("orders_90d", "", "orders", "", "orders in the last 90 days"), 3.0, "EUR")
    'ordered 3 times in the last 90 days'
    """
    meaning = feature.meaning
    if not feature.unit:
        return meaning
    if feature.unit == "0/1":
        return _flag(meaning.removeprefix("1 if "), value)
    if math.isnan(value):
        return f"{meaning}: not known"
    if feature.unit == "month 1-12":
        return f"asked in {month_name[int(value)]}"
    for pattern, sentence in _SENTENCES:
        found = pattern.fullmatch(meaning)
        if found:
            return _filled(sentence, feature, value, currency, found.groups())
    return f"{meaning}: {amount(feature.unit, value, currency)}"


def _filled(
    sentence: str, feature: Feature, value: float, currency: str, caught: tuple[str, ...]
) -> str:
    measured = feature.unit in ("currency", "share")
    told = amount(feature.unit, value, currency) if measured else plain_number(value)
    words = ("in all" if each == "ever" else each for each in caught)
    one = told == "1"
    return sentence.format(
        *words, v=told, times="time" if one else "times", days="day" if one else "days"
    )


def _flag(statement: str, value: float) -> str:
    if math.isnan(value):
        return f"not known whether {statement}"
    if value:
        return statement
    for word, denied in ((" had a ", " had no "), (" was ", " was not "), (" is ", " is not ")):
        if word in statement:
            return statement.replace(word, denied, 1)
    return f"not: {statement}"


def amount(unit: str, value: float, currency: str) -> str:
    """A value with its unit, as far as the meanings of such features do not name it."""
    if unit == "share":
        return _percent(value)
    if unit == "currency":
        return money(value, currency)
    if unit in ("number", "as given"):
        return f"{value:.10g}"  # a year of birth has no thousands
    told = plain_number(value)
    if unit == "days":
        return f"{told} day" if told == "1" else f"{told} days"
    return f"{told} times" if unit == "ratio" else told


def rhythm(plain: bool) -> Feature:
    """What the anchor says of churn, as a driver of it."""
    return Feature(RHYTHM, FORECAST, "share", "anchor: chance of no order",
                   "chance of no order, the same for all" if plain else
                   "chance of no order as the rhythm alone foretells it")  # fmt: skip


def money(value: float, currency: str) -> str:
    """An amount in the currency's own decimals."""
    digits = minor_digits(currency)
    return f"{round(value, digits) + 0.0:,.{digits}f} {currency}"  # never -0.00


def plain_number(value: float) -> str:
    """Whole numbers whole, others with as many decimals as tell something."""
    size = abs(value)
    few = 1 if size >= 10 else 2 if size >= 0.1 else 3
    decimals = 0 if size >= 100 or float(value).is_integer() else few
    told = f"{value:,.{decimals}f}"
    told = told.rstrip("0").rstrip(".") if decimals else told
    return "0" if told in ("-0", "") else told


def _percent(share: float) -> str:
    return f"{plain_number(round(100.0 * share, 0 if abs(share) >= 0.1 else 1))} %"
