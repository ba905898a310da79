"""`gtask.later` and `gtask.call`: delayed jobs that come due, and calls of functions in other languages."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import random
from typing import Any

import pytest

from gtask import App, ResultTimeout, TaskFailed, chord, current_task, group, housekeeper
from gtask.client import Client
from gtask.codecs import pack
from gtask.context import TaskContext
from gtask.errors import EncodeError, GtaskError, JobException, JobFailed, ResultError
from gtask.housekeeper import FUNCTIONS, Housekeeper
from gtask.message import Message, encode_message
from gtask.middleware import Middleware
from gtask.middleware.base import Next
from gtask.publish import CALL, FAR, LATER, SOON, Later, pack_later
from gtask.states import Outcome
from gtask.testing.embedded import EmbeddedServer
from gtask.testing.processes import JobServerProgram
from gtask.testing.programs import wait_until
from gtask.types import Submission
from gtask.worker.blocking import BlockingDriver, fresh_unique
from gtask.worker.core import CoreOptions, WorkerCore
from gtask.worker.job import End, Ending, Job
from tests.app.helpers import LIMIT, working
from tests.results.conftest import serving, workers

Body = Callable[[bytes], bytes | None]


class Peer:
    """A worker that knows nothing of gtask: bytes in, bytes out. None is WORK_FAIL, an exception WORK_EXCEPTION."""

    def __init__(self, driver: BlockingDriver, bodies: dict[str, Body]) -> None:
        self.driver = driver
        self.bodies = bodies

    def start(self, job: Job) -> None:
        try:
            answer = self.bodies[job.function](job.workload)
        except Exception as error:
            ending = Ending(End.EXCEPTION, f"{type(error).__name__}: {error}".encode())
        else:
            ending = Ending(End.FAIL) if answer is None else Ending(End.COMPLETE, answer)
        self.driver.finish(job, ending, flush=False)

    def tick(self, now: float) -> float:
        return now + 60.0


@contextmanager
def peer(app: App, **bodies: Body) -> Iterator[None]:
    """A foreign worker in a thread."""
    ready = threading.Event()
    core = WorkerCore(app.servers, list(bodies), CoreOptions(10), random, fresh_unique)
    with BlockingDriver(core, None, ready.set) as driver:
        thread = threading.Thread(target=driver.serve, args=(Peer(driver, bodies),))
        thread.start()
        try:
            assert ready.wait(LIMIT)
            yield
        finally:
            driver.stop()
            thread.join(LIMIT)


@pytest.fixture
def tasks(served: App) -> App:
    served.task(name="add")(lambda a, b=0: a + b)
    served.task(name="total")(lambda values, more=0: sum(values) + more)
    served.function("double")
    served.function("upper", codec="text")
    served.function("blob", codec="raw")
    served.function("fails")
    served.function("silent")
    return served


def double(data: bytes) -> bytes:
    return json.dumps(json.loads(data) * 2).encode()


def fails(data: bytes) -> bytes:
    raise ValueError("no such order")


@pytest.fixture
def worked(tasks: App) -> Iterator[App]:
    bodies: dict[str, Body] = {
        "double": double,
        "upper": bytes.upper,
        "blob": lambda data: data[::-1],
        "fails": fails,
        "silent": lambda data: None,
    }
    with peer(tasks, **bodies), working(tasks):
        yield tasks


def test_a_function_elsewhere_is_called_delayed_chained_and_grouped(worked: App) -> None:
    call = worked.tasks
    assert call["double"].call(4) == 8
    assert call["double"].delay(4).get(timeout=LIMIT) == 8
    assert call["double"].apply_async((4,), countdown=0.2, priority="high").get(timeout=LIMIT) == 8
    assert call["upper"].delay("grüße").get(timeout=LIMIT) == "GRüßE"
    assert call["blob"].call(b"\x00\xff") == b"\xff\x00"
    assert call["blob"].delay(b"\x00\xff").get(timeout=LIMIT) == b"\xff\x00"
    assert (call["add"] | call["double"] | call["add"].s(1)).delay(1, 2).get(timeout=LIMIT) == 7
    assert (call["double"] | call["double"]).delay("ab").get(timeout=LIMIT) == "abababab"
    assert group(call["double"].s(n) for n in range(3)).delay().join(timeout=LIMIT) == [0, 2, 4]
    assert chord([call["double"].s(n) for n in range(4)], call["total"]).delay().get(timeout=LIMIT) == 12
    assert chord([call["add"].s(1), call["add"].s(2)], call["double"]).delay().get(timeout=LIMIT) == [1, 2, 1, 2]


def test_a_chord_counts_foreign_members_whose_results_are_ignored(worked: App) -> None:
    members = [worked.tasks["double"].s(n).set(ignore_result=True) for n in (1, 2)]
    assert chord(members, worked.tasks["total"]).delay().get(timeout=LIMIT) == 6


def test_a_chords_body_elsewhere_may_be_ignored(tasks: App) -> None:
    got: list[bytes] = []
    heard = threading.Event()

    def listen(data: bytes) -> bytes:
        got.append(data)
        heard.set()
        return b""

    body = tasks.function("listen").s().set(ignore_result=True)
    with peer(tasks, listen=listen), working(tasks):
        chord([tasks.tasks["add"].s(1), tasks.tasks["add"].s(2)], body).delay()
        assert heard.wait(LIMIT)
    assert got == [b"[1,2]"]


def test_failures_elsewhere_come_back(worked: App) -> None:
    last = (worked.tasks["fails"] | worked.tasks["add"]).delay(1)
    assert last.parent is not None
    for result in (last.parent, last):
        with pytest.raises(ValueError, match="no such order"):
            result.get(timeout=LIMIT)
    with pytest.raises(TaskFailed, match="silent failed, and its worker did not say why"):
        worked.tasks["silent"].delay(1).get(timeout=LIMIT)
    with pytest.raises(TaskFailed, match="did not say why"):
        worked.tasks["silent"].call(1)
    with pytest.raises(ValueError, match="no such order"):
        worked.tasks["fails"].call(1)
    with pytest.raises(EncodeError, match="one positional argument"):
        worked.tasks["upper"].delay("a", "b").get(timeout=LIMIT)


def test_retries_of_a_function_elsewhere(tasks: App) -> None:
    runs: list[bytes] = []

    def flaky(data: bytes) -> bytes:
        runs.append(data)
        if len(runs) < 3:
            raise OSError("not yet")
        return b'"done"'

    tasks.function("flaky", autoretry_for=(OSError,), default_retry_delay=0.05, max_retries=2)
    with peer(tasks, flaky=flaky), working(tasks):
        assert tasks.tasks["flaky"].delay(7).get(timeout=LIMIT) == "done"
    assert runs == [b"7"] * 3


def test_many_calls_are_under_way_at_once_and_take_no_slot(tasks: App) -> None:
    with working(tasks, 1):
        results = [tasks.tasks["double"].delay(n) for n in range(50)]
        assert tasks.tasks["add"].call(1, 2) == 3
        with peer(tasks, double=double):
            assert [result.get(timeout=LIMIT) for result in results] == [2 * n for n in range(50)]


def test_middleware_stands_around_a_call_elsewhere(gtask_server: EmbeddedServer, tasks: App) -> None:
    seen: list[Any] = []

    class Seen(Middleware):
        async def executing(self, call_next: Next, context: TaskContext) -> Outcome:
            assert current_task() is context
            found = await call_next(context)
            assert current_task() is context
            seen.append((context.task.name, found.value))
            return found

    class Sleeps(Middleware):
        async def executing(self, call_next: Next, context: TaskContext) -> Outcome:
            if context.args == (0,):
                await asyncio.sleep(0)
            if context.args == (1,):
                raise LookupError("broken")
            return await call_next(context)

    app = App("shop", gtask_server.url, tasks.store, middleware=[Seen(), Sleeps()])
    app.function("double")
    app.task(name="add")(lambda a: a)
    with app, peer(app, double=double), working(app):
        assert app.tasks["double"].delay(4).get(timeout=LIMIT) == 8
        with pytest.raises(RuntimeError, match="which no loop is here to run"):
            app.tasks["double"].delay(0).get(timeout=LIMIT)
        with pytest.raises(LookupError, match="broken"):
            app.tasks["double"].delay(1).get(timeout=LIMIT)
        assert app.tasks["double"].delay(5).get(timeout=LIMIT) == 10
    assert seen == [("double", 8), ("double", 10)]


@pytest.mark.parametrize(
    "workload",
    [
        b"",
        b"7",
        b'{"gtask": 1, "args": [1], "headers": {"task": "gtask.call"}}',
        b'{"gtask": 1, "args": [1], "headers": {"task": "gtask.later"}}',
        b'{"gtask": 1, "args": [1], "headers": {"task": "a b"}}',
        b'{"gtask": 1, "args": [1]}',
        b'{"gtask": 1, "args": [1], "headers": {"task": "double", "foreign": "xml"}}',
        b'{"gtask": 1, "args": [1], "headers": {"task": "double", "foreign": ["json"]}}',
        b"\x85\xa5gtask",
    ],
)
def test_hostile_calls_are_refused(worked: App, workload: bytes) -> None:
    with Client(worked.servers) as client:
        with pytest.raises((JobException, JobFailed), match=r"gtask.errors.DecodeError|function in another language"):
            client.call(Submission(CALL, workload, background=False), LIMIT)
    assert worked.tasks["double"].delay(4).get(timeout=LIMIT) == 8


def test_a_message_that_claims_to_be_waited_for_is_retried_all_the_same(tasks: App) -> None:
    runs: list[bytes] = []

    def flaky(data: bytes) -> bytes:
        runs.append(data)
        if len(runs) < 2:
            raise OSError("not yet")
        return b'"done"'

    tasks.function("flaky", autoretry_for=(OSError,), default_retry_delay=0.0)
    headers = {"task": "flaky", "foreign": "json", "fg": True}
    with peer(tasks, flaky=flaky), working(tasks), Client(tasks.servers) as client:
        client.submit(Submission(CALL, encode_message(Message("f" * 32, "flaky", (1,), {}, headers)), "f" * 32))
        wait_until(lambda: len(runs) == 2, LIMIT)


# --- delayed jobs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", [b"", b"garbage", pack(["f", "u", "high", float("inf"), b""]), pack([1])])
def test_hostile_delayed_jobs_are_dropped(worked: App, workload: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with Client(worked.servers) as client:
        client.submit(Submission(LATER, workload, "hostile", when=1))
        wait_until(lambda: "delayed job cannot be read" in caplog.text, LIMIT)
    assert worked.tasks["add"].apply_async((1, 2), countdown=0.1).get(timeout=LIMIT) == 3


def test_a_delayed_job_of_a_function_nobody_serves_waits_there(worked: App, gtask_server: EmbeddedServer) -> None:
    later = Later("nobody", "u1", "low", 5.0, b"x")
    with Client(worked.servers) as client:
        client.submit(Submission(LATER, pack_later(later), "d1", when=1))
        wait_until(lambda: client.status("u1").known, LIMIT)
    assert any(line.startswith("nobody\t1") for line in gtask_server.admin("status"))


def test_a_job_that_comes_early_is_sent_back_to_wait(
    tasks: App, gtask_server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A queue that forgets times hands everything out at once after a restart."""
    caplog.set_level(logging.DEBUG)
    with working(tasks), Client(tasks.servers) as client:
        far = Later("add", "far", "normal", tasks.now() + 3600, b"[1]")
        client.submit(Submission(LATER, pack_later(far), "early"))
        wait_until(lambda: _jobs(gtask_server) == {FAR: 1}, LIMIT)
        # It can still be asked for: under the unique that it had.
        assert client.status("early").known


