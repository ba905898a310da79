"""Asks a job server for a sign of life over a connection of its own; see `gtask.worker.pulse`."""

from __future__ import annotations

import time
from typing import Final

from gtask.errors import NetworkError
from gtask.protocol import PacketType, encode_request
from gtask.transport import aio, blocking
from gtask.transport.tls import TLS
from gtask.types import Server

_ECHO: Final = encode_request(PacketType.ECHO_REQ, b"gtask")


def probe(server: Server, timeout: float, tls: TLS | None = None, connect: blocking.Connect = blocking.connect) -> bool:
    """Says whether a job server answers within `timeout` seconds; whatever it says will do."""
    deadline = time.monotonic() + timeout
    try:
        connection = connect(server, timeout, tls)
        try:
            connection.send(_ECHO, deadline)
            return bool(connection.recv(deadline))
        finally:
            connection.close()
    except NetworkError:
        return False


async def aprobe(server: Server, timeout: float, tls: TLS | None = None) -> bool:
    """The twin of `probe`."""
    deadline = time.monotonic() + timeout
    try:
        connection = await aio.connect(server, timeout, tls)
        try:
            await connection.send(_ECHO, deadline)
            return bool(await connection.recv(deadline))
        finally:
            connection.close()
    except NetworkError:
        return False
