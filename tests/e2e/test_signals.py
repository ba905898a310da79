"""How a worker ends: by SIGTERM, SIGINT, SIGQUIT, without its supervisor; and how SIGHUP replaces its processes."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path

import pytest

from gtask import group
from gtask.testing.processes import job_server, worker
from gtask.testing.programs import wait_until
from tests.e2e.conftest import LIMIT, House
from tests.e2e.tasks import lines


def alive(pid: int) -> bool:
    """Whether a process runs (one that is dead and not yet waited for does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


@pytest.mark.parametrize(
    ("pool", "number"),
    [
        ("prefork", signal.SIGTERM),
        ("prefork", signal.SIGINT),
        ("thread", signal.SIGTERM),
        ("async", signal.SIGTERM),
    ],
    ids=str,
)
def test_what_runs_is_finished_and_nothing_is_lost_or_doubled(
    house: House, tmp_path: Path, pool: str, number: signal.Signals
) -> None:
    app = house.app
    with house.worker(pool=pool) as worker:
        long = [app.tasks["gated"].delay(str(tmp_path), name) for name in ("a", "b")]
        wait_until(lambda: all(lines(tmp_path / f"{name}.started") for name in "ab"), LIMIT, "both tasks' starts")
        queued = [app.tasks["note"].delay(str(tmp_path / "notes"), str(n)) for n in range(20)]
        worker.kill(signum=number)
        worker.wait_for_line("Stopping: what runs may finish", LIMIT)
        assert worker.running
        for name in "ab":
            (tmp_path / f"{name}.go").touch()
        assert worker.wait(LIMIT) == 0
        assert "Traceback" not in worker.tail(1000)
    assert [result.get(timeout=LIMIT) for result in long] == [
        int(lines(tmp_path / f"{name}.started")[0]) for name in "ab"
    ]
    with house.worker(pool=pool):
        assert [result.get(timeout=LIMIT) for result in queued] == [str(n) for n in range(20)]
    assert sorted(lines(tmp_path / "notes")) == sorted(str(n) for n in range(20))
    assert all(len(lines(tmp_path / f"{name}.started")) == 1 for name in "ab")


def test_under_load_nothing_is_lost_or_doubled(house: House, tmp_path: Path) -> None:
    count, total = house.app.tasks["count"], 3000
    path = tmp_path / "counted"
    group(count.s(str(path), n) for n in range(total)).delay()
    for _ in range(3):
        before = len(lines(path))
        with house.worker() as worker:
            wait_until(lambda before=before: len(lines(path)) >= min(before + 200, total), LIMIT, "work")
            worker.terminate()
            assert worker.wait(LIMIT) == 0
    with house.worker():
        wait_until(lambda: house.row("count")[0] == 0, LIMIT, "an empty queue")
    assert sorted(map(int, lines(path))) == list(range(total))


@pytest.mark.parametrize("pool", ["prefork", "thread"])
def test_sigquit_gives_the_jobs_back_at_once(house: House, tmp_path: Path, pool: str) -> None:
    with house.worker(pool=pool) as worker:
        result = house.app.tasks["gated"].delay(str(tmp_path), "a")
        wait_until(lambda: lines(tmp_path / "a.started"), LIMIT, "the task's start")
        worker.kill(signum=signal.SIGQUIT)
        assert worker.wait(LIMIT) == 0
        worker.wait_for_line("Giving the jobs back at once", LIMIT)
    wait_until(lambda: house.row("gated")[:2] == (1, 0), LIMIT, "the job in the queue again")
    assert not lines(tmp_path / "a.passed")
    with house.worker():
        wait_until(lambda: len(lines(tmp_path / "a.started")) == 2, LIMIT, "the task's second start")
        (tmp_path / "a.go").touch()
        assert result.get(timeout=LIMIT) == int(lines(tmp_path / "a.started")[1])


def test_a_second_sigint_gives_the_jobs_back(house: House, tmp_path: Path) -> None:
    with house.worker() as worker:
        result = house.app.tasks["gated"].delay(str(tmp_path), "a")
        wait_until(lambda: lines(tmp_path / "a.started"), LIMIT, "the task's start")
        worker.kill(signum=signal.SIGINT)
        worker.wait_for_line("Stopping: what runs may finish", LIMIT)
        worker.kill(signum=signal.SIGINT)
        assert worker.wait(LIMIT) == 0
    (tmp_path / "a.go").touch()
    with house.worker():
        result.get(timeout=LIMIT)
    assert len(lines(tmp_path / "a.started")) == 2


def test_what_does_not_finish_in_time_goes_back(house: House, tmp_path: Path) -> None:
    with house.worker("--grace=0.2") as worker:
        result = house.app.tasks["gated"].delay(str(tmp_path), "a")
        wait_until(lambda: lines(tmp_path / "a.started"), LIMIT, "the task's start")
        worker.terminate()
        assert worker.wait(LIMIT) == 0
        worker.wait_for_line("did not finish in time; their jobs go back", LIMIT)
    (tmp_path / "a.go").touch()
    with house.worker():
        result.get(timeout=LIMIT)
    assert len(lines(tmp_path / "a.started")) == 2


def test_sighup_replaces_the_processes_one_at_a_time(house: House, tmp_path: Path) -> None:
    app = house.app
    with house.worker() as worker:
        before = set(worker.children())
        result = app.tasks["gated"].delay(str(tmp_path), "a")
        wait_until(lambda: lines(tmp_path / "a.started"), LIMIT, "the task's start")
        worker.kill(signum=signal.SIGHUP)
        worker.wait_for_line("Replacing the processes one at a time", LIMIT)
        assert app.tasks["add"].options(timeout=LIMIT).call(1, 2) == 3
        (tmp_path / "a.go").touch()
        assert result.get(timeout=LIMIT) == int(lines(tmp_path / "a.started")[0])
        wait_until(
            lambda: len(worker.children()) == 3 and not before & set(worker.children()), LIMIT, "three new processes"
        )
        assert app.tasks["add"].options(timeout=LIMIT).call(1, 2) == 3
        assert app.tasks["add"].apply_async((1, 2), countdown=0.1).get(timeout=LIMIT) == 3
        worker.terminate()
        assert worker.wait(LIMIT) == 0


def test_a_process_is_replaced_after_so_many_tasks(house: House) -> None:
    pid = house.app.tasks["pid"]
    with house.worker("--max-tasks-per-child=5", concurrency=1) as worker:
        pids = [pid.delay().get(timeout=LIMIT) for _ in range(20)]
        assert 3 <= len(set(pids)) <= 20
        worker.terminate()
        assert worker.wait(LIMIT) == 0


def test_a_killed_supervisor_takes_its_children_along(house: House, tmp_path: Path) -> None:
    gated, add = house.app.tasks["gated"], house.app.tasks["add"]
    with house.worker() as worker:
        result = gated.delay(str(tmp_path), "a")
        wait_until(lambda: lines(tmp_path / "a.started"), LIMIT, "the task's start")
        children = worker.children()
        assert len(children) == 3
        worker.kill()
        runs = int(lines(tmp_path / "a.started")[0])
        assert runs in children
        wait_until(
            lambda: not any(alive(pid) for pid in children if pid != runs), LIMIT, "the end of the idle children"
        )
        assert alive(runs)
        (tmp_path / "a.go").touch()
        wait_until(lambda: not alive(runs), LIMIT, "the end of the child that was busy")
    assert result.get(timeout=LIMIT) == runs
    queued = add.delay(1, 2)
    with house.worker():
        assert queued.get(timeout=LIMIT) == 3
    assert lines(tmp_path / "a.started") == [str(runs)]


STUMBLING = """
import os
from gtask import App

app = App("stumbling")

@app.task
def pid() -> int:
    return os.getpid()

@app.on_worker_start
def stumble() -> None:
    if os.path.exists("stumble"):
        os.unlink("stumble")
        os._exit(3)
"""


@pytest.mark.parametrize("dies", ["new", "old"])
def test_replacing_goes_on_when_a_process_dies_of_it(tmp_path: Path, dies: str) -> None:
    """Neither one that dies at its start nor one that dies before its successor leaves a process too many."""
    (tmp_path / "app.py").write_text(STUMBLING)
    with job_server() as server, worker("app:app", cwd=tmp_path, servers=server.url) as program:
        before = program.children()
        if dies == "new":
            (tmp_path / "stumble").touch()
        program.kill(signum=signal.SIGHUP)
        if dies == "old":
            program.wait_for_line("Replacing the processes", LIMIT)
            with suppress(ValueError):  # gone already
                program.kill(before[1], signal.SIGKILL)
        wait_until(
            lambda: len(program.children()) == 3 and not {*before} & {*program.children()}, LIMIT, "three new processes"
        )
        renewed = program.children()
        program.kill(signum=signal.SIGHUP)
        wait_until(
            lambda: len(program.children()) == 3 and not {*renewed} & {*program.children()}, LIMIT, "another three"
        )
