"""One worker's standing with one job server: the conversation, the turn of each function, the time of each duty."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import takewhile
from typing import Final, NamedTuple

from gtask.protocol import WorkerProtocol
from gtask.types import Server
from gtask.worker.gate import Gate
from gtask.worker.job import Ending, Job
from gtask.worker.pulse import Pulse

TURN: Final = 16
"""Jobs of one function in a row before the others are looked at, where there are others with work waiting."""

MAX_WINDOW: Final = 128
"""Grabs under way at once over one connection: more than the shortest tasks that run between two sends, or the worker
would wait for the answer to each batch of grabs with nothing to do."""

FIRST_BACKOFF: Final = 0.1
MAX_BACKOFF: Final = 3.0
"""Seconds between two attempts to connect; each wait is drawn from the upper half of its span. However long a job
server was away, its workers are there within seconds of its return."""


class Lane(NamedTuple):
    """What one of a worker's connections to a job server is for: these functions, and `most` of their jobs at once.

    Functions that must not wait for each other have lanes of their own; None is no bound but the slots. A lane with a
    `look` never sleeps, and so is woken for nothing: it is looked through every so many seconds, jittered. `window` is
    how many grabs are under way at once. A lane with a `gate` has one, as long as the gate lets it.
    """

    functions: tuple[str, ...]
    most: int | None = None
    look: float | None = None
    window: int = MAX_WINDOW
    gate: Gate | None = None


class Link:
    """What a worker knows of one job server; a new conversation is held over each new connection."""

    def __init__(self, server: Server, random: Callable[[], float], lane: Lane, heartbeat: float) -> None:
        self.server = server
        self.lane = lane
        self.protocol: WorkerProtocol | None = None
        self.connecting = False
        self.connect_at = 0.0
        self.opened_at = 0.0
        self.failures = 0
        self.pulse = Pulse(heartbeat)
        self.poll_at = 0.0
        self.resting = False
        """Whether a lane that never sleeps waits for its next look."""
        self.entered = False
        """Whether a grab is under way for which the lane's gate has given leave."""
        self.roused = False
        """Whether it is to be looked for work, as soon as the gate lets it, though nobody has woken it."""
        self.untimed_until = 0.0
        """Until when this job server is known to take no jobs for a later time."""
        self.window = 1
        self.batches: dict[str, deque[tuple[Job, Ending]]] = {}
        self.batches_under_way: set[str] = set()
        self._random = random
        self._turn = ("", 0)
        self._order: list[str] = []

    def __repr__(self) -> str:
        return f"<Link {self.server} {self.protocol or 'not connected'}>"

    def opened(self, protocol: WorkerProtocol, now: float) -> None:
        """Starts a conversation over a fresh connection: offers every function anew."""
        self.protocol = protocol
        self.connecting = False
        self.opened_at = now
        self.pulse.beat(now)
        self.window = 1
        self.resting = self.entered = self.roused = False
        self.untimed_until = 0.0
        self.batches.clear()
        self.batches_under_way.clear()
        self._turn = ("", 0)
        self._order = list(self.lane.functions)
        for function in self.lane.functions:
            protocol.can_do(function)

    def closed(self, now: float) -> None:
        """Forgets the conversation and sets the time of the next attempt, further away after each failure."""
        self.protocol = None
        self.connecting = False
        span = min(MAX_BACKOFF, FIRST_BACKOFF * 2 ** min(self.failures, 20))
        self.connect_at = now + span * (0.5 + self._random() / 2)
        self.failures += 1

    def plan_poll(self, now: float, interval: float) -> None:
        """Sets the time of the next grab on suspicion, jittered so that a fleet does not ask all at once."""
        self.poll_at = now + interval * (0.75 + self._random() / 2)

    @property
    def waits(self) -> bool:
        """Whether nothing is grabbed over this connection before it is woken, or its time for a look has come."""
        return not self.roused and (self.resting or (self.protocol is not None and self.protocol.asleep))

    @property
    def room(self) -> int:
        """How many more jobs may be asked for over this connection at once."""
        assert self.protocol is not None
        room = self.window - self.protocol.outstanding
        if self.lane.most is not None:
            room = min(room, self.lane.most - len(self.protocol.held) - self.protocol.outstanding)
        return room

    def count_turn(self, function: str) -> None:
        """Notes which function a job came from."""
        name, count = self._turn
        self._turn = (function, count + 1 if name == function else 1)

    @property
    def turn_over(self) -> bool:
        """Whether one function was served long enough for another to be looked at first."""
        return self._turn[1] >= TURN and len(self._order) > 1

    def next_turn(self) -> None:
        """Makes the job server look last at the function that was served; no grab may be under way.

        It looks first at what was offered last, so all that were offered before the served one are offered anew, in
        their order. Those without work drift ahead of the others and stay there, so however many there are, it is the
        busy ones that take turns. A function of which a job is held cannot be moved: offering it anew would give its
        jobs back (protocol reference, sections 8 and 9).
        """
        assert self.protocol is not None
        served, self._turn = self._turn[0], ("", 0)
        held = set(self.protocol.held.values())
        moved = [function for function in takewhile(lambda name: name != served, self._order) if function not in held]
        self._order = [*(function for function in self._order if function not in moved), *moved]
        for function in moved:
            self.protocol.prefer(function)
