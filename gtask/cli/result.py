"""`gtask result`: what became of a task, by its id."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from gtask.cli.options import an_app, app_option, json_option, servers_option

if TYPE_CHECKING:
    from gtask.app import App
    from gtask.progress import Progress
    from gtask.result import AsyncResult
    from gtask.states import Outcome, State


@click.command(name="result")
@click.argument("id")
@click.option(
    "--timeout",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the task to end; 0 looks once.",
)
@app_option
@servers_option
@json_option
def command(id: str, timeout: float, app: str | None, servers: tuple[str, ...], as_json: bool) -> int:
    """Print the state and the result of a task that was sent.

    ID is what `gtask call --background` printed, or the `id` of a result in Python. The exit code is 0 when the task
    has succeeded, and 1 when it has failed, has not ended yet, or is not known.
    """
    from gtask.states import State

    with an_app(app, servers) as loaded:
        result = loaded.AsyncResult(id)
        if timeout:
            result.wait(timeout)
        outcome = result.info
        ended = outcome is not None and outcome.ready
        state = outcome.state if outcome is not None and ended else result.state
        if as_json:
            from gtask.cli.call import write

            found = as_dict(id, state, outcome if ended else None)
            if state is State.PROGRESS:
                found["progress"] = result.progress
            write(found, raw=False)
        else:
            _show(loaded, result, state, outcome)
    return 0 if state is State.SUCCESS else 1


def as_dict(id: str, state: State, outcome: Outcome | None) -> dict[str, Any]:
    """What ``--json`` prints; times are Unix seconds."""
    found: dict[str, Any] = {"id": id, "state": str(state)}
    if outcome is not None:
        found |= {
            "task": outcome.task,
            "value": outcome.value,
            "error": outcome.error,
            "retries": outcome.retries,
            "started": outcome.started,
            "finished": outcome.finished,
            "worker": outcome.worker,
            "parent": outcome.parent,
            "children": outcome.children,
        }
    return found


def _show(app: App, result: AsyncResult[Any], state: State, outcome: Outcome | None) -> None:
    from gtask.cli.call import remote_traceback

    click.echo(f"state   {state}")
    if outcome is None or not outcome.ready:
        progress = result.progress if state == "PROGRESS" else None
        if progress is not None:
            click.echo(f"at      {_at(progress)}")
        click.echo(_sentence(app, state))
        return
    for key, value in _rows(outcome):
        click.echo(f"{key:<7} {value}")
    # What was revoked, or expired, before it ran has the line of its error alone, which stands above.
    if outcome.error is not None and outcome.error.traceback and "\n" in outcome.error.traceback.rstrip():
        click.echo(remote_traceback(outcome.error.traceback), err=True)


def _at(progress: Progress) -> str:
    share = "" if progress.fraction is None else f" of {progress.total} ({progress.fraction:.0%})"
    return f"{progress.done}{share}{f': {progress.message}' if progress.message else ''}"


def _rows(outcome: Outcome) -> list[tuple[str, str]]:
    from gtask.codecs import to_json
    from gtask.errors import EncodeError
    from gtask.states import State

    rows = [("task", outcome.task)] if outcome.task else []
    if outcome.state is State.SUCCESS:
        try:
            rows.append(("result", to_json(outcome.value).decode()))
        except EncodeError:
            rows.append(("result", repr(outcome.value)))
    elif outcome.error is not None:
        rows.append(("error", ": ".join(part for part in (outcome.error.type, outcome.error.message) if part)))
    if outcome.started is not None and outcome.finished is not None:
        when = datetime.fromtimestamp(outcome.finished).strftime("%Y-%m-%d %H:%M:%S")
        ago = max(0.0, time.time() - outcome.finished)
        rows.append(("took", f"{outcome.finished - outcome.started:.3f} s, ended {when} ({_ago(ago)} ago)"))
    if outcome.retries:
        rows.append(("retries", str(outcome.retries)))
    if outcome.worker:
        rows.append(("worker", outcome.worker))
    return rows


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _sentence(app: App, state: State) -> str:
    from gtask.states import State
    from gtask.waiting import nobody_knows

    match state:
        case State.UNKNOWN:
            return f"{nobody_knows(app)} With --app the store of that app is looked in."
        case State.PENDING:
            return "It waits in its queue; `gtask status` shows whether a worker serves it. --timeout waits for it."
        case State.RETRY:
            return "It failed and is going to be tried again. --timeout waits for its end."
        case _:
            return "It is running. --timeout waits for its end."
