"""to_json and from_json: how values look to other languages, and what is refused. Design, section 5."""

from __future__ import annotations

import math
from collections import deque
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from gtask.codecs import MAX_DEPTH, from_json, to_json
from gtask.errors import DecodeError, EncodeError
from tests.unit.samples import Colour, Customer, Level, Line, Opaque, Point, Rate


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        ("grün", '"grün"'),
        (Decimal("12.50"), '"12.50"'),
        (datetime(2024, 7, 1, 12, tzinfo=UTC), '"2024-07-01T12:00:00+00:00"'),
        (date(2024, 7, 1), '"2024-07-01"'),
        (time(12, 30), '"12:30:00"'),
        (time(12, 30, tzinfo=UTC), '"12:30:00+00:00"'),
        (datetime(1900, 1, 1, tzinfo=ZoneInfo("Europe/Amsterdam")), '"1900-01-01T00:00:00+00:19:32"'),
        (timedelta(seconds=1.5), "1.5"),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (Colour.RED, '"red"'),
        (Level.ONE, "1"),
        (Rate.LOW, '"1.50"'),
        ((1, 2), "[1,2]"),
        ({1}, "[1]"),
        (frozenset({"a"}), '["a"]'),
        (deque([1]), "[1]"),
        (Point(1), '[1,"0"]'),
        (b"\x00\xff", '"AP8="'),
        (bytearray(b"ab"), '"YWI="'),
        (MappingProxyType({"a": 1}), '{"a":1}'),
        ({1: 2, None: 3}, '{"1":2,"null":3}'),
        (Line("a", Decimal("1.50")), '{"sku":"a","price":"1.50","quantity":1}'),
        (Customer(name="Ann"), '{"name":"Ann","balance":"0","home":""}'),
        ([{"deep": [Line("a", Decimal(1))]}], '[{"deep":[{"sku":"a","price":"1","quantity":1}]}]'),
        (math.nan, "null"),
    ],
)
def test_a_value_as_json(value: Any, text: str) -> None:
    assert to_json(value).decode() == text


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (Opaque(), "result: a tests.unit.samples.Opaque cannot be sent as JSON"),
        ({"a": [1, Opaque()]}, "result.a[1]: a tests.unit.samples.Opaque cannot be sent as JSON"),
        ([2**70], "result[0]: Integer exceeds 64-bit range"),
        ("\ud800", "result: str is not valid UTF-8"),
        ({(1, 2): 3}, "result: Dict key must"),
    ],
)
def test_what_cannot_be_sent_is_named(value: Any, sentence: str) -> None:
    with pytest.raises(EncodeError) as caught:
        to_json(value, "result")
    assert str(caught.value).startswith(sentence)


def test_more_bytes_than_allowed() -> None:
    with pytest.raises(EncodeError, match="102 bytes as JSON, and 50 is the limit"):
        to_json("x" * 100, max_size=50)
    with pytest.raises(DecodeError, match="100 bytes are more than the 50"):
        from_json(b" " * 100, max_size=50)


@pytest.mark.parametrize("data", [b"", b"{", b"nope", b"\xff", b"[1,]", b"NaN", b'"\\ud800"', b"\x85\xa5gtask"])
def test_what_is_no_json(data: bytes) -> None:
    with pytest.raises(DecodeError, match="no JSON"):
        from_json(data)


@pytest.mark.parametrize(("left", "right"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[0,{"a":1,"b":', b"},[]]")])
def test_nesting_is_limited(left: bytes, right: bytes) -> None:
    levels = MAX_DEPTH // (2 if left.startswith(b"[0") else 1)
    inner = b"1"
    assert from_json(left * levels + inner + right * levels)
    for depth in (levels + 1, 400, 100_000):
        with pytest.raises(DecodeError, match="nested deeper"):
            from_json(left * depth + inner + right * depth)


def test_wide_json_is_not_deep() -> None:
    assert len(from_json(b"[" + b"[[]]," * 1000 + b"{}]")) == 1001
