"""The App of the tests with several hosts: tasks that kill their process, or do not end."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from gtask import App
from tests.e2e.tasks import note


def make(servers: Any = None) -> App:
    """The App on some job servers."""
    app = App("poison", servers=servers)

    @app.task
    def dies(path: str) -> None:
        note(path, os.getpid())
        os.kill(os.getpid(), signal.SIGKILL)

    @app.task(time_limit=0.7)
    def hangs(path: str) -> None:
        note(path, os.getpid())
        time.sleep(60)

    return app


app = make()
