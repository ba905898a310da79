"""Reading a task's items while it still runs: `Stream` and `AsyncStream`. Design, section 3.

    with export.stream(2026) as rows:
        for row in rows:
            ...

The job is a foreground job on a connection of its own. Leaving the loop early is enough in most code, since what is not
referred to any more is closed; a `with` block closes it for sure.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, Self, TypeVar

from gtask.answers import decode_answer
from gtask.chunks import MAGIC, MAX_WINDOW, WINDOW_BYTES, WINDOW_ITEMS, Unpacker
from gtask.client.channel import AsyncStreamClient, Channel, StreamClient
from gtask.client.foreground import AsyncForegroundJob, ForegroundJob
from gtask.codecs import convert
from gtask.errors import ConfigurationError, GtaskError, ResultTimeout, StreamBroken
from gtask.plans import Call, raise_made
from gtask.protocol import WorkData, WorkStatus, WorkWarning
from gtask.signatures import Signature
from gtask.signing import Kind, proof_of
from gtask.task import Task
from gtask.types import Submission

if TYPE_CHECKING:
    from gtask.app import App

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MAX_IDLE: Final = 4
"""Connections that are kept for the next streams."""


class _Client(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=_Client)


class Pool(Generic[C]):
    """The clients of an App's streams in one place: each stream has one to itself, and a few are kept for the next."""

    def __init__(self, make: Callable[[], C]) -> None:
        self._make = make
        self._idle: deque[C] = deque()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Pool of {len(self._idle)} idle>"

    def take(self) -> C:
        """One that is idle, or a new one."""
        try:
            return self._idle.popleft()
        except IndexError:
            return self._make()

    def give_back(self, client: C) -> None:
        """Keeps a client for the next stream, or closes it when there are enough."""
        # No lock: this is called by the garbage collector too, in the middle of anything.
        if self._closed or len(self._idle) >= MAX_IDLE:
            client.close()
        else:
            self._idle.append(client)

    def close(self) -> None:
        """Closes those that are idle, and each of the others when it comes back."""
        self._closed = True
        while self._idle:
            self._idle.popleft().close()


class StreamCall(Call):
    """A call whose data is a stream: its submission, and how its events become items."""

    def __init__(self, app: App, step: Signature[Any]) -> None:
        task = step.task
        if isinstance(task, Task) and not task.streams:
            raise ConfigurationError(
                f"{task.name} is no generator, so it has no items to stream: use call(), or write `yield` in it."
            )
        with ExitStack() as hooks:
            super().__init__(app, step, hooks)
        if self.sending.codec is not None:
            raise ConfigurationError(
                f"{task.name} lives in another language, which sends data but no streams: call it with on_data=."
            )
        self.window = _window(step)
        self.items = task.arguments.items
        self.unpacker = Unpacker(task.name, self.window, WINDOW_BYTES, bool(step.options.get("resume")))
        self._listen = self.listener()

    def make(self, token: str) -> Submission:
        """The submission for a reader who holds this token."""
        self.sending.message.headers["stream"] = [token, self.window, WINDOW_BYTES]
        with ExitStack() as hooks:
            submission = self.app.publisher.enter(self.sending, hooks)
        if self._keys is not None:
            self._proof = proof_of(submission.workload)
        return submission

    def read(self, event: WorkData | WorkWarning | WorkStatus) -> list[Any]:
        """The items that came with an event; what is none of the stream goes to whoever listens."""
        if isinstance(event, WorkData):
            data = self._opened(event.data, Kind.DATA)
            if data.startswith(MAGIC):
                before = self.unpacker.had
                items = self.unpacker.take(data)
                return items if self.items is Any else self._converted(items, before)
        if self._listen is not None:
            self._listen(event)
        return []

    def _converted(self, items: list[Any], first: int) -> list[Any]:
        return [convert(item, self.items, f"item {first + n}") for n, item in enumerate(items)]

    def error(self, error: GtaskError) -> BaseException:
        """As for any call; a stream that has begun has a worker, so its timeout is told in other words."""
        if isinstance(error, ResultTimeout) and self.unpacker.had:
            within = "in time" if self.timeout is None else f"within {self.timeout:g} s"
            return ResultTimeout(
                f"The stream of {self.step.task.name} did not end {within}; items that came: {self.unpacker.had}. "
                "Its timeout is for the whole stream, the reader's own time included."
            )
        return super().error(error)

    def ended(self, data: bytes) -> None:
        """Takes the answer at the end; raises `StreamBroken` when items are missing."""
        answer = decode_answer(self._opened(data, Kind.ANSWER))
        if not isinstance(answer, dict) or type(answer.get("items")) is not int:
            raise StreamBroken(
                f"{self.step.task.name} answered, and sent no stream: it is no generator in its worker, or the worker "
                "has an older gtask."
            )
        self.unpacker.end(answer["items"])


def _window(step: Signature[Any]) -> int:
    window = step.options.get("window", WINDOW_ITEMS)
    if type(window) is not int or not 0 < window <= MAX_WINDOW:
        raise ConfigurationError(
            f"A stream of {step.task.name}: window={window!r}; write a number of items from 1 to {MAX_WINDOW}."
        )
    return window


