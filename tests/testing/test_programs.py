"""`Program`: output line by line, signals to its own processes only, and nothing left behind."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from gtask.testing import Program, ProgramFailed, free_port, port_is_open, wait_until


def python(source: str) -> Program:
    return Program([sys.executable, "-u", "-c", source])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


PARENT = """
import subprocess, sys, time
# A process group of its own, and it ignores the polite signal: what a stray child of a worker would be like.
child = "import os, signal; os.setpgid(0, 0); signal.signal(15, signal.SIG_IGN); print('child is up'); signal.pause()"
subprocess.Popen([sys.executable, "-u", "-c", child])
time.sleep(600)
"""


def test_a_line_is_waited_for_and_its_match_returned() -> None:
    with python("print('port 4730'); input()") as program:
        assert program.wait_for_line(r"port (\d+)")[1] == "4730"


def test_lines_from_before_a_position_do_not_count() -> None:
    source = "import signal; signal.signal(10, lambda *_: print('again')); print('again')\nwhile 1: signal.pause()"
    with python(source) as program:
        program.wait_for_line("again")
        position = program.output.position
        program.kill(signum=signal.SIGUSR1)
        program.wait_for_line("again", since=position)

        assert program.lines() == ["again", "again"]


def test_the_end_of_the_output_ends_the_waiting_and_shows_the_last_lines() -> None:
    with python("print('no such file'); raise SystemExit(3)") as program:
        with pytest.raises(ProgramFailed, match=r"(?s)without a line like 'ready'.*no such file"):
            program.wait_for_line("ready", timeout=60)

        assert program.wait() == 3


def test_waiting_for_a_line_has_a_limit() -> None:
    with python("import time; time.sleep(600)") as program:
        with pytest.raises(ProgramFailed, match=r"wrote for 0\.1 s without"):
            program.wait_for_line("ready", timeout=0.1)


def test_a_line_without_end_is_cut_not_collected() -> None:
    with python("import sys; sys.stdout.write('x' * 300_000); print(); print('end')") as program:
        program.wait_for_line("^end$")
        assert program.wait() == 0

        *long, end = program.lines()
        assert end == "end"
        assert sum(map(len, long)) <= 300_000
        assert len(long) > 1


def test_only_the_last_lines_are_kept() -> None:
    with python("for n in range(30_000): print(n)") as program:
        program.wait_for_line("^29999$")

        assert len(program.lines()) == 20_000
        assert program.output.position == 30_000


def test_stopping_ends_what_it_started_too() -> None:
    with python(PARENT) as program:
        program.wait_for_line("child is up")
        [child] = program.children()

    assert program.exit_code == -signal.SIGTERM
    wait_until(lambda: not alive(child), what="the child's end")


def test_a_child_that_outlives_a_killed_program_is_ended_too() -> None:
    with python(PARENT) as program:
        program.wait_for_line("child is up")
        [child] = program.children()
        program.kill()
        assert program.wait() == -signal.SIGKILL
        assert alive(child)

    wait_until(lambda: not alive(child), what="the child's end")


def test_one_child_can_be_killed() -> None:
    with python(PARENT) as program:
        program.wait_for_line("child is up")
        [child] = program.children()
        program.kill(child)

        wait_until(lambda: not program.children(), what="the child's end")
        assert program.running


def test_nobody_elses_process_gets_a_signal() -> None:
    with python("import time; time.sleep(600)") as program, pytest.raises(ValueError, match="was not started by"):
        program.kill(os.getpid(), signal.SIGCONT)


def test_a_program_that_ignores_sigterm_is_killed() -> None:
    stubborn = "import signal; signal.signal(15, signal.SIG_IGN); print('up'); signal.pause()"
    program = Program([sys.executable, "-u", "-c", stubborn], grace=0.1)
    with program:
        program.wait_for_line("up")

    assert program.exit_code == -signal.SIGKILL


def test_environment_variables_are_added_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEARMAND_PORT", "tcp://10.0.0.1:4730")
    source = "import os; print(os.environ.get('GEARMAND_PORT'), os.environ['ADDED'])"
    with Program([sys.executable, "-c", source], env={"GEARMAND_PORT": None, "ADDED": "yes"}) as program:
        program.wait()
        program.wait_for_line("None yes")


def test_a_program_runs_again_after_it_ended() -> None:
    with python("print('up')") as program:
        program.wait()
        program.start()
        program.wait_for_line("up")

        assert program.wait() == 0


def test_a_free_port_is_free_and_given_once() -> None:
    ports = [free_port() for _ in range(20)]

    assert len(set(ports)) == 20
    assert not port_is_open("127.0.0.1", ports[0])


def test_wait_until_names_what_did_not_come() -> None:
    with pytest.raises(TimeoutError, match=r"the second coming did not come about within 0\.05 s"):
        wait_until(lambda: False, timeout=0.05, what="the second coming")
