"""`gtask doctor`: what the job servers cannot be trusted with, and what to change."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import click

from gtask.cli.options import an_app, app_option, json_option, servers_option

if TYPE_CHECKING:
    from gtask.app import App
    from gtask.cli.checks import Finding
    from gtask.cli.probing import Facts

STYLES: Final = {"serious": ("red", True), "warning": ("yellow", False), "note": ("blue", False)}
INDENT: Final = " " * 11
MAX_WIDTH: Final = 110


@click.command(name="doctor")
@servers_option
@app_option
@click.option(
    "--probe/--no-probe",
    default=True,
    help="Run a few jobs of a function of its own, to find out about the queue; they are removed again.  [default: "
    "probe]",
)
@json_option
def command(servers: tuple[str, ...], app: str | None, probe: bool, as_json: bool) -> int:
    """Check each job server: what cannot be trusted, and what to change.

    The exit code is 1 when something serious was found. With --app, the tasks of the app that no worker serves are
    found as well, and its result store is looked at.
    """
    from gtask.cli.checks import Severity, diagnose
    from gtask.cli.probing import examine

    with an_app(app, servers) as loaded:
        needs_results = _needs_results(loaded)
        with ThreadPoolExecutor(min(8, len(loaded.servers))) as pool:
            facts = list(pool.map(lambda server: examine(server, loaded.settings.tls, probe), loaded.servers))
        findings = [diagnose(one, needs_results) for one in facts]
        of_app = [*_store(loaded), *_tasks(loaded, facts)] if app else []
    failed = any(one.severity is Severity.SERIOUS for some in findings for one in some)
    failed = failed or any(one.severity is Severity.SERIOUS for one in of_app)
    if as_json:
        _print_json(facts, findings, of_app, failed)
    else:
        for one, some in zip(facts, findings, strict=True):
            _show(f"{one.server}  {headline(one)}", some)
        if of_app:
            _show(f"app {app}", of_app)
    return 1 if failed else 0


def _needs_results(app: App) -> bool:
    from gtask.results.gearman import GearmanStore

    return isinstance(app.store, GearmanStore)


def _store(app: App) -> Sequence[Finding]:
    """What is wrong with a store that is no part of a job server."""
    from gtask.cli.checks import serious, warning
    from gtask.errors import GtaskError

    if app.store is None or app.store.carries:
        return ()
    try:
        found = app.store.weaknesses()
    except GtaskError as error:
        return (serious("store", str(error), "Until then no result is kept, and workers do not start."),)
    return [(serious if one.serious else warning)(f"store-{one.code}", one.what, one.remedy) for one in found]


def _tasks(app: App, facts: Sequence[Facts]) -> Sequence[Finding]:
    from gtask.cli.checks import warning

    if all(one.look.error for one in facts):
        return ()
    served = {function.name for one in facts for function in one.look.functions if function.workers}
    missing = sorted(set(app.tasks) - served)
    if not missing:
        return ()
    names = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
    return (warning("tasks", f"No worker serves {names}.", "Start `gtask worker` with this app."),)


def headline(facts: Facts) -> str:
    """One line on a server: its version, its queue and its transport."""
    from gtask.cli.checks import queue_of

    if facts.look.error:
        return "cannot be used"
    queue, certain = queue_of(facts)
    known = f"queue {queue}{'' if certain else ' (as far as can be told)'}" if queue else "queue not known"
    transport = "plaintext"
    if facts.server.tls:
        transport = "TLS, and nothing without it" if not facts.plaintext else "TLS"
    return f"{facts.look.software}, {known}, {transport}"


def _show(title: str, findings: Sequence[Finding]) -> None:
    import shutil
    import textwrap

    from gtask.cli.status import printable

    width = min(shutil.get_terminal_size((MAX_WIDTH, 24)).columns, MAX_WIDTH) if sys.stdout.isatty() else MAX_WIDTH
    click.secho(printable(title), bold=True)
    if not findings:
        click.echo("  nothing to report")
    for one in findings:
        colour, bold = STYLES[one.severity]
        head, *rest = textwrap.wrap(printable(one.what), width - len(INDENT))
        click.echo(f"  {click.style(f'{one.severity:<7}', fg=colour, bold=bold)}  {head}")
        for line in [*rest, *textwrap.wrap(f"-> {one.remedy}", width - len(INDENT), subsequent_indent="   ")]:
            click.echo(f"{INDENT}{line}")
    click.echo()


def _print_json(
    facts: Sequence[Facts], findings: Sequence[Sequence[Finding]], of_app: Sequence[Finding], failed: bool
) -> None:
    from gtask.cli.call import write
    from gtask.cli.checks import queue_of

    servers: list[dict[str, Any]] = []
    for one, some in zip(facts, findings, strict=True):
        queue, certain = queue_of(one)
        servers.append(
            {
                "server": str(one.server),
                "reachable": not one.look.error,
                "version": one.look.version or None,
                "queue": queue or None,
                "queue_is_certain": certain,
                "tls": one.server.tls and not one.look.error,
                "plaintext": one.plaintext if one.server.tls else not one.look.error,
                "findings": [finding._asdict() for finding in some],
            }
        )
    write({"ok": not failed, "servers": servers, "app": [finding._asdict() for finding in of_app]}, raw=False)
