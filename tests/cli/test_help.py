"""Help: there at once, complete, and readable."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest

from gtask.cli.group import COMMANDS, cli
from tests.cli.runs import LIMIT, gtask, only_line


def test_help_lists_every_command() -> None:
    done = gtask("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for name, text in COMMANDS.items():
        assert f"{name} " in done.stdout
        assert " ".join(text.split()) in " ".join(done.stdout.split())


def test_without_a_command_it_helps() -> None:
    assert gtask().stdout == gtask("--help").stdout


def test_help_loads_nothing_that_it_does_not_need() -> None:
    """So that it takes less than 0.3 s, most of it Python's own start."""
    code = (
        "import sys, json; from gtask.cli import main; main(['--help']);"
        "print('\\n' + json.dumps([name for name in sys.modules if '.' not in name or name.startswith('gtask')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=LIMIT)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert {name for name in loaded if name.startswith("gtask")} == {
        "gtask",
        "gtask.cli",
        "gtask.cli.failures",
        "gtask.cli.group",
        "gtask.errors",
    }
    assert not loaded & {"anyio", "asyncio", "msgpack", "opentelemetry", "orjson", "rich", "sqlite3", "ssl"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_explains_itself(name: str) -> None:
    """Its help begins with the sentence that the list of commands shows, and every option has a text."""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert (command.help or "").partition("\n")[0] == COMMANDS[name]
    for param in command.params:
        if isinstance(param, click.Option):
            assert param.help, param.name
    assert command.name == name


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_can_be_asked_for(name: str) -> None:
    done = gtask(name, "-h")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: gtask {name} ")
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_the_version_is_told() -> None:
    done = gtask("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("gtask ")


def test_a_command_that_is_none_is_answered_with_the_nearest() -> None:
    line = only_line(gtask("workr"), 2)
    assert line == "gtask: There is no command 'workr'. Did you mean `gtask worker`? See `gtask --help`."


def test_a_command_like_no_other_is_answered_with_all() -> None:
    assert "worker, results" in only_line(gtask("xyz"), 2)
