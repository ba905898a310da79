"""One results service serves at a time: how the others are noticed, and what is done about them. Design, section 4.

Two services would split the results: an outcome goes to one of them, the question for it to the other. So a service
looks round before it registers, and stands by while another one serves. Whoever has just connected takes nothing in
before it has looked once more, and steps back from anybody it finds: of two that begin at the same moment at least the
one that registers later sees the other. What it holds by then goes back to the job server untouched.

Everything is asked in the admin protocol, over connections of its own that are closed again.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Final

from gtask.client.admin import AdminClient
from gtask.errors import GtaskError, NetworkError
from gtask.protocol import ClientProtocol, JobCreated, WorkComplete, WorkException, WorkFail
from gtask.results.wire import WAIT, Ask, encode_ask
from gtask.signing import Keyring
from gtask.transport import TLS
from gtask.transport.blocking import Connect, Connection
from gtask.types import Server, Submission
from gtask.worker.core import WorkerCore
from gtask.worker.job import Job

log = logging.getLogger("gtask.results")

LOOK_EVERY: Final = 1.0
"""Seconds between two looks of a service that stands by; jittered, so that two of them do not move together."""

QUIET: Final = 1.0
"""Seconds without another service before one that stood by takes over."""

QUIET_AFTER_RESTART: Final = 5.0
"""The same after a job server was away: the other service is still finding its way back to it."""

PATROL: Final = 10.0
"""Seconds between two looks of a service that serves."""

STILL: Final = 20.0
"""Seconds without a look after which a service that serves has stood still, and another may have taken its place."""

ANSWER: Final = 0.5
"""Seconds a job server has for an answer."""

UNKNOWN: Final = 10.0
"""Seconds after which a new connection is served though its job server does not say who else is there."""

FIRST_NAP: Final = 0.02
MAX_NAP: Final = 1.0
"""Seconds between two looks at a job server that has not answered, or does not know this service yet."""

ASK_EVERY: Final = 15.0
DEAD: Final = 20.0
"""Seconds between two questions to the service that serves, and without an answer after which it is taken for dead: a
machine that has vanished stays on the job server's list for long."""

Rivals = Mapping[Server, Sequence[str]]


class Rivalled(Exception):
    """Another service serves as well, and this one has to step back; raised and caught within the service."""


class Lookout:
    """Sees which services serve on job servers; `name` is the client id of this one's connections."""

    def __init__(self, name: str, tls: TLS | None, connect: Connect, keys: Keyring | None) -> None:
        self.name = name
        self.dead: set[str] = set()
        """Client ids of services that are listed and do not answer."""
        self._tls = tls
        self._connect = connect
        self._keys = keys

    def serving(self, server: Server, more_than: int = 0) -> list[str] | None:
        """The client ids of the living services there, this one too; empty when there are not `more_than` so many.

        None when the job server does not say.
        """
        tls = self._tls if server.tls else None
        try:
            with AdminClient(server, timeout=ANSWER, connect_timeout=ANSWER, tls=tls, connect=self._connect) as admin:
                if sum(row.workers for row in admin.status() if row.function == WAIT) <= more_than:
                    return []
                found = [row.client_id for row in admin.workers() if WAIT in row.functions]
        except GtaskError:
            return None
        return [name for name in found if name not in self.dead]

    def ask(self, server: Server) -> _Question | None:
        """Asks the service there for a sign of life."""
        workload = encode_ask(Ask(("0",), 0.0, "get"))
        if self._keys is not None:
            workload = self._keys.sign(WAIT, workload, time.time())
        try:
            connection = self._connect(server, ANSWER, self._tls if server.tls else None)
        except NetworkError:
            return None
        return _Question(connection, workload)


class _Question:
    """A question to a service, on its way."""

    def __init__(self, connection: Connection, workload: bytes) -> None:
        self._connection = connection
        self._protocol = ClientProtocol()
        self._protocol.submit(Submission(WAIT, workload, background=False))
        self.accepted_at: float | None = None
        self.over = False
        """Whether it is answered, in whatever way, or came to nothing."""

    def look(self, now: float) -> None:
        """Sees what has come of it, without waiting."""
        try:
            self._connection.send(self._protocol.data_to_send(), now + ANSWER)
            while not self.over and (data := self._connection.recv_some()) is not None:
                self.over = not data
                for event in self._protocol.receive_data(data) if data else ():
                    if isinstance(event, JobCreated):
                        self.accepted_at = now
                    elif isinstance(event, WorkComplete | WorkException | WorkFail):
                        self.over = True
                self.over = self.over or self._protocol.error is not None
        except NetworkError:
            self.over = True

    def close(self) -> None:
        """Leaves it: the job server drops it with its caller."""
        self._connection.close()


