"""convert: what annotations rebuild, and the sentences for what does not fit. Design, section 5."""

from __future__ import annotations

import collections.abc as abc
import inspect
import typing
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Final, Literal, NewType, Optional, Protocol, TypeVar, Union
from uuid import UUID

import pytest

from gtask.codecs import convert, from_json, to_json
from gtask.codecs.annotations import rule_for
from gtask.errors import DecodeError
from tests.unit.samples import (
    Address,
    Colour,
    Customer,
    Level,
    Line,
    Node,
    Opaque,
    Order,
    Page,
    Point,
    Rate,
    Word,
)

OrderId = NewType("OrderId", int)
Bound = TypeVar("Bound", bound=Decimal)
Free = TypeVar("Free")
UID = UUID("12345678-1234-5678-1234-567812345678")
MOMENT = datetime(2024, 7, 1, 12, tzinfo=UTC)


class Sized(Protocol):
    """Cannot be checked at run time."""

    size: int


class Odd(Enum):
    """Refuses in its own way."""

    ONE = 1

    @classmethod
    def _missing_(cls, value: object) -> Odd:
        raise KeyError(value)


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (1, int, 1),
        (2.0, int, 2),
        (True, int, True),
        (1, float, 1),
        (1.5, float, 1.5),
        ("a", str, "a"),
        (None, None, None),
        (None, type(None), None),
        (b"x", bytes, b"x"),
        ("grün", bytes, "grün".encode()),
        ("x", bytearray, bytearray(b"x")),
        ("12.50", Decimal, Decimal("12.50")),
        (19.99, Decimal, Decimal("19.99")),
        (7, Decimal, Decimal(7)),
        ("2024-07-01T12:00:00Z", datetime, MOMENT),
        ("2024-07-01", date, date(2024, 7, 1)),
        (MOMENT, date, MOMENT),
        ("12:30", time, time(12, 30)),
        (1.5, timedelta, timedelta(seconds=1.5)),
        (str(UID), UUID, UID),
        ("red", Colour, Colour.RED),
        (Colour.RED, Colour, Colour.RED),
        (2, Level, Level.TWO),
        ("hello", Word, Word.HELLO),
        ("1.50", Rate, Rate.LOW),
        (Decimal("2.50"), Rate, Rate.HIGH),
        (1, Odd, Odd.ONE),
        ([1, 2], list[int], [1, 2]),
        ((1, 2), list[int], [1, 2]),
        (["1.5"], list[Decimal], [Decimal("1.5")]),
        ([1, 2], tuple[int, ...], (1, 2)),
        ([1, "2.5"], tuple[int, Decimal], (1, Decimal("2.5"))),
        ([], tuple[()], ()),
        ([1], tuple, (1,)),
        ([1, 2, 2], set[int], {1, 2}),
        ([1], frozenset[int], frozenset({1})),
        ([1], set, {1}),
        (["1"], deque[Decimal], deque([Decimal(1)])),
        (["1"], abc.Sequence[Decimal], [Decimal(1)]),
        (("1",), abc.Sequence[Decimal], (Decimal(1),)),
        ("abc", abc.Sequence[str], "abc"),
        (b"abc", abc.Sequence[int], b"abc"),
        ({"a": 1}, abc.Iterable[str], {"a": 1}),
        ([1], abc.Set[int], frozenset({1})),
        ([1], abc.Iterable[int], [1]),
        ([1], abc.Collection, [1]),
        ({"a": "1"}, dict[str, Decimal], {"a": Decimal(1)}),
        ({"7": "x"}, dict[int, str], {7: "x"}),
        ({"1.5": 1}, dict[float, int], {1.5: 1}),
        ({str(UID): 1}, dict[UUID, int], {UID: 1}),
        ({"red": 1}, abc.Mapping[Colour, int], {Colour.RED: 1}),
        ({"a": 1}, OrderedDict[str, int], OrderedDict(a=1)),
        ({"a": 2}, Counter[str], Counter("aa")),
        ({"a": 1}, dict, {"a": 1}),
        ("1.5", Decimal | None, Decimal("1.5")),
        (None, Optional[Decimal], None),  # noqa: UP045
        ("2024-07-01", Union[int, date], date(2024, 7, 1)),  # noqa: UP007
        ("2024-07-01", date | str, "2024-07-01"),
        ({"name": "n"}, Point | Node | Line, Node("n")),
        ("fast", Literal["fast", "slow"], "fast"),
        ("red", Literal[Colour.RED], Colour.RED),
        (5, OrderId, 5),
        ("1.5", Annotated[Decimal, "euros"], Decimal("1.5")),
        ("1.5", Final[Decimal], Decimal("1.5")),
        ("1.5", Bound, Decimal("1.5")),
        ("x", typing.LiteralString, "x"),
        ([1, "2"], Point, Point(1, Decimal(2))),
        ([1], Point, Point(1)),
        ({"x": 1}, Point, Point(1)),
        (
            {"street": "s", "since": "2024-07-01T12:00:00Z", "more": 1},
            Address,
            {"street": "s", "since": MOMENT, "more": 1},
        ),
        ({"name": "a", "children": [{"name": "b"}]}, Node, Node("a", [Node("b")])),
        ({"items": ["1"], "next": 2}, Page[Decimal], Page([Decimal(1)], 2)),
        ({"items": ["1"]}, Page, Page(["1"])),
        ({"name": "Ann", "balance": "1.50"}, Customer, Customer(name="Ann", balance=Decimal("1.50"))),
        ({"name": "Ann", "homeTown": "Ulm"}, Customer, Customer(name="Ann", homeTown="Ulm")),
        ({"name": "Ann", "home": "Ulm"}, Customer, Customer(name="Ann", homeTown="Ulm")),
        (
            {
                "id": 1,
                "lines": [{"sku": "a", "price": "1.50"}],
                "placed": "2024-07-01T12:00:00Z",
                "colour": "blue",
                "total": 0,
            },
            Order,
            Order(1, [Line("a", Decimal("1.50"))], MOMENT, Colour.BLUE),
        ),
    ],
)
def test_a_value_is_rebuilt(value: Any, annotation: Any, expected: Any) -> None:
    found = convert(value, annotation, "x")
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    "annotation",
    [Any, object, inspect.Parameter.empty, Free, "NotHere", Sized, type[int], typing.Self],
)
def test_what_an_annotation_leaves_open_passes(annotation: Any) -> None:
    value = object()
    assert convert(value, annotation) is value


