"""The job server: one thread, one selector, the engine and the queue file. Design, section 8.

A round reads every socket that has something, lets the engine handle it, commits the queue once, and only then
writes: so one transaction serves all submissions of a round, and JOB_CREATED never leaves before its row is stored.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

from gtask.errors import ConfigurationError
from gtask.protocol.codec import MAX_BODY
from gtask.protocol.server import Request
from gtask.server.connection import Connection
from gtask.server.crowd import Bounds, Crowd
from gtask.server.door import Door
from gtask.server.effects import Close, Effect, Send
from gtask.server.engine import Engine
from gtask.server.host import handle_prefix, listen, version_text
from gtask.server.sqlite import SqliteStore
from gtask.server.state import MAX_ABILITIES, MAX_FUNCTIONS, MAX_MEMORY, Settings
from gtask.server.store import Store, commit
from gtask.server.tls import ServerTLS
from gtask.types import DEFAULT_PORT, Server

log = logging.getLogger("gtask.server")

MIN_OUTPUT: Final = 64 * 1024 * 1024
"""Unwritten bytes at which a peer that does not read is closed, or twice the largest packet if that is more."""

MAX_READS: Final = 256
MAX_EFFECTS: Final = 10_000
"""Connections read, and effects of that, before answers are written: more of either is only more memory."""

_READ: Final = selectors.EVENT_READ
_WRITE: Final = selectors.EVENT_WRITE


class JobServer:
    """The embedded job server: speaks gearmand's protocol and needs nothing but Python.

    `host` and `port` are where it listens, loopback unless told otherwise; port 0 takes a free one, which `port` then
    is. `db` is the queue file for background jobs, which is gearmand's own libsqlite3 table; without one they live in
    memory. `job_retries` is how often a job is handed out before it is failed, 0 for no limit, `exceptions` whether
    that option is on for all peers. With `tls` the whole port speaks TLS, and nothing without it.

    What peers may take: `max_body` is the most bytes of a packet, `max_connections` the most connections,
    `max_connections_per_peer` the most from one address (None: half of all, and as many as there are from this very
    machine). Jobs are refused with QUEUE_ERROR beyond `max_memory` bytes of them, each counted as its workload and
    `gtask.server.jobs.JOB_SIZE`, and beyond `max_functions` functions; a connection that offers more than
    `max_abilities` of them is closed. So is one that lets `max_output` unread bytes pile up (None: room for two packets
    of the largest size), one that stops in the middle of a packet or a TLS handshake for `stall_timeout` seconds, and
    one that holds nothing and says nothing for `idle_timeout` seconds (0: never). `max_queue` says of functions how
    many jobs they may have, queued and running, as `maxqueue` in the admin protocol does. What all peers together have
    not finished and not read may be a quarter of `max_memory`, or four packets of the largest size if that is more.

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
        tls: ServerTLS | None = None,
        max_body: int = MAX_BODY,
        max_connections: int = 10_000,
        max_connections_per_peer: int | None = None,
        max_output: int | None = None,
        max_memory: int = MAX_MEMORY,
        max_functions: int = MAX_FUNCTIONS,
        max_abilities: int = MAX_ABILITIES,
        idle_timeout: float = 7200.0,
        stall_timeout: float = 30.0,
        max_queue: Mapping[str, int] | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.db = db
        self.tls = tls
        self._bounds = Bounds(
            connections=max_connections,
            per_place=max_connections_per_peer,
            body=max_body,
            output=max(MIN_OUTPUT, 2 * max_body) if max_output is None else max_output,
            buffers=max(max_memory // 4, 4 * max_body),
            idle=idle_timeout,
            stall=stall_timeout,
        )
        self._settings = Settings(
            prefix=handle_prefix(),
            job_retries=job_retries,
            exceptions=exceptions,
            version=version_text(),
            pid=os.getpid(),
            max_memory=max_memory,
            max_functions=max_functions,
            max_abilities=max_abilities,
            verbosity=logging.getLevelName(log.getEffectiveLevel()),
        )
        self._engine = Engine(self._settings)
        for function, most in (max_queue or {}).items():
            self._engine.limit(function, most)
        self._store: Store | None = None
        self._door: Door | None = None
        self._selector: selectors.BaseSelector | None = None
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self._crowd: Crowd | None = None
        self._context: ssl.SSLContext | None = None
        self._own: deque[socket.socket] = deque()
        self._thread: threading.Thread | None = None
        self._stop_at: float | None = None
        self._closed = False

    # --- life ------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The server's address, as `App(servers=...)` takes it."""
        return str(Server(self.host, self.port, self.tls is not None))

    @property
    def jobs(self) -> tuple[int, int]:
        """How many jobs wait and how many run."""
        return self._engine.queued, self._engine.running

    def start(self) -> None:
        """Opens the queue file, queues what is in it, binds and listens; `serve_forever` does the rest.

        Raises `ConfigurationError` when the queue's file, a certificate or the address cannot be used.
        """
        if self._selector is not None:
            raise ConfigurationError("This job server was started already; make a new one to start again.")
        self.renew_tls()
        listener = listen(self.host, self.port)
        try:
            if self.db is not None:
                self._store = SqliteStore(self.db)
                count = self._engine.restore(self._store.load(), self._now())
                log.info("%d jobs came back from %s.", count, self.db)
        except BaseException:
            listener.close()
            raise
        self.port = listener.getsockname()[1]
        self._wake = socket.socketpair()
        for end in self._wake:
            end.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._door = Door(listener, self._selector)
        self._selector.register(self._wake[0], _READ)
        self._crowd = Crowd(self._engine, self._selector, self._bounds)
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
        self._wake_up()

    def connect(self) -> socket.socket:
        """A connection from inside of this process: not over the port, without TLS, and counted for no bound.

        Returns this end of it, a non-blocking socket. Safe from any thread while the server runs; raises
        `ConnectionRefusedError` otherwise.
        """
        if self._selector is None or self._closed:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "the job server does not run")
        here, there = socket.socketpair()
        here.setblocking(False)
        self._own.append(there)
        self._wake_up()
        if self._closed:
            self._close_own()
        return here

    def renew_tls(self) -> None:
        """Reads the files of `tls` again, for the connections that come from now on.

        Raises `ConfigurationError` when they cannot be used; what was read before stays then.
        """
        if self.tls is not None:
            self._context = self.tls.context()

    def _wake_up(self) -> None:
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
        if self._door is not None:
            self._door.close()
        return not self._engine.running or time.monotonic() >= self._stop_at

    def _close(self) -> None:
        self._closed = True
        if self._crowd is not None:
            self._crowd.close()
        self._close_own()
        if self._door is not None:
            self._door.close()
        if self._selector is not None:
            self._selector.close()
        if self._wake is not None:
            self._wake[0].close()
            self._wake[1].close()
        if self._store is not None:
            self._store.close()
            self._store = None

    def _close_own(self) -> None:
        while self._own:
            self._own.popleft().close()

    # --- one round -------------------------------------------------------------------------------------------

    def _now(self) -> float:
        now = time.monotonic()
        self._engine.set_epoch(time.time() - now)
        return now

    def _round(self) -> None:
        assert self._selector is not None
        assert self._crowd is not None
        crowd = self._crowd
        events = self._selector.select(self._timeout(crowd))
        now = self._now()
        effects: list[Effect] = []
        reads = 0
        if crowd.again:
            for connection in crowd.take_again():
                effects += self._receive(crowd, connection, now)
                reads += 1
        for key, mask in events:
            connection = key.data
            if connection is None:
                self._attend(crowd, key.fileobj, now)
                continue
            if connection.closing_at is not None:
                crowd.forget_closed(connection)
                continue
            if crowd.members.get(connection.peer) is not connection:
                continue  # it was closed a moment ago
            if mask & _WRITE:
                if not connection.flush():
                    effects += crowd.lost(connection, now)
                    continue
                crowd.watch(connection)
            if mask & _READ:
                effects += self._receive(crowd, connection, now)
                reads += 1
                if reads >= MAX_READS or len(effects) >= MAX_EFFECTS:
                    self._settle(crowd, effects, now)
                    effects, reads = [], 0
        deadline = self._engine.next_deadline()
        if deadline is not None and deadline <= now:
            effects += self._engine.tick(now)
        self._settle(crowd, effects, now)
        if crowd.tidy_at <= now:
            self._settle(crowd, crowd.tidy(now), now)
        if self._door is not None and self._door.open_at is not None:
            self._door.reopen(crowd, now)

    def _timeout(self, crowd: Crowd) -> float | None:
        if crowd.again:
            return 0.0
        first = crowd.tidy_at
        deadline = self._engine.next_deadline()
        if deadline is not None and deadline < first:
            first = deadline
        if self._stop_at is not None:
            first = min(first, self._stop_at)
        if self._door is not None and self._door.open_at is not None:
            first = min(first, self._door.open_at)
        # Bounded, so that a step of the wall clock is noticed by the epoch jobs.
        return None if first == math.inf else min(max(0.0, first - time.monotonic()), 60.0)

    def _receive(self, crowd: Crowd, connection: Connection, now: float) -> list[Effect]:
        """Handles what has come from a peer, or what is left of it: one turn, for others wait for theirs."""
        requests: list[Request] | None = connection.requests
        if requests:
            connection.requests = []
        else:
            requests = connection.read()
            if requests is None:
                return crowd.lost(connection, now)
        effects: list[Effect] = []
        if requests:
            try:
                effects, handled = self._engine.handle_some(connection.peer, requests, now)
            except Exception:
                # A bug of this server. One peer pays for it, the others go on.
                log.exception("%s: its request could not be served; it was closed.", connection.peer.address)
                return crowd.lost(connection, now)
            if handled < len(requests):
                connection.requests = requests[handled:]
        if (
            connection.unfinished != connection.counted
            or connection.interest != _READ
            or connection.requests
            or connection.ended
        ):
            crowd.watch(connection)
        return effects

    def _settle(self, crowd: Crowd, effects: list[Effect], now: float) -> None:
        while effects:
            effects = self._perform(crowd, effects, now)
        while crowd.buffered > self._bounds.buffers and (effects := crowd.relieve(now)):
            while effects:
                effects = self._perform(crowd, effects, now)

    def _perform(self, crowd: Crowd, effects: list[Effect], now: float) -> list[Effect]:
        """Does what the engine wants done, and returns what comes of the peers that were lost on the way."""
        if self._store is not None and (failed := commit(self._store, effects)):
            effects = self._engine.refused(effects, failed, now)
        dirty: dict[Connection, bool] = {}
        closing: list[tuple[Connection, str]] = []
        members, limit = crowd.members, self._bounds.output
        for effect in effects:
            if type(effect) is Send:
                connection = members.get(effect.peer)
                if connection is not None:
                    dirty[connection] = connection.write(effect.data, limit)
            elif type(effect) is Close and (connection := members.get(effect.peer)) is not None:
                closing.append((connection, effect.reason))
        more: list[Effect] = []
        for connection, reads in dirty.items():
            if not reads:
                crowd.complain(now, "%s does not read its answers and was closed.", connection.peer.address)
            if reads and connection.flush():
                crowd.watch(connection)
            else:
                more += crowd.lost(connection, now)
        for connection, reason in closing:
            if connection.peer in members:
                more += crowd.send_away(connection, reason, now)
        return more

    def _attend(self, crowd: Crowd, source: object, now: float) -> None:
        assert self._wake is not None
        if source is not self._wake[0]:
            if self._door is not None:
                self._door.accept(crowd, now, self._context)
            return
        try:
            self._wake[0].recv(4096)
        except BlockingIOError:
            pass
        while self._own:
            crowd.admit_own(self._own.popleft(), now)
