"""Revoked tasks: not run by workers that are there, nor by those that come later; stopped where they run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gtask import State, TaskRevoked, chain
from gtask.testing.programs import wait_until
from tests.e2e.conftest import LIMIT, House, Staffed
from tests.e2e.tasks import lines

STOPPED = 2.0
"""Seconds in which a running task is to end."""


def started(folder: Path, name: str) -> None:
    """Waits until a gated task runs."""
    wait_until(lambda: (folder / f"{name}.started").exists(), LIMIT, f"{name} to run")


def test_a_task_that_waits_is_not_run(house: House, tmp_path: Path) -> None:
    """Marked while no worker is there; workers that start later keep to it."""
    app, runs = house.app, tmp_path / "runs"
    result = app.tasks["note"].delay(str(runs), "revoked")
    other = app.tasks["note"].delay(str(runs), "other")
    result.revoke()
    before = time.monotonic()
    with pytest.raises(TaskRevoked):
        result.get(timeout=LIMIT)
    assert time.monotonic() - before < 5
    assert result.state is State.REVOKED
    with house.worker():
        assert other.get(timeout=LIMIT) == "other"
        wait_until(lambda: house.row("note")[0] == 0, LIMIT, "both jobs to be ended")
    assert lines(runs) == ["other"]
    assert result.state is State.REVOKED


def test_a_running_task_is_stopped(staffed: Staffed, tmp_path: Path) -> None:
    app = staffed.app
    result = app.tasks["gated"].delay(str(tmp_path), "a")
    started(tmp_path, "a")
    before = time.monotonic()
    result.revoke(terminate=True)
    with pytest.raises(TaskRevoked):
        result.get(timeout=LIMIT)
    staffed.worker.wait_for_line("was revoked: its process", LIMIT)
    assert time.monotonic() - before < STOPPED
    wait_until(lambda: staffed.house.row("gated")[0] == 0, LIMIT, "the job to be ended when it comes again")
    assert len(lines(tmp_path / "a.started")) == 1
    assert result.state is State.REVOKED
    assert app.tasks["add"].delay(1, 2).get(timeout=LIMIT) == 3


def test_without_terminate_a_running_task_goes_on_for_nothing(staffed: Staffed, tmp_path: Path) -> None:
    app = staffed.app
    steps = chain(app.tasks["gated"].s(str(tmp_path), "a"), app.tasks["note"].si(str(tmp_path / "after"), "ran"))
    result = steps.delay()
    started(tmp_path, "a")
    result.revoke()
    with pytest.raises(TaskRevoked):
        result.get(timeout=LIMIT)
    assert result.parent is not None
    assert result.parent.state is State.REVOKED
    (tmp_path / "a.go").touch()
    wait_until(lambda: (tmp_path / "a.passed").exists(), LIMIT, "the task to go on")
    wait_until(lambda: [staffed.house.row(name)[0] for name in ("gated", "note")] == [0, 0], LIMIT, "the jobs to end")
    assert lines(tmp_path / "after") == []
    assert result.parent.state is State.REVOKED
