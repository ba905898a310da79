"""Looking at letters, sending their tasks again, dropping them: on both job servers."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gtask import App
from gtask.client import Client
from gtask.client.grabber import Grabber
from gtask.dead import MARKER, Parked, Tally, Verdict, queues, work_through
from gtask.errors import QueueFull, ServerError
from gtask.letters import decode_letter, encode_letter
from gtask.message import decode_message
from gtask.middleware.dead_letters import seal_letter
from gtask.results import GearmanStore, SqliteStore
from gtask.testing import gearmand, wait_until
from gtask.testing.programs import Program
from gtask.testing.requirements import require
from gtask.types import Submission
from gtask.worker.job import Ending
from tests.app.helpers import run_one, seal
from tests.dead.victim import start

LIMIT = 60.0


@pytest.fixture
def app(any_server: Any, tmp_path: Path) -> Iterator[App]:
    """An App with a task that fails, on each job server."""
    with App("shop", servers=any_server.url, results=SqliteStore(tmp_path / "results.db")) as app:

        @app.task(max_retries=0)
        def pay(order: int) -> int:
            raise ValueError(f"order {order}")

        @app.task
        def send(order: int) -> int:
            return order

        yield app


def fail(app: App, *orders: int, **options: Any) -> list[str]:
    """Runs `pay` for these orders in this process, and parks the letters; returns the ids of the tasks."""
    ids = []
    with Client(app.servers) as client:
        for order in orders:
            submission = seal(app, app.tasks["pay"].s(order).set(**options))
            ending = run_one(app, submission)
            assert isinstance(ending, Ending)
            client.submit(ending.optional[0])
            ids.append(submission.unique)
    return ids


def look(app: App, task: str = "pay") -> list[Parked]:
    found: list[Parked] = []

    def keep(parked: Parked) -> Verdict:
        found.append(parked)
        return Verdict.KEEP

    work_through(app, task, keep)
    return found


def orders(found: list[Parked]) -> list[int]:
    return [int(one.letter.error.message.split()[-1]) for one in found if one.letter is not None]


def waiting(server: Any, function: str) -> int:
    for line in server.admin("status"):
        name, total, running, _ = line.split("\t")
        if name == function:
            assert running == "0"
            return int(total)
    return 0


def grab_all(app: App, function: str) -> list[Any]:
    """Takes the jobs out of a queue."""
    with Grabber(app.servers[0], function, timeout=LIMIT, connect_timeout=LIMIT) as grabber:
        jobs = grabber.grab(1000)
        grabber.complete(jobs)
        return jobs


def test_looking_changes_nothing(app: App, any_server: Any) -> None:
    fail(app, *range(100))
    for _ in range(3):
        assert orders(look(app)) == list(range(100))
        assert waiting(any_server, "pay.dead") == 100
    (queue,) = queues(app)
    assert (queue.task, queue.server, queue.waiting) == ("pay", app.servers[0], 100)
    assert look(app, "pay.dead") != []


def test_a_queue_that_is_not_there_is_not_made(app: App, any_server: Any) -> None:
    assert look(app, "nobody") == []
    assert queues(app) == []
    assert queues(app, ["nobody"]) == []
    assert not any(line.startswith("nobody") for line in any_server.admin("status"))


def test_what_comes_meanwhile_is_left_for_the_next_time(app: App, any_server: Any) -> None:
    fail(app, 1, 2)
    seen: list[Parked] = []

    def keep(parked: Parked) -> Verdict:
        if not seen:
            fail(app, 3)
        seen.append(parked)
        return Verdict.KEEP

    assert work_through(app, "pay", keep) == Tally(seen=2, kept=2)
    assert orders(seen) == [1, 2]
    assert sorted(orders(look(app))) == [1, 2, 3]
    assert waiting(any_server, "pay.dead") == 3


def test_a_task_is_sent_again_as_new(app: App, any_server: Any) -> None:
    store = app.store
    assert store is not None
    ids = fail(app, 1, 2, 3, priority="high", headers={"mine": 1})
    assert set(store.get(ids)) == set(ids)

    def retry(parked: Parked) -> Verdict:
        assert parked.letter is not None
        return Verdict.RETRY if parked.letter.task_id == ids[1] else Verdict.KEEP

    assert work_through(app, "pay", retry) == Tally(seen=3, kept=2, retried=1)
    assert orders(look(app)) == [1, 3]
    assert set(store.get(ids)) == {ids[0], ids[2]}
    (job,) = grab_all(app, "pay")
    assert job.unique == f"{ids[1]}01"
    message = decode_message("pay", job.workload)
    assert (message.id, message.args) == (ids[1], (2,))
    assert message.headers["runs"] == 1
    assert message.headers["mine"] == 1
    assert not {"retries", "eta", "history", "expires"} & message.headers.keys()
    # Its next death is another letter, and its next life again begins anew.
    ending = run_one(app, Submission("pay", job.workload, job.unique))
    assert isinstance(ending, Ending)
    letter = decode_letter(ending.optional[0].workload)
    assert (letter.id, letter.retries) == (f"{ids[1]}01", 0)


def test_the_steps_behind_it_may_succeed_this_time(app: App) -> None:
    store = app.store
    assert store is not None
    submission = seal(app, app.tasks["pay"].s(1), app.tasks["send"].s())
    ending = run_one(app, submission)
    assert isinstance(ending, Ending)
    with Client(app.servers) as client:
        client.submit(ending.optional[0])
    chain = decode_message("pay", submission.workload).headers["chain"]
    ids = [submission.unique, chain[0][5]]
    assert set(store.get(ids)) == set(ids)
    assert work_through(app, "pay", lambda parked: Verdict.RETRY, keeps=False).retried == 1
    assert store.get(ids) == {}


def test_what_could_not_be_read_goes_as_it_came(app: App) -> None:
    broken = b"\x85\xa5gtask\x01\xa2id"
    own = app.new_id("pay")
    with Client(app.servers) as client:
        for unique in (own, "of a stranger".replace(" ", "-")):
            ending = run_one(app, Submission("pay", broken, unique))
            assert isinstance(ending, Ending)
            client.submit(ending.optional[0])
    assert work_through(app, "pay", lambda parked: Verdict.RETRY).retried == 2
    jobs = grab_all(app, "pay")
    assert [job.workload for job in jobs] == [broken] * 2
    assert jobs[0].unique == f"{own}01"
    assert len(jobs[1].unique) == 32
    assert app.store is not None
    assert app.store.get([own]) == {}


def test_letters_are_dropped(app: App, any_server: Any) -> None:
    fail(app, *range(10))

    def drop(parked: Parked) -> Verdict:
        return Verdict.DROP if orders([parked])[0] % 2 else Verdict.KEEP

    assert work_through(app, "pay", drop) == Tally(seen=10, kept=5, dropped=5)
    assert orders(look(app)) == [0, 2, 4, 6, 8]
    assert work_through(app, "pay", lambda parked: Verdict.DROP, keeps=False).dropped == 5
    assert waiting(any_server, "pay.dead") == 0


def test_copies_are_seen_once_and_cleared_away(app: App, any_server: Any) -> None:
    fail(app, 1, 2)
    letters = [one.letter for one in look(app)]
    with Client(app.servers) as client:
        for letter in (letters[0], letters[0], letters[1]):
            assert letter is not None
            client.submit(replace(seal_letter(letter, "x")[0], unique=""))
    assert waiting(any_server, "pay.dead") == 5
    assert orders(look(app)) == [1, 2]
    assert waiting(any_server, "pay.dead") == 2


def test_what_is_no_letter_is_passed_through_too(app: App, any_server: Any) -> None:
    with Client(app.servers) as client:
        for workload in (b"x", b"x", b"\x80", MARKER):
            client.submit(Submission("pay.dead", workload))
    found = look(app)
    assert [(one.letter, one.workload) for one in found] == [(None, b"x"), (None, b"x"), (None, b"\x80")]
    assert found[0].problem
    assert found[0].id == found[1].id != found[2].id
    tally = work_through(app, "pay", lambda parked: Verdict.RETRY)
    assert (tally.retried, tally.kept) == (0, 3)
    assert work_through(app, "pay", lambda parked: Verdict.DROP).dropped == 3
    assert waiting(any_server, "pay.dead") == 0


def test_a_large_letter_is_passed_through(app: App) -> None:
    with Client(app.servers) as client:
        ids = fail(app, 1)
        letter = look(app)[0].letter
        assert letter is not None
        for number in range(3):
            large = replace(letter, id=f"{ids[0]}{number}", message=bytes([number]) * 5_000_000)
            client.submit(Submission("pay.dead", encode_letter(large)))
    assert [len(one.workload) > 4_000_000 for one in look(app)] == [False, True, True, True]
    assert len(look(app)) == 4


def test_a_full_queue_is_said_to_be_full_before_anything_is_grabbed(app: App, any_server: Any) -> None:
    fail(app, 1, 2)
    any_server.admin("maxqueue pay.dead 2")
    with pytest.raises(QueueFull, match=r"maxqueue pay.dead 3"):
        look(app)
    assert work_through(app, "pay", lambda parked: Verdict.DROP, keeps=False).dropped == 2
    fail(app, 3, 4)
    any_server.admin("maxqueue pay.dead 3")
    # One free place, taken in turn.
    assert orders(look(app)) == [3, 4]
    assert waiting(any_server, "pay.dead") == 2


def test_a_task_that_cannot_be_sent_again_stays(app: App, any_server: Any) -> None:
    fail(app, 1, 2)
    any_server.admin("create function pay")
    any_server.admin("maxqueue pay 1")
    tally = work_through(app, "pay", lambda parked: Verdict.RETRY)
    assert (tally.retried, tally.kept, len(tally.failed)) == (1, 1, 1)
    assert "queue is full" in tally.failed[0][1].lower()
    assert orders(look(app)) == [2]


def test_a_result_in_another_store_is_not_forgotten_elsewhere(app: App, any_server: Any) -> None:
    fail(app, 1)
    for results, own in ((None, "no store"), (GearmanStore(any_server.url), "a GearmanStore")):
        with App("other", servers=any_server.url, results=results) as other:
            tally = work_through(other, "pay", lambda parked: Verdict.RETRY)
            ((_, why),) = tally.failed
            assert f"kept in a SqliteStore, and this app has {own}" in why
    assert orders(look(app)) == [1]


def test_an_error_of_the_caller_loses_nothing_and_costs_no_attempt(app: App, any_server: Any) -> None:
    fail(app, *range(20))

    def stop(parked: Parked) -> Verdict:
        if orders([parked]) == [13]:
            raise KeyboardInterrupt
        return Verdict.KEEP

    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            work_through(app, "pay", stop)
    assert waiting(any_server, "pay.dead") == 20
    assert sorted(orders(look(app))) == list(range(20))


def test_signed_letters_are_verified(any_server: Any, tmp_path: Path) -> None:
    keys = {"k1": "a secret of sixteen bytes and more"}
    with App("shop", servers=any_server.url, results=None, signing_keys=keys) as signed:

        @signed.task
        def pay(order: int) -> None:
            raise ValueError(f"order {order}")

        fail(signed, 1)
        with Client(signed.servers) as client:
            letter = look(signed)[0].letter
            assert letter is not None
            client.submit(Submission("pay.dead", encode_letter(replace(letter, id="forged"))))
        assert ["not signed" in one.problem for one in look(signed)] == [False, True]
        with App("other", servers=any_server.url, results=None) as unsigned:
            assert [one.letter is None for one in look(unsigned)] == [True, False]
        assert work_through(signed, "pay", lambda parked: Verdict.RETRY).retried == 1
        (job,) = grab_all(signed, "pay")
        ending = run_one(signed, Submission("pay", job.workload, job.unique))
        assert isinstance(ending, Ending)
        assert len(ending.optional) == 1


def test_attempts_are_not_used_up(tmp_path: Path) -> None:
    """With --job-retries=1 a job whose connection ends once is gone."""
    require("gearmand", package="gearman-job-server")
    with gearmand("--job-retries=1") as server, App("shop", servers=server.url, results=None) as app:

        @app.task
        def pay(order: int) -> None:
            raise ValueError(f"order {order}")

        fail(app, *range(50))
        for _ in range(4):
            assert orders(look(app)) == list(range(50))


@pytest.mark.parametrize("verdict", ["KEEP", "RETRY"])
def test_killed_in_the_middle_it_loses_no_letter(app: App, any_server: Any, tmp_path: Path, verdict: str) -> None:
    numbers = list(range(60))
    fail(app, *numbers)
    with ExitStack() as stack:
        for nth in range(1, 8):
            program: Program = stack.enter_context(start(any_server.url, tmp_path / "results.db", verdict, nth))
            program.wait_for_line("now", LIMIT)
            program.kill(signum=signal.SIGKILL)
            program.wait(LIMIT)
    wait_until(lambda: _idle(any_server), LIMIT, "the letters' return")
    sent = {int(decode_message("pay", job.workload).args[0]) for job in grab_all(app, "pay")}
    left = orders(look(app))
    assert len(left) == len(set(left))
    assert set(left) | sent == set(numbers)
    assert (verdict == "RETRY") == bool(sent)


def _idle(server: Any) -> bool:
    return all(line.split("\t")[2] == "0" for line in server.admin("status"))


def test_a_job_server_that_refuses_everything_gets_its_letters_back(
    app: App, any_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(app, 1)

    def fill(parked: Parked) -> Verdict:
        # Somebody is quicker to take the free place.
        fail(app, 2)
        return Verdict.KEEP

    any_server.admin("maxqueue pay.dead 2")
    monkeypatch.setattr("gtask.dead.PATIENCE", 0.3)
    with pytest.raises(ServerError):
        work_through(app, "pay", fill)
    wait_until(lambda: _idle(any_server), LIMIT, "the letter's return")
    any_server.admin("maxqueue pay.dead 9")
    assert sorted(orders(look(app))) == [1, 2]
