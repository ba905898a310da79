"""Signatures: a task with arguments and options as a value, to be sent or combined later. Design, section 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, Unpack

from gtask.arguments import COMING
from gtask.errors import BadArguments, ConfigurationError
from gtask.flows import MAX_NESTING
from gtask.message import CANVAS, SignatureData, check_task_id, new_task_id
from gtask.options import CALL_OPTIONS, CallOptions, Options, check_call, refuse_unknown
from gtask.sendable import Canvas, Linkable, Sendable, as_canvas, listed
from gtask.task import BaseTask, Task

if TYPE_CHECKING:
    from gtask.app import App
    from gtask.canvas import Group
    from gtask.streams import AsyncStream, Stream

R = TypeVar("R")
S = TypeVar("S")

LOCAL: Final = ("timeout", "background", "on_progress", "on_data", "on_warning", "task_id", "window", "resume")
"""Options of a call that stay with the caller."""

LINKS: Final = ("link", "link_error")

_DEFAULTS: Final = Options()


@dataclass(frozen=True, eq=False)
class Signature(Sendable[R]):
    """A task with arguments and options, not sent yet. Made by `Task.s` and its kin.

    `over` is "map" or "starmap" for one that runs over a list, once for each item (`Task.map`).
    """

    task: BaseTask[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = None  # type: ignore[assignment]
    options: Mapping[str, Any] = None  # type: ignore[assignment]
    immutable: bool = False
    over: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kwargs", dict(self.kwargs or {}))
        object.__setattr__(self, "options", dict(self.options or {}))

    def __repr__(self) -> str:
        arguments = [*map(repr, self.args), *(f"{key}={value!r}" for key, value in self.kwargs.items())]
        name = self.task.name if self.over is None else f"{self.task.name}.{self.over}"
        return f"{name}({', '.join(arguments)})"

    @property
    def app(self) -> App:
        """The App of its task."""
        return self.task.app

    @property
    def flow(self) -> tuple[Signature[Any], ...]:
        """Itself alone."""
        return (self,)

    @property
    def steps(self) -> tuple[Signature[Any], ...]:
        """Itself alone."""
        return (self,)

    def set(self, **options: Unpack[CallOptions]) -> Self:
        """A copy with options of the call added; raises `UnknownOption` for one that there is not."""
        refuse_unknown(options, CALL_OPTIONS, f"A call of {self.task.name}", "a call")
        check_call(self.task.name, options)
        if options.get("task_id") is not None:
            check_task_id(str(options["task_id"]))
        for name in ("link", "link_error"):
            for following in listed(options.get(name)):
                as_canvas(following).check_arguments(before=True)
        return replace(self, options={**self.options, **options})

    def _first(self, options: CallOptions) -> Self:
        return self.set(**options)

    def clone(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> Self:
        """A copy with more arguments: positional ones go in front, as the result of a step before would.

        An immutable one takes no more arguments: they are left out, as that result is.
        """
        copy = self
        if (args or kwargs) and not self.immutable:
            copy = replace(self, args=(*args, *self.args), kwargs={**self.kwargs, **(kwargs or {})})
        return copy.set(**options) if options else copy

    def link(self, following: Linkable) -> Self:
        """A copy after whose success `following` is sent too, with the result in front of its arguments."""
        return self._linked("link", following)

    def link_error(self, following: Linkable) -> Self:
        """See `Canvas.link_error`."""
        return self._linked("link_error", following)

    def _linked(self, name: str, following: Linkable) -> Self:
        linked = as_canvas(following)
        linked.check_arguments(before=True)
        return replace(self, options={**self.options, name: [*listed(self.options.get(name)), linked]})

    def call(self, *args: Any, **kwargs: Any) -> R:
        """Runs it as a foreground job, as `Task.call`."""
        result: R = self.app.call(self._whole(args, kwargs))
        return result

    async def acall(self, *args: Any, **kwargs: Any) -> R:
        """`call` for async code."""
        result: R = await self.app.acall(self._whole(args, kwargs))
        return result

    def stream(self: Signature[list[S]], *args: Any, **kwargs: Any) -> Stream[S]:
        """Runs it to read its items one by one, as `Task.stream`."""
        return self.app.stream(self._whole(args, kwargs))

    def astream(self: Signature[list[S]], *args: Any, **kwargs: Any) -> AsyncStream[S]:
        """`stream` for async code."""
        return self.app.astream(self._whole(args, kwargs))

    def _whole(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Self:
        whole = self.clone(args, kwargs)
        whole.check_arguments()
        return whole

    def check_arguments(self, before: bool = False) -> None:
        """See `Canvas.check_arguments`."""
        args: tuple[Any, ...] = (COMING, *self.args) if before and not self.immutable else self.args
        arguments = self.task.arguments
        if self.over is None:
            arguments.check(args, dict(self.kwargs))
            return
        if isinstance(self.task, Task) and self.task.streams:
            raise BadArguments(
                f"{self.task.name}.{self.over}(): a task that streams has no single result; use a group."
            )
        if len(args) != 1:
            raise BadArguments(f"{self.task.name}.{self.over}() takes one list, and here are {len(args)} arguments.")
        if args[0] is COMING:
            return
        for index, item in enumerate(args[0]):
            if self.over == "starmap" and not isinstance(item, list | tuple):
                raise BadArguments(
                    f"Item {index} of {self.task.name}.starmap() is {item!r:.80}; it is a list of positional arguments."
                )
            try:
                arguments.check(tuple(item) if self.over == "starmap" else (item,), dict(self.kwargs))
            except TypeError as error:
                raise BadArguments(f"Item {index} of {self.task.name}.{self.over}(): {error}") from error

    def data(self, task_id: str = "") -> SignatureData:
        """The plain values of it, as they travel; raises `ConfigurationError` for an option that cannot.

        What the task's own options say, and the worker that sends this step later need not know, goes along.
        """
        options = {**_known(self.task), **self.options}
        own = options.pop("task_id", None)
        for name in LOCAL:
            options.pop(name, None)
        for name in LINKS:
            if options.get(name):
                options[name] = [_link(one) for one in map(as_canvas, listed(options[name]))]
        if self.over is not None:
            if self.task.foreign_codec is not None:
                raise ConfigurationError(
                    f"{self.task.name} lives in a worker of another language, which runs it over no list: use a group."
                )
            options["over"] = self.over
        return SignatureData(
            task=self.task.name,
            args=self.args,
            kwargs=dict(self.kwargs),
            options=options,
            immutable=self.immutable,
            id=task_id or own or "",
            codec=self.task.foreign_codec,
        )

    def new_id(self) -> str:
        """The id this step will have: the one set by the option `task_id`, or a fresh one."""
        return str(self.options.get("task_id") or new_task_id(self.task.name, self.app.random_bytes(12)))

    def node(self, followed: bool, depth: int) -> Any:
        """It as a node of a flow (`gtask.flows`), with an id."""
        return self.data(self.new_id()).to_list()

    def _plain(self) -> dict[str, Any]:
        options = {name: value for name, value in self.options.items() if value is not None}
        for name in LINKS:
            if options.get(name):
                options[name] = [as_canvas(one)._plain() for one in listed(options[name])]
        if "priority" in options:
            options["priority"] = str(options["priority"])
        plain = {
            "task": self.task.name,
            "args": list(self.args),
            "kwargs": dict(self.kwargs),
            "options": options,
            "immutable": self.immutable,
        }
        return plain if self.over is None else {**plain, "over": self.over}


def _known(task: BaseTask[..., Any]) -> dict[str, Any]:
    """The options of a task that whoever sends it has to know, where they are not the defaults."""
    config = task.config
    found: dict[str, Any] = {}
    if config.priority is not _DEFAULTS.priority:
        found["priority"] = str(config.priority)
    if config.expires is not None:
        found["expires"] = config.expires
    if config.ignore_result or task.app.settings.ignore_result:
        found["ignore_result"] = True
    if task.foreign_codec is not None and config.retry.max_retries != _DEFAULTS.retry.max_retries:
        found["max_retries"] = config.retry.max_retries
    return found


def lay_out(flow: Sequence[Signature[Any] | Group[Any]], followed: bool = False, depth: int = 0) -> list[Any]:
    """A flow as plain nodes (`gtask.flows`) with fresh ids; `followed` when something follows the group it is in."""
    if depth > MAX_NESTING:
        raise ConfigurationError(f"Groups can be nested {MAX_NESTING} deep; build a flatter canvas.")
    last = len(flow) - 1
    nodes = [node.node(followed or index < last, depth) for index, node in enumerate(flow)]
    for index, node in enumerate(flow):
        delayed = isinstance(node, Signature) and (node.options.get("countdown") or node.options.get("eta"))
        if delayed and index and not isinstance(flow[index - 1], Signature):
            raise ConfigurationError("The body of a chord runs when its members have; it takes no countdown or eta.")
    if followed and not isinstance(flow[last], Signature):
        nodes.append(identity(flow[last].app).set(ignore_result=True).node(True, depth))
    return nodes


def identity(app: App) -> Signature[Any]:
    """A signature of the built-in task that returns its argument, on every gtask worker (`gtask.flows`)."""
    return Signature(app.task_named(CANVAS))


def _link(following: Canvas) -> Any:
    nodes = lay_out(following.flow)
    return nodes[0] if len(nodes) == 1 else nodes
