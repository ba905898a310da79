"""Tracing and metrics through the OpenTelemetry API, by its conventions for messaging. Design, sections 5 and 8.

* A *producer* span stands around the sending of a message, which carries its context in the header `trace`.
* A *consumer* span stands around the run, as the child of what the message carries; it is the current span while the
  task's body runs. Retries and the next steps of a chain are published inside of it, so a whole chain is one trace.

Without an SDK nothing is recorded and no header is added, but a context that a message brought along is handed on: a
worker without an SDK does not tear a trace apart. Nothing here starts a thread, and whether there is an SDK is looked
at with each call, so one may be set up at any time: in a process of a worker, after the fork.

The API is all that gtask needs; no other file imports it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Any, Final

from opentelemetry.context import Context, attach, detach
from opentelemetry.metrics import Histogram, Meter, MeterProvider, get_meter_provider
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    TracerProvider,
    get_current_span,
    get_tracer_provider,
    set_span_in_context,
)

from gtask.context import TaskContext, current_task
from gtask.failures import cut, type_name
from gtask.message import Message
from gtask.middleware.base import Middleware, Next
from gtask.states import ErrorInfo, Outcome, State
from gtask.types import Server

# --- names: those of the conventions, version 1.37, then gtask's own ---------------------------------------------

SCHEMA: Final = "https://opentelemetry.io/schemas/1.37.0"

SYSTEM: Final = "messaging.system"
DESTINATION: Final = "messaging.destination.name"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGE_ID: Final = "messaging.message.id"
CLIENT_ID: Final = "messaging.client.id"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"
EXCEPTION: Final = "exception"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"

TASK: Final = "gtask.task"
STATE: Final = "gtask.state"
RETRIES: Final = "gtask.retries"
ROOT_ID: Final = "gtask.root_id"
PARENT_ID: Final = "gtask.parent_id"
ETA: Final = "gtask.eta"  # Unix seconds
RETRY_DELAY: Final = "gtask.retry.delay"  # seconds

SEND: Final = "send"
CALL: Final = "call"
PROCESS: Final = "process"

OPERATION_DURATION: Final = "messaging.client.operation.duration"
PROCESS_DURATION: Final = "messaging.process.duration"
QUEUE_DURATION: Final = "gtask.queue.duration"
TASKS: Final = "gtask.tasks"
SKIPPED: Final = "gtask.tasks.skipped"
REFUSED: Final = "REFUSED"  # in place of a state, for what was never run

EVENTS: Final = {State.FAILURE: EXCEPTION, State.RETRY: "gtask.retry", State.REVOKED: "gtask.revoked"}
"""The event that says why a run led to a state."""

BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
QUEUE_BUCKETS: Final = (0.001, 0.0025, *BUCKETS, 30.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0)

MAX_ENTRIES: Final = 32
MAX_ENTRY: Final = 1000
"""Entries of the header `trace`, and characters of each, that a worker takes (`gtask.message`)."""

_Server = Mapping[str, str | int]

MAX_TEXT: Final = 2000
"""Characters of an error's message in a span."""


class Tracing(Middleware):
    """Records what is sent and what is run, where an OpenTelemetry SDK is set up.

    `servers` says which job servers the App uses. Where there is only one, spans and metrics name it; of several
    nobody knows beforehand which one takes a message.
    """

    def __init__(self, servers: Callable[[], Sequence[Server]] = tuple) -> None:
        self._servers = servers

    def publishing(self, message: Message) -> AbstractContextManager[Message]:
        """Opens the producer span and writes its context into the message.

        It is not made the current span: a group opens many of them at once, which are not each other's children.
        """
        tracer, instruments = _tracer(), _instruments()
        if tracer is None and instruments is None:
            span = get_current_span()
            if span.get_span_context().is_valid:
                _inject(message)
            return nullcontext(message)
        return _Sending(message, tracer, instruments, _server(self._servers()))

    async def executing(self, call_next: Next, context: TaskContext) -> Outcome:
        """Runs inside the consumer span."""
        tracer, instruments = _tracer(), _instruments()
        carrier = context.message.headers.get("trace")
        if tracer is None and instruments is None and not carrier:
            return await call_next(context)
        # A fresh context: what was current in this thread or loop has nothing to do with the job.
        surroundings = extract(carrier, Context()) if carrier else Context()
        span, server = None, _server(self._servers())
        if tracer is not None:
            span = _start_run(tracer, context, surroundings, server)
            surroundings = set_span_in_context(span, surroundings)
        if instruments is not None and context.completed is None:
            instruments.waited(context)
        token = attach(surroundings)
        started = time.perf_counter()
        state, error = State.FAILURE, ""
        try:
            outcome = await call_next(context)
            state = outcome.state
            if state is State.FAILURE:
                error = _error_type(outcome.error)
            if span is not None and span.is_recording():
                _describe(span, outcome)
        except BaseException as broken:
            # A middleware's own error, or the end of the process: nobody made an outcome of it.
            error = type_name(type(broken))
            if span is not None:
                _record(span, broken)
            raise
        finally:
            detach(token)
            if span is not None:
                span.end()
            if instruments is not None and context.completed is not None:
                instruments.skipped(context)
            elif instruments is not None:
                instruments.ran(context, state, error, time.perf_counter() - started, server)
        return outcome

    def refused(self, function: str, error: Exception) -> None:
        """Counts a job that is not run."""
        if (instruments := _instruments()) is not None:
            instruments.refused(function, error)


