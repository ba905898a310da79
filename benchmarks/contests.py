"""The workloads of the comparison: what each contender does, how often, and what is noted of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Final, NamedTuple

from benchmarks.contenders import Contender
from benchmarks.peers.bodies import burn
from benchmarks.plans import Plan, how_many

Run = Callable[[Contender, int], dict[str, float]]
"""Does something so many times; returns the figures by the names of their rows."""


class Row(NamedTuple):
    """A row of the table: its title, and its unit; of `less` the smaller figure is the better one."""

    title: str
    unit: str = "/s"
    less: bool = False


class Contest(NamedTuple):
    """A workload by the adapters' name, the queue it needs, and the rows it fills.

    `size` is how many are done where that is fixed; 0 is as many as take the planned time, at most `most`. `rounds` is
    how many rounds of it are enough.
    """

    workload: str
    run: Run
    rows: dict[str, Row]
    queue: str = "main"
    size: int = 0
    most: int = 50_000
    rounds: int = 99

    def how_many(self, contender: Contender, plan: Plan) -> int:
        """The count for one contender."""
        if self.size:
            return max(1, int(self.size * plan.part))
        return how_many(partial(self._seconds, contender), self.most, plan)

    def _seconds(self, contender: Contender, count: int) -> float:
        # Each row's figure is a rate here, and all of a contest's rows take their own time.
        return sum(count / rate for rate in self.run(contender, count).values())


def _rate(workload: str, contender: Contender, count: int) -> dict[str, float]:
    return {workload: count / contender.seconds(workload, count=count)}


def _enqueue(contender: Contender, count: int) -> dict[str, float]:
    return {"enqueue": count / contender.fill("enqueue", count)}


def _bulk(contender: Contender, count: int) -> dict[str, float]:
    filled, drained = contender.fill_and_drain(count)
    return {"bulk": count / filled, "drain": count / drained}


def _cpu(contender: Contender, count: int) -> dict[str, float]:
    return {"cpu": count / contender.seconds("cpu", count=count, iterations=iterations())}


def _naps(contender: Contender, count: int) -> dict[str, float]:
    return {"naps": contender.seconds("naps", count=count, seconds=NAP)}


def _load(contender: Contender, count: int) -> dict[str, float]:
    delays = sorted(contender.delays("load", count, rate=RATE))
    return {f"load {part:g}": 1000 * percentile(delays, part) for part in (50, 99, 99.9)}


def _idle(contender: Contender, count: int) -> dict[str, float]:
    return {"idle": 1000 * median(contender.delays("idle", count))}


def percentile(ordered: list[float], part: float) -> float:
    """The smallest figure that at least `part` per cent of them do not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(len(ordered) * part / 100) - 1)]


_iterations = 0


def iterations() -> int:
    """How much `burn` has to do for about 10 ms on this machine; found once in a run, the same for everybody."""
    global _iterations
    if not _iterations:
        best = min(_timed(100_000) for _ in range(5))
        _iterations = max(1, int(100_000 * 0.010 / best))
    return _iterations


def _timed(count: int) -> float:
    started = time.process_time()
    burn(count)
    return time.process_time() - started


NAP: Final = 0.1
"""Seconds that each of many waiting tasks takes."""

RATE: Final = 200.0
"""Tasks a second while latency is measured; every contender has to be able to keep up."""


def _simple(workload: str, title: str, size: int = 0, rounds: int = 99, most: int = 50_000) -> Contest:
    return Contest(workload, partial(_rate, workload), {workload: Row(title)}, size=size, rounds=rounds, most=most)


CONTESTS: Final = (
    _simple("round_trip", "round trips, one after the other, blocking caller"),
    _simple("round_trip_async", "round trips, one after the other, async caller"),
    _simple("in_flight", "round trips, 100 in flight"),
    _simple("stored", "submit and get a kept result, one after the other"),
    _simple("results", "submit many one by one, then get each result", most=5000),
    Contest("enqueue", _enqueue, {"enqueue": Row("enqueue one by one")}),
    Contest("bulk", _bulk, {"bulk": Row("enqueue in bulk"), "drain": Row("drain, no-op")}),
    _simple("group", "group of 10,000 and its results, members", size=10_000, rounds=3),
    _simple("chain", "chain of 100, steps", size=100),
    _simple("payload", "round trips with 1 MiB each way", most=500),
    Contest("cpu", _cpu, {"cpu": Row("CPU tasks of 10 ms on all processes")}, size=200),
    Contest(
        "naps", _naps, {"naps": Row("1,000 async tasks of 100 ms, all of them", "s", True)}, "wide", 1000, rounds=5
    ),
    Contest(
        "load",
        _load,
        {f"load {part:g}": Row(f"delay until begun at {RATE:g}/s, p{part:g}", "ms", True) for part in (50, 99, 99.9)},
        size=2000,
        rounds=3,
    ),
    Contest("idle", _idle, {"idle": Row("delay until begun, idle worker, p50", "ms", True)}, size=12, rounds=3),
)

ROWS: Final[dict[str, Row]] = {name: row for contest in CONTESTS for name, row in contest.rows.items()}
