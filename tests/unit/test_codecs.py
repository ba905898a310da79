"""pack and unpack: what survives, what is refused, and what that costs. Design, section 5."""

from __future__ import annotations

import math
import tracemalloc
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import pytest

from gtask.codecs import MAX_DEPTH, pack, unpack
from gtask.codecs.extensions import FROZENSET, SET, TUPLE
from gtask.codecs.limits import MAX_COLLISIONS
from gtask.errors import DecodeError, EncodeError
from tests.unit.samples import Colour, Customer, Level, Line, Opaque, Order, Point, Rate, Word

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -1,
        2**63 - 1,
        -(2**63),
        2**64 - 1,
        2**64,
        -(2**63) - 1,
        10**400,
        -(10**400),
        0.0,
        1.5,
        math.inf,
        -math.inf,
        "",
        "grüße \U0001f600 \0",
        b"",
        b"\x00\xff",
        [],
        [1, [2, [3]]],
        (),
        (1,),
        (1, (2, [3, (4,)])),
        [()],
        set(),
        {1, "a", None, (1, 2), frozenset({3})},
        frozenset(),
        frozenset({1, Decimal("1.5")}),
        {},
        {"a": {"b": [1, (2,)]}},
        {1: "a", b"k": 2, (1, 2): 3, None: 4, 1.5: 5, Decimal("2.5"): 6, frozenset({1}): 7, 2**70: 8},
        Decimal("12.50"),
        Decimal("-0"),
        Decimal("1E+400"),
        Decimal("Infinity"),
        UUID("12345678-1234-5678-1234-567812345678"),
        date(2024, 2, 29),
        date.min,
        time(),
        time(23, 59, 59, 999999),
        time(12, tzinfo=UTC),
        time(12, tzinfo=BERLIN),
        timedelta(),
        timedelta(days=-1, microseconds=1),
        timedelta.max,
        timedelta.min,
        datetime.min,
        datetime.max,
        datetime(2024, 7, 1, 12, 30, 15, 123456),
        datetime(2024, 7, 1, 12, tzinfo=UTC),
        datetime(2024, 7, 1, 12, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
        datetime(2024, 7, 1, 12, tzinfo=timezone(timedelta(hours=1, seconds=17, microseconds=3))),
        datetime(2024, 7, 1, 12, tzinfo=BERLIN),
    ],
)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    found = unpack(pack(value))
    assert found == value
    assert type(found) is type(value)
    assert repr(found) == repr(value) or isinstance(value, set | frozenset | dict)


def test_nan_comes_back() -> None:
    assert math.isnan(unpack(pack(math.nan)))
    assert unpack(pack(Decimal("NaN"))).is_nan()
    assert unpack(pack(Decimal("sNaN"))).is_snan()


@pytest.mark.parametrize("fold", [0, 1])
def test_an_hour_that_occurs_twice_stays_the_one_it_is(fold: int) -> None:
    zoned = unpack(pack(datetime(2024, 10, 27, 2, 30, fold=fold, tzinfo=BERLIN)))
    assert (zoned.tzinfo, zoned.fold, zoned.utcoffset()) == (BERLIN, fold, timedelta(hours=2 - fold))
    assert unpack(pack(datetime(2024, 10, 27, 2, 30, fold=fold))).fold == fold
    assert unpack(pack(time(2, 30, fold=fold, tzinfo=BERLIN))).fold == fold


def test_a_wall_time_that_does_not_exist_survives() -> None:
    skipped = datetime(2024, 3, 31, 2, 30, tzinfo=BERLIN)
    found = unpack(pack(skipped))
    assert found.replace(tzinfo=None) == skipped.replace(tzinfo=None)
    assert found.tzinfo is BERLIN


def test_a_zone_nobody_has_here_leaves_the_offset() -> None:
    data = msgpack.packb(msgpack.ExtType(7, b"2024-07-01T12:00:00+02:00[Mars/Olympus_Mons]"))
    assert unpack(data) == datetime(2024, 7, 1, 12, tzinfo=timezone(timedelta(hours=2)))


def test_where_zone_data_differ_the_moment_counts() -> None:
    data = msgpack.packb(msgpack.ExtType(7, b"2024-07-01T12:00:00+05:00[Europe/Berlin]"))
    found = unpack(data)
    assert found == datetime(2024, 7, 1, 7, tzinfo=UTC)
    assert found.tzinfo is BERLIN


