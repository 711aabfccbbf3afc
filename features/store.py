"""Normalised order lines in buckets of customers: sorted, integers, money in minor units.

A bucket holds all lines of some customers. Everything that is done to data before a model sees it
is a function of one bucket and small side tables, so memory is bounded by the bucket, and one
customer, a 64th of the base or a Spark partition go the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features import foreign
from features.lines import event_columns
from features.rules import bucket_of, minor_digits
from features.spine import instants
from features.tables import Ingested
from features.windows import NO_VALUE

__all__ = ["ALWAYS", "Bucket", "Events", "Kept", "Store", "acquired_of", "month_of"]

Ints = npt.NDArray[np.int64]
ALWAYS = np.iinfo(np.int64).min
SCHEMA = pa.schema(
    {
        "customer_id": pa.string(),
        "ts": pa.int64(),  # microseconds UTC
        "day": pa.int32(),  # local day number
        "hour": pa.int8(),  # local hour
        "amount": pa.int64(),  # minor units, signed
        "order_id": pa.string(),
        "product_id": pa.string(),
        "category": pa.string(),
        "channel": pa.string(),
        "quantity": pa.int64(),  # thousandths
        "discount": pa.int64(),  # minor units
        "cost": pa.int64(),  # minor units
    }
)
EVENTS = pa.schema(
    {
        "customer_id": pa.string(),
        "ts": pa.int64(),  # microseconds UTC
        "kind": pa.string(),
        "value": pa.int64(),  # thousandths
    }
)


@dataclass(frozen=True)
class Events:
    """All events of some customers, sorted by customer (bytewise), time, kind and value.

    ``starts`` (customers + 1,) is the first event of each customer; the other arrays are (events,).
    ``kind`` are codes into ``levels``; ``value`` is in thousandths where ``has_value``.
    """

    ids: npt.NDArray[np.object_]
    starts: Ints
    ts: Ints
    kind: Ints
    value: Ints
    has_value: npt.NDArray[np.bool_]
    levels: list[str]

    @classmethod
    def of(cls, rows: pa.Table) -> Events:
        """From rows in `EVENTS`, already sorted."""
        rows = rows.combine_chunks()
        ids = rows["customer_id"].combine_chunks()
        starts = _starts(ids)
        kind, levels = _codes(rows["kind"])
        given = rows["value"].is_valid().to_numpy()
        names = ids.take(pa.array(starts[:-1])).to_numpy(zero_copy_only=False)
        return cls(names, starts, _ints(rows["ts"]), kind, _ints(rows["value"]), given, levels)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, first: int, last: int) -> Events:
        """Those of the customers [first, last)."""
        a, b = int(self.starts[first]), int(self.starts[last])
        rows, starts = slice(a, b), self.starts[first : last + 1] - a
        return replace(
            self, ids=self.ids[first:last], starts=starts, ts=self.ts[rows], kind=self.kind[rows],
            value=self.value[rows], has_value=self.has_value[rows],
        )  # fmt: skip

    def of_customers(self, ids: npt.NDArray[np.object_]) -> Events:
        """Those of the customers `ids`, in that order; who has none, has an empty part."""
        place = pd.Index(self.ids, dtype=object).get_indexer(pd.Index(ids, dtype=object))
        number = np.where(place >= 0, np.diff(self.starts, append=0)[place], 0)
        starts = np.concatenate([[0], np.cumsum(number)]).astype(np.int64)
        rows = np.repeat(self.starts[place] - starts[:-1], number) + np.arange(starts[-1])
        return replace(
            self, ids=ids, starts=starts, ts=self.ts[rows], kind=self.kind[rows],
            value=self.value[rows], has_value=self.has_value[rows],
        )  # fmt: skip


@dataclass(frozen=True)
class Bucket:
    """All lines of some customers, sorted by customer (bytewise), time and order.

    ``starts`` (customers + 1,) is the first line of each customer; the other arrays are (lines,).
    Codes count from 0 within the bucket, -1 means not given; ``levels`` names those of channel and
    category. ``columns`` are the summable integers of `features.lines.event_columns`.
    """

    ids: npt.NDArray[np.object_]
    starts: Ints
    ts: Ints
    day: Ints
    hour: Ints
    amount: Ints
    order: Ints
    channel: Ints
    category: Ints
    levels: dict[str, list[str]]
    columns: Ints
    unit: int
    acquired: Ints  # microseconds UTC, (customers,); ALWAYS where not known
    attributes: pd.DataFrame | None = None  # one row per customer, in the order of `ids`
    events: Events | None = None  # of the same customers; None without a table of events
    #: Attributes as arrays of text, empty where not known, where no frame was made of them.
    texts: Mapping[str, npt.NDArray[np.object_]] | None = None

    @classmethod
    def of(
        cls,
        lines: pa.Table,
        unit: int,
        attributes: pd.DataFrame | None = None,
        zone: str = "UTC",
        events: Events | None = None,
    ) -> Bucket:
        """A bucket from lines in `SCHEMA`, already sorted; `zone` is that of naive times.

        `events` may hold further customers; they are left out.
        """
        lines = lines.combine_chunks()
        ids = lines["customer_id"].combine_chunks()
        starts = _starts(ids)
        day, amount = _ints(lines["day"]), _ints(lines["amount"])
        order, n_orders = _orders(lines["order_id"], day)
        product, products = _codes(lines["product_id"])
        category, categories = _codes(lines["category"])
        channel, channels = _codes(lines["channel"])
        columns = event_columns(
            starts, day, month_of(day), amount, order, product, category,
            _ints(lines["quantity"]), _ints(lines["discount"]), _ints(lines["cost"], NO_VALUE),
            np.array([n_orders, len(products), len(categories)], np.int64), unit,
        )  # fmt: skip
        names = ids.take(pa.array(starts[:-1])).to_numpy(zero_copy_only=False)
        if attributes is not None:
            attributes = attributes.reindex(names)
        return cls(
            names, starts, _ints(lines["ts"]), day, _ints(lines["hour"]), amount, order, channel,
            category, {"channel": channels, "category": categories}, columns, unit,
            acquired_of(attributes, len(names), zone), attributes,
            None if events is None else events.of_customers(names),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, first: int, last: int) -> Bucket:
        """The customers [first, last) as a bucket of their own."""
        a, b = int(self.starts[first]), int(self.starts[last])
        lines = slice(a, b)
        return Bucket(
            self.ids[first:last], self.starts[first : last + 1] - a, self.ts[lines],
            self.day[lines], self.hour[lines], self.amount[lines], self.order[lines],
            self.channel[lines], self.category[lines], self.levels, self.columns[lines], self.unit,
            self.acquired[first:last],
            None if self.attributes is None else self.attributes.iloc[first:last],
            None if self.events is None else self.events.take(first, last),
            self.texts and {name: text[first:last] for name, text in self.texts.items()},
        )  # fmt: skip


def _starts(ids: pa.Array) -> Ints:
    if len(ids) == 0:
        return np.zeros(1, np.int64)
    changed = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.flatnonzero(changed) + 1, [len(ids)]]).astype(np.int64)


def _ints(column: pa.ChunkedArray, missing: int = 0) -> Ints:
    if column.null_count:
        column = column.fill_null(missing)
    return np.array(column.to_numpy(), np.int64)  # a copy: Arrow's memory is read-only


def _codes(column: pa.ChunkedArray) -> tuple[Ints, list[str]]:
    encoded = column.combine_chunks().dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return codes.astype(np.int64), encoded.dictionary.to_pylist()


def _orders(column: pa.ChunkedArray, day: Ints) -> tuple[Ints, int]:
    """Codes of orders: by order_id, without one by local day."""
    codes, names = _codes(column)
    unnamed = codes < 0
    if not unnamed.any():
        return codes, len(names)
    base = int(day[unnamed].min())
    codes = np.where(unnamed, day - base + len(names), codes)
    return codes, int(codes.max()) + 1


def acquired_of(attributes: pd.DataFrame | None, customers: int, zone: str) -> Ints:
    """Moments at which customers became known; text that is no ISO time counts as not known."""
    if attributes is None or "acquired_at" not in attributes:
        return np.full(customers, ALWAYS, np.int64)
    found, known = instants(attributes["acquired_at"].astype(object), zone)
    return np.where(known, found, ALWAYS)


def month_of(day: Ints) -> Ints:
    """Number of the month since 1970-01 of days since 1970-01-01."""
    return day.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)


@dataclass(frozen=True)
class Store:
    """Buckets on disk, as `features.tables.ingest` writes them, and what is known of the whole."""

    folder: Path
    buckets: int
    unit: int  # minor units in a major one
    coverage_end: int  # microseconds UTC; what lies at or after it is not known
    first_ts: int
    fingerprint: str
    columns_present: tuple[str, ...]
    rows: int
    customers: int
    zone: str = "UTC"
    first_bucket: int = 0

    def __iter__(self) -> Iterator[Bucket]:
        return (self.bucket(i) for i in range(self.buckets))

    def only(self, which: range) -> Store:
        """The store with the buckets of a range only, counted from 0 again."""
        return replace(self, first_bucket=self.first_bucket + which.start, buckets=len(which))

    def bucket(self, index: int) -> Bucket:
        """Read one bucket."""
        name = f"bucket-{self.first_bucket + index:03d}.parquet"
        lines = pq.read_table(self.folder / "orders" / name, schema=SCHEMA)
        attributes = self.attributes(index) if self.people(index).exists() else None
        return Bucket.of(lines, self.unit, attributes, self.zone, self.events(index))

    def of_customer(self, customer: str) -> Bucket | None:
        """One customer of a whole store, None if there are no orders; other buckets stay closed."""
        bucket = self.bucket(self.place(customer))
        here = np.flatnonzero(bucket.ids == customer)
        return bucket.take(int(here[0]), int(here[0]) + 1) if len(here) else None

    def place(self, customer: str) -> int:
        """Index of the bucket of a whole store where this customer is, if anywhere."""
        con = foreign.connect("200MB", 1)
        found = con.execute(f"SELECT {bucket_of('$1::VARCHAR', self.buckets)}", [customer])
        place = int(found.fetchall()[0][0])
        con.close()
        return place

    def people(self, index: int) -> Path:
        """Attributes of all customers of one bucket, with or without an order; may not be there."""
        return self.folder / "customers" / f"bucket-{self.first_bucket + index:03d}.parquet"

    def attributes(self, index: int, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """What `people` holds, as text by customer_id, which rises; of all columns or of some."""
        wanted = None if columns is None else ["customer_id", *columns]
        return pd.read_parquet(self.people(index), columns=wanted).set_index("customer_id")

    def events(self, index: int) -> Events | None:
        """Events of all customers of one bucket, with or without an order; None without a table."""
        path = self.folder / "events" / f"bucket-{self.first_bucket + index:03d}.parquet"
        return Events.of(pq.read_table(path, schema=EVENTS)) if path.exists() else None

    @classmethod
    def of(cls, found: Ingested) -> Store:
        """The store that an ingest has written."""
        return cls(
            folder=found.folder, buckets=found.buckets, unit=10 ** minor_digits(found.currency),
            coverage_end=found.coverage_end, first_ts=found.first_ts,
            fingerprint=found.fingerprint, columns_present=found.columns_present,
            rows=found.rows_kept, customers=found.customers, zone=found.time_zone,
        )  # fmt: skip

    def until(self, moment: int) -> Store:
        """The same store as it was known at `moment`: coverage ends there."""
        return replace(self, coverage_end=min(self.coverage_end, moment))


@dataclass(frozen=True)
class Kept(Store):
    """A store whose tables stay in memory once read, for many readers of one small base."""

    read: dict[int, Bucket] = field(default_factory=dict, compare=False, repr=False)
    known: dict[int, pd.DataFrame] = field(default_factory=dict, compare=False, repr=False)
    told: dict[int, Events | None] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def over(cls, store: Store) -> Kept:
        """The same store, nothing of it read yet."""
        return cls(**{one.name: getattr(store, one.name) for one in fields(Store)})

    def bucket(self, index: int) -> Bucket:
        """Read one bucket the first time it is asked for."""
        place = self.first_bucket + index
        if place not in self.read:
            self.read[place] = super().bucket(index)
        return self.read[place]

    def attributes(self, index: int, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """See `Store`; all columns are read the first time."""
        place = self.first_bucket + index
        if place not in self.known:
            self.known[place] = super().attributes(index)
        return self.known[place] if columns is None else self.known[place][list(columns)]

    def events(self, index: int) -> Events | None:
        """See `Store`."""
        place = self.first_bucket + index
        if place not in self.told:
            self.told[place] = super().events(index)
        return self.told[place]
