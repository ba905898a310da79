"""The worker's side of a stream: runs a generator task and sends what it yields. Design, section 3.

Items are gathered for `DELAY` seconds at most, so that small ones travel together; one that comes after a pause is sent
at once. When the window is full the generator is not asked for more until its reader has consumed some. When the reader
leaves, or dies, the generator is closed where it stands, and its `finally` blocks run.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from time import monotonic
from typing import Any, Final

import anyio

from gtask.answers import Form, encode_answer
from gtask.chunks import MAX_RUN, MAX_WINDOW, WINDOW_BYTES, WINDOW_ITEMS, Packer, Window
from gtask.client.channel import ATTACHED, FUNCTION
from gtask.codecs import pack
from gtask.context import TaskContext
from gtask.errors import DecodeError
from gtask.middleware.results import check_size
from gtask.protocol import Event
from gtask.protocol.events import Answered, Lost, Refused, WorkComplete, WorkException, WorkFail, WorkStatus
from gtask.signing import Kind
from gtask.types import MAX_UNIQUE, JobStatus, Submission

DELAY: Final = 0.02
"""Seconds for which an item may wait for others to travel with."""

CHECK: Final = 2.0
"""Seconds after which the job server is asked again whether the reader is still there."""


class ReaderLeft(Exception):
    """Nobody reads the stream any more."""


class Producer:
    """What one run sends to its reader, who holds the token `to`.

    One thread or task puts items in; the timers, and whoever reads the connection, come in between.
    """

    def __init__(self, context: TaskContext, to: str, window_items: int, window_bytes: int) -> None:
        self._context = context
        self._reporter = context.reporter
        self._to = to
        self._run = secrets.randbelow(MAX_RUN) + 1
        self._packer = Packer(self._run, window_items, window_bytes)
        self._window = Window(window_items, window_bytes)
        self._sending = threading.Lock()
        self._news = threading.Condition()
        self._wake: Callable[[], object] | None = None
        self._consumed = 0
        """Chunks that the reader has consumed, as far as this process has heard."""
        self._known = 0
        """How many of them the window knows of."""
        self._gone = False
        self._armed = False
        self._torn = False
        """Whether a signal's exception has struck while an item was taken; the counts may be wrong then."""
        self._ended = False
        self._sent_at = 0.0
        self._asked_at = 0.0

    def __repr__(self) -> str:
        return f"<Producer for {self._to}, {self._packer.count} items, {self._window}>"

    @property
    def count(self) -> int:
        """Items put in so far."""
        return self._packer.count

    # --- putting in ------------------------------------------------------------------------------------------

    def put(self, value: Any) -> None:
        """Takes an item, after waiting until there is room for it; raises `ReaderLeft`, and `EncodeError`."""
        self._reporter.busy = True  # a soft limit that struck now would be taken for the item's own mistake
        try:
            item = self._packed(value)
        finally:
            self._reporter.busy = False
        while not self._room():
            with self._news:
                if self._consumed == self._known and not self._gone and not self._news.wait(CHECK):
                    self._asked_at = 0.0
        self._add(item)

    async def aput(self, value: Any) -> None:
        """`put` for async generators."""
        item = self._packed(value)
        while not self._room():
            await self._wait()
        self._add(item)

    def _packed(self, value: Any) -> bytes:
        where = f"item {self._packer.count}"
        item = pack(value, where)
        check_size(len(item), self._context.task.app.settings.max_message)
        return item

    async def _wait(self) -> None:
        # The news comes in the thread of the driver, which is this loop's own only in the pool async.
        event = anyio.Event()
        try:
            loop = asyncio.get_running_loop()
            self._wake = lambda: loop.call_soon_threadsafe(event.set)
        except RuntimeError:
            self._wake = event.set
        try:
            if self._consumed == self._known and not self._gone:
                with anyio.move_on_after(CHECK) as scope:
                    await event.wait()
                if scope.cancelled_caught:
                    self._asked_at = 0.0
        finally:
            self._wake = None

    def _room(self) -> bool:
        """Whether an item can be taken now; asks after the reader now and then."""
        self._known = self._consumed
        self._window.consumed(self._known)
        if self._packer.count and monotonic() - self._asked_at >= CHECK:
            self._ask()
        if self._gone:
            raise ReaderLeft
        return self._window.open

    def _add(self, item: bytes) -> None:
        with self._sending:
            self._torn = True
            packer = self._packer
            packer.add(item)
            if packer.full or monotonic() - self._sent_at >= DELAY:
                self._cut()
            elif not self._armed:
                self._arm()
            self._torn = False

    # --- sending ---------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        self._armed = True
        self._reporter.later(DELAY, self._late)

    def _late(self) -> None:
        """Sends what has waited long enough; leaves it to whoever is sending, and looks again later."""
        self._armed = False
        if self._ended:
            return
        if not self._sending.acquire(blocking=False):
            self._arm()
            return
        try:
            if self._packer.waiting and not self._ended and not self._torn:
                self._cut()
        finally:
            self._sending.release()

    def _cut(self) -> None:
        first = not self._sent_at
        self._sent_at = monotonic()
        count, data = self._packer.cut()
        self._window.sent(count, len(data))
        if not self._reporter.data(self._context.sealed(Kind.DATA, data)):
            self._gone = True  # with its connection the job was given to another worker
        elif first:
            self._attach()

    def finish(self) -> None:
        """Sends what is left; the run is over."""
        with self._sending:
            self._ended = True
            if self._packer.waiting and not self._gone and not self._torn:
                self._cut()

    # --- the reader ------------------------------------------------------------------------------------------

    def _attach(self) -> None:
        """Has the job server say how far the reader is; what it said before comes as the answer to a question."""
        self._context.streamed = True
        self._reporter.submit(Submission(FUNCTION, ATTACHED, self._to, background=False), self._tell)
        self._ask()

    def _ask(self) -> None:
        self._asked_at = monotonic()
        if not self._reporter.ask(self._to, self._tell):
            self._gone = True

    def _tell(self, event: Event) -> None:
        """Hears of the token, in the thread that reads the connection; it must not send, nor wait."""
        if isinstance(event, WorkStatus):
            self._heard(_whole(event.numerator), _whole(event.denominator))
        elif isinstance(event, Answered):
            status = event.value
            if isinstance(status, JobStatus) and status.running:
                self._heard(status.numerator, status.denominator)
            else:
                self._leave()
        elif isinstance(event, WorkComplete | WorkFail | WorkException | Lost | Refused):
            self._leave()

    def _heard(self, consumed: int, run: int) -> None:
        if run == self._run and consumed > self._consumed:
            with self._news:
                self._consumed = consumed
                self._news.notify()
            self._wake_up()

    def _leave(self) -> None:
        with self._news:
            self._gone = True
            self._news.notify()
        self._wake_up()

    def _wake_up(self) -> None:
        wake = self._wake
        if wake is not None:
            try:
                wake()
            except RuntimeError:
                pass  # its loop has ended


