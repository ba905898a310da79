"""Turns the bytes of a fuzzer into choices, so that one function serves atheris, hypothesis and a file alike."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")


class Supply:
    """Bytes that are used up from the front; when they are at an end every choice is the first one.

    Numbers come from few bytes and pieces say their length first, so that a changed byte changes one choice and leaves
    those behind it as they were.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self, most: int) -> int:
        """A number from 0 to `most`, which is below 65536."""
        width = 1 if most < 256 else 2
        taken = self._data[self._at : self._at + width]
        self._at += width
        return int.from_bytes(taken, "big") % (most + 1)

    def choice(self, things: Sequence[T]) -> T:
        """One of some things."""
        return things[self.number(len(things) - 1)]

    def piece(self, most: int = 255) -> bytes:
        """Some bytes, `most` at most."""
        length = self.number(most)
        taken = self._data[self._at : self._at + length]
        self._at += length
        return taken

    def rest(self) -> bytes:
        """All that is left."""
        taken = self._data[self._at :]
        self._at = len(self._data)
        return taken

    def cut(self, data: bytes, pieces: int = 8) -> list[bytes]:
        """The same bytes in several pieces."""
        places = sorted(self.number(len(data)) for _ in range(self.number(pieces))) if data else []
        edges = [0, *places, len(data)]
        return [data[start:end] for start, end in pairwise(edges)]
