"""Spans and metrics in one process: messages are sealed, run and ended by the parts that a worker is made of."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import ExitStack
from typing import Any

import anyio
import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode, get_current_span

from gtask import App, Retry, TaskContext, current_task
from gtask.context import LocalReporter
from gtask.errors import EncodeError, ResultTimeout
from gtask.message import SignatureData
from gtask.runner import PutOff, Runner
from gtask.testing.embedded import EmbeddedServer
from gtask.types import Submission
from gtask.worker.job import Ending
from tests.middleware.recording import SERVER, Points, Spans, attributes, define, headers, job, seal, seconds, work_off

# --- sending -----------------------------------------------------------------------------------------------------


def test_a_message_carries_the_context_of_its_producer_span(app: App, spans: Spans) -> None:
    calculate = define(app, "calculate", abs)
    sent = seal(app, calculate.s(7))
    span = spans.one("send calculate")
    context = span.context
    assert span.kind is SpanKind.PRODUCER
    assert span.parent is None
    ((name, value),) = headers(sent)["trace"].items()
    assert (name, value[:-2]) == ("traceparent", f"00-{context.trace_id:032x}-{context.span_id:016x}-")
    assert int(value[-2:], 16) & 1  # sampled
    assert attributes(span) == {
        "messaging.system": "gearman",
        "messaging.destination.name": "calculate",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.message.id": sent.unique,
        "messaging.client.id": headers(sent)["origin"],
        "server.address": "queue.example",
        "server.port": 4731,
        "gtask.retries": 0,
        "gtask.root_id": sent.unique,
    }


def test_of_several_job_servers_none_is_named(spans: Spans) -> None:
    app = App("orders", servers=[SERVER, "gearman://other.example"], results=None)
    seal(app, define(app, "calculate", abs).s(7))
    assert "server.address" not in attributes(spans.one("send calculate"))


def test_a_call_is_a_child_of_what_its_caller_does(app: App, spans: Spans) -> None:
    calculate = define(app, "calculate", abs)
    with trace.get_tracer("test").start_as_current_span("request"):
        seal(app, calculate.s(7))
    assert spans.ancestry(spans.one("send calculate")) == ["request", "send calculate"]


def test_the_members_of_a_group_are_siblings(app: App, spans: Spans) -> None:
    calculate = define(app, "calculate", abs)
    with trace.get_tracer("test").start_as_current_span("request"), ExitStack() as hooks:
        for n in range(3):
            sending = app.publisher.prepare(SignatureData("calculate", (n,)), app.now())
            app.publisher.enter(sending, hooks)
    assert calculate.name == "calculate"
    assert [spans.ancestry(span) for span in spans.of("send calculate")] == [["request", "send calculate"]] * 3


def test_what_cannot_be_sent_is_an_error_of_the_producer_span(app: App, spans: Spans, points: Points) -> None:
    calculate = define(app, "calculate", abs)
    with pytest.raises(EncodeError):
        seal(app, calculate.s(object()))
    span = spans.one("send calculate")
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]
    assert attributes(span)["error.type"] == "gtask.errors.EncodeError"
    (point,) = points("messaging.client.operation.duration")
    assert point.attributes["error.type"] == "gtask.errors.EncodeError"


def test_a_call_without_an_answer_ends_its_span_with_the_error(gtask_server: EmbeddedServer, spans: Spans) -> None:
    with App("orders", servers=gtask_server.url, results=None) as app:
        calculate = define(app, "calculate", abs)
        with pytest.raises(ResultTimeout):
            calculate.options(timeout=0.05).call(7)
    span = spans.one("call calculate")
    assert span.kind is SpanKind.PRODUCER
    assert attributes(span)["error.type"] == "gtask.errors.ResultTimeout"
    assert attributes(span)["server.port"] == gtask_server.port
    assert seconds(span) >= 0.04


def test_entries_that_a_worker_would_refuse_are_left_out(app: App, spans: Spans) -> None:
    calculate = define(app, "calculate", abs)
    token = context.attach(baggage.set_baggage("notes", "x" * 2000))
    try:
        sent = seal(app, calculate.s(7))
    finally:
        context.detach(token)
    assert list(headers(sent)["trace"]) == ["traceparent"]
    work_off(app, sent)
    assert spans.ancestry(spans.one("process calculate")) == ["send calculate", "process calculate"]


def test_baggage_reaches_the_task_and_what_it_calls(app: App, spans: Spans) -> None:
    seen = []
    calculate = define(app, "calculate", lambda n: seen.append(baggage.get_baggage("tenant")))
    send = define(app, "send", lambda n: seen.append(baggage.get_baggage("tenant")))
    token = context.attach(baggage.set_baggage("tenant", "acme"))
    try:
        sent = seal(app, calculate.s(7), send.s())
    finally:
        context.detach(token)
    work_off(app, sent)
    assert seen == ["acme", "acme"]


# --- running -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "async"])
def test_a_chain_with_a_retry_is_one_trace(app: App, spans: Spans, asynchronous: bool) -> None:
    seen: list[int] = []

    def calculate(n: int) -> int:
        task = current_task()
        assert task is not None
        seen.append(get_current_span().get_span_context().span_id)
        if not task.retries:
            raise Retry(delay=0)
        return n * 6

    mails: list[int] = []
    first = define(app, "calculate", calculate, asynchronous, max_retries=2)
    second = define(app, "send", mails.append, asynchronous)
    with trace.get_tracer("test").start_as_current_span("request"):
        sent = seal(app, first.s(7), second.s())
    work_off(app, sent)

    assert mails == [42]
    assert spans.ancestry(spans.one("process send")) == [
        "request",
        "send calculate",
        "process calculate",
        "send calculate",
        "process calculate",
        "send send",
        "process send",
    ]
    assert len({span.context.trace_id for span in spans.all}) == 1
    runs = spans.of("process calculate")
    assert seen == [span.context.span_id for span in runs]
    assert [attributes(span)["gtask.retries"] for span in runs] == [0, 1]
    assert [attributes(span)["gtask.state"] for span in runs] == ["RETRY", "SUCCESS"]
    assert all(span.kind is SpanKind.CONSUMER for span in runs)
    again = spans.of("send calculate")[1]
    assert {"gtask.retries": 1, "messaging.client.id": "worker:1"}.items() <= attributes(again).items()


def test_a_consumer_span_says_what_was_run(app: App, spans: Spans) -> None:
    calculate = define(app, "calculate", abs)
    send = define(app, "send", abs)
    sent = seal(app, calculate.s(7), send.s())
    work_off(app, sent)
    told = attributes(spans.one("process send"))
    assert told.pop("messaging.message.id") != sent.unique
    assert told == {
        "messaging.system": "gearman",
        "messaging.destination.name": "send",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.client.id": "worker:1",
        "server.address": "queue.example",
        "server.port": 4731,
        "gtask.retries": 0,
        "gtask.state": "SUCCESS",
        "gtask.root_id": sent.unique,
        "gtask.parent_id": sent.unique,
    }


def test_what_a_task_calls_is_its_child(app: App, spans: Spans) -> None:
    send = define(app, "send", abs)
    calculate = define(app, "calculate", lambda n: seal(app, send.s(n)) and None)
    work_off(app, seal(app, calculate.s(7)))
    assert spans.ancestry(spans.one("send send")) == ["send calculate", "process calculate", "send send"]


def test_a_failure_is_an_error_with_its_exception(app: App, spans: Spans) -> None:
    def fail(n: int) -> None:
        raise ValueError(f"no order {n}")

    work_off(app, seal(app, define(app, "calculate", fail).s(7)))
    span = spans.one("process calculate")
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "ValueError: no order 7"
    assert {"error.type": "ValueError", "gtask.state": "FAILURE"}.items() <= attributes(span).items()
    (event,) = span.events
    assert event.name == "exception"
    told = attributes(event)
    assert told["exception.type"] == "ValueError"
    assert told["exception.message"] == "no order 7"
    assert "in fail" in str(told["exception.stacktrace"])
    assert spans.one("send calculate").status.status_code is StatusCode.UNSET


def test_a_retry_is_an_event_and_no_error(app: App, spans: Spans) -> None:
    def slow(ctx: TaskContext, n: int) -> None:
        ctx.retry(TimeoutError("no answer"), delay=2.5)

    runner = Runner(app, "worker:1")
    calculate = app.task(name="calculate", bind=True)(slow)
    runner.run(job(seal(app, calculate.s(7))), LocalReporter())
    span = spans.one("process calculate")
    assert span.status.status_code is StatusCode.UNSET
    assert "error.type" not in attributes(span)
    (event,) = span.events
    assert event.name == "gtask.retry"
    told = attributes(event)
    assert told["exception.type"] == "TimeoutError"
    assert told["gtask.retry.delay"] == 2.5
    assert "gtask.eta" in attributes(spans.of("send calculate")[1])


def test_a_foreground_retry_is_a_second_run_of_the_same_message(app: App, spans: Spans, points: Points) -> None:
    def flaky(ctx: TaskContext) -> str:
        if not ctx.retries:
            raise Retry(delay=0)
        return "done"

    runner = Runner(app, "worker:1")
    calculate = app.task(name="calculate", bind=True)(flaky)
    held = job(seal(app, calculate.s(), foreground=True))
    assert isinstance(runner.run(held, LocalReporter()), PutOff)
    held.attempt = 1
    assert isinstance(runner.run(held, LocalReporter()), Ending)
    runs = spans.of("process calculate")
    assert [spans.ancestry(span) for span in runs] == [["call calculate", "process calculate"]] * 2
    assert [attributes(span)["gtask.retries"] for span in runs] == [0, 1]
    (queued,) = points("gtask.queue.duration")
    assert queued.count == 1  # the second run waited in no queue


def test_what_came_too_late_is_an_event_and_no_error(app: App, spans: Spans) -> None:
    calculate = define(app, "calculate", abs)
    work_off(app, seal(app, calculate.s(7).set(expires=-1)))
    span = spans.one("process calculate")
    assert span.status.status_code is StatusCode.UNSET
    assert [event.name for event in span.events] == ["gtask.revoked"]
    assert attributes(span)["gtask.state"] == "REVOKED"


def test_the_end_of_a_process_is_recorded_too(app: App, spans: Spans, points: Points) -> None:
    work_off(app, seal(app, define(app, "calculate", sys.exit).s(3)))
    span = spans.one("process calculate")
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["error.type"] == "SystemExit"
    assert [dict(point.attributes) for point in points("gtask.tasks")] == [
        {"gtask.task": "calculate", "gtask.state": "FAILURE"}
    ]


@pytest.mark.parametrize(
    "workload",
    [
        b"7",
        b'{"gtask": 1, "args": [7]}',
        b'{"gtask": 1, "args": [7], "headers": {"trace": {}}}',
        b'{"gtask": 1, "args": [7], "headers": {"trace": {"traceparent": "rubbish", "baggage": "=;=%%%"}}}',
    ],
)
def test_a_job_without_a_trace_starts_its_own(app: App, spans: Spans, workload: bytes) -> None:
    define(app, "calculate", abs)
    with trace.get_tracer("test").start_as_current_span("something else in this thread") as other:
        work_off(app, Submission("calculate", workload, "u1"))
        assert get_current_span() is other
    assert spans.one("process calculate").parent is None


def test_a_foreign_caller_may_send_a_trace(app: App, spans: Spans) -> None:
    define(app, "calculate", abs)
    parent = f"00-{0xABC:032x}-{0xDEF:016x}-01"
    workload = f'{{"gtask": 1, "args": [7], "headers": {{"trace": {{"traceparent": "{parent}"}}}}}}'
    work_off(app, Submission("calculate", workload.encode(), "u1"))
    span = spans.one("process calculate")
    assert span.parent is not None
    assert (span.context.trace_id, span.parent.span_id) == (0xABC, 0xDEF)


@pytest.mark.anyio
@pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "async"])
async def test_tasks_side_by_side_have_their_own_spans(app: App, spans: Spans, asynchronous: bool) -> None:
    """In the async pool: coroutine functions in the loop, plain ones in its threads."""
    count = 5
    together = threading.Barrier(count)
    seen: dict[int, int] = {}
    arrived = 0
    all_there = anyio.Event()

    def plain(n: int) -> None:
        together.wait(30)
        seen[n] = get_current_span().get_span_context().span_id

    async def coroutine(n: int) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == count:
            all_there.set()
        with anyio.fail_after(30):
            await all_there.wait()
        seen[n] = get_current_span().get_span_context().span_id

    calculate: Any = app.task(name="calculate")(coroutine if asynchronous else plain)
    runner = Runner(app, "worker:1", in_loop=True)
    async with anyio.create_task_group() as group:
        for n in range(count):
            group.start_soon(runner.arun, job(seal(app, calculate.s(n))), LocalReporter())
    parents = {span.context.span_id: span for span in spans.of("send calculate")}
    runs = spans.of("process calculate")
    assert sorted(seen.values()) == sorted(span.context.span_id for span in runs)
    assert len({span.parent.span_id for span in runs if span.parent and span.parent.span_id in parents}) == count
    assert not get_current_span().get_span_context().is_valid


def test_threads_have_their_own_spans(app: App, spans: Spans) -> None:
    together = threading.Barrier(3)
    seen = []

    def body(n: int) -> None:
        together.wait(30)
        seen.append(get_current_span().get_span_context().span_id)
        together.wait(30)

    calculate = define(app, "calculate", body)
    runner = Runner(app, "worker:1")
    jobs = [job(seal(app, calculate.s(n))) for n in range(3)]
    threads = [threading.Thread(target=runner.run, args=(one, LocalReporter())) for one in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(seen) == sorted(span.context.span_id for span in spans.of("process calculate"))
    assert len(set(seen)) == 3


# --- without an SDK, and without a sample ------------------------------------------------------------------------


def test_without_an_sdk_a_message_is_as_it_was(app: App) -> None:
    calculate = define(app, "calculate", abs)
    sent = seal(app, calculate.s(7))
    assert b"trace" not in sent.workload
    work_off(app, sent)
    assert not get_current_span().get_span_context().is_valid


def test_a_worker_without_an_sdk_hands_the_trace_on(app: App) -> None:
    define(app, "calculate", abs)
    send = define(app, "send", abs)
    chain = [send.s().data("a" * 32).to_list()]
    trace_header = {"traceparent": f"00-{0xABC:032x}-{0xDEF:016x}-01", "tracestate": "vendor=1"}
    step = SignatureData("calculate", (7,), options={"headers": {"trace": trace_header}})
    first = app.publisher.seal(app.publisher.prepare(step, app.now(), chain))
    ending = Runner(app).run(job(first), LocalReporter())
    assert isinstance(ending, Ending)
    assert headers(ending.submissions[0])["trace"] == trace_header


def test_what_is_not_sampled_is_not_sampled_further_on(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    calculate = define(app, "calculate", abs)
    sent = seal(app, calculate.s(7))
    assert not int(headers(sent)["trace"]["traceparent"][-2:], 16) & 1
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", recording := TracerProvider(shutdown_on_exit=False))
    recording.add_span_processor(SimpleSpanProcessor(exporter))
    work_off(app, sent)
    assert exporter.get_finished_spans() == ()


def test_importing_gtask_starts_no_thread_and_loads_no_sdk() -> None:
    program = """
import sys, threading
from gtask import App
app = App("orders", results=None)
app.task(name="calculate")(abs)
app.publisher.seal(app.publisher.prepare(app.tasks["calculate"].s(7).data("a"), app.now()))
assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
assert not [name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
