"""A peer for connections: an echo server in a thread, plain or with TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from gtask.types import Server

PATIENCE = 30.0
"""Seconds after which a test that hangs is ended."""


def echo(sock: socket.socket) -> None:
    """Sends back what comes."""
    while data := sock.recv(65536):
        sock.sendall(data)


@contextlib.contextmanager
def holding(then: bytes = b"") -> Iterator[tuple[Listener, threading.Event]]:
    """A listener that says nothing until the gate is open, then this; it reads nothing at all."""
    gate = threading.Event()

    def talk(sock: socket.socket) -> None:
        assert gate.wait(PATIENCE)
        sock.sendall(then)

    with Listener(talk) as listener:
        try:
            yield listener, gate
        finally:
            gate.set()


def answer_once(sock: socket.socket) -> None:
    """Sends the first bytes back, and closes the connection."""
    sock.sendall(sock.recv(10))


def hear(sock: socket.socket) -> None:
    """Takes something and closes the connection."""
    sock.recv(1000)


class Listener:
    """A server in a thread that does `talk` with each connection it accepts, behind TLS when `context` is given."""

    def __init__(
        self,
        talk: Callable[[socket.socket], None] = echo,
        context: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self._talk = talk
        self._context = context
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        self.server = Server(host, self.port, context is not None)
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(PATIENCE)
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(sock)
            thread = threading.Thread(target=self._serve, args=[sock])
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(sock)
            if self._context is not None:
                sock = stack.enter_context(self._context.wrap_socket(sock, server_side=True))
            self._talk(sock)
