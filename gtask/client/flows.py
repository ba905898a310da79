"""The calls of a client, written once for both faces; see `gtask.client.core` for what a flow is."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from time import monotonic
from typing import Final

from gtask.client import base
from gtask.client.base import Submitted
from gtask.client.core import Core, Flow, Trip
from gtask.client.link import Batch, Link, Request, Run
from gtask.errors import GtaskError, LocalProtocolError, NetworkError, ResultTimeout, ServerError
from gtask.protocol.events import WorkData, WorkStatus, WorkWarning
from gtask.types import JobStatus, Server, Submission

_UNANSWERED: Final = ServerError("", "", "This job has no answer yet.")


# --- background jobs -----------------------------------------------------------------------------------------


def submit(core: Core, submission: Submission, timeout: float | None) -> Flow[Submitted]:
    """Flow of `Client.submit`."""
    submission = base.as_background(submission)
    trip = core.trip(submission.unique if submission.coalesce else None, timeout)
    while True:
        link = yield from core.reach(trip)
        request = Request(monotonic(), core.request_timeout, trip.limit)
        link.submit(submission, request)
        yield from core.answer(request)
        if request.error is not None:
            raise request.error
        if not request.done:
            core.silent(trip, request)
        elif request.lost:
            yield from core.lost(trip, link)
        else:
            return Submitted(link.server, request.value.decode(errors="replace"), submission.unique)


def submit_many(
    core: Core, submissions: Iterable[Submission], timeout: float | None
) -> Flow[list[Submitted | ServerError]]:
    """Flow of `Client.submit_many`."""
    results: list[Submitted | ServerError] = []
    trip = core.trip(None, timeout)
    for window in _windows(submissions):
        first = len(results)
        results.extend([_UNANSWERED] * len(window))
        todo: Sequence[int] = range(len(window))
        while todo:
            batches = yield from _put_in_line(core, window, todo, trip)
            todo = yield from _collect(core, window, batches, results, first, trip)
        trip.calm()
    return results


_Batches = dict[Link, tuple[Batch, list[int]]]


def _windows(submissions: Iterable[Submission]) -> Iterator[list[Submission]]:
    window: list[Submission] = []
    size = 0
    for submission in submissions:
        window.append(base.as_background(submission))
        size += len(submission.workload)
        if len(window) >= base.WINDOW_JOBS or size >= base.WINDOW_BYTES:
            yield window
            window, size = [], 0
    if window:
        yield window


def _put_in_line(core: Core, window: Sequence[Submission], todo: Sequence[int], trip: Trip) -> Flow[_Batches]:
    """Chooses a connection for each submission and puts it in line there; nothing is sent yet."""
    batches: _Batches = {}
    preferred: Link | None = None
    for index in todo:
        submission = window[index]
        if submission.coalesce:
            trip.key = submission.unique
            link = yield from core.reach(trip)
            trip.key = None
        else:
            if preferred is None or not preferred.usable:
                preferred = yield from core.reach(trip)
            link = preferred
        if link not in batches:
            batches[link] = (Batch(monotonic(), core.request_timeout, trip.limit), [])
        batch, indexes = batches[link]
        link.submit(submission, batch)
        batch.expect()
        indexes.append(index)
    return batches


def _collect(
    core: Core,
    window: Sequence[Submission],
    batches: _Batches,
    results: list[Submitted | ServerError],
    first: int,
    trip: Trip,
) -> Flow[list[int]]:
    """Sends and waits; returns the indexes of the submissions whose answers were lost."""
    again: list[int] = []
    for link in batches:
        core.flush(link)
    for link, (batch, indexes) in batches.items():
        yield from core.answer(batch)
        server = link.server
        for index, value in zip(indexes, batch.values, strict=False):
            if isinstance(value, bytes):
                results[first + index] = Submitted(server, value.decode(errors="replace"), window[index].unique)
            elif value is not None:
                results[first + index] = value
            else:
                again.append(index)
        again += indexes[len(batch.values) :]
        if not batch.done:
            core.silent(trip, batch)
        elif batch.lost:
            yield from core.lost(trip, link)
    return again


# --- foreground jobs -----------------------------------------------------------------------------------------


class Foreground:
    """A foreground job as its caller sees it: one `Run` after another, until one ends with an answer."""

    __slots__ = ("core", "listening", "run", "submission", "trip")

    def __init__(self, core: Core, submission: Submission, timeout: float | None, listening: bool) -> None:
        self.core = core
        self.submission = submission
        self.listening = listening
        self.trip = core.trip(None, timeout, base.RECONNECT_FOR)
        self.run: Run | None = None

    def __repr__(self) -> str:
        run = self.run
        state = "not sent" if run is None else "done" if run.done else f"on {run.link.server}"
        return f"<ForegroundJob {self.submission.function}, {state}>"

    @property
    def handle(self) -> str:
        """The job's handle on its present server, "" before it is known."""
        ticket = self.run.ticket if self.run is not None else None
        return ticket.handle.decode(errors="replace") if ticket is not None else ""

    def start(self, flush: bool = True) -> Flow[None]:
        """Sends the job, for the first time or after its connection was lost; or only puts it in line."""
        link = yield from self.core.reach(self.trip)
        run = Run(monotonic(), self.core.request_timeout, self.trip.limit, self.listening, self.core.max_body)
        link.submit(base.as_foreground(self.submission), run)
        link.live += 1
        self.run = run
        if flush:
            self.core.flush(link)

    def advance(self, timeout: float | None, listening: bool) -> Flow[WorkData | WorkWarning | WorkStatus | None]:
        """Waits for the job's next event when `listening`, and for its end; None means that it has ended."""
        limit = self.trip.limit if timeout is None else min(self.trip.limit, monotonic() + timeout)
        while True:
            run = self.run
            if run is None:
                yield from self.start()
                continue
            if not listening:
                run.ignore_events()
            elif run.events:
                return run.next_event()
            if run.lost:
                self.close()
                self.run = None
                yield from self.core.lost(self.trip, run.link, run.answered)
                continue
            if run.done:
                self.close()
                return None
            run.limit = min(limit, run.link.used + base.SILENCE) if run.answered else limit
            self.core.flush(run.link)
            yield run
            if run.ready:
                continue
            now = monotonic()
            run.limit = self.trip.limit
            if not run.answered and now >= run.deadline():
                self.close()
                self.run = None
                self.core.silent(self.trip, run)
            elif now >= limit:
                raise ResultTimeout(f"The job of {self.submission.function} did not finish in time.")
            elif run.answered and now >= run.link.used + base.SILENCE:
                yield from _sign_of_life(self.core, run.link, limit)

    def result(self) -> bytes:
        """What the ended job returned; raises what it ended with."""
        run = self.run
        assert run is not None
        assert run.done
        if run.error is not None:
            raise run.error
        return run.result

    def close(self) -> None:
        """Says that nobody waits for the job any more; its connection goes on."""
        if self.run is not None and self.run.live:
            self.run.live = False
            self.core.leave(self.run)


