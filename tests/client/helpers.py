"""What the clients' tests stand on: a worker in a thread, a job server that lies, both clients behind one face."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Self, cast

from anyio.from_thread import BlockingPortal

from gtask.client import AsyncClient, AsyncForegroundJob, Client
from gtask.errors import NetworkError
from gtask.protocol import Decoder, JobAssigned, NoJob, Noop, WorkerProtocol, encode_response
from gtask.protocol.packets import REQUEST_MAGIC, PacketType
from gtask.transport.blocking import Connection, connect
from gtask.types import Server

PATIENCE = 30.0
"""Seconds after which a test that hangs is ended."""

Handler = Callable[[WorkerProtocol, JobAssigned], None]


class TestWorker:
    """A worker in a thread: `handlers` report on each job as they like, and one job runs at a time.

    It connects again when the connection is lost, until its `with` block ends.
    """

    __test__ = False

    def __init__(self, server: Server, handlers: dict[str, Handler]) -> None:
        self._server = server
        self._handlers = handlers
        self._stopping = threading.Event()
        self._registered = threading.Event()
        self._stream: Connection | None = None
        self._thread = threading.Thread(target=self._run, name="test worker")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._registered.wait(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        if self._stream is not None:
            self._stream.shutdown()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._stream = connect(self._server, 5)
            except NetworkError:
                self._stopping.wait(0.02)
                continue
            with contextlib.suppress(NetworkError):
                self._serve(self._stream)
            self._stream.close()

    def _serve(self, stream: Connection) -> None:
        protocol = WorkerProtocol()
        for function in self._handlers:
            protocol.can_do(function)
        protocol.echo(b"registered")
        protocol.grab()
        while not self._stopping.is_set():
            stream.send(protocol.data_to_send())
            data = stream.recv()
            if not data:
                return
            for event in protocol.receive_data(data):
                if isinstance(event, JobAssigned):
                    self._handlers[event.function](protocol, event)
                    protocol.grab()
                elif isinstance(event, NoJob):
                    protocol.pre_sleep()
                elif isinstance(event, Noop):
                    protocol.grab()
                else:
                    self._registered.set()


def reverse(protocol: WorkerProtocol, job: JobAssigned) -> None:
    """Answers with the workload backwards."""
    protocol.complete(job.handle, job.workload[::-1])


def chatty(protocol: WorkerProtocol, job: JobAssigned) -> None:
    """Sends of everything something, then its result."""
    protocol.send_status(job.handle, 1, 2)
    protocol.send_data(job.handle, b"part 1")
    protocol.send_warning(job.handle, b"careful")
    protocol.send_data(job.handle, b"part 2")
    protocol.complete(job.handle, b"done")


def failing(protocol: WorkerProtocol, job: JobAssigned) -> None:
    """Fails."""
    protocol.fail(job.handle)


def raising(protocol: WorkerProtocol, job: JobAssigned) -> None:
    """Reports an exception."""
    protocol.exception(job.handle, b"Boom: " + job.workload)


def gated(gate: threading.Event, started: threading.Event | None = None) -> Handler:
    """A job that says that it has started, and ends once the gate is open."""

    def handler(protocol: WorkerProtocol, job: JobAssigned) -> None:
        if started is not None:
            started.set()
        assert gate.wait(PATIENCE)
        protocol.complete(job.handle, b"through the gate")

    return handler


HANDLERS: dict[str, Handler] = {"reverse": reverse, "chatty": chatty, "failing": failing, "raising": raising}

Script = Callable[["Peer"], None]


class Peer:
    """One connection that a `FakeServer` has accepted, for its script."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        self._decoder = Decoder(REQUEST_MAGIC)
        self._packets: list[Any] = []

    def packet(self) -> Any:
        """The next packet the client sends; None when it has closed the connection."""
        while not self._packets:
            try:
                data = self.sock.recv(65536)
            except OSError:
                return None
            if not data:
                return None
            self._packets += self._decoder.feed(data)
        return self._packets.pop(0)

    def expect(self, *types: PacketType) -> Any:
        """The next packets, which must be of these types; returns the last one."""
        packet = None
        for type in types:
            packet = self.packet()
            assert packet is not None
            assert packet.type == type
        return packet

    def answer(self, type: PacketType, *args: bytes) -> None:
        """Sends a packet to the client."""
        self.sock.sendall(encode_response(type, *args))

    def greet(self) -> None:
        """Answers the question with which each client begins."""
        self.expect(PacketType.OPTION_REQ)
        self.answer(PacketType.OPTION_RES, b"exceptions")

    def cut(self) -> None:
        """Ends the connection the hard way."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()


class FakeServer:
    """A job server that does what its script says, once for each connection, in a thread of its own.

    `errors` collects what scripts raise; the `with` block ends with the first of it.
    """

    def __init__(self, script: Script, port: int = 0) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", port))
        self.server = Server("127.0.0.1", self._listener.getsockname()[1])
        self.url = str(self.server)
        self.connections = 0
        self.errors: list[BaseException] = []
        self._peers: list[Peer] = []
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, name="fake server")

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self.stop_listening()
        self._accepting.join(PATIENCE)
        for peer in self._peers:
            with contextlib.suppress(OSError):
                peer.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        for peer in self._peers:
            peer.sock.close()
        if error is None and self.errors:
            raise self.errors[0]

    def stop_listening(self) -> None:
        """Refuses all further connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            peer = Peer(sock, self.connections)
            self.connections += 1
            self._peers.append(peer)
            thread = threading.Thread(target=self._talk, args=[peer], name="fake server's peer")
            self._threads.append(thread)
            thread.start()

    def _talk(self, peer: Peer) -> None:
        try:
            self._script(peer)
        except BaseException as error:
            self.errors.append(error)
        finally:
            peer.sock.close()


