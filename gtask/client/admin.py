"""Admin clients: questions and orders to one job server in the text protocol. Protocol reference, section 17.

`AdminClient` blocks, `AsyncAdminClient` is its twin. What is said and how an answer is read is in
`gtask.protocol.admin`; here is one connection, kept between commands and made again when it was lost.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeVar

import anyio

from gtask.client.base import CONNECT_TIMEOUT, REQUEST_TIMEOUT
from gtask.errors import ConnectionLost, LocalProtocolError, RemoteProtocolError, RequestTimeout, ServerError
from gtask.protocol.admin import Answer, AnswerReader, Command, JobRow, PriorityRow, StatusRow, WorkerRow
from gtask.transport import aio, blocking
from gtask.transport.stream import Connection
from gtask.transport.tls import TLS
from gtask.types import Server, parse_server

__all__ = ["AdminClient", "AsyncAdminClient"]

Row = TypeVar("Row")

Answers = list[Answer | ServerError]


class _Talk:
    """What both faces know: the server, the limits, and how an answer becomes a value."""

    def __init__(self, server: str | Server, timeout: float, connect_timeout: float, tls: TLS | None) -> None:
        self.server = parse_server(server)
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._tls = tls
        self._pid = os.getpid()

    def _lost(self, stream: Connection, data: bytes) -> None:
        if not data:
            raise stream.lost()

    def _silent(self) -> RequestTimeout:
        return RequestTimeout(f"{self.server} did not answer within {self._timeout:g} s; the connection was closed.")

    def _not_gearman(self, error: RemoteProtocolError) -> RemoteProtocolError:
        return RemoteProtocolError(f"{self.server} does not answer like a Gearman job server: {error}")


def _text(answers: Answers) -> str:
    last = answers[-1]
    if isinstance(last, ServerError):
        raise last
    return last.text


def _rows(answers: Answers, kind: type[Row]) -> list[Row]:
    last = answers[-1]
    if isinstance(last, ServerError):
        raise last
    return [row for row in last.rows if isinstance(row, kind)]


def _done(answers: Answers) -> None:
    for answer in answers:
        if isinstance(answer, ServerError):
            raise answer


def _pid(answers: Answers) -> int:
    text = _text(answers)
    if not text.isdigit():
        raise RemoteProtocolError(f"The job server says that {text[:80]!r} is its process id.")
    return int(text)


def _limits(function: str, limit: int | None, high: int | None, normal: int | None, low: int | None) -> list[Command]:
    """The commands that set a limit; the function is created first, for the limit of an unknown one is forgotten."""
    by_priority = (high, normal, low)
    if limit is not None and any(value is not None for value in by_priority):
        raise LocalProtocolError("Give one limit for all priorities, or one for each, not both.")
    numbers: tuple[int, ...] = ()
    if any(value is not None for value in by_priority):
        numbers = tuple(value or 0 for value in by_priority)
    elif limit is not None:
        numbers = (limit,)
    if any(number < 0 for number in numbers):
        raise LocalProtocolError("A limit is a number of jobs; 0 or none at all takes the limit away.")
    return [Command("create function", (function,)), Command("maxqueue", (function, *map(str, numbers)))]


def _refuse_drop(rows: Sequence[StatusRow], function: str) -> None:
    """Refuses to drop a function that has jobs: gearmand frees it under them (protocol reference, section 17)."""
    jobs = sum(row.total for row in rows if row.function.lower() == function.lower())
    if jobs:
        raise LocalProtocolError(
            f"{function} still has {jobs} jobs, and they would be lost with it; run them first, or use force."
        )


class AdminClient(_Talk):
    """Asks and orders one job server in the text protocol, from any number of threads.

    `server` is its address, as `gtask.types.parse_server` takes it; it has `timeout` seconds for each command, and
    `connect_timeout` for the connection, which is protected as `tls` says when the address is `gearmans://`, and which
    `connect` makes. Each method raises `ServerError` when the server refuses, `ConnectFailed`, `ConnectionLost` or
    `RequestTimeout` when it cannot be reached or does not answer, `RemoteProtocolError` when it is no job server, and
    `LocalProtocolError` for names that cannot be sent. Protocol reference, section 17.
    """

    def __init__(
        self,
        server: str | Server = "127.0.0.1",
        *,
        timeout: float = REQUEST_TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        tls: TLS | None = None,
        connect: blocking.Connect = blocking.connect,
    ) -> None:
        super().__init__(server, timeout, connect_timeout, tls)
        self._connect = connect
        self._lock = threading.Lock()
        self._stream: blocking.Connection | None = None

    def __repr__(self) -> str:
        return f"<AdminClient {self.server} {'connected' if self._stream is not None else 'not connected'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; the next command makes a new one."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def ask(self, *commands: Command) -> Answers:
        """Sends commands together and returns their answers in order, a `ServerError` for one that was refused."""
        with self._lock:
            kept = self._stream is not None
            try:
                return self._ask(commands)
            except ConnectionLost:
                if not kept:
                    raise
                return self._ask(commands)  # the kept connection was an old one

    def _ask(self, commands: Sequence[Command]) -> Answers:
        reader, data = _open_talk(commands)
        if self._pid != os.getpid():  # the parent's connection is left to the parent
            self._pid = os.getpid()
            self.close()
        deadline = time.monotonic() + self._timeout
        try:
            stream = self._stream
            if stream is None:
                stream = self._stream = self._connect(self.server, self._connect_timeout, self._tls)
            stream.send(data, deadline)
            answers: Answers = []
            while reader.waiting:
                if (piece := stream.recv_some()) is not None:
                    self._lost(stream, piece)
                    answers += reader.receive_data(piece)
                elif not stream.wait_readable(deadline):
                    raise self._silent()
        except RemoteProtocolError as error:
            self.close()
            raise self._not_gearman(error) from error
        except BaseException:
            self.close()
            raise
        return answers

    def version(self) -> str:
        """The server's version, for instance ``1.1.20+ds``."""
        return _text(self.ask(Command("version")))

    def pid(self) -> int:
        """The server's process id."""
        return _pid(self.ask(Command("getpid")))

    def status(self) -> list[StatusRow]:
        """Each function with its jobs and workers, in no particular order."""
        return _rows(self.ask(Command("status")), StatusRow)

    def priority_status(self) -> list[PriorityRow]:
        """Each function with its queued jobs by priority."""
        return _rows(self.ask(Command("prioritystatus")), PriorityRow)

    def workers(self) -> list[WorkerRow]:
        """Each connection of the server (clients too, and this one) with what it can do."""
        return _rows(self.ask(Command("workers")), WorkerRow)

    def jobs(self) -> list[JobRow]:
        """Each job the server has, queued or running."""
        return _rows(self.ask(Command("show jobs")), JobRow)

    def unique_jobs(self) -> list[str]:
        """The unique of each job the server has, "" for a job without one."""
        return _rows(self.ask(Command("show unique jobs")), str)

    def max_queue(
        self,
        function: str,
        limit: int | None = None,
        *,
        high: int | None = None,
        normal: int | None = None,
        low: int | None = None,
    ) -> None:
        """Limits the jobs of a function, queued and running together; submissions beyond are refused.

        One `limit` for all, or one for submissions of each priority (0: none), or nothing: no limit. The function is
        created when it does not exist. The server forgets the limit when it restarts.
        """
        _done(self.ask(*_limits(function, limit, high, normal, low)))

    def cancel(self, handle: str) -> None:
        """Cancels a queued job; its callers are told that it failed. A running one is not stopped, only forgotten.

        Raises `ServerError` with the code ``UNKNOWN_JOB`` when there is no such job. Do not submit its unique again
        while the job is listed (protocol reference, section 11).
        """
        _done(self.ask(Command("cancel job", (handle,))))

    def create_function(self, function: str) -> None:
        """Makes a function known to the server."""
        _done(self.ask(Command("create function", (function,))))

    def drop_function(self, function: str, force: bool = False) -> None:
        """Makes the server forget a function that no worker offers.

        Refused with `LocalProtocolError` while it has jobs, which would be lost; `force` drops it all the same.
        """
        if not force:
            _refuse_drop(self.status(), function)
        _done(self.ask(Command("drop function", (function,))))


