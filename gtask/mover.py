"""Moves delayed jobs into the queues of their tasks when they are due. Design, section 6a.

They wait on the job server, in one of three functions (`gtask.publish.DELAYED`), and are handed out a little before
they are due; the rest of their time, and so the fraction of a second, they are held here, while they are still the job
server's. A move is the submission of the job, confirmed, and then the end of the delayed one: a crash between the two
repeats the job, and loses none.

What comes much too early, from a queue that has forgotten times, is sent back to wait. Where the queue takes no times
at all it would come again at once; so it is held here meanwhile, and goes round only every `ROUND` seconds.
"""

from __future__ import annotations

import heapq
import logging
import time
from dataclasses import replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final, NamedTuple

from gtask.errors import DecodeError
from gtask.failures import error_info
from gtask.middleware.dead_letters import park_refused
from gtask.options import priority_of
from gtask.publish import AHEAD, FAR, LATER, Later, later_submission, unpack_later
from gtask.signing import open_job
from gtask.types import Submission
from gtask.worker.blocking import BlockingDriver, fresh_unique
from gtask.worker.job import End, Ending, Job
from gtask.worker.link import Lane

if TYPE_CHECKING:
    from gtask.app import App

log = logging.getLogger("gtask.worker")

MOST: Final = 10_000
"""Delayed jobs of one kind about to be due, and foreign calls under way, at once."""

LOOK: Final = 1.0
"""Seconds between two looks for what is due within seconds."""

FAR_LOOK: Final = 30.0
"""Seconds between two looks for what is due within minutes."""

LANES: Final = (Lane((LATER,), MOST, LOOK), Lane((FAR,), MOST // 10, FAR_LOOK, window=16))
"""Connections of their own for what waits with a time: each grab has gearmand look through all of it.

So few are under way at once where most waits, and a worker is not woken for each job that is sent there.
"""

HOLD: Final = 30.0
"""Seconds before its time that a job is held here rather than sent back to wait."""

ROUND: Final = 300.0
"""Seconds that a job is held which would come again at once if it were sent back."""

BATCH: Final = 256
"""Jobs that are moved before they are sent: of thousands that are due at once the first need not wait for the last."""

PAUSE: Final = 15.0
"""Seconds until a job is moved again that the queue of its task did not take."""

MAX_BYTES: Final = 64 * 1024 * 1024
"""Bytes of held jobs beyond which no more are asked for."""

IDLE: Final = 60.0


class _Held(NamedTuple):
    """A job that is held until `at` (`time.monotonic`); `order` keeps the order of equal times."""

    at: float
    order: int
    job: Job
    later: Later


class Mover:
    """Takes the jobs of `DELAYED` from a driver, and moves each when it is due; `worker` names it in dead letters."""

    def __init__(self, app: App, driver: BlockingDriver, worker: str) -> None:
        self._app = app
        self._driver = driver
        self._worker = worker
        self._keys = app.settings.signing_keys
        self._heap: list[_Held] = []
        self._bytes = 0
        self._count = count()
        self._openings: list[float] = []

    def __repr__(self) -> str:
        return f"<Mover {len(self._heap)} held>"

    def take(self, job: Job) -> None:
        """Takes a job of one of the functions."""
        now = time.time()
        try:
            later = unpack_later(open_job(self._keys, job.function, job.workload, now).workload)
        except DecodeError as error:
            self._refuse(job, error)
            return
        clock = time.monotonic()
        if later.due - now > HOLD and clock < job.link.untimed_until:
            self._hold(job, later, clock + min(later.due - now, ROUND))
        else:
            self._place(job, later)

    def tick(self, now: float) -> float:
        """Moves what is due, at `time.monotonic` seconds; returns when the next one is."""
        openings = [link.opened_at for link in self._driver.core.links]
        if openings != self._openings:
            self._openings = openings
            self._forget_lost()
        for _ in range(BATCH):
            if not self._heap or self._heap[0].at > now:
                break
            held = heapq.heappop(self._heap)
            self._bytes -= len(held.job.workload)
            if held.job.lost:
                self._driver.let_go(held.job)
            else:
                self._place(held.job, held.later)
        if self._driver.core.stopping:
            self._send_back_all(now + AHEAD)
        self._driver.core.full = self._bytes > MAX_BYTES
        return self._heap[0].at if self._heap else now + IDLE

    def _place(self, job: Job, later: Later) -> None:
        """Moves a job, holds it a little, or sends it back, as the time says: it is never early."""
        left = later.due - time.time()
        if left <= 0:
            self._move(job, later)
        elif left <= HOLD:
            self._hold(job, later, time.monotonic() + left)
        else:
            self._send_back(job, later)

    def _hold(self, job: Job, later: Later, at: float) -> None:
        heapq.heappush(self._heap, _Held(at, next(self._count), job, later))
        self._bytes += len(job.workload)

    def _move(self, job: Job, later: Later) -> None:
        moved = Submission(later.function, later.workload, later.unique, priority_of(later.priority))
        self._driver.finish(job, Ending(submissions=(moved,), instead=partial(self._later_still, later)), flush=False)

    def _later_still(self, later: Later) -> Submission:
        """What waits in place of a job that the queue of its task does not take: it is full (`maxqueue`)."""
        return later_submission(later, fresh_unique(), time.time(), self._keys, PAUSE)

    def _send_back(self, job: Job, later: Later) -> None:
        """Has a job wait on the job server again, nearer to its time or for all of it."""
        # In another function it keeps its unique, so that a repeated move is none. In the same one that is taken: by
        # this very job.
        back = later_submission(later, job.unique or fresh_unique(), time.time(), self._keys)
        if back.function == job.function:
            back = replace(back, unique=fresh_unique())
        self._driver.finish(job, Ending(submissions=(back,)), flush=False)

    def _send_back_all(self, beyond: float) -> None:
        """Sends back what a worker that is told to stop cannot wait for."""
        if any(held.at > beyond for held in self._heap):
            for held in self._heap:
                if held.at > beyond:
                    self._bytes -= len(held.job.workload)
                    self._send_back(held.job, held.later)
            self._heap = [held for held in self._heap if held.at <= beyond]
            heapq.heapify(self._heap)

    def _forget_lost(self) -> None:
        """Lets go of jobs whose connection is gone: the job server hands them out again."""
        for held in self._heap:
            if held.job.lost:
                self._bytes -= len(held.job.workload)
                self._driver.let_go(held.job)
        self._heap = [held for held in self._heap if not held.job.lost]
        heapq.heapify(self._heap)

    def _refuse(self, job: Job, error: DecodeError) -> None:
        log.error("A delayed job cannot be read, and is parked: %s", error)
        for middleware in self._app.middleware.refused:
            middleware.refused(job.function, error)
        parked = park_refused(self._app, job, error_info(error), self._worker)
        self._driver.finish(job, Ending(End.FAIL, optional=parked), flush=False)
