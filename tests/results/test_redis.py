"""The store in Redis: the contract, and what happens when Redis is away, full, closed or another thing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import anyio
import anyio.to_thread
import pytest

from gtask.errors import ConfigurationError, ResultError, ResultsUnavailable
from gtask.results.base import Mark, ResultStore
from gtask.states import Record, State
from gtask.testing.contracts import PATIENCE, TTL, ResultStoreContract, new_id
from gtask.testing.databases import Database, redis
from gtask.testing.joins import chord_of, result
from gtask.testing.programs import free_port, wait_until
from gtask.testing.requirements import in_ci, require
from gtask.testing.stores import store_server, store_url
from tests.pki import Certificates

if in_ci():
    import redis as _needed  # noqa: F401 - a failure in CI, a skip elsewhere
else:
    pytest.importorskip("redis", reason="missing: Python module redis (pip install 'gtask[redis]')")

from gtask.results import redis as redis_store
from gtask.results import redis_ears, redis_flows
from gtask.results.redis import RedisStore

# Python 3.12 and later warn of any fork in a process with threads; that is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(scope="module")
def server() -> Iterator[Database]:
    require("redis-server", package="redis-server")
    with store_server("redis") as server:
        yield server


class TestRedisStore(ResultStoreContract):
    @pytest.fixture
    def store(self, server: Database) -> Iterator[ResultStore]:
        store = RedisStore(store_url(server, new_id()))
        yield store
        store.close()


@pytest.fixture
def store(server: Database) -> Iterator[RedisStore]:
    store = RedisStore(store_url(server, new_id()))
    yield store
    store.close()


# --- what is left in Redis -------------------------------------------------------------------------------------


def test_everything_ends_by_itself(server: Database) -> None:
    """No key is without an end: what nobody asks for any more goes without a sweep."""
    name = new_id()
    store = RedisStore(store_url(server, name))
    store.revoked("", 0)
    store.put([Record(new_id(), State.SUCCESS), Record(new_id(), State.STARTED)], TTL)
    store.revoke([Record(new_id(), State.REVOKED)], True, TTL)
    store.claim("key", new_id(), TTL)
    store.acquire("key", "holder", 1, TTL)
    store.take("key", 0.1, 5)
    store.count("key", TTL)
    for join in chord_of([result(1), result(2)]):
        store.join(join, TTL)
    keys = server.run(f"KEYS {name}:*")
    assert {key.split(":")[1] for key in keys} == {"result", "marks", "claim", "places", "tokens", "count", "join"}
    assert all(int(server.run(f"PTTL {key}")[0]) > 0 for key in keys)
    store.close()


def test_two_prefixes_are_two_stores(server: Database) -> None:
    one, two = RedisStore(store_url(server, new_id())), RedisStore(store_url(server, new_id()))
    record = Record(new_id(), State.SUCCESS, b"1")
    one.put([record], TTL)
    assert one.get([record.id])
    assert not two.get([record.id])
    one.close()
    two.close()


def test_a_value_that_is_none_of_gtask_is_said(server: Database) -> None:
    name = new_id()
    server.run(f"SET {name}:result:a something")
    store = RedisStore(store_url(server, name))
    with pytest.raises(ResultError, match="prefix"):
        store.get(["a"])
    store.close()


# --- connections -----------------------------------------------------------------------------------------------


def connections(server: Database) -> int:
    return len([line for line in server.run("CLIENT LIST") if "name=gtask-results" in line])


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_many_waits_of_a_loop_share_a_connection(store: RedisStore, server: Database) -> None:
    """Three hundred waits for different tasks and twenty for marks."""
    records = [Record(new_id(), State.SUCCESS, b"1") for _ in range(300)]
    cursor = (await store.arevoked("", 0)).cursor
    before = connections(server)
    found: list[str] = []

    async def wait(record: Record) -> None:
        found.extend(await store.await_([record.id], PATIENCE))

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            for record in records:
                group.start_soon(wait, record)
            for _ in range(20):
                group.start_soon(store.arevoked, cursor, PATIENCE)
            await anyio.to_thread.run_sync(wait_until, lambda: subscribers(server) > 100, PATIENCE, "the waits")
            assert connections(server) <= before + redis_store.CONNECTIONS
            subscribed = [line for line in server.run("CLIENT LIST") if " sub=0 " not in line]
            assert len(subscribed) == 1
            await store.arevoke([Record(new_id(), State.REVOKED)], False, TTL)
            await store.aput(records, TTL)
    assert sorted(found) == sorted(record.id for record in records)
    await store.aclose()


def test_a_fork_in_the_middle(store: RedisStore) -> None:
    """Parent and child go on with connections of their own."""
    before, inside = Record(new_id(), State.SUCCESS, b"1"), Record(new_id(), State.SUCCESS, b"2")
    store.put([before], TTL)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            store.put([inside], TTL)
            code = 0 if store.get([before.id]) == {before.id: before} else 2
        finally:
            os._exit(code)
    assert store.get([before.id]) == {before.id: before}
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert store.get([inside.id]) == {inside.id: inside}


# --- deaths ----------------------------------------------------------------------------------------------------


@contextmanager
def private(*options: str) -> Iterator[tuple[Database, RedisStore]]:
    require("redis-server", package="redis-server")
    with redis(*options) as server:
        store = RedisStore(store_url(server))
        yield server, store
        store.close()


def subscribers(server: Database) -> int:
    return len([name for name in server.run("PUBSUB CHANNELS *") if name])


def test_redis_is_killed_and_started_again_in_a_wait() -> None:
    """The wait goes on, and has what is put afterwards; so has a wait for marks."""
    with private() as (server, store), ThreadPoolExecutor(2) as pool:
        record = Record(new_id(), State.SUCCESS, b"late")
        cursor = store.revoked("", 0).cursor
        wait = pool.submit(store.wait, [record.id], PATIENCE)
        marks = pool.submit(store.revoked, cursor, PATIENCE)
        wait_until(lambda: subscribers(server) == 2, PATIENCE, "the waits")
        server.kill()
        server.wait()
        server.start()
        server.wait_until_ready()
        wait_until(lambda: subscribers(server) == 2, PATIENCE, "the waits to be back")
        store.put([record], TTL)
        store.revoke([Record("r", State.REVOKED)], True, TTL)
        assert wait.result(PATIENCE) == {record.id: record}
        assert marks.result(PATIENCE).marks == [Mark("r", True)]


@pytest.mark.anyio
async def test_redis_is_killed_and_started_again_in_an_async_wait() -> None:
    with private() as (server, store), anyio.fail_after(PATIENCE):
        record = Record(new_id(), State.SUCCESS, b"late")
        found: dict[str, Record] = {}

        async def wait() -> None:
            found.update(await store.await_([record.id], PATIENCE))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.to_thread.run_sync(wait_until, lambda: subscribers(server), PATIENCE, "the wait")
            server.kill()
            server.wait()
            server.start()
            server.wait_until_ready()
            await anyio.to_thread.run_sync(wait_until, lambda: subscribers(server), PATIENCE, "the wait")
            await store.aput([record], TTL)
        assert found == {record.id: record}
        await store.aclose()


def test_redis_is_killed_for_good_in_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait is given up after a while, and ends with its time if that is sooner."""
    monkeypatch.setattr(redis_flows, "RESTART", 0.5)
    with private() as (server, store), ThreadPoolExecutor(2) as pool:
        wait = pool.submit(store.wait, [new_id()], 600)
        short = pool.submit(store.wait, [new_id()], 0.3)
        wait_until(lambda: subscribers(server) == 2, PATIENCE, "the waits")
        server.kill()
        assert short.result(PATIENCE) == {}
        with pytest.raises(ResultsUnavailable, match="see whether it runs"):
            wait.result(PATIENCE)
        with pytest.raises(ResultsUnavailable, match=str(server.port)):
            store.wait([new_id()], 600)
        with pytest.raises(ResultsUnavailable):
            store.put([Record("a", State.SUCCESS)], TTL)


