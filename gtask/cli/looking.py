"""What `gtask status`, `gtask doctor` and `gtask call` ask job servers in the admin protocol. Reference, section 17."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from gtask.client.admin import AdminClient
from gtask.errors import GtaskError, ServerError
from gtask.protocol.admin import Answer, Command, PriorityRow, StatusRow, WorkerRow
from gtask.transport.tls import TLS
from gtask.types import Server

CONNECT: Final = 3.0
ANSWER: Final = 5.0
"""Seconds a job server may take to be connected, and to answer."""

AT_ONCE: Final = 16
"""Job servers that are asked side by side."""

OWN: Final = "gtask."
"""How the functions of gtask itself begin."""

DEAD: Final = ".dead"
"""How the functions end in which tasks are parked that failed for good (design, section 6a)."""

_QUESTIONS: Final = tuple(Command(name) for name in ("version", "status", "prioritystatus", "workers"))


@dataclass(frozen=True)
class Function:
    """One function's queue on one job server; high, normal and low are None where the server does not say them."""

    name: str
    waiting: int
    running: int
    workers: int
    high: int | None = None
    normal: int | None = None
    low: int | None = None

    @property
    def own(self) -> bool:
        """Whether it is one of gtask's own."""
        return self.name.startswith(OWN)

    @property
    def unserved(self) -> bool:
        """Whether its jobs wait for a worker that is not there."""
        return bool(self.waiting) and not self.workers and not self.name.endswith(DEAD)


@dataclass(frozen=True)
class Worker:
    """One connection that offers functions: the id it gave itself, its address, and the functions."""

    id: str
    address: str
    functions: tuple[str, ...]


@dataclass
class Look:
    """What one job server said; `error` is a sentence when it said nothing."""

    server: Server
    error: str = ""
    version: str = ""
    functions: list[Function] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    connections: int = 0

    @property
    def software(self) -> str:
        """The server's name and version: ``gearmand 1.1.20+ds``, or ``gtask``."""
        return self.version if self.version.startswith("gtask") else f"gearmand {self.version or '(unknown version)'}"


def look_all(servers: Sequence[Server], tls: TLS | None) -> list[Look]:
    """Asks all job servers side by side; the looks come in the servers' order. Never raises for one that is away."""
    with ThreadPoolExecutor(min(AT_ONCE, len(servers))) as pool:
        return list(pool.map(lambda server: look(server, tls), servers))


def look(server: Server, tls: TLS | None) -> Look:
    """Asks one job server for its version, queues and workers."""
    try:
        with AdminClient(server, timeout=ANSWER, connect_timeout=CONNECT, tls=tls) as admin:
            version, *lists = admin.ask(*_QUESTIONS)
    except GtaskError as error:
        return Look(server, str(error))
    status, priorities, workers = (() if isinstance(one, ServerError) else one.rows for one in lists)
    by_name = {row.function: row for row in priorities if isinstance(row, PriorityRow)}
    connections = [row for row in workers if isinstance(row, WorkerRow)]
    return Look(
        server,
        version=version.text if isinstance(version, Answer) else "",
        functions=sorted(
            (_function(row, by_name.get(row.function)) for row in status if isinstance(row, StatusRow)),
            key=lambda function: (function.own, function.name),
        ),
        workers=sorted(
            (Worker(row.client_id, row.address, row.functions) for row in connections if row.functions),
            key=lambda worker: worker.id,
        ),
        connections=len(connections),
    )


def _function(row: StatusRow, priorities: PriorityRow | None) -> Function:
    by_priority = () if priorities is None else (priorities.high, priorities.normal, priorities.low)
    return Function(row.function, max(0, row.total - row.running), row.running, row.workers, *by_priority)
