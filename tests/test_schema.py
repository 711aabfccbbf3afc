"""Requests as JSON: read quickly, they are what the strict reader reads, or refused as it does."""

import json
import random
import struct

import pytest

from serving.answers import Problem, dumped
from serving.schema import parse, parsed


def told(read, body: bytes) -> object:
    try:
        return repr(read(body))  # unlike ==, it tells 1 from 1.0 and from True, and 0.0 from -0.0
    except Problem as problem:
        return problem.status, problem.kind, problem.message


ORDER = '{"order_ts":"2024-01-01","amount":1.5,"order_id":"a"}'


def body(order: str = ORDER, customer: str = "", beside: str = "") -> bytes:
    customer = f'{{"customer_id":"a","orders":[{order},{ORDER}]{customer}}}'
    return f'{{"as_of":"2025-01-01","customers":[{customer}]{beside}}}'.encode()


ODD = [
    body(),
    body('{"amount":1,"amount":2}'),
    body('{"amount":1,"amount" :2}'),
    body('{"amount":1,"amount"\t:2}'),
    body('{"amount":1,"amount"\n:2,"x":":"}'),
    body('{"amount":1,"\\u0061mount":2}'),
    body('{"order_id":":","amount":1,"amount":2}'),
    body('{"order_id":": a","order_ts":":"}'),
    body('{"order_id":{"a":1,"a":2}}'),
    body('{"order_id":[{"a":1,"a":2}]}'),
    body('{"order_id":[[1]]}'),
    body(customer=',"profile":{"a":1,"a":2}'),
    body(customer=',"profile":{"a":{"b":1,"b":2}}'),
    body(customer=',"events":[{"ts":"x","ts":"y"}]'),
    body(customer=',"events":[1,{"ts":"x","ts":"y"}]'),
    body(customer=',"events":{"ts":"x","ts":"y"}'),
    body(customer=',"customer_id":"b"'),
    body(beside=',"as_of":"2024-01-01"'),
    body(beside=',"x":{"a":1,"a":2}'),
    body(beside=',"customers":[]'),
    *(body(f'{{"amount":{number}}}') for number in (
        "NaN", "Infinity", "-Infinity", "1e999", "-1E999", "1e5", "1E-5", "-0", "-0.0", "0.1",
        "18446744073709551615", "18446744073709551616", "-9223372036854775808",
        "-9223372036854775809", "9" * 40, "9" * 400, "9" * 5000, "9" * 400 + ".0", "1" + "0" * 30,
        "1.", ".5", "01", "+1", "1e", "0x1", "true", "null", "4.9e-324", "2.2250738585072011e-308",
    )),
    *(body(f'{{"order_id":{text}}}') for text in (
        '"\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', '"\x00"', '"\n"', '"\x7f"', '"\u2028"', "''",
        '"\\x"', '"a', '"' + "9" * 30 + '"', '" a"', '"a" ', '"\u00e9\U0001f600"',
    )),
    body()[:-1], body() + b" ", body() + b"x", b"\xef\xbb\xbf" + body(), body() + b"\x00",
    body().replace(b"a", b"\xff"), body().decode().encode("utf-16"), b"", b" ", b"[]", b"1",
    b'"a"', b"null", b'{"customers":[]}', b'{"customers":[1]}', b'{"customers":{}}',
    b'{"customers":[{"orders":1}]}', b"[" * 2_000 + b"]" * 2_000, b'{"a":' * 2_000 + b"}" * 2_000,
    json.dumps(json.loads(body()), indent=1).encode(),
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_request_is_read_or_refused_as_by_the_strict_reader(odd):
    assert told(parsed, odd) == told(parse, odd)


def test_damaged_requests_are_read_or_refused_as_by_the_strict_reader():
    rng, fine = random.Random(1), 0
    pieces = [b'"', b'":', b'" :', b",", b"{", b"}", b"[", b"]", b"\\", b" ", b"1e9", b"\n", b"-",
              b'"amount":1,', b'"x":":",', b"\xff", b'"a":{},']  # fmt: skip
    whole = body('{"amount":1.25,"quantity":2}', ',"profile":{"country":"DE","n":1.5}')
    for _ in range(20_000):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(damaged))
            damaged[at : at + rng.randint(0, 2)] = rng.choice(pieces)
        mine, theirs = told(parsed, bytes(damaged)), told(parse, bytes(damaged))
        assert mine == theirs, bytes(damaged)
        fine += isinstance(mine, str)
    assert 500 < fine < 19_500


def test_numbers_are_read_and_written_to_the_bit():
    rng = random.Random(2)
    numbers = [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(20_000)]
    numbers = [number for number in numbers if abs(number) < float("inf")]
    texts = [repr(number) for number in numbers]
    texts += [f"{rng.randint(-(10**9), 10**9)}.{rng.randint(0, 10**18)}" for _ in range(20_000)]
    texts += [f"{rng.random() * 10 ** rng.randint(-3, 6):.{rng.randint(0, 25)}f}" for _ in texts]
    rows = ",".join(f'{{"amount":{text}}}' for text in texts)
    read = [order["amount"] for order in parsed(body(rows))["customers"][0]["orders"]]
    expected = [json.loads(text) for text in texts]
    assert [repr(value) for value in read[:-1]] == [repr(value) for value in expected]
    floats = [float(value) for value in expected]
    assert [repr(v) for v in json.loads(dumped(floats))] == [repr(v) for v in floats]


def test_what_is_no_number_is_never_written_as_one():
    assert dumped({"a": None, "b": "\u00e9\n"}) == '{"a":null,"b":"\u00e9\\n"}'.encode()
