"""Revoked tasks: not run by workers that are there, nor by those that come later; stopped where they run."""

from __future__ import annotations

import time
import traceback
from pathlib import Path

import anyio
import pytest

from gtask import State, TaskRevoked, chain
from gtask.testing.programs import wait_until
from tests.e2e.conftest import LIMIT, Staffed
from tests.e2e.tasks import lines

STOPPED = 2.0
"""Seconds in which a running task is to end."""


def started(folder: Path, name: str) -> None:
    """Waits until a gated task runs."""
    wait_until(lambda: (folder / f"{name}.started").exists(), LIMIT, f"{name} to run")


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


def test_states_of_what_is_delayed_known_forgotten_and_never_sent(staffed: Staffed) -> None:
    app = staffed.app
    delayed = app.tasks["add"].apply_async((1, 2), countdown=60)
    assert delayed.state is State.PENDING
    assert app.AsyncResult(delayed.id).state is State.PENDING
    delayed.revoke()
    assert app.AsyncResult("ab" * 16).state is State.UNKNOWN
    done = app.tasks["add"].delay(1, 2)
    assert done.get(timeout=LIMIT) == 3
    done.forget()
    # Its job is ended after its result is stored.
    wait_until(lambda: app.AsyncResult(done.id).state is State.UNKNOWN, LIMIT, "the job to end")
    quiet = app.tasks["add"].apply_async((1, 2), ignore_result=True)
    wait_until(lambda: quiet.state is State.UNKNOWN, LIMIT, "the task to end")


def test_a_remote_failure_is_shown_as_remote(staffed: Staffed, capsys: pytest.CaptureFixture[str]) -> None:
    """What a user sees printed: the remote traceback with its own causes, marked as such, then the local one."""
    result = staffed.app.tasks["fails_deep"].delay("order 7")
    with pytest.raises(LookupError) as caught:
        result.get(timeout=LIMIT)
    printed = "".join(traceback.format_exception(caught.value))
    for expected in (
        "ValueError: order 7",
        "The above exception was the direct cause of the following exception:",
        "LookupError: no such order",
        "looked in the archive",
        "in fails_deep",
        "Remote traceback",
    ):
        assert expected in printed
    assert printed.index("Remote traceback") < printed.index("ValueError: order 7") < printed.index("in get")

    async def wait() -> None:
        await result

    with pytest.raises(LookupError) as again:
        anyio.run(wait)
    assert "Remote traceback" in "".join(traceback.format_exception(again.value))
