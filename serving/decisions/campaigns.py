"""From the table of contacts to an experiment: what each contacted customer did afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from features.campaigns import Contacts
from features.errors import InputError
from features.spine import DAY, text
from features.store import Store
from serving.decisions import effects
from serving.decisions.effects import Measured
from serving.decisions.money import realised

__all__ = ["OUTCOMES", "Experiment", "Outcome", "attributes", "experiment", "measured",
           "require_columns", "sums"]  # fmt: skip

Ints = npt.NDArray[np.int64]
Outcome = Literal["margin", "revenue", "orders"]
OUTCOMES: Final = ("margin", "revenue", "orders")
YEAR: Final = 365  # days before the contact that balance and CUPED look at
GIVEN: Final = ("channel", "offer", "segment")  # of contacts, known when the campaign was made


def sums(
    store: Store, ids: Sequence[str], spans: Sequence[tuple[Ints, Ints]], margin: float
) -> list[pd.DataFrame]:
    """As `money.realised`, in currency: revenue, margin and orders of customers in their spans."""
    found = realised(store, ids, spans, margin)
    return [
        each.assign(revenue=each["revenue"] / store.unit, margin=each["margin"] / store.unit)
        for each in found
    ]


def attributes(store: Store, ids: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Columns of the table customers for `ids`, in their order; missing where nothing is known.

    Raises
    ------
    InputError
        No table of customers, or it lacks a column.
    """
    path = store.people(0)
    known = pq.read_schema(path).names if path.exists() else []
    require_columns([name for name in known if name != "customer_id"], columns)
    if not len(ids):
        return pd.DataFrame(columns=list(columns))
    table = pd.concat([store.attributes(i, columns) for i in range(store.buckets)])
    return table.reindex(pd.Index(ids, dtype=object)).reset_index(drop=True)


def require_columns(have: Sequence[str], columns: Sequence[str]) -> None:
    """Refuse `columns` that the table customers, which has those of `have`, lacks."""
    lacking = [column for column in columns if column not in have]
    if lacking:
        raise InputError(
            f"The table customers must have the column '{lacking[0]}'. Got "
            f"{', '.join(sorted(set(have) - {'customer_id'})) or 'no such table'}. Add it to "
            "customers.csv beside the orders."
        )


@dataclass(frozen=True)
class Experiment:
    """One row per customer: customer_id, arm, outcome, what was known before, levels, cost.

    ``before`` and ``levels`` name those columns; ``cost`` is None where the contacts tell none.
    """

    frame: pd.DataFrame
    before: tuple[str, ...]
    cost: str | None
    share: float | None


def experiment(
    store: Store,
    contacts: pd.DataFrame,
    days: int,
    outcome: Outcome,
    margin: float,
    by: Sequence[str] = (),
) -> Experiment:
    """What each customer did in the `days` from the contact of a campaign, and in the year before.

    `margin` is the share that is earned of lines without a cost.

    Raises
    ------
    InputError
        The data do not cover the window, or `by` names what nobody knows.
    """
    if not 1 <= days <= 2 * YEAR:
        raise InputError(f"--days must be 1 to {2 * YEAR}. Got {days}. Usual is 90.")
    table = _once(contacts)
    start = table["ts"].to_numpy(np.int64)
    end = start + days * DAY
    if int(end.max()) > store.coverage_end:
        covered = (store.coverage_end - int(start.max())) // DAY
        raise InputError(
            f"The data must cover {days} days after the last contact, until "
            f"{text(int(end.max()), store.zone)}. They end at "
            f"{text(store.coverage_end, store.zone)}. Take --days {max(covered, 1)} or less, or "
            "bring newer orders."
        )
    ids = table["customer_id"].tolist()
    spans = [(start, end), (start - YEAR * DAY, start), (start - min(days, YEAR) * DAY, start)]
    after, past, recent = sums(store, ids, spans, margin)
    frame = table[["customer_id", "arm"]].copy()
    frame[outcome] = after[outcome].to_numpy(np.float64)
    before = {
        f"{outcome} in the year before": past[outcome].to_numpy(np.float64),
        f"orders in the {min(days, YEAR)} days before": recent["orders"].to_numpy(np.float64),
    }
    if "predicted" in table and table["predicted"].notna().all():
        before["the value predicted before"] = table["predicted"].to_numpy(np.float64)
    frame = frame.assign(**before)
    for name in by:
        frame[name] = _level(store, table, name)
    cost = None
    if outcome == "margin" and "cost" in table and table["cost"].notna().all():
        cost = "cost"
        frame[cost] = table["cost"].to_numpy(np.float64)
    return Experiment(frame, tuple(before), cost, _share(table))


def _once(contacts: pd.DataFrame) -> pd.DataFrame:
    """One row per customer and arm: the first contact, with the cost of all."""
    table = contacts.sort_values(["customer_id", "ts"], kind="stable")
    first = table.drop_duplicates(["customer_id", "arm"]).reset_index(drop=True)
    if "cost" in table:
        paid = table.groupby(["customer_id", "arm"], sort=False)["cost"].sum(min_count=1)
        first["cost"] = paid.to_numpy()
    return first


def _level(store: Store, table: pd.DataFrame, name: str) -> Any:
    if name in GIVEN:
        if name not in table:
            raise InputError(
                f"--by {name} needs the column {name} in the table contacts. Got "
                f"{', '.join(map(str, table))}. Add it, or name a column of customers, such as "
                "acquisition_channel."
            )
        return table[name].to_numpy(object)
    return attributes(store, table["customer_id"].tolist(), [name])[name].to_numpy(object)


def _share(table: pd.DataFrame) -> float | None:
    """The intended share of the control, if the contacts tell one and the same."""
    if "control_share" not in table:
        return None
    told = table["control_share"].dropna().unique()
    return float(told[0]) if len(told) == 1 and table["control_share"].notna().all() else None


def measured(
    store: Store,
    contacts: Contacts,
    campaign: str,
    *,
    days: int = 90,
    outcome: Outcome = "margin",
    margin: float = 1.0,
    by: Sequence[str] = (),
    share: float | None = None,
    level: float = effects.LEVEL,
) -> Measured:
    """The effect of a campaign per treated customer, out of the table of contacts.

    Raises
    ------
    InputError
        As `experiment` and `effects.measure`; no such campaign.
    """
    if outcome not in OUTCOMES:
        raise InputError(
            f"--outcome must be {', '.join(OUTCOMES)} of the orders. Got {outcome!r}. For a column "
            "of a plain table name --arm and --control too."
        )
    made = experiment(store, contacts.of(campaign), days, outcome, margin, by)
    found = effects.measure(
        made.frame, arm="arm", control="control", outcome=outcome, before=made.before, by=by,
        customer="customer_id", cost=made.cost, share=made.share if share is None else share,
        level=level,
    )  # fmt: skip
    return replace(found, outcome=f"{outcome} in {days} days")
