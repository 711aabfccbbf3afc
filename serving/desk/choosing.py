"""The form of the list builder, read: choices, or for each field what is wrong with it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Final

from serving.decisions.files import neutral
from serving.decisions.targets import MOST_CONTROL
from serving.desk.lists import KINDS, RANKINGS, Choices
from serving.desk.prepared import Prepared
from serving.views.language import Words

__all__ = ["SEVERAL", "Form", "blank", "read", "require_offered"]

#: Fields of several values, each a box of its own: ``segment.Grow``.
SEVERAL: Final = ("segment", "acquisition_channel", "country", "evidence")
BOUNDS: Final = (("churn_from", "churn_to"), ("value_from", "value_to"), ("older", "newer"))
LONGEST: Final = 100  # characters of a text
MOST: Final = 1_000_000  # customers that a list may be asked for


@dataclass
class Form:
    """What stands in the fields as text, the boxes that are ticked, and what is wrong by field."""

    text: dict[str, str] = field(default_factory=dict)
    ticked: dict[str, list[str]] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)


def blank(choices: Choices, say: Words) -> Form:
    """The form that stands for `choices`, as somebody would have filled it in."""
    shares = {"churn_from", "churn_to", "control"}
    form = Form(ticked={name: list(getattr(choices, name)) for name in SEVERAL})
    for name, value in vars(choices).items():
        if name in SEVERAL or value is None:
            continue
        if isinstance(value, bool):
            form.text[name] = "1" if value else ""
        elif isinstance(value, int | float):
            form.text[name] = _typed(100 * value if name in shares else value, say)
        else:
            form.text[name] = str(value)
    form.text["size"] = "top" if choices.budget is None else "budget"
    return form


def require_offered(form: Form, shown: Prepared, say: Words) -> None:
    """Take back a ranking by uplift where no model tells of it, and say so in the form."""
    if form.text.get("ranking") == "uplift" and shown.table("uplift") is None:
        form.text["ranking"] = RANKINGS[0]
        form.wrong.setdefault("ranking", say("desk.lists.e_uplift"))


def _typed(value: float, say: Words) -> str:
    """A number as people of the language type it."""
    return f"{round(value, 10):.10g}".replace(".", say("form.decimal"))


def read(query: Mapping[str, str], shown: Prepared, say: Words) -> tuple[Choices, Form]:
    """The choices that a form makes; they count only where nothing is wrong."""
    form = Form({name: text.strip()[:LONGEST] for name, text in query.items() if "." not in name})
    levels: Mapping[str, list[str]] = shown.table("levels") or {}
    form.ticked = {
        name: [one for one in levels.get(name, []) if query.get(f"{name}.{one}")]
        for name in SEVERAL
    }
    reader = _Reader(form, say)
    size = form.text.setdefault("size", "top")
    top = reader.count("top", least=1, most=MOST) if size == "top" else None
    budget = reader.money("budget", positive=True) if size != "top" else None
    if size == "top" and top is None:
        reader.refuse("top", "desk.lists.e_count")
    if size != "top" and budget is None:
        reader.refuse("budget", "desk.lists.e_money")
    control = reader.share("control", most=100 * MOST_CONTROL)
    choices = Choices(
        ranking=reader.one_of("ranking", RANKINGS), **{n: tuple(form.ticked[n]) for n in SEVERAL},
        churn_from=reader.share("churn_from"), churn_to=reader.share("churn_to"),
        value_from=reader.money("value_from", negative=True),
        value_to=reader.money("value_to", negative=True), older=reader.count("older"),
        newer=reader.count("newer"),
        consent=reader.one_of("consent", ("", *shown.about["consents"])) or None,
        contacted=reader.count("contacted"), churned=bool(form.text.get("churned")), top=top,
        budget=budget, offer_cost=reader.money("offer_cost"), offer=reader.plain("offer"),
        control=0.0 if control is None else control, seed=reader.count("seed") or 0,
        campaign=reader.plain("campaign"), on=reader.day("on"),
        horizon=reader.months("horizon", shown), kind=reader.one_of("kind", KINDS),
    )  # fmt: skip
    require_offered(form, shown, say)
    for low, high in BOUNDS:
        ends = getattr(choices, low), getattr(choices, high)
        if None not in ends and ends[0] > ends[1]:
            reader.refuse(high, "desk.lists.e_order")
    return choices, form


class _Reader:
    """Fields of a form as values; what is none is told in the form, and None."""

    def __init__(self, form: Form, say: Words) -> None:
        self.form, self.say = form, say

    def refuse(self, name: str, key: str) -> None:
        """Say what is wrong with a field, unless something is said already."""
        self.form.wrong.setdefault(name, self.say(key))

    def _number(self, name: str, key: str, fits: Callable[[float], bool]) -> float | None:
        text = self.form.text.get(name, "")
        if not text:
            return None
        value = _number(text, self.say("form.group"), self.say("form.decimal"))
        if value is None or not fits(value):
            self.refuse(name, key)
            return None
        return value

    def count(self, name: str, least: int = 0, most: float = 1e9) -> int | None:
        """A whole number."""
        key = "desk.lists.e_count" if least else "desk.lists.e_whole"
        found = self._number(name, key, lambda n: n.is_integer() and least <= n <= most)
        return None if found is None else int(found)

    def share(self, name: str, most: float = 100.0) -> float | None:
        """A share of 1, typed in per cent."""
        found = self._number(name, "desk.lists.e_share", lambda n: 0 <= n <= most)
        return None if found is None else found / 100

    def money(self, name: str, negative: bool = False, positive: bool = False) -> float | None:
        """Money of at least 0, or of any sign, or above 0."""

        def fits(n: float) -> bool:
            return abs(n) < 1e12 and (negative or n > 0 or (n == 0 and not positive))

        return self._number(name, "desk.lists.e_money", fits)

    def plain(self, name: str) -> str:
        """A text that no spreadsheet takes for a formula: it stands in files as it is."""
        text = self.form.text.get(name, "")
        if neutral(text) != text:
            self.refuse(name, "desk.lists.e_formula")
        return text

    def day(self, name: str) -> str | None:
        """A date like 2025-01-31, as browsers send it."""
        text = self.form.text.get(name, "")
        if not text:
            return None
        try:
            return date.fromisoformat(text).isoformat()
        except ValueError:
            self.refuse(name, "desk.lists.e_date")
            return None

    def one_of(self, name: str, known: tuple[str, ...]) -> str:
        """One of the values that the form offers, the first where nothing was sent."""
        text = self.form.text.get(name, known[0])
        if text not in known:
            self.refuse(name, "desk.lists.e_choice")
            return known[0]
        return text

    def months(self, name: str, shown: Prepared) -> int | None:
        """A horizon that the predictions carry; None for the usual one."""
        offered = tuple(str(each) for each in shown.about["horizons"])
        text = self.one_of(name, offered)
        return None if text == offered[0] else int(text)


def _number(text: str, group: str, decimal: str) -> float | None:
    """A number as typed: in the language's form, or with a plain point."""
    plain = re.sub(r"\s", "", text)
    mark = re.escape(group.strip()) or "(?!)"
    if re.fullmatch(rf"[+-]?\d{{1,3}}({mark}\d{{3}})+({re.escape(decimal)}\d+)?", plain):
        plain = plain.replace(group.strip(), "").replace(decimal, ".")
    elif re.fullmatch(rf"[+-]?\d+{re.escape(decimal)}\d*", plain):
        plain = plain.replace(decimal, ".")
    if not re.fullmatch(r"[+-]?\d+(\.\d*)?", plain, re.ASCII):
        return None
    found = float(plain)
    return found if math.isfinite(found) else None
