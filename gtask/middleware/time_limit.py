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

import asyncio
import math
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import anyio

from gtask.context import Reporter, TaskContext
from gtask.errors import ConfigurationError, SoftTimeLimitExceeded, TimeLimitExceeded
from gtask.middleware.base import Middleware, Next
from gtask.states import Outcome
from gtask.task import Task

BUSY: Final = 0.005
"""Seconds after which a soft limit tries again, when it comes in the middle of a report to the job server: torn in two,
that would end the connection, and other jobs with it."""

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
        with _alarm(soft, context.reporter):
            return await call_next(context)


def limits_of(context: TaskContext) -> tuple[float | None, float | None]:
    """The soft and the hard limit of a run in seconds: those of the call, else those of the task."""
    headers, config = context.message.headers, context.task.config
    return headers.get("soft_time_limit", config.soft_time_limit), headers.get("time_limit", config.time_limit)


@contextmanager
def _alarm(seconds: float, reporter: Reporter) -> Iterator[None]:
    """Raises `SoftTimeLimitExceeded` in this, the main thread, after so many seconds."""

    def ring(number: int, frame: FrameType | None) -> None:
        if reporter.busy:
            signal.setitimer(signal.ITIMER_REAL, BUSY)
            return
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
    now = anyio.current_time()
    never = math.inf
    with anyio.CancelScope(deadline=never if soft is None else now + soft) as outer:
        with anyio.CancelScope(deadline=never if hard is None else now + hard) as inner:
            outcome: Outcome = await _Interruptible(flow, outer, inner, soft or 0.0)
    if inner.cancelled_caught:
        raise TimeLimitExceeded(f"The task ran longer than its time_limit of {hard:g} s.")
    return outcome


class _Interruptible:
    """An awaitable that turns one cancellation, that of the scope `outer`, into an exception raised inside `flow`.

    Cancellation alone would not do: it is raised again at every await, and the task is to be able to clean up. So when
    `outer` is cancelled the scope `inner` is shielded from it, and what the flow is waiting in raises
    `SoftTimeLimitExceeded` instead.
    """

    def __init__(self, flow: Any, outer: anyio.CancelScope, inner: anyio.CancelScope, soft: float) -> None:
        self._flow = flow.__await__()
        self._outer = outer
        self._inner = inner
        self._soft = soft
        self._interrupted = False

    def __await__(self) -> Generator[Any, Any, Any]:
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                asked = self._flow.send(value) if error is None else self._flow.throw(error)
            except StopIteration as stop:
                return stop.value
            value = error = None
            try:
                value = yield asked
            except BaseException as thrown:
                error = self._instead(thrown)
            else:
                # trio hands in what is to be raised as a value, and raises it further inside.
                error = self._instead(getattr(value, "error", None), only=True)

    def _instead(self, error: Any, only: bool = False) -> BaseException | None:
        """What to raise in place of an exception; with `only`, None for one that is to be left alone."""
        if (
            self._interrupted
            or not self._outer.cancel_called
            or self._inner.cancel_called
            or not isinstance(error, anyio.get_cancelled_exc_class())
        ):
            return None if only else error
        self._interrupted = True
        self._inner.shield = True
        _take_back()
        return SoftTimeLimitExceeded(f"The task ran longer than its soft_time_limit of {self._soft:g} s.")


def _take_back() -> None:
    """Tells asyncio that the cancellation has been dealt with; trio keeps no count."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return
    if task is not None:
        task.uncancel()
