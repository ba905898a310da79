"""Huey on Redis, with worker processes, blocking reads of the queue and of results (`notify_result`)."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from huey import RedisHuey
from redis import ConnectionPool

from benchmarks.peers import bodies
from benchmarks.peers.speech import BROKER, PATIENCE, Adapter


def make(queue: str) -> RedisHuey:
    """Huey for one queue; as many connections as there are greenlets that wait."""
    pool = ConnectionPool.from_url(os.environ[BROKER], max_connections=4096)
    return RedisHuey(queue, connection_pool=pool, results=True, notify_result=True)


main, wide = make("main"), make("wide")


@main.task()
def noop() -> None:
    """Counts itself."""
    bodies.count()


@main.task()
def empty() -> bool:
    """Does nothing; None would not be kept."""
    return True


@main.task()
def echo(text: str) -> str:
    """Gives back what it gets."""
    return text


@main.task()
def burn(iterations: int) -> int:
    """Computes."""
    return bodies.burn(iterations)


@main.task()
def stamp(sent: float) -> None:
    """Notes when it began."""
    bodies.stamp(sent)


@main.task()
def increment(number: int) -> int:
    """A step of a chain."""
    return number + 1


@wide.task()
def nap(seconds: float) -> bool:
    """Waits; for greenlets."""
    time.sleep(seconds)
    return True


TASKS: dict[str, Any] = {
    "noop": noop,
    "empty": empty,
    "echo": echo,
    "burn": burn,
    "stamp": stamp,
    "increment": increment,
    "nap": nap,
}


class Peer(Adapter):
    """Huey's own calls."""

    name = "Huey"
    packages: ClassVar[Sequence[str]] = ("huey", "redis", "hiredis")
    more: ClassVar[Sequence[str]] = ("group", "chain")

    def workers(self, queue: str, processes: int) -> list[list[str]]:
        """`huey_consumer`, for tasks that wait with greenlets."""
        kind = ["-k", "greenlet", "-w", "1000"] if queue == "wide" else ["-k", "process", "-w", str(processes)]
        start = "import sys; from huey.bin.huey_consumer import consumer_main; sys.exit(consumer_main())"
        if queue == "wide":
            start = f"from gevent import monkey; monkey.patch_all(); {start}"
        return [["-c", start, f"benchmarks.peers.on_huey.{queue}", *kind, "-n", "-q"]]

    def submit(self, task: str, *args: Any) -> Any:
        """The task's own call."""
        return TASKS[task](*args)

    def get(self, handle: Any) -> Any:
        """`get`."""
        return handle.get(blocking=True, timeout=PATIENCE)

    def chain(self, count: int) -> float:
        """A pipeline of so many steps."""
        started = time.perf_counter()
        step = increment.s(0)
        for _ in range(count - 1):
            step = step.then(increment)
        if main.enqueue(step)[-1] != count:  # an index waits for that result
            raise RuntimeError("The pipeline went wrong.")
        return time.perf_counter() - started
