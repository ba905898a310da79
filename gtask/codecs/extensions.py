"""The msgpack extension types of gtask: what plain msgpack has no word for. Design, section 5.

| code | value        | on the wire                                                                            |
|------|--------------|----------------------------------------------------------------------------------------|
| 1    | tuple        | an array whose first element is extension 1 without content: ``[ext(1, ""), a, b]``     |
| 2    | set          | an array whose first element is extension 2 without content                            |
| 3    | frozenset    | an array whose first element is extension 3 without content                            |
| 4    | int          | beyond 64 bits: two's complement, big end first                                        |
| 5    | Decimal      | its text: ``12.50``                                                                    |
| 6    | UUID         | its 16 bytes                                                                           |
| 7    | datetime     | ISO 8601 text, with the zone's key behind it: ``2024-07-01T12:00:00+02:00[Europe/Paris]`` |
| 8    | date         | ISO 8601 text                                                                          |
| 9    | time         | ISO 8601 text, with the zone's key as for datetime                                     |
| 10   | timedelta    | microseconds, as code 4                                                                |
| -1   | timestamp    | msgpack's own: read as a datetime in UTC, never written                                |

A tuple's or set's elements stay in the array and not in the extension's content, so nesting is msgpack's own and
costs neither copies nor nested decoders. Enums, dataclasses and pydantic models travel as their value or as a map
and are rebuilt from annotations. Subclasses of plain types (OrderedDict, named tuples, str subclasses) travel as
the plain type. Of a wall time that occurs twice the offset says which one it is, or a final ``~`` where there is none.
"""

from __future__ import annotations

import dataclasses
import re
from collections import deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from msgpack import ExtType

from gtask.codecs.limits import MAX_COLLISIONS
from gtask.codecs.wording import ADVICE, one_of
from gtask.errors import DecodeError, EncodeError

TUPLE: Final = ExtType(1, b"")
SET: Final = ExtType(2, b"")
FROZENSET: Final = ExtType(3, b"")
INT, DECIMAL, UUID_, DATETIME, DATE, TIME, TIMEDELTA = range(4, 11)

MARK: Final = b"\xc7\x00"
"""The bytes that every mark starts with, by which a decoder sees cheaply that there is none."""

_NATIVE: Final = frozenset({type(None), bool, int, float, str, bytes, bytearray, memoryview, list, dict, ExtType})
_MICROSECOND: Final = timedelta(microseconds=1)


# --- encoding ------------------------------------------------------------------------------------------------


def default(value: Any) -> Any:
    """Turns what msgpack cannot pack into what it can; raises `EncodeError` for what nobody can."""
    kind: Any = type(value)
    value = (_ENCODERS.get(kind) or _encoder(kind))(value)
    while type(value) not in _NATIVE:
        # msgpack asks once only: an Enum's value may need a second step.
        kind = type(value)
        value = (_ENCODERS.get(kind) or _encoder(kind))(value)
    return _int(value) if type(value) is int else value


def _signed(number: int) -> bytes:
    return number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)


def _int(value: int) -> Any:
    value = int(value)
    return value if -(1 << 63) <= value < 1 << 64 else ExtType(INT, _signed(value))


def _zone(zone: Any) -> str:
    key = zone.key if isinstance(zone, ZoneInfo) else None
    return f"[{key}]" if key else ""


def _datetime(value: datetime) -> ExtType:
    text = datetime.isoformat(value) + _zone(value.tzinfo)
    return ExtType(DATETIME, (text + "~" if value.fold and value.utcoffset() is None else text).encode())


def _time(value: time) -> ExtType:
    text = time.isoformat(value) + _zone(value.tzinfo)
    return ExtType(TIME, (text + "~" if value.fold else text).encode())


_ENCODERS: Final[dict[type, Callable[[Any], Any]]] = {
    tuple: lambda value: [TUPLE, *value],
    set: lambda value: [SET, *value],
    frozenset: lambda value: [FROZENSET, *value],
    deque: list,
    MappingProxyType: dict,
    Decimal: lambda value: ExtType(DECIMAL, str(value).encode()),
    UUID: lambda value: ExtType(UUID_, value.bytes),
    datetime: _datetime,
    date: lambda value: ExtType(DATE, value.isoformat().encode()),
    time: _time,
    timedelta: lambda value: ExtType(TIMEDELTA, _signed(value // _MICROSECOND)),
}

_SUBCLASSES: Final[tuple[tuple[type, Callable[[Any], Any]], ...]] = (
    # datetime stands before date, of which it is a subclass.
    (str, str.__str__),
    (int, _int),
    (float, float.__float__),
    (bytes, lambda value: bytes(memoryview(value))),
    (bytearray, lambda value: bytes(memoryview(value))),
    (tuple, lambda value: [TUPLE, *value]),
    (list, list),
    (dict, dict),
    (set, _ENCODERS[set]),
    (frozenset, _ENCODERS[frozenset]),
    (deque, list),
    (Decimal, lambda value: ExtType(DECIMAL, Decimal.__str__(value).encode())),
    (UUID, _ENCODERS[UUID]),
    (datetime, _datetime),
    (date, lambda value: ExtType(DATE, date.isoformat(value).encode())),
    (time, _time),
    (timedelta, _ENCODERS[timedelta]),
)


def is_model(kind: Any) -> bool:
    """Whether `kind` is a pydantic model; it is told by its methods, so that pydantic need not be installed."""
    return hasattr(kind, "model_validate") and hasattr(kind, "model_dump")


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of a dataclass' instance by name, not copied."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


@lru_cache(maxsize=1024)
def _encoder(kind: Any) -> Callable[[Any], Any]:
    if issubclass(kind, Enum):
        return lambda value: value.value
    if dataclasses.is_dataclass(kind):
        return fields_of
    if is_model(kind):
        return lambda value: value.model_dump(round_trip=True)
    for base, encoder in _SUBCLASSES:
        if issubclass(kind, base):
            return encoder
    raise EncodeError(f"{one_of(kind)} cannot be sent; {ADVICE}")


# --- decoding ------------------------------------------------------------------------------------------------


class Mark:
    """Stands at the start of an array for the type that it becomes."""

    __slots__ = ("build",)

    def __init__(self, build: Callable[[list[Any]], Any]) -> None:
        self.build = build


def check_hashes(items: Any, what: str) -> None:
    """Raises `DecodeError` where too many of the items hash alike, before anything is built on hashes."""
    if len(items) > MAX_COLLISIONS and len(items) - len(set(map(hash, items))) > MAX_COLLISIONS:
        raise DecodeError(
            f"More than {MAX_COLLISIONS} elements of a {what} have equal hashes, which no honest sender makes."
        )


def _set(items: list[Any]) -> set[Any]:
    check_hashes(items, "set")
    return set(items)


_MARKS: Final = {1: Mark(tuple), 2: Mark(_set), 3: Mark(lambda items: frozenset(_set(items)))}


class Decoding:
    """The hooks of one decoding that may hold marks; it counts them, so that none is left over as a value."""

    __slots__ = ("open",)

    def __init__(self) -> None:
        self.open = 0

    def extension(self, code: int, content: bytes) -> Any:
        """msgpack's `ext_hook`: the value of an extension, or its mark."""
        mark = _MARKS.get(code)
        if mark is None or content:
            return extension(code, content)
        self.open += 1
        return mark

    def array(self, items: list[Any]) -> Any:
        """msgpack's `list_hook`: a list, or what its mark makes of it."""
        if items and type(items[0]) is Mark:
            self.open -= 1
            build = items[0].build
            del items[0]
            return build(items)
        return items


def extension(code: int, content: bytes) -> Any:
    """The value of an extension that is no mark. Raises `DecodeError` for an unknown one, ValueError for a bad one."""
    decoder = _DECODERS.get(code)
    if decoder is None:
        raise DecodeError(
            f"Extension type {code} with {len(content)} bytes is none that gtask knows; see gtask.codecs.extensions."
        )
    return decoder(content)


_ZONED: Final = re.compile(r"([0-9T:.,+\-WZ ]{1,64})(?:\[([A-Za-z0-9_+\-]+(?:/[A-Za-z0-9_+\-]+)*)\])?(~?)", re.ASCII)


def _split(content: bytes) -> tuple[str, ZoneInfo | None, int]:
    found = _ZONED.fullmatch(content[:200].decode("ascii"))
    if found is None or len(content) > 200:
        raise ValueError("this is no date or time")
    text, key, fold = found.groups()
    zone = None
    if key:
        try:
            zone = ZoneInfo(key)
        except Exception:  # whatever a machine without this zone raises: the offset still says the moment
            pass
    return text, zone, len(fold)


def _read_datetime(content: bytes) -> datetime:
    text, zone, fold = _split(content)
    value = datetime.fromisoformat(text)
    if fold:
        value = value.replace(fold=1)
    if zone is None:
        return value
    offset = value.utcoffset()
    for local in (value.replace(tzinfo=zone), value.replace(tzinfo=zone, fold=1)):
        if offset is None or local.utcoffset() == offset:
            return local
    # The sender's time zone data differ from ours. The moment counts, not the wall clock.
    return value.astimezone(zone)


def _read_time(content: bytes) -> time:
    text, zone, fold = _split(content)
    value = time.fromisoformat(text)
    return value.replace(tzinfo=zone or value.tzinfo, fold=fold)


def _read_int(content: bytes) -> int:
    return int.from_bytes(content, "big", signed=True)


_DECODERS: Final[dict[int, Callable[[bytes], Any]]] = {
    INT: _read_int,
    DECIMAL: lambda content: Decimal(content.decode("ascii")),
    UUID_: lambda content: UUID(bytes=bytes(content)),
    DATETIME: _read_datetime,
    DATE: lambda content: date.fromisoformat(content.decode("ascii")),
    TIME: _read_time,
    TIMEDELTA: lambda content: _read_int(content[:32]) * _MICROSECOND,
}
