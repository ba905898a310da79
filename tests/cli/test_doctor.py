"""`gtask doctor`: what it finds at real job servers, that it leaves nothing behind, and what its findings are."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gtask.cli.checks import Finding, Severity, diagnose, queue_of
from gtask.cli.looking import Function, Look
from gtask.cli.probing import Facts, Probe, examine, parse_options, run_probe
from gtask.client import Client
from gtask.testing.embedded import EmbeddedServer
from gtask.testing.processes import JobServerProgram, gearmand, job_server
from gtask.testing.requirements import require
from gtask.types import Server, Submission
from tests.cli.conftest import House
from tests.cli.runs import gtask

HERE = Server("127.0.0.1")
GOOD = {
    "listen": "127.0.0.1",
    "job-retries": "3",
    "round-robin": "",
    "keepalive": "",
    "exceptions": "",
    "queue-type": "mysql",
}


def codes(findings: list[Finding]) -> set[str]:
    return {finding.code for finding in findings}


def facts(
    version: str = "1.1.20+ds", server: Server = HERE, options: dict[str, str] | None = GOOD, **more: object
) -> Facts:
    functions = [Function("gtask.results.wait", 0, 0, 1)]
    found = Facts(server, Look(server, version=version, functions=functions), options=options)
    for name, value in more.items():
        setattr(found, name, value)
    return found


# --- real servers --------------------------------------------------------------------------------------------


def test_a_good_server_is_not_serious(house: House) -> None:
    done = gtask("doctor", "--app", "app:app", cwd=house.folder, servers=house.url)
    assert (done.returncode, done.stderr) == (0, "")
    software = "gtask " if house.server.kind == "gtask" else "gearmand "
    assert done.stdout.startswith(f"{house.url}  {software}")
    assert "No results service" not in done.stdout
    assert "No worker serves" not in done.stdout


def test_json_has_every_finding(house: House) -> None:
    done = gtask("doctor", "--json", cwd=house.folder, servers=house.url)
    found = json.loads(done.stdout)
    assert found["ok"] is True
    (server,) = found["servers"]
    assert (server["reachable"], server["tls"], server["plaintext"]) == (True, False, True)
    assert all(one["what"].endswith(".") and one["remedy"] for one in server["findings"])
    if house.server.kind == "gearmand":
        assert server["queue"] == "builtin"
        assert {"queue", "job-retries", "round-robin", "keepalive", "exceptions"} <= {
            f["code"] for f in server["findings"]
        }


def test_a_server_that_is_away_is_serious() -> None:
    done = gtask("doctor", "--servers", "127.0.0.1:1")
    assert (done.returncode, done.stderr) == (1, "")
    assert "serious  gearman://127.0.0.1:1 could not be reached: connection refused." in done.stdout
    assert "`gtask server` starts one on this machine" in done.stdout


def test_tasks_without_a_worker_are_found(folder: Path) -> None:
    with job_server() as server:
        with Client(server.url) as client:
            client.submit(Submission("double", b"x"))
        done = gtask("doctor", "--app", "app", cwd=folder, servers=server.url)
    assert done.returncode == 0
    assert "1 job of double is waiting, and no worker serves it." in done.stdout
    assert "No worker serves blob, boom, describe, double, steps, text, wait_for." in done.stdout
    assert "No results service is connected" in done.stdout


def test_the_probe_leaves_nothing_behind(any_server: EmbeddedServer | JobServerProgram) -> None:
    probe = run_probe(any_server.server, None)
    assert probe.error == ""
    assert probe.epoch is True
    assert any_server.admin("status") == []
    assert any_server.admin("show jobs") == []


def test_the_probe_touches_no_job_of_others(any_server: EmbeddedServer | JobServerProgram) -> None:
    with Client(any_server.url) as client:
        client.submit(Submission("mine", b"1"))
    run_probe(any_server.server, None)
    assert [row.split("\t")[:2] for row in any_server.admin("status")] == [["mine", "1"]]


@pytest.mark.parametrize("queue", ["builtin", "libsqlite3"])
def test_the_queue_of_gearmand_is_told_from_here(queue: str, tmp_path: Path) -> None:
    """By its command line; the probe alone can only guess, which a slow disk makes easier."""
    require("gearmand", package="gearman-job-server")
    options = ["-q", queue] + (["--libsqlite3-db", str(tmp_path / "q.db")] if queue == "libsqlite3" else [])
    with gearmand(*options) as server:
        found = examine(server.server, None, True)
        assert queue_of(found) == (queue, True)
        assert found.probe is not None
        assert (found.probe.epoch, found.probe.long_name, found.probe.case) == (True, True, True)
        found.options = None
        assert queue_of(found)[0] in ("builtin", "libsqlite3")
        assert queue_of(found)[1] is False


def test_exceptions_are_found_out_by_asking(tmp_path: Path) -> None:
    require("gearmand", package="gearman-job-server")
    for options, expected in (((), False), (("--exceptions",), True)):
        with gearmand(*options) as server:
            assert run_probe(server.server, None).exceptions is expected


def test_tls_that_is_ignored_is_serious() -> None:
    """Debian's gearmand takes --ssl and speaks plaintext (defect 28)."""
    require("gearmand", package="gearman-job-server")
    with gearmand("--ssl") as server:
        done = gtask("doctor", "--servers", f"gearmans://{server.host}:{server.port},{server.url}")
    assert done.returncode == 1
    assert "The port speaks plaintext although its address asks for TLS." in done.stdout
    assert "The server was started with --ssl, and its port speaks plaintext" in done.stdout


