"""Puts of several threads in one: where jobs end together, their outcomes are stored together. Design, section 4.

Nobody waits for company. Whoever comes while nothing is being written writes at once; who comes meanwhile gathers
behind, and the first of them then writes for all. So a busy worker makes few large transactions, and an idle one makes
each at once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from gtask.errors import ResultError, ResultsUnavailable
from gtask.results.base import ResultStore
from gtask.results.checks import check_record
from gtask.states import Record


class _Put:
    """The records of one thread, which waits until somebody has stored them, or it is its turn."""

    __slots__ = ("done", "error", "records", "ttl", "turn")

    def __init__(self, records: Sequence[Record], ttl: float) -> None:
        self.records = records
        self.ttl = ttl
        self.turn = threading.Event()
        self.done = False
        self.error: Exception | None = None


class Together:
    """The puts of all threads of a process into one store."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._writing = False
        self._waiting: deque[_Put] = deque()

    def put(self, store: ResultStore, records: Sequence[Record], ttl: float) -> None:
        """As `store.put`, perhaps in one with others; raises what that raises."""
        for record in records:
            check_record(record, ttl)
        mine = _Put(records, ttl)
        with self._lock:
            self._waiting.append(mine)
            wait, self._writing = self._writing, True
        if wait:
            mine.turn.wait()
        if not mine.done:
            self._write(store)
        if mine.error is not None:
            raise mine.error

    def _write(self, store: ResultStore) -> None:
        with self._lock:
            puts = list(self._waiting)
            self._waiting.clear()
        try:
            self._store(store, puts)
        finally:
            with self._lock:
                following = self._waiting[0] if self._waiting else None
                self._writing = following is not None
            for put in puts:
                put.done = True
                put.turn.set()
            if following is not None:
                following.turn.set()

    @staticmethod
    def _store(store: ResultStore, puts: Sequence[_Put]) -> None:
        ttl = puts[0].ttl
        together = [put for put in puts if put.ttl == ttl]
        try:
            store.put([record for put in together for record in put.records], ttl)
        except Exception as error:
            refused = isinstance(error, ResultError) and not isinstance(error, ResultsUnavailable)
            if not refused or len(together) == 1:
                for put in together:
                    put.error = error
            else:
                # One of them is too large, perhaps: that one alone is refused.
                together = []
        for put in puts:
            if put not in together:
                try:
                    store.put(put.records, put.ttl)
                except Exception as error:
                    put.error = error
