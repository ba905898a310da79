"""Tasks for canvases that are made at random, and what such a canvas leads to by plain evaluation."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from gtask import App, chain, group
from gtask.canvas import Group
from gtask.sendable import Canvas
from tests.e2e.tasks import note


def make(servers: Any = None, results: Any = None) -> App:
    """The App; a worker's results are where the environment says."""
    app = App("canvas", servers, results or os.environ.get("CANVAS_RESULTS", "gearman://"), dead_letters=False)

    @app.task
    def tag(value: Any, mark: int) -> Any:
        return [mark, value]

    @app.task
    def count(value: Any) -> int:
        return size(value)

    @app.task
    async def twice(value: Any) -> Any:
        return [value, value]

    @app.task
    def boom(value: Any, mark: int) -> Any:
        raise ValueError(f"boom {mark}")

    @app.task
    def add(a: int, b: int) -> int:
        return a + b

    @app.task
    def square(n: int) -> int:
        return n * n

    @app.task(ignore_result=True)
    def linked(value: Any, path: str, mark: int) -> None:
        note(path, f"linked {mark} {size(value)}")

    @app.task(ignore_result=True)
    def blamed(what: Any, path: str) -> None:
        note(path, f"blamed {what['task']} {what['message']}")

    return app


def size(value: Any) -> int:
    """How many numbers are in it."""
    return sum(map(size, value)) if isinstance(value, list) else 1


@dataclass(frozen=True)
class Step:
    """One task: `kind` is its name, or how it runs over a list."""

    kind: str
    mark: int = 0
    immutable: bool = False
    linked: bool = False


@dataclass(frozen=True)
class Side:
    """Flows that run side by side."""

    members: tuple[Flow, ...]


@dataclass(frozen=True)
class Flow:
    """Steps one after the other."""

    nodes: tuple[Step | Side, ...]


class Failed(Exception):
    """It fails, with one of these messages."""

    def __init__(self, messages: frozenset[str]) -> None:
        self.messages = messages


ITEMS = [[1, 2], [3, 4], [5, 6]]


def built(app: App, flow: Flow, path: str) -> Canvas:
    """The canvas of a flow."""
    return chain([_built(app, node, path) for node in flow.nodes])


def _built(app: App, node: Step | Side, path: str) -> Any:
    if isinstance(node, Side):
        return group(built(app, member, path) for member in node.members)
    task = app.tasks
    match node.kind:
        case "map":
            return task["square"].map(range(node.mark))
        case "map before":
            return chain(task["twice"].si(node.mark), task["square"].map())
        case "starmap":
            return task["add"].starmap(ITEMS)
        case "chunks":
            chunks: Group[Any] = task["add"].chunks(ITEMS, 2)
            return chunks
    args: tuple[Any, ...] = (node.mark,) if node.kind in ("tag", "boom") else ()
    step = task[node.kind].si(0, *args) if node.immutable else task[node.kind].s(*args)
    return step.link(task["linked"].s(path, node.mark)) if node.linked else step


def evaluated(flow: Flow, value: Any, links: list[str], ends: bool = True) -> Any:
    """What a flow leads to; `links` gets the lines of those that run, `ends` says that nothing waits for its end."""
    for place, node in enumerate(flow.nodes):
        last = ends and place == len(flow.nodes) - 1
        if isinstance(node, Step):
            value = _step(node, value, links)
            continue
        results, failures = [], []
        for member in node.members:
            try:
                results.append(evaluated(member, value, links, last))
            except Failed as failed:
                failures.append(failed.messages)
        if failures:
            raise Failed(frozenset().union(*failures) if last else failures[0])
        value = results
    return value


def _step(node: Step, value: Any, links: list[str]) -> Any:
    value = 0 if node.immutable else value
    match node.kind:
        case "tag":
            value = [node.mark, value]
        case "count":
            value = size(value)
        case "twice":
            value = [value, value]
        case "boom":
            raise Failed(frozenset([f"boom {node.mark}"]))
        case "map":
            value = [n * n for n in range(node.mark)]
        case "map before":
            value = [node.mark**2] * 2
        case "starmap":
            value = [3, 7, 11]
        case "chunks":
            value = [[3, 7], [11]]
    if node.linked:
        links.append(f"linked {node.mark} {size(value)}")
    return value


app = make()
