"""Typed arguments: what fits its annotation arrives as it was, and what the sender lets through the worker takes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Flag
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired, Optional, TypedDict
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from gtask.arguments import Arguments
from gtask.codecs import convert, from_json, pack, to_json, unpack
from gtask.errors import BadArguments, EncodeError
from tests.property.test_codecs import kinds, same, values
from tests.unit.samples import Address, Colour, Customer, Level, Line, Node, Order, Page, Point, Rate, Word

OrderId = NewType("OrderId", int)


class Access(Flag):
    """Members that are combined."""

    READ = 1
    WRITE = 2


class Email(str):
    """A user's own subclass of text."""


@dataclass(frozen=True, slots=True)
class Journey:
    """What a travel agency would send: every kind of field."""

    id: UUID
    start: datetime
    length: timedelta
    stops: tuple[Point, ...]
    budget: Decimal | None
    tags: frozenset[str]
    days: dict[date, list[Line]]
    mode: Literal["train", "plane"] = "train"


class Ticket(NamedTuple):
    """A tuple with a dataclass in it."""

    line: Line
    holder: Optional[Address]  # noqa: UP045


class Parcel(TypedDict, total=False):
    """Keys that may be missing."""

    weight: Decimal
    label: NotRequired[Word]


class Basket(BaseModel):
    """A pydantic model that holds everything else."""

    owner: Customer
    lines: list[Line]
    moment: datetime | None = None
    colour: Colour = Colour.RED


whole = st.integers(-(2**63), 2**63 - 1)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
money = st.decimals(-(10**9), 10**9, places=2)
# Whole minutes: pydantic reads no seconds of an offset.
minutes = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(timezones=st.none() | minutes)

SCALARS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, whole),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (str, text),
    (bool, st.booleans()),
    (None, st.none()),
    (Decimal, money),
    (datetime, moments),
    (date, st.dates()),
    (time, st.times()),
    (timedelta, st.timedeltas(timedelta(days=-9999), timedelta(days=9999))),
    (UUID, st.uuids()),
    (Colour, st.sampled_from(Colour)),
    (Rate, st.sampled_from(Rate)),
    (Level, st.sampled_from(Level)),
    (Word, st.sampled_from(Word)),
    (Access, st.sampled_from([Access(0), Access.READ, Access.READ | Access.WRITE])),
    (Literal["a", 1, Colour.RED], st.sampled_from(["a", 1, Colour.RED])),
    (OrderId, whole),
    (Annotated[Decimal, "euros"], money),
    (Email, text.map(Email)),
]
HASHABLE = [SCALARS[place] for place in (0, 2, 5, 7, 10, 11)]

lines = st.builds(Line, text, money, st.integers(1, 99))
points = st.builds(Point, whole, money)
addresses = st.fixed_dictionaries({"street": text}, optional={"since": moments})
customers = st.builds(Customer, name=text, balance=money, homeTown=text)
nodes = st.recursive(st.builds(Node, text), lambda inner: st.builds(Node, text, st.lists(inner, max_size=2)))

STRUCTURES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (Line, lines),
    (Order, st.builds(Order, st.integers(0, 9), st.lists(lines, max_size=2), st.none() | moments)),
    (Point, points),
    (Address, addresses),
    (Node, nodes),
    (Page[Decimal], st.builds(Page, st.lists(money, max_size=2), st.none() | whole)),
    (Customer, customers),
    (
        Journey,
        st.builds(
            Journey,
            st.uuids(),
            moments,
            st.timedeltas(timedelta(0), timedelta(days=99)),
            st.lists(points, max_size=2).map(tuple),
            st.none() | money,
            st.frozensets(text, max_size=2),
            st.dictionaries(st.dates(), st.lists(lines, max_size=2), max_size=2),
            st.sampled_from(["train", "plane"]),
        ),
    ),
    (Ticket, st.builds(Ticket, lines, st.none() | addresses)),
    (Parcel, st.fixed_dictionaries({}, optional={"weight": money, "label": st.sampled_from(Word)})),
    (Basket, st.builds(Basket, owner=customers, lines=st.lists(lines, max_size=2), moment=st.none() | moments)),
]


