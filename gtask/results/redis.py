"""The result store in Redis: ``redis://`` and ``rediss://``. Design, section 3.

Waits are pushed, not polled; records and all else end by Redis' own expiry. What is asked and in which order is in
`gtask.results.redis_flows`; here are the connections. Needs redis-py, the extra ``redis``, and Redis 5 or newer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import anyio
import anyio.to_thread
import redis
import redis.asyncio
import redis.exceptions
from anyio.lowlevel import RunVar
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from gtask.errors import ConfigurationError, GtaskError, ResultError, ResultsUnavailable
from gtask.results.base import Marks, Weakness
from gtask.results.joins import Join
from gtask.results.keyed import Keyed, KeyedStore, Value
from gtask.results.redis_ears import AsyncEar, Ear, Hub
from gtask.results.redis_flows import Command, Flow, Flows, Listen, Nap, NoScript, Probe, Seen, weaknesses
from gtask.states import Record
from gtask.types import Submission

PREFIX: Final = "gtask:"

CONNECT: Final = 1.5
ANSWER: Final = 10.0
"""Seconds Redis has to take a connection, and to answer a command. The URL may say otherwise:
``redis://host/0?socket_connect_timeout=5&socket_timeout=30``."""

CONNECTIONS: Final = 32
MAX_CONNECTIONS: Final = 1000
"""Connections of one event loop; and of all threads of a process, where each wait has one of its own."""

THREADS: Final = 200
"""Waits of one event loop that is not asyncio: each of them takes a thread."""

SLICE: Final = 2.0
"""Seconds after which such a wait looks whether it was cancelled."""

T = TypeVar("T")


class _Connected(NamedTuple):
    """The connections of one event loop: for commands, and those that listen."""

    client: redis.asyncio.Redis
    listener: redis.asyncio.Redis
    hub: Hub


