"""What all calls as values have in common: `Canvas`, and its two kinds, by what they result in. Design, section 2.

All of them are frozen: what looks like a change gives a new one. They hold their App through their tasks, so there is
no global one. `gtask.signatures` has the call of one task, `gtask.canvas` combines calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, Unpack, cast, overload

from gtask.options import CallOptions
from gtask.task import BaseTask

if TYPE_CHECKING:
    from gtask.app import App
    from gtask.canvas import Chain, Group, GroupChain
    from gtask.group_result import GroupResult
    from gtask.result import AsyncResult
    from gtask.signatures import Signature

R = TypeVar("R")
S = TypeVar("S")


class Canvas:
    """A call as a value, of one task or of many.

    ``dict(canvas)`` is it as plain data, of which `App.signature` makes it again; two are equal when that data is.
    """

    @property
    def app(self) -> App:
        """The App of its tasks."""
        raise NotImplementedError

    @property
    def flow(self) -> tuple[Signature[Any] | Group[Any], ...]:
        """What runs one after the other."""
        raise NotImplementedError

    @property
    def steps(self) -> tuple[Signature[Any], ...]:
        """All signatures in it, in their order."""
        return tuple(step for node in self.flow for step in node.steps)

    # --- sending ---------------------------------------------------------------------------------------------

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Sends it as background jobs and returns the handle of what comes last.

        The arguments are put in front of those of its first step, or of the first steps of all members of a group.
        Raises as `Task.delay` does, and `StoreRequired` where results of several are to meet and the App has no store.
        """
        return self.app.send_canvas(self.clone(args, kwargs))

    async def adelay(self, *args: Any, **kwargs: Any) -> Any:
        """`delay` for async code."""
        return await self.app.asend_canvas(self.clone(args, kwargs))

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> Any:
        """As `delay`, with options for what starts first; links are those of the whole.

        Those of a chord are for its body, but for `countdown` and `eta`, by which its members wait.
        """
        return self.app.send_canvas(self._given(args, kwargs, options))

    async def aapply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> Any:
        """`apply_async` for async code."""
        return await self.app.asend_canvas(self._given(args, kwargs, options))

    def _given(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None, options: CallOptions) -> Self:
        made, given = self.clone(args, kwargs), dict(options)
        for following in listed(given.pop("link", None)):
            made = made.link(following)
        for following in listed(given.pop("link_error", None)):
            made = made.link_error(following)
        return made._first(cast("CallOptions", given)) if given else made

    # --- copies ----------------------------------------------------------------------------------------------

    def set(self, **options: Unpack[CallOptions]) -> Self:
        """A copy with options added to its last step; raises `UnknownOption` for a wrong one."""
        raise NotImplementedError

    def _first(self, options: CallOptions) -> Self:
        """A copy with options added to what starts first."""
        raise NotImplementedError

    def clone(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> Self:
        """A copy with more arguments for what starts first: positional ones go in front, as a result before would."""
        raise NotImplementedError

    def link(self, following: Linkable) -> Self:
        """A copy after whose success `following` is sent too, with the result in front of its arguments."""
        raise NotImplementedError

    def link_error(self, following: Linkable) -> Self:
        """A copy after whose failure `following` is sent, with a dict that describes it in front of its arguments.

        The dict has the keys id, task, type, message and traceback, of the task that failed. It is sent once, whichever
        step of a chain fails; of a group that nothing follows, once for each member that fails. What was revoked or has
        expired has not failed.
        """
        raise NotImplementedError

    def on_error(self, following: Linkable) -> Self:
        """Another name for `link_error`."""
        return self.link_error(following)

    def __or__(self, other: Linkable) -> Canvas:
        combined: Canvas = self.app.combine(self, other)
        return combined

    # --- as data ---------------------------------------------------------------------------------------------

    def _plain(self) -> dict[str, Any]:
        raise NotImplementedError

    def keys(self) -> Iterator[str]:
        """The keys of it as plain data: ``dict(canvas)``."""
        return iter(self._plain())

    def __getitem__(self, key: str) -> Any:
        return self._plain()[key]

    def __eq__(self, other: object) -> bool:
        return self._plain() == other._plain() if isinstance(other, Canvas) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(step.task.name for step in self.steps))

    def check_arguments(self, before: bool = False) -> None:
        """Raises `BadArguments` where arguments do not fit their tasks, as far as they are known before it is sent.

        `before` says that a result comes in front of the arguments of what starts first.
        """
        for node in self.flow:
            node.check_arguments(before)
            before = True


class Sendable(Canvas, Generic[R]):
    """What has one result: a signature, a chain that ends with one, a chord."""

    if TYPE_CHECKING:

        def delay(self, *args: Any, **kwargs: Any) -> AsyncResult[R]: ...
        async def adelay(self, *args: Any, **kwargs: Any) -> AsyncResult[R]: ...
        def apply_async(
            self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
        ) -> AsyncResult[R]: ...
        async def aapply_async(
            self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
        ) -> AsyncResult[R]: ...

    @overload
    def __or__(self, other: Group[S] | GroupChain[S]) -> GroupChain[S]: ...
    @overload
    def __or__(self, other: BaseTask[Any, S] | Sendable[S]) -> Chain[S]: ...
    @overload
    def __or__(self, other: Linkable) -> Canvas: ...
    def __or__(self, other: Any) -> Any:
        return self.app.combine(self, other)


class Grouped(Canvas, Generic[R]):
    """What has a list of results: a group, or a chain that ends with one."""

    if TYPE_CHECKING:

        def delay(self, *args: Any, **kwargs: Any) -> GroupResult[R]: ...
        async def adelay(self, *args: Any, **kwargs: Any) -> GroupResult[R]: ...
        def apply_async(
            self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
        ) -> GroupResult[R]: ...
        async def aapply_async(
            self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
        ) -> GroupResult[R]: ...


Linkable = BaseTask[..., Any] | Canvas
"""What may follow as a link: a task, a signature, or anything that is made of them."""


def as_canvas(value: Any) -> Canvas:
    """Takes a task for its signature; raises `TypeError` for what cannot be sent."""
    if isinstance(value, Canvas):
        return value
    if isinstance(value, BaseTask):
        return value.s()
    raise TypeError(f"{value!r} is neither a task nor a signature; write task.s(...).")


def listed(value: Any) -> list[Any]:
    """The links that an option names: none, one or several."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
