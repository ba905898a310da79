"""taskiq on Redis streams, the broker that its documentation recommends, with orjson and uvloop.

A waiting caller asks again and again, by default every 200 ms; here every 1 ms where it waits for one task at a time,
and every 5 ms where it waits for many, which then is quicker.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any, ClassVar

from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.peers import bodies
from benchmarks.peers.speech import BROKER, PATIENCE, AsyncAdapter

ALONE, MANY = 0.001, 0.005


def make(queue: str) -> RedisStreamBroker:
    """A broker for one queue."""
    results: Any = RedisAsyncResultBackend(os.environ[BROKER], result_ex_time=3600, serializer=ORJSONSerializer())
    broker = RedisStreamBroker(os.environ[BROKER], queue_name=queue, consumer_group_name=queue)
    return broker.with_result_backend(results).with_serializer(ORJSONSerializer())


main, wide = make("main"), make("wide")


@main.task("noop")
async def noop() -> None:
    """Counts itself."""
    bodies.count()


@main.task("empty")
async def empty() -> None:
    """Does nothing."""


@main.task("echo")
async def echo(text: str) -> str:
    """Gives back what it gets."""
    return text


@main.task("burn")
def burn(iterations: int) -> int:
    """Computes."""
    return bodies.burn(iterations)


@main.task("stamp")
async def stamp(sent: float) -> None:
    """Notes when it began."""
    bodies.stamp(sent)


@wide.task("nap")
async def nap(seconds: float) -> None:
    """Waits."""
    await asyncio.sleep(seconds)


TASKS: dict[str, Any] = {"noop": noop, "empty": empty, "echo": echo, "burn": burn, "stamp": stamp, "nap": nap}


class Peer(AsyncAdapter):
    """taskiq's own calls."""

    name = "taskiq"
    packages: ClassVar[Sequence[str]] = ("taskiq", "taskiq-redis", "redis", "hiredis", "uvloop")
    more: ClassVar[Sequence[str]] = (*AsyncAdapter.more, "group")

    def workers(self, queue: str, processes: int) -> list[list[str]]:
        """`taskiq worker`."""
        at_once = "1000" if queue == "wide" else "100"
        start = "import sys; from taskiq.__main__ import main; sys.exit(main())"
        options = ["--workers", str(processes), "--max-async-tasks", at_once, "--log-level", "ERROR"]
        return [["-c", start, "worker", f"benchmarks.peers.on_taskiq:{queue}", *options]]

    async def open(self) -> None:
        """Connects."""
        await main.startup()
        await wide.startup()

    async def shut(self) -> None:
        """Disconnects."""
        await main.shutdown()
        await wide.shutdown()

    async def submit(self, task: str, *args: Any) -> Any:
        """`kiq`."""
        return await TASKS[task].kiq(*args)

    async def get(self, handle: Any) -> Any:
        """`wait_result`."""
        return await self._wait(handle, MANY)

    async def round_trip_async(self, count: int) -> None:
        """One task after the other, each waited for."""
        for _ in range(count):
            await self._wait(await self.submit("empty"), ALONE)

    stored = round_trip_async

    async def _wait(self, handle: Any, interval: float) -> Any:
        result = await handle.wait_result(check_interval=interval, timeout=PATIENCE)
        result.raise_for_error()
        return result.return_value
