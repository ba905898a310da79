"""Wrong options and apps that cannot be loaded: one line that says what to do next, and no traceback of gtask."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.runs import gtask, only_line, write_app

NOWHERE = "127.0.0.1:1"
"""Where nothing listens."""

OPTIONS = [
    (["worker"], "Missing argument 'APP'. It is MODULE:ATTRIBUTE, as in app:app."),
    (["worker", "app:app", "--conc", "3"], "--concurrency"),
    (["worker", "app:app", "-c", "0"], "0 is not in the range"),
    (["worker", "app:app", "-c", "many"], "'many' is not a valid integer"),
    (["worker", "app:app", "--pool", "fork"], "'prefork', 'thread', 'async', 'solo'"),
    (["worker", "app:app", "--pool", "solo", "-c", "3"], "one task at a time"),
    (["worker", "app:app", "--backend", "trio"], "--pool async"),
    (["worker", "app:app", "--prefetch", "some"], "write auto or a number of jobs"),
    (["worker", "app:app", "--loglevel", "loud"], "'debug', 'info'"),
    (["worker", "app:app", "--servers", "http://here"], "'http://here' is no job server's address"),
    (["server", "--port", "70000"], "70000 is not in the range"),
    (["server", "--max-body", "none"], "write for instance 64M"),
    (["server", "--job-retries", "256"], "256 is not in the range"),
    (["call", "app:app"], "Missing argument 'TASK'"),
    (["call", "app:app", "double", "--args", "[1"], "--args is no JSON"),
    (["call", "app:app", "double", "--args", "{}"], "--args is an array; write for instance --args '[7]'"),
    (["call", "app:app", "double", "--kwargs", "[]"], "--kwargs is an object"),
    (["call", "app:app", "double", "--args", "[1, 2]"], "double(amount: decimal.Decimal)"),
    (["call", "app:app", "double", "--background", "--progress"], "`gtask result ID` waits"),
    (["call", "app:app", "double", "-a", "-", "-k", "-"], "stdin"),
    (["call", "app:app", "double", "--codec", "json"], "leave --codec json away"),
    (["call", "app:app", "no such task"], "'no such task' cannot be the name of a task"),
    (["result"], "Missing argument 'ID'"),
    (["status", "--servers", "gearman://:0"], "is no job server's address"),
    (["status", "extra"], "unexpected extra argument"),
]


@pytest.mark.parametrize(
    ("args", "text"), OPTIONS, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_wrong_usage_is_one_line(args: list[str], text: str, folder: Path) -> None:
    line = only_line(gtask(*args, cwd=folder, servers=NOWHERE), 2)
    assert text in line
    assert line.startswith(f"gtask {args[0]}: ")


APPS = [
    ("nosuch:app", "There is no module 'nosuch'"),
    ("appp", "Did you mean app?"),
    ("app:ap", "Module 'app' has no 'ap' (for 'app:ap'). Did you mean app:app?"),
    ("app:app.inner", "Did you mean app:app?"),
    ("app:double", "app:double is a Task, no gtask App. Did you mean app:app?"),
    ("app.py", "name the module and the App in it: app:app"),
    ("./inner/deep.py:shop", "name the module and the App in it: inner.deep:shop"),
    ("app:app:app", "write MODULE:ATTRIBUTE, for instance app:app"),
    ("7", "write MODULE:ATTRIBUTE, for instance app:app"),
    ("deep", "It is in the folder inner: go there, or write inner.deep"),
    ("inner.deap", "Did you mean inner.deep?"),
    ("app.inner", "There is no module 'app.inner'"),
    ("plain", "Module 'plain' has no 'app' (for 'plain'). Nothing in it is an App; make one with app = App('name')."),
    ("empty", "App 'empty' has no tasks to run; write @app.task above a function"),
]


@pytest.mark.parametrize(("where", "text"), APPS, ids=lambda value: value if ":" in value else value[:12])
def test_an_app_that_is_not_there_is_one_line(where: str, text: str, folder: Path) -> None:
    (folder / "inner").mkdir()
    write_app(folder / "inner", name="deep.py")
    write_app(folder, "number = 7\n", "plain.py")
    write_app(folder, "from gtask import App\napp = App('empty')\n", "empty.py")
    assert text in only_line(gtask("worker", where, cwd=folder, servers=NOWHERE), 2)


BROKEN = [
    ("import requsts\n", "ModuleNotFoundError: No module named 'requsts'", "import requsts"),
    ("from gtask import App\nApp('x'\n", "SyntaxError: '(' was never closed", "App('x'"),
    ("1 / 0\n", "ZeroDivisionError: division by zero", "1 / 0"),
    (
        "from gtask import App\napp = App('x')\n@app.task(max_retrys=3)\ndef f(): ...\n",
        "did you mean 'max_retries'?",
        "@app.task(max_retrys=3)",
    ),
]


@pytest.mark.parametrize(("source", "text", "line"), BROKEN, ids=["import", "syntax", "exception", "option"])
def test_a_module_that_raises_is_shown_with_its_own_lines(source: str, text: str, line: str, folder: Path) -> None:
    """The user needs their own frames, and nobody else's."""
    write_app(folder, source, "broken.py")
    done = gtask("worker", "broken:app", cwd=folder, servers=NOWHERE)
    assert (done.returncode, done.stdout) == (1, "")
    first, *rest = done.stderr.splitlines()
    assert first.startswith("gtask worker: Module 'broken' cannot be imported: ")
    assert text in first
    assert any(line in one for one in rest)
    files = [one for one in rest if one.lstrip().startswith("File ")]
    assert files
    assert all("broken.py" in one for one in files)


