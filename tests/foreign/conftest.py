"""A job server of each kind with a gtask worker, and the programs of other languages around it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from examples.settlement.orders import Order, generate
from examples.settlement.smtp_sink import SmtpSink
from gtask.testing.processes import JobServerProgram, gearmand, job_server, worker
from gtask.testing.programs import Program, wait_until
from gtask.testing.requirements import require
from tests.foreign.peers import Peers, make

ROOT = Path(__file__).resolve().parents[2]
SETTLEMENT = ROOT / "examples" / "settlement"
FOREIGN = ROOT / "examples" / "foreign"
LIMIT = 60.0
"""Seconds that a program or an answer may take; only a hanging one takes nearly as long."""


@dataclass
class House:
    """A job server, a gtask worker that serves `tests.foreign.peers`, and the same app as a caller."""

    server: JobServerProgram
    worker: Program
    peers: Peers
    stack: ExitStack
    programs: dict[str, Program] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """The job server as ``host:port``."""
        return f"{self.server.host}:{self.server.port}"

    def run(self, *command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a program to its end, in the repository's folder."""
        return subprocess.run(command, input=stdin, capture_output=True, text=True, cwd=ROOT, timeout=LIMIT)

    def php(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs the PHP client of the settlement example."""
        php = require("php", "-r", "exit(extension_loaded('gearman') ? 0 : 1);", package="php-gearman")
        return self.run(php, str(SETTLEMENT / "php" / "client.php"), f"--server={self.address}", *arguments)

    def perl(self, *arguments: str, stdin: str) -> subprocess.CompletedProcess[str]:
        """Runs the Perl client."""
        perl = require("perl", "-MGearman::Client", "-e1", package="libgearman-client-perl")
        return self.run(perl, str(FOREIGN / "client.pl"), f"--server={self.address}", *arguments, stdin=stdin)

    def gearman(self, *arguments: str, stdin: str) -> subprocess.CompletedProcess[str]:
        """Runs gearmand's own command-line client."""
        gearman = require("gearman", package="gearman-tools")
        host, port = self.server.host, str(self.server.port)
        return self.run(gearman, "-h", host, "-p", port, *arguments, stdin=stdin)

    def serve(self, function: str, *command: str) -> Program:
        """Starts a foreign worker once per house, and returns when the job server knows that it serves `function`."""
        if function not in self.programs:
            program = self.stack.enter_context(Program(command, cwd=ROOT))
            self.programs[function] = program
            wait_until(lambda: self.serves(function), LIMIT, f"{' '.join(command)}: {function}")
        return self.programs[function]

    def serves(self, function: str) -> bool:
        """Whether any worker has offered this function."""
        rows = (line.split("\t") for line in self.server.admin("status"))
        return any(row[0] == function and int(row[3]) > 0 for row in rows)

    def serve_send(self, sink: SmtpSink) -> None:
        """Starts the PHP worker that mails settlements."""
        php = require("php", "-r", "exit(extension_loaded('gearman') ? 0 : 1);", package="php-gearman")
        script = SETTLEMENT / "php" / "send_worker.php"
        self.serve("send", php, str(script), f"--server={self.address}", f"--smtp={sink.address}")

    def serve_php(self) -> None:
        """Starts the PHP worker of the tests."""
        php = require("php", "-r", "exit(extension_loaded('gearman') ? 0 : 1);", package="php-gearman")
        self.serve("php_returns_nothing", php, str(Path(__file__).with_name("peers.php")), self.address)

    def serve_letter(self) -> None:
        """Starts the Perl worker that writes letters."""
        perl = require("perl", "-MGearman::Worker", "-e1", package="libgearman-client-perl")
        self.serve("letter", perl, str(FOREIGN / "worker.pl"), f"--server={self.address}")

    def serve_upper(self) -> None:
        """Starts gearmand's own command-line worker, with `tr` for a body."""
        gearman = require("gearman", package="gearman-tools")
        host, port = self.server.host, str(self.server.port)
        self.serve("upper", gearman, "-h", host, "-p", port, "-w", "-f", "upper", "--", "tr", "a-z", "A-Z")


@pytest.fixture(scope="module", params=["gtask", "gearmand"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Each job server in turn, one per module of tests."""
    folder = tmp_path_factory.mktemp("house")
    with ExitStack() as stack:
        options: tuple[str, ...] = ()
        if request.param == "gtask":
            server = stack.enter_context(job_server(db=folder / "queue.db", results=folder / "results.db"))
        else:
            require("gearmand", package="gearman-job-server")
            # Without --exceptions a caller that does not ask for exceptions, such as the gearman tool, gets WORK_FAIL
            # with a broken handle and waits for ever (protocol reference, section 15).
            server = stack.enter_context(gearmand("--exceptions"))
            options = (f"--with-results={folder / 'results.db'}",)
        serving = worker("tests.foreign.peers:app", *options, cwd=ROOT, servers=server.url)
        program = stack.enter_context(serving)
        peers = make(server.url)
        stack.enter_context(peers.app)
        yield House(server, program, peers, stack)


@pytest.fixture(scope="module")
def sink() -> Iterator[SmtpSink]:
    """A mail server."""
    with SmtpSink() as server:
        yield server


@pytest.fixture(scope="session")
def orders() -> list[Order]:
    """A small month of one merchant."""
    return list(generate("M001", 50))


@pytest.fixture(scope="session")
def orders_json(orders: list[Order]) -> str:
    """The same, as a foreign caller sends it."""
    return json.dumps(orders)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    """Writes a text into orders.json and returns its path."""

    def written(text: str) -> str:
        path = tmp_path / "orders.json"
        path.write_text(text)
        return str(path)

    return written
