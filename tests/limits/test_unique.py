"""`unique=`: one run for all who call at once, from any process, and each of them gets its answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest

from gtask import App, TaskRevoked, WorkerLost, group
from gtask.client import Client
from gtask.plans import plan_unique
from gtask.testing.processes import worker
from gtask.testing.programs import Program, wait_until
from gtask.unique import answered, key_of, unique_key
from tests.e2e.conftest import LIMIT, ROOT, House, house_of
from tests.e2e.tasks import lines
from tests.limits.queue_app import make

CALLERS = 100

CALL = """
import os, sys
from tests.e2e.tasks import note
from tests.limits.queue_app import make

url, name, folder, calls = sys.argv[1:]
children = []
for number in range(int(calls)):
    pid = os.fork()
    if not pid:
        try:
            with make(url) as app:
                result = app.tasks[name].delay(folder, "shared")
                note(f"{folder}/called", result.id)
                note(f"{folder}/answered", f"{result.id} {result.get(timeout=60)}")
                os._exit(0)
        finally:
            os._exit(1)
    children.append(pid)
sys.exit(sum(os.waitpid(pid, 0)[1] != 0 for pid in children))
"""


@pytest.fixture(scope="module", params=["gtask", "gearmand"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Each job server in turn."""
    with house_of(request.param, tmp_path_factory.mktemp("unique")) as made, make(made.server.url) as app:
        yield House(made.server, app)


@pytest.fixture(scope="module")
def staff(house: House) -> Iterator[Program]:
    """A worker of four processes."""
    with worker("tests.limits.queue_app:app", cwd=ROOT, servers=house.server.url, concurrency=4) as program:
        yield program


def call_at_once(house: House, name: str, folder: Path, gated: bool) -> list[list[str]]:
    """100 processes, each with an App of its own, call at once; the id and the answer that each of them got.

    A task with a gate ends when all of them have called.
    """
    command = [sys.executable, "-c", CALL, house.server.url, name, str(folder), str(CALLERS)]
    with Program(command, cwd=ROOT) as program:
        if gated:
            wait_until(lambda: len(lines(folder / "called")) == CALLERS, LIMIT, "all calls")
            (folder / "shared.go").touch()
        assert program.wait(2 * LIMIT) == 0, program.tail()
    assert len(lines(folder / "called")) == CALLERS
    return [line.split() for line in lines(folder / "answered")]


def test_of_100_processes_that_call_at_once_one_call_is_run(house: House, staff: Program, tmp_path: Path) -> None:
    answers = call_at_once(house, "once", tmp_path, gated=True)
    runs = lines(tmp_path / "shared.started")
    print(f"{house.server.kind}: {CALLERS} processes, {len(runs)} runs, {len({id for id, _ in answers})} ids")
    assert len(answers) == CALLERS
    assert {answer for _, answer in answers} == set(runs)
    assert len({id for id, _ in answers}) == len(runs) == 1


def test_of_runs_that_end_while_others_call_each_has_an_id_of_its_own(
    house: House, staff: Program, tmp_path: Path
) -> None:
    """The run is over before the last of them calls: an id never runs twice, and each caller gets its own's answer."""
    answers = call_at_once(house, "quick", tmp_path, gated=False)
    runs = lines(tmp_path / "shared")
    print(f"{house.server.kind}: {CALLERS} processes, {len(runs)} short runs, {len({id for id, _ in answers})} ids")
    assert len(answers) == CALLERS
    assert len(runs) == len({id for id, _ in answers}) < CALLERS


def test_a_second_call_shares_until_the_task_is_done(house: House, staff: Program, tmp_path: Path) -> None:
    once = house.app.tasks["once"]
    first, second = once.delay(str(tmp_path), "a"), once.delay(str(tmp_path), "a")
    assert first.id == second.id
    wait_until(lambda: lines(tmp_path / "a.started"), LIMIT)
    assert once.delay(str(tmp_path), "a").id == first.id, "it runs, and is not done"
    members = group(once.s(str(tmp_path), "a"), once.s(str(tmp_path), "b"), once.s(str(tmp_path), "a")).delay()
    assert members[0].id == members[2].id == first.id != members[1].id
    for name in "ab":
        (tmp_path / f"{name}.go").touch()
    assert members.join(timeout=LIMIT)[0] == first.get(timeout=LIMIT) == second.get(timeout=LIMIT)
    later = once.delay(str(tmp_path), "a")
    assert later.id != first.id
    later.get(timeout=LIMIT)
    assert len(lines(tmp_path / "a.started")) == 2


def test_until_start_a_call_during_the_run_has_a_run_of_its_own(house: House, staff: Program, tmp_path: Path) -> None:
    latest = house.app.tasks["latest"]
    first = latest.delay(str(tmp_path), "a")
    wait_until(lambda: lines(tmp_path / "a.started"), LIMIT, "the first run")
    second = latest.apply_async((str(tmp_path), "a"), countdown=1)
    third = latest.delay(str(tmp_path), "a")
    assert first.id != second.id == third.id, "what changed while it ran is seen by one more run"
    (tmp_path / "a.go").touch()
    first.get(timeout=LIMIT)
    third.get(timeout=LIMIT)
    assert len(lines(tmp_path / "a.started")) == 2


def test_a_failure_ends_the_claim_even_when_results_are_ignored(house: House, staff: Program, tmp_path: Path) -> None:
    broken = house.app.tasks["broken"]
    ids = set()
    for _ in range(2):
        result = broken.delay(str(tmp_path / "runs"))
        ids.add(result.id)
        with pytest.raises(ValueError, match="broken"):
            result.get(timeout=LIMIT)
    assert len(ids) == len(lines(tmp_path / "runs")) == 2


