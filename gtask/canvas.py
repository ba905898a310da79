"""Chains, groups and chords: calls combined, nested in any depth, to be sent later. Design, section 2."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, Unpack, cast, overload

from gtask.errors import ConfigurationError
from gtask.options import CallOptions
from gtask.sendable import Canvas, Grouped, Linkable, Sendable, as_canvas
from gtask.signatures import Signature, identity, lay_out
from gtask.task import BaseTask

if TYPE_CHECKING:
    from gtask.app import App

R = TypeVar("R")
S = TypeVar("S")

_TIMES: Final = ("countdown", "eta")


@dataclass(frozen=True, eq=False)
class _Sequence:
    """What chains have in common: nodes one after the other."""

    nodes: tuple[Any, ...]

    def __repr__(self) -> str:
        return " | ".join(repr(node) for node in self.nodes if not _is_identity(node))

    @property
    def app(self) -> App:
        """The App of its tasks."""
        app: App = self.nodes[0].app
        return app

    @property
    def flow(self) -> tuple[Any, ...]:
        """Its nodes."""
        return self.nodes

    def _at(self, place: int, node: Any) -> Self:
        nodes = list(self.nodes)
        nodes[place] = node
        return replace(self, nodes=tuple(nodes))

    def set(self, **options: Unpack[CallOptions]) -> Self:
        """A copy with options for its last step, whose handle `delay` returns."""
        return self._at(-1, self.nodes[-1].set(**options))

    def _first(self, options: CallOptions) -> Self:
        return self._at(0, self.nodes[0]._first(options))

    def clone(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> Self:
        """See `Canvas.clone`."""
        copy = self._at(0, self.nodes[0].clone(args, kwargs)) if args or kwargs else self
        return copy.set(**options) if options else copy

    def link(self, following: Linkable) -> Self:
        """A copy after whose last step's success `following` is sent too."""
        return self._at(-1, self.nodes[-1].link(following))

    def link_error(self, following: Linkable) -> Self:
        """See `Canvas.link_error`."""
        # A group's failure is that of what follows it, so that it is told once.
        last = len(self.nodes) - 1
        linked = [
            node.link_error(following) if isinstance(node, Signature) or place == last else node
            for place, node in enumerate(self.nodes)
        ]
        return replace(self, nodes=tuple(linked))

    def _plain(self) -> dict[str, Any]:
        return {"chain": [node._plain() for node in self.nodes]}


class Chain(_Sequence, Sendable[R]):
    """Steps one after the other, each with the result of the one before in front of its arguments.

    A step may be a group: what follows it gets the list of its members' results, once all of them are there.
    """


class GroupChain(_Sequence, Grouped[R]):
    """A chain that ends with a group: each member of that gets the result of the step before. Has a `GroupResult`."""

    @overload
    def __or__(self, other: Group[S] | GroupChain[S]) -> GroupChain[S]: ...
    @overload
    def __or__(self, other: BaseTask[Any, S] | Sendable[S]) -> Chain[S]: ...
    @overload
    def __or__(self, other: Linkable) -> Canvas: ...
    def __or__(self, other: Any) -> Any:
        return combine(self, other)


