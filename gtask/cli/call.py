"""`gtask call`: one call of a task from the shell."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import click

from gtask.cli.failures import CliError, say
from gtask.cli.options import servers_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gtask.app import App
    from gtask.signatures import Signature

ME = "gtask call"

Listener = Callable[[int, int], None]


@click.command(name="call")
@click.argument("app")
@click.argument("task")
@click.option("-a", "--args", default="[]", metavar="JSON", help="Positional arguments: a JSON array, or - for stdin.")
@click.option("-k", "--kwargs", default="{}", metavar="JSON", help="Keyword arguments: a JSON object, or - for stdin.")
@click.option("--background", is_flag=True, help="Send it as a background job, print its id and do not wait.")
@click.option("--progress", is_flag=True, help="Show how far the task is, on stderr.")
@click.option("--stream", is_flag=True, help="Print what a generator task yields, each item as soon as it is there.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="How long the answer may take.  [default: as long as it takes]",
)
@click.option("--raw", is_flag=True, help="Print an answer that is text or bytes as it is, not as JSON.")
@click.option(
    "--codec",
    type=click.Choice(("json", "text", "raw")),
    help="TASK is a function of a worker in another language, which reads and writes this; it takes one argument.",
)
@servers_option
def command(
    app: str,
    task: str,
    args: str,
    kwargs: str,
    background: bool,
    progress: bool,
    stream: bool,
    timeout: float | None,
    raw: bool,
    codec: str | None,
    servers: tuple[str, ...],
) -> int:
    """Call a task and print its answer.

    APP is MODULE:ATTRIBUTE, as for `gtask worker`. TASK is the task's name; it need not be in the app, if a worker
    knows it. The answer is printed as JSON. What the task raises is shown on stderr, with its traceback in the worker,
    and the exit code is 1.

    \b
    gtask call app:app calculate --args '[7]'
    gtask call app:app send -k '{"amount": "12.50"}' --background
    """
    if background and stream:
        raise click.UsageError("A background job sends no stream: leave --background out.")
    if background and (progress or timeout):
        raise click.UsageError(
            "--background does not wait, so --progress and --timeout mean nothing with it; `gtask result ID` waits."
        )
    if args == kwargs == "-":
        raise click.UsageError("Only one of --args and --kwargs can come from stdin.")
    positional, named = parse(args, "--args", list, "[7]"), parse(kwargs, "--kwargs", dict, '{"id": 7}')
    from gtask.cli.loader import load_app

    with load_app(app, servers) as loaded:
        step = _step(loaded, task, codec, positional, named)
        if background:
            click.echo(loaded.send(step.set(background=True)).id)
            return 0
        _warn_unless_served(loaded, task)
        return _call(loaded, step, timeout, progress, raw, stream)


def parse(text: str, option: str, kind: type, example: str) -> Any:
    """Reads an option that is JSON of one kind; raises `click.UsageError` with the place where it is broken."""
    if text == "-":
        text = sys.stdin.read()
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"{option} is no JSON: {error}. Write for instance {option} '{example}'.") from None
    if not isinstance(value, kind):
        what = "an array" if kind is list else "an object"
        raise click.UsageError(f"{option} is {what}; write for instance {option} '{example}'.")
    return value


def _step(app: App, name: str, codec: str | None, args: list[Any], kwargs: dict[str, Any]) -> Signature[Any]:
    from gtask.arguments import Arguments
    from gtask.options import Options, check_name
    from gtask.task import BaseTask

    task = app.tasks.get(name)
    if codec is not None and task is not None:
        raise click.UsageError(f"The app has {name!r} and knows how it is called; leave --codec {codec} away.")
    if codec is not None:
        task = app.function(name, codec)  # type: ignore[arg-type]
    elif task is None:
        task = BaseTask(app, check_name(name), Options(), Arguments(None, name))
    try:
        task.arguments.check(tuple(args), kwargs)
    except TypeError as error:
        raise click.UsageError(f"{error}") from None
    return task.signature(args, kwargs)


def _warn_unless_served(app: App, function: str) -> None:
    """Says that nobody serves the task, since the call would then wait in silence."""
    from gtask.cli.looking import look_all

    looks = [one for one in look_all(app.servers, app.settings.tls) if not one.error]
    if looks and not any(row.workers for one in looks for row in one.functions if row.name == function):
        near = difflib.get_close_matches(function, app.tasks, 1) if function not in app.tasks else []
        hint = f" Did you mean {near[0]!r}?" if near else ""
        servers = ", ".join(str(one.server) for one in looks)
        say(ME, f"No worker serves {function!r} at {servers} now; waiting for one.{hint}")


def _call(
    app: App, step: Signature[Any], timeout: float | None, progress: bool, raw: bool, stream: bool = False
) -> int:
    with ExitStack() as stack:
        options: dict[str, Any] = {"on_warning": _warn}
        if timeout is not None:
            options["timeout"] = timeout
        if progress:
            options["on_progress"] = stack.enter_context(progress_bar(step.task.name))
        try:
            if stream:
                for item in stack.enter_context(app.stream(step.set(**options))):
                    write(item, raw)
                return 0
            value = app.call(step.set(**options))
        except Exception as error:
            stack.close()  # the bar is gone before the error is shown
            return _failed(step.task.name, error)
    write(value, raw)
    return 0


def _warn(data: bytes) -> None:
    # Not click's echo: while the bar is shown, this stream puts the line above it.
    print(f"{ME}: The task warns: {data.decode(errors='replace')}", file=sys.stderr)


def _failed(name: str, error: Exception) -> int:
    """Shows what the task raised as something remote; everything else is raised again."""
    from gtask.errors import TaskFailed

    remote = error if isinstance(error, TaskFailed) else error.__cause__
    if not isinstance(remote, TaskFailed):
        raise error
    say(ME, f"{name} failed: {remote}", remote_traceback(remote.traceback))
    return 1


def remote_traceback(text: str | None) -> str:
    """A traceback that comes from a worker, marked as such."""
    return f"--- in the worker ---\n{text.rstrip()}" if text else ""


def write(value: Any, raw: bool) -> None:
    """Prints an answer to stdout: as JSON, or with `raw`, text and bytes as they are."""
    from gtask.codecs import to_json
    from gtask.errors import EncodeError

    if raw and isinstance(value, str | bytes):
        data = value.encode(errors="surrogateescape") if isinstance(value, str) else value
    else:
        try:
            data = to_json(value, "answer")
        except EncodeError as error:
            raise CliError(f"The task succeeded, but its answer cannot be printed as JSON: {error}") from error
    stdout = sys.stdout.buffer
    stdout.write(data if raw and isinstance(value, bytes) else data + b"\n")
    stdout.flush()


@contextmanager
def progress_bar(name: str) -> Iterator[Listener]:
    """Shows progress on stderr: a bar in a terminal, elsewhere a line for each tenth."""
    if not sys.stderr.isatty():
        yield _progress_lines(name)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        row = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(row, completed=done, total=total or None)


def _progress_lines(name: str) -> Listener:
    shown = -1

    def show(done: int, total: int) -> None:
        nonlocal shown
        tenth = done * 10 // total if total > 0 else done
        if tenth != shown:
            shown = tenth
            click.echo(f"{name}: {done} of {total}", err=True)

    return show
