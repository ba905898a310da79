"""`gtask results`: the results service, for job servers that run elsewhere."""

from __future__ import annotations

import click

from gtask.cli.failures import CliError
from gtask.cli.logs import log_options, set_up
from gtask.cli.options import an_app, app_option, servers_of, servers_option


@click.command(name="results")
@click.option(
    "--db",
    type=click.Path(dir_okay=False),
    default="results.db",
    show_default=True,
    metavar="FILE",
    help="The SQLite file that keeps the results, made if it is missing; on a local disk.",
)
@servers_option
@app_option
@log_options("info")
def command(db: str, servers: tuple[str, ...], app: str | None, loglevel: str, json_logs: bool) -> int:
    """Run the results service for job servers that run elsewhere.

    It is a Gearman worker that keeps what tasks return and answers those who wait for it. `gtask server` has one
    already; gearmand needs this one, or a worker with --with-results. SIGTERM or Ctrl-C ends it.

    Where callers and workers sign what they send, it needs their keys: those of --app, or $GTASK_SIGNING_KEYS.
    """
    from gtask.errors import ConfigurationError, ResultError
    from gtask.results.service import run_service

    set_up(loglevel, json_logs)
    addresses, tls = servers_of(app, servers)
    keys = an_app(app, servers).settings.signing_keys
    ready = f"gtask results ready: {db}, for {', '.join(str(server) for server in addresses)}"
    try:
        run_service(addresses, db, tls=tls, keys=keys, ready=lambda: _say(ready, json_logs))
    except (ConfigurationError, ResultError) as error:
        raise CliError(str(error)) from error
    return 0


def _say(ready: str, json_logs: bool) -> None:
    if json_logs:
        import logging

        logging.getLogger("gtask.results").info(ready)
    else:
        click.echo(ready)
