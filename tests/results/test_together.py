"""Outcomes of jobs that end together are stored together, and nobody waits for company."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gtask.errors import EncodeError, ResultError, ResultsUnavailable
from gtask.results import SqliteStore
from gtask.results.together import Together
from gtask.states import Record, State
from gtask.testing.contracts import PATIENCE, TTL, new_id
from gtask.testing.programs import wait_until


class Slow(SqliteStore):
    """Says how many records came at once; the first put waits to be let go, and one of a body may be refused."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.sizes: list[int] = []
        self.go = threading.Event()
        self.trouble: Exception | None = None
        self.bad = b""

    def put(self, records: Sequence[Record], ttl: float) -> None:
        self.sizes.append(len(records))
        if len(self.sizes) == 1:
            assert self.go.wait(PATIENCE)
        if self.trouble is not None and any(record.body == self.bad for record in records):
            raise self.trouble
        super().put(records, ttl)


def gather(store: Slow, bodies: Sequence[bytes], ttls: Sequence[float] = ()) -> list[Exception | None]:
    """Puts the first record, the others while that is being written; what came of the others."""
    together = Together()
    records = [Record(new_id(), State.SUCCESS, body) for body in bodies]
    with ThreadPoolExecutor(len(bodies) + 1) as pool:
        first = pool.submit(together.put, store, [Record(new_id(), State.SUCCESS, b"first")], TTL)
        wait_until(lambda: store.sizes == [1], PATIENCE, "the first put")
        times = ttls or [TTL] * len(records)
        puts = [pool.submit(together.put, store, [one], ttl) for one, ttl in zip(records, times, strict=True)]
        wait_until(lambda: len(together._waiting) == len(puts), PATIENCE, "the others")
        store.go.set()
        first.result(PATIENCE)
        found = [put.exception(PATIENCE) for put in puts]
    stored = store.get([record.id for record in records])
    assert [record.id in stored for record in records] == [error is None for error in found]
    together.put(store, [Record(new_id(), State.SUCCESS, b"last")], TTL)
    store.close()
    return [error if isinstance(error, Exception) else None for error in found]


@pytest.fixture
def store(tmp_path: Path) -> Slow:
    return Slow(tmp_path / "results.db")


def test_what_comes_meanwhile_is_one_put(store: Slow) -> None:
    assert gather(store, [b"x"] * 20) == [None] * 20
    assert store.sizes == [1, 20, 1]


def test_each_is_kept_for_its_own_time(store: Slow) -> None:
    assert gather(store, [b"x"] * 4, [TTL, TTL, 2 * TTL, TTL]) == [None] * 4
    assert sum(store.sizes) == 6


def test_one_that_is_refused_harms_no_other(store: Slow) -> None:
    store.trouble, store.bad = ResultError("too large"), b"bad"
    assert gather(store, [b"x", b"bad", b"x"]) == [None, store.trouble, None]


def test_a_store_that_is_away_is_away_for_all(store: Slow) -> None:
    """And is asked once, not once for each."""
    store.trouble, store.bad = ResultsUnavailable("away"), b"bad"
    assert gather(store, [b"x", b"bad", b"x"]) == [store.trouble] * 3
    assert store.sizes == [1, 3, 1]


def test_what_cannot_be_kept_is_refused_alone(store: Slow) -> None:
    store.go.set()
    with pytest.raises(EncodeError):
        Together().put(store, [Record("", State.SUCCESS)], TTL)
    assert store.sizes == []
