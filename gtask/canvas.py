"""Signatures, chains and groups: calls as values, to be combined and sent later. Design, section 2.

All of them are frozen: what looks like a change gives a new one. They hold their App through their tasks, so there
is no global one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack, cast, overload

from gtask.errors import ConfigurationError
from gtask.message import SignatureData, check_task_id, new_task_id
from gtask.options import CALL_OPTIONS, CallOptions, check_call, refuse_unknown
from gtask.task import BaseTask

if TYPE_CHECKING:
    from gtask.app import App
    from gtask.group_result import GroupResult
    from gtask.result import AsyncResult

R = TypeVar("R")
S = TypeVar("S")


class Sendable(Generic[R]):
    """What can be sent as background jobs: a signature or a chain of them."""

    @property
    def app(self) -> App:
        """The App of its tasks."""
        raise NotImplementedError

    @property
    def steps(self) -> tuple[Signature[Any], ...]:
        """The signatures in the order in which they run."""
        raise NotImplementedError

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult[R]:
        """Sends it, the arguments in front of those of its first step; returns the handle of its last."""
        return self.app.send_steps(self._with(args, kwargs))

    async def adelay(self, *args: Any, **kwargs: Any) -> AsyncResult[R]:
        """`delay` for async code."""
        return await self.app.asend_steps(self._with(args, kwargs))

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> AsyncResult[R]:
        """As `delay`, with options for its first step."""
        first, *rest = self._with(tuple(args), dict(kwargs or {}))
        return self.app.send_steps([first.set(**options), *rest])

    async def aapply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> AsyncResult[R]:
        """`apply_async` for async code."""
        first, *rest = self._with(tuple(args), dict(kwargs or {}))
        return await self.app.asend_steps([first.set(**options), *rest])

    def _with(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Signature[Any]]:
        first, *rest = self.steps
        if args or kwargs:
            first = first.clone(args, kwargs)
        first.task.arguments.check(first.args, dict(first.kwargs))
        return [first, *rest]


@dataclass(frozen=True, eq=False)
class Signature(Sendable[R]):
    """A task with arguments and options, not sent yet. Made by `Task.s` and its kin."""

    task: BaseTask[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = None  # type: ignore[assignment]
    options: Mapping[str, Any] = None  # type: ignore[assignment]
    immutable: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "kwargs", dict(self.kwargs or {}))
        object.__setattr__(self, "options", dict(self.options or {}))

    def __repr__(self) -> str:
        arguments = [*map(repr, self.args), *(f"{key}={value!r}" for key, value in self.kwargs.items())]
        return f"{self.task.name}({', '.join(arguments)})"

    @property
    def app(self) -> App:
        """The App of its task."""
        return self.task.app

    @property
    def steps(self) -> tuple[Signature[Any], ...]:
        """Itself alone."""
        return (self,)

    def set(self, **options: Unpack[CallOptions]) -> Signature[R]:
        """A copy with options of the call added; raises `UnknownOption` for one that there is not."""
        refuse_unknown(options, CALL_OPTIONS, f"A call of {self.task.name}", "a call")
        check_call(self.task.name, options)
        if options.get("task_id") is not None:
            check_task_id(str(options["task_id"]))
        return replace(self, options={**self.options, **options})

    def clone(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> Signature[R]:
        """A copy with more arguments: positional ones go in front, as the result of a step before would."""
        copy = replace(self, args=(*args, *self.args), kwargs={**self.kwargs, **(kwargs or {})})
        return copy.set(**options) if options else copy

    def link(self, following: Signature[Any]) -> Signature[R]:
        """A copy after whose success `following` is sent too, with the result in front of its arguments."""
        links = [*_listed(self.options.get("link")), as_signature(following)]
        return replace(self, options={**self.options, "link": links})

    def link_error(self, following: Signature[Any]) -> Signature[R]:
        """A copy after whose failure `following` is sent, with a dict that describes it in front of its arguments.

        The dict has the keys id, task, type, message and traceback.
        """
        links = [*_listed(self.options.get("link_error")), as_signature(following)]
        return replace(self, options={**self.options, "link_error": links})

    def call(self, *args: Any, **kwargs: Any) -> R:
        """Runs it as a foreground job, as `Task.call`."""
        (step,) = self._with(args, kwargs)
        result: R = self.app.call(step)
        return result

    async def acall(self, *args: Any, **kwargs: Any) -> R:
        """`call` for async code."""
        (step,) = self._with(args, kwargs)
        result: R = await self.app.acall(step)
        return result

    @overload
    def __or__(self, other: BaseTask[Any, S]) -> Chain[S]: ...
    @overload
    def __or__(self, other: Sendable[S]) -> Chain[S]: ...
    def __or__(self, other: Any) -> Chain[Any]:
        return chain(self, other)

    def data(self, task_id: str = "") -> SignatureData:
        """The plain values of it, as they travel; raises `ConfigurationError` for an option that cannot."""
        options = dict(self.options)
        own = options.pop("task_id", None)
        for name in ("timeout", "background", "on_progress", "on_data", "on_warning"):
            options.pop(name, None)
        for name in ("link", "link_error"):
            if options.get(name):
                options[name] = [
                    step.data(step.new_id()).to_list() for step in map(as_signature, _listed(options[name]))
                ]
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


@dataclass(frozen=True, eq=False)
class Chain(Sendable[R]):
    """Signatures one after the other, each with the result of the one before in front of its arguments."""

    signatures: tuple[Signature[Any], ...]

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.signatures))

    @property
    def app(self) -> App:
        """The App of its tasks."""
        return self.signatures[0].app

    @property
    def steps(self) -> tuple[Signature[Any], ...]:
        """Its signatures."""
        return self.signatures

    def set(self, **options: Unpack[CallOptions]) -> Chain[R]:
        """A copy with options for its last step, whose handle `delay` returns."""
        return Chain((*self.signatures[:-1], self.signatures[-1].set(**options)))

    @overload
    def __or__(self, other: BaseTask[Any, S]) -> Chain[S]: ...
    @overload
    def __or__(self, other: Sendable[S]) -> Chain[S]: ...
    def __or__(self, other: Any) -> Chain[Any]:
        return chain(self, other)


@dataclass(frozen=True, eq=False)
class Group(Generic[R]):
    """Signatures that run side by side. `delay` submits all of them in one go."""

    members: tuple[Sendable[R], ...]

    def __repr__(self) -> str:
        return f"group({', '.join(map(repr, self.members))})"

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[Sendable[R]]:
        return iter(self.members)

    @property
    def app(self) -> App:
        """The App of its tasks."""
        return self.members[0].app

    @overload
    def __or__(self, other: BaseTask[Any, S]) -> Chord[S]: ...
    @overload
    def __or__(self, other: Sendable[S]) -> Chord[S]: ...
    def __or__(self, other: Any) -> Chord[Any]:
        return Chord(self, chain(other))

    def delay(self, *args: Any, **kwargs: Any) -> GroupResult[R]:
        """Sends all members, the arguments in front of those of each; returns the handle of all results."""
        return self.app.send_group([member._with(args, kwargs) for member in self.members])

    async def adelay(self, *args: Any, **kwargs: Any) -> GroupResult[R]:
        """`delay` for async code."""
        return await self.app.asend_group([member._with(args, kwargs) for member in self.members])

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> GroupResult[R]:
        """As `delay`, with options for the first step of each member."""
        return self.app.send_group(self._set(tuple(args), dict(kwargs or {}), options))

    async def aapply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> GroupResult[R]:
        """`apply_async` for async code."""
        return await self.app.asend_group(self._set(tuple(args), dict(kwargs or {}), options))

    def _set(self, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions) -> list[list[Signature[Any]]]:
        members = [member._with(args, kwargs) for member in self.members]
        return [[first.set(**options), *rest] for first, *rest in members]


@dataclass(frozen=True, eq=False)
class Chord(Sendable[R]):
    """A group, and a body that is run with the list of the members' results when all of them are there.

    Its handle is the body's. When a member fails, the body is not run and fails with the same error.
    """

    header: Group[Any]
    body: Chain[R]

    def __repr__(self) -> str:
        return f"chord([{', '.join(map(repr, self.header.members))}], {self.body!r})"

    @property
    def app(self) -> App:
        """The App of its tasks."""
        return self.header.app

    @property
    def steps(self) -> tuple[Signature[Any], ...]:
        """Raises `ConfigurationError`: a chord cannot be a member of a group or come second in a chain."""
        raise ConfigurationError(
            "A chord cannot be part of a group, of another chord or of a chain behind another step; "
            "send it from a task at that point instead."
        )

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult[R]:
        """Sends the members, the arguments in front of those of each; returns the handle of the body's result."""
        return self.app.send_chord([member._with(args, kwargs) for member in self.header.members], self.body.steps)

    async def adelay(self, *args: Any, **kwargs: Any) -> AsyncResult[R]:
        """`delay` for async code."""
        members = [member._with(args, kwargs) for member in self.header.members]
        return await self.app.asend_chord(members, self.body.steps)

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> AsyncResult[R]:
        """As `delay`, with options for the last step of the body."""
        return Chord(self.header, self.body.set(**options)).delay(*args, **(kwargs or {}))

    async def aapply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> AsyncResult[R]:
        """`apply_async` for async code."""
        return await Chord(self.header, self.body.set(**options)).adelay(*args, **(kwargs or {}))

    @overload
    def __or__(self, other: BaseTask[Any, S]) -> Chord[S]: ...
    @overload
    def __or__(self, other: Sendable[S]) -> Chord[S]: ...
    def __or__(self, other: Any) -> Chord[Any]:
        return Chord(self.header, chain(self.body, other))


