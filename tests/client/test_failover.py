"""What a client does when job servers die, vanish, lie or fall silent."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from random import Random

import pytest

from gtask.client import base, core
from gtask.errors import (
    ConnectFailed,
    ConnectionLost,
    RemoteProtocolError,
    RequestTimeout,
    ResultError,
    ResultTimeout,
)
from gtask.protocol.packets import PacketType as T
from gtask.testing.embedded import EmbeddedServer
from gtask.testing.processes import JobServerProgram
from gtask.types import Submission
from tests.client.helpers import (
    HANDLERS,
    PATIENCE,
    Faces,
    FakeServer,
    Peer,
    TestWorker,
    black_hole,
    closed_port,
    gated,
    wait_until,
)


def job(function: str = "f", workload: bytes = b"") -> Submission:
    """A foreground job."""
    return Submission(function, workload, background=False)


def serve(peer: Peer) -> None:
    """Answers everything as a job server without jobs would, until the client leaves."""
    count = 0
    while (packet := peer.packet()) is not None:
        count += 1
        if packet.type == T.OPTION_REQ:
            peer.answer(T.OPTION_RES, packet.args[0])
        elif packet.type == T.ECHO_REQ:
            peer.answer(T.ECHO_RES, packet.args[0])
        elif packet.type == T.GET_STATUS_UNIQUE:
            peer.answer(T.STATUS_RES_UNIQUE, packet.args[0], b"1", b"0", b"0", b"0", b"0")
        else:
            peer.answer(T.JOB_CREATED, b"H:%d" % count)


def silent(peer: Peer) -> None:
    """Takes everything and answers nothing."""
    while peer.packet() is not None:
        pass


@pytest.fixture
def second() -> Iterator[EmbeddedServer]:
    """A job server that works."""
    with EmbeddedServer() as server:
        yield server


class First(Random):
    """A draw that prefers the first server."""

    def randrange(self, *_: object, **__: object) -> int:
        """Always the first."""
        return 0


# --- lost answers --------------------------------------------------------------------------------------------


def test_a_background_job_whose_answer_was_lost_is_sent_again_under_its_unique(connect: Faces) -> None:
    """To the same server, when that is back at once."""
    uniques: list[bytes] = []

    def script(peer: Peer) -> None:
        peer.greet()
        uniques.append(peer.expect(T.SUBMIT_JOB_BG).args[1])
        if peer.number == 0:
            peer.cut()
        else:
            peer.answer(T.JOB_CREATED, b"H:1")
            silent(peer)

    with FakeServer(script) as server:
        submitted = connect(server.url).submit(Submission("f", b"", "u1"))

    assert submitted == (server.server, "H:1", "u1")
    assert uniques == [b"u1", b"u1"]


def test_of_many_jobs_those_without_an_answer_are_sent_again(connect: Faces) -> None:
    """The first two had theirs; order and results stay right."""
    seen: list[bytes] = []

    def script(peer: Peer) -> None:
        peer.greet()
        for count in range(5):
            packet = peer.packet()
            if packet is None:
                return
            seen.append(packet.args[1])
            peer.answer(T.JOB_CREATED, b"H:%d:%d" % (peer.number, count))
            if peer.number == 0 and count == 1:
                peer.sock.close()
                return

    with FakeServer(script) as server:
        results = connect(server.url).submit_many(Submission("f", b"", f"u{number}") for number in range(5))

    assert [result.unique for result in results if not isinstance(result, Exception)] == [f"u{n}" for n in range(5)]
    assert set(seen) == {b"u0", b"u1", b"u2", b"u3", b"u4"}
    assert server.connections == 2


def test_a_foreground_job_whose_connection_was_lost_is_sent_again_under_another_unique(connect: Faces) -> None:
    """The abandoned unique would swallow it (protocol reference, section 11)."""
    uniques: list[bytes] = []

    def script(peer: Peer) -> None:
        peer.greet()
        uniques.append(peer.expect(T.SUBMIT_JOB).args[1])
        peer.answer(T.JOB_CREATED, b"H:1")
        peer.answer(T.WORK_DATA, b"H:1", b"part")
        if peer.number < 2:
            peer.cut()
        else:
            peer.answer(T.WORK_COMPLETE, b"H:1", b"done")
            silent(peer)

    with FakeServer(script) as server:
        assert connect(server.url).call(job(), timeout=PATIENCE) == b"done"

    assert len(set(uniques)) == 3
    assert all(len(unique) == 32 for unique in uniques)


def test_a_call_survives_the_death_of_its_server(connect: Faces, gearmand_server: JobServerProgram) -> None:
    """gearmand is killed while the job runs, and started again: the job runs again, and the call returns."""
    gate, started = threading.Event(), threading.Event()
    client = connect(gearmand_server.url)
    with TestWorker(gearmand_server.server, {"gated": gated(gate, started)}):
        running = client.open(job("gated"), timeout=PATIENCE)
        answers: list[bytes] = []
        waiter = threading.Thread(target=lambda: answers.append(running.result()))
        waiter.start()
        assert started.wait(PATIENCE)

        gearmand_server.kill(signum=signal.SIGKILL)
        gate.set()
        gearmand_server.restart()
        waiter.join(PATIENCE)

    assert answers == [b"through the gate"]


def test_an_idle_connection_that_has_died_is_replaced(connect: Faces, gearmand_server: JobServerProgram) -> None:
    """Before a job is entrusted to it, or after: the call does not notice."""
    client = connect(gearmand_server.url)
    first = client.submit(Submission("f", b""))
    gearmand_server.restart(signal.SIGKILL)

    assert client.submit(Submission("f", b"")).handle == first.handle
    assert len(client.submit_many(Submission("f", b"") for _ in range(10))) == 10


def test_a_lost_answer_is_sought_for_a_bounded_time(connect: Faces) -> None:
    """The server is gone for good: the job may or may not be queued, and the caller is told after a while."""

    def script(peer: Peer) -> None:
        peer.greet()
        peer.expect(T.SUBMIT_JOB_BG)
        server.stop_listening()
        peer.cut()

    with FakeServer(script) as server:
        client = connect(server.url, request_timeout=0.3)
        with pytest.raises((ConnectFailed, ConnectionLost)):
            client.submit(Submission("f", b""))


def test_a_foreground_job_without_a_timeout_gives_up_in_the_end(
    connect: Faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `RECONNECT_FOR` seconds without any server."""
    monkeypatch.setattr(base, "RECONNECT_FOR", 0.3)

    def script(peer: Peer) -> None:
        peer.greet()
        peer.expect(T.SUBMIT_JOB)
        peer.answer(T.JOB_CREATED, b"H:1")
        server.stop_listening()
        peer.cut()

    with FakeServer(script) as server:
        with pytest.raises((ConnectFailed, ConnectionLost), match=r"connection refused|was cut"):
            connect(server.url).call(job())


