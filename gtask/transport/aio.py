"""Connections whose waits are awaited, with anyio: asyncio, uvloop and trio.

Only waiting is asynchronous; bytes are taken and given by the same calls that never wait. So a wait that is cancelled
has lost no byte and sent no half of one, and a connection belongs to no particular event loop.
"""

from __future__ import annotations

import math
import socket
import ssl
import time
from typing import Any

import anyio
import anyio.abc

from gtask.errors import RequestTimeout
from gtask.transport.stream import Connection as Stream
from gtask.transport.stream import HandshakeTimeout, connect_failed, connect_result, open_socket, start_tls
from gtask.transport.tls import TLS
from gtask.types import Server

__all__ = ["Connection", "connect"]


class Connection(Stream):
    """A connection to one job server for tasks that wait: `send` and `recv` beside the parts that never wait.

    One task may wait for each direction at a time.
    """

    __slots__ = ()

    async def send(self, data: bytes, deadline: float | None = None) -> None:
        """Sends all of it; the twin of `gtask.transport.blocking.Connection.send`.

        A call that is cancelled may have sent a part: close the connection then.
        """
        view = memoryview(data)
        while view:
            sent = self.send_some(view)
            if not sent and not await self.wait_writable(deadline):
                raise RequestTimeout(f"{self.server} took no more bytes in time; close this connection.")
            view = view[sent:]

    async def recv(self, deadline: float | None = None) -> bytes:
        """Waits for bytes and returns them; the twin of `gtask.transport.blocking.Connection.recv`."""
        while True:
            data = self.recv_some()
            if data is not None:
                return data
            if not await self.wait_readable(deadline):
                raise RequestTimeout(f"{self.server} did not answer in time.")

    async def wait_readable(self, deadline: float | None = None) -> bool:
        """Waits until there is something to receive, or the connection ended; False when `deadline` passed first."""
        if deadline is None:
            await anyio.wait_readable(self._fileno)
            return True
        with anyio.move_on_after(deadline - time.monotonic()) as scope:
            await anyio.wait_readable(self._fileno)
        return not scope.cancelled_caught

    async def wait_writable(self, deadline: float | None = None) -> bool:
        """Waits until something can be sent, or the connection ended; False when `deadline` passed first."""
        if deadline is None:
            await anyio.wait_writable(self._fileno)
            return True
        with anyio.move_on_after(deadline - time.monotonic()) as scope:
            await anyio.wait_writable(self._fileno)
        return not scope.cancelled_caught

    async def wait(self, deadline: float | None) -> bool:
        """Waits for either direction, or the end of the connection; False when `deadline` passed first."""
        left = math.inf if deadline is None else deadline - time.monotonic()
        happened = False

        async def one(wait: Any, group: anyio.abc.TaskGroup) -> None:
            nonlocal happened
            await wait(self._fileno)
            happened = True
            group.cancel_scope.cancel()

        with anyio.move_on_after(left):
            async with anyio.create_task_group() as group:
                group.start_soon(one, anyio.wait_readable, group)
                group.start_soon(one, anyio.wait_writable, group)
        return happened


async def connect(server: Server, timeout: float, tls: TLS | None = None) -> Connection:
    """Connects to a job server, with TLS if its address says so; the twin of `gtask.transport.blocking.connect`."""
    deadline = time.monotonic() + timeout
    failure: BaseException = TimeoutError()
    try:
        with anyio.fail_after(timeout):
            addresses = await anyio.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise connect_failed(server, error) from error
    for index, (family, _, _, _, address) in enumerate(addresses):
        # An address that never answers leaves the others their share of the time.
        share = (deadline - time.monotonic()) / (len(addresses) - index)
        try:
            return Connection(await _open(family, address, server, share, tls), server)
        except OSError as error:
            failure = error
    raise connect_failed(server, failure) from failure


async def _open(
    family: int, address: tuple[Any, ...], server: Server, timeout: float, tls: TLS | None
) -> socket.socket:
    sock = open_socket(family)
    deadline = time.monotonic() + timeout
    try:
        try:
            sock.connect(address)
        except BlockingIOError:
            with anyio.fail_after(timeout):
                await anyio.wait_writable(sock)
            connect_result(sock)
        return await _handshake(sock, server, deadline, tls) if server.tls else sock
    except BaseException:
        sock.close()
        raise


async def _handshake(sock: socket.socket, server: Server, deadline: float, tls: TLS | None) -> socket.socket:
    wrapped = start_tls(sock, server, tls)
    try:
        with anyio.move_on_after(deadline - time.monotonic()):
            while True:
                try:
                    wrapped.do_handshake()
                    return wrapped
                except ssl.SSLWantReadError:
                    wait = anyio.wait_readable
                except ssl.SSLWantWriteError:
                    wait = anyio.wait_writable
                await wait(wrapped.fileno())
        raise HandshakeTimeout
    except BaseException:
        wrapped.close()
        raise
