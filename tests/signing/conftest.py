"""A worker and a results service with keys, as processes, on each job server; all that they say passes a sniffer."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import random
from typing import Any

import pytest

from gtask import App
from gtask.testing import JobServerProgram, Program, gearmand, job_server, worker
from gtask.testing.requirements import require
from gtask.types import parse_servers
from gtask.worker.blocking import BlockingDriver, fresh_unique
from gtask.worker.core import CoreOptions, WorkerCore
from gtask.worker.job import Ending, Job
from tests.signing.sniffer import Sniffer

PATIENCE = 60.0
"""Seconds that anything may take: a bound for what hangs, no measure of speed."""

OLD, NEW, OTHER = "the old secret of 24 byte", "the new secret of 24 byte", "quite another secret, 30 bytes"
KEYS = {"k1": OLD, "k2": NEW}

SOURCE = """
from gtask import App, Retry, TaskContext

app = App("signed")


@app.task
def add(a, b):
    return a + b


@app.task
def total(values):
    return sum(values)


@app.task
def fails(what):
    raise ValueError(what)


@app.task(bind=True, max_retries=3)
def third_time(ctx: TaskContext):
    if ctx.retries < 2:
        raise Retry(delay=0.1)
    return ctx.retries


@app.task(bind=True)
def tells(ctx: TaskContext):
    ctx.progress(1, 2)
    ctx.send_data("a piece")
    ctx.warn("careful")
    return "done"


@app.task(codec="raw")
def reversed_bytes(data: bytes) -> bytes:
    return data[::-1]


@app.task(allow_unsigned=True)
def welcome(name):
    return f"hello {name}"


@app.task(allow_unsigned=True, codec="msgpack")
def packed(value):
    return value


double = app.function("double")
"""


@dataclass(frozen=True)
class Rig:
    """What runs: where to reach it directly, and through the sniffer."""

    server: JobServerProgram
    sniffer: Sniffer
    worker: Program
    results: Program

    @contextmanager
    def caller(self, keys: Any = KEYS, **settings: Any) -> Iterator[App]:
        """An App that knows the worker's tasks, and calls them through the sniffer."""
        with App("caller", servers=self.sniffer.url, signing_keys=keys, **settings) as app:
            for name in ("add", "total", "fails", "third_time", "tells", "welcome", "packed"):
                app.task(name=name, codec="msgpack" if name == "packed" else "auto")(lambda *args: None)
            app.task(name="reversed_bytes", codec="raw")(lambda data: data)
            app.function("double")
            yield app


@contextmanager
def results_service(
    servers: str, file: Path, keys: str | None, *options: str, cwd: Path | None = None
) -> Iterator[Program]:
    command = [sys.executable, "-m", "gtask", "results", f"--db={file}", f"--servers={servers}", *options]
    with Program(command, cwd=cwd, env={"PYTHONUNBUFFERED": "1", "GTASK_SIGNING_KEYS": keys}) as program:
        program.wait_for_line("gtask results ready", PATIENCE)
        yield program


@pytest.fixture(scope="module", params=["gtask", "gearmand"])
def server(request: pytest.FixtureRequest) -> Iterator[JobServerProgram]:
    """Each job server in turn, for all tests of a file."""
    if request.param == "gearmand":
        require("gearmand", package="gearman-job-server")
    with gearmand() if request.param == "gearmand" else job_server() as program:
        yield program


@pytest.fixture(scope="module")
def rig(server: JobServerProgram, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A worker and a results service that sign with k1 and know k2 as well."""
    folder = tmp_path_factory.mktemp("signed")
    (folder / "app.py").write_text(SOURCE)
    keys = ",".join(f"{id}:{secret}" for id, secret in KEYS.items())
    with ExitStack() as stack:
        sniffer = stack.enter_context(Sniffer(server.server))
        results = stack.enter_context(results_service(sniffer.url, folder / "results.db", keys))
        program = stack.enter_context(
            worker("app:app", cwd=folder, servers=sniffer.url, env={"GTASK_SIGNING_KEYS": keys}, timeout=PATIENCE)
        )
        stack.enter_context(stranger(server.url, "double", double))
        yield Rig(server, sniffer, program, results)
        for secret in KEYS.values():
            assert secret not in "\n".join((*program.output.lines(), *results.output.lines()))


class _Stranger:
    """A worker in another language: bytes in, bytes out."""

    def __init__(self, driver: BlockingDriver, body: Callable[[bytes], bytes]) -> None:
        self._driver = driver
        self._body = body

    def start(self, job: Job) -> None:
        self._driver.finish(job, Ending(data=self._body(job.workload)), flush=False)

    def tick(self, now: float) -> float:
        return now + 60


@contextmanager
def stranger(url: str, function: str, body: Callable[[bytes], bytes]) -> Iterator[None]:
    """Serves a function with a worker that knows nothing of gtask."""
    ready = threading.Event()
    core = WorkerCore(parse_servers(url), [function], CoreOptions(), random, fresh_unique)
    with BlockingDriver(core, None, ready.set) as driver:
        thread = threading.Thread(target=driver.serve, args=(_Stranger(driver, body),), name=function)
        thread.start()
        try:
            assert ready.wait(PATIENCE)
            yield
        finally:
            driver.stop()
            thread.join(PATIENCE)


def double(workload: bytes) -> bytes:
    return json.dumps(2 * json.loads(workload)).encode()
