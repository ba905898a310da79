"""Handles of results, over a store that is filled by hand."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest

from gtask import App, AsyncResult, GroupResult, ResultTimeout, State, StoreRequired, TaskFailed, TaskRevoked, chord
from gtask import result as result_module
from gtask import waiting as waiting_module
from gtask.errors import ConfigurationError, DecodeError, ResultError, ResultsUnavailable
from gtask.failures import error_info
from gtask.results import SqliteStore
from gtask.results.records import outcome_to_record
from gtask.states import ErrorInfo, Outcome, Record
from gtask.testing.embedded import EmbeddedServer
from gtask.testing.programs import wait_until
from tests.app.helpers import LIMIT, NOWHERE

TTL = 60.0


class Refused(Exception):
    """One of the user's own."""


@dataclass
class Order:
    """A result with a type."""

    amount: Decimal


def keep(app: App, *outcomes: Outcome) -> None:
    assert app.store is not None
    app.store.put([outcome_to_record(outcome) for outcome in outcomes], TTL)


def done(task_id: str, value: Any = None, **more: Any) -> Outcome:
    return Outcome(task_id, State.SUCCESS, value, **more)


def failed(task_id: str, error: BaseException, state: State = State.FAILURE, task: str = "") -> Outcome:
    try:
        raise error
    except BaseException as raised:
        return Outcome(task_id, state, error=error_info(raised), task=task)


# --- get ---------------------------------------------------------------------------------------------------------


def test_get_returns_the_value(stored: App) -> None:
    keep(stored, done("a", {"total": Decimal("1.50")}))
    result = stored.AsyncResult("a")
    assert result.get(timeout=LIMIT) == {"total": Decimal("1.50")}
    assert result.result == {"total": Decimal("1.50")}
    assert result.ready()
    assert result.successful()
    assert not result.failed()
    assert result.state is result.status is State.SUCCESS
    assert result.traceback is None


def test_a_handle_with_the_tasks_name_types_the_value_again(stored: App) -> None:
    @stored.task
    def order() -> Order:
        return Order(Decimal(1))

    keep(stored, done("a", Order(Decimal("1.50"))))
    assert stored.AsyncResult("a", "order").get(timeout=LIMIT) == Order(Decimal("1.50"))
    assert stored.AsyncResult("a").get(timeout=LIMIT) == {"amount": Decimal("1.50")}


def test_get_raises_what_the_task_raised(stored: App) -> None:
    keep(stored, failed("a", KeyError("order 7")), failed("b", Refused("no"), task="f"), failed("c", Refused("no")))
    stored.task(name="f", throws=(Refused,))(lambda: 1)
    with pytest.raises(KeyError, match="order 7") as caught:
        stored.AsyncResult("a").get(timeout=LIMIT)
    assert "order 7" in str(caught.value.__cause__.traceback)  # type: ignore[union-attr]
    with pytest.raises(Refused, match="no"):
        stored.AsyncResult("b").get(timeout=LIMIT)
    with pytest.raises(TaskFailed, match=r"Refused: no"):
        stored.AsyncResult("c").get(timeout=LIMIT)
    result = stored.AsyncResult("a")
    assert isinstance(result.get(timeout=LIMIT, propagate=False), KeyError)
    assert result.failed()
    assert result.ready()
    assert not result.successful()
    assert isinstance(result.result, KeyError)
    assert "in failed" in (result.traceback or "")


def test_a_revoked_task_says_so(stored: App) -> None:
    keep(stored, failed("a", TaskRevoked("by hand"), State.REVOKED), Outcome("b", State.REVOKED))
    with pytest.raises(TaskRevoked, match="by hand"):
        stored.AsyncResult("a").get(timeout=LIMIT)
    assert stored.AsyncResult("a").state is State.REVOKED
    with pytest.raises(TaskFailed, match="without saying why"):
        stored.AsyncResult("b").get(timeout=LIMIT)


