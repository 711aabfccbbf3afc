"""How columns of tables are shown: which kind of number they hold, and what stands in cells.

Files that commands read keep English names; whoever reads a workbook or a page reads the same
tables in their own words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import pandas as pd

from serving.decisions import channels, loyalty
from serving.views.language import Words, slug
from training import slices
from training.compared import OURS

__all__ = ["axis", "kind", "model", "told"]

SHARES: Final = re.compile(
    r"(share|active|churn_\d+m|repeat_rate|repeat_low|repeat_high|retention(_low|_high)?|"
    r"(repeat_rate|retention)_\d+m|loyal_rate|roi(_low|_high)?|stayed_\d+m(_low|_high)?|low|high|"
    r"bias(_low|_high)?|wape|base_rate|capture_\d+|decile_mape|below|inside|above)"
)
COUNTS: Final = re.compile(
    r"customers|n|month|prospects|past_orders|signups|since|rank|layer|covered|base|one_category|"
    r"realised_\d+m_customers|payback_month(_low|_high)?"
)
NUMBERS: Final = re.compile(
    r"ltv_to_cac(_low|_high)?|orders(_per_month|_\d+m)?|active_months_\d+m|categories|"
    r"mean_life(_low|_high|_within)?"
)
FINE: Final = re.compile(
    r"auroc|average_precision|normalised_gini|spearman|brier|log_loss|ece|lift_\d+"
)
DATES: Final = re.compile(r"next_order_on|as_of")
KINDS: Final = {"share": SHARES, "count": COUNTS, "number": NUMBERS, "fine": FINE, "date": DATES}
BAND: Final = re.compile(r"(up to|above) (.+)")
CHAMPION: Final = re.compile(r"champion (\d+)")
DECILE: Final = re.compile(r"decile (\d+)")
FEW: Final = re.compile(r"few customers \(n=(\d+)\)")
UNTOLD: Final = re.compile(r"fewer than (\d+) customers: not told")
#: Judged models that have a name in words.
METHODS: Final = (OURS, "average", "last year scaled", "retention formula")
#: Slices of a test that have a name of ours; others are columns of the table customers.
SLICES: Final = (*slices.STANDARD[1:], slices.FIRST_CHANNEL)


def kind(column: str) -> str:
    """What a column holds: share, count, number, fine, date or, where none of these, money."""
    return next((name for name, known in KINDS.items() if known.fullmatch(column)), "money")


def axis(column: str, say: Words, currency: str, share: bool = False) -> str:
    """What an axis means, and its unit: the name of a column with per cent or the currency."""
    heading = say.heading(column)
    if share:
        return f"{heading} (%)"
    return f"{heading} ({currency})" if currency and kind(column) == "money" else heading


def told(frame: pd.DataFrame, say: Words) -> pd.DataFrame:
    """The table with its cells in words; what comes from data stays as it is.

    Raises
    ------
    LookupError
        A segment, an arm or another name of ours has no words.
    """
    made = frame.copy()
    if {"segment", "next_step"} <= set(made):
        steps = zip(made["segment"], made["next_step"], strict=True)
        made["next_step"] = [
            say.step(name) if isinstance(step, str) and step else "" for name, step in steps
        ]
    if "source" in made:
        made["level"] = [_level(level, say) for level in made["level"]]
    elif "slice" in made:
        pairs = zip(made["slice"], made["level"], strict=True)
        made["level"] = [_slice_level(name, level, say) for name, level in pairs]
    for column, word in WORDED.items():
        if column in made:
            found = {cell: word(cell, say) for cell in made[column].dropna().unique()}
            made[column] = made[column].astype(object).map(lambda cell, f=found: f.get(cell, cell))
    return made


def model(name: str, say: Words) -> str:
    """The name of a judged model; those of a method are its authors' and stay."""
    if found := CHAMPION.fullmatch(name):
        return say("values.champion", version=found[1])
    return say(f"values.{slug(name)}") if name in METHODS else name


def _channel(name: str, say: Words) -> str:
    names = {channels.ALL: "segments.all", loyalty.NOT_KNOWN: "values.not_known"}
    return say(names[name]) if name in names else name


def _note(text: str, say: Words) -> str:
    """The notes of a channel, which stand behind one another."""
    return "; ".join(_remark(part, say) for part in text.split("; ")) if text else ""


def _remark(part: str, say: Words) -> str:
    if found := FEW.fullmatch(part):
        return say("values.few", customers=say.number(int(found[1])))
    if found := UNTOLD.fullmatch(part):
        return say("values.untold", least=found[1])
    plain = {"nobody has ordered": "values.nobody", "no spend": "values.unpaid"}
    return say(plain[part])


def _cohort(name: str, say: Words) -> str:
    return say("segments.all") if name == "all" else name


def _source(name: str, say: Words) -> str:
    if name.startswith("event "):
        return say("values.event", kind=name.removeprefix("event "))
    return say("values.attribute", name=name.removeprefix("customers."))


def _level(level: str, say: Words) -> str:
    names = {loyalty.NONE: "none", loyalty.NOT_KNOWN: "not_known", "with": "with"}
    if level in names:
        return say(f"values.{names[level]}")
    found = BAND.fullmatch(level)
    if not found:
        return level
    return say(f"values.{slug(found[1])}", value=say.bare(float(found[2])))


def _slice(name: str, say: Words) -> str:
    if name == slices.ALL:
        return say("segments.all")
    return say(f"values.{name}") if name in SLICES else name


def _slice_level(name: str, level: str, say: Words) -> str:
    if name == slices.ALL:
        return say("values.everybody")
    names = {slices.OTHER: "units.other", slices.UNKNOWN: "values.not_known"}
    return say(names[level]) if level in names else level


def _group(name: str, say: Words) -> str:
    if found := DECILE.fullmatch(name):
        return say("values.tenth", number=str(int(found[1])))
    names = {"all": "segments.all", "buyers": "values.buyers"}
    return say(names[name]) if name in names else name


#: Columns whose cells are names of ours, and how one is worded.
WORDED: Final[dict[str, Callable[[str, Words], str]]] = {
    "segment": lambda name, say: say.segment(name),
    "evidence": lambda name, say: say(f"values.{name}"),
    "arm": lambda name, say: say(f"values.{name}"),
    "channel": _channel, "note": _note, "cohort": _cohort, "source": _source, "slice": _slice,
    "group": _group,
}  # fmt: skip
