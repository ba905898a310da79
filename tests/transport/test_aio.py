"""Connections for tasks: the same as for threads, on asyncio and trio; and what cancellation leaves behind."""

from __future__ import annotations

import time

import anyio
import pytest

from gtask.errors import ConnectFailed, ConnectionLost, RequestTimeout
from gtask.transport import TLS
from gtask.transport.aio import connect
from gtask.types import Server
from tests.client.helpers import black_hole, closed_port
from tests.pki import Certificates
from tests.transport.helpers import PATIENCE, Listener, holding
from tests.transport.test_blocking import reset

pytestmark = pytest.mark.anyio


def soon(seconds: float = PATIENCE) -> float:
    """A deadline."""
    return time.monotonic() + seconds


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_bytes_there_and_back(certificates: Certificates, tls: bool) -> None:
    """More than fits into any buffer at once, in both directions."""
    data = bytes(range(256)) * 20_000
    with Listener(context=certificates.for_server().context() if tls else None) as listener:
        connection = await connect(listener.server, PATIENCE, TLS(certificates.ca))
        received = b""
        async with anyio.create_task_group() as group:
            group.start_soon(connection.send, data, soon())
            while len(received) < len(data):
                received += await connection.recv(soon())
        connection.close()

    assert received == data


async def test_failures_to_connect() -> None:
    """Refused, never answered, impossible."""
    with pytest.raises(ConnectFailed, match="connection refused"):
        await connect(closed_port(), PATIENCE)
    with black_hole() as server:
        with pytest.raises(ConnectFailed, match="it did not answer in time"):
            await connect(server, 0.2)
    with pytest.raises(ConnectFailed, match="could not be reached"):
        await connect(Server("x" * 64 + ".example", 4730), PATIENCE)


async def test_failures_of_tls(certificates: Certificates) -> None:
    """Unknown authority, no TLS at all, no end of the handshake."""
    with Listener(context=certificates.for_server().context()) as listener:
        with pytest.raises(ConnectFailed, match="its certificate is not accepted"):
            await connect(listener.server, PATIENCE)
    with holding(b"ERR UNKNOWN_COMMAND") as (listener, gate):
        gate.set()
        with pytest.raises(ConnectFailed, match=r"does it speak TLS at this port\?"):
            await connect(Server("127.0.0.1", listener.port, tls=True), PATIENCE)
    with holding() as (listener, _):
        with pytest.raises(ConnectFailed, match="it did not answer"):
            await connect(Server("127.0.0.1", listener.port, tls=True), 0.2)


async def test_waiting_with_a_deadline() -> None:
    """For something to come, for room to send, and for either."""
    with holding(b"x") as (listener, gate):
        connection = await connect(listener.server, PATIENCE)
        assert not await connection.wait_readable(soon(0.01))
        assert await connection.wait_writable(soon())
        assert await connection.wait(soon())
        with pytest.raises(RequestTimeout, match="did not answer in time"):
            await connection.recv(soon(0.01))
        with pytest.raises(RequestTimeout, match="took no more bytes"):
            await connection.send(bytes(100_000_000), soon(0.2))
        assert not await connection.wait_writable(soon(0.01))
        assert not await connection.wait(soon(0.01))
        gate.set()
        assert await connection.wait(None)
        assert await connection.wait_readable(None)
        assert await connection.recv() == b"x"
        connection.close()


async def test_a_connection_that_is_cut() -> None:
    """As for threads."""
    with Listener(reset) as listener:
        connection = await connect(listener.server, PATIENCE)
        await connection.send(b"x")
        with pytest.raises(ConnectionLost, match="was cut: connection reset by peer"):
            await connection.recv(soon())
        connection.close()


async def test_a_wait_that_is_cancelled_loses_nothing() -> None:
    """The bytes are there for the next one."""
    with holding(b"late") as (listener, gate):
        connection = await connect(listener.server, PATIENCE)
        await connection.send(b"x")
        for _ in range(5):
            with anyio.move_on_after(0.01):
                await connection.recv()
        gate.set()
        assert await connection.recv(soon()) == b"late"
        connection.close()


async def test_a_shutdown_wakes_whoever_waits() -> None:
    """In another task."""
    with Listener() as listener:
        connection = await connect(listener.server, PATIENCE)
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(connection.wait_readable, None)
                await anyio.wait_all_tasks_blocked()
                connection.shutdown()
        assert connection.recv_some() == b""
        connection.close()


async def test_a_connection_that_is_being_made_is_cancelled_without_a_trace() -> None:
    """No socket is left open: an unclosed one would be an error here."""
    with black_hole() as server:
        with anyio.move_on_after(0.05) as scope:
            await connect(server, PATIENCE)
        assert scope.cancelled_caught
