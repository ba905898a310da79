"""`gtask server` and `gtask results` as processes."""

from __future__ import annotations

import json
import re
import signal
import socket
import sqlite3
import sys
from contextlib import ExitStack
from pathlib import Path

import click
import pytest

from gtask.cli.options import read_size
from gtask.cli.server import results_file
from gtask.client import Client
from gtask.protocol.codec import encode_request
from gtask.protocol.packets import PacketType
from gtask.testing.processes import JobServerProgram, admin, job_server
from gtask.testing.programs import Program, wait_until
from gtask.types import Submission, is_loopback
from tests.cli.runs import gtask, only_line
from tests.pki import Certificates

READY = r"^gtask server ready at gearman://127\.0\.0\.1:(\d+), (.*), results (.*)$"


def server(*options: str, cwd: Path) -> Program:
    return Program([sys.executable, "-m", "gtask", "server", "--port=0", *options], cwd=cwd)


def serves_results(port: int) -> bool:
    return any(
        row.startswith("gtask.results.wait\t") and row.endswith("\t1") for row in admin("127.0.0.1", port, "status")
    )


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_and_ends_when_told(signum: signal.Signals, tmp_path: Path) -> None:
    with server(cwd=tmp_path) as program:
        port, queue, results = program.wait_for_line(READY).groups()
        assert (queue, results) == ("queue in memory", "in memory")
        wait_until(lambda: serves_results(int(port)), what="the results service")
        program.kill(signum=signum)
        assert program.wait() == 0
        assert len(program.lines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_results_are_kept_beside_the_queue(tmp_path: Path) -> None:
    with server("--db", "queue.db", cwd=tmp_path) as program:
        port, queue, results = program.wait_for_line(READY).groups()
        assert (queue, results) == ("queue in queue.db (0 waiting)", "in queue-results.db")
        with Client(f"127.0.0.1:{port}") as client:
            client.submit(Submission("later", b"1"))
        program.terminate()
        assert program.wait() == 0
    with sqlite3.connect(tmp_path / "queue.db") as queue_db:
        assert queue_db.execute("SELECT function_name FROM gearman_queue").fetchall() == [("later",)]
    queue_db.close()
    assert (tmp_path / "queue-results.db").exists()
    with server("--db", "queue.db", cwd=tmp_path) as program:
        assert program.wait_for_line(READY)[2] == "queue in queue.db (1 waiting)"


def test_results_none_runs_no_service(tmp_path: Path) -> None:
    with server("--results", "none", cwd=tmp_path) as program:
        port, _, results = program.wait_for_line(READY).groups()
        assert results.startswith("nowhere")
        assert admin("127.0.0.1", int(port), "status") == []


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with job_server() as other:
        line = only_line(gtask("server", f"--port={other.port}", cwd=tmp_path), 1)
    assert line == (
        f"gtask server: The job server cannot listen at 127.0.0.1:{other.port}: Address already in use. "
        "Is another one running there?"
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--db", "none/queue.db"], "none/queue.db"),
        (["--results", "none/results.db"], "does not exist; create it"),
        (["--db", "text.txt"], "text.txt"),
        (["--host", "no.such.host.invalid"], "is no address this machine can listen at"),
    ],
    ids=["queue", "results", "no database", "host"],
)
def test_what_cannot_be_used_is_one_line(options: list[str], text: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("this is no database\n" * 100)
    line = next(
        one for one in gtask("server", "--port=0", *options, cwd=tmp_path).stderr.splitlines() if "WARN" not in one
    )
    assert text in line
    assert line.startswith("gtask server: ")


def test_a_queue_file_in_use_is_one_line(tmp_path: Path) -> None:
    with job_server(db=tmp_path / "queue.db"):
        assert "queue.db" in only_line(gtask("server", "--port=0", "--db=queue.db", cwd=tmp_path), 1)


def test_an_open_address_is_warned_of(tmp_path: Path) -> None:
    with server("--host=0.0.0.0", "--results=none", cwd=tmp_path) as program:
        program.wait_for_line(r"WARN  0\.0\.0\.0 can be reached from other machines, and Gearman has no passwords")
        program.wait_for_line(r"ready at gearman://0\.0\.0\.0:\d+")


def test_json_logs_are_all_json(tmp_path: Path) -> None:
    with server("--json-logs", "-l", "info", cwd=tmp_path) as program:
        program.wait_for_line("ready at")
        program.terminate()
        assert program.wait() == 0
        lines = [json.loads(line) for line in program.lines()]
    assert all(line.keys() >= {"time", "level", "logger", "message"} for line in lines)
    assert any(line["message"].startswith("gtask server ready at ") for line in lines)


def test_job_retries_are_counted(tmp_path: Path) -> None:
    """The option reaches the server: a job whose first worker goes away is not handed out again."""
    with job_server("--job-retries=1") as program, Client(program.url) as client:
        client.submit(Submission("fragile", b"x", "one"))
        grab_and_leave(program)
        wait_until(lambda: program.admin("status")[0].split("\t")[1] == "0", what="the end of the job")


def grab_and_leave(program: JobServerProgram) -> None:
    with socket.create_connection((program.host, program.port), 10) as sock:
        sock.sendall(encode_request(PacketType.CAN_DO, b"fragile") + encode_request(PacketType.GRAB_JOB))
        assert b"fragile" in sock.recv(1000)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_results_serves_other_job_servers(signum: signal.Signals, tmp_path: Path) -> None:
    with job_server() as one, job_server() as two:
        argv = [sys.executable, "-m", "gtask", "results", "--db", "r.db", "--servers", f"{one.url},{two.url}"]
        with Program(argv, cwd=tmp_path) as program:
            match = program.wait_for_line(r"^gtask results ready: r\.db, for (.*)$")
            assert match[1] == f"{one.url}, {two.url}"
            wait_until(lambda: serves_results(one.port) and serves_results(two.port), what="the results service")
            program.kill(signum=signum)
            assert program.wait() == 0
            assert not re.search("Traceback", program.tail())


def test_results_waits_for_a_server_that_is_away(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "gtask", "results", "--servers", "127.0.0.1:1"]
    with Program(argv, cwd=tmp_path) as program:
        program.wait_for_line(r"WARN  gearman://127\.0\.0\.1:1 could not be reached")
        program.terminate()
        assert program.wait() == 0


def test_results_refuses_a_file_that_it_cannot_use(tmp_path: Path) -> None:
    assert "does not exist; create it" in only_line(gtask("results", "--db=none/r.db", cwd=tmp_path), 1)


def test_tls_that_lacks_something_is_not_started(tmp_path: Path) -> None:
    assert "--tls-key needs the certificate" in only_line(gtask("server", "--tls-key=k.pem", cwd=tmp_path), 2)
    assert "--tls-client-ca needs the certificate" in only_line(gtask("server", "--tls-client-ca=c", cwd=tmp_path), 2)
    line = only_line(gtask("server", "--port=0", "--tls-cert=missing.pem", cwd=tmp_path), 1)
    assert "TLS cannot be set up with missing.pem: No such file or directory. Name readable PEM files." in line


@pytest.mark.parametrize("option", ["--max-connections=0", "--stall-timeout=0", "--idle-timeout=-1", "--max-memory=0"])
def test_a_bound_that_leaves_nothing_is_wrong_usage(option: str, tmp_path: Path) -> None:
    assert option.partition("=")[0] in only_line(gtask("server", "--port=0", option, cwd=tmp_path), 2)


def test_the_bounds_are_those_of_the_command_line() -> None:
    with job_server("--max-connections-per-peer=3") as server, ExitStack() as stack:
        first = [stack.enter_context(socket.create_connection((server.host, server.port), 10)) for _ in range(3)]
        for sock in first:
            sock.sendall(encode_request(PacketType.ECHO_REQ, b"x"))
            assert sock.recv(100)
        late = stack.enter_context(socket.create_connection((server.host, server.port), 10))
        assert late.recv(100) == b""
        server.wait_for_line("127.0.0.1 was turned away: 3 connections from one address is the limit.")


def test_an_open_port_is_warned_of_unless_it_asks_for_certificates(certificates: Certificates) -> None:
    tls = [f"--tls-cert={certificates.server}"]
    ask = [f"--tls-client-ca={certificates.ca}"]
    for options, warned in (([], "--tls-cert and --tls-client-ca"), (tls, "--tls-client-ca"), ([*tls, *ask], "")):
        argv = [sys.executable, "-m", "gtask", "server", "--host=0.0.0.0", "--port=0", "--results=none", *options]
        with Program(argv, env={"PYTHONUNBUFFERED": "1"}) as program:
            program.wait_for_line("gtask server ready at gearman")
            found = "0.0.0.0 can be reached from other machines" in program.tail()
            assert found == bool(warned)
            assert warned in program.tail()


# --- in this process -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("db", "results", "name"),
    [
        (None, "r.db", "r.db"),
        ("a/q.db", None, "a/q-results.db"),
        ("queue", None, "queue-results"),
        ("q.db", "NONE", None),
    ],
)
def test_where_results_are_kept(db: str | None, results: str | None, name: str | None) -> None:
    with results_file(db, results) as file:
        assert file == name


def test_results_of_a_queue_in_memory_are_gone_with_it() -> None:
    with results_file(None, None) as file:
        assert file is not None
        Path(file).write_text("")
    assert not Path(file).parent.exists()


@pytest.mark.parametrize(
    ("host", "yes"), [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_what_is_loopback(host: str, yes: bool) -> None:
    assert is_loopback(host) is yes


def test_a_size_is_read() -> None:
    command = click.Command("x")
    with click.Context(command) as context:
        option = click.Option(["--size"])
        found = [read_size(context, option, text) for text in ("1", "64K", "64M", "2 g", "1MiB", "1KB")]
    assert found == [1, 65536, 67108864, 2147483648, 1048576, 1024]
