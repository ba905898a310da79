"""A worker's mind and a job server's engine, wired together in memory: no socket, no clock, no waiting."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from gtask.protocol.packets import PacketType
from gtask.server.state import Settings
from gtask.types import Server
from gtask.worker.core import CoreOptions, WorkerCore
from gtask.worker.job import Ending, Job
from gtask.worker.link import Lane, Link
from tests.conformance.targets import MemoryTalker, MemoryTarget

_SUBMIT = {
    "high": PacketType.SUBMIT_JOB_HIGH_BG,
    "normal": PacketType.SUBMIT_JOB_BG,
    "low": PacketType.SUBMIT_JOB_LOW_BG,
}


class Bench:
    """`servers` engines and one worker core, at a time that only the test moves."""

    def __init__(
        self,
        functions: Sequence[str] = ("f",),
        options: CoreOptions | None = None,
        servers: int = 1,
        lanes: Sequence[Lane] = (),
    ) -> None:
        self.now = 1000.0
        self.targets = [MemoryTarget(Settings()) for _ in range(servers)]
        self._uniques = count()
        self.core = WorkerCore(
            [Server("127.0.0.1", 4730 + number) for number in range(servers)],
            functions,
            options or CoreOptions(),
            lambda: 0.5,
            lambda: f"carrier{next(self._uniques)}",
            lanes,
        )
        self.talkers: dict[Link, MemoryTalker] = {}
        self.clients = [target.connect() for target in self.targets]

    def target_of(self, link: Link) -> MemoryTarget:
        """The engine behind a link."""
        each = len(self.core.links) // len(self.targets)
        return self.targets[self.core.links.index(link) // each]

    def connect(self) -> None:
        """Opens what the core wants opened."""
        for link in self.core.connects(self.now):
            self.talkers[link] = self.target_of(link).connect()
            self.core.opened(link, self.now)
        self.settle()

    def settle(self) -> None:
        """Carries bytes to and fro until there are none."""
        busy = True
        while busy:
            busy = False
            self.core.pump(self.now)
            for link, talker in list(self.talkers.items()):
                assert link.protocol is not None
                data = link.protocol.data_to_send()
                if data:
                    talker.raw(data)
                received, talker.buffer = bytes(talker.buffer), bytearray()
                if received:
                    assert self.core.received(link, received, self.now), link.protocol.error
                busy = busy or bool(data or received)

    def cut(self, link: Link) -> None:
        """Ends a connection, as a network would."""
        self.talkers.pop(link).close()
        self.core.closed(link, self.now)
        self.settle()

    def submit(self, function: str, unique: str, data: bytes = b"x", priority: str = "normal", server: int = 0) -> None:
        """Puts a background job into a queue."""
        client = self.clients[server]
        answer = client.ask(_SUBMIT[priority], function.encode(), unique.encode(), data)
        assert answer[0] is PacketType.JOB_CREATED

    def take(self) -> Job | None:
        """The next job to run, after everything that is on its way has arrived."""
        self.settle()
        job = self.core.take()
        if job is not None:
            job.started = self.now
        self.settle()
        return job

    def end(self, job: Job, ending: Ending | None = None, seconds: float = 0.001) -> None:
        """Ends a job that ran for so long."""
        self.now += seconds
        self.core.finish(job, ending or Ending(), self.now)
        self.settle()

    def status(self, function: str, server: int = 0) -> tuple[int, int, int]:
        """Total, running, workers of a function."""
        for line in self.clients[server].listing(b"status"):
            name, *numbers = line.decode().split("\t")
            if name == function:
                total, running, workers = map(int, numbers)
                return total, running, workers
        return 0, 0, 0
