"""Runs `gtask` as a user would: as a process, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

LIMIT = 60.0
"""Seconds after which a command hangs; none takes nearly as long."""

APP = '''
"""The app of the tests of the command line."""

import time
from datetime import date
from decimal import Decimal

from gtask import App, TaskContext

app = App("shop")


@app.task
def double(amount: Decimal) -> Decimal:
    return amount * 2


@app.task
def describe(name: str, *, day: date) -> dict:
    return {"name": name, "weekday": day.strftime("%A"), "note": "größer"}


@app.task
def text() -> str:
    return "plain, and größer"


@app.task
def blob() -> bytes:
    return b"\\x00\\xff"


@app.task
def boom(order: int) -> None:
    raise ValueError(f"no such order: {order}")


@app.task(bind=True)
def steps(ctx: TaskContext, count: int) -> int:
    for step in range(count):
        ctx.progress(step + 1, count)
    ctx.warn("that was all")
    return count


@app.task
def wait_for(path: str) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with open(path) as file:
                return file.read()
        except OSError:
            time.sleep(0.01)
    raise TimeoutError(path)
'''


def gtask(
    *args: str,
    cwd: str | os.PathLike[str] | None = None,
    servers: str | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout: float = LIMIT,
) -> subprocess.CompletedProcess[str]:
    """Runs one command to its end."""
    environment = {**os.environ, "COLUMNS": "100", **(env or {})}
    environment.pop("GTASK_SERVERS", None)
    if servers is not None:
        environment["GTASK_SERVERS"] = servers
    return subprocess.run(
        [sys.executable, "-m", "gtask", *args],
        cwd=cwd,
        env=environment,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def only_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line on stderr of a command that was refused: no traceback, nothing on stdout."""
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout, len(lines)) == (code, "", 1), (done.returncode, done.stdout, done.stderr)
    return lines[0]


def write_app(folder: Path, source: str = APP, name: str = "app.py") -> Path:
    """Puts the app into a folder, and returns the folder."""
    (folder / name).write_text(source)
    return folder
