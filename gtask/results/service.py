"""The results service: an ordinary Gearman worker that keeps outcomes in SQLite and tells those who wait for them.

It is what `gtask results` runs and `gtask server` includes. Design, section 4. One thread does everything, in rounds:
what has come from all job servers is taken together, the outcomes in it are committed in one transaction, and only
then their jobs are ended and questions are answered. A job that was not ended when the service dies is run again, and
putting a record twice changes nothing, so no outcome is lost.

Each job server is connected twice, once for outcomes and once for questions: gearmand 1.1 serves one function of a
connection before all others (protocol reference, section 8), and a question that is held keeps its function from
being moved back.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from gtask.errors import ConfigurationError, DecodeError, ResultError, SignatureError
from gtask.results.sqlite import SqliteStore
from gtask.results.waits import MAX_WAITS, Held, Waits
from gtask.results.wire import (
    PUT,
    WAIT,
    Ask,
    Claim,
    Item,
    JoinItem,
    cut_answer,
    decode_ask,
    decode_items,
    encode_answer,
    encode_claimed,
    encode_refusal,
)
from gtask.signing import Keyring, Kind, open_job
from gtask.states import Record
from gtask.transport import TLS, blocking
from gtask.transport.blocking import Connect
from gtask.transport.tls import check_tls
from gtask.types import Server, parse_servers
from gtask.worker.blocking import BlockingDriver, fresh_unique
from gtask.worker.core import CoreOptions, WorkerCore
from gtask.worker.job import End, Ending, Job
from gtask.worker.link import Lane
from gtask.worker.pulse import HEARTBEAT

log = logging.getLogger("gtask.results")

MAX_PUTS: Final = 64
"""Jobs with outcomes that are taken from one job server at once, up to about a mebibyte each."""

SPARE: Final = 256
"""Questions that may be on their way beyond those that are held."""

SWEEP_EVERY: Final = 1.0
LOOK_EVERY: Final = 0.25
"""Seconds between two looks for records whose time is over, and for what other processes have written to the file."""

LOOK_IDS: Final = 2000
"""Ids that are looked up in one round after another process has written."""

BUSY: Final = 2.0
"""Seconds the file may be held by another process before a write is put off; the job servers wait meanwhile."""

RETRY_PAUSE: Final = 1.0
COMPLAIN_EVERY: Final = 60.0
"""Seconds between two attempts to write to a file that cannot be written, and between two lines of the log about it."""

MAX_TICK: Final = 30.0


class ResultsService:
    """Serves results from the file `path` to everybody on `servers`.

    `servers` are addresses as everywhere (`parse_servers`), `tls` is for those that are ``gearmans://``. `heartbeat` is
    how many seconds a job server may be silent before it is asked for a sign of life. `max_waits`
    bounds the questions held at once; beyond it the oldest is answered with nothing, and its caller asks again. With
    `keys` only what is signed with them is taken, and answers are signed. Only one service should run for a job
    server: outcomes go to any of them, questions as well. `connect` makes the connections in another way than over the
    network.
    """

    def __init__(
        self,
        servers: str | Server | Iterable[str | Server] | None,
        path: str | os.PathLike[str],
        *,
        tls: TLS | None = None,
        max_waits: int = MAX_WAITS,
        heartbeat: float = HEARTBEAT,
        keys: Keyring | None = None,
        connect: Connect | None = None,
    ) -> None:
        self.servers = parse_servers(servers)
        if connect is None:
            check_tls(self.servers, tls)
        self._connect = connect or blocking.connect
        self.store = SqliteStore(path, BUSY)
        self.store.keys = keys
        self._tls = tls
        self._max_waits = max_waits
        self._heartbeat = heartbeat
        self._driver: BlockingDriver | None = None
        self._stopped = False

    def __repr__(self) -> str:
        return f"<ResultsService {self.store.path} on {', '.join(map(str, self.servers))}>"

    def run(self, ready: Callable[[], None] | None = None) -> None:
        """Serves until `stop` is called; held questions are answered with nothing then.

        `ready` is called once the file is open, before a job server is connected. Raises `ConfigurationError` or
        `ResultError` when the file cannot be used; job servers that are away are waited for.
        """
        self.store.version()  # a file that cannot be used is said at once
        lanes = (Lane((PUT,), MAX_PUTS), Lane((WAIT,), self._max_waits + SPARE))
        slots = len(self.servers) * sum(lane.most or 0 for lane in lanes)
        name = f"gtask-results-{socket.gethostname()}-{os.getpid()}"
        options = CoreOptions(slots=slots, prefetch=0, client_id=name, heartbeat=self._heartbeat)
        core = WorkerCore(self.servers, (PUT, WAIT), options, random.random, fresh_unique, lanes)
        with BlockingDriver(core, self._tls, connect=self._connect) as driver:
            self._driver = driver
            try:
                if self._stopped:  # stop() came before there was anything to stop
                    driver.stop()
                log.info("Serving results from %s.", self.store.path)
                if ready is not None:
                    ready()
                driver.serve(_Desk(driver, self.store, self._max_waits))
            finally:
                self._driver = None
                self.store.close()
        log.info("The results service has stopped.")

    def stop(self) -> None:
        """Makes `run` return soon, also when it has not begun yet. Safe in signal handlers and from other threads."""
        self._stopped = True
        driver = self._driver
        if driver is not None:
            driver.stop()


def run_service(
    servers: str | Server | Iterable[str | Server] | None,
    path: str | os.PathLike[str],
    *,
    tls: TLS | None = None,
    keys: Keyring | None = None,
    signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
    ready: Callable[[], None] | None = None,
) -> None:
    """Runs a results service in this process until one of `signals` comes: what `gtask results` does.

    Signals are taken only in the main thread; elsewhere use a `ResultsService` and its `stop`. Raises what
    `ResultsService.run` raises.
    """
    service = ResultsService(servers, path, tls=tls, keys=keys)
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, lambda *_: service.stop()) for number in signals}
    try:
        service.run(ready)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Desk:
    """Runs the jobs of the service: the handler of `BlockingDriver.serve`, called in one thread only."""

    def __init__(self, driver: BlockingDriver, store: SqliteStore, max_waits: int) -> None:
        self._driver = driver
        self._store = store
        self._refused = 0
        self._waits: Waits[Job] = Waits(max_waits)
        self._puts: list[Job] = []
        self._asks: list[Job] = []
        self._protocols: list[object] = []
        self._sweep_at = 0.0
        self._look_at = 0.0
        self._retry_at = 0.0
        self._complain_at = 0.0
        self._version: int | None = None
        self._look_up: list[str] = []

    def start(self, job: Job) -> None:
        """Takes a job of this round, and refuses one whose signature is wrong before it is decoded."""
        try:
            # What answers are bound to is kept with the job.
            job.workload, job.mark = open_job(self._store.keys, job.function, job.workload, time.time())
        except SignatureError as error:
            self._refused += 1
            log.error("Job %s of %s is refused (%d so far): %s", job.unique, job.function, self._refused, error)
            ending = Ending(End.FAIL) if job.function == PUT else Ending(data=encode_refusal(str(error)))
            self._driver.finish(job, ending, flush=False)
            return
        (self._puts if job.function == PUT else self._asks).append(job)

    def tick(self, now: float) -> float:
        """Does the round's work, and says when there is something to do though nothing comes."""
        self._forget_lost()
        if self._puts and (now >= self._retry_at or self._driver.core.stopping):
            self._commit(now)
        self._serve(now)
        for held in self._waits.due(now):
            self._answer_held(held)
        if now >= self._sweep_at:
            self._sweep(now)
        if self._driver.core.stopping:
            self._stop()
        due = [now + MAX_TICK, self._sweep_at]
        if self._puts:
            due.append(self._retry_at)
        if self._waits:
            due += [self._look_at, self._waits.next_due() or now]
        return min(due)

    # --- outcomes --------------------------------------------------------------------------------------------

    def _commit(self, now: float) -> None:
        work: list[tuple[Job, list[Item | JoinItem]]] = []
        for job in self._puts:
            items, complaints = decode_items(job.workload)
            work.append((job, items))
            for complaint in complaints:
                log.error("Dropped from job %s of %s: %s.", job.unique, PUT, complaint)
        try:
            done = self._store.hand_in([item for _, items in work for item in items])
        except (ResultError, ConfigurationError) as error:
            self._retry_at = now + RETRY_PAUSE
            if now >= self._complain_at:
                self._complain_at = now + COMPLAIN_EVERY
                log.error("%s %d jobs wait; trying again.", error, len(self._puts))
            return
        self._puts.clear()
        jobs = iter(done.jobs)
        for job, items in work:
            # What a completed chord calls for is submitted before the job that completed it is ended.
            bodies = [next(jobs) for item in items if isinstance(item, JoinItem)]
            following = tuple(body for body in bodies if body is not None)
            self._driver.finish(job, Ending(submissions=following) if following else _DONE, flush=False)
        if self._complain_at:
            self._complain_at = 0.0
            log.info("Results are written again.")
        self._waits.ready(done.ready, now)

    # --- questions -------------------------------------------------------------------------------------------

    def _serve(self, now: float) -> None:
        asks, self._asks = self._asks, []
        if asks and not self._waits:
            # Before the first question is looked up, so that nothing written after that is overlooked.
            self._version = None
            self._look(now)
        claims: list[tuple[Job, Claim]] = []
        for job in asks:
            try:
                ask = decode_ask(job.workload)
                if isinstance(ask, Claim):
                    claims.append((job, ask))
                else:
                    self._ask(job, ask, now)
            except (DecodeError, ResultError, ConfigurationError) as error:
                self._refuse(job, error)
        if claims:
            self._claim(claims)
        if self._waits and now >= self._look_at:
            self._look(now)

    def _ask(self, job: Job, ask: Ask, now: float) -> None:
        if ask.mode == "forget":
            self._store.forget(ask.ids)
            self._answer(job, ())
            return
        if ask.mode == "get":
            self._answer(job, self._store.get(ask.ids).values())
            return
        ready = self._store.ready(ask.ids)
        if ready or not ask.ids or not ask.timeout or self._driver.core.stopping:
            self._answer(job, ready.values())
            return
        for oldest in self._waits.hold(job, ask.ids, now + ask.timeout):
            self._answer_held(oldest)
        protocol = job.link.protocol
        if protocol is not None and job.handle in protocol.held:
            # A sign of life: whoever waits sees that a service is there.
            protocol.send_status(job.handle, 0, len(ask.ids))

    def _claim(self, claims: Sequence[tuple[Job, Claim]]) -> None:
        try:
            shared = self._store.claims([claim for _, claim in claims])
        except (ResultError, ConfigurationError) as error:
            for job, _ in claims:
                self._refuse(job, error)
            return
        for (job, _), id in zip(claims, shared, strict=True):
            self._finish(job, encode_claimed(id))

    def _answer(self, job: Job, records: Iterable[Record]) -> None:
        taken, more = cut_answer(list(records))
        self._finish(job, encode_answer(taken, more))

    def _finish(self, job: Job, data: bytes) -> None:
        """Answers a question; with a signature, if it had one."""
        keys = self._store.keys
        if keys is not None and isinstance(job.mark, bytes):
            data = keys.sign(WAIT, data, time.time(), Kind.ANSWER, job.mark)
        self._driver.finish(job, Ending(data=data), flush=False)

    def _answer_held(self, held: Held[Job]) -> None:
        """Answers a question that is no longer held, with what has been found for it."""
        try:
            self._answer(held.key, self._store.ready(held.found).values() if held.found else ())
        except (ResultError, ConfigurationError) as error:
            self._refuse(held.key, error)

    def _refuse(self, job: Job, error: Exception) -> None:
        log.error("Job %s of %s was refused: %s", job.unique, WAIT, error)
        self._finish(job, encode_refusal(str(error)))

    def _stop(self) -> None:
        for held in self._waits:
            self._waits.drop(held)
            self._answer_held(held)
        if self._puts:
            # They cannot be written: ended without a word, they go back to their job server.
            raise ResultError(f"{len(self._puts)} jobs with results could not be written; they are queued again.")

    def _forget_lost(self) -> None:
        """Drops what was held for connections that are gone; the job server has it done again."""
        protocols: list[object] = [link.protocol for link in self._driver.core.links]
        if protocols == self._protocols:
            return
        self._protocols = protocols
        running = self._driver.core.running
        for held in self._waits:
            if held.key.lost:
                self._waits.drop(held)
                running.discard(held.key)
        for jobs in (self._puts, self._asks):
            running.difference_update(job for job in jobs if job.lost)
            jobs[:] = [job for job in jobs if not job.lost]

    # --- the file --------------------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Sees what other processes have written to the file, a part of it in each round."""
        try:
            if not self._look_up:
                before, self._version = self._version, self._store.version()[0]
                if before not in (None, self._version):
                    self._look_up = list(self._waits.ids)
            part = self._look_up[-LOOK_IDS:]
            del self._look_up[-LOOK_IDS:]
            self._waits.ready(self._store.ready(part), now)
        except (ResultError, ConfigurationError) as error:
            log.warning("What others have written is not seen for now: %s", error)
        self._look_at = now if self._look_up else now + LOOK_EVERY

    def _sweep(self, now: float) -> None:
        try:
            more = self._store.sweep()
        except (ResultError, ConfigurationError) as error:
            log.warning("Old results stay for now: %s", error)
            self._sweep_at = now + COMPLAIN_EVERY
        else:
            self._sweep_at = now if more else now + SWEEP_EVERY


_DONE: Final = Ending()
