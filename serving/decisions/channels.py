"""Channels: what they cost, what their customers bring, and when that pays.

A customer belongs to the channel and month in which they were won. Cost is spend with fees of whole
months; new customers are those won in these months who have ordered. LTV is the value of a new
customer's first months after they were won, earned so far and predicted for the rest
(`serving.decisions.returns`), over all of them; realised is what those brought whose months are
over. LTV : CAC and ROI stand against the same cost, which is known. Intervals (10 to 90 %) are
those of a channel that goes on as it was: customers differ, each one's future is unsure, and all
share the error of the model. Where fewer than `FEWEST` customers are, nothing of them is told;
below `FEW` it is marked, and such a channel is ranked after all others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import InputError
from features.money import Cashflow
from features.people import NEVER
from features.spine import instant, text
from features.store import Store
from serving.decisions import retention
from serving.decisions.campaigns import attributes
from serving.decisions.journeys import Journeys, journeys
from serving.decisions.money import acquisitions
from serving.decisions.returns import MONTHS, Returns, horizons, returns
from serving.views.language import Note
from training.intervals import Interval, total

__all__ = ["ALL", "COHORTS", "FEW", "FEWEST", "Channels", "channels", "require"]

Flags = npt.NDArray[np.bool_]
ALL: Final = "All"
COHORTS: Final = ("month", "quarter")
FEWEST: Final = 10  # customers; of fewer nothing is told
FEW: Final = 50  # customers; of fewer an interval tells more than the value
SPANS: Final = (12, 24)  # months of value
AGAIN: Final = ("repeat_rate", "repeat_low", "repeat_high", "retention", "retention_low",
                "retention_high")  # fmt: skip


@dataclass(frozen=True)
class Channels:
    """The table, a row per channel and one of all, then a row per channel and cohort if asked for.

    ``months`` is the span that LTV : CAC, ROI and payback look at; ``again`` that of repeat rate
    and retention, None where the data are too short to tell.
    """

    table: pd.DataFrame
    as_of: str
    months: int
    first: str  # months of spend, `2024-05`
    last: str
    again: int | None
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def whole(self) -> pd.DataFrame:
        """The rows of whole channels."""
        return self.table[self.table["cohort"] == ALL]

    def as_dict(self) -> dict[str, Any]:
        """Plain values; no customer's."""
        known = self.table.astype(object).where(self.table.notna(), None)
        return {
            "as_of": self.as_of, "months": self.months, "from": self.first, "to": self.last,
            "again_months": self.again, "channels": known.to_dict("records"),
            "notes": list(self.notes),
        }  # fmt: skip


def require(predictions: pd.DataFrame, cohort: str | None, since: str | None) -> None:
    """Refuse what cannot be answered, before any data are read.

    Raises
    ------
    InputError
        Predictions of less than 12 months, another cohort, a month that is none.
    """
    if max(horizons(predictions)) < SPANS[0]:
        raise InputError(
            "The predictions must carry 12 months, better 24. Got "
            f"{', '.join(map(str, horizons(predictions)))}. Write them by clv predict "
            "--horizons 12,24."
        )
    if cohort not in (None, *COHORTS):
        raise InputError(f"--cohort must be month or quarter. Got {cohort!r}.")
    if since is not None and not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", since):
        raise InputError(f"--since must be a month such as 2024-05. Got {since!r}.")


def channels(
    store: Store,
    spend: pd.DataFrame,
    predictions: pd.DataFrame,
    flow: Cashflow,
    *,
    cohort: str | None = None,
    since: str | None = None,
    people: pd.DataFrame | None = None,
    found: Journeys | None = None,
) -> Channels:
    """The economics of each channel, over the whole months that the table of spend covers.

    Parameters
    ----------
    spend : what `features.campaigns.spend` gives.
    cohort : ``month`` or ``quarter``, to tell these apart too.
    since : the first month, ``2024-05``; by default that of the spend.
    people, found : what `money.known_people` and `journeys.journeys` give of the same moment, if
        they are there already.

    Raises
    ------
    InputError
        As `require`; no acquisition_channel, no whole month of spend.
    """
    require(predictions, cohort, since)
    months = [m for m in SPANS if m <= max(horizons(predictions))]
    as_of = min(instant(str(predictions["as_of"].iloc[0]), store.zone), store.coverage_end)
    paid = _whole_months(spend, text(as_of, store.zone)[:7], since)
    people, unknown = _people(store, as_of, paid, people)
    people = people.assign(cohort=_cohorts(people["month"], cohort))
    paid = paid.assign(cohort=_cohorts(paid["month"], cohort))
    buyers = people[people["first"] < NEVER].reset_index(drop=True)
    begin = np.minimum(*(buyers[name].to_numpy(np.int64) for name in ("acquired", "first")))
    brought = returns(store, buyers["customer_id"].tolist(), begin, as_of, predictions, flow)
    made = _Made(people, buyers, paid, brought, predictions, tuple(months))
    table = pd.DataFrame(made.rows(cohort is not None))
    span, again = _again(store, as_of, buyers, cohort is not None, found)
    if span is not None:
        table = table.merge(again, how="left", on=["channel", "cohort"])
    return Channels(
        _told(table), str(predictions["as_of"].iloc[0]), months[-1], paid["month"].min(),
        paid["month"].max(), span, _notes(unknown, months[-1], table),
    )  # fmt: skip


