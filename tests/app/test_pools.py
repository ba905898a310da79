"""The pools in threads of this process: they wait without burning, and hand over what ends at once."""

from __future__ import annotations

import os
import threading
import time

import pytest

from gtask import App
from gtask.testing.programs import wait_until
from tests.app.helpers import LIMIT, working


@pytest.mark.parametrize("pool", ["thread", "solo"])
def test_a_worker_with_full_slots_and_jobs_in_hand_does_not_spin(served: App, pool: str) -> None:
    gate = threading.Event()
    busy = threading.Semaphore(0)

    @served.task(ignore_result=True)
    def short(n: int) -> None: ...

    @served.task(ignore_result=True)
    def long() -> None:
        busy.release()
        gate.wait(LIMIT)

    slots = 2 if pool == "thread" else 1
    with working(served, slots, pool) as driver:
        for n in range(100):
            short.delay(n)
        wait_until(lambda: driver.core.idle, LIMIT, "the end of the short ones")
        for _ in range(slots):
            long.delay()
        for n in range(100):
            short.delay(n)
        try:
            assert all(busy.acquire(timeout=LIMIT) for _ in range(slots))
            wait_until(lambda: len(driver.core.backlog) > 0, LIMIT, "jobs in hand")
            before, clock = time.process_time(), time.monotonic()
            threading.Event().wait(0.5)
            burnt = (time.process_time() - before) / (time.monotonic() - clock)
        finally:
            gate.set()
        assert burnt < 0.5


def test_each_answer_goes_out_when_its_task_ends(served: App) -> None:
    """Tasks of about the length at which the solo pool's second thread takes over, again and again."""

    @served.task
    def brief(seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()

    with working(served, 1, "solo"):
        for n in range(40):
            call = brief.options(timeout=5)
            assert call.call(0.015 + n % 20 * 0.001) == os.getpid()


def test_threads_end_with_the_pool(served: App) -> None:
    task = served.task(name="task")(lambda: threading.current_thread().name)
    with working(served, 4):
        assert task.call().startswith("task-")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("task-")]
