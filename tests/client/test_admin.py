"""The admin clients, against both job servers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from gtask.client import AdminClient, AsyncAdminClient, Client
from gtask.errors import (
    ConnectFailed,
    LocalProtocolError,
    QueueFull,
    RemoteProtocolError,
    RequestTimeout,
    ServerError,
)
from gtask.protocol.admin import Command, JobRow, PriorityRow, StatusRow
from gtask.testing.embedded import EmbeddedServer
from gtask.testing.processes import JobServerProgram
from gtask.types import Priority, Server, Submission
from tests.client.helpers import PATIENCE, FakeServer, Peer, TestWorker, closed_port, gated, wait_until

AnyServer = EmbeddedServer | JobServerProgram
Connect = Callable[..., AdminClient]


class AsyncFace:
    """An `AsyncAdminClient` whose calls block."""

    def __init__(self, portal: BlockingPortal, client: AsyncAdminClient) -> None:
        self._portal = portal
        self._client = client

    def __repr__(self) -> str:
        return repr(self._client).replace("AsyncAdmin", "Admin")

    def close(self) -> None:
        """As `aclose`."""
        self._portal.call(self._client.aclose)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *args, **kwargs: self._portal.call(partial(method, *args, **kwargs))


@pytest.fixture(params=["blocking", "asyncio", "trio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes admin clients of each kind in turn, and closes them."""
    made: list[AdminClient] = []

    def make(server: str | Server, **settings: Any) -> AdminClient:
        if portal is None:
            made.append(AdminClient(server, **settings))
        else:
            made.append(cast(AdminClient, AsyncFace(portal, AsyncAdminClient(server, **settings))))
        return made[-1]

    if request.param == "blocking":
        portal = None
        yield make
        for client in made:
            client.close()
    else:
        with start_blocking_portal(request.param) as portal:
            yield make
            for client in made:
                client.close()


@pytest.fixture
def admin(connect: Connect, any_server: AnyServer) -> AdminClient:
    """An admin client of the server."""
    return connect(any_server.url)


@pytest.fixture
def client(any_server: AnyServer) -> Iterator[Client]:
    """A client of the server."""
    with Client(any_server.url) as client:
        yield client


def test_a_server_introduces_itself(admin: AdminClient, any_server: AnyServer) -> None:
    """Version and process id."""
    assert admin.version()
    assert admin.pid() == (os.getpid() if any_server.kind == "gtask" else admin.pid())
    assert admin.pid() > 1


def test_an_empty_server_has_empty_lists(admin: AdminClient) -> None:
    """But for the connection that asks."""
    assert [*admin.status(), *admin.priority_status(), *admin.jobs(), *admin.unique_jobs()] == []
    assert [worker.functions for worker in admin.workers()] == [()]


def test_queues_jobs_and_workers_are_listed(admin: AdminClient, client: Client, any_server: AnyServer) -> None:
    """As rows with names and numbers."""
    gate, started = threading.Event(), threading.Event()
    for number, priority in enumerate([Priority.HIGH, Priority.NORMAL, Priority.NORMAL, Priority.LOW]):
        client.submit(Submission("gated", b"", f"u{number}", priority))
    assert admin.priority_status() == [PriorityRow("gated", 1, 2, 1, 0)]
    assert sorted(admin.unique_jobs()) == ["u0", "u1", "u2", "u3"]
    assert {job[1:] for job in admin.jobs()} == {(0, False, True)}

    with TestWorker(any_server.server, {"gated": gated(gate, started)}):
        assert started.wait(PATIENCE)
        assert admin.status() == [StatusRow("gated", 4, 1, 1)]
        assert [worker.functions for worker in admin.workers() if worker.functions] == [("gated",)]
        gate.set()
        wait_until(lambda: admin.status()[0][1:3] == (0, 0))


def test_a_queue_is_limited_and_freed(admin: AdminClient, client: Client) -> None:
    """Also for a function that did not exist, whose limit gearmand would forget."""
    admin.max_queue("f", 1)
    client.submit(Submission("f", b""))
    with pytest.raises(QueueFull):
        client.submit(Submission("f", b""))
    admin.max_queue("f")
    client.submit(Submission("f", b""))

    admin.max_queue("g", high=0, normal=1, low=0)
    client.submit(Submission("g", b""))
    client.submit(Submission("g", b"", priority=Priority.HIGH))
    with pytest.raises(QueueFull):
        client.submit(Submission("g", b""))