def test_get_waits_and_a_timeout_ends_it(stored: App) -> None:
    result = stored.AsyncResult("a", "calculate")
    keep(stored, Outcome("a", State.STARTED))
    started = time.monotonic()
    with pytest.raises(ResultTimeout, match=r"The result of calculate a was not there within 0\.05 s\. .*gtask status"):
        result.get(timeout=0.05)
    assert time.monotonic() - started < LIMIT
    assert not result.wait(timeout=0.01)
    timer = threading.Timer(0.05, keep, (stored, done("a", 5)))
    timer.start()
    assert result.get(timeout=LIMIT) == 5
    timer.join()
    assert result.wait(timeout=0)


def test_a_timeout_of_nothing_asks_once(stored: App) -> None:
    result = stored.AsyncResult("a")
    with pytest.raises(ResultTimeout, match="within 0 s"):
        result.get(timeout=0)
    keep(stored, done("a", 5))
    assert result.get(timeout=0) == 5
    assert stored.AsyncResult("a").get(timeout=-1) == 5


@pytest.mark.parametrize("timeout", ["5", float("nan"), timedelta(seconds=5)])
def test_a_timeout_that_is_no_number_is_refused(stored: App, timeout: Any) -> None:
    with pytest.raises(ConfigurationError, match="write a number of seconds"):
        stored.AsyncResult("a").get(timeout=timeout)
    with pytest.raises(ConfigurationError, match="write a number of seconds"):
        stored.AsyncResult("a").wait(timeout)
    with pytest.raises(ConfigurationError, match="write a number of seconds"):
        anyio.run(stored.AsyncResult("a").aget, timeout)
    with pytest.raises(ConfigurationError, match="write a number of seconds"):
        GroupResult(stored, [stored.AsyncResult("a")]).join(timeout=timeout)


@pytest.mark.parametrize("id", ["", "a b", "a\n", "x" * 64, "caf\xe9", 7, None])
def test_what_can_be_no_id_is_refused(stored: App, id: Any) -> None:
    with pytest.raises(ConfigurationError, match="no id of a task"):
        stored.AsyncResult(id)


def test_without_a_timeout_it_waits(stored: App) -> None:
    timer = threading.Timer(0.05, keep, (stored, done("a", 5)))
    timer.start()
    assert stored.AsyncResult("a").get() == 5
    timer.join()


# --- ids that nobody knows ---------------------------------------------------------------------------------------

STRANGE = "ab" * 16


def waiting(app: App) -> list[AsyncResult[Any]]:
    """Handles of what is known to the job server alone: a task, the end of a chain, the body of a chord."""

    @app.task
    def add(a: int, b: int = 0) -> int:
        return a + b

    @app.task
    def total(values: list[int]) -> int:
        return sum(values)

    return [add.delay(1), (add.s(1) | add.s(2) | add.s(3)).delay(), chord([add.s(1), add.s(2)], total).delay()]


def test_a_timeout_says_that_nobody_knows_the_id(served: App) -> None:
    with pytest.raises(ResultTimeout, match=r"task abab.* was not there .* Nobody knows this id at gearman"):
        served.AsyncResult(STRANGE).get(timeout=0.05)
    for result in waiting(served):
        with pytest.raises(ResultTimeout, match="may still be waiting or running"):
            result.get(timeout=0.05)
    keep(served, Outcome(STRANGE, State.RETRY))
    with pytest.raises(ResultTimeout, match="may still be waiting or running"):
        served.AsyncResult(STRANGE).get(timeout=0.05)


def test_without_a_timeout_an_id_that_nobody_knows_is_not_waited_for(
    served: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_module, "LOOK", 0.05)
    with pytest.raises(ResultError, match=r"Nobody knows this id at gearman.*its job was lost"):
        served.AsyncResult(STRANGE).get()
    with pytest.raises(ResultError, match="Nobody knows this id"):
        served.AsyncResult(STRANGE).wait()


