"""The blocking client. It has no thread and no loop of its own: whoever waits reads for everyone.

The first to wait on a connection becomes its reader; the others sleep until the reader has their answer, or leaves
and one of them takes its place. One lock guards the client's state, and is never held while anything waits.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from random import Random
from types import TracebackType
from typing import Self, TypeVar

from gtask.client import base, flows
from gtask.client.base import Submitted
from gtask.client.core import Core, Flow, Open, Pause
from gtask.client.foreground import ForegroundJob
from gtask.client.link import FLUSH_SLICE, Link, Part, Pending
from gtask.errors import GtaskError, NetworkError, ServerError
from gtask.protocol.codec import MAX_BODY
from gtask.protocol.events import WorkData, WorkStatus, WorkWarning
from gtask.transport.blocking import Connection, connect
from gtask.transport.tls import TLS
from gtask.types import JobStatus, Server, Submission

__all__ = ["Client"]

T = TypeVar("T")

_MAX_WAIT = 3600.0
"""Seconds one sleep may last; a longer one is repeated."""

_clients: weakref.WeakSet[Client] = weakref.WeakSet()


class Client:
    """A client of one or several job servers, for any number of threads.

    `servers` as `gtask.types.parse_servers` takes them. A server has `request_timeout` seconds for each answer, and
    `connect_timeout` for each connection; a packet from it may have `max_body` bytes. `tls` says how `gearmans://`
    addresses are protected. `client_id` names the connections in the servers' lists. `rng` draws the preferred server
    and the jitter. Connections are made when they are needed, and made again when they are lost.

    It may be shared by threads, and survives `os.fork()`: the child leaves its parent's connections alone and makes
    its own. `close()` it, or use it in a `with` block. Design, sections 6 and 8.
    """

    core_type: type[Core] = Core

    def __init__(
        self,
        servers: str | Server | Iterable[str | Server] | None = None,
        *,
        request_timeout: float = base.REQUEST_TIMEOUT,
        connect_timeout: float = base.CONNECT_TIMEOUT,
        max_body: int = MAX_BODY,
        tls: TLS | None = None,
        client_id: str = "",
        rng: Random | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._gates: dict[Server, threading.Event] = {}
        self._closing = threading.Event()
        self._core = self.core_type(
            servers,
            wake=_wake,
            request_timeout=request_timeout,
            connect_timeout=connect_timeout,
            max_body=max_body,
            tls=tls,
            client_id=client_id,
            rng=rng,
        )
        _clients.add(self)

    def __repr__(self) -> str:
        with self._lock:
            return self._core.describe(type(self).__name__)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def servers(self) -> tuple[Server, ...]:
        """The job servers of this client, in the order in which they were given."""
        return self._core.servers

    def close(self) -> None:
        """Ends all connections, for good; calls under way in other threads raise `ConnectionLost`."""
        self._closing.set()
        with self._lock:
            self._core.close()

    # --- calls -----------------------------------------------------------------------------------------------

    def submit(self, submission: Submission, timeout: float | None = None) -> Submitted:
        """Hands a background job to a job server, and returns once the server has accepted it.

        Without a unique it gets a fresh one. `timeout` is in seconds for all of it; without one, each server may take
        its `request_timeout`. When an answer is lost the job is sent again under its unique, so it is there at least
        once. Raises `QueueFull` or `ServerError` when it is refused, `ConnectFailed` when no server can be reached,
        `ConnectionLost` or `RequestTimeout` when it is unknown whether a server has it, and `LocalProtocolError` when
        it cannot be sent.
        """
        return self._run(flows.submit(self._core, submission, timeout))

    def submit_many(
        self, submissions: Iterable[Submission], timeout: float | None = None
    ) -> list[Submitted | ServerError]:
        """Hands many background jobs over, a thousand (or 4 MiB) under way at once; results are in their order.

        A job that is refused has its `ServerError` in place of its result. `timeout` (seconds) and what is raised are
        as for `submit`; after an error an unknown part of the jobs has been accepted.
        """
        return self._run(flows.submit_many(self._core, submissions, timeout))

    def call(
        self,
        submission: Submission,
        timeout: float | None = None,
        on_event: Callable[[WorkData | WorkWarning | WorkStatus], None] | None = None,
    ) -> bytes:
        """Runs a foreground job and returns its result.

        `on_event` is called, in this thread, with what the job sends while it runs. `timeout` is in seconds for all of
        it, None waits for the job as long as it takes. Each attempt has a fresh unique. When its connection is lost
        the job is submitted again, and events may repeat; without a `timeout` that goes on for at most
        `gtask.client.base.RECONNECT_FOR` seconds without any server. Raises `JobFailed`, `JobException`,
        `ResultTimeout` (accepted, but not finished in time), and what `submit` raises.
        """
        with self.open(submission, timeout, listen=on_event is not None) as job:
            if on_event is not None:
                for event in job:
                    on_event(event)
            return job.result()

    def open(self, submission: Submission, timeout: float | None = None, *, listen: bool = True) -> ForegroundJob:
        """Sends a foreground job and returns at once; several may run at a time over one connection.

        `timeout` (seconds) holds for the whole job; see `call`. With `listen` its events are kept until they are read
        by iterating over it, `max_body` bytes at most. Raises `ConnectFailed` when no server can be reached; a refusal
        is raised by the job.
        """
        job = flows.Foreground(self._core, submission, timeout, listen)
        self._run(job.start())
        return ForegroundJob(self, job)

    def call_many(self, submissions: Iterable[Submission], timeout: float | None = None) -> list[bytes | GtaskError]:
        """Runs foreground jobs side by side, a thousand at once, and returns their results in order.

        A job that failed has its exception in place of its result. `timeout` is in seconds for all of them together.
        Raises `ConnectFailed` when no server can be reached, and `LocalProtocolError` for a job that cannot be sent.
        """
        return self._run(flows.call_many(self._core, submissions, timeout))

    def status(self, unique: str, timeout: float | None = None) -> JobStatus:
        """Asks all job servers that can be reached how the job with this unique is; see `statuses`."""
        return self.statuses([unique], timeout)[0]

    def statuses(
        self, uniques: Iterable[str], timeout: float | None = None, *, certain: bool = False
    ) -> list[JobStatus]:
        """Asks all job servers that can be reached how the jobs with these uniques are, in few packets.

        Where several know one, the one that runs it is believed. `timeout` is in seconds for all of it. Raises
        `ConnectFailed` when no server answers; with `certain` a `NetworkError` when one of them does not, so that an
        unknown job is known nowhere.
        """
        return self._run(flows.statuses(self._core, list(uniques), timeout, certain))

    def echo(self, data: bytes = b"gtask", server: Server | None = None, timeout: float | None = None) -> bytes:
        """Asks a job server (None: the preferred one) for `data` back, as a sign of life; `timeout` in seconds."""
        return self._run(flows.echo(self._core, data, server, timeout))

    # --- waiting ---------------------------------------------------------------------------------------------

    def _run(self, flow: Flow[T]) -> T:
        value: Link | None = None
        error: NetworkError | None = None
        step: Pending | Open | Pause | None = None
        lock = self._lock
        try:
            while True:
                with lock:
                    try:
                        step = flow.send(value) if error is None else flow.throw(error)
                    except StopIteration:
                        raise
                    except BaseException:
                        self._core.mend()  # before another thread has the lock
                        raise
                value = error = None
                try:
                    if isinstance(step, Pending):
                        self._wait(step)
                    elif isinstance(step, Open):
                        value = self._open(step)
                    else:
                        self._closing.wait(step.seconds)
                except NetworkError as failure:
                    error = failure
        except StopIteration as stop:
            result: T = stop.value
            return result
        except BaseException:
            # Also a signal's exception, which may strike anywhere, even where the call had just left everything tidy.
            with lock:
                if isinstance(step, Pending):
                    self._core.stand_down(step)
                flow.close()
                self._core.mend()
            raise

    def _wait(self, pending: Pending) -> None:
        """Waits until there is news for `pending`, or its deadline; reads for all while nobody else does."""
        link = pending.link
        stream = link.stream
        assert isinstance(stream, Connection)
        while True:
            with self._lock:
                part = self._core.attend(pending)
                if part is None:
                    return
                if part is Part.FOLLOW:
                    signal = link.followers[pending] = threading.Lock()
                    signal.acquire()
                unsent = bool(link.unsent)
                deadline = pending.deadline()
            limit = None if deadline == base.INF else deadline
            if part is Part.READ:
                if unsent:
                    stream.wait(limit, writing=True)
                else:
                    stream.wait_readable(limit)
            elif part is Part.WRITE:
                # It looks up now and then: the reader may have left, and it is to read as well.
                stream.wait_writable(min(deadline, time.monotonic() + FLUSH_SLICE))
            else:
                signal.acquire(timeout=-1 if limit is None else min(max(0.0, limit - time.monotonic()), _MAX_WAIT))

    def _open(self, step: Open) -> Link:
        """Connects, or waits until another thread has connected to the same server."""
        server, started = step.server, time.monotonic()
        mine = threading.Event()
        try:
            while True:
                with self._lock:
                    link = self._core.connection(server, started)
                    if link is not None:
                        return link
                    other = self._gates.setdefault(server, mine)
                if other is mine:
                    break
                if not other.wait(started + step.timeout - time.monotonic()):
                    raise base.still_trying(server, step.timeout)
            try:
                stream = connect(server, started + step.timeout - time.monotonic(), self._core.tls)
            except NetworkError as error:
                with self._lock:
                    self._core.refused(server, error)
                raise
            with self._lock:
                return self._core.opened(server, stream)
        finally:
            with self._lock:
                if self._gates.get(server) is mine:
                    del self._gates[server]
            mine.set()

    def _drop(self, job: flows.Foreground) -> None:
        with self._lock:
            job.close()

    def _forked(self) -> None:
        """In a forked child: makes new locks, for the parent's may be held, and lets go of its connections."""
        self._lock = threading.Lock()
        self._gates = {}
        if not self._core.closed:
            self._closing = threading.Event()
        self._core.forked()


def _wake(news: Iterable[Pending]) -> None:
    for pending in news:
        followers = pending.link.followers
        if pending in followers:
            # Released before it is forgotten: an interruption in between costs a needless look, not a sleep for ever.
            with contextlib.suppress(RuntimeError):
                followers[pending].release()
            followers.pop(pending, None)


def _after_fork() -> None:
    for client in list(_clients):
        client._forked()


os.register_at_fork(after_in_child=_after_fork)
