"""One accepted connection of the job server: its socket and what is to be written to it."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterable
from typing import Final

from gtask.errors import ConfigurationError
from gtask.protocol.server import Request, ServerProtocol
from gtask.server.jobs import Peer

BACKLOG: Final = 1024
"""Connections that may wait to be accepted: a whole fleet reconnects at once."""

READ_SIZE: Final = 64 * 1024
"""Bytes read from one peer in one round, so that none can keep the others waiting."""

WRITE_SIZE: Final = 1024 * 1024
"""Bytes written to one peer in one round, for the same reason."""


class Connection:
    """A socket, the peer behind it, its half-read request and its unwritten answers.

    `pending` is how many bytes wait to be written. `interest` is what the reactor watches the socket for.
    """

    __slots__ = ("_out", "_sending", "closing_at", "interest", "peer", "pending", "protocol", "socket")

    def __init__(self, sock: socket.socket, peer: Peer, max_body: int) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.socket = sock
        self.peer = peer
        self.protocol = ServerProtocol(max_body)
        self.pending = 0
        self.interest = 0
        self.closing_at: float | None = None
        self._out: list[bytes] = []
        self._sending: memoryview | None = None

    def read(self) -> list[Request] | None:
        """The requests that one read completes, or None when the peer is gone."""
        try:
            data = self.socket.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            return None
        return self.protocol.receive_data(data) if data else None

    def discard(self) -> bool:
        """Reads and forgets, so that a last answer is not lost to a reset; false when the peer is gone."""
        try:
            return bool(self.socket.recv(READ_SIZE))
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False

    def write(self, data: bytes) -> None:
        """Adds bytes to what is to be written."""
        self._out.append(data)
        self.pending += len(data)

    def flush(self) -> bool:
        """Writes what the socket takes; false when the peer is gone."""
        budget = WRITE_SIZE
        try:
            while self.pending and budget > 0:
                if self._sending is None:
                    out = self._out
                    self._sending = memoryview(out[0] if len(out) == 1 else b"".join(out))
                    self._out = []
                sent = self.socket.send(self._sending[:budget])
                budget -= sent
                self.pending -= sent
                self._sending = self._sending[sent:] if sent < len(self._sending) else None
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        return True


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