def test_the_timestamp_of_plain_msgpack_is_a_datetime() -> None:
    assert unpack(msgpack.packb(msgpack.Timestamp(1, 5000))) == datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Colour.RED, "red"),
        (Level.TWO, 2),
        (Word.HELLO, "hello"),
        (Rate.LOW, Decimal("1.50")),
        (Point(1), (1, Decimal(0))),
        (OrderedDict(a=1), {"a": 1}),
        (Counter("aab"), {"a": 2, "b": 1}),
        (defaultdict(list, a=[1]), {"a": [1]}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (deque([1, 2]), [1, 2]),
        (bytearray(b"x"), b"x"),
        (memoryview(b"x"), b"x"),
        (Line("a", Decimal("1.5")), {"sku": "a", "price": Decimal("1.5"), "quantity": 1}),
        ([Colour.BLUE, {"x": Level.ONE}], ["blue", {"x": 1}]),
        (Customer(name="Ann", homeTown="Ulm"), {"name": "Ann", "balance": Decimal(0), "home": "Ulm"}),
    ],
)
def test_what_annotations_rebuild_travels_as_plain_values(value: Any, plain: Any) -> None:
    found = unpack(pack(value))
    assert found == plain
    assert type(found) is type(plain)


@pytest.mark.parametrize("value", [Order(7, [Line("a", Decimal("1.50"), 2)]), Customer(name="Ann", homeTown="Ulm")])
def test_an_annotation_rebuilds_it(value: Any) -> None:
    assert unpack(pack(value), type(value)) == value
    assert unpack(pack([value]), list[type(value)]) == [value]  # type: ignore[misc]


class TestRefusedOnTheWayOut:
    """`EncodeError` names the offending part by its path."""

    @pytest.mark.parametrize(
        ("value", "path"),
        [
            (Opaque(), "result: a tests.unit.samples.Opaque"),
            ([1, 2, 3, {"customer": Opaque()}], "result[3].customer: a tests.unit.samples.Opaque"),
            ({"a b": (1, Opaque())}, "result['a b'][1]: a "),
            ({1, Opaque}, "result{...}: a type"),
            ({Opaque: 1}, "result (key <class 'tests.unit.samples.Opaque'>): a type"),
            ([Line("a", Opaque())], "result[0].price: a "),  # type: ignore[arg-type]
            ((x for x in "a"), "result: a generator"),
            ([1j], "result[0]: a complex"),
            (["ok", "\ud800"], "result[1]: 'utf-8' codec can't encode"),
            ({"\ud800": 1}, "result (key '\\ud800'): 'utf-8' codec can't encode"),
            (Opaque, "result: a type"),
            ([print], "result[0]: a builtin_function_or_method"),
        ],
    )
    def test_the_path_is_named(self, value: Any, path: str) -> None:
        with pytest.raises(EncodeError) as caught:
            pack(value, "result")
        assert str(caught.value).startswith(path)

    def test_something_that_holds_itself(self) -> None:
        value: list[Any] = []
        value.append({"again": (value,)})
        with pytest.raises(EncodeError, match="nested too deep, or it holds itself"):
            pack(value)

    def test_a_property_that_raises(self) -> None:
        class Broken:
            __dataclass_fields__ = Line.__dataclass_fields__

            def __getattr__(self, name: str) -> Any:
                raise KeyError(name)

        with pytest.raises(EncodeError, match="KeyError while it was read"):
            pack([Broken()])

    def test_more_bytes_than_allowed(self) -> None:
        with pytest.raises(EncodeError, match=r"101\d bytes encoded, and 1000 is the limit"):
            pack(b"x" * 1010, max_size=1000)

    def test_a_large_value_gets_its_error_without_a_long_walk(self) -> None:
        with pytest.raises(EncodeError, match=r"^value: a tests\.unit\.samples\.Opaque cannot be sent"):
            pack([*range(300_000), Opaque()])


def nested(depth: int, wrap: Any = lambda inner: [inner]) -> Any:
    """A value with `depth` containers inside each other."""
    value: Any = None
    for _ in range(depth):
        value = wrap(value)
    return value


class TestDepth:
    """Nesting has one limit, for both directions and through all kinds of containers."""

    WRAPS = (
        lambda inner: [inner],
        lambda inner: {"k": inner},
        lambda inner: (inner,),
        lambda inner: frozenset({inner}),
        lambda inner: [0] * 5000 + [inner],
    )

    @pytest.mark.parametrize("wrap", WRAPS)
    def test_the_limit_itself_passes(self, wrap: Any) -> None:
        value = nested(MAX_DEPTH, wrap)
        assert unpack(pack(value)) == value

    @pytest.mark.parametrize("wrap", WRAPS)
    @pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 500])
    def test_one_more_is_refused(self, wrap: Any, depth: int) -> None:
        with pytest.raises(EncodeError, match="nested"):
            pack(nested(depth, wrap))
        with pytest.raises(DecodeError, match="nested deeper than 64"):
            unpack(pack(nested(depth, wrap), max_depth=1000))

    @pytest.mark.parametrize(
        "level",
        [
            b"\x91",
            b"\x81\xa1k",
            b"\x92" + msgpack.packb(TUPLE),
            b"\x92" + msgpack.packb(SET),
            b"\xdd\x00\x00\x00\x02" + msgpack.packb(FROZENSET),
            b"\x81",
        ],
    )
    def test_a_bomb_is_refused(self, level: bytes) -> None:
        with pytest.raises(DecodeError):
            unpack(level * 100_000 + b"\xc0" * 100_001)

    def test_mappings_in_keys(self) -> None:
        value = {nested(40, lambda inner: (inner,)): 1}
        assert unpack(pack(value)) == value
        with pytest.raises(EncodeError, match="nested"):
            pack({nested(MAX_DEPTH, lambda inner: (inner,)): 1})