def _notes(unknown: int, longest: int, table: pd.DataFrame) -> tuple[str, ...]:
    notes = list[str]()
    if table["note"].str.contains("no spend").any():
        notes.append(Note.of("notes.blended"))
    if unknown:
        notes.append(Note.of("notes.unknown_channel", customers=unknown))
    if longest < MONTHS:
        notes.append(Note.of("notes.short_value"))
    return tuple(notes)


def _whole_months(spend: pd.DataFrame, now: str, since: str | None) -> pd.DataFrame:
    first = since or str(spend["month"].min())
    known = spend[(spend["month"] >= first) & (spend["month"] < now)]
    if known.empty:
        raise InputError(
            f"The table spend must hold a whole month before {now}, from {first} on. It holds "
            f"{spend['month'].min()} to {spend['month'].max()}. Add months to spend.csv."
        )
    return known.reset_index(drop=True)


def _people(
    store: Store, as_of: int, paid: pd.DataFrame, known: pd.DataFrame | None
) -> tuple[pd.DataFrame, int]:
    """Who was won in the months of spend by a channel that is known, and how many by none."""
    attributes(store, [], ["acquisition_channel"])  # refuses what is missing
    people = acquisitions(store, as_of, paid, known)
    inside = people["month"].between(paid["month"].min(), paid["month"].max())
    told = people[inside & people["channel"].notna()]
    if told.empty:
        raise InputError(
            "Somebody must have an acquisition_channel in the table customers and have been won "
            f"from {paid['month'].min()} to {paid['month'].max()}, the months of spend. Nobody has."
            " Fill in the column, and acquired_at if there is one."
        )
    return told.reset_index(drop=True), int(inside.sum()) - len(told)