def _whole(text: bytes) -> int:
    try:
        return int(text[:20])
    except ValueError:
        return 0


# --- running a generator ---------------------------------------------------------------------------------------


def produce(context: TaskContext, items: Iterable[Any]) -> Any:
    """Runs a plain generator and sends what it yields where somebody reads it; returns the task's result."""
    to = _reader(context)
    if to is None:
        return list(items)
    put, finish = to
    try:
        for item in items:
            put(item)
        return finish()
    except ReaderLeft:
        finish()
        return None
    except BaseException:
        finish()
        raise
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


async def aproduce(context: TaskContext, items: AsyncIterable[Any]) -> Any:
    """`produce` for an async generator."""
    to = _areader(context)
    try:
        if to is None:
            return [item async for item in items]
        put, finish = to
        try:
            async for item in items:
                await put(item)
            return finish()
        except ReaderLeft:
            finish()
            return None
        except BaseException:
            finish()
            raise
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()


_Finish = Callable[[], Any]


def _reader(context: TaskContext) -> tuple[Callable[[Any], None], _Finish] | None:
    producer = _producer(context)
    if producer is not None:
        return producer.put, lambda: _end(producer)
    if not _is_raw(context):
        return None
    return lambda value: _send_raw(context, value), lambda: _end_raw(context)


def _areader(context: TaskContext) -> tuple[Callable[[Any], Awaitable[None]], _Finish] | None:
    producer = _producer(context)
    if producer is not None:
        return producer.aput, lambda: _end(producer)
    if not _is_raw(context):
        return None

    async def put(value: Any) -> None:
        _send_raw(context, value)
        await anyio.lowlevel.checkpoint()

    return put, lambda: _end_raw(context)


def _end(producer: Producer) -> dict[str, int]:
    producer.finish()
    return {"items": producer.count}


def _producer(context: TaskContext) -> Producer | None:
    """For a caller that reads the task as a stream; raises `DecodeError` when it does not say so properly."""
    wanted = context.message.headers.get("stream")
    if wanted is None or not context.foreground or context.message.form is not Form.ENVELOPE:
        return None
    match wanted:
        case [str(to), int(items), int(size)] if 0 < len(to) <= MAX_UNIQUE and items > 0 and size > 0:
            return Producer(context, to, min(items, MAX_WINDOW), min(size, 64 * WINDOW_BYTES))
    raise DecodeError(
        f"The header 'stream' holds a token, items and bytes, such as ['...', {WINDOW_ITEMS}, {WINDOW_BYTES}]."
    )


def _is_raw(context: TaskContext) -> bool:
    """Whether the caller speaks another language, so that it gets each item as WORK_DATA in its own form."""
    form = context.message.form
    return not form.is_envelope or (context.foreground and "stream" in context.message.headers)


def _end_raw(context: TaskContext) -> None:
    context.streamed = True


def _send_raw(context: TaskContext, value: Any) -> None:
    form = context.message.form
    data = encode_answer(form, value)
    context.streamed = True
    if not context.send_data(data + b"\n" if form in (Form.JSON, Form.JSON_ENVELOPE) else data):
        raise ReaderLeft
