"""Streams and progress through real workers: every pool, both job servers, and whoever dies on the way."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import anyio
import pytest

from gtask import App, ConfigurationError, Progress, ResultTimeout, State, StreamBroken, group
from gtask.arguments import Arguments
from gtask.client import Client
from gtask.options import Options
from gtask.protocol import WorkData
from gtask.task import BaseTask
from gtask.testing.faults import FaultProxy
from gtask.testing.processes import worker
from gtask.testing.programs import Program, wait_until
from gtask.types import Submission
from tests.e2e.conftest import LIMIT, ROOT, House, house_of
from tests.e2e.stream_app import Row, make
from tests.e2e.tasks import lines

POOLS = [("gtask", "prefork"), ("gtask", "thread"), ("gtask", "async"), ("gtask", "solo")]
POOLS += [("gearmand", "prefork"), ("gearmand", "async")]


@dataclass
class Staff:
    """A job server, a worker of one pool, and the App as their caller."""

    house: House
    worker: Program
    app: App
    pool: str

    def __getattr__(self, name: str) -> Any:
        return self.app.tasks[name]


@pytest.fixture(scope="module")
def houses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], House]]:
    """Each job server, once it is asked for."""
    with ExitStack() as stack:
        yield lru_cache(lambda kind: stack.enter_context(house_of(kind, tmp_path_factory.mktemp(kind))))


@pytest.fixture(scope="module", params=POOLS, ids="-".join)
def staff(houses: Callable[[str], House], request: pytest.FixtureRequest) -> Iterator[Staff]:
    """A worker of each pool; the rarer ones on one job server only."""
    kind, pool = request.param
    url = houses(kind).server.url
    with (
        make(url) as app,
        worker("tests.e2e.stream_app:app", cwd=ROOT, servers=url, concurrency=2, pool=pool) as program,
    ):
        yield Staff(houses(kind), program, app, pool)


in_processes = pytest.mark.parametrize(
    "staff", [one for one in POOLS if one[1] == "prefork"], indirect=True, ids="-".join
)


def said(path: Path, word: str) -> Callable[[], bool]:
    return lambda: path.exists() and word in lines(path)


def go(path: Path) -> None:
    Path(f"{path}.go").touch()


def process(path: Path, run: int = 0) -> int:
    """The process of a run that has noted it."""
    wait_until(lambda: path.exists() and len([x for x in lines(path) if x.startswith("begun")]) > run, LIMIT, "a run")
    return int([line for line in lines(path) if line.startswith("begun")][run].split()[1])


# --- every pool, both servers --------------------------------------------------------------------------------


def test_items_come_in_order_with_their_types(staff: Staff) -> None:
    found = list(staff.rows.stream(3000))
    assert found == [Row(n, f"row {n}") for n in range(3000)]
    assert list(staff.arows.stream(1000)) == list(range(1000))
    assert list(staff.rows.stream(0)) == []
    assert staff.rows.call(2) == [Row(0, "row 0"), Row(1, "row 1")]
    assert staff.rows.s(1).stream() is not None


def test_the_first_items_are_there_while_the_task_runs(staff: Staff, tmp_path: Path) -> None:
    path = tmp_path / "path"
    with staff.awaiting.stream(str(path), 3, 6) as items:
        assert list(itertools.islice(items, 3)) == [0, 1, 2], "also the last before a pause, which is not sent at once"
        go(path)
        assert list(items) == [3, 4, 5]


@pytest.mark.parametrize("name", ["noted", "anoted"])
def test_the_generator_is_a_window_ahead_at_most_and_is_closed_early(staff: Staff, tmp_path: Path, name: str) -> None:
    path = tmp_path / "path"
    items = getattr(staff, name).options(window=8).stream(str(path), 10**9)
    assert next(items) == 0
    wait_until(lambda: path.exists() and len(lines(path)) >= 9, LIMIT, "a full window")
    # It has asked for one item more, which waits for room.
    assert len(lines(path)) <= 1 + 8 + 2 + 1
    for _ in range(100):
        next(items)
    assert len(lines(path)) <= 1 + 101 + 8 + 2 + 1
    items.close()
    wait_until(said(path, "closed"), LIMIT, "the generator's end")
    assert list(items) == []


def test_a_stream_that_is_dropped_is_closed(staff: Staff, tmp_path: Path) -> None:
    path = tmp_path / "path"
    for item in staff.noted.stream(str(path), 10**9):
        if item == 5:
            break
    wait_until(said(path, "closed"), LIMIT, "the generator's end")


def test_what_goes_wrong_comes_behind_the_items_before(staff: Staff, tmp_path: Path) -> None:
    items = staff.noted.stream(str(tmp_path / "path"), 10, 5)
    assert [next(items) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="no item 5"):
        next(items)
    assert list(items) == []
    assert said(tmp_path / "path", "closed")()
    items = staff.unsendable.stream()
    assert next(items) == 1
    with pytest.raises(TypeError, match="item 1: an object cannot be sent"):
        next(items)


def test_a_stream_is_tried_again_before_its_first_item_only(staff: Staff) -> None:
    assert list(staff.again.stream(False)) == [2]
    items = staff.again.stream(True)
    assert next(items) == -1
    with pytest.raises(StreamBroken, match="its stream has begun already"):
        next(items)


def test_progress_warnings_and_data_reach_the_reader(staff: Staff) -> None:
    heard: list[Any] = []
    chatty = staff.chatty.options(
        on_progress=lambda done, total: heard.append((done, total)), on_warning=heard.append, on_data=heard.append
    )
    assert list(chatty.stream()) == [1, 2]
    assert heard == [(1, 2), b"careful", b"aside", (2, 2)]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_async_readers(staff: Staff, tmp_path: Path, backend: str) -> None:
    path = tmp_path / "path"

    async def main() -> None:
        async with staff.app:
            with anyio.fail_after(LIMIT):
                assert [row.number async for row in staff.rows.astream(2000)] == list(range(2000))
                async with staff.noted.options(window=8).astream(str(path), 10**9) as items:
                    async for item in items:
                        if item == 50:
                            break
                with pytest.raises(ValueError, match="no item 1"):
                    [item async for item in staff.noted.astream(str(tmp_path / "other"), 5, 1)]
                found: list[list[int]] = []

                async def read(count: int) -> None:
                    found.append([item async for item in staff.arows.astream(count)])

                async with anyio.create_task_group() as group:
                    for count in range(1, 6):
                        group.start_soon(read, count)
                assert sorted(found, key=len) == [list(range(count)) for count in range(1, 6)]

    anyio.run(main, backend=backend)
    wait_until(said(path, "closed"), LIMIT, "the generator's end")
    assert len(lines(path)) <= 80


def test_many_streams_at_once_get_their_own_items_and_leave_nothing(staff: Staff) -> None:
    found: dict[int, list[int]] = {}

    def read(number: int) -> None:
        for turn in range(5):
            found[number, turn] = list(staff.arows.stream(number * 50))  # type: ignore[index]

    threads = [threading.Thread(target=read, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert found == {(number, turn): list(range(number * 50)) for number in range(12) for turn in range(5)}
    names = [line.split("\t")[0] for line in staff.house.server.admin("status")]
    assert [name for name in names if "stream" in name] == ["gtask.stream"], "one function, however many streams"
    wait_until(lambda: staff.house.row("gtask.stream")[0] == 0, LIMIT, "no token is left")


def test_callers_of_other_languages_get_each_item_as_they_speak(staff: Staff) -> None:
    with Client([staff.house.server.url]) as client:
        with client.open(Submission("rows", b"2", "", background=False), LIMIT) as job:
            data = [event.data for event in job if isinstance(event, WorkData)]
            assert job.result() == b""
        assert client.call(Submission("rows", b"0", "", background=False), LIMIT) == b""
    assert data == [b'{"number":0,"name":"row 0"}\n', b'{"number":1,"name":"row 1"}\n']


def test_the_list_is_the_result_in_the_background(staff: Staff) -> None:
    result = staff.rows.delay(2)
    assert result.get(timeout=LIMIT) == [Row(0, "row 0"), Row(1, "row 1")]
    with pytest.raises(ConfigurationError, match=r"rows\.stream\(\.\.\.\)"):
        result.stream()
    handle = staff.rows.options(background=False).delay(2)
    assert [row.number for row in handle.stream()] == [0, 1]
    assert staff.rows.options(background=False).delay(1).get(timeout=LIMIT) == [Row(0, "row 0")]

    async def main() -> None:
        async with staff.app:
            handle = await staff.rows.options(background=False).adelay(2)
            assert [row.number async for row in handle.astream()] == [0, 1]
            assert await (await staff.rows.options(background=False).adelay(1)) == [Row(0, "row 0")]

    anyio.run(main)
    with pytest.raises(ConfigurationError, match="plain is no generator"):
        staff.plain.stream()
    for window in (0, 1 << 30):
        with pytest.raises(ConfigurationError, match=f"window={window}; write a number of items from 1 to "):
            staff.rows.options(window=window).stream(1)


def test_any_process_sees_how_far_a_task_is(staff: Staff, tmp_path: Path) -> None:
    path = tmp_path / "path"
    result = staff.steps.delay(str(path))
    other = staff.app.AsyncResult(result.id)
    wait_until(lambda: other.progress == Progress(50, 100, "step 50"), LIMIT, "its progress")
    assert other.state is State.PROGRESS
    assert other.progress is not None
    assert other.progress.fraction == 0.5
    shown = subprocess.run(
        [sys.executable, "-m", "gtask", "result", result.id, f"--servers={staff.house.server.url}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert "50 of 100 (50%): step 50" in shown.stdout

    async def main() -> None:
        async with staff.app:
            assert await other.aprogress() == Progress(50, 100, "step 50")

    anyio.run(main)
    go(path)
    assert result.get(timeout=LIMIT) == "done"
    assert other.progress is None
    assert other.state is State.SUCCESS


# --- whoever dies --------------------------------------------------------------------------------------------


@in_processes
def test_a_stream_whose_worker_is_killed_breaks_or_goes_on(staff: Staff, tmp_path: Path) -> None:
    path = tmp_path / "breaks"
    items = staff.awaiting.stream(str(path), 5, 10)
    assert [next(items) for _ in range(5)] == [0, 1, 2, 3, 4]
    os.kill(process(path), signal.SIGKILL)
    go(path)
    with pytest.raises(StreamBroken, match=r"the worker was lost after item 5 of the stream.*resume=True"):
        next(items)
    path = tmp_path / "goes on"
    items = staff.awaiting.options(resume=True, window=4).stream(str(path), 5, 100)
    assert [next(items) for _ in range(5)] == [0, 1, 2, 3, 4]
    os.kill(process(path), signal.SIGKILL)
    process(path, 1)
    go(path)
    assert list(items) == list(range(5, 100))


@in_processes
def test_the_generator_of_a_reader_that_is_killed_is_closed(staff: Staff, tmp_path: Path) -> None:
    path = tmp_path / "path"
    code = (
        "import sys\nfrom tests.e2e.stream_app import make\n"
        "app = make(sys.argv[1])\nitems = app.tasks['noted'].options(window=8).stream(sys.argv[2], 10**9)\n"
        "print('had', next(items), flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, staff.house.server.url, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"had 0\n"
        begun = time.monotonic()
        reader.kill()
    wait_until(said(path, "closed"), LIMIT, "the generator's end")
    assert time.monotonic() - begun < 15
    assert list(staff.arows.stream(10)) == list(range(10)), "what the dead one has left is in nobody's way"


@in_processes
def test_a_killed_worker_takes_its_progress_along(staff: Staff, tmp_path: Path) -> None:
    path = tmp_path / "path"
    result = staff.steps.delay(str(path))
    wait_until(lambda: result.progress == Progress(50, 100, "step 50"), LIMIT, "its progress")
    os.kill(process(path), signal.SIGKILL)
    process(path, 1)
    wait_until(lambda: result.progress == Progress(50, 100, "step 50"), LIMIT, "the progress of the second run")
    go(path)
    assert result.get(timeout=LIMIT) == "done"


@in_processes
def test_time_limits_hold(staff: Staff) -> None:
    items = staff.slow.options(soft_time_limit=0.3).stream()
    assert next(items) == 1
    with pytest.raises(TimeoutError, match="soft_time_limit"):
        next(items)
    for limit in (0.03, 0.06, 0.09):
        items = staff.rows.options(soft_time_limit=limit).stream(10**9)
        with pytest.raises(TimeoutError, match="soft_time_limit"):  # wherever it strikes, it is what the reader sees
            list(items)
    items = staff.slow.options(time_limit=0.5).stream()
    assert next(items) == 1
    with pytest.raises(TimeoutError, match="time_limit"):
        next(items)


@in_processes
def test_a_cut_breaks_the_stream_or_it_goes_on(staff: Staff, tmp_path: Path) -> None:
    """The reader's connection; its generator is closed, and the call is made anew over another one."""
    with FaultProxy(staff.house.server.server) as proxy, make(proxy.url) as app:
        noted = app.tasks["noted"].options(window=4)
        path = tmp_path / "breaks"
        items = noted.stream(str(path), 1000)  # type: ignore[misc]
        assert next(items) == 0
        proxy.cut()
        with pytest.raises(StreamBroken, match="resume=True"):
            list(items)
        wait_until(lambda: lines(path).count("closed") == 2, LIMIT, "the end of both runs")
        path = tmp_path / "goes on"
        items = app.tasks["noted"].options(window=4, resume=True).stream(str(path), 1000)  # type: ignore[misc]
        assert [next(items) for _ in range(100)] == list(range(100))
        proxy.cut(reset=True)
        assert list(items) == list(range(100, 1000))
        items = app.tasks["awaiting"].options(timeout=0.5).stream(str(tmp_path / "late"), 1, 2)  # type: ignore[misc]
        assert next(items) == 0
        with pytest.raises(ResultTimeout, match=r"stream of awaiting did not end within 0\.5 s; items that came: 1"):
            next(items)
        go(tmp_path / "late")
        assert list(app.tasks["arows"].stream(3)) == [0, 1, 2]  # type: ignore[misc]