def _sign_of_life(core: Core, link: Link, limit: float) -> Flow[None]:
    """Asks a job server that has said nothing for long: the connection may have died without a word.

    If it is not answered in time the connection ends, and what waits for it goes the way of every lost connection.
    """
    request = Request(monotonic(), core.request_timeout, limit)
    link.echo(b"gtask", request)
    yield from core.answer(request)
    if not request.done and monotonic() < limit:
        core.unanswered(request)


def call_many(core: Core, submissions: Iterable[Submission], timeout: float | None) -> Flow[list[bytes | GtaskError]]:
    """Flow of `Client.call_many`."""
    deadline = None if timeout is None else monotonic() + timeout
    results: list[bytes | GtaskError] = []
    running: deque[Foreground] = deque()
    try:
        for submission in submissions:
            if len(running) >= base.WINDOW_JOBS:
                results.append((yield from _outcome(running.popleft())))
            left = None if deadline is None else deadline - monotonic()
            running.append(Foreground(core, submission, left, listening=False))
            yield from running[-1].start(flush=False)
        while running:
            results.append((yield from _outcome(running.popleft())))
    finally:
        for job in running:
            job.close()
    return results


def _outcome(job: Foreground) -> Flow[bytes | GtaskError]:
    try:
        yield from job.advance(None, listening=False)
        return job.result()
    except GtaskError as error:
        return error
    finally:
        job.close()


# --- questions -----------------------------------------------------------------------------------------------


def statuses(core: Core, uniques: Sequence[str], timeout: float | None, certain: bool) -> Flow[list[JobStatus]]:
    """Flow of `Client.statuses`."""
    trip = core.trip(None, timeout)
    results = [JobStatus()] * len(uniques)
    for first in range(0, len(uniques), base.WINDOW_JOBS):
        window = uniques[first : first + base.WINDOW_JOBS]
        now = monotonic()
        servers = [server for server in core.servers if certain or not core.router.avoided(server, now)]
        servers = servers or list(core.servers)
        reasons: dict[Server, NetworkError] = {}
        cut: dict[Server, NetworkError] = {}
        for _ in range(2):  # a second time for those whose connection was lost: it may have been an old one
            batches = yield from _ask_all(core, servers, window, trip, reasons)
            servers = []
            for batch in batches:
                yield from core.answer(batch)
                for index, value in enumerate(batch.values):
                    if isinstance(value, JobStatus):
                        results[first + index] = base.better_status(results[first + index], value)
                if batch.lost:
                    servers.append(batch.link.server)
                    if isinstance(batch.link.error, NetworkError):
                        cut[batch.link.server] = batch.link.error
                elif not batch.done:
                    reasons[batch.link.server] = core.unanswered(batch)
                else:
                    reasons.pop(batch.link.server, None)
            if not servers:
                break
        if len(reasons) + len(servers) == len(core.servers):
            raise base.no_server(cut | reasons, core.servers) from None
        if certain and (reasons or servers):
            raise next(iter((cut | reasons).values()))
    return results


def _ask_all(
    core: Core, servers: Sequence[Server], window: Sequence[str], trip: Trip, reasons: dict[Server, NetworkError]
) -> Flow[list[Batch]]:
    """Sends one window of status questions to each server that can be reached."""
    batches: list[Batch] = []
    for server in servers:
        try:
            link = yield from core.reach_server(server, trip.limit)
        except NetworkError as error:
            reasons[server] = error
            continue
        batch = Batch(monotonic(), core.request_timeout, trip.limit)
        for unique in window:
            link.status(unique, batch)
            batch.expect()
        core.flush(link)
        batches.append(batch)
    return batches


def echo(core: Core, data: bytes, server: Server | None, timeout: float | None) -> Flow[bytes]:
    """Flow of `Client.echo`."""
    if server is not None and server not in core.servers:
        raise LocalProtocolError(f"{server} is none of this client's servers.")
    trip = core.trip(None, timeout)
    while True:
        if server is None:
            link = yield from core.reach(trip)
        else:
            link = yield from core.reach_server(server, trip.give_up_at)
        request = Request(monotonic(), core.request_timeout, trip.limit)
        link.echo(data, request)
        yield from core.answer(request)
        if request.error is not None:
            raise request.error
        if not request.done:
            raise core.unanswered(request)
        if not request.lost:
            answer: bytes = request.value
            return answer
        yield from core.lost(trip, link)