class _Sending(AbstractContextManager[Message]):
    """The producer span of one message, and the measurement of its sending."""

    __slots__ = ("_instruments", "_message", "_operation", "_server", "_span", "_started", "_tracer")

    def __init__(
        self, message: Message, tracer: Tracer | None, instruments: _Instruments | None, server: _Server
    ) -> None:
        self._message = message
        self._tracer = tracer
        self._instruments = instruments
        self._server = server
        self._operation = CALL if message.headers.get("fg") else SEND
        self._span: Span | None = None
        self._started = 0.0

    def __enter__(self) -> Message:
        self._started = time.perf_counter()
        if self._tracer is None:
            if get_current_span().get_span_context().is_valid:
                _inject(self._message)
            return self._message
        span = self._span = self._start(self._tracer)
        # Also that of a span that is not sampled: its decision holds for the whole trace.
        if span.get_span_context().is_valid:
            _inject(self._message, set_span_in_context(span))
        return self._message

    def _start(self, tracer: Tracer) -> Span:
        message, headers = self._message, self._message.headers
        running = current_task()
        attributes: dict[str, Any] = {
            SYSTEM: "gearman",
            DESTINATION: message.task,
            OPERATION_NAME: self._operation,
            OPERATION_TYPE: SEND,
            RETRIES: int(headers.get("retries", 0)),
            **self._server,
        }
        if "eta" in headers:
            attributes[ETA] = headers["eta"]
        _add_ids(attributes, message, (running.worker if running is not None else "") or headers.get("origin"))
        return tracer.start_span(f"{self._operation} {message.task}", None, SpanKind.PRODUCER, attributes)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._span is not None:
            if error is not None:
                _record(self._span, error)
            self._span.end()
        if self._instruments is not None:
            seconds = time.perf_counter() - self._started
            name = "" if error is None else type_name(type(error))
            self._instruments.sent(self._message.task, self._operation, name, seconds, self._server)


# --- spans -------------------------------------------------------------------------------------------------------


def _start_run(tracer: Tracer, context: TaskContext, surroundings: Context, server: _Server) -> Span:
    task = context.message.task
    attributes: dict[str, Any] = {SYSTEM: "gearman", DESTINATION: task, RETRIES: context.retries, **server}
    attributes[OPERATION_NAME] = attributes[OPERATION_TYPE] = PROCESS
    _add_ids(attributes, context.message, context.worker)
    return tracer.start_span(f"{PROCESS} {task}", surroundings, SpanKind.CONSUMER, attributes)


def _server(servers: Sequence[Server]) -> _Server:
    return {SERVER_ADDRESS: servers[0].host, SERVER_PORT: servers[0].port} if len(servers) == 1 else {}


def _add_ids(attributes: dict[str, Any], message: Message, client: str | None) -> None:
    headers = message.headers
    if client:
        attributes[CLIENT_ID] = client
    if message.id:
        attributes[MESSAGE_ID] = message.id
        attributes[ROOT_ID] = str(headers.get("root") or message.id)
    if headers.get("parent"):
        attributes[PARENT_ID] = str(headers["parent"])


def _inject(message: Message, context: Context | None = None) -> None:
    """Writes a context into the message, the current one by default; leaves out what a worker would refuse."""
    carrier: dict[str, Any] = {}
    inject(carrier, context)
    entries = [(key, value) for key, value in carrier.items() if _fits(key) and _fits(value)]
    if entries:
        message.headers["trace"] = dict(entries[:MAX_ENTRIES])


def _fits(text: Any) -> bool:
    return isinstance(text, str) and len(text) <= MAX_ENTRY


def _describe(span: Span, outcome: Outcome) -> None:
    span.set_attribute(STATE, str(outcome.state))
    event = EVENTS.get(outcome.state)
    if event is None:
        return
    error = outcome.error or ErrorInfo("")
    message = cut(error.message, MAX_TEXT)
    attributes: dict[str, Any] = {EXCEPTION_TYPE: error.type, EXCEPTION_MESSAGE: message}
    if outcome.state is State.RETRY:
        attributes[RETRY_DELAY] = float(outcome.delay)
    if error.traceback and outcome.state is not State.REVOKED:
        attributes[EXCEPTION_STACKTRACE] = error.traceback
    span.add_event(event, attributes)
    if outcome.state is State.FAILURE:
        span.set_attribute(ERROR_TYPE, _error_type(error))
        span.set_status(Status(StatusCode.ERROR, f"{error.type}: {message}"))


