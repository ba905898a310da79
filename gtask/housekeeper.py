"""What every gtask worker does besides tasks: `gtask.later`, `gtask.call`, `gtask.canvas`. Design, sections 5 and 6a.

* `gtask.later` and its kin hold delayed jobs. They wait on the job server; what is due is moved into the queue of its
  task, with its priority (`gtask.mover`).
* `gtask.call` makes a foreground call of a function in another language, and carries on from its answer as a task of
  gtask's own would: its result is stored, the next step is submitted.
* `gtask.canvas` returns its argument, or fails for another task, where a canvas needs a job for that (`gtask.flows`).

One process of its own does both, in one thread. Nothing here blocks, and neither takes a slot from tasks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final

from gtask import mover
from gtask.answers import FOREIGN, decode_answer, decode_failure
from gtask.arguments import Arguments
from gtask.context import TaskContext, enter
from gtask.errors import DecodeError, LocalProtocolError, TaskExpired, TaskFailed
from gtask.failures import rebuild
from gtask.message import CANVAS, Message, decode_message, encode_foreign
from gtask.mover import MOST, Mover
from gtask.options import TASK_NAME, Options, priority_of
from gtask.protocol import Event, Lost, Refused, WorkComplete, WorkException, WorkFail
from gtask.publish import CALL, DELAYED, SOON
from gtask.results.joins import failed_of
from gtask.revocation import Revocations
from gtask.runner import PutOff, Runner
from gtask.signing import Opened, open_job
from gtask.states import Outcome, State
from gtask.task import BaseTask, Task
from gtask.types import Submission
from gtask.worker.blocking import BlockingDriver, fresh_unique
from gtask.worker.job import End, Ending, Job
from gtask.worker.link import Lane

if TYPE_CHECKING:
    from gtask.app import App

log = logging.getLogger("gtask.worker")

LANES: Final = (Lane((CALL, CANVAS, SOON), MOST), *mover.LANES)
"""The connections of a housekeeper, and what each is for."""

FUNCTIONS: Final = (CALL, CANVAS, *DELAYED)

OWN: Final = "gtask."
"""How the names of gtask's own functions begin."""

SLOTS: Final = sum(lane.most or 0 for lane in LANES)
"""Delayed jobs about to be due, and foreign calls under way, at once."""

IDLE: Final = 60.0

SETTLED: Final = 5.0
"""Seconds after its first connection that a worker looks whether its results are served: by then they would be."""


