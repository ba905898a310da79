"""A heap of jobs that are to be looked at later. Pure."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final

from gtask.server.jobs import Job, Timer

COMPACT_AT: Final = 1024
"""Cancelled timers a heap may hold before it is swept, unless more of it is live."""


class Timers:
    """Jobs by time. A job has at most one timer, `job.timer`; a cancelled one stays in the heap until it is swept."""

    __slots__ = ("_count", "_heap", "_stale")

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._count = 0
        self._stale = 0

    def __len__(self) -> int:
        return len(self._heap) - self._stale

    def set(self, job: Job, when: float) -> None:
        """Gives the job a timer."""
        self._count += 1
        job.timer = (when, self._count, job)
        heappush(self._heap, job.timer)

    def cancel(self, job: Job) -> None:
        """Takes the job's timer away."""
        job.timer = None
        self._stale += 1
        if self._stale > COMPACT_AT and self._stale > len(self._heap) // 2:
            self._heap = [timer for timer in self._heap if timer[2].timer is timer]
            heapify(self._heap)
            self._stale = 0

    def next(self) -> float | None:
        """When the first timer is due, or None."""
        heap = self._heap
        while heap and heap[0][2].timer is not heap[0]:
            heappop(heap)
            self._stale -= 1
        return heap[0][0] if heap else None

    def due(self, now: float) -> list[Job]:
        """Takes out the jobs whose time has come, in order."""
        jobs: list[Job] = []
        while (when := self.next()) is not None and when <= now:
            job = heappop(self._heap)[2]
            job.timer = None
            jobs.append(job)
        return jobs
