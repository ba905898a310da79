"""Real programs under test: started in a session of their own, read line by line, and never left behind.

`Program` knows nothing of Gearman. It waits for events (a line of output, an open port, the exit) and never for
time, every wait has a limit in seconds, and what it keeps of the output is bounded.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

MAX_LINES = 20_000
"""Lines of output that are kept of one program; older ones are dropped."""

MAX_LINE = 64 * 1024
"""Bytes of one line; a longer one is cut into several."""

POLL = 0.02
"""Seconds between two looks at something that sends no event, such as a port that is not open yet."""


class ProgramFailed(AssertionError):
    """A program under test did not do what was waited for; the message ends with its last lines."""


def wait_until(condition: Callable[[], object], timeout: float = 30.0, what: str = "the condition") -> None:
    """Waits until `condition()` is true, for what has no event to wait for (a row in a file, a server's counter).

    It looks every 20 ms, for at most `timeout` seconds. Raises `TimeoutError` that names `what` when it never
    became true.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{what} did not come about within {timeout:g} s.")
        time.sleep(POLL)


def free_port(host: str = "127.0.0.1") -> int:
    """Returns a TCP port of `host` that is free now; no port is given out twice by one process.

    It is none of those that the system gives to outgoing connections: such a one may be taken before whom it was meant
    for has started, or while a server that is started again on its port is away.
    """
    for _ in range(100):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            try:
                probe.bind((host, _chance.choice(_PORTS)))
            except OSError:
                continue  # somebody has it
            port = int(probe.getsockname()[1])
        with _ports_lock:
            if port not in _ports_given:
                _ports_given.add(port)
                return port
    raise OSError(f"No free port was found on {host}.")


_PORTS = range(12_000, 32_000)
"""Below the ports of outgoing connections, which begin at 32768 on Linux and at 49152 elsewhere."""

_chance = random.SystemRandom()  # processes that were forked, or start together, do not choose alike
_ports_given: set[int] = set()  # bounded by the number of ports there are
_ports_lock = threading.Lock()


def port_is_open(host: str, port: int, timeout: float = 1.0) -> bool:
    """Says whether somebody accepts TCP connections there; waits `timeout` seconds at most."""
    try:
        socket.create_connection((host, port), timeout).close()
    except OSError:
        return False
    return True


class Output:
    """What a program has written (stdout and stderr together), read by a thread as it comes.

    Keeps the last `MAX_LINES` lines. `closed` is true once the program and its children have closed the stream,
    or `close()` was called.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._count = 0  # of all lines ever read, so that a position stays valid when old lines are dropped
        self._news = threading.Condition()
        self._stop_read, self._stop_write = os.pipe()
        self.closed = False
        self._thread = threading.Thread(target=self._read, name="gtask-program-output", daemon=True)
        self._thread.start()

    def lines(self, since: int = 0) -> list[str]:
        """Returns the kept lines without their line ends, from position `since` (see `position`) on."""
        with self._news:
            first = self._count - len(self._lines)
            return list(self._lines)[max(0, since - first) :]

    @property
    def position(self) -> int:
        """How many lines there have been so far: pass it as `since` to see only what comes after now."""
        with self._news:
            return self._count

    def wait_for(self, pattern: str, timeout: float, since: int = 0) -> re.Match[str] | None:
        """Waits for a line in which the regular expression is found; None when time or output ended first."""
        expression = re.compile(pattern)
        deadline = time.monotonic() + timeout
        with self._news:
            while True:
                first = self._count - len(self._lines)
                for line in list(self._lines)[max(0, since - first) :]:
                    if match := expression.search(line):
                        return match
                since = self._count
                remaining = deadline - time.monotonic()
                if self.closed or remaining <= 0:
                    return None
                self._news.wait(remaining)

    def close(self) -> None:
        """Ends the reading, also when a stray process still holds the stream; what was read stays readable."""
        if self._stop_write < 0:
            return  # by now these numbers may be somebody else's
        if self._thread.is_alive():
            os.write(self._stop_write, b"x")
            self._thread.join(10)
        for descriptor in (self._stop_read, self._stop_write):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._stop_read = self._stop_write = -1
        self._stream.close()

    def _read(self) -> None:
        rest = b""
        with selectors.DefaultSelector() as selector:
            source = selector.register(self._stream, selectors.EVENT_READ)
            selector.register(self._stop_read, selectors.EVENT_READ)
            while True:
                ready = [key for key, _ in selector.select()]
                data = os.read(source.fd, 65536) if source in ready else b""
                if not data:
                    break
                *whole, rest = (rest + data).split(b"\n")
                if len(rest) > MAX_LINE:
                    whole, rest = [*whole, rest], b""
                self._add(whole)
        self._add([rest] if rest else [])
        with self._news:
            self.closed = True
            self._news.notify_all()

    def _add(self, lines: list[bytes]) -> None:
        with self._news:
            for line in lines:
                self._lines.append(line[:MAX_LINE].decode(errors="replace").rstrip("\r"))
                self._count += 1
            self._news.notify_all()


class Program:
    """A program that runs in a session of its own, so that it can be ended with everything it started.

    `argv` is the command, `cwd` its folder, `env` what is added to this process's environment (None as a value
    removes a variable). Use it as a context manager: leaving it ends the program, politely first (SIGTERM, `grace`
    seconds), then by SIGKILL to whatever is left of its session.
    """

    def __init__(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str | None] | None = None,
        grace: float = 10.0,
    ) -> None:
        self.argv = [os.fspath(part) for part in argv]
        self.cwd = cwd
        self.grace = grace
        self.env = {key: value for key, value in {**os.environ, **(env or {})}.items() if value is not None}
        self._process: subprocess.Popen[bytes] | None = None
        self._output: Output | None = None

    def start(self) -> Self:
        """Starts the program; `wait_for_line` and its like say when it is ready. Returns itself."""
        if self.running:
            raise RuntimeError(f"{self.argv[0]} runs already; call stop() first.")
        if self._output is not None:
            self._output.close()
        self._process = subprocess.Popen(
            self.argv,
            cwd=self.cwd,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._output = Output(self._process.stdout)
        return self

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process itself; raises `RuntimeError` before `start()`."""
        if self._process is None:
            raise RuntimeError(f"{self.argv[0]} was not started; call start() or use it as a context manager.")
        return self._process

    @property
    def output(self) -> Output:
        """What it has written since its last start."""
        if self._output is None:
            raise RuntimeError(f"{self.argv[0]} was not started; call start() or use it as a context manager.")
        return self._output

    @property
    def pid(self) -> int:
        """The program's process id."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether the program itself is alive (its children may outlive it)."""
        return self._process is not None and self._process.poll() is None

    def lines(self, since: int = 0) -> list[str]:
        """Returns what it has written, line by line, from position `since` on."""
        return self.output.lines(since)

    def tail(self, count: int = 30) -> str:
        """Returns the last lines of output as one text, for a message."""
        return "\n".join(self.lines()[-count:])

    def wait_for_line(self, pattern: str, timeout: float = 30.0, since: int = 0) -> re.Match[str]:
        """Waits for a line of output in which the regular expression `pattern` is found, and returns the match.

        Lines from position `since` on count, those that are there already too. Raises `ProgramFailed` when the
        output ended or `timeout` seconds passed without it.
        """
        match = self.output.wait_for(pattern, timeout, since)
        if match is None:
            why = "ended its output" if self.output.closed else f"wrote for {timeout:g} s"
            raise ProgramFailed(f"{self._name} {why} without a line like {pattern!r}. Its last lines:\n{self.tail()}")
        return match

    def wait_for_port(self, host: str, port: int, timeout: float = 30.0) -> None:
        """Waits until the program's port accepts connections; `ProgramFailed` when it ends or takes longer."""
        deadline = time.monotonic() + timeout
        while not port_is_open(host, port):
            if not self.running:
                raise ProgramFailed(f"{self._name} ended with {self.exit_code}. Its last lines:\n{self.tail()}")
            if time.monotonic() >= deadline:
                raise ProgramFailed(
                    f"{self._name} did not open {host}:{port} within {timeout:g} s. Its last lines:\n{self.tail()}"
                )
            time.sleep(POLL)

    def children(self) -> list[int]:
        """Returns the process ids of its living direct children, oldest first."""
        return sorted(pid for pid, (parent, _) in _processes().items() if parent == self.pid)

    def kill(self, pid: int | None = None, signum: int = signal.SIGKILL) -> None:
        """Sends a signal to the program itself or to one process of its session; any other pid is refused."""
        pid = self.pid if pid is None else pid
        if pid == self.pid:
            self.process.send_signal(signum)
        elif pid in self._family():
            os.kill(pid, signum)
        else:
            raise ValueError(f"Process {pid} was not started by {self._name} or is gone; it gets no signal from here.")

    def terminate(self) -> None:
        """Sends SIGTERM to the program, not to its children; `wait()` gives the exit code."""
        self.process.terminate()

    def wait(self, timeout: float = 30.0) -> int:
        """Waits until it has ended and returns its exit code (negative: the signal that ended it)."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ProgramFailed(
                f"{self._name} still runs after {timeout:g} s. Its last lines:\n{self.tail()}"
            ) from None

    @property
    def exit_code(self) -> int | None:
        """The exit code, or None while it runs."""
        return self.process.poll()

    def stop(self) -> int | None:
        """Ends it and everything it started; returns the program's exit code, None when it was never started."""
        if self._process is None:
            return None
        if self.running:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self.grace)
        for pid in self._family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        code = self._process.wait(10)
        if self._output is not None:
            self._output.close()
        return code

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _name(self) -> str:
        return f"{' '.join(self.argv[:6])} (pid {self.pid})"

    def _family(self) -> list[int]:
        """The living processes of the session that `start` opened, the program included."""
        return [pid for pid, (_, session) in _processes().items() if session == self.pid]


def _processes() -> dict[int, tuple[int, int]]:
    """Parent and session of every living process, from /proc or, where there is none, from ps."""
    found: dict[int, tuple[int, int]] = {}
    if not Path("/proc/self/stat").exists():
        listing = subprocess.run(["ps", "-axo", "pid=,ppid=,sess=,state="], capture_output=True, text=True, check=True)
        rows = (row.split() for row in listing.stdout.splitlines())
        return {int(row[0]): (int(row[1]), int(row[2])) for row in rows if row[2].isdigit() and row[3][0] != "Z"}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended while we looked
                # The name in parentheses may hold spaces; what follows the last one is in fixed columns (man 5 proc).
                fields = Path(entry.path, "stat").read_text(errors="replace").rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    found[int(entry.name)] = (int(fields[1]), int(fields[3]))
    return found
