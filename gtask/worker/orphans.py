"""Results of jobs whose connection ended before they did: handed over all the same, over any other connection.

The job server may have the job run again, if it keeps its queue: then the result is recognised and the job ends at
once, with what follows from it. If the queue was in memory the job is gone, and this is all there will ever be of it.
So nothing else of an ending is handed over here: what follows is submitted by the job that is run again, or not at all.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from gtask.errors import LocalProtocolError
from gtask.protocol import Event, JobCreated, Lost, Refused
from gtask.types import Submission
from gtask.worker.job import Carried
from gtask.worker.link import Link

log = logging.getLogger("gtask.worker")

PATIENCE: Final = 60.0
"""Seconds a result waits for a job server that takes it."""

PAUSE: Final = 1.0
"""Seconds before one that was refused is tried again."""

MAX_WAITING: Final = 10_000
MAX_BYTES: Final = 64 * 1024 * 1024
"""What waits at most: results of so many jobs, and so many bytes; what is beyond that is dropped, with a word."""

BATCH: Final = 1024 * 1024
"""Bytes that travel in one job, unless a single result is larger."""


class Orphans:
    """The results that have lost their connection; `now` is the caller's clock."""

    def __init__(self, pack: Callable[[str, Sequence[bytes]], bytes], new_unique: Callable[[], str]) -> None:
        self._pack = pack
        self._new_unique = new_unique
        self._waiting: deque[tuple[float, Carried]] = deque()
        self._sent: list[tuple[float, Carried]] = []
        self._size = 0
        self._retry_at = -math.inf

    def __len__(self) -> int:
        """How many jobs' results are still to be handed over."""
        return len(self._waiting) + len(self._sent)

    def due(self, now: float) -> float:
        """When there is something to do though nothing comes; infinity when nothing waits."""
        if not self._waiting:
            return math.inf
        expires = self._waiting[0][0] + PATIENCE
        return min(expires, self._retry_at) if self._retry_at > now else expires

    def add(self, carried: Carried, now: float) -> bool:
        """Keeps a result; false where there is nothing to keep, or no room."""
        if not carried.items or not carried.final:
            return False
        size = _size(carried)
        if len(self) >= MAX_WAITING or self._size + size > MAX_BYTES:
            log.error("A result of %s is lost: too many wait for a job server.", carried.function)
            return False
        self._size += size
        self._waiting.append((now, carried))
        return True

    def expire(self, now: float) -> None:
        """Gives up what has waited for too long."""
        given_up = 0
        while self._waiting and now >= self._waiting[0][0] + PATIENCE:
            self._size -= _size(self._waiting.popleft()[1])
            given_up += 1
        if given_up:
            log.error("The results of %d jobs are lost: no job server took them within %.0f s.", given_up, PATIENCE)

    def flush(self, link: Link, now: float) -> None:
        """Sends some over a connection, one job at a time."""
        protocol = link.protocol
        if not self._waiting or self._sent or now < self._retry_at or protocol is None:
            return
        function = self._waiting[0][1].function
        items: list[bytes] = []
        size = 0
        while self._waiting and self._waiting[0][1].function == function:
            if items and size + _size(self._waiting[0][1]) > BATCH:
                break
            entry = self._waiting.popleft()
            self._sent.append(entry)
            items += entry[1].items
            size += _size(entry[1])
        try:
            protocol.submit(Submission(function, self._pack(function, items), self._new_unique()), self._heard(link))
        except LocalProtocolError as error:
            self._drop(error)

    def _heard(self, link: Link) -> Callable[[Event], None]:
        def heard(event: Event) -> None:
            if isinstance(event, JobCreated):
                log.info("%s took the results of %d jobs whose connection had ended.", link.server, len(self._sent))
                self._drop(None)
            elif isinstance(event, Refused) and event.error.code != "QUEUE_ERROR":
                self._drop(event.error)
            elif isinstance(event, Lost | Refused):
                self._waiting.extendleft(reversed(self._sent))
                self._sent.clear()
                # Without a connection there is nothing to wait for but the next one.
                self._retry_at = link.pulse.heard + PAUSE if isinstance(event, Refused) else -math.inf

        return heard

    def _drop(self, error: Exception | None) -> None:
        self._size -= sum(_size(carried) for _, carried in self._sent)
        self._sent.clear()
        if error is not None:
            log.error("The results of jobs whose connection had ended are lost: %s", error)


def _size(carried: Carried) -> int:
    return sum(map(len, carried.items))
