"""What a handle does to revoke its task: which tasks go with it, and how long their marks are kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from gtask.errors import GtaskError
from gtask.results.records import revoked_record
from gtask.states import Outcome, State
from gtask.types import JobStatus
from gtask.waiting import revoking_store

if TYPE_CHECKING:
    from gtask.app import App
    from gtask.result import AsyncResult

DELAYED: Final = 366 * 86400.0
"""Seconds that a mark is kept of a task that is delayed, no one here knows until when."""

ASKED: Final = 16
"""Tasks that are looked up, at most, to find out until when they are delayed."""


def revoke(app: App, handles: Iterable[AsyncResult[Any]], terminate: bool) -> None:
    """Revokes tasks and all that have to end before them; raises as `AsyncResult.revoke` does."""
    store, whole = revoking_store(app), _whole(handles)
    with suppress(GtaskError):  # one who does not answer is not asked again
        for handle in _doubtful(whole):
            if _is_delayed(handle, app.jobs_on_servers(handle.id)):
                _learn(handle, handle._look())
    store.revoke([revoked_record(handle.id, handle.task) for handle in whole], terminate, _ttl(app, whole))


async def arevoke(app: App, handles: Iterable[AsyncResult[Any]], terminate: bool) -> None:
    """`revoke` for async code."""
    store, whole = revoking_store(app), _whole(handles)
    with suppress(GtaskError):
        for handle in _doubtful(whole):
            if _is_delayed(handle, await app.ajobs_on_servers(handle.id)):
                _learn(handle, await handle._alook())
    await store.arevoke([revoked_record(handle.id, handle.task) for handle in whole], terminate, _ttl(app, whole))


def _whole(handles: Iterable[AsyncResult[Any]]) -> list[AsyncResult[Any]]:
    """Some tasks and all that have to end before them, each once."""
    found: dict[str, AsyncResult[Any]] = {}
    pending = list(handles)
    while pending:
        handle = pending.pop()
        if handle.id not in found:
            found[handle.id] = handle
            pending += handle._before
    return list(found.values())


def _doubtful(handles: Sequence[AsyncResult[Any]]) -> list[AsyncResult[Any]]:
    """The tasks that may be delayed without their handles knowing it."""
    return [handle for handle in handles if handle._due is None and handle._outcome is None][:ASKED]


def _is_delayed(handle: AsyncResult[Any], jobs: Sequence[JobStatus]) -> bool:
    """Whether a task waits for its time on the job servers; nobody knows yet until when."""
    delayed = any(job.known for job in jobs[1::2])
    if delayed:
        handle._due = handle.app.now() + DELAYED
    return delayed


def _learn(handle: AsyncResult[Any], outcome: Outcome | None) -> None:
    """Has a handle know when its task is tried again."""
    if outcome is not None and outcome.state is State.RETRY and outcome.finished is not None:
        handle._due = outcome.finished + outcome.delay


def _ttl(app: App, handles: Sequence[AsyncResult[Any]]) -> float:
    """How long marks are kept: until the last of the tasks would be run, and as long as a result then."""
    now = app.now()
    longest = max((handle._due or now for handle in handles), default=now)
    return app.settings.result_expires + max(0.0, longest - now)
