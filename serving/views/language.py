"""The words of people: one file per language, looked up strictly, and numbers in its own form.

    say = words("de")
    say("explain.sum")                              insgesamt
    say.money(1234.5, "EUR")                        1.234,50 EUR
    say("parted.note", note="...")                  Hinweis: ...

A key that is missing, a hole that is not filled and a hole that does not exist are our faults and
raise; nothing is ever shown in another language than the one asked for. What fills a hole is text
and never a template itself, whatever a customer's data hold.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from importlib import resources
from string import Formatter
from typing import Any, Final, TypeVar

from features.errors import InputError
from features.rules import minor_digits

__all__ = ["LANGUAGES", "Note", "Template", "Words", "slug", "words"]

LANGUAGES: Final = ("en", "de", "hu", "nl")
DAY: Final = re.compile(r"(\d{4})-(\d\d)-(\d\d)(.*)", re.DOTALL)
#: ``clv_12m_low``: a column of so many months.
PARTS: Final = re.compile(r"(?P<stem>.+?)_(?P<months>\d+)m(?:_(?P<end>\w+))?")
T = TypeVar("T")


@dataclass(frozen=True)
class Template:
    """A text with named holes, checked when it is read."""

    text: str
    holes: frozenset[str]

    @classmethod
    def of(cls, key: str, text: str) -> Template:
        """The template; holes are plain names, without formats, attributes or indices."""
        holes = set()
        for _, name, form, conversion in Formatter().parse(text):
            if name is None:
                continue
            if not name.isidentifier() or form or conversion:
                raise ValueError(f"{key} must hold plain {{names}}. Got {text!r}.")
            holes.add(name)
        return cls(text, frozenset(holes))


class Note(str):
    """A sentence in English that can be said in other languages too: it knows its key and holes.

    Holes are whole numbers, shares of 1 (floats) or texts that stay as they are.
    """

    key: str
    holes: Mapping[str, int | float | str]

    __slots__ = ("holes", "key")

    @classmethod
    def of(cls, key: str, **holes: int | float | str) -> Note:
        """The sentence of a key of the words."""
        made = cls(words()._filled(key, holes))
        made.key, made.holes = key, holes
        return made

    @staticmethod
    def kept(text: str) -> str | dict[str, Any]:
        """A text as JSON has it, a note with all that it knows; `back` reads it."""
        if isinstance(text, Note):
            return {"key": text.key, "holes": dict(text.holes), "text": str(text)}
        return str(text)

    @staticmethod
    def back(told: str | Mapping[str, Any]) -> str:
        """The text that `kept` gave: a note where it was one that this release has words for."""
        if isinstance(told, str):
            return told
        try:
            return Note.of(told["key"], **told["holes"])
        except LookupError:
            return str(told["text"])

    @staticmethod
    def why(error: Exception) -> str:
        """What an error says, a note where it was raised with one."""
        said = error.args[0] if error.args else ""
        return said if isinstance(said, Note) else str(error)


@dataclass(frozen=True, eq=False)
class Words:
    """The words of one language; `templates` and `lists` by their dotted key."""

    language: str
    templates: Mapping[str, Template]
    lists: Mapping[str, tuple[str, ...]]

    def __call__(self, key: str, **holes: object) -> str:
        """The text of a key, its holes filled: exactly those that it has.

        Raises
        ------
        LookupError
            No such key, a hole too few or too many.
        """
        template = self._template(key)
        if template.holes != holes.keys():
            raise LookupError(
                f"{self.language}: {key} has the holes {sorted(template.holes)}. Got "
                f"{sorted(holes)}."
            )
        return template.text.format(**holes)

    def filled(self, key: str, holes: Mapping[str, str]) -> str:
        """As a call, where `holes` may hold more than this key asks for."""
        return self(key, **{name: holes[name] for name in self._template(key).holes})

    def told(self, text: str) -> str:
        """A note in this language; any other text stays as it is."""
        return self._filled(text.key, text.holes) if isinstance(text, Note) else text

    def _filled(self, key: str, holes: Mapping[str, int | float | str]) -> str:
        def one(value: int | float | str) -> str:
            if isinstance(value, str):
                return value
            return self.percent(value, 0) if isinstance(value, float) else self.number(value)

        return self(key, **{name: one(value) for name, value in holes.items()})

    def __contains__(self, key: str) -> bool:
        """Whether there is a text of this key."""
        return key in self.templates

    def _template(self, key: str) -> Template:
        found = self.templates.get(key)
        if found is None:
            raise LookupError(f"{self.language}: there are no words for {key!r}.")
        return found

    def labels(self, part: str, kind: type[T]) -> T:
        """The labels of a picture: the section `part` as the named tuple that the picture takes."""
        head = f"pictures.{part}."
        texts = {
            key.removeprefix(head): template.text
            for key, template in self.templates.items()
            if key.startswith(head)
        }
        return kind(**texts)

    def number(self, value: float, decimals: int = 0, sign: bool = False) -> str:
        """A number in the language's form; not a number is a dash, and zero has no minus."""
        if math.isnan(value):
            return self("form.not_known")
        text = f"{round(value, decimals) + 0.0:{'+' if sign else ''},.{decimals}f}"
        return text.translate(self._marks)

    def plain(self, value: float) -> str:
        """Whole numbers whole, others with as many decimals as tell something."""
        size = abs(value)
        few = 1 if size >= 10 else 2 if size >= 0.1 else 3
        decimals = 0 if size >= 100 or float(value).is_integer() else few
        told = f"{value:,.{decimals}f}"
        told = told.rstrip("0").rstrip(".") if decimals else told
        return ("0" if told in ("-0", "") else told).translate(self._marks)

    def bare(self, value: float) -> str:
        """A number that counts nothing, such as a year of birth: without thousands."""
        return f"{value:.10g}".translate(self._marks)

    def percent(self, share: float, decimals: int = 1) -> str:
        """A share of 1 in per cent."""
        if math.isnan(share):
            return self("form.not_known")
        return self("form.percent", number=self.number(100.0 * share, decimals))

    def rough_percent(self, share: float) -> str:
        """As `percent`, with a decimal only where the share is small."""
        told = self.plain(round(100.0 * share, 0 if abs(share) >= 0.1 else 1))
        return self("form.percent", number=told)

    def money(self, value: float, currency: str) -> str:
        """An amount in the currency's own decimals."""
        amount = self.number(value, minor_digits(currency))
        return self("form.money", amount=amount, currency=currency)

    def date(self, day: date | str) -> str:
        """A day as people write it, of a date or ``2025-01-31``; a time behind it stays."""
        found = DAY.fullmatch(str(day))
        if not found:
            raise ValueError(f"A day must be like 2025-01-31. Got {day!r}.")
        year, month, number, rest = found.groups()
        holes = {
            "year": year, "month2": month, "day2": number, "day": str(int(number)),
            "short": self.lists["calendar.short"][int(month) - 1],
        }  # fmt: skip
        return self.filled("form.date", holes) + rest.replace("T", " ")

    def month(self, month: str) -> str:
        """A month as people write it, of ``2025-01``."""
        year, number = month.split("-")
        name = self.lists["calendar.months"][int(number) - 1]
        return self("form.month", year=year, month=name)

    def segment(self, name: str) -> str:
        """The name of a segment of ours, for instance ``Keep close``."""
        return self(f"segments.{slug(name)}")

    def step(self, name: str) -> str:
        """What to do with a segment of ours."""
        return self(f"steps.{slug(name)}")

    def heading(self, column: str) -> str:
        """The heading of a column of a table that we write, such as ``clv_12m_low``.

        Raises
        ------
        LookupError
            There are no words for this column.
        """
        if f"columns.{column}" in self:
            return self(f"columns.{column}")
        stem, _, end = column.rpartition("_")
        if end in ("low", "high") and f"columns.{stem}" in self:
            return self(f"ends.plain_{end}", stem=self(f"columns.{stem}"))
        found = PARTS.fullmatch(column)
        if not found:
            raise LookupError(f"{self.language}: there is no heading for the column {column!r}.")
        named = self(f"columns.{found['stem']}")
        return self(f"ends.{found['end'] or 'none'}", stem=named, months=found["months"])

    @property
    def _marks(self) -> dict[int, str]:
        return _marks(self.templates["form.group"].text, self.templates["form.decimal"].text)


