"""Well-formed msgpack with anything in it: what a fuzzer of bytes would take hours to come by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack

from tests.fuzz.supply import Supply

NUMBERS = (0, 1, -1, 255, 2**31, 2**63 - 1, 2**64 - 1, -(2**63), 1e308, -0.5, float("nan"), float("inf"))
TEXTS = ("", "a", "gtask", "2024-07-01", "12.50", "NaN", "red", "x" * 300, "\ufffd", "1e999999")
CONTENTS = (
    b"",
    b"12.50",
    b"sNaN",
    b"1E+999999999",
    b"2024-07-01T12:00:00+02:00[Europe/Paris]",
    b"2024-07-01[../../etc/passwd]",
    b"2024-07-01",
    b"12:00:00~",
    b"\xff" * 12,
    b"\x7f" * 30,
    bytes(16),
)


def value(supply: Supply, depth: int = 4) -> Any:
    """A value that msgpack can write, extension types with any content among them."""
    kind = supply.number(9 if depth else 5)
    if kind == 0:
        return supply.choice((None, True, False))
    if kind == 1:
        return supply.choice(NUMBERS)
    if kind == 2:
        return supply.choice(TEXTS)
    if kind == 3:
        return supply.piece(20)
    if kind == 4:
        return msgpack.ExtType(supply.number(12), supply.choice(CONTENTS))
    if kind == 5:
        return msgpack.ExtType(supply.number(127), supply.piece(16))
    if kind < 8:
        return [value(supply, depth - 1) for _ in range(supply.number(4))]
    return {key(supply): value(supply, depth - 1) for _ in range(supply.number(4))}


def key(supply: Supply) -> Any:
    """A key of a map: mostly text."""
    return supply.choice((*TEXTS, 1, 1.5, None, b"b", ("a", 1), msgpack.ExtType(5, b"1")))


def table(supply: Supply, names: Sequence[str]) -> dict[str, Any]:
    """A map with some of these names, each with any value."""
    return {name: value(supply) for name in names if supply.number(2)}


def write(plain: Any) -> bytes:
    """As msgpack."""
    packed: bytes = msgpack.packb(plain, strict_types=False)
    return packed
