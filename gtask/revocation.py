"""Revoked tasks, as a worker deals with them: it hears of marks, ends what is marked, and stops what runs.

* `Listener` lives in one process of a worker. It asks the result store for marks (`ResultStore.revoked`) and writes
  them into the table that all processes share. It also tells other hosts of jobs that are not to be run any more, since
  they have killed processes or run beyond their time limit: these are marked as well, beside a record that says why.
* `Revocations` is asked in each process before a task is run, which costs nothing while there is no mark.

A mark holds for the task itself and for all that belongs to it: every task whose header `root` is its id. What is
marked is not run; a record that says otherwise, such as that it has failed, is then what became of it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import anyio

from gtask.context import TaskContext
from gtask.errors import (
    ConfigurationError,
    DecodeError,
    GtaskError,
    TaskError,
    TaskRevoked,
    TimeLimitExceeded,
    WorkerLost,
)
from gtask.failures import error_info
from gtask.message import SignatureData
from gtask.results.base import ResultStore
from gtask.results.records import outcome_to_record, record_to_outcome, revoked_record
from gtask.states import Outcome, State
from gtask.worker.job import Job
from gtask.worker.ledger import TASK_ID, Blame, Ledger
from gtask.worker.marks import Heard, MarkTable

if TYPE_CHECKING:
    from gtask.app import App

log = logging.getLogger("gtask.worker")

HOLD: Final = 50.0
"""Seconds of one question for marks; whoever serves the store answers the moment there is one."""

SOON: Final = 0.2
FIRST_PAUSE: Final = 1.0
MAX_PAUSE: Final = 15.0
"""Seconds before a store that is away is asked again: at the start, then, each time twice as long, and at most."""

WORD: Final = 0.5
"""Seconds that a job which has killed a process waits for word from other hosts before it is run again."""

ECHO: Final = 1.0
"""Seconds in which a mark that was made here is heard here."""

HEARD: Final = 0.1
"""Seconds by which other hosts may hear of a mark later than this one."""

PATIENCE: Final = 10.0
"""Seconds that tasks from before a worker's start wait until the marks that were made so far are known.