def test_order_follows_due_times_and_fractions_count(tasks: App) -> None:
    runs: list[int] = []
    done = threading.Event()

    @tasks.task(ignore_result=True)
    def note(n: int) -> None:
        runs.append(n)
        if len(runs) == 5:
            done.set()

    with working(tasks, 1):
        for n, countdown in ((5, 1.5), (1, 0.3), (3, 0.9), (2, 0.6), (4, 1.2)):
            note.apply_async((n,), countdown=countdown)
        assert done.wait(LIMIT)
    assert runs == [1, 2, 3, 4, 5]


def test_a_stopping_housekeeper_moves_what_it_holds(tasks: App, gtask_server: EmbeddedServer) -> None:
    with working(tasks):
        result = tasks.tasks["add"].apply_async((1, 2), countdown=1.2)
        wait_until(lambda: _running(gtask_server, SOON) == 1, LIMIT)
    assert _running(gtask_server, SOON) == 0
    with pytest.raises(ResultTimeout):
        result.get(timeout=0)
    with working(tasks):
        assert result.get(timeout=LIMIT) == 3


def _jobs(server: EmbeddedServer) -> dict[str, int]:
    rows = (line.split("\t") for line in server.admin("status"))
    return {row[0]: int(row[1]) for row in rows if int(row[1])}


