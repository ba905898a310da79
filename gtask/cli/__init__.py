"""The command line: `gtask worker`, `server`, `call` and the others, each in a file of its own.

A command's file is loaded when the command is run, so that `gtask --help` is there at once.
"""

from __future__ import annotations

from gtask.cli.group import main

__all__ = ["main"]
