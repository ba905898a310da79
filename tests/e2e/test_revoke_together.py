"""What is revoked together: chains, chords, what tasks have sent; and delays and retries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from gtask import App, State, TaskRevoked, chain, chord, group
from gtask.publish import LATER
from gtask.testing.programs import Program, wait_until
from tests.e2e.conftest import LIMIT, House
from tests.e2e.stopping import make
from tests.e2e.tasks import lines
from tests.e2e.test_revoke_pools import command, send, wait_for


class Works:
    """A house with a worker of `tests.e2e.stopping`."""

    def __init__(self, house: House, app: App, worker: Program) -> None:
        self.house = house
        self.app = app
        self.worker = worker

    def ended(self, *functions: str) -> None:
        """Waits until the job server holds no job of some functions, and no delayed one."""
        wait_until(lambda: not self._held(functions), LIMIT, f"{functions} to end")

    def _held(self, functions: Sequence[str]) -> int:
        rows = [line.split("\t") for line in self.house.server.admin("status")]
        return sum(int(jobs) for name, jobs, *_ in rows if name in functions or name.startswith(LATER))


@pytest.fixture(scope="module")
def works(house: House) -> Iterator[Works]:
    with command(house, "prefork") as worker, make(house.server.url) as app:
        worker.wait_for_line("worker ready", LIMIT)
        yield Works(house, app, worker)


# --- together ----------------------------------------------------------------------------------------------------


def test_a_chain_is_stopped_as_one(works: Works, tmp_path: Path) -> None:
    tasks, after = works.app.tasks, str(tmp_path / "after")
    steps = chain(
        tasks["plain"].s(str(tmp_path), "a").set(link_error=[tasks["failed"].si(after)]), tasks["say"].si(after, "ran")
    )
    result = steps.delay()
    wait_for(tmp_path / "a.started")
    result.revoke(terminate=True)
    with pytest.raises(TaskRevoked):
        result.get(timeout=LIMIT)
    works.ended("plain", "say", "failed")
    assert result.parent is not None
    assert [result.state, result.parent.state] == [State.REVOKED] * 2
    assert lines(tmp_path / "after") == []


def test_a_chain_whose_first_step_is_revoked_ends_there(works: Works, tmp_path: Path) -> None:
    """Whoever waits for the last step is told, though only the first was named."""
    tasks = works.app.tasks
    result = chain(
        tasks["say"].s(str(tmp_path / "after"), "a").set(countdown=1.0), tasks["say"].si(str(tmp_path / "after"), "b")
    ).delay()
    assert result.parent is not None
    works.app.AsyncResult(result.parent.id).revoke()
    with pytest.raises(TaskRevoked):
        result.get(timeout=LIMIT)
    works.ended("say")
    assert lines(tmp_path / "after") == []


def test_a_chord_is_stopped_as_one(works: Works, tmp_path: Path) -> None:
    tasks = works.app.tasks
    members = [tasks["plain"].s(str(tmp_path), name) for name in "ab"]
    members += [tasks["plain"].s(str(tmp_path), "late").set(countdown=1.0)]
    result = chord(members, tasks["say"].si(str(tmp_path / "after"), "body")).delay()
    for name in "ab":
        wait_for(tmp_path / f"{name}.started")
    result.revoke(terminate=True)
    with pytest.raises(TaskRevoked):
        result.get(timeout=LIMIT)
    works.ended("plain", "say")
    assert not (tmp_path / "late.started").exists()
    assert lines(tmp_path / "after") == []
    assert result.state is State.REVOKED


def test_a_group_is_revoked_in_one_go(works: Works, tmp_path: Path) -> None:
    tasks = works.app.tasks
    result = group(tasks["plain"].s(str(tmp_path), f"m{n}") for n in range(3)).delay()
    wait_for(tmp_path / "m0.started")
    result.revoke(terminate=True)
    with pytest.raises(TaskRevoked):
        result.get(timeout=LIMIT)
    works.ended("plain")
    assert [member.state for member in result] == [State.REVOKED] * 3


def test_what_a_task_has_sent_is_revoked_with_it(works: Works, tmp_path: Path) -> None:
    result = send(works.app, "sends", tmp_path)
    wait_for(tmp_path / "inner.started")
    assert result.get(timeout=LIMIT) is None
    result.revoke(terminate=True)
    works.ended("plain", "say")
    assert lines(tmp_path / "after") == []
    assert result.state is State.SUCCESS


# --- delays and retries ------------------------------------------------------------------------------------------


def test_a_delayed_task_and_a_retry_that_waits_are_revoked(works: Works, tmp_path: Path) -> None:
    delayed = works.app.tasks["say"].apply_async((str(tmp_path / "said"), "delayed"), countdown=1.5)
    retried = send(works.app, "again", tmp_path / "runs")
    wait_until(lambda: retried.state is State.RETRY, LIMIT, "the first run")
    for result in (delayed, retried):
        result.revoke()
        with pytest.raises(TaskRevoked):
            result.get(timeout=LIMIT)
    works.ended("say", "again")
    assert lines(tmp_path / "said") == []
    assert lines(tmp_path / "runs") == ["0"]
    assert retried.state is State.REVOKED


def test_the_end_alone_stands_for_the_whole(works: Works, tmp_path: Path) -> None:
    """Handles made from an id in another process: of a chain, and of a chord's result."""
    tasks, after = works.app.tasks, str(tmp_path / "after")
    line = chain(
        tasks["say"].s(after, "a").set(countdown=1.0), tasks["say"].si(after, "b"), tasks["say"].si(after, "c")
    )
    members = [tasks["say"].s(after, name).set(countdown=1.0) for name in "de"]
    joined = chord(members, chain(tasks["say"].si(after, "f"), tasks["say"].si(after, "g")))
    for result in (line.delay(), joined.delay()):
        works.app.AsyncResult(result.id).revoke()
    works.ended("say")
    assert lines(tmp_path / "after") == []


