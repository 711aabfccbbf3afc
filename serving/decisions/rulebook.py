"""Segments by the user's own rules, in a TOML file that is read and never run.

    [[segment]]
    name = "Regulars at home"
    when = ["orders >= 4", 'country in ["DE", "AT"]', "churn_12m < 0.3"]
    next_step = "Invite them to the club."

The first segment of which all conditions hold is the customer's. A condition names a column of the
predictions, a feature or a column of the table customers, a comparison, and a value as TOML writes
it: a number, "text", true, a date, or a list for ``in``. What is not known fulfils no condition.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from operator import eq, ge, gt, le, lt, ne
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import InputError

__all__ = ["OTHER", "Condition", "Rule", "Rulebook", "read"]

Flags = npt.NDArray[np.bool_]
OTHER: Final = "Other"  # who meets no rule of a file without a catch-all
COMPARE: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "==": eq, "!=": ne, "<=": le, ">=": ge, "<": lt, ">": gt,
}  # fmt: skip
FORM: Final = re.compile(r"\s*(\w+)\s*(==|!=|<=|>=|<|>|\bin\b)\s*(\S.*)", re.DOTALL)
YES, NO = frozenset({"true", "1", "yes", "y", "t"}), frozenset({"false", "0", "no", "n", "f"})
DAY: Final = re.compile(r"\d{4}-\d\d-\d\d(\D.*)?")
HELP: Final = 'Write it like when = ["orders >= 2", \'country == "DE"\'].'


@dataclass(frozen=True)
class Condition:
    """One comparison of a column with a value."""

    column: str
    sign: str
    value: Any

    @classmethod
    def parse(cls, text: object, place: str) -> Condition:
        """From ``COLUMN SIGN VALUE``; InputError names `place`."""
        found = FORM.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise InputError(
                f"{place}: a condition must be COLUMN, one of {' '.join(COMPARE)} in, and a value. "
                f"Got {text!r}. {HELP}"
            )
        try:
            ((_, value),) = tomllib.loads(f"value = {found[3]}").items()
        except ValueError:  # no TOML, or more than one value
            raise InputError(
                f'{place}: a value must be written as TOML does: 2, "text", true, 2025-01-31. Got '
                f"{found[3]!r}. {HELP}"
            ) from None
        made = cls(found[1], found[2], value)
        made._require(place)
        return made

    def _require(self, place: str) -> None:
        kind = type(self.value)
        if self.sign == "in":
            fits = kind is list and self.value and {type(v) for v in self.value} <= {str, int}
            wants = "a list of texts or whole numbers"
        elif self.sign in ("==", "!="):
            fits, wants = kind in (int, float, str, bool, date), "a number, text, true, or a date"
        else:
            fits, wants = kind in (int, float, date), "a number or a date"
        if not fits:
            raise InputError(
                f"{place}: '{self.column} {self.sign}' takes {wants}. Got {self.value!r}. {HELP}"
            )

    def holds(self, column: Sequence[Any] | npt.NDArray[Any]) -> Flags:
        """For whom it holds, (rows,); text is read as the kind of the value."""
        if self.sign == "in":
            each = [Condition(self.column, "==", value).holds(column) for value in self.value]
            return np.asarray(np.logical_or.reduce(each))
        read, value = _as(column, self.value)
        known = pd.notna(read)
        held = np.zeros(len(known), bool)
        held[known] = COMPARE[self.sign](read[known], value)
        return held


def _as(column: Sequence[Any] | npt.NDArray[Any], value: Any) -> tuple[npt.NDArray[Any], Any]:
    """A column as values that compare with `value`, None or NaN where it has none such."""
    floats = isinstance(column, np.ndarray) and column.dtype == np.float64
    if floats and type(value) in (int, float):
        return np.asarray(column), value
    cells = np.asarray(column, object).tolist()
    if isinstance(value, bool):
        told = {**dict.fromkeys(YES, True), **dict.fromkeys(NO, False)}
        return np.array([told.get(_text(cell).strip().lower()) for cell in cells], object), value
    if isinstance(value, int | float):
        return pd.to_numeric(pd.Series(cells, dtype=object), errors="coerce").to_numpy(float), value
    if isinstance(value, date):
        # ISO dates, with a time or without, stand in the order of their text.
        days = [_text(cell) for cell in cells]
        return np.array([d[:10] if DAY.fullmatch(d) else None for d in days], object), str(value)
    return np.array([_text(cell) or None for cell in cells], object), value


def _text(cell: Any) -> str:
    return "" if pd.isna(cell) else str(cell)


@dataclass(frozen=True)
class Rule:
    """A segment and the conditions that all must hold; without any it takes everybody."""

    name: str
    when: tuple[Condition, ...]
    next_step: str


@dataclass(frozen=True)
class Rulebook:
    """Rules in their order."""

    rules: tuple[Rule, ...]

    @property
    def columns(self) -> list[str]:
        """The columns that conditions name, sorted."""
        return sorted({condition.column for rule in self.rules for condition in rule.when})

    @property
    def steps(self) -> dict[str, str]:
        """The next step by segment, in the order of the file; `OTHER` last."""
        found = {rule.name: rule.next_step for rule in reversed(self.rules)}
        first = {rule.name: found[rule.name] for rule in self.rules}
        return first if not self.rules[-1].when else {**first, OTHER: ""}

    def assign(self, columns: Mapping[str, Any], rows: int) -> npt.NDArray[np.object_]:
        """The segment of each customer, (rows,): the first that holds, else `OTHER`."""
        names = np.full(rows, OTHER, object)
        free = np.ones(rows, bool)
        for rule in self.rules:
            here = free.copy()
            for condition in rule.when:
                here &= condition.holds(columns[condition.column])
            names[here] = rule.name
            free &= ~here
        return names


def read(path: Path) -> Rulebook:
    """The rules of a file.

    Raises
    ------
    InputError
        No such file, no TOML, another key than name, when, next_step, a condition of another form,
        or a segment after the one that takes everybody.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(
            f"--scheme must be value-churn, rfm or a file of rules. Got '{error.strerror}' for "
            f"{path}. Name one of them."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} must be TOML in UTF-8: {error}. Mend that line.") from None
    listed = raw.get("segment")
    if set(raw) != {"segment"} or not isinstance(listed, list) or not listed:
        raise InputError(
            f"{path.name} must hold a list of segments and nothing else. Got "
            f"{', '.join(raw) or 'nothing'}. Begin each with [[segment]] and a name."
        )
    rules = tuple(_rule(one, f"{path.name}, segment {i}") for i, one in enumerate(listed, 1))
    for i, rule in enumerate(rules[:-1], 1):
        if not rule.when:
            raise InputError(
                f"{path.name}, segment {i}: '{rule.name}' has no conditions, so it takes everybody "
                f"and '{rules[i].name}' nobody. Put it last."
            )
    return Rulebook(rules)


def _rule(raw: Any, place: str) -> Rule:
    known = ("name", "when", "next_step")
    strange = sorted(set(raw) - set(known)) if isinstance(raw, dict) else ["no table"]
    if strange:
        raise InputError(f"{place}: takes {', '.join(known)}. Got '{strange[0]}'. Correct it.")
    name, when, step = raw.get("name"), raw.get("when", []), raw.get("next_step", "")
    if not isinstance(name, str) or not name.strip() or not isinstance(step, str):
        raise InputError(f'{place}: must have a name, as text. Got {name!r}. Write name = "VIP".')
    if not isinstance(when, list):
        raise InputError(f"{place}: when must be a list of conditions. Got {when!r}. {HELP}")
    return Rule(name, tuple(Condition.parse(text, f"{place} ({name})") for text in when), step)
