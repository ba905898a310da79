"""Which part of a value cannot be sent: the slow walk, taken only once encoding has failed."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

from gtask.codecs.extensions import fields_of, is_model


def explain(value: Any, where: str, max_depth: int, problem: Callable[[Any], str], otherwise: str) -> str:
    """The sentence for an error: the path of the first value that cannot be sent, and why.

    `problem` says why a value without parts cannot be sent, and nothing where it can. `otherwise` is said of the
    whole where no part is found to be at fault.
    """
    found = _search(value, where, max_depth, problem)
    if found is None:
        return f"{where}: {otherwise}"
    path, reason = found
    return f"{path.removeprefix('.') or 'value'}: {reason}"


def _search(value: Any, path: str, depth: int, problem: Callable[[Any], str]) -> tuple[str, str] | None:
    try:
        parts = _parts(value)
        if parts is None:
            reason = problem(value)
            return (path, reason) if reason else None
        if depth <= 0:
            return path[:100], "nested too deep, or it holds itself; flatten it."
        for step, part in parts:
            found = _search(part, path + step, depth - 1, problem)
            if found is not None:
                return found
    except Exception as error:  # a property or a method of the value raised
        return path, f"{type(error).__name__} while it was read: {error}"
    return None


def _parts(value: Any) -> Iterator[tuple[str, Any]] | None:
    if isinstance(value, (Enum, str, bytes, type)):
        return None
    if isinstance(value, dict):
        return _items(value)
    if isinstance(value, list | tuple | deque):
        return ((f"[{index}]", part) for index, part in enumerate(value))
    if isinstance(value, set | frozenset):
        return (("{...}", part) for part in value)
    if dataclasses.is_dataclass(value):
        return ((f".{name}", part) for name, part in fields_of(value).items())
    if is_model(type(value)):
        return _items(value.model_dump(round_trip=True))
    return None


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield "", value
        return
    for key, part in value.items():
        text = repr(key)[:50]
        if type(key) is not str or not key.isascii():
            yield f" (key {text})", key
        yield (f".{key}" if type(key) is str and key.isidentifier() else f"[{text}]"), part
