"""`gtask status`: queues and workers of all job servers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click

from gtask.cli.options import app_option, json_option, servers_of, servers_option

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from gtask.cli.looking import Function, Look
    from gtask.transport.tls import TLS
    from gtask.types import Server

WORKERS_SHOWN: Final = 50
WIDE: Final = 160
"""Columns of output that does not go to a terminal, so that a pipe gets whole names."""


@click.command(name="status")
@servers_option
@app_option
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="The time between two looks with --watch.",
)
@json_option
def command(servers: tuple[str, ...], app: str | None, watch: bool, interval: float, as_json: bool) -> int:
    """Show the queues and the workers of all job servers.

    The exit code is 1 when no job server answers. With --json and --watch, each line is one look.
    """
    from gtask.cli.looking import look_all

    addresses, tls = servers_of(app, servers)
    if watch:
        return _watch(addresses, tls, interval, as_json)
    looks = look_all(addresses, tls)
    if as_json:
        _print_json(looks)
    else:
        a_console().print(*_pictures(looks), sep="\n")
    return 0 if any(not one.error for one in looks) else 1


def a_console() -> Console:
    """A console on stdout, wide enough when it is no terminal."""
    from rich.console import Console

    # Nothing in here is markup: names come from job servers.
    terminal = sys.stdout.isatty()
    return Console(width=None if terminal else WIDE, markup=False, highlight=False, emoji=False)


def _watch(servers: Sequence[Server], tls: TLS | None, interval: float, as_json: bool) -> int:
    from gtask.cli.looking import look_all

    with suppress(KeyboardInterrupt), _screen(as_json) as show:
        while True:
            show(look_all(servers, tls))
            time.sleep(interval)
    return 0


@contextmanager
def _screen(as_json: bool) -> Iterator[Callable[[Sequence[Look]], None]]:
    """What shows one look after the other: in place in a terminal, else below each other."""
    console = a_console()
    if as_json:
        yield _print_json
    elif not console.is_terminal:
        yield lambda looks: console.print(*_pictures(looks), sep="\n")
    else:
        from rich.console import Group
        from rich.live import Live
        from rich.text import Text

        with Live(console=console, screen=True, auto_refresh=False) as live:
            hint = "   Ctrl-C ends this"
            yield lambda looks: live.update(
                Group(Text(time.strftime("%H:%M:%S") + hint, style="dim"), *_pictures(looks)), refresh=True
            )


def _print_json(looks: Sequence[Look]) -> None:
    from gtask.cli.call import write

    write({"servers": [as_dict(one) for one in looks]}, raw=False)


def as_dict(look: Look) -> dict[str, Any]:
    """What ``--json`` prints of one job server."""
    if look.error:
        return {"server": str(look.server), "reachable": False, "error": look.error}
    return {
        "server": str(look.server),
        "reachable": True,
        "version": look.version,
        "connections": look.connections,
        "functions": [asdict(function) for function in look.functions],
        "workers": [asdict(worker) for worker in look.workers],
    }


def _pictures(looks: Sequence[Look]) -> list[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    pictures: list[RenderableType] = []
    for one in looks:
        pictures.append(Text.assemble((str(one.server), "bold"), "  ", _headline(one)))
        if one.error:
            continue
        if one.functions:
            pictures += [Text(""), Padding(_functions(one.functions), (0, 0, 0, 2))]
        if one.workers:
            pictures += [Text(""), Padding(_workers(one), (0, 0, 0, 2))]
        pictures.append(Text(""))
    return pictures


def _headline(look: Look) -> tuple[str, str]:
    if look.error:
        return f"does not answer: {look.error}", "red"
    waiting = sum(function.waiting for function in look.functions)
    running = sum(function.running for function in look.functions)
    workers = _count(len(look.workers), "worker connection")
    return f"{look.software}: {_count(waiting, 'job')} waiting, {running} running, {workers}", ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def table(*columns: tuple[str, bool]) -> Table:
    """A table with these columns, each with whether it holds numbers."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name, is_number in columns:
        made.add_column(name, justify="right" if is_number else "left", overflow="fold")
    return made


def _functions(functions: Sequence[Function]) -> Table:
    names = ("waiting", "high", "normal", "low", "running", "workers")
    rows = table(("function", False), *((name, True) for name in names), ("", False))
    for one in functions:
        numbers = [one.waiting, one.high, one.normal, one.low, one.running, one.workers]
        style = "yellow" if one.unserved else "dim" if one.own else ""
        note = "no worker serves it" if one.unserved else ""
        rows.add_row(
            printable(one.name), *("-" if number is None else str(number) for number in numbers), note, style=style
        )
    return rows


def _workers(look: Look) -> Table:
    # A process may have several connections; here it is one line.
    processes: dict[tuple[str, str], set[str]] = {}
    for one in look.workers:
        processes.setdefault((one.id, one.address), set()).update(one.functions)
    rows = table(("worker", False), ("address", False), ("functions", False))
    for (id, address), functions in list(processes.items())[:WORKERS_SHOWN]:
        rows.add_row(printable(id), address, printable(", ".join(sorted(functions))))
    if len(processes) > WORKERS_SHOWN:
        rows.add_row(f"and {len(processes) - WORKERS_SHOWN} more (--json has all)", "", "")
    return rows


def printable(text: str) -> str:
    """A name from a job server without what would move the cursor or break the output's encoding."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
