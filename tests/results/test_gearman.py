"""The store that is served on the job server: the contract on both job servers, and what happens when things die."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import msgpack
import pytest

from gtask.client import Client
from gtask.errors import EncodeError, ResultsUnavailable
from gtask.protocol import JobAssigned, WorkerProtocol
from gtask.results import GearmanStore, Mark, ResultStore, SqliteStore
from gtask.results.joins import Join
from gtask.results.wire import PUT, WAIT, Answer, Ask, decode_answer, encode_ask, encode_item
from gtask.signing import Keyring
from gtask.states import Record, State
from gtask.testing.contracts import PATIENCE, TTL, ResultStoreContract, new_id, settle, wait_for_all
from gtask.testing.embedded import EmbeddedServer
from gtask.testing.programs import Program, free_port, wait_until
from gtask.transport.blocking import connect
from gtask.types import Priority, Submission
from tests.results.conftest import jobs, running, service_program, serving, workers

Servers = Any  # EmbeddedServer or JobServerProgram


def grab_all(store: ResultStore, function: str) -> list[Submission]:
    """Takes every job of a function off the store's job server, and ends it."""
    assert isinstance(store, GearmanStore)
    connection = connect(store.servers[0], PATIENCE)
    protocol = WorkerProtocol()
    protocol.can_do(function)
    found: list[Submission] = []
    protocol.grab()
    while protocol.outstanding:
        connection.send(protocol.data_to_send())
        for event in protocol.receive_data(connection.recv(time.monotonic() + PATIENCE)):
            if isinstance(event, JobAssigned):
                # The priority is not told to workers; on a queue of its own it makes no difference.
                found.append(Submission(event.function, event.workload, event.unique, Priority.HIGH))
                protocol.complete(event.handle, b"")
                protocol.grab()
    protocol.echo(b"done")  # behind it, the job server has taken everything
    connection.send(protocol.data_to_send())
    connection.recv(time.monotonic() + PATIENCE)
    connection.close()
    return found


class TestGearmanStore(ResultStoreContract):
    def handed_in(self, store: ResultStore, joins: Sequence[Join]) -> list[Submission]:
        """The service submits the job before it ends the one that brought the last member."""
        for join in joins:
            assert store.join(join, TTL) is None
        settle(store)
        wait_until(lambda: jobs(str(store.servers[0]), PUT) == 0, PATIENCE, "the end of the queue")  # type: ignore[attr-defined]
        return grab_all(store, "add_up")

    @pytest.fixture
    def store(self, any_server: Servers, tmp_path: Path) -> Iterator[ResultStore]:
        with serving(any_server.url, tmp_path / "results.db"):
            store = GearmanStore(any_server.url)
            yield store
            store.close()


class TestSignedGearmanStore(ResultStoreContract):
    """The same with keys on both sides; the bodies of chords are signed, and signed anew by the service."""

    def handed_in(self, store: ResultStore, joins: Sequence[Join]) -> list[Submission]:
        keys = store.keys
        assert keys is not None
        signed = []
        for join in joins:
            if (body := join.body) is not None:
                body = body._replace(workload=keys.sign(body.function, body.workload, time.time()))
            signed.append(join._replace(body=body))
        found = TestGearmanStore.handed_in(self, store, signed)  # type: ignore[arg-type]
        return [replace(job, workload=keys.open(job.function, job.workload).workload) for job in found]

    @pytest.fixture
    def store(self, any_server: Servers, tmp_path: Path) -> Iterator[ResultStore]:
        keys = Keyring({"k2": "the newer secret of two", "k1": "the older secret of two"})
        with serving(any_server.url, tmp_path / "results.db", keys=keys):
            store = GearmanStore(any_server.url)
            store.keys = keys
            yield store
            store.close()


@pytest.fixture
def store(any_server: Servers) -> Iterator[GearmanStore]:
    store = GearmanStore(any_server.url)
    yield store
    store.close()