class Housekeeper:
    """The handler of a driver that serves `FUNCTIONS`."""

    def __init__(
        self, app: App, driver: BlockingDriver, worker: str = "", revocations: Revocations | None = None
    ) -> None:
        self._app = app
        self._driver = driver
        self._keys = app.settings.signing_keys
        self._runner = Runner(app, worker)
        self._onions = {CALL: app.middleware.onion(self._call), CANVAS: app.middleware.onion(_return)}
        self._mover = Mover(app, driver, worker)
        self._revocations = revocations
        self._held: list[Job] = []
        self._results_at: float | None = None
        self._results_known = not needs_service(app)

    def start(self, job: Job) -> None:
        """Takes a job of one of `FUNCTIONS`."""
        if job.function in DELAYED:
            self._mover.take(job)
        else:
            self._begin_call(job)

    def tick(self, now: float) -> float:
        """Moves the delayed jobs that are due; returns when the next one is."""
        if self._held:
            assert self._revocations is not None
            if self._revocations.waits:
                return now + 0.02
            held, self._held = self._held, []
            for job in held:
                self._begin_call(job)
        due = self._mover.tick(now)
        return due if self._results_known else min(due, self._look_for_service(now))

    def _look_for_service(self, now: float) -> float:
        """Says once that nobody serves the results, if so; returns when it is to be called again."""
        if not self._driver.core.connected:
            return now + IDLE
        if self._results_at is None:
            self._results_at = now + SETTLED
        if now >= self._results_at:
            store = self._app.store
            served = store.served() if store is not None else True
            self._results_known = served is not None
            self._results_at = now + SETTLED
            if served is False:
                log.warning(
                    "No results service is connected to %s: what tasks return waits there until one comes, and get() "
                    "raises ResultsUnavailable. Run `gtask results`, give one worker --with-results FILE, or create "
                    "the App with results=None if nobody asks for results.",
                    ", ".join(map(str, self._app.servers)),
                )
        return self._results_at

    # --- gtask.call ------------------------------------------------------------------------------------------

    def _begin_call(self, job: Job) -> None:
        opened = Opened(job.workload)
        try:
            opened = open_job(self._keys, job.function, job.workload, time.time())
            message = (_foreign_message if job.function == CALL else _canvas_message)(job, opened.workload)
        except DecodeError as error:
            self._driver.finish(job, self._runner.refuse(job, error, opened), flush=False)
            return
        task = self._app.tasks.get(message.task) if job.function == CALL else None
        if task is None:
            # In a canvas a task fails here that is not run: its own options have nothing to say.
            codec = message.headers.get("foreign")
            task = BaseTask(self._app, message.task, Options(), Arguments(None, message.task), codec)
        context = TaskContext(task, message, worker=self._runner.worker, function=job.function, workload=job.workload)
        if self._revocations is not None and not self._revocations.clear:
            if self._revocations.waits_for(context):
                self._held.append(job)
                return
            self._revocations.look(job, context)
        _ForeignCall(self, job, context).go_on(None)

    async def _call(self, context: TaskContext) -> Outcome:
        """The innermost part of the onion: asks the foreign function, and suspends until it has answered."""
        if context.verdict is not None:
            raise context.verdict
        message = context.message
        expires = message.headers.get("expires")
        if expires is not None and time.time() > expires:
            raise TaskExpired("It was to start within its expires time, which is over.")
        codec = str(message.headers["foreign"])
        workload = encode_foreign(message.args, message.kwargs, codec)
        priority = priority_of(message.headers.get("priority", "normal"))
        submission = Submission(message.task, workload, fresh_unique(), priority, background=False)
        event = await _Answer(submission)
        if isinstance(event, WorkComplete):
            value = decode_answer(event.data, FOREIGN[codec], context.task.arguments.returns)
            return Outcome(context.id, State.SUCCESS, value)
        raise self._error(context, event)

    def _error(self, context: TaskContext, event: Event) -> BaseException:
        if isinstance(event, WorkException):
            return rebuild(decode_failure(event.data), self._app.throws_of(context.message.task))
        if isinstance(event, Refused):
            return event.error
        return TaskFailed("", f"{context.message.task} failed, and its worker did not say why (WORK_FAIL).")

    def run_onion(self, context: TaskContext) -> Any:
        """The flow of one job, to be driven by `_ForeignCall`."""
        return self._onions[context.function](context)

    def submit(self, job: Job, submission: Submission, on_event: Callable[[Event], None]) -> bool:
        """Submits over the connection of a job."""
        return self._driver.core.submit(job.link, submission, on_event)

    def broken(self, context: TaskContext, error: BaseException) -> Outcome:
        """An outcome for a call that broke off."""
        return self._runner.broken(context, error)

    def end(self, job: Job, context: TaskContext, outcome: Outcome) -> None:
        """Ends a call's job."""
        ending = self._runner.close(context, outcome)
        assert not isinstance(ending, PutOff), "a gtask.call is a background job"
        self._driver.finish(job, ending, flush=False)

    def end_lost(self, job: Job) -> None:
        """Lets go of a job whose connection is gone."""
        self._driver.finish(job, Ending(End.FAIL), flush=False)


def needs_service(app: App) -> bool:
    """Whether the results of an App's tasks go to a service on the job server."""
    store = app.store
    if store is None or not store.carries or app.settings.ignore_result:
        return False
    return any(isinstance(task, Task) and not task.config.ignore_result for task in app.tasks.values())


