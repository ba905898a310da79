"""Stopping what runs in each pool, and what the next tasks notice of it: nothing."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gtask import App, State, TaskRevoked
from gtask.testing.programs import Program, wait_until
from tests.e2e.conftest import LIMIT, ROOT, House
from tests.e2e.stopping import make
from tests.e2e.tasks import lines

STOPPED = 2.0
"""Seconds in which a running task is to end."""


def command(house: House, pool: str, *options: str, concurrency: int = 4) -> Program:
    argv = [sys.executable, "-m", "gtask", "worker", "tests.e2e.stopping:app", f"--pool={pool}", *options]
    argv += [f"--concurrency={concurrency}"] if pool != "solo" else []
    return Program([*argv, f"--servers={house.server.url}", "--loglevel=info"], cwd=ROOT)


def send(app: App, name: str, *args: Any) -> Any:
    return app.tasks[name].delay(*map(str, args))


def wait_for(path: Path) -> None:
    wait_until(path.exists, LIMIT, path.name)


@pytest.mark.parametrize("options", [("async", "--backend=asyncio"), ("async", "--backend=trio"), ("solo",)])
def test_a_running_task_is_stopped_in_each_pool(house: House, tmp_path: Path, options: tuple[str, ...]) -> None:
    with command(house, *options) as worker, make(house.server.url) as app:
        worker.wait_for_line("worker ready", LIMIT)
        result = send(app, "waits", tmp_path, "a")
        wait_for(tmp_path / "a.started")
        before = time.monotonic()
        result.revoke(terminate=True)
        with pytest.raises(TaskRevoked):
            result.get(timeout=LIMIT)
        wait_until(lambda: house.row("waits")[0] == 0, LIMIT, "the job to end")
        assert time.monotonic() - before < STOPPED
        if options[0] == "async":
            assert len(lines(tmp_path / "a.left")) == 1
        # The worker is none the worse for it.
        other = send(app, "waits", tmp_path, "b")
        (tmp_path / "b.go").touch()
        assert other.get(timeout=LIMIT) == "b"
        assert len(lines(tmp_path / "a.started")) == 1
        assert result.state is State.REVOKED


@pytest.mark.parametrize("options", [("thread",), ("async", "--backend=asyncio")])
def test_a_thread_cannot_be_stopped_and_that_is_said(house: House, tmp_path: Path, options: tuple[str, ...]) -> None:
    with command(house, *options) as worker, make(house.server.url) as app:
        worker.wait_for_line("worker ready", LIMIT)
        result = send(app, "plain", tmp_path, "a")
        wait_for(tmp_path / "a.started")
        result.revoke(terminate=True)
        worker.wait_for_line("runs in a thread, which cannot be stopped", LIMIT)
        (tmp_path / "a.go").touch()
        wait_until(lambda: house.row("plain")[0] == 0, LIMIT, "the job to end")
        assert result.state is State.REVOKED


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_task_within_limits_and_one_that_cleans_up_are_stopped(house: House, tmp_path: Path, backend: str) -> None:
    with command(house, "async", f"--backend={backend}") as worker, make(house.server.url) as app:
        worker.wait_for_line("worker ready", LIMIT)
        limited = app.tasks["waits"].apply_async((str(tmp_path), "a"), soft_time_limit=60, time_limit=70)
        cleaning, stubborn = send(app, "cleans_up", tmp_path), send(app, "stubborn", tmp_path)
        for name in ("a", "cleaning", "stubborn"):
            wait_for(tmp_path / f"{name}.started")
        before = time.monotonic()
        for result in (limited, cleaning, stubborn):
            result.revoke(terminate=True)
        wait_until(lambda: not any(house.row(name)[0] for name in ("waits", "cleans_up", "stubborn")), LIMIT, "all")
        assert time.monotonic() - before < STOPPED
        assert [result.state for result in (limited, cleaning, stubborn)] == [State.REVOKED] * 3
        assert lines(tmp_path / "cleaned") == ["cleaned"]
        # Whatever they did with their cancellation, the next tasks know nothing of it.
        (tmp_path / "b.go").touch()
        assert [send(app, "waits", tmp_path, "b").get(timeout=LIMIT) for _ in range(8)] == ["b"] * 8
