"""`gtask worker`: reads the options, says what it is about to run, and runs it."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, Literal, get_args

import click

from gtask.cli.failures import CliError
from gtask.cli.logs import log_options, set_up
from gtask.cli.options import read_list, read_prefetch, servers_option

if TYPE_CHECKING:
    from gtask.app import App
    from gtask.workers import WorkerOptions

log = logging.getLogger("gtask.worker")

Pool = Literal["prefork", "thread", "async", "solo"]
Backend = Literal["asyncio", "trio", "uvloop"]
SHOWN: Final = 30
"""Names of tasks that the banner shows."""

USAGE: Final = 2


@click.command(name="worker")
@click.argument("app")
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="Tasks that run at once.  [default: the number of cores]",
)
@click.option(
    "-P",
    "--pool",
    type=click.Choice(get_args(Pool)),
    default="prefork",
    show_default=True,
    help="What runs the tasks: processes, threads, one event loop (for async tasks), or this process, one at a time.",
)
@click.option(
    "--prefetch",
    default="auto",
    show_default=True,
    callback=read_prefetch,
    metavar="auto|N",
    help="Jobs held beyond those that run; auto holds more of short tasks and none of long ones.",
)
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=60.0,
    show_default="60",
    metavar="SECONDS",
    help="How long running tasks may finish after SIGTERM; then their jobs go back to the job server.",
)
@click.option(
    "--max-tasks-per-child",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Replace a process by a fresh one after N tasks; 0 for never.",
)
@click.option(
    "--with-results",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Run a results service as well, with its results in this SQLite file: where none runs yet, so it is not "
    "needed beside `gtask server`. A second one stands by.",
)
@click.option("-n", "--name", default="", metavar="NAME", help="What job servers call it.  [default: the host's name]")
@click.option(
    "--backend",
    type=click.Choice(get_args(Backend)),
    help="The event loop of the pool `async`.  [default: asyncio]",
)
@click.option(
    "-I",
    "--include",
    multiple=True,
    callback=read_list,
    metavar="MODULE[,MODULE...]",
    help="Import these modules too, for their tasks.",
)
@servers_option
@log_options("info")
def command(
    app: str,
    concurrency: int | None,
    pool: Pool,
    prefetch: int | None,
    grace: float,
    max_tasks_per_child: int,
    with_results: str | None,
    name: str,
    backend: Backend | None,
    include: tuple[str, ...],
    servers: tuple[str, ...],
    loglevel: str,
    json_logs: bool,
) -> int:
    """Run the tasks of an app.

    APP is MODULE:ATTRIBUTE, imported from the current folder: app:app is `app` in app.py, and so is app alone.

    SIGTERM or Ctrl-C ends it after the running tasks have finished; a second one, or SIGQUIT, gives their jobs back to
    the job server at once. SIGHUP replaces the processes of `prefork` one at a time.

    A task's rate_limit and max_concurrency are kept by all processes of a worker together, or by all workers where the
    task says so: see docs/limits.md.
    """
    check(pool, concurrency, backend)
    from gtask.cli.loader import load_app
    from gtask.workers import WorkerOptions, run_worker

    set_up(loglevel, json_logs)
    loaded = load_app(app, servers, include)
    check_app(loaded)
    if with_results is not None:
        check_results(with_results)
    options = WorkerOptions(
        pool=pool,
        concurrency=concurrency,
        prefetch=prefetch,
        grace=grace,
        max_tasks_per_child=max_tasks_per_child,
        with_results=with_results,
        name=name,
        backend=backend or "asyncio",
    )
    show_banner(loaded, app, options, json_logs)
    return run_worker(loaded, options)


def check(pool: str, concurrency: int | None, backend: str | None) -> None:
    """Refuses options that do not go together; raises `click.UsageError`."""
    if pool == "solo" and (concurrency or 1) > 1:
        raise click.UsageError(f"The pool solo runs one task at a time; leave -c {concurrency} away, or take another.")
    if backend and pool != "async":
        raise click.UsageError(
            f"--backend is for the pool async; write --pool async, or leave --backend {backend} away."
        )
    if backend not in (None, "asyncio") and importlib.util.find_spec(backend) is None:
        extra = "'gtask[fast]'" if backend == "uvloop" else backend
        raise CliError(f"--backend {backend} is not installed; `pip install {extra}` installs it.", USAGE)


def check_app(app: App) -> None:
    """Refuses an app without tasks; raises `CliError`."""
    from gtask.task import Task

    if not any(isinstance(task, Task) for task in app.tasks.values()):
        raise CliError(
            f"App {app.name!r} has no tasks to run; write @app.task above a function, or name the modules that define "
            "them with --include.",
            USAGE,
        )


def check_results(file: str) -> None:
    """Refuses a file that can keep no results, before the processes that would fail by it are there."""
    from gtask.errors import ConfigurationError, ResultError
    from gtask.results.sqlite import SqliteStore

    store = SqliteStore(file)
    try:
        store.get(["0"])
    except (ConfigurationError, ResultError) as error:
        raise CliError(str(error)) from error
    finally:
        store.close()


def show_banner(app: App, where: str, options: WorkerOptions, json_logs: bool) -> None:
    """Says on stderr what is about to run: the app, the servers, the pool and the tasks."""
    rows = banner(app, where, options)
    if json_logs:
        log.info("; ".join(f"{key} {value}" for key, value in rows))
    elif log.isEnabledFor(logging.INFO):
        width = max(len(key) for key, _ in rows)
        click.echo("\n".join(f"  {key:<{width}}  {value}" for key, value in rows) + "\n", err=True)
        sys.stderr.flush()


def banner(app: App, where: str, options: WorkerOptions) -> list[tuple[str, str]]:
    """The lines of the banner, each with its key."""
    from gtask.task import Task

    own = sorted(name for name, task in app.tasks.items() if isinstance(task, Task))
    count = options.concurrency or os.cpu_count() or 1
    several = "" if count == 1 else "s"
    unit = {
        "prefork": f"{count} process{'es' if several else ''}",
        "thread": f"{count} thread{several}",
        "async": f"{count} task{several} at once on {options.backend}",
    }.get(options.pool, "one task at a time")
    prefetch = "auto" if options.prefetch is None else str(options.prefetch)
    rows = [
        ("app", f"{where} ({app.name})"),
        ("servers", ", ".join(str(server) for server in app.servers)),
        ("pool", f"{options.pool}, {unit}, prefetch {prefetch}"),
        ("tasks", _names(own)),
    ]
    if options.with_results:
        rows.append(("results", f"served from {options.with_results}"))
    return rows


def _names(names: Sequence[str] | Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return ", ".join(shown[:SHOWN]) + more
