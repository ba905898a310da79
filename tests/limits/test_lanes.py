"""`max_concurrency` and `rate_limit` in real workers: for one, for all of them, and when they die."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from gtask import App, ConfigurationError, UnknownOption, group
from gtask.limits import check_scopes
from gtask.options import rate_of
from gtask.results.base import ResultStore
from gtask.results.sqlite import SqliteStore
from gtask.states import Record
from gtask.testing.processes import JobServerProgram, worker
from gtask.testing.programs import Program, wait_until
from tests.e2e.conftest import LIMIT, ROOT, house_of
from tests.limits.limited_app import make

RATE = 50
BURST = 5
LATE = 10
"""Starts that may seem too early in a record, since others before them were noted late."""


@dataclass
class Place:
    """A job server with results, an App as its caller, and how to start workers of it."""

    server: JobServerProgram
    app: App

    def worker(self, concurrency: int = 4, pool: str = "prefork") -> AbstractContextManager[Program]:
        """A worker of the limited tasks."""
        return worker(
            "tests.limits.limited_app:app", cwd=ROOT, servers=self.server.url, concurrency=concurrency, pool=pool
        )


@pytest.fixture(scope="module", params=["gtask", "gearmand"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Each job server in turn."""
    with house_of(request.param, tmp_path_factory.mktemp("limits")) as house, make(house.server.url) as app:
        yield Place(house.server, app)


@pytest.fixture(scope="module")
def two(place: Place) -> Iterator[list[Program]]:
    """Two workers with four processes each."""
    with ExitStack() as stack:
        yield [stack.enter_context(place.worker()) for _ in range(2)]


def events(file: Path) -> list[tuple[float, str, int]]:
    """What a task has noted, in the order of time: when, what, which process."""
    noted = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    return sorted((float(when), what, int(pid)) for pid, what, when in noted)


def most_at_once(file: Path) -> int:
    """How many ran at once at most."""
    running = most = 0
    for _, what, _ in events(file):
        running += 1 if what == "begin" else -1
        most = max(most, running)
    return most


def starts(file: Path) -> list[float]:
    """When they began."""
    return [when for when, what, _ in events(file) if what == "begin"]


@pytest.mark.parametrize("scope", ["worker", "cluster"])
def test_a_rate_is_kept(place: Place, two: list[Program], tmp_path: Path, scope: str) -> None:
    task = place.app.tasks["often" if scope == "worker" else "often_in_all"]
    file, rate = tmp_path / "log", RATE * (len(two) if scope == "worker" else 1)
    count = 2 * rate
    group(task.s(str(file)) for _ in range(count)).delay().join(timeout=LIMIT)
    times = starts(file)
    assert len(times) == count
    span = times[-1] - times[0]
    print(f"{place.server.kind}, {scope}: {(count - 1) / span:.1f} starts a second of {rate}")
    allowed = BURST * (rate // RATE) + LATE
    for first, last in product(range(0, count, 7), range(0, count, 7)):
        assert last - first <= rate * max(0.0, times[last] - times[first]) + allowed
    # A bound against standing still: what the limit allows takes two seconds.
    assert span < 8.0


@pytest.mark.parametrize("name", ["two", "two_in_all"])
def test_no_more_than_so_many_run_at_once(place: Place, two: list[Program], tmp_path: Path, name: str) -> None:
    file, free = tmp_path / "log", tmp_path / "free"
    limited = group(place.app.tasks[name].s(str(file), 0.05) for _ in range(24)).delay()
    others = group(place.app.tasks["free"].s(str(free), 0.05) for _ in range(24)).delay()
    limited.join(timeout=LIMIT)
    others.join(timeout=LIMIT)
    assert len(starts(file)) == len(starts(free)) == 24
    assert most_at_once(file) <= (2 if name == "two_in_all" else 2 * len(two))
    print(f"{place.server.kind}, {name}: {most_at_once(file)} at once, {most_at_once(free)} of a free task")
    if name == "two_in_all":
        assert most_at_once(file) == 2
        # None of them was held by a worker while its limit was reached: the free task had the rest.
        assert most_at_once(free) >= 3


@pytest.mark.parametrize("pool", ["thread", "async", "solo"])
def test_each_pool_keeps_limits(tmp_path: Path, pool: str) -> None:
    files = {name: tmp_path / name for name in ("two", "two_in_all", "often")}
    with house_of("gtask", tmp_path) as house, make(house.server.url) as app:
        place = Place(house.server, app)
        use(place, files, pool)
    for name in ("two", "two_in_all"):
        assert most_at_once(files[name]) == (1 if pool == "solo" else 2)
    times = starts(files["often"])
    assert len(times) - 1 <= RATE * (times[-1] - times[0]) + BURST + LATE


def use(place: Place, files: dict[str, Path], pool: str) -> None:
    """Has a worker of a pool run limited tasks."""
    with place.worker(4, pool):
        pending = [
            group(place.app.tasks[name].s(str(files[name]), 0.02) for _ in range(10)).delay()
            for name in ("two", "two_in_all")
        ]
        pending.append(group(place.app.tasks["often"].s(str(files["often"])) for _ in range(25)).delay())
        for result in pending:
            result.join(timeout=LIMIT)


def test_the_place_of_a_process_that_is_killed_is_free_at_once(
    place: Place, two: list[Program], tmp_path: Path
) -> None:
    file, gate = tmp_path / "log", tmp_path / "go"
    results = [place.app.tasks["until"].delay(str(file), str(gate)) for _ in range(2)]
    wait_until(lambda: events(file), LIMIT, "the first start")
    os.kill(events(file)[0][2], signal.SIGKILL)
    wait_until(lambda: len(events(file)) == 2, LIMIT, "another one's start")
    gate.touch()
    for result in results:
        result.get(timeout=LIMIT)
    assert len(events(file)) == 3


def test_the_place_of_a_worker_that_is_killed_comes_back_with_the_end_of_its_lease(tmp_path: Path) -> None:
    file, gate = tmp_path / "log", tmp_path / "go"
    with house_of("gtask", tmp_path) as house, make(house.server.url) as app, ExitStack() as stack:
        place = Place(house.server, app)
        first = stack.enter_context(place.worker(1, "solo"))
        result = app.tasks["until"].delay(str(file), str(gate))
        wait_until(lambda: events(file), LIMIT, "the start in the first worker")
        second = stack.enter_context(place.worker(2))
        killed = [first.pid, *first.children()]
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(events(file)) == 2, LIMIT, "the start in another worker")
        before, after = events(file)
        print(f"run again {after[0] - before[0]:.1f} s after it began in the worker that was killed")
        assert before[2] in killed
        assert after[2] in second.children()
        gate.touch()
        assert result.get(timeout=LIMIT) == after[2]