def test_a_worker_that_is_cut_off_closes_its_generator(houses: Callable[[str], House], tmp_path: Path) -> None:
    server, path = houses("gtask").server, tmp_path / "path"
    with (
        FaultProxy(server.server) as proxy,
        App("cut", server.url) as app,
        worker("tests.e2e.stream_app:app", cwd=ROOT, servers=proxy.url, pool="async", env={"GTASK_NAMESPACE": "cut."}),
    ):
        items = BaseTask(app, "cut.noted", Options(), Arguments(None, "cut.noted")).options(window=4)
        reading = items.stream(str(path), 10**6)
        assert next(reading) == 0
        proxy.cut()
        with pytest.raises(StreamBroken):
            list(reading)
        wait_until(lambda: lines(path).count("closed") == 2, LIMIT, "the end of both runs")


@pytest.mark.parametrize("pool", ["prefork", "async"])
def test_each_part_of_a_stream_is_signed(
    houses: Callable[[str], House], monkeypatch: pytest.MonkeyPatch, pool: str
) -> None:
    monkeypatch.setenv("GTASK_SIGNING_KEYS", "k1:a secret of sixteen bytes or more")
    monkeypatch.setenv("GTASK_NAMESPACE", f"signed.{pool}.")
    url = houses("gtask").server.url
    backend = ["--backend", "trio"] if pool == "async" else []
    with make(url) as app, worker("tests.e2e.stream_app:app", *backend, cwd=ROOT, servers=url, pool=pool) as program:
        name = f"signed.{pool}."
        assert [row.number for row in app.tasks[f"{name}rows"].stream(5000)] == list(range(5000))  # type: ignore[misc]
        assert list(app.tasks[f"{name}arows"].stream(5000)) == list(range(5000))  # type: ignore[misc]
        items = app.tasks[f"{name}arows"].options(window=4).stream(10**9)  # type: ignore[misc]
        assert [next(items) for _ in range(50)] == list(range(50))
        items.close()
        program.wait_for_line(r"arows\[.*succeeded.*None", LIMIT)


