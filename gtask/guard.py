"""Watches over the jobs of one process: what runs is in the ledger, and what has killed others is not run again.

Design, section 6: a job whose process died `max_crashes` times on this host is failed with `WorkerLost`, one that was
killed for its time limit with `TimeLimitExceeded`; neither is run once more.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Final

from gtask.errors import TaskError, TimeLimitExceeded, WorkerLost
from gtask.worker.job import Job
from gtask.worker.ledger import NO_BLAME, Ledger

SETTLED: Final = 0.5
"""Seconds that a death is waited for to be settled; a process that still runs then has lost its connection."""

NO_SLOT: Final = -1


class Guard:
    """The part of a ledger that belongs to one process: `slots`, one for each job it runs at once."""

    def __init__(self, ledger: Ledger, slots: range, max_crashes: int) -> None:
        self._ledger = ledger
        self._slots = slots
        self._free = deque(slots)
        self._max_crashes = max_crashes

    def verdict(self, job: Job) -> TaskError | None:
        """Why a job is not to be run any more; None for nearly every one."""
        # The job server may be faster to hand the job on than the supervisor is to hear that its process died.
        if self._ledger.runs_elsewhere(job.unique, self._slots):
            patience = time.monotonic() + SETTLED
            while self._ledger.runs_elsewhere(job.unique, self._slots) and time.monotonic() < patience:
                time.sleep(0.002)
        blame = self._ledger.blamed(job.unique)
        if blame is NO_BLAME:
            return None
        if blame.late:
            return TimeLimitExceeded()
        if blame.crashes >= self._max_crashes:
            return WorkerLost(f"The task's process died {blame.crashes} times while it ran, so it is not run again.")
        return None

    def begin(self, job: Job) -> int:
        """Notes in the ledger that a job runs; returns the slot it runs in, which `end` gives back.

        What is raised in between ends the process, so the job stays noted: it is to blame as for any other death.
        """
        # More jobs than there are slots run only while many others wait for them.
        slot = self._free.popleft() if self._free else NO_SLOT
        if slot != NO_SLOT:
            self._ledger.begin(slot, job.unique, job.function)
        return slot

    def end(self, slot: int) -> None:
        """Notes that the job in a slot has ended."""
        if slot != NO_SLOT:
            self._ledger.end(slot)
            self._free.append(slot)

    def note(self, slot: int, job: Job, id: str, root: str) -> None:
        """Notes of which task, and of which whole, the job in a slot is a part."""
        if slot != NO_SLOT:
            self._ledger.note(slot, job.unique, id, root)

    def kill_after(self, slot: int, seconds: float) -> None:
        """Has the supervisor kill this process when the job in a slot runs longer than so many seconds from now."""
        if slot != NO_SLOT:
            self._ledger.set_deadline(slot, time.monotonic() + seconds)
