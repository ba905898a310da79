"""The App against an embedded job server, with a worker in threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from gtask import App, MaxRetriesExceeded, ResultTimeout, Retry, State, TaskContext, chain, chord, current_task, group
from gtask.errors import ConnectFailed
from gtask.testing.embedded import EmbeddedServer
from gtask.testing.programs import wait_until
from tests.app.helpers import LIMIT, NOWHERE, working


@pytest.fixture
def tasks(served: App) -> App:
    @served.task
    def add(a: int, b: int = 0) -> int:
        return a + b

    @served.task
    def total(values: list[int], more: int = 0) -> int:
        return sum(values) + more

    @served.task
    def fails(what: str) -> None:
        raise ValueError(what)

    @served.task(bind=True)
    def reports(ctx: TaskContext) -> str:
        for n in range(1, 4):
            ctx.progress(n, 3)
        ctx.send_data("piece")
        ctx.warn("careful")
        return "done"

    @served.task(codec="raw")
    def reversed_bytes(data: bytes) -> bytes:
        return data[::-1]

    @served.task(bind=True, max_retries=2)
    def twice(ctx: TaskContext, delay: float) -> int:
        if ctx.retries < 2:
            raise Retry(delay)
        return ctx.retries

    @served.task
    def outer() -> int:
        context = current_task()
        assert context is not None
        inner: int = served.tasks["add"].call(1, 2)
        assert current_task() is context
        return inner

    return served


@pytest.fixture(params=["thread", "solo"])
def worked(request: pytest.FixtureRequest, tasks: App) -> Iterator[App]:
    with working(tasks, 4, request.param):
        yield tasks


def test_every_way_to_call(worked: App) -> None:
    add = worked.tasks["add"]
    assert add.delay(1, 2).get(timeout=LIMIT) == 3
    assert add.apply_async((1,), {"b": 4}, priority="high").get(timeout=LIMIT) == 5
    assert add.apply_async([1], countdown=0.2).get(timeout=LIMIT) == 1
    assert add.call(1, b=2) == 3
    assert add.options(timeout=LIMIT, priority="low").call(1, 1) == 2
    assert add.options(priority="low").delay(1, 1).get(timeout=LIMIT) == 2
    assert add.s(1).call(2) == 3
    assert worked.send_task("add", (1,), {"b": 1}).get(timeout=LIMIT) == 2
    result = add.delay(3)
    assert worked.AsyncResult(result.id).get(timeout=LIMIT) == 3


@pytest.mark.anyio
async def test_every_way_to_call_from_async_code(tasks: App) -> None:
    add = tasks.tasks["add"]
    with working(tasks), anyio.fail_after(LIMIT):
        async with tasks:
            assert await (await add.adelay(1, 2)) == 3
            assert await (await add.aapply_async((1,), {"b": 4}, countdown=0.1)).aget(timeout=LIMIT) == 5
            assert await add.acall(1, b=2) == 3
            assert await add.options(timeout=LIMIT).acall(1, 1) == 2
            assert await (await add.options(priority="low").adelay(1, 1)) == 2
            assert await add.s(1).acall(2) == 3
            assert await (await tasks.asend_task("add", (1,))) == 1
            assert await (await (add.s(1) | add.s(2)).adelay()) == 3
            assert await (await (add.s(1) | add.s(2)).aapply_async(priority="high")) == 3
            members = group(add.s(n) for n in range(5))
            assert await (await members.adelay()) == [0, 1, 2, 3, 4]
            assert await (await members.aapply_async((10,), priority="low")) == [10, 11, 12, 13, 14]
            joined = chord(members, tasks.tasks["total"].s(5))
            assert await (await joined.adelay()) == 15
            assert await (await joined.aapply_async(priority="high")) == 15
            with pytest.raises(ValueError, match="no"):
                await tasks.tasks["fails"].acall("no")


def test_chains_groups_and_chords(worked: App) -> None:
    add, total = worked.tasks["add"], worked.tasks["total"]
    assert (add | add.s(2) | add.s(3)).delay(1).get(timeout=LIMIT) == 6
    result = chain(add.s(1), add.s(2)).delay()
    assert result.get(timeout=LIMIT) == 3
    assert result.parent is not None
    assert result.parent.get(timeout=LIMIT) == 1
    assert result.parent.children == (result,)
    members = group([add.s(1) | add.s(1), add.s(5)]).delay()
    assert members.join(timeout=LIMIT) == [2, 5]
    assert group(add.s(1), add.s(2)).apply_async((10,), countdown=0.1).join(timeout=LIMIT) == [11, 12]
    assert chord([add.s(n) for n in range(10)], total).delay().get(timeout=LIMIT) == 45
    assert (group(add.s(1), add.s(2)) | total.s(10) | add.s(100)).delay().get(timeout=LIMIT) == 113


def test_a_chord_with_a_failed_member_fails(worked: App) -> None:
    add, total, fails = (worked.tasks[name] for name in ("add", "total", "fails"))
    joined = chord([add.s(1), fails.s("member"), add.s(2)], total).delay()
    with pytest.raises(ValueError, match="member"):
        joined.get(timeout=LIMIT)
    later = (group(add.s(1), add.s(1) | fails.si("deep")) | total | add.s(1)).delay()
    with pytest.raises(ValueError, match="deep"):
        later.get(timeout=LIMIT)


def test_one_run_at_a_time_for_a_key(tasks: App) -> None:
    gate, runs = threading.Event(), []

    @tasks.task(unique=lambda n: f"order:{n}")
    def once(n: int) -> int:
        runs.append(n)
        gate.wait(LIMIT)
        return len(runs)

    with working(tasks, 4):
        first, second = once.delay(7), once.delay(7)
        other = once.delay(8)
        assert first.id == second.id != other.id
        members = group(once.s(7), tasks.tasks["add"].s(1), once.s(7)).delay()
        assert members[0].id == members[2].id == first.id
        gate.set()
        assert first.get(timeout=LIMIT) == second.get(timeout=LIMIT)
        assert members.join(timeout=LIMIT)[1] == 1
        third = once.delay(7)
        assert third.id != first.id
        assert third.get(timeout=LIMIT) == 3
        named = tasks.tasks["add"].apply_async((1,), unique="by hand")
        assert named.get(timeout=LIMIT) == 1
    assert sorted(runs) == [7, 7, 8]


def test_a_foreground_call_hears_its_task(worked: App) -> None:
    heard: list[Any] = []
    step = worked.tasks["reports"].options(
        on_progress=lambda a, b: heard.append((a, b)), on_data=heard.append, on_warning=heard.append
    )
    assert step.call() == "done"
    assert heard == [(1, 3), (3, 3), b"piece", b"careful"], "ten a second, but the last before anything else"
    assert worked.tasks["reports"].call() == "done"


def test_raw_bytes_go_and_come(worked: App) -> None:
    raw = worked.tasks["reversed_bytes"]
    assert raw.call(b"abc") == b"cba"
    assert raw.call(b"\x85\xa5gtask") == b"\x85\xa5gtask"[::-1]
    assert raw.delay(b"\x85\xa5gtask").get(timeout=LIMIT) == b"\x85\xa5gtask"[::-1]


def test_failures_come_back(worked: App) -> None:
    fails = worked.tasks["fails"]
    with pytest.raises(ValueError, match="here"):
        fails.call("here")
    with pytest.raises(ValueError, match="there"):
        fails.delay("there").get(timeout=LIMIT)
    with pytest.raises(TypeError, match=r"add: a: "):
        worked.send_task("add", ("seven",)).get(timeout=LIMIT)


def test_retries_in_both_kinds_of_delivery(worked: App) -> None:
    twice = worked.tasks["twice"]
    assert twice.call(0.05) == 2
    assert twice.delay(0.05).get(timeout=LIMIT) == 2
    with pytest.raises(MaxRetriesExceeded, match="retries are used up"):
        twice.apply_async((0.0,), max_retries=1).get(timeout=LIMIT)


def test_a_task_may_call_another(tasks: App) -> None:
    with working(tasks, 2):
        assert tasks.tasks["outer"].call() == 3


def test_async_tasks_call_others_from_their_thread(tasks: App) -> None:
    @tasks.task
    async def fans_out(n: int) -> int:
        context = current_task()
        values = [await tasks.tasks["add"].acall(1, k) for k in range(n)]
        assert current_task() is context
        result = await tasks.tasks["add"].adelay(10, 1)
        return sum(values) + await result.aget(timeout=LIMIT, disable_sync_subtasks=False)

    with working(tasks, 3):
        for _ in range(2):
            assert fans_out.call(3) == 17


@pytest.mark.parametrize("pool", ["thread"])
def test_a_foreground_call_that_is_not_waited_for_yet(tasks: App, pool: str) -> None:
    gate = threading.Event()

    @tasks.task(background=False)
    def waits(n: int) -> int:
        gate.wait(LIMIT)
        if n < 0:
            raise ValueError("negative")
        return n

    with working(tasks, 4, pool):
        results = [waits.delay(n) for n in range(3)]
        assert results[0].state is State.PENDING
        assert not results[0].ready()
        with pytest.raises(ResultTimeout, match=r"was not there within 0\.01 s"):
            results[0].get(timeout=0.01)
        gate.set()
        wait_until(results[2].ready, LIMIT)
        assert [result.get(timeout=LIMIT) for result in results] == [0, 1, 2]
        assert results[1].state is State.SUCCESS
        assert results[1].result == 1
        assert results[1].successful()
        broken = waits.delay(-1)
        with pytest.raises(ValueError, match="negative"):
            broken.get(timeout=LIMIT)
        assert broken.failed()
        assert tasks.tasks["add"].apply_async((1, 2), background=False).get() == 3
        with pytest.raises(RuntimeError, match=r"use result\.get\(\)"):
            anyio.run(tasks.tasks["add"].apply_async((1, 2), background=False).aget)


@pytest.mark.anyio
async def test_a_foreground_call_of_async_code_that_is_not_waited_for_yet(tasks: App) -> None:
    gate = threading.Event()

    @tasks.task(background=False)
    def waits(n: int) -> int:
        gate.wait(LIMIT)
        return n

    with working(tasks, 4), anyio.fail_after(LIMIT):
        async with tasks:
            result = await waits.adelay(5)
            assert await result.astate() is State.PENDING
            assert not await result.aready()
            with pytest.raises(RuntimeError, match="await result"):
                result.get(timeout=5)
            with pytest.raises(ResultTimeout):
                await result.aget(timeout=0.01)
            gate.set()
            assert await result == 5
            assert await result.astate() is State.SUCCESS
            assert result.get() == 5


def test_a_call_nobody_answers_times_out(gtask_server: EmbeddedServer) -> None:
    with App("shop", gtask_server.url, results=None) as app:
        task = app.task(name="task")(lambda: 1)
        with pytest.raises(ResultTimeout, match=r"task did not answer within 0\.05 s.*gtask status"):
            task.options(timeout=0.05).call()
        with pytest.raises(ResultTimeout):
            task.options(timeout=0.05, background=False).delay().get()


def test_without_a_job_server_a_call_says_so() -> None:
    with App("shop", NOWHERE, results=None, connect_timeout=1) as app:
        task = app.task(name="task")(lambda: 1)
        for send in (task.delay, task.call):
            with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1:1"):
                send()


def test_an_app_that_was_closed_opens_again(worked: App) -> None:
    add = worked.tasks["add"]
    assert add.call(1, 2) == 3
    worked.close()
    assert add.call(1, 2) == 3
    assert add.delay(1, 2).get(timeout=LIMIT) == 3


def test_one_app_serves_many_threads(worked: App) -> None:
    add = worked.tasks["add"]
    found: list[int] = []

    def work(n: int) -> None:
        found.extend(add.call(n, k) for k in range(5))
        found.append(add.delay(n).get(timeout=LIMIT))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(found) == sorted([n + k for n in range(5) for k in range(5)] + list(range(5)))
