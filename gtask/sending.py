"""Sending calls and getting answers, blocking and async: two thin faces over the same plans."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from anyio.lowlevel import RunVar

from gtask.client import AsyncClient, Client
from gtask.client.channel import AsyncStreamClient, StreamClient
from gtask.errors import ConfigurationError, GtaskError, JobException, JobFailed, ResultTimeout, TaskError
from gtask.failures import error_info
from gtask.group_result import GroupResult
from gtask.layout import lay_out_canvas
from gtask.plans import (
    Call,
    check_all,
    client_options,
    in_background,
    looked_at,
    make_plan,
    plan_unique,
    raise_made,
    seal_all,
    state_of,
)
from gtask.result import AsyncResult
from gtask.sendable import Canvas
from gtask.signatures import Signature
from gtask.states import ErrorInfo, Outcome, State
from gtask.streams import AsyncStream, Pool, Stream, StreamCall
from gtask.task import Task
from gtask.types import JobStatus
from gtask.unique import aanswered, answered, unique_key

if TYPE_CHECKING:
    from gtask.app import App


class Sender:
    """The blocking face. Its client is made when it is first needed, and survives a fork."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._client: Client | None = None
        self._streams: Pool[StreamClient] | None = None
        self._lock = threading.Lock()

    @property
    def client(self) -> Client:
        """The App's client."""
        if self._client is None:
            with self._lock:
                if self._client is None:
                    self._client = Client(self._app.servers, **client_options(self._app))
        return self._client

    def send(self, step: Signature[Any]) -> AsyncResult[Any]:
        """Submits one call."""
        if not in_background(step):
            return self.open(step)
        key = unique_key([step])
        if key is not None:
            plan, to_submit = answered(plan_unique(self._app, step, key))
            if not to_submit:
                return plan.handle
        else:
            plan = make_plan(self._app, step)
        with ExitStack() as hooks:
            submission = self._app.publisher.enter(plan.sending, hooks)
            # Calls that share a run meet on one of several job servers, where they coalesce.
            self.client.submit(submission if key is None else replace(submission, coalesce=True))
        return plan.handle

    def send_canvas(self, canvas: Canvas) -> AsyncResult[Any] | GroupResult[Any]:
        """Submits what starts first of a canvas, in one go, the rest travelling with it."""
        if isinstance(canvas, Signature):
            canvas.check_arguments()
            return self.send(canvas)
        with ExitStack() as hooks:
            layout = lay_out_canvas(self._app, canvas)
            answers = self.client.submit_many(seal_all(self._app, layout.sendings, hooks))
        check_all(answers, layout.sendings, len(layout.alone))
        for step, group, place in layout.alone:
            group.put(place, self.send(step))
        assert layout.handle is not None
        return layout.handle

    def call(self, step: Signature[Any]) -> Any:
        """Runs a step in the foreground and returns its answer."""
        with ExitStack() as hooks:
            call = Call(self._app, step, hooks)
            try:
                data = self.client.call(call.submission, call.timeout, call.listener())
            except GtaskError as error:
                raise_made(call.error(error), error)
            return call.value(data)

    def stream(self, step: Signature[Any]) -> Stream[Any]:
        """Starts a generator task in the foreground, whose items are read one by one."""
        call = StreamCall(self._app, step)
        if self._streams is None:
            with self._lock:
                if self._streams is None:
                    self._streams = Pool(lambda: StreamClient(self._app.servers, **client_options(self._app)))
        return Stream(call, self._streams)

    def open(self, step: Signature[Any]) -> AsyncResult[Any]:
        """Starts a step in the foreground; its handle waits on the connection."""
        if isinstance(step.task, Task) and step.task.streams:
            return StreamResult(self.stream(step))
        with ExitStack() as hooks:
            call = Call(self._app, step, hooks)
            job = self.client.open(call.submission, call.timeout, listen=False)
        return ForegroundResult(call, job.result)

    def state(self, task_id: str, timeout: float | None = None, certain: bool = False) -> State:
        """What the job servers know of a task."""
        return state_of(self.client.statuses(looked_at(task_id), timeout, certain=certain))

    def statuses(self, task_id: str) -> list[JobStatus]:
        """What the job servers know of the jobs of a task, for `gtask.progress.seen`."""
        return self.client.statuses(looked_at(task_id))

    def close(self) -> None:
        """Closes the client; the next call makes a new one."""
        with self._lock:
            client, self._client = self._client, None
            streams, self._streams = self._streams, None
        if streams is not None:
            streams.close()
        if client is not None:
            client.close()


