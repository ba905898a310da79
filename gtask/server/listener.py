"""The job server: one thread, one selector, the engine and the queue file. Design, section 8.

A round reads every socket that has something, lets the engine handle it, commits the queue once, and only then
writes: so one transaction serves all submissions of a round, and JOB_CREATED never leaves before its row is stored.
"""

from __future__ import annotations

import errno
import logging
import os
import selectors
import socket
import threading
import time
from types import TracebackType
from typing import Final, Self

from gtask.errors import ConfigurationError
from gtask.protocol.codec import MAX_BODY
from gtask.server.connection import Connection
from gtask.server.effects import Close, Effect, Send
from gtask.server.engine import Engine
from gtask.server.host import handle_prefix, listen, version_text
from gtask.server.jobs import Peer
from gtask.server.sqlite import SqliteStore
from gtask.server.state import Settings
from gtask.server.store import Store, commit
from gtask.types import DEFAULT_PORT, Server

log = logging.getLogger("gtask.server")

ACCEPTS: Final = 64
"""Connections accepted in one round."""

PAUSE_AT: Final = 8 * 1024 * 1024
"""Unwritten bytes at which a peer is not read from until it reads."""

MIN_OUTPUT: Final = 64 * 1024 * 1024
"""Unwritten bytes at which a peer that does not read is closed, or twice the largest packet if that is more."""

LINGER: Final = 1.0
"""Seconds a closed connection is kept for its peer to read the last answer."""

ACCEPT_AGAIN: Final = 1.0
"""Seconds until the next try after the process ran out of descriptors."""

