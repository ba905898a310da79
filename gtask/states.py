"""The states a task goes through, and what is kept of it: `State`, `Record`, `Outcome`. Design, sections 2 and 4."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple


class State(StrEnum):
    """Where a task stands; a member's value is its name.

    UNKNOWN means that neither the job server nor the store knows the id: it is never called PENDING. A task goes
    PENDING, STARTED, perhaps PROGRESS or RETRY, and ends in one of `READY`.
    """

    UNKNOWN = "UNKNOWN"
    PENDING = "PENDING"
    STARTED = "STARTED"
    PROGRESS = "PROGRESS"
    RETRY = "RETRY"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    REVOKED = "REVOKED"

    @property
    def ready(self) -> bool:
        """Whether this is an end: nothing follows SUCCESS, FAILURE and REVOKED."""
        return self in READY


READY: Final = frozenset({State.SUCCESS, State.FAILURE, State.REVOKED})
"""The states in which a task has ended. A record in one of them is never overwritten: the first one wins."""


class Record(NamedTuple):
    """What a result store keeps of a task.

    `body` is opaque to the store: the worker encodes it and the reader decodes it (`gtask.results.records`).
    """

    id: str
    state: State
    body: bytes = b""

    @property
    def ready(self) -> bool:
        """Whether the task has ended."""
        return self.state in READY


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """An exception as it travels: text, and its arguments where they travel too.

    `type` is ``"ValueError"`` for a builtin and ``"module.Qualname"`` otherwise, `""` where a foreign worker did not
    say it. `message` is ``str(exception)``. `args` is None where the arguments could not be sent. `traceback` is the
    bounded text with notes and causes, None where there is none.
    """

    type: str
    message: str = ""
    args: tuple[Any, ...] | None = None
    traceback: str | None = None


@dataclass(slots=True)
class Outcome:
    """What a run of a task led to.

    `value` is the result of a SUCCESS and the progress of a PROGRESS, `error` the reason of a FAILURE, RETRY or
    REVOKED. `retries` counts the runs before this one. `started` and `finished` are Unix times in seconds. `worker`
    names who ran it. `parent` is the id of the task that called it, `children` are the ids of those it called.
    `delay` is the number of seconds until the next run of a RETRY.
    """

    id: str
    state: State
    value: Any = None
    error: ErrorInfo | None = None
    task: str = ""
    retries: int = 0
    started: float | None = None
    finished: float | None = None
    worker: str = ""
    parent: str | None = None
    children: tuple[str, ...] = ()
    delay: float = 0.0

    @property
    def ready(self) -> bool:
        """Whether the task has ended."""
        return self.state in READY
