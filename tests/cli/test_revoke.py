"""`gtask revoke` on both job servers."""

from __future__ import annotations

import subprocess

from tests.cli.conftest import House
from tests.cli.runs import gtask


def run(house: House, *args: str) -> subprocess.CompletedProcess[str]:
    return gtask(*args, cwd=house.folder, servers=house.url)


def sent(house: House, *args: str) -> str:
    done = run(house, "call", "app:app", *args, "--background")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_a_task_that_runs_is_stopped(house: House) -> None:
    id = sent(house, "wait_for", "-a", '["never"]')
    done = run(house, "revoke", id, "--terminate")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{id} revoked\n", "")
    done = run(house, "result", id)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("state   REVOKED\n")
    assert "TaskRevoked: The task was revoked before it finished." in done.stdout
    assert run(house, "call", "app:app", "double", "-a", "[2]").stdout == '"4"\n'


def test_what_has_ended_keeps_its_result(house: House) -> None:
    id = sent(house, "double", "-a", "[2]")
    assert run(house, "result", id, "--timeout=30").returncode == 0
    done = run(house, "revoke", id)
    assert (done.returncode, done.stdout) == (1, f"{id} has ended before: SUCCESS\n")
    assert run(house, "result", id).stdout.startswith("state   SUCCESS\n")


def test_without_a_store_it_says_what_is_missing(house: House) -> None:
    (house.folder / "storeless.py").write_text("from gtask import App\napp = App('x', results=None)\n")
    done = run(house, "revoke", "abc", "--app=storeless:app")
    assert done.returncode == 2
    assert "no result store" in done.stderr