def test_what_is_known_somewhere_is_waited_for(served: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """For many looks: until it is there."""
    looks = 0
    is_unknown = AsyncResult._unknown

    def count(result: AsyncResult[Any], limit: float | None = None) -> bool:
        nonlocal looks
        looks += 1
        return is_unknown(result, limit)

    monkeypatch.setattr(result_module, "LOOK", 0.02)
    monkeypatch.setattr(AsyncResult, "_unknown", count)
    results = waiting(served)
    with ThreadPoolExecutor(len(results)) as pool:
        waits = [pool.submit(result.get) for result in results]
        wait_until(lambda: looks > 10 * len(results), LIMIT, "many looks")
        keep(served, *[done(result.id, 5) for result in results])
        assert [wait.result(LIMIT) for wait in waits] == [5] * len(results)


def test_without_all_job_servers_nobody_is_sure(
    served: App, gtask_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_module, "LOOK", 0.02)
    with App("shop", servers=[gtask_server.url, NOWHERE], results=served.store) as app:
        with pytest.raises(ResultTimeout, match="may still be waiting or running"):
            app.AsyncResult(STRANGE).get(timeout=0.05)
        with ThreadPoolExecutor(1) as pool:
            wait = pool.submit(app.AsyncResult(STRANGE).get)
            with pytest.raises(TimeoutError):
                wait.result(0.5)
            keep(served, done(STRANGE, 5))
            assert wait.result(LIMIT) == 5


@pytest.mark.anyio
async def test_async_code_is_told_of_ids_that_nobody_knows(
    gtask_server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_module, "LOOK", 0.05)
    async with App("shop", servers=gtask_server.url, results=SqliteStore(tmp_path / "results.db")) as app:
        with pytest.raises(ResultTimeout, match="Nobody knows this id"):
            await app.AsyncResult(STRANGE).aget(timeout=0.05)
        with pytest.raises(ResultError, match="Nobody knows this id"):
            await app.AsyncResult(STRANGE)
        for result in await anyio.to_thread.run_sync(waiting, app):
            with pytest.raises(ResultTimeout, match="may still be waiting or running"):
                await result.aget(timeout=0.05)
            with pytest.raises(TimeoutError), anyio.fail_after(0.3):
                await result
        app.close()


class Flaky(SqliteStore):
    """A store that is away for some questions after the first."""

    away = 3
    asked = 0

    def wait(self, ids: Collection[str], timeout: float) -> dict[str, Record]:
        """Asks, or says that nobody is there."""
        self.asked += 1
        if 1 < self.asked <= self.away + 1:
            raise ResultsUnavailable("away")
        return super().wait(ids, timeout)


def test_without_a_timeout_a_service_that_was_there_may_start_again(
    served: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_module, "LOOK", 0.02)
    monkeypatch.setattr(result_module, "NAP", 0.0)
    flaky = Flaky(tmp_path / "flaky.db")
    with App("shop", servers=served.servers, results=flaky) as app:
        result = waiting(app)[0]
        with ThreadPoolExecutor(1) as pool:
            wait = pool.submit(result.get)
            wait_until(lambda: flaky.asked > 6, LIMIT, "the questions")
            keep(app, done(result.id, 5))
            assert wait.result(LIMIT) == 5
        monkeypatch.setattr(waiting_module, "AWAY", 0.0)
        flaky.asked = 0
        with pytest.raises(ResultsUnavailable, match="away"):
            app.tasks["add"].delay(1).get()


@pytest.mark.anyio
async def test_async_code_waits_too(stored: App) -> None:
    result = stored.AsyncResult("a")
    with pytest.raises(ResultTimeout):
        await result.aget(timeout=0.01)
    assert not await result.await_(timeout=0)
    assert not await result.aready()
    assert not await result.asuccessful()
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.to_thread.run_sync, keep, stored, done("a", 5))
        with anyio.fail_after(LIMIT):
            assert await result == 5
    assert await result.aget() == 5
    assert await result.await_(timeout=0)
    assert await result.aready()
    assert await result.asuccessful()
    assert not await result.afailed()
    assert await result.astate() is State.SUCCESS
    keep(stored, failed("b", ValueError("x")))
    with pytest.raises(ValueError, match="x"):
        await stored.AsyncResult("b")
    assert isinstance(await stored.AsyncResult("b").aget(propagate=False), ValueError)
    assert await stored.AsyncResult("b").afailed()
    await result.aforget()
    with pytest.raises(ResultTimeout):
        await result.aget(timeout=0)


