"""How much is measured, and how often something is done so that it takes as long as planned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """How much is measured: `rounds` over all workloads, each for about `seconds`, at least `least` times over.

    `part` of what workloads of a fixed size do is done.
    """

    rounds: int = 7
    seconds: float = 0.3
    least: int = 20
    part: float = 1.0


QUICK = Plan(rounds=1, seconds=0.0, least=20, part=0.02)
"""For the test: says that everything works, and nothing about speed."""


def how_many(measured: Callable[[int], float], most: int, plan: Plan) -> int:
    """How many times to do something so that it takes as long as planned; finding that out also warms it up.

    `measured` does it so many times and returns the seconds that took.
    """
    count = plan.least
    while plan.seconds:
        seconds = measured(count)
        wanted = min(most, int(count * plan.seconds / seconds))
        if seconds >= plan.seconds / 4 or wanted <= count:
            return max(plan.least, wanted)
        count = min(wanted, 8 * count)
    return count
