"""The App: a registry of tasks, and the clients and the store that calls of them need. Design, section 2.

There is no global App. Tasks hold theirs, and everything else reaches it through them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, ParamSpec, Self, TypeVar, Unpack, overload

from gtask.arguments import Arguments
from gtask.canvas import Chunks, chunks, combine
from gtask.decorators import BoundDecorator, Decorator
from gtask.errors import ConfigurationError, DuplicateTask, UnknownTask
from gtask.letters import SUFFIX
from gtask.message import new_task_id
from gtask.middleware import default_middleware
from gtask.middleware.base import Middleware, Stack
from gtask.options import CallOptions, Codec, Options, check_name
from gtask.plain import from_plain
from gtask.publish import Publisher
from gtask.result import AsyncResult as Handle
from gtask.results import open_store
from gtask.results.base import ResultStore
from gtask.results.checks import check_handle
from gtask.sendable import Canvas
from gtask.sending import AsyncSender, Sender
from gtask.settings import Settings, SettingsDict
from gtask.signatures import Signature
from gtask.states import State
from gtask.streams import AsyncStream, Stream
from gtask.task import AsyncStreamTask, AsyncTask, BaseTask, FunctionTask, StreamTask, Task, kind_of
from gtask.types import JobStatus, Server, parse_servers

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Hook = TypeVar("Hook", bound=Callable[[], object])

RESERVED = "gtask."
"""Functions whose names start so are gtask's own on the job server."""