def containers(inner: tuple[Any, st.SearchStrategy[Any]]) -> st.SearchStrategy[tuple[Any, st.SearchStrategy[Any]]]:
    """The annotations that hold one, each with the strategy for its values."""
    kind, value = inner
    several = st.lists(value, max_size=3)
    found: list[tuple[Any, st.SearchStrategy[Any]]] = [
        (list[kind], several),
        (tuple[kind, ...], several.map(tuple)),
        (tuple[int, kind], st.tuples(whole, value)),
        (deque[kind], several.map(deque)),
        (dict[str, kind], st.dictionaries(text, value, max_size=3)),
        (Optional[kind], st.none() | value),  # noqa: UP045
        (Annotated[kind, "something"], value),
    ]
    for key, keys in HASHABLE:
        found.append((dict[key, kind], st.dictionaries(keys, value, max_size=2)))
    return st.sampled_from(found)


typed = st.recursive(
    st.sampled_from(
        SCALARS
        + STRUCTURES
        + [(set[key], st.sets(keys, max_size=3)) for key, keys in HASHABLE]
        + [(frozenset[key], st.frozensets(keys, max_size=3)) for key, keys in HASHABLE]
    ),
    lambda inner: inner.flatmap(containers),
    max_leaves=3,
)
pairs = typed.flatmap(lambda pair: st.tuples(st.just(pair[0]), pair[1]))


def taking(annotation: Any) -> Arguments:
    """The parameters of a task that takes one argument of this kind."""

    def task(value):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    task.__annotations__ = {"value": annotation}
    return Arguments(task, "task")


@given(pairs)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_what_fits_its_annotation_arrives_as_it_was(pair: tuple[Any, Any]) -> None:
    annotation, value = pair
    arguments = taking(annotation)
    arguments.check((value,), {})
    arguments.check((), {"value": value})
    (found,), _ = arguments.fit(tuple(unpack(pack([value]))), {})
    assert found == value
    assert type(found) is type(value)
    _, named = arguments.fit((), unpack(pack({"value": value})))
    assert same_kind(named.get("value", found), value)


def same_kind(left: Any, right: Any) -> bool:
    """Equal, where values that msgpack knows are also of equal types all the way down."""
    return left == right and (same(left, right) or type(left) is type(right))


@given(pairs)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_results_are_rebuilt_at_their_reader_from_msgpack_and_from_json(pair: tuple[Any, Any]) -> None:
    annotation, value = pair
    assert unpack(pack(value), annotation) == value
    try:
        data = to_json(value)
    except EncodeError:
        return  # a map whose keys JSON cannot have
    found = convert(from_json(data), annotation)
    assert found == value
    assert type(found) is type(value)


@given(values, st.sampled_from([*kinds, *(kind for kind, _ in SCALARS + STRUCTURES), list[Journey], set[Colour]]))
def test_what_the_sender_lets_through_the_worker_takes(value: Any, annotation: Any) -> None:
    arguments = taking(annotation)
    try:
        arguments.check((value,), {})
        refusal = ""
    except BadArguments as error:
        refusal = str(error)
    wire = tuple(unpack(pack([value])))
    try:
        arguments.fit(wire, {})
    except BadArguments:
        assert refusal.startswith("task: value")
        assert len(refusal) < 1500
    else:
        # Plain values are on the wire what they are here, so both sides say the same.
        assert refusal == ""


@given(pairs, pairs)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_so_it_is_with_what_fits_another_annotation(one: tuple[Any, Any], other: tuple[Any, Any]) -> None:
    annotation, value = one[0], other[1]
    arguments = taking(annotation)
    try:
        arguments.check((value,), {})
    except BadArguments:
        return
    arguments.fit(tuple(unpack(pack([value]))), {})


@given(values)
def test_a_value_of_no_type_in_particular_passes(value: Any) -> None:
    for annotation in (Any, object):
        taking(annotation).check((value,), {})
