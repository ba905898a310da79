"""Small values that every floor shares: addresses, priorities, submissions."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from gtask.errors import ConfigurationError

DEFAULT_PORT = 4730
MAX_UNIQUE = 63
"""Bytes a unique may have: 64 are accepted by gearmand and then corrupt the payload (protocol reference, 3)."""

MAX_FUNCTION = 200
"""Bytes a function's name may have here, so that every queue module carries it (design, section 6)."""


class Priority(StrEnum):
    """The three queues a function has on the job server; inside one, first come, first served."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class Server(NamedTuple):
    """Where a job server listens: host, TCP port, and whether the connection is TLS."""

    host: str
    port: int = DEFAULT_PORT
    tls: bool = False

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can be meant."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"gearman{'s' if self.tls else ''}://{host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, and nothing else: ``localhost``, or an address such as ``127.0.0.1``."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_server(url: str | Server) -> Server:
    """Reads one server's address: ``gearman://host[:port]``, ``gearmans://...`` (TLS), or bare ``host[:port]``.

    Raises `ConfigurationError` with the offending address when it is none of these.
    """
    if isinstance(url, Server):
        return url
    try:
        parts = urlsplit(url if "://" in url else f"gearman://{url}")
        port = parts.port or DEFAULT_PORT
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme not in ("gearman", "gearmans") or not parts.hostname or parts.path not in ("", "/"):
        raise ConfigurationError(
            f"{url!r} is no job server's address; write gearman://host:port, for instance gearman://127.0.0.1:4730."
        )
    return Server(parts.hostname, port, parts.scheme == "gearmans")


def parse_servers(servers: str | Server | Iterable[str | Server] | None = None) -> tuple[Server, ...]:
    """Reads a list of addresses, or one string of several separated by commas.

    None or nothing means ``$GTASK_SERVERS``, and without that ``127.0.0.1:4730`` (design, section 2).
    """
    if isinstance(servers, Server):
        servers = [servers]
    if not servers:
        servers = os.environ.get("GTASK_SERVERS") or f"127.0.0.1:{DEFAULT_PORT}"
    if isinstance(servers, str):
        servers = [part for part in servers.replace(",", " ").split() if part]
    found = tuple(dict.fromkeys(parse_server(server) for server in servers))
    if not found:
        raise ConfigurationError("No job server is named; write servers=['gearman://127.0.0.1:4730'].")
    return found


@dataclass(frozen=True, slots=True)
class Submission:
    """One job to hand to a job server: what the SUBMIT_JOB packets carry.

    `unique` may be empty only for foreground jobs (a fresh one is made then). `when` is the Unix time in seconds
    before which the job must not run (SUBMIT_JOB_EPOCH: background, normal priority). `reducer` makes it a reduce
    job. `coalesce` says that others submit the same `unique` on purpose, to run once: such jobs go to one and the
    same of several servers. Section 2 of the protocol reference.
    """

    function: str
    workload: bytes
    unique: str = ""
    priority: Priority = Priority.NORMAL
    background: bool = True
    when: int | None = None
    reducer: str | None = None
    coalesce: bool = False


@dataclass(frozen=True, slots=True)
class JobStatus:
    """What a job server knows of a job: STATUS_RES and STATUS_RES_UNIQUE (protocol reference, section 2).

    `clients` is the number of foreground callers attached, 0 where the packet does not say it.
    """

    known: bool = False
    running: bool = False
    numerator: int = 0
    denominator: int = 0
    clients: int = 0
