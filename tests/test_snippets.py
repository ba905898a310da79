"""The snippets of README.md and docs/: all Python compiles, and what is marked runs.

An HTML comment on the line before a fence says what the block is for. Per page, in order, in one temporary folder:

- ``<!-- file: app.py -->`` writes the block to that file;
- ``<!-- run -->`` runs a Python block as a script of its own;
- ``<!-- shell -->`` runs a shell block (bash, stops at the first error);
- ``<!-- start: PATTERN -->`` starts a shell block and leaves it running until the page's end; the next block comes when
  a line of its output matches the regular expression;
- ``<!-- output -->`` is what the block before has printed, to the character (spaces at the ends aside).

``$GTASK_SERVERS`` names a job server with a results service that lives as long as the page's test.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from gtask.testing import Program, job_server

ROOT = Path(__file__).resolve().parents[1]
PAGES = [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if path.exists()]

FENCE = re.compile(
    r"^(?:[ ]*<!--\s*(?P<kind>file|run|shell|start|output)(?::\s*(?P<value>[^\n]*?))?\s*-->\n+)?"
    r"(?P<indent>[ ]*)```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^(?P=indent)```[ ]*$",
    re.MULTILINE | re.DOTALL,
)
LIMIT = 120.0


@dataclass(frozen=True)
class Block:
    """One fenced block: the file's name and line it starts at, its language, its mark and the mark's value."""

    place: str
    language: str
    body: str
    kind: str
    value: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        indent = len(match["indent"])
        body = "".join(line[indent:] if line[:indent].isspace() else line for line in match["body"].splitlines(True))
        line = text.count("\n", 0, match.start("body")) + 1
        place = f"{page.relative_to(ROOT) if page.is_relative_to(ROOT) else page.name}:{line}"
        found.append(Block(place, match["language"], body, match["kind"] or "", match["value"] or ""))
    return found


PYTHON = [block for page in PAGES for block in blocks(page) if block.language in ("python", "py")]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.place)
def test_a_python_snippet_compiles(block: Block) -> None:
    compile(block.body, block.place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_marked_snippets_of_a_page_run(page: Path, tmp_path: Path) -> None:
    marked = [block for block in blocks(page) if block.kind]
    if marked:
        run(marked, tmp_path)


def run(marked: list[Block], base: Path) -> None:
    """Does what the marks say, in order, against a job server of its own."""
    folder = base / "page"
    folder.mkdir()
    with ExitStack() as stack:
        server = stack.enter_context(job_server(results=base / "results.db"))
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
        env = {**os.environ, "GTASK_SERVERS": server.url, "PATH": path, "PYTHONUNBUFFERED": "1"}
        printed = ""
        for block in marked:
            shell = ["bash", "-e", "-c", block.body]
            if block.kind == "file":
                target = folder / block.value
                assert target.resolve().is_relative_to(folder.resolve()), f"{block.place}: {block.value} is elsewhere"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(block.body)
            elif block.kind == "start":
                program = stack.enter_context(Program(shell, cwd=folder, env=env))
                program.wait_for_line(block.value or r"\bready\b")
            elif block.kind == "output":
                assert printed.strip() == block.body.strip(), f"{block.place}: this is not what was printed"
            else:
                printed = execute(block, shell if block.kind == "shell" else [sys.executable, "-"], folder, env)


def execute(block: Block, command: list[str], folder: Path, env: dict[str, str]) -> str:
    """Runs one block to its end and returns what it printed."""
    source = block.body if block.kind == "run" else ""
    done = subprocess.run(
        command, cwd=folder, env=env, input=source, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, f"{block.place} ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


PAGE = """
Text.

<!-- file: app.py -->
```python
x = 1
```

<!-- run -->
```python
import app
print(app.x)
```

- A list:

  <!-- output -->
  ```
  1
  ```

```python
await anything
```
"""


def test_blocks_are_found_with_their_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)

    found = [(block.kind, block.value, block.language, block.body) for block in blocks(page)]

    assert found == [
        ("file", "app.py", "python", "x = 1\n"),
        ("run", "", "python", "import app\nprint(app.x)\n"),
        ("output", "", "", "1\n"),
        ("", "", "python", "await anything\n"),
    ]


LIVE_PAGE = """
<!-- file: app.py -->
```python
from gtask import App

app = App("example")

@app.task
def double(number: int) -> int:
    return 2 * number
```

<!-- start: ready -->
```sh
gtask worker app:app --pool solo
```

<!-- run -->
```python
from app import double

print(double.delay(21).get(timeout=30))
```

<!-- output -->
```
42
```

<!-- shell -->
```sh
gtask --version > version.txt
ls *.*
```

<!-- output -->
```
app.py
version.txt
```
"""


def test_marked_blocks_run_against_a_live_server(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(LIVE_PAGE)

    run(blocks(page), tmp_path)


@pytest.mark.parametrize(
    ("mark", "body", "complaint"),
    [("run", "raise SystemExit(3)", "page.md:3 ended with 3"), ("output", "43", "this is not what was printed")],
)
def test_a_wrong_block_is_named(mark: str, body: str, complaint: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"<!-- {mark} -->\n```python\n{body}\n```\n")

    with pytest.raises(AssertionError, match=complaint):
        run(blocks(page), tmp_path)
