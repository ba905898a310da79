"""The worker's mind: which job server to grab from, how much to hold, how to end a job. No socket, no clock.

A driver (`gtask.worker.blocking`, `gtask.worker.aio`) brings bytes and the time and carries out what is asked for:

* it opens a connection for each link in `connects(now)` and says `opened`, `closed` or `received`;
* it takes jobs with `take()`, runs them, and says how each ended with `finish()`;
* after anything it calls `pump(now)` and sends what each link's protocol has to send;
* it comes back at `deadline()`.

Every job is in exactly one place: in the backlog, running, lent (it waits for another job, which may run in its slot),
put off (a foreground retry waiting for its time), or ending (its result and what follows from it are being handed
over). A drain ends when all five are empty.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

from gtask.protocol import Event, JobAssigned, NoJob, Noop, WorkerProtocol, WorkRefused
from gtask.protocol.codec import MAX_BODY
from gtask.types import Server, Submission
from gtask.worker.endings import Endings, join_items
from gtask.worker.gate import Gate
from gtask.worker.job import Ending, Job
from gtask.worker.link import Lane, Link
from gtask.worker.load import Load
from gtask.worker.pulse import HEARTBEAT

log = logging.getLogger("gtask.worker")

MAX_IDLE: Final = 30.0
"""Seconds after which the driver looks up at the latest."""


@dataclass(frozen=True)
class CoreOptions:
    """How a worker holds its jobs.

    `slots` is how many run at once; `prefetch` how many more are held back, None to let the measured run time
    decide (design, section 7). `poll_interval` is the time in seconds after which a sleeping worker grabs unasked.
    `pack` makes one workload for a function of several carried items. `max_put_off` bounds the foreground retries that
    wait here, `max_lent` the jobs that wait for others and have lent out their slots. `heartbeat` is how many seconds a
    job server may be silent before it is asked for a sign of life.
    """

    slots: int = 1
    prefetch: int | None = None
    poll_interval: float = 15.0
    client_id: str = ""
    max_body: int = MAX_BODY
    exceptions: bool = False
    pack: Callable[[str, Sequence[bytes]], bytes] = join_items
    max_put_off: int = 1000
    max_lent: int = 1000
    heartbeat: float = HEARTBEAT


class WorkerCore:
    """Everything a worker decides, for all of its job servers at once.

    `random` returns a float in [0, 1), `new_unique` a fresh unique for a job that carries results. With `lanes` each
    job server is connected once for each of them; else once, for all functions.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        functions: Sequence[str],
        options: CoreOptions,
        random: Callable[[], float],
        new_unique: Callable[[], str],
        lanes: Sequence[Lane] = (),
    ) -> None:
        lanes = lanes or (Lane(tuple(functions)),)
        self.links = [Link(server, random, lane, options.heartbeat) for server in servers for lane in lanes]
        self.functions = list(functions)
        self.options = options
        self.backlog: deque[Job] = deque()
        self.running: set[Job] = set()
        self.lent: set[Job] = set()
        self.stopping = False
        self.full = False
        """For whoever runs the jobs to say that no more are to be asked for now: what is held takes too much memory."""
        self.load = Load(options.slots, options.prefetch)
        self.endings = Endings(options.pack, new_unique)
        self._put_off: list[tuple[float, int, Job]] = []
        self._count = count()
        self._first = 0
        self._gates = [lane.gate for lane in lanes if lane.gate is not None]
        self._shut: list[Gate] = []
        """The gates that were closed when a job of their lane was last wanted."""

    def __repr__(self) -> str:
        state = "stopping" if self.stopping else "serving"
        held = f"{len(self.running)} running, {len(self.backlog)} waiting, {self.endings.open} ending"
        return f"<WorkerCore {state}, {held}>"

    @property
    def idle(self) -> bool:
        """Whether no job is held: what a drain waits for."""
        held = self.backlog or self.running or self.lent or self._put_off
        return not (held or self.endings.open or self.endings.orphans)

    @property
    def takes(self) -> bool:
        """Whether `take` would give a job now."""
        return bool(self.backlog) and len(self.running) < self.options.slots

    @property
    def shut(self) -> bool:
        """Whether a gate was closed when a job was last wanted, so that the next `deadline` may be near."""
        return bool(self._shut)

    @property
    def connected(self) -> int:
        """How many job servers are connected."""
        return sum(link.protocol is not None for link in self.links)

    # --- connections -----------------------------------------------------------------------------------------

    def connects(self, now: float) -> list[Link]:
        """The links to open a connection for now; each is marked as connecting."""
        if self.stopping and self.idle:
            return []
        due = [link for link in self.links if link.protocol is None and not link.connecting and now >= link.connect_at]
        for link in due:
            link.connecting = True
        return due

    def opened(self, link: Link, now: float) -> None:
        """A connection is there: registers every function again, or the worker would be deaf."""
        protocol = WorkerProtocol(self.options.max_body)
        if self.options.client_id:
            protocol.set_client_id(self.options.client_id)
        if self.options.exceptions:
            protocol.option()
        link.opened(protocol, now)
        link.plan_poll(now, self.options.poll_interval)

    def closed(self, link: Link, now: float) -> None:
        """A connection ended, or could not be made: its jobs are the job server's again, to give to another."""
        protocol = link.protocol
        if protocol is not None:
            if protocol.error is not None:
                log.error("%s: %s The connection is closed.", link.server, protocol.error)
            self._handle(link, protocol.receive_eof(), now)
            for job in [*self.backlog, *self.running, *self.lent, *(entry[2] for entry in self._put_off)]:
                job.lost = job.lost or job.link is link
            if link.lane.gate is not None:
                self._leave(link, now)
            self.backlog = deque(job for job in self.backlog if not job.lost)
            self.load.recount(self.backlog)
            self._put_off = [entry for entry in self._put_off if not entry[2].lost]
            heapq.heapify(self._put_off)
            self.endings.lost(link)
        link.closed(now)

    def received(self, link: Link, data: bytes, now: float) -> bool:
        """Takes bytes from a job server; false when they broke the protocol and the connection is to be closed."""
        protocol = link.protocol
        if protocol is None:
            return False
        link.pulse.beat(now)
        link.failures = 0
        self._handle(link, protocol.receive_data(data), now)
        return protocol.error is None

    def _handle(self, link: Link, events: list[Event], now: float) -> None:
        self.endings.now = now
        for event in events:
            if isinstance(event, JobAssigned):
                job = Job(link, event.handle, event.function, event.unique, event.workload)
                link.window = min(link.window * 2, link.lane.window)
                link.count_turn(event.function)
                link.entered = False
                self.load.queued(job)
                self.backlog.append(job)
            elif isinstance(event, NoJob):
                link.window = 1
                if link.entered and link.lane.gate is not None:
                    link.entered = False
                    link.lane.gate.nothing(now)
                self._found_nothing(link, now)
            elif isinstance(event, Noop):
                link.window = 1
            elif isinstance(event, WorkRefused):
                log.warning("%s refused a report about a job: %s", link.server, event.error)
            elif event.ticket.tag is not None:
                event.ticket.tag(event)

    def _found_nothing(self, link: Link, now: float) -> None:
        protocol = link.protocol
        if protocol is None or protocol.outstanding or protocol.must_grab or self.stopping:
            return
        if link.lane.look is None:
            protocol.pre_sleep()
        else:
            link.resting = True
        link.plan_poll(now, self._poll_interval(link))

    def _leave(self, link: Link, now: float) -> None:
        """Gives back to its gate what a lane's connection had, but for the jobs that run on."""
        assert link.lane.gate is not None
        if link.entered:
            link.entered = False
            link.lane.gate.nothing(now)
        for job in [*self.backlog, *(entry[2] for entry in self._put_off)]:
            if job.link is link:
                link.lane.gate.ended(now)

    def _poll_interval(self, link: Link) -> float:
        return self.options.poll_interval if link.lane.look is None else link.lane.look

    # --- jobs ------------------------------------------------------------------------------------------------

    def take(self) -> Job | None:
        """The next job to run, which then holds a slot; None when there is none or no slot is free."""
        if not self.takes:
            return None
        job = self.backlog.popleft()
        self.load.taken(job)
        self.running.add(job)
        return job

    def finish(self, job: Job, ending: Ending, now: float) -> None:
        """A job's run is over: frees its slot and hands over what is to be handed over."""
        self.running.discard(job)
        if job.started:
            self.load.measured(job.function, now - job.started)
        if job.link.lane.gate is not None:
            job.link.lane.gate.ended(now)
        self.endings.now = now
        if job.lost:
            self.endings.ended_late(job, ending)
            return
        self.endings.begin(job, ending)

    def lend(self, job: Job) -> bool:
        """Frees the slot of a running job that waits for another job; false when too many do already."""
        if job not in self.running or len(self.lent) >= self.options.max_lent:
            return False
        self.running.discard(job)
        self.lent.add(job)
        return True

    def take_back(self, job: Job) -> None:
        """A job that has lent its slot goes on, whether a slot is free or not."""
        self.lent.discard(job)
        self.running.add(job)

    def put_off(self, job: Job, until: float) -> bool:
        """Keeps a running job without a slot until a time, then lets it run again; false when too many wait."""
        if len(self._put_off) >= self.options.max_put_off:
            return False
        self.running.discard(job)
        job.attempt += 1
        if not job.lost:
            heapq.heappush(self._put_off, (until, next(self._count), job))
        elif job.link.lane.gate is not None:
            job.link.lane.gate.ended(self.endings.now)
        return True

    def submit(self, link: Link, submission: Submission, on_event: Callable[[Event], None]) -> bool:
        """Submits a job of this worker's own over a link; false when it is not connected.

        `on_event` is called with everything that comes for it, `Lost` included.
        """
        if link.protocol is None or link.protocol.closed:
            return False
        link.protocol.submit(submission, on_event)
        return True

    # --- time ------------------------------------------------------------------------------------------------

    def pump(self, now: float) -> None:
        """Carries on with everything that can go on: due retries, endings, grabs, heartbeats."""
        self.endings.now = now
        self.endings.orphans.expire(now)
        while self._put_off and self._put_off[0][0] <= now:
            job = heapq.heappop(self._put_off)[2]
            self.load.queued(job)
            self.backlog.append(job)
        for link in self.links:
            if link.protocol is not None and not link.protocol.closed:
                self.endings.flush(link)
                self._keep_alive(link, now)
        self._shut.clear()
        if not self.stopping:
            self._grab(now)
        for gate in self._gates:
            if gate not in self._shut:
                gate.rest(now)

    def _keep_alive(self, link: Link, now: float) -> None:
        protocol = link.protocol
        assert protocol is not None
        if link.pulse.asks(now):
            protocol.echo(b"gtask")
        if link.waits and now >= link.poll_at and not self.stopping:
            link.plan_poll(now, self._poll_interval(link))
            link.window = 1
            if self._wanted(0) > 0 and link.room > 0:
                link.resting = False
                if link.lane.gate is None:
                    protocol.grab()
                else:
                    link.roused = True

    def suspects(self, now: float) -> list[Link]:
        """The silent links whose job server the driver is to ask over a second connection; it says `probed` then."""
        return [link for link in self.links if link.protocol is not None and link.pulse.suspects(now)]

    def probed(self, link: Link, since: float, answered: bool, now: float) -> None:
        """What came of the question over a second connection, asked when the pulse's `heard` was `since`."""
        if link.protocol is not None:
            link.pulse.probed(since, answered, now)

    def condemned(self, now: float) -> list[Link]:
        """The links whose connection the driver is to close: they are dead, or their job server refuses for too long.

        Before that it takes what has come meanwhile: this process may have stood still, in C code or stopped.
        """
        return [
            link
            for link in self.links
            if link.protocol is not None and (link.pulse.dead(now) or link in self.endings.give_up)
        ]

    def _grab(self, now: float) -> None:
        # What was asked of a silent job server is not waited for: the others may have work.
        outstanding = sum(
            link.protocol.outstanding for link in self.links if link.protocol is not None and not link.pulse.silent(now)
        )
        wanted = self._wanted(outstanding)
        count = len(self.links)
        for index in range(count):
            if wanted <= 0:
                return
            link = self.links[(self._first + index) % count]
            protocol = link.protocol
            if protocol is None or protocol.closed or link.waits or link.pulse.silent(now):
                continue
            if link.turn_over:
                if protocol.outstanding:
                    continue
                link.next_turn()
            asked = min(wanted, link.room)
            if link.lane.gate is not None and asked > 0:
                asked = self._pass(link, link.lane.gate, now)
            if asked > 0:
                protocol.grab(asked)
                wanted -= asked
                self._first = (self._first + index + 1) % count

    def _pass(self, link: Link, gate: Gate, now: float) -> int:
        """How many jobs to ask for behind a gate: one after the other, so that none of them waits here for a slot."""
        if link.entered or any(job.link is link for job in self.backlog):
            return 0
        if not gate.enter(now):
            self._shut.append(gate)
            return 0
        link.entered = True
        link.roused = False
        return 1

    def _wanted(self, outstanding: int) -> int:
        if self.full:
            return 0
        return self.load.wanted(len(self.running), len(self.backlog), outstanding)

    def deadline(self, now: float) -> float:
        """When something is due though no byte comes, on the driver's clock."""
        due = now + MAX_IDLE
        if self._put_off:
            due = min(due, self._put_off[0][0])
        due = min(due, self.endings.retry_at, self.endings.orphans.due(now))
        for gate in self._shut:
            due = min(due, max(gate.again(now), now + 0.001))
        for link in self.links:
            if link.protocol is None:
                if not link.connecting:
                    due = min(due, link.connect_at)
                continue
            due = min(due, link.pulse.deadline())
            if link.waits and not self.stopping:
                due = min(due, max(link.poll_at, now + 0.001))
        return due
