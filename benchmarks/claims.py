"""What is to be shown: ratios between rows of one run of `benchmarks.compare`, and how large they have to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final

Figures = Mapping[str, Mapping[str, list[float]]]
"""By row and contender the figures of the rounds, all of them of the kind that is better when it is larger."""

GTASK, EMBEDDED, FLOOR, C = "gtask", "gtask, embedded server", "bare socket", "libgearman in C"
POOL, CELERY = "process pool", "Celery"


@dataclass(frozen=True)
class Claim:
    """`who` in `row` is at least so many times as good as `other` in the same row, or in `other_row`."""

    text: str
    row: str
    who: str
    other: str
    least: float
    other_row: str = ""

    def ratio(self, figures: Figures) -> float | None:
        """The median of the rounds' ratios; None where one of the two was not measured."""
        mine = figures.get(self.row, {}).get(self.who)
        theirs = figures.get(self.other_row or self.row, {}).get(self.other)
        if not mine or not theirs:
            return None
        return median(a / b for a, b in zip(mine, theirs, strict=False))


CLAIMS: Final = (
    Claim("drain, no-op, beside Celery", "drain", GTASK, CELERY, 25),
    Claim("drain, no-op, beside libgearman's C worker", "drain", GTASK, C, 2),
    Claim("round trips with results through the gearman:// store, beside Celery", "results", GTASK, CELERY, 12),
    Claim("100 foreground calls in flight, beside Celery with results", "in_flight", GTASK, CELERY, 20, "results"),
    Claim("sequential round trip, beside Celery", "round_trip", GTASK, CELERY, 5),
    Claim("sequential round trip, beside the floor", "round_trip", GTASK, FLOOR, 0.4),
    Claim("enqueue one by one, beside Celery", "enqueue", GTASK, CELERY, 4),
    Claim("enqueue one by one, beside the floor", "enqueue", GTASK, FLOOR, 0.6),
    Claim("enqueue in bulk, beside Celery", "bulk", GTASK, CELERY, 20),
    Claim("enqueue in bulk, beside the floor", "bulk", GTASK, FLOOR, 0.4),
    Claim("drain, no-op, beside the floor", "drain", GTASK, FLOOR, 0.35),
    Claim("embedded server: drain, beside gearmand", "drain", EMBEDDED, GTASK, 1 / 3),
    Claim("embedded server: enqueue one by one, beside gearmand", "enqueue", EMBEDDED, GTASK, 1 / 3),
    Claim("embedded server: enqueue in bulk, beside gearmand", "bulk", EMBEDDED, GTASK, 1 / 3),
    Claim("CPU tasks, beside a plain process pool", "cpu", GTASK, POOL, 0.95),
)
