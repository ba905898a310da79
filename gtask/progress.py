"""How far a task is: `Progress`, what a run says of it, and how any process reads it. Design, sections 2 and 3.

A run says it as often as it likes. Ten times a second at most it goes to the job server as WORK_STATUS: a foreground
caller hears it live, and for a background job the job server keeps it for whoever asks by the task's id. A message, and
numbers that are too large for the job server to keep, go to the result store once a second at most. What was said last
before a pause is sent all the same, by a timer, and before the job ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from gtask.states import Outcome, State
from gtask.types import JobStatus

PAUSE: Final = 0.1
"""Seconds between two WORK_STATUS of a job at least."""

RECORD_PAUSE: Final = 1.0
"""Seconds between two records of a job's progress at least."""

MAX_MESSAGE: Final = 1000
"""Characters of a message that are kept."""

MAX_KEPT: Final = 2**31 - 1
"""The largest number that every job server keeps unharmed (protocol reference, section 3)."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a task is: `done` of `total`, in whole numbers of any unit, and its last `message`.

    `total` is 0 where the task does not know how much there is to do.
    """

    done: int
    total: int = 0
    message: str | None = None

    @property
    def fraction(self) -> float | None:
        """The part that is done, from 0.0 to 1.0; None where the total is not known."""
        return min(1.0, max(0.0, self.done / self.total)) if self.total > 0 else None


class Teller:
    """What one run says of its progress, throttled. `tell` may be called in any thread, also in several.

    `status` sends WORK_STATUS and says whether it could; `keep` stores it, None where there is nothing to store;
    `later` calls a function after so many seconds. With `live` a caller listens who gets every number as it is.
    """

    def __init__(
        self,
        status: Callable[[int, int], bool],
        later: Callable[[float, Callable[[], object]], None],
        keep: Callable[[Progress], object] | None,
        live: bool,
    ) -> None:
        self._status = status
        self._later = later
        self._keep = keep
        self._live = live
        self._said: tuple[Any, Any, Any] | None = None
        self._sent: object = None
        self._kept: object = None
        self._send_at = self._keep_at = 0.0
        self._sending = threading.Lock()
        self._armed = False
        self._ended = False
        self._heard = True

    def tell(self, done: float, total: float, message: str | None) -> bool:
        """Says how far the run is; false when nobody can hear it."""
        self._said = (done, total, message)
        if monotonic() < self._send_at:
            if not self._armed:
                self._arm(self._send_at)
            return self._heard
        self._send()
        return self._heard

    def flush(self) -> None:
        """Sends what was said last now, since something else is going to be said."""
        if self._said is not self._sent:
            self._send()

    def finish(self) -> None:
        """Sends what was not sent yet: the run is over. What its record would say is left to that of its result."""
        self._ended = True
        self._keep = None
        self._send()

    def _arm(self, when: float) -> None:
        self._armed = True
        self._later(max(0.0, when - monotonic()), self._late)

    def _late(self) -> None:
        self._armed = False
        if not self._ended:
            self._send()

    def _send(self) -> None:
        # Whoever finds another one sending leaves it to that one, which looks again when it is done: to wait for it
        # would stop an event loop that the other one needs.
        while self._pending() and self._sending.acquire(blocking=False):
            try:
                self._send_one()
            finally:
                self._sending.release()
        if self._kept is not self._said and self._keep is not None and not self._armed and not self._ended:
            self._arm(self._keep_at)

    def _pending(self) -> bool:
        said = self._said
        return said is not self._sent or (
            self._keep is not None and said is not self._kept and monotonic() >= self._keep_at
        )

    def _send_one(self) -> None:
        said, now = self._said, monotonic()
        assert said is not None
        done, total, message = max(0, int(said[0])), max(0, int(said[1])), said[2]
        large = max(done, total) > MAX_KEPT and not self._live
        if said is not self._sent:
            self._sent = said
            self._send_at = now + PAUSE
            self._heard = self._status(*(_scaled(done, total) if large else (done, total)))
        if message is None and not large:
            self._kept = said
        elif self._keep is not None and now >= self._keep_at:
            self._kept = said
            self._keep_at = now + RECORD_PAUSE
            self._keep(Progress(done, total, None if message is None else str(message)[:MAX_MESSAGE]))


def _scaled(done: int, total: int) -> tuple[int, int]:
    """Numbers in the same proportion that a job server can keep."""
    shift = max(0, max(done, total).bit_length() - MAX_KEPT.bit_length())
    return done >> shift, total >> shift


def to_outcome(progress: Progress, outcome: Outcome) -> Outcome:
    """Puts progress into an outcome, to be stored as a record in the state PROGRESS."""
    outcome.state = State.PROGRESS
    outcome.value = [progress.done, progress.total, progress.message]
    return outcome


def of_outcome(outcome: Outcome | None) -> Progress | None:
    """The progress that was stored of a task, None for a record of anything else."""
    if outcome is None or outcome.state is not State.PROGRESS:
        return None
    match outcome.value:
        case [int(done), int(total), str() | None as message]:
            return Progress(done, total, message)
    return None


def seen(statuses: Sequence[JobStatus], outcome: Outcome | None) -> Progress | None:
    """How far a task is by what the job servers and the store say; None where nobody says anything.

    A run that has not said anything yet is not credited with what the run before it had stored.
    """
    stored = of_outcome(outcome)
    if outcome is not None and outcome.ready:
        return None
    running = next((status for status in statuses if status.running), None)
    if running is None:
        return None if any(status.known for status in statuses) else stored
    if not (running.numerator or running.denominator):
        return None
    if stored is None:
        return Progress(running.numerator, running.denominator)
    if max(stored.done, stored.total) > MAX_KEPT:
        return stored
    return Progress(running.numerator, running.denominator, stored.message)
