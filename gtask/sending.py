"""Sending calls and getting answers, blocking and async: two thin faces over the same plans."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from anyio.lowlevel import RunVar

from gtask.answers import FOREIGN, Form, decode_answer, decode_failure
from gtask.canvas import Signature
from gtask.client import AsyncClient, Client
from gtask.errors import GtaskError, JobException, JobFailed, ResultTimeout, ServerError, TaskFailed
from gtask.failures import rebuild
from gtask.message import wire_unique
from gtask.protocol import WorkData, WorkStatus, WorkWarning
from gtask.publish import Sending
from gtask.result import AsyncResult, GroupResult
from gtask.states import ErrorInfo, Outcome, State
from gtask.types import JobStatus, Submission

if TYPE_CHECKING:
    from gtask.app import App

LOOKED_AT: Final = 4
"""Retries of a task whose jobs are looked for on the job servers, when its store knows nothing."""


@dataclass(frozen=True)
class _Plan:
    """A call to make: what is sent first, and the handle of what comes out in the end."""

    sending: Sending
    handle: AsyncResult[Any]


def _plan(app: App, steps: Sequence[Signature[Any]], foreground: bool = False) -> _Plan:
    steps_data = [step.data(step.new_id()) for step in steps]
    rest = [data.to_list() for data in reversed(steps_data[1:])]
    handle: AsyncResult[Any] | None = None
    for step, data in zip(steps, steps_data, strict=True):
        default = step.task.config.ignore_result or app.settings.ignore_result
        ignored = bool(step.options.get("ignore_result", default))
        handle = AsyncResult(app, data.id, step.task.name, handle, ignored)
    assert handle is not None
    return _Plan(app.publisher.prepare(steps_data[0], app.now(), rest, foreground), handle)


class _Call:
    """A foreground call: its submission, how to listen to it, and how to read its end."""

    def __init__(self, app: App, step: Signature[Any], hooks: ExitStack) -> None:
        self.app = app
        self.step = step
        self.sending = _plan(app, [step], foreground=True).sending
        self.submission = app.publisher.enter(self.sending, hooks)
        self.timeout = step.options.get("timeout")

    def listener(self) -> Callable[[WorkData | WorkWarning | WorkStatus], None] | None:
        """What hears the job's packets, None when the caller gave nothing to hear them."""
        options = self.step.options
        on_progress, on_data, on_warning = (options.get(name) for name in ("on_progress", "on_data", "on_warning"))
        if not (on_progress or on_data or on_warning):
            return None

        def listen(event: WorkData | WorkWarning | WorkStatus) -> None:
            if isinstance(event, WorkStatus):
                if on_progress:
                    on_progress(_whole(event.numerator), _whole(event.denominator))
            elif isinstance(event, WorkData):
                if on_data:
                    on_data(event.data)
            elif on_warning:
                on_warning(event.data)

        return listen

    def value(self, data: bytes) -> Any:
        """Decodes the answer."""
        form = Form.ENVELOPE if self.sending.codec is None else FOREIGN[self.sending.codec]
        return decode_answer(data, form, self.step.task.arguments.returns)

    def error(self, error: GtaskError) -> BaseException:
        """Makes the exception to raise of the one that the client raised."""
        if isinstance(error, JobException):
            return rebuild(decode_failure(error.data), self.app.throws_of(self.step.task.name))
        if isinstance(error, JobFailed):
            return TaskFailed("", f"{self.step.task.name} failed, and its worker did not say why (WORK_FAIL).")
        if isinstance(error, ResultTimeout):
            return ResultTimeout(
                f"{self.step.task.name} did not answer within {self.timeout:g} s. "
                "Is a worker running for it? See `gtask status`."
            )
        return error


def _whole(text: bytes) -> int:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        return 0


def _group(
    app: App, members: Sequence[Sequence[Signature[Any]]], hooks: ExitStack
) -> tuple[list[_Plan], list[Submission]]:
    plans = [_plan(app, steps) for steps in members]
    return plans, [app.publisher.enter(plan.sending, hooks) for plan in plans]


def _group_handle(app: App, plans: Sequence[_Plan], answers: Sequence[object]) -> GroupResult[Any]:
    refused = [answer for answer in answers if isinstance(answer, ServerError)]
    if refused:
        raise ServerError(
            refused[0].code,
            refused[0].text,
            f"The job server refused {len(refused)} of the group's {len(plans)} jobs: {refused[0]} The others run.",
        )
    return GroupResult(app, [plan.handle for plan in plans])


def _uniques(task_id: str) -> list[str]:
    return [wire_unique(task_id, retries, later) for retries in range(LOOKED_AT) for later in (False, True)]


def _state(statuses: Sequence[JobStatus]) -> State:
    if any(status.running for status in statuses[::2]):
        return State.STARTED
    return State.PENDING if any(status.known for status in statuses) else State.UNKNOWN


