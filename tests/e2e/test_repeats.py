"""Jobs that come once more though their tasks have ended: recognised by the stored result, and not run again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gtask import App
from gtask.message import SignatureData
from gtask.results.records import outcome_to_record
from gtask.states import Outcome, State
from gtask.testing import JobServerProgram, Program, gearmand, job_server, wait_until, worker
from gtask.testing.databases import find_database_program, mariadb
from gtask.testing.requirements import missing, require
from tests.e2e.conftest import LIMIT, ROOT, results_service
from tests.e2e.tasks import lines

NOT_AGAIN = "is not run again: it has ended before"


@pytest.fixture(params=["gtask", "gearmand"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobServerProgram]:
    """Each job server, with a queue that survives it."""
    if request.param == "gtask":
        with job_server(db=tmp_path / "queue.db") as server:
            yield server
    else:
        require("gearmand", package="gearman-job-server")
        with gearmand("-q", "libsqlite3", "--libsqlite3-db", str(tmp_path / "queue.db")) as server:
            yield server


@contextmanager
def working(server: JobServerProgram, results: str, pool: str = "prefork") -> Iterator[Program]:
    """A worker of `tests.e2e.dead_app` with this store."""
    environment = {"DEAD_RESULTS": results}
    with worker(
        "tests.e2e.dead_app:app", cwd=ROOT, servers=server.url, concurrency=1, pool=pool, env=environment
    ) as program:
        yield program


@pytest.mark.parametrize(
    ("store", "pool"), [("sqlite", "prefork"), ("gearman", "solo"), ("sqlite", "thread"), ("gearman", "async")]
)
def test_a_job_whose_result_is_there_is_not_run(
    server: JobServerProgram, tmp_path: Path, store: str, pool: str
) -> None:
    results = f"sqlite:///{tmp_path}/results.db" if store == "sqlite" else "gearman://"
    with ExitStack() as stack:
        if store == "gearman":
            stack.enter_context(results_service(server.url, tmp_path / "results.db"))
        app = stack.enter_context(App("dead", servers=server.url, results=results))
        # Its worker stored the result and died before it reported the end; so it was with every second one.
        done = [app.send_task("book", (str(tmp_path), number)) for number in range(20)]
        assert app.store is not None
        app.store.put(
            [outcome_to_record(Outcome(one.id, State.SUCCESS, "stored", task="book")) for one in done[::2]], 600
        )
        wait_until(lambda: len(app.store.get([one.id for one in done])) == 10, LIMIT)  # type: ignore[union-attr]
        with working(server, results, pool) as program:
            for number, result in enumerate(done):
                assert result.get(timeout=LIMIT) == ("stored" if number % 2 == 0 else number)
            wait_until(lambda: "book\t0\t0\t1" in server.admin("status"), LIMIT, "the end of the jobs")
            assert sorted(map(int, lines(tmp_path / "book"))) == list(range(1, 20, 2))
            assert sum(NOT_AGAIN in line for line in program.lines()) == 10


def test_a_chain_goes_on_and_its_next_step_is_recognised_too(server: JobServerProgram, tmp_path: Path) -> None:
    results = f"sqlite:///{tmp_path}/results.db"
    with App("dead", servers=server.url, results=results) as app:
        first = app.task(name="gated")(print)
        second = app.task(name="book")(print)
        folder = str(tmp_path)
        handle = (first.si(folder, "a") | second.si(folder, 5)).delay()
        assert handle.parent is not None
        assert app.store is not None
        app.store.put([outcome_to_record(Outcome(handle.parent.id, State.SUCCESS, 1))], 600)
        with working(server, results) as program:
            assert handle.get(timeout=LIMIT) == 5
            assert lines(tmp_path / "a.started") == []
            # The same job once more: now both have ended.
            message = SignatureData("gated", (folder, "a"), immutable=True, id=handle.parent.id)
            rest = [SignatureData("book", (folder, 5), immutable=True, id=handle.id).to_list()]
            position = program.output.position
            sending = app.publisher.prepare(message, app.now() - 3600, rest)
            app._sender.client.submit(app.publisher.seal(sending))
            program.wait_for_line(rf"book\[{handle.id}\] {NOT_AGAIN}", LIMIT, position)
            assert lines(tmp_path / "book") == ["5"]


def test_it_can_be_turned_off(server: JobServerProgram, tmp_path: Path) -> None:
    results = f"sqlite:///{tmp_path}/results.db"
    with App("dead", servers=server.url, results=results) as app:
        result = app.send_task("book", (str(tmp_path), 1))
        assert app.store is not None
        app.store.put([outcome_to_record(Outcome(result.id, State.SUCCESS, 1))], 600)
        environment = {"DEAD_RESULTS": results, "GTASK_SKIP_COMPLETED": "false"}
        with worker("tests.e2e.dead_app:app", cwd=ROOT, servers=server.url, concurrency=1, env=environment):
            wait_until(lambda: lines(tmp_path / "book") == ["1"], LIMIT, "the second run")


@pytest.mark.parametrize("then", ["server", "process"])
def test_a_job_completed_while_the_queues_database_is_away_is_not_run_again(tmp_path: Path, then: str) -> None:
    """Defect 23: gearmand cannot delete the job's row then, and hands the job out once more.

    Sometimes at once, since it may end the connection with the report; else when it is started again, or when the
    worker's connection ends.
    """
    require("gearmand", package="gearman-job-server")
    if find_database_program("mariadbd") is None:
        missing("program mariadbd", "apt-get install mariadb-server")
    results = f"sqlite:///{tmp_path}/results.db"
    count = "SELECT count(*) FROM gearman.gearman_queue"
    with (
        mariadb() as database,
        gearmand(*database.queue_options(), "--verbose=ERROR") as server,
        App("dead", servers=server.url, results=results) as app,
        working(server, results) as program,
    ):
        result = app.send_task("gated", (str(tmp_path), "a"))
        wait_until(lambda: lines(tmp_path / "a.started"), LIMIT, "the task's start")
        assert database.run(count) == ["1"]
        database.stop()
        (tmp_path / "a.go").touch()
        pid = result.get(timeout=LIMIT)
        server.wait_for_line("Remove from persistent queue", LIMIT)
        if then == "server":
            server.kill()
            server.wait(LIMIT)
        database.start()
        database.wait_until_ready()
        if then == "server":
            assert database.run(count) == ["1"]
            server.restart()
        else:
            program.kill(pid)
        program.wait_for_line(rf"gated\[{result.id}\] {NOT_AGAIN}", LIMIT)
        wait_until(lambda: database.run(count) == ["0"], LIMIT, "an empty queue")
        wait_until(lambda: "gated\t0\t0\t1" in server.admin("status"), LIMIT, "the end of the job")
        assert lines(tmp_path / "a.started") == [str(pid)]
