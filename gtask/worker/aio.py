"""Drives a `WorkerCore` in an event loop: the pool `async`, under asyncio, uvloop or trio.

For each job server one task connects and reads, another writes. Jobs are run by up to `slots` tasks that stay, and
take the next job themselves; a new one is started only when there is a job and none of them is free.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
from anyio.abc import TaskGroup

from gtask.errors import NetworkError
from gtask.transport.aio import Connection, connect
from gtask.transport.tls import TLS
from gtask.worker.blocking import CONNECT_TIMEOUT
from gtask.worker.core import WorkerCore
from gtask.worker.job import Ending, Job
from gtask.worker.link import Link
from gtask.worker.probe import aprobe

log = logging.getLogger("gtask.worker")

AsyncRun = Callable[[Job], Awaitable[Ending | None]]
"""Runs a job and says how it ends; None when it was put off."""

MAX_WAIT: Final = 60.0


class AsyncDriver:
    """One worker in one event loop. Every method is for this loop's tasks, except `stop`."""

    def __init__(
        self,
        core: WorkerCore,
        run: AsyncRun,
        tls: TLS | None = None,
        max_jobs: int = 0,
        on_connected: Callable[[], None] | None = None,
    ) -> None:
        self.core = core
        self._run = run
        self._tls = tls
        self._max_jobs = max_jobs
        self._taken = 0
        self._told = False
        self._on_connected = on_connected
        self._connections: dict[Link, Connection] = {}
        self._to_write: dict[Link, anyio.Event] = {}
        self._idle: deque[anyio.Event] = deque()
        self._changed = anyio.Event()
        self._said_unreachable: set[Link] = set()

    async def serve(self) -> None:
        """Serves until `stop` was called and nothing is held any more."""
        async with anyio.create_task_group() as group:
            while not (self.core.stopping and self.core.idle):
                now = time.monotonic()
                for link in self.core.condemned(now):
                    self._take_waiting(link)
                for link in self.core.condemned(now):
                    log.warning("%s does not answer; its connection is closed.", link.server)
                    # Its reader wakes up and lets go of it; a descriptor is not freed while somebody waits for it.
                    self._connections[link].shutdown()
                for link in self.core.suspects(now):
                    group.start_soon(self._probe, link)
                for link in self.core.connects(now):
                    group.start_soon(self._serve_link, link)
                self._advance(group)
                changed = self._changed
                with anyio.move_on_after(max(0.0, min(self.core.deadline(now) - now, MAX_WAIT))):
                    await changed.wait()
                if self._changed is changed:
                    self._changed = anyio.Event()
            await self._flush_last()
            group.cancel_scope.cancel()

    def forked(self) -> None:
        """In a process that a task has forked: lets go of the connections; see `BlockingDriver.forked`."""
        for connection in self._connections.values():
            connection.close()

    def stop(self) -> None:
        """Takes no more jobs; call it in the loop."""
        self._told = True
        self.core.stopping = True
        self.wake()

    def put_off(self, job: Job, delay: float) -> bool:
        """Lets a job run again after `delay` seconds, without a slot; false when too many wait already."""
        done = self.core.put_off(job, time.monotonic() + delay)
        self.wake()
        return done

    def lend(self, job: Job) -> bool:
        """Lends out the slot of a job that waits for another job; false when too many are lent out already."""
        if not self.core.lend(job):
            return False
        self._look_at_end()
        self._advance()
        return True

    def take_back(self, job: Job) -> None:
        """Ends `lend`."""
        self.core.take_back(job)
        self._look_at_end()

    def _look_at_end(self) -> None:
        """Stops after `max_jobs`, unless one waits for another that perhaps nobody else would run."""
        if 0 < self._max_jobs <= self._taken and not self._told:
            self.core.stopping = not self.core.lent
            self._changed.set()

    def report(self, job: Job, send: Callable[[], None]) -> bool:
        """Sends something about a running job (`send` queues it); false when its connection is gone."""
        if job.lost or job.link.protocol is None or job.link.protocol.closed:
            return False
        send()
        self._write(job.link)
        return True

    # --- jobs ------------------------------------------------------------------------------------------------

    def _advance(self, group: TaskGroup | None = None) -> None:
        """Carries on with everything that can go on, and hands jobs to the tasks that wait for one."""
        core = self.core
        core.pump(time.monotonic())
        for link in self._connections:
            self._write(link)
        waiting = min(len(core.backlog), core.options.slots - len(core.running))
        while waiting > 0 and self._idle:
            self._idle.popleft().set()
            waiting -= 1
        if core.shut and group is None:
            self.wake()
        if waiting > 0:
            if group is None:
                self.wake()
                return
            for _ in range(waiting):
                job = self._take()
                if job is not None:
                    group.start_soon(self._work, job)

    def _take(self) -> Job | None:
        job = self.core.take()
        if job is not None:
            job.started = time.monotonic()
            self._taken += 1
            self._look_at_end()
        return job

    async def _work(self, job: Job | None) -> None:
        while True:
            while job is not None:
                ending = await self._run(job)
                if ending is not None:
                    self.core.finish(job, ending, time.monotonic())
                self._advance()
                job = self._take()
            if self.core.stopping:
                self.wake()
            free = anyio.Event()
            self._idle.append(free)
            await free.wait()
            job = self._take()

    # --- bytes -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Looks what can go on; call it in the loop."""
        self._changed.set()

    def _write(self, link: Link) -> None:
        event = self._to_write.get(link)
        if event is not None and link.protocol is not None:
            event.set()

    async def _serve_link(self, link: Link) -> None:
        try:
            connection = await connect(link.server, CONNECT_TIMEOUT, self._tls)
        except NetworkError as error:
            if link not in self._said_unreachable:
                self._said_unreachable.add(link)
                log.warning("%s Trying again until it answers.", error)
            self.core.closed(link, time.monotonic())
            self.wake()
            return
        self._said_unreachable.discard(link)
        self._connections[link] = connection
        self._to_write[link] = anyio.Event()
        self.core.opened(link, time.monotonic())
        log.info("Connected to %s.", link.server)
        if self._on_connected is not None:
            self._on_connected()
        self.wake()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._write_all, link, connection)
                await self._read_all(link, connection)
                group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._drop(link)
            self.wake()

    async def _read_all(self, link: Link, connection: Connection) -> None:
        while True:
            try:
                data = await connection.recv()
            except NetworkError as error:
                log.warning("%s: %s", link.server, error)
                return
            if not data:
                log.warning("%s closed the connection.", link.server)
                return
            if not self.core.received(link, data, time.monotonic()):
                return
            self._advance()

    def _take_waiting(self, link: Link) -> None:
        """Takes what has come and was not read yet; how the connection is otherwise, its reader finds out."""
        with contextlib.suppress(NetworkError):
            data = self._connections[link].recv_some()
            if data:
                self.core.received(link, data, time.monotonic())

    async def _probe(self, link: Link) -> None:
        since = link.pulse.heard
        answered = await aprobe(link.server, CONNECT_TIMEOUT, self._tls)
        self.core.probed(link, since, answered, time.monotonic())
        self.wake()

    async def _write_all(self, link: Link, connection: Connection) -> None:
        while True:
            await self._to_write[link].wait()
            self._to_write[link] = anyio.Event()
            protocol = link.protocol
            data = protocol.data_to_send() if protocol is not None else b""
            if data:
                try:
                    await _send(link, connection, data)
                except NetworkError:
                    # The reader hears of it too, and says so.
                    return

    async def _drop(self, link: Link) -> None:
        connection = self._connections.pop(link, None)
        self._to_write.pop(link, None)
        if connection is not None:
            connection.close()
            self.core.closed(link, time.monotonic())

    async def _flush_last(self) -> None:
        with anyio.move_on_after(5.0):
            for link, connection in list(self._connections.items()):
                data = link.protocol.data_to_send() if link.protocol is not None else b""
                if data:
                    try:
                        await connection.send(data)
                    except NetworkError:
                        pass


async def _send(link: Link, connection: Connection, data: bytes) -> None:
    """Sends all of it; what does not fit into the socket at once keeps the link's pulse going while it is taken."""
    view, waited = memoryview(data), False
    while view:
        sent = connection.send_some(view)
        view = view[sent:]
        if sent and (view or waited):
            link.pulse.transfers(time.monotonic())
        if view:
            waited = True
            await connection.wait_writable()