def _running(server: EmbeddedServer, function: str) -> int:
    return next((int(row.split("\t")[2]) for row in server.admin("status") if row.startswith(f"{function}\t")), 0)


def test_an_expired_delayed_task_is_not_run(worked: App) -> None:
    result = worked.tasks["add"].apply_async((1,), countdown=0.3, expires=0.1)
    with pytest.raises((GtaskError, ResultError), match="within its expires time"):
        result.get(timeout=LIMIT)


# --- a worker whose results nobody serves -------------------------------------------------------------------------


def look(app: App) -> None:
    """Runs a housekeeper until it has looked whether the results are served."""
    core = WorkerCore(app.servers, FUNCTIONS, CoreOptions(1), random, fresh_unique)
    with BlockingDriver(core) as driver:
        keeper = Housekeeper(app, driver)
        tick = keeper.tick

        def look(now: float) -> float:
            due = tick(now)
            if keeper._results_known:
                driver.stop()
            return due

        keeper.tick = look  # type: ignore[method-assign]
        driver.serve(keeper)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeper, "SETTLED", 0.05)


@pytest.mark.usefixtures("soon")
def test_a_worker_says_that_nobody_serves_its_results(
    any_server: EmbeddedServer | JobServerProgram, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with App("shop", servers=any_server.url) as app:
        app.task(name="add")(lambda a: a)
        with serving(any_server.url, tmp_path / "results.db"):
            look(app)
        assert "No results service" not in caplog.text
        wait_until(lambda: not workers(any_server.url), LIMIT, "the end of the service")
        look(app)
        assert "No results service is connected to gearman://" in caplog.text
        for way in ("`gtask results`", "--with-results FILE", "results=None"):
            assert way in caplog.text


@pytest.mark.parametrize(
    "settings", [{"results": None}, {"ignore_result": True}, {"results": "sqlite:///unused.db"}], ids=str
)
@pytest.mark.usefixtures("soon")
def test_a_worker_without_a_use_for_one_misses_none(
    gtask_server: EmbeddedServer, caplog: pytest.LogCaptureFixture, settings: dict[str, Any]
) -> None:
    with App("shop", servers=gtask_server.url, **settings) as app:
        app.task(name="add")(lambda a: a)
        look(app)
    assert "No results service" not in caplog.text
