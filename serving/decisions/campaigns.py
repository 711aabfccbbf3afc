"""From the table of contacts to an experiment: what each contacted customer did afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from features import windows
from features.campaigns import Contacts
from features.errors import InputError
from features.spine import DAY, text
from features.store import Bucket, Store
from serving.decisions import effects
from serving.decisions.effects import Measured
from training.samples import each_bucket

__all__ = ["OUTCOMES", "Experiment", "Outcome", "attributes", "experiment", "measured", "sums"]

Ints = npt.NDArray[np.int64]
Outcome = Literal["margin", "revenue", "orders"]
OUTCOMES: Final = ("margin", "revenue", "orders")
YEAR: Final = 365  # days before the contact that balance and CUPED look at
LINES: Final = [windows.COLUMNS.index(name) for name in ("spend", "refunds", "orders")]
GIVEN: Final = ("channel", "offer", "segment")  # of contacts, known when the campaign was made


def sums(
    store: Store, ids: Sequence[str], spans: Sequence[tuple[Ints, Ints]]
) -> list[pd.DataFrame]:
    """Net revenue (money) and orders of customers in spans ``[begin, end)`` of their own, in order.

    One table per span. Nobody is too unknown to count: who has no order, brought 0.
    """
    names = pd.Index(np.array(ids, object), dtype=object)
    found = np.zeros((len(spans), len(ids), 3), np.int64)

    def one(bucket: Bucket) -> None:
        place = pd.Index(bucket.ids, dtype=object).get_indexer(names)
        rows = np.flatnonzero(place >= 0)
        values = np.ascontiguousarray(bucket.columns[:, LINES])
        who = place[rows].astype(np.int64)
        for k, (begin, end) in enumerate(spans):
            found[k, rows] = windows.window_of(
                bucket.starts, bucket.ts, values, who, begin[rows], end[rows]
            )

    each_bucket(store, one, 1)
    return [
        pd.DataFrame(
            {
                "revenue": (part[:, 0] - part[:, 1]) / store.unit,
                "orders": part[:, 2].astype(np.float64),
            }
        )
        for part in found
    ]


def attributes(store: Store, ids: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Columns of the table customers for `ids`, in their order; missing where nothing is known.

    Raises
    ------
    InputError
        No table of customers, or it lacks a column.
    """
    path = store.people(0)
    have = pq.read_schema(path).names if path.exists() else []
    lacking = [column for column in columns if column not in have]
    if lacking:
        raise InputError(
            f"The table customers must have the column '{lacking[0]}'. Got "
            f"{', '.join(sorted(set(have) - {'customer_id'})) or 'no such table'}. Add it to "
            "customers.csv beside the orders."
        )
    parts = [
        pd.read_parquet(store.people(i), columns=["customer_id", *columns])
        for i in range(store.buckets)
    ]
    table = pd.concat(parts, ignore_index=True).set_index("customer_id")
    return table.reindex(pd.Index(ids, dtype=object)).reset_index(drop=True)


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

    `margin` is the share of net revenue that is earned.

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
    after, past, recent = sums(store, ids, spans)
    frame = table[["customer_id", "arm"]].copy()
    frame[outcome] = _money(after, outcome, margin)
    before = {
        f"{outcome} in the year before": _money(past, outcome, margin),
        f"orders in the {min(days, YEAR)} days before": recent["orders"].to_numpy(),
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


def _money(found: pd.DataFrame, outcome: Outcome, margin: float) -> npt.NDArray[np.float64]:
    if outcome == "orders":
        return found["orders"].to_numpy(np.float64)
    factor = margin if outcome == "margin" else 1.0
    return found["revenue"].to_numpy(np.float64) * factor


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