class Sender:
    """The blocking face. Its client is made when it is first needed, and survives a fork."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._client: Client | None = None
        self._lock = threading.Lock()

    @property
    def client(self) -> Client:
        """The App's client."""
        if self._client is None:
            with self._lock:
                if self._client is None:
                    self._client = Client(self._app.servers, **_client_options(self._app))
        return self._client

    def send(self, steps: Sequence[Signature[Any]]) -> AsyncResult[Any]:
        """Submits the first of some steps, the others travelling with it."""
        if not _in_background(steps):
            return self.open(steps[0])
        plan = _plan(self._app, steps)
        with ExitStack() as hooks:
            self.client.submit(self._app.publisher.enter(plan.sending, hooks))
        return plan.handle

    def send_group(self, members: Sequence[Sequence[Signature[Any]]]) -> GroupResult[Any]:
        """Submits the first steps of all members in one go."""
        with ExitStack() as hooks:
            plans, submissions = _group(self._app, members, hooks)
            answers = self.client.submit_many(submissions)
        return _group_handle(self._app, plans, answers)

    def call(self, step: Signature[Any]) -> Any:
        """Runs a step in the foreground and returns its answer."""
        with ExitStack() as hooks:
            call = _Call(self._app, step, hooks)
            try:
                data = self.client.call(call.submission, call.timeout, call.listener())
            except GtaskError as error:
                _raise(call.error(error), error)
            return call.value(data)

    def open(self, step: Signature[Any]) -> AsyncResult[Any]:
        """Starts a step in the foreground; its handle waits on the connection."""
        with ExitStack() as hooks:
            call = _Call(self._app, step, hooks)
            job = self.client.open(call.submission, call.timeout, listen=False)
        return ForegroundResult(call, job.result)

    def state(self, task_id: str) -> State:
        """What the job servers know of a task."""
        return _state(self.client.statuses(_uniques(task_id)))

    def close(self) -> None:
        """Closes the client; the next call makes a new one."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()


class ForegroundResult(AsyncResult[Any]):
    """The handle of a foreground call that was started with `background=False`: its answer needs no store.

    It lives with the connection of this process, so its id means nothing elsewhere.
    """

    def __init__(self, call: _Call, result: Callable[[float | None], bytes]) -> None:
        super().__init__(call.app, call.sending.message.id, call.step.task.name)
        self._call = call
        self._result = result

    def _wait(self, timeout: float | None) -> Outcome | None:
        if self._outcome is None:
            try:
                self._succeeded(self._result(timeout))
            except ResultTimeout:
                return None
            except (JobException, JobFailed) as error:
                self._failed(error)
        return self._outcome

    def _succeeded(self, data: bytes) -> None:
        self._outcome = Outcome(self.id, State.SUCCESS, self._call.value(data), task=self.task or "")

    def _failed(self, error: JobException | JobFailed) -> None:
        info = decode_failure(error.data) if isinstance(error, JobException) else ErrorInfo("", str(error))
        self._outcome = Outcome(self.id, State.FAILURE, error=info, task=self.task or "")

    def _look(self) -> Outcome | None:
        return self._wait(0)

    def _seen(self, outcome: Outcome | None) -> State:
        return State.PENDING if outcome is None else outcome.state


class AsyncForegroundResult(ForegroundResult):
    """`ForegroundResult` for async code: await it."""

    def __init__(self, call: _Call, result: Callable[[float | None], Any]) -> None:
        super().__init__(call, result)

    def _wait(self, timeout: float | None) -> Outcome | None:
        if self._outcome is None and timeout != 0:
            raise RuntimeError("This call was started by async code: use `await result` or `await result.aget()`.")
        return self._outcome

    async def _await(self, timeout: float | None) -> Outcome | None:
        if self._outcome is None:
            try:
                self._succeeded(await self._result(timeout))  # type: ignore[misc]
            except ResultTimeout:
                return None
            except (JobException, JobFailed) as error:
                self._failed(error)
        return self._outcome


class AsyncSender:
    """The async face: one client for each event loop, closed by `App.aclose`."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._clients: RunVar[AsyncClient | None] = RunVar(f"gtask client of {app.name}", None)

    @property
    def client(self) -> AsyncClient:
        """The App's client in this event loop."""
        client = self._clients.get()
        if client is None:
            client = AsyncClient(self._app.servers, **_client_options(self._app))
            self._clients.set(client)
        return client

    async def send(self, steps: Sequence[Signature[Any]]) -> AsyncResult[Any]:
        """As `Sender.send`."""
        if not _in_background(steps):
            return await self.open(steps[0])
        plan = _plan(self._app, steps)
        with ExitStack() as hooks:
            await self.client.submit(self._app.publisher.enter(plan.sending, hooks))
        return plan.handle

    async def send_group(self, members: Sequence[Sequence[Signature[Any]]]) -> GroupResult[Any]:
        """As `Sender.send_group`."""
        with ExitStack() as hooks:
            plans, submissions = _group(self._app, members, hooks)
            answers = await self.client.submit_many(submissions)
        return _group_handle(self._app, plans, answers)

    async def call(self, step: Signature[Any]) -> Any:
        """As `Sender.call`."""
        with ExitStack() as hooks:
            call = _Call(self._app, step, hooks)
            try:
                data = await self.client.call(call.submission, call.timeout, call.listener())
            except GtaskError as error:
                _raise(call.error(error), error)
            return call.value(data)

    async def open(self, step: Signature[Any]) -> AsyncResult[Any]:
        """As `Sender.open`."""
        with ExitStack() as hooks:
            call = _Call(self._app, step, hooks)
            job = await self.client.open(call.submission, call.timeout, listen=False)
        return AsyncForegroundResult(call, job.result)

    async def state(self, task_id: str) -> State:
        """As `Sender.state`."""
        return _state(await self.client.statuses(_uniques(task_id)))

    async def close(self) -> None:
        """Closes this event loop's client; the next call makes a new one."""
        client = self._clients.get()
        if client is not None:
            self._clients.set(None)
            await client.aclose()


def _in_background(steps: Sequence[Signature[Any]]) -> bool:
    step = steps[0]
    background = bool(step.options.get("background", step.task.config.background))
    return background or len(steps) > 1


def _client_options(app: App) -> dict[str, Any]:
    settings = app.settings
    return {
        "request_timeout": settings.request_timeout,
        "connect_timeout": settings.connect_timeout,
        "max_body": settings.max_message,
        "tls": settings.tls,
    }


def _raise(made: BaseException, error: GtaskError) -> NoReturn:
    if made is error:
        raise error
    raise made from (made.__cause__ or error)