def _foreign_message(job: Job, workload: bytes) -> Message:
    """The message in a `gtask.call` job, for a function that is not gtask's own; raises `DecodeError`."""
    message = decode_message(CALL, workload, fallback_id=job.unique)
    if not message.form.is_envelope or not TASK_NAME.fullmatch(message.task) or message.task.startswith(OWN):
        raise DecodeError(
            "A job of gtask.call is a message for a function in another language, named in its header 'task'."
        )
    codec = message.headers.setdefault("foreign", "json")
    if not isinstance(codec, str) or codec not in FOREIGN:
        raise DecodeError(f"{codec!r:.80} is no codec of a function in another language; use json, text or raw.")
    # Nobody waits for a job of this function itself.
    message.headers.pop("fg", None)
    return message


def _canvas_message(job: Job, workload: bytes) -> Message:
    """The message in a `gtask.canvas` job; raises `DecodeError`."""
    message = decode_message(CANVAS, workload, fallback_id=job.unique)
    fails = message.headers.get("fail") is not None
    if not message.form.is_envelope or len(message.args) != (0 if fails else 1) or message.kwargs:
        raise DecodeError("A job of gtask.canvas is a message with one argument, which it returns.")
    if fails:
        failed_of(message.headers["fail"])
    for name in ("fg", "time_limit", "soft_time_limit"):
        message.headers.pop(name, None)
    return message


async def _return(context: TaskContext) -> Outcome:
    """The innermost part of the onion of `gtask.canvas`."""
    if context.verdict is not None:
        raise context.verdict
    fail = context.message.headers.get("fail")
    if fail is None:
        return Outcome(context.id, State.SUCCESS, context.args[0])
    failed = failed_of(fail)
    return Outcome(context.id, failed.state, error=failed.error)


class _Answer:
    """What the flow of a foreign call suspends on: the submission to make, and then what came of it."""

    def __init__(self, submission: Submission) -> None:
        self.submission = submission

    def __await__(self) -> Generator[_Answer, Event, Event]:
        event = yield self
        return event


class _ForeignCall:
    """Drives the onion of one foreign call, from one event of its job to the next, always in the same context."""

    def __init__(self, keeper: Housekeeper, job: Job, context: TaskContext) -> None:
        self._keeper = keeper
        self._job = job
        self._context = context
        self._variables: Context = copy_context()
        self._variables.run(enter, context)
        self._flow = keeper.run_onion(context)

    def go_on(self, event: Event | None) -> None:
        """Runs the flow until it asks or ends."""
        asked = self._step(self._flow.send, event)
        if asked is self:
            return
        if not isinstance(asked, _Answer):
            self._break_off(RuntimeError(f"A middleware awaited {asked!r:.100}, which no loop is here to run."))
            return
        try:
            submitted = self._keeper.submit(self._job, asked.submission, self._on_event)
        except LocalProtocolError as error:
            # Too large, for instance: the flow is told, as by an answer.
            self._step(self._flow.throw, error)
            return
        if not submitted:
            self._drop()

    def _step(self, go: Callable[[Any], Any], value: Any) -> Any:
        """Runs the flow a step further: what it asks for, or this very object when it has ended."""
        try:
            return self._variables.run(go, value)
        except StopIteration as stop:
            outcome: Outcome = stop.value
        except Exception as error:
            outcome = self._keeper.broken(self._context, error)
        self._keeper.end(self._job, self._context, outcome)
        return self

    def _break_off(self, error: RuntimeError) -> None:
        with suppress(RuntimeError):  # one that awaits again while it is closed
            self._variables.run(self._flow.close)
        self._keeper.end(self._job, self._context, self._keeper.broken(self._context, error))

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Lost):
            self._drop()
        elif isinstance(event, WorkComplete | WorkFail | WorkException | Refused):
            self.go_on(event)

    def _drop(self) -> None:
        # The connection is gone, and the job server gives the job to another worker.
        self._variables.run(self._flow.close)
        self._keeper.end_lost(self._job)
