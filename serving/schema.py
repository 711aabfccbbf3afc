"""What a request may hold: strict JSON, and the shape of a request for predictions.

Text is no number and 1.0 no whole number, a key stands once, numbers are finite, text is Unicode.
What stands inside orders, events and profiles is checked where it is read (`features.records`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import Any, Final, NamedTuple

import orjson

from features.errors import InputError
from features.exact import clock_time
from features.records import LAST, RecordError, Where, only
from features.settings import MAX_MONTHS
from features.spine import instant
from serving.answers import Problem

__all__ = ["Asked", "Limits", "asked", "moment", "parse", "parsed", "require_text"]

MOST_REASONS: Final = 50
LONGEST_ID: Final = 1_000  # characters
MOST_ATTRIBUTES: Final = 200
FIELDS: Final = ("as_of", "horizons", "reasons", "customers")
CUSTOMER: Final = frozenset(("customer_id", "orders", "profile", "events"))


@dataclass(frozen=True)
class Limits:
    """How much one request may hold."""

    customers: int = 1_000
    orders: int = 10_000  # of one customer, and as many events
    lines: int = 100_000  # orders and events of all of them


class Asked(NamedTuple):
    """A request for predictions, of the right shape."""

    customers: list[dict[str, Any]]
    as_of: int  # microseconds UTC
    months: tuple[int, ...] | None
    reasons: int
    lines: int


def parse(body: bytes) -> Any:
    """The value of a JSON text.

    Raises
    ------
    Problem
        No JSON in UTF-8, a key twice, a number that is not finite, text that is no Unicode.
    """
    try:
        value = DECODER.decode(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise Problem(400, "not_utf8", "the body must be JSON in UTF-8") from None
    except RecursionError:
        raise Problem(400, "too_deep", "the body must not be nested so deep") from None
    except _StrictError as error:
        raise Problem(422, *error.args) from None
    except ValueError:  # also a whole number of thousands of digits
        raise Problem(400, "not_json", "the body must be JSON") from None
    if b"\\u" in body:  # only so can NUL and halves of characters come
        require_text(value)
    return value


def parsed(body: bytes) -> Any:
    """As `parse`, for a request for predictions: quickly, unless strictness takes a second look.

    The quick reader knows no NaN, but takes the last of several equal keys and reads whole numbers
    beyond 64 bits as doubles. Where the text could hold either it is parsed anew.
    """
    try:
        value = orjson.loads(body)
    except ValueError:
        return parse(body)
    plain = b"\\" not in body and BEYOND not in body.translate(ZEROS)
    return value if plain and _keys(value) == _named(body) else parse(body)


def _named(body: bytes) -> int:
    """How many keys stand in a JSON text without a backslash, if none has a blank behind it.

    A quotation mark before a colon ends a key, or begins a text of a colon: then there are more.
    """
    if any(blank in body for blank in BLANKS):
        return -1
    return body.count(b'":')


def _keys(value: Any) -> int:
    """How many keys the objects of a request have, where objects may be."""
    if type(value) is not dict or type(customers := value.get("customers")) is not list:
        return -2
    count = len(value)
    for customer in customers:
        if type(customer) is not dict:
            return -2
        count += len(customer)
        for name in ("orders", "events"):
            rows = customer.get(name) or ()
            if type(rows) is list and set(map(type, rows)) == {dict}:
                count += sum(map(len, rows))
        if type(profile := customer.get("profile")) is dict:
            count += len(profile)
    return count


class _StrictError(Exception):
    """What JSON's grammar allows and we do not."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _StrictError("duplicate_key", "a key must stand once in its object")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise _StrictError("nonfinite_number", "numbers must be finite")
    return value


BEYOND: Final = b"0" * 19  # digits of the least number beyond 64 bits, all written as 0
ZEROS: Final = bytes(48 if chr(byte).isdigit() and byte < 128 else byte for byte in range(256))
BLANKS: Final = (b'" ', b'"\t', b'"\n', b'"\r')
DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_once, parse_float=_finite, parse_constant=_finite
)


def require_text(value: Any) -> None:
    """Refuse text with NUL or half a character, at any depth.

    Raises
    ------
    Problem
        There is some.
    """
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            waiting += each.keys()
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
        elif isinstance(each, str) and ("\0" in each or not _is_unicode(each)):
            raise Problem(422, "not_text", "text must be Unicode without NUL")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def asked(value: Any, zone: str, limits: Limits) -> Asked:
    """A request for predictions from parsed JSON; `zone` is that of an ``as_of`` without one.

    Raises
    ------
    RecordError
        A field is missing, unknown, of another type or out of its range.
    Problem
        More customers, orders or events than `limits`.
    """
    if type(value) is not dict:
        raise RecordError((), "type", "must be an object")
    if not value.keys() <= set(FIELDS):
        raise RecordError((), "unknown_field", only(FIELDS))
    customers = value.get("customers")
    if type(customers) is not list or not customers:
        raise RecordError(("customers",), "type", "must be a list of at least one customer")
    if len(customers) > limits.customers:
        raise _too_many("customers", f"at most {limits.customers} customers may stand in a request")
    lines = sum(_lines(customer, i, limits) for i, customer in enumerate(customers))
    if lines > limits.lines:
        raise _too_many("customers", f"at most {limits.lines} orders and events together")
    return Asked(
        customers, moment(value.get("as_of"), zone), _months(value.get("horizons")),
        _reasons(value.get("reasons", 0)), lines,
    )  # fmt: skip


