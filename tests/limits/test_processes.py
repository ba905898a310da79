"""Tasks that start processes of their own, and workers that cannot work: nothing hangs, nothing runs in circles."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gtask import App, ConfigurationError
from gtask.testing.processes import worker
from gtask.testing.programs import ProgramFailed, wait_until

PATIENCE = 60.0

SOURCE = """
import multiprocessing, os, time
from pathlib import Path
from gtask import App

app = App("processes")
fork = multiprocessing.get_context("fork")


@app.task
def pool() -> list[int]:
    with fork.Pool(2) as workers:
        return workers.map(abs, [-1, -2])


@app.task
def terminated() -> int | None:
    process = fork.Process(target=time.sleep, args=(600,))
    process.start()
    process.terminate()
    process.join(20)
    return process.exitcode


@app.task
def leaves_a_child(seconds: float) -> int:
    runs = open("runs.txt", "a")
    runs.write("x")
    runs.close()
    pid = os.fork()
    if not pid:
        time.sleep(600)
        os._exit(0)
    Path("child.new").write_text(f"{os.getpid()} {pid}")
    os.rename("child.new", "child.txt")
    time.sleep(seconds if len(open("runs.txt").read()) == 1 else 0)
    return pid


@app.task
def fine() -> int:
    return 1
"""


@pytest.fixture
def caller(any_server: Any) -> Iterator[App]:
    with App("processes", servers=any_server.url) as app:
        yield app


def start(folder: Path, server: Any, pool: str = "prefork", source: str = SOURCE) -> Any:
    (folder / "app.py").write_text(source)
    results = f"--with-results={folder / 'results.db'}"
    return worker("app:app", results, cwd=folder, servers=server.url, pool=pool)


@pytest.mark.parametrize("pool", ["prefork", "thread", "async", "solo"])
def test_a_task_may_fork_processes_of_its_own(caller: App, tmp_path: Path, any_server: Any, pool: str) -> None:
    with start(tmp_path, any_server, pool):
        assert caller.send_task("terminated").get(timeout=PATIENCE) == -15
        assert caller.send_task("pool").get(timeout=PATIENCE) == [1, 2]
        assert caller.send_task("fine").get(timeout=PATIENCE) == 1


def test_a_forked_child_does_not_keep_the_job_of_a_dead_worker(caller: App, tmp_path: Path, any_server: Any) -> None:
    with start(tmp_path, any_server):
        handle = caller.send_task("leaves_a_child", (600.0,))
        note = tmp_path / "child.txt"
        wait_until(note.exists, what="the task that forks")
        runner, child = map(int, note.read_text().split())
        note.unlink()
        os.kill(runner, 9)
        try:
            again = handle.get(timeout=PATIENCE)
            assert again != child
        finally:
            for pid in {child, *map(int, note.read_text().split()[1:])}:
                os.kill(pid, 15)  # an ordinary process: it ends when it is told to


def test_a_store_that_cannot_be_used_keeps_the_worker_from_starting(tmp_path: Path, any_server: Any) -> None:
    source = SOURCE.replace('App("processes")', 'App("processes", results="sqlite:////nonexistent/r.db")')
    with pytest.raises(ProgramFailed, match="cannot be kept"), start(tmp_path, any_server, source=source):
        pass


@pytest.mark.parametrize("url", ["redis://localhost/zero", "mysql://x", "sqlite:res.db", "none", "http://x"])
def test_a_wrong_results_url_is_refused_where_it_is_written(url: str) -> None:
    with pytest.raises(ConfigurationError):
        App("x", results=url)


def test_a_pool_that_breaks_blames_the_job_that_it_ran(caller: App, tmp_path: Path, any_server: Any) -> None:
    """A middleware that ends the process with an exception is as good as a crash."""
    source = """
from gtask import App
from gtask.results.base import ResultStore


class Broken(ResultStore):
    carries = True

    def carry(self, record, ttl): raise OSError("broken")
    def put(self, records, ttl): ...
    def get(self, ids): return {}
    def wait(self, ids, timeout): return {}
    def forget(self, ids): ...


app = App("x", results=Broken())
runs = open("runs.txt", "a", buffering=1)


@app.task
def f() -> int:
    runs.write("x\\n")
    return 1
"""
    with start(tmp_path, any_server, source=source) as program:
        caller.send_task("f", ignore_result=False)
        program.wait_for_line("crash 3 of it here", PATIENCE)
        assert (tmp_path / "runs.txt").read_text().count("x") == 3


def test_what_can_be_pickled_is_and_the_rest_says_why(tmp_path: Path) -> None:
    import tests.limits.pickled as module

    assert pickle.loads(pickle.dumps(module.double)) is module.double  # noqa: S301 - what this very test has pickled
    handle = module.app.AsyncResult("0" * 32)
    with pytest.raises(TypeError, match=r"app\.AsyncResult"):
        pickle.dumps(handle)
