"""Dead letters: what is parked of a task that failed for good, and where. Design, sections 6 and 6a.

A letter is a background job of the function ``<task>.dead``, which nobody serves, so it is kept where the job server
keeps its queues. Its workload is a msgpack map, with the message inside as it came: `gtask.dead` sends that again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from typing import Any, Final, NamedTuple

from gtask.codecs import pack, unpack
from gtask.codecs.limits import MAX_SIZE
from gtask.errors import DecodeError
from gtask.failures import cut
from gtask.states import ErrorInfo
from gtask.types import MAX_FUNCTION, Priority

SUFFIX: Final = ".dead"
"""How the functions end in which letters are parked."""

LETTER_VERSION: Final = 1

MAX_HISTORY: Final = 5
"""Earlier attempts that a letter tells of: the last ones."""

MAX_REASON: Final = 500
"""Characters of an earlier attempt's error."""

HISTORY_ROOM: Final = MAX_HISTORY * (8 * MAX_REASON)
"""Bytes that a history takes in a message at most."""

MAX_LETTER: Final = MAX_SIZE - 64 * 1024
"""Bytes of a letter: somewhat less than a job server takes in one packet."""

_MAX_NAME: Final = 200


class Attempt(NamedTuple):
    """A run that failed and was followed by another one: its error, and when it ended in Unix seconds."""

    type: str
    message: str
    at: float


@dataclass(frozen=True, slots=True)
class Letter:
    """What is parked of one run that failed for good.

    `id` is the same for every copy of this letter; it is the unique of the run. `function` and `unique` are those of
    the job, `message` the workload that it came with. `failed_at` is in Unix seconds. `stored` names the kind of store
    that has a result of `task_id`, which is to be forgotten before the task is run again; empty for none. A `refused`
    one was never run: its message could not be read.
    """

    id: str
    task: str
    task_id: str
    function: str
    unique: str
    message: bytes
    error: ErrorInfo
    failed_at: float
    worker: str = ""
    priority: str = "normal"
    retries: int = 0
    history: tuple[Attempt, ...] = ()
    stored: str = ""
    refused: bool = False

    @property
    def key(self) -> tuple[str, bytes]:
        """What only copies of this letter share: an id that its caller chose may be that of several jobs."""
        return self.id, sha256(self.message).digest()


def dead_function(task: str) -> str:
    """The function in which the letters of a task are parked; a name that would be too long ends in its hash."""
    if len(task) + len(SUFFIX) <= MAX_FUNCTION:
        return task + SUFFIX
    mark = sha256(task.encode()).hexdigest()[:12]
    return f"{task[: MAX_FUNCTION - len(SUFFIX) - len(mark) - 1]}.{mark}{SUFFIX}"


def encode_letter(letter: Letter) -> bytes:
    """The workload of a letter; raises `EncodeError` when it is too large for a job server."""
    error = letter.error
    return pack(
        {
            "letter": LETTER_VERSION,
            "id": letter.id,
            "task": letter.task,
            "task_id": letter.task_id,
            "function": letter.function,
            "unique": letter.unique,
            "message": letter.message,
            "error": [error.type, error.message, error.traceback],
            "failed_at": letter.failed_at,
            "worker": letter.worker,
            "priority": letter.priority,
            "retries": letter.retries,
            "history": [list(attempt) for attempt in letter.history],
            "stored": letter.stored,
            "refused": letter.refused,
        },
        "letter",
        max_size=MAX_LETTER,
    )


def decode_letter(workload: bytes) -> Letter:
    """Reads a letter; raises `DecodeError` for what is none, since anybody may put a job there."""
    plain = unpack(workload)
    if not isinstance(plain, dict) or plain.get("letter") != LETTER_VERSION:
        raise DecodeError("This is no dead letter that this gtask reads: a map with 'letter': 1.")
    for name, kind in _KINDS.items():
        if type(plain.get(name)) is not kind:
            raise DecodeError(f"The letter's {name!r} is no {kind.__name__}; it is damaged.")
    failed_at: Any = plain.get("failed_at")
    if not _is_time(failed_at):
        raise DecodeError("The letter's 'failed_at' is no Unix time in seconds; it is damaged.")
    match plain.get("error"):
        case [str(type_), str(message), None | str() as traceback]:
            error = ErrorInfo(type_, message, None, traceback)
        case _:
            raise DecodeError("The letter's 'error' is none; it is damaged.")
    if not plain["id"] or not plain["function"] or plain["priority"] not in tuple(Priority):
        raise DecodeError("The letter's 'id', 'function' or 'priority' makes no sense; it is damaged.")
    found = {name: plain[name] for name in _KINDS}
    return Letter(**found, error=error, failed_at=float(failed_at), history=read_history(plain.get("history")))


_KINDS: Final[dict[str, type]] = {
    "id": str,
    "task": str,
    "task_id": str,
    "function": str,
    "unique": str,
    "message": bytes,
    "worker": str,
    "priority": str,
    "retries": int,
    "stored": str,
    "refused": bool,
}


# --- the header `history` ------------------------------------------------------------------------------------


def read_history(value: Any) -> tuple[Attempt, ...]:
    """The earlier attempts in a header or a letter; what is none is left out."""
    if not isinstance(value, list):
        return ()
    return tuple(Attempt(*entry) for entry in value[-MAX_HISTORY:] if _is_attempt(entry))


def add_attempt(history: Iterable[Attempt], error: ErrorInfo, at: float) -> list[list[Any]]:
    """The header `history` of the run that follows one that failed at `at`; the oldest attempts are dropped."""
    latest = Attempt(error.type[:_MAX_NAME], cut(error.message, MAX_REASON), at)
    return [list(attempt) for attempt in (*history, latest)[-MAX_HISTORY:]]


def _is_attempt(entry: Any) -> bool:
    match entry:
        case [str(type_), str(message), at]:
            return len(type_) <= _MAX_NAME and len(message) <= 2 * MAX_REASON and _is_time(at)
    return False


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and -1e12 < value < 1e12 and isfinite(value)


__all__ = [
    "HISTORY_ROOM",
    "MAX_HISTORY",
    "MAX_LETTER",
    "SUFFIX",
    "Attempt",
    "Letter",
    "add_attempt",
    "dead_function",
    "decode_letter",
    "encode_letter",
    "read_history",
]
