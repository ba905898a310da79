"""Arguments and results of all kinds, as the type checkers see them (docs/types.md). Checked, never run.

As in `tests.typing.tasks`, a line with ignore comments is an error that has to be found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Literal, NamedTuple, NewType, NotRequired, TypedDict, Unpack, assert_type
from uuid import UUID

from pydantic import BaseModel

from gtask import App, AsyncResult, BadArguments

app = App("billing", results=None, check_arguments=True)

OrderId = NewType("OrderId", int)


class Colour(Enum):
    """Travels as its value."""

    RED = "red"


@dataclass
class Line:
    """Travels as a map."""

    sku: str
    price: Decimal


class Point(NamedTuple):
    """Travels as an array."""

    x: int
    y: int


class Options(TypedDict):
    """Is a map."""

    note: str
    day: NotRequired[date]


class Customer(BaseModel):
    """Travels as a map."""

    name: str


@app.task
def order(
    id: UUID, lines: Sequence[Line], customer: Customer | None = None, mode: Literal["a", "b"] = "a"
) -> list[Line]:
    """Takes and returns what is rebuilt."""
    return list(lines)


@app.task
def draw(point: Point, colour: Colour, at: datetime, **options: Unpack[Options]) -> Point:
    """Takes its keyword arguments from a TypedDict."""
    return point


@app.task
async def find(id: OrderId) -> Customer | None:
    """Takes a NewType."""
    return None


@app.task(check_arguments=False)
def loose(value: int) -> int:
    """Types are checked by the type checker alone."""
    return value


def what_a_task_takes_is_what_delay_takes(id: UUID) -> None:
    """Classes of the user's, unions, literals."""
    assert_type(order.delay(id, [Line("a", Decimal(1))], Customer(name="Ann"), mode="b"), AsyncResult[list[Line]])
    assert_type(order.call(id, ()).pop(), Line)
    order.delay(id, [Line("a", Decimal(1))], mode="c")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    order.delay(id, ["a"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    order.delay(str(id), [])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def keyword_arguments_of_a_typed_dict_are_known(now: datetime) -> None:
    """PEP 692."""
    assert_type(draw.delay(Point(1, 2), Colour.RED, now, note="x").get(), Point)
    draw.delay(Point(1, 2), "red", now, note="x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    draw.delay(Point(1, 2), Colour.RED, now)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def results_keep_their_type(id: OrderId) -> None:
    """Through `await` too."""
    assert_type(await find.adelay(id), AsyncResult[Customer | None])
    assert_type(await find.acall(id), Customer | None)
    await find.acall(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(loose.delay(1).get(), int)


def a_wrong_call_is_a_type_error() -> TypeError:
    """At run time it is one error, whatever did not fit."""
    error: TypeError = BadArguments("calculate: order_id: expected int, got str 'seven'")
    return error
