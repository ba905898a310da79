"""What a supervisor has to end by force: jobs beyond their hard time limit, and those of tasks that were revoked.

Both are killed with their process, which works whatever that process does. It is no crash of the job's: one that was
late is failed by the next process that gets it, one that was revoked is recognised by its mark.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from gtask.worker.ledger import Ledger, Running
from gtask.worker.marks import MarkTable

TOLD: Final = 1.5
"""Seconds that a late job lives on until other hosts are told of it, so that none of them runs it once more."""


class Due(NamedTuple):
    """A job to end, why, and whether that is for its time limit."""

    job: Running
    reason: str
    late: bool


class Watch:
    """Looks through a ledger for jobs to end. Without `marks` none is ended for being revoked."""

    def __init__(self, ledger: Ledger, marks: MarkTable | None = None) -> None:
        self._ledger = ledger
        self._marks = marks
        self._terminations = 0
        self._late: dict[str, float] = {}

    def due(self, now: float) -> list[Due]:
        """The jobs to end at this `time.monotonic()`.

        A job that is late is blamed for it at once. Where another process tells other hosts, it is due when that has
        done so, or after a while.
        """
        late = self._ledger.overdue(now)
        due = [job for job in late if self._told(job, now)]
        if self._late:
            uniques = {job.unique for job in late}
            self._late = {unique: since for unique, since in self._late.items() if unique in uniques}
        found = [Due(job, "ran longer than its time limit", late=True) for job in due]
        if self._marks is not None and self._marks.terminations != self._terminations:
            self._terminations = self._marks.terminations
            running = self._ledger.running(range(self._ledger.slots))
            found += [Due(job, "was revoked", late=False) for job in running if self._stops(job)]
        return found

    def next(self, now: float, pause: float) -> float:
        """When to look again: `pause` seconds from now, sooner while a late job is about to be told of."""
        return now + (min(pause, 0.01) if self._late else pause)

    def _told(self, job: Running, now: float) -> bool:
        since = self._late.get(job.unique)
        if since is None:
            self._late[job.unique] = now
            self._ledger.blame(job, timed_out=True)
            return not self._ledger.tells
        return self._ledger.is_told(self._ledger.blamed(job.unique)) or now - since > TOLD

    def _stops(self, job: Running) -> bool:
        marks = self._marks
        assert marks is not None
        return any(marks.stops(id) for id in self._ledger.ids(job))
