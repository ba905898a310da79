"""Every result store through a real worker and a real job server: what the quick start shows, and more of it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import pytest

from gtask import App, GroupResult, State, TaskRevoked, chain, chord, group
from gtask.testing.databases import Database
from gtask.testing.processes import gearmand, worker
from gtask.testing.programs import Program, wait_until
from gtask.testing.requirements import missing, require, require_module
from gtask.testing.stores import MODULES, PROGRAMS, store_server, store_url
from tests.e2e import store_app
from tests.e2e.conftest import LIMIT, ROOT, results_service
from tests.e2e.tasks import lines

KINDS = ("gearman", "sqlite", "redis", "mysql", "postgres")


@dataclass
class Shop:
    """A store with a job server, a worker of three processes, and the App as its caller."""

    app: App
    notes: Path
    worker: Program
    database: Database | None


@pytest.fixture(scope="module", params=KINDS)
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    kind: str = request.param
    folder = tmp_path_factory.mktemp(kind)
    require("gearmand", package="gearman-job-server")
    for module in MODULES.get(kind, ()):
        require_module(module, "redis" if kind == "redis" else "sql")
    with ExitStack() as stack:
        server = stack.enter_context(gearmand())
        database: Database | None = None
        url = {"gearman": "gearman://", "sqlite": f"sqlite:///{folder}/results.db"}.get(kind, "")
        if kind == "gearman":
            stack.enter_context(results_service(server.url, folder / "results.db"))
        if not url:
            try:
                database = stack.enter_context(store_server(kind))
            except FileNotFoundError:
                missing(f"program {PROGRAMS[kind]}")
            url = store_url(database)
        env = {"STORE_URL": url, "STORE_NOTES": str(folder / "notes")}
        running = worker("tests.e2e.store_app:app", cwd=ROOT, servers=server.url, concurrency=3, env=env)
        app = stack.enter_context(App("stores", servers=server.url, results=url))
        tasks = (store_app.add, store_app.total, store_app.fails, store_app.large, store_app.noted, store_app.sleeps)
        for task in tasks:
            app.task(name=task.name, bind=task.bind)(task.func)
        yield Shop(app, folder / "notes", stack.enter_context(running), database)


def test_a_chain(shop: Shop) -> None:
    add = shop.app.tasks["add"]
    assert (add.s(1, 2) | add.s(3) | add.s(4)).delay().get(timeout=LIMIT) == 10
    assert chain(add.s(1, 1), add.si(5, 5)).delay().get(timeout=LIMIT) == 10


def test_a_chord_and_a_group(shop: Shop) -> None:
    add, total = shop.app.tasks["add"], shop.app.tasks["total"]
    assert chord([add.s(number, 1) for number in range(40)], total.s()).delay().get(timeout=LIMIT) == 820
    assert group(add.s(number) for number in range(200)).delay().get(timeout=LIMIT) == list(range(200))


def test_a_chord_with_a_member_that_fails(shop: Shop) -> None:
    add, total, fails = (shop.app.tasks[name] for name in ("add", "total", "fails"))
    sent = chord([add.s(1), fails.s("no such order"), add.s(2)], total.s()).delay()
    with pytest.raises(ValueError, match="no such order"):
        sent.get(timeout=LIMIT)


def test_many_results(shop: Shop) -> None:
    """Each is read by its id, from another handle."""
    add = shop.app.tasks["add"]
    sent = [add.delay(number, 1) for number in range(300)]
    assert [shop.app.AsyncResult(one.id).get(timeout=LIMIT) for one in sent] == [number + 1 for number in range(300)]


def test_a_large_result(shop: Shop) -> None:
    """Three megabytes."""
    size = 3 * 1024 * 1024
    assert shop.app.tasks["large"].delay(size).get(timeout=LIMIT) == bytes(range(256)) * (size // 256)


def test_unique_calls_run_once(shop: Shop) -> None:
    """The same key from many callers at once: one run, one id, and everybody has its answer."""
    noted, key = shop.app.tasks["noted"], f"key:{uuid.uuid4().hex}"
    sent = [noted.apply_async((key,), unique=key, countdown=1) for _ in range(20)]
    assert len({one.id for one in sent}) == 1
    assert {one.get(timeout=LIMIT) for one in sent} == {sent[0].id}
    assert lines(shop.notes).count(key) == 1
    later = noted.apply_async((key,), unique=key)
    assert later.id != sent[0].id
    assert later.get(timeout=LIMIT) == later.id


def test_revoked_tasks_are_not_run_and_stopped(shop: Shop) -> None:
    """Workers hear of the mark from the store."""
    noted, sleeps = shop.app.tasks["noted"], shop.app.tasks["sleeps"]
    texts = [uuid.uuid4().hex for _ in range(3)]
    delayed, other = (noted.apply_async((text,), countdown=1) for text in texts[:2])
    running = sleeps.delay(texts[2])
    wait_until(lambda: texts[2] in lines(shop.notes), LIMIT, "the task to run")
    position = shop.worker.output.position
    group = GroupResult(shop.app, [delayed, running])
    group.revoke(terminate=True)
    with pytest.raises(TaskRevoked):
        group.get(timeout=LIMIT)
    shop.worker.wait_for_line("was revoked: its process", LIMIT, position)
    shop.worker.wait_for_line(f"{running.id}.* not run", LIMIT, position)
    assert other.get(timeout=LIMIT) == other.id
    shop.worker.wait_for_line(f"{delayed.id}.* not run", LIMIT, position)
    assert texts[0] not in lines(shop.notes)
    assert lines(shop.notes).count(texts[2]) == 1
    assert [result.state for result in group] == [State.REVOKED] * 2


@pytest.mark.anyio
async def test_async_callers(shop: Shop) -> None:
    """A hundred wait at once."""
    add = shop.app.tasks["add"]
    found: list[int] = []

    async def call(number: int) -> None:
        found.append(await (await add.adelay(number, 1)).aget(timeout=LIMIT))

    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(call, number)
    assert sorted(found) == list(range(1, 101))
    await shop.app.aclose()


def test_an_outcome_is_kept_while_the_store_is_away(shop: Shop) -> None:
    """The store is killed while a task runs; the worker tries again until it is back, and nothing runs twice."""
    if shop.database is None or shop.database.kind == "redis":
        pytest.skip("This store is a file, or keeps nothing over a restart.")
    noted = shop.app.tasks["noted"]
    text = f"away:{uuid.uuid4().hex}"
    sent = noted.apply_async((text,), countdown=1)
    shop.database.kill()
    shop.database.wait()
    wait_until(lambda: text in lines(shop.notes), LIMIT, "the task to run")
    wait_until(partial(started, shop.database), LIMIT, "the database")
    assert sent.get(timeout=LIMIT) == sent.id
    assert lines(shop.notes).count(text) == 1


def started(database: Database) -> bool:
    """Starts it again; PostgreSQL's processes may have to end first."""
    if not database.running:
        database.start()
    try:
        database.wait_until_ready()
    except Exception:
        return False
    return True


@pytest.mark.parametrize("pool", ["thread", "async"])
def test_jobs_that_end_together_in_one_process(pool: str, tmp_path: Path) -> None:
    """Their outcomes are put together; none is lost, and chords complete."""
    require("gearmand", package="gearman-job-server")
    url = f"sqlite:///{tmp_path}/results.db"
    env = {"STORE_URL": url, "STORE_NOTES": str(tmp_path / "notes")}
    with (
        gearmand() as server,
        worker("tests.e2e.store_app:app", cwd=ROOT, servers=server.url, concurrency=8, pool=pool, env=env),
        App("stores", servers=server.url, results=url) as app,
    ):
        add, total = (app.task(name=task.name)(task.func) for task in (store_app.add, store_app.total))
        assert group(add.s(number) for number in range(500)).delay().get(timeout=LIMIT) == list(range(500))
        assert chord([add.s(number) for number in range(100)], total.s()).delay().get(timeout=LIMIT) == 4950
