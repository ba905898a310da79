"""Contexts: a task knows its run, in threads and in event loops."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio
import pytest

from gtask import App, TaskContext, current_task
from gtask.answers import decode_answer
from gtask.context import LocalReporter
from gtask.runner import Runner
from gtask.worker.job import Ending
from tests.app.helpers import (
    LIMIT,
    job_of,
    message_of,
    run_one,
    seal,
)


def test_a_bound_task_knows_its_run(stored: App) -> None:
    reports: list[tuple[Any, ...]] = []

    class Reporter(LocalReporter):
        def progress(self, numerator: int, denominator: int) -> bool:
            reports.append((numerator, denominator))
            return True

        def data(self, data: bytes) -> bool:
            reports.append((data,))
            return True

        def warning(self, data: bytes) -> bool:
            reports.append((data,))
            return True

    @stored.task(bind=True, max_retries=4)
    def task(ctx: TaskContext, a: int, b: int = 0) -> list[Any]:
        assert current_task() is ctx
        assert ctx.progress(1, 2)
        assert ctx.send_data("piece")
        assert ctx.warn(b"careful")
        return [ctx.id, ctx.root_id, ctx.parent_id, ctx.retries, ctx.max_retries, ctx.worker, ctx.args, ctx.kwargs]

    submission = seal(stored, task.s(1, b=2).set(headers={"tenant": 5}), foreground=True)
    ending = run_one(stored, submission, reporter=Reporter())
    assert isinstance(ending, Ending)
    task_id = message_of(submission).id
    assert decode_answer(ending.data) == [task_id, task_id, None, 0, 4, "worker:1", (1,), {"b": 2}]
    assert reports == [(1, 2), (b"piece",), (b"careful",)]
    assert current_task() is None


def test_async_tasks_run_in_a_loop_of_the_threads_own(app: App) -> None:
    loops: set[asyncio.AbstractEventLoop] = set()

    @app.task(bind=True)
    async def task(ctx: TaskContext, n: int) -> int:
        await asyncio.sleep(0)
        loops.add(asyncio.get_running_loop())
        assert current_task() is ctx
        inner = await asyncio.gather(*(asyncio.create_task(who()) for _ in range(2)))
        assert inner == [ctx.id, ctx.id]
        return n

    async def who() -> str:
        context = current_task()
        assert context is not None
        return context.id

    runner = Runner(app, "worker:1")
    for n in range(3):
        ending = runner.run(job_of(seal(app, task.s(n), foreground=True)), LocalReporter())
        assert isinstance(ending, Ending)
        assert decode_answer(ending.data) == n
        assert current_task() is None
    assert len(loops) == 1
    runner.close_loop()
    assert next(iter(loops)).is_closed()
    runner.close_loop()


def test_async_tasks_of_many_threads_do_not_mix(app: App) -> None:
    @app.task(bind=True)
    async def task(ctx: TaskContext, n: int) -> tuple[int, bool]:
        for _ in range(5):
            await asyncio.sleep(0)
            if current_task() is not ctx:
                return n, False
        return n, True

    runner = Runner(app, "worker:1")
    answers: list[Any] = []

    def work(n: int) -> None:
        for k in range(5):
            ending = runner.run(job_of(seal(app, task.s(10 * n + k), foreground=True)), LocalReporter())
            assert isinstance(ending, Ending)
            answers.append(decode_answer(ending.data))
        runner.close_loop()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(answers) == [(10 * n + k, True) for n in range(4) for k in range(5)]


@pytest.mark.anyio
async def test_the_loop_runs_async_and_plain_tasks_side_by_side(stored: App) -> None:
    started = anyio.Event()

    @stored.task(bind=True)
    async def waits(ctx: TaskContext) -> str:
        await started.wait()
        assert current_task() is ctx
        return ctx.id

    @stored.task(bind=True)
    def plain(ctx: TaskContext) -> bool:
        assert current_task() is ctx
        anyio.from_thread.run_sync(started.set)
        return threading.current_thread() is threading.main_thread()

    runner = Runner(stored, "worker:1", in_loop=True)
    submissions = [seal(stored, task.s()) for task in (waits, waits, plain)]
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            for submission in submissions:
                group.start_soon(runner.arun, job_of(submission), LocalReporter())
    ids = [message_of(submission).id for submission in submissions]
    assert [await stored.AsyncResult(one).aget(timeout=0) for one in ids] == [ids[0], ids[1], False]
    assert current_task() is None
