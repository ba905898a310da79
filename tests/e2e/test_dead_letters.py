"""What fails for good, from the worker to the letter and back: on both job servers, and across their restarts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gtask import App, AsyncResult, State
from gtask.client import Client
from gtask.dead import Parked, Verdict, queues, work_through
from gtask.errors import TimeLimitExceeded, WorkerLost
from gtask.testing import JobServerProgram, Program, gearmand, job_server, wait_until, worker
from gtask.testing.databases import find_database_program, mariadb
from gtask.testing.requirements import missing, require
from gtask.types import Submission
from tests.e2e.conftest import LIMIT, ROOT, results_service
from tests.e2e.tasks import lines


@dataclass
class Bank:
    """A job server that keeps its queue, a results service, a worker, and the App as a caller."""

    server: JobServerProgram
    worker: Program
    app: App

    def send(self, task: str, *args: Any) -> AsyncResult[Any]:
        """Sends a task."""
        return self.app.send_task(task, args)

    def look(self, task: str) -> list[Parked]:
        """The letters of a task."""
        found: list[Parked] = []

        def keep(parked: Parked) -> Verdict:
            found.append(parked)
            return Verdict.KEEP

        work_through(self.app, task, keep)
        return found

    def parked(self, task: str, count: int) -> list[Parked]:
        """The letters of a task, once there are so many."""
        wait_until(lambda: sum(one.waiting for one in queues(self.app, [task])) == count, LIMIT, f"{count} letters")
        return self.look(task)

    def retry(self, task: str) -> None:
        """Sends all again."""
        tally = work_through(self.app, task, lambda parked: Verdict.RETRY, keeps=False)
        assert (tally.retried, tally.failed) == (1, [])


@pytest.fixture(params=["gtask", "gearmand"])
def bank(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bank]:
    with ExitStack() as stack:
        if request.param == "gtask":
            server = stack.enter_context(job_server(db=tmp_path / "queue.db"))
        elif request.param == "mysql":
            require("gearmand", package="gearman-job-server")
            if find_database_program("mariadbd") is None:
                missing("program mariadbd", "apt-get install mariadb-server")
            queue = stack.enter_context(mariadb()).queue_options()
            server = stack.enter_context(gearmand(*queue, "--verbose=ERROR"))
        else:
            require("gearmand", package="gearman-job-server")
            queue = ("-q", "libsqlite3", "--libsqlite3-db", str(tmp_path / "queue.db"))
            server = stack.enter_context(gearmand(*queue, "--verbose=ERROR"))
        stack.enter_context(results_service(server.url, tmp_path / "results.db"))
        program = stack.enter_context(worker("tests.e2e.dead_app:app", cwd=ROOT, servers=server.url))
        yield Bank(server, program, stack.enter_context(App("dead", servers=server.url)))


def test_a_task_that_failed_is_sent_again_and_succeeds(bank: Bank, tmp_path: Path) -> None:
    result = bank.send("pay", str(tmp_path), 7)
    with pytest.raises(OSError, match="bank"):
        result.get(timeout=LIMIT)
    (parked,) = bank.parked("pay", 1)
    assert parked.letter is not None
    assert (parked.letter.task_id, parked.letter.retries) == (result.id, 2)
    assert parked.letter.error.type == "FileNotFoundError"
    assert len(parked.letter.history) == 2
    assert lines(tmp_path / "pay") == ["7"] * 3

    again = bank.app.AsyncResult(result.id)
    bank.retry("pay")
    with pytest.raises(OSError, match="bank"):
        again.get(timeout=LIMIT)
    assert lines(tmp_path / "pay") == ["7"] * 6
    (parked,) = bank.parked("pay", 1)
    (tmp_path / "bank").write_text("100")
    bank.retry("pay")
    assert bank.app.AsyncResult(result.id).get(timeout=LIMIT) == 107
    assert bank.look("pay") == []


@pytest.mark.parametrize("bank", ["gtask", "gearmand", "mysql"], indirect=True)
def test_letters_survive_a_restart_of_the_job_server(bank: Bank, tmp_path: Path) -> None:
    for order in range(5):
        bank.send("pay", str(tmp_path), order)
    before = bank.parked("pay", 5)
    bank.server.restart(signal.SIGKILL)
    after = bank.parked("pay", 5)
    assert sorted(one.workload for one in after) == sorted(one.workload for one in before)
    (tmp_path / "bank").write_text("0")
    tally = work_through(bank.app, "pay", lambda parked: Verdict.RETRY, keeps=False)
    assert tally.retried == 5
    for one in before:
        assert one.letter is not None
        assert bank.app.AsyncResult(one.letter.task_id).get(timeout=LIMIT) in range(5)


def test_what_kills_its_process_is_parked_and_may_be_tried_again(bank: Bank, tmp_path: Path) -> None:
    result = bank.send("dies", str(tmp_path))
    with pytest.raises(WorkerLost):
        result.get(timeout=LIMIT)
    assert len(lines(tmp_path / "dies")) == 3
    (parked,) = bank.parked("dies", 1)
    assert parked.letter is not None
    assert parked.letter.error.type.endswith("WorkerLost")
    # The host has not forgotten what that job did; the one that is sent anew is not taken for it.
    (tmp_path / "alive").touch()
    bank.retry("dies")
    assert bank.app.AsyncResult(result.id).get(timeout=LIMIT) == "alive"


def test_what_runs_too_long_is_parked(bank: Bank, tmp_path: Path) -> None:
    result = bank.app.send_task("sleeps", (str(tmp_path),), time_limit=0.7)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=LIMIT)
    (parked,) = bank.parked("sleeps", 1)
    assert parked.letter is not None
    assert parked.letter.error.type.endswith("TimeLimitExceeded")
    assert len(lines(tmp_path / "sleeps")) == 1


def test_bytes_that_nobody_can_read_are_kept(bank: Bank) -> None:
    broken = b"\x85\xa5gtask\x01" + os.urandom(100)
    with Client(bank.app.servers) as client:
        client.submit(Submission("pay", broken))
        client.submit(Submission("gtask.later", broken, when=1))
    (parked,) = bank.parked("pay", 1)
    (late,) = bank.parked("gtask.later", 1)
    for one, function in ((parked, "pay"), (late, "gtask.later")):
        assert one.letter is not None
        assert (one.letter.function, one.letter.message, one.letter.refused) == (function, broken, True)


def test_a_full_queue_of_letters_stops_nobody(bank: Bank, tmp_path: Path) -> None:
    bank.server.admin("create function pay.dead")
    bank.server.admin("maxqueue pay.dead 1")
    results = [bank.send("pay", str(tmp_path), order) for order in range(4)]
    for result in results:
        assert result.wait(LIMIT)
        assert result.state is State.FAILURE
    bank.worker.wait_for_line(r"refused pay.dead for pay\[\w+\], which ends without it", LIMIT)
    wait_until(lambda: "pay\t0\t0\t2" in bank.server.admin("status"), LIMIT, "the end of the jobs")
    assert sum(one.waiting for one in queues(bank.app, ["pay"])) == 1
