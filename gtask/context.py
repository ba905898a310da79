"""What a task knows of its own run: `TaskContext`, given to tasks with ``bind=True``. Design, section 2."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

from gtask.errors import TaskError
from gtask.message import Form, Message
from gtask.progress import Progress, Teller, to_outcome
from gtask.protocol import Event
from gtask.results.base import ResultStore
from gtask.results.joins import Join
from gtask.results.records import outcome_to_record
from gtask.retry import Retry
from gtask.signing import Kind
from gtask.states import Outcome, Record, State
from gtask.timers import WRITES
from gtask.types import Submission

if TYPE_CHECKING:
    from gtask.task import BaseTask

_OF_GTASK: Final = (Form.ENVELOPE, Form.JSON_ENVELOPE)

_current: ContextVar[TaskContext | None] = ContextVar("gtask_current_task", default=None)


class Reporter(Protocol):
    """How a run reaches its caller while it runs, and the process it runs in.

    What sends something returns false when the connection is gone. `in_main_thread` says whether the body of
    a plain function runs in the main thread of its process, where signals reach it. `verdict` is why the job is not to
    be run at all, None for nearly every one. `busy` is true while the main thread is sending something, which no signal
    may break off.
    """

    in_main_thread: bool
    verdict: TaskError | None
    busy: bool
    lends: bool

    def lend(self) -> AbstractContextManager[None]:
        """Lends the run's slot out in a block."""

    def kill_after(self, seconds: float) -> None:
        """Has the process killed when the run is not over in so many seconds from now."""

    def note(self, id: str, root: str) -> None:
        """Notes the ids of the task and of the whole it belongs to, for whoever has to stop the run from outside."""

    def progress(self, numerator: int, denominator: int) -> bool:
        """Says how far the run is."""

    def data(self, data: bytes) -> bool:
        """Sends a piece of output."""

    def warning(self, data: bytes) -> bool:
        """Sends a warning."""

    def submit(self, submission: Submission, tell: Callable[[Event], None] | None = None) -> bool:
        """Submits another job; `tell` hears what comes for it, in whatever thread reads."""

    def ask(self, unique: str, tell: Callable[[Event], None]) -> bool:
        """Asks how the job of a unique is; `tell` hears the answer."""

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        """Calls something in so many seconds, where it may report."""


class LocalReporter:
    """The reporter of a plain local call: nobody listens."""

    in_main_thread = False
    verdict: TaskError | None = None
    busy = False
    lends = False

    def lend(self) -> AbstractContextManager[None]:
        """Lends nothing."""
        return nullcontext()

    def kill_after(self, seconds: float) -> None:
        """Kills nobody."""

    def note(self, id: str, root: str) -> None:
        """Notes nothing."""

    def progress(self, numerator: int, denominator: int) -> bool:
        """Says it to nobody."""
        return False

    def data(self, data: bytes) -> bool:
        """Sends it to nobody."""
        return False

    def warning(self, data: bytes) -> bool:
        """Sends it to nobody."""
        return False

    def submit(self, submission: Submission, tell: Callable[[Event], None] | None = None) -> bool:
        """Submits nothing."""
        return False

    def ask(self, unique: str, tell: Callable[[Event], None]) -> bool:
        """Asks nobody."""
        return False

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        """Calls nothing: nobody would hear it."""


