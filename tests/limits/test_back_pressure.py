"""Full queues: the caller is told at once, and what a worker has to submit is not lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gtask import QueueFull, chain, group
from gtask.testing.processes import JobServerProgram, job_server, worker
from tests.cli.runs import gtask
from tests.e2e.conftest import LIMIT, ROOT, House, house_of
from tests.e2e.tasks import lines
from tests.limits.queue_app import make


@pytest.fixture(scope="module", params=["gtask", "gearmand"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Each job server in turn, without a worker."""
    with house_of(request.param, tmp_path_factory.mktemp("queues")) as made, make(made.server.url) as app:
        yield House(made.server, app)


@contextmanager
def limit(server: JobServerProgram, function: str, most: int) -> Iterator[None]:
    """Sets a limit for a function, and takes it away."""
    assert server.admin(f"create function {function}")[0].startswith("OK")
    assert server.admin(f"maxqueue {function} {most}") == ["OK"]
    yield
    assert server.admin(f"maxqueue {function}") == ["OK"]


@contextmanager
def at_work(house: House) -> Iterator[None]:
    """A worker of the tasks."""
    with worker("tests.limits.queue_app:app", cwd=ROOT, servers=house.server.url):
        yield


def test_every_way_to_send_says_at_once_that_the_queue_is_full(house: House) -> None:
    small = house.app.tasks["small"]
    with limit(house.server, "small", 2):
        kept = [small.delay(1), small.delay(2)]
        begun = time.monotonic()
        for send in (
            small.delay,
            lambda: small.apply_async((3,), priority="high"),
            small.call,
            (small.s(1) | small).delay,
        ):
            with pytest.raises(QueueFull, match="the queue of small has as many jobs as its limit allows"):
                send()
        with pytest.raises(QueueFull, match=r"1 with unique= were not sent"):
            group(small.s(1), house.app.tasks["broken"].s("x")).delay()
        # A bound against waiting in vain: each of them is one question and one answer.
        assert time.monotonic() - begun < 10.0
        with at_work(house):
            assert [result.get(timeout=LIMIT) for result in kept] == [1, 2]


@pytest.mark.anyio
async def test_async_code_is_told_too(house: House) -> None:
    small = house.app.tasks["small"]
    with limit(house.server, "small", 1):
        async with house.app:
            kept = await small.adelay(1)
            with pytest.raises(QueueFull, match="the queue of small"):
                await small.adelay(2)
            with pytest.raises(QueueFull, match=r"refused 2 of 2 jobs .*2 of small"):
                await group(small.s(n) for n in range(2)).adelay()
            with pytest.raises(QueueFull):
                await small.acall(2)
            with at_work(house):
                assert await kept.aget(timeout=LIMIT) == 1


def test_of_a_group_it_is_said_which_members_went_in(house: House) -> None:
    small, narrow = house.app.tasks["small"], house.app.tasks["narrow"]
    with limit(house.server, "narrow", 2):
        with pytest.raises(QueueFull, match=r"refused 3 of 7 jobs .*\(3 of narrow\)") as caught:
            group(*(narrow.s(n) for n in range(5)), small.s(10), small.s(20)).delay()
        error = caught.value
        assert len(error.taken) == 4
        assert len(error.refused) == 3
        assert not {*error.taken} & {*error.refused}
        with at_work(house):
            results = [house.app.AsyncResult(task_id).get(timeout=LIMIT) for task_id in error.taken]
    assert results == [1, 2, 10, 20]


def test_what_follows_in_a_chain_waits_for_room(house: House) -> None:
    small, narrow = house.app.tasks["small"], house.app.tasks["narrow"]
    with limit(house.server, "narrow", 1):
        with worker("tests.limits.queue_app:app", cwd=ROOT, servers=house.server.url) as program:
            results = [chain(small.s(n), narrow.s()).delay() for n in range(6)]
            assert [result.get(timeout=LIMIT) for result in results] == [n + 1 for n in range(6)]
        assert any("refused narrow" in line for line in program.lines()), "the queue was full at least once"


def test_a_retry_and_a_delayed_job_wait_for_room(house: House, tmp_path: Path) -> None:
    again, file = house.app.tasks["again"], tmp_path / "runs"
    with limit(house.server, "again", 1):
        # A job counts while it runs, so the next attempt finds the queue full: it waits outside of it.
        results = [again.apply_async((str(file),), countdown=0.5) for _ in range(3)]
        with at_work(house):
            assert [result.get(timeout=LIMIT) for result in results] == [1, 1, 1]
    assert sorted(lines(file)) == ["0"] * 3 + ["1"] * 3


def test_gtask_server_sets_limits(tmp_path: Path) -> None:
    with job_server("--max-queue=small=1", "--max-queue", "other=2") as server, make(server.url) as app:
        app.tasks["small"].options(ignore_result=True).delay(1)
        with pytest.raises(QueueFull):
            app.tasks["small"].delay(2)
    for wrong in ("small", "small=", "=5", "small=many"):
        run = gtask("server", "--max-queue", wrong, cwd=tmp_path)
        assert run.returncode == 2
        assert "is not FUNCTION=N, for instance resize=1000" in run.stderr
