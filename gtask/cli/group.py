"""`gtask` itself: finds the command, runs it, and turns what goes wrong into one line and an exit code.

Only click is loaded here. What `gtask --help` says of each command stands in `COMMANDS`, so that listing the commands
loads none of them.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from typing import Any, Final

import click

from gtask.cli.failures import CliError, one_line, say
from gtask.errors import ConfigurationError, GtaskError

SECTIONS: Final = {
    "Run": {
        "demo": "See it all work: a job server, a worker and a few calls, in a few seconds.",
        "server": "Run the embedded job server, with the results service.",
        "worker": "Run the tasks of an app.",
        "results": "Run the results service for job servers that run elsewhere.",
    },
    "Use": {
        "call": "Call a task and print its answer.",
        "result": "Print the state and the result of a task that was sent.",
        "revoke": "Have a task not run that was sent, or stop it.",
    },
    "Look": {
        "status": "Show the queues and the workers of all job servers.",
        "dead": "Look at tasks that failed for good, send them again, or drop them.",
        "doctor": "Check each job server: what cannot be trusted, and what to change.",
    },
}
"""What `gtask --help` lists: the commands by what they are for, each with its short help."""

COMMANDS: Final = {name: text for commands in SECTIONS.values() for name, text in commands.items()}

FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130

EPILOG: Final = (
    "Job servers come from --servers, else from the app, else from $GTASK_SERVERS, else 127.0.0.1:4730. "
    "Exit codes: 0 done, 1 failed, 2 wrong usage."
)


class Commands(click.Group):
    """A group whose commands are files of this package, loaded when they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Loads one command, None when there is no such."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"gtask.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command that is meant; a name that is none is answered with the nearest."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, 1, 0.5)
            hint = f"Did you mean `gtask {near[0]}`?" if near else f"There are {', '.join(COMMANDS)}."
            raise click.UsageError(f"There is no command {args[0]!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without loading them."""
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(commands.items()), col_max=12)


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"gtask {version('gtask')}")
        ctx.exit()


@click.group(
    cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
def cli() -> None:
    """Tasks for Python on Gearman.

    Start with `gtask demo`. To run your own: `gtask server` in one terminal, `gtask worker app:app` in another, then
    call a task from Python or with `gtask call`.
    """


def main(args: Sequence[str] | None = None) -> int:
    """Runs `gtask` with these arguments (None: those of the process) and returns its exit code.

    0 done, 1 failed, 2 wrong usage, 130 interrupted. What goes wrong is said in one line on stderr.
    """
    import sys

    given = list(sys.argv[1:] if args is None else args)
    command = _command_name(given)
    try:
        answer: Any = cli.main(args=given or ["--help"], prog_name="gtask", standalone_mode=False)
    except CliError as error:
        say(command, error.message, error.details)
        return error.code
    except click.UsageError as error:
        say(command, f"{one_line(error.format_message())}{_hint(error)} See `{command} --help`.")
        return USAGE
    except click.ClickException as error:
        say(command, one_line(error.format_message()))
        return FAILED
    except (click.Abort, KeyboardInterrupt):
        say(command, "Interrupted.")
        return INTERRUPTED
    except ConfigurationError as error:
        say(command, str(error))
        return USAGE
    except GtaskError as error:
        say(command, str(error))
        return FAILED
    return answer if isinstance(answer, int) else 0


def _command_name(args: Sequence[str]) -> str:
    return f"gtask {args[0]}" if args and args[0] in COMMANDS else "gtask"


def _hint(error: click.UsageError) -> str:
    missing = error.param.name if isinstance(error, click.MissingParameter) and error.param is not None else ""
    return " It is MODULE:ATTRIBUTE, as in app:app." if missing == "app" else ""
