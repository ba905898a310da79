"""A job that a worker holds, and how it is to be ended."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from gtask.types import Submission

if TYPE_CHECKING:
    from gtask.worker.link import Link


class Job:
    """One job grabbed from a job server, in Gearman's words.

    `lost` becomes true when its connection ended: the job server gives the job to another worker then, and what this
    one still reports of it goes nowhere (protocol reference, section 5).
    """

    __slots__ = (
        "attempt",
        "function",
        "handle",
        "link",
        "lost",
        "mark",
        "started",
        "unique",
        "waiting",
        "weight",
        "workload",
    )

    def __init__(self, link: Link, handle: bytes, function: str, unique: str, workload: bytes) -> None:
        self.link = link
        self.handle = handle
        self.function = function
        self.unique = unique
        self.workload = workload
        self.lost = False
        self.started = 0.0
        self.weight = 0.0
        self.waiting = 0
        self.attempt = 0
        """How often this worker ran the job before: a foreground retry runs the same job again."""
        self.mark: object = None
        """For whoever runs the job to keep something; never read here."""

    def __repr__(self) -> str:
        return f"<Job {self.function} {self.unique}{' lost' if self.lost else ''}>"


class End(Enum):
    """Which packet ends a job."""

    COMPLETE = "complete"
    FAIL = "fail"
    EXCEPTION = "exception"


class Carried(NamedTuple):
    """Bytes that travel with others of their kind in one background job of `function`.

    What is `final` is true whatever becomes of the job: a result, and not the news that it is going to be tried again.
    """

    function: str
    items: tuple[bytes, ...]
    final: bool = True


class Ending(NamedTuple):
    """What happens at the end of a job, each step confirmed before the next (design, section 6).

    First `carried` is handed over, together with that of other jobs; then `submissions` are submitted; then the job
    is ended with the packet `end` and its `data`. A worker that dies between two steps leaves the job to be run
    again: work may be repeated and is never lost. What is `optional` is submitted as well, and let go after a while
    where the job server refuses it: the job ends all the same. `instead` makes what is submitted in place of the
    one submission if the job server refuses it for a while.
    """

    end: End = End.COMPLETE
    data: bytes = b""
    carried: Carried | None = None
    submissions: tuple[Submission, ...] = ()
    optional: tuple[Submission, ...] = ()
    instead: Callable[[], Submission] | None = None
