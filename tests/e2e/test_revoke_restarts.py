"""Workers that are killed, and those that come later: what is revoked stays so, and nothing stays STARTED."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from gtask import State, TaskRevoked
from gtask.testing.processes import job_server, worker
from gtask.testing.programs import Program, wait_until
from tests.e2e.conftest import LIMIT, ROOT, House, results_service
from tests.e2e.tasks import lines, make


def started(folder: Path, name: str) -> None:
    """Waits until a gated task runs."""
    wait_until(lambda: (folder / f"{name}.started").exists(), LIMIT, f"{name} to run")


def kill(program: Program) -> None:
    """Kills a worker with all its processes."""
    for pid in (program.pid, *program.children()):
        os.kill(pid, signal.SIGKILL)


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


def test_it_holds_when_everything_was_down_and_comes_up_in_any_order(tmp_path: Path) -> None:
    """The mark is safe while no service is there; a worker that comes up first waits for it before its first task."""
    runs, db = tmp_path / "runs", tmp_path / "queue.db"
    with job_server(db=db) as server, make(server.url) as app:
        results = [app.tasks["note"].delay(str(runs), str(number)) for number in range(10)]
        for result in results[:9]:
            result.revoke()
        server.restart(signal.SIGKILL)
        house = House(server, app)
        with house.worker(), results_service(server.url, tmp_path / "results.db"):
            assert results[9].get(timeout=LIMIT) == "9"
            wait_until(lambda: house.row("note")[0] == 0, LIMIT, "the jobs to be ended")
            assert [result.state for result in results[:9]] == [State.REVOKED] * 9
        assert lines(runs) == ["9"]


def test_a_job_that_comes_again_after_its_end_stays_revoked(house: House, tmp_path: Path) -> None:
    """Its worker was killed in the middle of it."""
    app = house.app
    with house.worker() as program:
        result = app.tasks["gated"].delay(str(tmp_path), "a")
        started(tmp_path, "a")
        result.revoke()
        with pytest.raises(TaskRevoked):
            result.get(timeout=LIMIT)
        kill(program)
    assert house.row("gated")[0] == 1
    with house.worker():
        wait_until(lambda: house.row("gated")[0] == 0, LIMIT, "the job to be ended")
    assert len(lines(tmp_path / "a.started")) == 1
    assert result.state is State.REVOKED


def test_the_job_of_a_killed_worker_leaves_started(house: House, tmp_path: Path) -> None:
    with house.worker() as program:
        result = house.app.tasks["gated"].delay(str(tmp_path), "a")
        started(tmp_path, "a")
        assert result.state is State.STARTED
        killed = time.monotonic()
        kill(program)
        wait_until(lambda: result.state is State.PENDING, LIMIT, "the job to leave STARTED")
        assert time.monotonic() - killed < 15
    result.revoke()
    with house.worker():
        wait_until(lambda: house.row("gated")[0] == 0, LIMIT, "the job to be ended")


def test_signed_marks_are_believed(tmp_path: Path) -> None:
    keys = "k1:a-secret-that-is-long-enough-for-this"
    with (
        job_server(results=tmp_path / "results.db", env={"GTASK_SIGNING_KEYS": keys}) as server,
        make(server.url, signing_keys=keys) as app,
    ):
        revoked, other = (app.tasks["note"].delay(str(tmp_path / "runs"), text) for text in ("revoked", "other"))
        revoked.revoke()
        with worker("tests.e2e.tasks:app", cwd=ROOT, servers=server.url, env={"GTASK_SIGNING_KEYS": keys}):
            assert other.get(timeout=LIMIT) == "other"
            # Only now: a process may hold a short task back behind one that it has not run before.
            running = app.tasks["gated"].delay(str(tmp_path), "a")
            started(tmp_path, "a")
            running.revoke(terminate=True)
            with pytest.raises(TaskRevoked):
                running.get(timeout=LIMIT)
            house = House(server, app)
            wait_until(lambda: house.row("gated")[0] == 0, LIMIT, "the job to be ended")
        assert lines(tmp_path / "runs") == ["other"]
        assert not (tmp_path / "a.passed").exists()