In so many a results service that is started with the worker is there."""

MARGIN: Final = 1.0
"""Seconds by which the clocks of callers and workers may differ."""

LOOK: Final = 0.1
"""Seconds between two looks for blame to be told."""

WATCH: Final = 0.25
"""Seconds between two looks for tasks to be stopped in an event loop."""


class Listener:
    """Hears of marks for the processes of a worker, and tells of what is blamed on jobs here, in two threads."""

    def __init__(self, app: App, table: MarkTable, ledger: Ledger, max_crashes: int, worker: str = "") -> None:
        self._app = app
        self._table = table
        self._ledger = ledger
        self._max_crashes = max_crashes
        self._worker = worker
        self._stopped = threading.Event()
        self._changes = -1
        self._said = False
        self._counted: dict[tuple[str, int], int] = {}

    def start(self) -> None:
        """Starts to listen; without a store there is nothing to hear."""
        store = self._app.store
        if store is None:
            self._table.hear(Heard.ALL)
            return
        for target in (self._listen, self._tell):
            threading.Thread(target=target, args=(store,), name="revocations", daemon=True).start()

    def stop(self) -> None:
        """Lets both threads end; they are not waited for."""
        self._stopped.set()
        self._ledger.tells = False

    # --- hearing ---------------------------------------------------------------------------------------------

    def _listen(self, store: ResultStore) -> None:
        cursor, hold, pause = "", 0.0, FIRST_PAUSE
        began = time.monotonic()
        while not self._stopped.is_set():
            try:
                marks, cursor = store.revoked(cursor, hold)
            except ConfigurationError as error:
                log.debug("Nothing is revoked here: %s", error)
                self._table.hear(Heard.ALL)
                return
            except Exception as error:
                self._say(error)
                if self._table.heard is Heard.NOT_YET and time.monotonic() - began < PATIENCE:
                    self._stopped.wait(SOON)
                    continue
                if self._table.heard is Heard.NOT_YET:
                    self._table.hear(Heard.AWAY)
                self._stopped.wait(pause)
                pause = min(MAX_PAUSE, 2 * pause)
                continue
            pause = FIRST_PAUSE
            for mark in marks:
                self._table.add(mark.id, mark.terminate)
            if not marks:
                self._table.hear(Heard.ALL)
                self._said = False
            hold = 0.0 if marks else HOLD

    def _say(self, error: Exception) -> None:
        if not self._said and not self._stopped.is_set():
            self._said = True
            log.info("Which tasks are revoked cannot be told yet; it is asked again. %s", error)

    # --- telling ---------------------------------------------------------------------------------------------

    def _tell(self, store: ResultStore) -> None:
        self._ledger.tells = True
        while not self._stopped.wait(LOOK):
            changes = self._ledger.changes
            if changes == self._changes:
                continue
            try:
                for blame, told in self._ledger.untold():
                    self._tell_of(store, blame, told)
                    self._ledger.told(blame)
                    self._counted.clear()
                self._changes = changes
            except ConfigurationError as error:
                log.debug("Crashes are counted on this host alone: %s", error)
                break
            except Exception as error:
                if not self._stopped.is_set():
                    log.warning("Other hosts cannot be told that a job has killed a process here: %s", error)
                self._stopped.wait(FIRST_PAUSE)
        self._ledger.tells = False

    def _tell_of(self, store: ResultStore, blame: Blame, told: int) -> None:
        """Counts crashes where all hosts count them; says that a job is over when it was late, or that is enough."""
        ttl = self._app.settings.result_expires
        crashes = 0
        for number in range(told, blame.crashes):
            # A count is not made again when something behind it fails.
            if (blame.unique, number) not in self._counted:
                self._counted[blame.unique, number] = store.count(f"crash:{blame.unique}", ttl)
            crashes = self._counted[blame.unique, number]
        error: TaskError | None = None
        if blame.late:
            error = TimeLimitExceeded()
        elif crashes >= self._max_crashes:
            error = WorkerLost(f"The task's process died {crashes} times while it ran, so it is not run again.")
        if not blame.id:
            return
        if error is None:
            # Others are to wait for word before they run it: it may have been enough meanwhile.
            suspect = suspected(blame.id)
            store.revoke([revoked_record(suspect)], False, ttl)
            self._table.add(suspect, False)
            return
        outcome = Outcome(blame.id, State.FAILURE, error=error_info(error), task=blame.function, worker=self._worker)
        outcome.finished = time.time()
        store.put([outcome_to_record(outcome)], ttl)
        mark = over(blame.unique)
        store.revoke([revoked_record(mark, blame.function)], False, ttl)
        # Until it is heard here, and so by others, the job could overtake it on its way to them.
        deadline = time.monotonic() + ECHO
        while mark not in self._table and time.monotonic() < deadline:
            time.sleep(0.005)
        self._table.add(mark, False)
        time.sleep(HEARD)


def suspected(id: str) -> str:
    """What is marked of a task that has killed a process, while it may be run again."""
    return f"crash:{id}"


def over(unique: str) -> str:
    """What is marked of a job that is not to be run any more, since it was late or has killed too many processes.

    It is the job, not its task: one that is sent again from its dead letter is another job.
    """
    return f"over:{unique}"


class Revocations:
    """Asked in one process of a worker before a task is run, and in an event loop while it runs.

    `backend` is the event loop of the pool async: "asyncio" (also for uvloop) or "trio".
    """

    def __init__(self, app: App, table: MarkTable, ledger: Ledger, backend: str = "asyncio") -> None:
        self._app = app
        self._ledger = ledger
        self._table = table
        self._trio = backend == "trio"
        self._began = time.time()
        self._waited_since = 0.0
        self._running: dict[TaskContext, Callable[[], object] | None] = {}
        self._stopped: set[TaskContext] = set()

    @property
    def clear(self) -> bool:
        """Whether no task is marked, this is known, and no process has died here while it ran one."""
        return self._table.clear and not self._ledger.changes

    @property
    def waits(self) -> bool:
        """Whether it is not known yet what is marked, and will be soon."""
        if self._table.heard is not Heard.NOT_YET:
            return False
        now = time.monotonic()
        self._waited_since = self._waited_since or now
        return now - self._waited_since < PATIENCE

    def look(self, job: Job, context: TaskContext) -> None:
        """Sees to it that a marked task is not run: it has its outcome, or a reason to be refused."""
        while self.waits_for(context):
            time.sleep(0.01)
        until = time.monotonic() + WORD if self._suspects(job, context) else 0.0
        while not (marked := self._marked(job, context)) and time.monotonic() < until:
            time.sleep(0.01)
        if marked:
            self._refuse(context, self._stored(_own(job, context)))

    async def alook(self, job: Job, context: TaskContext) -> None:
        """`look` for an event loop."""
        while self.waits_for(context):  # noqa: ASYNC110 - another process writes it
            await anyio.sleep(0.01)
        until = time.monotonic() + WORD if self._suspects(job, context) else 0.0
        while not (marked := self._marked(job, context)) and time.monotonic() < until:  # noqa: ASYNC110 - as above
            await anyio.sleep(0.01)
        if marked:
            self._refuse(context, await anyio.to_thread.run_sync(self._stored, _own(job, context)))

    def waits_for(self, context: TaskContext) -> bool:
        """Whether it is to be heard first whether a task is marked: one that was sent before this worker began."""
        if context.foreground or not self.waits:
            return False
        sent = context.message.headers.get("sent")
        return sent is None or float(sent) < self._began + MARGIN

    def _suspects(self, job: Job, context: TaskContext) -> bool:
        """Whether the job has killed a process, here or on another host, and so many that it may be one too many."""
        if self._ledger.tells and self._ledger.blamed(job.unique).crashes:
            return True
        return bool(self._table.count) and any(suspected(id) in self._table for id in _ids(job, context))

    def _marked(self, job: Job, context: TaskContext) -> bool:
        """Whether a task is marked, by its own id, that of the whole, or its job."""
        return any(id in self._table for id in _ids(job, context))

    def _stored(self, ids: list[str]) -> Outcome | None:
        """What became of a marked task, where the store says so under one of its ids."""
        store = self._app.store
        if store is None:
            return None
        try:
            found = store.get(ids)
            return next((record_to_outcome(record) for record in found.values() if record.ready), None)
        except GtaskError as error:
            log.warning("What became of the task %s cannot be told: %s", ids[0], error)
            return None

    def _refuse(self, context: TaskContext, stored: Outcome | None) -> None:
        if stored is not None and stored.state is not State.REVOKED:
            context.completed = stored
        else:
            context.refuse(TaskRevoked("The task was revoked before it was run."))

    # --- what runs in an event loop --------------------------------------------------------------------------

    async def watch(self) -> None:
        """Stops the tasks of this event loop that are to be stopped, for as long as it is left to run."""
        seen = 0
        while True:
            if self._table.terminations != seen:
                seen = self._table.terminations
                for context, cancel in list(self._running.items()):
                    if context not in self._stopped and self._stops(context):
                        self._stop(context, cancel)
            await anyio.sleep(WATCH)

    def _stops(self, context: TaskContext) -> bool:
        return self._table.stops(context.id) or self._table.stops(context.root_id)

    def _stop(self, context: TaskContext, cancel: Callable[[], object] | None) -> None:
        self._stopped.add(context)
        if cancel is None:
            log.warning(
                "Task %s[%s] was revoked, but runs in a thread, which cannot be stopped: it goes on, for nothing.",
                context.task.name,
                context.id,
            )
        else:
            log.warning("Task %s[%s] was revoked, and is cancelled.", context.task.name, context.id)
            cancel()

    @contextmanager
    def in_thread(self, context: TaskContext) -> Iterator[None]:
        """Stands around a plain function that runs in a thread, which nobody can stop."""
        self._running[context] = None
        try:
            yield
        finally:
            del self._running[context]
            self._stopped.discard(context)

    async def stoppable(self, context: TaskContext, flow: Awaitable[Any]) -> Any:
        """Awaits the body of an async task; raises `TaskRevoked` when it was stopped."""
        if self._trio:
            return await self._stoppable_scope(context, flow)
        task = asyncio.current_task()
        assert task is not None
        self._running[context] = task.cancel
        try:
            return await flow
        except asyncio.CancelledError:
            if context not in self._stopped:
                raise
            raise TaskRevoked("The task was revoked while it ran, and stopped.") from None
        finally:
            del self._running[context]
            if context in self._stopped:
                self._stopped.discard(context)
                task.uncancel()

    async def _stoppable_scope(self, context: TaskContext, flow: Awaitable[Any]) -> Any:
        with anyio.CancelScope() as scope:
            self._running[context] = scope.cancel
            try:
                return await flow
            finally:
                del self._running[context]
                self._stopped.discard(context)
        raise TaskRevoked("The task was revoked while it ran, and stopped.")


def _ids(job: Job, context: TaskContext) -> list[str]:
    """The ids by which a job may be marked; a caller on the connection has the one in its unique alone."""
    ids = [job.unique[:TASK_ID]] if context.foreground else []
    ids += [context.id] if context.root_id == context.id else [context.id, context.root_id]
    ids.append(over(job.unique))
    chain = context.message.headers.get("chain")
    if chain and isinstance(chain[0], list):
        # What a chain leads to is not wanted any more: the handle of its end stands for it in any process.
        with suppress(DecodeError):
            ids.append(SignatureData.from_list(chain[0]).id)
    return ids


def _own(job: Job, context: TaskContext) -> list[str]:
    """The ids under which something may be stored of a marked task; see `_ids`."""
    own = job.unique[:TASK_ID]
    return [context.id, own] if context.foreground and own != context.id else [context.id]
