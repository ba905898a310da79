"""Time limits: `soft_time_limit` is raised inside the task, `time_limit` ends it. Design, section 6.

What can be enforced depends on where the body runs:

* An async task is interrupted where it awaits, in every pool: by the soft limit with an exception that it may catch, by
  the hard one with cancellation. One that never awaits is killed with its process, as below.
* A plain function in the main thread of its process (the pools prefork and solo) is interrupted by a signal for the
  soft limit, also while it blocks in a system call. For the hard limit the supervisor kills the process, which works
  whatever the process does, and the job is failed by the next process that gets it.
* A plain function in a thread (the pools thread and async) cannot be interrupted: there a limit is refused.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, NoReturn

import anyio

from gtask.context import TaskContext
from gtask.errors import ConfigurationError, SoftTimeLimitExceeded, TimeLimitExceeded
from gtask.middleware.base import Middleware, Next
from gtask.states import Outcome
from gtask.task import Task

STUCK: Final = 2.0
"""Seconds that an async task gets to end after its hard limit, before its process is killed."""


class TimeLimit(Middleware):
    """Enforces the limits of a task, and those of a call in their place."""

    async def executing(self, call_next: Next, context: TaskContext) -> Outcome:
        """Runs within the limits; raises `SoftTimeLimitExceeded` or `TimeLimitExceeded`."""
        soft, hard = limits_of(context)
        if soft is None and hard is None:
            return await call_next(context)
        task = context.task
        if isinstance(task, Task) and task.is_async:
            if hard is not None:
                context.kill_after(hard + STUCK)
            return await _within(call_next(context), soft, hard)
        if not context.in_main_thread:
            raise ConfigurationError(
                f"{task.name} has a time limit and is a plain function, which cannot be interrupted in a thread: "
                "run it in the pool prefork or solo, or make it async."
            )
        if hard is not None:
            context.kill_after(hard)
        if soft is None:
            return await call_next(context)
        with _alarm(soft):
            return await call_next(context)


def limits_of(context: TaskContext) -> tuple[float | None, float | None]:
    """The soft and the hard limit of a run in seconds: those of the call, else those of the task."""
    headers, config = context.message.headers, context.task.config
    return headers.get("soft_time_limit", config.soft_time_limit), headers.get("time_limit", config.time_limit)


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raises `SoftTimeLimitExceeded` in this, the main thread, after so many seconds."""

    def ring(number: int, frame: FrameType | None) -> NoReturn:
        raise SoftTimeLimitExceeded(f"The task ran longer than its soft_time_limit of {seconds:g} s.")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


async def _within(flow: Any, soft: float | None, hard: float | None) -> Outcome:
    """Awaits `flow`; interrupts it once with the soft limit's exception, and cancels it at the hard limit."""
    drive = _Drive(flow.__await__())
    started = time.monotonic()
    try:
        if soft is not None:
            with anyio.move_on_after(soft) as scope:
                await drive.on(scope)
            if not drive.done:
                drive.interrupt(SoftTimeLimitExceeded(f"The task ran longer than its soft_time_limit of {soft:g} s."))
        if not drive.done:
            left = None if hard is None else max(0.0, hard - (time.monotonic() - started))
            with anyio.move_on_after(left) as scope:
                await drive.on()
            if scope.cancelled_caught:
                raise TimeLimitExceeded(f"The task ran longer than its time_limit of {hard:g} s.")
        return drive.outcome
    finally:
        drive.close()


class _Drive:
    """Drives an awaitable step by step, so that it can be interrupted at an await with an exception of our choice.

    Cancellation would do for stopping it, but a soft limit is to be raised inside as itself, once. So the first part
    runs in a scope of its own; when that is cancelled the flow is left suspended where it is, and the second part
    goes on from there by throwing the exception in.
    """

    def __init__(self, flow: Any) -> None:
        self.done = False
        self._flow = flow
        self._value: Any = None
        self._error: BaseException | None = None
        self._outcome: Outcome | None = None

    @property
    def outcome(self) -> Outcome:
        """What the flow returned."""
        assert self._outcome is not None
        return self._outcome

    def interrupt(self, error: BaseException) -> None:
        """Has this raised inside the flow when it goes on."""
        self._error = error

    def on(self, scope: anyio.CancelScope | None = None) -> _Part:
        """Goes on with the flow until it is done, or until `scope` is cancelled."""
        return _Part(self, scope)

    def close(self) -> None:
        """Ends a flow that is not done."""
        if not self.done:
            self._flow.close()

    def steps(self, scope: anyio.CancelScope | None) -> Generator[Any, Any, None]:
        """The steps of one part, for an event loop to make."""
        while True:
            try:
                if self._error is not None:
                    error, self._error = self._error, None
                    asked = self._flow.throw(error)
                else:
                    asked = self._flow.send(self._value)
            except StopIteration as stop:
                self.done = True
                self._outcome = stop.value
                return
            except BaseException:
                self.done = True
                raise
            try:
                self._value = yield asked
            except BaseException as error:
                if scope is not None and scope.cancel_called and isinstance(error, anyio.get_cancelled_exc_class()):
                    raise
                self._error = error


class _Part:
    def __init__(self, drive: _Drive, scope: anyio.CancelScope | None) -> None:
        self._drive = drive
        self._scope = scope

    def __await__(self) -> Generator[Any, Any, None]:
        return self._drive.steps(self._scope)
