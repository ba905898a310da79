"""The App of the tests about what fails for good and what has run already; its store is named by a variable."""

from __future__ import annotations

import os
import time
from pathlib import Path

from gtask import App
from tests.e2e.tasks import note, pass_gate

app = App("dead", results=os.environ.get("DEAD_RESULTS") or "gearman://")


@app.task(max_retries=2, autoretry_for=(OSError,), default_retry_delay=0)
def pay(folder: str, order: int) -> int:
    """Fails for want of a file."""
    note(f"{folder}/pay", order)
    return order + int(Path(folder, "bank").read_text())


@app.task
def book(folder: str, amount: int) -> int:
    """A next step."""
    note(f"{folder}/book", amount)
    return amount


@app.task
def dies(folder: str) -> str:
    """Ends its process, until a file is there."""
    note(f"{folder}/dies", os.getpid())
    if not Path(folder, "alive").exists():
        os._exit(7)
    return "alive"


@app.task
def sleeps(folder: str) -> str:
    """Runs longer than anybody waits."""
    note(f"{folder}/sleeps", os.getpid())
    time.sleep(60)
    return "awake"


@app.task
def gated(folder: str, name: str) -> int:
    """Waits until the test lets it go on."""
    return pass_gate(folder, name)