@lru_cache
def _marks(group: str, decimal: str) -> dict[int, str]:
    """From the marks that Python writes to those of a language."""
    return {ord(","): group, ord("."): decimal}


def slug(name: str) -> str:
    """The key of a name: ``Can't lose them`` is ``can_t_lose_them``."""
    return re.sub(r"\W+", "_", name.lower()).strip("_")


@lru_cache
def words(language: str = "en") -> Words:
    """The words of a language.

    Raises
    ------
    InputError
        There is no such language.
    """
    if language not in LANGUAGES:
        raise InputError(
            f"--language must be one of {', '.join(LANGUAGES)}. Got {language!r}. Take one of them."
        )
    place = resources.files("serving.views") / "words" / f"{language}.toml"
    templates: dict[str, Template] = {}
    lists: dict[str, tuple[str, ...]] = {}
    for key, value in _flat("", tomllib.loads(place.read_text(encoding="utf-8"))):
        if isinstance(value, list):
            lists[key] = tuple(value)
        else:
            templates[key] = Template.of(key, value)
    return Words(language, templates, lists)


def _flat(head: str, table: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Dotted keys and what stands there."""
    found: list[tuple[str, Any]] = []
    for name, value in table.items():
        key = f"{head}{name}"
        found += _flat(f"{key}.", value) if isinstance(value, dict) else [(key, value)]
    return found