# --- looking -----------------------------------------------------------------------------------------------------


def test_everything_that_is_stored_can_be_looked_at(stored: App) -> None:
    outcome = done(
        "a", 5, task="f", retries=2, started=1.5, finished=2.5, worker="host:1", parent="p", children=("c", "d")
    )
    keep(stored, outcome)
    result = stored.AsyncResult("a")
    assert result.info == outcome
    assert result.children == (stored.AsyncResult("c"), stored.AsyncResult("d"))
    assert repr(result) == "<AsyncResult a>"
    assert {result, stored.AsyncResult("a")} == {result}
    assert result != stored.AsyncResult("b")


def test_nothing_is_there_before_the_end(stored: App) -> None:
    result = stored.AsyncResult("a")
    assert result.info is None
    assert result.result is None
    assert result.traceback is None
    assert result.children == ()
    assert not result.ready()
    keep(stored, Outcome("a", State.PROGRESS, value=[1, 2]))
    assert result.state is State.PROGRESS
    assert result.info == Outcome("a", State.PROGRESS, value=[1, 2])
    assert result.result is None
    keep(stored, failed("a", ValueError("later"), State.RETRY))
    assert result.state is State.RETRY
    assert not result.ready()
    assert "later" in (result.traceback or "")


def test_forget_drops_the_record(stored: App) -> None:
    keep(stored, done("a", 5))
    result = stored.AsyncResult("a")
    assert result.get(timeout=0) == 5
    result.forget()
    assert not result.ready()


def test_a_damaged_record_is_an_error(stored: App) -> None:
    assert stored.store is not None
    stored.store.put([outcome_to_record(done("a", 5))._replace(body=b"\x81\xa1x")], TTL)
    with pytest.raises(DecodeError):
        stored.AsyncResult("a").get(timeout=LIMIT)


def test_the_job_servers_are_asked_for_what_the_store_does_not_know(served: App) -> None:
    task = served.task(name="task")(lambda: 1)
    result = task.delay()
    assert result.state is State.PENDING
    assert served.AsyncResult(result.id).state is State.PENDING
    assert served.AsyncResult("0" * 32).state is State.UNKNOWN
    later = task.apply_async(countdown=600)
    assert later.state is State.PENDING
    last = (task.si() | task.si()).delay()
    assert last.state is State.PENDING
    assert last.parent is not None
    assert last.parent.state is State.PENDING
    assert served.AsyncResult(last.id).state is State.UNKNOWN


@pytest.mark.anyio
async def test_async_code_asks_the_job_servers_too(gtask_server: EmbeddedServer) -> None:
    async with App("shop", gtask_server.url, results=None) as app:
        task = app.task(name="task")(lambda: 1)
        last = await (task.si() | task.si()).adelay()
        assert last.parent is not None
        assert await last.parent.astate() is State.PENDING
        assert await last.astate() is State.PENDING
        assert await app.AsyncResult("0" * 32).astate() is State.UNKNOWN


# --- without a store ---------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_without_a_store_everything_says_so(app: App) -> None:
    result = app.AsyncResult("a")
    for blocking in (
        lambda: result.get(timeout=5),
        lambda: result.wait(),
        lambda: result.ready(),
        lambda: result.successful(),
        lambda: result.failed(),
        lambda: result.result,
        lambda: result.info,
        lambda: result.traceback,
        lambda: result.children,
        lambda: result.forget(),
        lambda: GroupResult(app, [result]).join(timeout=5),
        lambda: GroupResult(app, [result]).ready(),
    ):
        with pytest.raises(StoreRequired, match=r"results='gearman://'.*gtask results.*sqlite:///.*call\(\)"):
            blocking()
    for waiting in (result.aget, result.aready, result.aforget, GroupResult(app, [result]).ajoin):
        with pytest.raises(StoreRequired):
            await waiting()
    with pytest.raises(StoreRequired):
        await result


