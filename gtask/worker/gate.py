"""A gate before a lane: how many of its jobs may be asked for. Pure; design, section 7.

A job that is limited is not taken and kept waiting: the worker does not ask for it while its gate is closed, so other
workers get it. Every leave to ask that a gate gives comes back to it: unused with `nothing`, or used with `ended`.
"""

from __future__ import annotations

import math
from typing import Final, Protocol


class Gate(Protocol):
    """What `WorkerCore` asks before it grabs over a lane, from one thread at a time; `now` is the driver's clock."""

    def enter(self, now: float) -> bool:
        """Gives leave for one grab, or says no for now."""

    def nothing(self, now: float) -> None:
        """Takes back a leave that led to no job."""

    def ended(self, now: float) -> None:
        """Takes back the leave of a job that is over."""

    def rest(self, now: float) -> None:
        """Hears that no more is asked for now: what was not used is for others."""

    def again(self, now: float) -> float:
        """When to ask again after a no; infinity when the driver is woken then."""


NEVER: Final = math.inf
"""When a gate that wakes its driver is to be asked again."""
