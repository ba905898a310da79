"""Time limits that hold, and jobs that kill their process and are not run for ever: real processes, both servers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gtask import App, SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLost
from gtask.testing.processes import worker
from gtask.testing.programs import Program, ProgramFailed
from tests.limits.apps import ASYNC, PLAIN

PATIENCE = 60.0
"""Seconds that anything may take: bounds for what hangs, no measure of speed."""


@pytest.fixture
def caller(any_server: Any) -> Iterator[App]:
    with App("limits", servers=any_server.url) as app:
        yield app


def call(app: App, task: str, *args: Any, **options: Any) -> Any:
    return app.send_task(task, args, **options).get(timeout=PATIENCE)


def start(folder: Path, source: str, server: Any, pool: str, *options: str) -> Any:
    (folder / "app.py").write_text(source)
    results = f"--with-results={folder / 'results.db'}"
    return worker("app:app", results, *options, cwd=folder, servers=server.url, pool=pool)


def runs(folder: Path, what: str) -> int:
    return (folder / "runs.txt").read_text().splitlines().count(what)


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_plain_functions_are_held_to_their_limits(caller: App, tmp_path: Path, any_server: Any, pool: str) -> None:
    with start(tmp_path, PLAIN, any_server, pool) as program:
        began = time.monotonic()
        assert call(caller, "soft", True) == "cleaned up"
        with pytest.raises(SoftTimeLimitExceeded, match=r"0\.4 s"):
            call(caller, "soft", False)
        with pytest.raises(TimeLimitExceeded):
            call(caller, "hard")
        with pytest.raises(TimeLimitExceeded):
            call(caller, "limited_by_the_call", time_limit=0.5)
        assert time.monotonic() - began < PATIENCE
        assert runs(tmp_path, "hard") == runs(tmp_path, "limited") == 1
        assert call(caller, "fine", 7) == 7
        program.wait_for_line("ran longer than its time limit", PATIENCE)


def test_a_foreground_caller_hears_of_the_limit(caller: App, tmp_path: Path, any_server: Any) -> None:
    with start(tmp_path, PLAIN, any_server, "prefork"):
        task = caller.task(name="hard")(lambda: "")
        with pytest.raises(TimeLimitExceeded):
            task.options(timeout=PATIENCE).call()
        assert runs(tmp_path, "hard") == 1


@pytest.mark.parametrize(
    ("pool", "backend"), [("async", "asyncio"), ("async", "trio"), ("prefork", "asyncio"), ("thread", "asyncio")]
)
def test_async_functions_are_held_to_their_limits(
    caller: App, tmp_path: Path, any_server: Any, pool: str, backend: str
) -> None:
    options = [f"--backend={backend}"] if pool == "async" else []
    with start(tmp_path, ASYNC, any_server, pool, *options):
        assert call(caller, "soft", True) == "cleaned up"
        with pytest.raises(SoftTimeLimitExceeded):
            call(caller, "soft", False)
        with pytest.raises(TimeLimitExceeded):
            call(caller, "hard")
        with pytest.raises(TimeLimitExceeded):
            call(caller, "stuck")
        assert call(caller, "fine", 3) == 3


@pytest.mark.parametrize("pool", ["thread", "async"])
def test_a_pool_that_cannot_keep_a_limit_does_not_start_with_it(tmp_path: Path, any_server: Any, pool: str) -> None:
    with pytest.raises(ProgramFailed) as caught, start(tmp_path, PLAIN, any_server, pool):
        pass
    assert "cannot be interrupted" in str(caught.value)
    assert "soft" in str(caught.value)


def test_a_limit_given_with_the_call_is_refused_where_it_cannot_be_kept(
    caller: App, tmp_path: Path, any_server: Any
) -> None:
    plain = 'from gtask import App\n\napp = App("x")\n\n\n@app.task\ndef fine(number: int) -> int:\n    return number\n'
    with start(tmp_path, plain, any_server, "thread"):
        assert call(caller, "fine", 1) == 1
        with pytest.raises(Exception, match="cannot be interrupted in a thread"):
            call(caller, "fine", 1, time_limit=5.0)


@pytest.mark.parametrize("task", ["poison", "leaves"])
def test_a_task_that_kills_its_process_is_tried_three_times(
    caller: App, tmp_path: Path, any_server: Any, task: str
) -> None:
    with start(tmp_path, PLAIN, any_server, "prefork") as program:
        with pytest.raises(WorkerLost, match="died 3 times"):
            call(caller, task)
        assert runs(tmp_path, task) == 3
        assert call(caller, "fine", 7) == 7
        program.wait_for_line("crash 3 of it here", PATIENCE)


def test_jobs_that_a_dead_process_merely_held_are_not_blamed(caller: App, tmp_path: Path, any_server: Any) -> None:
    with start(tmp_path, PLAIN, any_server, "prefork", "--prefetch=20"):
        handles = [caller.send_task("fine", (number,)) for number in range(10)]
        bad = caller.send_task("poison")
        handles += [caller.send_task("fine", (number,)) for number in range(10, 40)]
        assert [handle.get(timeout=PATIENCE) for handle in handles] == list(range(40))
        with pytest.raises(WorkerLost):
            bad.get(timeout=PATIENCE)
        assert runs(tmp_path, "poison") == 3


def test_a_worker_is_not_slowed_down_by_poison(caller: App, tmp_path: Path, any_server: Any) -> None:
    """A process that served and died is replaced at once; only one that never served is waited for."""
    with start(tmp_path, PLAIN, any_server, "prefork") as program:
        bad = [caller.send_task("poison") for _ in range(4)]
        for handle in bad:
            with pytest.raises(WorkerLost):
                handle.get(timeout=PATIENCE)
        assert runs(tmp_path, "poison") == 12
        assert isinstance(program, Program)
        assert call(caller, "fine", 1) == 1
