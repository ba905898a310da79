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
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple
from zlib import crc32

MAX_ID: Final = 64
"""Bytes of a unique that are kept; longer ones do not exist (protocol reference, section 3)."""

BUCKETS: Final = 64
PLACES: Final = 16
"""So many times so many jobs' crashes are remembered; in a bucket the oldest makes room for a new one."""

TASK_ID: Final = 32
"""Characters of a task's id by gtask, with which the uniques of its jobs begin (`gtask.message.wire_unique`)."""

_HEAD: Final = struct.Struct("=IId")
_COUNTS: Final = struct.Struct("=II")
_SLOT: Final = struct.Struct("=dB64s64s")
_DEADLINE: Final = struct.Struct("=d")
_NOTE: Final = struct.Struct("=64s64s64s")
_BLAME: Final = struct.Struct("=64sHB64s64s")
_TOLD: Final = struct.Struct("=HB")


class Running(NamedTuple):
    """A job in a slot: its unique and its function, the latter cut to 64 bytes."""

    slot: int
    unique: str
    function: str

    def __str__(self) -> str:
        return f"{self.function}[{self.unique}]"


class Blame(NamedTuple):
    """What is blamed on a job: the deaths of processes that ran it, and whether one was killed for its time.

    `id` is its task's, `place` where it stands in the ledger.
    """

    place: int
    unique: str
    crashes: int
    late: bool
    id: str
    function: str


NO_BLAME: Final = Blame(-1, "", 0, False, "", "")