class StandBy:
    """Waits until no other service serves; call `may_serve` about every `LOOK_EVERY` seconds, then `close`."""

    def __init__(self, servers: Sequence[Server], lookout: Lookout, stood: bool) -> None:
        self._servers = servers
        self._lookout = lookout
        self.stood = stood
        """Whether this service has had to wait for another one."""
        self.said = False
        self._away = False
        self._clear_since: float | None = None
        self._question: _Question | None = None
        self._asked: tuple[str, ...] = ()
        self._ask_at = 0.0

    def pause(self) -> float:
        """Seconds until the next look."""
        return LOOK_EVERY * (0.5 + random.random())

    def may_serve(self, now: float) -> bool:
        """Looks round, and says whether it is time to serve."""
        seen = {server: self._lookout.serving(server) for server in self._servers}
        rivals = {server: names for server, names in seen.items() if names}
        self._away = (self._away and not rivals) or any(names is None for names in seen.values())
        if rivals:
            self.stood, self._clear_since = True, None
            self._tell(rivals)
            self._watch(rivals, now)
            return False
        self.close()
        if not self.stood:
            return True
        if all(names is None for names in seen.values()):
            self._clear_since = None
            return False
        if self._clear_since is None:
            self._clear_since = now
        return now - self._clear_since >= (QUIET_AFTER_RESTART if self._away else QUIET)

    def _tell(self, rivals: Rivals) -> None:
        if not self.said:
            self.said = True
            log.warning(
                "Another results service serves %s (%s); this one stands by until that ends.",
                ", ".join(map(str, rivals)),
                ", ".join(sorted({name for names in rivals.values() for name in names})),
            )

    def _watch(self, rivals: Rivals, now: float) -> None:
        """Sees whether the one that serves is alive."""
        server, names = next(iter(rivals.items()))
        if self._question is None:
            if now >= self._ask_at:
                self._ask_at = now + ASK_EVERY
                self._asked = tuple(names)
                self._question = self._lookout.ask(server)
            return
        self._question.look(now)
        if self._question.over or tuple(names) != self._asked:
            self.close()
        elif self._question.accepted_at is not None and now - self._question.accepted_at >= DEAD:
            self.close()
            self._lookout.dead.update(names)
            log.warning(
                "The results service on %s (%s) has not answered for %.0f s and is taken for dead.",
                server,
                ", ".join(names),
                DEAD,
            )

    def close(self) -> None:
        """Ends what it has begun."""
        question, self._question = self._question, None
        if question is not None:
            question.close()


class Gate:
    """Holds back what comes over a new connection of `core` until nobody else serves that job server."""

    def __init__(self, core: WorkerCore, lookout: Lookout) -> None:
        self._core = core
        self._lookout = lookout
        self._passed: set[object] = set()
        self._held: list[Job] = []
        self._look_at = 0.0
        self._nap = FIRST_NAP
        self._patrol_at = 0.0
        self._looked_at: float | None = None

    def holds(self, job: Job) -> bool:
        """Whether a job is held back; `look` gives it later."""
        if job.link.protocol in self._passed:
            return False
        self._held.append(job)
        return True

    def due(self) -> float:
        """When it wants to look."""
        return min(self._patrol_at, self._look_at) if self._fresh() else self._patrol_at

    def look(self, now: float) -> list[Job]:
        """Looks round where that is due; returns the jobs that are not held back any longer.

        Raises `Rivalled` when this service is to step back.
        """
        if self._looked_at is not None and now - self._looked_at > STILL:
            self._passed.clear()
        self._looked_at = now
        fresh = self._fresh()
        if fresh and now >= self._look_at:
            self._meet(fresh, now)
        elif now >= self._patrol_at:
            self._patrol(now)
        if not self._held:
            return []
        running = self._core.running
        running.difference_update(job for job in self._held if job.lost)
        freed = [job for job in self._held if not job.lost and job.link.protocol in self._passed]
        self._held = [job for job in self._held if not job.lost and job.link.protocol not in self._passed]
        return freed

    def _fresh(self) -> Collection[Server]:
        """The job servers with a connection that is new."""
        links = self._core.links
        return {link.server for link in links if link.protocol is not None and link.protocol not in self._passed}

    def _meet(self, servers: Collection[Server], now: float) -> None:
        unsure = False
        for server in servers:
            names = self._lookout.serving(server)
            links = [link for link in self._core.links if link.server == server and link.protocol is not None]
            if names is not None and any(name != self._lookout.name for name in names):
                raise Rivalled
            if names or (names is None and now - min(link.opened_at for link in links) >= UNKNOWN):
                self._passed.update(link.protocol for link in links)
            else:
                unsure = True  # it does not answer, or has not heard of this service yet
        self._passed.intersection_update(link.protocol for link in self._core.links)
        self._nap = min(MAX_NAP, self._nap * 2) if unsure else FIRST_NAP
        self._look_at = now + self._nap if unsure else now
        self._patrol_at = now + PATROL

    def _patrol(self, now: float) -> None:
        """Sees whether another one serves all the same; the younger one steps back."""
        self._patrol_at = now + PATROL
        own = _age(self._lookout.name)
        links = [link for link in self._core.links if link.protocol is not None and not link.pulse.silent(now)]
        for server in {link.server for link in links}:
            with suppress(ValueError):
                names = self._lookout.serving(server, more_than=1) or ()
                if min(_age(name) for name in names if name != self._lookout.name) < own:
                    raise Rivalled


def service_name(host: str, pid: int, since: float) -> str:
    """The client id of a service that serves since a Unix time; no two are the same."""
    return f"gtask-results-{host[:64]}-{pid}-{int(since * 1000):012x}{random.getrandbits(16):04x}"


def _age(name: str) -> tuple[int, str]:
    """What the client ids of services are ordered by: the oldest first, and one that does not say before all."""
    head, _, since = name.rpartition("-")
    try:
        return (int(since, 16) if head.startswith("gtask-results-") else 0), name
    except ValueError:
        return 0, name
