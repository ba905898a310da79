"""What takes longer to be sent than a heartbeat is not taken for a dead connection."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from gtask.testing import JobServerProgram, Program
from gtask.types import Server
from tests.faults.helpers import ROOT
from tests.faults.large_app import make
from tests.faults.test_workers import server

__all__ = ["server"]

RATE = 2_500_000
"""Bytes a second that a slow line carries towards the job server."""

SIZE = 12_000_000
"""Bytes of the answer: five seconds on that line, where two and a half without a sign of life are the end."""

PIECE = 65536
LIMIT = 60.0


class SlowLine:
    """A relay to a job server that carries `RATE` bytes a second there, and everything at once back."""

    def __init__(self, target: Server) -> None:
        self._target = target
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.accepted = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"gearman://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        """Ends all connections."""
        self._ended.set()
        for one in (self._listener, *self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.accepted += 1
                far = socket.create_connection((self._target.host, self._target.port))
                self._sockets += near, far
                for source, sink, pause in ((near, far, PIECE / RATE), (far, near, 0.0)):
                    threading.Thread(target=self._carry, args=(source, sink, pause), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, pause: float) -> None:
        with suppress(OSError):
            while data := source.recv(PIECE):
                sink.sendall(data)
                # The slowness itself, which is the fault.
                if pause and self._ended.wait(pause * len(data) / PIECE):
                    break
            sink.shutdown(socket.SHUT_WR)


@contextmanager
def slow_line(target: Server) -> Iterator[SlowLine]:
    """A slow line to a job server."""
    line = SlowLine(target)
    try:
        yield line
    finally:
        line.close()


@pytest.mark.parametrize("pool", ["prefork", "thread", "async"])
def test_a_large_answer_over_a_slow_line(server: JobServerProgram, tmp_path: Path, pool: str) -> None:
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "gtask", "worker", "tests.faults.large_app:app", "-c1", f"--pool={pool}"]
    with slow_line(server.server) as line, make(server.url) as app:
        with Program([*command, f"--servers={line.url}"], cwd=ROOT) as worker:
            worker.wait_for_line("worker ready", LIMIT)
            answer = app.tasks["big"].options(timeout=LIMIT).call(str(runs), SIZE)
            assert len(answer) == SIZE
            assert runs.read_text() == "run\n"
            assert not [one for one in worker.lines() if "does not answer" in one]