def _too_many(where: str, must: str) -> Problem:
    return Problem(413, "too_many", must, where)


def _lines(customer: Any, i: int, limits: Limits) -> int:
    """Orders and events of one customer, whose shape is checked."""
    at = ("customers", i)
    if type(customer) is not dict:
        raise RecordError(at, "type", "must be an object")
    if not customer.keys() <= CUSTOMER:
        raise RecordError(at, "unknown_field", only(CUSTOMER))
    name = customer.get("customer_id")
    if type(name) is not str or not 0 < len(name) <= LONGEST_ID:
        rule = "missing_customer" if not name else "type"
        raise RecordError(
            (*at, "customer_id"), rule, f"must be text of 1 to {LONGEST_ID} characters"
        )
    orders, events = customer.get("orders"), customer.get("events")
    profile = customer.get("profile")
    _check_profile(profile, (*at, "profile"))
    if (
        not orders
        and (orders is None or type(orders) is list)
        and (profile or {}).get("acquired_at")
    ):
        customer["orders"] = orders = []  # somebody who signed up and has not ordered yet
    elif type(orders) is not list or not orders:
        raise RecordError((*at, "orders"), "type", "must be a list of at least one order line, or "
                          "profile.acquired_at the moment of sign-up")  # fmt: skip
    if events is not None and type(events) is not list:
        raise RecordError((*at, "events"), "type", "must be a list")
    count = 0
    for table, rows in (("orders", orders), ("events", events or ())):
        if len(rows) > limits.orders:
            raise _too_many(f"customers[{i}].{table}", f"at most {limits.orders} of one customer")
        count += len(rows)
        for j, row in enumerate(rows):
            if type(row) is not dict:
                raise RecordError((*at, table, j), "type", "must be an object")
    return count


def _check_profile(profile: Any, at: Where) -> None:
    if profile is None:
        return
    if type(profile) is not dict or len(profile) > MOST_ATTRIBUTES:
        raise RecordError(at, "type", f"must be an object of at most {MOST_ATTRIBUTES} attributes")
    for value in profile.values():
        if value is not None and type(value) not in (str, int, float, bool):
            raise RecordError(at, "type", "must hold text, numbers, true or false, and no lists")
    for name in ("acquired_at", "contract_end"):
        text = profile.get(name)
        if text is not None and (type(text) is not str or (text and not _is_time(text))):
            raise RecordError((*at, name), "unreadable_date", "must be a time such as 2024-05-31")


def _is_time(text: str) -> bool:
    try:
        instant(text[:10], "UTC")
        instant(text, "UTC")
    except InputError:
        return False
    return True


def moment(text: Any, zone: str, where: Where = ("as_of",)) -> int:
    """The instant of prediction in microseconds UTC.

    Raises
    ------
    RecordError
        No ISO date or time, or outside the years 1970 to 2099.
    """
    found = _moment(text, zone) if type(text) is str and len(text) <= 40 else None
    if found is None:
        rule = "missing_date" if text is None else "unreadable_date"
        raise RecordError(where, rule, "must be a date such as 2025-01-31, or a time of it, in the "
                          "years 1970 to 2099")  # fmt: skip
    return found


@lru_cache(maxsize=1024)
def _moment(text: str, zone: str) -> int | None:
    if clock_time(text)[0] is None:
        return None
    try:
        found = instant(text, zone)
    except InputError:
        return None
    return found if 0 <= found < LAST else None


def _months(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    must = f"must be a list of calendar months, 1 to {MAX_MONTHS} each"
    if type(value) is not list or not 0 < len(value) <= MAX_MONTHS:
        raise RecordError(("horizons",), "type", must)
    for i, each in enumerate(value):
        if type(each) is not int or not 1 <= each <= MAX_MONTHS:
            raise RecordError(("horizons", i), "type", must)
    return tuple(sorted(set(value)))


def _reasons(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MOST_REASONS:
        raise RecordError(("reasons",), "type", f"must be a whole number, 0 to {MOST_REASONS}")
    return value


def require_object(value: Any, where: Where = ()) -> Mapping[str, Any]:
    """An object.

    Raises
    ------
    RecordError
        It is something else.
    """
    if type(value) is not dict:
        raise RecordError(where, "type", "must be an object")
    return value