def test_a_connection_that_falls_silent_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis stands still: a wait is not kept for longer than it was asked to wait, by much."""
    monkeypatch.setattr(redis_flows, "RESTART", 0.1)
    monkeypatch.setattr(redis_flows, "QUIET", 0.2)
    with private() as (server, _):
        store = RedisStore(store_url(server) + "&socket_timeout=0.5")
        with ThreadPoolExecutor(1) as pool:
            wait = pool.submit(store.wait, [new_id()], 600)
            wait_until(lambda: subscribers(server) == 1, PATIENCE, "the wait")
            server.kill(signum=signal.SIGSTOP)
            with pytest.raises(ResultsUnavailable):
                wait.result(PATIENCE)
            server.kill(signum=signal.SIGCONT)
        store.close()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_quiet_async_wait_sees_whether_redis_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on while Redis answers, and is given up when that stands still."""
    monkeypatch.setattr(redis_flows, "RESTART", 0.1)
    monkeypatch.setattr(redis_flows, "QUIET", 0.05)
    monkeypatch.setattr(redis_ears, "ANSWER", 0.5)
    with private() as (server, _), anyio.fail_after(PATIENCE):
        store = RedisStore(store_url(server) + "&socket_timeout=0.5")
        assert await store.await_([new_id()], 0.5) == {}
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(_given_up, store)
            await anyio.to_thread.run_sync(wait_until, lambda: subscribers(server), PATIENCE, "the waits")
            server.kill(signum=signal.SIGSTOP)
        server.kill(signum=signal.SIGCONT)
        assert await store.await_([new_id()], 0.1) == {}
        await store.aclose()


