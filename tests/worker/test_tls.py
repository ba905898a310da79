"""A worker's drivers over TLS: everything comes through, and what cannot be trusted is not connected."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import anyio
import pytest

from gtask.client import Client
from gtask.errors import NetworkError
from gtask.protocol.codec import MAX_BODY
from gtask.testing.embedded import EmbeddedServer
from gtask.testing.programs import Output, free_port, wait_until
from gtask.testing.requirements import require
from gtask.transport import TLS, blocking
from gtask.types import Server, Submission
from gtask.worker.aio import AsyncDriver
from gtask.worker.blocking import BlockingDriver, fresh_unique
from gtask.worker.core import CoreOptions, WorkerCore
from gtask.worker.job import Ending, Job
from gtask.worker.threads import ThreadPool
from tests.pki import Certificates

PATIENCE = 30.0
"""Seconds after which a test gives up on what must happen."""

SIZES = (0, 1, 1000, 16_384, 65_536, 300_000, 5_000_000)
"""Bytes of a payload: below, at and beyond a record of TLS and what is read at once."""


def core_for(server: EmbeddedServer, slots: int = 4) -> WorkerCore:
    options = CoreOptions(slots=slots, max_body=MAX_BODY)
    return WorkerCore([server.server], ["turn"], options, random.random, fresh_unique)


@pytest.fixture
def server(certificates: Certificates) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(client_tls=certificates.for_client(), tls=certificates.for_server()) as server:
        yield server


def call_all(server: EmbeddedServer, tls: TLS) -> None:
    """Calls of all sizes, one after the other and then many small ones side by side."""
    with Client(server.url, tls=tls) as client:
        for size in SIZES:
            data = random.randbytes(size)
            assert client.call(Submission("turn", data), timeout=PATIENCE) == data[::-1]

        def many() -> None:
            for _ in range(100):
                assert client.call(Submission("turn", b"ab"), timeout=PATIENCE) == b"ba"

        threads = [threading.Thread(target=many) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


class Handler:
    """Runs jobs at once, in the thread of the driver."""

    def __init__(self, driver: BlockingDriver) -> None:
        self.driver = driver

    def start(self, job: Job) -> None:
        self.driver.finish(job, Ending(data=job.workload[::-1]), flush=False)

    def tick(self, now: float) -> float:
        return now + 60.0


def test_a_worker_in_one_thread(server: EmbeddedServer, certificates: Certificates) -> None:
    tls = certificates.for_client()
    with BlockingDriver(core_for(server), tls) as driver:
        serving = threading.Thread(target=driver.serve, args=(Handler(driver),))
        serving.start()
        try:
            call_all(server, tls)
        finally:
            driver.stop()
            serving.join(PATIENCE)
        assert not serving.is_alive()


def test_a_worker_with_threads(server: EmbeddedServer, certificates: Certificates) -> None:
    """Which send their results themselves, while the main thread reads from the same connection."""
    tls = certificates.for_client()
    with BlockingDriver(core_for(server), tls) as driver:
        pool = ThreadPool(driver, lambda job: Ending(data=job.workload[::-1]), 4)
        serving = threading.Thread(target=pool.serve)
        serving.start()
        try:
            call_all(server, tls)
        finally:
            driver.stop()
            serving.join(PATIENCE)
        assert not serving.is_alive()


@pytest.mark.anyio
async def test_a_worker_in_an_event_loop(server: EmbeddedServer, certificates: Certificates) -> None:
    tls = certificates.for_client()

    async def run(job: Job) -> Ending:
        await anyio.lowlevel.checkpoint()
        return Ending(data=job.workload[::-1])

    driver = AsyncDriver(core_for(server), run, tls)
    with anyio.fail_after(2 * PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(driver.serve)
            try:
                await anyio.to_thread.run_sync(call_all, server, tls)
            finally:
                driver.stop()


# --- who is not trusted --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("authority", "its certificate is not accepted (unable to get local issuer certificate); name the authority"),
        ("name", "certificate is not valid for 'jobs.other'); write the address with the name in the certificate"),
        ("end", "its certificate is not accepted (certificate has expired); it needs another one"),
        ("plain", "does it speak TLS at this port? gtask does not fall back to plain text"),
        ("asked", "it asks for a client certificate; name one: TLS(certfile=...), --tls-cert or $GTASK_TLS_CERTFILE"),
        ("stranger", "it does not accept the client certificate (unknown ca); name another one"),
    ],
)
@pytest.mark.parametrize("face", ["blocking", "async"])
def test_a_worker_that_is_not_connected_says_why(
    certificates: Certificates, caplog: pytest.LogCaptureFixture, case: str, sentence: str, face: str
) -> None:
    shown = certificates.expired if case == "end" else certificates.server
    served = None if case == "plain" else certificates.for_server(shown, ask=case in ("asked", "stranger"))
    tls = {
        "authority": TLS(certificates.other),
        "name": TLS(certificates.ca, server_hostname="jobs.other"),
        "stranger": certificates.for_client(certificates.stranger),
    }.get(case, certificates.for_client())
    with caplog.at_level(logging.INFO, "gtask.worker"), EmbeddedServer(tls=served) as server:
        core = WorkerCore([server.server._replace(tls=True)], ["f"], CoreOptions(), random.random, fresh_unique)
        if face == "blocking":
            with BlockingDriver(core, tls) as driver:
                serving = threading.Thread(target=driver.serve, args=(Handler(driver),))
                serving.start()
                said(caplog, sentence)
                driver.stop()
                serving.join(PATIENCE)
        else:
            anyio.run(serve_until_said, core, tls, caplog, sentence)
        assert [worker for worker in workers_of(server) if worker] == []


def workers_of(server: EmbeddedServer) -> list[str]:
    """The functions that were offered to the server."""
    return [function.decode() for function in server.job_server._engine._state.functions]


def said(caplog: pytest.LogCaptureFixture, sentence: str) -> None:
    wait_until(lambda: sentence in caplog.text, PATIENCE, f"the line {sentence!r}")


async def serve_until_said(core: WorkerCore, tls: TLS, caplog: pytest.LogCaptureFixture, sentence: str) -> None:
    async def run(job: Job) -> Ending:
        raise AssertionError("a job came from a server that is not trusted")

    driver = AsyncDriver(core, run, tls)
    async with anyio.create_task_group() as group:
        group.start_soon(driver.serve)
        try:
            await anyio.to_thread.run_sync(said, caplog, sentence)
        finally:
            driver.stop()
            group.cancel_scope.cancel()


# --- while it lasts ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def s_server(certificates: Certificates, *options: str) -> Iterator[tuple[Server, Output, subprocess.Popen[bytes]]]:
    """`openssl s_server`, which does by one letter what Python cannot."""
    openssl = require("openssl", package="openssl")
    port = free_port()
    command = [openssl, "s_server", "-accept", str(port), "-cert", certificates.server, "-naccept", "1", *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        output = Output(process.stdout)
        try:
            assert output.wait_for("ACCEPT", PATIENCE), output.lines()
            yield Server("127.0.0.1", port, True), output, process
        finally:
            process.kill()
            output.close()


def type_in(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line + b"\n")
    process.stdin.flush()


def test_new_keys_while_much_is_sent(certificates: Certificates) -> None:
    """TLS 1.3's KeyUpdate, with a request for the same in return, in the middle of what takes many writes.

    It is answered by the next write, so nothing is lost, and no read waits until something can be written.
    """
    with s_server(certificates, "-tls1_3") as (server, output, process):
        connection = blocking.connect(server, PATIENCE, certificates.for_client())
        try:
            assert output.wait_for("CIPHER is", PATIENCE)
            assert connection.recv_some() is None  # the tickets that come after the handshake
            type_in(process, b"K")
            assert connection.wait_readable(soon())  # the request has come
            os.kill(process.pid, signal.SIGSTOP)
            line = b"y" * 99 + b"\n"
            data = memoryview(line * 100_000)
            while sent := connection.send_some(data):
                data = data[sent:]
            assert data, "the socket took everything"
            assert connection.recv_some() is None
            os.kill(process.pid, signal.SIGCONT)
            connection.send(data, soon())
            connection.send(b"last\n", soon())
            assert output.wait_for("^last", PATIENCE)
            type_in(process, b"hello")
            assert connection.recv(soon()) == b"hello\n"
        finally:
            connection.close()


def test_renegotiation_is_refused(certificates: Certificates) -> None:
    """A job server that asks for it is left, and does not make anybody wait."""
    with s_server(certificates, "-tls1_2") as (server, output, process):
        connection = blocking.connect(server, PATIENCE, certificates.for_client())
        try:
            connection.send(b"first\n", soon())
            assert output.wait_for("^first", PATIENCE)
            type_in(process, b"r")
            assert connection.wait_readable(soon())
            with contextlib.suppress(NetworkError):  # such a server may take the refusal for the end
                assert connection.recv_some() is None
            assert output.wait_for("no renegotiation", PATIENCE), output.lines()
        finally:
            connection.close()


def soon() -> float:
    return time.monotonic() + PATIENCE
