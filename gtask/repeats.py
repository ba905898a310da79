"""Recognises jobs that have run to their end before, so that they are not run again. Design, section 6.

A job server hands out a job once more when it did not hear of its end: the connection was cut, the worker died between
storing the result and reporting the end, or the database of the queue was away when the job was to be taken out of it,
and the server was started again. Where a result store is there, the task's record tells such a job from a new one.

Asking the store for every job would cost each of them a round trip, so only those are looked up that can have been
handed out before as far as this worker knows: the ones that were sent before it was last disturbed, which is when the
connection they came over was made, or when a process of this worker died. What is sent after that comes for the first
time, unless another worker had it meanwhile. The jobs that wait here beside one are looked up together with it.

Not recognised is a job that another worker (another host) has stored and not reported, while this one's connection
stayed; a task without a stored result (`ignore_result`, no store, one that has expired); a foreground call; a call of a
function in another language (`gtask.call`); and anything while the store does not answer. These are run: at least once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from gtask.context import TaskContext
from gtask.errors import DecodeError
from gtask.message import is_own_unique
from gtask.middleware.results import keeps_result
from gtask.results.records import record_to_outcome
from gtask.states import Outcome, Record
from gtask.worker.core import WorkerCore
from gtask.worker.job import Job
from gtask.worker.ledger import Ledger

if TYPE_CHECKING:
    from gtask.app import App

log = logging.getLogger("gtask.worker")

MARGIN: Final = 0.1
"""Seconds by which the clocks of callers and workers may differ."""

UNSAID: Final = 30.0
"""Seconds after a disturbance in which jobs that do not say when they were sent are looked up."""

MAX_IDS: Final = 256
"""Tasks that are looked up at once."""

FIRST_PAUSE: Final = 30.0
MAX_PAUSE: Final = 600.0
"""Seconds without looking after the store did not answer; each time twice as long."""

_NOTHING: Final = object()


class Repeats:
    """Looks up the jobs of one process of a worker: `core` holds them, `ledger` knows when a process last died."""

    def __init__(self, app: App, core: WorkerCore, ledger: Ledger | None = None) -> None:
        self._app = app
        self._core = core
        self._ledger = ledger
        self._blind_until = 0.0
        self._pause = FIRST_PAUSE

    def suspects(self, job: Job, context: TaskContext) -> bool:
        """Whether a job may have run before and the store would know; says no to nearly every one, at once."""
        if not keeps_result(context):
            return False
        headers = context.message.headers
        if job.mark is not None or headers.get("replayed"):
            return True
        sent = headers.get("sent")
        disturbed = self._disturbed(job)
        if sent is None:
            return time.time() - disturbed < UNSAID
        return max(float(sent), float(headers.get("eta", 0.0))) < disturbed + MARGIN

    def _disturbed(self, job: Job) -> float:
        """The Unix time since which nothing has happened that could have a job handed out twice."""
        opened = time.time() - (time.monotonic() - job.link.opened_at)
        return opened if self._ledger is None else max(opened, self._ledger.died_at)

    def find(self, job: Job, context: TaskContext) -> Outcome | None:
        """The outcome that the store has of a suspect, None when it is to be run. Never raises."""
        if job.mark is None:
            if time.monotonic() < self._blind_until:
                return None
            batch = self._batch(job, context)
            store = self._app.store
            assert store is not None
            try:
                self._keep(batch, store.get(batch))
            except Exception as error:
                self._go_blind(error)
        return _outcome(job)

    async def afind(self, job: Job, context: TaskContext) -> Outcome | None:
        """`find` for the pool async."""
        if job.mark is None:
            if time.monotonic() < self._blind_until:
                return None
            batch = self._batch(job, context)
            store = self._app.store
            assert store is not None
            try:
                self._keep(batch, await store.aget(batch))
            except Exception as error:
                self._go_blind(error)
        return _outcome(job)

    def _batch(self, job: Job, context: TaskContext) -> dict[str, list[Job]]:
        """The jobs to look up by their tasks' ids: this one, and those that came over the same connection and wait."""
        batch = {context.id: [job]}
        for other in tuple(self._core.backlog):
            if len(batch) >= MAX_IDS:
                break
            # Of other uniques it cannot be told unopened whether they are a task's id.
            if other.mark is None and other.link is job.link and is_own_unique(other.function, other.unique):
                batch.setdefault(other.unique[:32], []).append(other)
        return batch

    def _keep(self, batch: Mapping[str, list[Job]], found: Mapping[str, Record]) -> None:
        self._pause = FIRST_PAUSE
        for id, jobs in batch.items():
            for job in jobs:
                job.mark = found.get(id, _NOTHING)

    def _go_blind(self, error: Exception) -> None:
        log.warning(
            "Whether jobs from before the last restart or cut have run already cannot be told, so they are run; the "
            "store is asked again in %.0f s. %s",
            self._pause,
            error,
        )
        self._blind_until = time.monotonic() + self._pause
        self._pause = min(MAX_PAUSE, 2 * self._pause)


def _outcome(job: Job) -> Outcome | None:
    record = job.mark
    if not isinstance(record, Record) or not record.ready:
        return None
    try:
        return record_to_outcome(record)
    except DecodeError as error:
        log.error("The stored result of %s[%s] cannot be read, so it is run: %s", job.function, job.unique, error)
        return None
