"""Works through dead letters: looks at them, sends their tasks again, drops them. Design, section 6a.

A job server shows nobody what is in a queue, so looking means grabbing. A letter that is grabbed and goes back because
the connection ended counts as an attempt (`--job-retries`), and would be lost one day. So letters are passed through:
each is grabbed, an equal one is submitted, and when that is confirmed the first is completed. A process that is killed
in between leaves a letter twice and never loses one; copies are recognised and cleared away by whoever comes next. As
many are grabbed as there were at the start, so the queue keeps its order, and what is parked meanwhile is left alone.

To pass letters through, a queue needs one free place. Where `maxqueue` leaves none this is said before anything is
grabbed.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from gtask.client import AdminClient
from gtask.client.grabber import Grabber
from gtask.errors import ConfigurationError, DecodeError, GtaskError, QueueFull
from gtask.letters import SUFFIX, Letter, dead_function, decode_letter
from gtask.message import Message, SignatureData, decode_message, is_own_unique, parse_wire_unique, wire_unique
from gtask.options import priority_of
from gtask.protocol import JobAssigned
from gtask.publish import Sending
from gtask.signing import refuse_signed
from gtask.types import Priority, Server, Submission

if TYPE_CHECKING:
    from gtask.app import App

MARKER: Final = b"gtask looks at these letters"
"""The workload of a job that shows that there is a free place; taken out at once, or by whoever comes next."""

MAX_BATCH: Final = 32
MAX_BYTES: Final = 4 * 1024 * 1024
"""Letters, and bytes of them, that are held at once; a single one may be larger."""

MAX_SEEN: Final = 1_000_000
"""Letters beyond which copies are not recognised any more, in one pass."""

PAUSE: Final = 0.1
PATIENCE: Final = 10.0
"""Seconds a job server may go on refusing to take a letter back."""


class Verdict(Enum):
    """What becomes of a letter."""

    KEEP = "keep"
    RETRY = "retry"
    DROP = "drop"


@dataclass(frozen=True)
class Queue:
    """The letters of one task on one job server; `waiting` is how many there are."""

    function: str
    server: Server
    waiting: int

    @property
    def task(self) -> str:
        """The task's name; a very long one is cut."""
        return self.function.removesuffix(SUFFIX)


@dataclass(frozen=True)
class Parked:
    """What is in such a queue: a letter, or something else (`letter` is None, `problem` says why)."""

    server: Server
    workload: bytes
    letter: Letter | None
    problem: str = ""

    @property
    def id(self) -> str:
        """Its id; what is no letter is known by the hash of its bytes."""
        return sha256(self.workload).hexdigest()[:32] if self.letter is None else self.letter.id


@dataclass
class Tally:
    """What came of a pass. `failed` says for each letter that was to be sent again and was kept, why."""

    seen: int = 0
    kept: int = 0
    retried: int = 0
    dropped: int = 0
    copies: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)


Decide = Callable[[Parked], Verdict]


def queues(app: App, tasks: Collection[str] | None = None) -> list[Queue]:
    """The queues that hold letters, on all job servers of the App; `tasks` names those to look at, None for all.

    Raises `ServerError` and `NetworkError` when a job server cannot be asked.
    """
    wanted = None if tasks is None else {function_of(task) for task in tasks}
    found = []
    for server in app.servers:
        with AdminClient(server, **_limits(app, server)) as admin:
            rows = admin.status()
        for row in sorted(rows, key=lambda row: row.function):
            waiting = row.total - row.running
            if waiting > 0 and row.function.endswith(SUFFIX) and (wanted is None or row.function in wanted):
                found.append(Queue(row.function, server, waiting))
    return found


def work_through(app: App, task: str, decide: Decide, keeps: bool = True) -> Tally:
    """Passes all letters of a task through `decide`, on each job server in turn.

    A task that is sent again keeps its id: its stored result is forgotten first, its retries begin anew, and the letter
    is ended when the job server has confirmed it. Where that cannot be done the letter stays, and the tally says why.
    `keeps` is false when no letter is to be kept, which needs no free place. Raises `QueueFull` when there is none,
    `ServerError` and `NetworkError` as the client does, and what the result store raises; no letter is lost.
    """
    tally = Tally()
    for queue in queues(app, [task]):
        with Grabber(queue.server, queue.function, **_limits(app, queue.server)) as grabber:
            if keeps:
                _find_place(grabber, queue)
            _Pass(app, queue, grabber, decide, tally).run(queue.waiting + keeps)
    return tally


