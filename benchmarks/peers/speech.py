"""The adapter's side of the conversation with the driver: one JSON object on a line, answered by one line.

``{"do": "hello"}`` asks who it is: ``{"name", "versions", "can"}``. ``{"do": "workers", "queue", "processes"}`` asks
which programs serve a queue: ``{"argv": [[...], ...]}``, which are run with the adapter's environment. Anything else
names a workload, with a ``count`` and what else it takes, and is answered by ``{"seconds": 1.25}``; what goes wrong is
``{"error": "..."}``. The end of the input ends the adapter.

Every peer has the same tasks: ``noop`` (counts itself, its result is not kept), ``empty`` (its result is), ``echo``,
``burn``, ``stamp``, ``increment`` on the queue ``main``, and ``nap`` on the queue ``wide``, whose worker is the one
for many tasks that wait. Only the standard library is needed.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Sequence
from time import perf_counter
from typing import Any, ClassVar

BROKER = "BENCH_BROKER"
"""The variable with the URL of the broker or job server."""

PATIENCE = 120.0
"""Seconds that an adapter waits for one result."""

WINDOW = 100
"""Tasks under way at once where an async caller has many."""

MEBIBYTE = "x" * 2**20

COMMON = "round_trip stored results in_flight enqueue bulk payload cpu naps load idle".split()
"""What every adapter can, unless it names it in `missing`; the others are named in `more`."""


class Speaker:
    """What sync and async adapters have in common: the conversation."""

    name: ClassVar[str]
    packages: ClassVar[Sequence[str]] = ()
    missing: ClassVar[Sequence[str]] = ()
    more: ClassVar[Sequence[str]] = ()

    def workers(self, queue: str, processes: int) -> list[list[str]]:
        """The programs that serve a queue with so many processes in all."""
        raise NotImplementedError

    def hello(self) -> dict[str, Any]:
        """Who this is, and which workloads it can run."""
        versions = {package: importlib.metadata.version(package) for package in self.packages}
        can = [name for name in [*COMMON, *self.more] if name not in self.missing]
        return {"name": self.name, "versions": versions, "can": can}

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answers one request."""
        do = request.pop("do")
        if do == "hello":
            return self.hello()
        if do == "workers":
            return {"argv": self.workers(**request)}
        if do not in ("ready", *self.hello()["can"]):
            return {"error": f"{self.name} has no workload {do!r}."}
        return {"seconds": self.measure(getattr(self, do), request)}

    def measure(self, workload: Callable[..., Any], arguments: dict[str, Any]) -> float:
        """Runs a workload and returns its seconds."""
        seconds: float = workload(**arguments)
        return seconds

    def close(self) -> None:
        """Lets go of everything."""


class Adapter(Speaker):
    """An adapter whose calls block. What it has to say is how a task is submitted and how its result is waited for."""

    def submit(self, task: str, *args: Any) -> Any:
        """Submits one task; returns its handle."""
        raise NotImplementedError

    def get(self, handle: Any) -> Any:
        """Waits for a result."""
        raise NotImplementedError

    def submit_many(self, task: str, arguments: Sequence[tuple[Any, ...]]) -> Sequence[Any]:
        """Submits many tasks at once, in the best way there is."""
        return [self.submit(task, *each) for each in arguments]

    def get_many(self, handles: Any) -> None:
        """Waits for many results, in the best way there is."""
        for handle in handles:
            self.get(handle)

    def ready(self, queue: str = "main") -> float:
        """One round trip, which tells that the workers of a queue are there."""
        started = perf_counter()
        self.get(self.submit("empty") if queue == "main" else self.submit("nap", 0.0))
        return perf_counter() - started

    def round_trip(self, count: int) -> float:
        """One task after the other, each waited for, in the way that is quickest."""
        return self.stored(count)

    def stored(self, count: int) -> float:
        """One task after the other, each waited for; its result is kept for others."""
        started = perf_counter()
        for _ in range(count):
            self.get(self.submit("empty"))
        return perf_counter() - started

    def results(self, count: int) -> float:
        """Tasks submitted one by one; then each result is read."""
        started = perf_counter()
        for handle in [self.submit("empty") for _ in range(count)]:
            self.get(handle)
        return perf_counter() - started

    def in_flight(self, count: int) -> float:
        """Tasks with results, `WINDOW` of them under way."""
        started = perf_counter()
        for first in range(0, count, WINDOW):
            self.get_many(self.submit_many("empty", [()] * min(WINDOW, count - first)))
        return perf_counter() - started

    def enqueue(self, count: int) -> float:
        """Tasks without results, one by one."""
        started = perf_counter()
        for _ in range(count):
            self.submit("noop")
        return perf_counter() - started

    def bulk(self, count: int) -> float:
        """Tasks without results, in the best way there is for many."""
        arguments: list[tuple[Any, ...]] = [()] * count
        started = perf_counter()
        self.submit_many("noop", arguments)
        return perf_counter() - started

    def group(self, count: int) -> float:
        """A group, and all its results."""
        return self._many("empty", [()] * count)

    def payload(self, count: int) -> float:
        """A MiB there and back, one after the other."""
        started = perf_counter()
        for _ in range(count):
            if len(self.get(self.submit("echo", MEBIBYTE))) != len(MEBIBYTE):
                raise RuntimeError("Another text came back than was sent.")
        return perf_counter() - started

    def cpu(self, count: int, iterations: int) -> float:
        """Tasks that compute."""
        return self._many("burn", [(iterations,)] * count)

    def naps(self, count: int, seconds: float) -> float:
        """Tasks that wait, all at once."""
        return self._many("nap", [(seconds,)] * count)

    def load(self, count: int, rate: float) -> float:
        """Sends stamps at a rate that does not depend on the answers; late ones carry the time they were due at."""
        started = perf_counter()
        due = time.monotonic()
        for _ in range(count):
            due += 1 / rate
            time.sleep(max(0.0, due - time.monotonic()))
            self.submit("stamp", due)
        return perf_counter() - started

    def idle(self, count: int) -> float:
        """Sends stamps to a worker that has nothing else to do."""
        started = perf_counter()
        for _ in range(count):
            time.sleep(random.uniform(0.15, 0.35))
            self.submit("stamp", time.monotonic())
        return perf_counter() - started

    def _many(self, task: str, arguments: list[tuple[Any, ...]]) -> float:
        started = perf_counter()
        self.get_many(self.submit_many(task, arguments))
        return perf_counter() - started