@pytest.mark.parametrize("limits", [{"limit": 1, "low": 1}, {"limit": -1}, {"high": -1}])
def test_a_limit_that_means_nothing_is_not_sent(admin: AdminClient, limits: dict[str, int]) -> None:
    """The server would take it for none."""
    with pytest.raises(LocalProtocolError, match="limit"):
        admin.max_queue("f", **limits)
    assert admin.status() == []


def test_a_queued_job_is_cancelled(admin: AdminClient, client: Client) -> None:
    """By its handle; nobody else's is."""
    client.submit(Submission("f", b""))
    handle = client.submit(Submission("f", b"")).handle

    admin.cancel(handle)

    assert [job.handle == handle for job in admin.jobs() if not job.ignored] == [False]
    with pytest.raises(ServerError) as caught:
        admin.cancel("H:nobody:1")
    assert caught.value.code == "UNKNOWN_JOB"


def test_functions_come_and_go(admin: AdminClient, client: Client, any_server: AnyServer) -> None:
    """But not while they have jobs, unless forced."""
    admin.create_function("f")
    assert admin.status() == [StatusRow("f", 0, 0, 0)]
    admin.drop_function("f")
    assert admin.status() == []
    with pytest.raises(ServerError, match="function not found"):
        admin.drop_function("f")

    client.submit(Submission("f", b""))
    client.submit(Submission("f", b""))
    with pytest.raises(LocalProtocolError, match="f still has 2 jobs"):
        admin.drop_function("f")
    if any_server.kind == "gearmand":
        admin.drop_function("f", force=True)
        assert admin.status() == []
    else:
        with pytest.raises(ServerError, match="still connected workers or executing clients"):
            admin.drop_function("f", force=True)


def test_a_name_that_the_text_protocol_cannot_carry_is_not_sent(admin: AdminClient) -> None:
    """It separates words by blanks."""
    for name in ("a b", "", "a\r\nshutdown"):
        with pytest.raises(LocalProtocolError, match="cannot be sent"):
            admin.create_function(name)
    assert admin.status() == []


def test_names_with_blanks_and_tabs_are_read_from_the_right(admin: AdminClient, client: Client) -> None:
    """Somebody else's function may have them."""
    client.submit(Submission("with blank\tand tab", b""))

    assert admin.status() == [StatusRow("with blank\tand tab", 1, 0, 0)]
    assert admin.priority_status() == [PriorityRow("with blank\tand tab", 0, 1, 0, 0)]


def test_several_commands_go_out_together(admin: AdminClient) -> None:
    """Their answers are in order, a refusal among them."""
    answers = admin.ask(Command("version"), Command("cancel job", ("H:none:1",)), Command("status"))

    assert [isinstance(answer, ServerError) for answer in answers] == [False, True, False]


def test_a_long_list_comes_whole(admin: AdminClient, client: Client) -> None:
    """In however many pieces it travels."""
    client.submit_many(Submission("f", b"", f"unique-{number:05}") for number in range(5000))

    assert sorted(admin.unique_jobs()) == [f"unique-{number:05}" for number in range(5000)]
    assert len(set(admin.jobs())) == 5000
    assert isinstance(admin.jobs()[0], JobRow)


def test_a_kept_connection_that_has_died_is_replaced(connect: Connect, gearmand_server: JobServerProgram) -> None:
    """The command is sent again; one that never worked is not."""
    admin = connect(gearmand_server.url)
    first = admin.pid()
    assert repr(admin) == f"<AdminClient {gearmand_server.url} connected>"
    gearmand_server.restart(signal.SIGKILL)

    assert admin.pid() != first
    admin.close()
    assert repr(admin) == f"<AdminClient {gearmand_server.url} not connected>"
    assert admin.version()


def test_a_server_that_is_away_or_silent_or_none(connect: Connect) -> None:
    """Each in its own words."""
    with pytest.raises(ConnectFailed, match="connection refused"):
        connect(closed_port()).version()

    def silent(peer: Peer) -> None:
        while peer.sock.recv(1000):
            pass

    with FakeServer(silent) as server:
        with pytest.raises(RequestTimeout, match=r"did not answer within 0\.2 s"):
            connect(server.url, timeout=0.2).version()

    def http(peer: Peer) -> None:
        peer.sock.recv(10)
        peer.sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with FakeServer(http) as server:
        with pytest.raises(RemoteProtocolError, match="does not answer like a Gearman job server"):
            connect(server.url).version()
        with pytest.raises(RemoteProtocolError, match="does not answer like a Gearman job server"):
            connect(server.url).pid()
