"""Both ends of a connection notice within 90 seconds that the other one is gone; the system's default is two hours."""

from __future__ import annotations

import socket

import pytest

from gtask.server.connection import Connection
from gtask.server.jobs import Peer
from gtask.transport.stream import open_socket

BOUND = 90


def longest_silence(sock: socket.socket) -> int:
    """Seconds until the system ends a connection whose other end does not answer."""
    idle, interval, count = (
        sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_KEEP{name}")) for name in ("IDLE", "INTVL", "CNT")
    )
    return idle + interval * count


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="this system has no such options")
def test_client_and_server_notice_that_the_other_end_is_gone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, open_socket(socket.AF_INET) as near:
        near.connect_ex(listener.getsockname())
        far, _ = listener.accept()
        with far:
            Connection(far, Peer(far.fileno(), "test"), 1000)
            for sock in (near, far):
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert longest_silence(sock) <= BOUND
                if hasattr(socket, "TCP_USER_TIMEOUT"):
                    assert 0 < sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= BOUND * 1000
