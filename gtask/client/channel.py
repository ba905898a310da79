"""A foreground job that its caller can say something to while it runs: how much of its data is consumed.

Gearman has no way for that, but a token will do. A token is an ordinary job of `FUNCTION` that the caller submits and
grabs itself, over the connection that it then makes its call over. As long as it holds the token it can report on it,
with WORK_STATUS; the worker that streams attaches to the token by its unique, and the job server pushes these reports
to it. When the caller ends the token, or its connection ends, the worker hears that too. So one function serves every
stream there is, and nothing is left behind on the job server: the end of the connection takes everything along.

Callers that begin at the same moment may grab each other's tokens. That does no harm: what counts is which token a
caller holds, and it tells the worker that one's unique. Reports carry the number of the run they are meant for, so a
worker that is attached to a token from before, whose caller has died, takes nothing for its own.

Protocol reference, sections 5, 7 and 11. Each stream has a client of its own, so one that is read slowly keeps nobody
else's answers waiting.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from gtask.client import base, flows
from gtask.client.aio import AsyncClient
from gtask.client.blocking import Client
from gtask.client.core import Core, Flow
from gtask.client.foreground import AsyncForegroundJob, ForegroundJob
from gtask.client.link import Link, Pending, Request, Run
from gtask.errors import NetworkError, ProtocolError, ServerError
from gtask.protocol import Event, JobAssigned, NoJob, WorkerProtocol
from gtask.transport.stream import Connection
from gtask.types import Server, Submission

FUNCTION: Final = "gtask.stream"
"""The function of all tokens; nobody but their callers serves it."""

ATTACHED: Final = b"attach"
"""The workload of a worker's submission that attaches to a token; a job that holds it is one whose token is gone."""

STALE: Final = 10.0
"""Seconds after which a token that nobody has grabbed is left over: its caller grabs it at once, or is gone."""

ATTEMPTS: Final = 10
"""Tokens that a caller makes, when others grab them one after the other."""


class Grab(Pending):
    """One grab, and the job it brought: None when there was none."""

    __slots__ = ("job",)

    def __init__(self, now: float, patience: float, limit: float) -> None:
        super().__init__(now, patience, limit)
        self.job: JobAssigned | None = None

    def take(self, event: Event) -> None:
        """Takes the answer."""
        self.answered = self.done = True
        if isinstance(event, JobAssigned):
            self.job = event


class ChannelLink(Link):
    """A connection that submits jobs and holds tokens too."""

    __slots__ = ("grabs", "worker")

    def __init__(self, server: Server, stream: Connection, max_body: int, client_id: str, now: float) -> None:
        super().__init__(server, stream, max_body, client_id, now)
        self.worker = self.protocol = WorkerProtocol(max_body)
        self.grabs: deque[Grab] = deque()
        self.worker.set_client_id(client_id or "gtask-stream")
        self.worker.option("exceptions")
        self.worker.can_do(FUNCTION)

    def grab(self, pending: Grab) -> None:
        """Puts a grab in line; `flush` sends it."""
        pending.link = self
        self.torn = True
        self.worker.grab()
        self.grabs.append(pending)
        self.torn = False

    def end(self, error: NetworkError | ProtocolError) -> list[Pending]:
        """As `Link.end`; whoever waits for a token hears of it too."""
        news = super().end(error)
        for grab in self.grabs:
            grab.lose()
            news.append(grab)
        self.grabs.clear()
        return news

    def _sort(self, events: list[Event], now: float) -> list[Pending]:
        news: list[Pending] = []
        for event in events:
            if isinstance(event, JobAssigned | NoJob) and self.grabs:
                self.progress = now
                grab = self.grabs.popleft()
                grab.take(event)
                news.append(grab)
        return news + super()._sort(events, now)


class ChannelCore(Core):
    """A client's core whose connections hold tokens."""

    link_type = ChannelLink


