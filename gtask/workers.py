"""`gtask worker`: puts the processes of a worker together. Design, section 7."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from random import random
from typing import TYPE_CHECKING, Final, Literal

import anyio
from anyio.lowlevel import EventLoopToken, current_token

from gtask.errors import ConfigurationError, GtaskError, WaitInTask
from gtask.guard import Guard
from gtask.housekeeper import FUNCTIONS, LANES, SLOTS, Housekeeper
from gtask.limits import Counters, Limits, check_scopes
from gtask.repeats import Repeats
from gtask.reporting import JobReporter
from gtask.results.service import ResultsService
from gtask.revocation import Listener, Revocations
from gtask.runner import PutOff, Runner
from gtask.task import Task
from gtask.transport.tls import check_tls
from gtask.worker.aio import AsyncDriver
from gtask.worker.blocking import BlockingDriver, fresh_unique
from gtask.worker.core import CoreOptions, WorkerCore
from gtask.worker.job import End, Ending, Job
from gtask.worker.ledger import Ledger
from gtask.worker.link import Lane
from gtask.worker.marks import MarkTable
from gtask.worker.prefork import Child, Role, Supervisor
from gtask.worker.solo import SoloPool
from gtask.worker.threads import ThreadPool

if TYPE_CHECKING:
    from gtask.app import App

log = logging.getLogger("gtask.worker")

POOLS: Final = ("prefork", "thread", "async", "solo")
BACKENDS: Final = ("asyncio", "uvloop", "trio")

WAITING: Final = 32
"""Tasks that wait for others, and are blamed nevertheless when the process of the pool async dies."""

STOPS: Final[Mapping[str, Literal["killed", "spared", "itself"]]] = {
    "prefork": "killed",
    "solo": "killed",
    "thread": "spared",
    "async": "itself",
}
"""What becomes of a process of a pool when a task that it runs is revoked, and is to be stopped."""


@dataclass(frozen=True)
class WorkerOptions:
    """How a worker runs.

    `pool` is how tasks run side by side and `concurrency` how many of them, None for the number of cores. `prefetch` is
    how many jobs are held beyond the free slots, None to let the measured run time decide. `grace` is the time in
    seconds for what runs to finish when the worker is stopped. `max_tasks_per_child` replaces a process after so many
    tasks, 0 never. `max_crashes` is how often a job's process may die on this host before the job is failed.
    `with_results` is the file of a results service that runs along. `name` names the worker, by default after the
    host. `backend` is the event loop of the pool async.
    """

    pool: Literal["prefork", "thread", "async", "solo"] = "prefork"
    concurrency: int | None = None
    prefetch: int | None = None
    grace: float = 60.0
    max_tasks_per_child: int = 0
    max_crashes: int = 3
    with_results: str | None = None
    name: str = ""
    backend: Literal["asyncio", "uvloop", "trio"] = "asyncio"

    @property
    def slots(self) -> int:
        """How many tasks run at once."""
        return 1 if self.pool == "solo" else self.concurrency or os.cpu_count() or 1


def run_worker(app: App, options: WorkerOptions) -> int:
    """Runs a worker until it is told to stop; returns the exit code.

    Raises `ConfigurationError` when the App has no task or an option makes no sense. It must be called from the main
    thread of a process without other threads: it forks.
    """
    if options.pool not in POOLS or options.backend not in BACKENDS or options.slots < 1:
        raise ConfigurationError(f"{options}: the pool is one of {', '.join(POOLS)}, with one slot at least.")
    if not any(isinstance(task, Task) for task in app.tasks.values()):
        raise ConfigurationError(f"App {app.name!r} has no tasks to run; write @app.task above a function.")
    check_tls(app.servers, app.settings.tls)
    name = options.name or socket.gethostname()
    forks = options.pool in ("prefork", "solo")
    _check_limits(app, options)
    _check_store(app)
    check_scopes(app)
    # In the ledger those who wait for others keep their place, beside those others.
    waiting = WAITING if options.pool == "async" else 0
    processes, slots = (options.slots, 1) if forks else (1, options.slots + waiting)
    ledger = Ledger(2 * processes * slots)
    marks = MarkTable()
    counters = Counters.of(app, processes, slots, fresh_unique())
    if counters is not None:
        ledger.cleared = counters.gone
    main = partial(_hooked, app, partial(_run_pool, app, options, name, ledger, marks, counters))
    housekeeper = partial(_hooked, app, partial(_run_housekeeper, app, options, name, ledger, marks))
    roles = [
        Role(options.pool, processes, main, slots=slots, stops=STOPS[options.pool]),
        Role("housekeeper", 1, housekeeper, last=True),
    ]
    if options.with_results is not None:
        roles.append(Role("results", 1, partial(_run_results, app, options.with_results), last=True))
    unit = "processes" if options.pool == "prefork" else "slots"
    ready = f"worker ready: {options.pool}, {options.slots} {unit}, {app.name} on {', '.join(map(str, app.servers))}"
    return Supervisor(roles, options.grace, partial(log.info, "%s", ready), ledger, marks).run()


def _check_limits(app: App, options: WorkerOptions) -> None:
    """Refuses to start where a task's limit could not be kept."""
    if options.pool in ("prefork", "solo"):
        return
    limited = [
        task.name
        for task in app.tasks.values()
        if isinstance(task, Task) and not task.is_async and (task.config.time_limit or task.config.soft_time_limit)
    ]
    if limited:
        raise ConfigurationError(
            f"The pool {options.pool} runs plain functions in threads, which cannot be interrupted, so the time limit "
            f"of {', '.join(limited)} would not hold: use --pool prefork, or async functions."
        )


