"""Which tasks were revoked, in memory that the processes of a worker share; made before the forks.

One process hears of marks from the result store and writes them here (`gtask.revocation`); the others look here before
each task, which asks nobody and costs nothing while there is no mark. The supervisor looks here for tasks that are to
be stopped where they run.

The memory is a table of buckets, so that it is bounded and every look is short: a mark that comes into a full bucket
takes the place of the oldest there. One process writes, so there is no lock; who reads a mark while it is written
does not find it yet.
"""

from __future__ import annotations

import mmap
from enum import IntEnum
from typing import Final
from zlib import crc32

BUCKETS: Final = 8192
"""Buckets of the table."""

PLACES: Final = 16
"""Marks in a bucket: with 50,000 marks in all, less than one in a thousand of the oldest is forgotten for a new one."""

MAX_ID: Final = 63
"""Bytes of an id that are kept; longer ones do not exist."""

_ENTRY: Final = MAX_ID + 1
_BUCKET: Final = PLACES * _ENTRY
_START: Final = 64
_CURSORS: Final = _START + BUCKETS * _BUCKET


class Heard(IntEnum):
    """How far the worker knows of marks: not yet, all that were made so far, or not since the store is away."""

    NOT_YET = 0
    ALL = 1
    AWAY = 2


class MarkTable:
    """The ids of revoked tasks, and whether they are to be stopped while they run."""

    def __init__(self) -> None:
        # Pages nobody has written to take no memory.
        self._memory = mmap.mmap(-1, _CURSORS + BUCKETS)

    def __repr__(self) -> str:
        return f"<MarkTable of {self.count} marks, heard {self.heard.name}>"

    # --- everybody -------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many marks were written; the same task's count once."""
        return int.from_bytes(self._memory[:4], "little")

    @property
    def terminations(self) -> int:
        """How many marks asked to stop a task that runs: whoever sees it move looks through what runs."""
        return int.from_bytes(self._memory[4:8], "little")

    @property
    def heard(self) -> Heard:
        """How far this worker knows of marks."""
        return Heard(self._memory[8])

    @property
    def clear(self) -> bool:
        """Whether there is nothing to look for: every mark was heard of, and there is none."""
        return self._memory[:9] == _NOTHING

    def __contains__(self, id: str) -> bool:
        return self._find(id.encode()) is not None

    def stops(self, id: str) -> bool:
        """Whether a task is marked as one that is to be stopped while it runs."""
        position = self._find(id.encode())
        return position is not None and self._memory[position] == 2

    # --- who writes ------------------------------------------------------------------------------------------

    def add(self, id: str, terminate: bool) -> None:
        """Writes a mark; one that is there already changes only when the task is now to be stopped as well."""
        raw = id.encode()
        if not 0 < len(raw) <= MAX_ID:
            return
        position = self._find(raw)
        kind = 2 if terminate else 1
        if position is None:
            bucket = crc32(raw) % BUCKETS
            turn = self._memory[_CURSORS + bucket]
            self._memory[_CURSORS + bucket] = (turn + 1) % PLACES
            position = _START + bucket * _BUCKET + turn * _ENTRY
            self._memory[position : position + _ENTRY] = bytes((kind,)) + raw.ljust(MAX_ID, b"\0")
            self._memory[:4] = (self.count + 1 & 0xFFFFFFFF).to_bytes(4, "little")
        elif kind <= self._memory[position]:
            return
        else:
            self._memory[position] = kind
        if terminate:
            self._memory[4:8] = (self.terminations + 1 & 0xFFFFFFFF).to_bytes(4, "little")

    def hear(self, heard: Heard) -> None:
        """Says how far this worker knows of marks."""
        self._memory[8] = heard

    def _find(self, raw: bytes) -> int | None:
        if not raw:
            return None
        start = _START + crc32(raw) % BUCKETS * _BUCKET
        if not self._memory[start]:
            return None  # an empty bucket, as most are
        bucket, padded = self._memory[start : start + _BUCKET], raw.ljust(MAX_ID, b"\0")
        position = bucket.find(padded)
        while position >= 0:
            at = position - 1
            if at % _ENTRY == 0 and bucket[at]:
                return start + at
            position = bucket.find(padded, position + 1)
        return None


_NOTHING: Final = bytes(8) + bytes((Heard.ALL,))
