"""Between a worker and an App: a job in, the task run, and how the job is to be ended out. Design, section 8.

The middleware is an async onion. In the pools that run tasks in threads nothing in it suspends, so it is run by one
`send(None)`; where a task or a middleware really awaits, an asyncio loop of the thread's own runs it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Sequence
from contextlib import ExitStack, nullcontext
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

import anyio.to_thread

from gtask.answers import Form, encode_answer, encode_failure, is_envelope
from gtask.context import Reporter, TaskContext, enter, leave
from gtask.errors import EncodeError, ResultError, SignatureError, TaskExpired
from gtask.failures import error_info
from gtask.message import MAX_TASK_ID, Message, decode_message, parse_wire_unique
from gtask.middleware import default_middleware
from gtask.middleware.dead_letters import park, park_refused
from gtask.middleware.results import check_size, keeps_result
from gtask.over import over_list
from gtask.producer import aproduce, produce
from gtask.repeats import Repeats
from gtask.results.joins import Join
from gtask.results.records import outcome_to_record
from gtask.results.together import Together
from gtask.revocation import Revocations
from gtask.signing import Keyring, Kind, Opened, is_signed, refuse_signed
from gtask.states import ErrorInfo, Outcome, Record, State
from gtask.task import BaseTask, Task
from gtask.unique import astart, start, starts
from gtask.worker.job import Carried, End, Ending, Job
from gtask.worker.ledger import TASK_ID

if TYPE_CHECKING:
    from gtask.app import App

log = logging.getLogger("gtask.worker")

STORE_PAUSES: Final = (0.1, 0.5, 2.0, 5.0, 10.0)
"""Seconds between the attempts to store a result; after the last one the job fails."""


UNSIGNED: Final = "unsigned:"
"""How the ids of calls begin that were not signed, where there are keys: behind it is the unique of the job."""


class PutOff:
    """The job is to run again after `delay` seconds: a foreground retry."""

    __slots__ = ("delay",)

    def __init__(self, delay: float) -> None:
        self.delay = delay


class Runner:
    """Runs the jobs of one App in one process.

    `worker` names the process in results and logs. `in_loop` is for the async pool, where `arun` is used and the
    bodies of plain functions go to a thread.
    """

    def __init__(self, app: App, worker: str = "", in_loop: bool = False) -> None:
        self.app = app
        self.worker = worker
        self._in_loop = in_loop
        self._onion = app.middleware.onion(self._body)
        own = tuple(type(middleware) for middleware in default_middleware())
        self._awaits = any(type(middleware) not in own for middleware in app.middleware.executing)
        self._loops = threading.local()
        self._puts = Together()
        self._keys = app.settings.signing_keys
        self.repeats: Repeats | None = None
        """Recognises tasks that have ended before; None runs whatever comes."""
        self.revocations: Revocations | None = None
        """Knows which tasks were revoked; None runs whatever comes."""

    @property
    def functions(self) -> list[str]:
        """The functions to register: the tasks whose bodies are here."""
        return [name for name, task in self.app.tasks.items() if isinstance(task, Task)]

    # --- the two ways to run ---------------------------------------------------------------------------------

    def run(self, job: Job, reporter: Reporter) -> Ending | PutOff:
        """Runs a job in this thread."""
        context = self.open(job, reporter)
        if isinstance(context, Ending):
            return context
        if self.repeats is not None and self.repeats.suspects(job, context):
            context.completed = self.repeats.find(job, context)
        if self.revocations is not None:
            _note(job, context, reporter)
            if not self.revocations.clear:
                self.revocations.look(job, context)
        if starts(context):
            start(context)
        token = enter(context)
        try:
            flow = self._onion(context)
            outcome = self._in_thread_loop(flow) if self._awaits or self._is_async(context.task) else step(flow)
        except BaseException as error:
            outcome = self.broken(context, error)
        finally:
            leave(token)
        return self.close(context, outcome)

    async def arun(self, job: Job, reporter: Reporter) -> Ending | PutOff:
        """Runs a job in this event loop."""
        context = self.open(job, reporter)
        if isinstance(context, Ending):
            return context
        if self.repeats is not None and self.repeats.suspects(job, context):
            context.completed = await self.repeats.afind(job, context)
        if self.revocations is not None:
            _note(job, context, reporter)
            if not self.revocations.clear:
                await self.revocations.alook(job, context)
        if starts(context):
            await astart(context)
        token = enter(context)
        try:
            outcome = await self._onion(context)
        except Exception as error:
            outcome = self.broken(context, error)
        finally:
            leave(token)
        ending = self._end_surely(context, outcome)
        if isinstance(ending, Ending) and self._keeps_here(context):
            return await anyio.to_thread.run_sync(self._keep, ending, context)
        return ending

    def close(self, context: TaskContext, outcome: Outcome) -> Ending | PutOff:
        """Says how a job ends whose run led to `outcome`, after storing what is stored from here."""
        ending = self._end_surely(context, outcome)
        if isinstance(ending, Ending) and self._keeps_here(context):
            return self._keep(ending, context)
        return ending

    @staticmethod
    def _is_async(task: BaseTask[..., Any]) -> bool:
        return isinstance(task, Task) and task.is_async

    def _in_thread_loop(self, flow: Awaitable[Outcome]) -> Outcome:
        # Kept for the thread's life, so that what a task opens in its loop is there for the next one.
        runner = getattr(self._loops, "runner", None)
        if runner is None:
            runner = self._loops.runner = asyncio.Runner()
        # Without one it would run each task in the context of the loop's first, with that one as the current task.
        outcome: Outcome = runner.run(_coroutine(flow), context=copy_context())
        return outcome

    def close_loop(self) -> None:
        """Ends this thread's event loop, when its thread runs no more jobs."""
        runner = getattr(self._loops, "runner", None)
        if runner is not None:
            self._loops.runner = None
            try:
                # What tasks have sent from this loop went over connections of its own.
                runner.run(self.app.aclose())
            finally:
                runner.close()

    # --- from job to context ---------------------------------------------------------------------------------

    def open(self, job: Job, reporter: Reporter) -> TaskContext | Ending:
        """Decodes a job, after its signature; an ending at once for one that cannot be run."""
        workload, proof = job.workload, b""
        try:
            task = self.app.local_task(job.function)
            if self._keys is not None:
                workload, proof = _verified(self._keys, job, task)
            else:
                refuse_signed(workload)
            message = decode_message(job.function, workload, task.config.codec, job.unique)
            if self._keys is not None and not proof:
                _keep_apart(message)
        except Exception as error:
            return self.refuse(job, error, Opened(workload, proof))
        context = TaskContext(task, message, reporter, self.worker, job.attempt, job.function, job.workload)
        context.proof = proof
        return context

    def refuse(self, job: Job, error: Exception, opened: Opened) -> Ending:
        """Fails a job that cannot be decoded, and parks it with its bytes; `opened` is what is behind its signature.

        Its caller is told, on the connection and through the store. With keys the store is told nothing of a job that
        was not signed, or wrongly: anybody might so give a task an end that is not its own.
        """
        log.error("Job %s of %s cannot be run: %s", job.unique or job.handle.decode(), job.function, error)
        for middleware in self.app.middleware.refused:
            middleware.refused(job.function, error)
        info = error_info(error)
        form = Form.ENVELOPE if is_envelope(opened.workload) else Form.JSON
        data = encode_failure(form, ErrorInfo(info.type, info.message))
        if self._keys is not None and opened.proof:
            data = self._keys.sign(job.function, data, time.time(), Kind.FAILURE, opened.proof)
        ending = Ending(End.EXCEPTION, data)
        believed = self._keys is None or bool(opened.proof)
        task_id = parse_wire_unique(job.function, job.unique).id if believed else ""
        store = self.app.store
        stored = store is not None and len(task_id) == 32
        ending = ending._replace(optional=park_refused(self.app, job, info, self.worker, task_id, stored))
        if store is None or not stored:
            return ending
        record = outcome_to_record(Outcome(task_id, State.FAILURE, error=info, task=job.function, worker=self.worker))
        if not store.carries:
            return self._store(ending, [record], []) or ending._replace(end=End.FAIL, data=b"")
        carriage = store.carry(record, self.app.settings.result_expires)
        return ending._replace(carried=Carried(carriage.function, (carriage.item,)))

    # --- the body --------------------------------------------------------------------------------------------

    async def _body(self, context: TaskContext) -> Outcome:
        if context.verdict is not None:
            raise context.verdict
        expires = context.message.headers.get("expires")
        if expires is not None and time.time() > expires:
            raise TaskExpired(f"It was to start within its expires time, {time.time() - expires:.1f} s ago.")
        task = context.task
        assert isinstance(task, Task)
        if "over" in context.message.headers:
            task, args, kwargs = over_list(context, task)
        else:
            args, kwargs = task.arguments.fit(context.args, context.kwargs)
            if task.bind:
                args = (context, *args)
        running = self.app.middleware.running
        if task.is_async:
            with ExitStack() as hooks:
                for middleware in running:
                    hooks.enter_context(middleware.running(context))
                flow = task.func(*args, **kwargs)
                if task.streams:
                    flow = aproduce(context, flow)
                stoppable = self._in_loop and self.revocations is not None
                value = await (self.revocations.stoppable(context, flow) if stoppable else flow)  # type: ignore[union-attr]
        elif self._in_loop:
            value = await self._call_in_thread(context, task, args, kwargs)
        elif running:
            value = self._call(context, task, args, kwargs)
        else:
            value = task.func(*args, **kwargs)
            if task.streams:
                value = produce(context, value)
        return Outcome(context.id, State.SUCCESS, value)

    def _call(self, context: TaskContext, task: Task[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with ExitStack() as hooks:
            for middleware in self.app.middleware.running:
                hooks.enter_context(middleware.running(context))
            value = task.func(*args, **kwargs)
            return produce(context, value) if task.streams else value

    async def _call_in_thread(self, context: TaskContext, *call: Any) -> Any:
        with nullcontext() if self.revocations is None else self.revocations.in_thread(context):
            return await anyio.to_thread.run_sync(self._call, context, *call)

    def broken(self, context: TaskContext, error: BaseException) -> Outcome:
        """An outcome for what came through the whole onion: a middleware's own error, or an exit."""
        log.error("Task %s[%s] broke off: %r", context.task.name, context.id, error, exc_info=error)
        outcome = Outcome(context.id, State.FAILURE, error=error_info(error), task=context.message.task)
        context.following.clear()
        context.records.clear()
        context.joins.clear()
        context.letters.clear()
        if keeps_result(context):
            context.records.append(outcome_to_record(outcome))
        park(context, outcome)
        return outcome

    # --- from outcome to ending ------------------------------------------------------------------------------

    def _end_surely(self, context: TaskContext, outcome: Outcome) -> Ending | PutOff:
        """As `_end`, for a message that says what cannot be done too: a job never ends the process that runs it."""
        context.finish_progress()
        try:
            return self._end(context, outcome)
        except Exception as error:
            return self._end(context, self.broken(context, error))

    def _end(self, context: TaskContext, outcome: Outcome) -> Ending | PutOff:
        """The ending, with what travels to the store on the job server; `_keep` does what is stored from here."""
        if context.foreground and outcome.state is State.RETRY:
            return PutOff(outcome.delay)
        end, data = self._answer(context.message.form, outcome, context.foreground)
        if context.streamed and end is End.COMPLETE and context.message.form is not Form.ENVELOPE:
            data = b""  # the items were the answer, and some clients put behind them what follows
        if context.foreground:
            sealed = context.sealed(Kind.ANSWER if end is End.COMPLETE else Kind.FAILURE, data)
            return Ending(end, sealed, optional=tuple(context.letters))
        return Ending(end, data, self._carry(context), tuple(context.following), tuple(context.letters))

    def _answer(self, form: Form, outcome: Outcome, foreground: bool) -> tuple[End, bytes]:
        if outcome.state is State.RETRY or (form is Form.ENVELOPE and not foreground):
            # Nobody listens to a background job; what it led to is in the store.
            return (End.COMPLETE, b"") if outcome.state in (State.SUCCESS, State.RETRY) else (End.FAIL, b"")
        error = outcome.error or ErrorInfo("", "The task failed without saying why.")
        if outcome.state is State.SUCCESS:
            try:
                data = encode_answer(form, outcome.value)
                check_size(len(data), self.app.settings.max_message)
                return End.COMPLETE, data
            except EncodeError as unsendable:
                error = error_info(unsendable)
                log.error("Task %s[%s] returned what cannot be sent: %s", outcome.task, outcome.id, unsendable)
        return End.EXCEPTION, encode_failure(form, error)

    def _carry(self, context: TaskContext) -> Carried | None:
        store = self.app.store
        if store is None or not store.carries or not (context.records or context.joins):
            return None
        ttl = self.app.settings.result_expires
        carried = [store.carry(record, ttl) for record in context.records]
        carried += [store.carry_join(join, ttl) for join in context.joins]
        final = all(record.ready for record in context.records)
        return Carried(carried[0].function, tuple(carriage.item for carriage in carried), final)

    def _keeps_here(self, context: TaskContext) -> bool:
        """Whether this process writes to the store itself: nothing of it travels with a job."""
        store = self.app.store
        return store is not None and not store.carries and bool(context.records or context.joins)

    def _keep(self, ending: Ending, context: TaskContext) -> Ending:
        """Stores from here; a job whose result cannot be stored fails, goes no further, and is parked."""
        kept = self._store(ending, context.records, context.joins)
        if kept is not None:
            return kept
        if not context.letters:
            lost = ResultError("The result store took nothing, so what the task led to is lost.")
            park(context, Outcome(context.id, State.FAILURE, error=error_info(lost)))
        return Ending(End.FAIL, optional=tuple(context.letters))

    def _store(self, ending: Ending, records: Sequence[Record], joins: Sequence[Join]) -> Ending | None:
        """Stores from here, with patience; None when the store takes nothing."""
        store, ttl = self.app.store, self.app.settings.result_expires
        assert store is not None
        for pause in (*STORE_PAUSES, None):
            try:
                if records:
                    self._puts.put(store, records, ttl)
                completed = [job for join in joins if (job := store.join(join, ttl)) is not None]
                return ending._replace(submissions=(*ending.submissions, *completed))
            except Exception as error:
                log.error("A result could not be stored: %s", error)
                if pause is not None:
                    time.sleep(pause)
        log.error("A result is lost: its store takes nothing.")
        return None


def _verified(keys: Keyring, job: Job, task: Task[..., Any]) -> Opened:
    """What is behind a job's signature. A bare value from somebody who does not sign is taken where the task says so.

    An envelope is not: its links and its chain would be signed here, for tasks that take only what is signed.
    """
    if is_signed(job.workload) or not task.config.allow_unsigned:
        return keys.open(job.function, job.workload, time.time())
    if is_envelope(job.workload):
        raise SignatureError(f"An envelope for {job.function} is not signed; without a signature only bare values go.")
    return Opened(job.workload)


def _keep_apart(message: Message) -> None:
    """Sees to it that an unsigned call has no id of a signed one: its result would be taken for that one's."""
    if message.form is Form.JSON_ENVELOPE:
        raise SignatureError(f"An envelope for {message.task} is not signed; without a signature only bare values go.")
    message.id = f"{UNSIGNED}{message.id}" if 0 < len(message.id) <= MAX_TASK_ID - len(UNSIGNED) else ""
    message.headers.pop("retries", None)


def _note(job: Job, context: TaskContext, reporter: Reporter) -> None:
    """Notes of which task and of which whole a job is a run, for whoever is to stop it; its unique says it mostly."""
    root = context.message.headers.get("root")
    if root is not None or (context.id != job.unique[:TASK_ID] and not context.foreground):
        reporter.note(context.id, root or "")


async def _coroutine(flow: Awaitable[Outcome]) -> Outcome:
    return await flow


def step(flow: Any) -> Outcome:
    """Runs a coroutine that does not suspend."""
    try:
        flow.send(None)
    except StopIteration as stop:
        outcome: Outcome = stop.value
        return outcome
    flow.close()
    raise RuntimeError("A middleware awaited something in a pool without an event loop; see Middleware.executing.")
