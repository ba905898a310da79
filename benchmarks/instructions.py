"""`python -m benchmarks.instructions`: how many machine instructions codec, messages and engine take for each job.

Instructions, not seconds: valgrind counts them, and two runs of the same code differ by a few in ten thousand, however
busy the machine is. So a change that makes the hot path dearer shows in CI, with a tolerance, and nothing else does.

The cases run in one process under callgrind. Between two of them it calls `getppid`, at which callgrind writes down
what it has counted and starts anew. `REFERENCE` is plain Python without gtask; what it costs more or less than when
the figures were kept is another build of Python, and the other counts are set off against it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.tables import align
from gtask.message import Message, decode_message, encode_message, new_task_id, wire_unique
from gtask.protocol import ClientProtocol, Decoder, PacketType, WorkerProtocol
from gtask.protocol.codec import encode_request, encode_response
from gtask.protocol.server import ServerProtocol
from gtask.server.engine import Engine
from gtask.server.jobs import Peer
from gtask.types import Submission

ROOT: Final = Path(__file__).resolve().parents[1]
BASELINE: Final = Path(__file__).with_name("instructions.json")

JOBS: Final = 200
"""How many jobs each case handles."""

TOLERANCE: Final = 0.10
"""The part by which a count may grow before that is a failure; it holds other versions of msgpack too."""

REFERENCE: Final = "reference"

T = PacketType
NAME: Final = "billing.calculate"
IDS: Final = [new_task_id(NAME, b"%012d" % number) for number in range(JOBS)]
WORKLOADS: Final = [encode_message(Message(id, NAME, (7,), {"currency": "EUR"})) for id in IDS]
SUBMISSIONS: Final = [
    Submission(NAME, workload, unique=wire_unique(id), background=True)
    for id, workload in zip(IDS, WORKLOADS, strict=True)
]
HANDLES: Final = [b"H:host:%d" % number for number in range(JOBS)]


def reference() -> None:
    """Plain Python: what the other cases are made of, without gtask."""
    found: dict[bytes, tuple[int, bytes]] = {}
    for number in range(10 * JOBS):
        key = b"%d" % number
        found[key] = (number, b"\0".join((key, b"data")))
    for key in list(found):
        found.pop(key)[1].split(b"\0", 1)


def encode_packets() -> None:
    """A caller's packets."""
    for id, workload in zip(IDS, WORKLOADS, strict=True):
        encode_request(T.SUBMIT_JOB_BG, NAME.encode(), id.encode(), workload)


_ASSIGNED: Final = b"".join(
    encode_response(T.JOB_ASSIGN_UNIQ, handle, NAME.encode(), id.encode(), workload)
    for handle, id, workload in zip(HANDLES, IDS, WORKLOADS, strict=True)
)
_REQUESTS: Final = b"".join(
    encode_request(T.SUBMIT_JOB_BG, NAME.encode(), id.encode(), workload)
    for id, workload in zip(IDS, WORKLOADS, strict=True)
)


def decode_packets() -> None:
    """A worker's packets, many at once."""
    Decoder().feed(_ASSIGNED)


def decode_requests() -> None:
    """The same many at once on the job server's side."""
    ServerProtocol().receive_data(_REQUESTS)


def encode_messages() -> None:
    """A task's call becomes a message."""
    for id in IDS:
        encode_message(Message(id, NAME, (7,), {"currency": "EUR"}))


def decode_messages() -> None:
    """A message becomes a task's call."""
    for workload in WORKLOADS:
        decode_message(NAME, workload)


_CREATED: Final = b"".join(encode_response(T.JOB_CREATED, handle) for handle in HANDLES)


def client_conversation() -> None:
    """A caller submits in bulk, and hears of each."""
    client = ClientProtocol()
    for submission in SUBMISSIONS:
        client.submit(submission)
    client.data_to_send()
    client.receive_data(_CREATED)


def worker_conversation() -> None:
    """A worker grabs, gets and ends jobs."""
    worker = WorkerProtocol()
    worker.can_do(NAME)
    worker.grab(JOBS)
    worker.receive_data(_ASSIGNED)
    for handle in HANDLES:
        worker.complete(handle, b"")
    worker.data_to_send()


