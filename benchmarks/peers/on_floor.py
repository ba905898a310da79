"""The floor: hand-made packets over a bare socket, both sides (`benchmarks.floor`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar
from urllib.parse import urlsplit

from benchmarks.floor import FloorCaller
from benchmarks.peers.speech import BROKER, COMMON, Speaker

NOOP, EMPTY, PUT, WAIT = b"main.noop", b"main.empty", b"main.put", b"main.wait"
"""Functions: without a result, with one that is handed over, whoever keeps results, and waiting for one."""


class Peer(Speaker):
    """What the job server gives to anybody."""

    name = "bare socket"
    more: ClassVar[Sequence[str]] = ("round_trip", "stored", "enqueue", "bulk")
    missing: ClassVar[Sequence[str]] = COMMON

    def __init__(self) -> None:
        address = urlsplit(os.environ[BROKER])
        self._address = [str(address.hostname), str(address.port)]
        self._caller = FloorCaller(str(address.hostname), int(address.port or 4730))

    def hello(self) -> dict[str, object]:
        """Who this is."""
        return {"name": self.name, "versions": {}, "can": list(self.more)}

    def close(self) -> None:
        """Ends the connection."""
        self._caller.close()

    def workers(self, queue: str, processes: int) -> list[list[str]]:
        """The workers of both kinds, and who keeps results."""
        start = ["-m", "benchmarks.floor"]
        noop, empty, put, wait = (name.decode() for name in (NOOP, EMPTY, PUT, WAIT))
        plain = [[*start, "work", *self._address, noop]] * processes
        results = [[*start, "work-with-results", *self._address, empty, put]] * processes
        return [*plain, *results, [*start, "keep-results", *self._address, put, wait]]

    def ready(self, queue: str = "main") -> float:
        """A round trip of both kinds."""
        return self.round_trip(1) + self.stored(1)

    def round_trip(self, count: int) -> float:
        """Foreground jobs, one after the other."""
        return self._caller.round_trips(NOOP, count)

    def stored(self, count: int) -> float:
        """Background jobs, each waited for by a foreground job of whoever keeps results."""
        return self._caller.round_trips_with_result(EMPTY, WAIT, count)

    def enqueue(self, count: int) -> float:
        """Background jobs, each confirmed before the next."""
        return self._caller.one_by_one(NOOP, count)

    def bulk(self, count: int) -> float:
        """Background jobs, a thousand under way."""
        return self._caller.in_bulk(NOOP, count)
