"""A plain pool of processes, without any queue between: what all cores can do."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from time import perf_counter
from typing import ClassVar

from benchmarks.peers import bodies
from benchmarks.peers.speech import COMMON, Speaker


class Peer(Speaker):
    """`multiprocessing.Pool`."""

    name = "process pool"
    more: ClassVar[Sequence[str]] = ("cpu",)
    missing: ClassVar[Sequence[str]] = COMMON

    def __init__(self) -> None:
        self._pool = multiprocessing.Pool(int(os.environ.get("BENCH_PROCESSES", os.cpu_count() or 1)))

    def hello(self) -> dict[str, object]:
        """Who this is."""
        return {"name": self.name, "versions": {}, "can": list(self.more)}

    def close(self) -> None:
        """Ends the processes."""
        self._pool.terminate()
        self._pool.join()

    def workers(self, queue: str, processes: int) -> list[list[str]]:
        """They are this adapter's own children."""
        return []

    def ready(self, queue: str = "main") -> float:
        """One round trip."""
        return self.cpu(1, 1)

    def cpu(self, count: int, iterations: int) -> float:
        """Tasks that compute, each sent by itself."""
        started = perf_counter()
        self._pool.map(bodies.burn, [iterations] * count, chunksize=1)
        return perf_counter() - started
