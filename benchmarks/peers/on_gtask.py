"""gtask itself, as its contenders: ``$BENCH_POOL``, ``$BENCH_LOOP`` (of the async caller and the pool async) and
``$BENCH_STORE`` say which.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from time import perf_counter
from typing import Any, ClassVar

import gtask
from benchmarks.peers import bodies
from benchmarks.peers.speech import BROKER, MEBIBYTE, PATIENCE, Adapter, at_once

POOL = os.environ.get("BENCH_POOL", "prefork")
LOOP = os.environ.get("BENCH_LOOP", "asyncio")
STORE = os.environ.get("BENCH_STORE", "gearman://")

Stopwatch = Callable[[], Coroutine[Any, Any, None]]


def make(namespace: str) -> gtask.App:
    """The app of one queue."""
    return gtask.App("benchmarks", os.environ[BROKER], results=STORE, namespace=f"{namespace}.")


main, wide = make("main"), make("wide")


def empty_tasks() -> tuple[Any, Any]:
    """The empty tasks: coroutines for the pool that is made for them."""
    if POOL == "async":

        @main.task(ignore_result=True, name="noop")
        async def anoop() -> None:
            """Counts itself."""
            bodies.count()

        @main.task(name="empty")
        async def aempty() -> None:
            """Does nothing."""

        return anoop, aempty

    @main.task(ignore_result=True)
    def noop() -> None:
        """Counts itself."""
        bodies.count()

    @main.task
    def empty() -> None:
        """Does nothing."""

    return noop, empty


noop, empty = empty_tasks()


@main.task
def echo(text: str) -> str:
    """Gives back what it gets."""
    return text


@main.task
def burn(iterations: int) -> int:
    """Computes."""
    return bodies.burn(iterations)


@main.task(ignore_result=True)
def stamp(sent: float) -> None:
    """Notes when it began."""
    bodies.stamp(sent)


@main.task
def increment(number: int) -> int:
    """A step of a chain."""
    return number + 1


@wide.task
async def nap(seconds: float) -> None:
    """Waits."""
    await asyncio.sleep(seconds)


TASKS: dict[str, Any] = {"noop": noop, "empty": empty, "echo": echo, "burn": burn, "stamp": stamp, "nap": nap}


class Peer(Adapter):
    """gtask's own calls."""

    name = "gtask"
    packages: ClassVar[Sequence[str]] = ("gtask",)
    more: ClassVar[Sequence[str]] = ("round_trip_async", "group", "chain")

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None

    def workers(self, queue: str, processes: int) -> list[list[str]]:
        """`gtask worker`."""
        loop = ["--backend", LOOP]
        sizes = {"prefork": [str(processes)], "thread": [str(processes)], "async": ["100", *loop], "solo": []}
        pool, size = ("async", ["1000", *loop]) if queue == "wide" else (POOL, sizes[POOL])
        how = ["--pool", pool, *(["-c", *size] if size else []), "--loglevel", "warning"]
        return [["-m", "gtask", "worker", f"benchmarks.peers.on_gtask:{queue}", *how]]

    def close(self) -> None:
        """Ends the connections, those of the loop in the loop."""
        if self._runner is not None:
            self._runner.run(main.aclose())
            self._runner.close()
        main.close()
        wide.close()

    def submit(self, task: str, *args: Any) -> Any:
        """`delay`."""
        return TASKS[task].delay(*args)

    def get(self, handle: Any) -> Any:
        """`get`."""
        return handle.get(timeout=PATIENCE)

    def submit_many(self, task: str, arguments: Sequence[tuple[Any, ...]]) -> Any:
        """`group().delay()`."""
        made = TASKS[task]
        return gtask.group(made.s(*each) for each in arguments).delay()

    def get_many(self, handles: Any) -> None:
        """`join`, one wait for all."""
        handles.join(timeout=PATIENCE)

    def round_trip(self, count: int) -> float:
        """Foreground calls."""
        started = perf_counter()
        for _ in range(count):
            empty.call()
        return perf_counter() - started

    def round_trip_async(self, count: int) -> float:
        """Foreground calls of async code, one after the other."""

        async def calls() -> None:
            for _ in range(count):
                await empty.acall()

        return self._timed(calls)

    def in_flight(self, count: int) -> float:
        """Foreground calls of async code, a hundred at once."""
        return self._timed(lambda: at_once(empty.acall, count))

    def payload(self, count: int) -> float:
        """A MiB there and back, in the foreground."""
        started = perf_counter()
        for _ in range(count):
            if len(echo.call(MEBIBYTE)) != len(MEBIBYTE):
                raise RuntimeError("Another text came back than was sent.")
        return perf_counter() - started

    def chain(self, count: int) -> float:
        """A chain of so many steps."""
        started = time.perf_counter()
        steps = gtask.chain(increment.s(0), *[increment.s() for _ in range(count - 1)])
        if self.get(steps.delay()) != count:
            raise RuntimeError("The chain went wrong.")
        return time.perf_counter() - started

    def _timed(self, work: Stopwatch) -> float:
        async def timed() -> float:
            started = perf_counter()
            await work()
            return perf_counter() - started

        if self._runner is None:
            self._runner = asyncio.Runner(loop_factory=loop_factory())
        return self._runner.run(timed())


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the loop of the async caller; None is asyncio's own way."""
    if LOOP != "uvloop":
        return None
    import uvloop

    return uvloop.new_event_loop
