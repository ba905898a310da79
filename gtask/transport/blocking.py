"""Connections whose waits block the calling thread, each with a deadline."""

from __future__ import annotations

import math
import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Final

from gtask.errors import RequestTimeout
from gtask.transport.stream import Connection as Stream
from gtask.transport.stream import HandshakeTimeout, connect_failed, connect_result, open_socket, start_tls
from gtask.transport.tls import TLS
from gtask.types import Server

_READ: Final = select.POLLIN
_WRITE: Final = select.POLLOUT
_MAX_WAIT: Final = 3600.0
"""Seconds one `poll` may last; a longer wait comes back early and is to be repeated."""

__all__ = ["Connection", "Connect", "connect"]


class Connection(Stream):
    """A connection to one job server for a thread that waits: `send` and `recv` beside the parts that never wait.

    Several threads may wait at once; with TLS only one at a time may send or receive.
    """

    __slots__ = ("_poll",)

    def __init__(self, sock: socket.socket, server: Server) -> None:
        super().__init__(sock, server)
        self._poll = select.poll()
        self._poll.register(self._fileno, _READ)

    def send(self, data: bytes, deadline: float | None = None) -> None:
        """Sends all of it.

        `deadline` is a time of `time.monotonic()`, None for none. Raises `RequestTimeout` when it passes (a part may
        have been sent then: close the connection), and `ConnectionLost`.
        """
        view = memoryview(data)
        while view:
            sent = self.send_some(view)
            if not sent and not self.wait_writable(deadline):
                raise RequestTimeout(f"{self.server} took no more bytes in time; close this connection.")
            view = view[sent:]

    def recv(self, deadline: float | None = None) -> bytes:
        """Waits for bytes and returns them, b"" when the other side has closed the connection.

        Raises `RequestTimeout` when `deadline` passes, and `ConnectionLost` when the connection was cut.
        """
        while True:
            data = self.recv_some()
            if data is not None:
                return data
            if not self.wait_readable(deadline):
                raise RequestTimeout(f"{self.server} did not answer in time.")

    def wait_readable(self, deadline: float | None = None) -> bool:
        """Waits until there is something to receive, or the connection ended; False when `deadline` passed first.

        Only one thread at a time may wait in here; use `wait` beside it.
        """
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if self._poll.poll(_milliseconds(left)):
                return True
            if left is not None and left <= _MAX_WAIT:
                return False

    def wait_writable(self, deadline: float | None = None) -> bool:
        """Waits until something can be sent, or the connection ended; False when `deadline` passed first."""
        return self.wait(deadline, reading=False, writing=True)

    def wait(self, deadline: float | None, reading: bool = True, writing: bool = False) -> bool:
        """Waits for either direction, or the end of the connection; False when `deadline` passed first."""
        return _wait(self._fileno, (_READ if reading else 0) | (_WRITE if writing else 0), deadline)


Connect = Callable[[Server, float, TLS | None], Connection]
"""Makes a connection, as `connect` does, or in another way."""


def connect(server: Server, timeout: float, tls: TLS | None = None) -> Connection:
    """Connects to a job server, with TLS if its address says so.

    All of its addresses are tried in turn, within `timeout` seconds together (resolving its name is up to the
    system). Raises `ConnectFailed` with the reason. Never falls back to plain text: design, section 2.
    """
    deadline = time.monotonic() + timeout
    try:
        addresses = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise connect_failed(server, error) from error
    failure: BaseException = TimeoutError()
    for index, (family, _, _, _, address) in enumerate(addresses):
        # An address that never answers leaves the others their share of the time.
        now = time.monotonic()
        share = now + (deadline - now) / (len(addresses) - index)
        try:
            return Connection(_open(family, address, server, share, tls), server)
        except OSError as error:
            failure = error
    raise connect_failed(server, failure) from failure


def _open(
    family: int, address: tuple[object, ...] | str, server: Server, deadline: float, tls: TLS | None
) -> socket.socket:
    sock = open_socket(family)
    try:
        try:
            sock.connect(address)
        except BlockingIOError:
            if not _wait(sock.fileno(), _WRITE, deadline):
                raise TimeoutError from None
            connect_result(sock)
        return _handshake(sock, server, deadline, tls) if server.tls else sock
    except BaseException:
        sock.close()
        raise


def _handshake(sock: socket.socket, server: Server, deadline: float, tls: TLS | None) -> socket.socket:
    wrapped = start_tls(sock, server, tls)
    try:
        while True:
            try:
                wrapped.do_handshake()
                return wrapped
            except ssl.SSLWantReadError:
                wanted = _READ
            except ssl.SSLWantWriteError:
                wanted = _WRITE
            if not _wait(wrapped.fileno(), wanted, deadline):
                raise HandshakeTimeout
    except BaseException:
        wrapped.close()
        raise


def _wait(fileno: int, mask: int, deadline: float | None) -> bool:
    poll = select.poll()
    poll.register(fileno, mask)
    while True:
        left = None if deadline is None else deadline - time.monotonic()
        if poll.poll(_milliseconds(left)):
            return True
        if left is not None and left <= _MAX_WAIT:
            return False


def _milliseconds(seconds: float | None) -> int:
    # Rounded up: rounding down would turn the last millisecond into a busy loop of zero waits.
    return math.ceil(min(max(seconds, 0.0), _MAX_WAIT) * 1000) if seconds is not None else int(_MAX_WAIT * 1000)
