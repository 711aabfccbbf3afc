"""New customers by channel and month, and what each is worth: what a budget is planned from."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import pandas as pd

from features.errors import InputError
from features.spine import add_months, text
from features.store import ALWAYS, Store, acquired_of
from serving.decisions.campaigns import attributes, sums

__all__ = ["signups", "spending", "values"]

RECENT: Final = 12  # months back in which a customer counts as new
LEAST: Final = 10  # new customers of a channel; fewer tell no mean


def signups(store: Store, until: int) -> pd.DataFrame:
    """Everybody who signed up before the instant `until`: customer_id, channel, month, acquired.

    Raises
    ------
    InputError
        The table customers lacks acquired_at or acquisition_channel, or nobody has both.
    """
    attributes(store, [], ["acquired_at", "acquisition_channel"])  # refuses what is missing
    columns = ["acquired_at", "acquisition_channel"]
    parts = [store.attributes(i, columns).reset_index() for i in range(store.buckets)]
    table = pd.concat(parts).sort_values("customer_id", ignore_index=True)
    acquired = acquired_of(table, len(table), store.zone)
    found = table.assign(acquired=acquired, channel=table["acquisition_channel"])
    found = found[(acquired > ALWAYS) & (acquired < until) & found["channel"].notna()]
    if found.empty:
        raise InputError(
            f"Somebody must have acquired_at and acquisition_channel before "
            f"{text(until, store.zone)} in the table customers. Nobody has. Fill in both columns."
        )
    local = pd.to_datetime(found["acquired"], unit="us", utc=True).dt.tz_convert(store.zone)
    found = found.assign(month=local.dt.strftime("%Y-%m"))
    return found[["customer_id", "channel", "month", "acquired"]].reset_index(drop=True)


def spending(spend: pd.DataFrame, people: pd.DataFrame, store: Store, until: int) -> pd.DataFrame:
    """Whole months before `until`: channel, month, cost, customers (who signed up)."""
    first, now = people["month"].min(), text(until, store.zone)[:7]
    known = spend[(spend["month"] >= first) & (spend["month"] < now)]
    count = people.groupby(["channel", "month"]).size().rename("customers").reset_index()
    table = known.merge(count, how="left", on=["channel", "month"])
    return pd.DataFrame(table.fillna({"customers": 0}))


def values(
    store: Store,
    people: pd.DataFrame,
    predictions: pd.DataFrame,
    months: int,
    until: int,
    margin: float,
) -> pd.DataFrame:
    """What a new customer of each channel is worth: channel, value, sd (standard error), customers.

    New is who signed up in the year before `until`. Value = margin earned since (`margin` being the
    share of lines without a cost) + predicted value of the next `months`; for whom nothing is
    predicted (no order yet), nothing is counted.
    """
    recent = people[people["acquired"] >= add_months(until, -RECENT, store.zone)]
    recent = recent.reset_index(drop=True)
    begin = recent["acquired"].to_numpy(np.int64)
    since = [(begin, np.full_like(begin, until))]
    earned = sums(store, recent["customer_id"].tolist(), since, margin)[0]
    column = f"clv_{months}m"
    ahead = predictions.set_index("customer_id")[column].reindex(recent["customer_id"]).fillna(0.0)
    recent = recent.assign(ahead=ahead.to_numpy())
    recent["value"] = earned["margin"].to_numpy() + recent["ahead"]
    shared = float(predictions.get(f"{column}_common", pd.Series([0.0])).iloc[0])
    found = []
    for channel, rows in recent.groupby("channel", sort=True):
        if len(rows) < LEAST:
            continue
        own = float(rows["value"].std()) / math.sqrt(len(rows))
        found.append(
            {
                "channel": channel,
                "value": float(rows["value"].mean()),
                "sd": math.hypot(own, shared * float(rows["ahead"].mean())),
                "customers": len(rows),
            }
        )
    return pd.DataFrame(found, columns=["channel", "value", "sd", "customers"])