class TestHostileBytes:
    """Whatever arrives gives a value or `DecodeError`, and costs no more than its size."""

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\xc1",
            b"\x92\x01",
            b"\x01\x02",
            b"\xa5abc",
            b"\xa1\xff",
            b"\x81\x90\x01",
            b"\x81\x80\x01",
            msgpack.packb(msgpack.ExtType(42, b"x")),
            msgpack.packb(msgpack.ExtType(1, b"x")),
            msgpack.packb(msgpack.ExtType(5, b"twelve")),
            msgpack.packb(msgpack.ExtType(5, b"1E+99999999999999999999999")),
            msgpack.packb(msgpack.ExtType(5, b"\xd9\xa1")),
            msgpack.packb(msgpack.ExtType(6, b"short")),
            msgpack.packb(msgpack.ExtType(7, b"2024-13-01T00:00:00")),
            msgpack.packb(msgpack.ExtType(7, b"2024-07-01T12:00:00+02:00[../../etc/passwd]")),
            msgpack.packb(msgpack.ExtType(7, b"9" * 5000)),
            msgpack.packb(msgpack.ExtType(8, b"\xff")),
            msgpack.packb(msgpack.ExtType(9, b"25:00")),
            msgpack.packb(msgpack.ExtType(10, b"\x7f" * 40)),
            b"\xc7\x03\xff123",
            msgpack.packb(msgpack.Timestamp(2**62)),
            msgpack.packb([SET, [1]]),
            msgpack.packb(TUPLE),
            msgpack.packb([1, TUPLE]),
            msgpack.packb({"a": SET}),
            msgpack.packb([TUPLE, TUPLE]),
            b"\x81" + msgpack.packb(TUPLE) + b"\x01",
        ],
    )
    def test_it_is_refused(self, data: bytes) -> None:
        with pytest.raises(DecodeError):
            unpack(data)

    @pytest.mark.parametrize("head", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdc\xff\xff"])
    @pytest.mark.parametrize("size", [10, 5000, 200_000])
    def test_declared_lengths_allocate_nothing(self, head: bytes, size: int) -> None:
        data = head * 60 + b"\xc0" * size
        tracemalloc.start()
        try:
            with pytest.raises(DecodeError):
                unpack(data)
            assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
        finally:
            tracemalloc.stop()

    def test_too_many_bytes(self) -> None:
        with pytest.raises(DecodeError, match="1010 bytes are more than the 1000 that are taken"):
            unpack(b"x" * 1010, max_size=1000)

    @pytest.mark.parametrize("mark", [SET, FROZENSET])
    def test_equal_hashes_are_refused_in_sets(self, mark: Any) -> None:
        prime = 2**61 - 1  # hash(n * prime) is 0 for every n
        pack_int = [msgpack.ExtType(4, (n * prime).to_bytes(16, "big")) for n in range(20_000)]
        with pytest.raises(DecodeError, match="equal hashes"):
            unpack(msgpack.packb([mark, *pack_int]))

    def test_equal_hashes_are_refused_in_maps(self) -> None:
        prime = 2**61 - 1
        packer = msgpack.Packer()
        parts = [packer.pack_map_header(20_000)]
        for n in range(20_000):
            parts += [packer.pack(msgpack.ExtType(4, (n * prime).to_bytes(16, "big"))), b"\xc0"]
        with pytest.raises(DecodeError, match="equal hashes"):
            unpack(b"".join(parts))

    def test_honest_sets_and_maps_of_numbers_pass(self) -> None:
        value = [set(range(5000)), {float(n): n for n in range(5000)}, set(range(-5 * MAX_COLLISIONS, 0))]
        assert unpack(pack(value)) == value

    def test_bytes_that_only_look_like_a_mark(self) -> None:
        value = [b"\xc7\x00\x01", [b"\xc7\x00"]]
        assert unpack(pack(value)) == value
