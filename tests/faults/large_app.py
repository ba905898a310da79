"""An App whose task gives a large answer, and notes each of its runs."""

from __future__ import annotations

from pathlib import Path

from gtask import App


def make(servers: str | None = None) -> App:
    """The App on these job servers, by default on those of the environment."""
    made = App("large", servers, results=None)

    @made.task
    def big(runs: str, size: int) -> str:
        with Path(runs).open("a") as file:
            file.write("run\n")
        return "x" * size

    return made


app = make()
