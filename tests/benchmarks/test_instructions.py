"""The gate: codec, messages and engine take no more machine instructions than they did. No clock is looked at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import instructions
from benchmarks.instructions import BASELINE, CASES, REFERENCE, TOLERANCE, changes, count, key, report
from gtask.testing.requirements import require


@pytest.mark.parametrize("name", list(CASES))
def test_every_case_does_its_work(name: str) -> None:
    CASES[name]()


def test_nothing_has_become_dearer(tmp_path: Path) -> None:
    """When this fails, see what `python -m benchmarks.instructions` says."""
    require("valgrind", package="valgrind")
    kept = json.loads(BASELINE.read_text())
    if key() not in kept:
        pytest.skip(f"There are no counts for {key()} in {BASELINE.name}.")
    now = count(tmp_path)
    assert set(now) == set(kept[key()]) == set(CASES)
    table = report(now, kept[key()])
    dearer = [name for name, _, _, change in changes(now, kept[key()]) if change > TOLERANCE]
    assert not dearer, f"Dearer than {TOLERANCE:.0%} more: {dearer}\n{table}"


def test_another_build_of_python_is_set_off() -> None:
    kept = dict.fromkeys(CASES, 1000)
    now = {**dict.fromkeys(CASES, 1500), REFERENCE: 1500}
    assert {change for _, _, _, change in changes(now, kept)} == {0.0}
    now["engine"] = 1800
    assert {name for name, _, _, change in changes(now, kept) if change > TOLERANCE} == {"engine"}


def test_what_is_dearer_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = dict.fromkeys(CASES, 1000)
    monkeypatch.setattr(instructions, "BASELINE", tmp_path / "kept.json")
    monkeypatch.setattr(instructions, "count", lambda folder: counted)
    assert instructions.main(["--update"]) == 0
    assert json.loads((tmp_path / "kept.json").read_text()) == {key(): counted}
    counted["decode packets"] = 1150
    assert instructions.main([]) == 1
    assert "Dearer by more than 10%: decode packets." in capsys.readouterr().out
