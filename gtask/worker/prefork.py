"""The supervisor: forks the processes of a worker, replaces those that die, and ends them in order.

It forks before any thread or loop exists, and holds no connection of its own. A process that dies takes its
connections with it, so its jobs are the job server's again without anybody's help (design, section 7).

Signals: SIGTERM and SIGINT end it after what runs has finished, within `grace` seconds; a second one, or SIGQUIT, gives
the jobs back at once; SIGHUP replaces the processes one at a time.
"""

from __future__ import annotations

import atexit
import logging
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NoReturn

from gtask.worker.ledger import Ledger
from gtask.worker.marks import MarkTable
from gtask.worker.watch import Due, Watch

log = logging.getLogger("gtask.worker")

QUICK_DEATH: Final = 1.0
"""Seconds below which the life of a process that ended by itself, or never served, counts as a failed start."""

MAX_PAUSE: Final = 30.0
"""Seconds before a process that dies at once is started again, at most."""

TWICE: Final = 1.0
"""Seconds after which a second SIGTERM is a second order."""

LOOK: Final = 0.25
"""Seconds between two looks for jobs that are beyond their time limit."""

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD)
"""What the supervisor listens to."""

LAST_GRACE: Final = 10.0
"""Seconds the housekeeping processes get to finish after the others are gone."""


@dataclass(frozen=True)
class Role:
    """One kind of process: how many of it, and its `main`. Roles end in the order of `last`: False before True."""

    name: str
    count: int
    main: Callable[[Child], None]
    last: bool = False
    slots: int = 0
    """Jobs that a process of this role runs at once, each noted in the ledger."""
    stops: Literal["killed", "spared", "itself"] = "killed"
    """What becomes of a process when a task that it runs is revoked: it is killed, or it is spared since it runs others
    beside it and cannot stop one, or it stops the task itself."""


class Child:
    """What a forked process knows of its supervisor."""

    def __init__(self, role: str, index: int, slots: range, supervisor_pipe: int, ready_pipe: int) -> None:
        self.role = role
        self.index = index
        self.slots = slots
        """The places of the ledger that are this process's own."""
        self.supervisor_pipe = supervisor_pipe
        """Becomes readable when the supervisor is gone, however it went."""
        self._ready_pipe = ready_pipe

    def ready(self) -> None:
        """Tells the supervisor, once, that this process serves."""
        if self._ready_pipe >= 0:
            pipe, self._ready_pipe = self._ready_pipe, -1
            os.write(pipe, b"%d\n" % os.getpid())
            os.close(pipe)


class _Process:
    __slots__ = ("index", "overdue", "ready", "replaces", "role", "slots", "started", "stopping")

    def __init__(self, role: Role, index: int, slots: range, replaces: int = 0) -> None:
        self.role = role
        self.index = index
        self.slots = slots
        self.overdue = ""
        self.started = time.monotonic()
        self.ready = False
        self.stopping = False
        self.replaces = replaces