class AsyncAdapter(Speaker):
    """The same for what has only async calls; the same loop runs all of them."""

    more: ClassVar[Sequence[str]] = ("round_trip_async",)
    missing: ClassVar[Sequence[str]] = ("round_trip",)  # it has no blocking caller

    def __init__(self) -> None:
        import uvloop  # type: ignore[import-not-found, unused-ignore]  # absent where the adapter is only read

        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._runner.run(self.open())

    async def open(self) -> None:
        """Connects."""

    async def shut(self) -> None:
        """Disconnects."""

    async def submit(self, task: str, *args: Any) -> Any:
        """Submits one task; returns its handle."""
        raise NotImplementedError

    async def get(self, handle: Any) -> Any:
        """Waits for a result."""
        raise NotImplementedError

    def measure(self, workload: Callable[..., Any], arguments: dict[str, Any]) -> float:
        """Runs a workload in the loop and returns its seconds."""

        async def timed() -> float:
            started = perf_counter()
            await workload(**arguments)
            return perf_counter() - started

        return self._runner.run(timed())

    def close(self) -> None:
        """Lets go of everything."""
        self._runner.run(self.shut())
        self._runner.close()

    async def submit_many(self, task: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Submits many tasks, `WINDOW` at once."""
        handles: list[Any] = []
        for first in range(0, len(arguments), WINDOW):
            some = [self.submit(task, *each) for each in arguments[first : first + WINDOW]]
            handles += await asyncio.gather(*some)
        return handles

    async def get_many(self, handles: Sequence[Any]) -> None:
        """Waits for many results, `WINDOW` at once."""
        for first in range(0, len(handles), WINDOW):
            await asyncio.gather(*[self.get(handle) for handle in handles[first : first + WINDOW]])

    async def ready(self, queue: str = "main") -> None:
        """One round trip, which tells that the workers of a queue are there."""
        await self._round_trip(*(("empty",) if queue == "main" else ("nap", 0.0)))

    async def round_trip_async(self, count: int) -> None:
        """One task after the other, each waited for."""
        for _ in range(count):
            await self._round_trip("empty")

    stored = round_trip_async

    async def results(self, count: int) -> None:
        """Tasks submitted one by one; then each result is read."""
        await self.get_many([await self.submit("empty") for _ in range(count)])

    async def in_flight(self, count: int) -> None:
        """Tasks with results, `WINDOW` callers at once."""
        await at_once(lambda: self._round_trip("empty"), count)

    async def enqueue(self, count: int) -> None:
        """Tasks without results, one by one."""
        for _ in range(count):
            await self.submit("noop")

    async def bulk(self, count: int) -> None:
        """Tasks without results, in the best way there is for many."""
        await self.submit_many("noop", [()] * count)

    async def group(self, count: int) -> None:
        """Many tasks, and all their results."""
        await self.get_many(await self.submit_many("empty", [()] * count))

    async def payload(self, count: int) -> None:
        """A MiB there and back, one after the other."""
        for _ in range(count):
            if len(await self._round_trip("echo", MEBIBYTE)) != len(MEBIBYTE):
                raise RuntimeError("Another text came back than was sent.")

    async def cpu(self, count: int, iterations: int) -> None:
        """Tasks that compute."""
        await self.get_many(await self.submit_many("burn", [(iterations,)] * count))

    async def naps(self, count: int, seconds: float) -> None:
        """Tasks that wait, all at once."""
        await self.get_many(await self.submit_many("nap", [(seconds,)] * count))

    async def load(self, count: int, rate: float) -> None:
        """Sends stamps at a rate that does not depend on the answers; late ones carry the time they were due at."""
        due = time.monotonic()
        for _ in range(count):
            due += 1 / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self.submit("stamp", due)

    async def idle(self, count: int) -> None:
        """Sends stamps to a worker that has nothing else to do."""
        for _ in range(count):
            await asyncio.sleep(random.uniform(0.15, 0.35))
            await self.submit("stamp", time.monotonic())

    async def _round_trip(self, task: str, *args: Any) -> Any:
        return await self.get(await self.submit(task, *args))


async def at_once(call: Callable[[], Coroutine[Any, Any, Any]], count: int, callers: int = WINDOW) -> None:
    """Awaits `call` so many times, by so many callers each of whom makes one call after the other."""
    left = count

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call()

    await asyncio.gather(*[caller() for _ in range(min(callers, count))])


def talk(make: Callable[[], Speaker]) -> None:
    """Holds the conversation over stdin and stdout until the input ends; whatever else is printed goes to stderr."""
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)
        speaker = make()
        try:
            for line in sys.stdin:
                try:
                    answer = speaker.run(json.loads(line))
                except Exception as error:
                    traceback.print_exc()
                    answer = {"error": f"{type(error).__name__}: {error}"}
                print(json.dumps(answer), file=answers)
        finally:
            speaker.close()
