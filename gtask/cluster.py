"""The gate of a limit that all workers keep together, counted by the result store. Design, section 7.

A place is a lease that is renewed while its holder lives, a token is taken for each start. A thread of each process
asks the store, and only where there is such a task: the loop never waits for it.
"""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from random import random
from typing import Final, Literal

from gtask.results.base import ResultStore
from gtask.worker.gate import NEVER
from gtask.worker.limits import LOOK_RATE, LimitTable, Rate

log = logging.getLogger("gtask.worker")

LEASE: Final = 10.0
"""Seconds that a place in the cluster is kept for a holder that does not renew it: for a worker that has died."""

RENEW: Final = 3.0
"""Seconds between two renewals."""

FIRST_PAUSE: Final = 0.1
MAX_PAUSE: Final = 1.0
"""Seconds before a worker asks again for a place, when all were taken; each time twice as long."""

PAUSE: Final = 2.0
"""Seconds before a store that did not answer is asked again."""


class Asker:
    """A thread that asks the store for places and tokens, one question after the other, and renews what is held."""

    def __init__(self, store: ResultStore) -> None:
        self._store = store
        self._questions: queue.SimpleQueue[Callable[[ResultStore], None] | None] = queue.SimpleQueue()
        self._wake: Callable[[], object] = bool
        self._thread: threading.Thread | None = None
        self._gates: list[ClusterGate] = []
        self._said = False

    def keep(self, gate: ClusterGate) -> None:
        """Renews what a gate holds, as long as it holds it."""
        self._gates.append(gate)

    def begin(self, wake: Callable[[], object]) -> None:
        """Starts the thread."""
        self._wake = wake
        self._thread = threading.Thread(target=self._run, name="limits", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Has everything given back and ends the thread, when nothing is asked any more.

        It is waited for as long as a store takes to answer; what it does not give back is free when its lease is over.
        """
        self._questions.put(None)
        if self._thread is not None:
            self._thread.join(2 * PAUSE)

    def ask(self, question: Callable[[ResultStore], None]) -> None:
        """Has something asked by the thread; what it raises, it takes itself."""
        self._questions.put(question)

    def failed(self, task: str, error: Exception) -> None:
        """Says once that the store does not answer."""
        if not self._said:
            self._said = True
            log.error(
                "Whether a limit lets %s run cannot be asked, so no job of it is taken until its result store answers: "
                "%s",
                task,
                error,
            )

    def succeeded(self) -> None:
        """The store answers (again)."""
        if self._said:
            self._said = False
            log.warning("The result store answers again: limited tasks go on.")

    def _run(self) -> None:
        # Signals are for the thread that runs the task: a time limit interrupts what it is waiting in.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGTERM})
        renew_at = time.monotonic() + RENEW
        while True:
            try:
                question = self._questions.get(timeout=max(0.0, renew_at - time.monotonic()))
                if question is None:
                    for gate in self._gates:
                        gate.give_up(self._store)
                    return
                question(self._store)
                self._wake()
            except queue.Empty:
                pass
            if time.monotonic() >= renew_at:
                for gate in self._gates:
                    gate.renew(self._store)
                renew_at = time.monotonic() + RENEW


Answer = tuple[Literal["place", "token"], str | None, float]
"""What the store said: for a place its holder's name, or None; for a token None; and when to ask again."""


class ClusterGate:
    """Keeps the limits of a task among all workers, by places and tokens of the result store.

    What is asked is answered later, by the thread of `asker`: until then the gate is shut. A place that a job has left
    is used for the next one, as long as there is one; a token that led to no job is kept for another process of this
    worker, as long as it would have taken to come back.
    """

    def __init__(
        self,
        table: LimitTable,
        index: int,
        task: str,
        names: Sequence[str],
        most: int | None,
        rate: Rate | None,
        asker: Asker,
    ) -> None:
        self._table = table
        self._index = index
        self._task = task
        self._most = most
        self._rate = rate
        self._asker = asker
        self._names = list(names)
        self._free: list[str] = []
        self._used: list[str] = []
        self._tokens = 0
        self._asked: set[str] = set()
        self._answers: deque[Answer] = deque()
        self._again = 0.0
        self._refusals = 0
        """How often in a row there was no place; for the asker's thread."""
        asker.keep(self)

    def enter(self, now: float) -> bool:
        """See `gtask.worker.gate.Gate`."""
        self._take_answers(now)
        if self._most is not None and not self._free:
            self._ask_place(now)
            return False
        if self._rate is not None and not self._tokens and not self._take_spare(now):
            self._ask_token(self._rate, now)
            return False
        if self._most is not None:
            self._used.append(self._free.pop())
        if self._rate is not None:
            self._tokens -= 1
        return True

    def nothing(self, now: float) -> None:
        """See `gtask.worker.gate.Gate`."""
        self.ended(now)
        if self._rate is not None:
            with self._table.locked() as held:
                if held:
                    shared = self._table.read(self._index)
                    spares = shared.spares + 1 if now < shared.spare_until else 1
                    until = now + 1.0 / self._rate.per_second
                    self._table.write(
                        self._index, shared._replace(spares=min(spares, self._rate.burst), spare_until=until)
                    )

    def ended(self, now: float) -> None:
        """See `gtask.worker.gate.Gate`."""
        if self._used:
            self._free.append(self._used.pop())

    def rest(self, now: float) -> None:
        """See `gtask.worker.gate.Gate`."""
        self._take_answers(now)
        while self._free:
            self._give_back(self._free.pop())

    def again(self, now: float) -> float:
        """See `gtask.worker.gate.Gate`."""
        return NEVER if self._asked else self._again

    # --- places and tokens -----------------------------------------------------------------------------------

    @property
    def _places(self) -> str:
        return f"places:{self._task}"

    def _take_answers(self, now: float) -> None:
        while self._answers:
            kind, name, again = self._answers.popleft()
            self._asked.discard(kind)
            if again:
                self._again = again
            elif kind == "token":
                self._tokens += 1
            elif name is not None:
                self._free.append(name)

    def _take_spare(self, now: float) -> bool:
        with self._table.locked() as held:
            shared = self._table.read(self._index)
            if not held or not shared.spares or now >= shared.spare_until:
                return False
            self._table.write(self._index, shared._replace(spares=shared.spares - 1))
        self._tokens += 1
        return True

    def _ask_place(self, now: float) -> None:
        shared = self._table.read(self._index)
        if "place" in self._asked or not self._names:
            return
        if now < shared.ask_place:
            self._again = shared.ask_place
            return
        # The others of this worker wait for what comes of it.
        self._put(ask_place=now + FIRST_PAUSE)
        self._asked.add("place")
        self._asker.ask(partial(self._acquire, self._names.pop()))

    def _ask_token(self, rate: Rate, now: float) -> None:
        shared = self._table.read(self._index)
        if "token" in self._asked:
            return
        if now < shared.ask_token:
            self._again = min(shared.ask_token, now + LOOK_RATE * (0.5 + random()))
            return
        self._asked.add("token")
        self._asker.ask(partial(self._take, rate))

    def _put(self, **times: float) -> None:
        with self._table.locked() as held:
            if held:
                self._table.write(self._index, self._table.read(self._index)._replace(**times))  # type: ignore[arg-type]

    def _give_back(self, name: str) -> None:
        self._names.append(name)
        self._asker.ask(partial(self._release, name))

    # --- in the asker's thread -------------------------------------------------------------------------------

    def _acquire(self, name: str, store: ResultStore) -> None:
        assert self._most is not None
        again = 0.0
        try:
            got = store.acquire(self._places, name, self._most, LEASE)
            self._asker.succeeded()
            pause = min(MAX_PAUSE, FIRST_PAUSE * 2 ** min(self._refusals, 10))
            self._refusals = 0 if got else self._refusals + 1
            if not got:
                again = time.monotonic() + pause * (0.75 + random() / 2)
        except Exception as error:
            self._asker.failed(self._task, error)
            again = time.monotonic() + PAUSE
        self._put(ask_place=again)
        if again:
            self._names.append(name)
        self._answers.append(("place", name, again))

    def _take(self, rate: Rate, store: ResultStore) -> None:
        again = 0.0
        try:
            wait = store.take(f"rate:{self._task}", rate.per_second, rate.burst)
            self._asker.succeeded()
            if wait:
                again = time.monotonic() + wait
        except Exception as error:
            self._asker.failed(self._task, error)
            again = time.monotonic() + PAUSE
        if again:
            self._put(ask_token=again)
        self._answers.append(("token", None, again))

    def _release(self, name: str, store: ResultStore) -> None:
        try:
            store.release(self._places, name)
        except Exception as error:
            log.warning("A place of %s was not given back, and is free in %.0f s: %s", self._task, LEASE, error)

    def renew(self, store: ResultStore) -> None:
        """Keeps what is held for another while."""
        for name in self._held():
            assert self._most is not None
            try:
                if not store.acquire(self._places, name, self._most, LEASE):
                    log.error("%s has lost its place in the cluster: it runs beside too many others.", self._task)
            except Exception as error:
                self._asker.failed(self._task, error)
                return

    def _held(self) -> Iterable[str]:
        return [*self._used, *self._free]

    def forget(self) -> None:
        """Gives back the places that another process under the same names had, which is gone."""
        for name in self._names:
            self._asker.ask(partial(self._release, name))

    def give_up(self, store: ResultStore) -> None:
        """Gives everything back, at the end."""
        self._take_answers(0.0)
        for name in self._held():
            self._release(name, store)