def test_an_ignored_result_is_not_waited_for(served: App) -> None:
    quiet = served.task(name="quiet", ignore_result=True)(lambda: 1)
    result = quiet.delay()
    for ask in (lambda: result.get(timeout=5), result.ready, lambda: result.info):
        with pytest.raises(ResultError, match="quiet was sent with ignore_result"):
            ask()
    assert result.state is State.PENDING
    assert not quiet.apply_async(ignore_result=False).ready()


# --- groups ------------------------------------------------------------------------------------------------------


def handles(app: App, ids: Sequence[str]) -> GroupResult[Any]:
    return GroupResult(app, [app.AsyncResult(task_id) for task_id in ids])


def test_a_groups_results_are_in_the_members_order(stored: App) -> None:
    keep(stored, done("c", 3), done("a", 1), done("b", 2))
    found = handles(stored, "abc")
    assert found.join(timeout=LIMIT) == found.get(timeout=LIMIT) == [1, 2, 3]
    assert found.ready()
    assert found.successful()
    assert not found.failed()
    assert found.completed_count() == 3
    assert len(found) == 3
    assert [result.id for result in found] == ["a", "b", "c"]
    assert found[1].id == "b"


def test_a_group_is_not_there_before_its_last_member(stored: App) -> None:
    keep(stored, done("a", 1))
    found = handles(stored, "ab")
    assert found.completed_count() == 1
    assert not found.ready()
    with pytest.raises(ResultTimeout, match=r"Not all of the group's 2 results were there within 0\.05 s"):
        found.join(timeout=0.05)
    assert found[0].get(timeout=0) == 1
    timer = threading.Timer(0.05, keep, (stored, done("b", 2)))
    timer.start()
    assert found.join(timeout=LIMIT) == [1, 2]
    timer.join()


def test_a_failed_member_is_raised_as_soon_as_it_is_known(stored: App) -> None:
    keep(stored, failed("b", ValueError("second")))
    found = handles(stored, "ab")
    with pytest.raises(ValueError, match="second"):
        found.join(timeout=LIMIT)
    assert found.failed()
    assert not found.ready()
    keep(stored, done("a", 1))
    one, two = handles(stored, "ab").join(timeout=LIMIT, propagate=False)
    assert one == 1
    assert isinstance(two, ValueError)


def test_iterate_gives_them_as_they_end(stored: App) -> None:
    keep(stored, done("b", 2))
    found = handles(stored, "ab")
    order = found.iterate(timeout=LIMIT)
    assert next(order).id == "b"
    keep(stored, done("a", 1))
    assert next(order).id == "a"
    assert list(order) == []
    assert [result.id for result in found.iterate(timeout=0)] == ["a", "b"]


def test_calls_that_share_an_id_share_a_result(stored: App) -> None:
    keep(stored, done("a", 1))
    assert handles(stored, "aa").join(timeout=LIMIT) == [1, 1]


def test_a_group_is_forgotten_together(stored: App) -> None:
    keep(stored, done("a", 1), done("b", 2))
    found = handles(stored, "ab")
    assert found.ready()
    found.forget()
    assert not found.ready()