def test_long_handles_are_found() -> None:
    require("gearmand", package="gearman-job-server")
    with gearmand(f"--job-handle-prefix=H:{'h' * 55}") as server:
        assert "handle-prefix" in codes(diagnose(examine(server.server, None, True), False))
    with gearmand(f"--job-handle-prefix=H:{'h' * 59}") as server:
        found = diagnose(examine(server.server, None, True), False)
        assert [finding.severity for finding in found if finding.code == "handles"] == [Severity.SERIOUS]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that signs itself, with its key in the same file."""
    openssl = require("openssl", package="openssl")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "90",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    both = folder / "both.pem"
    both.write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    return both


@contextmanager
def tls_in_front(server: Server, certificate: Path) -> Iterator[Server]:
    """A TLS proxy in front of a job server, as stunnel would be."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def serve(raw: socket.socket) -> None:
        try:
            near = context.wrap_socket(raw, server_side=True)
        except OSError:
            raw.close()
            return
        with near, socket.create_connection((server.host, server.port)) as far:
            back = threading.Thread(target=pump, args=(far, near))
            back.start()
            pump(near, far)
            back.join()

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        for one in (source, target):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=serve, args=(raw,))
            thread.start()
            threads.append(thread)

    with closing(listener):
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        yield Server("127.0.0.1", listener.getsockname()[1], True)
        listener.shutdown(socket.SHUT_RDWR)
        acceptor.join()
    for thread in threads:
        thread.join()


def test_tls_is_proven(certificate: Path, gtask_server: EmbeddedServer) -> None:
    with tls_in_front(gtask_server.server, certificate) as server:
        good = gtask("doctor", "--servers", str(server), "--tls-ca", str(certificate))
        assert good.returncode == 0, good.stdout + good.stderr
        assert good.stdout.splitlines()[0].endswith("TLS, and nothing without it")
        assert gtask("doctor", "--servers", str(server), env={"GTASK_TLS_CAFILE": str(certificate)}).returncode == 0
        assert gtask("doctor", "--servers", str(server), env={"SSL_CERT_FILE": str(certificate)}).returncode == 0
        unknown = gtask("doctor", "--servers", str(server))
        assert unknown.returncode == 1
        assert "certificate is not accepted" in unknown.stdout
        assert "--tls-ca" in unknown.stdout
        wrong = gtask("doctor", "--servers", str(server._replace(tls=False)))
        assert wrong.returncode == 1
        assert f"-> Write {server}." in wrong.stdout


# --- findings ------------------------------------------------------------------------------------------------


def test_a_server_that_is_run_as_it_should_be_has_no_warning() -> None:
    found = diagnose(facts(), True)
    assert {finding.severity for finding in found} == {Severity.NOTE}
    assert codes(found) == {"version"}
    assert diagnose(facts("2.0.0"), True) == []


@pytest.mark.parametrize(
    ("changed", "code", "severity"),
    [
        ({"version": "1.1.18"}, "version", Severity.SERIOUS),
        ({"version": "0.33"}, "version", Severity.SERIOUS),
        ({"version": "something"}, "version", Severity.NOTE),
        ({"server": Server("10.0.0.1")}, "open", Severity.WARNING),
        ({"server": Server("10.0.0.1", tls=True), "takes_strangers": True}, "strangers", Severity.WARNING),
        ({"server": Server("127.0.0.1", tls=True), "certificate_left": 86400 * 20}, "certificate", Severity.WARNING),
        ({"server": Server("127.0.0.1", tls=True), "certificate_left": 3600.0}, "certificate", Severity.SERIOUS),
        ({"options": None}, "options", Severity.NOTE),
        ({"options": {**GOOD, "job-retries": "0"}}, "job-retries", Severity.WARNING),
        ({"options": {**GOOD, "job-retries": "256"}}, "job-retries", Severity.WARNING),
        ({"options": {**GOOD, "queue-type": "builtin"}}, "queue", Severity.WARNING),
        ({"options": {**GOOD, "queue-type": "Postgres"}}, "queue", Severity.SERIOUS),
        ({"options": {**GOOD, "queue-type": "redis"}}, "queue", Severity.SERIOUS),
        ({"options": {**GOOD, "queue-type": "libmemcached"}}, "queue", Severity.SERIOUS),
        ({"options": {**GOOD, "store-queue-on-shutdown": ""}}, "store-on-shutdown", Severity.WARNING),
        ({"options": {**GOOD, "worker-wakeup": "1"}}, "worker-wakeup", Severity.NOTE),
        ({"options": {k: v for k, v in GOOD.items() if k != "listen"}}, "listen", Severity.WARNING),
        ({"options": {k: v for k, v in GOOD.items() if k != "keepalive"}}, "keepalive", Severity.WARNING),
        ({"options": {k: v for k, v in GOOD.items() if k != "round-robin"}}, "round-robin", Severity.WARNING),
        ({"options": {k: v for k, v in GOOD.items() if k != "exceptions"}}, "exceptions", Severity.NOTE),
        ({"probe": Probe(exceptions=False)}, "exceptions", Severity.NOTE),
        ({"probe": Probe(epoch=False)}, "epoch", Severity.SERIOUS),
        ({"probe": Probe(case=False)}, "collation", Severity.WARNING),
        ({"probe": Probe(error="It was cut.")}, "probe", Severity.WARNING),
        ({"handles": ["H:a:1", "H:a:1"]}, "handles", Severity.SERIOUS),
        ({"handles": [f"H:{'a' * 51}:1"]}, "handle-prefix", Severity.WARNING),
        ({"version": "gtask 0.1.0", "options": {}}, "queue", Severity.WARNING),
    ],
    ids=str,
)  # fmt: skip
def test_a_finding(changed: dict[str, object], code: str, severity: Severity) -> None:
    found = diagnose(facts(**changed), True)  # type: ignore[arg-type]
    assert [finding.severity for finding in found if finding.code == code] == [severity]
    assert [finding.severity for finding in found] == sorted(
        (finding.severity for finding in found), key=list(Severity).index
    )


