"""What only the asynchronous client has: cancellation, at every await, and event loops that come and go."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from gtask.client import AsyncClient
from gtask.errors import ConnectFailed, ConnectionLost, ResultTimeout
from gtask.testing.embedded import EmbeddedServer
from gtask.testing.processes import JobServerProgram
from gtask.types import Submission
from tests.client.helpers import HANDLERS, PATIENCE, TestWorker, closed_port, gated

pytestmark = pytest.mark.anyio

AnyServer = EmbeddedServer | JobServerProgram


def job(function: str = "nobody", workload: bytes = b"") -> Submission:
    """A foreground job."""
    return Submission(function, workload, background=False)


@pytest.fixture
async def client(any_server: AnyServer) -> AsyncIterator[AsyncClient]:
    """A client of the server."""
    async with AsyncClient(any_server.url) as client:
        yield client


Calls = dict[str, Callable[[AsyncClient], Awaitable[Any]]]

CALLS: Calls = {
    "submit": lambda client: client.submit(Submission("nobody", b"")),
    "submit_many": lambda client: client.submit_many(Submission("nobody", bytes(3000)) for _ in range(2500)),
    "call": lambda client: client.call(job("reverse", b"ab")),
    "chatty call": lambda client: client.call(job("chatty"), on_event=lambda event: anyio.lowlevel.checkpoint()),
    "large call": lambda client: client.call(job("reverse", bytes(4_000_000))),
    "call_many": lambda client: client.call_many(job("reverse", b"%d" % number) for number in range(50)),
    "statuses": lambda client: client.statuses([f"u{number}" for number in range(1500)]),
    "echo": lambda client: client.echo(b"x"),
}


class Ripcord:
    """Cancels a scope at the n-th step of the task it drives: the way to stop at each await in turn."""

    def __init__(self, awaitable: Awaitable[Any], scope: anyio.CancelScope, stop_at: int) -> None:
        self._awaitable = awaitable
        self._scope = scope
        self._stop_at = stop_at
        self.steps = 0

    def __await__(self) -> Any:
        inner = self._awaitable.__await__()
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                step = inner.send(value) if error is None else inner.throw(error)
            except StopIteration as stop:
                return stop.value
            value = error = None
            self.steps += 1
            if self.steps == self._stop_at:
                self._scope.cancel()
            try:
                value = yield step
            except BaseException as thrown:
                error = thrown


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_cancelled_at_any_await_leaves_the_client_in_order(any_server: AnyServer, name: str) -> None:
    """The first await, the second, and so on until the call gets through; the next call gets its own answer."""
    with TestWorker(any_server.server, HANDLERS):
        async with AsyncClient(any_server.url) as client:
            stop_at = 0
            while True:
                # Each of the first awaits, then some of the many that a large call has.
                stop_at += 1 + stop_at // 8
                if stop_at % 2:
                    # Every other time from the very beginning, connecting included.
                    await client.aclose()
                    client = AsyncClient(any_server.url)
                with anyio.fail_after(PATIENCE):
                    with anyio.CancelScope() as scope:
                        ripcord = Ripcord(CALLS[name](client), scope, stop_at)
                        await ripcord
                    answer = b"%d" % stop_at
                    assert await client.echo(answer) == answer
                    assert await client.call(job("reverse", answer), timeout=PATIENCE) == answer[::-1]
                if ripcord.steps < stop_at:
                    break
            assert repr(client) == "<AsyncClient 1 server, 1 connected, 0 jobs open>"
            await client.aclose()


async def test_cancelling_the_reader_hands_over(client: AsyncClient, any_server: AnyServer) -> None:
    """Those who wait behind it read on, and no byte is lost."""
    gate, started = threading.Event(), threading.Event()
    with TestWorker(any_server.server, {"gated": gated(gate, started)}):
        results: list[bytes] = []

        async def call() -> None:
            results.append(await client.call(job("gated"), PATIENCE))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as others:
                async with anyio.create_task_group() as reader:
                    reader.start_soon(client.call, job("nobody"))
                    await anyio.wait_all_tasks_blocked()
                    for _ in range(5):
                        others.start_soon(call)
                    await anyio.wait_all_tasks_blocked()
                    reader.cancel_scope.cancel()
                gate.set()

    assert results == [b"through the gate"] * 5


async def test_many_tasks_share_one_client(client: AsyncClient, any_server: AnyServer) -> None:
    """Each gets its own answers, over one connection; some of them are cancelled on the way."""

    async def work(task: int) -> None:
        for number in range(10):
            answer = b"%d-%d" % (task, number)
            assert await client.call(job("reverse", answer), PATIENCE) == answer[::-1]
            with anyio.move_on_after(0.002 * (task % 5)):
                await client.submit(Submission("nobody", b""))
            with anyio.move_on_after(0.001 * (task % 7)):
                await client.call(job("nobody"))

    with TestWorker(any_server.server, HANDLERS), anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            for task in range(20):
                group.start_soon(work, task)
    assert repr(client) == "<AsyncClient 1 server, 1 connected, 0 jobs open>"


async def test_a_client_serves_one_event_loop_after_another(any_server: AnyServer) -> None:
    """Its connections belong to none; here each loop runs in a thread of its own."""
    client = AsyncClient(any_server.url)

    async def use(answer: bytes) -> bytes:
        return await client.echo(answer)

    for backend in ("asyncio", "trio", "asyncio"):
        run = partial(anyio.run, use, backend.encode(), backend=backend)
        answer = await anyio.to_thread.run_sync(run)
        assert answer == backend.encode()
    assert repr(client) == "<AsyncClient 1 server, 1 connected, 0 jobs open>"
    await client.aclose()


async def test_events_are_given_to_a_coroutine(client: AsyncClient, any_server: AnyServer) -> None:
    """Each is awaited before the next."""
    events: list[str] = []

    async def on_event(event: object) -> None:
        await anyio.lowlevel.checkpoint()
        events.append(type(event).__name__)

    with TestWorker(any_server.server, HANDLERS):
        assert await client.call(job("chatty"), PATIENCE, on_event) == b"done"
        async with await client.open(job("chatty")) as running:
            assert [type(event).__name__ async for event in running] == events
            assert await running.result() == b"done"
    assert events == ["WorkStatus", "WorkData", "WorkWarning", "WorkData"]


async def test_a_timeout_of_the_caller_s_own_is_a_cancellation(client: AsyncClient) -> None:
    """`move_on_after` around a call, as the client's own timeout, leaves the connection usable."""
    await client.echo()
    with anyio.move_on_after(0.05) as scope:
        await client.call(job("nobody"))
    assert scope.cancelled_caught

    with pytest.raises(ResultTimeout):
        await client.call(job("nobody"), timeout=0.05)
    assert await client.echo(b"fine") == b"fine"


async def test_closing_ends_the_calls_of_other_tasks() -> None:
    """Those that wait for an answer, and those that look for a server."""
    async with AsyncClient(closed_port()) as unreachable:
        with pytest.raises(ConnectFailed):
            await unreachable.echo()
    with EmbeddedServer() as server:
        client = AsyncClient(server.url)
        await client.echo()

        async def call() -> None:
            with pytest.raises(ConnectionLost, match="This client was closed"):
                await client.call(job("nobody"))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(call)
                group.start_soon(call)
                await anyio.wait_all_tasks_blocked()
                await client.aclose()


async def test_one_task_connects_for_all() -> None:
    """Those who come meanwhile wait for it."""
    with EmbeddedServer() as server:
        async with AsyncClient(server.url) as client:
            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(client.echo)
            assert len(await anyio.to_thread.run_sync(server.admin, "workers")) == 2
