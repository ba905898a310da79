"""What the measured tasks do, the same code in every peer's worker. Only the standard library is needed."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
import time
from pathlib import Path

TALLY = "BENCH_TALLY"
"""The variable that names the file in which runs are counted."""

STAMPS = "BENCH_STAMPS"
"""The variable that names the file into which each `stamp` writes when its task was sent, and when it began."""

SLOTS = 8192
"""Threads that may count in one tally, over all processes; the slot at 0 says how many have begun to."""

STAMP = struct.Struct("dd")


class Tally:
    """A shared file of counters, one for each thread that counts: no lock, no system call but for the thread's id.

    So the end of a long queue is seen from outside at the same small cost whatever the peer is.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if os.fstat(self._file).st_size < SLOTS * 8:
            os.ftruncate(self._file, SLOTS * 8)
        self._view = memoryview(mmap.mmap(self._file, SLOTS * 8)).cast("Q")
        self._slots: dict[int, int] = {}

    def add(self) -> None:
        """Counts one."""
        thread = threading.get_native_id()
        slot = self._slots.get(thread)
        if slot is None:
            slot = self._slots[thread] = self._claim()
        self._view[slot] += 1

    def total(self) -> int:
        """How many were counted by all processes."""
        return sum(self._view[1 : self._view[0] + 1])

    def _claim(self) -> int:
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            slot = self._view[0] + 1
            if slot >= SLOTS:
                raise RuntimeError(f"More than {SLOTS - 1} threads count; make SLOTS larger.")
            self._view[0] = slot
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)
        return slot


_tally: Tally | None = None
_stamps: int | None = None


def count() -> None:
    """The empty task: it only counts itself."""
    global _tally
    if _tally is None:
        _tally = Tally(os.environ[TALLY])
    _tally.add()


def stamp(sent: float) -> None:
    """Writes when the task was sent and when it began, both of the clock that all processes share."""
    global _stamps
    began = time.monotonic()
    if _stamps is None:
        _stamps = os.open(os.environ[STAMPS], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(_stamps, STAMP.pack(sent, began))


def read_stamps(path: Path) -> list[float]:
    """The seconds between sending and beginning of each task in the file, in the order of their beginnings."""
    return [began - sent for sent, began in STAMP.iter_unpack(path.read_bytes())] if path.exists() else []


def burn(iterations: int) -> int:
    """Keeps a core busy: the same work for everybody, not the same time."""
    total = 0
    for number in range(iterations):
        total += number & 7
    return total
