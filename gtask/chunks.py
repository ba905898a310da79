"""The items of a stream as they travel: chunks, their numbers, and the window that bounds them. Design, section 3.

A chunk is the data of one WORK_DATA: `MAGIC`, then a msgpack array of the run's number, the chunk's number, the number
of its first item, and the items. A run has a number of its own, drawn at its start, so a reader can tell that a job was
run a second time. Chunks and items are counted from 0 within a run.

The reader says how far it has come with the number of chunks it has consumed. The producer stops when what it has sent
and is not consumed fills the window, and the reader reports at the latest when half a window is consumed. So both sides
hold a window and one chunk at most, and neither ever waits for the other to move first: a producer that has stopped has
a whole window under way, and half of it makes the reader report.

Pure: no clock, no chance, no lock.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Any, Final

from gtask.codecs import pack, unpack
from gtask.errors import DecodeError, StreamBroken

MAGIC: Final = b"\xc1gtc"
"""How a chunk begins: c1 starts neither msgpack nor UTF-8."""

WINDOW_ITEMS: Final = 1024
WINDOW_BYTES: Final = 1024 * 1024
"""Items and bytes under way at most, unless the caller says otherwise; one chunk more may be."""

CHUNK_BYTES: Final = 64 * 1024
"""Bytes after which a chunk is sent; a single item may be larger."""

MAX_WINDOW: Final = 1 << 20

MAX_RUN: Final = 2**31 - 1
"""The largest number of a run: every job server keeps it unharmed (protocol reference, section 3)."""

_HEAD: Final = 3


class Packer:
    """Gathers packed items, and cuts chunks of a run."""

    def __init__(self, run: int, window_items: int = WINDOW_ITEMS, window_bytes: int = WINDOW_BYTES) -> None:
        self._run = run
        self._most_items = max(1, window_items // 4)
        self._most_bytes = max(1, min(CHUNK_BYTES, window_bytes // 4))
        self._items: list[bytes] = []
        self._size = 0
        self._number = 0
        self.count = 0
        """Items taken so far."""

    def add(self, item: bytes) -> None:
        """Takes one item."""
        self._items.append(item)
        self._size += len(item)
        self.count += 1

    @property
    def waiting(self) -> int:
        """Items that are in no chunk yet."""
        return len(self._items)

    @property
    def full(self) -> bool:
        """Whether what waits is worth a chunk."""
        return len(self._items) >= self._most_items or self._size >= self._most_bytes

    def cut(self) -> tuple[int, bytes]:
        """Makes a chunk of what waits: the number of its items, and its bytes."""
        items = self._items
        count = len(items)
        head = pack([self._run, self._number, self.count - count])[1:]
        data = b"".join((MAGIC, _array(count + _HEAD), head, *items))
        self._number += 1
        self._items, self._size = [], 0
        return count, data


def _array(count: int) -> bytes:
    """The head of a msgpack array."""
    if count < 16:
        return bytes([0x90 | count])
    return struct.pack(">BH", 0xDC, count) if count < 1 << 16 else struct.pack(">BI", 0xDD, count)


class Window:
    """What is sent and not consumed."""

    def __init__(self, items: int = WINDOW_ITEMS, size: int = WINDOW_BYTES) -> None:
        self._most_items = items
        self._most_bytes = size
        self._sent: deque[tuple[int, int]] = deque()
        self._first = 0
        self.items = self.bytes = 0

    def __repr__(self) -> str:
        return f"<Window {self.items}/{self._most_items} items, {self.bytes}/{self._most_bytes} bytes>"

    @property
    def open(self) -> bool:
        """Whether more may be sent."""
        return self.items < self._most_items and self.bytes < self._most_bytes

    def sent(self, items: int, size: int) -> None:
        """A chunk was sent."""
        self._sent.append((items, size))
        self.items += items
        self.bytes += size

    def consumed(self, chunks: int) -> bool:
        """The reader has consumed so many chunks in all; says whether that was news."""
        news = False
        while self._sent and self._first < chunks:
            items, size = self._sent.popleft()
            self._first += 1
            self.items -= items
            self.bytes -= size
            news = True
        return news


class Unpacker:
    """The reader's side: puts the chunks in order, and says when to report.

    With `resume` the items of a second run are left out until it gets beyond the first: right for a generator that
    yields the same items each time. Without, a second run ends the stream with `StreamBroken`.
    """

    def __init__(
        self, name: str, window_items: int = WINDOW_ITEMS, window_bytes: int = WINDOW_BYTES, resume: bool = False
    ) -> None:
        self._name = name
        self._half_items = window_items / 2
        self._half_bytes = window_bytes / 2
        self._resume = resume
        self._chunks = 0
        self._at = 0
        self._items = self._bytes = 0
        self.run: int | None = None
        """The run that the chunks come from, None before the first."""
        self.had = 0
        """Items that were given out, of whatever run."""

    def take(self, data: bytes) -> list[Any]:
        """The items of the next chunk, those that were not had before; raises `StreamBroken` or `DecodeError`."""
        found = unpack(data[len(MAGIC) :])
        if not isinstance(found, list) or len(found) < _HEAD or any(type(n) is not int for n in found[:_HEAD]):
            raise DecodeError(f"{self._name}: a chunk of the stream cannot be read; its worker has another version.")
        run, number, first, *items = found
        if run != self.run:
            self._begin(run)
        if number != self._chunks or first != self._at:
            raise StreamBroken(f"{self._name}: a part of the stream is missing behind item {self._at}; call it again.")
        self._chunks += 1
        self._at += len(items)
        self._items += len(items)
        self._bytes += len(data)
        fresh = items[max(0, self.had - first) :] if first < self.had else items
        self.had = max(self.had, self._at)
        return fresh

    def _begin(self, run: int) -> None:
        if self.run is not None and self.had and not self._resume:
            raise StreamBroken(
                f"{self._name}: the worker was lost after item {self.had} of the stream, and another one begins anew. "
                "What was had may differ: call it again, or set resume=True where it yields the same items each time."
            )
        self.run = run
        self._chunks = self._at = self._items = self._bytes = 0

    def report(self) -> int | None:
        """The number of chunks to report as consumed, once all items that were taken are; None while that can wait."""
        if self._items < self._half_items and self._bytes < self._half_bytes:
            return None
        self._items = self._bytes = 0
        return self._chunks

    def end(self, total: Any) -> None:
        """The run has ended after `total` items; raises `StreamBroken` when some of them never came."""
        if total != self._at and not (total == 0 and self.run is None):
            raise StreamBroken(
                f"{self._name}: the stream ended with item {self._at} of {total}; the others are lost. Call it again."
            )
        if total < self.had:
            raise StreamBroken(
                f"{self._name}: the second run yielded {total} items, and the first at least {self.had}: it does not "
                "yield the same each time, so leave out resume=True."
            )
