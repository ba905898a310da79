"""One connection of a client and what its callers wait for. It never waits itself: the faces do.

Nothing here is safe for several threads; `gtask.client.blocking` holds its lock around all of it.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Any, Final

from gtask.client.base import INF
from gtask.errors import (
    GtaskError,
    JobException,
    JobFailed,
    LocalProtocolError,
    NetworkError,
    ProtocolError,
    ResultError,
    ServerError,
)
from gtask.protocol import ClientProtocol
from gtask.protocol.events import (
    Answered,
    Event,
    JobAssigned,
    JobCreated,
    Lost,
    NoJob,
    Noop,
    Refused,
    Ticket,
    WorkComplete,
    WorkData,
    WorkException,
    WorkFail,
    WorkRefused,
    WorkStatus,
    WorkWarning,
)
from gtask.transport.stream import Connection
from gtask.types import Server, Submission

MAX_ABANDONED: Final = 1000
"""Foreground jobs nobody waits for any more, after which a connection takes no new ones and ends with its last caller:
only then does the job server forget them."""

FLUSH_SLICE: Final = 0.05
"""Seconds after which somebody who waits to send looks whether nobody reads."""


class Pending:
    """What one caller waits for on one connection.

    `answered` once the job server has said yes or no, `done` once nothing more is to come. `lost` when the connection
    ended before that. `limit` is the time by which the caller wants it, `patience` the seconds of silence that the
    job server is granted for an answer.
    """

    __slots__ = ("answered", "done", "limit", "link", "lost", "patience", "since", "ticket")

    def __init__(self, now: float, patience: float, limit: float = INF) -> None:
        self.answered = False
        self.done = False
        self.lost = False
        self.limit = limit
        self.patience = patience
        self.since = now
        self.link: Link
        self.ticket: Ticket | None = None

    @property
    def ready(self) -> bool:
        """Whether there is something for the caller."""
        return self.done

    def deadline(self) -> float:
        """When to stop waiting; it moves while the job server works its way through the requests before this one."""
        if self.answered:
            return self.limit
        return min(self.limit, max(self.since, self.link.progress) + self.patience)

    def take(self, event: Event) -> None:
        """Takes an event of this request."""
        raise NotImplementedError

    def lose(self) -> None:
        """Says that the connection has ended, to one whose answer was torn from it half-way."""
        if not self.done:
            self.answered = self.done = self.lost = True

    def give_up(self) -> None:
        """Says that nobody waits any more: what still comes is swallowed."""


class Request(Pending):
    """One question and its answer: `value`, or `error` when it was refused."""

    __slots__ = ("error", "value")

    def __init__(self, now: float, patience: float, limit: float = INF) -> None:
        super().__init__(now, patience, limit)
        self.value: Any = None
        self.error: ServerError | None = None

    def take(self, event: Event) -> None:
        """Takes the answer, whatever it is."""
        self.answered = self.done = True
        if isinstance(event, Lost):
            self.lost = True
        elif isinstance(event, Refused):
            self.error = event.error
        elif isinstance(event, JobCreated | Answered):
            self.value = event[1]


class Batch(Pending):
    """Many questions and their answers, in order; an error stands in the place of its answer, None for a lost one."""

    __slots__ = ("expected", "values")

    def __init__(self, now: float, patience: float, limit: float = INF) -> None:
        super().__init__(now, patience, limit)
        self.expected = 0
        self.values: list[Any] = []

    def expect(self) -> None:
        """Says that one more question was asked."""
        self.expected += 1
        self.answered = self.done = False

    def lose(self) -> None:
        """Says that the answers that are not there will not come."""
        self.values += [None] * (self.expected - len(self.values))
        super().lose()

    def take(self, event: Event) -> None:
        """Takes the next answer."""
        values = self.values
        if isinstance(event, Lost):
            self.lost = True
            values.append(None)
        elif isinstance(event, JobCreated | Answered | Refused):
            values.append(event[1])
        if len(values) == self.expected:
            self.answered = self.done = True


class Run(Pending):
    """One attempt of a foreground job: its events while it runs, then `result` or `error`.

    Events are kept only when somebody listens, and `room` bytes of them at most: whoever listens too slowly loses the
    job, not the process its memory.
    """

    __slots__ = ("error", "events", "listening", "live", "result", "room")

    def __init__(self, now: float, patience: float, limit: float, listening: bool, room: int) -> None:
        super().__init__(now, patience, limit)
        self.result = b""
        self.error: GtaskError | None = None
        self.events: deque[WorkData | WorkWarning | WorkStatus] = deque()
        self.listening = listening
        self.live = True
        self.room = room

    @property
    def ready(self) -> bool:
        """Whether there is something for the caller."""
        return self.done or bool(self.events)

    def take(self, event: Event) -> None:
        """Takes what happened to the job."""
        if self.done:
            return
        if isinstance(event, JobCreated):
            self.answered = True
            return
        if isinstance(event, WorkData | WorkWarning | WorkStatus):
            self._keep(event)
            return
        self.answered = self.done = True
        if isinstance(event, WorkComplete):
            self.result = event.data
        elif isinstance(event, WorkFail):
            self.error = JobFailed()
        elif isinstance(event, WorkException):
            self.error = JobException(event.data)
        elif isinstance(event, Refused):
            self.error = event.error
        else:
            self.lost = True

    def next_event(self) -> WorkData | WorkWarning | WorkStatus:
        """Takes the oldest event off."""
        event = self.events.popleft()
        self.room += _size(event)
        return event

    def ignore_events(self) -> None:
        """Drops the events that are there, and those that come."""
        self.listening = False
        self.events.clear()

    def _keep(self, event: WorkData | WorkWarning | WorkStatus) -> None:
        if not self.listening:
            return
        self.room -= _size(event)
        if self.room >= 0:
            self.events.append(event)
            return
        self.done = True
        self.error = ResultError("This job sends faster than its events are read; read them sooner, or do not listen.")
        self.link.abandoned += 1

    def give_up(self) -> None:
        """Says that nobody waits any more."""
        self.events.clear()
        self.listening = False
        if not self.done:
            self.done = True
            self.link.abandoned += 1
        if self.ticket is not None:
            self.ticket.tag = None


def _size(event: WorkData | WorkWarning | WorkStatus) -> int:
    return 200 + len(event[1])


class Part(Enum):
    """What a caller does while it waits for its answer."""

    READ = "wait until there is something to receive, and to send if some bytes are left"
    WRITE = "wait until something can be sent, while another caller reads"
    FOLLOW = "wait until the reader has an answer, or leaves"


class Link:
    """One connection: its conversation, its callers, and the bytes that did not fit into the socket yet.

    `reader` is whoever waits for the socket on behalf of all, `writer` whoever waits until it takes more. `followers`
    wait for the reader, each with what wakes it (the face's business). `progress` is when the job server last answered
    a request. `torn` is true while a step is under way that must not be left half-way: found true afterwards, somebody
    was interrupted in it (a signal's exception), and the connection is not to be trusted any more.
    """

    __slots__ = (
        "abandoned", "error", "followers", "live", "progress", "protocol", "reader", "retired", "server", "stream",
        "torn", "unsent", "used", "writer",
    )  # fmt: skip

    def __init__(self, server: Server, stream: Connection, max_body: int, client_id: str, now: float) -> None:
        self.server = server
        self.stream = stream
        self.protocol = ClientProtocol(max_body)
        if client_id:
            self.protocol.set_client_id(client_id)
        # Its answer comes with that of the first request: no round trip of its own.
        self.protocol.option("exceptions")
        self.unsent: deque[memoryview] = deque()
        self.followers: dict[Pending, Any] = {}
        self.reader: Pending | None = None
        self.writer: Pending | None = None
        self.torn = False
        self.retired = False
        self.live = 0
        self.abandoned = 0
        self.progress = self.used = now
        self.error: NetworkError | ProtocolError | None = None

    def __repr__(self) -> str:
        state = "ended" if self.error else "retired" if self.retired else "open"
        return f"<Link {self.server} {state}, {self.live} waiting>"

    @property
    def usable(self) -> bool:
        """Whether new requests may go over it."""
        return self.error is None and not self.retired and not self.torn

    @property
    def busy(self) -> bool:
        """Whether somebody uses its descriptor at this moment."""
        return self.reader is not None or self.writer is not None

    def part(self, pending: Pending) -> Part:
        """What the caller of `pending` does while it waits: it reads for all, if nobody else does."""
        if self.reader is None or self.reader is pending:
            self.reader = pending
            return Part.READ
        if self.unsent and (self.writer is None or self.writer is pending):
            self.writer = pending
            return Part.WRITE
        if self.writer is pending:
            self.writer = None
        return Part.FOLLOW

    def release(self) -> None:
        """Frees the descriptor of an ended connection; somebody who waits for it is woken, and frees it on leaving."""
        if self.busy:
            self.stream.shutdown()
        else:
            self.stream.close()

    def stand_down(self, pending: Pending) -> list[Pending]:
        """The caller of `pending` waits no more; returns whom to wake so that somebody reads."""
        if self.writer is pending:
            self.writer = None
        self.followers.pop(pending, None)
        if self.reader is pending:
            self.reader = None
        return [next(iter(self.followers))] if self.followers and self.reader is None else []

    def submit(self, submission: Submission, pending: Pending) -> None:
        """Puts a submission in line; `flush` sends it."""
        pending.link = self
        self.torn = True
        try:
            pending.ticket = self.protocol.submit(submission, pending)
        except LocalProtocolError:  # refused before anything was done
            self.torn = False
            raise
        self.torn = False

    def status(self, unique: str, pending: Pending) -> None:
        """Puts a status request in line; `flush` sends it."""
        pending.link = self
        self.torn = True
        try:
            self.protocol.get_status_unique(unique, pending)
        except LocalProtocolError:
            self.torn = False
            raise
        self.torn = False

    def echo(self, data: bytes, pending: Pending) -> None:
        """Puts an echo request in line; `flush` sends it."""
        pending.link = self
        self.torn = True
        self.protocol.echo(data, pending)
        self.torn = False

    def flush(self) -> None:
        """Sends what is in line, as far as the socket takes it; raises `ConnectionLost`."""
        data = self.protocol.data_to_send()
        unsent = self.unsent
        if data:
            sent = self.stream.send_some(data) if not unsent else 0
            if sent == len(data):
                return
            unsent.append(memoryview(data)[sent:])
            if sent:
                return
        while unsent:
            head = unsent[0]
            sent = self.stream.send_some(head)
            if sent < len(head):
                unsent[0] = head[sent:]
                return
            unsent.popleft()

    def receive(self, now: float) -> list[Pending] | None:
        """Takes what has come and returns whose news it is, or None when nothing has. At the end `error` is set."""
        data = self.stream.recv_some()
        if data is None:
            return None
        if not data:
            return self.end(self.stream.lost())
        self.used = now
        news = self._sort(self.protocol.receive_data(data), now)
        if self.protocol.error is not None:
            news += self.end(self.protocol.error)
        return news

    def end(self, error: NetworkError | ProtocolError) -> list[Pending]:
        """Ends the conversation; everybody who still waits hears of it. The descriptor is the owner's to close."""
        if self.error is not None:
            return []
        self.error = error
        self.unsent.clear()
        return self._sort(self.protocol.receive_eof(), self.progress)

    def _sort(self, events: list[Event], now: float) -> list[Pending]:
        news: list[Pending] = []
        for event in events:
            if isinstance(event, WorkRefused | JobAssigned | NoJob | Noop):
                continue  # nothing that a client has asked for
            ticket = event.ticket
            pending: Pending | None = ticket.tag
            if isinstance(event, JobCreated):
                ticket.submission = None  # only its caller still needs the workload
                self.progress = now
            elif isinstance(event, Answered | Refused):
                self.progress = now
            if pending is not None:
                pending.take(event)
                if pending.ready:
                    news.append(pending)
        return news
