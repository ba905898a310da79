"""Job servers and workers as processes: both kinds answer, restart at their port, and end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from gtask.testing import (
    JobServerProgram,
    ProgramFailed,
    free_port,
    gearmand,
    job_server,
    port_is_open,
    processes,
    wait_until,
    worker,
)
from gtask.testing.requirements import require

Start = Callable[..., AbstractContextManager[JobServerProgram]]


@pytest.fixture(params=["gtask", "gearmand"])
def start(request: pytest.FixtureRequest) -> Start:
    if request.param == "gearmand":
        require("gearmand", package="gearman-job-server")
        return gearmand
    return job_server


def test_a_server_answers_when_the_block_begins_and_is_gone_after_it(start: Start) -> None:
    with start() as server:
        assert server.admin("version")[0].startswith("OK ")
        assert server.admin("status") == []
        assert server.url == f"gearman://127.0.0.1:{server.port}"

    assert not server.running
    assert not port_is_open(server.host, server.port)


def test_a_server_comes_back_at_its_port_after_kill_9(start: Start) -> None:
    with start() as server:
        pid, port = server.pid, server.port
        server.restart(signal.SIGKILL)

        assert (server.pid != pid, server.port) == (True, port)
        assert server.admin("status") == []


def test_a_server_that_cannot_start_says_why(start: Start, tmp_path: Path) -> None:
    with pytest.raises(ProgramFailed, match=r"(?i)no-such-option"), start("--no-such-option"):
        pass


def test_a_taken_port_is_given_up_for_another(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    with start() as first:
        ports = iter([first.port, free_port()])
        monkeypatch.setattr(processes, "free_port", lambda host: next(ports))
        with start() as second:
            assert second.port != first.port


def test_a_taken_port_that_was_asked_for_is_an_error(start: Start) -> None:
    with start() as first, pytest.raises(ProgramFailed), start(port=first.port):
        pass


APP = """
from gtask import App

app = App("example")

@app.task
def double(number: int) -> int:
    return 2 * number
"""


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_worker_takes_jobs_when_the_block_begins_and_is_gone_after_it(pool: str, tmp_path: Path) -> None:
    tmp_path.joinpath("app.py").write_text(APP)
    with job_server() as server, worker("app:app", cwd=tmp_path, servers=server.url, pool=pool) as program:
        # Abilities are announced without an answer, so the server may hear of them a moment after the worker is ready.
        wait_until(lambda: any(line.startswith("double\t") for line in server.admin("status")), what="double")
        children = program.children()
        assert children

        program.terminate()
        assert program.wait() == 0

    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_a_worker_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ProgramFailed, match="nowhere"), worker("nowhere:app", cwd=tmp_path):
        pass