@contextlib.contextmanager
def black_hole() -> Iterator[Server]:
    """An address that never answers a connection: a listener whose queue is full."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    address = listener.getsockname()
    fillers = [socket.socket() for _ in range(4)]
    try:
        for filler in fillers:
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(address)
        yield Server(*address)
    finally:
        for sock in [*fillers, listener]:
            sock.close()


def closed_port() -> Server:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return Server("127.0.0.1", listener.getsockname()[1])


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits for what has no event of its own, with a bound."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "this did not come about"
        threading.Event().wait(0.01)


# --- both clients behind one face ----------------------------------------------------------------------------


class AsyncFace:
    """An `AsyncClient` whose calls block, so that one test tries both clients; each call is a task of its loop."""

    def __init__(self, portal: BlockingPortal, client: AsyncClient) -> None:
        self._portal = portal
        self._client = client

    def __repr__(self) -> str:
        return repr(self._client).replace("AsyncClient", "Client")

    @property
    def servers(self) -> tuple[Server, ...]:
        """As the client's."""
        return self._client.servers

    def close(self) -> None:
        """As `aclose`."""
        self._portal.call(self._client.aclose)

    def open(self, *args: Any, **kwargs: Any) -> AsyncFaceJob:
        """As `open`, with a job that blocks."""
        return AsyncFaceJob(self._portal, self._portal.call(partial(self._client.open, *args, **kwargs)))

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *args, **kwargs: self._portal.call(partial(method, *args, **kwargs))


class AsyncFaceJob:
    """An `AsyncForegroundJob` whose calls block."""

    def __init__(self, portal: BlockingPortal, job: AsyncForegroundJob) -> None:
        self._portal = portal
        self._job = job

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        while (event := self._portal.call(self._job.event)) is not None:
            yield event

    @property
    def handle(self) -> str:
        """As the job's."""
        return self._job.handle

    def result(self, timeout: float | None = None) -> bytes:
        """As the job's."""
        return self._portal.call(self._job.result, timeout)

    def close(self) -> None:
        """As the job's."""
        self._portal.call(self._close)

    async def _close(self) -> None:
        self._job.close()


class Faces:
    """Makes clients of one kind, and closes them at the end."""

    def __init__(self, portal: BlockingPortal | None) -> None:
        self._portal = portal
        self._made: list[Client] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Client:
        """A client with these settings; an asynchronous one looks like a blocking one."""
        if self._portal is None:
            client = Client(*args, **kwargs)
        else:
            client = cast(Client, AsyncFace(self._portal, AsyncClient(*args, **kwargs)))
        self._made.append(client)
        return client

    def close(self) -> None:
        """Closes them all."""
        for client in self._made:
            client.close()