async def _given_up(store: RedisStore) -> None:
    with pytest.raises(ResultsUnavailable):
        await store.await_([new_id()], 600)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_subscription_that_is_cut_is_made_again(store: RedisStore, server: Database) -> None:
    """Again and again, while others begin to wait and leave: each has its record in the end."""
    records = [Record(new_id(), State.SUCCESS, b"1") for _ in range(40)]
    found: list[str] = []

    async def wait(record: Record) -> None:
        with anyio.move_on_after(0.01):
            await store.await_([record.id], PATIENCE)
        found.extend(await store.await_([record.id], PATIENCE))

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            for number, record in enumerate(records):
                group.start_soon(wait, record)
                if number % 10 == 5:
                    await anyio.to_thread.run_sync(server.run, "CLIENT KILL TYPE pubsub")
            await anyio.to_thread.run_sync(wait_until, lambda: subscribers(server), PATIENCE, "the waits")
            await anyio.to_thread.run_sync(server.run, "CLIENT KILL TYPE pubsub")
            await store.aput(records, TTL)
    assert sorted(found) == sorted(record.id for record in records)
    await store.aclose()


# --- what is to be known of a Redis -----------------------------------------------------------------------------


def test_what_redis_cannot_be_trusted_with() -> None:
    with private("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as (server, store):
        found = {one.code: one for one in store.weaknesses()}
        assert found.keys() == {"eviction", "persistence"}
        assert found["eviction"].serious
        assert "allkeys-lru" in found["eviction"].what
        server.run("CONFIG SET maxmemory-policy noeviction")
        server.run("CONFIG SET appendonly yes")
        assert store.weaknesses() == []


def test_a_replica_and_an_old_redis() -> None:
    info = {"maxmemory_policy": "volatile-lru", "maxmemory": 0, "aof_enabled": 1, "role": "slave"}
    found = redis_flows.weaknesses({**info, "redis_version": "4.0.14"})
    assert [(one.code, one.serious) for one in found] == [("eviction", False), ("replica", True), ("version", True)]
    assert all(one.what.endswith(".") and one.remedy.endswith(".") for one in found)


# --- what Redis refuses ----------------------------------------------------------------------------------------


def test_a_wrong_password_is_said() -> None:
    with private() as (server, _):
        server.run("CONFIG SET requirepass secret")
        for url in (store_url(server), store_url(server).replace("//", "//:wrong@")):
            store = RedisStore(url)
            with pytest.raises(ConfigurationError, match="user or password") as caught:
                store.get(["a"])
            assert "wrong@" not in str(caught.value) + repr(store)
            store.close()
        store = RedisStore(store_url(server).replace("//", "//:secret@"))
        assert store.get(["a"]) == {}
        store.close()


def test_a_full_redis_is_said() -> None:
    with private("--maxmemory", "4mb", "--maxmemory-policy", "noeviction") as (_, store):
        with pytest.raises(ResultError, match="is full"):
            store.put([Record(new_id(), State.SUCCESS, bytes(1_000_000)) for _ in range(20)], TTL)


def test_a_cluster_is_refused() -> None:
    with private("--cluster-enabled", "yes", "--cluster-port", str(free_port())) as (_, store):
        with pytest.raises(ConfigurationError, match="Cluster"):
            store.get(["a"])


def test_tls(certificates: Certificates) -> None:
    port = free_port()
    key = ["--tls-port", str(port), "--tls-cert-file", certificates.server, "--tls-key-file", certificates.server]
    with private(*key, "--tls-ca-cert-file", certificates.ca, "--tls-auth-clients", "no"):
        store = RedisStore(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificates.ca}")
        record = Record(new_id(), State.SUCCESS, b"1")
        store.put([record], TTL)
        assert store.wait([record.id], PATIENCE) == {record.id: record}
        store.close()
        stranger = RedisStore(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificates.other}")
        with pytest.raises(ResultsUnavailable, match="certificate"):
            stranger.get(["a"])
        stranger.close()