class App:
    """A set of tasks on some job servers.

    `servers` are addresses such as ``gearman://host:port`` (``gearmans://`` for TLS), by default ``$GTASK_SERVERS``
    and else 127.0.0.1:4730. `results` is where results are kept: a store's URL, a `ResultStore`, or None for nowhere.
    `middleware` stands around gtask's own, the first outermost. The other settings are those of `Settings`; each can
    also be given as a variable ``GTASK_<NAME>``. Raises `UnknownOption` for a setting there is not.

    Nothing is connected until a task is sent. One App serves any number of threads and, after a fork, processes.
    """

    def __init__(
        self,
        name: str,
        servers: str | Server | Iterable[str | Server] | None = None,
        results: str | ResultStore | None = "gearman://",
        *,
        middleware: Sequence[Middleware] = (),
        **settings: Unpack[SettingsDict],
    ) -> None:
        self.name = name
        self.servers = parse_servers(servers)
        self.settings = Settings.of(name, settings)
        self.middleware = Stack([*middleware, *default_middleware(lambda: self.servers)])
        self.tasks: dict[str, BaseTask[..., Any]] = {}
        self.worker_start_hooks: list[Callable[[], object]] = []
        self.worker_stop_hooks: list[Callable[[], object]] = []
        # Looked at now, so that a wrong URL is found here; opened when it is needed, on the servers there are then.
        open_store(results, self.servers, self.settings.tls)
        self._results = results
        self._store: ResultStore | None = None
        self._lock = threading.Lock()
        self._sender = Sender(self)
        self._async_sender = AsyncSender(self)
        self.publisher = Publisher(self, self.settings, self.middleware, results is not None)

    def __repr__(self) -> str:
        return f"<App {self.name}, {len(self.tasks)} tasks, {', '.join(map(str, self.servers))}>"

    # --- tasks -----------------------------------------------------------------------------------------------

    @overload
    def task(self, func: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def task(self, func: Callable[P, AsyncIterator[T]], /) -> AsyncStreamTask[P, T]: ...
    @overload
    def task(self, func: Callable[P, Iterator[T]], /) -> StreamTask[P, T]: ...
    @overload
    def task(self, func: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, *, bind: Literal[True], **options: Any) -> BoundDecorator: ...
    @overload
    def task(self, *, bind: Literal[False] = False, **options: Any) -> Decorator: ...
    def task(self, *funcs: Any, bind: bool = False, **options: Any) -> Any:
        """Makes a task of a function: ``@app.task`` or ``@app.task(max_retries=5, ...)`` with `TaskOptions`.

        The task's name is the function's own, behind the App's `namespace`. With ``bind=True`` the function's first
        parameter is its `TaskContext`. Raises `UnknownOption` (with the nearest name), `DuplicateTask` and
        `ConfigurationError` where the function is defined, not where it is called.
        """
        if funcs:
            return self._register(funcs[0], options, bind)
        return lambda func: self._register(func, options, bind)

    def _register(self, func: Callable[..., Any], given: dict[str, Any], bind: bool) -> Task[..., Any]:
        if isinstance(func, BaseTask):
            raise ConfigurationError(f"{func.name} is a task already; write @app.task once.")
        if not callable(func):
            raise ConfigurationError(f"{func!r} is no function; write @app.task above a def, or @app.task(option=...).")
        options = dict(given)
        name = self._name(options.pop("name", None) or getattr(func, "__name__", ""), options)
        extra = frozenset(key for middleware in self.middleware.all for key in middleware.options)
        config = Options.of(name, options, extra)
        made: Task[..., Any] = Task(self, name, config, func, bind)
        if made.is_async or made.streams:
            made = kind_of(made)(self, name, config, func, bind)
        made.extra_options = {key: value for key, value in options.items() if key in extra}
        self.tasks[name] = made
        return made

    def function(self, name: str, codec: Codec = "json", **options: Any) -> FunctionTask:
        """A task that lives in a worker of another language, under its name on the job server (design, section 5).

        `codec` says how its argument and its answer are written: "json", "text" or "raw". It can be called, delayed
        and chained as any other; the App's namespace is not put in front.
        """
        if codec not in ("json", "text", "raw"):
            raise ConfigurationError(f"codec={codec!r}: a function in another language takes 'json', 'text' or 'raw'.")
        given: dict[str, Any] = dict(options)
        given.setdefault("namespace", "")
        name = self._name(name, given)
        config = Options.of(name, given)
        if config.is_limited:
            raise ConfigurationError(
                f"Task {name!r} lives in a worker of another language, and limits are kept by the worker that runs the "
                "task: leave out rate_limit and max_concurrency."
            )
        made = FunctionTask(self, name, config, Arguments(None, name), codec)
        self.tasks[name] = made
        return made

    def _name(self, own: str, options: dict[str, Any]) -> str:
        namespace = options.pop("namespace", None)
        name = check_name((self.settings.namespace if namespace is None else namespace) + own)
        if name.startswith(RESERVED):
            raise ConfigurationError(f"{name!r}: names that start with 'gtask.' are gtask's own; choose another.")
        if name.endswith(SUFFIX):
            raise ConfigurationError(f"{name!r}: names that end in '{SUFFIX}' hold dead letters; choose another.")
        if name in self.tasks:
            raise DuplicateTask(f"App {self.name!r} has a task {name!r} already; give one of them name='...'.")
        return name

    def on_worker_start(self, func: Hook) -> Hook:
        """Registers a function to be called in each process of a worker when it begins, after the fork.

        For what must not be shared by processes: telemetry exporters, connection pools. Use it as a decorator.
        """
        self.worker_start_hooks.append(func)
        return func

    def on_worker_stop(self, func: Hook) -> Hook:
        """Registers a function to be called in each process of a worker when it ends in order; as a decorator."""
        self.worker_stop_hooks.append(func)
        return func

    def local_task(self, name: str) -> Task[..., Any]:
        """The task of this name whose body is in this App; raises `UnknownTask`."""
        task = self.tasks.get(name)
        if not isinstance(task, Task):
            raise UnknownTask(
                f"App {self.name!r} has no task {name!r}; it has {', '.join(sorted(self.tasks)) or 'none'}."
            )
        return task

    def options_of(self, name: str) -> tuple[Options, str | None]:
        """The options of a task and, for a function in another language, its codec; defaults for an unknown name."""
        task = self.tasks.get(name)
        return (Options(), None) if task is None else (task.config, task.foreign_codec)

    def throws_of(self, name: str | None) -> tuple[type[BaseException], ...]:
        """The exception classes that a task's failures may be rebuilt as, besides those that are always allowed."""
        task = self.tasks.get(name or "")
        return () if task is None else (*task.config.throws, *task.config.retry.autoretry_for)

    def returns_of(self, name: str | None) -> Any:
        """The annotation of a task's result, `Any` where it is not known."""
        task = self.tasks.get(name or "")
        return Any if task is None else task.arguments.returns

    def task_named(self, name: str) -> BaseTask[..., Any]:
        """The task of this name, or one of which no more than its name is known: its code need not be here."""
        return self.tasks.get(name) or BaseTask(self, check_name(name), Options(), Arguments(None, name))

    # --- canvas ----------------------------------------------------------------------------------------------

    @overload
    def signature(
        self,
        task: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        immutable: bool = False,
        **options: Unpack[CallOptions],
    ) -> Signature[Any]: ...
    @overload
    def signature(self, task: Mapping[str, Any] | Canvas) -> Canvas: ...
    def signature(
        self,
        task: str | Mapping[str, Any] | Canvas,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        immutable: bool = False,
        **options: Unpack[CallOptions],
    ) -> Any:
        """A signature of a task by its name, whose code need not be here; or a canvas anew from ``dict(canvas)``."""
        if isinstance(task, str):
            named = self.task_named(task)
            named.arguments.check_part(tuple(args), dict(kwargs or {}))
            made: Signature[Any] = Signature(named, tuple(args), kwargs or {}, {}, immutable)
            return made.set(**options) if options else made
        return task if isinstance(task, Canvas) else from_plain(self, task)

    def signature_of(
        self, task: BaseTask[..., R], args: tuple[Any, ...], kwargs: Mapping[str, Any], immutable: bool
    ) -> Signature[R]:
        """A signature of one of this App's tasks; `task.s(...)` is the way to write it."""
        return Signature(task, args, kwargs, {}, immutable)

    def signature_over(self, task: BaseTask[..., R], kind: str, items: Iterable[Any] | None) -> Signature[list[R]]:
        """A signature of a task that runs over a list; `task.map(...)` is the way to write it."""
        if items is not None and not isinstance(items, Iterable):
            raise TypeError(f"{task.name}.{kind}() takes a list; {items!r:.80} is none.")
        # One that has its list takes no result before it.
        args = () if items is None else (list(items),)
        made: Signature[Any] = Signature(task, args, {}, {}, items is not None, kind)
        return made

    def chunks_of(self, task: BaseTask[..., R], items: Iterable[Sequence[Any]], size: int) -> Chunks[list[R]]:
        """A group of parts of a list; `task.chunks(...)` is the way to write it."""
        return chunks(task, items, size)

    def combine(self, first: Any, second: Any) -> Any:
        """What ``first | second`` is."""
        return combine(first, second)

    # --- sending ---------------------------------------------------------------------------------------------

    def send_task(
        self,
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Handle[Any]:
        """Sends a task by its name alone, as a background job: its code need not be here."""
        handle: Handle[Any] = self.send_canvas(self.signature(name, args, kwargs, **options))
        return handle

    async def asend_task(
        self,
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Handle[Any]:
        """`send_task` for async code."""
        handle: Handle[Any] = await self.asend_canvas(self.signature(name, args, kwargs, **options))
        return handle

    def send(self, step: Signature[R]) -> Handle[R]:
        """Sends one signature as a background job; `delay` is the way to write it."""
        return self._sender.send(step)

    def send_canvas(self, canvas: Canvas) -> Any:
        """Sends a chain, a group or a chord, and returns its handle; `delay` is the way to write it."""
        return self._sender.send_canvas(canvas)

    async def asend_canvas(self, canvas: Canvas) -> Any:
        """`send_canvas` for async code."""
        return await self._async_sender.send_canvas(canvas)

    def call(self, step: Signature[Any]) -> Any:
        """Runs one signature as a foreground job and returns its answer; `Task.call` is the way to write it."""
        return self._sender.call(step)

    async def asend(self, step: Signature[R]) -> Handle[R]:
        """`send` for async code."""
        return await self._async_sender.send(step)

    def stream(self, step: Signature[Any]) -> Stream[Any]:
        """Runs one signature of a generator task, to read its items one by one; written `Task.stream`."""
        return self._sender.stream(step)

    def astream(self, step: Signature[Any]) -> AsyncStream[Any]:
        """`stream` for async code."""
        return self._async_sender.stream(step)

    async def acall(self, step: Signature[Any]) -> Any:
        """`call` for async code."""
        return await self._async_sender.call(step)

    # --- results ---------------------------------------------------------------------------------------------

    @property
    def store(self) -> ResultStore | None:
        """The result store, opened when it is first needed; None for an App without one."""
        if self._store is None and self._results is not None:
            with self._lock:
                if self._store is None:
                    store = (
                        self._results
                        if isinstance(self._results, ResultStore)
                        else open_store(self._results, self.servers, self.settings.tls)
                    )
                    if store is not None and store.keys is None:
                        store.keys = self.settings.signing_keys
                    self._store = store
        return self._store

    def AsyncResult(self, task_id: str, task: str | None = None) -> Handle[Any]:
        """The handle of a task sent by anybody, from its id; with the task's name its result is typed again.

        Raises `ConfigurationError` for what is no id.
        """
        check_handle(task_id)
        return Handle(self, task_id, task)

    def state_on_servers(self, task_id: str, timeout: float | None = None, certain: bool = False) -> State:
        """What the job servers know of a task: STARTED, PENDING or UNKNOWN.

        They have `timeout` seconds to answer. Raises a `NetworkError` when none of them does; with `certain` also when
        one of them does not, since it might know the task.
        """
        return self._sender.state(task_id, timeout, certain)

    async def astate_on_servers(self, task_id: str, timeout: float | None = None, certain: bool = False) -> State:
        """`state_on_servers` for async code."""
        return await self._async_sender.state(task_id, timeout, certain)

    def jobs_on_servers(self, task_id: str) -> list[JobStatus]:
        """What the job servers know of the jobs of a task; `AsyncResult.progress` is the way to read it."""
        return self._sender.statuses(task_id)

    async def ajobs_on_servers(self, task_id: str) -> list[JobStatus]:
        """`jobs_on_servers` for async code."""
        return await self._async_sender.statuses(task_id)

    # --- life ------------------------------------------------------------------------------------------------

    def random_bytes(self, count: int) -> bytes:
        """Chance for ids."""
        return os.urandom(count)

    def new_id(self, task: str) -> str:
        """A fresh id for a task of this name."""
        return new_task_id(task, self.random_bytes(12))

    def now(self) -> float:
        """Unix time in seconds."""
        return time.time()

    def close(self) -> None:
        """Closes the connections of the blocking face and the store; they open again when they are needed."""
        self._sender.close()
        if self._store is not None:
            self._store.close()

    async def aclose(self) -> None:
        """Closes the connections of this event loop, and those of the store."""
        await self._async_sender.close()
        if self._store is not None:
            await self._store.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
