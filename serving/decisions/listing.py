"""From files to a list: read, leave out, rank, divide by chance, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pandas as pd

from features.campaigns import Contacts, contacts
from features.errors import InputError
from features.reading import find_settings, read, settings_file
from features.settings import Settings, written
from serving.decisions import audiences, files, targets
from serving.decisions.known import Known, OfStore
from serving.decisions.targets import Chosen, Gain
from training.fitting import Progress
from training.intervals import total

__all__ = [
    "Asked", "List", "Others", "Ranking", "audience_of", "composed", "cost_of", "listed",
    "parts_of", "reasons_text", "save",
]  # fmt: skip

#: The predictions with columns of its own, and what contacting each brings.
Ranking = Callable[[pd.DataFrame, int, Settings, Known], tuple[pd.DataFrame, Gain]]
#: Rules by name, with a flag for whom each leaves out.
Others = Callable[[pd.DataFrame, int], Sequence[tuple[str, Any]]]
PROSPECT: Final = ("value_if_won", "justified_cost", "justified_cost_if_won")
ALONGSIDE: Final = (
    "evidence", "p_return", "value_if_back", "uplift", "next_order_on", "acquisition_channel",
    "p_order", *PROSPECT,
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What a list is asked to be; see `targets.choose` and `targets.excluded`."""

    top: int | None = None
    budget: float | None = None
    offer_cost: float | None = None
    offer: str = ""
    control: float = 0.1
    exclude: tuple[str, ...] = ()
    channel: str | None = None
    horizon: int | None = None
    kind: str = "csv"  # or a platform of `audiences.FORMATS`
    campaign: str = ""
    seed: int = 0
    on: str | None = None  # date of the contacts, by default that of the predictions
    where: tuple[str, ...] = ()  # conditions that all must hold, see `targets.wanted`

    def require(self) -> None:
        """Refuse a form that is none.

        Raises
        ------
        InputError
            An unknown platform.
        """
        if self.kind != "csv" and self.kind not in audiences.FORMATS:
            raise InputError(
                f"--format must be csv, {', '.join(audiences.FORMATS)}. Got {self.kind!r}."
            )

    @property
    def consents(self) -> list[str]:
        """Ways of contact that must be agreed to; a platform needs its own, whatever is named."""
        wanted = (self.channel, audiences.CHANNEL.get(self.kind))
        return list(dict.fromkeys(each for each in wanted if each))


@dataclass(frozen=True)
class List:
    """A list and what is written of it."""

    chosen: Chosen
    months: int
    as_of: str
    cost: float
    settings: Settings
    contacts: pd.DataFrame | None
    audience: pd.DataFrame | None

    @property
    def worth(self) -> tuple[float, float, float]:
        """What those to contact are worth together, with its 10 and 90 % points."""
        rows, column = self.chosen.treated, f"clv_{self.months}m"
        value, spread, common = (
            targets.numbers(rows, name) for name in (column, f"{column}_sd", f"{column}_common")
        )
        found = total(value, spread, float(common[0]) if len(common) else 0.0)
        return found.value, found.low, found.high

    def as_dict(self) -> dict[str, Any]:
        """Plain values; no customer's."""
        rest = {} if self.audience is None else {"matchable": len(self.audience)}
        return {
            "as_of": self.as_of, "horizon": self.months, "offer_cost": self.cost,
            "currency": self.settings.business.currency, **self.chosen.as_dict(), **rest,
        }  # fmt: skip


def listed(
    data: str,
    table: str | Path,
    asked: Asked,
    gain: Ranking,
    *,
    config: Path | None = None,
    with_contacts: bool = False,
    progress: Progress | None = None,
    out: Others | None = None,
) -> List:
    """A list by the gain that `gain` gives, after the exclusions and those of `out`.

    Raises
    ------
    InputError
        A table, column or option is missing or not as it must be.
    """
    asked.require()
    predictions = files.predictions(table)
    files.horizon_of(predictions, asked.horizon)
    settings = find_settings(data, config)
    cost = cost_of(asked, settings_file(data, config), settings)
    # Before the orders: reading those takes longer.
    past = _contacts(data, settings, asked.exclude)
    moment = str(predictions["as_of"].iloc[0])
    with read(data, settings, progress) as (store, _):
        known = OfStore(store, predictions["customer_id"], moment, lambda: past)
        return composed(
            predictions, asked, gain, known, settings, cost, out, with_contacts=with_contacts
        )