class Channel(flows.Foreground):
    """A foreground job with a token.

    `make` makes the submission for a token's unique; it is called anew for each attempt, each of which has its own.
    """

    __slots__ = ("_make", "_token", "_token_link")

    def __init__(self, core: Core, function: str, make: Callable[[str], Submission], timeout: float | None) -> None:
        super().__init__(core, Submission(function, b"", "", background=False), timeout, listening=True)
        self._make = make
        self._token = b""
        self._token_link: ChannelLink | None = None

    def start(self, flush: bool = True) -> Flow[None]:
        """Gets a token and sends the job."""
        while True:
            link = yield from self.core.reach(self.trip)
            assert isinstance(link, ChannelLink)
            token = yield from self._get_token(link)
            if token is not None and link.usable:
                break
        self._token, self._token_link = token.handle, link
        self.submission = self._make(token.unique)
        run = Run(time.monotonic(), self.core.request_timeout, self.trip.limit, self.listening, self.core.max_body)
        link.submit(base.as_foreground(self.submission), run)
        link.live += 1
        self.run = run
        self.core.flush(link)

    def _get_token(self, link: ChannelLink) -> Flow[JobAssigned | None]:
        """A token, held over this connection; None when another connection is to be tried."""
        for _ in range(ATTEMPTS):
            made = Request(time.monotonic(), self.core.request_timeout, self.trip.limit)
            workload = b"%d" % time.time()
            link.submit(Submission(FUNCTION, workload, base.fresh_unique(FUNCTION), background=False), made)
            while True:
                grab = Grab(time.monotonic(), self.core.request_timeout, self.trip.limit)
                link.grab(grab)
                yield from self.core.answer(grab)
                if made.ticket is not None and made.done:
                    made.ticket.tag = None  # its reports come back to whoever has submitted it; nobody needs them
                if not grab.done:
                    self.core.silent(self.trip, grab)
                    return None
                if grab.lost:
                    yield from self.core.lost(self.trip, link)
                    return None
                if made.error is not None:
                    raise made.error
                if grab.job is None or _is_fresh(grab.job.workload):
                    break
                link.worker.complete(grab.job.handle, b"")
            if grab.job is not None:
                return grab.job
        raise ServerError("", "", f"{link.server} gave no token for a stream: others took {ATTEMPTS} in a row. Retry.")

    def report(self, chunks: int, run: int) -> None:
        """Says how many chunks of a run are consumed. Never waits, and says nothing over a lost connection."""
        link = self._token_link
        if link is not None and link.error is None and self._token in link.worker.held:
            link.worker.send_status(self._token, chunks, run)
            self.core.flush(link)

    def close(self) -> None:
        """Ends the token: the worker stops. Its connection goes on."""
        link, self._token_link = self._token_link, None
        if link is not None and link.error is None and self._token in link.worker.held:
            link.worker.complete(self._token, b"")
            self.core.flush(link)
        super().close()


def _is_fresh(workload: bytes) -> bool:
    try:
        return workload != ATTACHED and abs(time.time() - int(workload)) < STALE
    except ValueError:
        return False


class StreamClient(Client):
    """A client for one stream at a time."""

    core_type = ChannelCore

    def open_channel(
        self, function: str, make: Callable[[str], Submission], timeout: float | None
    ) -> tuple[ForegroundJob, Channel]:
        """Sends a job with a token; raises as `Client.open` does."""
        channel = Channel(self._core, function, make, timeout)
        try:
            self._run(channel.start())
        except BaseException:
            self._drop(channel)
            raise
        return ForegroundJob(self, channel), channel

    def report(self, channel: Channel, chunks: int, run: int) -> None:
        """See `Channel.report`."""
        with self._lock:
            channel.report(chunks, run)


class AsyncStreamClient(AsyncClient):
    """A client for one stream at a time, for async code."""

    core_type = ChannelCore

    def close(self) -> None:
        """As `aclose`, which never waits."""
        self._core.close()

    async def open_channel(
        self, function: str, make: Callable[[str], Submission], timeout: float | None
    ) -> tuple[AsyncForegroundJob, Channel]:
        """Sends a job with a token; raises as `Client.open` does."""
        channel = Channel(self._core, function, make, timeout)
        try:
            await self._run(channel.start())
        except BaseException:
            channel.close()
            raise
        return AsyncForegroundJob(self, channel), channel

    def report(self, channel: Channel, chunks: int, run: int) -> None:
        """See `Channel.report`."""
        channel.report(chunks, run)


__all__ = ["ATTACHED", "FUNCTION", "AsyncStreamClient", "Channel", "StreamClient"]
