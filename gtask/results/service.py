"""The results service: an ordinary Gearman worker that keeps outcomes in SQLite and tells those who wait for them.

It is what `gtask results` runs and `gtask server` includes. Design, section 4. One thread does everything, in rounds:
what has come from all job servers is taken together, the outcomes in it are committed in one transaction, and only
then their jobs are ended and questions are answered. A job that was not ended when the service dies is run again, and
putting a record twice changes nothing, so no outcome is lost.

Each job server is connected twice, once for outcomes and once for questions: gearmand 1.1 serves one function of a
connection before all others (protocol reference, section 8), and a question that is held keeps its function from
being moved back.

One service serves at a time, others stand by: see `gtask.results.standby`.
"""

from __future__ import annotations

import logging
import os
import random
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from gtask.results.desk import Desk
from gtask.results.sqlite import SqliteStore
from gtask.results.standby import Gate, Lookout, Rivalled, StandBy, service_name
from gtask.results.waits import MAX_WAITS
from gtask.results.wire import PUT, WAIT
from gtask.signing import Keyring
from gtask.transport import TLS, blocking
from gtask.transport.blocking import Connect
from gtask.transport.tls import check_tls
from gtask.types import Server, parse_servers
from gtask.worker.blocking import BlockingDriver, fresh_unique
from gtask.worker.core import CoreOptions, WorkerCore
from gtask.worker.link import Lane
from gtask.worker.pulse import HEARTBEAT

log = logging.getLogger("gtask.results")

MAX_PUTS: Final = 64
"""Jobs with outcomes that are taken from one job server at once, up to about a mebibyte each."""

SPARE: Final = 256
"""Questions that may be on their way beyond those that are held."""

BUSY: Final = 2.0
"""Seconds the file may be held by another process before a write is put off; the job servers wait meanwhile."""


class ResultsService:
    """Serves results from the file `path` to everybody on `servers`.

    `servers` are addresses as everywhere (`parse_servers`), `tls` is for those that are ``gearmans://``. `heartbeat` is
    how many seconds a job server may be silent before it is asked for a sign of life. `max_waits`
    bounds the questions held at once; beyond it the oldest is answered with nothing, and its caller asks again. With
    `keys` only what is signed with them is taken, and answers are signed. While another service serves one of the job
    servers this one stands by. `connect` makes the connections in another way than over the network.
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
        self._pause: int | None = None
        self._stopped = False

    def __repr__(self) -> str:
        return f"<ResultsService {self.store.path} on {', '.join(map(str, self.servers))}>"

    def run(self, ready: Callable[[], None] | None = None) -> None:
        """Serves until `stop` is called; held questions are answered with nothing then.

        `ready` is called once the file is open, before a job server is connected, and when this service has to stand by
        as well. Raises `ConfigurationError` or `ResultError` when the file cannot be used; job servers that are away
        are waited for.
        """
        self.store.version()  # a file that cannot be used is said at once
        stood = False
        reader, self._pause = os.pipe()
        try:
            if ready is not None:
                ready()
            while not self._stopped:
                lookout = Lookout(
                    service_name(socket.gethostname(), os.getpid(), time.time()),
                    self._tls,
                    self._connect,
                    self.store.keys,
                )
                if self._stand_by(lookout, reader, stood):
                    self._serve(lookout)
                stood = True
        finally:
            writer, self._pause = self._pause, None
            os.close(writer)
            os.close(reader)
            self.store.close()
        log.info("The results service has stopped.")

    def _stand_by(self, lookout: Lookout, reader: int, stood: bool) -> bool:
        """Waits for the time to serve; false when this service is stopped before."""
        turn = StandBy(self.servers, lookout, stood)
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        try:
            while not turn.may_serve(time.monotonic()):
                if poll.poll(turn.pause() * 1000) or self._stopped:
                    return False
        finally:
            turn.close()
        if turn.said and not self._stopped:
            log.warning("No other results service serves any more: this one does, from %s.", self.store.path)
        return not self._stopped

    def _serve(self, lookout: Lookout) -> None:
        """Serves until this service is stopped, or has to stand by."""
        lanes = (Lane((PUT,), MAX_PUTS), Lane((WAIT,), self._max_waits + SPARE))
        slots = len(self.servers) * sum(lane.most or 0 for lane in lanes)
        options = CoreOptions(slots=slots, prefetch=0, client_id=lookout.name, heartbeat=self._heartbeat)
        core = WorkerCore(self.servers, (PUT, WAIT), options, random.random, fresh_unique, lanes)
        with BlockingDriver(core, self._tls, connect=self._connect) as driver:
            self._driver = driver
            try:
                if self._stopped:  # stop() came before there was anything to stop
                    driver.stop()
                log.info("Serving results from %s.", self.store.path)
                driver.serve(Desk(driver, self.store, self._max_waits, Gate(core, lookout)))
            except Rivalled:
                log.info("Another results service has come up as well; this one steps back.")
            finally:
                self._driver = None

    def stop(self) -> None:
        """Makes `run` return soon, also when it has not begun yet. Safe in signal handlers and from other threads."""
        self._stopped = True
        driver, pause = self._driver, self._pause
        if driver is not None:
            driver.stop()
        if pause is not None:
            with suppress(OSError):
                os.write(pause, b".")


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
