"""`gtask demo`: a job server, a worker and the calls of the quick start, for real, in a few seconds."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import click

from gtask.cli.failures import CliError

if TYPE_CHECKING:
    from gtask.app import App

APP: Final = "gtask.cli.demo_app:app"
START: Final = 30.0
ANSWER: Final = 30.0
"""Seconds that a part may take to start, and a call to be answered, before the demo gives up."""

MEMBERS: Final = 100
STEPS: Final = 50


@click.command(name="demo")
@click.option(
    "-c", "--concurrency", type=click.IntRange(1, 64), default=4, show_default=True, help="Processes of the worker."
)
def command(concurrency: int) -> int:
    """See it all work: a job server, a worker and a few calls, in a few seconds.

    It starts `gtask server` on a free port and `gtask worker` on four small tasks, calls them in the ways of the quick
    start, and ends both. Nothing is left behind.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    started = time.perf_counter()
    try:
        with ExitStack() as stack:
            _run(stack, concurrency)
    except AssertionError as error:  # what gtask.testing raises for a program that does not do what is waited for
        head, _, tail = str(error).partition("\n")
        raise CliError(f"The demo could not start its parts: {head}", details=tail) from error
    click.echo(f"\nAll of it ran on this machine and has ended again, after {time.perf_counter() - started:.1f} s.")
    click.echo("The tasks are in gtask/cli/demo_app.py. Your own: write app.py, then `gtask server` in one terminal,")
    click.echo("`gtask worker app:app` in another, and `gtask call app:app calculate --args '[7]'` in a third.")
    return 0


def _run(stack: ExitStack, concurrency: int) -> None:
    from gtask.testing.programs import Program
    from gtask.types import parse_servers

    environment: dict[str, str | None] = {"PYTHONUNBUFFERED": "1"}
    gtask = [sys.executable, "-m", "gtask"]
    started = time.perf_counter()
    server = stack.enter_context(Program([*gtask, "server", "--port=0"], env=environment))
    url = server.wait_for_line(r"ready at (gearman://[^\s,]+)", START)[1]
    _say("job server, results", started, "gtask server", url)
    started = time.perf_counter()
    argv = [*gtask, "worker", APP, "-c", str(concurrency), "--servers", url]
    worker = stack.enter_context(Program(argv, env=environment))
    worker.wait_for_line(r"\bready\b", START)
    _say("worker", started, f"gtask worker {APP} -c {concurrency}", f"{concurrency} processes")
    click.echo()

    from gtask.cli import demo_app

    demo_app.app.servers = parse_servers(url)
    with demo_app.app:
        _calls(demo_app.app)


def _calls(app: App) -> None:
    from gtask.canvas import group
    from gtask.cli.demo_app import calculate, crunch, refuse, send

    _show("local call", "calculate(7)", lambda: calculate(7))
    _show("background job", "calculate.delay(7).get()", lambda: calculate.delay(7).get(ANSWER))
    _show("answer straight back", "calculate.call(7)", lambda: calculate.options(timeout=ANSWER).call(7))
    chain = calculate | send
    _show("chain", "(calculate | send).delay(7).get()", lambda: chain.delay(7).get(ANSWER))
    members = group(calculate.s(number) for number in range(MEMBERS))
    code = f"group(calculate.s(i) for i in range({MEMBERS})).delay().get()"
    _show("group, side by side", code, lambda: _Words(f"{len(members.delay().get(ANSWER))} results"))
    _show("progress, live", f"crunch.call({STEPS})", lambda: _crunch(app, crunch))
    _show("exception", "refuse.call(8)", lambda: _refused(refuse))


class _Words(str):
    """A result that is told, and not shown as Python shows it."""

    __repr__ = str.__str__


def _crunch(app: App, crunch: Any) -> Any:
    from gtask.cli.call import progress_bar

    with progress_bar("crunch") as progress:
        return app.call(crunch.s(STEPS).set(timeout=ANSWER, on_progress=progress))


def _refused(refuse: Any) -> _Words:
    try:
        refuse.options(timeout=ANSWER).call(8)
    except ValueError as error:
        return _Words(f"raises ValueError: {error}")
    raise CliError("The demo's task refuse() should have raised a ValueError, and did not.")


def _show(what: str, code: str, run: Callable[[], Any]) -> None:
    started = time.perf_counter()
    result = run()
    _say(what, started, code, repr(result))


def _say(what: str, started: float, code: str, result: str) -> None:
    """Prints a line: what was done, how long it took, the code, and what came out."""
    seconds = time.perf_counter() - started
    duration = f"{seconds:.2f} s " if seconds >= 0.5 else f"{seconds * 1000:.1f} ms"
    click.echo(f"{what:<20} {duration:>8}   {code}  ->  {result}")
