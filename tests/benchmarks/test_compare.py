"""The comparison: the conversation with adapters, what is counted outside the tasks, a quick run and its report.

Nothing is said about speed. The peers themselves are not installed here: their adapters are read, a fake one speaks.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import compare, contests
from benchmarks.claims import CLAIMS
from benchmarks.compare import ENTRIES, chosen
from benchmarks.contenders import Contender, ContenderFailed, Entry, contender
from benchmarks.contests import CONTESTS, ROWS, percentile
from benchmarks.peers import environments
from benchmarks.peers.bodies import Tally
from benchmarks.peers.environments import PACKAGES, CannotInstall, compiled
from benchmarks.plans import Plan, how_many
from benchmarks.report import Report, into_page, plot, text
from gtask.testing.programs import wait_until
from gtask.testing.requirements import missing, require, require_module

PEERS = Path(environments.__file__).parent
FAKE = Entry("fake", "tests.benchmarks.fake_peer", "")


@pytest.fixture(scope="module")
def fake() -> Iterator[Contender]:
    with contender(FAKE, Path(sys.executable), 2) as made:
        yield made


# --- the conversation --------------------------------------------------------------------------------------------


def test_an_adapter_says_who_it_is_and_what_it_can(fake: Contender) -> None:
    assert set(fake.versions) == {"pip"}
    assert {"round_trip", "bulk", "naps", "group"} <= set(fake.can)
    assert "in_flight" not in fake.can
    assert "round_trip_async" not in fake.can


def test_what_an_adapter_prints_is_no_answer(fake: Contender) -> None:
    assert fake.seconds("round_trip", count=3) >= 0
    assert fake.seconds("payload", count=1) >= 0


@pytest.mark.parametrize("workload", ["in_flight", "no_such_thing"])
def test_a_workload_that_it_cannot_do_is_refused(fake: Contender, workload: str) -> None:
    with pytest.raises(ContenderFailed, match=workload):
        fake.ask(workload, count=1)


def test_an_error_is_told_and_the_conversation_goes_on(fake: Contender) -> None:
    with pytest.raises(ContenderFailed, match="one is no chain"):
        fake.ask("chain", count=1)
    assert fake.seconds("enqueue", count=1) >= 0


@pytest.mark.parametrize(("count", "what"), [(2, "ended"), (3, "no answer")])
def test_silence_and_death_of_an_adapter_are_noticed(count: int, what: str) -> None:
    with contender(FAKE, Path(sys.executable), 1) as made, pytest.raises(ContenderFailed, match=what):
        made.ask("chain", limit=0.5 if count == 3 else 30.0, count=count)


def test_workers_are_stopped_while_others_are_measured(fake: Contender) -> None:
    with fake.awake("main"):
        pids = [program.pid for program in fake._programs]
        assert len(pids) == 3
        assert "T" not in {_state(pid) for pid in pids}
    wait_until(lambda: {_state(pid) for pid in pids} == {"T"}, what="stopped processes")
    with fake.awake("main"):
        assert [program.pid for program in fake._programs] == pids
        wait_until(lambda: "T" not in {_state(pid) for pid in pids}, what="running processes")


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_delays_come_from_the_stamps(fake: Contender) -> None:
    for _ in range(2):
        delays = fake.delays("load", 20, rate=2000.0)
        assert len(delays) == 20
        assert min(delays) >= 0


def test_every_adapter_speaks() -> None:
    """Each peer's module defines the class that is looked for, with the tasks that the workloads name."""
    for entry in ENTRIES:
        path = PEERS / f"{entry.module.rpartition('.')[2]}.py"
        tree = ast.parse(path.read_text())
        (peer,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Peer"]
        methods = {node.name for node in peer.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert {"workers"} <= methods, path.name
        assert {"submit", "get"} <= methods or "hello" in methods, path.name
        assert entry.peer in ("", "libgearman", *PACKAGES)


# --- counting ----------------------------------------------------------------------------------------------------


def test_a_tally_counts_over_processes(tmp_path: Path) -> None:
    path = tmp_path / "tally"
    tally = Tally(path)
    code = (
        "import sys; from benchmarks.peers.bodies import Tally; t = Tally(sys.argv[1]); [t.add() for _ in range(1000)]"
    )
    command = [sys.executable, "-c", code, str(path)]
    processes = [subprocess.Popen(command, cwd=PEERS.parents[1]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    tally.add()
    assert tally.total() == 3001


def test_percentiles_are_of_the_nearest_rank() -> None:
    figures = [float(number) for number in range(1, 1001)]
    assert [percentile(figures, part) for part in (50, 99, 99.9, 100)] == [500, 990, 999, 1000]
    assert percentile([7.0], 99.9) == 7


def test_a_workload_takes_as_long_as_planned() -> None:
    asked: list[int] = []

    def a_thousand_per_second(count: int) -> float:
        asked.append(count)
        return count / 1000

    assert how_many(a_thousand_per_second, 50_000, Plan(seconds=1.0)) == 1000
    assert how_many(a_thousand_per_second, 100, Plan(seconds=1.0)) == 100
    assert max(asked) <= 1000


# --- a run -------------------------------------------------------------------------------------------------------


def test_a_quick_run_gives_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """gtask, the floor and the process pool; then the same from the file."""
    require("gearmand", package="gearman-job-server")
    path = tmp_path / "figures.json"
    who = ["--who", "gtask", "--who", "bare socket", "--who", "process pool"]
    assert compare.main(["--quick", *who, "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    data = json.loads(path.read_text())
    assert data["left_out"] == data["failed"] == {}
    for row in ROWS:
        (figure,) = data["figures"][row]["gtask"]
        assert figure > 0
        assert ROWS[row].title in printed
    assert set(data["figures"]["drain"]) == {"gtask", "bare socket"}
    assert set(data["figures"]["cpu"]) == {"gtask", "process pool"}
    shown = [claim for claim in data["claims"] if claim["ratio"] is not None]
    assert {"drain, no-op, beside the floor", "CPU tasks, beside a plain process pool"} <= {c["claim"] for c in shown}
    assert compare.main(["--from", str(path)]) == 0
    assert capsys.readouterr().out == printed


def test_whoever_cannot_be_had_is_named_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Entry("broken", "tests.benchmarks.no_such_module", "")
    nowhere = Entry("nowhere", "benchmarks.peers.on_celery", "redis", "celery")
    monkeypatch.setattr(compare, "ENTRIES", (broken, nowhere, FAKE))
    cache = tmp_path / "file"
    cache.touch()
    assert compare.main(["--quick", "--only", "group", "--only", "chain", "--cache", str(cache)]) == 0
    printed = capsys.readouterr().out
    assert "broken: the adapter ended" in printed
    assert "celery cannot be installed" in printed
    assert "fake" in printed.partition("Not measured")[0]
    assert "- chain: fake: the adapter ended" in printed


@pytest.mark.parametrize("option", [["--who", "gearmand"], ["--only", "sleep"]])
def test_an_unknown_name_is_refused(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        compare.main(option)
    assert ended.value.code == 2
    assert option[1] in capsys.readouterr().err


def test_names_are_exact_or_begin() -> None:
    names = ["gtask", "gtask, pool solo", "Celery"]
    assert chosen(["gtask"], names) == ["gtask"]
    assert chosen(["gtask,"], names) == ["gtask, pool solo"]
    assert chosen(["cel", "gtask"], names) == ["Celery", "gtask"]
    assert chosen([], names) == names


def test_the_c_program_compiles(tmp_path: Path) -> None:
    try:
        assert compiled(tmp_path).exists()
    except CannotInstall as error:
        missing(str(error), "apt-get install gcc libgearman-dev")


# --- what is made of it ------------------------------------------------------------------------------------------


def a_report() -> Report:
    """Celery at ten a second in each row, gtask ten times as good in the first round and thirty times in the others."""
    report = Report({"cores": "2"}, {"rounds": 3})
    for name, row in ROWS.items():
        for factor in (10.0, 30.0, 30.0):
            report.add("Celery", {name: 10.0})
            report.add("gtask", {name: 10.0 / factor if row.less else 10.0 * factor})
    return report


def test_ratios_are_medians_and_less_is_better_where_it_is() -> None:
    printed = text(a_report())
    lines = [line.split("|") for line in printed.splitlines() if line.startswith("|") and "| gtask" in line]
    assert {line[5].strip() for line in lines} == {"30"}
    assert printed.index("drain, no-op, beside Celery") > 0
    assert "beside the floor" not in printed
    assert "missed" not in printed


def test_a_claim_that_is_missed_says_so() -> None:
    report = a_report()
    report.figures["drain"]["gtask"] = [11.0, 11.0, 11.0]
    assert text(report).count("missed") == 1


def test_a_plot_and_a_page_are_the_same_for_the_same_figures(tmp_path: Path) -> None:
    require_module("matplotlib", "benchmarks")
    report = a_report()
    report.figures = {row: report.figures[row] for row in ("drain", "idle")}
    plot(report, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert "<svg" in drawn
    assert "drain, no-op" in drawn
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table -->\nold\n<!-- end of table -->\nafter\n")
    into_page(report, page)
    written = page.read_text()
    assert written.startswith("before\n<!-- table -->\n| to show")
    assert written.endswith("![The medians](page.svg)\n<!-- end of table -->\nafter\n")
    assert "old" not in written
    assert (tmp_path / "page.svg").read_text() == drawn
    into_page(report, page)
    assert page.read_text() == written


def test_a_page_without_a_place_for_the_figures_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n")
    with pytest.raises(ValueError, match="end of table"):
        into_page(a_report(), page)
    assert page.read_text() == "before\n"


def test_claims_and_workloads_name_what_there_is() -> None:
    names = {entry.name for entry in ENTRIES}
    for claim in CLAIMS:
        assert {claim.row, claim.other_row or claim.row} <= set(ROWS)
        assert {claim.who, claim.other} <= names
    known = {contest.workload for contest in CONTESTS}
    for entry in ENTRIES:
        assert set(entry.only) <= known
    assert contests.iterations() > 0
