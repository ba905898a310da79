"""Drives a `WorkerCore` over blocking sockets: one selector, no event loop, no thread of its own.

Whoever calls `pump` carries the bytes. In a process that runs one task at a time that is the task's thread, between
two tasks; while a task runs for long the `Keeper` takes over, so that heartbeats are answered and what other threads
report is sent. In a pool of threads it is the main thread.

Connections are opened in short-lived threads, because looking up a name and greeting a server may take long and the
other job servers are to be served meanwhile.
"""

from __future__ import annotations

import logging
import os
import secrets
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol, Self

from gtask.errors import NetworkError
from gtask.transport.blocking import Connect, Connection, connect
from gtask.transport.tls import TLS
from gtask.worker.core import WorkerCore
from gtask.worker.job import Ending, Job
from gtask.worker.link import Link
from gtask.worker.probe import probe

log = logging.getLogger("gtask.worker")

CONNECT_TIMEOUT: Final = 5.0
"""Seconds an attempt to connect may take."""

MAX_WAIT: Final = 60.0
"""Seconds a pump waits at most, whatever the deadline."""

READS: Final = 16
"""Reads from one socket in one round, so that a talkative job server does not keep the others waiting."""


class Handler(Protocol):
    """What runs the jobs of a driver without threads: called in `BlockingDriver.serve`."""

    def start(self, job: Job) -> None:
        """Takes a job that now holds a slot; ends it with `BlockingDriver.finish`, now or later."""

    def tick(self, now: float) -> float:
        """Does what is due and returns when it wants to be called again (`time.monotonic` seconds)."""


