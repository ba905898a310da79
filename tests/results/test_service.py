"""The results service by itself: how it begins and ends, and a file that cannot be written for a while."""

from __future__ import annotations

import signal
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from gtask.errors import ConfigurationError, ResultError
from gtask.results import GearmanStore, desk, service
from gtask.results.service import ResultsService, run_service
from gtask.results.wire import PUT, WAIT
from gtask.server import JobServer
from gtask.states import Record, State
from gtask.testing.contracts import PATIENCE, TTL, new_id
from gtask.testing.embedded import EmbeddedServer
from gtask.testing.programs import free_port, wait_until
from tests.results.conftest import jobs, service_program, serving, workers


def test_a_file_that_cannot_be_used_is_said_at_once(tmp_path: Path) -> None:
    """Before any job server is looked for."""
    (tmp_path / "minutes.txt").write_text("These are the minutes of our meeting.\n" * 100)
    with pytest.raises(ConfigurationError, match=r"minutes\.txt cannot be used"):
        ResultsService("127.0.0.1:1", tmp_path / "minutes.txt").run()


def test_stop_may_come_first(tmp_path: Path) -> None:
    """A signal that comes while the service is being set up is not lost."""
    service = ResultsService(f"127.0.0.1:{free_port()}", tmp_path / "results.db")
    service.stop()
    begun = []
    service.run(lambda: begun.append(True))
    assert begun == [True]


def test_it_stops_though_no_job_server_is_there(tmp_path: Path) -> None:
    service = ResultsService(f"127.0.0.1:{free_port()}", tmp_path / "results.db")
    service.run(service.stop)


def test_signals_are_given_back(tmp_path: Path) -> None:
    """`run_service` in somebody's program leaves their handlers as they were."""
    before = signal.getsignal(signal.SIGTERM)
    run_service(f"127.0.0.1:{free_port()}", tmp_path / "results.db", ready=lambda: signal.raise_signal(signal.SIGTERM))
    assert signal.getsignal(signal.SIGTERM) is before


def test_it_waits_for_its_job_server(tmp_path: Path) -> None:
    """Started first, it connects when there is one, and stops when it is told to."""
    port = free_port()
    with service_program(f"127.0.0.1:{port}", tmp_path / "results.db") as program:
        program.wait_for_line("Trying again")
        with JobServer("127.0.0.1", port) as server:
            wait_until(lambda: workers(server.url), PATIENCE, "the results service")
            program.kill(signum=signal.SIGINT)
            assert program.wait() == 0, program.tail()


def test_it_is_known_by_name(gtask_server: EmbeddedServer, tmp_path: Path) -> None:
    """In the answer to `workers`; outcomes and questions have connections of their own."""
    with serving(gtask_server.url, tmp_path / "results.db"):
        lines = [line for line in gtask_server.admin("workers") if " gtask-results-" in line]
        assert sorted(line.rpartition(" : ")[2] for line in lines) == [PUT, WAIT]


def test_a_file_that_cannot_be_written_for_a_while(
    gtask_server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Outcomes stay with the job server until they are written; the service goes on answering."""
    monkeypatch.setattr(service, "BUSY", 0.05)
    monkeypatch.setattr(desk, "RETRY_PAUSE", 0.05)
    records = [Record(new_id(), State.SUCCESS, b"x") for _ in range(200)]
    path = tmp_path / "results.db"
    with serving(gtask_server.url, path) as running:
        store = GearmanStore(gtask_server.url)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for record in records:
            store.put([record], TTL)
        wait_until(lambda: "trying again" in caplog.text, PATIENCE, "the complaint")
        assert store.wait([records[0].id], 0) == {}
        assert jobs(gtask_server.url, PUT) == len(records)
        other.execute("ROLLBACK")
        other.close()
        assert store.wait([records[-1].id], PATIENCE) == {records[-1].id: records[-1]}
        wait_until(lambda: jobs(gtask_server.url, PUT) == 0, PATIENCE, "the end of the queue")
        assert len(running.store.get([record.id for record in records])) == len(records)
        assert caplog.text.count("trying again") == 1
        store.close()


def test_what_was_not_written_goes_back_to_the_queue(
    gtask_server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A service that is stopped while it cannot write says so, and the next one has it all."""
    monkeypatch.setattr(service, "BUSY", 0.05)
    path = tmp_path / "results.db"
    record = Record(new_id(), State.SUCCESS, b"x")
    store = GearmanStore(gtask_server.url)

    def stop_while_it_cannot_write() -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as other, serving(gtask_server.url, path):
            other.execute("BEGIN IMMEDIATE")
            store.put([record], TTL)
            wait_until(lambda: "trying again" in caplog.text, PATIENCE, "the complaint")

    with pytest.raises(ResultError, match="queued again"):
        stop_while_it_cannot_write()
    wait_until(lambda: not workers(gtask_server.url), PATIENCE, "the end of the service")
    assert jobs(gtask_server.url, PUT) == 1
    with serving(gtask_server.url, path):
        assert store.wait([record.id], PATIENCE) == {record.id: record}
    store.close()


def test_expired_records_are_swept_while_nothing_happens(gtask_server: EmbeddedServer, tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    with serving(gtask_server.url, path):
        store = GearmanStore(gtask_server.url)
        store.put([Record(new_id(), State.SUCCESS, b"x") for _ in range(2500)], 0.1)
        wait_until(lambda: jobs(gtask_server.url, PUT) == 0, PATIENCE, "the end of the queue")
        other = sqlite3.connect(path)
        wait_until(lambda: other.execute("SELECT count(*) FROM results").fetchone() == (0,), PATIENCE, "the sweep")
        other.close()
        store.close()


def put_each(store: GearmanStore, records: list[Record]) -> None:
    for record in records:
        store.put([record], TTL)


def test_it_is_stopped_from_another_thread_while_busy(gtask_server: EmbeddedServer, tmp_path: Path) -> None:
    """Nothing that it had taken is lost."""
    records = [Record(new_id(), State.SUCCESS, b"x") for _ in range(500)]
    store = GearmanStore(gtask_server.url)
    with serving(gtask_server.url, tmp_path / "results.db") as first:
        thread = threading.Thread(target=put_each, args=(store, records))
        thread.start()
        wait_until(lambda: first.store.get([records[10].id]), PATIENCE, "the first records")
        first.stop()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    wait_until(lambda: not workers(gtask_server.url), PATIENCE, "the end of the service")
    with serving(gtask_server.url, tmp_path / "results.db"):
        assert store.wait([records[-1].id], PATIENCE)
        assert len(store.get([record.id for record in records])) == len(records)
    store.close()
