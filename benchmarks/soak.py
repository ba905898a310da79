"""`python -m benchmarks.soak`: fault after fault over a steady flow of numbered tasks, and what became of each."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.episodes import EPISODES
from benchmarks.fleet import Fleet, end_on_sigterm, fleet
from gtask.results.sqlite import SqliteStore

BOUND = 5.0
"""Seconds within which every stream is to flow again after a fault."""

GIVE_UP = 30.0
"""Seconds after which a stream that does not flow again counts as hung, and the run goes on."""

SERVERS = ("embedded", "gearmand")


@dataclass
class Outcome:
    """What a soak has shown."""

    server: str
    episodes: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """For each kind of fault how long it took until everything flowed again."""
    late: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    accepted: int = 0
    refused: int = 0
    lost: set[str] = field(default_factory=set)
    results_missing: int = 0
    repeated: int = 0
    took: float = 0.0

    @property
    def good(self) -> bool:
        """Whether nothing was lost, hung or late."""
        return not (self.lost or self.hung or self.late or self.results_missing)


def soak(server: str, episodes: int, seed: int, folder: Path, quiet: bool = False) -> Outcome:
    """Runs so many episodes on fresh job servers of a kind; every kind of fault comes equally often, at random."""
    outcome = Outcome(server)
    chance = random.Random(seed)
    began = time.monotonic()
    with fleet(server, folder) as made:
        for count, name in zip(range(1, episodes + 1), _names(chance), strict=False):
            _episode(made, name, count, chance, outcome, quiet)
        outcome.hung += [f"a call of {name} does not come back" for name in made.stop_flow()]
        _count(made, outcome)
    outcome.took = time.monotonic() - began
    return outcome


def _names(chance: random.Random) -> Iterator[str]:
    while True:
        names = list(EPISODES)
        chance.shuffle(names)
        yield from names


def _episode(made: Fleet, name: str, count: int, chance: random.Random, outcome: Outcome, quiet: bool) -> None:
    outcome.episodes[name] += 1
    for what, streams in EPISODES[name](made, chance):
        marks = made.marks(streams)
        began = time.monotonic()
        hanging = made.wait_for_flow(marks, BOUND)
        if hanging:
            outcome.late.append(f"{count}. {name}, {what}: {', '.join(hanging)}")
            hanging = made.wait_for_flow({name: marks[name] for name in hanging}, GIVE_UP)
        took = time.monotonic() - began
        outcome.seconds.setdefault(name, []).append(took)
        if hanging:
            outcome.hung.append(f"{count}. {name}, {what}: {', '.join(hanging)}")
        if not quiet:
            print(f"{outcome.server} {count:4} {name}: {what}: {took:.2f} s, {', '.join(made.last)}", flush=True)


def _count(made: Fleet, outcome: Outcome) -> None:
    outcome.lost = made.settle()
    accepted = made.accepted()
    outcome.accepted = len(accepted)
    outcome.refused = sum(flow.refused for flow in made.flows)
    outcome.hung += [text for flow in made.flows for text in flow.hung]
    ids = {id for id in accepted.values() if id is not None}
    store = SqliteStore(made.folder / "results.db")
    deadline = time.monotonic() + GIVE_UP
    while len(stored := store.ready(ids)) < len(ids) and time.monotonic() < deadline:
        time.sleep(0.2)
    store.close()
    outcome.results_missing = len(ids) - len(stored)
    made.look()
    outcome.repeated = made.record.repeated


def report(outcome: Outcome) -> str:
    """The figures in words."""
    seconds = [each for group in outcome.seconds.values() for each in group]
    took = f"{outcome.episodes.total()} episodes in {outcome.took:.0f} s"
    failed = f"lost {len(outcome.lost)}, results missing {outcome.results_missing}, hung {len(outcome.hung)}"
    restored = f"median {median(seconds):.2f} s, worst {max(seconds):.2f} s"
    lines = [
        f"{outcome.server}: {took}, {outcome.accepted} tasks accepted, {outcome.refused} refused to their callers",
        f"  {failed}, run more than once {outcome.repeated}",
        f"  flow restored: {restored}, later than {BOUND:g} s {len(outcome.late)}",
    ]
    for name, group in outcome.seconds.items():
        lines.append(
            f"    {name:16} {outcome.episodes[name]:4} times, median {median(group):.2f}, worst {max(group):.2f} s"
        )
    lines += [f"  LATE {text}" for text in outcome.late]
    lines += [f"  HUNG {text}" for text in outcome.hung]
    lines += [f"  LOST {number}" for number in sorted(outcome.lost)[:20]]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the options, runs and prints; 1 when something was lost, hung or late."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--server", choices=[*SERVERS, "both"], default="both", help="the job server  [both]")
    parser.add_argument("--episodes", type=int, default=500, help="how many faults, on each job server  [500]")
    parser.add_argument(
        "--seed", type=int, default=None, help="what the random choices start from  [another each time]"
    )
    parser.add_argument("--quiet", action="store_true", help="only print the figures at the end")
    given = parser.parse_args(argv)
    end_on_sigterm()
    seed = given.seed if given.seed is not None else random.randrange(1 << 32)
    good = True
    for server in SERVERS if given.server == "both" else [given.server]:
        print(f"{server}: {given.episodes} episodes, --seed {seed}", flush=True)
        with tempfile.TemporaryDirectory(prefix="gtask-soak-") as folder:
            outcome = soak(server, given.episodes, seed, Path(folder), given.quiet)
        print(report(outcome), flush=True)
        good = good and outcome.good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