# --- options -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rate"),
    [("10/s", 10.0), ("120/m", 2.0), ("3600/h", 1.0), (5, 5.0), (0.5, 0.5), ("7", 7.0), (" 6 / m ", 0.1)],
)
def test_rates_are_read(text: str | float, rate: float) -> None:
    assert rate_of(text) == pytest.approx(rate)
    app = App("a", "127.0.0.1:1", results=None)

    @app.task(rate_limit=text)
    def f() -> None: ...

    assert f.config.rate == pytest.approx(rate)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate_limit": "10/x"}, r"rate_limit='10/x'; write how many starts there may be, as '10/s'"),
        ({"rate_limit": 0}, r"rate_limit=0; write"),
        ({"rate_limit": True}, r"rate_limit=True; write"),
        ({"rate_limit": "fast"}, r"rate_limit='fast'; write"),
        ({"max_concurrency": 0}, r"max_concurrency=0; write how many may run at once"),
        ({"max_concurrency": 1.5}, r"max_concurrency=1.5; write"),
        ({"limit_scope": "host"}, r"limit_scope='host'; write 'worker' or 'cluster'"),
        ({"unique": 5}, r"unique=5; write a key"),
        ({"unique_until": "end"}, r"unique_until='end'; write 'done' or 'start'"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused_at_import(options: dict[str, object], message: str) -> None:
    app = App("a", "127.0.0.1:1", results=None)
    with pytest.raises(ConfigurationError, match=message):
        app.task(**options)(make)  # type: ignore[call-overload]


def test_a_slip_of_a_name_is_named() -> None:
    app = App("a", "127.0.0.1:1", results=None)
    with pytest.raises(UnknownOption, match="did you mean 'max_concurrency'"):
        app.task(max_concurency=2)(make)


def test_a_function_of_another_language_has_no_limits() -> None:
    app = App("a", "127.0.0.1:1", results=None)
    with pytest.raises(ConfigurationError, match="limits are kept by the worker that runs the task"):
        app.function("send", rate_limit="1/s")


class Forgetful(SqliteStore):
    """A store that does not count."""

    take = ResultStore.take
    acquire = ResultStore.acquire

    def put(self, records: list[Record], ttl: float) -> None:  # type: ignore[override]
        """Nothing."""


@pytest.mark.parametrize(
    ("store", "message"), [(None, "there is none"), (Forgetful("x.db"), "Forgetful does not count")]
)
def test_a_limit_in_the_cluster_needs_a_store_that_counts(store: ResultStore | None, message: str) -> None:
    app = App("a", "127.0.0.1:1", results=store)

    @app.task(max_concurrency=1, limit_scope="cluster")
    def f() -> None: ...

    with pytest.raises(ConfigurationError, match=message):
        check_scopes(app)
