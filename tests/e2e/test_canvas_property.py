"""Canvases made at random, through real workers on both job servers and with every store, against plain evaluation."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gtask import App, GroupResult
from gtask.testing.processes import gearmand, job_server, worker
from gtask.testing.programs import wait_until
from gtask.testing.requirements import require, require_module
from gtask.testing.stores import MODULES, PROGRAMS, SERVERS, store_server, store_url
from tests.e2e.canvas_tasks import Failed, Flow, Side, Step, built, evaluated, make
from tests.e2e.conftest import LIMIT, ROOT, results_service
from tests.e2e.tasks import lines

STORES = ("gearman", "sqlite", *SERVERS)
EXAMPLES = int(os.environ.get("GTASK_EXAMPLES", "12"))

marks = st.integers(1, 9)
steps = st.one_of(
    st.builds(Step, st.sampled_from(["tag", "tag", "count", "twice"]), marks, st.booleans(), st.booleans()),
    st.builds(Step, st.sampled_from(["map", "map before", "starmap", "chunks"]), marks),
)
failing = st.builds(Step, st.just("boom"), marks, st.booleans())


def flows(node: st.SearchStrategy[Step | Side], most: int = 3) -> st.SearchStrategy[Flow]:
    return st.builds(Flow, st.lists(node, min_size=1, max_size=most).map(tuple))


def nested(step: st.SearchStrategy[Step]) -> st.SearchStrategy[Flow]:
    """Flows with groups in them, and groups in those."""
    nodes: st.SearchStrategy[Step | Side] = step
    for _ in range(3):
        sides = st.builds(Side, st.lists(flows(nodes), min_size=1, max_size=3).map(tuple))
        nodes = step | sides
    return flows(nodes, 4)


canvases = nested(steps) | nested(st.sampled_from([0, 0, 0, 0, 1]).flatmap(lambda bad: failing if bad else steps))


@dataclass
class Stage:
    """An App as a caller, with workers of it."""

    app: App
    folder: Path
    count: int = 0

    def path(self) -> Path:
        """A fresh file for the lines of links."""
        self.count += 1
        return self.folder / f"lines{self.count}"


@pytest.fixture(scope="module", params=STORES)
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of each store; that of gearman:// is the same for all."""
    kind = request.param
    if kind == "gearman":
        yield "gearman://"
    elif kind == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('store') / 'results.db'}"
    else:
        require(PROGRAMS[kind])
        for module in MODULES[kind]:
            require_module(module)
        with store_server(kind) as server:
            yield store_url(server)


@pytest.fixture(scope="module", params=["gtask", "gearmand"])
def stage(request: pytest.FixtureRequest, results: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Each job server with each store, and one worker for all examples."""
    folder = tmp_path_factory.mktemp("stage")
    with ExitStack() as stack:
        served = results == "gearman://"
        if request.param == "gtask":
            server = stack.enter_context(job_server(results=folder / "results.db" if served else None))
        else:
            require("gearmand", package="gearman-job-server")
            server = stack.enter_context(gearmand())
            if served:
                stack.enter_context(results_service(server.url, folder / "results.db"))
        env = {"CANVAS_RESULTS": results}
        stack.enter_context(worker("tests.e2e.canvas_tasks:app", cwd=ROOT, servers=server.url, concurrency=3, env=env))
        yield Stage(stack.enter_context(make(server.url, results)), folder)


@given(canvases, st.booleans())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_canvas_does_what_plain_evaluation_does(stage: Stage, flow: Flow, travels: bool) -> None:
    path = stage.path()
    canvas = built(stage.app, flow, str(path)).link_error(stage.app.tasks["blamed"].s(str(path)))
    if travels:
        canvas = stage.app.signature(json.loads(json.dumps(dict(canvas))))
    handle = canvas.delay(0)
    links: list[str] = []
    expected = outcome(flow, links)
    if isinstance(expected, Failed):
        with pytest.raises(ValueError, match=r"^boom \d$") as error:
            handle.get(timeout=LIMIT)
        assert str(error.value) in expected.messages
        if not isinstance(handle, GroupResult):
            # Once, whoever failed; of a group that nothing follows, once for each.
            wait_until(lambda: any(line.startswith("blamed") for line in lines(path)), LIMIT, "the errback")
            blamed = [line for line in lines(path) if line.startswith("blamed")]
            assert blamed == [f"blamed boom {error.value}"]
    else:
        assert handle.get(timeout=LIMIT) == expected
        assert handle.successful()
        wait_until(lambda: len(lines(path)) >= len(links), LIMIT, "the links")
        assert sorted(lines(path)) == sorted(links)


def outcome(flow: Flow, links: list[str]) -> Any:
    """What a flow leads to, its failure too."""
    try:
        return evaluated(flow, 0, links)
    except Failed as failed:
        return failed
