"""Features as middleware: one file each. `default_middleware` is what every App has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gtask.middleware.base import Middleware, Next, Stack
from gtask.middleware.canvas import Canvas
from gtask.middleware.completed import Completed
from gtask.middleware.dead_letters import DeadLetters
from gtask.middleware.logging import Logging
from gtask.middleware.results import Results
from gtask.middleware.retries import Retries
from gtask.middleware.time_limit import TimeLimit
from gtask.middleware.tracing import Tracing
from gtask.types import Server


def default_middleware(servers: Callable[[], Sequence[Server]] = tuple) -> list[Middleware]:
    """gtask's own middleware, outermost first; `servers` says which job servers the App uses now.

    Read from the inside it is the promise of the design, section 6: `TimeLimit` cuts, `Retries` makes an outcome of
    what was raised, `Results` keeps the final outcome (`Completed` has it from an earlier run), `Canvas` goes on from
    it, `DeadLetters` parks what failed for good. Log lines are written inside the span, so that they can carry its id.
    """
    return [
        Tracing(servers),
        Logging(),
        DeadLetters(),
        Canvas(),
        Completed(),
        Results(),
        Retries(),
        TimeLimit(),
    ]


__all__ = [
    "Canvas",
    "Completed",
    "DeadLetters",
    "Logging",
    "Middleware",
    "Next",
    "Results",
    "Retries",
    "Stack",
    "TimeLimit",
    "Tracing",
    "default_middleware",
]
