"""One call of a chain is one trace across real processes: the caller, each process of a worker, the housekeeper.

The caller is this process, with the SDK's in-memory exporter; the processes of the worker write their spans to files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gtask import App
from gtask.testing.processes import worker
from tests.middleware.recording import Spans, attributes

EXPORTER = '''
import json, os

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult

from gtask import App, Retry, TaskContext


class Files(SpanExporter):
    """Opens its file when it writes: in the process that ends the span, after the fork."""

    def export(self, spans):
        with open(f"spans-{os.getpid()}.jsonl", "a") as file:
            for span in spans:
                row = {
                    "name": span.name,
                    "kind": span.kind.name,
                    "trace": span.context.trace_id,
                    "id": span.context.span_id,
                    "parent": span.parent and span.parent.span_id,
                    "pid": os.getpid(),
                    "attributes": dict(span.attributes),
                }
                file.write(json.dumps(row) + "\\n")
        return SpanExportResult.SUCCESS
'''

AT_IMPORT = """
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(Files()))
trace.set_tracer_provider(provider)
"""

AFTER_THE_FORK = """
@app.on_worker_start
def set_up():
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Files(), schedule_delay_millis=3_600_000))
    trace.set_tracer_provider(provider)
"""

TASKS = """
app = App("orders")


@app.task(bind=True, max_retries=1)
def calculate(ctx: TaskContext, order: int) -> int:
    if not ctx.retries:
        raise Retry(delay=0)
    return order * 6


@app.task
def send(amount: int) -> str:
    with trace.get_tracer("app").start_as_current_span("write the mail"):
        return f"sent {amount}"


@app.task
async def count(n: int) -> int:
    with trace.get_tracer("app").start_as_current_span("count"):
        return n + 1
"""


class Trace:
    """The spans of one trace, from this process and the files of the others."""

    def __init__(self, spans: Spans, folder: Path) -> None:
        here = [
            {
                "name": span.name,
                "kind": span.kind.name,
                "trace": span.context.trace_id,
                "id": span.context.span_id,
                "parent": span.parent and span.parent.span_id,
                "pid": 0,
                "attributes": attributes(span),
            }
            for span in spans.all
        ]
        files = sorted(folder.glob("spans-*.jsonl"))
        self.rows: list[dict[str, Any]] = here + [
            json.loads(line) for file in files for line in file.read_text().splitlines()
        ]

    def path(self, name: str) -> list[dict[str, Any]]:
        """The spans from the root down to the only one of a name."""
        by_id = {row["id"]: row for row in self.rows}
        (row,) = [row for row in self.rows if row["name"] == name]
        found = [row]
        while row["parent"] is not None:
            row = by_id[row["parent"]]
            found.insert(0, row)
        return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(EXPORTER + AT_IMPORT + TASKS)
    return tmp_path


@pytest.fixture
def app(any_server: Any) -> Iterator[App]:
    """The caller's side of the same App."""
    with App("orders", servers=any_server.url) as app:
        app.task(name="calculate")(lambda order: 0)
        app.task(name="send")(lambda amount: "")
        app.task(name="count")(lambda n: 0)
        yield app


@pytest.mark.parametrize("pool", ["prefork", "thread", "async"])
def test_one_call_of_a_chain_is_one_trace(app: App, folder: Path, spans: Spans, pool: str, any_server: Any) -> None:
    calculate, send = app.tasks["calculate"], app.tasks["send"]
    with worker("app:app", f"--with-results={folder / 'results.db'}", cwd=folder, servers=any_server.url, pool=pool):
        assert (calculate | send).delay(7).get(timeout=60) == "sent 42"
    trace = Trace(spans, folder)
    path = trace.path("write the mail")
    assert [row["name"] for row in path] == [
        "send calculate",
        "process calculate",
        "send calculate",
        "process calculate",
        "send send",
        "process send",
        "write the mail",
    ]
    assert [row["kind"] for row in path] == ["PRODUCER", "CONSUMER"] * 3 + ["INTERNAL"]
    assert len(trace.rows) == len(path)
    assert len({row["trace"] for row in trace.rows}) == 1
    caller, first, again, second, onward, last, _ = path
    assert caller["pid"] == 0
    assert 0 not in {row["pid"] for row in path[1:]}
    assert [
        (row["attributes"]["gtask.retries"], row["attributes"]["gtask.state"]) for row in (first, second, last)
    ] == [
        (0, "RETRY"),
        (1, "SUCCESS"),
        (0, "SUCCESS"),
    ]
    # What a process publishes while it runs a task is told in that very process.
    assert (first["pid"], second["pid"]) == (again["pid"], onward["pid"])
    assert all(row["attributes"]["server.port"] == any_server.port for row in path[:-1])
    assert len({row["attributes"]["gtask.root_id"] for row in path[:-1]}) == 1


@pytest.mark.parametrize("pool", ["prefork", "thread", "async"])
def test_a_foreground_call_is_one_trace(app: App, folder: Path, spans: Spans, pool: str, any_server: Any) -> None:
    calculate, count = app.tasks["calculate"], app.tasks["count"]
    with worker("app:app", cwd=folder, servers=any_server.url, pool=pool):
        assert calculate.options(timeout=60).call(7) == 42
        assert count.options(timeout=60).call(7) == 8
    trace = Trace(spans, folder)
    assert [row["name"] for row in trace.path("count")] == ["call count", "process count", "count"]
    call, *runs = [row for row in trace.rows if row["name"].endswith(" calculate")]
    assert call["name"] == "call calculate"
    # The retry of a foreground call is the same job once more: two runs of one message.
    assert [(row["name"], row["parent"]) for row in runs] == [("process calculate", call["id"])] * 2
    assert {row["trace"] for row in runs} == {call["trace"]}


def test_an_exporter_with_a_thread_is_set_up_after_the_fork(app: App, folder: Path, any_server: Any) -> None:
    """As docs/tracing.md says: the supervisor stays without threads, and each process exports by its own.

    The exporter would wait for an hour; what was recorded is written when the process ends.
    """
    (folder / "app.py").write_text(EXPORTER + TASKS + AFTER_THE_FORK)
    with worker("app:app", cwd=folder, servers=any_server.url) as program:
        assert app.tasks["count"].options(timeout=60).call(7) == 8
        threads = Path(f"/proc/{program.pid}/task")
        assert not threads.exists() or len(list(threads.iterdir())) == 1
        assert not any(file.read_text() for file in folder.glob("spans-*.jsonl"))
        program.terminate()
    assert any("process count" in file.read_text() for file in folder.glob("spans-*.jsonl"))