_READ: Final = selectors.EVENT_READ
_WRITE: Final = selectors.EVENT_WRITE
_OUT_OF_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class JobServer:
    """The embedded job server: speaks gearmand's protocol and needs nothing but Python.

    `host` and `port` are where it listens, loopback unless told otherwise; port 0 takes a free one, which `port` then
    is. `db` is the queue file for background jobs, which is gearmand's own libsqlite3 table; without one they live in
    memory. `job_retries` is how often a job is handed out before it is failed, 0 for no limit. `max_body` is the most
    bytes a packet may have, `max_connections` the most connections, `exceptions` whether that option is on for all. A
    peer that lets `max_output` unread bytes pile up is closed (None: room for two packets of the largest size).

    Use it as a context manager (it then runs in a thread), or `start` it and call `serve_forever`. `stop` may be
    called from any thread and from a signal handler. Protocol reference, all of it.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        db: str | os.PathLike[str] | None = None,
        *,
        job_retries: int = 0,
        exceptions: bool = False,
        max_body: int = MAX_BODY,
        max_connections: int = 10_000,
        max_output: int | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.db = db
        self._max_body = max_body
        self._max_connections = max_connections
        self._max_output = max(MIN_OUTPUT, 2 * max_body) if max_output is None else max_output
        self._settings = Settings(
            prefix=handle_prefix(),
            job_retries=job_retries,
            exceptions=exceptions,
            version=version_text(),
            pid=os.getpid(),
            verbosity=logging.getLevelName(log.getEffectiveLevel()),
        )
        self._engine = Engine(self._settings)
        self._store: Store | None = None
        self._listener: socket.socket | None = None
        self._selector: selectors.BaseSelector | None = None
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self._connections: dict[Peer, Connection] = {}
        self._closing: dict[Connection, None] = {}
        self._accept_at: float | None = None
        self._thread: threading.Thread | None = None
        self._stop_at: float | None = None

    # --- life ------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The server's address, as `App(servers=...)` takes it."""
        return str(Server(self.host, self.port))

    @property
    def jobs(self) -> tuple[int, int]:
        """How many jobs wait and how many run."""
        return self._engine.queued, self._engine.running

    def start(self) -> None:
        """Opens the queue file, queues what is in it, binds and listens; `serve_forever` does the rest.

        Raises `ConfigurationError` when the file or the address cannot be used.
        """
        if self._selector is not None:
            raise ConfigurationError("This job server was started already; make a new one to start again.")
        self._listener = listen(self.host, self.port)
        try:
            if self.db is not None:
                self._store = SqliteStore(self.db)
                count = self._engine.restore(self._store.load(), self._now())
                log.info("%d jobs came back from %s.", count, self.db)
        except BaseException:
            self._listener.close()
            self._listener = None
            raise
        self.port = self._listener.getsockname()[1]
        self._wake = socket.socketpair()
        for end in self._wake:
            end.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, _READ)
        self._selector.register(self._wake[0], _READ)
        log.info("The job server listens at %s.", self.url)

    def serve_forever(self) -> None:
        """Serves until `stop` is called, then closes everything; starts the server first if that was not done."""
        if self._selector is None:
            self.start()
        try:
            while not self._stopped():
                self._round()
        finally:
            self._close()

    def stop(self, graceful: float = 0.0) -> None:
        """Ends `serve_forever`. Safe from any thread and from a signal handler.

        With `graceful` seconds, no new connection and no further job is handed out, and the server goes on until
        what runs has ended or the time is over. Background jobs that wait stay in the queue file.
        """
        self._stop_at = time.monotonic() + graceful
        if self._wake is not None:
            try:
                self._wake[1].send(b"\0")
            except OSError:
                pass  # a wake-up is there already, or the server has ended

    def __enter__(self) -> Self:
        self.start()
        self._thread = threading.Thread(target=self.serve_forever, name="gtask-server", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._thread is not None:
            self._thread.join()

    def _stopped(self) -> bool:
        if self._stop_at is None:
            return False
        self._engine.drain()
        self._stop_accepting()
        return not self._engine.running or time.monotonic() >= self._stop_at

    def _close(self) -> None:
        for connection in [*self._connections.values(), *self._closing]:
            connection.flush()
            connection.socket.close()
        self._connections.clear()
        self._closing.clear()
        self._stop_accepting()
        if self._selector is not None:
            self._selector.close()
        if self._wake is not None:
            self._wake[0].close()
            self._wake[1].close()
        if self._store is not None:
            self._store.close()
            self._store = None

    # --- one round -------------------------------------------------------------------------------------------

    def _now(self) -> float:
        now = time.monotonic()
        self._engine.set_epoch(time.time() - now)
        return now

    def _round(self) -> None:
        assert self._selector is not None
        events = self._selector.select(self._timeout())
        now = self._now()
        effects: list[Effect] = []
        for key, mask in events:
            connection = key.data
            if connection is None:
                self._attend(key.fileobj, now)
            elif connection.closing_at is not None:
                if not connection.discard():
                    self._drop(connection)
            else:
                if mask & _WRITE:
                    if not connection.flush():
                        effects += self._lost(connection, now)
                        continue
                    self._watch(connection)
                if mask & _READ:
                    effects += self._receive(connection, now)
        deadline = self._engine.next_deadline()
        if deadline is not None and deadline <= now:
            effects += self._engine.tick(now)
        while effects:
            effects = self._perform(effects, now)
        if self._closing or self._accept_at is not None:
            self._tidy(now)

    def _timeout(self) -> float | None:
        deadlines = [self._engine.next_deadline(), self._accept_at, self._stop_at]
        if self._closing:
            deadlines.append(next(iter(self._closing)).closing_at)
        first = min((deadline for deadline in deadlines if deadline is not None), default=None)
        # Bounded, so that a step of the wall clock is noticed by the epoch jobs.
        return None if first is None else min(max(0.0, first - time.monotonic()), 60.0)

    def _receive(self, connection: Connection, now: float) -> list[Effect]:
        requests = connection.read()
        if requests is None:
            return self._lost(connection, now)
        try:
            return self._engine.handle_all(connection.peer, requests, now) if requests else []
        except Exception:
            # A bug of this server. One peer pays for it, the others go on.
            log.exception("%s: its request could not be served. The connection was closed.", connection.peer.address)
            return self._lost(connection, now)

    def _perform(self, effects: list[Effect], now: float) -> list[Effect]:
        """Does what the engine wants done, and returns what comes of the peers that were lost on the way."""
        if self._store is not None and (failed := commit(self._store, effects)):
            effects = self._engine.refused(effects, failed, now)
        dirty: dict[Connection, bool] = {}
        closing: list[tuple[Connection, str]] = []
        connections = self._connections
        for effect in effects:
            if type(effect) is Send:
                connection = connections.get(effect.peer)
                if connection is not None:
                    dirty[connection] = connection.write(effect.data, self._max_output)
            elif type(effect) is Close and (connection := connections.get(effect.peer)) is not None:
                closing.append((connection, effect.reason))
        more: list[Effect] = []
        for connection, reads in dirty.items():
            if not reads:
                log.warning("%s does not read its answers and was closed.", connection.peer.address)
            if reads and connection.flush():
                self._watch(connection)
            else:
                more += self._lost(connection, now)
        for connection, reason in closing:
            if connection.peer in connections:
                log.warning("%s: %s The connection was closed.", connection.peer.address, reason)
                more += self._hang_up(connection, now)
        return more

    # --- connections -----------------------------------------------------------------------------------------

    def _attend(self, source: object, now: float) -> None:
        if source is self._listener:
            self._accept(now)
        elif self._wake is not None:
            try:
                self._wake[0].recv(4096)
            except BlockingIOError:
                pass

    def _accept(self, now: float) -> None:
        for _ in range(ACCEPTS):
            if self._listener is None:
                return
            try:
                sock, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_ROOM:
                    log.warning("A connection could not be accepted: %s.", error)
                    return
                # The listener stays readable: without a pause this would spin.
                log.error("No connection can be accepted: %s. Raise the limit of open files.", error)
                self._pause_accepting(now)
                return
            if len(self._connections) >= self._max_connections:
                log.warning("%s was turned away: %d connections is the limit.", address[0], self._max_connections)
                sock.close()
                continue
            self._admit(sock, str(address[0]), now)

    def _admit(self, sock: socket.socket, address: str, now: float) -> None:
        peer = Peer(sock.fileno(), address)
        connection = self._connections[peer] = Connection(sock, peer, self._max_body)
        self._engine.connected(peer, now)
        self._watch(connection)

    def _watch(self, connection: Connection) -> None:
        """Asks the selector for what the connection needs: to be written to, and, if it reads, to be read from."""
        assert self._selector is not None
        pending = connection.pending
        interest = _READ if pending < PAUSE_AT else 0
        if pending:
            interest |= _WRITE
        if interest == connection.interest:
            return
        if connection.interest:
            self._selector.modify(connection.socket, interest, connection)
        else:
            self._selector.register(connection.socket, interest, connection)
        connection.interest = interest

    def _lost(self, connection: Connection, now: float) -> list[Effect]:
        """The peer is gone."""
        del self._connections[connection.peer]
        self._drop(connection)
        return self._engine.disconnected(connection.peer, now)

    def _hang_up(self, connection: Connection, now: float) -> list[Effect]:
        """Ends the conversation, but lets the peer read what was sent to it last."""
        assert self._selector is not None
        try:
            connection.socket.shutdown(socket.SHUT_WR)
        except OSError:
            return self._lost(connection, now)
        del self._connections[connection.peer]
        connection.closing_at = now + LINGER
        self._closing[connection] = None
        self._selector.modify(connection.socket, _READ, connection)
        return self._engine.disconnected(connection.peer, now)

    def _drop(self, connection: Connection) -> None:
        assert self._selector is not None
        self._closing.pop(connection, None)
        if connection.interest:
            self._selector.unregister(connection.socket)
            connection.interest = 0
        connection.socket.close()
        if self._accept_at is not None:
            self._accept_at = 0.0

    def _tidy(self, now: float) -> None:
        for connection in list(self._closing):
            if connection.closing_at is None or connection.closing_at > now:
                break
            self._drop(connection)
        if self._accept_at is not None and self._accept_at <= now:
            self._accept_at = None
            if self._listener is not None and self._selector is not None:
                self._selector.register(self._listener, _READ)

    def _pause_accepting(self, now: float) -> None:
        assert self._selector is not None
        assert self._listener is not None
        self._selector.unregister(self._listener)
        self._accept_at = now + ACCEPT_AGAIN

    def _stop_accepting(self) -> None:
        if self._listener is None:
            return
        if self._selector is not None and self._accept_at is None:
            self._selector.unregister(self._listener)
        self._accept_at = None
        self._listener.close()
        self._listener = None
