"""Plain records of customers to a bucket: the rules of `features.rules` without a database.

What a request holds goes through here in microseconds. Every number and time is read as the SQL of
`features.rules` reads its text, so a customer has the same bits here as in a file; what the rules
refuse in a line of a file, they refuse here by the field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, NoReturn
from zoneinfo import ZoneInfo

import numpy as np

from features import plain
from features.errors import InputError
from features.exact import SECOND, clock_time, finer, halved, local, micros, scaled
from features.lines import event_columns
from features.plain import LAST_DAY, NONE, TEXTS, Form, Lines
from features.rules import minor_digits
from features.settings import Settings
from features.spine import EPOCH, instant
from features.store import ALWAYS, Bucket, Events, month_of

__all__ = ["EVENT", "ORDER", "Note", "Read", "RecordError", "read"]

NUMBERS: Final = frozenset(("quantity", "discount", "cost", "margin_rate"))
PLAIN: Final = frozenset((str, type(None)))
ORDER: Final = frozenset(("order_ts", "amount", "currency", *TEXTS, *NUMBERS))
EVENT: Final = frozenset(("ts", "kind", "value", "channel"))
LIMIT: Final = 1 << 62
LARGEST_VALUE: Final = 10**9  # of an event
TURNED: Final = re.compile(r"\s*\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}(?:$|[ T,])", re.ASCII)
NAIVE_EPOCH: Final = EPOCH.replace(tzinfo=None)
FIRST, LAST = 0, LAST_DAY * 86_400 * SECOND  # 1970 and 2100
Where = tuple[str | int, ...]


class RecordError(InputError):
    """A field of a record is not as it must be: where it stands, which rule, what must hold.

    The value itself is never told: it may be a customer's.
    """

    def __init__(self, where: Where, rule: str, must: str) -> None:
        self.where, self.rule, self.must = where, rule, must
        super().__init__(f"{path(where)}: {must}.")


def path(where: Where) -> str:
    """A place in a request as people write it: customers[0].orders[3].amount."""
    found = ""
    for part in where:
        found += f"[{part}]" if isinstance(part, int) else f".{part}" if found else part
    return found or "the request"


def only(fields: Iterable[str]) -> str:
    """What an object with other fields must hold."""
    return f"must hold no other fields than {', '.join(sorted(fields))}"


@dataclass(frozen=True)
class Note:
    """Something that was accepted and should be known."""

    where: Where
    rule: str
    text: str


@dataclass
class Read:
    """A bucket of the customers in their order, and what was noticed."""

    bucket: Bucket
    notes: list[Note] = field(default_factory=list)


def read(
    customers: Sequence[Mapping[str, Any]], settings: Settings, at: Where = ("customers",)
) -> Read:
    """The bucket of customers: ``customer_id``, ``orders``, perhaps ``profile`` and ``events``.

    Fields are plain: text, ``int`` or ``float``, as JSON gives them. Without the key
    ``events`` in any of them the bucket has no events.

    Raises
    ------
    RecordError
        The first field, in the order of the records, that breaks a rule.
    """
    return _Reader(settings, at).read(customers)


class _Reader:
    """One request on its way to a bucket."""

    def __init__(self, settings: Settings, at: Where) -> None:
        self.at, self.zone = at, settings.business.time_zone
        self.currency = settings.business.currency
        self.digits = minor_digits(self.currency)
        self.unit = 10**self.digits
        self.most = 10 ** (18 - self.digits) - 1  # minor units
        self.tz = None if self.zone == "UTC" else ZoneInfo(self.zone)
        drop = settings.orders.duplicates == "drop"
        self.form = Form(self.currency, self.unit, self.most, self.tz, drop)
        #: Whether the times of a table have no zone; None before the first of them.
        self.naive: dict[str, bool | None] = {"orders": None, "events": None}
        rate = settings.business.discount_rate_by_segment.column
        self.attributes = {*settings.customers.static, "acquired_at", "contract_end"}
        self.attributes |= {rate} - {""}
        self.notes: list[Note] = []

    def read(self, customers: Sequence[Mapping[str, Any]]) -> Read:
        ids = [customer["customer_id"] for customer in customers]
        lines = plain.read(customers, self.form) if len(set(ids)) == len(ids) else None
        if lines is None:
            lines = plain.in_order(self._carefully(customers), self.form.drop_copies)
        numbers = lines.numbers
        numbers[2:4][numbers[2:4] == NONE] = 0
        self._require_small(lines)
        names = np.array(ids, object)
        profiles = [customer.get("profile") or {} for customer in customers]
        return Read(self._bucket(names, lines, profiles, self._events(customers)), self.notes)

    def _carefully(self, customers: Sequence[Mapping[str, Any]]) -> list[list[tuple[Any, ...]]]:
        """The lines of each customer, one by one: all forms, and the first that is wrong."""
        found: list[list[tuple[Any, ...]]] = []
        known: set[str] = set()
        for i, customer in enumerate(customers):
            if customer["customer_id"] in known:
                raise RecordError((*self.at, i, "customer_id"), "duplicate_customer",
                                  "each customer must stand once")  # fmt: skip
            known.add(customer["customer_id"])
            found.append([self._line(order, i, j) for j, order in enumerate(customer["orders"])])
        return found

    def _line(self, order: Mapping[str, Any], i: int, j: int) -> tuple[Any, ...]:
        if not ORDER.issuperset(order):
            raise RecordError((*self.at, i, "orders", j), "unknown_field", only(ORDER))
        ts, day, hour = self._time(order, "order_ts", i, "orders", j)
        amount = self._amount(order.get("amount"), i, j)
        currency = order.get("currency")
        if currency is not None and self._foreign(currency, i, j):
            self._refuse(i, "orders", j, "currency", "missing_rate",
                         f"must be {self.currency}, the business currency")  # fmt: skip
        quantity = discount = cost = NONE
        if not NUMBERS.isdisjoint(order):
            quantity, discount, cost = self._optional(order, amount, i, j)
        get = order.get
        one, two, three, four = get("order_id"), get("product_id"), get("category"), get("channel")
        if not (type(one) in PLAIN and type(two) in PLAIN and type(three) in PLAIN
                and type(four) in PLAIN):  # fmt: skip
            name = next(name for name in TEXTS if type(get(name)) not in PLAIN)
            self._refuse(i, "orders", j, name, "type", "must be text")
        # Empty text is not given, as in a file, and stands first.
        return (
            ts, one or "", two or "", three or "", four or "", amount, quantity, discount, cost,
            day, hour,
        )  # fmt: skip

    def _refuse(self, i: int, table: str, j: int, name: str, rule: str, must: str) -> NoReturn:
        raise RecordError((*self.at, i, table, j, name), rule, must)

    def _foreign(self, currency: Any, i: int, j: int) -> bool:
        if type(currency) is not str:
            self._refuse(i, "orders", j, "currency", "type", "must be text")
        return str(currency).strip(" ").upper() not in ("", self.currency)

    def _time(
        self, record: Mapping[str, Any], name: str, i: int, table: str, j: int
    ) -> tuple[int, int, int]:
        """Microseconds UTC, local day and hour."""
        text = record.get(name)
        if type(text) is not str:
            rule = "missing_date" if text is None else "type"
            self._refuse(i, table, j, name, rule, "must be a time such as 2024-05-31T13:45:00")
        clock, east = clock_time(text)
        if clock is None:
            rule = "ambiguous_dates" if TURNED.match(text) else "unreadable_date"
            self._refuse(i, table, j, name, rule, "must be a time such as 2024-05-31T13:45:00")
        if (east is None) is not self.naive[table]:
            self._same_form(east is None, i, table, j, name)
        if self.tz is None and east is None:
            span = clock - NAIVE_EPOCH
            days, seconds = span.days, span.seconds
            if 0 <= days < LAST_DAY:
                return (
                    (days * 86_400 + seconds) * SECOND + span.microseconds,
                    days,
                    seconds // 3_600,
                )
        if self.tz is None:
            utc = here = micros(clock - NAIVE_EPOCH) - (east or 0)
        else:
            utc, here = local(clock, east, self.tz)
        if not FIRST <= utc < LAST:
            self._refuse(i, table, j, name, "impossible_date", "must lie in the years 1970 to 2099")
        hours = here // (3_600 * SECOND)
        return utc, hours // 24, hours % 24

    def _same_form(self, naive: bool, i: int, table: str, j: int, name: str) -> None:
        if self.naive[table] is None:
            self.naive[table] = naive
        else:
            self._refuse(i, table, j, name, "mixed_times", "must have a time zone if those before "
                         "it have one, and none if they have none")  # fmt: skip

    def _amount(self, value: Any, i: int, j: int) -> int:
        if type(value) is not float and type(value) is not int:
            rule = "missing_amount" if value is None else "type"
            self._refuse(i, "orders", j, "amount", rule, "must be a number")
        found = scaled(value, self.digits)
        if found is None or not -self.most <= found <= self.most:
            self._refuse(i, "orders", j, "amount", "amount_too_large", "must be a finite number "
                         "of a size that money has")  # fmt: skip
        return found

    def _optional(
        self, order: Mapping[str, Any], amount: int, i: int, j: int
    ) -> tuple[int, int, int]:
        """Quantity in thousandths, discount and cost in minor units."""
        quantity = discount = cost = NONE
        if (value := order.get("quantity")) is not None:
            quantity = self._within(scaled(self._number(value, "quantity", i, j), 3),
                                    10**15 - 1, "quantity", i, j)  # fmt: skip
        if (value := order.get("discount")) is not None:
            found = finer(self._number(value, "discount", i, j), self.digits)
            discount = self._within(found, self.most, "discount", i, j)
            if NONE < discount < 0:
                self._note(i, j, "discount", "negative_discount", "its minus sign is taken off")
                discount = -discount
        if (value := order.get("cost")) is not None:
            found = finer(self._number(value, "cost", i, j), self.digits)
            cost = self._within(found, self.most, "cost", i, j)
        if (value := order.get("margin_rate")) is not None:
            margin = self._within(scaled(self._number(value, "margin_rate", i, j), 6),
                                  10**10 - 1, "margin_rate", i, j)  # fmt: skip
            if cost == NONE and margin != NONE:
                cost = halved(amount * (10**6 - margin), 10**6)
        return quantity, discount, cost

    def _number(self, value: Any, name: str, i: int, j: int) -> int | float:
        if type(value) is not float and type(value) is not int:
            self._refuse(i, "orders", j, name, "type", "must be a number")
        return value

    def _within(self, value: int | None, most: int, name: str, i: int, j: int) -> int:
        """The number, or NONE and a note where it is beyond what the store holds."""
        if value is None or not -most <= value <= most:
            self._note(i, j, name, "unreadable_optional", "is taken as not given: its size")
            return NONE
        return value

    def _note(self, i: int, j: int, name: str, rule: str, text: str) -> None:
        self.notes.append(Note((*self.at, i, "orders", j, name), rule, text))

    def _require_small(self, lines: Lines) -> None:
        """Refuse a customer whose sums could pass what the store holds."""
        sizes, count = np.abs(lines.numbers[1:5]), lines.numbers.shape[1]
        sizes[sizes == NONE] = 0  # costs that are not known
        largest = int(sizes.max(initial=0))
        # Nearly always so: one look at the largest number answers for all sums.
        if (largest // self.unit + 1) ** 2 * count < LIMIT and largest * count < LIMIT:
            return
        for i, (a, b) in enumerate(pairwise(lines.starts.tolist())):
            amounts, *others = sizes[:, a:b].tolist()
            whole = sum((amount // self.unit + 1) ** 2 for amount in amounts)
            if max(sum(amounts), whole, *map(sum, others)) >= LIMIT:
                must = "the sum of amounts, or of their squares, must be below 2^62"
                raise RecordError((*self.at, i, "orders"), "amount_too_large", must)

    def _bucket(
        self, ids: Any, lines: Lines, profiles: list[Mapping[str, Any]], events: Events | None
    ) -> Bucket:
        first, unit = lines.starts, self.unit
        ts, amount, quantity, discount, cost, day, hour = lines.numbers
        order, n_orders = _orders(lines.texts[0], day)
        (product, products), (category, categories), (channel, channels) = (
            _codes(texts) for texts in lines.texts[1:]
        )
        values = event_columns(
            first, day, month_of(day), amount, order, product, category, quantity, discount, cost,
            np.array([n_orders, len(products), len(categories)], np.int64), unit,
        )  # fmt: skip
        texts, acquired = self._profiles(profiles)
        return Bucket(
            ids, first, ts, day, hour, amount, order, channel, category,
            {"channel": channels, "category": categories}, values, unit, acquired,
            events=events, texts=texts,
        )  # fmt: skip

    def _profiles(self, profiles: list[Mapping[str, Any]]) -> tuple[dict[str, Any] | None, Any]:
        acquired = np.full(len(profiles), ALWAYS, np.int64)
        names = {name for profile in profiles for name in profile} & self.attributes
        if not names:
            return None, acquired
        found = {
            name: np.array([_written(profile.get(name)) for profile in profiles], object)
            for name in names
        }
        for i, text in enumerate(found.get("acquired_at", ())):
            if text:
                try:
                    acquired[i] = instant(text, self.zone)
                except InputError:
                    raise RecordError((*self.at, i, "profile", "acquired_at"), "unreadable_date",
                                      "must be a time such as 2024-05-31") from None  # fmt: skip
        return found, acquired

    def _events(self, customers: Sequence[Mapping[str, Any]]) -> Events | None:
        if not any("events" in customer for customer in customers):
            return None
        starts, rows = [0], []
        for i, customer in enumerate(customers):
            given = customer.get("events") or ()
            rows += sorted(self._event(event, i, j) for j, event in enumerate(given))
            starts.append(len(rows))
        kinds: dict[str, int] = {}
        codes = [kinds.setdefault(kind, len(kinds)) for _, kind, _ in rows]
        ids = np.array([customer["customer_id"] for customer in customers], object)
        return Events(
            ids, np.array(starts, np.int64), np.array([row[0] for row in rows], np.int64),
            np.array(codes, np.int64),
            _or_zero([row[2] for row in rows]),
            np.array([row[2] != NONE for row in rows], bool), list(kinds),
        )  # fmt: skip

    def _event(self, event: Mapping[str, Any], i: int, j: int) -> tuple[int, str, int]:
        if not EVENT.issuperset(event):
            raise RecordError((*self.at, i, "events", j), "unknown_field", only(EVENT))
        ts, _, _ = self._time(event, "ts", i, "events", j)
        kind, value = event.get("kind"), event.get("value")
        if type(kind) is not str or not kind.strip(" "):
            self._refuse(i, "events", j, "kind", "event_missing_kind", "must be text")
        if value is None:
            return ts, kind.strip(" "), NONE
        if type(value) is not float and type(value) is not int:
            self._refuse(i, "events", j, "value", "type", "must be a number")
        found = scaled(value, 3)
        if found is None or abs(found) >= LARGEST_VALUE * 1000:
            where = (*self.at, i, "events", j, "value")
            self.notes.append(Note(where, "event_unreadable_value", "is taken as not given"))
            found = NONE
        return ts, kind.strip(" "), found


def _written(value: Any) -> str:
    """An attribute as a table of customers holds it: text, empty where not known."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else f"{value}"


def _or_zero(values: Sequence[int]) -> Any:
    found = np.array(values, np.int64)
    found[found == NONE] = 0
    return found


def _codes(texts: Sequence[str]) -> tuple[Any, list[str]]:
    """Codes from 0, -1 for what is not given, and their names."""
    if not any(texts):
        return np.full(len(texts), -1, np.int64), []
    place: dict[str, int] = {}
    codes = [place.setdefault(text, len(place)) if text else -1 for text in texts]
    return np.array(codes, np.int64), list(place)


def _orders(texts: Sequence[str], day: Any) -> tuple[Any, int]:
    """Codes of orders: by order_id, without one by local day."""
    codes, names = _codes(texts)
    unnamed = codes < 0
    if not unnamed.any():
        return codes, len(names)
    codes = np.where(unnamed, day - int(day[unnamed].min()) + len(names), codes)
    return codes, int(codes.max()) + 1
