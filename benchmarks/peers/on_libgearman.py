"""libgearman's own client and worker in C, from `libgearman.c`, which ``$BENCH_PROGRAM`` names compiled."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import ClassVar
from urllib.parse import urlsplit

from benchmarks.peers.speech import BROKER, COMMON, Speaker

PROGRAM = "BENCH_PROGRAM"


class Peer(Speaker):
    """Each workload is one run of the program, which says how many seconds it took without its start."""

    name = "libgearman in C"
    more: ClassVar[Sequence[str]] = ("round_trip", "enqueue", "bulk", "payload")
    missing: ClassVar[Sequence[str]] = COMMON

    def __init__(self) -> None:
        address = urlsplit(os.environ[BROKER])
        self._command = [os.environ[PROGRAM], str(address.hostname), str(address.port)]

    def hello(self) -> dict[str, object]:
        """Who this is; libgearman tells its version itself."""
        version = self._run("version", 0).strip()
        return {"name": self.name, "versions": {"libgearman": version}, "can": list(self.more)}

    def workers(self, queue: str, processes: int) -> list[list[str]]:
        """The same program, with another word; a leading `!` says that it is not Python."""
        return [["!", *self._command, "work", "0"]] * processes

    def ready(self, queue: str = "main") -> float:
        """One round trip."""
        return self.round_trip(1)

    def round_trip(self, count: int) -> float:
        """`gearman_client_do`, one after the other."""
        return float(self._run("round_trip", count))

    def enqueue(self, count: int) -> float:
        """`gearman_client_do_background`, one after the other."""
        return float(self._run("enqueue", count))

    def bulk(self, count: int) -> float:
        """`gearman_client_add_task_background` and `gearman_client_run_tasks`, a thousand at once."""
        return float(self._run("bulk", count))

    def payload(self, count: int) -> float:
        """`gearman_client_do` with a MiB there and back."""
        return float(self._run("payload", count))

    def _run(self, mode: str, count: int) -> str:
        done = subprocess.run([*self._command, mode, str(count)], capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise RuntimeError(f"{' '.join(done.args)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout
