"""`gtask dead`: tasks that failed for good. Looks at them, sends them again, drops them."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from gtask.cli.failures import CliError, say
from gtask.cli.options import an_app, app_option, json_option, servers_option

if TYPE_CHECKING:
    from gtask.app import App
    from gtask.dead import Parked, Queue, Tally, Verdict

Command = TypeVar("Command", bound=Callable[..., Any])

SHOWN: Final = 100
"""Letters that `list` shows unless it is told otherwise."""

SHORT: Final = 80
"""Characters of an error in the list."""

_AGES: Final = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def read_age(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """The callback of an option that is a span of time: ``90``, ``15m``, ``12h``, ``7d``; in seconds."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d|w|)", value.strip().lower())
    if not found:
        raise click.BadParameter(f"{value!r} is no span of time; write for instance 90s, 15m, 12h or 7d.", ctx, param)
    return float(found[1]) * _AGES[found[2]]


def _common(command: Command) -> Command:
    for option in (json_option, servers_option, app_option, _older_option):
        command = option(command)
    return command


def _older_option(command: Command) -> Command:
    return click.option(
        "--older-than", callback=read_age, metavar="AGE", help="Only those that failed so long ago: 90s, 15m, 12h, 7d."
    )(command)


@click.group(name="dead")
def command() -> None:
    """Look at tasks that failed for good, send them again, or drop them.

    What fails for good is parked as a dead letter in the queue TASK.dead of its job server. `gtask dead list` shows
    which tasks have some, `gtask dead list TASK` which.
    """


@command.command(name="list")
@click.argument("task", required=False)
@click.option("--limit", type=click.IntRange(1), default=SHOWN, show_default=True, help="How many to show at most.")
@_common
def list_(
    task: str | None, limit: int, older_than: float | None, app: str | None, servers: tuple[str, ...], as_json: bool
) -> int:
    """List the dead letters of TASK, or the tasks that have some.

    Each letter is taken out of its queue and put back to look at it, so only one of these commands should run for a
    task at a time.
    """
    from gtask.cli.call import write
    from gtask.dead import Verdict, queues

    with an_app(app, servers) as loaded:
        if task is None:
            found = queues(loaded)
            if as_json:
                write({"queues": [_queue_dict(queue) for queue in found]}, raw=False)
            else:
                _show_queues(found)
            return 0
        letters: list[dict[str, Any]] = []
        total = 0

        def look(parked: Parked) -> Verdict:
            nonlocal total
            if _is_older(parked, older_than):
                total += 1
                if len(letters) < limit:
                    letters.append(as_dict(parked))
            return Verdict.KEEP

        _work(loaded, task, look)
        if as_json:
            write({"task": task, "total": total, "letters": letters}, raw=False)
        else:
            _show_letters(task, letters, total)
    return 0


@command.command()
@click.argument("task")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@_common
def show(
    task: str,
    ids: tuple[str, ...],
    older_than: float | None,
    app: str | None,
    servers: tuple[str, ...],
    as_json: bool,
) -> int:
    """Show dead letters of TASK in full: the error, what was tried before, the arguments.

    ID is the letter's or the task's, as `gtask dead list` prints it.
    """
    from gtask.cli.call import write
    from gtask.dead import Verdict

    with an_app(app, servers) as loaded:
        letters: list[Parked] = []

        def look(parked: Parked) -> Verdict:
            if _names(parked, ids) and _is_older(parked, older_than) and len(letters) < SHOWN:
                letters.append(parked)
            return Verdict.KEEP

        _work(loaded, task, look)
        if as_json:
            write({"task": task, "letters": [in_full(loaded, one) for one in letters]}, raw=False)
        else:
            for one in letters:
                _show_in_full(loaded, one)
        return _missing("show", task, ids, {name for one in letters for name in _own_names(one)})


