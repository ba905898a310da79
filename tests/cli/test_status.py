"""`gtask status`: tables for people, JSON for programs, and servers that are away."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from gtask.cli.looking import Function, Look, Worker, look, look_all
from gtask.cli.status import as_dict, printable
from gtask.client import Client
from gtask.testing.embedded import EmbeddedServer
from gtask.testing.processes import JobServerProgram
from gtask.testing.programs import Program
from gtask.types import Priority, Server, Submission
from tests.cli.conftest import House
from tests.cli.runs import gtask

AWAY = Server("127.0.0.1", 1)


def row(text: str, name: str) -> list[str]:
    found = [line.split() for line in text.splitlines() if line.split()[:1] == [name]]
    assert len(found) == 1, text
    return found[0][1:]


def test_queues_and_workers_are_a_table(house: House) -> None:
    done = gtask("status", servers=house.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{house.url}  gtask " if house.server.kind == "gtask" else f"{house.url}  gearmand ")
    assert row(done.stdout, "function") == ["waiting", "high", "normal", "low", "running", "workers"]
    assert row(done.stdout, "double")[-1] == "2"
    assert row(done.stdout, "gtask.results.wait")[-1] == "1"
    assert "prefork" in done.stdout
    assert "blob, boom, describe, double, steps, text, wait_for" in done.stdout


def test_jobs_that_nobody_serves_stand_out(any_server: EmbeddedServer | JobServerProgram) -> None:
    with Client(any_server.url) as client:
        for priority in (Priority.HIGH, Priority.LOW, Priority.LOW):
            client.submit(Submission("orphan", b"x", priority=priority))
        client.submit(Submission("failed.dead", b"x"))
    done = gtask("status", servers=any_server.url)
    assert row(done.stdout, "orphan") == ["3", "1", "0", "2", "0", "0", "no", "worker", "serves", "it"]
    assert row(done.stdout, "failed.dead") == ["1", "0", "1", "0", "0", "0"]
    assert "4 jobs waiting, 0 running, 0 worker connections" in done.stdout


def test_json_has_it_all(house: House) -> None:
    done = gtask("status", "--json", "--app", "app:app", cwd=house.folder, servers=house.url)
    assert (done.returncode, done.stderr) == (0, "")
    (server,) = json.loads(done.stdout)["servers"]
    assert (server["server"], server["reachable"]) == (house.url, True)
    double = next(function for function in server["functions"] if function["name"] == "double")
    assert double == {"name": "double", "waiting": 0, "running": 0, "workers": 2, "high": 0, "normal": 0, "low": 0}
    assert sum("double" in worker["functions"] for worker in server["workers"]) == 2


def test_a_server_that_is_away_is_one_line_among_the_others(embedded_house: House) -> None:
    done = gtask("status", "--servers", f"{AWAY},{embedded_house.url}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == (
        "gearman://127.0.0.1:1  does not answer: gearman://127.0.0.1:1 could not be reached: connection refused."
    )
    assert row(done.stdout, "double")[-1] == "2"


def test_when_no_server_answers_it_fails() -> None:
    done = gtask("status", "--servers", str(AWAY))
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (1, "", 1)
    done = gtask("status", "--json", "--servers", str(AWAY))
    assert done.returncode == 1
    assert json.loads(done.stdout)["servers"][0]["reachable"] is False


def test_watching_goes_on_until_it_is_interrupted(embedded_house: House) -> None:
    argv = [
        sys.executable,
        "-m",
        "gtask",
        "status",
        "--watch",
        "--json",
        "--interval=0.1",
        "--servers",
        embedded_house.url,
    ]
    with Program(argv) as program:
        program.wait_for_line("double")
        program.wait_for_line("double", since=1)
        program.kill(signum=signal.SIGINT)
        assert program.wait() == 0
        assert all(json.loads(line)["servers"] for line in program.lines())


def test_watching_shows_the_tables(embedded_house: House) -> None:
    argv = [sys.executable, "-m", "gtask", "status", "--watch", "--interval=0.1", "--servers", embedded_house.url]
    with Program(argv) as program:
        program.wait_for_line("double")
        program.kill(signum=signal.SIGINT)
        assert program.wait() == 0
        assert "Traceback" not in program.tail()


def test_a_port_that_is_no_job_server_is_said(tmp_path: Path) -> None:
    script = """
import socketserver
class Mail(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"220 mail\\r\\n")
with socketserver.TCPServer(("127.0.0.1", 0), Mail) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
"""
    with Program([sys.executable, "-c", script]) as program:
        port = int(program.wait_for_line(r"^(\d+)$")[1])
        found = look(Server("127.0.0.1", port), None)
    assert "does not answer like a Gearman job server" in found.error


def test_looks_come_in_the_order_of_the_servers(gtask_server: EmbeddedServer) -> None:
    servers = [AWAY, gtask_server.server, AWAY]
    assert [one.server for one in look_all(servers, None)] == servers
    assert [bool(one.error) for one in look_all(servers, None)] == [True, False, True]


@pytest.mark.parametrize(
    ("function", "unserved"),
    [
        (Function("a", 1, 0, 0), True),
        (Function("a", 0, 1, 0), False),
        (Function("a", 1, 0, 1), False),
        (Function("a.dead", 1, 0, 0), False),
    ],
)
def test_what_is_not_served(function: Function, unserved: bool) -> None:
    assert function.unserved is unserved


def test_a_look_as_json() -> None:
    found = as_dict(
        Look(AWAY, version="1.1.20", functions=[Function("f", 1, 2, 3)], workers=[Worker("i", "a", ("f",))])
    )
    assert found["functions"] == [
        {"name": "f", "waiting": 1, "running": 2, "workers": 3, "high": None, "normal": None, "low": None}
    ]
    assert as_dict(Look(AWAY, "away.")) == {"server": str(AWAY), "reachable": False, "error": "away."}


def test_names_from_a_server_cannot_move_the_cursor() -> None:
    assert printable("a\x1b[2Jb\udcff c") == "a\N{REPLACEMENT CHARACTER}[2Jb\N{REPLACEMENT CHARACTER} c"