class BlockingDriver:
    """One worker's sockets. Every method may be called from any thread."""

    def __init__(
        self,
        core: WorkerCore,
        tls: TLS | None = None,
        on_connected: Callable[[], None] | None = None,
        quiet: bool = False,
        connect: Connect = connect,
    ) -> None:
        self.core = core
        self._open = connect
        self._on_connected = on_connected
        # Of many processes of one worker only the first tells of connections, or a restart fills the log.
        self._news = (logging.DEBUG, logging.DEBUG) if quiet else (logging.INFO, logging.WARNING)
        self._tls = tls
        self._lock = threading.RLock()
        self._pumping = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._connections: dict[Link, Connection] = {}
        self._unsent: dict[Link, memoryview] = {}
        self._connected: deque[tuple[Link, Connection | NetworkError]] = deque()
        self._probed: deque[tuple[Link, float, bool]] = deque()
        self._said_unreachable: set[Link] = set()
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._wake_writer, False)
        self._selector.register(self._wake_reader, selectors.EVENT_READ, None)
        self._watched: dict[int, Callable[[], None]] = {}
        self._waiting = False
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def watch(self, descriptor: int, call: Callable[[], None]) -> None:
        """Calls `call` from `pump` whenever a descriptor can be read."""
        self._watched[descriptor] = call
        self._selector.register(descriptor, selectors.EVENT_READ, None)

    def unwatch(self, descriptor: int) -> None:
        """Ends `watch`."""
        if self._watched.pop(descriptor, None) is not None:
            self._selector.unregister(descriptor)

    def wake(self) -> None:
        """Makes a waiting `pump` return; safe in a signal handler."""
        try:
            os.write(self._wake_writer, b"\0")
        except (BlockingIOError, OSError):
            pass

    def forked(self) -> None:
        """In a process that a task has forked: lets go of the connections, which then end with this worker's process.

        Held open by a child that lives on, they would keep this process's jobs from going back when it dies.
        """
        for connection in self._connections.values():
            connection.close()
        for descriptor in (self._wake_reader, self._wake_writer):
            os.close(descriptor)
        self._selector.close()
        self._connections.clear()
        self._closed = True

    def stop(self) -> None:
        """Takes no more jobs; what is held goes on. Safe in a signal handler."""
        self.core.stopping = True
        self.wake()

    def close(self) -> None:
        """Closes every connection: jobs still held go back to their job servers."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for connection in self._connections.values():
                connection.close()
            self._connections.clear()
            self._take_connected()
            self._selector.close()
            os.close(self._wake_reader)
            os.close(self._wake_writer)

    # --- jobs ------------------------------------------------------------------------------------------------

    def take(self) -> Job | None:
        """The next job to run, or None."""
        with self._lock:
            job = self.core.take()
        if job is not None:
            job.started = time.monotonic()
        return job

    def finish(self, job: Job, ending: Ending, flush: bool = True) -> None:
        """Ends a job. With `flush` it is sent at once, otherwise with the next `pump`."""
        with self._lock:
            now = time.monotonic()
            self.core.finish(job, ending, now)
            if flush:
                self.core.pump(now)
                self._send_all()
                if self._waiting and self.core.shut:
                    self.wake()

    def let_go(self, job: Job) -> None:
        """Frees the slot of a job whose connection is gone, of which there is nothing to report."""
        with self._lock:
            self.core.running.discard(job)

    def put_off(self, job: Job, delay: float) -> bool:
        """Lets a job run again after `delay` seconds, without a slot meanwhile; false when too many wait already."""
        with self._lock:
            done = self.core.put_off(job, time.monotonic() + delay)
        self.wake()
        return done

    def report(self, job: Job, send: Callable[[], None]) -> bool:
        """Sends something about a running job now (`send` queues it); false when its connection is gone."""
        with self._lock:
            if job.lost or job.link.protocol is None or job.link.protocol.closed:
                return False
            send()
            self._send_all()
            return True

    # --- bytes -----------------------------------------------------------------------------------------------

    def pump(self, wait: float = 0.0) -> None:
        """Carries bytes both ways, in the order that takes the fewest calls of the system.

        With `wait` it sends, then waits up to so many seconds for something to come, and takes that: whoever called
        looks what it is and pumps again, and what follows from it goes out together with that one's own. Without, it
        takes what is there and then sends. Only one thread pumps at a time; another one's call waits for it.
        """
        with self._pumping:
            left = 0.0
            with self._lock:
                if self._closed:
                    return
                if wait > 0:
                    now = time.monotonic()
                    self._work(now)
                    if not (self.core.takes or self._connected):
                        left = max(0.0, min(self.core.deadline(now) - now, wait, MAX_WAIT))
                    self._waiting = left > 0
            ready = self._selector.select(left)
            with self._lock:
                self._waiting = False
                if self._closed:
                    return
                for key, events in ready:
                    self._ready(key.fd, key.data, events)
                if wait <= 0:
                    self._work(time.monotonic())

    def _work(self, now: float) -> None:
        self._take_connected()
        for link in self.core.condemned(now):
            self._read(link)
        for link in self.core.condemned(now):
            log.warning("%s does not answer; its connection is closed.", link.server)
            self._drop(link, now)
        for link in self.core.suspects(now):
            threading.Thread(target=self._probe, args=(link, link.pulse.heard), name="probe", daemon=True).start()
        for link in self.core.connects(now):
            thread = threading.Thread(target=self._connect, args=(link,), name=f"connect {link.server}", daemon=True)
            thread.start()
        self.core.pump(now)
        self._send_all()

    def _ready(self, descriptor: int, link: Link | None, events: int) -> None:
        if descriptor == self._wake_reader:
            try:
                os.read(self._wake_reader, 4096)
            except BlockingIOError:
                pass
        elif link is None:
            call = self._watched.get(descriptor)
            if call is not None:
                call()
        else:
            if events & selectors.EVENT_READ:
                self._read(link)
            if events & selectors.EVENT_WRITE and link in self._connections:
                self._send(link)

    def _read(self, link: Link) -> None:
        connection = self._connections.get(link)
        if connection is None:
            return
        now = time.monotonic()
        for _ in range(READS):
            try:
                data = connection.recv_some()
            except NetworkError as error:
                log.log(self._news[1], "%s: %s", link.server, error)
                self._drop(link, now)
                return
            if data is None:
                return
            if not data:
                log.log(self._news[1], "%s closed the connection.", link.server)
                self._drop(link, now)
                return
            if not self.core.received(link, data, now):
                self._drop(link, now)
                return
            if len(data) < 65536:
                return

    def _send_all(self) -> None:
        for link in list(self._connections):
            self._send(link)

    def _send(self, link: Link) -> None:
        connection, protocol = self._connections[link], link.protocol
        if protocol is None:
            return
        rest = self._unsent.pop(link, None)
        blocked = False
        while not blocked and (data := rest or memoryview(protocol.data_to_send())):
            try:
                sent = connection.send_some(data)
            except NetworkError as error:
                log.log(self._news[1], "%s: %s", link.server, error)
                self._drop(link, time.monotonic())
                return
            blocked = sent < len(data)
            if blocked:
                self._unsent[link] = data[sent:]
            if sent and (blocked or rest):
                link.pulse.transfers(time.monotonic())
            rest = None
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if blocked else 0)
        key = self._selector.get_key(connection)
        if key.events != mask:
            self._selector.modify(connection, mask, link)
            if blocked and self._waiting:
                self.wake()

    # --- connections -----------------------------------------------------------------------------------------

    def _connect(self, link: Link) -> None:
        result: Connection | NetworkError
        try:
            result = self._open(link.server, CONNECT_TIMEOUT, self._tls)
        except NetworkError as error:
            result = error
        self._connected.append((link, result))
        if self._closed:
            self._take_connected()
        else:
            self.wake()

    def _probe(self, link: Link, since: float) -> None:
        self._probed.append((link, since, probe(link.server, CONNECT_TIMEOUT, self._tls, self._open)))
        if not self._closed:
            self.wake()

    def _take_connected(self) -> None:
        while self._probed:
            self.core.probed(*self._probed.popleft(), time.monotonic())
        while self._connected:
            link, result = self._connected.popleft()
            now = time.monotonic()
            if self._closed:
                if isinstance(result, Connection):
                    result.close()
            elif isinstance(result, Connection):
                self._connections[link] = result
                self._selector.register(result, selectors.EVENT_READ, link)
                self.core.opened(link, now)
                log.log(self._news[0], "Connected to %s.", link.server)
                self._said_unreachable.discard(link)
                if self._on_connected is not None:
                    self._on_connected()
            else:
                if link not in self._said_unreachable:
                    self._said_unreachable.add(link)
                    log.log(self._news[1], "%s Trying again until it answers.", result)
                self.core.closed(link, now)

    def _drop(self, link: Link, now: float) -> None:
        connection = self._connections.pop(link, None)
        self._unsent.pop(link, None)
        if connection is not None:
            self._selector.unregister(connection)
            connection.close()
        self.core.closed(link, now)
        if self._waiting:
            self.wake()

    # --- a worker without threads ----------------------------------------------------------------------------

    def serve(self, handler: Handler) -> None:
        """Serves until `stop` was called and nothing is held any more; `handler` runs the jobs."""
        while not (self.core.stopping and self.core.idle):
            job = self.take()
            while job is not None:
                handler.start(job)
                job = self.take()
            now = time.monotonic()
            self.pump(max(0.0, handler.tick(now) - now))
        self.pump()


def fresh_unique() -> str:
    """A unique nobody else has: 32 hexadecimal digits."""
    return secrets.token_hex(16)