def engine() -> None:
    """The job server's brain takes jobs, gives them out and lets them end."""
    server, caller, worker = Engine(), Peer(), Peer()
    for peer in (caller, worker):
        server.connected(peer, 0.0)
    handle_all(server, worker, encode_request(T.CAN_DO, NAME.encode()))
    handle_all(server, caller, _REQUESTS)
    handle_all(server, worker, encode_request(T.GRAB_JOB_UNIQ) * JOBS)
    handle_all(server, worker, b"".join(encode_request(T.WORK_COMPLETE, each, b"") for each in list(worker.running)))
    if server.queued or server.running:
        raise RuntimeError("The engine did not end all jobs.")


def handle_all(server: Engine, peer: Peer, data: bytes) -> None:
    """Gives the engine what a peer has sent."""
    server.handle_all(peer, ServerProtocol().receive_data(data), 1.0)


CASES: Final[dict[str, Callable[[], None]]] = {
    REFERENCE: reference,
    "encode packets": encode_packets,
    "decode packets": decode_packets,
    "decode requests": decode_requests,
    "encode messages": encode_messages,
    "decode messages": decode_messages,
    "client conversation": client_conversation,
    "worker conversation": worker_conversation,
    "engine": engine,
}


def run() -> None:
    """Under callgrind: every case once to warm up, then once between two calls of `getppid`."""
    for case in CASES.values():
        case()
    gc.collect()
    gc.disable()
    for case in CASES.values():
        os.getppid()
        case()
    os.getppid()


def count(folder: Path) -> dict[str, int]:
    """Runs the cases under callgrind and returns the instructions that each takes for one job."""
    out = folder / "counted"
    tool = ["valgrind", "--tool=callgrind", "--dump-before=getppid", f"--callgrind-out-file={out}"]
    command = [*tool, sys.executable, "-m", "benchmarks.instructions", "--run"]
    env = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONMALLOC": "pymalloc"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    # Part 1 is what was before the first case; what comes after the last one has no number.
    parts = [folder / f"counted.{number}" for number in range(2, len(CASES) + 2)]
    return {name: _total(part) // JOBS for name, part in zip(CASES, parts, strict=True)}


def _total(part: Path) -> int:
    found = re.search(r"^totals: (\d+)$", part.read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"Callgrind counted nothing in {part}.")
    return int(found[1])


def key() -> str:
    """What counts are compared within: Python's minor version, and the processor's instruction set."""
    return f"{platform.python_implementation()} {sys.version_info.major}.{sys.version_info.minor} {platform.machine()}"


def changes(now: Mapping[str, int], kept: Mapping[str, int]) -> Iterator[tuple[str, int, int, float]]:
    """Each case: its count, what it is expected to be, and the part by which it has grown."""
    build = now[REFERENCE] / kept[REFERENCE]
    for name in CASES:
        if name in kept:
            expected = round(kept[name] * build)
            yield name, now[name], expected, now[name] / expected - 1


def report(now: Mapping[str, int], kept: Mapping[str, int]) -> str:
    """The counts as a table."""
    lines = [["instructions for each job", "now", "expected", "change"]]
    for name, counted, expected, change in changes(now, kept):
        lines.append([name, f"{counted:,}", f"{expected:,}", f"{change:+.1%}"])
    return align(lines, 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the options, counts and compares; 1 when something has become dearer than the tolerance."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--update", action="store_true", help="keep these counts as those to compare with")
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.run:
        run()
        return 0
    with tempfile.TemporaryDirectory(prefix="gtask-instructions-") as folder:
        now = count(Path(folder))
    kept = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    if given.update or key() not in kept:
        kept[key()] = now
        if given.update:
            BASELINE.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")
    print(report(now, kept[key()]))
    dearer = [name for name, _, _, change in changes(now, kept[key()]) if change > TOLERANCE]
    if dearer:
        print(
            f"Dearer by more than {TOLERANCE:.0%}: {', '.join(dearer)}. Make it cheaper, or keep the new count with "
            "`python -m benchmarks.instructions --update` and say in the commit what it buys."
        )
    return 1 if dearer else 0


if __name__ == "__main__":
    sys.exit(main())