class _Reading(Generic[T_co]):
    """What both faces share: the items that are there, and what becomes of the rest."""

    def __init__(self, call: StreamCall) -> None:
        self.call = call
        """What the stream is of; for gtask's own use."""
        self._items: deque[Any] = deque()
        self._channel: Channel | None = None
        self._ended = False

    def __repr__(self) -> str:
        state = "ended" if self._ended else "open" if self._channel is not None else "not begun"
        return f"<{type(self).__name__} of {self.call.step.task.name}, {state}, {self.call.unpacker.had} items>"

    @property
    def id(self) -> str:
        """The id of the task."""
        return self.call.sending.message.id

    def _due(self) -> tuple[Channel, int, int] | None:
        """What is to be reported, before more is read."""
        unpacker = self.call.unpacker
        chunks = unpacker.report()
        if chunks is None or self._channel is None or unpacker.run is None:
            return None
        return self._channel, chunks, unpacker.run

    def _raise(self, error: GtaskError) -> None:
        raise_made(self.call.error(error), error)


class Stream(_Reading[T_co], Iterator[T_co]):
    """The items of a generator task, in their order, each as soon as it is there; made by `Task.stream`.

    One thread at a time may use it. Its generator is at most a window of items ahead of its reader. `close` it, or
    leave its `with` block, to end the generator early.
    """

    def __init__(self, call: StreamCall, pool: Pool[StreamClient]) -> None:
        super().__init__(call)
        self._pool = pool
        self._client = pool.take()
        try:
            self._job: ForegroundJob
            self._job, self._channel = self._client.open_channel(call.step.task.name, call.make, call.timeout)
        except BaseException as error:
            self._ended = True
            self._client.close()
            if isinstance(error, GtaskError):
                self._raise(error)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_ended", True):
            with contextlib.suppress(Exception):
                self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T_co:
        """The next item; waits for it.

        Raises what the task raised, `StreamBroken` when a part is lost, and otherwise as `Task.call` does. After any of
        these there is nothing more.
        """
        while not self._items:
            if self._ended:
                raise StopIteration
            try:
                self._read()
            except GtaskError as error:
                self.close()
                self._raise(error)
            except BaseException:
                self.close()
                raise
        item: T_co = self._items.popleft()
        return item

    def _read(self) -> None:
        due = self._due()
        if due is not None:
            self._client.report(*due)
        event = self._job.event()
        if event is not None:
            self._items.extend(self.call.read(event))
            return
        data = self._job.result()
        self.close()
        self.call.ended(data)

    def close(self) -> None:
        """Ends the stream: the generator is closed where it stands. What was sent and not read is dropped."""
        if self._ended:
            return
        self._ended = True
        self._items.clear()
        self._job.close()
        self._pool.give_back(self._client)


class AsyncStream(_Reading[T_co], AsyncIterator[T_co]):
    """`Stream` for async code, made by `Task.astream`: the job is sent when the first item is asked for.

    One task at a time may use it. An `async with` block closes it for sure.
    """

    def __init__(self, call: StreamCall, pool: Callable[[], Pool[AsyncStreamClient]]) -> None:
        super().__init__(call)
        self._get_pool = pool
        self._pool: Pool[AsyncStreamClient] | None = None
        self._client: AsyncStreamClient | None = None
        self._job: AsyncForegroundJob | None = None

    async def __aenter__(self) -> Self:
        if self._job is None and not self._ended:
            await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def __aiter__(self) -> Self:
        return self

    async def _open(self) -> AsyncForegroundJob:
        self._pool = self._get_pool()
        self._client = self._pool.take()
        call = self.call
        try:
            self._job, self._channel = await self._client.open_channel(call.step.task.name, call.make, call.timeout)
        except BaseException as error:
            self._ended = True
            self._client.close()
            if isinstance(error, GtaskError):
                self._raise(error)
            raise
        return self._job

    async def __anext__(self) -> T_co:
        """The next item; see `Stream.__next__`."""
        while not self._items:
            if self._ended:
                raise StopAsyncIteration
            try:
                await self._read()
            except GtaskError as error:
                self.close()
                self._raise(error)
            except BaseException:
                self.close()
                raise
        item: T_co = self._items.popleft()
        return item

    async def _read(self) -> None:
        job = self._job or await self._open()
        due = self._due()
        if due is not None and self._client is not None:
            self._client.report(*due)
        event = await job.event()
        if event is not None:
            self._items.extend(self.call.read(event))
            return
        data = await job.result()
        self.close()
        self.call.ended(data)

    def close(self) -> None:
        """Ends the stream, as `Stream.close`; it never waits."""
        if self._ended:
            return
        self._ended = True
        self._items.clear()
        if self._job is not None and self._client is not None and self._pool is not None:
            self._job.close()
            self._pool.give_back(self._client)

    async def aclose(self) -> None:
        """As `close`, for `contextlib.aclosing`."""
        self.close()
