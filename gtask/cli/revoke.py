"""`gtask revoke`: has a task not run, or stopped, by its id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from gtask.cli.options import an_app, app_option, servers_option

if TYPE_CHECKING:
    from gtask.result import AsyncResult

SETTLED: Final = 5.0
"""Seconds in which a mark is stored, where somebody serves the store."""


@click.command(name="revoke")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--terminate", is_flag=True, help="Stop what runs already, where its pool can.")
@app_option
@servers_option
def command(ids: tuple[str, ...], terminate: bool, app: str | None, servers: tuple[str, ...]) -> int:
    """Have a task not run that was sent, or stop it.

    No worker runs it then, and whoever waits for it is told. Several may be given.

    ID is what `gtask call --background` printed, or the `id` of a result in Python. What follows from a task in a chain
    is not run either, nor what it has sent itself. A task that has ended keeps its result: the exit code is 1 then.
    """
    from gtask.group_result import GroupResult
    from gtask.states import State

    with an_app(app, servers) as loaded:
        results = [loaded.AsyncResult(id) for id in dict.fromkeys(ids)]
        unknown = {result.id for result in results if loaded.state_on_servers(result.id) is State.UNKNOWN}
        GroupResult(loaded, results).revoke(terminate)
        late = [result for result in results if not _revoked(result, result.id in unknown)]
    return 1 if late else 0


def _revoked(result: AsyncResult[Any], unknown: bool) -> bool:
    """Says what became of a task; false for one that had ended before. `unknown` says that nobody knew its id."""
    from gtask.errors import ResultsUnavailable
    from gtask.states import State

    try:
        result.wait(SETTLED)
    except ResultsUnavailable:
        click.echo(f"{result.id} is marked; workers hear of it when a results service is there.")
        return True
    outcome = result.info
    if outcome is None or not outcome.ready or outcome.state is State.REVOKED:
        # A later step of a chain is not known before its turn; an id with a slip in it never will be.
        click.echo(f"{result.id} revoked{', though nobody knows this id now: is it right?' if unknown else ''}")
        return True
    click.echo(f"{result.id} has ended before: {outcome.state}")
    return False