def test_a_running_member_is_stopped_by_the_end_alone(works: Works, tmp_path: Path) -> None:
    tasks = works.app.tasks
    members = [tasks["plain"].s(str(tmp_path), name) for name in "ab"]
    result = chord(members, tasks["say"].si(str(tmp_path / "after"), "body")).delay()
    for name in "ab":
        wait_for(tmp_path / f"{name}.started")
    works.app.AsyncResult(result.id).revoke(terminate=True)
    works.ended("plain", "say")
    assert not list(tmp_path.glob("*.passed"))
    assert lines(tmp_path / "after") == []


def test_a_retry_is_seen_with_its_reason_until_it_runs_again(works: Works, tmp_path: Path) -> None:
    result = send(works.app, "tries", tmp_path)
    wait_until(lambda: result.state is State.RETRY, LIMIT, "the first run to fail")
    assert result.info is not None
    assert "ValueError: too early" in str(result.info.error.traceback)
    assert result.traceback is not None
    wait_for(tmp_path / "second.started")
    assert result.state is State.STARTED
    (tmp_path / "second.go").touch()
    assert result.get(timeout=LIMIT) == 1


def test_a_revoked_member_ends_its_chord_and_calls_nobody(works: Works, tmp_path: Path) -> None:
    tasks, after = works.app.tasks, str(tmp_path / "after")
    members = [tasks["say"].s(after, "a"), tasks["say"].s(after, "late").set(countdown=1.0)]
    body = tasks["say"].si(after, "body").set(link_error=[tasks["failed"].si(after)])
    result = chord(members, body).delay()
    assert result.parent is not None
    result.parent.results[1].revoke()
    with pytest.raises(TaskRevoked):
        result.get(timeout=LIMIT)
    works.ended("say", "failed")
    assert lines(tmp_path / "after") == ["a"]
    assert result.state is State.REVOKED
