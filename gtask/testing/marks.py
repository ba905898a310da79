"""The part of the contract of result stores about revoking, places, tokens and counters; see `contracts`."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from gtask.errors import EncodeError
from gtask.results.base import Mark, ResultStore
from gtask.states import Record, State
from gtask.testing.joins import PATIENCE, TTL, new_id, settle
from gtask.testing.programs import wait_until


def revoked_record(id: str = "") -> Record:
    """The record of a task that was revoked."""
    return Record(id or new_id(), State.REVOKED, b"no longer wanted")


class MarksContract:
    """Which tasks were revoked."""

    def test_a_task_that_is_revoked_has_its_record(self, store: ResultStore) -> None:
        """As if it had been put, so that whoever waits is told; one that is ready already keeps its own."""
        done, open_ = Record(new_id(), State.SUCCESS, b"4"), new_id()
        store.put([done, Record(open_, State.STARTED)], TTL)
        with ThreadPoolExecutor(1) as pool:
            wait = pool.submit(store.wait, [open_], PATIENCE)
            store.revoke([revoked_record(done.id), revoked_record(open_)], False, TTL)
            assert wait.result(PATIENCE) == {open_: revoked_record(open_)}
        assert store.get([done.id]) == {done.id: done}

    def test_marks_are_read_in_their_order(self, store: ResultStore) -> None:
        """Each once by whoever goes on from the cursor, all of them by whoever begins."""
        first, second, third = (revoked_record() for _ in range(3))
        begin = store.revoked("", 0).cursor
        store.revoke([first, second], False, TTL)
        store.revoke([third], True, TTL)
        settle(store)
        marks = store.revoked(begin, 0)
        assert marks.marks == [Mark(first.id), Mark(second.id), Mark(third.id, True)]
        assert store.revoked(marks.cursor, 0).marks == []
        assert store.revoked(marks.cursor, 0.05).marks == []
        assert store.revoked("", 0).marks[-3:] == marks.marks
        assert store.revoked("another time's cursor:1", 0).marks[-3:] == marks.marks

    def test_a_task_may_be_revoked_again(self, store: ResultStore) -> None:
        """First before it starts, then to be stopped as well; that it is to be stopped is not taken back."""
        record = revoked_record()
        store.revoke([record], False, TTL)
        settle(store)
        cursor = store.revoked("", 0).cursor
        store.revoke([record], True, TTL)
        settle(store)
        marks = store.revoked(cursor, 0)
        assert marks.marks == [Mark(record.id, True)]
        store.revoke([record], False, TTL)
        settle(store)
        assert set(store.revoked(marks.cursor, 0).marks) <= {Mark(record.id, True)}
        assert [mark for mark in store.revoked("", 0).marks if mark.id == record.id] == [Mark(record.id, True)]

    def test_a_mark_ends_the_wait_for_marks(self, store: ResultStore) -> None:
        """Everybody's wait."""
        record = revoked_record()
        asked = threading.Barrier(4)
        cursor = store.revoked("", 0).cursor

        def watch() -> list[Mark]:
            asked.wait(PATIENCE)
            return store.revoked(cursor, PATIENCE).marks

        with ThreadPoolExecutor(3) as pool:
            waits = [pool.submit(watch) for _ in range(3)]
            asked.wait(PATIENCE)
            store.revoke([record], True, TTL)
            assert [wait.result(PATIENCE) for wait in waits] == [[Mark(record.id, True)]] * 3

    def test_thousands_of_marks(self, store: ResultStore) -> None:
        """More than come at once: whoever asks again gets the rest."""
        records = [revoked_record() for _ in range(10_500)]
        cursor = store.revoked("", 0).cursor
        for first in range(0, len(records), 3500):
            store.revoke(records[first : first + 3500], False, TTL)
        settle(store)
        found: list[Mark] = []
        while marks := store.revoked(cursor, 0):
            if not marks.marks:
                break
            assert len(marks.marks) <= 10_000
            found += marks.marks
            cursor = marks.cursor
        assert found == [Mark(record.id) for record in records]

    def test_a_mark_is_gone_when_its_time_is_over(self, store: ResultStore) -> None:
        """And its record too."""
        short, long = revoked_record(), revoked_record()
        store.revoke([short], False, 0.2)
        store.revoke([long], False, TTL)
        settle(store)
        wait_until(lambda: Mark(short.id) not in store.revoked("", 0).marks, PATIENCE, "the end of the mark")
        assert Mark(long.id) in store.revoked("", 0).marks
        wait_until(lambda: not store.get([short.id]), PATIENCE, "the end of the record")

    def test_nothing_is_revoked(self, store: ResultStore) -> None:
        """No records are no error; bad ones are refused where they are handed in."""
        store.revoke([], True, TTL)
        with pytest.raises(EncodeError, match="task id"):
            store.revoke([revoked_record("x" * 256)], True, TTL)

    @pytest.mark.anyio
    async def test_async_code_revokes_too(self, store: ResultStore) -> None:
        """And is told while it waits; a wait that is cancelled ends."""
        record = revoked_record()
        cursor = (await store.arevoked("", 0)).cursor
        found: list[Mark] = []

        async def watch() -> None:
            found.extend((await store.arevoked(cursor, PATIENCE)).marks)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(watch)
                await store.arevoke([record], True, TTL)
            with anyio.move_on_after(0.05):
                await store.arevoked((await store.arevoked("", 0)).cursor, PATIENCE)
        assert found == [Mark(record.id, True)]
        await store.aclose()