def _cohorts(month: pd.Series, cohort: str | None) -> pd.Series:
    if cohort is None:
        return pd.Series(ALL, index=month.index, dtype=object)
    if cohort == "month":
        return month.astype(object)
    quarter = month.str[:4] + "-Q" + ((month.str[5:7].astype(int) + 2) // 3).astype(str)
    return quarter.astype(object)


@dataclass(frozen=True)
class _Made:
    """What rows are made of."""

    people: pd.DataFrame
    buyers: pd.DataFrame
    paid: pd.DataFrame
    brought: Returns
    predictions: pd.DataFrame
    months: tuple[int, ...]

    def rows(self, by_cohort: bool) -> list[dict[str, Any]]:
        names = sorted({*self.people["channel"], *self.paid["channel"]})
        rows = [self.row(name, None) for name in names] + [self.row(None, None)]
        if by_cohort:
            cohorts = sorted({*self.people["cohort"], *self.paid["cohort"]})
            rows += [self.row(name, cohort) for name in [*names, None] for cohort in cohorts]
        return rows

    def row(self, channel: str | None, cohort: str | None) -> dict[str, Any]:
        def here(table: pd.DataFrame) -> Flags:
            inside = np.ones(len(table), bool)
            for column, value in (("channel", channel), ("cohort", cohort)):
                if value is not None:
                    inside &= (table[column] == value).to_numpy(bool)
            return inside

        own, paid = here(self.buyers), self.paid[here(self.paid)]
        cost, fees = math.fsum(paid["cost"]), math.fsum(paid["fees"])
        n, signed = int(own.sum()), int(here(self.people).sum())
        row: dict[str, Any] = {
            "channel": channel or ALL, "cohort": cohort or ALL,
            "spend": round(cost - fees, 2), "fees": round(fees, 2), "cost": round(cost, 2),
            "signups": signed if signed >= FEWEST else math.nan,
            "customers": n if n == 0 or n >= FEWEST else math.nan,
            "note": _note(n, cost),
        }  # fmt: skip
        if n < FEWEST:
            return row
        row |= {"cpa": cost / signed, "cac": cost / n}
        return row | self._worth(own, cost / n) | self._ahead(own)

    def _worth(self, own: Flags, cac: float) -> dict[str, Any]:
        found: dict[str, Any] = {}
        curve = [self._mean(own, m) for m in range(1, self.months[-1] + 1)]
        for m in self.months:
            ripe = own & self.brought.matured(m)
            found[f"realised_{m}m_customers"] = int(ripe.sum())
            if ripe.sum() >= FEWEST:
                found |= _named(f"realised_{m}m", self._mean(ripe, m))
            found |= _named(f"ltv_{m}m", curve[m - 1])
        if cac > 0:
            found |= _named("ltv_to_cac", Interval(*(each / cac for each in curve[-1])))
            found |= _named("roi", Interval(*(each / cac - 1 for each in curve[-1])))
            found |= _payback(curve, cac)
        return found

    def _mean(self, own: Flags, m: int) -> Interval:
        """Value of the first `m` months per customer, with its interval."""
        value, ahead, sd = (each[own, m - 1] for each in self._parts())
        n = len(value)
        between = float(value.var(ddof=1)) if n > 1 else 0.0
        middle = math.fsum(value.tolist())
        shared = self.brought.common[m - 1] * abs(math.fsum(ahead.tolist()))
        whole = total(value, np.sqrt(between + sd**2), shared / abs(middle) if middle else 0.0)
        return Interval(*(each / n for each in whole))

    def _parts(self) -> tuple[Any, Any, Any]:
        return self.brought.value, self.brought.ahead, self.brought.sd

    def _ahead(self, own: Flags) -> dict[str, Any]:
        """Value of the next months of all its customers together, with the total's own interval."""
        table = self.predictions.set_index("customer_id")
        table = table.reindex(self.buyers["customer_id"][own]).fillna(0.0)
        found: dict[str, Any] = {}
        for m in (m for m in self.months if f"clv_{m}m" in table):
            value = table[f"clv_{m}m"].to_numpy(np.float64)
            if f"clv_{m}m_sd" in table:
                spread, common = table[f"clv_{m}m_sd"], self.brought.common[m - 1]
                found |= _named(f"ahead_{m}m", total(value, spread.to_numpy(np.float64), common))
            else:
                found[f"ahead_{m}m"] = math.fsum(value.tolist())
        return found


def _payback(curve: Sequence[Interval], cac: float) -> dict[str, Any]:
    """The month in which a customer has brought what they cost; early and late by the interval.

    `curve` is the value of the first 1, 2, ... months. Empty where it takes longer than these.
    """

    def reached(values: Sequence[float]) -> float:
        # A refund may take it away again: what counts is from when on it stays.
        below = [i for i, value in enumerate(values) if value < cac]
        month = below[-1] + 2 if below else 1
        return month if month <= len(values) else math.nan

    return {
        "payback_month": reached([each.value for each in curve]),
        "payback_month_low": reached([each.high for each in curve]),
        "payback_month_high": reached([each.low for each in curve]),
    }


def _named(name: str, found: Interval) -> dict[str, float]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _note(customers: int, cost: float) -> str:
    if customers == 0:
        return "nobody has ordered"
    if customers < FEWEST:
        return f"fewer than {FEWEST} customers: not told"
    notes = [f"few customers (n={customers})"] if customers < FEW else []
    return "; ".join(notes + ([] if cost > 0 else ["no spend"]))


def _again(
    store: Store, as_of: int, buyers: pd.DataFrame, by_cohort: bool, found: Journeys | None
) -> tuple[int | None, pd.DataFrame]:
    """Repeat rate and retention of each row's customers, and the months that they look at."""
    try:
        found = journeys(store, as_of) if found is None else found
        months = retention.span(found)
    except InputError:
        return None, pd.DataFrame()  # too short a history to tell
    own = buyers.set_index("customer_id")[["channel", "cohort"]].reindex(found.ids)
    own = own.reset_index(drop=True).astype(object)
    there = own["channel"].notna()
    one = pd.Series(ALL, index=own.index, dtype=object).where(there, None)
    kinds = [own.assign(cohort=one), pd.DataFrame({"channel": one, "cohort": one})]
    kinds += [own, own.assign(channel=one)] if by_cohort else []
    parts = [retention.by_group(found, by, months) for by in kinds]
    return months, pd.concat(parts, ignore_index=True)[["channel", "cohort", *AGAIN]]


def _told(table: pd.DataFrame) -> pd.DataFrame:
    """Columns in their order; channels by LTV : CAC, those that cannot be trusted last."""
    few = table["note"].str.startswith(("few", "nobody")) & (table["cohort"] == ALL)
    ratio = table.get("ltv_to_cac", pd.Series(math.nan, index=table.index)).fillna(math.inf)
    keys = pd.DataFrame(
        {
            "cohort": table["cohort"] != ALL, "whole": table["channel"] == ALL, "few": few,
            "ratio": -ratio.where(table["cohort"] == ALL, 0.0), "name": table["channel"],
            "when": table["cohort"],
        }
    )  # fmt: skip
    found = table.loc[keys.sort_values(keys.columns.tolist()).index].reset_index(drop=True)
    numbers = [str(name) for name in found if name not in ("channel", "cohort", "note")]
    counts = [name for name in numbers if re.search("signups|customers$|^payback", name)]
    found = found.astype(dict.fromkeys(numbers, "float64")).astype(dict.fromkeys(counts, "Int64"))
    return found[["channel", "cohort", *numbers, "note"]]
