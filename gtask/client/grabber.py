"""Takes jobs out of one queue of one job server, step by step: for tools that look into queues, not for workers.

Protocol reference, sections 5 and 7. Jobs that are held go back when the connection ends, which counts as an attempt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

from gtask.errors import ServerError
from gtask.protocol import Event, JobAssigned, JobCreated, Refused, WorkerProtocol
from gtask.protocol.events import Ticket
from gtask.transport.blocking import connect
from gtask.transport.tls import TLS
from gtask.types import Server, Submission

__all__ = ["Grabber"]


class Grabber:
    """A connection to `server` that takes jobs of `function` and may submit others.

    It is connected within `connect_timeout` seconds, and each answer may take `timeout` seconds. Every method raises
    `NetworkError` when that is over or the connection is lost, and `RemoteProtocolError` when the other side is no job
    server. Use it in a `with` block, in one thread.
    """

    def __init__(
        self, server: Server, function: str, *, timeout: float, connect_timeout: float, tls: TLS | None = None
    ) -> None:
        self.server = server
        self.usable = True
        """False after an exchange that was not finished: close it, and what is held goes back."""
        self._timeout = timeout
        self._connection = connect(server, connect_timeout, tls)
        self._protocol = WorkerProtocol()
        self._protocol.set_client_id(f"gtask-looks-at-{function}")
        self._protocol.can_do(function)

    def __repr__(self) -> str:
        return f"<Grabber {self.server} {self._protocol}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; jobs that are held go back."""
        self._connection.close()

    def grab(self, count: int) -> list[JobAssigned]:
        """Takes up to `count` jobs, fewer when there are no more."""
        jobs: list[JobAssigned] = []
        self._protocol.grab(count)

        def take(event: Event) -> None:
            if isinstance(event, JobAssigned):
                jobs.append(event)

        self._talk(lambda: not self._protocol.outstanding, take)
        return jobs

    def submit(self, submissions: Sequence[Submission]) -> list[ServerError | None]:
        """Submits background jobs; for each None when it was confirmed, or why it was refused."""
        answers: dict[Ticket, ServerError | None] = {}

        def note(event: Event) -> None:
            if isinstance(event, JobCreated | Refused):
                answers[event.ticket] = event.error if isinstance(event, Refused) else None

        tickets = [self._protocol.submit(submission) for submission in submissions]
        self._talk(lambda: len(answers) == len(tickets), note)
        return [answers[ticket] for ticket in tickets]

    def complete(self, jobs: Iterable[JobAssigned]) -> None:
        """Ends jobs that are held, and waits until the job server has taken notice."""
        for job in jobs:
            self._protocol.complete(job.handle, b"")
        answered: list[Event] = []
        barrier = self._protocol.echo(b"done")

        def note(event: Event) -> None:
            if getattr(event, "ticket", None) is barrier:
                answered.append(event)

        self._talk(lambda: bool(answered), note)

    def _talk(self, done: Callable[[], bool], handle: Callable[[Event], None]) -> None:
        # Broken off in between, by a signal's exception for one, nobody knows what was sent and what is answered.
        self.usable = False
        self._exchange(done, handle)
        self.usable = True

    def _exchange(self, done: Callable[[], bool], handle: Callable[[Event], None]) -> None:
        deadline = time.monotonic() + self._timeout
        while True:
            data = self._protocol.data_to_send()
            if data:
                self._connection.send(data, deadline)
            if done():
                return
            received = self._connection.recv(deadline)
            if not received:
                raise self._connection.lost()
            for event in self._protocol.receive_data(received):
                handle(event)
            if self._protocol.error is not None:
                raise self._protocol.error
