"""Reasons in words: what a feature means and what its value says, in the language of the reader.

A feature is told by a key of the words and by what fills its holes. The key is the feature's name
without its window, level or kind of event: ``orders_90d`` and ``orders`` are both told by
``reasons.orders``, once of the last 90 days and once of all time.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from features.catalogue import BEYOND, OTHER, PROFILE, Feature
from serving.views.language import Words, slug, words
from training.phrases import Term

__all__ = ["Key", "family", "key_of", "noun", "sentence"]

NAMED: Final = re.compile(r"((?:first_)?(?:channel|category)(?:_share)?)\[(.*)\]", re.DOTALL)
PLACED: Final = re.compile(r"(weekday|daypart|quarter)_(\d)_share")
WINDOW: Final = re.compile(r"(.+)_(\d+)d")
#: Over all kinds of events; every other feature of events is of one kind.
ALL_KINDS: Final = ("days_since_event", "events", "events_share_30_of_90")
#: Told otherwise of a window than of all time.
APART: Final = frozenset({"active_months"})


@dataclass(frozen=True)
class Key:
    """How a feature is told: the key of its words, and what of it fills holes."""

    name: str
    days: str = ""  # of its window; none: all time
    level: str = ""
    attribute: str = ""
    kind: str = ""
    group: str = ""  # list of names in the calendar, and the place in it
    place: int = 0


def key_of(feature: Feature) -> Key:
    """The key of a feature or of a line of its own."""
    if isinstance(feature, Term):
        return Key(feature.key)
    name = feature.name
    if feature.family == PROFILE and feature.unit in ("number", "0/1"):
        return _attribute(feature)
    if found := NAMED.fullmatch(name):
        return Key(found[1], level=found[2])
    if found := PLACED.fullmatch(name):
        return Key(f"{found[1]}_share", group=f"{found[1]}s", place=int(found[2]) - 1)
    found = WINDOW.fullmatch(name)
    base, days = (found[1], found[2]) if found else (name, "")
    if feature.family == BEYOND and base not in ALL_KINDS:
        return _event(feature, days)
    return Key(f"{base}_days" if days and base in APART else base, days)


def _attribute(feature: Feature) -> Key:
    own = feature.name.removeprefix("customer_")
    if feature.unit == "number":
        return Key("customer_number", attribute=own)
    name, _, level = own.removesuffix("]").partition("[")
    return Key("customer_level", attribute=name, level=level)


def _event(feature: Feature, days: str) -> Key:
    """A feature of one kind of event; the kind itself stands in the meaning, at its end."""
    window = f" in the last {days} days" if days else " ever"
    kind = feature.meaning.partition("of kind ")[2]
    if feature.unit == "days":
        return Key("days_since_kind", kind=kind)
    if feature.unit == "events":
        return Key("kind_count", days, kind=kind.removesuffix(window))
    if days:
        return Key("kind_mean", days, kind=kind.removesuffix(window))
    return Key("kind_newest", kind=kind)


@dataclass(frozen=True)
class _Told:
    """A feature in one language: its key and the holes of its noun and of its sentence."""

    key: str
    noun: str
    holes: dict[str, str]


@lru_cache(maxsize=8192)
def _told(
    language: str, name: str, family: str, unit: str, meaning: str, own: str, share: float | None
) -> _Told:
    """By plain text, since a formula is slow to hash."""
    say = words(language)
    feature = Feature(name, family, unit, "", meaning)
    found = Key(own) if own else key_of(feature)
    level = say("units.other") if found.level == OTHER else found.level
    holes = {
        "days": found.days, "level": level, "attribute": found.attribute, "kind": found.kind,
        "all": "" if share is None else say.rough_percent(share),
        "time": say("time.last", days=found.days) if found.days else say("time.ever"),
    }  # fmt: skip
    if found.group:
        names = say.lists[f"calendar.{found.group}"]
        whens = say.lists.get(f"calendar.{found.group}_when", names)
        holes |= {"name": names[found.place], "when": whens[found.place]}
    text = say.filled(f"reasons.{found.name}.noun", holes)
    if not found.days:
        holes["time"] = say("time.in_all")
    return _Told(f"reasons.{found.name}", text, holes)


def _of(say: Words, feature: Feature) -> _Told:
    own = (feature.key, feature.share) if isinstance(feature, Term) else ("", None)
    return _told(say.language, feature.name, feature.family, feature.unit, feature.meaning, *own)


def noun(say: Words, feature: Feature) -> str:
    """What a feature means, without a value."""
    return _of(say, feature).noun


def family(say: Words, feature: Feature) -> str:
    """The family of a feature; a line of its own is one by itself."""
    key = f"families.{slug(feature.family)}"
    return say(key) if key in say else noun(say, feature)


def sentence(say: Words, feature: Feature, value: float, currency: str) -> str:
    """A sentence that tells the value of a feature, for instance of one customer.

    >>> orders = Feature("orders_90d", "", "orders", "", "orders in the last 90 days")
    >>> sentence(words("en"), orders, 3.0, "EUR")
    'ordered 3 times in the last 90 days'
    """
    known, flag = _of(say, feature), feature.unit == "0/1"
    if not feature.unit:
        return known.noun
    if math.isnan(value):
        return say("units.unknown_whether" if flag else "units.unknown", what=known.noun)
    if flag:
        return say.filled(f"{known.key}.{'yes' if value else 'no'}", known.holes)
    if f"{known.key}.one" in say:
        number = say.plain(value)
        form = "one" if number == "1" else "other"
        return say.filled(f"{known.key}.{form}", known.holes | {"value": number})
    told = _bare(say, feature.unit, value, currency)
    if f"{known.key}.told" in say:
        return say.filled(f"{known.key}.told", known.holes | {"value": told})
    return say("units.told", what=known.noun, value=_measured(say, feature.unit, told))


def _bare(say: Words, unit: str, value: float, currency: str) -> str:
    """A value in its unit, as far as the unit is a sign and no word."""
    if unit == "share":
        return say.rough_percent(value)
    if unit == "currency":
        return say.money(value, currency)
    if unit == "month 1-12":
        return say.lists["calendar.months"][int(value) - 1]
    return say.bare(value) if unit in ("number", "as given") else say.plain(value)


def _measured(say: Words, unit: str, told: str) -> str:
    """A value with the word of its unit, as far as the meanings of such features do not name it."""
    if unit == "days":
        return say("units.one_day" if told == "1" else "units.days", value=told)
    return say("units.times", value=told) if unit == "ratio" else told