class TaskContext:
    """One run of one task.

    `task` is the task, `message` what its caller sent. `worker` names the process that runs it, empty for a plain
    local call. The attributes `records`, `joins`, `following` and `letters` belong to the middleware: what is to be
    stored, what is to be handed in for a chord, what is to be submitted before the job is ended, and what is parked.
    `completed` is the outcome that the store has of an earlier run of this very task, which is then not run again.
    """

    __slots__ = (
        "_reporter",
        "_teller",
        "attempt",
        "completed",
        "following",
        "foreground",
        "function",
        "joins",
        "letters",
        "message",
        "proof",
        "records",
        "state",
        "streamed",
        "task",
        "worker",
        "workload",
    )

    def __init__(
        self,
        task: BaseTask[..., Any],
        message: Message,
        reporter: Reporter | None = None,
        worker: str = "",
        attempt: int = 0,
        function: str = "",
        workload: bytes = b"",
    ) -> None:
        self.task = task
        self.message = message
        self.worker = worker
        self.attempt = attempt
        self.foreground = bool(message.headers.get("fg")) or message.form not in _OF_GTASK
        """Whether a caller waits on the connection for the answer (design, section 3)."""
        self.function = function or message.task
        """The function on the job server that the job came from."""
        self.workload = workload
        """What the job came with: the message before it was decoded."""
        self.completed: Outcome | None = None
        self.records: list[Record] = []
        self.joins: list[Join] = []
        self.following: list[Submission] = []
        self.letters: list[Submission] = []
        self.proof = b""
        """What the signatures of the answers are bound to; empty where the job was not signed (`gtask.signing`)."""
        self.streamed = False
        """Whether its caller has had a part of what it yields; then it is not run again."""
        self.state: dict[str, Any] = {}
        """For middleware to keep something from one hook to another."""
        self._reporter: Reporter = reporter or LocalReporter()
        self._teller: Teller | None = None

    def __repr__(self) -> str:
        return f"<TaskContext {self.task.name}[{self.id}] retries {self.retries}>"

    @property
    def id(self) -> str:
        """The task's id: the same for each retry."""
        return self.message.id

    @property
    def retries(self) -> int:
        """How often this task was retried before this run; 0 in the first."""
        return int(self.message.headers.get("retries", 0)) + self.attempt

    @property
    def max_retries(self) -> int | None:
        """How many retries there may be; None for any number."""
        limit = self.message.headers.get("max_retries", self.task.config.retry.max_retries)
        return None if limit is None else int(limit)

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments as they came."""
        return self.message.args

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments as they came."""
        return self.message.kwargs

    @property
    def headers(self) -> Mapping[str, Any]:
        """The headers of the message, those of the caller's own among them."""
        return MappingProxyType(self.message.headers)

    @property
    def root_id(self) -> str:
        """The id of the first task of the whole piece of work."""
        return str(self.message.headers.get("root") or self.id)

    @property
    def parent_id(self) -> str | None:
        """The id of the task this one followed from, None for the first."""
        parent = self.message.headers.get("parent")
        return None if parent is None else str(parent)

    @property
    def in_main_thread(self) -> bool:
        """Whether the body of a plain function runs in its process's main thread."""
        return self._reporter.in_main_thread

    @property
    def verdict(self) -> TaskError | None:
        """Why the task is not to be run at all, after it has killed processes; None for nearly every one."""
        return self._reporter.verdict

    @property
    def lends(self) -> bool:
        """Whether the run can lend its slot out while it waits: an async task can, in the pool async."""
        return self._reporter.lends

    def lend(self) -> AbstractContextManager[None]:
        """Lends the slot of this run to another job, for as long as it waits in this block; only where it `lends`.

        Raises `WaitInTask` when too many wait in this worker already.
        """
        return self._reporter.lend()

    def refuse(self, error: TaskError) -> None:
        """Has the task not run, for this reason, unless there is one already. For the worker's use."""
        if self._reporter.verdict is None:
            self._reporter.verdict = error

    def kill_after(self, seconds: float) -> None:
        """Has the process killed, and the task failed, when the run is not over in so many seconds from now."""
        if self.foreground:
            self._reporter.note(self.id, self.root_id)
        self._reporter.kill_after(seconds)

    @property
    def reporter(self) -> Reporter:
        """How this run reaches its caller while it runs; for gtask's own use."""
        return self._reporter

    @property
    def keeps_result(self) -> bool:
        """Whether what becomes of this run is to be stored."""
        return (
            bool(self.id)
            and not self.foreground
            and not self.message.headers.get("ignore_result")
            and self.task.app.store is not None
        )

    def progress(self, done: float, total: float = 0, message: str | None = None) -> bool:
        """Says that `done` of `total` is done, in whole numbers of any unit, and with `message` what it is at.

        A foreground caller hears the numbers live; of a background job any process reads them as
        `AsyncResult.progress`, with the message where the App has a result store. Call it as often as you like: ten of
        these a second are sent, one message a second is stored, and the last before a pause always is. Returns false
        when nobody can hear it: a local call, or the job server has given the job away.
        """
        if self._teller is None:
            keep = self._keep_progress if self.keeps_result else None
            self._teller = Teller(self._reporter.progress, self._reporter.later, keep, self.foreground)
        return self._teller.tell(done, total, message)

    def _progress_first(self) -> None:
        """Keeps the order in which the run has said things."""
        if self._teller is not None:
            self._teller.flush()

    def finish_progress(self) -> None:
        """Sends what was said last and is not sent yet; for the worker, before it ends the job."""
        if self._teller is not None:
            self._teller.finish()

    def _keep_progress(self, progress: Progress) -> None:
        app = self.task.app
        store = app.store
        assert store is not None
        outcome = Outcome(self.id, State.PROGRESS, task=self.message.task, retries=self.retries, worker=self.worker)
        record = outcome_to_record(to_outcome(progress, outcome))
        ttl = app.settings.result_expires
        if store.carries:
            carriage = store.carry(record, ttl)
            workload = app.publisher.pack(carriage.function, [carriage.item])
            unique = app.random_bytes(16).hex()
            self._reporter.submit(Submission(carriage.function, workload, unique))
        else:
            # Not here: this may be an event loop, and the task is not to wait for it either.
            self.state["progress"] = record
            if not self.state.get("writing"):
                self.state["writing"] = True
                WRITES.call(0.0, lambda: self._write_progress(store, ttl))

    def _write_progress(self, store: ResultStore, ttl: float) -> None:
        """Writes the latest record; while one waits to be written, others take its place."""
        self.state["writing"] = False
        record = self.state.pop("progress", None)
        if record is not None:
            store.put([record], ttl)

    def send_data(self, data: bytes | str) -> bool:
        """Sends a piece of output to a foreground caller now; returns as `progress` does."""
        self._progress_first()
        return self._reporter.data(self.sealed(Kind.DATA, data.encode() if isinstance(data, str) else bytes(data)))

    def warn(self, text: bytes | str) -> bool:
        """Sends a warning to a foreground caller now; returns as `progress` does."""
        self._progress_first()
        data = text.encode() if isinstance(text, str) else bytes(text)
        return self._reporter.warning(self.sealed(Kind.WARNING, data))

    def sealed(self, kind: Kind, data: bytes) -> bytes:
        """Signs what goes back to the caller, where the caller has signed; for gtask's own use."""
        keys = self.task.app.settings.signing_keys
        if not self.proof or keys is None:
            return data
        return keys.sign(self.function, data, self.task.app.now(), kind, self.proof)

    def retry(
        self, exc: BaseException | None = None, *, delay: float | None = None, max_retries: int | None = None
    ) -> NoReturn:
        """Ends this run and has the task run again after `delay` seconds; never returns.

        Without `delay` the task's own retry options decide. `exc` is the reason, and what the caller gets when there
        have been `max_retries` retries already.
        """
        raise Retry(delay, exc=exc, max_retries=max_retries)


def current_task() -> TaskContext | None:
    """The context of the task that this code runs in, or None outside of any; it follows as context variables do."""
    return _current.get()


def enter(context: TaskContext) -> Any:
    """Makes a context the current one; returns what `leave` wants. For the worker's use."""
    return _current.set(context)


def leave(token: Any) -> None:
    """Takes back `enter`."""
    _current.reset(token)
