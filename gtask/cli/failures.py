"""How the command line says what went wrong: one line on stderr, and where it helps, details below it."""

from __future__ import annotations

import click


class CliError(click.ClickException):
    """The command cannot go on.

    `message` is a sentence that says what is wrong and what to do next, `code` the exit code: 2 for wrong usage, 1
    for everything else. `details` are printed below it, for instance the traceback of the user's own module.
    """

    def __init__(self, message: str, code: int = 1, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.details = details


def one_line(text: str) -> str:
    """The text without line breaks, ending like a sentence."""
    line = " ".join(text.split())
    return line if line.endswith((".", "?", "!")) else f"{line}."


def say(who: str, message: str, details: str = "") -> None:
    """Writes a line to stderr, behind the command that says it."""
    click.echo(f"{who}: {' '.join(message.split())}", err=True)
    if details:
        click.echo(details.rstrip(), err=True)
