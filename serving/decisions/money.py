"""What customers have earned so far and what it cost to win them, in whole minor units.

Money stays an integer until it is shown, so that sums of any groups equal those of their customers
exactly. The margin of a line is its amount less its cost where that is known, else the share of
the settings; a refund counts with its sign, on its own date.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features import windows
from features.errors import InputError
from features.people import NEVER, People, first_orders
from features.spine import text
from features.store import ALWAYS, Bucket, Store
from training.samples import each_bucket

__all__ = [
    "GIVEN", "NONE", "SHARED", "UNKNOWN", "acquisitions", "dealt", "earning", "known_people",
    "realised", "realised_before",
]  # fmt: skip

Ints = npt.NDArray[np.int64]
ORDERS: Final = windows.COLUMNS.index("orders")
COST, COSTED = (windows.COLUMNS.index(name) for name in ("cost", "costed"))
#: Where an acquisition cost comes from, see `acquisitions`.
GIVEN, SHARED, NONE, UNKNOWN = "given", "shared", "none", "unknown"
LARGEST: Final = Decimal(10) ** 12  # money paid for one customer


def realised(
    store: Store, ids: Sequence[str], spans: Sequence[tuple[Ints, Ints]], margin: float
) -> list[pd.DataFrame]:
    """What customers brought in spans ``[begin, end)`` of their own (microseconds UTC).

    One table per span, rows in the order of `ids`: revenue (net of refunds), margin and orders,
    all int64, money in minor units. `margin` is the share earned of lines without a cost, rounded
    once per customer and span. Nobody is too unknown to count: who has no line, brought 0.
    """
    names = pd.Index(np.array(ids, object), dtype=object)
    found = np.zeros((len(spans), len(ids), 4), np.int64)

    def one(bucket: Bucket) -> None:
        place = pd.Index(bucket.ids, dtype=object).get_indexer(names)
        rows = np.flatnonzero(place >= 0)
        values, who = earning(bucket), place[rows].astype(np.int64)
        for k, (begin, end) in enumerate(spans):
            found[k, rows] = windows.window_of(
                bucket.starts, bucket.ts, values, who, begin[rows], end[rows]
            )

    each_bucket(store, one, 1)
    return [_earned(part, margin) for part in found]


def realised_before(store: Store, until: int, margin: float) -> pd.DataFrame:
    """What everybody with a line before the instant `until` brought: as `realised`, by customer_id.

    Refunds alone make a line too.
    """

    def one(bucket: Bucket) -> pd.DataFrame:
        who = np.arange(len(bucket), dtype=np.int64)
        begin, end = np.full(len(bucket), ALWAYS), np.full(len(bucket), until, np.int64)
        sums = windows.window_of(bucket.starts, bucket.ts, earning(bucket), who, begin, end)
        # Lines are sorted by time: whose first is late has none before.
        early = bucket.ts[bucket.starts[:-1]] < until
        found = _earned(sums[early], margin)
        return found.set_index(pd.Index(bucket.ids[early], dtype=object, name="customer_id"))

    return pd.concat(each_bucket(store, one, 1)).sort_index()


def earning(bucket: Bucket) -> Ints:
    """Of each line the amount, the part of it whose cost is known, that cost, and a new order."""
    columns = (bucket.amount, *(bucket.columns[:, k] for k in (COSTED, COST, ORDERS)))
    return np.ascontiguousarray(np.stack(columns, axis=1))


def _earned(sums: Ints, margin: float) -> pd.DataFrame:
    revenue, known, cost, orders = sums.T
    share = np.rint(margin * (revenue - known)).astype(np.int64)
    return pd.DataFrame({"revenue": revenue, "margin": known - cost + share, "orders": orders})


def acquisitions(
    store: Store,
    until: int,
    spend: pd.DataFrame | None = None,
    people: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """When and where everybody was won who was known before the instant `until`, and for how much.

    Known are people of the table customers who signed up (acquired_at) or ordered before, and all
    who ordered. `spend` is what `features.campaigns.spend` gives, `people` what `known_people`
    gives of the same moment, if it is there already.

    Returns
    -------
    DataFrame
        Sorted by customer_id: customer_id, channel (None where not known), month (``2024-05``, of
        acquired_at, else of the first order), acquired and first (that moment and the first order,
        int64 microseconds UTC; ``NEVER`` without an order before `until`), cost (Int64 minor
        units, missing where not known) and source:

        given     the column acquisition_cost of the table customers
        shared    spend with fees of the channel and month over its new customers: those who were
                  acquired then and have ordered before `until`. Minor units that do not divide go
                  to the first ids, so that a channel and month add up to its spend
        none      0: the channel spent nothing in a month that the table of spend covers, or the
                  person has not ordered yet, and those who have bear it
        unknown   no channel, no table of spend, or a month that it does not cover in whole

    Raises
    ------
    InputError
        An acquisition_cost is no money.
    """
    found = (known_people(store, until) if people is None else people).copy()
    cost, source = _shares(found, spend, text(until, store.zone)[:7], store.unit)
    # Many have cost the same: what is written is read once.
    place, written = pd.factorize(found.pop("told").to_numpy(object))
    paid = [_paid(value, store.unit) for value in written]
    money = np.array([each or 0 for each in paid] + [0], np.int64)
    given = np.array([each is not None for each in paid] + [False])[place]
    cost[given], source[given] = money[place][given], GIVEN
    found["cost"] = pd.array(cost, "Int64")
    found.loc[source == UNKNOWN, "cost"] = pd.NA
    names = ["customer_id", "channel", "month", "acquired", "first", "cost"]
    return found[names].assign(source=source)


def known_people(store: Store, until: int) -> pd.DataFrame:
    """Everybody who was known before the instant `until`, for several calls of `acquisitions`.

    Sorted by customer_id: customer_id, channel, month, acquired, first, told (cost as text).
    """
    parts = [_people(store, index, until) for index in range(store.buckets)]
    found = pd.concat(parts, ignore_index=True).sort_values("customer_id", ignore_index=True)
    day = pd.to_datetime(found["acquired"], unit="us", utc=True).dt.tz_convert(store.zone)
    # A month has many people: its name is written once.
    number = (day.dt.year * 12 + day.dt.month - 1).to_numpy(np.int64)
    months, place = np.unique(number, return_inverse=True)
    names = np.array([f"{m // 12:04d}-{m % 12 + 1:02d}" for m in months.tolist()], object)
    return found.assign(month=names[place] if len(names) else names)


def _people(store: Store, index: int, until: int) -> pd.DataFrame:
    """People of one bucket: customer_id, channel, acquired, first, told (cost as text)."""
    people = People.of(store, index, events=False) if store.people(index).exists() else None
    if people is None:
        bucket = store.bucket(index)
    else:  # a bucket takes longest to read
        bucket = replace(people.lines, starts=people.lines.starts[:-1])
    frame = pd.DataFrame({"customer_id": bucket.ids, "first": first_orders(bucket)})
    frame = frame.assign(acquired=ALWAYS, channel=None, told=None)
    if people is not None:
        about = people.attributes.reindex(
            columns=["acquisition_channel", "acquisition_cost"]
        ).astype(object)
        some = pd.DataFrame({"customer_id": people.ids, "first": people.first})
        some = some.assign(
            acquired=people.acquired,
            channel=about["acquisition_channel"].to_numpy(object),
            told=about["acquisition_cost"].to_numpy(object),
        )
        unknown = np.ones(len(bucket), np.bool_)
        unknown[people.place[people.place < len(bucket)]] = False
        others = frame[unknown]
        frame = pd.concat([some, others], ignore_index=True) if len(others) else some
    first = frame["first"].to_numpy(np.int64)
    first = np.where(first < until, first, NEVER)
    acquired = frame["acquired"].to_numpy(np.int64)
    acquired = np.where(acquired > ALWAYS, acquired, first)
    channel = frame["channel"].astype(object)
    channel = channel.where(channel.notna(), None)
    frame = frame.assign(first=first, acquired=acquired, channel=channel)
    return frame[(acquired < until) | (first < until)]


def _shares(
    people: pd.DataFrame, spend: pd.DataFrame | None, now: str, unit: int
) -> tuple[Ints, npt.NDArray[np.object_]]:
    """Cost (minor units) and source of each person by their channel and month."""
    cost = np.zeros(len(people), np.int64)
    source = np.full(len(people), UNKNOWN, object)
    if spend is None or spend.empty:
        return cost, source
    month = people["month"].to_numpy(object)
    within = (month >= spend["month"].min()) & (month <= spend["month"].max()) & (month < now)
    source[within & people["channel"].notna().to_numpy()] = NONE
    buyers = people["first"].to_numpy(np.int64) < NEVER
    paid = {
        (channel, month): round(money * unit)
        for channel, month, money in spend[["channel", "month", "cost"]].itertuples(index=False)
    }
    new = people[buyers & (source == NONE)]
    for key, rows in new.groupby(["channel", "month"], sort=True).groups.items():
        if whole := paid.get((str(key[0]), str(key[1]))):
            at = np.asarray(rows, np.int64)
            cost[at], source[at] = dealt(whole, len(at)), SHARED
    return cost, source


def dealt(whole: int, parts: int) -> Ints:
    """A whole number in so many almost equal ones that add up to it, the larger ones first."""
    even, rest = divmod(whole, parts)
    return even + (np.arange(parts) < rest).astype(np.int64)


def _paid(value: object, unit: int) -> int | None:
    """Minor units of money written as text, half to even; None where nothing is written."""
    if not isinstance(value, str) or not value.strip():
        return None
    try:
        money = Decimal(value.strip())
    except InvalidOperation:
        money = Decimal(-1)
    if "_" in value or not (money.is_finite() and 0 <= money < LARGEST):
        raise InputError(
            "customers, acquisition_cost: must be money of at least 0. Got "
            f"{value[:40]!r}. Mend the column."
        )
    return int((money * unit).to_integral_value())
