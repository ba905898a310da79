"""Callers, workers and results over TLS, on `gtask server` and on gearmand behind stunnel; both ask for certificates.

And what TLS is for: who shows the wrong one gets a sentence, nothing goes in the clear, nothing falls back.
"""

from __future__ import annotations

import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from gtask import App, chain, group
from gtask.client import Client
from gtask.errors import ConfigurationError, NetworkError
from gtask.testing.faults import FaultProxy
from gtask.testing.processes import gearmand, job_server, worker
from gtask.testing.programs import Program, free_port, wait_until
from gtask.testing.requirements import require
from gtask.transport import TLS
from gtask.types import Server, Submission
from tests.e2e.stunnel import gearmand_with_tls, stunnel
from tests.e2e.tasks import Order, make
from tests.pki import Certificates

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 60.0
"""Seconds that something may take; only what hangs takes nearly as long."""

KINDS = ("gtask", "gearmand")


@dataclass
class Secure:
    """A job server that is reached through TLS alone, and by those alone who show a certificate."""

    kind: str
    url: str
    tls: TLS
    folder: Path

    @property
    def environment(self) -> dict[str, str | None]:
        """What a process is told, to reach it."""
        assert self.tls.cafile
        return {
            "GTASK_SERVERS": self.url,
            "GTASK_TLS_CAFILE": self.tls.cafile,
            "GTASK_TLS_CERTFILE": self.tls.certfile,
        }

    def worker(self, pool: str = "prefork", *options: str) -> Any:
        """Runs a worker of `tests.e2e.tasks`; for gearmand it carries the results service along."""
        if self.kind == "gearmand":
            options = (*options, f"--with-results={self.folder / 'results.db'}")
        return worker("tests.e2e.tasks:app", *options, cwd=ROOT, pool=pool, env=self.environment)

    def app(self) -> App:
        """The App as a caller."""
        app = make(self.url)
        app.settings = app.settings.__class__.of("e2e", {"tls": self.tls})
        return app

    def run(self, *args: str, env: dict[str, str | None] | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a command of `gtask`."""
        environment = {key: value for key, value in {**self.environment, **(env or {})}.items() if value is not None}
        return subprocess.run(
            [sys.executable, "-m", "gtask", *args],
            cwd=ROOT, env={**environment, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=LIMIT,
        )  # fmt: skip


@contextmanager
def secure(kind: str, folder: Path, certificates: Certificates) -> Iterator[Secure]:
    tls = certificates.for_client(certificates.client)
    with ExitStack() as stack:
        if kind == "gtask":
            options = [f"--tls-cert={certificates.server}", f"--tls-client-ca={certificates.ca}"]
            server = stack.enter_context(job_server(*options, results=folder / "results.db", tls=tls))
            yield Secure(kind, server.url, tls, folder)
        else:
            _, address = stack.enter_context(gearmand_with_tls(folder, certificates, ask=True))
            yield Secure(kind, str(address), tls, folder)


@pytest.fixture(scope="module", params=KINDS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Secure]:
    """Each job server in turn."""
    with secure(request.param, tmp_path_factory.mktemp("tls"), certificates) as made:
        yield made


# --- it works ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["prefork", "thread", "async", "solo"])
def test_a_worker_of_each_pool(server: Secure, pool: str, tmp_path: Path) -> None:
    """Background, foreground, groups, chains, retries, large results: whatever goes over the wire."""
    with server.worker(pool), server.app() as app:
        add, total, double = app.tasks["add"], app.tasks["total"], app.tasks["double"]
        assert add.delay(1, 2).get(timeout=LIMIT) == 3
        assert add.call(3, 4) == 7
        assert double.delay(Order(1, 2)).get(timeout=LIMIT) == Order(1, 4)
        assert group(add.s(n, n) for n in range(20)).delay().get(timeout=LIMIT) == [2 * n for n in range(20)]
        assert chain(add.s(1, 2), add.s(10)).delay().get(timeout=LIMIT) == 13
        assert (group(add.s(n, 1) for n in range(5)) | total.s()).delay().get(timeout=LIMIT) == 15
        assert app.tasks["large"].call(3_000_000) == b"x" * 3_000_000
        assert len(app.tasks["large"].delay(3_000_000).get(timeout=LIMIT)) == 3_000_000
        assert app.tasks["retried"].delay(str(tmp_path / "times"), 0.2, 1).get(timeout=LIMIT) == 1
        assert app.tasks["who"].delay(5).get(timeout=LIMIT)[0] == 5


@pytest.mark.anyio
async def test_an_async_caller(server: Secure) -> None:
    with server.worker():
        async with server.app() as app:
            add = app.tasks["add"]
            result = await add.adelay(1, 2)
            assert await result.aget(timeout=LIMIT) == 3
            assert await add.acall(3, 4) == 7


def test_the_commands(server: Secure) -> None:
    """By the environment, and by options alone."""
    assert server.tls.cafile
    assert server.tls.certfile
    bare: dict[str, str | None] = dict.fromkeys(("GTASK_TLS_CAFILE", "GTASK_TLS_CERTFILE", "GTASK_SERVERS"))
    options = ("--servers", server.url, "--tls-ca", server.tls.cafile, "--tls-cert", server.tls.certfile)
    with server.worker():
        for env, more in ((None, ()), (bare, options)):
            called = server.run("call", "tests.e2e.tasks:app", "add", "--args", "[7, 8]", *more, env=env)
            assert (called.returncode, called.stdout.strip()) == (0, "15"), called
            seen = server.run("status", *more, env=env)
            assert seen.returncode == 0
            assert "add" in seen.stdout
            checked = server.run("doctor", *more, env=env)
            assert checked.returncode == 0, checked
            assert "TLS, and nothing without it" in checked.stdout
            assert "strangers" not in checked.stdout


def test_everybody_comes_back_after_a_restart(tmp_path: Path, certificates: Certificates) -> None:
    tls = certificates.for_client()
    options = [f"--tls-cert={certificates.server}"]
    with job_server(*options, db=tmp_path / "queue.db", results=tmp_path / "results.db", tls=tls) as server:
        made = Secure("gtask", server.url, tls, tmp_path)
        with made.worker() as program, made.app() as app:
            add = app.tasks["add"]
            assert add.delay(1, 2).get(timeout=LIMIT) == 3
            seen = program.output.position
            server.restart(signal.SIGKILL)
            assert add.delay(3, 4).get(timeout=LIMIT) == 7
            program.wait_for_line("Connected to gearmans://", LIMIT, seen)
            assert add.call(5, 6) == 11


def test_a_renewed_certificate_is_read_at_sighup(tmp_path: Path, certificates: Certificates) -> None:
    file = tmp_path / "server.pem"
    shutil.copy(certificates.server, file)
    with job_server(f"--tls-cert={file}", tls=certificates.for_client()) as server:

        def shown() -> bytes:
            with socket.create_connection((server.host, server.port), LIMIT) as sock:
                with certificates.context().wrap_socket(sock, server_hostname=server.host) as wrapped:
                    return wrapped.getpeercert(binary_form=True) or b""

        first = shown()
        file.write_text("nonsense")
        server.kill(signum=signal.SIGHUP)
        server.wait_for_line("The certificate stays the one it was: TLS cannot be set up with", LIMIT)
        assert shown() == first
        shutil.copy(certificates.renewed, file)
        server.kill(signum=signal.SIGHUP)
        server.wait_for_line("The certificate was read again", LIMIT)
        assert shown() not in (first, b"")


# --- who is not trusted --------------------------------------------------------------------------------------

Case = tuple[str, Callable[[Certificates], TLS], str]

BAD_SERVERS: list[Case] = [
    ("server", lambda c: TLS(c.other), "its certificate is not accepted (unable to get local issuer certificate)"),
    ("server", lambda c: TLS(), "name the authority that signed it: TLS(cafile=...), --tls-ca or $GTASK_TLS_CAFILE"),
    ("elsewhere", lambda c: c.for_client(), "write the address with the name in the certificate"),
    ("expired", lambda c: c.for_client(), "its certificate is not accepted (certificate has expired)"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_is_not_trusted(kind: str, tmp_path: Path, certificates: Certificates) -> None:
    """Wrong authority, wrong name, an end that is over: each says which, to a caller and on the command line."""
    with ExitStack() as stack:
        behind = stack.enter_context(gearmand()) if kind == "gearmand" and require("gearmand") else None
        addresses: dict[str, str] = {}
        for certificate, tls, sentence in BAD_SERVERS:
            if certificate not in addresses:
                file = getattr(certificates, certificate)
                if behind is None:
                    reach = TLS(certificates.ca, server_hostname="jobs.example" if certificate == "elsewhere" else None)
                    if certificate == "expired":
                        addresses[certificate] = stack.enter_context(expired_server(file))
                    else:
                        addresses[certificate] = stack.enter_context(job_server(f"--tls-cert={file}", tls=reach)).url
                else:
                    addresses[certificate] = str(
                        stack.enter_context(stunnel(tmp_path, behind.server, certificates, file))
                    )
            refused(addresses[certificate], tls(certificates), sentence)


@contextmanager
def expired_server(file: str) -> Iterator[str]:
    """`gtask server` with a certificate with which nobody can ask it whether it is ready."""
    command = [sys.executable, "-m", "gtask", "server", "--port=0", "--results=none", f"--tls-cert={file}"]
    with Program(command, env={"PYTHONUNBUFFERED": "1"}) as program:
        yield program.wait_for_line(r"ready at (gearmans://[^\s,]+)")[1]


def refused(url: str, tls: TLS, sentence: str) -> None:
    """Everybody who calls is told so, and soon."""
    app = App("refused", url, tls=tls)

    @app.task
    def f() -> None: ...

    with app:
        for call in (f.delay, f.call):
            with pytest.raises(NetworkError) as caught:
                call()
            assert sentence in str(caught.value)
    environment = {
        "PATH": "/usr/bin:/bin",
        **{f"GTASK_TLS_{name.upper()}": value for name in ("cafile", "certfile") if (value := getattr(tls, name))},
    }
    command = [sys.executable, "-m", "gtask", "status", "--servers", url]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 1
    assert sentence in " ".join((done.stdout + done.stderr).split())


def test_a_caller_without_the_right_certificate(server: Secure, certificates: Certificates) -> None:
    sentence = "it asks for a client certificate; name one: TLS(certfile=...), --tls-cert or $GTASK_TLS_CERTFILE"
    refused(server.url, certificates.for_client(), sentence)
    refused(server.url, certificates.for_client(certificates.stranger), "it does not accept the client certificate")


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_port_gets_no_plain_text(kind: str) -> None:
    """An address with TLS is never spoken to without; gearmand would wait for the end of a line (defect 28)."""
    with ExitStack() as stack:
        if kind == "gearmand":
            require("gearmand", package="gearman-job-server")
            server = stack.enter_context(gearmand("--ssl"))
        else:
            server = stack.enter_context(job_server())
        url = str(server.server._replace(tls=True))
        refused(url, TLS(), "does it speak TLS at this port? gtask does not fall back to plain text")
        assert server.admin("status") == []


def test_an_address_that_goes_around_tls_is_refused(certificates: Certificates, tmp_path: Path) -> None:
    """Where TLS is set up, plain text is left to this machine, beside others; wherever the addresses come from."""
    tls = certificates.for_client()
    (tmp_path / "app.py").write_text("from gtask import App\napp = App('a', 'gearman://127.0.0.1:1')\n"
                                     "@app.task\ndef f(): ...\n")  # fmt: skip
    with pytest.raises(ConfigurationError, match=r"gearman://127\.0\.0\.1:1 is plain text; write gearmans:// for TLS"):
        Client("gearman://127.0.0.1:1", tls=tls)
    with pytest.raises(ConfigurationError, match=r"gearman://jobs\.example:4730 is plain text"):
        Client(["gearmans://jobs.example", "gearman://jobs.example"], tls=tls)
    Client(["gearmans://jobs.example", "gearman://localhost"], tls=tls).close()
    for command in (["status"], ["worker", "app"], ["call", "app", "f"], ["results"], ["doctor"]):
        options = ["--servers=gearman://jobs.example", f"--tls-ca={certificates.ca}"]
        done = subprocess.run(
            [sys.executable, "-m", "gtask", *command, *options],
            cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT,
        )  # fmt: skip
        assert done.returncode == 2, done
        assert "gearman://jobs.example:4730 is plain text; write gearmans:// for TLS." in done.stderr


def test_a_worker_does_not_start_with_files_that_are_no_good(tmp_path: Path, certificates: Certificates) -> None:
    for options in (["--tls-ca=missing.pem"], [f"--tls-ca={certificates.ca}", f"--tls-cert={certificates.other}"]):
        command = ["worker", "tests.e2e.tasks:app", "--servers=gearmans://127.0.0.1:1", *options]
        done = subprocess.run(
            [sys.executable, "-m", "gtask", *command],
            cwd=ROOT, capture_output=True, text=True, timeout=LIMIT,
        )  # fmt: skip
        assert done.returncode == 2, done
        assert "TLS cannot be set up with" in done.stderr


# --- on the wire ---------------------------------------------------------------------------------------------


@contextmanager
def tapped(server: Server, seen: bytearray) -> Iterator[Server]:
    """A relay to a job server that notes what goes over it, either way."""
    threads: list[threading.Thread] = []
    sockets: list[socket.socket] = []

    def carry(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                seen.extend(data)
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection((server.host, server.port), LIMIT)
            except OSError:
                return
            sockets.extend((near, far))
            for pair in ((near, far), (far, near)):
                thread = threading.Thread(target=carry, args=pair)
                thread.start()
                threads.append(thread)

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        yield Server("127.0.0.1", listener.getsockname()[1], server.tls)
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
    for sock in sockets:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()
    for sock in sockets:
        sock.close()


def test_nothing_can_be_read_on_the_way(tmp_path: Path, certificates: Certificates) -> None:
    """Names, arguments and results; without TLS the same tap sees all of them."""
    secret = "a-secret-that-nobody-else-sees"
    for options, tls in (([], None), ([f"--tls-cert={certificates.server}"], certificates.for_client())):
        seen = bytearray()
        folder = tmp_path / ("tls" if tls else "plain")
        folder.mkdir()
        with job_server(*options, results=folder / "results.db", tls=tls) as server, tapped(server.server, seen) as tap:
            app = make(str(tap))
            environment: dict[str, str | None] = {"GTASK_SERVERS": str(tap)}
            if tls is not None:
                app.settings = app.settings.__class__.of("e2e", {"tls": tls})
                environment |= certificates.environment
            with worker("tests.e2e.tasks:app", cwd=ROOT, env=environment), app:
                noted = app.tasks["note"]
                assert noted.delay(str(folder / "file"), secret).get(timeout=LIMIT) == secret
                assert noted.call(str(folder / "file"), secret) == secret
        found = [text in bytes(seen) for text in (secret.encode(), b"note", b"gtask.later", b"\0REQ", b"\0RES")]
        assert found == [tls is None] * 5
        assert len(seen) > 1000


def test_a_stalled_peer_of_a_real_server_keeps_nobody_waiting(certificates: Certificates) -> None:
    """The process, with 100 connections that never finish their handshake, serves at once; they end."""
    options = [f"--tls-cert={certificates.server}", "--stall-timeout=3", "--loglevel=error"]
    tls = certificates.for_client()
    with job_server(*options, tls=tls) as server, ExitStack() as stack:
        stalled = [stack.enter_context(socket.create_connection((server.host, server.port), LIMIT)) for _ in range(100)]
        for sock in stalled[::2]:
            sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        with Client(server.url, tls=tls) as client:
            for _ in range(10):
                assert client.echo(b"x") == b"x"
            client.submit(Submission("f", b"x"))
        for sock in stalled:
            with suppress(ConnectionError):
                assert sock.recv(1) == b""
        wait_until(lambda: len(server.admin("workers")) == 1, LIMIT, "the end of all")


def test_versions_before_1_2_are_not_spoken(certificates: Certificates) -> None:
    for context in (certificates.context(), certificates.for_server().context()):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_RENEGOTIATION


# --- what docs/security.md says of stunnel -------------------------------------------------------------------


def documented(section: str, **changed: str) -> str:
    """The stunnel.conf of the page that has this section, with some of its values changed."""
    found = re.findall(r"^```ini\n(.*?)^```$", (ROOT / "docs" / "security.md").read_text(), re.MULTILINE | re.DOTALL)
    (text,) = [one for one in found if f"[{section}]" in one]
    for name, value in changed.items():
        text, count = re.subn(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
        assert count == 1, name
    return re.sub(r"^key = .*\n", "", text, flags=re.MULTILINE)  # the tests have both in one file


def test_the_documented_set_up_with_stunnel(tmp_path: Path, certificates: Certificates) -> None:
    """gearmand behind stunnel, gtask on one side of it, and on the other a program that knows no TLS."""
    require("gearmand", package="gearman-job-server")
    gearman = require("gearman", package="gearman-tools")
    program = require("stunnel4", package="stunnel4")
    outer, inner = free_port(), free_port()
    with gearmand() as server, ExitStack() as stack:
        for name, text in (
            ("server", documented("gearmand", accept=f"127.0.0.1:{outer}", connect=f"127.0.0.1:{server.port}",
                                  cert=certificates.server, CAfile=certificates.ca)),
            ("client", documented("jobs", accept=f"127.0.0.1:{inner}", connect=f"127.0.0.1:{outer}",
                                  cert=certificates.client, CAfile=certificates.ca, checkHost="localhost")),
            ("wrong", documented("jobs", accept=f"127.0.0.1:{(wrong := free_port())}", connect=f"127.0.0.1:{outer}",
                                 cert=certificates.client, CAfile=certificates.ca, checkHost="jobs.example")),
        ):  # fmt: skip
            file = tmp_path / f"{name}.conf"
            file.write_text(text)
            stack.enter_context(Program([program, str(file)])).wait_for_line("Configuration successful", LIMIT)
        made = Secure(
            "gearmand", f"gearmans://127.0.0.1:{outer}", certificates.for_client(certificates.client), tmp_path
        )
        (tmp_path / "app.py").write_text("from gtask import App\napp = App('a')\n@app.task\ndef shout(text: str): "
                                         "return text.upper()\n")  # fmt: skip
        with worker("app:app", cwd=tmp_path, env=made.environment):
            command = [gearman, "-h", "127.0.0.1", "-f", "shout"]
            done = subprocess.run(
                [*command, "-p", str(inner), "hello"], capture_output=True, text=True, timeout=LIMIT, check=True
            )
            assert done.stdout.strip('"\n') == "HELLO"
            # The server's certificate is for another name than this one asks for.
            done = subprocess.run(
                [*command, "-p", str(wrong), "-t", "3000", "hello"], capture_output=True, text=True, timeout=LIMIT
            )
            assert "HELLO" not in done.stdout


# --- faults --------------------------------------------------------------------------------------------------


def test_faults_below_tls_are_survived(tmp_path: Path, certificates: Certificates) -> None:
    """Single bytes, a cut, a reset, a corrupted record, a stall: calls go on, and nothing of it is taken for data."""
    tls = certificates.for_client()
    options = [f"--tls-cert={certificates.server}"]
    with job_server(*options, db=tmp_path / "queue.db", results=tmp_path / "results.db", tls=tls) as server:
        with FaultProxy(server.server) as proxy:
            made = Secure("gtask", str(Server(proxy.host, proxy.port, True)), tls, tmp_path)
            with made.worker("thread"), made.app() as app:
                app.settings = replace(app.settings, request_timeout=3.0)
                add = app.tasks["add"]
                number = 0

                def works() -> None:
                    nonlocal number
                    number += 1
                    assert add.delay(number, 1).get(timeout=LIMIT) == number + 1
                    assert add.call(number, 2) == number + 2

                works()
                proxy.split()
                works()
                for fault in (proxy.cut, lambda: proxy.cut(reset=True), proxy.corrupt):
                    fault()
                    works()
                    proxy.heal()
                    works()
                proxy.stall()
                with pytest.raises(NetworkError):
                    add.delay(1, 1)
                proxy.heal()
                works()