def test_messages_reach_a_store_that_workers_write_to(
    houses: Callable[[str], House], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GTASK_NAMESPACE", "kept.")
    monkeypatch.setenv("STREAMS_RESULTS", f"sqlite:///{tmp_path / 'kept.db'}")
    url, path = houses("gearmand").server.url, tmp_path / "path"
    with make(url) as app, worker("tests.e2e.stream_app:app", cwd=ROOT, servers=url, pool="async"):
        members = group(app.tasks["kept.steps"].s(str(path)), app.tasks["kept.arows"].s(1)).delay()
        wait_until(lambda: members[0].progress == Progress(50, 100, "step 50"), LIMIT, "its progress")
        wait_until(lambda: members.progress == Progress(1, 2), LIMIT, "the group's progress")
        go(path)
        assert members.get(timeout=LIMIT) == ["done", [0]]
        assert members.progress.fraction == 1.0


def resident(pid: int) -> int:
    """Resident memory of a process in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) // 1024
    return 0


@in_processes
def test_memory_is_bounded_whatever_the_reader_does(staff: Staff, tmp_path: Path) -> None:
    """64 KiB an item, 1 GiB in all, and a reader that stands still: a window is under way, and no more."""
    path, server = tmp_path / "path", staff.house.server.pid
    before = resident(server), resident(os.getpid())
    items = staff.blobs.stream(str(path), 65536, 16384)
    assert len(next(items)) == 65536
    wait_until(lambda: len(lines(path)) > 16, LIMIT, "a full window of 1 MiB")
    worker_before = resident(process(path))
    for _ in range(300):
        next(items)
    assert len(lines(path)) <= 1 + 301 + 16 + 2 + 1
    assert resident(server) - before[0] < 16
    assert resident(os.getpid()) - before[1] < 16
    assert resident(process(path)) - worker_before < 16
    items.close()