def test_nothing_is_copied_without_need() -> None:
    rows = [{"a": 1}, {"b": 2}]
    assert convert(rows, list) is rows
    assert convert(rows, list[dict[str, int]])[0] is rows[0]
    numbers = list(range(10))
    assert convert(numbers, list[int]) is numbers
    assert convert({"a": 1}, defaultdict[str, int])["a"] == 1


@pytest.mark.parametrize(
    ("value", "annotation", "sentence"),
    [
        ("seven", int, "n: expected int, got str 'seven'"),
        (1.5, int, "n: expected int, got float 1.5"),
        ("1.5", float, "n: expected float, got str '1.5'"),
        (None, int, "n: expected int, got None"),
        (5, str, "n: expected str, got int 5"),
        (1, bool, "n: expected bool, got int 1"),
        (True, Decimal, "n: expected Decimal, got bool True"),
        ("x", Decimal, "n: expected Decimal, got str 'x'; write it as text, such as \"12.50\""),
        ("yesterday", datetime, "n: expected datetime, got str 'yesterday'; write it as text, such as"),
        (5, UUID, "n: expected UUID, got int 5"),
        (float("inf"), timedelta, "n: expected timedelta, got float inf; write it as a number of seconds"),
        ("green", Colour, "n: expected Colour (one of 'red', 'blue'), got str 'green'"),
        ("x", Odd, "n: expected Odd (one of 1), got str 'x'"),
        ([1, "x"], list[int], "n[1]: expected int, got str 'x'"),
        ("abc", list[str], "n: expected list[str], got str 'abc'"),
        ("12", abc.Sequence[Decimal], "n: expected collections.abc.Sequence[decimal.Decimal], got str '12'"),
        ("ab", abc.Iterable[int], "n[0]: expected int, got str 'a'"),
        ({"sku": 1}, abc.Iterable[Line], "n[0]: expected Line"),
        ([[]], set, "n: expected set: unhashable type: 'list'"),
        ([1], tuple[int, int], "n: expected tuple[int, int], got 1 elements"),
        ([1, "x"], tuple[int, int], "n[1]: expected int, got str 'x'"),
        ({"a": [{"b": "x"}]}, dict[str, list[dict[str, int]]], "n.a[0].b: expected int, got str 'x'"),
        ({"a b": "x"}, dict[str, int], "n['a b']: expected int, got str 'x'"),
        ({"x": 1}, dict[int, int], "n (key 'x'): expected int, got str 'x'"),
        (5, dict, "n: expected dict, got int 5"),
        ("x", int | None, "n: expected int, got str 'x'"),
        ("x", int | Decimal, "n: expected int | decimal.Decimal, got str 'x'"),
        ("x", Literal["a", 1], "n: expected Literal['a', 1], got str 'x'"),
        (True, Literal[1], "n: expected Literal[1], got bool True"),
        ({"sku": "a", "price": "x"}, Line, "n.price: expected Decimal, got str 'x'"),
        ({"sku": "a", "prize": "1"}, Line, "n: Line has no field 'prize'; did you mean 'price'?"),
        ({"sku": "a"}, Line, "n: Line refuses it: Line.__init__() missing 1 required positional argument: 'price'"),
        ({"id": -1}, Order, "n: Order refuses it: ValueError: an order's id is not negative"),
        ([1], Line, "n: expected Line as a map of its fields, got list [1]"),
        ([1, 2, 3], Point, "n: Point has 2 fields, and 3 values came"),
        ({"z": 1}, Point, "n: Point has no field 'z'; it has x, y."),
        ("p", Point, "n: expected Point as an array or a map of its fields, got str 'p'"),
        ({}, Address, "n: Address lacks 'street'"),
        ({"street": 5}, Address, "n.street: expected str, got int 5"),
        ({"balance": "x"}, Customer, "n: Customer refuses it: 2 validation errors for Customer"),
        ({"name": "a", "children": [{"name": 5}]}, Node, "n.children[0].name: expected str, got int 5"),
        ({"items": ["x"]}, Page[int], "n.items[0]: expected int, got str 'x'"),
        ({"name": 5}, Node | None, "n.name: expected str, got int 5"),
        (5, Opaque, "n: expected Opaque, got int 5"),
        (5, abc.Callable[[int], int], "n: expected Callable, got int 5"),
        ("x" * 10_000, int, "n: expected int, got str 'xxxx"),
    ],
)
def test_what_does_not_fit_is_named(value: Any, annotation: Any, sentence: str) -> None:
    with pytest.raises(DecodeError) as caught:
        convert(value, annotation, "n")
    assert str(caught.value).startswith(sentence)
    assert len(str(caught.value)) < 600


