"""The footprint is measured in whole. Nothing is said about its size, but for what no machine may exceed."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.footprint import main


def test_every_figure_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    assert main(["--quick", "--json", str(path)]) == 0
    figures = {what: (figure, unit) for what, figure, unit, _ in json.loads(path.read_text())}
    assert all(figure >= 0 for figure, _ in figures.values())
    parts = (
        "gtask --help",
        "start until it takes jobs",
        "private memory of a child",
        "of one CPU, all processes",
        "a child woken",
        "connections: memory for each",
        "jobs queued: memory for each",
        "CPU to take one in",
        "start after SIGKILL",
    )
    for part in parts:
        assert any(part in what for what in figures), part
    (memory,) = [figure for what, (figure, _) in figures.items() if "private memory of a child" in what]
    assert 0 < memory < 12
