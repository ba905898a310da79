"""`gtask call` and `gtask result` against a worker, on both job servers."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from gtask.cli.call import write
from gtask.testing.processes import job_server
from gtask.testing.programs import Program
from gtask.testing.requirements import require
from tests.cli.conftest import House
from tests.cli.runs import LIMIT, gtask, only_line


def call(house: House, *args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return gtask("call", "app:app", *args, cwd=house.folder, servers=house.url, stdin=stdin)


def result(house: House, *args: str) -> subprocess.CompletedProcess[str]:
    return gtask("result", *args, cwd=house.folder, servers=house.url)


def sent(house: House, *args: str) -> str:
    done = call(house, *args, "--background")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


# --- call ----------------------------------------------------------------------------------------------------


def test_the_answer_is_json(house: House) -> None:
    done = call(house, "double", "--args", "[21.5]")
    assert (done.returncode, done.stdout, done.stderr) == (0, '"43.0"\n', "")


def test_arguments_by_name_become_what_the_task_expects(house: House) -> None:
    done = call(house, "describe", "-a", '["ö"]', "-k", '{"day": "2026-11-24"}')
    assert json.loads(done.stdout) == {"name": "ö", "weekday": "Tuesday", "note": "größer"}


def test_arguments_can_come_from_stdin(embedded_house: House) -> None:
    assert call(embedded_house, "double", "-a", "-", stdin="[4]").stdout == '"8"\n'
    assert json.loads(call(embedded_house, "describe", "-a", '["x"]', "-k", "-", stdin='{"day": "2026-11-24"}').stdout)


def test_raw_prints_text_and_bytes_as_they_are(embedded_house: House) -> None:
    assert call(embedded_house, "text").stdout == '"plain, and größer"\n'
    assert call(embedded_house, "text", "--raw").stdout == "plain, and größer\n"
    argv = [sys.executable, "-m", "gtask", "call", "app", "blob", "--raw", "--servers", embedded_house.url]
    done = subprocess.run(argv, cwd=embedded_house.folder, capture_output=True, timeout=LIMIT, check=True)
    assert done.stdout == b"\x00\xff"


def test_an_exception_is_shown_as_the_workers(house: House) -> None:
    done = call(house, "boom", "-a", "[7]")
    assert (done.returncode, done.stdout) == (1, "")
    first, second, *rest = done.stderr.splitlines()
    assert first == "gtask call: boom failed: ValueError: no such order: 7"
    assert second == "--- in the worker ---"
    assert rest[0] == "Traceback (most recent call last):"
    assert any("app.py" in line for line in rest)
    assert not any("gtask/cli" in line for line in rest)


def test_arguments_of_the_wrong_kind_are_the_callers_to_mend(embedded_house: House) -> None:
    done = call(embedded_house, "describe", "-a", '["x"]', "-k", '{"day": "yesterday"}')
    assert done.returncode == 2
    assert done.stderr.startswith("gtask call: describe: day: expected date, got str 'yesterday'")


def test_progress_and_warnings_go_to_stderr(house: House) -> None:
    done = call(house, "steps", "-a", "[20]", "--progress")
    assert (done.returncode, done.stdout) == (0, "20\n")
    lines = done.stderr.splitlines()
    assert lines[-1] == "gtask call: The task warns: that was all"
    assert lines[-2] == "steps: 20 of 20"
    assert 2 <= len(lines) <= 13


def test_progress_is_a_bar_in_a_terminal(embedded_house: House) -> None:
    reader, writer = pty.openpty()
    argv = [sys.executable, "-m", "gtask", "call", "app", "steps", "-a", "[20]", "--progress"]
    argv += ["--servers", embedded_house.url]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run(
        argv, cwd=embedded_house.folder, stdout=subprocess.PIPE, stderr=writer, env=env, timeout=LIMIT, text=True
    )
    os.close(writer)
    shown = os.read(reader, 100_000).decode()
    os.close(reader)
    assert (done.returncode, done.stdout) == (0, "20\n")
    assert "20/20" in shown
    assert "━" in shown


def test_a_task_that_is_not_in_the_app_can_be_called(embedded_house: House, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("from gtask import App\napp = App('other')\n")
    args = ["other", "double", "-a", "[4]", "--servers", embedded_house.url]
    assert gtask("call", *args, cwd=tmp_path).stdout == '"8"\n'
    id = gtask("call", *args, "--background", cwd=tmp_path).stdout.strip()
    assert (
        json.loads(gtask("result", id, "--timeout=30", "--json", "--servers", embedded_house.url).stdout)["value"]
        == "8"
    )


def test_a_call_that_nobody_answers_says_so(folder: Path) -> None:
    with job_server() as server:
        done = gtask("call", "app", "double", "-a", "[1]", "--timeout", "0.2", cwd=folder, servers=server.url)
        assert done.returncode == 1
        first, second = done.stderr.splitlines()
        assert first == f"gtask call: No worker serves 'double' at {server.url} now; waiting for one."
        assert second.startswith("gtask call: double did not answer ")
        assert "`gtask status`" in second


def test_a_slip_in_the_name_is_answered_with_the_nearest(embedded_house: House) -> None:
    done = call(embedded_house, "duoble", "-a", "[1]", "--timeout", "0.2")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].endswith("waiting for one. Did you mean 'double'?")


def test_an_interrupt_ends_a_call_without_a_traceback(folder: Path) -> None:
    with job_server() as server:
        argv = [sys.executable, "-m", "gtask", "call", "app", "double", "-a", "[1]", "--servers", server.url]
        with Program(argv, cwd=folder) as program:
            program.wait_for_line("waiting for one")
            program.kill(signum=signal.SIGINT)
            assert program.wait() == 130
            assert [line for line in program.lines()[1:] if line] == ["gtask call: Interrupted."]


def test_a_function_in_another_language_is_called_in_its_codec(house: House) -> None:
    """`tr` behind the `gearman` tool, which knows nothing of gtask's messages."""
    gearman = require("gearman", package="gearman-tools")
    argv = [
        gearman,
        "-h",
        house.server.host,
        "-p",
        str(house.server.port),
        "-w",
        "-f",
        "upper",
        "--",
        "tr",
        "a-z",
        "A-Z",
    ]
    with Program(argv):
        done = call(house, "upper", "--codec", "text", "-a", '["quiet"]', "--timeout", "30")
    assert (done.returncode, done.stdout) == (0, '"QUIET"\n')


