"""Which part of a value cannot be sent: the slow walk, taken only once encoding has failed."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Final

from gtask.codecs.extensions import fields_of, is_model
from gtask.codecs.wording import glimpse, step

MAX_PARTS: Final = 200_000
"""Parts of a value that are looked at: a larger one gets its error without a path."""

_HARMLESS: Final = frozenset({type(None), bool, float, bytes})


def explain(value: Any, where: str, max_depth: int, problem: Callable[[Any], str], otherwise: str) -> str:
    """The sentence for an error: the path of the first value that cannot be sent, and why.

    `problem` says why a value without parts cannot be sent, and nothing where it can. `otherwise` is said of the
    whole where no part is found to be at fault.
    """
    found = _Search(problem).look(value, where, max_depth)
    if found is None:
        return f"{where or 'value'}: {otherwise}"
    path, reason = found
    return f"{path.removeprefix('.') or 'value'}: {reason}"


class _Search:
    def __init__(self, problem: Callable[[Any], str]) -> None:
        self.problem = problem
        self.left = MAX_PARTS

    def look(self, value: Any, path: str, depth: int) -> tuple[str, str] | None:
        self.left -= 1
        if type(value) in _HARMLESS or self.left < 0:
            return None
        try:
            parts = _parts(value)
            if parts is None:
                reason = self.problem(value)
                return (path, reason) if reason else None
            if depth <= 0:
                return path[:100], "nested too deep, or it holds itself; flatten it."
            for more, part in parts:
                found = self.look(part, path + more, depth - 1)
                if found is not None or self.left < 0:
                    return found
        except Exception as error:  # a property or a method of the value raised
            return path, f"{type(error).__name__} while it was read: {error}"
        return None


def _parts(value: Any) -> Iterator[tuple[str, Any]] | None:
    """What lies inside a value, each part with its step; None where nothing does."""
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
        if type(key) is not str or not key.isascii():
            yield f" (key {glimpse(key)})", key
        yield step(key), part
