"""A client's calls under each fault: they succeed or raise, within their time, and work again afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from anyio.from_thread import start_blocking_portal

from gtask.client import Client, ForegroundJob, base
from gtask.errors import NetworkError, ProtocolError, ResultTimeout
from gtask.testing import FaultProxy
from gtask.types import Server, Submission
from tests.client.helpers import HANDLERS, Faces, TestWorker, gated
from tests.faults.helpers import BOUND, ended_within

TIMEOUT = 0.6
"""Seconds each call is given."""

SLACK = 2.0
"""Seconds beyond that which a busy machine may need."""

Inflict = Callable[[FaultProxy], object]


def refuse(proxy: FaultProxy) -> None:
    """Nobody listens any more."""
    proxy.refuse()
    proxy.cut(reset=True)


HARMLESS: dict[str, Inflict] = {
    "cut by FIN": lambda proxy: proxy.cut(),
    "cut by RST": lambda proxy: proxy.cut(reset=True),
    "single bytes": lambda proxy: proxy.split(),
    "late": lambda proxy: proxy.delay(0.05),
}
"""What costs time, and no call."""

HARMFUL: dict[str, Inflict] = {
    "half-open": lambda proxy: proxy.half_open(),
    "black hole": lambda proxy: proxy.half_open(new=True),
    "stall": lambda proxy: proxy.stall(),
    "stalled questions": lambda proxy: proxy.stall("up"),
    "stalled answers": lambda proxy: proxy.stall("down"),
    "cut questions": lambda proxy: proxy.limit(20, "up"),
    "cut answers": lambda proxy: proxy.limit(7, "down", reset=True),
    "refused": refuse,
    "broken answers": lambda proxy: proxy.corrupt(3, "down"),
}
"""What may cost a call."""


def calls(client: Client, timeout: float) -> dict[str, Callable[[], object]]:
    """One call of every kind, each with a timeout in seconds."""
    foreground = Submission("reverse", b"abc", background=False)
    background = Submission("reverse", b"abc")
    return {
        "call": lambda: client.call(foreground, timeout),
        "call_many": lambda: client.call_many([foreground] * 3, timeout),
        "submit": lambda: client.submit(background, timeout),
        "submit_many": lambda: client.submit_many([background] * 3, timeout),
        "status": lambda: client.status("0" * 32, timeout),
        "echo": lambda: client.echo(b"sign", timeout=timeout),
    }


@pytest.fixture(params=["gtask-blocking", "gearmand-blocking", "gearmand-asyncio", "gtask-trio"])
def scene(request: pytest.FixtureRequest) -> Iterator[tuple[Faces, Server]]:
    """Both clients and both job servers, and each event loop once, to save time."""
    kind, _, loop = request.param.partition("-")
    server: Server = request.getfixturevalue(f"{kind}_server").server
    if loop == "blocking":
        faces = Faces(None)
        yield faces, server
        faces.close()
        return
    with start_blocking_portal(loop) as portal:
        faces = Faces(portal)
        yield faces, server
        faces.close()


@pytest.fixture
def connect(scene: tuple[Faces, Server]) -> Faces:
    """Makes clients."""
    return scene[0]


@pytest.fixture
def server(scene: tuple[Faces, Server]) -> Iterator[Server]:
    """A job server at which a worker is connected without detour."""
    with TestWorker(scene[1], HANDLERS):
        yield scene[1]


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultProxy]:
    """The client's way to the job server."""
    with FaultProxy(server) as made:
        yield made


def warm(connect: Faces, proxy: FaultProxy) -> Client:
    """A client that has made its connection."""
    client = connect(proxy.url, request_timeout=0.3, connect_timeout=0.3)
    assert client.call(Submission("reverse", b"abc", background=False), BOUND) == b"cba"
    return client


@pytest.mark.parametrize("fault", HARMLESS)
def test_what_a_client_mends_by_itself(connect: Faces, proxy: FaultProxy, fault: str) -> None:
    client = warm(connect, proxy)
    for name, call in calls(client, 10.0).items():
        HARMLESS[fault](proxy)
        ended = ended_within(10.0 + SLACK, call)
        assert ended.error is None, (name, ended.error)


