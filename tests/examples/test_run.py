"""The whole settlement with real processes: job server, worker, mail server, and PHP in place of Python."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from examples.settlement import run as settlement_run
from examples.settlement.check import Expected, expected_of
from examples.settlement.mail import build_mail
from examples.settlement.orders import generate, read_csv, write_csv
from examples.settlement.run import Outcome, arguments, faults_of, make_files, table_of
from examples.settlement.settle import Settlement, settle
from gtask.testing.requirements import require

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 240.0


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "examples.settlement.run", "--merchants=2", "--orders=200", "-c", "2", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)


def assert_settled(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "2 of 2" in done.stdout
    assert "agrees with the independent sum, to the cent" in done.stdout


def test_on_the_embedded_server(tmp_path: Path) -> None:
    assert_settled(run(f"--folder={tmp_path}"))
    assert {"M001.csv", "M002.csv", "mails"} <= {path.name for path in tmp_path.iterdir()}
    assert len(list((tmp_path / "mails").iterdir())) == 2


def test_on_gearmand() -> None:
    require("gearmand", package="gearman-job-server")
    assert_settled(run("--gearmand"))


@pytest.mark.parametrize("server", [(), ("--gearmand",)], ids=["gtask", "gearmand"])
def test_with_a_php_worker(server: tuple[str, ...]) -> None:
    require("php", "-r", "exit(extension_loaded('gearman') ? 0 : 1);", package="php-gearman")
    if server:
        require("gearmand", package="gearman-job-server")
    assert_settled(run("--php", *server))


@pytest.mark.parametrize("pool", ["thread", "async"])
def test_with_other_pools(pool: str) -> None:
    assert_settled(run(f"--pool={pool}"))


def month(folder: Path, merchant: str) -> tuple[Expected, Settlement]:
    path = folder / f"{merchant}.csv"
    write_csv(path, generate(merchant, 100))
    return expected_of(path), settle(read_csv(path))


def test_every_difference_is_a_sentence(tmp_path: Path) -> None:
    (first, right), (second, wrong), (third, _) = (month(tmp_path, merchant) for merchant in ("M001", "M002", "M003"))
    mails = [build_mail(one).as_bytes() for one in (right, wrong)]
    outcomes = [
        Outcome("M001", right, "m001@merchants.example"),
        Outcome("M002", dataclasses.replace(wrong, payout=wrong.payout + Decimal("0.01")), "nobody"),
        Outcome("M003", fault="M003: ValueError: it failed"),
    ]
    faults = faults_of([first, second, third], outcomes, mails)
    assert len(faults) == 4
    assert faults[0].startswith("M002: the settlement's payout should be")
    assert faults[1:] == [
        "M002: send returned 'nobody'.",
        "M003: ValueError: it failed",
        "M003: one mail was expected and 0 arrived.",
    ]
    assert faults_of([first], outcomes[:1], mails[:1]) == []
    assert table_of(outcomes).row_count == 3


def test_a_difference_is_exit_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def a_cent_less(path: Path) -> Expected:
        expected = expected_of(path)
        expected.total.payout -= 1
        return expected

    monkeypatch.setattr(settlement_run, "expected_of", a_cent_less)
    monkeypatch.setenv("GTASK_SERVERS", "")  # set again by the run, and put back here
    assert settlement_run.main(["--merchants=1", "--orders=20", "-c", "1", "--pool=solo"]) == 1
    captured = capsys.readouterr()
    assert "M001: the settlement's payout should be" in captured.err
    assert "M001: the workbook's totals should be" in captured.err
    assert "agrees" not in captured.out


def test_files_are_made_for_every_merchant(tmp_path: Path) -> None:
    assert [path.name for path in make_files(tmp_path, 2, 3)] == ["M001.csv", "M002.csv"]


def test_a_wrong_command_line_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        arguments(["--merchants=0"])
    assert ended.value.code == 2
    assert "at least 1" in capsys.readouterr().err
