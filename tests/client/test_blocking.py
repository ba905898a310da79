"""What only the blocking client has: threads that share it, signals that interrupt it, processes that fork with it."""

from __future__ import annotations

import os
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gtask.client import Client
from gtask.errors import ConnectFailed, ConnectionLost, LocalProtocolError, ResultTimeout
from gtask.protocol.packets import PacketType as T
from gtask.testing.embedded import EmbeddedServer
from gtask.testing.processes import JobServerProgram
from gtask.types import Submission
from tests.client.helpers import HANDLERS, PATIENCE, FakeServer, Peer, TestWorker, black_hole, closed_port, gated

AnyServer = EmbeddedServer | JobServerProgram


def job(function: str = "nobody", workload: bytes = b"") -> Submission:
    """A foreground job."""
    return Submission(function, workload, background=False)


@pytest.fixture
def client(any_server: AnyServer) -> Iterator[Client]:
    """A client of the server."""
    with Client(any_server.url) as client:
        yield client


# --- threads -------------------------------------------------------------------------------------------------


def test_many_threads_share_one_client(client: Client, any_server: AnyServer) -> None:
    """Each gets its own answers, over one connection."""

    def work(thread: int) -> list[object]:
        found: list[object] = []
        for number in range(25):
            unique = f"u{thread}-{number}"
            found.append(client.submit(Submission("nobody", b"", unique)).unique == unique)
            found.append(client.call(job("reverse", unique.encode()), PATIENCE) == unique.encode()[::-1])
            found.append(client.echo(unique.encode()) == unique.encode())
            found.append(client.status(unique).known)
        found += [len(client.submit_many(Submission("nobody", b"") for _ in range(50))) == 50]
        return found

    with TestWorker(any_server.server, HANDLERS), ThreadPoolExecutor(24) as pool:
        results = list(pool.map(work, range(24), timeout=PATIENCE * 2))

    assert all(all(found) for found in results)
    assert repr(client) == "<Client 1 server, 1 connected, 0 jobs open>"
    assert len(any_server.admin("show unique jobs")) == 24 * 75


def test_whoever_reads_hands_over_when_it_leaves(client: Client, any_server: AnyServer) -> None:
    """The reader gives up, or gets its answer; those who wait behind it read on."""
    gate, started = threading.Event(), threading.Event()
    with TestWorker(any_server.server, {"gated": gated(gate, started), "reverse": HANDLERS["reverse"]}):
        with ThreadPoolExecutor(8) as pool:
            reader = pool.submit(client.call, job("nobody"), 0.3)
            waiters = [pool.submit(client.call, job("gated"), PATIENCE) for _ in range(4)]
            assert started.wait(PATIENCE)
            with pytest.raises(ResultTimeout):
                reader.result(PATIENCE)
            impatient = [pool.submit(client.call, job("nobody"), 0.05) for _ in range(3)]
            for future in impatient:
                with pytest.raises(ResultTimeout):
                    future.result(PATIENCE)
            gate.set()

            assert [future.result(PATIENCE) for future in waiters] == [b"through the gate"] * 4


def test_large_packets_cross_in_both_directions(client: Client, any_server: AnyServer) -> None:
    """Threads send more than the socket holds while others receive; nobody waits for another for ever."""
    payload = bytes(range(256)) * 20_000
    with TestWorker(any_server.server, HANDLERS), ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(client.call, job("reverse", payload), PATIENCE * 2) for _ in range(6)]

        assert [call.result(PATIENCE * 2) == payload[::-1] for call in calls] == [True] * 6


def test_a_server_that_takes_nothing_until_it_is_read_from() -> None:
    """The client reads while it sends, so such a server does not stall it."""
    size = 12_000_000

    def script(peer: Peer) -> None:
        peer.greet()
        peer.expect(T.SUBMIT_JOB)
        peer.answer(T.JOB_CREATED, b"H:1")
        # Now it writes, and reads nothing before all of that is gone.
        peer.answer(T.WORK_COMPLETE, b"H:1", bytes(size))
        peer.expect(T.SUBMIT_JOB_BG)
        peer.answer(T.JOB_CREATED, b"H:2")

    with FakeServer(script) as server, Client(server.url) as client, ThreadPoolExecutor(1) as pool:
        running = client.open(job(), timeout=PATIENCE)
        large = pool.submit(client.submit, Submission("f", bytes(size)), PATIENCE)

        assert large.result(PATIENCE).handle == "H:2"
        assert running.result() == bytes(size)


def test_one_thread_connects_for_all() -> None:
    """Those who come meanwhile wait for it, and share what it finds."""
    with EmbeddedServer() as server, Client(server.url) as client, ThreadPoolExecutor(10) as pool:
        assert list(pool.map(client.echo, [b"%d" % n for n in range(10)])) == [b"%d" % n for n in range(10)]
        assert len(server.admin("workers")) == 2  # and the one that asks


