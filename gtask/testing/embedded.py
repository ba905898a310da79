"""The embedded job server in a thread of the test's own process, with the same face as a server that is a process."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Self

from gtask.server import JobServer
from gtask.testing.processes import admin
from gtask.transport.tls import TLS
from gtask.types import Server


class EmbeddedServer:
    """A fresh embedded job server on loopback and a free port; use it as a context manager.

    `db` is the queue's file (None: jobs live in memory); `settings` are those of `gtask.server.JobServer`, which is
    `job_server`; with its `tls`, `client_tls` says how its peers are to reach it. It has `kind`, `url`, `host`, `port`
    and `admin()` like `gtask.testing.JobServerProgram`.
    """

    kind = "gtask"

    def __init__(
        self, db: str | os.PathLike[str] | None = None, client_tls: TLS | None = None, **settings: Any
    ) -> None:
        self.client_tls = client_tls
        self.job_server = JobServer("127.0.0.1", 0, db, **settings)

    @property
    def server(self) -> Server:
        """Its address."""
        return Server(self.host, self.port, self.job_server.tls is not None)

    @property
    def host(self) -> str:
        """The address it listens on."""
        return self.job_server.host

    @property
    def port(self) -> int:
        """The TCP port it listens on."""
        return self.job_server.port

    @property
    def url(self) -> str:
        """Its address as `App(servers=...)` and ``$GTASK_SERVERS`` take it."""
        return str(self.server)

    def admin(self, command: str, timeout: float = 10.0) -> list[str]:
        """Asks it one question of the text protocol; see `gtask.testing.processes.admin`."""
        return admin(self.host, self.port, command, timeout, self.client_tls)

    def __enter__(self) -> Self:
        self.job_server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.job_server.__exit__(kind, error, trace)
