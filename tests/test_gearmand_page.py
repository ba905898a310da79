"""docs/gearmand.md: one row for each known defect of gearmand, and what it names as proof is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DEFECTS = 48
ROW = re.compile(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
FINDING = re.compile(r"doctor: ([\w-]+)")

ROWS = {int(number): rest for number, *rest in ROW.findall((ROOT / "docs" / "gearmand.md").read_text())}


@cache
def functions(path: str) -> frozenset[str]:
    """The functions of a file."""
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@cache
def findings() -> frozenset[str]:
    """The codes that `gtask doctor` may find: the first argument of what makes a finding."""
    tree = ast.parse((ROOT / "gtask" / "cli" / "checks.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and len(node.args) == 3]
    return frozenset(call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant))  # type: ignore[misc]


def test_every_defect_has_a_row() -> None:
    assert sorted(ROWS) == list(range(1, DEFECTS + 1))


@pytest.mark.parametrize("number", sorted(ROWS))
def test_a_row_names_what_is_there(number: int) -> None:
    defect, why, shown = ROWS[number]
    assert len(defect) > 20
    assert len(why) > 15
    tests, found = TEST.findall(shown), FINDING.findall(shown)
    assert tests or found
    assert re.sub(r"`[^`]*`|doctor: [\w-]+|[,\s]", "", shown) == "", "nothing but names"
    assert [f"{path}::{name}" for path, name in tests if name not in functions(path)] == []
    assert [code for code in found if code not in findings()] == []
