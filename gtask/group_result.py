"""The handles of several tasks together: `GroupResult`. Design, sections 2 to 4."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gtask.errors import ResultTimeout
from gtask.progress import Progress
from gtask.result import AsyncResult
from gtask.results.base import ResultStore
from gtask.results.records import revoked_record
from gtask.states import Record, State
from gtask.waiting import revoking_store, slices

if TYPE_CHECKING:
    from gtask.app import App

R = TypeVar("R")


class GroupResult(Generic[R]):
    """The handles of a group's members, in their order."""

    def __init__(self, app: App, results: Sequence[AsyncResult[R]]) -> None:
        self.app = app
        self.results = tuple(results)

    def __repr__(self) -> str:
        return f"<GroupResult of {len(self.results)}>"

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[AsyncResult[R]]:
        return iter(self.results)

    def __getitem__(self, index: int) -> AsyncResult[R]:
        return self.results[index]

    def join(self, timeout: float | None = None, propagate: bool = True) -> list[R]:
        """Waits for all results and returns them in the members' order; one wait, however many there are.

        Raises what the first failed member raised as soon as that is known, and `ResultTimeout` after `timeout`
        seconds, as `AsyncResult.get` does.
        """
        for result in self.iterate(timeout):
            if propagate:
                result.get(0)
        return [result.get(0, propagate) for result in self.results]

    get = join

    async def ajoin(self, timeout: float | None = None, propagate: bool = True) -> list[R]:
        """`join` for async code."""
        async with aclosing(self.aiterate(timeout)) as ended:
            async for result in ended:
                if propagate:
                    result._open(result._outcome, timeout, propagate)
        return [result._open(result._outcome, timeout, propagate) for result in self.results]

    aget = ajoin

    def __await__(self) -> Generator[Any, None, list[R]]:
        return self.ajoin().__await__()

    def iterate(self, timeout: float | None = None) -> Iterator[AsyncResult[R]]:
        """Yields the handles as their tasks end, the first to end first."""
        waiting, turns = self._unfinished(), slices(timeout)
        yield from [result for result in self.results if result.id not in waiting]
        while waiting:
            found = self._store(waiting).wait(list(waiting), self._next(turns, timeout))
            yield from self._ended(found, waiting)

    async def aiterate(self, timeout: float | None = None) -> AsyncGenerator[AsyncResult[R], None]:
        """`iterate` for async code; whoever leaves the loop early closes it (`contextlib.aclosing`)."""
        waiting, turns = self._unfinished(), slices(timeout)
        for result in [result for result in self.results if result.id not in waiting]:
            yield result
        while waiting:
            found = await self._store(waiting).await_(list(waiting), self._next(turns, timeout))
            for result in self._ended(found, waiting):
                yield result

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
        """Whether a member has failed."""
        return State.FAILURE in self._states()

    async def afailed(self) -> bool:
        """`failed` for async code."""
        return State.FAILURE in await self._astates()

    def revoke(self, terminate: bool = False) -> None:
        """Revokes all members, as `AsyncResult.revoke` does, in one go."""
        handles = self._whole()
        records = [revoked_record(handle.id, handle.task) for handle in handles]
        revoking_store(self.app).revoke(records, terminate, self.results[0]._mark_ttl(handles))

    async def arevoke(self, terminate: bool = False) -> None:
        """`revoke` for async code."""
        handles = self._whole()
        records = [revoked_record(handle.id, handle.task) for handle in handles]
        await revoking_store(self.app).arevoke(records, terminate, self.results[0]._mark_ttl(handles))

    def _whole(self) -> list[AsyncResult[Any]]:
        return list({handle.id: handle for result in self.results for handle in result._whole()}.values())

    def forget(self) -> None:
        """Drops the results of all members from the store."""
        self._store({"": self.results}).forget(self._forgotten())

    async def aforget(self) -> None:
        """`forget` for async code."""
        await self._store({"": self.results}).aforget(self._forgotten())

    def _forgotten(self) -> list[str]:
        for result in self.results:
            result._outcome = None
        return [result.id for result in self.results]

    def _store(self, waiting: Mapping[str, Sequence[AsyncResult[R]]]) -> ResultStore:
        """The store of them all; raises as `AsyncResult.get` does where one of them has no result to wait for."""
        stores = [result._store() for results in waiting.values() for result in results]
        return stores[0]

    def _unfinished(self) -> dict[str, list[AsyncResult[R]]]:
        """The handles to wait for, by their ids: calls with the same `unique=` share one."""
        found: dict[str, list[AsyncResult[R]]] = {}
        for result in self.results:
            if result._outcome is None:
                found.setdefault(result.id, []).append(result)
        return found

    def _ended(self, found: Mapping[str, Record], waiting: dict[str, list[AsyncResult[R]]]) -> Iterator[AsyncResult[R]]:
        for record in found.values():
            for result in waiting.pop(record.id, ()):
                result._keep(record)
                yield result

    def _next(self, turns: Iterator[float], timeout: float | None) -> float:
        seconds = next(turns, None)
        if seconds is None:
            raise ResultTimeout(f"Not all of the group's {len(self)} results were there within {timeout:g} s.")
        return seconds

    def _states(self) -> list[State]:
        waiting = self._unfinished()
        return self._seen(waiting, self._store(waiting).get(list(waiting)) if waiting else {})

    async def _astates(self) -> list[State]:
        waiting = self._unfinished()
        return self._seen(waiting, await self._store(waiting).aget(list(waiting)) if waiting else {})

    def _seen(self, waiting: Mapping[str, Sequence[AsyncResult[R]]], found: Mapping[str, Record]) -> list[State]:
        for record in found.values():
            for result in waiting[record.id]:
                result._keep(record)
        return [result._outcome.state if result._outcome else State.PENDING for result in self.results]
