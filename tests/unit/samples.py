"""Classes of a user's, for the tests of what is sent and rebuilt."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Generic, NamedTuple, NotRequired, TypedDict, TypeVar

from pydantic import BaseModel, Field

T = TypeVar("T")


class Colour(Enum):
    """Values of text."""

    RED = "red"
    BLUE = "blue"


class Rate(Enum):
    """Values that JSON has no type for."""

    LOW = Decimal("1.50")
    HIGH = Decimal("2.50")


class Level(IntEnum):
    """Values that are numbers."""

    ONE = 1
    TWO = 2


class Word(StrEnum):
    """Values that are text, and members that are text too."""

    HELLO = "hello"


@dataclass
class Line:
    """One line of an order."""

    sku: str
    price: Decimal
    quantity: int = 1


@dataclass
class Order:
    """An order, with its lines, and one field that is worked out."""

    id: int
    lines: list[Line] = field(default_factory=list)
    placed: datetime | None = None
    colour: Colour = Colour.RED
    total: Decimal = field(init=False)

    def __post_init__(self) -> None:
        if self.id < 0:
            raise ValueError("an order's id is not negative")
        self.total = sum((line.price * line.quantity for line in self.lines), Decimal(0))


@dataclass
class Node:
    """A class that holds itself."""

    name: str
    children: list[Node] = field(default_factory=list)


@dataclass
class Page(Generic[T]):
    """A generic class."""

    items: list[T]
    next: int | None = None


class Point(NamedTuple):
    """A tuple with names."""

    x: int
    y: Decimal = Decimal(0)


class Address(TypedDict):
    """A dict with known keys."""

    street: str
    since: NotRequired[datetime]


class Customer(BaseModel):
    """A pydantic model, with an alias."""

    name: str
    balance: Decimal = Decimal(0)
    home: str = Field(default="", alias="homeTown")


class Opaque:
    """Nothing that can be sent."""