def _record(span: Span, error: BaseException) -> None:
    if span.is_recording():
        name = type_name(type(error))
        span.record_exception(error)
        span.set_attribute(ERROR_TYPE, name)
        span.set_status(Status(StatusCode.ERROR, cut(f"{name}: {error}", MAX_TEXT)))


def _error_type(error: ErrorInfo | None) -> str:
    """A failure's `error.type`; `_OTHER` for one that came from a foreign worker without a name to group by."""
    name = "" if error is None else error.type
    return name if len(name) <= 200 and name.replace(".", "").isidentifier() else "_OTHER"


# --- metrics -----------------------------------------------------------------------------------------------------


class _Instruments:
    """gtask's metrics, made by one meter."""

    def __init__(self, meter: Meter) -> None:
        self._operation = _histogram(meter, OPERATION_DURATION, "Duration of sending a message.", BUCKETS)
        self._process = _histogram(meter, PROCESS_DURATION, "Duration of a run of a task.", BUCKETS)
        self._queue = _histogram(
            meter, QUEUE_DURATION, "Time between when a task was to run, or was sent, and its start.", QUEUE_BUCKETS
        )
        self._tasks = meter.create_counter(TASKS, "{task}", "Runs of tasks, by task and by the state they led to.")
        self._skipped = meter.create_counter(SKIPPED, "{task}", "Jobs not run again: their tasks had ended before.")

    def sent(self, task: str, operation: str, error: str, seconds: float, server: _Server) -> None:
        """A message was sent, or could not be."""
        attributes = {SYSTEM: "gearman", DESTINATION: task, OPERATION_NAME: operation, OPERATION_TYPE: SEND, **server}
        if error:
            attributes[ERROR_TYPE] = error
        self._operation.record(seconds, attributes)

    def waited(self, context: TaskContext) -> None:
        """A run starts."""
        headers = context.message.headers
        due = headers.get("sent")
        if due is None or context.attempt:
            return  # a foreign caller, who does not say when; or a foreground retry, which has not waited in a queue
        due = max(due, headers.get("eta", due))
        # Between two hosts the clocks may disagree by more than the job has waited.
        self._queue.record(max(0.0, context.task.app.now() - due), {TASK: context.message.task})

    def refused(self, function: str, error: Exception) -> None:
        """A job cannot be decoded, or its signature is wrong."""
        self._tasks.add(1, {TASK: function, STATE: REFUSED, ERROR_TYPE: type_name(type(error))})

    def skipped(self, context: TaskContext) -> None:
        """A job was ended without a run, since its task had ended before."""
        self._skipped.add(1, {TASK: context.message.task})

    def ran(self, context: TaskContext, state: State, error: str, seconds: float, server: _Server) -> None:
        """A run is over."""
        task = context.message.task
        attributes = {SYSTEM: "gearman", DESTINATION: task, OPERATION_NAME: PROCESS, **server}
        if error:
            attributes[ERROR_TYPE] = error
        self._process.record(seconds, attributes)
        self._tasks.add(1, {TASK: task, STATE: str(state)})


def _histogram(meter: Meter, name: str, description: str, buckets: Sequence[float]) -> Histogram:
    try:
        return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=buckets)
    except TypeError:  # an API before 1.30, which takes no advice
        return meter.create_histogram(name, "s", description)


# --- the SDK, if there is one ------------------------------------------------------------------------------------


def _tracer() -> Tracer | None:
    if _named or _trace.get("_TRACER_PROVIDER", True) is not None:
        provider = get_tracer_provider()
        return _tracer_of(provider) if _records(type(provider)) else None
    return None


def _instruments() -> _Instruments | None:
    if _named or _metrics.get("_METER_PROVIDER", True) is not None:
        provider = get_meter_provider()
        return _instruments_of(provider) if _records(type(provider)) else None
    return None


# While there is no provider, the API looks for the name of one in the environment at each question: a tenth of all that
# an empty task costs. So that is read once, and then the API's own variables are; where they are not, it is asked.
_trace, _metrics = get_tracer_provider.__globals__, get_meter_provider.__globals__
_named = not os.environ.keys().isdisjoint(("OTEL_PYTHON_TRACER_PROVIDER", "OTEL_PYTHON_METER_PROVIDER"))


@lru_cache(maxsize=8)
def _records(kind: type) -> bool:
    """Whether a provider is more than the API's own, which stand in for an SDK and do nothing."""
    return not kind.__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))


@lru_cache(maxsize=2)
def _tracer_of(provider: TracerProvider) -> Tracer:
    return provider.get_tracer("gtask", _version(), SCHEMA)


@lru_cache(maxsize=2)
def _instruments_of(provider: MeterProvider) -> _Instruments:
    return _Instruments(provider.get_meter("gtask", _version(), SCHEMA))


def _version() -> str:
    try:
        return version("gtask")
    except PackageNotFoundError:  # run from its sources
        return ""
