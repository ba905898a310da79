"""Recognises jobs that have run to their end before, so that they are not run again. Design, section 6.

A job server hands out a job once more when it did not hear of its end: the connection was cut, the worker died between
storing the result and reporting the end, or the database of the queue was away when the job was to be taken out of it,
and the server was started again. Where a result store is there, the task's record tells such a job from a new one.

Asking the store for every job would cost each of them a round trip, so only those are looked up that can have been
handed out before as far as this worker knows: the ones that were sent before it was last disturbed, which is when the
connection they came over was made, or when a process of this worker died. What is sent after that comes for the first
time, unless another worker had it meanwhile. The jobs that wait here beside one are looked up together with it. A call
with `unique=` is always looked up: two callers may have submitted it.

Not recognised is a job that another worker (another host) has stored and not reported, while this one's connection
stayed; a task without a stored result (`ignore_result`, no store, one that has expired); a foreground call; a call of a
function in another language (`gtask.call`); and anything while the store does not answer. These are run: at least once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import anyio

from gtask.context import TaskContext
from gtask.errors import DecodeError
from gtask.message import is_own_unique
from gtask.middleware.results import keeps_result
from gtask.results.base import ResultStore
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

PATIENCE: Final = 60.0
"""Seconds that a task waits for the answer to a question that another one has asked; every store answers sooner."""

_NOTHING: Final = object()


class _Look:
    """A question to the store about the tasks of some jobs; each of them has it for its mark until it is answered."""

    def __init__(self) -> None:
        self.jobs: dict[str, list[Job]] = {}
        self.done = threading.Event()
        self.adone: anyio.Event | None = None

    def add(self, id: str, job: Job) -> None:
        """Asks about one more."""
        self.jobs.setdefault(id, []).append(job)
        job.mark = self

    def answer(self, found: Mapping[str, Record]) -> None:
        """Gives each job what was found of its task for its mark."""
        for id, jobs in self.jobs.items():
            for job in jobs:
                job.mark = found.get(id, _NOTHING)
        self.done.set()
        if self.adone is not None:
            self.adone.set()


class Repeats:
    """Looks up the jobs of one process of a worker: `core` holds them, `ledger` knows when a process last died.

    The jobs that wait are looked up while others run, in a thread that lives as long as its question, so that only the
    first one waits for the store.
    """

    def __init__(self, app: App, core: WorkerCore, ledger: Ledger | None = None) -> None:
        self._app = app
        self._core = core
        self._ledger = ledger
        self._asking_ahead = threading.Lock()
        self._blind_until = 0.0
        self._pause = FIRST_PAUSE

    def suspects(self, job: Job, context: TaskContext) -> bool:
        """Whether a job may have run before and the store would know; says no to nearly every one, at once."""
        if not keeps_result(context):
            return False
        headers = context.message.headers
        if job.mark is not None or headers.get("replayed") or headers.get("unique"):
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
            if self._blind:
                return None
            self._ask(self._look(job, context.id))
        elif isinstance(job.mark, _Look):
            job.mark.done.wait(PATIENCE)
        self._look_ahead(job)
        # Not the task's own time: counted as such, the worker would think it long and hold no other beside it.
        job.started = time.monotonic()
        return _outcome(job)

    async def afind(self, job: Job, context: TaskContext) -> Outcome | None:
        """`find` for the pool async, where others run while this one waits."""
        if job.mark is None:
            if self._blind:
                return None
            look = self._look(job, context.id)
            look.adone = anyio.Event()
            found: Mapping[str, Record] = {}
            try:
                found = await self._store.aget(look.jobs)
                self._pause = FIRST_PAUSE
            except Exception as error:
                self._go_blind(error)
            finally:
                look.answer(found)
        elif isinstance(job.mark, _Look) and job.mark.adone is not None:
            await job.mark.adone.wait()
        job.started = time.monotonic()
        return _outcome(job)

    @property
    def _store(self) -> ResultStore:
        store = self._app.store
        assert store is not None
        return store

    @property
    def _blind(self) -> bool:
        return time.monotonic() < self._blind_until

    def _look(self, job: Job, id: str = "") -> _Look:
        """A question about this job (if its id is given) and those that came over the same connection and wait."""
        look = _Look()
        if id:
            look.add(id, job)
        for other in tuple(self._core.backlog):
            if len(look.jobs) >= MAX_IDS:
                break
            # Of other uniques it cannot be told unopened whether they are a task's id.
            if other.mark is None and other.link is job.link and is_own_unique(other.function, other.unique):
                look.add(other.unique[:32], other)
        return look

    def _ask(self, look: _Look) -> None:
        found: Mapping[str, Record] = {}
        try:
            found = self._store.get(look.jobs)
            self._pause = FIRST_PAUSE
        except Exception as error:
            self._go_blind(error)
        finally:
            look.answer(found)

    def _look_ahead(self, job: Job) -> None:
        """Asks about what has come meanwhile; one question at a time."""
        if self._blind or not self._asking_ahead.acquire(blocking=False):
            return
        look = self._look(job)
        if not look.jobs:
            self._asking_ahead.release()
            return

        def ask() -> None:
            try:
                self._ask(look)
            finally:
                self._asking_ahead.release()

        threading.Thread(target=ask, name="look ahead", daemon=True).start()

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