def test_a_retry_keeps_the_claim_and_revoking_ends_it(house: House, staff: Program, tmp_path: Path) -> None:
    retried, runs = house.app.tasks["retried"], tmp_path / "retried"
    (tmp_path / "soon").touch()
    first = retried.delay(str(tmp_path))
    wait_until(lambda: lines(runs), LIMIT)
    assert retried.delay(str(tmp_path)).id == first.id, "between two attempts it is not done"
    assert first.get(timeout=LIMIT) == 1
    (tmp_path / "soon").unlink()
    long = retried.delay(str(tmp_path))
    wait_until(lambda: len(lines(runs)) == 3, LIMIT)
    assert retried.delay(str(tmp_path)).id == long.id
    long.revoke()
    with pytest.raises(TaskRevoked):
        long.get(timeout=LIMIT)
    (tmp_path / "soon").touch()
    again = retried.delay(str(tmp_path))
    assert again.id != long.id
    assert again.get(timeout=LIMIT) == 1


def test_a_call_that_expired_ends_its_claim(house: House, staff: Program, tmp_path: Path) -> None:
    quick = house.app.tasks["quick"]
    late = quick.apply_async((str(tmp_path), "e"), countdown=0.6, expires=0.1)
    assert quick.delay(str(tmp_path), "e").id == late.id
    late.get(timeout=LIMIT, propagate=False)
    assert quick.delay(str(tmp_path), "e").id != late.id


def test_a_caller_who_submits_late_has_nothing_run_again(house: House, staff: Program, tmp_path: Path) -> None:
    """It has claimed the key and stands still; the next one submits in its place, and the task ends meanwhile."""
    step = house.app.tasks["quick"].s(str(tmp_path), "late")
    key = unique_key([step])
    assert key is not None
    plan, to_submit = answered(plan_unique(house.app, step, key))
    assert to_submit
    second = step.delay()
    assert second.id == plan.handle.id
    answer = second.get(timeout=LIMIT)
    with Client(house.server.url) as client:
        client.submit(house.app.publisher.seal(plan.sending))
    wait_until(lambda: house.row("quick")[:2] == (0, 0), LIMIT, "the end of the late one")
    assert plan.handle.get(timeout=LIMIT) == answer
    assert len(lines(tmp_path / "late")) == 1


def test_a_job_that_kills_its_process_for_good_ends_its_claim(house: House, staff: Program, tmp_path: Path) -> None:
    deadly = house.app.tasks["deadly"]
    first = deadly.delay(str(tmp_path / "runs"))
    with pytest.raises(WorkerLost):
        first.get(timeout=LIMIT)
    assert len(lines(tmp_path / "runs")) == 3
    (tmp_path / "runs").write_text("enough\n" * 3)
    second = deadly.delay(str(tmp_path / "runs"))
    assert second.id != first.id
    assert second.get(timeout=LIMIT) == "alive"


@pytest.mark.anyio
async def test_async_callers_share_too(house: House, staff: Program, tmp_path: Path) -> None:
    once = house.app.tasks["once"]
    async with house.app:
        results = [await once.adelay(str(tmp_path), "async") for _ in range(3)]
        assert len({result.id for result in results}) == 1
        (tmp_path / "async.go").touch()
        assert len({await result.aget(timeout=LIMIT) for result in results}) == 1
    assert len(lines(tmp_path / "async.started")) == 1


# --- keys ----------------------------------------------------------------------------------------------------


def make_keyed() -> App:
    """An App that nobody serves, with a task whose arguments are its key."""
    app = App("keys", "127.0.0.1:1", results=None)

    @app.task(unique=True)
    def f(a: int, b: float = 1.5, *rest: str, name: str = "x", **more: int) -> None: ...

    return app


def test_calls_that_mean_the_same_have_the_same_key() -> None:
    f = make_keyed().tasks["f"]
    same = [f.s(1), f.s(a=1), f.s(1, 1.5), f.s(b=1.5, a=1), f.s(1, name="x")]
    keys = {unique_key([step]) for step in same}
    assert len(keys) == 1
    others = [f.s(2), f.s(1, 2.5), f.s(1, 1.5, "r"), f.s(1, name="y"), f.s(1, z=1), f.s(1, z=1, y=2)]
    assert len({unique_key([step]) for step in others} | keys) == 7
    assert unique_key([f.s(1, z=1, y=2)]) == unique_key([f.s(1, y=2, z=1)])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": [2, 3]}, {"b": [2, 3], "a": 1}),
        ({3, 1, 2}, {2, 3, 1}),
        (Decimal("1.50"), Decimal("1.5")),
        (datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=1)))),
        ((1, 2), [1, 2]),
    ],
)
def test_equal_values_have_equal_keys(one: object, other: object) -> None:
    assert key_of(one) == key_of(other)


def test_other_values_have_other_keys() -> None:
    values = [1, "1", b"1", 1.5, None, True, [], {}, [[]], [1], ["1"], {"a": 1}, {"a": "1"}, ["a", 1], [["a"], 1], "ab"]
    assert len({key_of(value) for value in values}) == len(values)


def test_a_key_may_be_long_and_none_turns_it_off() -> None:
    app = make_keyed()
    f = app.tasks["f"]
    long = unique_key([f.s(1).set(unique="k" * 5000)])
    assert long is not None
    assert len(long) <= 255
    assert unique_key([f.s(1).set(unique=None)]) is None
    assert unique_key([f.s(1).set(unique=False)]) is None
    assert unique_key([f.s(1).set(unique=lambda a: f"of {a}")]) == "f:of 1"
