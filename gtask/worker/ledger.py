"""What runs where, in memory that a supervisor shares with its processes: who is to blame when one dies.

A job that kills its process is given to another one by the job server, again and again. Nobody but the supervisor sees
such a death, and a dead process cannot say what it was running; so each notes here what it begins and ends. Only what
was running is blamed: jobs that a process merely held back are not (design, section 6).

One writer for each part, so there is no lock: a process writes its own slots, the supervisor writes the blame. A slot
is written so that a reader who comes in between sees a job that has ended or one that has begun, never a mixture.
"""

from __future__ import annotations

import mmap
import struct
from typing import Final, NamedTuple

MAX_ID: Final = 64
"""Bytes of a unique that are kept; longer ones do not exist (protocol reference, section 3)."""

BLAMED: Final = 1024
"""Jobs whose crashes are remembered at once; the oldest is forgotten for a new one."""

_HEAD: Final = struct.Struct("=IId")
_COUNTS: Final = struct.Struct("=II")
_SLOT: Final = struct.Struct("=dB64s64s")
_DEADLINE: Final = struct.Struct("=d")
_BLAME: Final = struct.Struct("=HB64s")


class Running(NamedTuple):
    """A job in a slot: its unique and its function, the latter cut to 64 bytes."""

    slot: int
    unique: str
    function: str

    def __str__(self) -> str:
        return f"{self.function}[{self.unique}]"


class Ledger:
    """`slots` places for running jobs, and the jobs blamed for the death of a process; made before the forks."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._blame_at = _HEAD.size + slots * _SLOT.size
        self._memory = mmap.mmap(-1, self._blame_at + BLAMED * _BLAME.size)

    def __repr__(self) -> str:
        return f"<Ledger {self._slots} slots, {self._count} blamed>"

    # --- a process's own slots -------------------------------------------------------------------------------

    def begin(self, slot: int, unique: str, function: str, deadline: float = 0.0) -> None:
        """Notes that a job begins; `deadline` is the `time.monotonic()` at which it is to be killed, 0 for never."""
        position = _HEAD.size + slot * _SLOT.size
        _SLOT.pack_into(self._memory, position, deadline, 1, unique.encode()[:MAX_ID], function.encode()[:MAX_ID])

    def set_deadline(self, slot: int, deadline: float) -> None:
        """Sets the time at which the job in a slot is to be killed."""
        _DEADLINE.pack_into(self._memory, _HEAD.size + slot * _SLOT.size, deadline)

    def end(self, slot: int) -> None:
        """Notes that the job in a slot has ended."""
        position = _HEAD.size + slot * _SLOT.size
        self._memory[position + _DEADLINE.size] = 0
        _DEADLINE.pack_into(self._memory, position, 0.0)

    # --- the supervisor --------------------------------------------------------------------------------------

    def running(self, slots: range) -> list[Running]:
        """The jobs that run in these slots."""
        found = (self._read(slot) for slot in slots)
        return [job for _, runs, job in found if runs]

    def overdue(self, now: float) -> list[Running]:
        """The jobs that have run beyond their deadline."""
        found = (self._read(slot) for slot in range(self._slots))
        return [job for deadline, runs, job in found if runs and 0.0 < deadline <= now]

    def clear(self, slots: range) -> None:
        """Empties the slots of a process that is gone."""
        for slot in slots:
            self.end(slot)

    def blame(self, unique: str, timed_out: bool = False) -> int:
        """Counts one crash for a job, or notes that it was killed for its time; returns its crashes."""
        raw = unique.encode()[:MAX_ID]
        index, count, late = self._find(raw)
        if index is None:
            number, after = _COUNTS.unpack_from(self._memory)
            index = after % BLAMED
            _COUNTS.pack_into(self._memory, 0, min(BLAMED, number + 1), after + 1)
        count += not timed_out
        flag = 1 if late or timed_out else 0
        _BLAME.pack_into(self._memory, self._blame_at + index * _BLAME.size, min(count, 65535), flag, raw)
        return count

    # --- everybody -------------------------------------------------------------------------------------------

    def crashes(self, unique: str) -> int:
        """How often a process died while it ran this job."""
        return self._find(unique.encode()[:MAX_ID])[1] if self._count else 0

    def runs_elsewhere(self, unique: str, own: range) -> bool:
        """Whether a slot outside of `own` says that it runs this job.

        Its process has died then and the supervisor has not settled that yet, or it has lost its connection.
        """
        raw = unique.encode()[:MAX_ID]
        position = _HEAD.size
        while raw and (position := self._memory.find(raw, position, self._blame_at)) >= 0:
            slot = (position - _HEAD.size) // _SLOT.size
            _, runs, job = self._read(slot)
            if runs and slot not in own and job.unique == unique:
                return True
            position += 1
        return False

    def timed_out(self, unique: str) -> bool:
        """Whether a process was killed because this job ran beyond its limit."""
        return self._find(unique.encode()[:MAX_ID])[2] if self._count else False

    @property
    def died_at(self) -> float:
        """The Unix time at which a process last died before its time, 0 for never."""
        moment: float = _HEAD.unpack_from(self._memory)[2]
        return moment

    @died_at.setter
    def died_at(self, moment: float) -> None:
        _DEADLINE.pack_into(self._memory, _COUNTS.size, moment)

    @property
    def _count(self) -> int:
        count: int = _COUNTS.unpack_from(self._memory)[0]
        return count

    def _read(self, slot: int) -> tuple[float, bool, Running]:
        deadline, runs, unique, function = _SLOT.unpack_from(self._memory, _HEAD.size + slot * _SLOT.size)
        return deadline, bool(runs), Running(slot, _text(unique), _text(function))

    def _find(self, raw: bytes) -> tuple[int | None, int, bool]:
        padded = raw.ljust(MAX_ID, b"\0")
        for index in range(self._count):
            count, late, found = _BLAME.unpack_from(self._memory, self._blame_at + index * _BLAME.size)
            if found == padded:
                return index, count, bool(late)
        return None, 0, False


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")