def as_signature(value: Any) -> Signature[Any]:
    """Takes a task or a signature for a signature; raises `TypeError` for anything else."""
    if isinstance(value, Signature):
        return value
    if isinstance(value, BaseTask):
        return value.s()
    raise TypeError(f"{value!r} is neither a task nor a signature; write task.s(...).")


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _steps(value: Any) -> tuple[Signature[Any], ...]:
    return value.steps if isinstance(value, Sendable) else (as_signature(value),)


def chain(*steps: BaseTask[..., Any] | Sendable[Any]) -> Chain[Any]:
    """Chains tasks, signatures and chains: each gets the result of the one before. `a | b` is the same, and typed."""
    flat = tuple(one for step in steps for one in _steps(step))
    if not flat:
        raise ConfigurationError("A chain needs one step at least: chain(calculate.s(7), send.s()).")
    return Chain(flat)


def group(*members: Sendable[R] | Iterable[Sendable[R]]) -> Group[R]:
    """Groups signatures, given one by one or as one iterable: `group(calculate.s(i) for i in ids)`."""
    given: Iterable[Any] = members
    if len(members) == 1 and not isinstance(members[0], Sendable | BaseTask):
        given = members[0]
    flat = tuple(one if isinstance(one, Sendable) else as_signature(one) for one in given)
    if not flat:
        raise ConfigurationError("A group needs one member at least: group(calculate.s(i) for i in ids).")
    return Group(cast("tuple[Sendable[R], ...]", flat))


def chord(
    header: Group[Any] | Iterable[Sendable[Any] | BaseTask[..., Any]], body: BaseTask[..., R] | Sendable[R]
) -> Chord[R]:
    """A group and its body: `chord([calculate.s(1), calculate.s(2)], add_up.s())`; `group(...) | task` is the same."""
    members = header if isinstance(header, Group) else group(cast("Iterable[Sendable[Any]]", header))
    return Chord(members, chain(body))


def signature(
    task: BaseTask[..., R] | Signature[R],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    immutable: bool = False,
    **options: Unpack[CallOptions],
) -> Signature[R]:
    """A signature of a task, or a copy of a signature, with arguments and options added."""
    made = as_signature(task).clone(args, kwargs, **options)
    return replace(made, immutable=immutable or made.immutable)
