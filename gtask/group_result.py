"""The handles of several tasks together: `GroupResult`. Design, sections 2 to 4."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

import anyio

from gtask.errors import ResultError, ResultsUnavailable, ResultTimeout
from gtask.progress import Progress
from gtask.result import AsyncResult
from gtask.results.base import ResultStore
from gtask.revoking import arevoke, revoke
from gtask.states import Record, State
from gtask.waiting import AWAY, LOOK, NAP, check_wait, lending, nobody_knows, slices, sync_subtasks

if TYPE_CHECKING:
    from gtask.app import App

R = TypeVar("R")

SAMPLE: Final = 8
"""Members of a group that are asked about at once, when nothing comes of any."""


class GroupResult(Generic[R]):
    """The handles of a group's members, in their order; a member that is a group has a `GroupResult` itself.

    `parent` is the handle of the step before the group in a chain.
    """

    def __init__(
        self,
        app: App,
        results: Sequence[AsyncResult[R] | GroupResult[Any]],
        parent: AsyncResult[Any] | GroupResult[Any] | None = None,
    ) -> None:
        self.app = app
        self.parent = parent
        # For a type checker they are all of one kind: a nested group has what its user asks of it.
        self.results = cast("tuple[AsyncResult[R], ...]", tuple(results))

    def __repr__(self) -> str:
        return f"<GroupResult of {len(self.results)}>"

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[AsyncResult[R]]:
        return iter(self.results)

    def __getitem__(self, index: int) -> AsyncResult[R]:
        return self.results[index]

    def leaves(self) -> list[AsyncResult[Any]]:
        """The handles of all tasks whose results it is made of, those of the groups in it too, in their order."""
        found: list[AsyncResult[Any]] = []
        for result in self.results:
            found += result.leaves() if isinstance(result, GroupResult) else [result]
        return found

    def put(self, place: int, result: AsyncResult[Any]) -> None:
        """Puts the handle of a member that was sent later into its place, from 0. For gtask's own use."""
        self.results = (*self.results[:place], result, *self.results[place + 1 :])

    # --- waiting ---------------------------------------------------------------------------------------------

    def join(self, timeout: float | None = None, propagate: bool = True, disable_sync_subtasks: bool = True) -> list[R]:
        """Waits for all results and returns them in the members' order; one wait, however many there are.

        Raises what the first failed member raised as soon as that is known, and `ResultTimeout` after `timeout`
        seconds, as `AsyncResult.get` does; without a timeout also `ResultError` when nobody knows a member any more.
        """
        with sync_subtasks(disable_sync_subtasks):
            for result in self._ends(timeout):
                if propagate:
                    result.get(0)
        return [result.get(0, propagate) for result in self.results]

    get = join

    async def ajoin(
        self, timeout: float | None = None, propagate: bool = True, disable_sync_subtasks: bool = True
    ) -> list[R]:
        """`join` for async code."""
        with sync_subtasks(disable_sync_subtasks):
            async with aclosing(self._aends(timeout)) as ended:
                async for result in ended:
                    if propagate:
                        result._open(result._outcome, timeout, propagate)
        return self._opened(timeout, propagate)

    aget = ajoin

    def __await__(self) -> Generator[Any, None, list[R]]:
        return self.ajoin().__await__()

    def _opened(self, timeout: float | None, propagate: bool) -> list[R]:
        opened: list[Any] = []
        for result in self.results:
            if isinstance(result, GroupResult):
                opened.append(result._opened(timeout, propagate))
            else:
                opened.append(result._open(result._outcome, timeout, propagate))
        return opened

    def iterate(self, timeout: float | None = None) -> Iterator[AsyncResult[R]]:
        """Yields the members' handles as they end, the first first; that of a group when all in it have ended."""
        tally = _Tally(self.results)
        for leaf in self._ends(timeout):
            yield from tally.ended(leaf)

    async def aiterate(self, timeout: float | None = None) -> AsyncGenerator[AsyncResult[R], None]:
        """`iterate` for async code; whoever leaves the loop early closes it (`contextlib.aclosing`)."""
        tally = _Tally(self.results)
        async with aclosing(self._aends(timeout)) as ends:
            async for leaf in ends:
                for result in tally.ended(leaf):
                    yield result

    def _ends(self, timeout: float | None) -> Iterator[AsyncResult[Any]]:
        """Yields the leaves as they end."""
        waiting, doubts = self._unfinished(), _Doubts()
        yield from [leaf for leaf in self.leaves() if leaf.id not in waiting]
        if waiting:
            check_wait(self, timeout)
        for seconds in slices(timeout, LOOK) if waiting else ():
            try:
                found = self._store(waiting).wait(list(waiting), seconds)
            except ResultsUnavailable as error:
                if timeout is not None or doubts.gone(error):
                    raise
                time.sleep(NAP)
                continue
            yield from self._ended(found, waiting)
            if not waiting:
                return
            if timeout is None:
                doubts.looked([leaf for leaf in doubts.due(found, waiting) if leaf._unknown()])
        if waiting:
            raise self._late(timeout)

    async def _aends(self, timeout: float | None) -> AsyncGenerator[AsyncResult[Any], None]:
        waiting, doubts = self._unfinished(), _Doubts()
        for leaf in [leaf for leaf in self.leaves() if leaf.id not in waiting]:
            yield leaf
        for seconds in slices(timeout, LOOK) if waiting else ():
            try:
                with lending(self, timeout):
                    found = await self._store(waiting).await_(list(waiting), seconds)
            except ResultsUnavailable as error:
                if timeout is not None or doubts.gone(error):
                    raise
                await anyio.sleep(NAP)
                continue
            for leaf in self._ended(found, waiting):
                yield leaf
            if not waiting:
                return
            if timeout is None:
                doubts.looked([leaf for leaf in doubts.due(found, waiting) if await leaf._aunknown()])
        if waiting:
            raise self._late(timeout)

    def _late(self, timeout: float | None) -> ResultTimeout:
        return ResultTimeout(f"Not all of the group's {len(self)} results were there within {timeout or 0:g} s.")

    # --- looking ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """SUCCESS when all members have succeeded; FAILURE or REVOKED when all have ended and one so; else PENDING."""
        return _together(self._states())

    status = state

    async def astate(self) -> State:
        """`state` for async code."""
        return _together(await self._astates())

    def completed_count(self) -> int:
        """How many members have succeeded."""
        return self._states().count(State.SUCCESS)

    async def acompleted_count(self) -> int:
        """`completed_count` for async code."""
        return (await self._astates()).count(State.SUCCESS)

    @property
    def progress(self) -> Progress:
        """How many of the members have ended, in whatever way."""
        return Progress(sum(state.ready for state in self._states()), len(self))

    async def aprogress(self) -> Progress:
        """`progress` for async code."""
        return Progress(sum(state.ready for state in await self._astates()), len(self))

    def ready(self) -> bool:
        """Whether all members have ended."""
        return all(state.ready for state in self._states())

    async def aready(self) -> bool:
        """`ready` for async code."""
        return all(state.ready for state in await self._astates())

    def successful(self) -> bool:
        """Whether all members have ended well."""
        return self.completed_count() == len(self)

    async def asuccessful(self) -> bool:
        """`successful` for async code."""
        return await self.acompleted_count() == len(self)

    def failed(self) -> bool:
        """Whether a member has failed, or one of a group in it."""
        return State.FAILURE in self._leaf_states()

    async def afailed(self) -> bool:
        """`failed` for async code."""
        return State.FAILURE in await self._aleaf_states()

    def revoke(self, terminate: bool = False) -> None:
        """Revokes all members, as `AsyncResult.revoke` does, in one go."""
        revoke(self.app, self.leaves(), terminate)

    async def arevoke(self, terminate: bool = False) -> None:
        """`revoke` for async code."""
        await arevoke(self.app, self.leaves(), terminate)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until all members have ended, in whatever way; false when `timeout` seconds were over first."""
        try:
            return all(True for _ in self._ends(timeout))
        except ResultTimeout:
            return False

    async def await_(self, timeout: float | None = None) -> bool:
        """`wait` for async code."""
        try:
            async with aclosing(self._aends(timeout)) as ends:
                return all([True async for _ in ends])
        except ResultTimeout:
            return False

    def forget(self) -> None:
        """Drops the results of all members from the store."""
        leaves = self.leaves()
        self._store({"": leaves}).forget(self._forgotten(leaves))

    async def aforget(self) -> None:
        """`forget` for async code."""
        leaves = self.leaves()
        await self._store({"": leaves}).aforget(self._forgotten(leaves))

    # --- inside ----------------------------------------------------------------------------------------------

    @staticmethod
    def _forgotten(leaves: Sequence[AsyncResult[Any]]) -> list[str]:
        for leaf in leaves:
            leaf._outcome = None
        return [leaf.id for leaf in leaves]

    @staticmethod
    def _store(waiting: Mapping[str, Sequence[AsyncResult[Any]]]) -> ResultStore:
        """The store of them all; raises as `AsyncResult.get` does where one of them has no result to wait for."""
        stores = [leaf._store() for leaves in waiting.values() for leaf in leaves]
        return stores[0]

    def _unfinished(self) -> dict[str, list[AsyncResult[Any]]]:
        """The leaves to wait for, by their ids: calls with the same `unique=` share one."""
        found: dict[str, list[AsyncResult[Any]]] = {}
        for leaf in self.leaves():
            if leaf._outcome is None:
                found.setdefault(leaf.id, []).append(leaf)
        return found

    @staticmethod
    def _ended(found: Mapping[str, Record], waiting: dict[str, list[AsyncResult[Any]]]) -> Iterator[AsyncResult[Any]]:
        for record in found.values():
            for leaf in waiting.pop(record.id, ()):
                leaf._keep(record)
                yield leaf

    def _states(self) -> list[State]:
        return self._by_member(self._leaf_states())

    async def _astates(self) -> list[State]:
        return self._by_member(await self._aleaf_states())

    def _leaf_states(self) -> list[State]:
        waiting = self._unfinished()
        return self._seen(waiting, self._store(waiting).get(list(waiting)) if waiting else {})

    async def _aleaf_states(self) -> list[State]:
        waiting = self._unfinished()
        return self._seen(waiting, await self._store(waiting).aget(list(waiting)) if waiting else {})

    def _seen(self, waiting: Mapping[str, Sequence[AsyncResult[Any]]], found: Mapping[str, Record]) -> list[State]:
        for record in found.values():
            for leaf in waiting[record.id]:
                leaf._keep(record)
        return [leaf._outcome.state if leaf._outcome else State.PENDING for leaf in self.leaves()]

    def _by_member(self, states: Sequence[State]) -> list[State]:
        """The state of each member, from those of the leaves."""
        rest = iter(states)
        return [
            _together([next(rest) for _ in result.leaves()]) if isinstance(result, GroupResult) else next(rest)
            for result in self.results
        ]


def _together(states: Sequence[State]) -> State:
    if not all(state.ready for state in states):
        return State.PENDING
    return next((state for state in (State.FAILURE, State.REVOKED) if state in states), State.SUCCESS)


class _Tally:
    """Counts which members have ended, by the leaves that have."""

    def __init__(self, results: Sequence[AsyncResult[R]]) -> None:
        self._owner: dict[int, tuple[AsyncResult[Any], list[int]]] = {}
        for result in results:
            leaves = result.leaves() if isinstance(result, GroupResult) else [result]
            left = [len(leaves)]
            for leaf in leaves:
                self._owner[id(leaf)] = result, left

    def ended(self, leaf: AsyncResult[Any]) -> Iterator[AsyncResult[Any]]:
        """The member that has ended with this leaf, if so."""
        result, left = self._owner[id(leaf)]
        left[0] -= 1
        if not left[0]:
            yield result


class _Doubts:
    """Watches over a wait without a timeout: whether its results service is there, and whether anybody knows the rest.

    A few of them are asked about in each look; one that nobody knows in two looks in a row is not waited for.
    """

    def __init__(self) -> None:
        self._doubted: AsyncResult[Any] | None = None
        self._there: float | None = None

    def gone(self, error: ResultsUnavailable) -> bool:
        """Whether the results service is away for good; one that was there may be starting again."""
        return self._there is None or time.monotonic() - self._there >= AWAY

    def due(
        self, found: Mapping[str, Record], waiting: Mapping[str, Sequence[AsyncResult[Any]]]
    ) -> list[AsyncResult[Any]]:
        """Those to be asked about now: none while something comes."""
        self._there = time.monotonic()
        if found:
            return []
        if self._doubted is not None and self._doubted.id in waiting:
            return [self._doubted]
        return [leaves[0] for leaves in islice(waiting.values(), SAMPLE)]

    def looked(self, unknown: Sequence[AsyncResult[Any]]) -> None:
        """Takes in which of them nobody knows; raises `ResultError` for one that nobody has known before either."""
        if unknown and unknown[0] is self._doubted:
            leaf = unknown[0]
            raise ResultError(f"The result of {leaf.task or 'task'} {leaf.id} in a group: {nobody_knows(leaf.app)}")
        self._doubted = unknown[0] if unknown else None