class Ledger:
    """`slots` places for running jobs, and the jobs blamed for the death of a process; made before the forks.

    One process, the `teller`, tells other hosts what is blamed on jobs here; it notes what it has told.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        """How many places there are."""
        self._notes_at = _HEAD.size + slots * _SLOT.size
        self._blame_at = self._notes_at + slots * _NOTE.size
        self._told_at = self._blame_at + BUCKETS * PLACES * _BLAME.size
        self._turns_at = self._told_at + BUCKETS * PLACES * _TOLD.size
        self._teller_at = self._turns_at + BUCKETS
        self._memory = mmap.mmap(-1, self._teller_at + 1)
        self.cleared: Callable[[range], object] | None = None
        """For whoever keeps more of a process by its slots: called when it is gone."""

    def __repr__(self) -> str:
        return f"<Ledger {self.slots} slots, {self._count} blamed>"

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

    def note(self, slot: int, unique: str, id: str, root: str) -> None:
        """Notes whose job runs in a slot, where its unique does not say it: the ids of its task and of the whole."""
        raw = (unique.encode()[:MAX_ID], id.encode()[:MAX_ID], root.encode()[:MAX_ID])
        _NOTE.pack_into(self._memory, self._notes_at + slot * _NOTE.size, *raw)

    # --- the supervisor --------------------------------------------------------------------------------------

    def ids(self, job: Running) -> tuple[str, ...]:
        """The ids of the task that a running job is a run of, and of the whole it belongs to, as far as they are known.

        The task's own comes first.
        """
        unique, id, root = _NOTE.unpack_from(self._memory, self._notes_at + job.slot * _NOTE.size)
        if job.unique and _text(unique) == job.unique:
            return tuple(filter(None, (_text(id), _text(root))))
        return (job.unique[:TASK_ID],) if len(job.unique) >= TASK_ID else ()

    def running(self, slots: range) -> list[Running]:
        """The jobs that run in these slots."""
        found = (self._read(slot) for slot in slots)
        return [job for _, runs, job in found if runs]

    def overdue(self, now: float) -> list[Running]:
        """The jobs that have run beyond their deadline."""
        found = (self._read(slot) for slot in range(self.slots))
        return [job for deadline, runs, job in found if runs and 0.0 < deadline <= now]

    def clear(self, slots: range) -> None:
        """Empties the slots of a process that is gone."""
        for slot in slots:
            self.end(slot)
        if self.cleared is not None:
            self.cleared(slots)

    def blame(self, job: Running, timed_out: bool = False) -> int:
        """Counts one crash for a job, or notes that it was killed for its time; returns its crashes."""
        raw = job.unique.encode()[:MAX_ID]
        place, _, count, late, _, _ = self._find(raw)
        if place < 0:
            bucket = crc32(raw) % BUCKETS
            turn = self._memory[self._turns_at + bucket]
            self._memory[self._turns_at + bucket] = (turn + 1) % PLACES
            place = bucket * PLACES + turn
            self._set_told(place, 0, False)
        count += not timed_out
        ids = self.ids(job)
        flag = 1 if late or timed_out else 0
        entry = (raw, min(count, 65535), flag, (ids[0] if ids else "").encode(), job.function.encode())
        _BLAME.pack_into(self._memory, self._blame_at + place * _BLAME.size, *entry)
        number, changes = _COUNTS.unpack_from(self._memory)
        _COUNTS.pack_into(self._memory, 0, number + 1, changes + 1)
        return count

    # --- the teller ------------------------------------------------------------------------------------------

    @property
    def tells(self) -> bool:
        """Whether a process tells other hosts what is blamed on jobs here."""
        return bool(self._memory[self._teller_at])

    @tells.setter
    def tells(self, tells: bool) -> None:
        self._memory[self._teller_at] = tells

    def untold(self) -> Iterator[tuple[Blame, int]]:
        """What was not told yet: the blame, and how many of its crashes were told."""
        for place in range(BUCKETS * PLACES if self._count else 0):
            blame = self._read_blame(place)
            told, late = _TOLD.unpack_from(self._memory, self._told_at + place * _TOLD.size)
            if blame.unique and (told < blame.crashes or late < blame.late):
                yield blame, told

    def told(self, blame: Blame) -> None:
        """Notes that this much was told."""
        self._set_told(blame.place, blame.crashes, blame.late)

    def _set_told(self, place: int, crashes: int, late: bool) -> None:
        _TOLD.pack_into(self._memory, self._told_at + place * _TOLD.size, crashes, late)

    # --- everybody -------------------------------------------------------------------------------------------

    def blamed(self, unique: str) -> Blame:
        """What is blamed on a job; nothing on nearly every one."""
        return self._find(unique.encode()[:MAX_ID]) if self._count else NO_BLAME

    def is_told(self, blame: Blame) -> bool:
        """Whether other hosts were told what is blamed on a job."""
        told, late = _TOLD.unpack_from(self._memory, self._told_at + blame.place * _TOLD.size)
        return bool(told >= blame.crashes and late >= blame.late)

    @property
    def changes(self) -> int:
        """Moves with each blame."""
        changes: int = _COUNTS.unpack_from(self._memory)[1]
        return changes

    def runs_elsewhere(self, unique: str, own: range) -> bool:
        """Whether a slot outside of `own` says that it runs this job.

        Its process has died then and the supervisor has not settled that yet, or it has lost its connection.
        """
        raw = unique.encode()[:MAX_ID]
        position = _HEAD.size
        while raw and (position := self._memory.find(raw, position, self._notes_at)) >= 0:
            slot = (position - _HEAD.size) // _SLOT.size
            if slot not in own:
                _, runs, job = self._read(slot)
                if runs and job.unique == unique:
                    return True
            position += 1
        return False

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

    def _find(self, raw: bytes) -> Blame:
        first = crc32(raw) % BUCKETS * PLACES
        start = self._blame_at + first * _BLAME.size
        bucket = self._memory[start : start + PLACES * _BLAME.size]
        position = bucket.find(raw) if raw else -1
        # A name of a task may be the same text, and the beginning of another unique; neither is meant.
        while position >= 0:
            place, within = divmod(position, _BLAME.size)
            if within == 0 and bucket[position : position + MAX_ID].rstrip(b"\0") == raw:
                return self._read_blame(first + place)
            position = bucket.find(raw, position + 1)
        return NO_BLAME

    def _read_blame(self, place: int) -> Blame:
        unique, count, late, id, function = _BLAME.unpack_from(self._memory, self._blame_at + place * _BLAME.size)
        return Blame(place, _text(unique), count, bool(late), _text(id), _text(function))


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")
