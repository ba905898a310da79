"""The questions that the results service holds until an answer is there. No socket, no clock, no file.

Each is found by any of its ids at once, however many are held. Both the number of questions and the number of ids
they name together are bounded: the oldest give way, answered with nothing, and their callers ask again.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Final, Generic, TypeVar

_K = TypeVar("_K")

MAX_WAITS: Final = 10_000
MAX_TOTAL_IDS: Final = 1_000_000
"""Questions held at once, and ids in all of them together."""

LINGER: Final = 0.05
LINGER_IDS: Final = 1000
"""A question about so many ids or more is kept for `LINGER` seconds after its first result, one about fewer for a
share of that: a caller who waits for a thousand results then asks a few dozen times and not a thousand times."""


class Held(Generic[_K]):
    """One question: who asked it, the ids it names, and those of them that have become ready meanwhile."""

    __slots__ = ("due", "found", "ids", "key", "open")

    def __init__(self, key: _K, ids: tuple[str, ...], until: float) -> None:
        self.key = key
        self.ids = ids
        self.due = until
        self.found: list[str] = []
        self.open = True

    def __repr__(self) -> str:
        return f"<Held {self.key} for {len(self.ids)} ids, {len(self.found)} found>"


class Waits(Generic[_K]):
    """All the questions that are held; times are the caller's, in seconds."""

    def __init__(self, max_waits: int = MAX_WAITS, max_ids: int = MAX_TOTAL_IDS) -> None:
        self._max_waits = max_waits
        self._max_ids = max_ids
        self._held: dict[_K, Held[_K]] = {}
        self._by_id: dict[str, dict[_K, Held[_K]]] = {}
        self._due: list[tuple[float, int, Held[_K]]] = []
        self._count = count()
        self._ids = 0

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Held[_K]]:
        return iter(list(self._held.values()))

    @property
    def ids(self) -> Iterable[str]:
        """Every id that somebody waits for."""
        return self._by_id.keys()

    def hold(self, key: _K, ids: tuple[str, ...], until: float) -> list[Held[_K]]:
        """Holds a question until a time; returns those that had to give way to it, no longer held."""
        gone = []
        while self._held and (len(self._held) >= self._max_waits or self._ids + len(ids) > self._max_ids):
            oldest = next(iter(self._held.values()))
            self.drop(oldest)
            gone.append(oldest)
        held = self._held[key] = Held(key, ids, until)
        for id in ids:
            self._by_id.setdefault(id, {})[key] = held
        self._ids += len(ids)
        self._push(held)
        return gone

    def ready(self, ids: Iterable[str], now: float) -> None:
        """These ids have become ready: whoever waits for one of them is due, at once or a moment later."""
        for id in ids:
            for held in self._by_id.pop(id, {}).values():
                if not held.found:
                    linger = LINGER * min(1.0, (len(held.ids) - 1) / LINGER_IDS)
                    if now + linger < held.due:
                        held.due = now + linger
                        self._push(held)
                held.found.append(id)

    def drop(self, held: Held[_K]) -> None:
        """Holds a question no longer."""
        if not held.open:
            return
        held.open = False
        del self._held[held.key]
        self._ids -= len(held.ids)
        for id in held.ids:
            others = self._by_id.get(id)
            if others is not None and others.pop(held.key, None) is not None and not others:
                del self._by_id[id]

    def due(self, now: float) -> list[Held[_K]]:
        """The questions to answer now, no longer held: with what is `found`, or with nothing when time is over."""
        found = []
        while self._due and self._due[0][0] <= now:
            held = heapq.heappop(self._due)[2]
            if held.open and held.due <= now:
                self.drop(held)
                found.append(held)
        return found

    def next_due(self) -> float | None:
        """When the next question is to be answered, None when none is held."""
        while self._due and not self._due[0][2].open:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def _push(self, held: Held[_K]) -> None:
        # Answered questions stay in the heap until their time; under load they would outnumber the others by far.
        if len(self._due) > 2 * len(self._held) + 1000:
            self._due = [(other.due, next(self._count), other) for other in self._held.values() if other is not held]
            heapq.heapify(self._due)
        heapq.heappush(self._due, (held.due, next(self._count), held))