def test_a_number_too_long_for_text_is_no_trouble() -> None:
    with pytest.raises(DecodeError, match=r"^n: expected str, got int <int>"):
        convert(10**5000, str, "n")


def test_without_a_name_the_path_stands_alone() -> None:
    with pytest.raises(DecodeError, match=r"^expected int"):
        convert("x", int)
    with pytest.raises(DecodeError, match=r"^price: expected Decimal"):
        convert({"price": "x"}, Line)


def test_names_for_type_checkers_only_are_left_open() -> None:
    @dataclass
    class Partly:
        known: int
        unknown: NotImported  # type: ignore[name-defined]  # noqa: F821

    assert convert({"known": 1, "unknown": [2]}, Partly) == Partly(1, [2])


def test_annotations_that_cannot_be_hashed_work() -> None:
    assert convert("1.5", Annotated[Decimal, ["a list"]]) == Decimal("1.5")


def test_rules_are_compiled_once() -> None:
    assert rule_for(list[Order]) is rule_for(list[Order])


def test_json_and_annotations_are_a_round_trip() -> None:
    order = Order(1, [Line("a", Decimal("1.50"), 2)], MOMENT, Colour.BLUE)
    assert convert(from_json(to_json([order])), list[Order]) == [order]
    assert convert(from_json(to_json({UID: {MOMENT.date(), date.min}})), dict[UUID, set[date]]) == {
        UID: {MOMENT.date(), date.min}
    }
    assert convert(from_json(to_json(timedelta(seconds=90))), timedelta) == timedelta(seconds=90)
