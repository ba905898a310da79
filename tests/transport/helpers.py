"""A peer for connections: an echo server in a thread, plain or with TLS, and certificates made for the test."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
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


@dataclass(frozen=True)
class Certificates:
    """A certificate authority of the test's own, and what it has signed; all are paths of PEM files."""

    ca: str
    server: str
    client: str
    stranger: str

    def server_context(self, ask_client: bool = False) -> ssl.SSLContext:
        """What a server for 127.0.0.1 and localhost uses; it may demand a certificate of its clients."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server)
        if ask_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)
        return context


def make_certificates(folder: Path) -> Certificates:
    """Makes them with the `openssl` program."""

    def openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True, timeout=PATIENCE)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for authority in ("ca", "other"):
        openssl(
            "req", "-x509", *key, "-keyout", f"{authority}.key", "-out", f"{authority}.pem", "-days", "30",
            "-subj", f"/CN={authority} of the test",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip
    for name, authority in (("server", "ca"), ("client", "ca"), ("stranger", "other")):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "extensions").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:jobs.example\n")
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key",
            "-CAcreateserial", "-days", "30", "-extfile", "extensions", "-out", f"{name}.crt",
        )  # fmt: skip
        (folder / f"{name}.pem").write_text((folder / f"{name}.crt").read_text() + (folder / f"{name}.key").read_text())
    return Certificates(*(str(folder / f"{name}.pem") for name in ("ca", "server", "client", "stranger")))
