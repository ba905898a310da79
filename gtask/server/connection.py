"""One accepted connection of the job server: its socket and what is to be written to it."""

from __future__ import annotations

import socket
from typing import Final

from gtask.protocol.server import Request, ServerProtocol
from gtask.server.jobs import Peer
from gtask.transport.keepalive import keep_alive

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
        keep_alive(sock)
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

    def write(self, data: bytes, limit: int) -> bool:
        """Adds bytes to what is to be written; false when more than `limit` bytes wait already."""
        if self.pending > limit:
            return False
        self._out.append(data)
        self.pending += len(data)
        return True

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
