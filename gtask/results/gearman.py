"""The result store that is served on the job server: its caller's side. Design, section 4.

Outcomes are put as background jobs, questions asked as foreground jobs of the results service; see
`gtask.results.service` for the other side and `gtask.results.asking` for what a caller does when nobody answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import anyio
from anyio.lowlevel import RunVar

from gtask.client import AdminClient, AsyncAdminClient, AsyncClient, AsyncForegroundJob, Client, ForegroundJob
from gtask.errors import GtaskError, NetworkError, ProtocolError, ResultTimeout, ServerError, SignatureError
from gtask.protocol.admin import StatusRow
from gtask.results.asking import LOOK, Asking, Flow, Heard, More, Nap, Question, Silence
from gtask.results.base import Carriage, Marks
from gtask.results.joins import Join
from gtask.results.keyed import Keyed, KeyedStore, Value
from gtask.results.wire import PUT, WAIT, cut_items, encode_item, encode_join, encode_revoke
from gtask.signing import Kind, proof_of
from gtask.states import Record
from gtask.transport import TLS
from gtask.types import Server, Submission, parse_servers

MAX_ITEMS: Final = 500
MAX_BYTES: Final = 1024 * 1024
"""What one job with outcomes holds at most: items, and bytes unless a single item is larger."""

T = TypeVar("T")
MakeClient = Callable[[Sequence[Server], TLS | None], Client]
MakeAsyncClient = Callable[[Sequence[Server], TLS | None], AsyncClient]


def _client(servers: Sequence[Server], tls: TLS | None) -> Client:
    return Client(servers, tls=tls, client_id="gtask-results-caller")


def _async_client(servers: Sequence[Server], tls: TLS | None) -> AsyncClient:
    return AsyncClient(servers, tls=tls, client_id="gtask-results-caller")


class GearmanStore(KeyedStore):
    """Results from the results service on `servers` (as `parse_servers` takes them), for any number of threads.

    `tls` is for ``gearmans://`` addresses. `client` and `async_client` make the clients that are used: one for all
    threads, and one for each event loop. Several job servers are taken to be served by one and the same service.
    Besides what `ResultStore` says, every method raises what `gtask.client.Client` raises, and `ResultError` when the
    service refuses.
    """

    carries = True

    def __init__(
        self,
        servers: str | Server | Iterable[str | Server] | None = None,
        *,
        tls: TLS | None = None,
        client: MakeClient = _client,
        async_client: MakeAsyncClient = _async_client,
    ) -> None:
        self.servers = parse_servers(servers)
        self._tls = tls
        self._make_client = client
        self._make_async_client = async_client
        self._clients: dict[tuple[Server, ...], Client] = {}
        self._async_clients: RunVar[dict[tuple[Server, ...], AsyncClient]] = RunVar(f"gtask results {id(self)}")

    def __repr__(self) -> str:
        return f"<GearmanStore {', '.join(map(str, self.servers))}>"

    # --- the contract ----------------------------------------------------------------------------------------

    def carry(self, record: Record, ttl: float) -> Carriage:
        """See `ResultStore.carry`."""
        return Carriage(PUT, encode_item(record, ttl))

    def carry_join(self, join: Join, ttl: float) -> Carriage:
        """See `ResultStore.carry_join`."""
        return Carriage(PUT, encode_join(join, ttl))

    def put(self, records: Sequence[Record], ttl: float) -> None:
        """See `ResultStore.put`: it is safe in the job server's queue, whether a service is there or not."""
        if submissions := self._jobs([encode_item(record, ttl) for record in records]):
            _check(self._client(()).submit_many(submissions))

    def get(self, ids: Collection[str]) -> dict[str, Record]:
        """See `ResultStore.get`. Raises `ResultsUnavailable` within two seconds when no service is there."""
        return self._run(self._asking().get(ids))

    def wait(self, ids: Collection[str], timeout: float) -> dict[str, Record]:
        """See `ResultStore.wait`."""
        return self._run(self._asking().wait(ids, timeout))

    def forget(self, ids: Collection[str]) -> None:
        """See `ResultStore.forget`. Raises `ResultsUnavailable` within two seconds when no service is there."""
        self._run(self._asking().forget(ids))

    def keyed(self, ask: Keyed) -> Value:
        """See `KeyedStore.keyed`. Raises `ResultsUnavailable` within two seconds when no service is there.

        A question whose answer is lost on its way is asked again, so a token may be taken, and a counter count, twice.
        """
        return self._run(self._asking().keyed(ask))

    def revoke(self, records: Sequence[Record], terminate: bool, ttl: float) -> None:
        """See `ResultStore.revoke`: it is safe in the job server's queue, whether a service is there or not."""
        if submissions := self._jobs([encode_revoke(record, terminate, ttl) for record in records]):
            _check(self._client(()).submit_many(submissions))

    def revoked(self, cursor: str, timeout: float) -> Marks:
        """See `ResultStore.revoked`."""
        return self._run(self._asking().revoked(cursor, timeout))

    def join(self, join: Join, ttl: float) -> None:
        """See `ResultStore.join`: never a job, because the service submits it itself."""
        self._client(()).submit(Submission(PUT, self._sealed(PUT, encode_join(join, ttl))))

    def served(self) -> bool | None:
        """See `ResultStore.served`; the job servers have a second to say it."""
        serving = self._presence(LOOK)
        return None if serving is None else bool(serving)

    def close(self) -> None:
        """Closes the connections of the blocking methods; they are made again when they are needed."""
        while self._clients:
            self._clients.popitem()[1].close()

    async def aput(self, records: Sequence[Record], ttl: float) -> None:
        """`put` for async code."""
        if submissions := self._jobs([encode_item(record, ttl) for record in records]):
            _check(await self._async_client(()).submit_many(submissions))

    async def aget(self, ids: Collection[str]) -> Mapping[str, Record]:
        """`get` for async code."""
        return await self._arun(self._asking().get(ids))

    async def await_(self, ids: Collection[str], timeout: float) -> Mapping[str, Record]:
        """`wait` for async code."""
        return await self._arun(self._asking().wait(ids, timeout))

    async def aforget(self, ids: Collection[str]) -> None:
        """`forget` for async code."""
        await self._arun(self._asking().forget(ids))

    async def akeyed(self, ask: Keyed) -> Value:
        """`keyed` for async code."""
        return await self._arun(self._asking().keyed(ask))

    async def arevoke(self, records: Sequence[Record], terminate: bool, ttl: float) -> None:
        """`revoke` for async code."""
        if submissions := self._jobs([encode_revoke(record, terminate, ttl) for record in records]):
            _check(await self._async_client(()).submit_many(submissions))

    async def arevoked(self, cursor: str, timeout: float) -> Marks:
        """`revoked` for async code."""
        return await self._arun(self._asking().revoked(cursor, timeout))

    async def aclose(self) -> None:
        """Closes the connections of this event loop; they are made again when they are needed."""
        clients = self._async_clients.get({})
        while clients:
            await clients.popitem()[1].aclose()

    # --- signatures ------------------------------------------------------------------------------------------

    def _jobs(self, items: Sequence[bytes]) -> list[Submission]:
        return [Submission(PUT, self._sealed(PUT, workload)) for workload in cut_items(items, MAX_ITEMS, MAX_BYTES)]

    def _sealed(self, function: str, workload: bytes) -> bytes:
        return workload if self.keys is None else self.keys.sign(function, workload, time.time())

    def _question(self, question: Question) -> Question:
        """The question as it is sent."""
        return question if self.keys is None else question._replace(workload=self._sealed(WAIT, question.workload))

    def _answer(self, question: Question, data: bytes) -> Heard:
        """The answer to it, or the error of one that is not by a results service with the same keys."""
        if self.keys is None:
            return data
        try:
            return self.keys.open(WAIT, data, kind=Kind.ANSWER, proof=proof_of(question.workload)).workload
        except SignatureError as error:
            return SignatureError(f"The results service is not believed: {error} Does it run with these keys?")

    # --- clients ---------------------------------------------------------------------------------------------

    def _asking(self) -> Asking:
        return Asking(self.servers, time.monotonic)

    def _client(self, servers: tuple[Server, ...]) -> Client:
        servers = servers or self.servers
        client = self._clients.get(servers)
        if client is None:
            made = self._make_client(servers, self._tls if _any_tls(servers) else None)
            client = self._clients.setdefault(servers, made)
            if client is not made:  # another thread was quicker
                made.close()
        return client

    def _async_client(self, servers: tuple[Server, ...]) -> AsyncClient:
        servers = servers or self.servers
        try:
            clients = self._async_clients.get()
        except LookupError:
            clients = {}
            self._async_clients.set(clients)
        if servers not in clients:
            clients[servers] = self._make_async_client(servers, self._tls if _any_tls(servers) else None)
        return clients[servers]

    # --- the blocking face -----------------------------------------------------------------------------------

    def _run(self, flow: Flow[T]) -> T:
        job: ForegroundJob | None = None
        question: Question | None = None
        value: Any = None
        try:
            while True:
                step = flow.send(value)
                if isinstance(step, Question):
                    if job is not None:
                        job.close()
                        job = None
                    question = self._question(step)
                    try:
                        job = self._client(step.servers).open(_submission(question), step.limit)
                        value = self._hear(job, question, step.sign)
                    except GtaskError as error:
                        value = error
                elif isinstance(step, More):
                    assert job is not None
                    assert question is not None
                    value = self._hear(job, question, step.sign)
                elif isinstance(step, Nap):
                    time.sleep(max(0.0, step.seconds))
                    value = None
                else:
                    value = self._presence(step.limit)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            if job is not None:
                job.close()

    def _hear(self, job: ForegroundJob, question: Question, sign: float) -> Heard:
        try:
            job.event(sign)
        except ResultTimeout:
            return Silence.NO_SIGN
        except GtaskError as error:
            return error
        try:
            return self._answer(question, job.result(question.hold))
        except ResultTimeout:
            return Silence.NO_ANSWER
        except GtaskError as error:
            return error

    def _presence(self, limit: float) -> tuple[Server, ...] | None:
        found: dict[Server, bool] = {}
        for server in self.servers:
            try:
                with AdminClient(server, **self._look(server, limit)) as admin:
                    found[server] = _serves(admin.status())
            except (NetworkError, ProtocolError):
                continue
        return _serving(found)

    def _look(self, server: Server, limit: float) -> dict[str, Any]:
        share = limit / len(self.servers)
        return {"timeout": share, "connect_timeout": share, "tls": self._tls if server.tls else None}

    # --- the async face --------------------------------------------------------------------------------------

    async def _arun(self, flow: Flow[T]) -> T:
        job: AsyncForegroundJob | None = None
        question: Question | None = None
        value: Any = None
        try:
            while True:
                step = flow.send(value)
                if isinstance(step, Question):
                    if job is not None:
                        job.close()
                        job = None
                    question = self._question(step)
                    try:
                        job = await self._async_client(step.servers).open(_submission(question), step.limit)
                        value = await self._ahear(job, question, step.sign)
                    except GtaskError as error:
                        value = error
                elif isinstance(step, More):
                    assert job is not None
                    assert question is not None
                    value = await self._ahear(job, question, step.sign)
                elif isinstance(step, Nap):
                    await anyio.sleep(max(0.0, step.seconds))
                    value = None
                else:
                    value = await self._apresence(step.limit)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            if job is not None:
                job.close()

    async def _ahear(self, job: AsyncForegroundJob, question: Question, sign: float) -> Heard:
        try:
            await job.event(sign)
        except ResultTimeout:
            return Silence.NO_SIGN
        except GtaskError as error:
            return error
        try:
            return self._answer(question, await job.result(question.hold))
        except ResultTimeout:
            return Silence.NO_ANSWER
        except GtaskError as error:
            return error

    async def _apresence(self, limit: float) -> tuple[Server, ...] | None:
        found: dict[Server, bool] = {}

        async def look(server: Server) -> None:
            try:
                async with AsyncAdminClient(server, **self._look(server, limit)) as admin:
                    found[server] = _serves(await admin.status())
            except (NetworkError, ProtocolError):
                pass

        async with anyio.create_task_group() as group:
            for server in self.servers:
                group.start_soon(look, server)
        return _serving(found)


def _check(answers: Iterable[object]) -> None:
    for answer in answers:
        if isinstance(answer, ServerError):
            raise answer


def _submission(question: Question) -> Submission:
    return Submission(WAIT, question.workload, background=False)


def _serves(rows: Iterable[StatusRow]) -> bool:
    return any(row.function == WAIT and row.workers > 0 for row in rows)


def _serving(found: Mapping[Server, bool]) -> tuple[Server, ...] | None:
    """The servers with a service among those that answered; None when none did."""
    return tuple(server for server, serves in found.items() if serves) if found else None


def _any_tls(servers: Iterable[Server]) -> bool:
    return any(server.tls for server in servers)
