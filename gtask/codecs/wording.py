"""Values, classes and annotations as they stand in error messages: short, whatever they are."""

from __future__ import annotations

import reprlib
from types import GenericAlias
from typing import Any, Final

_REPR: Final = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 200

ADVICE: Final = "use plain values, datetime, Decimal, UUID, Enum, dataclasses or pydantic models."


def glimpse(value: Any, limit: int = 60) -> str:
    """The repr of a value in `limit` characters, without reading all of a large one. Never raises."""
    try:
        text = _REPR.repr(value)
    except Exception:  # an integer too long for text, or a __repr__ that raises
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def got(value: Any) -> str:
    """What came in place of what was expected: a value's type and a glimpse of it."""
    return "None" if value is None else f"{name_of(type(value))} {glimpse(value)}"


def step(key: Any) -> str:
    """A key as part of a path: ``.name``, or ``['any key']``."""
    return f".{key}" if isinstance(key, str) and len(key) < 60 and key.isidentifier() else f"[{glimpse(key)}]"


def name_of(kind: type) -> str:
    """The name of a class: bare for a builtin, with its module otherwise."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def one_of(kind: type) -> str:
    """The name of a class with its article: "a Foo", "an object"."""
    name = name_of(kind)
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def label(annotation: Any) -> str:
    """An annotation about as its author wrote it."""
    if annotation is None or annotation is type(None):
        return "None"
    if isinstance(annotation, type) and not isinstance(annotation, GenericAlias):
        return annotation.__name__
    return str(annotation).replace("typing.", "")
