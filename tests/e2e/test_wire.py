"""What gtask says to a job server, packet by packet: nothing that gearmand is known to do something wrong with.

A relay writes down all that caller, worker and results service say while everything there is happens once.
"""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from gtask import App, chord, group
from gtask.errors import GtaskError
from gtask.protocol.packets import Packet, PacketType
from gtask.testing.processes import gearmand, worker
from gtask.testing.programs import wait_until
from gtask.testing.requirements import require
from tests.e2e.conftest import LIMIT, ROOT, results_service
from tests.e2e.tasks import lines, make
from tests.signing.sniffer import SUBMITS, Sniffer

T = PacketType
FOREGROUND = {T.SUBMIT_JOB, T.SUBMIT_JOB_HIGH, T.SUBMIT_JOB_LOW}
UNIQUE = re.compile(rb"[0-9a-z]{1,63}")
NAME = re.compile(rb"[A-Za-z0-9_.:]{1,255}")
OWN = re.compile(r"gtask(\.[a-z]+){1,3}")


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Packet]]:
    """Everything that was said."""
    require("gearmand", package="gearman-job-server")
    folder = tmp_path_factory.mktemp("wire")
    with gearmand() as server, Sniffer(server.server) as sniffer:
        with results_service(sniffer.url, folder / "results.db"), make(sniffer.url) as app:
            with worker("tests.e2e.tasks:app", "--prefetch=4", cwd=ROOT, servers=sniffer.url) as program:
                everything(app, folder)
                program.kill(signum=signal.SIGHUP)
                program.wait_for_line("Replacing the processes", LIMIT)
                wait_until(lambda: len(program.children()) == 3, LIMIT)
                app.tasks["add"].delay(1, 2).get(timeout=LIMIT)
                program.terminate()
                assert program.wait(LIMIT) == 0
        yield sniffer.packets()


def everything(app: App, folder: Path) -> None:
    """Does once all that there is to do."""
    add, total, retried, fails = (app.tasks[name] for name in ("add", "total", "retried", "fails"))
    assert add.call(1, 2) == 3
    for options in ({}, {"priority": "high"}, {"priority": "low"}, {"countdown": 0.1}, {"countdown": 2.1}):
        assert add.apply_async((1, 2), **options).get(timeout=LIMIT) == 3
    first = add.apply_async((1, 2), unique="a key with blanks, \u00fcmlauts and more than is carried" * 3)
    assert first.get(timeout=LIMIT) == 3
    assert (add.s(1, 2) | add.s(3)).delay().get(timeout=LIMIT) == 6
    assert group(add.s(n, 1) for n in range(20)).delay().join(timeout=LIMIT) == list(range(1, 21))
    assert chord([add.s(1), add.s(2)], total.s()).delay().get(timeout=LIMIT) == 3
    assert retried.delay(str(folder / "runs"), 0.1, 2).get(timeout=LIMIT) == 2
    assert retried.call(str(folder / "more"), 0.1, 2) == 2
    for way in (lambda: fails.call("x"), lambda: fails.delay("x").get(timeout=LIMIT)):
        with pytest.raises(ValueError, match="x"):
            way()
    abandoned = app.function("nobody").options(timeout=0.01)
    for _ in range(2):
        with pytest.raises(GtaskError):
            abandoned.call()
    app.tasks["first"].apply_async((str(folder / "far"), "far"), countdown=3600)
    wait_until(lambda: len(lines(folder / "runs")) == 3, LIMIT)


def submissions(said: list[Packet]) -> list[Packet]:
    return [packet for packet in said if packet.type in SUBMITS]


def test_every_kind_of_thing_was_said(said: list[Packet]) -> None:
    """The tests below would hold for silence, too."""
    seen = Counter(packet.type for packet in said)
    for kind in (T.SUBMIT_JOB, T.SUBMIT_JOB_BG, T.SUBMIT_JOB_HIGH_BG, T.SUBMIT_JOB_LOW_BG, T.SUBMIT_JOB_EPOCH):
        assert seen[kind], kind
    for kind in (T.CAN_DO, T.GRAB_JOB_UNIQ, T.PRE_SLEEP, T.NOOP, T.NO_JOB, T.WORK_COMPLETE, T.WORK_EXCEPTION):
        assert seen[kind], kind
    assert b"first" not in {packet.args[0] for packet in submissions(said)}, "it waits"


def test_no_request_is_made_that_gearmand_answers_wrongly(said: list[Packet]) -> None:
    kinds = {packet.type for packet in said}
    assert not kinds & {T.CAN_DO_TIMEOUT, T.RESET_ABILITIES, T.ALL_YOURS, T.SUBMIT_JOB_SCHED, T.SUBMIT_REDUCE_JOB}


def test_every_unique_can_be_carried_and_is_there(said: list[Packet]) -> None:
    assert [packet for packet in submissions(said) if not UNIQUE.fullmatch(packet.args[1])] == []


def test_no_foreground_job_has_a_unique_that_anything_else_has(said: list[Packet]) -> None:
    uniques = Counter((packet.args[0], packet.args[1]) for packet in submissions(said))
    foreground = [(one.args[0], one.args[1]) for one in submissions(said) if one.type in FOREGROUND]
    assert foreground
    assert [key for key in foreground if uniques[key] > 1] == []


def test_every_name_can_be_carried(said: list[Packet]) -> None:
    names = {packet.args[0] for packet in said if packet.type in SUBMITS or packet.type is T.CAN_DO}
    assert [name for name in names if not NAME.fullmatch(name)] == []


def test_there_are_no_functions_for_single_jobs_or_callers(said: list[Packet]) -> None:
    """gearmand keeps every function that was ever named."""
    names = {packet.args[0].decode() for packet in said if packet.type in SUBMITS or packet.type is T.CAN_DO}
    tasks = set(make().tasks)
    own = {name for name in names if name.startswith("gtask.")}
    assert len(own) < 12
    assert [name for name in own if not OWN.fullmatch(name)] == []
    assert {name.removesuffix(".dead") for name in names - own} <= tasks | {"nobody"}


def test_no_background_job_is_empty(said: list[Packet]) -> None:
    assert [one for one in submissions(said) if one.type not in FOREGROUND and not one.args[-1]] == []


def test_each_job_is_ended_once(said: list[Packet]) -> None:
    ends = (T.WORK_COMPLETE, T.WORK_FAIL, T.WORK_EXCEPTION)
    handles = {packet.args[0] for packet in said if packet.type in (T.JOB_ASSIGN_UNIQ, T.JOB_ASSIGN)}
    ended = Counter(packet.args[0] for packet in said if packet.type in ends)
    created = Counter(packet.args[0] for packet in said if packet.type is T.JOB_CREATED)
    assert handles
    # Of a foreground job both the worker and, passed on, the caller are told.
    assert [handle for handle in handles if ended[handle] not in (1, 2)] == []
    assert set(created) >= handles


def test_exceptions_are_asked_for_by_those_who_wait(said: list[Packet]) -> None:
    assert [packet.args for packet in said if packet.type is T.OPTION_REQ]
    assert {packet.args[0] for packet in said if packet.type is T.OPTION_REQ} == {b"exceptions"}