def _check_store(app: App) -> None:
    """Refuses to start with a store that cannot be used; one that is served on the job server may come later."""
    store = app.store
    if store is not None and not store.carries:
        try:
            store.get(["gtask-can-this-be-read"])
        except GtaskError as error:
            raise ConfigurationError(f"The results of {app.name} cannot be kept: {error}") from error
        finally:
            store.close()


def _hooked(app: App, main: Callable[[Child], None], child: Child) -> None:
    """Runs a process between the App's own hooks."""
    for hook in app.worker_start_hooks:
        hook()
    try:
        main(child)
    finally:
        for hook in app.worker_stop_hooks:
            try:
                hook()
            except Exception:
                log.exception("The worker's stop hook %r failed.", hook)


def _client_id(name: str, child: Child) -> str:
    return f"gtask-{name}-{child.role}-{os.getpid()}"


def _core(
    app: App, functions: Sequence[str], child: Child, name: str, options: CoreOptions, lanes: Sequence[Lane] = ()
) -> WorkerCore:
    options = replace(options, heartbeat=app.settings.heartbeat, pack=app.publisher.pack)
    return WorkerCore(app.servers, functions, options, random, fresh_unique, lanes)


def _for_forks_of_tasks(let_go: Callable[[], None]) -> None:
    """Makes processes that a task forks ordinary ones: they end when they are told to, and hold none of our sockets.

    Signals are held back while a process forks, or one that comes early would still meet the worker's own handler.
    """
    numbers = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGALRM}
    masks = threading.local()

    def before() -> None:
        masks.old = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

    def in_parent() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.old)

    def in_child() -> None:
        for number in numbers:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.old)
        let_go()

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)


def _prepare(driver: BlockingDriver, child: Child) -> None:
    """Lets a process end when it is told to, or when its supervisor is gone."""
    signal.signal(signal.SIGTERM, lambda number, frame: driver.stop())
    _for_forks_of_tasks(driver.forked)

    def orphaned() -> None:
        driver.unwatch(child.supervisor_pipe)
        log.error("The supervisor is gone; this process ends after what it holds.")
        driver.stop()

    driver.watch(child.supervisor_pipe, orphaned)


def _run_pool(
    app: App,
    options: WorkerOptions,
    name: str,
    ledger: Ledger,
    marks: MarkTable,
    counters: Counters | None,
    child: Child,
) -> None:
    limits = Limits(app, counters, child.slots)
    if options.pool == "async":
        backend_options = {"use_uvloop": True} if options.backend == "uvloop" else {}
        backend = "trio" if options.backend == "trio" else "asyncio"
        main = partial(_run_async, app, options, name, ledger, marks, limits, child)
        anyio.run(main, backend=backend, backend_options=backend_options)
        return
    guard = Guard(ledger, child.slots, options.max_crashes)
    slots = options.slots if options.pool == "thread" else 1
    runner = Runner(app, f"{name}:{os.getpid()}")
    core_options = CoreOptions(slots, options.prefetch, client_id=_client_id(name, child))
    core = _core(app, runner.functions, child, name, core_options, limits.lanes(runner.functions))
    if app.settings.skip_completed:
        runner.repeats = Repeats(app, core, ledger)
    runner.revocations = Revocations(app, marks, ledger)
    with BlockingDriver(core, app.settings.tls, child.ready, quiet=child.index > 0) as driver:
        _prepare(driver, child)
        limits.begin(driver.wake)
        run = partial(_run_job, runner, driver, guard, options.pool != "thread")
        if options.pool == "thread":
            ThreadPool(driver, run, slots, options.max_tasks_per_child, runner.close_loop).serve()
        else:
            SoloPool(driver, run, options.max_tasks_per_child).serve()
            runner.close_loop()
        limits.end()
    app.close()


def _run_job(runner: Runner, driver: BlockingDriver, guard: Guard, in_main_thread: bool, job: Job) -> Ending | None:
    slot = guard.begin(job)
    result = runner.run(job, _Reporter(driver, job, guard, slot, in_main_thread))
    guard.end(slot)
    if isinstance(result, PutOff):
        return None if driver.put_off(job, result.delay) else Ending(End.FAIL)
    return result


