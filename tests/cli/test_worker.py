"""`gtask worker` as a process: what it says, and how it ends. What it does with jobs is tested elsewhere."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from gtask.app import App
from gtask.cli.worker import banner
from gtask.testing.processes import job_server, worker
from gtask.types import Server
from gtask.workers import WorkerOptions
from tests.cli.runs import gtask, write_app

LOG = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (DEBUG|INFO |WARN |ERROR|FATAL) "


def test_it_says_what_it_runs(folder: Path) -> None:
    with job_server() as server, worker("app", "--name=box", cwd=folder, servers=server.url) as program:
        lines = program.lines()
        assert lines[:4] == [
            "  app      app (shop)",
            f"  servers  {server.url}",
            "  pool     prefork, 2 processes, prefetch auto",
            "  tasks    blob, boom, describe, double, steps, text, wait_for",
        ]
        program.wait_for_line(LOG + "worker ready: ")
        assert any("box" in row for row in server.admin("workers"))
        program.terminate()
        assert program.wait() == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (WorkerOptions(concurrency=1), "prefork, 1 process, prefetch auto"),
        (WorkerOptions(pool="thread", concurrency=8, prefetch=2), "thread, 8 threads, prefetch 2"),
        (WorkerOptions(pool="async", concurrency=50, backend="trio"), "async, 50 tasks at once on trio, prefetch auto"),
        (WorkerOptions(pool="solo"), "solo, one task at a time, prefetch auto"),
    ],
    ids=lambda value: value.pool if isinstance(value, WorkerOptions) else "",
)
def test_the_banner_reads_well(options: WorkerOptions, text: str) -> None:
    assert dict(banner(App("x", [Server("a"), Server("b", 1, True)]), "m:x", options)) == {
        "app": "m:x (x)",
        "servers": "gearman://a:4730, gearmans://b:1",
        "pool": text,
        "tasks": "",
    }


def test_servers_on_the_command_line_replace_those_of_the_app(tmp_path: Path) -> None:
    write_app(tmp_path, "from gtask import App\napp = App('x', ['127.0.0.1:1'])\n@app.task\ndef f(): return 7\n")
    with job_server() as server, worker("app", f"--servers={server.url}", cwd=tmp_path) as program:
        assert program.lines()[1] == f"  servers  {server.url}"
        done = gtask("call", "app", "f", "--timeout=30", "--servers", server.url, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "7\n")


def test_included_modules_bring_their_tasks(folder: Path) -> None:
    write_app(folder, "from app import app\n@app.task\ndef more(): ...\n", "more.py")
    with job_server() as server, worker("app", "-I", "more", cwd=folder, servers=server.url) as program:
        assert "more, steps" in program.lines()[3]


def test_json_logs_are_all_json(folder: Path) -> None:
    with job_server() as server, worker("app", "--json-logs", cwd=folder, servers=server.url) as program:
        done = gtask("call", "app", "double", "-a", "[21]", cwd=folder, servers=server.url)
        assert done.stdout == '"42"\n', done.stderr
        gtask("call", "app", "boom", "-a", "[1]", cwd=folder, servers=server.url)
        program.wait_for_line('"state":"FAILURE"')
        program.terminate()
        assert program.wait() == 0
        lines = [json.loads(line) for line in program.lines()]
    assert all(list(line)[:4] == ["time", "level", "logger", "message"] for line in lines)
    success = next(line for line in lines if line.get("state") == "SUCCESS")
    assert success["task"] == "double"
    assert (success["retries"], success["level"]) == (0, "INFO")
    assert isinstance(success["runtime"], float)
    failure = next(line for line in lines if line.get("state") == "FAILURE")
    assert (failure["task"], failure["level"]) == ("boom", "ERROR")
    assert "no such order: 1" in failure["message"]


def test_lines_for_people_say_when_what_and_how_long(folder: Path) -> None:
    with job_server() as server, worker("app", cwd=folder, servers=server.url) as program:
        gtask("call", "app", "double", "-a", "[21]", cwd=folder, servers=server.url)
        program.wait_for_line(LOG + r"Task double\[[0-9a-f]{32}\] received$")
        program.wait_for_line(LOG + r"Task double\[[0-9a-f]{32}\] succeeded in \d+\.\d{3} s: Decimal\('42'\)$")


def test_a_quiet_worker_says_nothing(folder: Path) -> None:
    with job_server() as server:
        with worker("app", "-l", "warning", cwd=folder, servers=server.url, ready=None) as program:
            done = gtask("call", "app", "double", "-a", "[21]", "--timeout=30", cwd=folder, servers=server.url)
            assert done.returncode == 0
            program.terminate()
            assert program.wait() == 0
            assert program.lines() == []


@pytest.mark.parametrize(
    ("signum", "options"),
    [(signal.SIGTERM, ()), (signal.SIGINT, ()), (signal.SIGTERM, ("--max-tasks-per-child=1", "--prefetch=0"))],
    ids=["SIGTERM", "SIGINT", "options"],
)
def test_it_ends_when_told(signum: signal.Signals, options: tuple[str, ...], folder: Path) -> None:
    with job_server() as server, worker("app", *options, cwd=folder, servers=server.url) as program:
        done = gtask("call", "app", "double", "-a", "[21]", "--timeout=30", cwd=folder, servers=server.url)
        assert done.stdout == '"42"\n', done.stderr
        program.kill(signum=signum)
        assert program.wait() == 0


@pytest.mark.parametrize("pool", ["thread", "async", "solo"])
def test_every_pool_can_be_asked_for(pool: str, folder: Path) -> None:
    slots = 1 if pool == "solo" else 3
    with job_server() as server, worker("app", cwd=folder, servers=server.url, pool=pool, concurrency=slots) as program:
        assert pool in program.lines()[2]
        done = gtask("call", "app", "double", "-a", "[21]", "--timeout=30", cwd=folder, servers=server.url)
        assert done.stdout == '"42"\n', done.stderr


def test_a_server_that_is_away_is_waited_for(folder: Path) -> None:
    with worker("app", cwd=folder, servers="127.0.0.1:1", ready="could not be reached") as program:
        assert program.running
        program.terminate()
        assert program.wait() == 0
