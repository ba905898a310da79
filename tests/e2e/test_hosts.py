"""Two workers stand for two hosts: what kills processes, or runs beyond its time, is over for both."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gtask import App, State, TimeLimitExceeded, WorkerLost
from gtask.testing.programs import Program, wait_until
from tests.e2e.conftest import LIMIT, ROOT, House
from tests.e2e.poison import make
from tests.e2e.tasks import lines

HOSTS = 2


class Hosts:
    """A job server with workers that know nothing of one another."""

    def __init__(self, house: House, app: App, workers: list[Program]) -> None:
        self.house = house
        self.app = app
        self.workers = workers


@pytest.fixture
def hosts(house: House) -> Iterator[Hosts]:
    """Fresh ones for each test: what they have seen is what the test is about."""
    command = [sys.executable, "-m", "gtask", "worker", "tests.e2e.poison:app", "-c2", "--loglevel=info"]
    with ExitStack() as stack:
        app = stack.enter_context(make(house.server.url))
        workers = [
            stack.enter_context(Program([*command, f"--servers={house.server.url}", f"--name=host{number}"], cwd=ROOT))
            for number in range(HOSTS)
        ]
        for worker in workers:
            worker.wait_for_line("worker ready", LIMIT)
        yield Hosts(house, app, workers)


def send(hosts: Hosts, name: str, *args: Any) -> Any:
    return hosts.app.tasks[name].delay(*args)


def test_crashes_are_counted_over_hosts(hosts: Hosts, tmp_path: Path) -> None:
    results = {name: send(hosts, "dies", str(tmp_path / name)) for name in "abcdef"}
    for result in results.values():
        with pytest.raises(WorkerLost, match="3 times"):
            result.get(timeout=LIMIT)
        assert result.state is State.FAILURE
    wait_until(lambda: hosts.house.row("dies")[0] == 0, LIMIT, "the jobs to be ended")
    assert {name: len(lines(tmp_path / name)) for name in results} == dict.fromkeys(results, 3)
    # Both have had a hand in it, so neither has counted alone.
    assert all(any("(crash 1 of it here)" in line for line in worker.lines()) for worker in hosts.workers)


def test_a_hard_limit_on_one_host_is_not_run_on_another(hosts: Hosts, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    result = send(hosts, "hangs", str(runs))
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=LIMIT)
    wait_until(lambda: hosts.house.row("hangs")[0] == 0, LIMIT, "the job to be ended")
    assert len(lines(runs)) == 1
    assert result.state is State.FAILURE


def test_nor_is_a_foreground_call(hosts: Hosts, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(TimeLimitExceeded):
        hosts.app.tasks["hangs"].options(timeout=LIMIT).call(str(runs))
    assert len(lines(runs)) == 1