def test_handles_that_are_short_enough_are_no_finding() -> None:
    assert not codes(diagnose(facts(handles=["H:box:1", "H:box:2"]), True)) & {"handles", "handle-prefix"}


GUESSES = [
    ({"epoch": False}, "redis or libmemcached"),
    ({"epoch": True, "long_name": False, "case": False, "binary_unique": False}, "mysql"),
    ({"epoch": True, "long_name": False, "case": True, "binary_unique": False}, "postgres"),
    ({"epoch": True, "long_name": False, "case": True, "binary_unique": True}, "mysql with binary columns"),
    ({"epoch": True, "long_name": True, "case": True, "background": 0.001}, "libsqlite3"),
    ({"epoch": True, "long_name": True, "case": True}, "builtin"),
    ({"background": None}, ""),
]


@pytest.mark.parametrize(("told", "queue"), GUESSES, ids=[queue or "nothing" for _, queue in GUESSES])
def test_a_queue_is_guessed_by_what_it_takes(told: dict[str, Any], queue: str) -> None:
    """The table of section 20 of the protocol reference."""
    probe = Probe(**{"background": 0.0001, "foreground": 0.0001, **told})
    assert queue_of(facts(options=None, probe=probe)) == (queue, False)


@pytest.mark.parametrize(
    ("function", "code", "text"),
    [
        (Function("calculate", 3, 0, 0), "unserved", "3 jobs of calculate are waiting"),
        (Function("gtask.later", 1, 0, 0), "unserved", "1 job of gtask.later is waiting"),
        (Function("gtask.results.put", 2, 0, 0), "unserved", "2 jobs of gtask.results.put"),
        (Function("send.dead", 2, 0, 0), "dead", "2 jobs that failed for good are parked in send.dead"),
        (Function("gtask.results.wait", 0, 0, 2), "results", "2 results services serve at once"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_finding_about_a_function(function: Function, code: str, text: str) -> None:
    found = facts()
    found.look.functions = [Function("gtask.results.wait", 0, 0, 1), function]
    if function.name == "gtask.results.wait":
        found.look.functions = [function]
    (one,) = [finding for finding in diagnose(found, True) if finding.code == code]
    assert text in one.what


def test_two_results_services_are_serious() -> None:
    found = facts()
    found.look.functions = [Function("gtask.results.wait", 0, 0, 2)]
    (one,) = [finding for finding in diagnose(found, True) if finding.code == "results"]
    assert one.severity is Severity.SERIOUS


def test_without_a_results_service_only_those_who_need_one_are_told() -> None:
    found = facts()
    found.look.functions = []
    assert "results" in codes(diagnose(found, True))
    assert "results" not in codes(diagnose(found, False))


def test_options_are_read_as_gearmand_reads_them() -> None:
    words = ["-q", "libsqlite3", "--libsqlite3-db=/q.db", "-j3", "-R", "--ssl", "--listen", "127.0.0.1", "--keepalive"]
    assert parse_options(words) == {
        "queue-type": "libsqlite3",
        "libsqlite3-db": "/q.db",
        "job-retries": "3",
        "round-robin": "",
        "ssl": "",
        "listen": "127.0.0.1",
        "keepalive": "",
    }


def test_this_process_is_no_job_server() -> None:
    """The embedded server of a test runs inside pytest: nothing is read from its command line."""
    with EmbeddedServer() as server:
        found = examine(server.server, None, True)
    assert found.options is None
    assert found.embedded
    assert sys.argv
