"""A worker that is stopped while all of its slots are at work, as a container platform does it.

With ``GTASK_SHUTDOWN_SECONDS=10`` the tasks run for ten seconds, and every pool is put to every test.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gtask.testing.programs import wait_until
from tests.e2e.conftest import LIMIT, House
from tests.e2e.tasks import lines

FULL = "GTASK_SHUTDOWN_SECONDS" in os.environ
SECONDS = float(os.environ.get("GTASK_SHUTDOWN_SECONDS", "1"))
"""How long each task runs."""

SLOTS = 8
BOUND = 20.0
"""Seconds that a busy machine may take beyond what is promised."""

POOLS = [("prefork", "slow", SLOTS), ("thread", "slow", SLOTS), ("async", "slowly", SLOTS), ("solo", "slow", 1)]


def pools(*names: str) -> list[tuple[str, str, int]]:
    """The pools of a test: those that no other test has, or all of them."""
    return [pool for pool in POOLS if FULL or pool[0] in names]


def count(path: Path, what: str) -> Counter[int]:
    """How often each task has started, or ended."""
    found = (line.split() for line in lines(path))
    return Counter(int(number) for word, number in found if word == what)


def send(house: House, task: str, path: Path, numbers: range, seconds: float) -> list[Any]:
    """Queues some tasks."""
    return [house.app.tasks[task].delay(str(path), number, seconds) for number in numbers]


@pytest.mark.parametrize(("pool", "task", "slots"), pools("prefork"))
def test_sigterm_with_every_slot_at_work_loses_and_doubles_nothing(
    house: House, tmp_path: Path, pool: str, task: str, slots: int
) -> None:
    path = tmp_path / "runs"
    with house.worker("--prefetch=0", pool=pool, concurrency=slots) as worker:
        results = send(house, task, path, range(2 * slots), SECONDS)
        wait_until(lambda: len(count(path, "start")) == slots, LIMIT, "tasks in all slots")
        told = time.monotonic()
        worker.terminate()
        assert worker.wait(SECONDS + BOUND) == 0
        assert time.monotonic() - told < SECONDS + BOUND
        assert "Traceback" not in worker.tail(1000)
    ran = count(path, "end")
    assert ran == count(path, "start")
    # Those that ended just before the word came have made room for others.
    assert slots <= len(ran) < 2 * slots
    wait_until(lambda: house.row(task)[:2] == (2 * slots - len(ran), 0), LIMIT, "the rest in the queue")
    with house.worker(pool=pool, concurrency=slots):
        assert [result.get(timeout=LIMIT) for result in results] == list(range(2 * slots))
    assert count(path, "start") == count(path, "end") == Counter(range(2 * slots))


@pytest.mark.parametrize(("pool", "task", "slots"), pools("async"))
def test_what_does_not_end_within_the_grace_goes_back(
    house: House, tmp_path: Path, pool: str, task: str, slots: int
) -> None:
    path = tmp_path / "runs"
    with house.worker("--grace=0.5", pool=pool, concurrency=slots) as worker:
        results = send(house, task, path, range(slots), 300.0)
        wait_until(lambda: len(count(path, "start")) == slots, LIMIT, "tasks in all slots")
        told = time.monotonic()
        worker.terminate()
        assert worker.wait(BOUND) == 0
        assert time.monotonic() - told < BOUND
        worker.wait_for_line("did not finish in time; their jobs go back", LIMIT)
    wait_until(lambda: house.row(task)[:2] == (slots, 0), LIMIT, "the jobs in the queue again")
    assert count(path, "end") == Counter()
    for result in results:
        result.revoke()
    with house.worker(pool=pool, concurrency=slots):
        wait_until(lambda: house.row(task)[0] == 0, LIMIT, "an empty queue")


@pytest.mark.parametrize(("pool", "task", "slots"), pools("solo"))
def test_sigquit_gives_everything_back_at_once(house: House, tmp_path: Path, pool: str, task: str, slots: int) -> None:
    path = tmp_path / "runs"
    with house.worker(pool=pool, concurrency=slots) as worker:
        results = send(house, task, path, range(slots), 300.0)
        wait_until(lambda: len(count(path, "start")) == slots, LIMIT, "tasks in all slots")
        worker.kill(signum=signal.SIGQUIT)
        assert worker.wait(BOUND) == 0
    wait_until(lambda: house.row(task)[:2] == (slots, 0), LIMIT, "the jobs in the queue again")
    for result in results:
        result.revoke()
    with house.worker(pool=pool, concurrency=slots):
        wait_until(lambda: house.row(task)[0] == 0, LIMIT, "an empty queue")
