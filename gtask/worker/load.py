"""How many jobs a worker asks for: free slots, and for short tasks a few more.

Waiting for the next job after each one costs a round trip, which short tasks cannot afford; holding jobs back from
other workers costs them work, which long tasks cannot afford. So measured run times decide: jobs are held beyond the
free slots only as far as all that is held takes about `HOLD` seconds (design, section 7).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gtask.worker.job import Job

HOLD: Final = 0.020
"""Seconds of work that may be held back from other workers."""

MAX_HELD: Final = 256
"""Jobs held beyond the free slots at most, whatever their run time."""

_SHORTEST: Final = 0.00002
"""Seconds a run is taken to last at least: below it the clock's and the loop's own share is larger."""


class Load:
    """The measured run times of one worker, and what they allow."""

    def __init__(self, slots: int, prefetch: int | None) -> None:
        self._slots = slots
        self._prefetch = prefetch
        self._times: dict[str, float] = {}
        self._mean: float | None = None
        self._held = 0.0

    def queued(self, job: Job) -> None:
        """A job waits for a slot."""
        job.weight = self._times.get(job.function, HOLD)
        self._held += job.weight

    def taken(self, job: Job) -> None:
        """A job that waited has a slot."""
        self._held = max(0.0, self._held - job.weight)

    def recount(self, backlog: Iterable[Job]) -> None:
        """The backlog was changed otherwise."""
        self._held = sum(job.weight for job in backlog)

    def measured(self, function: str, seconds: float) -> None:
        """A run took this long. A longer run than before counts at once, a shorter one little by little."""
        seconds = max(seconds, _SHORTEST)
        before = self._times.get(function, 0.0)
        self._times[function] = seconds if seconds > before else before + (seconds - before) * 0.1
        mean = self._mean or 0.0
        self._mean = seconds if seconds > mean else mean + (seconds - mean) * 0.1

    def wanted(self, running: int, waiting: int, outstanding: int) -> int:
        """How many more grabs to send, with so many jobs running and waiting and so many grabs under way."""
        free = self._slots - running - waiting - outstanding
        if self._prefetch is not None:
            return free + self._prefetch
        if self._mean is None:
            return free
        extra = int((HOLD * self._slots - self._held) / self._mean) - outstanding
        return max(free, min(extra, MAX_HELD - waiting - outstanding))