class RedisStore(KeyedStore):
    """Results in the Redis server of a URL, ``redis://[[user]:password@]host[:port][/db][?option=value]``.

    ``?prefix=`` is what its keys begin with (``gtask:``), the other options are those of redis-py. Raises
    `ConfigurationError` for a URL that is none; at its use `ResultsUnavailable` when Redis cannot be reached, and
    `ResultError` when it refuses. Safe to use from several threads and event loops, and across forks.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query))
        prefix = options.pop("prefix", PREFIX)
        # Of a URL without a host urlunsplit() would leave nothing that redis-py takes for one.
        netloc = parts.netloc or "localhost"
        self._url = urlunsplit(parts._replace(netloc=netloc, query=urlencode(options)))
        self._where = f"{parts.hostname or 'localhost'}:{_port(parts) or 6379}"
        if parts.path.strip("/") and not parts.path.strip("/").isdigit():
            raise ConfigurationError(
                f"Redis numbers its databases, so {parts.path!r} names none; write redis://host/0."
            )
        self._flows = Flows(prefix)
        try:
            retry = {"retry": Retry(NoBackoff(), 1, _AGAIN), "max_connections": MAX_CONNECTIONS}
            self._client = redis.Redis.from_url(self._url, **retry | _COMMANDS)
            # An option that redis-py does not know it refuses only when it connects: here it is made, and not used.
            pool = self._client.connection_pool
            pool.connection_class(**pool.connection_kwargs)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"The store redis://{self._where} cannot be used: {error}.") from None
        self._loops: RunVar[_Connected] = RunVar(f"gtask redis results {id(self)}")
        self._limits: RunVar[anyio.CapacityLimiter] = RunVar(f"gtask redis waits {id(self)}")

    def __repr__(self) -> str:
        return f"<RedisStore {self._where} {self._flows.names.prefix}>"

    # --- the contract ----------------------------------------------------------------------------------------

    def put(self, records: Sequence[Record], ttl: float) -> None:
        """See `ResultStore.put`: Redis has taken them when it returns; whether they outlive it, its settings say."""
        self._run(self._flows.put(records, ttl))

    def get(self, ids: Collection[str]) -> dict[str, Record]:
        """See `ResultStore.get`."""
        return self._run(self._flows.get(ids))

    def wait(self, ids: Collection[str], timeout: float) -> dict[str, Record]:
        """See `ResultStore.wait`; goes on when Redis was away for up to 15 seconds."""
        return self._run(self._flows.wait(ids, timeout))

    def forget(self, ids: Collection[str]) -> None:
        """See `ResultStore.forget`."""
        self._run(self._flows.forget(ids))

    def join(self, join: Join, ttl: float) -> Submission | None:
        """See `ResultStore.join`."""
        return self._run(self._flows.join(join, ttl, self.keys))

    def keyed(self, ask: Keyed) -> Value:
        """See `KeyedStore.keyed`. A command whose answer is lost on its way is sent again, and may so count twice."""
        return self._run(self._flows.keyed(ask))

    def revoke(self, records: Sequence[Record], terminate: bool, ttl: float) -> None:
        """See `ResultStore.revoke`."""
        self._run(self._flows.revoke(records, terminate, ttl))

    def revoked(self, cursor: str, timeout: float) -> Marks:
        """See `ResultStore.revoked`."""
        return self._run(self._flows.revoked(cursor, timeout))

    def weaknesses(self) -> list[Weakness]:
        """See `ResultStore.weaknesses`: how Redis evicts, whether it keeps anything on disk, its release."""
        info: dict[str, Any] = {}
        for section in ("server", "memory", "persistence", "replication"):
            info |= self._run(_reply("INFO", section))
        return weaknesses(info)

    def close(self) -> None:
        """Closes the connections of blocking code; they are made again when they are needed."""
        self._client.close()

    async def aput(self, records: Sequence[Record], ttl: float) -> None:
        """`put` for async code."""
        await self._arun(self._flows.put(records, ttl))

    async def aget(self, ids: Collection[str]) -> Mapping[str, Record]:
        """`get` for async code."""
        return await self._arun(self._flows.get(ids))

    async def await_(self, ids: Collection[str], timeout: float) -> Mapping[str, Record]:
        """`wait` for async code; outside asyncio it takes a thread."""
        if _is_asyncio():
            return await self._arun(self._flows.wait(ids, timeout))
        deadline, seen = time.monotonic() + timeout, Seen()
        while True:
            left = max(0.0, deadline - time.monotonic())
            found = await self._in_thread(self._flows.wait(ids, min(left, SLICE), seen))
            if found or left <= SLICE or not ids:
                return found

    async def aforget(self, ids: Collection[str]) -> None:
        """`forget` for async code."""
        await self._arun(self._flows.forget(ids))

    async def akeyed(self, ask: Keyed) -> Value:
        """`keyed` for async code."""
        return await self._arun(self._flows.keyed(ask))

    async def arevoke(self, records: Sequence[Record], terminate: bool, ttl: float) -> None:
        """`revoke` for async code."""
        await self._arun(self._flows.revoke(records, terminate, ttl))

    async def arevoked(self, cursor: str, timeout: float) -> Marks:
        """`revoked` for async code; outside asyncio it takes a thread."""
        if _is_asyncio():
            return await self._arun(self._flows.revoked(cursor, timeout))
        deadline, seen = time.monotonic() + timeout, Seen()
        while True:
            left = max(0.0, deadline - time.monotonic())
            marks = await self._in_thread(self._flows.revoked(cursor, min(left, SLICE), seen))
            if marks.marks or left <= SLICE:
                return marks

    async def aclose(self) -> None:
        """Closes the connections of this event loop; they are made again when they are needed."""
        with contextlib.suppress(LookupError):
            connected = self._loops.get()
            self._loops.set(self._connect())
            await connected.hub.aclose()
            await connected.listener.aclose(close_connection_pool=True)
            await connected.client.aclose(close_connection_pool=True)

    # --- the blocking face -----------------------------------------------------------------------------------

    def _run(self, flow: Flow[T]) -> T:
        ear: Ear | None = None
        try:
            step = next(flow)
            while True:
                value: Any = None
                try:
                    if isinstance(step, Command):
                        value = self._client.execute_command(*step.words)  # type: ignore[no-untyped-call]
                    elif isinstance(step, Listen):
                        if ear is not None:
                            ear.close()
                        ear = Ear(self._client)
                        ear.listen(step)
                    elif isinstance(step, Nap):
                        time.sleep(step.seconds)
                    else:
                        assert ear is not None
                        value = ear.probe() if isinstance(step, Probe) else ear.hear(step.ids, step.timeout)
                except _TROUBLE as error:
                    step = flow.throw(self._explained(error))
                else:
                    step = flow.send(value)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            if ear is not None:
                ear.close()

    # --- the async face --------------------------------------------------------------------------------------

    def _connect(self) -> _Connected:
        # More than there are connections wait for one, instead of failing.
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            self._url, retry=AsyncRetry(NoBackoff(), 1, _AGAIN), **{"max_connections": CONNECTIONS} | _COMMANDS
        )
        listener = redis.asyncio.Redis.from_url(self._url, retry=AsyncRetry(NoBackoff(), 0, ()), **_OPTIONS)
        return _Connected(redis.asyncio.Redis(connection_pool=pool), listener, Hub(listener, self._explained))

    async def _arun(self, flow: Flow[T]) -> T:
        if not _is_asyncio():
            return await anyio.to_thread.run_sync(self._run, flow)
        try:
            client, _, hub = self._loops.get()
        except LookupError:
            client, _, hub = connected = self._connect()
            self._loops.set(connected)
        ear: AsyncEar | None = None
        try:
            step = next(flow)
            while True:
                value: Any = None
                try:
                    if isinstance(step, Command):
                        value = await client.execute_command(*step.words)  # type: ignore[no-untyped-call]
                    elif isinstance(step, Listen):
                        if ear is not None:
                            await ear.close()
                        ear = AsyncEar(hub, step)
                        await ear.listen()
                    elif isinstance(step, Nap):
                        await anyio.sleep(step.seconds)
                    else:
                        assert ear is not None
                        value = await (ear.probe() if isinstance(step, Probe) else ear.hear(step.ids, step.timeout))
                except _TROUBLE as error:
                    step = flow.throw(self._explained(error))
                else:
                    step = flow.send(value)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            if ear is not None:
                with anyio.CancelScope(shield=True):
                    await ear.close()

    async def _in_thread(self, flow: Flow[T]) -> T:
        try:
            limit = self._limits.get()
        except LookupError:
            limit = anyio.CapacityLimiter(THREADS)
            self._limits.set(limit)
        return await anyio.to_thread.run_sync(self._run, flow, abandon_on_cancel=True, limiter=limit)

    # --- errors ----------------------------------------------------------------------------------------------

    def _explained(self, error: Exception) -> Exception:
        """The error as gtask's own, with what to do."""
        if isinstance(error, GtaskError):
            return error
        if isinstance(error, redis.exceptions.NoScriptError):
            return NoScript(str(error))
        where = f"Redis at {self._where}"
        if isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError):
            return ConfigurationError(f"{where} refuses this user or password ({error}); see the store's URL and ACL.")
        if isinstance(error, redis.exceptions.ClusterError | redis.exceptions.MovedError) or any(
            word in str(error) for word in ("CLUSTERDOWN", "CROSSSLOT")
        ):
            return ConfigurationError(
                f"{where} is part of a Redis Cluster, which the store cannot use ({error}); name a server that is none."
            )
        if isinstance(error, redis.exceptions.OutOfMemoryError):
            return ResultError(f"{where} is full ({error}); give it more memory, or keep results for a shorter time.")
        if isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError | ValueError):
            return ResultsUnavailable(f"{where} cannot be reached: {error}; see whether it runs there.")
        return ResultError(f"{where} refuses: {error}.")


def _reply(*words: str) -> Flow[Any]:
    return (yield Command(words))


_TROUBLE: Final = (redis.RedisError, OSError, ValueError, GtaskError)
"""What a step may raise; a `ValueError` when another thread has closed the store meanwhile."""

_AGAIN: Final = (redis.ConnectionError,)
"""What is tried once more, at once: a connection that was idle may have been cut."""

_OPTIONS: Final[dict[str, Any]] = {
    "socket_connect_timeout": CONNECT,
    "socket_timeout": ANSWER,
    "client_name": "gtask-results",
    "protocol": 2,
}
_COMMANDS: Final[dict[str, Any]] = {**_OPTIONS, "retry_on_error": list(_AGAIN)}
"""Options of all connections, and of those for commands; redis-py 5 wants to be told twice what to try again."""


def _port(parts: Any) -> int | None:
    try:
        port: int | None = parts.port
    except ValueError as error:
        raise ConfigurationError(f"The URL of a Redis store has no port: {error}; write redis://host:6379/0.") from None
    return port


def _is_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
