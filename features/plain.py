"""Order lines of a request that are plain, read all at once: as `features.records` reads each.

Plain is what programs send: ISO dates or times without a zone, JSON numbers with no more digits
than money has. One compiled pass reads the times and scales the numbers; whatever is not plain is
left to the reading line by line, which knows all forms and names what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from operator import itemgetter
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from features.exact import EXACT, SECOND, local, micros
from features.spine import EPOCH
from features.windows import compiled

__all__ = ["NONE", "TEXTS", "Form", "Lines", "in_order", "read"]

Ints = npt.NDArray[np.int64]
TEXTS: Final = ("order_id", "product_id", "category", "channel")
#: Of numbers that may be missing: the factor where it is not that of money, and the largest.
OPTIONAL: Final = {"quantity": (1_000.0, 10**15 - 1), "discount": None, "cost": None}
FIELDS: Final = frozenset(("order_ts", "amount", "currency", *TEXTS, *OPTIONAL))
NUMBERS: Final = frozenset((int, float))
MAYBE: Final = NUMBERS | {type(None)}
TEXTUAL: Final = frozenset((str, type(None)))
LENGTHS: Final = frozenset((10, 19))
NONE: Final = -(1 << 63)  # a number that is not given sorts before all others
FIRST_ORDINAL: Final = EPOCH.toordinal()
LAST_DAY: Final = 47_482  # 2100-01-01
WHEN, MUCH = itemgetter("order_ts"), itemgetter("amount")


class Form(NamedTuple):
    """How the lines of a business are read."""

    currency: str
    unit: int  # minor units in a major one
    most: int  # minor units of an amount
    zone: ZoneInfo | None  # None for UTC
    drop_copies: bool


class Lines(NamedTuple):
    """Order lines of customers, sorted as the store sorts them."""

    starts: Ints  # (customers + 1,)
    #: (7, lines): instant, amount, quantity, discount and cost (`NONE` for none), day and hour.
    numbers: Ints
    texts: tuple[Sequence[str], ...]  # `TEXTS` of each line, empty where not given
    optional: bool  # whether quantity, discount or cost may be given


def read(customers: Sequence[Mapping[str, Any]], form: Form) -> Lines | None:
    """All order lines; None unless each of them is plain."""
    orders = [order for customer in customers for order in customer["orders"]]
    fields = set().union(*orders) if all(type(order) is dict for order in orders) else {""}
    if not orders or not fields <= FIELDS:
        return None
    try:
        times, amounts = list(map(WHEN, orders)), list(map(MUCH, orders))
    except KeyError:
        return None
    if "currency" in fields and not _is_ours([order.get("currency") for order in orders], form):
        return None
    texts = tuple(
        [order.get(name) for order in orders] if name in fields else None for name in TEXTS
    )
    numbers = np.empty((7, len(orders)), np.int64)
    if (
        not all(column is None or TEXTUAL.issuperset(map(type, column)) for column in texts)
        or not NUMBERS.issuperset(map(type, amounts))
        or not _scale(amounts, float(form.unit), form.most, numbers[1])
        or not _optional(orders, fields, form, numbers)
        or not _clocks(times, form.zone, numbers)
    ):
        return None
    counts = [len(customer["orders"]) for customer in customers]
    plain = [[""] * len(orders) if column is None else [text or "" for text in column]
             for column in texts]  # fmt: skip
    return _sorted(counts, numbers, plain, not fields.isdisjoint(OPTIONAL), form)


def in_order(customers: Sequence[list[tuple[Any, ...]]], drop_copies: bool) -> Lines:
    """Lines given as tuples, a list of each customer.

    A tuple holds instant, `TEXTS`, amount, quantity, discount, cost, day and hour: the store sorts
    by them.
    """
    lines: list[tuple[Any, ...]] = []
    starts = [0]
    for rows in customers:
        lines += sorted(dict.fromkeys(rows) if drop_copies else rows)
        starts.append(len(lines))
    columns = list(zip(*lines, strict=True)) if lines else [()] * 11
    numbers = np.array([columns[0], *columns[5:]], np.int64)
    return Lines(np.array(starts, np.int64), numbers, tuple(columns[1:5]), optional=True)


def _is_ours(currencies: list[Any], form: Form) -> bool:
    textual = TEXTUAL.issuperset(map(type, currencies))
    return textual and set(currencies) <= {None, "", form.currency}


def _scale(values: list[Any], factor: float, most: int, out: Ints) -> bool:
    """Numbers times a factor; false if one has more digits, is too large or no number."""
    try:
        return bool(_scaled(np.array(values, np.float64), factor, float(most), out))
    except OverflowError:  # a whole number beyond all doubles
        return False


def _optional(
    orders: Sequence[Mapping[str, Any]], fields: set[str], form: Form, numbers: Ints
) -> bool:
    """Quantity, discount and cost into their rows; false unless all are plain."""
    numbers[2:5] = NONE
    for row, (name, own) in zip(numbers[2:5], OPTIONAL.items(), strict=True):
        if name not in fields:
            continue
        values = [order.get(name) for order in orders]
        if not MAYBE.issuperset(map(type, values)):
            return False
        given = np.array([value is not None for value in values])
        factor, most = own or (float(form.unit), form.most)
        found = np.empty(int(given.sum()), np.int64)
        if not _scale([value for value in values if value is not None], factor, most, found):
            return False
        if name == "discount" and (found < 0).any():  # to be told of
            return False
        row[given] = found
    return True


def _clocks(times: list[Any], zone: ZoneInfo | None, numbers: Ints) -> bool:
    """Instants, local days and hours into their rows; false unless all times are plain."""
    if set(map(type, times)) != {str} or not LENGTHS.issuperset(map(len, times)):
        return False
    text = np.array(times, "U19").view(np.uint32).reshape(-1, 19)
    if _read(text, numbers[0], numbers[5], numbers[6]) != sum(map(len, times)):
        return False
    if zone is None:
        return True
    days = numbers[5].tolist()
    east = [_steady(day, zone) for day in days]
    for i, seconds in enumerate(east):
        if seconds is None:
            utc, here = local(datetime.fromisoformat(times[i]), None, zone)
            hours = here // (3_600 * SECOND)
            numbers[0, i], numbers[5, i], numbers[6, i] = utc, hours // 24, hours % 24
            east[i] = 0
    numbers[0] -= np.array(east, np.int64) * SECOND
    return True


def _sorted(
    counts: Sequence[int], numbers: Ints, texts: list[list[str]], optional: bool, form: Form
) -> Lines:
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    if not _rising(starts, numbers[0]):
        order = np.lexsort((numbers[0], np.repeat(np.arange(len(counts)), counts)))
        numbers = np.ascontiguousarray(numbers[:, order])
        places = order.tolist()
        texts = [[column[k] for k in places] for column in texts]
        if not _rising(starts, numbers[0]):  # several at one instant: texts and amounts decide
            first, *others = numbers.tolist()
            rows = list(zip(first, *texts, *others, strict=True))
            return in_order([rows[a:b] for a, b in pairwise(starts.tolist())], form.drop_copies)
    return Lines(starts, numbers, tuple(texts), optional)


@lru_cache(maxsize=1 << 14)
def _steady(day: int, zone: ZoneInfo) -> int | None:
    """Seconds east of UTC all through a local day and those beside it; None if they change."""
    noon = datetime.fromordinal(FIRST_ORDINAL + day) + timedelta(hours=12)
    spans = {
        (noon + timedelta(hours=hours)).replace(tzinfo=zone, fold=fold).utcoffset()
        for hours in range(-36, 37, 4)
        for fold in (0, 1)
    }
    east = spans.pop()
    return None if spans or east is None else micros(east) // SECOND


@compiled("boolean(float64[::1],float64,float64,int64[::1])")
def _scaled(values, factor, most, out):  # type: ignore[no-untyped-def]
    """See `features.exact.scaled`, whose rule for numbers of 15 digits this is."""
    for i in range(len(values)):
        near = values[i] * factor
        if not -EXACT < near < EXACT:
            return False
        whole = np.rint(near)
        if whole / factor != values[i] or not -most <= whole <= most:
            return False
        out[i] = np.int64(whole)
    return True


@compiled("boolean(int64[::1],int64[::1])")
def _rising(starts, ts):  # type: ignore[no-untyped-def]
    """Whether no two lines of a customer stand at one instant or in the wrong order."""
    for c in range(len(starts) - 1):
        for i in range(starts[c] + 1, starts[c + 1]):
            if ts[i] <= ts[i - 1]:
                return False
    return True


@compiled("int64(uint32[:,::1],int64,int64)")
def _digits(text, i, at):  # type: ignore[no-untyped-def]
    """Two digits as a number, or what is far below 0."""
    tens, ones = np.int64(text[i, at]) - 48, np.int64(text[i, at + 1]) - 48
    return 10 * tens + ones if 0 <= tens <= 9 and 0 <= ones <= 9 else -100_000


@compiled("int64(uint32[:,::1],int64[::1],int64[::1],int64[::1])")
def _read(text, ts, day, hour):  # type: ignore[no-untyped-def]
    """Clock times, (lines, 19) characters, as if in UTC; how many characters were read, -1 if one
    is not plain or within two days of the first or last day."""
    read = 0
    for i in range(len(text)):
        year, month = 100 * _digits(text, i, 0) + _digits(text, i, 2), _digits(text, i, 5)
        date = _digits(text, i, 8)
        if text[i, 4] != 45 or text[i, 7] != 45 or year < 1970 or not 1 <= month <= 12:
            return -1
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        last = 28 + leap if month == 2 else 30 + (month + month // 8) % 2
        if not 1 <= date <= last:
            return -1
        seconds, hours = 0, 0
        if text[i, 10]:
            hours, minutes, second = (
                _digits(text, i, 11), _digits(text, i, 14), _digits(text, i, 17)
            )  # fmt: skip
            apart = text[i, 13] == 58 and text[i, 16] == 58 and text[i, 10] in (32, 84)
            if not (apart and 0 <= hours < 24 and 0 <= minutes < 60 and 0 <= second < 60):
                return -1
            seconds = 3_600 * hours + 60 * minutes + second
            read += 9
        # Days from civil: years begin in March, so that the leap day is the last of one.
        years, months = year - (month <= 2), (month + 9) % 12
        days = 365 * years + years // 4 - years // 100 + years // 400
        days += (153 * months + 2) // 5 + date - 1 - 719_468
        if not 1 < days < LAST_DAY - 2:
            return -1
        read += 10
        day[i], hour[i] = days, hours
        ts[i] = (days * 86_400 + seconds) * SECOND
    return read
