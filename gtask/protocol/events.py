"""What the protocols report upward: one small tuple per thing that happened on the wire.

The names are those of the packets. Events about something this side asked for carry its `Ticket`; events about a
job this side holds carry the job's handle.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from gtask.errors import ServerError
from gtask.types import Submission


class Ticket:
    """One request and, for a foreground job, everything that comes for it.

    `submission` is what was submitted, None for other requests. `handle` is the job server's name of the job, once
    it is known; it means nothing beyond this connection (protocol reference, section 5). `tag` is the caller's own,
    never read here.
    """

    __slots__ = ("expects", "handle", "submission", "tag")

    def __init__(self, expects: int, submission: Submission | None = None, tag: Any = None) -> None:
        self.expects = expects
        self.submission = submission
        self.handle = b""
        self.tag = tag

    def __repr__(self) -> str:
        what = self.submission.function if self.submission else f"answer {self.expects}"
        return f"<Ticket {what}{' ' + self.handle.decode(errors='replace') if self.handle else ''}>"


class JobCreated(NamedTuple):
    """The job server took the job; a background job is as safe now as its queue is."""

    ticket: Ticket
    handle: bytes


class Answered(NamedTuple):
    """The answer to an echo (bytes), an option (its name) or a status request (`JobStatus`)."""

    ticket: Ticket
    value: Any


class Refused(NamedTuple):
    """The job server answered a request with ERROR."""

    ticket: Ticket
    error: ServerError


class Lost(NamedTuple):
    """The connection ended before this request was answered, or before its foreground job was."""

    ticket: Ticket


class WorkData(NamedTuple):
    """A piece of a foreground job's streamed output."""

    ticket: Ticket
    data: bytes


class WorkWarning(NamedTuple):
    """A warning from a foreground job."""

    ticket: Ticket
    data: bytes


class WorkStatus(NamedTuple):
    """How far a foreground job is: bytes as its worker sent them, usually two whole numbers."""

    ticket: Ticket
    numerator: bytes
    denominator: bytes


class WorkComplete(NamedTuple):
    """A foreground job's result; its ticket is done."""

    ticket: Ticket
    data: bytes


class WorkFail(NamedTuple):
    """A foreground job failed, without a reason; its ticket is done."""

    ticket: Ticket


class WorkException(NamedTuple):
    """A foreground job ended with an exception; its ticket is done."""

    ticket: Ticket
    data: bytes


class JobAssigned(NamedTuple):
    """A job to run; this connection holds it until it reports its end."""

    handle: bytes
    function: str
    unique: str
    workload: bytes
    reducer: str = ""


class NoJob(NamedTuple):
    """A grab found nothing."""


class Noop(NamedTuple):
    """Work may be waiting: grab before sleeping again (protocol reference, section 7)."""


class WorkRefused(NamedTuple):
    """The job server refused what this side had reported: mostly JOB_NOT_FOUND, too late or over another connection."""

    error: ServerError


Event = (
    JobCreated
    | Answered
    | Refused
    | Lost
    | WorkData
    | WorkWarning
    | WorkStatus
    | WorkComplete
    | WorkFail
    | WorkException
    | JobAssigned
    | NoJob
    | Noop
    | WorkRefused
)