def test_a_module_that_ends_the_program_is_told_how_not_to(folder: Path) -> None:
    write_app(folder, "import sys\nsys.exit(3)\n", "ends.py")
    assert "if __name__ == '__main__'" in only_line(gtask("worker", "ends", cwd=folder), 1)


def test_a_module_named_by_include_is_imported_too(folder: Path) -> None:
    line = only_line(gtask("worker", "app", "--include", "json,nosuch", cwd=folder, servers=NOWHERE), 2)
    assert "There is no module 'nosuch'" in line


def test_a_backend_that_is_not_installed_names_the_command_that_installs_it(folder: Path) -> None:
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['uvloop'] = None\n")
    env = {"PYTHONPATH": str(folder)}
    done = gtask("worker", "app", "--pool", "async", "--backend", "uvloop", cwd=folder, env=env)
    assert "pip install 'gtask[fast]'" in only_line(done, 2)


@pytest.mark.parametrize(
    "command", [["call", "app:app", "double", "-a", "[1]"], ["result", "0" * 32]], ids=lambda c: c[0]
)
def test_a_server_that_is_away_is_one_line(command: list[str], folder: Path) -> None:
    line = only_line(gtask(*command, cwd=folder, servers=NOWHERE), 1)
    assert "gearman://127.0.0.1:1" in line
    assert "`gtask server` starts one" in line or "No results service answers" in line


def test_a_results_file_that_cannot_be_used_is_said_before_anything_starts(folder: Path) -> None:
    file = folder / "none" / "results.db"
    done = gtask("worker", "app:app", f"--with-results={file}", cwd=folder, servers=NOWHERE)
    assert "does not exist" in only_line(done, 1)


def test_the_current_folder_comes_first(folder: Path) -> None:
    """An installed package of the same name as the user's module is not taken instead."""
    write_app(folder, "raise RuntimeError('mine')\n", "click_plugins_of_mine.py")
    done = gtask("worker", "click_plugins_of_mine", cwd=folder, env={"PYTHONSAFEPATH": "1"})
    assert "RuntimeError: mine" in done.stderr
    assert os.fspath(folder) in done.stderr