@dataclass(frozen=True, eq=False)
class Group(Grouped[R]):
    """What runs side by side: signatures, chains, chords and groups. `delay` submits all that starts in one go."""

    members: tuple[Canvas, ...]

    def __repr__(self) -> str:
        return f"group({', '.join(map(repr, self.members))})"

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[Canvas]:
        return iter(self.members)

    @property
    def app(self) -> App:
        """The App of its tasks."""
        return self.members[0].app

    @property
    def flow(self) -> tuple[Group[Any], ...]:
        """Itself alone."""
        return (self,)

    @property
    def steps(self) -> tuple[Signature[Any], ...]:
        """The signatures of all members."""
        return tuple(step for member in self.members for step in member.steps)

    def check_arguments(self, before: bool = False) -> None:
        """See `Canvas.check_arguments`."""
        for member in self.members:
            member.check_arguments(before)

    @overload
    def __or__(self, other: Group[S] | GroupChain[S]) -> GroupChain[S]: ...
    @overload
    def __or__(self, other: BaseTask[Any, S] | Sendable[S]) -> Chord[S]: ...
    @overload
    def __or__(self, other: Linkable) -> Canvas: ...
    def __or__(self, other: Any) -> Any:
        return combine(self, other)

    def _each(self, members: Iterable[Any]) -> Self:
        return replace(self, members=tuple(members))

    def set(self, **options: Unpack[CallOptions]) -> Self:
        """A copy with options for each member."""
        self._refuse_id(options)
        return self._each(member.set(**options) for member in self.members)

    def _first(self, options: CallOptions) -> Self:
        self._refuse_id(options)
        return self._each(member._first(options) for member in self.members)

    def _refuse_id(self, options: CallOptions) -> None:
        if options.get("task_id") is not None and len(self.members) > 1:
            raise ConfigurationError("task_id is the id of one task, and a group has several; set it on a member.")

    def clone(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> Self:
        """A copy with more arguments for each member; options are set on each."""
        copy = self._each(member.clone(args, kwargs) for member in self.members) if args or kwargs else self
        return copy.set(**options) if options else copy

    def link(self, following: Linkable) -> Self:
        """A copy after each of whose members' success `following` is sent, with that member's result."""
        return self._each(member.link(following) for member in self.members)

    def link_error(self, following: Linkable) -> Self:
        """See `Canvas.link_error`: it is sent for each member that fails."""
        return self._each(member.link_error(following) for member in self.members)

    def node(self, followed: bool, depth: int) -> Any:
        """It as a node of a flow (`gtask.flows`), with fresh ids in it."""
        return {"group": [lay_out(member.flow, followed, depth + 1) for member in self.members]}

    def _plain(self) -> dict[str, Any]:
        return {"group": [member._plain() for member in self.members]}


class Chunks(Group[R]):
    """A group each of whose members runs a task over a part of a list; made by `Task.chunks`."""

    def group(self) -> Group[R]:
        """The same as an ordinary group, as in Celery."""
        return Group(self.members)


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
    def flow(self) -> tuple[Any, ...]:
        """The group, and the steps of the body."""
        return (self.header, *self.body.nodes)

    def set(self, **options: Unpack[CallOptions]) -> Self:
        """A copy with options for the last step of the body."""
        return replace(self, body=self.body.set(**options))

    def _first(self, options: CallOptions) -> Self:
        # Its members are what can wait for a time.
        times = {name: value for name, value in options.items() if name in _TIMES}
        others = {name: value for name, value in options.items() if name not in _TIMES}
        header = self.header._first(cast("CallOptions", times)) if times else self.header
        return replace(self, header=header).set(**cast("CallOptions", others))

    def clone(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> Self:
        """A copy with more arguments for each member; options are those of the body."""
        copy = replace(self, header=self.header.clone(args, kwargs)) if args or kwargs else self
        return copy.set(**options) if options else copy

    def link(self, following: Linkable) -> Self:
        """A copy after whose body's success `following` is sent too."""
        return replace(self, body=self.body.link(following))

    def link_error(self, following: Linkable) -> Self:
        """See `Canvas.link_error`: it is sent once, when members fail and when the body does."""
        return replace(self, body=self.body.link_error(following))

    def _plain(self) -> dict[str, Any]:
        return {"chord": [member._plain() for member in self.header.members], "body": self.body._plain()}


# --- combining -----------------------------------------------------------------------------------------------


def combine(first: Any, second: Any) -> Any:
    """What ``first | second`` is; raises `TypeError` where one of them is neither a task nor made of some."""
    first, second = as_canvas(first), as_canvas(second)
    if not isinstance(second, Grouped):
        if isinstance(first, Group):
            return Chord(first, Chain(second.flow))
        if isinstance(first, Chord):
            return Chord(first.header, _sequence((*first.body.nodes, *second.flow)))
    return _sequence((*first.flow, *second.flow))


def _sequence(nodes: Iterable[Any]) -> Any:
    """A chain of nodes; between two groups stands the task that takes the one's results and gives them to the other."""
    flat: list[Any] = []
    for node in nodes:
        if flat and isinstance(node, Group) and isinstance(flat[-1], Group):
            flat.append(identity(node.app))
        flat.append(node)
    return (GroupChain if isinstance(flat[-1], Group) else Chain)(tuple(flat))


def _is_identity(node: Any) -> bool:
    return isinstance(node, Signature) and node == identity(node.app)


_Step = BaseTask[..., Any] | Canvas
_Last = BaseTask[..., R] | Sendable[R]
_LastGroup = Group[R] | GroupChain[R]


@overload
def chain(first: _LastGroup[R], /) -> GroupChain[R]: ...
@overload
def chain(first: _Last[R], /) -> Chain[R]: ...
@overload
def chain(first: _Step, second: _LastGroup[R], /) -> GroupChain[R]: ...
@overload
def chain(first: _Step, second: _Last[R], /) -> Chain[R]: ...
@overload
def chain(first: _Step, second: _Step, third: _LastGroup[R], /) -> GroupChain[R]: ...
@overload
def chain(first: _Step, second: _Step, third: _Last[R], /) -> Chain[R]: ...
@overload
def chain(*steps: _Step) -> Any: ...
@overload
def chain(steps: Iterable[_Step], /) -> Any: ...
def chain(*steps: Any) -> Any:
    """Chains tasks, signatures, chains, groups and chords: each gets the result of the one before.

    ``a | b`` is the same. They may be given as one iterable. What ends with a group has a list of results.
    """
    if len(steps) == 1 and isinstance(steps[0], Iterable) and not isinstance(steps[0], Canvas | BaseTask):
        steps = tuple(steps[0])
    flat = tuple(node for step in steps for node in as_canvas(step).flow)
    if not flat:
        raise ConfigurationError("A chain needs one step at least: chain(calculate.s(7), send.s()).")
    return _sequence(flat)


@overload
def group(*members: _Last[R]) -> Group[R]: ...
@overload
def group(members: Iterable[_Last[R]], /) -> Group[R]: ...
@overload
def group(*members: _Step) -> Group[Any]: ...
@overload
def group(members: Iterable[_Step], /) -> Group[Any]: ...
def group(*members: Any) -> Group[Any]:
    """Groups signatures, given one by one or as one iterable: `group(calculate.s(i) for i in ids)`.

    A member may be a chain, a chord or a group; the result of a group in a group is a list in the list.
    """
    given: Iterable[Any] = members
    if len(members) == 1 and isinstance(members[0], Iterable) and not isinstance(members[0], Canvas | BaseTask):
        given = members[0]
    flat = tuple(map(as_canvas, given))
    if not flat:
        raise ConfigurationError(
            "A group needs one member at least: group(calculate.s(i) for i in ids). Ask first whether there are any."
        )
    return Group(flat)


@overload
def chord(header: Group[Any] | Iterable[_Step], body: _LastGroup[R]) -> GroupChain[R]: ...
@overload
def chord(header: Group[Any] | Iterable[_Step], body: _Last[R]) -> Chord[R]: ...
def chord(header: Any, body: Any) -> Any:
    """A group and its body: `chord([calculate.s(1), calculate.s(2)], add_up.s())`; `group(...) | task` is the same."""
    return combine(header if isinstance(header, Group) else group(header), body)


def chunks(task: BaseTask[..., R], items: Iterable[Sequence[Any]], size: int) -> Chunks[list[R]]:
    """See `Task.chunks`."""
    if size < 1:
        raise ConfigurationError(f"chunks() of {task.name}: {size} is no number of items; write one above zero.")
    if not isinstance(items, Iterable):
        raise TypeError(f"chunks() of {task.name} takes a list; {items!r:.80} is none.")
    whole = list(items)
    if not whole:
        raise ConfigurationError(f"chunks() of {task.name} needs one item at least.")
    parts = [whole[start : start + size] for start in range(0, len(whole), size)]
    return Chunks(tuple(task.starmap(part) for part in parts))


@overload
def signature(
    task: BaseTask[..., R] | Signature[R],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    immutable: bool = False,
    **options: Unpack[CallOptions],
) -> Signature[R]: ...
@overload
def signature(task: Canvas, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Canvas: ...
def signature(task: Any, args: Any = (), kwargs: Any = None, immutable: bool = False, **options: Any) -> Any:
    """A signature of a task, or a copy of a signature, with arguments and options added.

    For a task's name, and for what ``dict(signature)`` gave, there is `App.signature`.
    """
    made = as_canvas(task).clone(args, kwargs, **options)
    return replace(made, immutable=True) if immutable and isinstance(made, Signature) else made