class AsyncAdminClient(_Talk):
    """The twin of `AdminClient` for asyncio, uvloop and trio, with the same settings and calls."""

    def __init__(
        self,
        server: str | Server = "127.0.0.1",
        *,
        timeout: float = REQUEST_TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        tls: TLS | None = None,
    ) -> None:
        super().__init__(server, timeout, connect_timeout, tls)
        self._lock = anyio.Lock()
        self._stream: aio.Connection | None = None

    def __repr__(self) -> str:
        return f"<AsyncAdminClient {self.server} {'connected' if self._stream is not None else 'not connected'}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connection; the next command makes a new one."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    async def ask(self, *commands: Command) -> Answers:
        """Sends commands together and returns their answers in order; see `AdminClient.ask`."""
        async with self._lock:
            kept = self._stream is not None
            try:
                return await self._ask(commands)
            except ConnectionLost:
                if not kept:
                    raise
                return await self._ask(commands)  # the kept connection was an old one

    async def _ask(self, commands: Sequence[Command]) -> Answers:
        reader, data = _open_talk(commands)
        if self._pid != os.getpid():  # the parent's connection is left to the parent
            self._pid = os.getpid()
            await self.aclose()
        deadline = time.monotonic() + self._timeout
        try:
            stream = self._stream
            if stream is None:
                stream = self._stream = await aio.connect(self.server, self._connect_timeout, self._tls)
            await stream.send(data, deadline)
            answers: Answers = []
            while reader.waiting:
                if (piece := stream.recv_some()) is not None:
                    self._lost(stream, piece)
                    answers += reader.receive_data(piece)
                elif not await stream.wait_readable(deadline):
                    raise self._silent()
        except RemoteProtocolError as error:
            await self.aclose()
            raise self._not_gearman(error) from error
        except BaseException:
            await self.aclose()
            raise
        return answers

    async def version(self) -> str:
        """The server's version; see `AdminClient.version`."""
        return _text(await self.ask(Command("version")))

    async def pid(self) -> int:
        """The server's process id."""
        return _pid(await self.ask(Command("getpid")))

    async def status(self) -> list[StatusRow]:
        """Each function with its jobs and workers; see `AdminClient.status`."""
        return _rows(await self.ask(Command("status")), StatusRow)

    async def priority_status(self) -> list[PriorityRow]:
        """Each function with its queued jobs by priority."""
        return _rows(await self.ask(Command("prioritystatus")), PriorityRow)

    async def workers(self) -> list[WorkerRow]:
        """Each connection of the server with what it can do; see `AdminClient.workers`."""
        return _rows(await self.ask(Command("workers")), WorkerRow)

    async def jobs(self) -> list[JobRow]:
        """Each job the server has, queued or running."""
        return _rows(await self.ask(Command("show jobs")), JobRow)

    async def unique_jobs(self) -> list[str]:
        """The unique of each job the server has; see `AdminClient.unique_jobs`."""
        return _rows(await self.ask(Command("show unique jobs")), str)

    async def max_queue(
        self,
        function: str,
        limit: int | None = None,
        *,
        high: int | None = None,
        normal: int | None = None,
        low: int | None = None,
    ) -> None:
        """Limits the jobs of a function; see `AdminClient.max_queue`."""
        _done(await self.ask(*_limits(function, limit, high, normal, low)))

    async def cancel(self, handle: str) -> None:
        """Cancels a queued job; see `AdminClient.cancel`."""
        _done(await self.ask(Command("cancel job", (handle,))))

    async def create_function(self, function: str) -> None:
        """Makes a function known to the server."""
        _done(await self.ask(Command("create function", (function,))))

    async def drop_function(self, function: str, force: bool = False) -> None:
        """Makes the server forget a function; see `AdminClient.drop_function`."""
        if not force:
            _refuse_drop(await self.status(), function)
        _done(await self.ask(Command("drop function", (function,))))


def _open_talk(commands: Sequence[Command]) -> tuple[AnswerReader, bytes]:
    reader = AnswerReader()
    data = b"".join(command.encode() for command in commands)
    for command in commands:
        reader.expect(command)
    return reader, data
