"""`python -m benchmarks.compare`: gtask and its peers side by side on this machine, in one run."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks.contenders import Contender, ContenderFailed, Entry, contender
from benchmarks.contests import CONTESTS, Contest
from benchmarks.fleet import end_on_sigterm
from benchmarks.peers.environments import CannotInstall, cache_folder, compiled, interpreter
from benchmarks.plans import QUICK, Plan
from benchmarks.report import Report, into_page, machine, plot, text
from gtask.testing.programs import ProgramFailed

STORED = ("stored", "results", "group", "chain")
POOLED = ("round_trip", "in_flight", "stored", "bulk")
_PEERS = "benchmarks.peers"

ENTRIES = (
    Entry("gtask", f"{_PEERS}.on_gtask", "gearmand"),
    Entry("gtask, embedded server", f"{_PEERS}.on_gtask", "embedded"),
    Entry("gtask, pool thread", f"{_PEERS}.on_gtask", "gearmand", env={"BENCH_POOL": "thread"}, only=POOLED),
    Entry("gtask, pool solo", f"{_PEERS}.on_gtask", "gearmand", env={"BENCH_POOL": "solo"}, only=POOLED),
    Entry("gtask, pool async", f"{_PEERS}.on_gtask", "gearmand", env={"BENCH_POOL": "async"}, only=POOLED),
    Entry(
        "gtask, pool async, uvloop",
        f"{_PEERS}.on_gtask",
        "gearmand",
        env={"BENCH_POOL": "async", "BENCH_LOOP": "uvloop"},
        only=(*POOLED, "naps"),
    ),
    Entry(
        "gtask, caller on uvloop",
        f"{_PEERS}.on_gtask",
        "gearmand",
        env={"BENCH_LOOP": "uvloop"},
        only=("round_trip_async", "in_flight"),
    ),
    Entry("gtask, store sqlite", f"{_PEERS}.on_gtask", "gearmand", env={"BENCH_STORE": "sqlite://"}, only=STORED),
    Entry("gtask, store redis", f"{_PEERS}.on_gtask", "gearmand", env={"BENCH_STORE": "redis://"}, only=STORED),
    Entry("bare socket", f"{_PEERS}.on_floor", "gearmand"),
    Entry("bare socket, embedded server", f"{_PEERS}.on_floor", "embedded"),
    Entry("libgearman in C", f"{_PEERS}.on_libgearman", "gearmand", "libgearman"),
    Entry("process pool", f"{_PEERS}.on_pool", ""),
    Entry("Celery", f"{_PEERS}.on_celery", "redis", "celery"),
    Entry("Dramatiq", f"{_PEERS}.on_dramatiq", "redis", "dramatiq"),
    Entry("Huey", f"{_PEERS}.on_huey", "redis", "huey"),
    Entry("taskiq", f"{_PEERS}.on_taskiq", "redis", "taskiq"),
    Entry("SAQ", f"{_PEERS}.on_saq", "redis", "saq"),
)


def said(line: str) -> None:
    """Tells whoever waits how far it is."""
    print(line, file=sys.stderr, flush=True)


def start(entries: Sequence[Entry], stack: ExitStack, report: Report, processes: int, cache: Path) -> list[Contender]:
    """Starts every contender that can be had here; the report gets the others, each with a sentence."""
    running = []
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gtask-compare-")))
    for entry in entries:
        said(f"Starting {entry.name}")
        try:
            python = Path(sys.executable)
            if entry.peer == "libgearman":
                entry = replace(entry, env={**entry.env, "BENCH_PROGRAM": str(compiled(folder))})
            elif entry.peer:
                python = interpreter(entry.peer, cache)
            made = stack.enter_context(contender(entry, python, processes))
        except (CannotInstall, ContenderFailed, ProgramFailed, FileNotFoundError) as error:
            report.leave_out(entry.name, _first_line(error))
            said(str(error))
            continue
        report.versions |= made.versions
        running.append(made)
    return running


def compete(running: Sequence[Contender], contests: Sequence[Contest], plan: Plan, report: Report) -> None:
    """Measures everything: each round goes over all workloads, each workload over all who take part."""
    counts: dict[tuple[str, str], int] = {}
    for turn in range(plan.rounds):
        for contest in contests:
            if turn >= contest.rounds:
                continue
            for one in _in_turn([one for one in running if contest.workload in one.can], turn):
                key = contest.workload, one.entry.name
                if key[1] in report.failed.get(key[0], {}):
                    continue
                try:
                    with one.awake(contest.queue):
                        if key not in counts:
                            counts[key] = contest.how_many(one, plan)
                        figures = contest.run(one, counts[key])
                except (ContenderFailed, ProgramFailed, OSError) as error:
                    report.fail(*key, _first_line(error))
                    said(f"{contest.workload}: {error}")
                    continue
                report.add(one.entry.name, figures)
                shown = ", ".join(f"{name} {figure:,.3g}" for name, figure in figures.items())
                said(f"{turn + 1}/{plan.rounds} {one.entry.name}: {shown}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _in_turn(all_of_them: Sequence[Contender], turn: int) -> Iterator[Contender]:
    """Somebody else begins in each round."""
    first = turn % len(all_of_them) if all_of_them else 0
    yield from all_of_them[first:]
    yield from all_of_them[:first]


def chosen(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """The names that one of the words is, or else begins; all of them without words. Raises `ValueError` for others."""
    found: list[str] = []
    for word in words:
        exact = [name for name in names if name.lower() == word.lower()]
        more = exact or [name for name in names if name.lower().startswith(word.lower())]
        if not more:
            raise ValueError(f"{word!r} is none of {', '.join(names)}.")
        found += [name for name in more if name not in found]
    return found or list(names)


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the options, measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only show that everything works; the figures say nothing")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the median  [5]")
    parser.add_argument("--seconds", type=float, default=0.7, help="how long each measurement is to take  [0.7]")
    parser.add_argument("--only", action="append", default=[], metavar="WORKLOAD", help="several times: these alone")
    parser.add_argument("--who", action="append", default=[], metavar="NAME", help="several times: these contenders")
    parser.add_argument("--processes", type=int, default=2, help="processes of each worker  [2]")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="the peers' environments  [%(default)s]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the medians there, as SVG")
    parser.add_argument("--page", type=Path, metavar="FILE", help="put tables and plot into this page of the docs")
    parser.add_argument("--from", type=Path, metavar="FILE", dest="source", help="measure nothing: show these figures")
    given = parser.parse_args(argv)
    try:
        names = chosen(given.who, [entry.name for entry in ENTRIES])
        rows = chosen(given.only, list(dict.fromkeys(name for c in CONTESTS for name in (c.workload, *c.rows))))
    except ValueError as error:
        parser.error(str(error))
    if given.source:
        report = Report.of(json.loads(given.source.read_text()))
    else:
        end_on_sigterm()
        plan = QUICK if given.quick else Plan(given.rounds, given.seconds)
        report = Report(machine(), {"rounds": plan.rounds, "seconds": plan.seconds, "processes": given.processes})
        contests = [contest for contest in CONTESTS if {contest.workload, *contest.rows} & set(rows)]
        entries = [entry for entry in ENTRIES if entry.name in names and _takes_part(entry, contests)]
        with ExitStack() as stack:
            running = start(entries, stack, report, given.processes, given.cache)
            try:
                compete(running, contests, plan, report)
            except (KeyboardInterrupt, SystemExit):
                said("Interrupted. What was measured until then follows.")
    print(text(report))
    if given.json:
        given.json.write_text(json.dumps(report.data(), indent=1) + "\n")
    if given.plot:
        plot(report, given.plot)
    if given.page:
        into_page(report, given.page)
    return 0


def _takes_part(entry: Entry, contests: Sequence[Contest]) -> bool:
    return not entry.only or any(contest.workload in entry.only for contest in contests)


if __name__ == "__main__":
    sys.exit(main())
