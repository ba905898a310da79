"""One task at a time, in the thread that called: the pool `solo`, and each process of the pool `prefork`.

Between two tasks this thread carries the bytes itself, so a short task costs no hop to another thread. The `_keep`
thread looks up now and then; when one task has been running since it last looked, it carries the bytes until the
task is over: heartbeats are answered and progress goes out though the task computes or blocks.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Final

from gtask.worker.blocking import BlockingDriver
from gtask.worker.job import Ending, Job

Run = Callable[[Job], Ending | None]
"""Runs a job and says how it ends; None when it was put off and is no longer this thread's."""

FLUSH_EVERY: Final = 0.002
"""Seconds that an ended job may wait for others to be sent together with it."""

LOOK_IDLE: Final = 0.25
LOOK_BUSY: Final = 0.02
"""Seconds between two looks of the keeper."""

MAX_WAIT: Final = 60.0


class SoloPool:
    """Runs jobs one after the other in the calling thread.

    `max_jobs` ends it after so many, 0 never.
    """

    def __init__(self, driver: BlockingDriver, run: Run, max_jobs: int = 0) -> None:
        self._driver = driver
        self._run = run
        self._max_jobs = max_jobs
        self._runs = 0
        self._busy = False
        self._keeping = False
        self._done = threading.Event()

    def serve(self) -> None:
        """Serves until the driver was stopped and nothing is held any more."""
        driver, core = self._driver, self._driver.core
        keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        keeper.start()
        try:
            flushed = time.monotonic()
            while True:
                job = driver.take()
                if job is None:
                    self._busy = False
                    if core.stopping and core.idle:
                        break
                    driver.pump(MAX_WAIT)
                    flushed = time.monotonic()
                    continue
                self._runs += 1
                self._busy = True
                ending = self._run(job)
                if ending is not None:
                    driver.finish(job, ending, flush=False)
                # In this order, as the keeper does it the other way round: one of the two sees the other, so it never
                # waits for bytes while this thread waits for it.
                self._busy = False
                if self._keeping:
                    driver.wake()
                if self._runs == self._max_jobs:
                    driver.stop()
                if core.backlog and time.monotonic() - flushed > FLUSH_EVERY:
                    driver.pump()
                    flushed = time.monotonic()
            driver.pump()
        finally:
            self._done.set()
            driver.wake()
            keeper.join(MAX_WAIT)

    def _keep(self) -> None:
        # Signals are for the thread that runs the task: a time limit interrupts what it is waiting in.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGTERM})
        seen = -1
        while not self._done.wait(LOOK_BUSY if self._busy else LOOK_IDLE):
            runs = self._runs
            if self._busy and runs == seen:
                self._keeping = True
                while self._busy and runs == self._runs and not self._done.is_set():
                    self._driver.pump(MAX_WAIT)
                self._keeping = False
            seen = runs
