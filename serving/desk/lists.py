"""The list that somebody builds at the desk: the very one that ``clv target`` writes.

    choices = Choices(ranking="keep", top=500, segment=("Win over",), consent="email")
    made = compose(shown, choices, settings, cost)     # what ``clv target`` makes of the same
    choices.command("./shop", "p.parquet", "list.csv") # the words that do so

Choices become the options of the command and nothing else, so that both go the same way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import pandas as pd

from features.errors import InputError
from features.settings import Settings
from serving.decisions import prospects as waiting
from serving.decisions import winback
from serving.decisions.audiences import FORMATS
from serving.decisions.known import Known
from serving.decisions.listing import Asked, List, Others, Ranking, composed, cost_of
from serving.decisions.ranking import Said
from serving.decisions.targets import Gain, kept_gain
from serving.desk.prepared import Prepared

__all__ = ["KINDS", "RANKINGS", "Choices", "compose", "left_out"]

RANKINGS: Final = ("keep", "winback", "prospects", "uplift")
KINDS: Final = ("csv", *FORMATS)


@dataclass(frozen=True)
class Choices:
    """What a list is asked to be; a bound that is None is none. Money, chances and days.

    ``older`` and ``newer`` are days since the last order, ``contacted`` the days within which
    nobody on the list was contacted.
    """

    ranking: str = "keep"
    segment: tuple[str, ...] = ()
    churn_from: float | None = None
    churn_to: float | None = None
    value_from: float | None = None
    value_to: float | None = None
    acquisition_channel: tuple[str, ...] = ()
    country: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    older: int | None = None
    newer: int | None = None
    consent: str | None = None
    contacted: int | None = None
    churned: bool = False  # whether who has already left is left out
    top: int | None = None
    budget: float | None = None
    offer_cost: float | None = None
    offer: str = ""
    control: float = 0.1
    seed: int = 0
    campaign: str = ""
    on: str | None = None
    horizon: int | None = None
    kind: str = "csv"

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Choices:
        """From plain values, as `as_dict` gives them.

        Raises
        ------
        InputError
            Something that is no choice.
        """
        known = {each.name for each in fields(cls)}
        ranking = told.get("ranking", "keep")
        strange = [*sorted(set(told) - known), *([] if ranking in RANKINGS else [ranking])]
        if strange:
            raise InputError(
                f"A list must be asked for by {', '.join(sorted(known))}. Got {strange[0]!r}. "
                "Build it anew."
            )
        plain: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in told.items()}
        return cls(**plain)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, those that are chosen."""
        empty = Choices()
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if value != getattr(empty, name)
        }

    def where(self, months: int) -> tuple[str, ...]:
        """The conditions that must hold, as ``--where`` takes them."""
        churn, value, since = f"churn_{months}m", f"clv_{months}m", "days_since_order"
        bounds: list[tuple[str, str, float | None]] = [
            (churn, ">=", self.churn_from), (churn, "<=", self.churn_to),
            (value, ">=", self.value_from), (value, "<=", self.value_to),
            (since, ">=", self.older), (since, "<=", self.newer),
        ]  # fmt: skip
        named = ("segment", "acquisition_channel", "country", "evidence")
        several = [
            f"{name} in {json.dumps(list(getattr(self, name)), ensure_ascii=False)}"
            for name in named
            if getattr(self, name)
        ]
        told = [f"{name} {sign} {bound!r}" for name, sign, bound in bounds if bound is not None]
        return (*several, *told)

    def asked(self, months: int) -> Asked:
        """The same as lists are made from."""
        gone = ("churned",) if self.churned else ()
        lately = () if self.contacted is None else (f"contacted:{self.contacted}",)
        return Asked(
            top=self.top, budget=self.budget, offer_cost=self.offer_cost, offer=self.offer,
            control=self.control, exclude=(*lately, *gone), channel=self.consent,
            horizon=self.horizon, kind=self.kind, campaign=self.campaign, seed=self.seed,
            on=self.on, where=self.where(months),
        )  # fmt: skip

    def command(
        self, data: str, table: str, out: str, months: int, uplift: str = "FOLDER"
    ) -> list[str]:
        """The words of the command that writes the same list; `uplift` is its model's folder."""
        asked = self.asked(months)
        name = "winback" if self.ranking == "winback" else "target"
        words = ["clv", name, data, "--predictions", table, "--out", out]
        options: list[tuple[str, Any]] = [
            ("top", self.top), ("budget", self.budget), ("offer-cost", self.offer_cost),
            ("offer", self.offer), ("control", self.control), ("channel", self.consent),
            ("campaign", self.campaign), ("on", self.on), ("horizon", self.horizon),
            ("seed", self.seed or None), ("format", None if self.kind == "csv" else self.kind),
        ]  # fmt: skip
        for option, value in options:
            if value is not None and value != "":
                # In one word: a text may begin with a dash.
                words += [f"--{option}={value}"]
        for option, values in (("exclude", asked.exclude), ("where", asked.where)):
            words += [f"--{option}={value}" for value in values]
        own = {"winback": ["--no-test"], "prospects": ["--prospects"]}
        own["uplift"] = [f"--uplift={uplift}"]
        return [*words, *own.get(self.ranking, [])]


