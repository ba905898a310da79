"""A real mail server on loopback that keeps every mail it is given: for tries and tests.

By itself: ``python -m examples.settlement.smtp_sink --port 8025 --folder mails``.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiosmtpd.smtp import SMTP, Envelope, Session

MAX_MAIL = 20_000_000
READY_TIMEOUT = 10.0


class SmtpSink:
    """An SMTP server in a thread of its own, as a context manager.

    It listens on `host` and `port` (0: a free one, read `port` afterwards). Mails are kept in memory, and in `folder`
    too where one is given, as 0001.eml, 0002.eml and so on.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, folder: Path | None = None) -> None:
        self.host = host
        self.port = port
        self.folder = folder
        self._mails: list[bytes] = []
        self._arrived = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()

    @property
    def address(self) -> str:
        """Host and port as ``$SETTLEMENT_SMTP`` wants them."""
        return f"{self.host}:{self.port}"

    @property
    def mails(self) -> list[bytes]:
        """Every mail received so far, oldest first."""
        with self._arrived:
            return list(self._mails)

    def wait(self, count: int, timeout: float = 30.0) -> list[bytes]:
        """Waits until `count` mails are there, at most `timeout` seconds, and returns all mails there are."""
        deadline = time.monotonic() + timeout
        with self._arrived:
            self._arrived.wait_for(lambda: len(self._mails) >= count, max(0.0, deadline - time.monotonic()))
            return list(self._mails)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Takes one mail; the name is aiosmtpd's. The mail is kept before the sender hears 250."""
        content = envelope.content
        mail = content.encode() if isinstance(content, str) else bytes(content or b"")
        with self._arrived:
            self._mails.append(mail)
            if self.folder is not None:
                (self.folder / f"{len(self._mails):04d}.eml").write_bytes(mail)
            self._arrived.notify_all()
        return "250 Kept"

    def __enter__(self) -> Self:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        # Bound here and not in the thread, so that an occupied port is an error where it is understood.
        listener = socket.create_server((self.host, self.port), backlog=128)
        self.port = listener.getsockname()[1]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(listener)), name="smtp-sink")
        self._thread.start()
        if not self._ready.wait(READY_TIMEOUT):
            raise RuntimeError("The mail server did not start.")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not None:
            self._thread.join(READY_TIMEOUT)

    async def _serve(self, listener: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        connections: set[asyncio.BaseTransport] = set()
        server = await self._loop.create_server(lambda: self._conversation(connections), sock=listener)
        async with server:
            self._ready.set()
            await self._stop.wait()
            for connection in list(connections):
                connection.close()

    def _conversation(self, connections: set[asyncio.BaseTransport]) -> SMTP:
        return _Conversation(connections, self, data_size_limit=MAX_MAIL, hostname="localhost", loop=self._loop)


class _Conversation(SMTP):
    """One client's conversation, which the server can end when it stops."""

    def __init__(self, connections: set[asyncio.BaseTransport], handler: SmtpSink, **options: Any) -> None:
        super().__init__(handler, **options)
        self._connections = connections
        self._own: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._own = transport
        self._connections.add(transport)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._own is not None:
            self._connections.discard(self._own)
        super().connection_lost(error)


def main() -> None:
    """Serves until it is interrupted."""
    parser = argparse.ArgumentParser(description="Keeps every mail it is given.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8025)
    parser.add_argument("--folder", type=Path, default=Path("mails"))
    options = parser.parse_args()
    with SmtpSink(options.host, options.port, options.folder) as sink:
        print(f"Mails sent to {sink.address} are kept in {options.folder}; Ctrl-C ends it.", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
