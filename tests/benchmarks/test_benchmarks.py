"""The benchmarks run and give a complete table. Nothing is said about speed: a busy machine is no failure."""

from __future__ import annotations

import pytest

from benchmarks.rig import SERVERS
from benchmarks.run import QUICK, main, measure, table
from benchmarks.workloads import WORKLOADS
from gtask.testing.requirements import require


@pytest.mark.parametrize("server", SERVERS)
def test_every_workload_is_measured_beside_its_floor(server: str) -> None:
    if server == "gearmand":
        require("gearmand", package="gearman-job-server")
    rows = measure([server], QUICK)
    assert [(row.workload, row.server) for row in rows] == [(workload.name, server) for workload in WORKLOADS]
    for row in rows:
        assert len(row.gtask) == len(row.floor) == QUICK.rounds
        assert min(row.gtask) > 0
        assert min(row.floor) > 0
    lines = [line.split("|") for line in table(rows).splitlines() if line.startswith("| ")]
    assert [line[1].strip() for line in lines] == ["workload", *(workload.name for workload in WORKLOADS)]
    assert {len(line) for line in lines} == {len(lines[0])}


def test_both_servers_stand_beside_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    require("gearmand", package="gearman-job-server")
    assert main(["--quick", "--only", "delay()"]) == 0
    text = capsys.readouterr().out
    measured = [workload.name for workload in WORKLOADS if "delay()" in workload.name]
    assert measured
    for name in measured:
        assert text.count(f"| {name} ") == len(SERVERS) + 1
    assert "embedded server : gearmand" in text


def test_an_unknown_server_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--server", "celery"])
    assert ended.value.code == 2
    assert "embedded" in capsys.readouterr().err
