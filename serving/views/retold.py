"""A reason that was written in one language, told in another.

A table of predictions keeps reasons as ``{feature, money, text}``, in the language of whoever had
it made. The value of the feature stands in the text alone. It is taken from there, and only if
telling it again in the language of the table gives the same text letter by letter; what cannot be
told again so stays as it was written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from features.catalogue import Catalogue, Feature
from serving.views.language import LANGUAGES, Words, words
from serving.views.sentences import sentence
from training import phrases

__all__ = ["retold"]

NUMBER: Final = re.compile(r"[-\u2212]?\d[\d.,\u00a0\u202f ]*")
MOST: Final = 6  # numbers of a text that are tried


def retold(line: Mapping[str, Any], known: Catalogue, language: str, currency: str) -> str:
    """The text of a line of reasons in `language`, as it is where it cannot be told again."""
    text = str(line.get("text", ""))
    for spoken in LANGUAGES:
        told = words(spoken)
        for feature in _features(str(line.get("feature", "")), known, text, told):
            for value in _values(feature, text, told):
                if sentence(told, feature, value, currency) == text:
                    return sentence(words(language), feature, value, currency)
    return text


def _features(name: str, known: Catalogue, text: str, told: Words) -> Iterator[Feature]:
    """What a name of a line may stand for."""
    if name in known.places:
        yield known.features[known.places[name]]
    yield from (each for each in phrases.ANCHOR if each.name == name)
    if name == phrases.START:
        yield from (phrases.begins(False), phrases.begins(True), phrases.waits())
    elif name == phrases.LEVEL:
        yield phrases.level()
    elif name in (phrases.PENDING, phrases.COST, phrases.REST):
        yield phrases.fixed(name)
    elif name == phrases.RETURNED:
        yield from (phrases.own_returns(share / 100.0) for share in _numbers(text, told))


def _values(feature: Feature, text: str, told: Words) -> Iterator[float]:
    """The values that a text may tell of."""
    if not feature.unit:
        yield 0.0
        return
    if feature.unit == "0/1":
        yield from (1.0, 0.0)
    elif feature.unit == "month 1-12":
        yield from (float(month) for month in range(1, 13))
    else:
        percent = 100.0 if feature.unit == "share" else 1.0
        yield from (number / percent for number in _numbers(text, told))
    yield math.nan


def _numbers(text: str, told: Words) -> list[float]:
    """The numbers of a text as a language writes them, in their order."""
    group, decimal = told("form.group"), told("form.decimal")
    found = []
    for each in NUMBER.findall(text)[:MOST]:
        plain = each.strip().rstrip(".,").replace(group, "").replace(decimal, ".")
        try:
            found.append(float(plain.replace("\u2212", "-").replace(" ", "")))
        except ValueError:
            continue
    return found
