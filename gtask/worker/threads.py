"""Several tasks at a time, each in a thread of its own: the pool `thread`.

The main thread carries the bytes; a thread that ends a job sends its result itself, with what else is due, so an
answer waits for nobody.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Final

from gtask.worker.blocking import BlockingDriver
from gtask.worker.job import Job
from gtask.worker.solo import Run

log = logging.getLogger("gtask.worker")

MAX_WAIT: Final = 60.0


class ThreadPool:
    """Runs jobs in `size` threads; `max_jobs` ends it after so many, 0 never.

    `at_end` is called in each thread before it ends.
    """

    def __init__(
        self,
        driver: BlockingDriver,
        run: Run,
        size: int,
        max_jobs: int = 0,
        at_end: Callable[[], None] | None = None,
    ) -> None:
        self._at_end = at_end
        self._driver = driver
        self._run = run
        self._size = size
        self._max_jobs = max_jobs
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()

    def serve(self) -> None:
        """Serves until the driver was stopped and nothing is held any more."""
        driver, core = self._driver, self._driver.core
        threads = [threading.Thread(target=self._work, name=f"task-{n}", daemon=True) for n in range(self._size)]
        for thread in threads:
            thread.start()
        taken = 0
        while not (core.stopping and core.idle):
            while (job := driver.take()) is not None:
                self._jobs.put(job)
                taken += 1
                if taken == self._max_jobs:
                    driver.stop()
            driver.pump(MAX_WAIT)
        driver.pump()
        for _ in threads:
            self._jobs.put(None)
        for thread in threads:
            thread.join(MAX_WAIT)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            ending = self._run(job)
            if ending is not None:
                self._driver.finish(job, ending)
            core = self._driver.core
            # The main thread hands out jobs and ends the pool; it sleeps unless it is told that there is cause.
            if core.backlog or core.stopping:
                self._driver.wake()
        if self._at_end is not None:
            self._at_end()
