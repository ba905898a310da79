"""Small calls a little later, in one thread of the process: for what a run reports when it has fallen silent.

The thread starts with the first call, and a process that never makes one has none. A call is to be quick: they are made
one after the other.
"""

from __future__ import annotations

import heapq
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from itertools import count

log = logging.getLogger("gtask.worker")

_all: weakref.WeakSet[Timers] = weakref.WeakSet()


class Timers:
    """Calls functions at their time. Every method may be called from any thread.

    Nothing bounds how many wait: whoever uses it has one call under way for each job at most.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._reset()
        _all.add(self)

    def __repr__(self) -> str:
        return f"<Timers {self._name}, {len(self._waiting)} waiting>"

    def _reset(self) -> None:
        self._news = threading.Condition()
        self._waiting: list[tuple[float, int, Callable[[], object]]] = []
        self._count = count()
        self._thread: threading.Thread | None = None

    def call(self, seconds: float, function: Callable[[], object]) -> None:
        """Calls `function` in `seconds` seconds, in a thread of its own kind; what it raises is logged."""
        with self._news:
            heapq.heappush(self._waiting, (time.monotonic() + seconds, next(self._count), function))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            else:
                self._news.notify()

    def _left(self) -> float | None:
        return self._waiting[0][0] - time.monotonic() if self._waiting else None

    def _run(self) -> None:
        while True:
            with self._news:
                left = self._left()
                while left is None or left > 0:
                    self._news.wait(left)
                    left = self._left()
                function = heapq.heappop(self._waiting)[2]
            try:
                function()
            except Exception:
                log.exception("A call of the timer %r failed.", self._name)
            del function  # or the thread would keep what it holds until the next call


def _after_fork() -> None:
    for timers in list(_all):
        timers._reset()


os.register_at_fork(after_in_child=_after_fork)

REPORTS = Timers("gtask-reports")
"""For what a run says on its connection."""

WRITES = Timers("gtask-writes")
"""For what a run has written to a store meanwhile, which may take its time."""
