"""Many delayed jobs: out of the worker's memory, punctual, and there after every restart. Design, section 6a.

`python -m benchmarks.schedules` is the same with 100,000 of them, and prints the figures.
"""

from __future__ import annotations

import signal
from pathlib import Path
from statistics import median

import pytest

from benchmarks import schedules
from gtask import group
from gtask.testing.databases import find_database_program
from gtask.testing.programs import wait_until
from gtask.testing.requirements import missing, require
from tests.e2e.conftest import LIMIT, Staffed
from tests.e2e.tasks import lines

WAITING, DUE = 10_000, 300


@pytest.mark.parametrize("server", ["embedded", "gearmand", "mysql"])
def test_many_wait_on_the_job_server_and_those_that_are_due_are_punctual(server: str, tmp_path: Path) -> None:
    if server != "embedded":
        require("gearmand", package="gearman-job-server")
    if server == "mysql" and find_database_program("mariadbd") is None:
        missing("program mariadbd", "apt-get install mariadb-server")
    outcome = schedules.measure(server, WAITING, DUE, tmp_path, lambda text: None)
    assert outcome.good, schedules.report(outcome)
    assert sum(outcome.grown.values()) < 5 * 2**20, schedules.report(outcome)
    # On a busy machine a few may be late; the figures of a calm one are in docs/schedules.md.
    assert median(outcome.due) < 1.0, schedules.report(outcome)
    assert median(outcome.short) < 1.0, schedules.report(outcome)
    assert outcome.kept == (None if server == "gearmand" else WAITING)


def test_several_workers_share_what_is_due(staffed: Staffed, tmp_path: Path) -> None:
    """Each is moved once, whoever of them gets it."""
    path, count, total = tmp_path / "runs", staffed.app.tasks["count"], 400
    with staffed.house.worker() as second, staffed.house.worker():
        soon, later = (group(count.s(str(path), n) for n in range(first, first + total)) for first in (0, total))
        soon.apply_async(countdown=1.0)
        later.apply_async(countdown=3.0)
        wait_until(lambda: len(lines(path)) >= 2 * total, LIMIT, "all of them")
        second.terminate()
        assert second.wait(LIMIT) == 0
    assert sorted(map(int, lines(path))) == list(range(2 * total))
    wait_until(lambda: staffed.house.row("count")[:2] == (0, 0), LIMIT, "the end of the last job")


def test_the_delays_of_all_lengths_outlive_everybody(staffed: Staffed, tmp_path: Path) -> None:
    """Soon, within minutes and much later: three queues, of which a housekeeper holds none for itself."""
    first, path = staffed.app.tasks["first"], tmp_path / "runs"
    for name, delay in (("soon", 1.5), ("minutes", 2.5), ("hour", 3600)):
        first.apply_async((str(path), name), countdown=delay)
    for pid in staffed.worker.children():
        staffed.worker.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(lines(path)) >= 2, LIMIT, "those that are due")
    assert sorted(lines(path)) == ["minutes", "soon"]
    assert staffed.house.row("gtask.later.far")[:2] == (1, 0)
