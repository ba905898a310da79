"""A task: a Python callable with options, that can be called here or sent as a job. Design, section 2."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack, overload

from gtask.arguments import Arguments
from gtask.context import TaskContext
from gtask.errors import BadArguments
from gtask.message import Message, new_task_id
from gtask.options import CallOptions, Options

if TYPE_CHECKING:
    from gtask.app import App
    from gtask.canvas import Chain, Chunks, Group, GroupChain
    from gtask.result import AsyncResult
    from gtask.sendable import Canvas, Linkable, Sendable
    from gtask.signatures import Signature
    from gtask.streams import AsyncStream, Stream

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


def _listed(task: BaseTask[Any, Any], args: object) -> tuple[Any, ...] | list[Any]:
    """The `args` of a call; a text is none, though Python would take its characters one by one."""
    if not isinstance(args, tuple | list):
        raise BadArguments(
            f"A call of {task.name}: args={args!r:.80}; write a tuple or a list of the positional arguments, as "
            "apply_async((7,))."
        )
    return args


class BaseTask(Generic[P, R]):
    """What every task has: a name on the job server, options, and the ways to send it."""

    def __init__(self, app: App, name: str, options: Options, arguments: Arguments, codec: str | None = None) -> None:
        self.app = app
        self.name = name
        self.config = options
        self.arguments = arguments
        self.foreign_codec = codec
        """For a function in another language: how its arguments and its answer are written."""
        self.extra_options: Mapping[str, Any] = {}
        """The options that middleware brought along."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def __reduce__(self) -> str:
        # Pickled by its place in its module, as functions are: the other process imports it there.
        place: str | None = getattr(self, "__qualname__", None)
        if place is None or "<locals>" in place:
            raise TypeError(f"{self.name} cannot be pickled: it stands in no module. Send its name instead.")
        return place

    # --- background ------------------------------------------------------------------------------------------

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Sends the task as a background job and returns its handle (design, section 3).

        Raises `BadArguments` (a `TypeError`) when the arguments do not fit the function and its annotations,
        `EncodeError` when they cannot be sent, and `NetworkError` or `ServerError` when no job server took the job.
        """
        return self.app.send(self._step(args, kwargs))

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """`delay` for async code."""
        return await self.app.asend(self._step(args, kwargs))

    def apply_async(
        self,
        args: tuple[Any, ...] | list[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]:
        """Sends the task with options of this call (`CallOptions`); otherwise as `delay`."""
        return self.s(*_listed(self, args), **(kwargs or {})).set(**options).delay()

    async def aapply_async(
        self,
        args: tuple[Any, ...] | list[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]:
        """`apply_async` for async code."""
        return await self.s(*_listed(self, args), **(kwargs or {})).set(**options).adelay()

    # --- foreground ------------------------------------------------------------------------------------------

    def call(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs the task as a foreground job: the answer comes back on this connection, no store is needed.

        Raises what the task raised, `ResultTimeout` when `options(timeout=...)` is over, and otherwise as `delay`.
        """
        result: R = self.app.call(self._step(args, kwargs))
        return result

    async def acall(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """`call` for async code."""
        result: R = await self.app.acall(self._step(args, kwargs))
        return result

    # --- streams ---------------------------------------------------------------------------------------------

    def stream(self: BaseTask[P, list[S]], *args: P.args, **kwargs: P.kwargs) -> Stream[S]:
        """Runs a generator task as a foreground job and gives its items, each while the task still runs.

        Leave the loop, or the stream's `with` block, to end the generator early. The generator is at most
        `options(window=...)` items ahead of its reader. Raises `ConfigurationError` when the task is no generator,
        `StreamBroken` when its worker is lost on the way, and otherwise as `call` does.
        """
        return self.app.stream(self._step(args, kwargs))

    def astream(self: BaseTask[P, list[S]], *args: P.args, **kwargs: P.kwargs) -> AsyncStream[S]:
        """`stream` for async code: ``async for row in export.astream(2026)``."""
        return self.app.astream(self._step(args, kwargs))

    # --- signatures ------------------------------------------------------------------------------------------

    def s(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """A signature: this task with these arguments, to be sent later or chained with `|`.

        The arguments may be part of what the task takes: in a chain the result of the step before comes first. Raises
        `BadArguments` where no call with them would fit; the rest is checked when it is sent.
        """
        self.arguments.check_part(args, kwargs)
        return self.app.signature_of(self, args, kwargs, immutable=False)

    def si(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """An immutable signature: in a chain the result of the step before is not added."""
        self.arguments.check_part(args, kwargs)
        return self.app.signature_of(self, args, kwargs, immutable=True)

    def signature(
        self,
        args: tuple[Any, ...] | list[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        immutable: bool = False,
        **options: Unpack[CallOptions],
    ) -> Signature[R]:
        """A signature with its options."""
        made = self.si if immutable else self.s
        return made(*args, **(kwargs or {})).set(**options)

    def options(self, **options: Unpack[CallOptions]) -> BoundTask[P, R]:
        """This task with options of a call, with its parameters still checked: `task.options(timeout=5).call(7)`."""
        return BoundTask(self, options)

    @overload
    def __or__(self, other: Group[S] | GroupChain[S]) -> GroupChain[S]: ...
    @overload
    def __or__(self, other: BaseTask[Any, S] | Sendable[S]) -> Chain[S]: ...
    @overload
    def __or__(self, other: Linkable) -> Canvas: ...
    def __or__(self, other: Any) -> Any:
        return self.app.combine(self, other)

    def map(self, items: Iterable[Any] | None = None) -> Signature[list[R]]:
        """A signature that runs the task over a list inside one job, once for each item; its result is a list.

        Without `items` the list is the result of the step before. When an item fails the whole fails with its error,
        to which a note says which item it was.
        """
        return self.app.signature_over(self, "map", items)

    def starmap(self, items: Iterable[Sequence[Any]] | None = None) -> Signature[list[R]]:
        """As `map`, for items that are sequences of positional arguments: `add.starmap([(1, 2), (3, 4)])`."""
        return self.app.signature_over(self, "starmap", items)

    def chunks(self, items: Iterable[Sequence[Any]], size: int) -> Chunks[list[R]]:
        """A group of `starmap` jobs, each over `size` of the items: its result is a list of lists."""
        return self.app.chunks_of(self, items, size)

    def _step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Signature[R]:
        self.arguments.check(args, kwargs)
        return self.app.signature_of(self, args, kwargs, immutable=True)


class BoundTask(Generic[P, R]):
    """A task together with options of a call; made by `Task.options`."""

    def __init__(self, task: BaseTask[P, R], options: CallOptions) -> None:
        self.task = task
        self._options = options

    def _step(self, args: tuple[Any, ...], kwargs: dict[str, Any], immutable: bool = True) -> Signature[R]:
        return self.task.app.signature_of(self.task, args, kwargs, immutable).set(**self._options)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """As `Task.delay`."""
        self.task.arguments.check(args, kwargs)
        return self.task.app.send(self._step(args, kwargs))

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """As `Task.adelay`."""
        self.task.arguments.check(args, kwargs)
        return await self.task.app.asend(self._step(args, kwargs))

    def call(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """As `Task.call`."""
        self.task.arguments.check(args, kwargs)
        result: R = self.task.app.call(self._step(args, kwargs))
        return result

    async def acall(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """As `Task.acall`."""
        self.task.arguments.check(args, kwargs)
        result: R = await self.task.app.acall(self._step(args, kwargs))
        return result

    def stream(self: BoundTask[P, list[S]], *args: P.args, **kwargs: P.kwargs) -> Stream[S]:
        """As `Task.stream`."""
        self.task.arguments.check(args, kwargs)
        return self.task.app.stream(self._step(args, kwargs))

    def astream(self: BoundTask[P, list[S]], *args: P.args, **kwargs: P.kwargs) -> AsyncStream[S]:
        """As `Task.astream`."""
        self.task.arguments.check(args, kwargs)
        return self.task.app.astream(self._step(args, kwargs))

    def s(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """As `Task.s`, with these options."""
        self.task.arguments.check_part(args, kwargs)
        return self._step(args, kwargs, immutable=False)

    def si(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """As `Task.si`, with these options."""
        self.task.arguments.check_part(args, kwargs)
        return self._step(args, kwargs)


class Task(BaseTask[P, R]):
    """A task whose body is here: made by `@app.task`. Calling it is a plain local call of the function."""

    def __init__(self, app: App, name: str, options: Options, func: Callable[..., Any], bind: bool) -> None:
        typed = app.settings.check_arguments if options.check_arguments is None else options.check_arguments
        super().__init__(app, name, options, Arguments(func, name, bind, typed))
        self.func = func
        self.bind = bind
        self.is_async = any(
            is_it(func) or is_it(type(func).__call__)
            for is_it in (inspect.iscoroutinefunction, inspect.isasyncgenfunction)
        )
        self.streams = any(
            is_it(func) or is_it(type(func).__call__)
            for is_it in (inspect.isgeneratorfunction, inspect.isasyncgenfunction)
        )
        """Whether it yields items, which can be read as a stream."""
        # Without the function's own attributes, which could be called as those of a task.
        update_wrapper(self, func, updated=())

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls the function here and now; a bound one gets a context that reports to nobody."""
        if self.bind:
            message = Message(new_task_id(self.name, bytes(12)), self.name, args, kwargs, {"task": self.name})
            args = (TaskContext(self, message), *args)  # type: ignore[assignment]
        result: R = self.func(*args, **kwargs)
        return result


class AsyncTask(Task[P, R]):
    """A task whose body is a coroutine function: a local call gives the coroutine, `delay` and `call` its result."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
        """Calls the coroutine function here; await what it returns."""
        return super().__call__(*args, **kwargs)  # type: ignore[return-value]


class StreamTask(Task[P, list[S]]):
    """A task whose body is a generator function: a local call gives the generator, `call` and `delay` a list."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Iterator[S]:  # type: ignore[override]
        """Calls the generator function here."""
        return super().__call__(*args, **kwargs)  # type: ignore[return-value]


class AsyncStreamTask(Task[P, list[S]]):
    """A task whose body is an async generator function; otherwise as `StreamTask`."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[S]:  # type: ignore[override]
        """Calls the async generator function here."""
        return super().__call__(*args, **kwargs)  # type: ignore[return-value]


def kind_of(task: Task[..., Any]) -> type[Task[..., Any]]:
    """The class that says what a local call of the task's function gives."""
    if task.streams:
        return AsyncStreamTask if task.is_async else StreamTask
    return AsyncTask if task.is_async else Task


class FunctionTask(BaseTask[..., Any]):
    """A task that lives in a worker of another language; made by `app.function`. Design, section 5."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Not possible: the body is elsewhere. Raises `TypeError`."""
        raise TypeError(f"{self.name} lives in another worker; use {self.name}.call(...) or {self.name}.delay(...).")
