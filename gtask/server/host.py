"""What the job server takes from the machine it runs on: an address, a name, a version."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from gtask.errors import ConfigurationError

BACKLOG: Final = 1024
"""Connections that may wait to be accepted: a whole fleet reconnects at once."""


def handle_prefix() -> bytes:
    """The start of all handles of one server, as `H:host:random`."""
    # Random, so that no handle is used again after a restart; with the counter it stays within 63 bytes.
    host = socket.gethostname().encode(errors="replace").replace(b"\0", b"")[:36]
    return b"H:%b:%b" % (host, secrets.token_hex(4).encode())


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises `ConfigurationError` when there can be none at this address."""
    try:
        candidates: Iterable[tuple[int, int, int, str, tuple[object, ...]]] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = next(iter(candidates))
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigurationError(f"{host} is no address this machine can listen at: {error}.") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigurationError(
            f"The job server cannot listen at {host}:{port}: {error.strerror}. Is another one running there?"
        ) from error
    return sock


def version_text() -> str:
    """What ``version`` answers."""
    try:
        return f"gtask {version('gtask')}"
    except PackageNotFoundError:  # run from a folder, not installed
        return "gtask"
