"""What every result store has to do, as tests to inherit. Design, section 4.

```python
class TestMyStore(ResultStoreContract):
    @pytest.fixture
    def store(self) -> Iterator[ResultStore]:
        store = MyStore(...)
        yield store
        store.close()
```

A store may take a moment until what was put is there, but it keeps the order in which one caller has put.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from gtask.errors import EncodeError
from gtask.results.base import Carriage, ResultStore
from gtask.states import Record, State
from gtask.testing.joins import PATIENCE, TTL, ClaimsContract, JoinsContract, chord_of, new_id, settle
from gtask.testing.marks import MarksContract, TalliesContract
from gtask.testing.programs import wait_until


def wait_for_all(store: ResultStore, ids: Iterable[str]) -> dict[str, Record]:
    """Waits until every id is ready, asking again for those that are not, as `GroupResult.join` does."""
    left = set(ids)
    found: dict[str, Record] = {}
    while left:
        ready = store.wait(left, PATIENCE)
        assert ready, f"{len(left)} of the records did not come"
        assert ready.keys() <= left
        found |= ready
        left -= ready.keys()
    return found


__all__ = ["PATIENCE", "TTL", "ResultStoreContract", "new_id", "settle", "wait_for_all"]


class ResultStoreContract(ClaimsContract, JoinsContract, MarksContract, TalliesContract):
    """Inherit it, and override the fixture `store` with one that yields a fresh store (see the module)."""

    @pytest.fixture
    def store(self) -> ResultStore:
        """The store under test."""
        raise NotImplementedError("Override the fixture `store` to return the store under test.")

    # --- put and get -----------------------------------------------------------------------------------------

    def test_what_is_put_can_be_got(self, store: ResultStore) -> None:
        """Also when it is no result yet."""
        done, begun = Record(new_id(), State.SUCCESS, b"4"), Record(new_id(), State.STARTED, b"")
        store.put([done, begun], TTL)
        settle(store)
        assert store.get([done.id, begun.id]) == {done.id: done, begun.id: begun}

    @pytest.mark.parametrize("state", [state for state in State if state is not State.UNKNOWN])
    def test_every_state_is_kept(self, store: ResultStore, state: State) -> None:
        """And comes back as a `State`."""
        record = Record(new_id(), state, b"body")
        store.put([record], TTL)
        settle(store)
        (found,) = store.get([record.id]).values()
        assert found == record
        assert isinstance(found.state, State)

    @pytest.mark.parametrize("body", [b"", b"\0", b"\xff\x00 \r\n", bytes(range(256)) * 4096], ids=len)
    def test_a_body_is_any_bytes(self, store: ResultStore, body: bytes) -> None:
        """Empty, with NUL, and a mebibyte of it."""
        record = Record(new_id(), State.SUCCESS, body)
        store.put([record], TTL)
        assert store.wait([record.id], PATIENCE) == {record.id: record}

    def test_an_id_is_any_short_text(self, store: ResultStore) -> None:
        """Users may choose their own: `task_id="order 7: ü"`."""
        record = Record(f"order {new_id()}: ü%'\"\\ ", State.SUCCESS, b"7")
        store.put([record], TTL)
        assert store.wait([record.id], PATIENCE) == {record.id: record}

    def test_unknown_ids_are_left_out(self, store: ResultStore) -> None:
        """Of get, wait and forget alike."""
        record = Record(new_id(), State.SUCCESS, b"")
        store.put([record], TTL)
        assert store.wait([new_id(), record.id], PATIENCE) == {record.id: record}
        assert store.get([new_id(), record.id]) == {record.id: record}
        assert store.get([new_id()]) == {}
        store.forget([new_id()])

    def test_nothing_is_asked_for_nothing(self, store: ResultStore) -> None:
        """Empty collections are no error."""
        store.put([], TTL)
        store.forget([])
        assert store.get([]) == {}
        assert store.wait([], PATIENCE) == {}

    @pytest.mark.parametrize(
        "record",
        [Record("", State.SUCCESS, b""), Record("x" * 256, State.SUCCESS, b""), Record("\ud800", State.SUCCESS)],
    )
    def test_an_id_that_cannot_be_kept_is_refused(self, store: ResultStore, record: Record) -> None:
        """Where it is put, not somewhere else later."""
        with pytest.raises(EncodeError, match="task id"):
            store.put([record], TTL)

    # --- the first one that is ready wins ----------------------------------------------------------------------

    def test_the_newer_state_replaces_the_older(self, store: ResultStore) -> None:
        """As long as the task has not ended."""
        id = new_id()
        for state in (State.PENDING, State.STARTED, State.RETRY, State.STARTED, State.PROGRESS):
            store.put([Record(id, state, b"1")], TTL)
        settle(store)
        assert store.get([id]) == {id: Record(id, State.PROGRESS, b"1")}
        store.put([Record(id, State.SUCCESS, b"2")], TTL)
        assert store.wait([id], PATIENCE) == {id: Record(id, State.SUCCESS, b"2")}

    @pytest.mark.parametrize("first", [State.SUCCESS, State.FAILURE, State.REVOKED])
    def test_the_first_that_is_ready_wins(self, store: ResultStore, first: State) -> None:
        """A job that was run twice keeps its first result; a late STARTED changes nothing either."""
        record = Record(new_id(), first, b"first")
        store.put([record], TTL)
        for state in (State.SUCCESS, State.FAILURE, State.REVOKED, State.STARTED):
            store.put([Record(record.id, state, b"second")], TTL)
        settle(store)
        assert store.get([record.id]) == {record.id: record}

    def test_the_first_wins_inside_one_put(self, store: ResultStore) -> None:
        """The order of the records is the order in which they happened."""
        id = new_id()
        store.put([Record(id, State.STARTED), Record(id, State.FAILURE, b"1"), Record(id, State.SUCCESS, b"2")], TTL)
        assert store.wait([id], PATIENCE) == {id: Record(id, State.FAILURE, b"1")}

    # --- waiting ---------------------------------------------------------------------------------------------

    def test_waiting_ends_with_the_time(self, store: ResultStore) -> None:
        """Empty, and no error."""
        assert store.wait([new_id()], 0.05) == {}
        assert store.wait([new_id()], 0) == {}

    def test_waiting_is_for_what_is_ready(self, store: ResultStore) -> None:
        """A task that has started is not waited for in vain, and not reported either."""
        begun, done = Record(new_id(), State.STARTED), Record(new_id(), State.FAILURE, b"no")
        store.put([begun], TTL)
        settle(store)
        assert store.wait([begun.id], 0.05) == {}
        store.put([done], TTL)
        assert store.wait([begun.id, done.id], PATIENCE) == {done.id: done}

    def test_what_comes_ends_the_wait(self, store: ResultStore) -> None:
        """Two wait for the same id, and both are told; a third waits for it among others."""
        record = Record(new_id(), State.SUCCESS, b"there")
        asked = threading.Barrier(4)

        def wait(ids: list[str]) -> dict[str, Record]:
            asked.wait(PATIENCE)
            return store.wait(ids, PATIENCE)

        with ThreadPoolExecutor(3) as pool:
            waits = [pool.submit(wait, ids) for ids in ([record.id], [record.id], [new_id(), record.id, new_id()])]
            asked.wait(PATIENCE)
            store.put([Record(record.id, State.STARTED)], TTL)
            settle(store)
            store.put([record], TTL)
            assert [one.result(PATIENCE) for one in waits] == [{record.id: record}] * 3

    def test_thousands_of_ids_in_one_wait(self, store: ResultStore) -> None:
        """The first result ends it; in the end all are had."""
        records = {id: Record(id, State.SUCCESS, id.encode()) for id in (new_id() for _ in range(5000))}
        late = list(records.values())[-1]
        with ThreadPoolExecutor(1) as pool:
            wait = pool.submit(store.wait, list(records), PATIENCE)
            store.put([late], TTL)
            assert wait.result(PATIENCE) == {late.id: late}
            store.put(list(records.values()), TTL)
            assert wait_for_all(store, records) == records

    def test_more_ids_than_one_question_may_have(self, store: ResultStore) -> None:
        """A group has any size."""
        ids = [new_id() for _ in range(25_000)]
        record = Record(ids[-1], State.SUCCESS, b"last")
        store.put([record], TTL)
        assert store.wait(ids, PATIENCE) == {record.id: record}
        assert store.get(ids) == {record.id: record}
        store.forget(ids)
        settle(store)
        assert store.get(ids) == {}

    def test_more_bytes_than_one_answer_may_have(self, store: ResultStore) -> None:
        """Forty mebibytes in ten records."""
        records = {id: Record(id, State.SUCCESS, bytes(4 * 1024 * 1024)) for id in (new_id() for _ in range(10))}
        for record in records.values():
            store.put([record], TTL)
        settle(store)
        assert store.get(list(records)) == records
        assert store.wait(list(records), PATIENCE) == records

    # --- forgetting ------------------------------------------------------------------------------------------

    def test_forget_makes_room(self, store: ResultStore) -> None:
        """What was ready is gone, and the id may be used again."""
        kept, dropped = Record(new_id(), State.SUCCESS, b"1"), Record(new_id(), State.SUCCESS, b"2")
        store.put([kept, dropped], TTL)
        settle(store)
        store.forget([dropped.id])
        assert store.get([kept.id, dropped.id]) == {kept.id: kept}
        again = Record(dropped.id, State.FAILURE, b"3")
        store.put([again], TTL)
        assert store.wait([dropped.id], PATIENCE) == {dropped.id: again}

    def test_a_record_is_gone_when_its_time_is_over(self, store: ResultStore) -> None:
        """And one whose time is not over stays."""
        short, long = Record(new_id(), State.SUCCESS, b"short"), Record(new_id(), State.SUCCESS, b"long")
        store.put([short], 0.2)
        store.put([long], TTL)
        wait_until(lambda: short.id not in store.get([short.id]), PATIENCE, "the end of the record's time")
        settle(store)
        assert store.get([short.id, long.id]) == {long.id: long}
        assert store.wait([short.id], 0) == {}
        again = Record(short.id, State.FAILURE, b"again")
        store.put([again], TTL)
        assert store.wait([short.id], PATIENCE) == {short.id: again}

    # --- the rest of the face ----------------------------------------------------------------------------------

    def test_it_opens_again_after_close(self, store: ResultStore) -> None:
        """An app may close its store before a fork, or when it is idle."""
        record = Record(new_id(), State.SUCCESS, b"kept")
        store.put([record], TTL)
        settle(store)
        store.close()
        store.close()
        assert store.get([record.id]) == {record.id: record}

    def test_many_threads_share_it(self, store: ResultStore) -> None:
        """Each puts, waits and gets."""

        def work(number: int) -> None:
            record = Record(new_id(), State.SUCCESS, b"%d" % number)
            store.put([record], TTL)
            assert store.wait([record.id], PATIENCE) == {record.id: record}
            assert store.get([record.id]) == {record.id: record}

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(40)))

    def test_a_record_is_carried_or_is_put(self, store: ResultStore) -> None:
        """`carries` says whether workers hand records over as items of jobs, or put them themselves."""
        record = Record(new_id(), State.SUCCESS, b"x")
        if store.carries:
            carriage = store.carry(record, TTL)
            assert isinstance(carriage, Carriage)
            assert carriage.function
            assert carriage.item
            assert store.carry_join(chord_of([record])[0], TTL).function == carriage.function
        else:
            with pytest.raises(NotImplementedError):
                store.carry(record, TTL)

    @pytest.mark.anyio
    async def test_async_code_has_the_same(self, store: ResultStore) -> None:
        """Put, wait, get and forget."""
        record = Record(new_id(), State.SUCCESS, b"async")
        await store.aput([record], TTL)
        assert await store.await_([record.id], PATIENCE) == {record.id: record}
        assert await store.aget([record.id]) == {record.id: record}
        await store.aforget([record.id])
        assert await store.aget([record.id]) == {}
        assert await store.await_([record.id], 0.05) == {}
        assert await store.aclaim(new_id(), "first", TTL) == "first"
        await store.aclose()

    @pytest.mark.anyio
    async def test_many_async_tasks_wait_at_once(self, store: ResultStore) -> None:
        """And the wait of one that is cancelled ends."""
        records = [Record(new_id(), State.SUCCESS, b"%d" % number) for number in range(50)]
        found: dict[str, Record] = {}

        async def wait(record: Record) -> None:
            found.update(await store.await_([record.id], PATIENCE))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as others:
                others.start_soon(store.await_, [new_id()], PATIENCE)
                async with anyio.create_task_group() as group:
                    for record in records:
                        group.start_soon(wait, record)
                    await store.aput(records, TTL)
                others.cancel_scope.cancel()
        assert found == {record.id: record for record in records}
        await store.aclose()
