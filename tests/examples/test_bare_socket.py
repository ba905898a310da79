"""Gearman over a bare socket, on both job servers."""

from __future__ import annotations

import socket
import threading

import pytest

from examples.protocol.bare_socket import call, work
from gtask.testing.embedded import EmbeddedServer
from gtask.testing.processes import JobServerProgram

Server = EmbeddedServer | JobServerProgram


def connected(server: Server) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=30)


def test_a_call_and_its_answer(any_server: Server) -> None:
    with connected(any_server) as caller, connected(any_server) as server:
        thread = threading.Thread(target=work, args=(server, "reverse", 3))
        thread.start()
        try:
            assert call(caller, "reverse", b"to be reversed") == b"desrever eb ot"
            with pytest.raises(RuntimeError, match="codec can't decode"), connected(any_server) as other:
                call(other, "reverse", b"\xff")
            with connected(any_server) as other:
                assert call(other, "reverse", "Größe".encode()).decode() == "eßörG"
        finally:
            thread.join(30)
        assert not thread.is_alive()


def test_the_worker_ends_with_its_connection(any_server: Server) -> None:
    with connected(any_server) as server:
        thread = threading.Thread(target=work, args=(server, "reverse"))
        thread.start()
        server.shutdown(socket.SHUT_RD)
        thread.join(30)
        assert not thread.is_alive()
