"""One accepted connection of the job server: its socket and what is to be written to it."""

from __future__ import annotations

import socket
import ssl
from typing import Final

from gtask.protocol.server import Request, ServerProtocol, Violation
from gtask.server.jobs import Peer
from gtask.server.tls import HELLO, explain
from gtask.transport.keepalive import keep_alive

READ_SIZE: Final = 64 * 1024
"""Bytes read from one peer in one round, so that none can keep the others waiting."""

WRITE_SIZE: Final = 1024 * 1024
"""Bytes written to one peer in one round, for the same reason."""

ENCRYPT_SIZE: Final = 128 * 1024
"""Bytes that are encrypted at once, beyond which they wait as they are."""


class Connection:
    """A socket, the peer behind it, its half-read request and its unwritten answers.

    `pending` is how many bytes wait to be written, `received` how many have come, `unfinished` how many of them are a
    request that is not complete, `greeted` whether the peer may be talked to, and `ended` whether it has said that no
    more will come. `requests` have been read and wait for their
    turn. The rest belongs to `Crowd`: `interest` is what the reactor watches the socket for, `counted` what the
    connection weighs in its sums, `marked_at`, `mark` and `active_at` are its measurement of progress.
    """

    __slots__ = (
        "_out", "_sending", "active_at", "closing_at", "counted", "ended", "greeted", "interest", "mark", "marked_at",
        "peer", "pending", "place", "protocol", "received", "requests", "seen", "socket", "unfinished",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, peer: Peer, max_body: int) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(sock)
        self.socket = sock
        self.peer = peer
        self.protocol = ServerProtocol(max_body)
        self.pending = 0
        self.received = 0
        self.unfinished = 0
        self.greeted = True
        self.ended = False
        self.requests: list[Request] = []
        self.interest = 0
        self.counted = 0
        self.closing_at: float | None = None
        self.active_at = self.marked_at = 0.0
        self.mark = self.seen = 0
        self.place: str | None = None
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
        if not data:
            return None
        self.received += len(data)
        requests = self.protocol.receive_data(data)
        self.unfinished = self.protocol.buffered
        return requests

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

    def finish(self) -> None:
        """Says that nothing more will come from here; raises `OSError` when the peer is gone."""
        self.socket.shutdown(socket.SHUT_WR)


class TLSConnection(Connection):
    """A connection with TLS, which is done in memory: the socket carries its bytes as it would any others.

    So no read ever waits for a write, nor the other way round, and the reactor need not know. What OpenSSL says on its
    own behalf (the handshake, new keys, alerts) is written like an answer, and counts as `pending`.
    """

    __slots__ = ("_incoming", "_outgoing", "_plain", "_tls")

    def __init__(self, sock: socket.socket, peer: Peer, max_body: int, context: ssl.SSLContext) -> None:
        super().__init__(sock, peer, max_body)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._plain: memoryview | None = None
        self.greeted = False

    def read(self) -> list[Request] | None:
        """As for a connection without TLS; what fails in TLS is a violation."""
        if self.ended:
            return None
        try:
            data = self.socket.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            return None
        if not data:
            return None
        if not self.received and data[0] != HELLO:
            return [Violation("It speaks plain text, and this port speaks TLS alone (gearmans://).")]
        self.received += len(data)
        self._incoming.write(data)
        waiting = self._outgoing.pending
        try:
            requests = self._decrypt()
        except ssl.SSLError as error:
            requests = [Violation(explain(error))]
        self.pending += self._outgoing.pending - waiting
        return requests if self.flush() else None

    def _decrypt(self) -> list[Request]:
        pieces: list[bytes] = []
        try:
            if not self.greeted:
                self._tls.do_handshake()
                self.greeted = True
            while piece := self._tls.read(READ_SIZE):
                pieces.append(piece)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        if not pieces:
            return []
        requests = self.protocol.receive_data(b"".join(pieces))
        self.unfinished = self.protocol.buffered
        return requests

    def flush(self) -> bool:
        """Encrypts and writes what the socket takes; false when the peer is gone."""
        budget = WRITE_SIZE
        try:
            while self.pending and budget > 0:
                if self._sending is None:
                    self._encrypt()
                    if not self._outgoing.pending:
                        return True
                    self._sending = memoryview(self._outgoing.read())
                sent = self.socket.send(self._sending[:budget])
                budget -= sent
                self.pending -= sent
                self._sending = self._sending[sent:] if sent < len(self._sending) else None
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:  # ssl.SSLError is one
            return False
        return True

    def _encrypt(self) -> None:
        """Encrypts a part of what is to be written, so that `_outgoing` has bytes, and stays small."""
        outgoing = self._outgoing
        while outgoing.pending < ENCRYPT_SIZE:
            if self._plain is None:
                if not self._out:
                    return
                out, self._out = self._out, []
                self._plain = memoryview(out[0] if len(out) == 1 else b"".join(out))
            before = outgoing.pending
            taken = self._tls.write(self._plain[:READ_SIZE])
            self._plain = self._plain[taken:] if taken < len(self._plain) else None
            self.pending += outgoing.pending - before - taken

    def finish(self) -> None:
        """Says so inside of TLS as well, so that the end can be told from a cut."""
        waiting = self._outgoing.pending
        try:
            self._tls.unwrap()
        except (ssl.SSLError, ValueError):
            pass  # the handshake was not done, or the peer's own farewell has not come
        self.pending += self._outgoing.pending - waiting
        self.flush()
        super().finish()
