"""What the results service does with its jobs: commits the outcomes of a round, holds and answers the questions."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Final

from gtask.errors import ConfigurationError, DecodeError, ResultError, SignatureError
from gtask.results.keyed import Keyed
from gtask.results.sqlite import SqliteStore
from gtask.results.standby import Gate
from gtask.results.waits import Held, Waits
from gtask.results.wire import (
    PUT,
    WAIT,
    Ask,
    AskMarks,
    JoinItem,
    PutItem,
    cut_answer,
    decode_ask,
    decode_items,
    encode_answer,
    encode_marks,
    encode_refusal,
    encode_value,
)
from gtask.signing import Kind, open_job
from gtask.states import Record
from gtask.worker.blocking import BlockingDriver
from gtask.worker.job import End, Ending, Job

log = logging.getLogger("gtask.results")

SWEEP_EVERY: Final = 1.0
LOOK_EVERY: Final = 0.25
"""Seconds between two looks for records whose time is over, and for what other processes have written to the file."""

LOOK_IDS: Final = 2000
"""Ids that are looked up in one round after another process has written."""

RETRY_PAUSE: Final = 1.0
COMPLAIN_EVERY: Final = 60.0
"""Seconds between two attempts to write to a file that cannot be written, and between two lines of the log about it."""

MAX_TICK: Final = 30.0


class Desk:
    """Runs the jobs of the service: the handler of `BlockingDriver.serve`, called in one thread only."""

    def __init__(self, driver: BlockingDriver, store: SqliteStore, max_waits: int, gate: Gate) -> None:
        self._driver = driver
        self._gate = gate
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
        self._newest = 0

    def start(self, job: Job) -> None:
        """Takes a job of this round, unless its connection is too new."""
        if not self._gate.holds(job):
            self._take(job)

    def _take(self, job: Job) -> None:
        """Takes a job, and refuses one whose signature is wrong before it is decoded."""
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
        for job in self._gate.look(now):
            self._take(job)
        if self._puts and (now >= self._retry_at or self._driver.core.stopping):
            self._commit(now)
        self._serve(now)
        for held in self._waits.due(now):
            self._answer_held(held)
        if now >= self._sweep_at:
            self._sweep(now)
        if self._driver.core.stopping:
            self._stop()
        due = [now + MAX_TICK, self._sweep_at, self._gate.due()]
        if self._puts:
            due.append(self._retry_at)
        if self._waits:
            due += [self._look_at, self._waits.next_due() or now]
        return min(due)

    # --- outcomes --------------------------------------------------------------------------------------------

    def _commit(self, now: float) -> None:
        work: list[tuple[Job, list[PutItem]]] = []
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
        if done.marked:
            self._waits.ready(_MARKS, now)

    # --- questions -------------------------------------------------------------------------------------------

    def _serve(self, now: float) -> None:
        asks, self._asks = self._asks, []
        if asks and not self._waits:
            # Before the first question is looked up, so that nothing written after that is overlooked.
            self._version = None
            self._look(now)
        keyed: list[tuple[Job, Keyed]] = []
        for job in asks:
            try:
                ask = decode_ask(job.workload)
                if isinstance(ask, Ask):
                    self._ask(job, ask, now)
                elif isinstance(ask, AskMarks):
                    self._ask_marks(job, ask, now)
                else:
                    keyed.append((job, ask))
            except (DecodeError, ResultError, ConfigurationError) as error:
                self._refuse(job, error)
        if keyed:
            self._answer_keyed(keyed)
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
        self._hold(job, ask.ids, now + ask.timeout)

    def _ask_marks(self, job: Job, ask: AskMarks, now: float) -> None:
        marks = self._store.marks_after(ask.cursor)
        if marks.marks or not ask.timeout or self._driver.core.stopping:
            self._finish(job, encode_marks(marks))
        else:
            self._hold(job, _MARKS, now + ask.timeout)

    def _hold(self, job: Job, ids: tuple[str, ...], until: float) -> None:
        for oldest in self._waits.hold(job, ids, until):
            self._answer_held(oldest)
        protocol = job.link.protocol
        if protocol is not None and job.handle in protocol.held:
            # A sign of life: whoever waits sees that a service is there.
            protocol.send_status(job.handle, 0, len(ids))

    def _answer_keyed(self, asks: Sequence[tuple[Job, Keyed]]) -> None:
        try:
            values = self._store.answers([ask for _, ask in asks])
        except (ResultError, ConfigurationError) as error:
            for job, _ in asks:
                self._refuse(job, error)
            return
        for (job, _), value in zip(asks, values, strict=True):
            self._finish(job, encode_value(value))

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
            if held.ids is _MARKS:
                ask = decode_ask(held.key.workload)
                assert isinstance(ask, AskMarks)
                self._finish(held.key, encode_marks(self._store.marks_after(ask.cursor)))
                return
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
                    if "" in self._look_up and (newest := self._store.newest_mark()) != self._newest:
                        self._newest = newest
                        self._waits.ready(_MARKS, now)
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

_MARKS: Final = ("",)
"""The id that questions for marks wait for; no task has it."""
