"""The asynchronous client, for asyncio, uvloop and trio. It has no task of its own: whoever awaits reads for everyone.

The calls are those of `gtask.client.blocking`, word for word: both faces run the flows of `gtask.client.flows`. A call
that is cancelled leaves its connection usable, and the reading to another one that waits.
"""

from __future__ import annotations

import inspect
import os
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable
from random import Random
from types import TracebackType
from typing import Self, TypeVar

import anyio

from gtask.client import base, flows
from gtask.client.base import Submitted
from gtask.client.core import Core, Flow, Open, Pause
from gtask.client.foreground import AsyncForegroundJob
from gtask.client.link import FLUSH_SLICE, Link, Part, Pending
from gtask.errors import GtaskError, NetworkError, ServerError
from gtask.protocol.codec import MAX_BODY
from gtask.protocol.events import WorkData, WorkStatus, WorkWarning
from gtask.transport.aio import Connection, connect
from gtask.transport.tls import TLS
from gtask.types import JobStatus, Server, Submission

__all__ = ["AsyncClient"]

T = TypeVar("T")

_clients: weakref.WeakSet[AsyncClient] = weakref.WeakSet()


class AsyncClient:
    """The twin of `gtask.client.blocking.Client`, with the same settings and calls, for the tasks of one event loop.

    It needs no `async with`, though it can be used in one; `aclose` it at the end. It may serve one event loop after
    another. Design, sections 6 and 8.
    """

    core_type: type[Core] = Core

    def __init__(
        self,
        servers: str | Server | Iterable[str | Server] | None = None,
        *,
        request_timeout: float = base.REQUEST_TIMEOUT,
        connect_timeout: float = base.CONNECT_TIMEOUT,
        max_body: int = MAX_BODY,
        tls: TLS | None = None,
        client_id: str = "",
        rng: Random | None = None,
    ) -> None:
        self._gates: dict[Server, anyio.Event] = {}
        self._core = self.core_type(
            servers,
            wake=_wake,
            request_timeout=request_timeout,
            connect_timeout=connect_timeout,
            max_body=max_body,
            tls=tls,
            client_id=client_id,
            rng=rng,
        )
        _clients.add(self)

    def __repr__(self) -> str:
        return self._core.describe(type(self).__name__)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def servers(self) -> tuple[Server, ...]:
        """The job servers of this client, in the order in which they were given."""
        return self._core.servers

    async def aclose(self) -> None:
        """Ends all connections, for good; calls under way in other tasks raise `ConnectionLost`. It never waits."""
        self._core.close()

    # --- calls -----------------------------------------------------------------------------------------------

    async def submit(self, submission: Submission, timeout: float | None = None) -> Submitted:
        """Hands a background job to a job server; see `Client.submit`.

        When it is cancelled the job may have been accepted.
        """
        return await self._run(flows.submit(self._core, submission, timeout))

    async def submit_many(
        self, submissions: Iterable[Submission], timeout: float | None = None
    ) -> list[Submitted | ServerError]:
        """Hands many background jobs over, a thousand under way at once; see `Client.submit_many`."""
        return await self._run(flows.submit_many(self._core, submissions, timeout))

    async def call(
        self,
        submission: Submission,
        timeout: float | None = None,
        on_event: Callable[[WorkData | WorkWarning | WorkStatus], Awaitable[None] | None] | None = None,
    ) -> bytes:
        """Runs a foreground job and returns its result; see `Client.call`. `on_event` may be a coroutine function."""
        async with await self.open(submission, timeout, listen=on_event is not None) as job:
            if on_event is not None:
                async for event in job:
                    done = on_event(event)
                    if inspect.isawaitable(done):
                        await done
            return await job.result()

    async def open(
        self, submission: Submission, timeout: float | None = None, *, listen: bool = True
    ) -> AsyncForegroundJob:
        """Sends a foreground job and returns at once; see `Client.open`."""
        job = flows.Foreground(self._core, submission, timeout, listen)
        try:
            await self._run(job.start())
        except BaseException:
            job.close()
            raise
        return AsyncForegroundJob(self, job)

    async def call_many(
        self, submissions: Iterable[Submission], timeout: float | None = None
    ) -> list[bytes | GtaskError]:
        """Runs foreground jobs side by side and returns their results in order; see `Client.call_many`."""
        return await self._run(flows.call_many(self._core, submissions, timeout))

    async def status(self, unique: str, timeout: float | None = None) -> JobStatus:
        """Asks all job servers that can be reached how the job with this unique is; see `Client.statuses`."""
        return (await self.statuses([unique], timeout))[0]

    async def statuses(
        self, uniques: Iterable[str], timeout: float | None = None, *, certain: bool = False
    ) -> list[JobStatus]:
        """Asks all job servers that can be reached how these jobs are; see `Client.statuses`."""
        return await self._run(flows.statuses(self._core, list(uniques), timeout, certain))

    async def echo(self, data: bytes = b"gtask", server: Server | None = None, timeout: float | None = None) -> bytes:
        """Asks a job server (None: the preferred one) for `data` back, as a sign of life; `timeout` in seconds."""
        return await self._run(flows.echo(self._core, data, server, timeout))

    # --- waiting ---------------------------------------------------------------------------------------------

    async def _run(self, flow: Flow[T]) -> T:
        value: Link | None = None
        error: NetworkError | None = None
        step: Pending | Open | Pause | None = None
        try:
            while True:
                step = flow.send(value) if error is None else flow.throw(error)
                value = error = None
                try:
                    if isinstance(step, Pending):
                        await self._wait(step)
                    elif isinstance(step, Open):
                        value = await self._open(step)
                    else:
                        await anyio.sleep(step.seconds)
                except NetworkError as failure:
                    error = failure
        except StopIteration as stop:
            result: T = stop.value
            return result
        except BaseException:
            if isinstance(step, Pending):
                self._core.stand_down(step)
            flow.close()
            self._core.mend()
            raise

    async def _wait(self, pending: Pending) -> None:
        """Waits until there is news for `pending`, or its deadline; reads for all while nobody else does."""
        link = pending.link
        stream = link.stream
        assert isinstance(stream, Connection)
        while (part := self._core.attend(pending)) is not None:
            deadline = pending.deadline()
            limit = None if deadline == base.INF else deadline
            if part is Part.READ:
                if link.unsent:
                    await stream.wait(limit)
                else:
                    await stream.wait_readable(limit)
            elif part is Part.WRITE:
                # It looks up now and then: the reader may have left, and it is to read as well.
                await stream.wait_writable(min(deadline, time.monotonic() + FLUSH_SLICE))
            else:
                signal = link.followers[pending] = anyio.Event()
                with anyio.move_on_after(None if limit is None else limit - time.monotonic()):
                    await signal.wait()

    async def _open(self, step: Open) -> Link:
        """Connects, or waits until another task has connected to the same server."""
        server, started = step.server, time.monotonic()
        mine = anyio.Event()
        try:
            while True:
                link = self._core.connection(server, started)
                if link is not None:
                    return link
                other = self._gates.setdefault(server, mine)
                if other is mine:
                    break
                with anyio.move_on_after(started + step.timeout - time.monotonic()) as scope:
                    await other.wait()
                if scope.cancelled_caught:
                    raise base.still_trying(server, step.timeout)
            try:
                stream = await connect(server, started + step.timeout - time.monotonic(), self._core.tls)
            except NetworkError as error:
                self._core.refused(server, error)
                raise
            return self._core.opened(server, stream)
        finally:
            if self._gates.get(server) is mine:
                del self._gates[server]
            mine.set()

    def _forked(self) -> None:
        self._gates = {}
        self._core.forked()


def _wake(news: Iterable[Pending]) -> None:
    for pending in news:
        signal = pending.link.followers.pop(pending, None)
        if signal is not None:
            signal.set()


def _after_fork() -> None:
    for client in list(_clients):
        client._forked()


os.register_at_fork(after_in_child=_after_fork)
