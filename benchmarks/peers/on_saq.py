"""SAQ on Redis, with uvloop and hiredis; ended jobs are heard of by publish and subscribe, not by polling."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any, ClassVar

from saq import Queue

from benchmarks.peers import bodies
from benchmarks.peers.speech import BROKER, PATIENCE, AsyncAdapter

main = Queue.from_url(os.environ[BROKER], name="main", max_concurrent_ops=100)
wide = Queue.from_url(os.environ[BROKER], name="wide", max_concurrent_ops=100)


async def noop(_: Any) -> None:
    """Counts itself."""
    bodies.count()


async def empty(_: Any) -> None:
    """Does nothing."""


async def echo(_: Any, *, text: str) -> str:
    """Gives back what it gets."""
    return text


def burn(_: Any, *, iterations: int) -> int:
    """Computes; in a thread, as SAQ runs what is no coroutine."""
    return bodies.burn(iterations)


async def stamp(_: Any, *, sent: float) -> None:
    """Notes when it began."""
    bodies.stamp(sent)


async def nap(_: Any, *, seconds: float) -> None:
    """Waits."""
    await asyncio.sleep(seconds)


LOOK = 0.1
"""Seconds of listening before the job is looked at again."""

PARAMETER = {"echo": ["text"], "burn": ["iterations"], "stamp": ["sent"], "nap": ["seconds"]}

main_settings = {"queue": main, "functions": [noop, empty, echo, burn, stamp], "concurrency": 100}
wide_settings = {"queue": wide, "functions": [nap], "concurrency": 1000}


class Peer(AsyncAdapter):
    """SAQ's own calls."""

    name = "SAQ"
    packages: ClassVar[Sequence[str]] = ("saq", "redis", "hiredis", "uvloop")
    more: ClassVar[Sequence[str]] = (*AsyncAdapter.more, "group")

    def workers(self, queue: str, processes: int) -> list[list[str]]:
        """`saq`."""
        start = "import sys, uvloop; uvloop.install(); from saq.__main__ import main; sys.exit(main())"
        settings = f"benchmarks.peers.on_saq.{queue}_settings"
        return [["-c", start, settings, "--workers", str(processes), "--quiet"]]

    async def open(self) -> None:
        """Connects."""
        await main.connect()
        await wide.connect()

    async def shut(self) -> None:
        """Disconnects."""
        await main.disconnect()
        await wide.disconnect()

    async def submit(self, task: str, *args: Any) -> Any:
        """`enqueue`; what nobody waits for is forgotten at once."""
        queue = wide if task == "nap" else main
        keep = {"ttl": -1} if task in ("noop", "stamp") else {}
        return await queue.enqueue(task, timeout=0, **keep, **dict(zip(PARAMETER.get(task, ()), args, strict=True)))

    async def get(self, handle: Any) -> Any:
        """Waits until the job has ended, by SAQ's push; it may have ended while the listening began, so look again."""
        for _ in range(int(PATIENCE / LOOK)):
            try:
                await handle.refresh(LOOK)
            except TimeoutError:
                continue
            if handle.completed:
                return handle.result
        raise TimeoutError(f"{handle.id} has not ended after {PATIENCE:g} s.")
