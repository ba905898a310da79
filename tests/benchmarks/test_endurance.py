"""The long runs, short: every kind of fault once, kills over some hundred jobs, and memory within a generous bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import kills, memory, soak
from benchmarks.episodes import EPISODES
from gtask.testing.requirements import require

SEED = 12


def require_server(kind: str) -> None:
    """Skips the test where the job server is not installed."""
    if kind == "gearmand":
        require("gearmand", package="gearman-job-server")


@pytest.mark.parametrize("server", soak.SERVERS)
def test_every_kind_of_fault_once(server: str, tmp_path: Path) -> None:
    """Nothing is lost, nothing hangs, and everything flows again; on a busy machine a stream or two may be late."""
    require_server(server)
    outcome = soak.soak(server, len(EPISODES) + 1, SEED, tmp_path, quiet=True)
    assert set(outcome.episodes) == set(EPISODES)
    assert outcome.accepted > len(EPISODES)
    assert not outcome.lost, soak.report(outcome)
    assert not outcome.hung, soak.report(outcome)
    assert not outcome.results_missing, soak.report(outcome)
    assert len(outcome.late) <= 2, soak.report(outcome)
    assert f"{server}: {len(EPISODES) + 1} episodes" in soak.report(outcome)


@pytest.mark.parametrize("server", kills.SERVERS)
def test_kills_lose_no_job(server: str, tmp_path: Path) -> None:
    """Each job runs, and its result is stored, though processes, the worker and the job server are killed."""
    require_server(server)
    outcome = kills.kills(server, 300, 8, SEED, tmp_path, quiet=True)
    assert outcome.kills.total() == 8
    assert outcome.good, kills.report(outcome)
    assert "completed 300" in kills.report(outcome)


def test_nothing_grows_with_the_number_of_jobs(tmp_path: Path) -> None:
    """A leak of 200 bytes for each job would be seen: most of it is what the allocator does in the first seconds."""
    processes = memory.measure(20_000, tmp_path, quiet=True)
    for name, process in processes.items():
        assert process.grown < 4 * 2**20, (name, process.sizes)
        _, _, descriptors = process.later()
        assert max(descriptors) - min(descriptors) <= 4, (name, descriptors)
    assert memory.report(processes).count("B/job") == len(processes)