class ForegroundResult(AsyncResult[Any]):
    """The handle of a foreground call that was started with `background=False`: its answer needs no store.

    It lives with the connection of this process, so its id means nothing elsewhere.
    """

    def __init__(self, call: Call, result: Callable[[float | None], bytes]) -> None:
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
        info = self._call.failure(error) if isinstance(error, JobException) else ErrorInfo("", str(error))
        self._outcome = Outcome(self.id, State.FAILURE, error=info, task=self.task or "")

    async def _await(self, timeout: float | None) -> Outcome | None:
        if self._outcome is None:
            raise RuntimeError("This call was started by blocking code: use result.get().")
        return self._outcome

    def revoke(self, terminate: bool = False) -> None:
        """Refused: a foreground call has no mark that a worker would see."""
        raise ConfigurationError(
            "A foreground call cannot be revoked: it ends with its caller's connection (app.close()). Send the task "
            "in the background to revoke it."
        )

    async def arevoke(self, terminate: bool = False) -> None:
        """Refused, as `revoke`."""
        self.revoke(terminate)

    def _look(self) -> Outcome | None:
        return self._wait(0)

    def _unknown(self, limit: float | None = None) -> bool:
        return False

    async def _aunknown(self, limit: float | None = None) -> bool:
        return False

    async def _alook(self) -> Outcome | None:
        return await self._await(0)

    @property
    def state(self) -> State:
        """Where the call stands now, as far as this process has heard of it."""
        outcome = self._look()
        return State.PENDING if outcome is None else outcome.state

    status = state

    async def astate(self) -> State:
        """`state` for async code."""
        outcome = await self._alook()
        return State.PENDING if outcome is None else outcome.state


class StreamResult(ForegroundResult):
    """The handle of a generator task that was started with `background=False`."""

    def __init__(self, stream: Stream[Any]) -> None:
        super().__init__(stream.call, lambda timeout: b"")
        self._stream = stream

    def stream(self) -> Stream[Any]:
        """Its items; each can be had once."""
        return self._stream

    def _wait(self, timeout: float | None) -> Outcome | None:
        if self._outcome is None and timeout != 0:
            try:
                self._outcome = Outcome(self.id, State.SUCCESS, list(self._stream), task=self.task or "")
            except TaskError as error:
                self._outcome = Outcome(self.id, State.FAILURE, error=error_info(error), task=self.task or "")
        return self._outcome


class AsyncForegroundResult(ForegroundResult):
    """`ForegroundResult` for async code: await it."""

    def __init__(self, call: Call, result: Callable[[float | None], Any]) -> None:
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


class AsyncStreamResult(ForegroundResult):
    """`StreamResult` for async code."""

    def __init__(self, stream: AsyncStream[Any]) -> None:
        super().__init__(stream.call, lambda timeout: b"")
        self._stream = stream

    def astream(self) -> AsyncStream[Any]:
        """Its items; each can be had once."""
        return self._stream

    def _wait(self, timeout: float | None) -> Outcome | None:
        if self._outcome is None and timeout != 0:
            raise RuntimeError("This stream is for async code: use `async for`, or `await result`.")
        return self._outcome

    async def _await(self, timeout: float | None) -> Outcome | None:
        if self._outcome is None and timeout != 0:
            try:
                items = [item async for item in self._stream]
                self._outcome = Outcome(self.id, State.SUCCESS, items, task=self.task or "")
            except TaskError as error:
                self._outcome = Outcome(self.id, State.FAILURE, error=error_info(error), task=self.task or "")
        return self._outcome