def compose(
    shown: Prepared, choices: Choices, settings: Settings, file: Path | None
) -> tuple[List, Asked]:
    """The list, as the command makes it of the same inputs; `file` is that of the settings.

    Contacts to measure by come with it where a campaign is named and a control group is held out;
    a platform's file is made at the download.

    Raises
    ------
    InputError
        What is asked for is not known, or nobody is left.
    """
    asked = choices.asked(choices.horizon or shown.months)
    cost = cost_of(asked, file, settings)
    rank, others = _ranking(choices.ranking, shown)
    measured = bool(choices.campaign.strip()) and choices.control > 0
    made = composed(
        shown.base.frame(), asked, rank, shown, settings, cost, others, with_contacts=measured,
        with_audience=False,
    )  # fmt: skip
    return made, asked


def _ranking(name: str, shown: Prepared) -> tuple[Ranking, Others]:
    """How a list is ranked, and whom that leaves out."""
    if name == "winback":
        return _back, _lapsed
    if name == "prospects":
        return _waiting, lambda table, _: waiting.others(table, True)
    said = _said(shown) if name == "uplift" else None
    rank = _kept if said is None else lambda table, *_: said.ranked(table)
    return rank, lambda table, _: waiting.others(table, False)


def _said(shown: Prepared) -> Said:
    told = shown.table("uplift")
    if told is None:
        raise InputError(
            "A ranking by uplift must be told by a model. Got none. Start the service with "
            "--uplift FOLDER, which clv measure --fit-uplift wrote."
        )
    return Said.of(shown.more.numbers("uplift_away"), told)


def _kept(
    table: pd.DataFrame, months: int, settings: Settings, _: Known
) -> tuple[pd.DataFrame, Gain]:
    return table, kept_gain(table, months, settings.judgement.save_rate)


def _back(table: pd.DataFrame, months: int, *_: Any) -> tuple[pd.DataFrame, Gain]:
    return winback.returning(table, months), winback.returning_gain(table, months)


def _lapsed(table: pd.DataFrame, months: int) -> list[tuple[str, Any]]:
    rest = ("not lapsed", ~winback.lapsed(table, months))
    return [*waiting.others(table, False), rest]


def _waiting(
    table: pd.DataFrame, months: int, _: Settings, known: Known
) -> tuple[pd.DataFrame, Gain]:
    valued = waiting.channel_of(known, waiting.valued(table, months))
    return valued, waiting.prospect_gain(valued, months)


def left_out(made: List) -> dict[str, int]:
    """Customers that are not on the list, by why: a short word each, those with any alone.

    filters, consent, contacted, churned, waiting (no order yet), ordered (of prospects), active
    (of those to win back), unprofitable and rest (ranked below the last one).
    """
    found: dict[str, int] = {}
    for rule, count in made.chosen.left_out.items():
        word = next((word for start, word in RULES.items() if re.match(start, rule)), "filters")
        found[word] = found.get(word, 0) + count
    found["unprofitable"] = made.chosen.unprofitable
    named = sum(found.values()) + len(made.chosen.frame)
    found["rest"] = made.chosen.considered - named
    return {word: count for word, count in found.items() if count}


RULES: Final = {
    "no consent": "consent", "contacted:": "contacted", "churned": "churned",
    "no order yet": "waiting", "has ordered": "ordered", "not lapsed": "active",
}  # fmt: skip
