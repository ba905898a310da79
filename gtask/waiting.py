"""How long a handle waits, and when it is to give up: for a task nobody knows, for a service that is away."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from gtask.context import current_task
from gtask.errors import ConfigurationError, ResultError, ResultsUnavailable, StoreRequired, WaitInTask
from gtask.results.base import ResultStore

if TYPE_CHECKING:
    from gtask.app import App
    from gtask.result import AsyncResult

SLICE: Final = 3600.0
"""Seconds of one question to the store; a longer wait asks again. Long, so that the store knows what it saw before."""

LOOK: Final = 30.0
"""Seconds between two looks of a wait without a timeout, whether anybody knows the task at all."""

LOOKS: Final = 2
"""Looks in a row by which nobody knows it, after which it is not waited for any longer."""

AWAY: Final = 15.0
"""Seconds for which a results service may be away in the middle of a wait without a timeout."""

NAP: Final = 1.0
"""Seconds before a results service that is away is asked again."""

WORD: Final = 0.25
"""Seconds that job servers have to say whether they know a task whose timeout is over."""

NO_STORE: Final = (
    "This App has no result store, so a background job's result cannot be had. Create it with results='gearman://' "
    "(and run `gtask results`, or `gtask server`, which includes it) or results='sqlite:///results.db', or use call(), "
    "whose answer comes back on the connection."
)


_allowed: ContextVar[bool] = ContextVar("gtask_waits_allowed", default=False)


@contextmanager
def sync_subtasks(disabled: bool) -> Iterator[None]:
    """Lets tasks wait in this block, where they are not `disabled`."""
    if disabled:
        yield
        return
    token = _allowed.set(True)
    try:
        yield
    finally:
        _allowed.reset(token)


def check_wait(what: object, timeout: float | None) -> None:
    """Raises `WaitInTask` where this code is part of a task, whose slot it would hold while it waits for `what`."""
    if timeout == 0 or _allowed.get():
        return
    context = current_task()
    if context is not None and context.worker:
        raise WaitInTask(
            f"{context.task.name} waits inside of a task for {what}, and would hold a slot meanwhile: when every slot "
            "waits for what is queued behind it, nothing moves any more. Let the rest follow in a chain or a chord; or "
            "make it an async task that awaits the result, in --pool async, where who waits lends out the slot; or, if "
            "other workers run what it waits for, pass disable_sync_subtasks=False."
        )


def lending(what: object, timeout: float | None) -> AbstractContextManager[None]:
    """Stands around a wait for `what` in an event loop: a task of the pool async lends its slot out meanwhile.

    Raises `WaitInTask` in other tasks.
    """
    context = current_task()
    if context is None or not context.worker or timeout == 0:
        return nullcontext()
    if context.lends:
        return context.lend()
    check_wait(what, timeout)
    return nullcontext()


class Watch:
    """Keeps an eye on a wait without a timeout: on its results service, and on whether anybody knows the task."""

    def __init__(self, result: AsyncResult[Any]) -> None:
        self._result = result
        self._unknown = 0
        self._there: float | None = None

    def gone(self, error: ResultsUnavailable) -> bool:
        """Whether the results service is away for good; one that was there may be starting again."""
        return self._there is None or time.monotonic() - self._there >= AWAY

    def looked(self, unknown: bool) -> None:
        """Takes in what a look has found; raises `ResultError` when there is nothing to wait for."""
        self._there = time.monotonic()
        self._unknown = self._unknown + 1 if unknown else 0
        if self._unknown >= LOOKS:
            result = self._result
            raise ResultError(f"The result of {result.task or 'task'} {result.id}: {nobody_knows(result.app)}")


def revoking_store(app: App) -> ResultStore:
    """The store that keeps marks of revoked tasks; raises `StoreRequired` where there is none."""
    if app.store is None:
        raise StoreRequired(
            "This App has no result store, which is where workers learn that a task was revoked. Create it with "
            "results='gearman://' (and run `gtask results`, or `gtask server`, which includes it) or another store."
        )
    return app.store


def nobody_knows(app: App) -> str:
    """What is to be said of an id that neither the store nor a job server knows."""
    return (
        f"Nobody knows this id at {', '.join(map(str, app.servers))}: it was never sent there, its result has expired "
        "or is kept in another store, its job was lost with a job server that keeps its queue in memory, or it is a "
        "later step of a chain or the body of a chord whose turn has not come."
    )


def in_time(begun: float, timeout: float) -> bool:
    """Whether a wait has ended with its timeout, so that there is time to ask why; a hanging service takes longer."""
    return time.monotonic() - begun < timeout + WORD


def check_timeout(timeout: object) -> None:
    """Raises `ConfigurationError` when what is to be a number of seconds to wait is none."""
    if timeout is not None and (not isinstance(timeout, int | float) or math.isnan(timeout)):
        raise ConfigurationError(f"timeout={timeout!r:.80}; write a number of seconds, or None for no limit.")


def slices(timeout: float | None, longest: float = SLICE) -> Iterator[float]:
    """Seconds for each question to the store: one question at least, the last one until `timeout` seconds are over.

    Raises `ConfigurationError` when `timeout` is no number.
    """
    check_timeout(timeout)
    if timeout is None:
        while True:
            yield longest
    deadline, left = time.monotonic() + timeout, max(0.0, timeout)
    while True:
        yield min(left, SLICE)
        left = deadline - time.monotonic()
        if left <= 0:
            return
