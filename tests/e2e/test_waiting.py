"""Tasks that wait for others: refused where that could stop a pool, safe where who waits lends out the slot."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gtask import App, WaitInTask, WorkerLost
from gtask.testing.programs import Program, wait_until
from tests.e2e.conftest import LIMIT, ROOT, House
from tests.e2e.recursion import make
from tests.e2e.tasks import lines

DEPTH = 12
"""Tasks that wait for one another at once; the worker has two slots."""


def command(house: House, *options: str) -> Program:
    argv = [sys.executable, "-m", "gtask", "worker", "tests.e2e.recursion:app", "-c2", *options, "--loglevel=info"]
    return Program([*argv, f"--servers={house.server.url}"], cwd=ROOT)


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def loop(house: House, request: pytest.FixtureRequest) -> Iterator[App]:
    """A worker of the pool async."""
    with command(house, "--pool=async", f"--backend={request.param}") as worker, make(house.server.url) as app:
        worker.wait_for_line("worker ready", LIMIT)
        yield app


@pytest.fixture(scope="module", params=["prefork", "thread"])
def blocking(house: House, request: pytest.FixtureRequest) -> Iterator[App]:
    """A worker of a pool where a task has its thread for itself."""
    with command(house, f"--pool={request.param}") as worker, make(house.server.url) as app:
        worker.wait_for_line("worker ready", LIMIT)
        yield app


def get(app: App, name: str, *args: Any) -> Any:
    return app.tasks[name].delay(*args).get(timeout=LIMIT)


def test_a_recursion_deeper_than_the_slots_ends(loop: App) -> None:
    assert get(loop, "depth", DEPTH) == DEPTH


def test_a_task_may_wait_for_several_at_once(loop: App) -> None:
    assert get(loop, "tree", 4) == 16
    assert get(loop, "depth", 3) == 3
    assert get(loop, "wide", 3) == 27


@pytest.mark.parametrize("name", ["plain", "blocking"])
def test_a_blocking_wait_is_refused_in_an_event_loop_too(loop: App, name: str) -> None:
    with pytest.raises(WaitInTask, match=f"{name} waits inside of a task for <AsyncResult .*chain.*--pool async"):
        get(loop, name)


def test_a_wait_for_a_group_is_refused_as_well(blocking: App) -> None:
    with pytest.raises(WaitInTask, match="joining waits inside of a task for <GroupResult of 3>"):
        get(blocking, "joining")
    with pytest.raises(WaitInTask):
        get(blocking, "wide", 1)


@pytest.mark.parametrize("name", ["plain", "blocking", "depth"])
def test_a_wait_is_refused_with_advice(blocking: App, name: str) -> None:
    with pytest.raises(WaitInTask, match=r"chain or a chord.*disable_sync_subtasks=False"):
        get(blocking, name, *[1] * (name == "depth"))


def test_it_can_be_allowed_and_a_look_is_no_wait(blocking: App) -> None:
    assert get(blocking, "allowed") == 0
    assert get(blocking, "known") in (True, False)


def test_a_worker_that_ends_after_some_jobs_finishes_those_that_wait(house: House) -> None:
    with (
        command(house, "--pool=async", "--max-tasks-per-child=3") as worker,
        make(house.server.url) as app,
    ):
        worker.wait_for_line("worker ready", LIMIT)
        assert get(app, "depth", DEPTH) == DEPTH
        assert get(app, "depth", DEPTH) == DEPTH


def test_what_kills_the_process_of_who_waits_does_not_go_on_for_ever(house: House, tmp_path: Path) -> None:
    """Who waits is run again with it, and sends another one; so it is blamed as well."""
    with command(house, "--pool=async") as worker, make(house.server.url) as app:
        worker.wait_for_line("worker ready", LIMIT)
        with pytest.raises(WorkerLost):
            get(app, "dies_below", str(tmp_path / "runs"), 1)
        wait_until(lambda: house.row("dies_below")[0] == 0, LIMIT, "all of them to be given up")
        assert 3 <= len(lines(tmp_path / "runs")) <= 9
