"""The limits of a worker, in memory that its processes share: how many jobs of a task run, and when the next may start.

A table is made before the forks. Each process counts its own jobs in a row of its own, which whoever buries it clears.
What all of them change, they change under a lock of the file system, which a process that dies lets go of. Nobody waits
for the lock for longer than a moment: where it is taken the gate stays closed, and is asked again.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

LOOK: Final = 0.05
"""Seconds between two looks of a process whether a place is free: nobody tells it."""

LOOK_RATE: Final = 0.25
"""Seconds between two looks of a process whether a token has come back, where the next one is further away."""

TRIES: Final = 50
"""How often the lock is tried in a row: it is held for some microseconds, unless its holder was stopped."""

BUSY: Final = 0.002
"""Seconds before the lock is tried again."""

_SHARED: Final = struct.Struct("=dddId")
_DOUBLE: Final = struct.Struct("=d")
_COUNT: Final = struct.Struct("=I")


class Rate(NamedTuple):
    """`per_second` starts, of which `burst` may come at once after a pause."""

    per_second: float
    burst: int


class Shared(NamedTuple):
    """What the processes of a worker know together of one limited task. Times are `time.monotonic()` seconds.

    `full_at` is when all tokens will be there again. `ask_place` and `ask_token` are the times before which the result
    store need not be asked again for a place, and for a token. `spares` tokens from the store were not used, and are
    good until `spare_until`.
    """

    full_at: float = 0.0
    ask_place: float = 0.0
    ask_token: float = 0.0
    spares: int = 0
    spare_until: float = 0.0


class LimitTable:
    """`tasks` limited tasks, and `rows` processes at once whose jobs are counted."""

    def __init__(self, tasks: int, rows: int) -> None:
        self.rows = rows
        self._size = _SHARED.size + (rows + 1) * _COUNT.size
        self._memory = mmap.mmap(-1, max(1, tasks * self._size + (rows + 1)))
        self._rows_at = tasks * self._size
        self._tasks = tasks
        self._lock, path = tempfile.mkstemp(prefix="gtask-limits-")
        os.unlink(path)
        weakref.finalize(self, os.close, self._lock)

    def __repr__(self) -> str:
        return f"<LimitTable {self._tasks} tasks, {self.rows} rows>"

    @contextlib.contextmanager
    def locked(self) -> Iterator[bool]:
        """Holds the lock, if it is free within a moment; says whether."""
        for attempt in range(TRIES):
            try:
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if attempt == TRIES - 1:
                    yield False
                    return
                time.sleep(0)  # for whoever holds it, who may be waiting for this processor
        try:
            yield True
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def begin(self, row: int) -> bool:
        """Takes a row for a process that begins; whether another one had it before."""
        used = bool(self._memory[self._rows_at + row])
        self._memory[self._rows_at + row] = 1
        self.clear(row)
        return used

    def clear(self, row: int) -> None:
        """Forgets the jobs of a process that is gone."""
        for task in range(self._tasks):
            self.set_own(task, row, 0)

    def read(self, task: int) -> Shared:
        """What is known of a task."""
        return Shared(*_SHARED.unpack_from(self._memory, task * self._size))

    def write(self, task: int, shared: Shared) -> None:
        """Changes it; under the lock."""
        _SHARED.pack_into(self._memory, task * self._size, *shared)

    def own(self, task: int, row: int) -> int:
        """How many jobs of a task a process has."""
        count: int = _COUNT.unpack_from(self._memory, self._at(task, row))[0]
        return count

    def set_own(self, task: int, row: int, count: int) -> None:
        """Says how many jobs of a task a process has; only it does, and whoever buries it."""
        _COUNT.pack_into(self._memory, self._at(task, row), count)

    def all(self, task: int) -> int:
        """How many jobs of a task all processes have."""
        start = self._at(task, 0)
        return sum(count for (count,) in _COUNT.iter_unpack(self._memory[start : start + (self.rows + 1) * 4]))

    def _at(self, task: int, row: int) -> int:
        return task * self._size + _SHARED.size + row * _COUNT.size


class WorkerGate:
    """Keeps the limits of a task among the processes of one worker: `most` jobs at once, and a `rate` of starts.

    `random` returns a float in [0, 1), so that the processes do not look all at once.
    """

    def __init__(
        self, table: LimitTable, task: int, row: int, most: int | None, rate: Rate | None, random: Callable[[], float]
    ) -> None:
        self._table = table
        self._task = task
        self._row = row
        self._most = most
        self._rate = rate
        self._random = random
        self._again = 0.0
        self._owed = 0

    def enter(self, now: float) -> bool:
        """See `gtask.worker.gate.Gate`."""
        table, task = self._table, self._task
        with table.locked() as held:
            if not held:
                self._again = now + BUSY
                return False
            if self._most is not None and table.all(task) >= self._most:
                self._again = now + LOOK * (0.5 + self._random())
                return False
            if self._rate is not None and not self._take(self._rate, now):
                return False
            table.set_own(task, self._row, table.own(task, self._row) + 1)
            return True

    def _take(self, rate: Rate, now: float) -> bool:
        each = 1.0 / rate.per_second
        shared = self._table.read(self._task)
        full_at = shared.full_at - self._owed * each
        start = full_at - (rate.burst - 1) * each
        if now < start:
            self._again = min(start, now + LOOK_RATE * (0.5 + self._random()))
            return False
        self._owed = 0
        self._table.write(self._task, shared._replace(full_at=max(full_at, now) + each))
        return True

    def nothing(self, now: float) -> None:
        """See `gtask.worker.gate.Gate`: the token is given back with the next look, for which the lock is held."""
        self.ended(now)
        if self._rate is None:
            return
        self._owed += 1
        with self._table.locked() as held:
            if held:
                shared = self._table.read(self._task)
                full_at = shared.full_at - self._owed / self._rate.per_second
                self._table.write(self._task, shared._replace(full_at=full_at))
                self._owed = 0

    def ended(self, now: float) -> None:
        """See `gtask.worker.gate.Gate`."""
        self._table.set_own(self._task, self._row, max(0, self._table.own(self._task, self._row) - 1))

    def rest(self, now: float) -> None:
        """See `gtask.worker.gate.Gate`: nothing is kept in hand."""

    def again(self, now: float) -> float:
        """See `gtask.worker.gate.Gate`."""
        return self._again
