"""Ending jobs: results and continuations are confirmed by the job server before the job itself is ended.

The order is a promise (design, section 6): carried results → submissions → the packet that ends the job. Each step
waits for the JOB_CREATED of the one before. What is carried for the same function goes together: while one such job
waits for its confirmation, the results of the jobs that end meanwhile gather for the next, so that a busy worker
sends few large ones and an idle one sends each at once.

A refusal for want of room or of a database (QUEUE_ERROR) is tried again with growing pauses. When it goes on for
`PATIENCE` seconds the connection is given up: the jobs go back to the job server, and nothing is lost. A job for a
later time is tried without its time in the end: some queues take none, and whoever gets it early has it wait on, which
beats running the task again and again. What has an `instead` is submitted so after `OPTIONAL_PATIENCE` seconds: a
delayed job whose task's queue is full waits again, or it would in the end cost all that came over the connection an
attempt. Only what is optional (a dead letter) is let go instead, after
`OPTIONAL_PATIENCE` seconds or, where its queue is full, at once: that is emptied by hand.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from gtask.errors import LocalProtocolError, QueueFull
from gtask.protocol import Event, JobCreated, Refused
from gtask.types import Submission
from gtask.worker.job import Carried, End, Ending, Job
from gtask.worker.link import Link
from gtask.worker.orphans import Orphans

log = logging.getLogger("gtask.worker")

PATIENCE: Final = 60.0
"""Seconds a refused step is tried again before the connection is given up."""

OPTIONAL_PATIENCE: Final = 5.0
"""Seconds a refused step that is optional is tried again before it is let go."""

TIMES_REFUSED: Final = 3
"""How often a job for a later time is refused before it is tried without its time (protocol reference, section 20)."""

UNTIMED: Final = 600.0
"""Seconds for which a job server that took a job only without its time is given none with a time."""

FIRST_PAUSE: Final = 0.25
MAX_PAUSE: Final = 5.0

MAX_ITEMS: Final = 500
MAX_BYTES: Final = 1024 * 1024
"""What one carrying job holds at most: items, and bytes unless a single item is larger."""


class _Step:
    """One submission under way for the endings of some jobs; called with what becomes of it."""

    __slots__ = (
        "carries",
        "endings",
        "instead",
        "jobs",
        "link",
        "optional",
        "pauses",
        "since",
        "submission",
        "untimed",
    )

    def __init__(
        self,
        endings: Endings,
        link: Link,
        submission: Submission,
        jobs: list[tuple[Job, Ending]],
        carries: bool = False,
        optional: bool = False,
    ) -> None:
        self.endings = endings
        self.link = link
        self.submission = submission
        self.jobs = jobs
        self.carries = carries
        """Whether it holds results of jobs, rather than following from one."""
        self.optional = optional
        self.instead: Callable[[], Submission] | None = None
        self.untimed = False
        """Whether it is tried without its time, which was refused."""
        self.pauses = 0
        self.since = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, JobCreated):
            self.endings.confirmed(self)
        elif isinstance(event, Refused):
            self.endings.refused(self, event)


class Endings:
    """The endings under way of one worker; `now` is kept up to date by `WorkerCore`."""

    def __init__(self, pack: Callable[[str, Sequence[bytes]], bytes], new_unique: Callable[[], str]) -> None:
        self.now = 0.0
        self.give_up: set[Link] = set()
        """Links whose connection the driver is to close: their job server goes on refusing."""
        self._pack = pack
        self._new_unique = new_unique
        self.orphans = Orphans(pack, new_unique)
        self._open: dict[Job, Carried | None] = {}
        self._again: list[tuple[float, _Step]] = []

    @property
    def open(self) -> int:
        """How many jobs are ending."""
        return len(self._open)

    @property
    def retry_at(self) -> float:
        """When a refused step is to be tried again; infinity when none is."""
        return min((when for when, _ in self._again), default=math.inf)

    def begin(self, job: Job, ending: Ending) -> None:
        """Starts to end a job."""
        if ending.carried is None and not ending.submissions and not ending.optional:
            self._end(job, ending)
            return
        self._open[job] = ending.carried
        if ending.carried is not None and ending.carried.items:
            job.link.batches.setdefault(ending.carried.function, deque()).append((job, ending))
        else:
            self._follow(job, ending)

    def flush(self, link: Link) -> None:
        """Sends what has gathered over a link, one carrying job for each function at a time."""
        self.orphans.flush(link, self.now)
        if self._again and self.retry_at <= self.now:
            due = [step for when, step in self._again if when <= self.now]
            self._again = [entry for entry in self._again if entry[0] > self.now]
            for step in due:
                self._submit(step)
        for function, gathered in link.batches.items():
            if gathered and function not in link.batches_under_way:
                jobs, items = _cut(gathered)
                submission = Submission(function, self._pack(function, items), self._new_unique())
                link.batches_under_way.add(function)
                self._submit(_Step(self, link, submission, jobs, carries=True))

    def lost(self, link: Link) -> None:
        """Lets go of the endings of a connection that is gone, but for the results that are not handed over yet."""
        dropped = [job for job in self._open if job.link is link]
        for job in dropped:
            carried = self._open.pop(job)
            if carried is not None:
                self.orphans.add(carried, self.now)
        if dropped:
            log.warning(
                "%s: the connection ended before %d jobs that had run. Their results are handed over all the same; the "
                "job server may have them run again if it keeps its queue.",
                link.server,
                len(dropped),
            )
        self._again = [entry for entry in self._again if entry[1].link is not link]
        self.give_up.discard(link)

    def ended_late(self, job: Job, ending: Ending) -> None:
        """A job has run whose connection is gone: its result is handed over all the same."""
        kept = ending.carried is not None and self.orphans.add(ending.carried, self.now)
        log.warning(
            "%s[%s] ended after its connection: %sthe job server may have it run again if it keeps its queue.",
            job.function,
            job.unique,
            "its result is handed over all the same, and " if kept else "",
        )

    def confirmed(self, step: _Step) -> None:
        """A step is safe with the job server: takes the next one of each job that waited for it."""
        if step.untimed:
            step.link.untimed_until = self.now + UNTIMED
        if step.carries:
            step.link.batches_under_way.discard(step.submission.function)
            for job, ending in step.jobs:
                if job in self._open:
                    self._open[job] = None
                self._follow(job, ending)
            return
        job, ending = step.jobs[0]
        job.waiting -= 1
        if not job.waiting:
            self._end(job, ending)

    def refused(self, step: _Step, event: Refused) -> None:
        """A step was refused: tries again later, gives the connection up, or fails the jobs."""
        step.since = step.since or self.now
        if step.optional and self._is_hopeless(step, event):
            self._let_go(step, event.error)
        elif event.error.code != "QUEUE_ERROR":
            self._fail(step, event.error)
        elif step.instead is not None and self.now - step.since >= OPTIONAL_PATIENCE:
            step.submission, step.instead = step.instead(), None
            step.since = step.pauses = 0
            self._submit(step)
        elif self.now - step.since >= PATIENCE:
            log.error("%s goes on refusing %s: %s", step.link.server, step.submission.function, event.error)
            self.give_up.add(step.link)
        else:
            pause = min(MAX_PAUSE, FIRST_PAUSE * 2**step.pauses)
            if not step.pauses:
                log.warning("%s refused %s: %s Trying again.", step.link.server, step.submission.function, event.error)
            step.pauses += 1
            if step.pauses >= TIMES_REFUSED and step.submission.when is not None:
                step.submission = replace(step.submission, when=None)
                step.untimed = True
            self._again.append((self.now + pause, step))

    def _is_hopeless(self, step: _Step, event: Refused) -> bool:
        full = isinstance(event.error, QueueFull) or event.error.code != "QUEUE_ERROR"
        return full or self.now - step.since >= OPTIONAL_PATIENCE

    def _let_go(self, step: _Step, error: Exception) -> None:
        job = step.jobs[0][0]
        log.error(
            "%s refused %s for %s[%s], which ends without it: %s",
            step.link.server,
            step.submission.function,
            job.function,
            job.unique,
            error,
        )
        self.confirmed(step)

    def _fail(self, step: _Step, error: Exception) -> None:
        if step.optional:
            self._let_go(step, error)
            return
        log.error("%s will never take %s: %s", step.link.server, step.submission.function, error)
        if step.carries:
            step.link.batches_under_way.discard(step.submission.function)
        for job, _ in step.jobs:
            job.waiting = 0
            self._end(job, Ending(End.FAIL))

    def _submit(self, step: _Step) -> None:
        if step.link.protocol is not None and not step.link.protocol.closed:
            if step.submission.when is not None and self.now < step.link.untimed_until:
                step.submission = replace(step.submission, when=None)
            try:
                step.link.protocol.submit(step.submission, step)
            except LocalProtocolError as error:
                self._fail(step, error)

    def _follow(self, job: Job, ending: Ending) -> None:
        steps = [_Step(self, job.link, submission, [(job, ending)]) for submission in ending.submissions]
        steps += [_Step(self, job.link, submission, [(job, ending)], optional=True) for submission in ending.optional]
        if ending.instead is not None and len(steps) == 1:
            steps[0].instead = ending.instead
        job.waiting = len(steps)
        for step in steps:
            self._submit(step)
        if not steps:
            self._end(job, ending)

    def _end(self, job: Job, ending: Ending) -> None:
        self._open.pop(job, None)
        protocol = job.link.protocol
        if job.lost or protocol is None or protocol.closed or job.handle not in protocol.held:
            return
        if ending.end is End.COMPLETE:
            protocol.complete(job.handle, ending.data)
        elif ending.end is End.EXCEPTION:
            protocol.exception(job.handle, ending.data)
        else:
            protocol.fail(job.handle)


def join_items(function: str, items: Sequence[bytes]) -> bytes:
    """One workload of several carried items: their bytes one after the other."""
    return b"".join(items)


def _cut(gathered: deque[tuple[Job, Ending]]) -> tuple[list[tuple[Job, Ending]], list[bytes]]:
    """Takes the jobs of the next carrying job from the front."""
    jobs: list[tuple[Job, Ending]] = []
    items: list[bytes] = []
    size = 0
    while gathered and len(items) < MAX_ITEMS:
        carried = gathered[0][1].carried
        assert carried is not None
        length = sum(map(len, carried.items))
        if jobs and size + length > MAX_BYTES:
            break
        size += length
        items.extend(carried.items)
        jobs.append(gathered.popleft())
    return jobs, items
