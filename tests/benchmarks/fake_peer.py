"""A peer for the tests of the conversation: its tasks run where they are submitted, and some requests go wrong."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from benchmarks.peers import bodies
from benchmarks.peers.speech import Adapter


class Peer(Adapter):
    """Runs every task at once; what it prints must not be taken for an answer."""

    name = "fake"
    packages: ClassVar[Sequence[str]] = ("pip",)
    missing: ClassVar[Sequence[str]] = ("in_flight",)
    more: ClassVar[Sequence[str]] = ("group", "chain")

    def workers(self, queue: str, processes: int) -> list[list[str]]:
        """Programs that do nothing, one of them not in Python."""
        return [["-c", "import time; time.sleep(600)"]] * processes + [["!", "sleep", "600"]]

    def submit(self, task: str, *args: Any) -> Any:
        """Runs the task."""
        print('{"seconds": "this is no answer"}')
        if task == "noop":
            return bodies.count()
        if task == "stamp":
            return bodies.stamp(*args)
        if task == "burn":
            return bodies.burn(*args)
        return args[0] if args else None

    def get(self, handle: Any) -> Any:
        """It is the result already."""
        return handle

    def chain(self, count: int) -> float:
        """Goes wrong in three ways."""
        if count == 1:
            raise ValueError("one is no chain")
        if count == 2:
            os._exit(3)
        time.sleep(600)
        return 0.0