# --- no service ------------------------------------------------------------------------------------------------


def refuses_soon(call: Callable[[], object], match: str = "No results service is connected") -> None:
    started = time.monotonic()
    with pytest.raises(ResultsUnavailable, match=match) as caught:
        call()
    # Two seconds are promised; the rest is for a slow machine.
    assert time.monotonic() - started < 5
    for way in ("gtask results", "gtask server", "--with-results", "sqlite:///", "call()"):
        assert way in str(caught.value) or "No results service" not in match


def test_without_a_service_it_says_so(store: GearmanStore) -> None:
    """Long before the timeout, and for each question."""
    refuses_soon(lambda: store.wait([new_id()], 600))
    refuses_soon(lambda: store.wait([new_id()], 0))
    refuses_soon(lambda: store.get([new_id()]))
    refuses_soon(lambda: store.forget([new_id()]))


@pytest.mark.anyio
async def test_without_a_service_async_code_is_told_too(store: GearmanStore) -> None:
    for call in (lambda: store.await_([new_id()], 600), lambda: store.aget(["a"]), lambda: store.aforget(["a"])):
        with anyio.fail_after(5), pytest.raises(ResultsUnavailable, match="No results service is connected"):
            await call()
    await store.aclose()


def test_after_the_service_was_stopped_it_says_so(
    store: GearmanStore, any_server: Servers, start_service: Callable[[str], Program]
) -> None:
    """A service that was there in an earlier call does not count."""
    program = start_service(any_server.url)
    settle(store)
    program.terminate()
    assert program.wait() == 0, program.tail()
    wait_until(lambda: not workers(any_server.url), PATIENCE, "the end of the service")
    refuses_soon(lambda: store.wait([new_id()], 600))


def test_without_a_job_server_it_says_so() -> None:
    store = GearmanStore(f"127.0.0.1:{free_port()}")
    refuses_soon(lambda: store.wait([new_id()], 600), match="could not be reached")
    store.close()


def test_a_busy_service_is_not_called_absent(store: GearmanStore, any_server: Servers, tmp_path: Path) -> None:
    """It is stopped in its tracks for longer than a sign may take, and the wait goes on."""
    with service_program(any_server.url, tmp_path / "results.db") as program, ThreadPoolExecutor(2) as pool:
        wait_until(lambda: workers(any_server.url), PATIENCE, "the results service")
        program.kill(signum=signal.SIGSTOP)
        record = Record(new_id(), State.SUCCESS, b"late")
        wait = pool.submit(store.wait, [record.id], PATIENCE)
        empty = pool.submit(store.wait, [new_id()], 0.1)
        assert empty.result(PATIENCE) == {}
        # The second wait has looked for the service and found it; the first one, begun before, has so too.
        assert not wait.done()
        store.put([record], TTL)
        program.kill(signum=signal.SIGCONT)
        assert wait.result(PATIENCE) == {record.id: record}


# --- deaths ----------------------------------------------------------------------------------------------------


def test_puts_wait_in_the_queue_for_a_service(
    store: GearmanStore, any_server: Servers, start_service: Callable[[str], Program]
) -> None:
    """Put before there is any service; the service is killed before it has taken all; nothing is lost."""
    records = {id: Record(id, State.SUCCESS, id.encode() * 20) for id in (new_id() for _ in range(3000))}
    for record in list(records.values())[:1000]:
        store.put([record], TTL)
    assert jobs(any_server.url, PUT) == 1000
    start_service(any_server.url).kill()
    store.put(list(records.values())[1000:], TTL)
    start_service(any_server.url)
    assert wait_for_all(store, records) == records
    assert jobs(any_server.url, PUT) == 0


