"""Any value that may be sent comes back as it was; any bytes at all give a value or `DecodeError`."""

from __future__ import annotations

import math
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgpack
from hypothesis import example, given
from hypothesis import strategies as st

from gtask.codecs import convert, from_json, pack, to_json, unpack
from gtask.codecs.extensions import FROZENSET, SET, TUPLE
from gtask.errors import DecodeError, EncodeError
from tests.unit.samples import Address, Colour, Customer, Level, Line, Node, Order, Page, Point

# Whole seconds: an offset of some microseconds is read as UTC by Python's own fromisoformat.
offsets = st.integers(-86399, 86399).map(lambda seconds: timezone(timedelta(seconds=seconds)))
zones = st.timezones()

atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**200), 2**200),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.dates(),
    st.times(timezones=st.none() | offsets | zones),
    st.datetimes(timezones=st.none() | offsets),
    st.timedeltas(),
)

keys = st.recursive(
    atoms, lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3), max_leaves=4
)

values = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.sets(keys, max_size=5),
        st.frozensets(keys, max_size=5),
        st.dictionaries(keys, inner, max_size=5),
        st.dictionaries(st.text(max_size=8), inner, max_size=5),
    ),
    max_leaves=20,
)


def same(left: Any, right: Any) -> bool:
    """Equal, and of equal types all the way down: 1, True and 1.0 are different here, as are (1,) and [1]."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return list(map(_typed, left)) == list(map(_typed, right)) and all(map(same, left.values(), right.values()))
    if isinstance(left, set | frozenset):
        return set(map(_typed, left)) == set(map(_typed, right))
    if isinstance(left, datetime | time):
        return bool(left == right and left.utcoffset() == right.utcoffset())
    return bool(left == right)


def _typed(key: Any) -> Any:
    return (type(key), tuple(map(_typed, key))) if type(key) is tuple else (type(key), key)


@given(values)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    assert same(unpack(pack(value)), value)


@given(st.datetimes(timezones=zones, allow_imaginary=False))
def test_a_moment_in_a_zone_comes_back_in_it(value: datetime) -> None:
    found = unpack(pack(value))
    assert found.utcoffset() == value.utcoffset()
    assert found.replace(tzinfo=None) == value.replace(tzinfo=None)
    assert found.tzinfo is value.tzinfo


@given(st.binary(max_size=300))
@example(b"\x92" + msgpack.packb(TUPLE) + b"\x01")
@example(b"\x81\xc7\x00\x01\x01")
@example(b"\xd6\xff\x00\x00\x00\x00")
def test_any_bytes_give_a_value_or_decode_error(data: bytes) -> None:
    try:
        unpack(data)
    except DecodeError:
        pass


extensions = st.builds(msgpack.ExtType, st.integers(0, 12), st.binary(max_size=12))
marks = st.sampled_from([TUPLE, SET, FROZENSET])
hostile = st.recursive(
    st.none() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=3) | st.binary(max_size=3) | extensions | marks,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(marks, inner, inner).map(list),
        st.dictionaries(st.text(max_size=2) | st.integers(0, 9) | extensions, inner, max_size=3),
    ),
    max_leaves=12,
)


@given(hostile, st.integers(0, 2000), st.binary(max_size=3))
def test_well_formed_nonsense_gives_a_value_or_decode_error(value: Any, position: int, damage: bytes) -> None:
    data = msgpack.packb(value)
    for variant in (data, data[:position] + damage + data[position + 1 :]):
        try:
            found = unpack(variant)
        except DecodeError:
            continue
        # What was taken can be sent on: no internal object is left in it.
        pack(found)


@given(
    st.lists(
        st.sampled_from([b"\x91", b"\x81\xa1k", b"\xdd\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xdf\xff\xff\xff\xff"])
    )
)
def test_heads_without_what_they_promise_are_refused(heads: list[bytes]) -> None:
    try:
        unpack(b"".join(heads) * 300)
    except DecodeError:
        pass


kinds: list[Any] = [
    int, float, str, bytes, bool, None, Decimal, datetime, date, time, timedelta, Colour, Level, Point, Address,
    Customer, Line, Order, Node, Page[int], list[int], set[str], frozenset[Decimal], tuple[int, str], tuple[int, ...],
    dict[str, int], dict[int, list[Point]], int | None, Order | Line | str, list[Order | None],
]  # fmt: skip


@given(values, st.sampled_from(kinds))
def test_convert_gives_a_value_or_decode_error(value: Any, annotation: Any) -> None:
    try:
        convert(value, annotation, "x")
    except DecodeError as error:
        text = str(error)
    else:
        text = "x"
    assert text.startswith("x")
    assert len(text) < 1500


money = st.decimals(0, 10**6, places=2)
lines = st.builds(Line, st.text(max_size=8), money, st.integers(1, 99))
orders = st.builds(
    Order,
    st.integers(0, 2**53),
    st.lists(lines, max_size=3),
    st.none() | st.datetimes(timezones=st.none() | offsets),
    st.sampled_from(Colour),
)


@given(st.lists(orders, max_size=3))
def test_dataclasses_are_rebuilt_from_msgpack_and_from_json(value: list[Order]) -> None:
    assert unpack(pack(value), list[Order]) == value
    assert convert(from_json(to_json(value)), list[Order]) == value


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_json_comes_back_as_it_was(value: Any) -> None:
    assert same(from_json(to_json(value)), value)


@given(values)
def test_any_value_becomes_json_or_encode_error(value: Any) -> None:
    try:
        data = to_json(value)
    except EncodeError:
        return
    from_json(data)


@given(st.binary(max_size=100))
def test_any_bytes_give_json_or_decode_error(data: bytes) -> None:
    try:
        from_json(data)
    except DecodeError:
        pass


def test_nan_is_a_value_too() -> None:
    assert math.isnan(unpack(pack([math.nan]))[0])
