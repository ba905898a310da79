"""What is left when things die: a worker's child, its supervisor, in the middle of a task. Design, section 6."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from gtask.testing.programs import wait_until
from tests.e2e.conftest import LIMIT, Staffed
from tests.e2e.tasks import lines


@pytest.mark.parametrize("foreground", [False, True])
def test_a_killed_childs_task_is_run_again_by_another(staffed: Staffed, tmp_path: Path, foreground: bool) -> None:
    gated = staffed.app.tasks["gated"]
    started = tmp_path / "a.started"
    answer: list[Any] = []
    thread = None
    if foreground:
        thread = threading.Thread(target=lambda: answer.append(gated.options(timeout=LIMIT).call(str(tmp_path), "a")))
        thread.start()
    else:
        result = gated.delay(str(tmp_path), "a")
    wait_until(lambda: lines(started), LIMIT, "the task's start")
    (first,) = map(int, lines(started))
    assert first in staffed.worker.children()
    position = staffed.worker.output.position
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(lines(started)) == 2, LIMIT, "the task's second start")
    second = int(lines(started)[1])
    assert second != first
    (tmp_path / "a.go").touch()
    if thread is None:
        assert result.get(timeout=LIMIT) == second
    else:
        thread.join(LIMIT)
        assert answer == [second]
    assert lines(tmp_path / "a.passed") == [str(second)]
    staffed.worker.wait_for_line("was killed by SIGKILL", LIMIT, position)
    wait_until(lambda: len(staffed.worker.children()) == 3, LIMIT, "a new process")


def test_other_tasks_of_the_worker_go_on(staffed: Staffed, tmp_path: Path) -> None:
    gated = staffed.app.tasks["gated"]
    results = {name: gated.delay(str(tmp_path), name) for name in ("a", "b")}
    wait_until(lambda: all(lines(tmp_path / f"{name}.started") for name in "ab"), LIMIT)
    os.kill(int(lines(tmp_path / "a.started")[0]), signal.SIGKILL)
    (tmp_path / "b.go").touch()
    assert results["b"].get(timeout=LIMIT) == int(lines(tmp_path / "b.started")[0])
    (tmp_path / "a.go").touch()
    results["a"].get(timeout=LIMIT)
    assert len(lines(tmp_path / "b.started")) == 1
    assert len(lines(tmp_path / "a.started")) == 2


def test_a_killed_housekeeper_loses_no_delayed_job(staffed: Staffed, tmp_path: Path) -> None:
    app, worker = staffed.app, staffed.worker
    results = [app.tasks["add"].apply_async((n,), countdown=1.0 + n / 20) for n in range(20)]
    pids = {app.tasks["pid"].call() for _ in range(20)}
    wait_until(lambda: staffed.house.row("gtask.later.soon")[1] > 0, LIMIT, "a delayed job in the housekeeper's hands")
    (keeper,) = set(worker.children()) - pids if len(pids) == 2 else (max(worker.children()),)
    os.kill(keeper, signal.SIGKILL)
    assert [result.get(timeout=LIMIT) for result in results] == list(range(20))


def test_a_task_that_exits_its_process_is_run_again_and_then_given_up(staffed: Staffed, tmp_path: Path) -> None:
    """Not looped for ever: that is the point of `max_crashes`."""
    result = staffed.app.send_task("dies", (str(tmp_path / "runs"),))
    with pytest.raises(Exception, match=r"(?i)process"):
        result.get(timeout=LIMIT)
    assert len(lines(tmp_path / "runs")) == 3
    assert staffed.app.tasks["add"].call(1, 2) == 3