class TalliesContract:
    """What is kept by a key: claims that are given up, places, tokens and counters."""

    def test_a_claim_is_given_up(self, store: ResultStore) -> None:
        """By whoever has it; anybody else changes nothing."""
        key, first, second = f"order:{new_id()}", new_id(), new_id()
        store.unclaim(key, first)
        store.claim(key, first, TTL)
        store.unclaim(key, second)
        assert store.claim(key, second, TTL) == first
        store.unclaim(key, first)
        assert store.claim(key, second, TTL) == second

    def test_places_are_limited(self, store: ResultStore) -> None:
        """Whoever has one may ask again; one that is given back is the next one's."""
        key = f"import:{new_id()}"
        assert store.acquire(key, "a", 2, TTL)
        assert store.acquire(key, "b", 2, TTL)
        assert not store.acquire(key, "c", 2, TTL)
        assert store.acquire(key, "a", 2, TTL)
        assert store.acquire(f"{key}!", "c", 1, TTL)
        store.release(key, "nobody")
        assert not store.acquire(key, "c", 2, TTL)
        store.release(key, "a")
        assert store.acquire(key, "c", 2, TTL)
        assert not store.acquire(key, "a", 2, TTL)
        assert not store.acquire(f"{key}?", "a", 0, TTL)

    def test_a_place_ends_with_its_time(self, store: ResultStore) -> None:
        """For a holder that died; whoever asks again in time keeps it."""
        key = f"import:{new_id()}"
        store.acquire(key, "dead", 2, 0.2)
        store.acquire(key, "alive", 2, 0.2)
        store.acquire(key, "alive", 2, TTL)
        wait_until(lambda: store.acquire(key, "next", 2, TTL), PATIENCE, "the end of the place")
        assert not store.acquire(key, "dead", 2, TTL)

    def test_never_more_places_than_there_are(self, store: ResultStore) -> None:
        """Thirty at once want one of seven."""
        key = f"import:{new_id()}"
        with ThreadPoolExecutor(10) as pool:
            got = list(pool.map(lambda number: store.acquire(key, str(number), 7, TTL), range(30)))
        assert sum(got) == 7

    def test_tokens_are_saved_up_and_come_back(self, store: ResultStore) -> None:
        """As many as `burst` at once; then it is said when there is one."""
        key = f"mail:{new_id()}"
        assert [store.take(key, 0.01, 3) for _ in range(3)] == [0.0] * 3
        assert 50 < store.take(key, 0.01, 3) <= 100
        assert store.take(f"{key}!", 0.01, 1) == 0.0
        fast = f"mail:{new_id()}"
        assert store.take(fast, 20, 1) == 0.0
        wait = store.take(fast, 20, 1)
        assert 0 <= wait <= 0.051
        wait_until(lambda: not store.take(fast, 20, 1), PATIENCE, "the next token")

    def test_never_more_tokens_than_there_are(self, store: ResultStore) -> None:
        """Thirty at once want one of seven."""
        key = f"mail:{new_id()}"
        with ThreadPoolExecutor(10) as pool:
            waits = list(pool.map(lambda _: store.take(key, 0.001, 7), range(30)))
        assert waits.count(0.0) == 7

    def test_counters_count(self, store: ResultStore) -> None:
        """Each call once, however many call at once; each key for itself."""
        key = f"runs:{new_id()}"
        with ThreadPoolExecutor(10) as pool:
            assert sorted(pool.map(lambda _: store.count(key, TTL), range(30))) == list(range(1, 31))
        assert store.count(f"{key}!", TTL) == 1

    def test_a_counter_ends_with_its_time(self, store: ResultStore) -> None:
        """Which begins anew with each count."""
        key = f"runs:{new_id()}"
        assert store.count(key, TTL) == 1
        assert store.count(key, 0.0) == 2
        wait_until(lambda: store.count(key, 0.0) == 1, PATIENCE, "the end of the counter")

    def test_what_cannot_be_kept_by_a_key_is_refused(self, store: ResultStore) -> None:
        """Before anything is sent."""
        for call in (
            lambda: store.unclaim("key", ""),
            lambda: store.acquire("key", "holder", -1, TTL),
            lambda: store.take("key", 0, 1),
            lambda: store.take("key", float("inf"), 1),
            lambda: store.take("key", 1, 0),
            lambda: store.count("key", float("nan")),
        ):
            with pytest.raises(EncodeError):
                call()

    @pytest.mark.anyio
    async def test_async_code_has_them_too(self, store: ResultStore) -> None:
        """Each of them."""
        key, id = new_id(), new_id()
        assert await store.aclaim(key, id, TTL) == id
        await store.aunclaim(key, id)
        assert await store.aclaim(key, "other", TTL) == "other"
        assert await store.aacquire(key, "a", 1, TTL)
        assert not await store.aacquire(key, "b", 1, TTL)
        await store.arelease(key, "a")
        assert await store.aacquire(key, "b", 1, TTL)
        assert await store.atake(key, 0.01, 1) == 0.0
        assert await store.atake(key, 0.01, 1) > 50
        assert [await store.acount(key, TTL) for _ in range(3)] == [1, 2, 3]
        await store.aclose()
