"""Delayed jobs, priorities, retries and expiry, on both job servers. Design, section 6a."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from gtask import MaxRetriesExceeded, group
from gtask.errors import TaskExpired
from gtask.testing.programs import wait_until
from tests.e2e.conftest import LIMIT, Staffed
from tests.e2e.tasks import lines


def test_each_runs_at_its_time_to_the_fraction(staffed: Staffed, tmp_path: Path) -> None:
    stamped, path = staffed.app.tasks["stamped"], str(tmp_path / "runs")
    delays = [2.3, 0.4, 1.1, 1.7, 0.8]
    begun = time.time()
    results = {delay: stamped.apply_async((path, str(delay)), countdown=delay) for delay in delays}
    at = datetime.now(UTC) + timedelta(seconds=1.4)
    results[1.4] = stamped.apply_async((path, "1.4"), eta=at)
    naive = datetime.now() + timedelta(seconds=2.0)
    results[2.0] = stamped.apply_async((path, "2.0"), eta=naive)
    for delay, result in results.items():
        ran = result.get(timeout=LIMIT) - begun
        assert delay <= ran < delay + LIMIT / 2
    # Each ran once. Two processes run them, so which of two close ones writes first is not promised.
    ran_once = sorted(line.split()[0] for line in lines(Path(path)))
    assert ran_once == sorted(str(delay) for delay in results)


def test_a_delayed_step_of_a_chain(staffed: Staffed, tmp_path: Path) -> None:
    stamped, path = staffed.app.tasks["stamped"], str(tmp_path / "runs")
    second = stamped.si(path, "second").set(countdown=0.6)
    (stamped.s(path, "first") | second).delay().get(timeout=LIMIT)
    times = [float(line.split()[1]) for line in lines(Path(path))]
    assert times[1] - times[0] >= 0.6


def test_low_priority_is_not_hidden_behind_delayed_jobs(staffed: Staffed, tmp_path: Path) -> None:
    """With epoch jobs in the task's own queue gearmand would never hand out the low one."""
    path, first = tmp_path / "runs", staffed.app.tasks["first"]
    for n in range(5):
        first.apply_async((str(path), f"later {n}"), countdown=600)
    first.apply_async((str(path), "low"), priority="low")
    wait_until(lambda: lines(path), LIMIT, "the job of low priority")
    assert lines(path) == ["low"]


def test_many_delayed_jobs_at_once(staffed: Staffed, tmp_path: Path) -> None:
    path, first, total = tmp_path / "runs", staffed.app.tasks["first"], 500
    group(first.s(str(path), str(n)) for n in range(total)).apply_async(countdown=0.5)
    assert staffed.app.tasks["add"].call(1, 2) == 3
    wait_until(lambda: len(lines(path)) >= total, LIMIT, "all of them")
    assert sorted(map(int, lines(path))) == list(range(total))


@pytest.mark.parametrize("foreground", [False, True])
def test_retries_wait_their_time(staffed: Staffed, tmp_path: Path, foreground: bool) -> None:
    path, retried = tmp_path / "runs", staffed.app.tasks["retried"]
    arguments = (str(path), 0.5, 2)
    answer = retried.call(*arguments) if foreground else retried.delay(*arguments).get(timeout=LIMIT)
    assert answer == 2
    times = list(map(float, lines(path)))
    assert len(times) == 3
    assert all(later - earlier >= 0.5 for earlier, later in pairwise(times))


def test_a_retry_that_is_one_too_many(staffed: Staffed, tmp_path: Path) -> None:
    retried = staffed.app.tasks["retried"]
    with pytest.raises(MaxRetriesExceeded, match="retries are used up"):
        retried.apply_async((str(tmp_path / "a"), 0.1, 9), max_retries=1).get(timeout=LIMIT)
    assert len(lines(tmp_path / "a")) == 2
    with pytest.raises(MaxRetriesExceeded, match="retries are used up"):
        retried.options(max_retries=1).call(str(tmp_path / "b"), 0.1, 9)
    assert len(lines(tmp_path / "b")) == 2


def test_what_is_too_late_is_not_run(staffed: Staffed, tmp_path: Path) -> None:
    note, path = staffed.app.tasks["note"], tmp_path / "runs"
    late = note.apply_async((str(path), "late"), countdown=0.5, expires=0.2)
    soon = note.apply_async((str(path), "soon"), expires=LIMIT)
    with pytest.raises(TaskExpired, match="within its expires time"):
        late.get(timeout=LIMIT)
    assert soon.get(timeout=LIMIT) == "soon"
    assert lines(path) == ["soon"]