def composed(
    predictions: pd.DataFrame,
    asked: Asked,
    gain: Ranking,
    known: Known,
    settings: Settings,
    cost: float,
    out: Others | None = None,
    *,
    with_contacts: bool = False,
    with_audience: bool = True,
) -> List:
    """A list of the rows of `predictions`, of which `known` tells more; `cost` is of one contact.

    Without `with_audience` a platform's consent counts, and its file is not made.

    Raises
    ------
    InputError
        What is asked for is not known, or nobody is left.
    """
    asked.require()
    months, consents = files.horizon_of(predictions, asked.horizon), asked.consents
    rules = targets.excluded(asked.exclude, predictions, months, known, consents)
    rules += targets.wanted(asked.where, predictions, known)
    rules += list(out(predictions, months)) if out else []
    predictions, gains = gain(predictions, months, settings, known)
    chosen = targets.choose(
        predictions, gains, cost=cost, top=asked.top, budget=asked.budget,
        control=asked.control, out=rules, name=asked.campaign, seed=asked.seed,
    )  # fmt: skip
    if not consents:
        note = "no channel was named, so nobody's consent was looked at (--channel email)"
        chosen = replace(chosen, notes=(*chosen.notes, note))
    as_of = str(predictions["as_of"].iloc[0])
    made = drawn = None
    if with_audience and asked.kind != "csv":
        made = audience_of(chosen.treated, asked.kind, known, months)
    if with_contacts:
        drawn = targets.contacts_table(
            chosen, asked.campaign, asked.on or as_of, settings.business.time_zone,
            f"clv_{months}m", next(iter(consents), None), asked.offer,
        )  # fmt: skip
    return List(chosen, months, as_of, cost, settings, drawn, made)


def cost_of(asked: Asked, file: Path | None, settings: Settings) -> float:
    """Money for one contact: as asked, else as the settings `file` says.

    Raises
    ------
    InputError
        A budget without a cost.
    """
    if asked.offer_cost is not None:
        return asked.offer_cost
    known = "contact_cost" in written(file, "judgement")
    if asked.budget is not None and not known:
        raise InputError(
            "--budget needs the cost of one contact. Got none. Say --offer-cost, or set "
            "[judgement] contact_cost in clv.toml."
        )
    return settings.judgement.contact_cost


def _contacts(data: str, settings: Settings, rules: Sequence[str]) -> Contacts | None:
    """The table contacts, where a rule needs it."""
    if not any(rule.startswith("contacted:") for rule in rules):
        return None
    return contacts(data, settings)


def audience_of(treated: pd.DataFrame, kind: str, known: Known, months: int) -> pd.DataFrame:
    """A platform's file of the treated only: who is control must not be reached.

    Raises
    ------
    InputError
        See `audiences.audience`.
    """
    treated = treated.reset_index(drop=True)
    columns = [column for column in audiences.PERSON if column in known.names]
    people = known.attributes(columns, treated["customer_id"].tolist())
    value = f"clv_{months}m"
    churn = f"churn_{months}m"
    people = people.assign(**{value: treated[value].round(2), churn: treated[churn].round(4)})
    return audiences.audience(people, kind, value)


def reasons_text(cell: object) -> str | None:
    """The column `reasons` of the predictions as words: "text (+money); ..."."""
    import json

    if not isinstance(cell, str):
        return None
    try:
        lines = json.loads(cell)
        return "; ".join(f"{line['text']} ({line['money']:+.2f})" for line in lines[:3])
    except (ValueError, KeyError, TypeError):
        return None


def parts_of(made: List, asked: Asked) -> pd.DataFrame:
    """The list as a table for people: who, which arm, what for, and why."""
    frame, h = made.chosen.frame, made.months
    first = ["customer_id", "rank", "arm", "layer", "gain", "gain_sd", "cost"]
    predicted = [f"churn_{h}m", f"clv_{h}m", f"clv_{h}m_low", f"clv_{h}m_high"]
    wanted = [*first, *predicted, *ALONGSIDE, "segment"]
    shown = frame[[column for column in wanted if column in frame]].copy()
    shown.insert(3, "channel", asked.channel)
    shown.insert(4, "offer", asked.offer or None)
    if "reasons" in frame:
        shown["reasons"] = [reasons_text(cell) for cell in frame["reasons"]]
    money = ("gain", "gain_sd", *predicted[1:], "value_if_back", "uplift", *PROSPECT)
    chances = (predicted[0], "p_return", "p_order")
    return shown.round({**dict.fromkeys(money, 2), **dict.fromkeys(chances, 4)})


def save(made: List, asked: Asked, out: Path, contacts_out: Path | None) -> None:
    """Write the list, or the platform's file, and the contacts to measure it by.

    Raises
    ------
    InputError
        A place that cannot be written, or contacts that would replace a file.
    """
    if made.audience is not None:
        audiences.write(made.audience, out)
    else:
        files.write(parts_of(made, asked), out, "list")
    if contacts_out is not None and made.contacts is not None:
        files.write(made.contacts, contacts_out, shown=False)
