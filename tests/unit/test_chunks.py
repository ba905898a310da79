"""The items of a stream as they travel: chunks, the window, and what a reader makes of them."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtask.chunks import CHUNK_BYTES, MAGIC, Packer, Unpacker, Window
from gtask.codecs import pack
from gtask.errors import DecodeError, StreamBroken


def chunks_of(run: int, items: list[Any], size: int = 2) -> list[bytes]:
    packer, found = Packer(run, window_items=4 * size), []
    for item in items:
        packer.add(pack(item))
        if packer.full:
            found.append(packer.cut()[1])
    if packer.waiting:
        found.append(packer.cut()[1])
    return found


def test_chunks_are_numbered_and_come_out_in_order() -> None:
    chunks = chunks_of(7, ["a", {"b": 1}, None, [1, 2], b"c"])
    assert len(chunks) == 3
    assert all(chunk.startswith(MAGIC) for chunk in chunks)
    reader = Unpacker("t")
    assert [item for chunk in chunks for item in reader.take(chunk)] == ["a", {"b": 1}, None, [1, 2], b"c"]
    assert (reader.run, reader.had) == (7, 5)
    reader.end(5)


@pytest.mark.parametrize("count", [1, 12, 13, 15, 16, 70_000])
def test_a_chunk_of_any_length_can_be_read(count: int) -> None:
    packer = Packer(1)
    for n in range(count):
        packer.add(pack(n))
    items, data = packer.cut()
    assert items == count
    assert Unpacker("t").take(data) == list(range(count))


def test_a_chunk_is_cut_by_items_and_by_bytes() -> None:
    packer = Packer(1, window_items=8, window_bytes=1 << 30)
    packer.add(b"\x01")
    assert not packer.full
    packer.add(b"\x01")
    assert packer.full
    packer = Packer(1)
    packer.add(bytes(CHUNK_BYTES))
    assert packer.full
    assert Packer(1, window_items=1)._most_items == 1


def test_a_missing_chunk_is_noticed() -> None:
    first, second, third = chunks_of(1, list(range(6)))
    reader = Unpacker("export")
    reader.take(first)
    with pytest.raises(StreamBroken, match=r"export: a part of the stream is missing behind item 2"):
        reader.take(third)
    reader = Unpacker("export")
    reader.take(first)
    reader.take(second)
    with pytest.raises(StreamBroken, match=r"ended with item 4 of 6; the others are lost"):
        reader.end(6)
    with pytest.raises(StreamBroken, match=r"item 0 of 3"):
        Unpacker("export").end(3)
    Unpacker("export").end(0)


@pytest.mark.parametrize("data", [b"\x90", b"\x01", b"\xc1", pack([1, 2]), pack(["a", 0, 0, 1]), pack([True, 0, 0, 1])])
def test_what_is_no_chunk_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        Unpacker("t").take(MAGIC + data)


def test_a_second_run_ends_the_stream_or_goes_on_without_doubles() -> None:
    first, again = chunks_of(1, list(range(5))), chunks_of(2, list(range(7)), size=3)
    reader = Unpacker("export")
    reader.take(first[0])
    with pytest.raises(StreamBroken, match=r"lost after item 2.*resume=True"):
        reader.take(again[0])
    reader = Unpacker("export", resume=True)
    had = [item for chunk in [*first, *again] for item in reader.take(chunk)]
    assert had == list(range(7))
    reader.end(7)
    shorter = Unpacker("export", resume=True)
    for chunk in [*first, *chunks_of(2, [0, 1])]:
        shorter.take(chunk)
    with pytest.raises(StreamBroken, match=r"second run yielded 2 items, and the first at least 5"):
        shorter.end(2)


@given(
    window_items=st.integers(1, 50),
    window_bytes=st.integers(1, 500),
    sizes=st.lists(st.integers(0, 300), max_size=200),
    eager=st.booleans(),
)
def test_neither_side_waits_for_the_other_for_ever(
    window_items: int, window_bytes: int, sizes: list[int], eager: bool
) -> None:
    """Whatever the items: all get through, the producer is never more than a window and a chunk ahead."""
    packer, window = Packer(1, window_items, window_bytes), Window(window_items, window_bytes)
    reader = Unpacker("t", window_items, window_bytes)
    wire: deque[bytes] = deque()
    had = 0
    longest = max((len(pack(bytes(size))) for size in sizes), default=0)

    def read() -> bool:
        nonlocal had
        if not wire:
            return False
        had += len(reader.take(wire.popleft()))
        report = reader.report()
        if report is not None:
            assert window.consumed(report)
        return True

    def cut() -> None:
        items, data = packer.cut()
        window.sent(items, len(data))
        wire.append(data)
        assert window.items <= window_items + items
        assert window.bytes <= window_bytes + len(data)
        assert len(data) <= window_bytes + longest + 32

    for size in sizes:
        while not window.open:
            assert read(), "the producer waits, and the reader has nothing to read"
        packer.add(pack(bytes(size)))
        if packer.full:
            cut()
        if eager:
            read()
    if packer.waiting:
        cut()
    while read():
        pass
    assert had == len(sizes)
    reader.end(len(sizes))


def test_the_window_takes_old_news_calmly() -> None:
    window = Window(4, 100)
    window.sent(3, 10)
    window.sent(1, 10)
    assert not window.open
    assert window.consumed(1)
    assert not window.consumed(1)
    assert not window.consumed(0)
    assert window.open
    assert (window.items, window.bytes) == (1, 10)
    assert window.consumed(99), "a report from nowhere does no harm"
    assert (window.items, window.bytes) == (0, 0)