@pytest.mark.anyio
async def test_async_code_joins_groups(stored: App) -> None:
    keep(stored, done("b", 2))
    found = handles(stored, "ab")
    with pytest.raises(ResultTimeout):
        await found.ajoin(timeout=0.01)
    order = found.aiterate(timeout=LIMIT)
    assert (await anext(order)).id == "b"
    keep(stored, done("a", 1))
    assert [result.id async for result in order] == ["a"]
    assert not await handles(stored, "ad").aready()
    assert await handles(stored, "ad").acompleted_count() == 1
    assert await found == await found.aget() == [1, 2]
    assert await found.aready()
    assert await found.asuccessful()
    assert not await found.afailed()
    keep(stored, failed("c", ValueError("x")))
    with pytest.raises(ValueError, match="x"):
        await handles(stored, "ac").ajoin(timeout=LIMIT)
    values = await handles(stored, "ac").ajoin(timeout=LIMIT, propagate=False)
    assert isinstance(values[1], ValueError)
    assert await handles(stored, "ac").afailed()
    await found.aforget()
    assert not await found.aready()


def test_a_member_whose_result_is_ignored_is_not_waited_for(stored: App) -> None:
    keep(stored, done("a", 1))
    quiet: AsyncResult[Any] = AsyncResult(stored, "b", "quiet", ignored=True)
    with pytest.raises(ResultError, match="quiet was sent with ignore_result"):
        GroupResult(stored, [stored.AsyncResult("a"), quiet]).join(timeout=LIMIT)


def test_error_info_without_anything_is_a_failure(stored: App) -> None:
    keep(stored, Outcome("a", State.FAILURE, error=ErrorInfo("", "")))
    with pytest.raises(TaskFailed):
        stored.AsyncResult("a").get(timeout=LIMIT)


# --- revoking ----------------------------------------------------------------------------------------------------


def marks_of(app: App) -> dict[str, float]:
    """The seconds for which marks are kept, by their ids."""
    assert isinstance(app.store, SqliteStore)
    with sqlite3.connect(app.store.path) as db:
        return {id: expires - time.time() for id, expires in db.execute("SELECT id, expires FROM marks")}


def test_a_mark_is_kept_as_long_as_its_call_is_delayed(served: App) -> None:
    @served.task
    def add(a: int) -> int:
        return a

    day = 86400.0
    now, later, unseen = add.delay(1), add.apply_async((1,), countdown=30 * day), add.apply_async((1,), countdown=9.0)
    for result in (now, later, served.AsyncResult(unseen.id)):
        result.revoke()
    kept = marks_of(served)
    assert abs(kept[now.id] - day) < 60
    assert abs(kept[later.id] - 31 * day) < 60
    assert kept[unseen.id] > 366 * day
    assert [result.state for result in (now, later, unseen)] == [State.REVOKED] * 3


def test_a_whole_is_marked_at_once(served: App) -> None:
    @served.task
    def add(*values: Any) -> int:
        return 1

    result = chord([add.s(n) for n in range(3)], add.s() | add.s()).delay()
    result.revoke()
    assert len(marks_of(served)) == 5
    with pytest.raises(TaskRevoked, match="The task was revoked before it finished"):
        result.get(timeout=LIMIT)


@pytest.mark.anyio
async def test_async_code_revokes_as_well(served: App) -> None:
    @served.task
    def add(a: int) -> int:
        return a

    async with served:
        result = await add.adelay(1)
        await result.arevoke()
        members = [await add.adelay(n) for n in range(3)]
        await GroupResult(served, members).arevoke(terminate=True)
        assert [await one.astate() for one in (result, *members)] == [State.REVOKED] * 4
        with pytest.raises(TaskRevoked):
            await result


def test_what_has_ended_keeps_its_result_when_it_is_revoked(served: App) -> None:
    keep(served, done("a", 5))
    served.AsyncResult("a").revoke()
    assert served.AsyncResult("a").get(timeout=0) == 5


def test_revoking_without_a_store_and_in_the_foreground_is_refused(app: App, served: App) -> None:
    with pytest.raises(StoreRequired, match="no result store"):
        app.AsyncResult("a").revoke()
    served.task(name="f")(lambda: 1)
    handle = served.tasks["f"].apply_async(background=False)
    with pytest.raises(ConfigurationError, match="foreground call cannot be revoked"):
        handle.revoke()
