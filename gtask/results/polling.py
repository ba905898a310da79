"""Waiting by looking again and again, for stores that tell nobody. Design, section 3."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

import anyio
import anyio.to_thread

from gtask.errors import ResultsUnavailable

GROWTH: Final = 1.5
AWAY: Final = 0.5
"""Seconds between two looks at a store that is away."""

T = TypeVar("T")


class Poll:
    """When to look again, and when to give up.

    `timeout` is how many seconds the wait lasts, `first` and `last` are the shortest and the longest pause between two
    looks. `away` is how many seconds a store that was there may be away before the wait is given up; `seen` is when it
    last was, on the clock of `time.monotonic`, None where this process has not met it yet.
    """

    def __init__(self, timeout: float, first: float, last: float, away: float = 0.0, seen: float | None = None) -> None:
        self._deadline = time.monotonic() + timeout
        self._nap = first
        self._last = last
        self._away = away
        self._seen = seen

    def looked(self) -> float | None:
        """Nothing was found: the seconds until the next look, None when the time is over."""
        now = self._seen = time.monotonic()
        nap, self._nap = self._nap, min(self._nap * GROWTH, self._last)
        left = self._deadline - now
        return min(nap, left) if left > 0 else None

    def failed(self, error: ResultsUnavailable) -> float | None:
        """The store is away: as `looked`, or raises the error."""
        now = time.monotonic()
        if self._seen is None or now - self._seen >= self._away:
            raise error
        left = self._deadline - now
        return min(AWAY, left) if left > 0 else None


def poll(look: Callable[[], T], nothing: Callable[[T], bool], when: Poll) -> T:
    """Looks until there is something or the time is over; returns what was seen last."""
    while True:
        try:
            found = look()
        except ResultsUnavailable as error:
            nap = when.failed(error)
        else:
            nap = when.looked() if nothing(found) else None
        if nap is None:
            return found
        time.sleep(nap)


async def apoll(look: Callable[[], T], nothing: Callable[[T], bool], when: Poll) -> T:
    """`poll` for async code; each look takes a thread, the time between them does not."""
    while True:
        try:
            found = await anyio.to_thread.run_sync(look)
        except ResultsUnavailable as error:
            nap = when.failed(error)
        else:
            nap = when.looked() if nothing(found) else None
        if nap is None:
            return found
        await anyio.sleep(nap)