def test_threads_are_told_together_that_a_server_is_away() -> None:
    """They do not wait for the connect timeout one after the other."""
    with black_hole() as hole, Client(hole, connect_timeout=0.3) as client, ThreadPoolExecutor(10) as pool:
        futures = [pool.submit(client.echo) for _ in range(10)]
        for future in futures:
            with pytest.raises(ConnectFailed, match=r"could not be reached"):
                future.result(PATIENCE)


# --- signals -------------------------------------------------------------------------------------------------


class Interrupted(BaseException):
    """What the signal handler below raises."""


@pytest.fixture
def interrupt() -> Iterator[Callable[[float], None]]:
    """Raises `Interrupted` in the main thread in so many seconds."""

    def handler(*_: object) -> None:
        raise Interrupted

    def interrupt(seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)

    old = signal.signal(signal.SIGALRM, handler)
    try:
        yield interrupt
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def test_a_reader_that_is_interrupted_hands_over(
    client: Client, any_server: AnyServer, interrupt: Callable[[float], None]
) -> None:
    """A soft time limit, or Ctrl-C, in the thread that reads for others."""
    gate = threading.Event()
    with TestWorker(any_server.server, {"gated": gated(gate)}), ThreadPoolExecutor(1) as pool:
        running = client.open(job("nobody"))
        interrupt(0.3)
        waiter = pool.submit(client.call, job("gated"), PATIENCE)
        with pytest.raises(Interrupted):
            running.result()
        gate.set()

        assert waiter.result(PATIENCE) == b"through the gate"
        assert client.echo(b"fine") == b"fine"
        running.close()


def test_a_client_survives_interruptions_at_any_point(client: Client, interrupt: Callable[[float], None]) -> None:
    """After each the next call gets its own answer. (Not while it connects: Python itself may leak a socket then.)"""
    interrupted = 0
    client.echo()
    for number in range(60):
        try:
            interrupt(0.0002 + 0.00001 * number)
            for count in range(200):
                assert client.echo(b"%d" % count) == b"%d" % count
        except Interrupted:
            interrupted += 1
        finally:
            interrupt(0)
        assert client.echo(b"right %d" % number) == b"right %d" % number
    assert interrupted > 0


# --- forks ---------------------------------------------------------------------------------------------------


def in_child(work: Callable[[], None]) -> int:
    """Runs `work` in a forked child; returns its exit status, 0 when it raised nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_makes_its_own_connections(client: Client, any_server: AnyServer) -> None:
    """The parent's job goes on over the parent's; both get their own answers."""
    gate, started = threading.Event(), threading.Event()
    with TestWorker(any_server.server, {"gated": gated(gate, started)}):
        running = client.open(job("gated"), timeout=PATIENCE)
        assert started.wait(PATIENCE)

        def work() -> None:
            assert repr(client) == "<Client 1 server, 0 connected, 0 jobs open>"
            for number in range(20):
                assert client.echo(b"child %d" % number) == b"child %d" % number
            assert client.submit(Submission("nobody", b"", "from-child")).unique == "from-child"
            client.close()

        assert in_child(work) == 0
        assert client.echo(b"parent") == b"parent"
        assert client.status("from-child").known
        gate.set()
        assert running.result() == b"through the gate"


def test_a_fork_while_another_thread_waits(client: Client, any_server: AnyServer) -> None:
    """Locks and the reader's place are the parent's; the child starts afresh."""
    gate = threading.Event()
    with TestWorker(any_server.server, {"gated": gated(gate)}), ThreadPoolExecutor(4) as pool:
        waiters = [pool.submit(client.call, job("gated"), PATIENCE) for _ in range(4)]
        client.echo()

        for _ in range(5):
            assert in_child(lambda: client.close() if client.echo(b"x") != b"x" else None) == 0
        gate.set()

        assert [waiter.result(PATIENCE) for waiter in waiters] == [b"through the gate"] * 4


def test_a_fork_in_the_middle_of_a_call(any_server: AnyServer) -> None:
    """The child's copy of the call starts again over a connection of its own."""
    with TestWorker(any_server.server, HANDLERS), Client(any_server.url) as client:
        running = client.open(job("reverse", b"ab"), timeout=PATIENCE)

        def work() -> None:
            assert running.result() == b"ba"

        assert in_child(work) == 0
        assert running.result() == b"ba"


def test_a_closed_client_stays_closed_in_a_child() -> None:
    """And a job of a closed client is told so."""
    client = Client(closed_port())
    client.close()

    def work() -> None:
        with pytest.raises(LocalProtocolError, match="client is closed"):
            client.echo()

    assert in_child(work) == 0


def test_a_job_is_told_that_its_client_was_closed(client: Client) -> None:
    """Whether it waits then or asks later."""
    running = client.open(job("nobody"))
    client.close()

    with pytest.raises(ConnectionLost, match="This client was closed"):
        running.result()