@command.command()
@click.argument("task")
@click.argument("ids", metavar="[ID...]", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@_common
def retry(
    task: str,
    ids: tuple[str, ...],
    everything: bool,
    older_than: float | None,
    app: str | None,
    servers: tuple[str, ...],
    as_json: bool,
) -> int:
    """Send the tasks of dead letters again, with fresh retries and under the same id.

    Their stored results are forgotten first, so --app is to name an app with the store (and the signing keys) of the
    worker, unless that is the default. The exit code is 1 when one of them could not be sent.
    """
    return _each("retry", task, ids, everything, older_than, app, servers, as_json)


@command.command()
@click.argument("task")
@click.argument("ids", metavar="[ID...]", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@_common
def drop(
    task: str,
    ids: tuple[str, ...],
    everything: bool,
    older_than: float | None,
    app: str | None,
    servers: tuple[str, ...],
    as_json: bool,
) -> int:
    """Drop dead letters for good."""
    return _each("drop", task, ids, everything, older_than, app, servers, as_json)


def _each(
    what: str,
    task: str,
    ids: tuple[str, ...],
    everything: bool,
    older_than: float | None,
    app: str | None,
    servers: tuple[str, ...],
    as_json: bool,
) -> int:
    from gtask.cli.call import write
    from gtask.dead import Verdict

    if ids and everything:
        raise click.UsageError("--all means all of them; leave the ids away, or --all.")
    if not ids and not everything and older_than is None:
        raise click.UsageError(f"Say which: gtask dead {what} {task} ID..., or --all, or --older-than 7d.")
    verdict = Verdict.RETRY if what == "retry" else Verdict.DROP
    done: set[str] = set()
    with an_app(app, servers) as loaded:

        def decide(parked: Parked) -> Verdict:
            if (ids and not _names(parked, ids)) or not _is_older(parked, older_than):
                return Verdict.KEEP
            if ids:
                done.update(_own_names(parked))
            if verdict is Verdict.RETRY and parked.letter is None:
                say(f"gtask dead {what}", f"{parked.id} is no letter and stays: {parked.problem}")
                return Verdict.KEEP
            return verdict

        tally = _work(loaded, task, decide, keeps=not everything or older_than is not None)
    for id, why in tally.failed:
        say(f"gtask dead {what}", f"{id} was not sent again and stays: {why}")
    count = tally.retried if verdict is Verdict.RETRY else tally.dropped
    if as_json:
        failed = [{"id": id, "error": why} for id, why in tally.failed]
        write({"task": task, "retried": tally.retried, "dropped": tally.dropped, "failed": failed}, raw=False)
    else:
        verb = "sent again" if verdict is Verdict.RETRY else "dropped"
        click.echo(f"{count} {'letter was' if count == 1 else 'letters were'} {verb}, {tally.kept} left.")
    return 1 if tally.failed else _missing(what, task, ids, done)


# --- which ---------------------------------------------------------------------------------------------------


def _names(parked: Parked, ids: tuple[str, ...]) -> bool:
    return any(name in ids for name in _own_names(parked))


def _own_names(parked: Parked) -> tuple[str, ...]:
    return (parked.id,) if parked.letter is None else (parked.id, parked.letter.task_id)


def _is_older(parked: Parked, seconds: float | None) -> bool:
    if seconds is None:
        return True
    return parked.letter is not None and time.time() - parked.letter.failed_at >= seconds


def _missing(what: str, task: str, ids: tuple[str, ...], found: set[str]) -> int:
    missing = [id for id in ids if id not in found]
    if missing:
        say(f"gtask dead {what}", f"{task} has no letter {', '.join(missing)}; see `gtask dead list {task}`.")
    return 1 if missing else 0


def _work(app: App, task: str, decide: Callable[[Parked], Verdict], keeps: bool = True) -> Tally:
    from gtask.dead import work_through
    from gtask.errors import ServerError

    with _patient() as interrupted:

        def decide_or_stop(parked: Parked) -> Verdict:
            # Between two letters, so that none is held when this ends.
            if interrupted():
                raise KeyboardInterrupt
            return decide(parked)

        try:
            return work_through(app, task, decide_or_stop, keeps)
        except ServerError as error:
            raise CliError(str(error)) from error


@contextmanager
def _patient() -> Iterator[Callable[[], bool]]:
    """Makes Ctrl-C a wish that is granted at the next letter."""
    told: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: told.append(number))
    try:
        yield lambda: bool(told)
    finally:
        signal.signal(signal.SIGINT, before)


# --- showing -------------------------------------------------------------------------------------------------


def _queue_dict(queue: Queue) -> dict[str, Any]:
    return {"task": queue.task, "server": str(queue.server), "letters": queue.waiting}


def as_dict(parked: Parked) -> dict[str, Any]:
    """What ``list --json`` prints of one letter; times are Unix seconds."""
    found: dict[str, Any] = {"id": parked.id, "server": str(parked.server)}
    letter = parked.letter
    if letter is None:
        return found | {"problem": parked.problem, "size": len(parked.workload)}
    return found | {
        "task": letter.task,
        "task_id": letter.task_id,
        "error": {"type": letter.error.type, "message": letter.error.message},
        "failed_at": letter.failed_at,
        "worker": letter.worker,
        "retries": letter.retries,
        "priority": letter.priority,
        "size": len(letter.message),
        "refused": letter.refused,
    }


def in_full(app: App, parked: Parked) -> dict[str, Any]:
    """What ``show --json`` prints of one letter: also the traceback, the history, the message."""
    found, letter = as_dict(parked), parked.letter
    if letter is None:
        return found | {"workload": parked.workload}
    found["error"]["traceback"] = letter.error.traceback
    found["history"] = [attempt._asdict() for attempt in letter.history]
    found |= {"function": letter.function, "unique": letter.unique, "message": letter.message}
    return found | _arguments(app, parked)


def _arguments(app: App, parked: Parked) -> dict[str, Any]:
    from gtask.dead import message_in
    from gtask.errors import GtaskError

    assert parked.letter is not None
    try:
        message = message_in(app, parked.letter)
    except GtaskError as error:
        return {"problem": str(error)}
    return {"args": list(message.args), "kwargs": message.kwargs, "headers": message.headers}


def _show_queues(found: list[Queue]) -> None:
    if not found:
        click.echo("No task has dead letters.")
        return
    from gtask.cli.status import a_console, printable, table

    rows = table(("task", False), ("letters", True), ("job server", False))
    for queue in found:
        rows.add_row(printable(queue.task), str(queue.waiting), str(queue.server))
    a_console().print(rows)


def _show_letters(task: str, letters: list[dict[str, Any]], total: int) -> None:
    if not letters:
        click.echo(f"{task} has no dead letters.")
        return
    from gtask.cli.status import a_console, printable, table

    rows = table(("id", False), ("failed", False), ("retries", True), ("worker", False), ("error", False))
    for one in letters:
        if "problem" in one:
            rows.add_row(one["id"], "", "", "", _short(f"no letter: {one['problem']}"))
            continue
        error = ": ".join(part for part in one["error"].values() if part)
        cells = (one["id"], _when(one["failed_at"]), str(one["retries"]), one["worker"])
        rows.add_row(*map(printable, cells), _short(error))
    a_console().print(rows)
    if total > len(letters):
        click.echo(f"and {total - len(letters)} more (--limit shows more)")


def _short(text: str) -> str:
    from gtask.cli.status import printable

    line = printable(" ".join(text[: 4 * SHORT].split()))
    return line if len(line) <= SHORT else f"{line[: SHORT - 3]}..."


def _show_in_full(app: App, parked: Parked) -> None:
    from gtask.cli.call import remote_traceback
    from gtask.cli.status import printable

    letter = parked.letter
    if letter is None:
        click.echo(f"id       {parked.id}\nproblem  {printable(parked.problem)}\nbytes    {parked.workload[:200]!r}\n")
        return
    rows = [("id", letter.id), ("task", f"{letter.task}[{letter.task_id}]")]
    rows += [("failed", _when(letter.failed_at)), ("worker", letter.worker), ("retries", str(letter.retries))]
    rows += [("earlier", f"{_when(one.at)} {one.type}: {one.message}") for one in letter.history]
    rows.append(("error", ": ".join(part for part in (letter.error.type, letter.error.message) if part)))
    found = _arguments(app, parked)
    if "problem" in found:
        rows += [("problem", found["problem"]), ("bytes", repr(letter.message[:200]))]
    else:
        rows += [("args", repr(found["args"])), ("kwargs", repr(found["kwargs"]))]
    for name, value in rows:
        click.echo(f"{name:<8} {printable(' '.join(value.split()))}")
    if letter.error.traceback:
        # Line by line: anybody may have put this here, and a terminal takes orders.
        click.echo(remote_traceback("\n".join(map(printable, letter.error.traceback.splitlines()))))
    click.echo()


def _when(moment: float) -> str:
    try:
        return datetime.fromtimestamp(moment).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return f"{moment:.0f}"
