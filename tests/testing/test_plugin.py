"""The fixtures that every user of gtask has in pytest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from gtask.testing import JobServerProgram
from gtask.testing.embedded import EmbeddedServer


def test_each_job_server_answers(any_server: EmbeddedServer | JobServerProgram) -> None:
    [version] = any_server.admin("version")
    [pid] = any_server.admin("getpid")

    assert version.startswith("OK ")
    assert any_server.url == f"gearman://127.0.0.1:{any_server.port}"
    assert (pid == f"OK {os.getpid()}") == (any_server.kind == "gtask")


def test_the_embedded_server_is_fresh(gtask_server: EmbeddedServer) -> None:
    assert gtask_server.admin("create function report") == ["OK"]
    assert gtask_server.admin("status") == ["report\t0\t0\t0"]


def test_the_embedded_server_is_fresh_again(gtask_server: EmbeddedServer) -> None:
    assert gtask_server.admin("status") == []


def test_the_plugin_loads_no_server_until_one_is_used(tmp_path: Path) -> None:
    """It is loaded in every project that has gtask installed."""
    tmp_path.joinpath("test_modules.py").write_text(
        "import sys\n\n"
        "def test_nothing_is_loaded():\n"
        "    assert not {'gtask.server', 'gtask.cli', 'gtask.testing.requirements', 'click'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_modules.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stdout
