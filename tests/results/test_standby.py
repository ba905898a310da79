"""Several results services for one job server: one serves, the others stand by and take over."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gtask.protocol import PacketType, encode_request
from gtask.results import GearmanStore, standby
from gtask.results.service import ResultsService
from gtask.results.standby import service_name
from gtask.results.wire import WAIT
from gtask.states import Record, State
from gtask.testing.contracts import PATIENCE, TTL, new_id
from gtask.testing.embedded import EmbeddedServer
from gtask.testing.processes import JobServerProgram, gearmand, job_server
from gtask.testing.programs import Program, wait_until
from gtask.testing.requirements import require
from tests.results.conftest import service_program, serving, workers

Servers = EmbeddedServer | JobServerProgram


def keep(store: GearmanStore, count: int = 20) -> list[str]:
    """Stores results one by one, and sees that each of them can be had."""
    records = [Record(new_id(), State.SUCCESS, b"x") for _ in range(count)]
    for record in records:
        store.put([record], TTL)
    for record in records:
        assert store.wait([record.id], PATIENCE) == {record.id: record}
    return [record.id for record in records]


def names(server: Servers) -> list[str]:
    """The client ids of the services that serve."""
    return [line.split()[2] for line in server.admin("workers") if WAIT in line.split()]


def serves(server: Servers, program: Program) -> bool:
    """Whether this service is the one that serves."""
    return any(f"-{program.pid}-" in name for name in names(server))


@contextmanager
def stranger(server: Servers, name: str) -> Iterator[None]:
    """Somebody else who serves, under a client id, and never answers."""
    with socket.create_connection((server.host, server.port)) as peer:
        peer.sendall(encode_request(PacketType.SET_CLIENT_ID, name.encode()))
        peer.sendall(encode_request(PacketType.CAN_DO, WAIT.encode()))
        wait_until(lambda: name in names(server), PATIENCE, "the other service")
        yield


@pytest.fixture(params=["gtask", "gearmand"])
def program(request: pytest.FixtureRequest) -> Iterator[JobServerProgram]:
    """Each job server in turn, as a process."""
    if request.param == "gearmand":
        require("gearmand", package="gearman-job-server")
    with gearmand() if request.param == "gearmand" else job_server() as server:
        yield server


def test_a_second_service_stands_by_until_the_first_is_killed(any_server: Servers, tmp_path: Path) -> None:
    store = GearmanStore(any_server.url)
    with service_program(any_server.url, tmp_path / "one.db") as first:
        wait_until(lambda: workers(any_server.url), PATIENCE, "the first service")
        with service_program(any_server.url, tmp_path / "two.db") as second:
            second.wait_for_line(r"WARNING Another results service serves .*; this one stands by until that ends")
            assert workers(any_server.url) == 1
            known = keep(store)
            assert len(store.get(known)) == len(known)
            first.kill()
            first.wait()
            second.wait_for_line(r"WARNING No other results service serves any more: this one does")
            wait_until(lambda: serves(any_server, second), PATIENCE, "the second service")
            keep(store)
            assert sum("stands by" in line for line in second.lines()) == 1
            second.terminate()
            assert second.wait() == 0
    store.close()


def test_a_service_that_stands_by_stops_when_it_is_told_to(any_server: Servers, tmp_path: Path) -> None:
    with (
        serving(any_server.url, tmp_path / "one.db"),
        service_program(any_server.url, tmp_path / "two.db") as second,
    ):
        second.wait_for_line("stands by")
        second.terminate()
        assert second.wait() == 0, second.tail()
        assert workers(any_server.url) == 1


def test_of_those_that_begin_at_the_same_moment_one_serves(any_server: Servers, tmp_path: Path) -> None:
    store = GearmanStore(any_server.url)
    with ExitStack() as stack:
        programs = [stack.enter_context(service_program(any_server.url, tmp_path / f"{n}.db")) for n in range(3)]

        def settled() -> bool:
            waiting = sum(any("stands by" in line for line in program.lines()) for program in programs)
            return waiting == len(programs) - 1 and workers(any_server.url) == 1

        wait_until(settled, PATIENCE, "one service that serves and two that stand by")
        keep(store)
        assert workers(any_server.url) == 1
    store.close()


def test_a_restarted_job_server_gets_the_same_service_back(program: JobServerProgram, tmp_path: Path) -> None:
    """Results from before are in its file, and the one that stood by waits until it has found its way back."""
    store = GearmanStore(program.url)
    with service_program(program.url, tmp_path / "one.db") as first:
        wait_until(lambda: workers(program.url), PATIENCE, "the first service")
        known = keep(store)
        with service_program(program.url, tmp_path / "two.db") as second:
            second.wait_for_line("stands by")
            program.restart(signal.SIGKILL)
            wait_until(lambda: serves(program, first), PATIENCE, "the first service again")
            keep(store)
            assert len(store.get(known)) == len(known)
            assert not serves(program, second)
    store.close()


def test_two_job_servers_have_one_service_between_them(
    gtask_server: EmbeddedServer, gearmand_server: JobServerProgram, tmp_path: Path
) -> None:
    """The second one is on both, and takes over both when the first one leaves its only one."""
    both = [gtask_server.url, gearmand_server.url]
    with serving(gearmand_server.url, tmp_path / "one.db") as first, service_program(both, tmp_path / "two.db") as two:
        two.wait_for_line(f"Another results service serves {gearmand_server.url}")
        assert not workers(gtask_server.url)
        first.stop()
        wait_until(lambda: all(map(workers, both)), PATIENCE, "the second service on both")


def test_a_service_that_is_listed_but_dead_is_taken_over(
    any_server: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A machine that has vanished stays on the job server's list for a long time."""
    monkeypatch.setattr(standby, "DEAD", 0.5)
    monkeypatch.setattr(standby, "LOOK_EVERY", 0.1)
    with stranger(any_server, service_name("gone", 1, 1.0)):
        service = ResultsService(any_server.url, tmp_path / "results.db")
        with serving_beside(service):
            wait_until(lambda: workers(any_server.url) == 2, PATIENCE, "the take-over")
            assert "is taken for dead" in caplog.text


@contextmanager
def serving_beside(service: ResultsService) -> Iterator[None]:
    """Runs a service in a thread, whether it serves or stands by."""
    thread = threading.Thread(target=service.run, name="results")
    thread.start()
    try:
        yield
    finally:
        service.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.parametrize("name", ["somebody", service_name("elder", 1, 1.0)], ids=["somebody", "elder"])
def test_a_service_that_serves_steps_back_from_an_elder_one(
    any_server: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """However it got there: from an older gtask, or through a part of the network that was cut off."""
    monkeypatch.setattr(standby, "PATROL", 0.1)
    with serving(any_server.url, tmp_path / "results.db"):
        own = names(any_server)
        with stranger(any_server, name):
            wait_until(lambda: names(any_server) == [name], PATIENCE, "the service to step back")
            wait_until(lambda: "stands by" in caplog.text, PATIENCE, "its word")
        wait_until(lambda: names(any_server), PATIENCE, "the service again")
        assert own != names(any_server)


def test_a_service_that_stood_still_steps_back_from_a_younger_one(
    any_server: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process was taken for dead, and wakes up: another one serves in its place."""
    monkeypatch.setattr(standby, "PATROL", 0.1)
    with serving(any_server.url, tmp_path / "results.db"):
        younger = service_name("younger", 1, 9e9)
        with stranger(any_server, younger):
            monkeypatch.setattr(standby, "STILL", 0.0)
            wait_until(lambda: names(any_server) == [younger], PATIENCE, "the service to step back")