class Supervisor:
    """Runs the processes of `roles` until it is told to stop.

    `grace` is the time in seconds for what runs to finish after SIGTERM; `on_ready` is called when every process
    serves for the first time. With a `ledger` (of `ledger_size(roles)` slots) it blames jobs for the death of their
    process, and kills the processes of those that run beyond their time limit, or were revoked according to `marks`.
    """

    def __init__(
        self,
        roles: Sequence[Role],
        grace: float = 60.0,
        on_ready: Callable[[], None] | None = None,
        ledger: Ledger | None = None,
        marks: MarkTable | None = None,
    ) -> None:
        self._ledger = ledger
        self._watch = None if ledger is None else Watch(ledger, marks)
        self._free_slots: dict[Role, list[range]] = {}
        start = 0
        for role in roles:
            ranges = [range(start + n * role.slots, start + (n + 1) * role.slots) for n in range(2 * role.count)]
            self._free_slots[role] = ranges
            start += 2 * role.count * role.slots
        self._roles = [role for role in roles if role.count > 0]
        self._grace = grace
        self._on_ready = on_ready
        self._processes: dict[int, _Process] = {}
        self._signals: list[int] = []
        self._stop_at = 0.0
        self._told_at = 0.0
        self._quit = False
        self._failures = 0
        self._start_later: list[tuple[float, Role, int, int]] = []
        self._to_replace: list[int] = []
        self._text = b""

    def run(self) -> int:
        """Forks, watches, and returns the exit code: 0 after an orderly end."""
        self._alive_reader, self._alive_writer = os.pipe()
        self._ready_reader, self._ready_writer = os.pipe()
        wake_reader, wake_writer = os.pipe()
        for descriptor in (self._ready_reader, wake_reader, wake_writer):
            os.set_blocking(descriptor, False)
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        old_wakeup = signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        self._own = (self._alive_writer, self._ready_reader, wake_reader, wake_writer)
        try:
            for role in self._roles:
                for index in range(role.count):
                    self._fork(role, index)
            while self._processes or self._start_later:
                select.select([wake_reader, self._ready_reader], [], [], self._pause())
                _drain(wake_reader)
                self._read_ready()
                self._reap()
                self._enforce()
                self._obey()
                self._start_due()
                self._advance()
        finally:
            signal.set_wakeup_fd(old_wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            for descriptor in (*self._own, self._alive_reader, self._ready_writer):
                os.close(descriptor)
        return 0

    # --- processes -------------------------------------------------------------------------------------------

    def _fork(self, role: Role, index: int, replaces: int = 0) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        # Twice as many as there are processes, since a new one may start before the one it replaces has ended.
        slots = self._free_slots[role].pop() if self._free_slots[role] else range(0)
        # Until the child has handlers of its own a signal waits, or its copy of this process's would swallow it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._be_child(role, index, slots, mask)
            self._processes[pid] = _Process(role, index, slots, replaces)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _be_child(self, role: Role, index: int, slots: range, mask: Iterable[int]) -> NoReturn:
        code = 1
        try:
            # What the parent registered to be done at its exit is not this process's to do; what this one registers is.
            atexit._clear()
            signal.set_wakeup_fd(-1)
            # A terminal sends its signals to the whole group; what they mean is the supervisor's to say.
            for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            for number in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for descriptor in self._own:
                os.close(descriptor)
            role.main(Child(role.name, index, slots, self._alive_reader, self._ready_writer))
            code = 0
        except KeyboardInterrupt:
            pass
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            try:
                atexit._run_exitfuncs()
                logging.shutdown()
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)

    def _reap(self) -> None:
        for pid in list(self._processes):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found == pid:
                self._buried(pid, status)

    def _buried(self, pid: int, status: int) -> None:
        process = self._processes.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        blamed = self._settle(process)
        if self._ledger is not None and (code or blamed):
            self._ledger.died_at = time.time()
        self._free_slots[process.role].append(process.slots)
        if process.stopping or self._stop_at:
            too_young = code == -signal.SIGTERM and not process.ready
            if code < 0 and not (self._quit or process.overdue or too_young):
                log.warning("Process %d (%s) was ended by %s.", pid, process.role.name, signal.Signals(-code).name)
            return
        if process.overdue:
            self._start_again(process, pid)
            return
        if code < 0:
            log.error(
                "Process %d (%s) was killed by %s%s; what it held goes back to the job server, and a new one starts.",
                pid,
                process.role.name,
                signal.Signals(-code).name,
                blamed,
            )
        elif code or blamed:
            name = process.role.name
            log.error("Process %d (%s) ended with exit code %d%s; a new one starts.", pid, name, code, blamed)
        pause = 0.0
        # One that was killed while it served is replaced at once: what killed it is counted against its job.
        if (code > 0 or not process.ready) and time.monotonic() - process.started < QUICK_DEATH and code:
            self._failures += 1
            pause = min(MAX_PAUSE, 0.5 * 2 ** min(self._failures, 10))
        else:
            self._failures = 0
        self._start_again(process, pid, pause)

    def _start_again(self, process: _Process, pid: int, pause: float = 0.0) -> None:
        """Plans another process in place of one that died, unless one is on its way to replace it already."""
        heirs = [other for other in self._processes.values() if other.replaces == pid]
        for heir in heirs:
            heir.replaces = 0
        for place, (when, role, index, replaces) in enumerate(self._start_later):
            if replaces == pid:
                self._start_later[place] = (when, role, index, 0)
                return
        if not heirs:
            entry = (time.monotonic() + pause, process.role, process.index, process.replaces)
            self._start_later.append(entry)

    def _settle(self, process: _Process) -> str:
        """Blames the jobs that a process was running when it died, unless it was killed for a reason of ours.

        Returns words about them for the log.
        """
        if self._ledger is None or not process.slots:
            return ""
        running = self._ledger.running(process.slots)
        blamed: list[str] = []
        if not (process.overdue or self._quit):
            blamed = [f"{job} (crash {self._ledger.blame(job)} of it here)" for job in running]
        self._ledger.clear(process.slots)
        if not blamed:
            return ""
        return f" while it ran {', '.join(blamed)}"

    def _enforce(self) -> None:
        """Kills the processes whose job has run beyond its hard time limit, or was revoked."""
        for due in self._watch.due(time.monotonic()) if self._watch is not None else ():
            for pid, process in self._processes.items():
                if due.job.slot in process.slots and not process.overdue:
                    self._stop_job(due, pid, process)

    @staticmethod
    def _stop_job(due: Due, pid: int, process: _Process) -> None:
        if due.late or process.role.stops == "killed":
            process.overdue = due.job.unique
            log.log(logging.ERROR if due.late else logging.WARNING, "%s %s: its process %d is replaced.", *due[:2], pid)
            os.kill(pid, signal.SIGKILL)
        elif process.role.stops == "spared":
            log.warning("%s %s, but runs in a thread, which cannot be stopped: it goes on, for nothing.", *due[:2])

    def _start_due(self) -> None:
        now = time.monotonic()
        for entry in list(self._start_later):
            if self._stop_at:
                self._start_later.remove(entry)
            elif entry[0] <= now:
                self._start_later.remove(entry)
                self._fork(*entry[1:])

    def _read_ready(self) -> None:
        self._text += _drain(self._ready_reader)
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            process = self._processes.get(int(line))
            if process is None:
                continue
            process.ready = True
            if process.replaces in self._processes:
                self._end(process.replaces)
        if self._on_ready is not None and self._processes and all(p.ready for p in self._processes.values()):
            self._on_ready()
            self._on_ready = None

    # --- orders ----------------------------------------------------------------------------------------------

    def _on_signal(self, number: int, frame: object) -> None:
        self._signals.append(number)

    def _obey(self) -> None:
        signals, self._signals = self._signals, []
        for number in signals:
            if number == signal.SIGCHLD:
                continue
            if number == signal.SIGHUP:
                log.info("Replacing the processes one at a time.")
                self._to_replace = [pid for pid, process in self._processes.items() if not process.stopping]
            elif number == signal.SIGQUIT or (self._stop_at and self._meant_twice(number)):
                self._give_back("Giving the jobs back at once.")
            elif self._stop_at:
                continue
            else:
                self._told_at = time.monotonic()
                self._stop_at = self._told_at + self._grace
                log.info("Stopping: what runs may finish within %g s; a second signal gives it back.", self._grace)

    def _meant_twice(self, number: int) -> bool:
        """Whether a second signal asks for haste: some managers send SIGTERM to a process and its group at once."""
        return number == signal.SIGINT or time.monotonic() - self._told_at > TWICE

    def _give_back(self, why: str) -> None:
        if not self._quit:
            log.warning(why)
            self._stop_at = self._stop_at or time.monotonic()
            self._quit = True
            for pid in self._processes:
                os.kill(pid, signal.SIGKILL)

    def _end(self, pid: int) -> None:
        process = self._processes[pid]
        if not process.stopping:
            process.stopping = True
            os.kill(pid, signal.SIGTERM)

    def _advance(self) -> None:
        if self._stop_at:
            first = [pid for pid, process in self._processes.items() if not process.role.last]
            for pid in first or list(self._processes):
                self._end(pid)
            if time.monotonic() > self._stop_at + (0 if first else LAST_GRACE) and self._processes:
                self._give_back(f"{len(first)} processes did not finish in time; their jobs go back.")
            return
        replacing = any(process.replaces in self._processes for process in self._processes.values())
        replacing = replacing or any(entry[3] in self._processes for entry in self._start_later)
        while self._to_replace and not replacing:
            pid = self._to_replace.pop(0)
            process = self._processes.get(pid)
            if process is not None and not process.stopping:
                self._fork(process.role, process.index, replaces=pid)
                replacing = True

    def _pause(self) -> float:
        now = time.monotonic()
        due = min((entry[0] for entry in self._start_later), default=now + 60.0)
        if self._watch is not None:
            due = min(due, self._watch.next(now, LOOK))
        if self._stop_at:
            due = min(due, self._stop_at if self._stop_at > now else now + 0.2)
        return max(0.0, due - now) + 0.001


def ledger_size(roles: Sequence[Role]) -> int:
    """How many slots the ledger of a supervisor with these roles has."""
    return sum(2 * role.count * role.slots for role in roles)


def _drain(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except BlockingIOError:
        return b""