class _Reporter(JobReporter):
    """Reports of a running job, and what its process is to know of it."""

    __slots__ = ("_guard", "_lent", "_slot", "in_main_thread", "lends", "verdict")

    def __init__(
        self,
        driver: BlockingDriver | AsyncDriver,
        job: Job,
        guard: Guard,
        slot: int,
        in_main_thread: bool,
        loop: EventLoopToken | None = None,
    ) -> None:
        super().__init__(driver, job, loop)
        self._guard = guard
        self._slot = slot
        self._lent = 0
        self.lends = loop is not None
        self.in_main_thread = in_main_thread
        self.verdict = guard.verdict(job)

    def kill_after(self, seconds: float) -> None:
        """The supervisor does it."""
        self._guard.kill_after(self._slot, seconds)

    @contextmanager
    def lend(self) -> Iterator[None]:
        """Lends out the slot, once however many parts of the task wait; called in the driver's loop."""
        assert isinstance(self._driver, AsyncDriver)
        if not self._lent and not self._driver.lend(self._job):
            raise WaitInTask("Too many tasks of this worker wait for others already; let them follow in a chain.")
        self._lent += 1
        try:
            yield
        finally:
            self._lent -= 1
            if not self._lent:
                self._driver.take_back(self._job)

    def note(self, id: str, root: str) -> None:
        """For the supervisor."""
        self._guard.note(self._slot, self._job, id, root)


async def _run_async(
    app: App,
    options: WorkerOptions,
    name: str,
    ledger: Ledger,
    marks: MarkTable,
    limits: Limits,
    child: Child,
) -> None:
    guard = Guard(ledger, child.slots, options.max_crashes)
    runner = Runner(app, f"{name}:{os.getpid()}", in_loop=True)
    core_options = CoreOptions(options.slots, options.prefetch, client_id=_client_id(name, child))
    core = _core(app, runner.functions, child, name, core_options, limits.lanes(runner.functions))
    if app.settings.skip_completed:
        runner.repeats = Repeats(app, core, ledger)
    runner.revocations = Revocations(app, marks, ledger, options.backend)

    async def run(job: Job) -> Ending | None:
        slot = guard.begin(job)
        result = await runner.arun(job, _Reporter(driver, job, guard, slot, False, loop))
        guard.end(slot)
        if isinstance(result, PutOff):
            return None if driver.put_off(job, result.delay) else Ending(End.FAIL)
        return result

    loop = current_token()
    # A plain handler rather than the loop's, which would be gone before the process is: whole groups of processes
    # are told to end, and then this one is told twice.
    told, tell = os.pipe()
    signal.signal(signal.SIGTERM, lambda number, frame: os.write(tell, b"."))
    _for_forks_of_tasks(lambda: driver.forked())
    driver = AsyncDriver(core, run, app.settings.tls, options.max_tasks_per_child, child.ready)
    anyio.to_thread.current_default_thread_limiter().total_tokens = max(40, options.slots + 8)
    async with anyio.create_task_group() as group:
        group.start_soon(_obey, driver, told)
        group.start_soon(_watch_supervisor, driver, child)
        group.start_soon(runner.revocations.watch)
        limits.begin(partial(anyio.from_thread.run_sync, driver.wake, token=loop))
        await driver.serve()
        await anyio.to_thread.run_sync(limits.end)
        group.cancel_scope.cancel()
    await app.aclose()


async def _obey(driver: AsyncDriver, told: int) -> None:
    await anyio.wait_readable(told)
    driver.stop()


async def _watch_supervisor(driver: AsyncDriver, child: Child) -> None:
    await anyio.wait_readable(child.supervisor_pipe)
    log.error("The supervisor is gone; this process ends after what it holds.")
    driver.stop()


def _run_housekeeper(
    app: App, options: WorkerOptions, name: str, ledger: Ledger, marks: MarkTable, child: Child
) -> None:
    slots = SLOTS * len(app.servers)
    core_options = CoreOptions(slots, prefetch=0, client_id=_client_id(name, child), exceptions=True, max_put_off=0)
    core = _core(app, FUNCTIONS, child, name, core_options, LANES)
    listener = Listener(app, marks, ledger, options.max_crashes, f"{name}:{os.getpid()}")
    with BlockingDriver(core, app.settings.tls, child.ready, quiet=True) as driver:
        _prepare(driver, child)
        listener.start()
        driver.serve(Housekeeper(app, driver, f"{name}:{os.getpid()}", Revocations(app, marks, ledger)))
        listener.stop()
    app.close()


def _run_results(app: App, path: str, child: Child) -> None:
    settings = app.settings
    service = ResultsService(
        app.servers, path, tls=settings.tls, heartbeat=settings.heartbeat, keys=settings.signing_keys
    )
    signal.signal(signal.SIGTERM, lambda number, frame: service.stop())

    def watch() -> None:
        os.read(child.supervisor_pipe, 1)
        service.stop()

    threading.Thread(target=watch, name="watch", daemon=True).start()
    service.run(child.ready)