def test_marks_wait_in_the_queue_for_a_service(
    store: GearmanStore, any_server: Servers, start_service: Callable[[str], Program]
) -> None:
    """What is revoked while no service is there holds when one comes; one that is killed then keeps it."""
    records = [Record(new_id(), State.REVOKED, b"no") for _ in range(1500)]
    store.revoke(records, True, TTL)
    start_service(any_server.url)
    marks: list[Mark] = []
    cursor = ""
    while len(marks) < len(records):
        found = store.revoked(cursor, PATIENCE)
        assert found.marks
        marks, cursor = marks + found.marks, found.cursor
    assert marks == [Mark(record.id, True) for record in records]
    assert store.get([record.id for record in records]).keys() == {record.id for record in records}


def test_a_service_that_is_killed_in_a_wait_for_marks(
    store: GearmanStore, any_server: Servers, start_service: Callable[[str], Program]
) -> None:
    """The question goes to the service that is started next, and its cursor still counts."""
    with ThreadPoolExecutor(1) as pool:
        first = start_service(any_server.url)
        store.revoke([Record("before", State.REVOKED)], False, TTL)
        cursor = store.revoked("", PATIENCE).cursor
        wait = pool.submit(store.revoked, cursor, 2 * PATIENCE)
        wait_until(lambda: running(any_server.url), PATIENCE, "the question to be held")
        first.kill()
        first.wait()
        store.revoke([Record("after", State.REVOKED)], True, TTL)
        start_service(any_server.url)
        assert wait.result(PATIENCE).marks == [Mark("after", True)]


def test_marks_that_another_process_makes_in_the_file(any_server: Servers, tmp_path: Path) -> None:
    """Whoever waits is told, though nothing came to the service."""
    with serving(any_server.url, tmp_path / "results.db"), ThreadPoolExecutor(1) as pool:
        store, file = GearmanStore(any_server.url), SqliteStore(tmp_path / "results.db")
        wait = pool.submit(store.revoked, store.revoked("", 0).cursor, PATIENCE)
        wait_until(lambda: running(any_server.url), PATIENCE, "the question to be held")
        file.revoke([Record("r", State.REVOKED)], True, TTL)
        assert wait.result(PATIENCE).marks == [Mark("r", True)]
        store.close()
        file.close()


def test_a_service_that_is_killed_in_a_wait(
    store: GearmanStore, any_server: Servers, start_service: Callable[[str], Program]
) -> None:
    """The question goes back to the job server, and to the service that is started next."""
    record = Record(new_id(), State.SUCCESS, b"there")
    with ThreadPoolExecutor(1) as pool:
        first = start_service(any_server.url)
        wait = pool.submit(store.wait, [record.id], PATIENCE)
        wait_until(lambda: running(any_server.url), PATIENCE, "the question to be held")
        first.kill()
        first.wait()
        store.put([record], TTL)
        assert not wait.done()
        start_service(any_server.url)
        assert wait.result(PATIENCE) == {record.id: record}


def test_a_service_that_is_stopped_in_a_wait(
    store: GearmanStore, any_server: Servers, start_service: Callable[[str], Program]
) -> None:
    """It answers with nothing and exits 0; the caller asks the next one."""
    record = Record(new_id(), State.SUCCESS, b"there")
    with ThreadPoolExecutor(1) as pool:
        first = start_service(any_server.url)
        wait = pool.submit(store.wait, [record.id], PATIENCE)
        wait_until(lambda: running(any_server.url), PATIENCE, "the question to be held")
        first.terminate()
        assert first.wait() == 0, first.tail()
        start_service(any_server.url)
        store.put([record], TTL)
        assert wait.result(PATIENCE) == {record.id: record}


def test_a_job_server_that_is_killed_in_a_wait(tmp_path: Path, gearmand_server: Servers) -> None:
    """Caller and service find their way back; what was put since is had."""
    record = Record(new_id(), State.SUCCESS, b"there")
    store = GearmanStore(gearmand_server.url)
    with serving(gearmand_server.url, tmp_path / "results.db"), ThreadPoolExecutor(1) as pool:
        wait = pool.submit(store.wait, [record.id], PATIENCE)
        wait_until(lambda: running(gearmand_server.url), PATIENCE, "the question to be held")
        gearmand_server.restart(signal.SIGKILL)
        store.put([record], TTL)
        assert wait.result(PATIENCE) == {record.id: record}
    store.close()