# --- result --------------------------------------------------------------------------------------------------


def test_the_result_of_a_background_job(house: House) -> None:
    id = sent(house, "double", "-a", "[21]")
    done = result(house, id, "--timeout", "30")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:3] == ["state   SUCCESS", "task    double", 'result  "42"']
    assert lines[3].startswith("took    0.")
    assert lines[4].startswith("worker  ")
    again = gtask("result", id, "--app", "app:app", "--json", cwd=house.folder, servers=house.url)
    assert (again.returncode, again.stderr) == (0, "")
    found = json.loads(again.stdout)
    assert (found["id"], found["state"], found["value"], found["error"]) == (id, "SUCCESS", "42", None)


def test_the_failure_of_a_background_job(house: House) -> None:
    id = sent(house, "boom", "-a", "[7]")
    done = result(house, id, "--timeout", "30")
    assert done.returncode == 1
    assert done.stdout.splitlines()[:3] == ["state   FAILURE", "task    boom", "error   ValueError: no such order: 7"]
    assert done.stderr.splitlines()[:2] == ["--- in the worker ---", "Traceback (most recent call last):"]
    found = json.loads(result(house, id, "--json").stdout)
    assert found["error"]["type"] == "ValueError"


def test_a_job_that_has_not_ended_says_where_it_stands(house: House, tmp_path: Path) -> None:
    file = tmp_path / "go"
    id = sent(house, "wait_for", "-a", json.dumps([str(file)]))
    done = result(house, id)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] in ("state   PENDING", "state   STARTED")
    assert done.stdout.splitlines()[1].endswith("--timeout waits for it." if "PENDING" in done.stdout else "its end.")
    file.write_text("gone")
    assert 'result  "gone"' in result(house, id, "--timeout=30").stdout


def test_an_id_that_nobody_knows_is_called_unknown(house: House) -> None:
    done = result(house, "0" * 32)
    assert done.returncode == 1
    state, sentence = done.stdout.splitlines()
    assert state == "state   UNKNOWN"
    assert sentence.startswith(f"Nobody knows this id at {house.url}: it was never sent there")
    assert json.loads(result(house, "0" * 32, "--json").stdout) == {"id": "0" * 32, "state": "UNKNOWN"}


def test_waiting_ends_with_the_time(embedded_house: House, tmp_path: Path) -> None:
    id = sent(embedded_house, "wait_for", "-a", json.dumps([str(tmp_path / "go")]))
    done = result(embedded_house, id, "--timeout", "0.2")
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == "state   STARTED"
    (tmp_path / "go").write_text("")
    assert result(embedded_house, id, "--timeout=30").returncode == 0


def test_without_a_results_service_it_says_so(folder: Path) -> None:
    with job_server() as server:
        line = only_line(gtask("result", "0" * 32, cwd=folder, servers=server.url), 1)
        assert "gtask results" in line


# --- in this process -----------------------------------------------------------------------------------------


def test_an_answer_that_is_no_json_is_refused_in_a_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(click.ClickException, match="cannot be printed as JSON: answer"):
        write({"x": object()}, raw=False)
    assert capfd.readouterr().out == ""