@pytest.mark.parametrize("fault", HARMFUL)
def test_no_call_hangs_and_all_work_again_afterwards(connect: Faces, proxy: FaultProxy, fault: str) -> None:
    client = warm(connect, proxy)
    HARMFUL[fault](proxy)
    for name, call in calls(client, TIMEOUT).items():
        ended = ended_within(TIMEOUT + SLACK, call)
        assert ended.error is None or isinstance(ended.error, NetworkError | ProtocolError | ResultTimeout), name
    proxy.heal()
    for name, call in calls(client, BOUND).items():
        ended = ended_within(BOUND, call)
        assert ended.error is None, (name, ended.error)


def test_a_cut_under_a_running_call_costs_it_nothing(connect: Faces, proxy: FaultProxy) -> None:
    client = warm(connect, proxy)
    proxy.delay(0.05)  # so that the cut comes while the call is under way
    with client.open(Submission("reverse", b"abc", background=False), 10.0) as job:
        proxy.cut(reset=True)
        assert ended_within(10.0 + SLACK, job.result).value == b"cba"


def test_one_silent_connection_has_the_idle_others_made_anew(connect: Faces, server: Server) -> None:
    """A laptop that slept has lost all of its connections: finding that out costs one request timeout, not one each."""
    with FaultProxy(server) as first, FaultProxy(server) as second:
        client = connect([first.url, second.url], request_timeout=0.5)
        assert not client.status("0" * 32, BOUND).known  # this asks both of them
        assert (first.connections, second.connections) == (1, 1)
        for proxy in (first, second):
            proxy.half_open()
        ended = ended_within(0.9 + SLACK, lambda: client.submit(Submission("reverse", b""), timeout=0.9))
        assert ended.error is None  # two request timeouts would be too long
        assert first.connections + second.connections == 1


def test_a_server_that_stalls_is_left_aside_for_longer_each_time(connect: Faces, server: Server) -> None:
    """It takes every new connection, and that is no sign of health."""
    with FaultProxy(server) as stalling, FaultProxy(server) as well:
        stalling.stall()
        client = connect([stalling.url, well.url], request_timeout=0.1)
        for _ in range(300):
            assert client.submit(Submission("reverse", b""), BOUND).server == well.server
            if stalling.accepted >= 3:
                break
        assert stalling.accepted <= 3


def test_a_long_call_without_a_timeout_notices_that_its_connection_is_dead(
    connect: Faces, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody says that the other side is gone, and the caller would wait for ever."""
    monkeypatch.setattr(base, "SILENCE", 0.2)
    gate = threading.Event()
    with FaultProxy(server) as proxy, TestWorker(server, {"slow": gated(gate)}):
        client = connect(proxy.url, request_timeout=0.3)
        with client.open(Submission("slow", b"", background=False)) as job:
            assert ended_within(BOUND, lambda: outlasts(job, 1.0)).value  # a live one is asked, and not given up
            assert proxy.accepted == 1
            proxy.half_open()
            gate.set()
            assert ended_within(10.0, job.result).value == b"through the gate"
            assert proxy.accepted == 2


def outlasts(job: ForegroundJob, seconds: float) -> bool:
    """Whether a job is not done after so many seconds."""
    try:
        job.result(seconds)
    except ResultTimeout:
        return True
    return False


def test_a_connection_that_said_nothing_to_an_impatient_caller_is_left_to_nobody(
    connect: Faces, server: Server
) -> None:
    """The next call has a new one, and does not have to find out the same; there is never more than one too many."""
    with FaultProxy(server) as proxy:
        client = connect(proxy.url, request_timeout=30.0)
        client.echo()
        for count in range(2, 4):
            proxy.half_open()
            ended = ended_within(1.0 + SLACK, lambda: client.call(Submission("reverse", b"", background=False), 1.0))
            assert isinstance(ended.error, NetworkError | ResultTimeout)
            assert ended_within(SLACK, client.echo).error is None
            assert proxy.accepted == count


def test_a_server_that_stalls_costs_one_request_timeout(connect: Faces, server: Server) -> None:
    with FaultProxy(server) as stalling, FaultProxy(server) as well:
        stalling.stall()
        client = connect([stalling.url, well.url], request_timeout=1.0)
        for _ in range(4):  # whichever of the two it prefers
            assert ended_within(1.0 + SLACK, lambda: client.submit(Submission("reverse", b""), BOUND)).error is None