def test_several_job_servers(gearmand_server: Servers, gtask_server: EmbeddedServer, tmp_path: Path) -> None:
    """One service on both: put on either, ask either, also while one of them is away."""
    urls = [gearmand_server.url, gtask_server.url]
    with serving(urls, tmp_path / "results.db"):
        stores = [GearmanStore(urls), *map(GearmanStore, urls)]
        for writer in stores:
            for reader in stores:
                record = Record(new_id(), State.SUCCESS, b"x")
                writer.put([record], TTL)
                assert reader.wait([record.id], PATIENCE) == {record.id: record}
        gearmand_server.stop()
        record = Record(new_id(), State.SUCCESS, b"x")
        stores[0].put([record], TTL)
        assert stores[0].wait([record.id], PATIENCE) == {record.id: record}
        for store in stores:
            store.close()


def test_a_service_on_one_of_two_servers_is_found(
    gearmand_server: Servers, gtask_server: EmbeddedServer, tmp_path: Path
) -> None:
    """Whichever server the caller prefers, the question gets to where somebody answers it."""
    with serving(gtask_server.url, tmp_path / "results.db"):
        writer = GearmanStore(gtask_server.url)
        record = Record(new_id(), State.SUCCESS, b"x")
        writer.put([record], TTL)
        for urls in ([gearmand_server.url, gtask_server.url], [gtask_server.url, gearmand_server.url]) * 3:
            store = GearmanStore(urls)
            assert store.wait([record.id], PATIENCE) == {record.id: record}
            store.close()
        writer.close()


# --- what the service defends against --------------------------------------------------------------------------


@pytest.fixture
def client(any_server: Servers) -> Iterator[Client]:
    with Client(any_server.url) as client:
        yield client


@pytest.fixture
def served(store: GearmanStore, any_server: Servers, tmp_path: Path) -> Iterator[GearmanStore]:
    with serving(any_server.url, tmp_path / "results.db"):
        yield store


def ask(client: Client, workload: bytes) -> Answer | str:
    return decode_answer(client.call(Submission(WAIT, workload, background=False), PATIENCE))


