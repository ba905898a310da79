"""A process that works through letters and is killed at a step of it: run as ``python -m tests.dead.victim``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import gtask.dead
from gtask import App
from gtask.client.grabber import Grabber
from gtask.dead import Verdict, work_through
from gtask.results import SqliteStore
from gtask.testing.programs import Program

ROOT = Path(__file__).resolve().parents[2]


def start(url: str, db: Path, verdict: str, step: int) -> Program:
    """The process, which says ``now`` at one of its steps and stays there."""
    return Program([sys.executable, "-m", "tests.dead.victim", url, str(db), verdict, str(step)], cwd=ROOT)


def main(url: str, db: str, verdict: str, step: str) -> None:
    """Works through the letters of `pay`, up to a step: a grab, a submission or an ending."""
    left = int(step) * 2

    class Slow(Grabber):
        def _talk(self, *args: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                # What this step was to send has been sent, and its answer is not waited for.
                self._connection.send(self._protocol.data_to_send())
                print("now", flush=True)
                time.sleep(600)
            super()._talk(*args)  # type: ignore[arg-type]

    vars(gtask.dead)["Grabber"] = Slow
    with App("shop", servers=url, results=SqliteStore(db)) as app:
        work_through(app, "pay", lambda parked: Verdict[verdict])
    print("now", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