def function_of(task: str) -> str:
    """The function that holds the letters of a task; its own name is taken as well."""
    return task if task.endswith(SUFFIX) else dead_function(task)


def _limits(app: App, server: Server) -> dict[str, Any]:
    settings = app.settings
    return {
        "timeout": settings.request_timeout,
        "connect_timeout": settings.connect_timeout,
        "tls": settings.tls if server.tls else None,
    }


def _find_place(grabber: Grabber, queue: Queue) -> None:
    """Raises `QueueFull` when there is no free place, or `ServerError` when the job server takes nothing at all."""
    # Of high priority, so that the first grab brings it back; another process's pass may be quicker.
    answer = grabber.submit([Submission(queue.function, MARKER, secrets.token_hex(16), Priority.HIGH)])[0]
    if isinstance(answer, QueueFull):
        raise QueueFull(
            answer.code,
            answer.text,
            f"The queue {queue.function} at {queue.server} is full, and looking into it needs one free place: raise "
            f"its limit (`maxqueue {queue.function} {queue.waiting + 1}` in the admin protocol), or work on all of it.",
        )
    if answer is not None:
        raise answer


class _Pass:
    """One queue, once through."""

    def __init__(self, app: App, queue: Queue, grabber: Grabber, decide: Decide, tally: Tally) -> None:
        self._app = app
        self._queue = queue
        self._grabber = grabber
        self._decide = decide
        self._tally = tally
        self._seen: set[tuple[str, bytes]] = set()
        self._held: list[JobAssigned] = []
        self._settled: list[JobAssigned] = []

    def run(self, left: int) -> None:
        """Grabs so many jobs, a few at a time: as many as there were, and the one that found the free place."""
        batch = 1
        try:
            while left > 0:
                jobs = self._grabber.grab(batch)
                if not jobs:
                    return
                self._held = [job for job in jobs if job.workload != MARKER]
                self._settled = [job for job in jobs if job.workload == MARKER]
                left -= len(jobs)
                size = sum(len(job.workload) for job in jobs) // len(jobs) + 1
                batch = max(1, min(2 * batch, MAX_BATCH, MAX_BYTES // size, left))
                self._work()
        except BaseException:
            # Also when the caller is interrupted: what is held goes back as a copy, not as an attempt.
            if self._grabber.usable:
                with suppress(GtaskError):
                    self._return(self._held)
            raise

    def _work(self) -> None:
        """Decides on the letters that are held, does it, and ends them."""
        to_send: list[tuple[JobAssigned, Parked, Submission]] = []
        to_keep: list[JobAssigned] = []
        forgotten: list[str] = []
        for job in self._held:
            parked = read_parked(self._app, self._queue, job.workload)
            if self._is_copy(parked):
                self._tally.copies += 1
                self._settled.append(job)
                continue
            self._tally.seen += 1
            verdict = self._decide(parked)
            if verdict is Verdict.DROP:
                self._tally.dropped += 1
                self._settled.append(job)
            elif verdict is Verdict.KEEP or parked.letter is None:
                to_keep.append(job)
            else:
                try:
                    submission, ids = resend(self._app, parked.letter)
                except GtaskError as error:
                    self._fail(parked, error, to_keep, job)
                else:
                    to_send.append((job, parked, submission))
                    forgotten += ids
        if forgotten and self._app.store is not None:
            self._app.store.forget(forgotten)
        answers = self._grabber.submit([submission for _, _, submission in to_send])
        for (job, parked, _), answer in zip(to_send, answers, strict=True):
            if answer is None:
                self._tally.retried += 1
                self._settled.append(job)
            else:
                self._fail(parked, answer, to_keep, job)
        self._complete()
        self._tally.kept += len(to_keep)
        self._return(to_keep)

    def _is_copy(self, parked: Parked) -> bool:
        if parked.letter is None or len(self._seen) >= MAX_SEEN:
            return False
        known = len(self._seen)
        self._seen.add(parked.letter.key)
        return len(self._seen) == known

    def _fail(self, parked: Parked, error: GtaskError, to_keep: list[JobAssigned], job: JobAssigned) -> None:
        self._tally.failed.append((parked.id, str(error)))
        to_keep.append(job)

    def _return(self, jobs: Sequence[JobAssigned]) -> None:
        """Puts copies of letters back and ends the letters; where there is one free place only, one after the other."""
        give_up_at = time.monotonic() + PATIENCE
        jobs = list(jobs)
        while True:
            copies = [Submission(self._queue.function, job.workload, secrets.token_hex(16)) for job in jobs]
            answers = self._grabber.submit(copies)
            self._settled += [job for job, answer in zip(jobs, answers, strict=True) if answer is None]
            self._complete()
            refused = [(job, answer) for job, answer in zip(jobs, answers, strict=True) if answer is not None]
            if not refused:
                return
            if len(refused) == len(jobs):
                if time.monotonic() >= give_up_at:
                    raise refused[0][1]
                time.sleep(PAUSE)
            jobs = [job for job, _ in refused]

    def _complete(self) -> None:
        """Ends what is settled."""
        ended, self._settled = self._settled, []
        self._held = [job for job in self._held if job not in ended]
        if ended:
            self._grabber.complete(ended)


def read_parked(app: App, queue: Queue, workload: bytes) -> Parked:
    """Reads what is in a queue of letters, after its signature where the App has keys."""
    try:
        letter = decode_letter(_opened(app, queue.function, workload))
    except DecodeError as error:
        return Parked(queue.server, workload, None, str(error))
    return Parked(queue.server, workload, letter)


# --- sending again -------------------------------------------------------------------------------------------


def message_in(app: App, letter: Letter) -> Message:
    """The message in a letter; raises `DecodeError` when it cannot be read here."""
    workload = _opened(app, letter.function, letter.message)
    return decode_message(letter.function, workload, fallback_id=letter.unique)


def resend(app: App, letter: Letter) -> tuple[Submission, list[str]]:
    """The job that runs a dead task once more, and the ids whose results are to be forgotten before.

    It begins anew: retries, delays and times that are over are taken away, the rest is as it was. It goes under a
    unique that was not used before (design, section 6). What could not be read goes as it came, to the byte. Raises
    `DecodeError` when a message that was read by its worker cannot be read here, `ConfigurationError` when its result
    is in a store that the App does not know.
    """
    store = app.store
    if letter.stored and letter.stored != type(store).__name__:
        own = "no store" if store is None else f"a {type(store).__name__}"
        raise ConfigurationError(
            f"Its result is kept in a {letter.stored}, and this app has {own}; use the app that the worker runs."
        )
    ids = [letter.task_id] if letter.stored and letter.task_id else []
    if letter.refused:
        return Submission(letter.function, letter.message, _next_unique(letter), priority_of(letter.priority)), ids
    message = message_in(app, letter)
    headers = {name: value for name, value in message.headers.items() if name not in _SPENT}
    headers["runs"] = int(message.headers.get("runs", 0)) + int(message.headers.get("retries", 0)) + 1
    headers["sent"] = now = app.now()
    if headers.get("expires", now) < now:
        del headers["expires"]
    if letter.stored:
        # Those behind it were failed with it.
        ids += [step.id for step in map(SignatureData.from_list, headers.get("chain") or ()) if step.id]
    anew = Message(message.id, message.task, message.args, message.kwargs, headers)
    return app.publisher.seal(Sending(anew, letter.function, priority_of(letter.priority))), ids


_SPENT: Final = frozenset({"retries", "eta", "history", "replayed"})


def _next_unique(letter: Letter) -> str:
    if not is_own_unique(letter.function, letter.unique):
        return secrets.token_hex(16)
    known = parse_wire_unique(letter.function, letter.unique)
    return wire_unique(known.id, known.retries + 1)


def _opened(app: App, function: str, workload: bytes) -> bytes:
    """What is behind a signature, however old it is; raises `SignatureError`."""
    keys = app.settings.signing_keys
    if keys is not None:
        return keys.open(function, workload).workload
    refuse_signed(workload)
    return workload


__all__ = [
    "Parked",
    "Queue",
    "Tally",
    "Verdict",
    "function_of",
    "message_in",
    "queues",
    "read_parked",
    "resend",
    "work_through",
]
