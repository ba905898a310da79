"""Celery on Redis, with JSON, the pool prefork, and what its guide "Optimizing" has for short tasks.

Its default is kept where it takes a job off the queue before the job runs (`acks_late=False`): a job that was taken is
lost with its process, which is quicker than what gtask promises.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from celery import Celery, chain

from benchmarks.peers import bodies
from benchmarks.peers.speech import BROKER, PATIENCE, Adapter

app = Celery("benchmarks", broker=os.environ[BROKER], backend=os.environ[BROKER])
app.conf.update(
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    worker_prefetch_multiplier=64,
    worker_disable_rate_limits=True,
    broker_connection_retry_on_startup=True,
    result_expires=3600,
    task_routes={"nap": {"queue": "wide"}},
    task_default_queue="main",
)


@app.task(name="noop", ignore_result=True)
def noop() -> None:
    """Counts itself."""
    bodies.count()


@app.task(name="empty")
def empty() -> None:
    """Does nothing."""


@app.task(name="echo")
def echo(text: str) -> str:
    """Gives back what it gets."""
    return text


@app.task(name="burn")
def burn(iterations: int) -> int:
    """Computes."""
    return bodies.burn(iterations)


@app.task(name="stamp", ignore_result=True)
def stamp(sent: float) -> None:
    """Notes when it began."""
    bodies.stamp(sent)


@app.task(name="increment")
def increment(number: int) -> int:
    """A step of a chain."""
    return number + 1


@app.task(name="nap")
def nap(seconds: float) -> None:
    """Waits; for the pool of greenlets."""
    time.sleep(seconds)


class Peer(Adapter):
    """Celery's own calls."""

    name = "Celery"
    packages: ClassVar[Sequence[str]] = ("celery", "kombu", "redis", "hiredis")
    more: ClassVar[Sequence[str]] = ("group", "chain")

    def workers(self, queue: str, processes: int) -> list[list[str]]:
        """`celery worker`, for tasks that wait with greenlets."""
        pool = ["-P", "gevent", "-c", "1000"] if queue == "wide" else ["-c", str(processes)]
        quiet = ["-l", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        node = ["-n", f"{queue}@localhost", "-Q", queue]
        return [["-m", "celery", "-A", "benchmarks.peers.on_celery", "worker", *pool, *node, *quiet]]

    def submit(self, task: str, *args: Any) -> Any:
        """`delay`."""
        return app.tasks[task].delay(*args)

    def get(self, handle: Any) -> Any:
        """`get`."""
        return handle.get(timeout=PATIENCE)

    def submit_many(self, task: str, arguments: Sequence[tuple[Any, ...]]) -> Sequence[Any]:
        """`apply_async` with one producer for all, as the guide "Calling" says."""
        with app.producer_or_acquire() as producer:
            return [app.tasks[task].apply_async(each, producer=producer) for each in arguments]

    def chain(self, count: int) -> float:
        """A chain of so many steps."""
        started = time.perf_counter()
        steps = chain(increment.s(0), *[increment.s() for _ in range(count - 1)])
        if self.get(steps.delay()) != count:
            raise RuntimeError("The chain went wrong.")
        return time.perf_counter() - started
