"""`python -m benchmarks.run`: gtask beside bare sockets, in one run, as a table of ratios."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.fleet import end_on_sigterm
from benchmarks.plans import QUICK, Plan, how_many
from benchmarks.rig import SERVERS, Rig, rig
from benchmarks.tables import align
from benchmarks.workloads import WORKLOADS, Workload


@dataclass
class Row:
    """One workload on one job server: how often it was done per second in each round, by gtask and by the floor."""

    server: str
    workload: str
    gtask: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """gtask's rate as a part of the floor's, round by round: what disturbs one of them mostly disturbs both."""
        return [rate / floor for rate, floor in zip(self.gtask, self.floor, strict=True)]


def measure(servers: Iterable[str], plan: Plan, only: str = "") -> list[Row]:
    """Measures every workload whose name has `only` in it on every job server; rounds of all of them interleaved."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="gtask-benchmarks-") as folder, ExitStack() as stack:
        rigs = [stack.enter_context(rig(kind, Path(folder))) for kind in servers]
        work: list[tuple[Rig, Workload, Row, int, int]] = []
        for workload in (workload for workload in WORKLOADS if only in workload.name):
            for each in rigs:
                row = Row(each.kind, workload.name)
                rows.append(row)
                count = how_many(partial(workload.gtask, each), workload.most, plan)
                floor_count = how_many(partial(workload.floor, each), workload.most, plan)
                work.append((each, workload, row, count, floor_count))
        for _ in range(plan.rounds):
            for each, workload, row, count, floor_count in work:
                row.floor.append(floor_count / workload.floor(each, floor_count))
                row.gtask.append(count / workload.gtask(each, count))
    return rows


def table(rows: Sequence[Row]) -> str:
    """The table, one row for each workload and job server, medians; then the two job servers beside each other."""
    head = ["workload", "server", "gtask/s", "floor/s", "gtask : floor", "lowest..highest"]
    lines = [head]
    for row in rows:
        ratios = row.ratios
        spread = f"{min(ratios):.2f}..{max(ratios):.2f}"
        figures = [f"{median(row.gtask):,.0f}", f"{median(row.floor):,.0f}", f"{median(ratios):.2f}", spread]
        lines.append([row.workload, row.server, *figures])
    text = align(lines, 2)
    pairs = [
        (one, other)
        for one in rows
        for other in rows
        if one.workload == other.workload and (one.server, other.server) == ("embedded", "gearmand")
    ]
    if pairs:
        lines = [["embedded server : gearmand", "gtask", "floor"]]
        for one, other in pairs:
            lines.append([one.workload, _ratio(one.gtask, other.gtask), _ratio(one.floor, other.floor)])
        text += "\n\n" + align(lines, 1)
    return text


def _ratio(one: Sequence[float], other: Sequence[float]) -> str:
    return f"{median(a / b for a, b in zip(one, other, strict=True)):.2f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the options, measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--server", choices=[*SERVERS, "both"], default="both", help="the job server  [both]")
    parser.add_argument("--quick", action="store_true", help="only show that everything works; the figures say nothing")
    parser.add_argument("--rounds", type=int, default=Plan.rounds, help=f"rounds, of which the median  [{Plan.rounds}]")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the workloads that have this in their name")
    given = parser.parse_args(argv)
    end_on_sigterm()
    plan = QUICK if given.quick else Plan(rounds=given.rounds)
    rows = measure(SERVERS if given.server == "both" else [given.server], plan, given.only)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
