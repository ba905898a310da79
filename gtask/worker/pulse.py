"""Whether the other side of a connection still lives: what a worker asks, when, and what it makes of the silence.

A link whose other side is gone without a word (a host without power, a forgetful NAT, a broken proxy) looks idle, and a
worker behind it is deaf. So after `interval` seconds of silence the job server is asked for an ECHO. After
as long again without an answer the link is under suspicion, and a *second* connection asks the same:

* it is answered: the job server lives. If the link is still silent a moment later, it is dead: it is given up, and its
  jobs run again elsewhere. The moment is for a job server that wakes up and answers the second question first.
* it is not: the job server itself is busy or away. Giving the link up would win nothing, and would make it run again
  what runs here; so it is kept, grabs that were sent over it are not waited for, and after `interval` it is asked anew.

Either way silence of `PATIENCE` seconds after an ECHO ends a link. What is large takes time to be sent, and the ECHO
waits behind it: as long as the other side goes on taking bytes it lives, and `TRANSFER` seconds after the last of them
are for what the buffers on the way still hold. No clock: times are the driver's.
"""

from __future__ import annotations

from typing import Final

HEARTBEAT: Final = 1.0
"""Seconds of silence before a job server is asked for a sign of life.

A dead link is found after two of them and a third of one, and then connected anew: within 5 seconds with room to spare.
An idle connection costs one small packet each way in this time.
"""

PATIENCE: Final = 60.0
"""Seconds without an answer to an ECHO after which a link is given up, whatever its job server does."""


TRANSFER: Final = 20.0
"""Seconds in which no answer is expected after a part of something was sent that did not fit into the socket at once.

The buffers on the way hold a few MiB, which a slow line takes some seconds for."""


class Pulse:
    """The signs of life of one connection; `interval` is the heartbeat in seconds."""

    __slots__ = ("_ask_again_at", "_asked_at", "_busy_until", "_dead_at", "_probing", "heard", "interval")

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.heard = 0.0
        """When the last byte came."""
        self._asked_at: float | None = None
        self._ask_again_at = 0.0
        self._probing = False
        self._dead_at: float | None = None
        self._busy_until = 0.0

    def __repr__(self) -> str:
        state = "dying" if self._dead_at else "probing" if self._probing else "asked" if self._asked_at else "alive"
        return f"<Pulse {state}>"

    def beat(self, now: float) -> None:
        """Something came, or the connection is new: all doubts are over."""
        self.heard = now
        self._asked_at = None
        self._probing = False
        self._dead_at = None

    def transfers(self, now: float) -> None:
        """A part of something that does not fit into the socket at once was taken: answers come when it is through."""
        self._busy_until = now + TRANSFER
        self._dead_at = None
        self._ask_again_at = max(self._ask_again_at, self._busy_until)

    def asks(self, now: float) -> bool:
        """Whether to send an ECHO now; true once for each silence."""
        if self._asked_at is not None or now - self.heard < self.interval:
            return False
        self._asked_at = now
        self._ask_again_at = max(now, self._busy_until) + self.interval
        return True

    def silent(self, now: float) -> bool:
        """Whether nothing that was sent over the link is to be waited for: an ECHO was not answered in time."""
        return self._asked_at is not None and now - max(self._asked_at, self._busy_until) >= self.interval

    def suspects(self, now: float) -> bool:
        """Whether a second connection is to ask now; say `probed` what came of it."""
        if self._asked_at is None or self._probing or self._dead_at is not None or now < self._ask_again_at:
            return False
        self._probing = True
        return True

    def probed(self, since: float, answered: bool, now: float) -> None:
        """What came of the question over a second connection, which was sent when `heard` was `since`."""
        if self._probing and self.heard == since:
            self._probing = False
            if answered and now >= self._busy_until:
                self._dead_at = now + self.interval / 3
            self._ask_again_at = max(now, self._busy_until) + self.interval

    def dead(self, now: float) -> bool:
        """Whether the link is to be given up."""
        if self._dead_at is not None:
            return now >= self._dead_at
        return self._asked_at is not None and now - max(self._asked_at, self._busy_until) >= PATIENCE

    def deadline(self) -> float:
        """When to ask the methods above again, if nothing comes."""
        if self._asked_at is None:
            return self.heard + self.interval
        if self._dead_at is not None:
            return self._dead_at
        last = max(self._asked_at, self._busy_until) + PATIENCE
        return last if self._probing else min(last, self._ask_again_at)
