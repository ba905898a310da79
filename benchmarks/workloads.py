"""What is measured, each beside its floor: the same work on the same job server in packets made by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Final, NamedTuple

from benchmarks.rig import FLOOR_WAIT, Rig
from gtask import group
from gtask.task import Task
from gtask.types import Submission

Measure = Callable[[Rig, int], float]
"""Does something so many times and returns the seconds it took."""

ONE: Final = "one."
TWO: Final = "two."
FLOOR_ONE: Final = "floor.one"
FLOOR_TWO: Final = "floor.two"
FLOOR_RESULTS_ONE: Final = "floor.results.one"
FLOOR_RESULTS_TWO: Final = "floor.results.two"

PATIENCE: Final = 60.0


class Workload(NamedTuple):
    """One row of the table; `most` is how many times it is done at once at most."""

    name: str
    gtask: Measure
    floor: Measure
    most: int = 50_000


# --- gtask -------------------------------------------------------------------------------------------------------


def call(rig: Rig, count: int) -> float:
    """Foreground calls, one after the other."""
    empty = rig.tasks[ONE].empty
    started = perf_counter()
    for _ in range(count):
        empty.call()
    return perf_counter() - started


def delay(rig: Rig, count: int) -> float:
    """Background jobs, one after the other."""
    quiet = rig.tasks[TWO].quiet
    with rig.stopped(TWO):
        started = perf_counter()
        for _ in range(count):
            quiet.delay()
        seconds = perf_counter() - started
    rig.queues.wait_until_empty()
    return seconds


def group_delay(rig: Rig, count: int) -> float:
    """Background jobs, as one group."""
    quiet = rig.tasks[TWO].quiet
    with rig.stopped(TWO):
        started = perf_counter()
        group(quiet.s() for _ in range(count)).delay()
        seconds = perf_counter() - started
    rig.queues.wait_until_empty()
    return seconds


def submit_many(rig: Rig, count: int) -> float:
    """Background jobs in bulk through gtask's client alone, without tasks and messages."""
    with rig.stopped(FLOOR_TWO):
        started = perf_counter()
        rig.client.submit_many(Submission(FLOOR_TWO, b"x") for _ in range(count))
        seconds = perf_counter() - started
    rig.queues.wait_until_empty()
    return seconds


def drain(namespace: str, results: bool, rig: Rig, count: int) -> float:
    """A queue is emptied; with `results` until the results service has everything."""
    tasks = rig.tasks[namespace]
    task: Task[[], None] = tasks.empty if results else tasks.quiet
    with rig.stopped(namespace):
        group(task.s() for _ in range(count)).delay()
        started = perf_counter()
    rig.queues.wait_until_empty()
    return perf_counter() - started


def get(rig: Rig, count: int) -> float:
    """Background jobs, each waited for before the next."""
    empty = rig.tasks[ONE].empty
    started = perf_counter()
    for _ in range(count):
        empty.delay().get(timeout=PATIENCE)
    return perf_counter() - started


# --- the floor ---------------------------------------------------------------------------------------------------


def floor_round_trips(rig: Rig, count: int) -> float:
    """Foreground jobs, one after the other."""
    return rig.floor.round_trips(FLOOR_ONE.encode(), count)


def floor_get(rig: Rig, count: int) -> float:
    """Background jobs, each waited for before the next."""
    return rig.floor.round_trips_with_result(FLOOR_RESULTS_ONE.encode(), FLOOR_WAIT.encode(), count)


def floor_one_by_one(rig: Rig, count: int) -> float:
    """Background jobs, one after the other."""
    with rig.stopped(FLOOR_TWO):
        seconds = rig.floor.one_by_one(FLOOR_TWO.encode(), count)
    rig.queues.wait_until_empty()
    return seconds


def floor_in_bulk(rig: Rig, count: int) -> float:
    """Background jobs, many at once."""
    with rig.stopped(FLOOR_TWO):
        seconds = rig.floor.in_bulk(FLOOR_TWO.encode(), count)
    rig.queues.wait_until_empty()
    return seconds


def floor_drain(function: str, rig: Rig, count: int) -> float:
    """A queue is emptied."""
    with rig.stopped(function):
        rig.floor.in_bulk(function.encode(), count)
        started = perf_counter()
    rig.queues.wait_until_empty()
    return perf_counter() - started


WORKLOADS: Final = (
    Workload("round trip: call()", call, floor_round_trips),
    Workload("enqueue one by one: delay()", delay, floor_one_by_one),
    Workload("enqueue in bulk: group().delay()", group_delay, floor_in_bulk),
    Workload("enqueue in bulk: Client.submit_many()", submit_many, floor_in_bulk),
    Workload("drain, 1 process", partial(drain, ONE, False), partial(floor_drain, FLOOR_ONE)),
    Workload("drain, 2 processes", partial(drain, TWO, False), partial(floor_drain, FLOOR_TWO)),
    Workload("round trip with result: delay().get()", get, floor_get),
    Workload("drain with results, 2 processes", partial(drain, TWO, True), partial(floor_drain, FLOOR_RESULTS_TWO)),
)
