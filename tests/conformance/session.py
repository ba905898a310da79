"""What a script of the conformance suite is written with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from gtask.protocol.packets import PacketType as T
from tests.conformance.targets import Received, Talker, Target


class Assigned(NamedTuple):
    """A job as a worker got it."""

    handle: bytes
    function: bytes
    unique: bytes
    data: bytes


@dataclass
class Session:
    """One run of one script against one target; `f` is a function name that only this script uses."""

    target: Target
    f: bytes

    def peer(self) -> Talker:
        """A connection."""
        return self.target.connect()

    def worker(self, *functions: bytes) -> Talker:
        """A connection that can do the script's function, or those named."""
        worker = self.peer()
        for function in functions or (self.f,):
            worker.send(T.CAN_DO, function)
        assert worker.collect() == []
        return worker

    def submit(
        self, peer: Talker, data: bytes = b"data", unique: bytes = b"", type: T = T.SUBMIT_JOB_BG, f: bytes = b""
    ) -> bytes:
        """Submits a job and returns its handle; the JOB_CREATED must be the next packet."""
        answer = peer.ask(type, f or self.f, unique, data)
        assert answer[0] == T.JOB_CREATED, answer
        return answer[1][0]

    def grab(self, worker: Talker) -> Assigned:
        """Grabs a job, which must be there."""
        answer = worker.ask(T.GRAB_JOB_UNIQ)
        assert answer[0] == T.JOB_ASSIGN_UNIQ, answer
        return Assigned(*answer[1])

    def drain(self, worker: Talker) -> list[bytes]:
        """Grabs and completes until there is nothing, and returns the jobs' data."""
        found = []
        while (answer := worker.ask(T.GRAB_JOB_UNIQ))[0] == T.JOB_ASSIGN_UNIQ:
            found.append(answer[1][3])
            worker.send(T.WORK_COMPLETE, answer[1][0], b"")
        assert answer[0] == T.NO_JOB, answer
        return found

    def sleep(self, worker: Talker) -> None:
        """PRE_SLEEP, and nothing comes."""
        worker.send(T.PRE_SLEEP)
        assert worker.collect() == []

    def status(self) -> tuple[int, int, int] | None:
        """Total, running and workers of the script's function."""
        for line in self.peer().listing(b"status"):
            name, *numbers = line.split(b"\t")
            if name == self.f:
                total, running, workers = map(int, numbers)
                return total, running, workers
        return None

    def known(self, handle: bytes) -> bool:
        """Whether the server still knows a job."""
        return self.peer().ask(T.GET_STATUS, handle)[1][1] == b"1"


def error(code: bytes, text: bytes) -> Received:
    """An ERROR packet."""
    return T.ERROR, (code, text)


RESULT_NOT_FOUND = error(b"JOB_NOT_FOUND", b"Job given in work result not found")


@dataclass(frozen=True)
class Script:
    """One script: what it is called, the section of the protocol reference, the server it needs."""

    name: str
    section: str
    run: Callable[[Session], None]
    options: tuple[tuple[str, int], ...] = field(default=())


SCRIPTS: list[Script] = []


def script(section: str, **options: int) -> Callable[[Callable[[Session], None]], Callable[[Session], None]]:
    """Registers a script. `options` are those of the server (`job_retries`, `exceptions`), `own` one of its own."""

    def register(run: Callable[[Session], None]) -> Callable[[Session], None]:
        name = getattr(run, "__name__", "")
        assert all(other.name != name for other in SCRIPTS), name
        SCRIPTS.append(Script(name, section, run, tuple(sorted(options.items()))))
        return run

    return register
