"""Values to JSON and back, for callers and workers of other languages. Design, section 5."""

from __future__ import annotations

import base64
import dataclasses
from collections import deque
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from types import MappingProxyType
from typing import Any, Final

import orjson

from gtask.codecs.extensions import is_model
from gtask.codecs.limits import MAX_DEPTH, MAX_SIZE
from gtask.codecs.paths import explain
from gtask.codecs.wording import ADVICE, one_of
from gtask.errors import DecodeError, EncodeError

# orjson's own text for times rounds an offset to minutes, and refuses a time with a zone.
_OPTIONS: Final = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATETIME
_NESTED: Final = frozenset({list, dict})
_BRACKETS: Final = b"[{"


def to_json(value: Any, where: str = "value", *, max_size: int = MAX_SIZE) -> bytes:
    """Encodes a value as JSON, with what JSON has no word for written as its readers expect it.

    Decimal as text (``"12.50"``, so that no digit is lost), datetime, date and time as ISO 8601 text, timedelta as
    seconds, UUID as text, Enum as its value, tuple, set and frozenset as arrays, dataclasses and models as objects,
    bytes as base64, nan and infinity as null. Raises `EncodeError`, which names the offending value by its path:
    integers beyond 64 bits among them, which most readers of JSON would round.
    """
    try:
        data = orjson.dumps(value, default=_default, option=_OPTIONS)
    except Exception as error:
        raise EncodeError(explain(value, where, 254, _leaf_problem, _reason(error))) from error
    if len(data) > max_size:
        raise EncodeError(
            f"{where}: {len(data)} bytes as JSON, and {max_size} is the limit; send a reference to the data instead."
        )
    return data


def from_json(data: bytes, *, max_size: int = MAX_SIZE, max_depth: int = MAX_DEPTH) -> Any:
    """Decodes JSON. Raises `DecodeError` for anything else, for more than `max_size` bytes, and for what is nested
    deeper than `max_depth`.

    Integers beyond 64 bits come as float, as in most languages; send them as text.
    """
    if len(data) > max_size:
        raise DecodeError(f"{len(data)} bytes are more than the {max_size} that are taken; nothing was decoded.")
    try:
        value = orjson.loads(data)
    except Exception as error:
        if "limit" in str(error):  # of nesting: orjson has no other
            raise TooDeep(f"The JSON is nested deeper than {max_depth}, which is the limit; flatten it.") from None
        raise DecodeError(f"This is no JSON: {error}.") from error
    if len(data) - len(data.translate(None, _BRACKETS)) > max_depth and _deeper(value, max_depth):
        raise TooDeep(f"The JSON is nested deeper than {max_depth}, which is the limit; flatten it.")
    return value


class TooDeep(DecodeError):
    """This is JSON, but nested deeper than the limit."""


def _deeper(value: Any, limit: int) -> bool:
    """Whether `value` has more than `limit` levels; goes level by level, so that its own depth is no danger."""
    level = [value] if type(value) in _NESTED else []
    while level:
        if limit == 0:
            return True
        limit -= 1
        following: list[Any] = []
        for container in level:
            parts = container.values() if type(container) is dict else container
            if not _NESTED.isdisjoint(map(type, parts)):
                following += [part for part in parts if type(part) in _NESTED]
        level = following
    return False


def _default(value: Any) -> Any:
    match value:
        case Decimal():
            return str(value)
        case date() | time():
            return value.isoformat()
        case set() | frozenset() | tuple() | deque():
            return list(value)
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode()
        case timedelta():
            return value.total_seconds()
        case MappingProxyType():
            return dict(value)
        case Enum():
            return value.value
        case float():
            return float.__float__(value)
    if is_model(type(value)):
        return value.model_dump(round_trip=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(f"{one_of(type(value))} cannot be sent as JSON; {ADVICE}")


def _reason(error: Exception) -> str:
    """orjson hides what `default` raised behind its own sentence."""
    return str(error.__cause__ or error)


def _leaf_problem(value: Any) -> str:
    try:
        orjson.dumps(value, default=_default, option=_OPTIONS)
    except Exception as error:
        return _reason(error)
    return ""