def test_items_that_cannot_be_read_are_dropped(
    served: GearmanStore, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """The others in the same job are kept, and the service lives."""
    first, second, third = (Record(new_id(), State.SUCCESS, b"%d" % number) for number in range(3))
    bad: list[object] = [
        {"id": "a"},
        ["a", "SUCCESS", b""],
        [7, "SUCCESS", b"", 5],
        ["a", "DONE", b"", 5],
        ["a", "SUCCESS", "text", 5],
        ["a", "SUCCESS", b"", float("nan")],
        ["a", "SUCCESS", b"", None],
        ["", "SUCCESS", b"", 5],
        None,
        msgpack.ExtType(4, b"x"),
    ]
    workload = (
        encode_item(first, TTL)
        + b"".join(map(msgpack.packb, bad))
        + encode_item(second, TTL)
        + b"\xc1 no msgpack"
        + encode_item(third, TTL)
    )
    client.submit(Submission(PUT, workload))
    client.submit(Submission(PUT, b"\x93" * 5000))
    client.submit(Submission(PUT, b"orders;1;2"))
    settle(served)
    assert served.get([first.id, second.id, third.id]) == {first.id: first, second.id: second}
    assert "is no record: its state is 'DONE'" in caplog.text
    assert "are no msgpack" in caplog.text


@pytest.mark.parametrize(
    ("workload", "why"),
    [
        (b"", "no msgpack"),
        (b"\xc1", "no msgpack"),
        (b"orders", "no msgpack"),
        (b"\x90", "is a msgpack map"),
        (b"\x80", "`ids`"),
        (encode_ask(Ask(("a",), float("nan"))), "`timeout`"),
        (encode_ask(Ask(("a",), 1.0, "drop")), "`mode`"),
        (encode_ask(Ask(tuple(map(str, range(10_001))))), "10000 ids at most"),
    ],
)
def test_questions_that_cannot_be_read_are_refused(
    served: GearmanStore, client: Client, workload: bytes, why: str
) -> None:
    """With a sentence for whoever asked."""
    answer = ask(client, workload)
    assert isinstance(answer, str)
    assert why in answer


def test_the_oldest_question_gives_way(any_server: Servers, tmp_path: Path, client: Client) -> None:
    """More callers wait than the service will hold: none of them loses its answer."""
    records = {id: Record(id, State.SUCCESS, b"x") for id in (new_id() for _ in range(12))}
    store = GearmanStore(any_server.url)
    with serving(any_server.url, tmp_path / "results.db", max_waits=3), ThreadPoolExecutor(12) as pool:
        waits = [pool.submit(store.wait, [id], PATIENCE) for id in records]
        open_jobs = [
            client.open(Submission(WAIT, encode_ask(Ask((new_id(),), 60.0)), background=False), PATIENCE)
            for _ in range(4)
        ]
        assert decode_answer(open_jobs[0].result()) == Answer([])
        store.put(list(records.values()), TTL)
        assert {id: record for wait in waits for id, record in wait.result(PATIENCE).items()} == records
        for job in open_jobs:
            job.close()
    store.close()


def test_held_questions_do_not_keep_outcomes_waiting(served: GearmanStore, client: Client) -> None:
    """Hundreds are held while results come in, also where the server prefers one function to the other."""
    ids = [new_id() for _ in range(300)]
    held = [
        client.open(Submission(WAIT, encode_ask(Ask((id,), 60.0)), background=False), PATIENCE, listen=True)
        for id in ids
    ]
    for job in held:
        assert next(iter(job)) is not None  # the sign that it is held
    others = [Record(new_id(), State.SUCCESS, b"x") for _ in range(200)]
    for other in others:
        served.put([other], TTL)
    wait_for_all(served, [other.id for other in others])
    records = [Record(id, State.SUCCESS, b"y") for id in ids]
    served.put(records, TTL)
    for record, job in zip(records, held, strict=True):
        assert decode_answer(job.result(PATIENCE)) == Answer([record])
        job.close()


def test_ten_thousand_puts(served: GearmanStore, client: Client) -> None:
    """One job each, as many workers send them; all are there at the end."""
    records = {id: Record(id, State.SUCCESS, id.encode()) for id in (new_id() for _ in range(10_000))}
    client.submit_many(Submission(PUT, encode_item(record, TTL)) for record in records.values())
    assert wait_for_all(served, records) == records


def test_another_process_writes_to_the_file(any_server: Servers, tmp_path: Path) -> None:
    """A question that is held sees it too."""
    record = Record(new_id(), State.SUCCESS, b"x")
    store, file = GearmanStore(any_server.url), SqliteStore(tmp_path / "results.db")
    with serving(any_server.url, tmp_path / "results.db"), ThreadPoolExecutor(1) as pool:
        wait = pool.submit(store.wait, [record.id], PATIENCE)
        wait_until(lambda: running(any_server.url), PATIENCE, "the question to be held")
        file.put([record], TTL)
        assert wait.result(PATIENCE) == {record.id: record}
    store.close()
    file.close()


def test_a_record_that_cannot_be_carried_is_refused() -> None:
    store = GearmanStore("127.0.0.1")
    with pytest.raises(EncodeError, match="task id"):
        store.carry(Record("x" * 300, State.SUCCESS), TTL)
    with pytest.raises(EncodeError, match="body"):
        store.carry(Record("x", State.SUCCESS, "text"), TTL)  # type: ignore[arg-type]
    carriage = store.carry(Record("x", State.SUCCESS, b"y"), TTL)
    assert carriage.function == PUT