class AsyncSender:
    """The async face: one client for each event loop, closed by `App.aclose`."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._clients: RunVar[AsyncClient | None] = RunVar(f"gtask client of {app.name}", None)
        self._streams: RunVar[Pool[AsyncStreamClient] | None] = RunVar(f"gtask streams of {app.name}", None)

    @property
    def client(self) -> AsyncClient:
        """The App's client in this event loop."""
        client = self._clients.get()
        if client is None:
            client = AsyncClient(self._app.servers, **client_options(self._app))
            self._clients.set(client)
        return client

    async def send(self, step: Signature[Any]) -> AsyncResult[Any]:
        """As `Sender.send`."""
        if not in_background(step):
            return await self.open(step)
        key = unique_key([step])
        if key is not None:
            plan, to_submit = await aanswered(plan_unique(self._app, step, key))
            if not to_submit:
                return plan.handle
        else:
            plan = make_plan(self._app, step)
        with ExitStack() as hooks:
            submission = self._app.publisher.enter(plan.sending, hooks)
            await self.client.submit(submission if key is None else replace(submission, coalesce=True))
        return plan.handle

    async def send_canvas(self, canvas: Canvas) -> AsyncResult[Any] | GroupResult[Any]:
        """As `Sender.send_canvas`."""
        if isinstance(canvas, Signature):
            canvas.check_arguments()
            return await self.send(canvas)
        with ExitStack() as hooks:
            layout = lay_out_canvas(self._app, canvas)
            answers = await self.client.submit_many(seal_all(self._app, layout.sendings, hooks))
        check_all(answers, layout.sendings, len(layout.alone))
        for step, group, place in layout.alone:
            group.put(place, await self.send(step))
        assert layout.handle is not None
        return layout.handle

    async def call(self, step: Signature[Any]) -> Any:
        """As `Sender.call`."""
        with ExitStack() as hooks:
            call = Call(self._app, step, hooks)
            try:
                data = await self.client.call(call.submission, call.timeout, call.listener())
            except GtaskError as error:
                raise_made(call.error(error), error)
            return call.value(data)

    def stream(self, step: Signature[Any]) -> AsyncStream[Any]:
        """As `Sender.stream`; the job is sent when the first item is asked for."""
        return AsyncStream(StreamCall(self._app, step), self._get_streams)

    def _get_streams(self) -> Pool[AsyncStreamClient]:
        """The clients of the streams of this event loop."""
        pool = self._streams.get()
        if pool is None:
            pool = Pool(lambda: AsyncStreamClient(self._app.servers, **client_options(self._app)))
            self._streams.set(pool)
        return pool

    async def open(self, step: Signature[Any]) -> AsyncResult[Any]:
        """As `Sender.open`; a stream begins when its first item is asked for."""
        if isinstance(step.task, Task) and step.task.streams:
            return AsyncStreamResult(self.stream(step))
        with ExitStack() as hooks:
            call = Call(self._app, step, hooks)
            job = await self.client.open(call.submission, call.timeout, listen=False)
        return AsyncForegroundResult(call, job.result)

    async def state(self, task_id: str, timeout: float | None = None, certain: bool = False) -> State:
        """As `Sender.state`."""
        return state_of(await self.client.statuses(looked_at(task_id), timeout, certain=certain))

    async def statuses(self, task_id: str) -> list[JobStatus]:
        """As `Sender.statuses`."""
        return await self.client.statuses(looked_at(task_id))

    async def close(self) -> None:
        """Closes this event loop's client; the next call makes a new one."""
        streams = self._streams.get()
        if streams is not None:
            self._streams.set(None)
            streams.close()
        client = self._clients.get()
        if client is not None:
            self._clients.set(None)
            await client.aclose()
