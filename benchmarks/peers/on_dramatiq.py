"""Dramatiq on Redis, with its default threads, and its results in Redis."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.peers import bodies
from benchmarks.peers.speech import BROKER, PATIENCE, Adapter

# The Redis client lets no read take long and no pool have more than 100 connections unless it is told to.
REDIS = f"{os.environ[BROKER]}?socket_timeout={PATIENCE + 30:g}&max_connections=4096"
broker = RedisBroker(url=REDIS)
broker.add_middleware(Results(backend=RedisBackend(url=REDIS)))
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="main", max_retries=0)
def noop() -> None:
    """Counts itself."""
    bodies.count()


@dramatiq.actor(queue_name="main", max_retries=0, store_results=True)
def empty() -> None:
    """Does nothing."""


@dramatiq.actor(queue_name="main", max_retries=0, store_results=True)
def echo(text: str) -> str:
    """Gives back what it gets."""
    return text


@dramatiq.actor(queue_name="main", max_retries=0, store_results=True)
def burn(iterations: int) -> int:
    """Computes."""
    return bodies.burn(iterations)


@dramatiq.actor(queue_name="main", max_retries=0)
def stamp(sent: float) -> None:
    """Notes when it began."""
    bodies.stamp(sent)


@dramatiq.actor(queue_name="main", max_retries=0, store_results=True)
def increment(number: int) -> int:
    """A step of a chain."""
    return number + 1


@dramatiq.actor(queue_name="wide", max_retries=0, store_results=True)
def nap(seconds: float) -> None:
    """Waits; for greenlets."""
    time.sleep(seconds)


ACTORS: dict[str, Any] = {each.actor_name: each for each in (noop, empty, echo, burn, stamp, increment, nap)}


class Peer(Adapter):
    """Dramatiq's own calls."""

    name = "Dramatiq"
    packages: ClassVar[Sequence[str]] = ("dramatiq", "redis", "hiredis")
    more: ClassVar[Sequence[str]] = ("group", "chain")

    def workers(self, queue: str, processes: int) -> list[list[str]]:
        """`dramatiq`, for tasks that wait with greenlets."""
        module = ["benchmarks.peers.on_dramatiq", "-Q", queue]
        if queue == "wide":
            start = "from gevent import monkey; monkey.patch_all(); import sys; from dramatiq.cli import main; "
            return [["-c", f"{start}sys.exit(main())", *module, "-p", "1", "-t", "1000"]]
        return [["-m", "dramatiq", *module, "-p", str(processes)]]

    def submit(self, task: str, *args: Any) -> Any:
        """`send`."""
        return ACTORS[task].send(*args)

    def get(self, handle: Any) -> Any:
        """`get_result`."""
        return handle.get_result(block=True, timeout=int(PATIENCE * 1000))

    def chain(self, count: int) -> float:
        """A pipeline of so many steps."""
        started = time.perf_counter()
        steps = [increment.message(0), *[increment.message() for _ in range(count - 1)]]
        if self.get(dramatiq.pipeline(steps).run()) != count:
            raise RuntimeError("The pipeline went wrong.")
        return time.perf_counter() - started
