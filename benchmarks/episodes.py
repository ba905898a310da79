"""The faults of a soak: each is inflicted, and says which streams have to flow again, and from when on."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from random import Random

from benchmarks.fleet import Fleet, Flow, is_alive, kill_all
from gtask.testing import FaultProxy, Program, wait_until

Streams = Callable[[Flow], bool]
Episode = Callable[[Fleet, Random], Iterator[tuple[str, Streams]]]
"""A generator: each time it yields, with a word on what was done, these streams have to flow again from then on."""


def everything(flow: Flow) -> bool:
    """Every stream."""
    return True


def without(index: int) -> Streams:
    """Every stream but those of one job server."""
    return lambda flow: not flow.name.endswith(f"@{index}")


def _some(proxies: Sequence[FaultProxy], random: Random) -> list[FaultProxy]:
    return random.sample(list(proxies), random.randint(1, len(proxies)))


def _either(fleet: Fleet, random: Random) -> list[FaultProxy]:
    """Some of the proxies: those of the workers, of the callers, or of both."""
    side = random.choice(["inner", "outer", "both"])
    return _some([*fleet.inner, *fleet.outer] if side == "both" else getattr(fleet, side), random)


def cut(fleet: Fleet, random: Random) -> Iterator[tuple[str, Streams]]:
    """Connections end, by FIN or RST."""
    reset = random.random() < 0.5
    chosen = _either(fleet, random)
    count = sum(proxy.cut(reset) for proxy in chosen)
    yield f"{count} connections by {'RST' if reset else 'FIN'}", everything


def limit(fleet: Fleet, random: Random) -> Iterator[tuple[str, Streams]]:
    """Connections end in the middle of a packet."""
    direction = random.choice(["up", "down", "both"])
    for proxy in (chosen := _either(fleet, random)):
        proxy.limit(random.randint(1, 3000), direction, reset=random.random() < 0.5)  # type: ignore[arg-type]
    time.sleep(random.uniform(0.1, 0.5))
    for proxy in chosen:
        proxy.heal()
    yield f"{len(chosen)} proxies, {direction}", everything


def half_open(fleet: Fleet, random: Random) -> Iterator[tuple[str, Streams]]:
    """The other side vanishes, and nobody says so; the system finds out when the flow is back."""
    chosen = _either(fleet, random)
    count = sum(proxy.half_open() for proxy in chosen)
    yield f"{count} connections", everything
    for proxy in chosen:
        proxy.heal()


def stall(fleet: Fleet, random: Random) -> Iterator[tuple[str, Streams]]:
    """One job server is slow to the point of silence: the others go on meanwhile, and it does afterwards."""
    index = random.randrange(len(fleet.servers))
    direction = random.choice(["up", "down", "both"])
    began = time.monotonic()
    for proxy in (fleet.inner[index], fleet.outer[index]):
        proxy.stall(direction)  # type: ignore[arg-type]
    yield f"server {index}, {direction}, meanwhile", without(index)
    time.sleep(max(0.0, began + random.uniform(0.2, 1.5) - time.monotonic()))
    for proxy in (fleet.inner[index], fleet.outer[index]):
        proxy.heal()
    yield f"server {index}, {direction}, afterwards", everything


def split(fleet: Fleet, random: Random) -> Iterator[tuple[str, Streams]]:
    """Every byte comes alone."""
    for proxy in (*fleet.inner, *fleet.outer):
        proxy.split()
    yield "while single bytes come", everything
    for proxy in (*fleet.inner, *fleet.outer):
        proxy.heal()


def delay(fleet: Fleet, random: Random) -> Iterator[tuple[str, Streams]]:
    """A long way."""
    seconds = random.uniform(0.02, 0.15)
    for proxy in (*fleet.inner, *fleet.outer):
        proxy.delay(seconds)
    yield f"while bytes come {seconds * 1000:.0f} ms late", everything
    for proxy in (*fleet.inner, *fleet.outer):
        proxy.heal()


def restart(fleet: Fleet, random: Random) -> Iterator[tuple[str, Streams]]:
    """A job server is started again, after SIGTERM or SIGKILL."""
    index = random.randrange(len(fleet.servers))
    signum = random.choice([signal.SIGTERM, signal.SIGKILL])
    fleet.servers[index].restart(signum)
    yield f"server {index}, {signum.name}", everything


def down(fleet: Fleet, random: Random) -> Iterator[tuple[str, Streams]]:
    """One of the job servers is away for a while; the others go on, and it rejoins."""
    index = random.randrange(len(fleet.servers))
    fleet.servers[index].kill()
    fleet.servers[index].wait()
    yield f"server {index} away, the others", without(index)
    time.sleep(random.uniform(0.0, 0.5))
    fleet.servers[index].start()
    fleet.servers[index].wait_until_ready()
    yield f"server {index} back", everything


def child_killed(fleet: Fleet, random: Random) -> Iterator[tuple[str, Streams]]:
    """A process of a worker is killed: one that runs tasks, or the one that moves delayed jobs."""
    pool = random.choice(list(fleet.workers))
    program = fleet.workers[pool]
    pid = random.choice(program.children())
    program.kill(pid)
    yield f"process {pid} of {pool}", everything


def worker_killed(fleet: Fleet, random: Random) -> Iterator[tuple[str, Streams]]:
    """A whole worker is killed and started again; or only its supervisor, whose children are to end by themselves."""
    pool = random.choice(list(fleet.workers))
    program = fleet.workers[pool]
    if random.random() < 0.5:
        kill_all(program)
        program.start()
        yield f"all of {pool}", everything
    else:
        children = program.children()
        program.kill()
        program.wait()
        program.start()
        yield f"supervisor of {pool}", everything
        wait_until(lambda: not any(map(is_alive, children)), 10.0, f"the end of the children {children}")


def results_killed(fleet: Fleet, random: Random) -> Iterator[tuple[str, Streams]]:
    """The results service is killed and started again."""
    _restart(fleet.results)
    yield "results service", everything


def _restart(program: Program) -> None:
    kill_all(program)
    program.start()


EPISODES: dict[str, Episode] = {
    "cut": cut,
    "cut in a packet": limit,
    "half-open": half_open,
    "stall": stall,
    "split": split,
    "delay": delay,
    "server restart": restart,
    "one server down": down,
    "child killed": child_killed,
    "worker killed": worker_killed,
    "results killed": results_killed,
}