def test_a_job_that_kills_its_server_each_time_ends(connect: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `MAX_LOSSES` attempts the caller is told."""
    monkeypatch.setattr(base, "MAX_LOSSES", 4)

    def script(peer: Peer) -> None:
        peer.greet()
        peer.expect(T.SUBMIT_JOB)
        peer.answer(T.JOB_CREATED, b"H:1")
        peer.cut()

    with FakeServer(script) as server:
        with pytest.raises(ConnectionLost, match=r"gearman://127.0.0.1:\d+ was cut: connection reset by peer"):
            connect(server.url).call(job())

    assert server.connections == 4


# --- silence -------------------------------------------------------------------------------------------------


def test_a_silent_server_costs_the_connection(connect: Faces) -> None:
    """No answer within the request timeout: the connection is not used again (protocol reference, section 4)."""
    closed = threading.Event()

    def script(peer: Peer) -> None:
        silent(peer)
        closed.set()

    with FakeServer(script) as server:
        client = connect(server.url, request_timeout=0.2)
        with pytest.raises(RequestTimeout, match=r"did not answer within 0\.2"):
            client.submit(Submission("f", b""))

        assert closed.wait(PATIENCE)
        assert "0 connected" in repr(client)
        with pytest.raises(RequestTimeout):
            client.call(job())
        with pytest.raises(RequestTimeout):
            client.echo()
        with pytest.raises(ConnectFailed, match=r"did not answer within 0\.2"):
            client.status("u")
        assert server.connections == 4


def test_a_silent_server_does_not_stop_another(connect: Faces, second: EmbeddedServer) -> None:
    """Each call goes on to the next server; later ones go there first."""
    with FakeServer(silent) as server:
        client = connect([server.url, second.url], request_timeout=0.3, rng=First())
        assert client.submit(Submission("f", b"")).server == second.server
        assert client.submit(Submission("f", b"")).server == second.server
        assert len(client.submit_many([Submission("f", b"", "u1")] * 3)) == 3
        assert client.status("u1").known
        assert server.connections <= 2


def test_an_impatient_caller_does_not_cost_the_others_their_connection(connect: Faces) -> None:
    """Its late answer is swallowed in its turn, and the next one's is the right one."""
    late = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet()
        peer.expect(T.SUBMIT_JOB)
        peer.answer(T.JOB_CREATED, b"H:run")
        peer.expect(T.SUBMIT_JOB_BG)
        assert late.wait(PATIENCE)
        peer.answer(T.JOB_CREATED, b"H:late")
        peer.answer(T.ECHO_RES, peer.expect(T.ECHO_REQ).args[0])
        peer.answer(T.WORK_COMPLETE, b"H:run", b"done")
        silent(peer)

    with FakeServer(script) as server:
        client = connect(server.url)
        with client.open(job()) as running:
            with pytest.raises(RequestTimeout):
                client.submit(Submission("f", b""), timeout=0.1)
            late.set()
            assert client.echo(b"right") == b"right"
            assert running.result(PATIENCE) == b"done"
        assert server.connections == 1


def test_a_server_that_is_slow_but_answers_is_given_its_time(connect: Faces) -> None:
    """Each answer counts as a sign of life for the requests behind it."""
    step = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet()
        for number in range(8):
            peer.expect(T.SUBMIT_JOB_BG)
            step.wait(0.1)
            peer.answer(T.JOB_CREATED, b"H:%d" % number)
        silent(peer)

    with FakeServer(script) as server:
        client = connect(server.url, request_timeout=0.5)
        assert len(client.submit_many(Submission("f", b"") for _ in range(8))) == 8
        assert server.connections == 1


# --- nonsense ------------------------------------------------------------------------------------------------


def http(peer: Peer) -> None:
    """Speaks HTTP."""
    peer.sock.recv(10)
    peer.sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_a_server_that_is_none_is_called_by_its_name(connect: Faces) -> None:
    """At once: asking again would not help."""
    with FakeServer(http) as server:
        client = connect(server.url)
        for call in (lambda: client.submit(Submission("f", b"")), lambda: client.call(job()), client.echo):
            with pytest.raises(RemoteProtocolError, match=r"b'HTTP' came. Is the other side a Gearman peer\?"):
                call()
        assert "0 connected" in repr(client)


def test_a_server_that_is_none_does_not_stop_another(connect: Faces, second: EmbeddedServer) -> None:
    """The call goes on to the next one."""
    with FakeServer(http) as server:
        client = connect([server.url, second.url], rng=First())
        assert client.submit(Submission("f", b"")).server == second.server
        with TestWorker(second.server, HANDLERS):
            assert connect([server.url, second.url], rng=First()).call(job("reverse", b"ab"), PATIENCE) == b"ba"


def test_a_packet_beyond_the_limit_ends_the_connection(connect: Faces) -> None:
    """And not the process's memory."""

    def script(peer: Peer) -> None:
        peer.greet()
        peer.expect(T.SUBMIT_JOB)
        peer.answer(T.JOB_CREATED, b"H:1")
        peer.answer(T.WORK_COMPLETE, b"H:1", bytes(2000))
        silent(peer)

    with FakeServer(script) as server:
        with pytest.raises(RemoteProtocolError, match="1000 bytes is the limit"):
            connect(server.url, max_body=1000).call(job())


def test_a_job_that_floods_its_listener_is_ended(connect: Faces) -> None:
    """Nobody reads its events; the other job on the connection is not disturbed."""

    def script(peer: Peer) -> None:
        peer.greet()
        peer.expect(T.SUBMIT_JOB, T.SUBMIT_JOB)
        peer.answer(T.JOB_CREATED, b"H:1")
        peer.answer(T.JOB_CREATED, b"H:2")
        for _ in range(20):
            peer.answer(T.WORK_DATA, b"H:1", bytes(1000))
        peer.answer(T.WORK_COMPLETE, b"H:2", b"done")
        peer.answer(T.WORK_COMPLETE, b"H:1", b"done")
        silent(peer)

    with FakeServer(script) as server:
        client = connect(server.url, max_body=10_000)
        with client.open(job()) as flood, client.open(job()) as calm:
            assert calm.result(PATIENCE) == b"done"
            with pytest.raises(ResultError, match="faster than its events are read"):
                flood.result(PATIENCE)
        assert server.connections == 1


# --- several servers -----------------------------------------------------------------------------------------


def test_one_server_down_is_not_noticed(connect: Faces, second: EmbeddedServer) -> None:
    """Whatever the order in which they are named."""
    for servers in ([closed_port(), second.server], [second.server, closed_port()]):
        for seed in range(4):
            client = connect(servers, rng=Random(seed))
            assert client.submit(Submission("f", b"", "u1")).server == second.server
            assert client.status("u1").known


def test_one_server_that_does_not_answer_the_connection_is_left_aside(connect: Faces, second: EmbeddedServer) -> None:
    """It costs its share of the call's time once, and then it is avoided."""
    with black_hole() as hole:
        client = connect([hole, second.server], rng=First(), connect_timeout=0.3)
        assert client.submit(Submission("f", b"")).server == second.server
        assert client.submit(Submission("f", b""), timeout=PATIENCE).server == second.server

        impatient = connect([hole, second.server], rng=First(), connect_timeout=1000)
        assert impatient.submit(Submission("f", b""), timeout=1.0).server == second.server


def test_a_server_alone_that_does_not_answer_the_connection_is_named(connect: Faces) -> None:
    """Within the connect timeout."""
    with black_hole() as hole:
        with pytest.raises(ConnectFailed, match=f"127.0.0.1:{hole.port} could not be reached: it did not answer"):
            connect([hole], connect_timeout=0.2).submit(Submission("f", b""))


def test_a_server_that_is_back_is_used_again(connect: Faces, second: EmbeddedServer) -> None:
    """Failover while it is down, then back to the preferred one."""
    with FakeServer(serve) as first:
        address = first.server
        client = connect([address, second.server], rng=First())
        assert client.submit(Submission("f", b"")).server == address
    assert client.submit(Submission("f", b"")).server == second.server
    assert client.submit(Submission("f", b"")).server == second.server

    with FakeServer(serve, address.port):
        wait_until(lambda: client.submit(Submission("f", b"")).server == address)
        assert repr(client) == "<Client 2 servers, 2 connected, 0 jobs open>"


def test_jobs_that_coalesce_meet_and_others_spread(connect: Faces, second: EmbeddedServer) -> None:
    """Every client sends a shared unique to the same server, whatever its preferred one."""
    with EmbeddedServer() as first:
        clients = [connect([first.url, second.url], rng=Random(seed)) for seed in range(6)]
        servers = {}
        for number in range(12):
            unique = f"shared-{number}"
            servers[unique] = {
                client.submit(Submission("f", b"", unique, coalesce=True)).server for client in clients
            } | {
                result.server
                for client in clients
                for result in client.submit_many([Submission("f", b"", unique, coalesce=True), Submission("g", b"")])
                if not isinstance(result, Exception) and result.unique == unique
            }

        assert all(len(found) == 1 for found in servers.values())
        assert set.union(*servers.values()) == {first.server, second.server}
        assert {client.submit(Submission("f", b"")).server for client in clients} == {first.server, second.server}


def test_a_status_is_asked_of_all_servers(connect: Faces, second: EmbeddedServer) -> None:
    """The one that has the job knows; one that is down does not matter."""
    with EmbeddedServer() as first:
        connect(first.url).submit(Submission("f", b"", "on-first"))
        connect(second.url).submit(Submission("f", b"", "on-second"))

        client = connect([first.url, second.url, str(closed_port())])

        assert [status.known for status in client.statuses(["on-first", "on-second", "on-none"])] == [True, True, False]


# --- long lives ----------------------------------------------------------------------------------------------


def test_jobs_given_up_do_not_pile_up_on_a_connection(connect: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many the connection takes no new ones, and ends with its last caller: so the server forgets them."""
    monkeypatch.setattr(core, "MAX_ABANDONED", 3)
    with EmbeddedServer() as server:
        client = connect(server.url)
        with client.open(job("nobody")) as patient:
            for _ in range(3):
                with pytest.raises(ResultTimeout):
                    client.call(job("nobody"), timeout=0.02)
            assert "0 connected, 1 jobs open" in repr(client)
            client.echo()
            assert len(server.admin("show jobs")) == 4

            with TestWorker(server.server, {"nobody": HANDLERS["reverse"]}):
                assert patient.result(PATIENCE) == b""
        assert repr(client) == "<Client 1 server, 1 connected, 0 jobs open>"


def test_closing_a_client_ends_what_waits(connect: Faces) -> None:
    """A call in another thread, or task, is told."""
    waiting = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet()
        peer.expect(T.SUBMIT_JOB)
        peer.answer(T.JOB_CREATED, b"H:1")
        waiting.set()
        silent(peer)

    with FakeServer(script) as server:
        client = connect(server.url)
        errors: list[BaseException] = []

        def call() -> None:
            try:
                client.call(job())
            except ConnectionLost as error:
                errors.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        assert waiting.wait(PATIENCE)
        client.close()
        thread.join(PATIENCE)

    assert [str(error) for error in errors] == ["This client was closed."]


def test_a_reconnecting_call_ends_with_its_own_timeout(connect: Faces) -> None:
    """A call with a timeout looks for a server no longer than that."""

    def script(peer: Peer) -> None:
        peer.greet()
        peer.expect(T.SUBMIT_JOB)
        server.stop_listening()
        peer.cut()

    with FakeServer(script) as server:
        started = time.monotonic()
        with pytest.raises((ConnectFailed, ConnectionLost)):
            connect(server.url).call(job(), timeout=0.3)
        assert time.monotonic() - started < PATIENCE
