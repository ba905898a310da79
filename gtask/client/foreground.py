"""Foreground jobs under way, as a client's caller holds them: their events, their result. Design, section 3."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self, TypeVar

from gtask.client import flows
from gtask.client.core import Flow
from gtask.protocol.events import WorkData, WorkStatus, WorkWarning

__all__ = ["AsyncForegroundJob", "AsyncRunner", "ForegroundJob", "Runner"]

T = TypeVar("T")


class Runner(Protocol):
    """What a `ForegroundJob` needs of its client."""

    def _run(self, flow: Flow[T]) -> T: ...

    def _drop(self, job: flows.Foreground) -> None: ...


class AsyncRunner(Protocol):
    """What an `AsyncForegroundJob` needs of its client."""

    async def _run(self, flow: Flow[T]) -> T: ...


class ForegroundJob:
    """A foreground job under way, made by `Client.open`; iterating over it gives its events as they come.

    Leave its `with` block, or `close` it, when its result is not wanted any more: it goes on, and its connection stays
    in use. One thread at a time may use it.
    """

    def __init__(self, client: Runner, job: flows.Foreground) -> None:
        self._client = client
        self._job = job

    def __repr__(self) -> str:
        return repr(self._job)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        """Gives what the job sends, until it has ended; raises as `result` does when the job's time is up."""
        return self

    def __next__(self) -> WorkData | WorkWarning | WorkStatus:
        event = self.event()
        if event is None:
            raise StopIteration
        return event

    def event(self, timeout: float | None = None) -> WorkData | WorkWarning | WorkStatus | None:
        """Waits for the next thing the job sends; None when it has ended.

        After `timeout` seconds without any it raises `ResultTimeout`, and may be called again. Raises as `Client.call`
        does.
        """
        return self._client._run(self._job.advance(timeout, listening=True))

    @property
    def handle(self) -> str:
        """The job's handle on the server it is on now; "" while that is not known."""
        return self._job.handle

    def result(self, timeout: float | None = None) -> bytes:
        """Waits for the end and returns the result; events that were not read are dropped.

        After `timeout` seconds it raises `ResultTimeout`, and may be called again. Raises as `Client.call` does.
        """
        self._client._run(self._job.advance(timeout, listening=False))
        return self._job.result()

    def close(self) -> None:
        """Stops waiting for it."""
        self._client._drop(self._job)


class AsyncForegroundJob:
    """The twin of `ForegroundJob`, made by `AsyncClient.open`; one task at a time may use it."""

    def __init__(self, client: AsyncRunner, job: flows.Foreground) -> None:
        self._client = client
        self._job = job

    def __repr__(self) -> str:
        return repr(self._job)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        """Gives what the job sends, until it has ended; raises as `result` does when the job's time is up."""
        return self

    async def __anext__(self) -> WorkData | WorkWarning | WorkStatus:
        # No generator: one that is left half-way would have to be closed by somebody.
        event = await self.event()
        if event is None:
            raise StopAsyncIteration
        return event

    async def event(self, timeout: float | None = None) -> WorkData | WorkWarning | WorkStatus | None:
        """Waits for the next thing the job sends; None when it has ended. See `ForegroundJob.event`."""
        return await self._client._run(self._job.advance(timeout, listening=True))

    @property
    def handle(self) -> str:
        """The job's handle on the server it is on now; "" while that is not known."""
        return self._job.handle

    async def result(self, timeout: float | None = None) -> bytes:
        """Waits for the end and returns the result; events that were not read are dropped.

        After `timeout` seconds it raises `ResultTimeout`, and may be called again. Raises as `Client.call` does.
        """
        await self._client._run(self._job.advance(timeout, listening=False))
        return self._job.result()

    def close(self) -> None:
        """Stops waiting for it."""
        self._job.close()
