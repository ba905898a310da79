"""The whole state of the job server and the few moves everything else is made of. Pure.

The moves keep the tables consistent; the rules that call them are in `submit`, `grab`, `work` and `admin`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from gtask.server import answers
from gtask.server.effects import Effect, Forget, Send
from gtask.server.jobs import ENDED, QUEUED, RUNNING, WAITING, Function, Job, Peer
from gtask.server.timers import Timers

WAKE_AGAIN: Final = 1.0
"""Seconds after which a woken worker that grabbed nothing is given up on, and another is woken."""

IDLE_FUNCTIONS: Final = 10_000
"""Functions that are kept although nothing uses them any more."""

MAX_FUNCTIONS: Final = 20_000
"""Functions there may be unless the settings say otherwise; each takes about 3 KiB."""

MAX_ABILITIES: Final = 2_000
"""Functions one connection may offer unless the settings say otherwise; whatever it asks, all of them are looked at."""

MAX_MEMORY: Final = 1024 * 1024 * 1024
"""Bytes jobs may take unless the settings say otherwise."""

SWEEP_AGAIN: Final = 1.0
"""Seconds between two looks for idle functions while there is no room for another."""


class Settings(NamedTuple):
    """What an engine is told from outside. `prefix` starts every handle and must differ after each start.

    `max_memory` is how many bytes all jobs may take, `max_functions` how many functions there may be, `max_abilities`
    how many of them one connection may offer.
    """

    prefix: bytes = b"H:gtask:0"
    job_retries: int = 0
    exceptions: bool = False
    version: str = "gtask"
    pid: int = 0
    verbosity: str = "INFO"
    max_memory: int = MAX_MEMORY
    max_functions: int = MAX_FUNCTIONS
    max_abilities: int = MAX_ABILITIES


class State:
    """Everything the job server knows.

    `now` is the time of the request in hand, in seconds of the caller's clock; `epoch` is the Unix time at which that
    clock showed 0. `effects` collects what is to be done. `held` is how many bytes all jobs take. `spent` is how much
    work the requests in hand have made beyond a little for each, in microseconds or so.
    """

    __slots__ = (
        "counter",
        "draining",
        "effects",
        "epoch",
        "functions",
        "held",
        "jobs",
        "later",
        "limits",
        "now",
        "peers",
        "running",
        "settings",
        "spent",
        "sweep_at",
        "sweep_next",
        "woken",
    )

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.now = 0.0
        self.epoch = 0.0
        self.effects: list[Effect] = []
        self.functions: dict[bytes, Function] = {}
        self.jobs: dict[bytes, Job] = {}
        self.peers: dict[Peer, None] = {}
        self.counter = 0
        self.running = 0
        self.draining = False
        self.held = 0
        self.spent = 0
        self.sweep_at = IDLE_FUNCTIONS
        self.sweep_next = float("-inf")
        self.woken: OrderedDict[Peer, float] = OrderedDict()
        self.later = Timers()
        """Epoch jobs, by Unix time."""
        self.limits = Timers()
        """Running jobs with a time limit, by the caller's clock."""

    # --- functions and jobs ----------------------------------------------------------------------------------

    def function(self, name: bytes) -> Function:
        """The function of this name, made if it is new."""
        function = self.functions.get(name)
        if function is None:
            if len(self.functions) >= self.sweep_at:
                self.sweep()
            function = self.functions[name] = Function(name)
        return function

    def has_room(self, name: bytes) -> bool:
        """Whether a function of this name is there, or may be made."""
        most = self.settings.max_functions
        if len(self.functions) < most or name in self.functions:
            return True
        if self.now >= self.sweep_next:
            self.sweep_next = self.now + SWEEP_AGAIN
            self.sweep()
        return len(self.functions) < most

    def sweep(self) -> None:
        """Forgets the functions that nothing uses."""
        self.functions = {key: value for key, value in self.functions.items() if not value.idle}
        self.sweep_at = max(IDLE_FUNCTIONS, 2 * len(self.functions))

    def new_job(self, function: Function, unique: bytes, data: bytes, priority: int) -> Job:
        """A job with a fresh handle, in the tables but not in a queue yet."""
        self.counter += 1
        handle = b"%b:%d" % (self.settings.prefix, self.counter)
        job = Job(handle, function, unique, data, priority)
        self.jobs[handle] = job
        self.held += job.size
        if unique:
            function.index(job)
        return job

    def enqueue(self, job: Job) -> None:
        """Puts a job at the tail of its queue, or lets it wait for its time, and wakes one who can run it."""
        if job.when and job.when > self.now + self.epoch:
            job.state = WAITING
            job.function.waiting += 1
            self.later.set(job, job.when)
            return
        function = job.function
        function.push(job)
        if function.sleepers and function.ready > function.pending:
            self.wake(function)

    def end(self, job: Job) -> None:
        """Takes a job out of all tables, whatever its state, and has its row deleted."""
        function = job.function
        self.held -= job.size
        if job.state == QUEUED:
            function.unindex(job)
            function.drop(job)
        else:
            if job.state == RUNNING:
                self.release(job)
            elif job.state == WAITING:
                function.waiting -= 1
            if job.timer is not None:
                self.later.cancel(job)
            if job.unique:
                function.unindex(job)
        job.state = ENDED
        self.jobs.pop(job.handle, None)
        if job.clients:
            self.detach(job)
        if job.background:
            self.effects.append(Forget(job))

    def release(self, job: Job) -> None:
        """Takes a running job off its worker; the caller says what becomes of it."""
        worker = job.worker
        assert worker is not None
        del worker.running[job.handle]
        job.worker = None
        job.function.running -= 1
        self.running -= 1
        if job.timer is not None:
            self.limits.cancel(job)

    def detach(self, job: Job) -> None:
        """Lets nobody wait for the job any more."""
        for client in job.clients:
            client.waiting.pop(job, None)
        job.clients = ()

    def fail(self, job: Job) -> None:
        """Ends a job that cannot be run: its callers get WORK_FAIL, whatever their options."""
        packet = answers.fail(job.handle)
        self.effects.extend([Send(client, packet) for client in job.clients])
        self.end(job)

    def lose(self, job: Job) -> None:
        """The connection that ran the job is gone: to the tail of its queue, or out (protocol reference, 13)."""
        self.release(job)
        job.retries += 1
        job.numerator = job.denominator = 0
        # Not running and not queued: `end` has nothing more to undo for it.
        job.state = ENDED
        limit = self.settings.job_retries
        if job.ignored:
            self.end(job)
        elif limit and job.retries >= limit:
            self.fail(job)
        else:
            job.when = 0
            self.enqueue(job)

    def abandon(self, job: Job) -> None:
        """Lets a running job come to nothing: it is cancelled, and its worker cannot be told."""
        packet = answers.fail(job.handle)
        self.effects.extend([Send(client, packet) for client in job.clients])
        self.detach(job)
        job.function.unindex(job)
        if job.background and not job.cancelled:
            self.effects.append(Forget(job))
        job.cancelled = True

    def leave(self, peer: Peer, job: Job) -> None:
        """A caller is gone: a foreground job that nobody wants is dropped, unless it runs already."""
        job.clients = tuple(client for client in job.clients if client is not peer)
        if job.ignored and job.state == QUEUED:
            self.end(job)

    # --- wake-ups --------------------------------------------------------------------------------------------

    def wake(self, function: Function) -> None:
        """Sends NOOP to the worker that has slept longest, if there is one."""
        if self.draining:
            return
        peer = next(iter(function.sleepers))
        self.rouse(peer)
        self.effects.append(Send(peer, answers.NOOP))

    def rouse(self, peer: Peer) -> None:
        """Counts a worker as woken: it is expected to grab."""
        if peer.sleeping:
            self.unsleep(peer)
        if peer not in self.woken:
            self.woken[peer] = self.now + WAKE_AGAIN
            for function in peer.functions:
                function.pending += 1

    def unsleep(self, peer: Peer) -> None:
        """Takes a worker off the sleepers of its functions."""
        peer.sleeping = False
        for function in peer.functions:
            del function.sleepers[peer]

    def settle(self, peer: Peer) -> None:
        """Ends the wait for a woken worker, and wakes others for what it did not take.

        Called after it grabbed, or when it is given up on. Work that it was woken for may still be there: it
        took a job of another function, or none.
        """
        if self.woken.pop(peer, None) is None:
            return
        for function in peer.functions:
            function.pending -= 1
        for function in peer.functions:
            if function.ready > function.pending and function.sleepers:
                self.wake(function)
