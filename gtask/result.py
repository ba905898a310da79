"""The handle of a task that was sent: `AsyncResult`, and `GroupResult` for several. Design, sections 2 to 4.

The name is Celery's; the handle blocks in `get()` and can be awaited in async code. It is only an id and what is
needed to read the record behind it, so it can be made anew in any process: `app.AsyncResult(id)`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeVar

from gtask.errors import ResultError, ResultTimeout, StoreRequired
from gtask.failures import rebuild
from gtask.results.base import ResultStore
from gtask.results.records import record_to_outcome
from gtask.states import ErrorInfo, Outcome, Record, State

if TYPE_CHECKING:
    from gtask.app import App

R = TypeVar("R")

SLICE: Final = 3600.0
"""Seconds of one question to the store; a longer wait asks again. Long, so that the store knows what it saw before."""

NO_STORE: Final = (
    "This App has no result store, so a background job's result cannot be had. Create it with results='gearman://' "
    "(and run `gtask results`, or `gtask server`, which includes it) or results='sqlite:///results.db', or use call(), "
    "whose answer comes back on the connection."
)


class AsyncResult(Generic[R]):
    """The handle of one task.

    `id` is the task's id, `task` its name where it is known, `parent` the handle of the step before in a chain.
    """

    def __init__(
        self,
        app: App,
        id: str,
        task: str | None = None,
        parent: AsyncResult[Any] | None = None,
        ignored: bool = False,
    ) -> None:
        self.app = app
        self.id = id
        self.task = task
        self.parent = parent
        self._ignored = ignored
        self._outcome: Outcome | None = None

    def __repr__(self) -> str:
        return f"<AsyncResult {self.id}{f' of {self.task}' if self.task else ''}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"A handle cannot be pickled. Send its id ({self.id}) and write app.AsyncResult(id) there.")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncResult) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    # --- waiting ---------------------------------------------------------------------------------------------

    def get(self, timeout: float | None = None, propagate: bool = True) -> R:
        """Waits for the result and returns it.

        `timeout` is in seconds, None for as long as it takes. Raises what the task raised (unless `propagate` is
        false: then the exception is returned), `ResultTimeout` when the time is over, `ResultsUnavailable` within two
        seconds when no results service answers, `StoreRequired` when the App has no store.
        """
        return self._open(self._wait(timeout), timeout, propagate)

    async def aget(self, timeout: float | None = None, propagate: bool = True) -> R:
        """`get` for async code; `await result` is the same without a timeout."""
        return self._open(await self._await(timeout), timeout, propagate)

    def __await__(self) -> Generator[Any, None, R]:
        return self.aget().__await__()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the task has ended, in whatever way; false when `timeout` seconds were over first."""
        return self._wait(timeout) is not None

    async def await_(self, timeout: float | None = None) -> bool:
        """`wait` for async code."""
        return await self._await(timeout) is not None

    def _wait(self, timeout: float | None) -> Outcome | None:
        if self._outcome is None:
            store = self._store()
            for seconds in _slices(timeout):
                self._keep(store.wait([self.id], seconds).get(self.id))
                if self._outcome is not None:
                    break
        return self._outcome

    async def _await(self, timeout: float | None) -> Outcome | None:
        if self._outcome is None:
            store = self._store()
            for seconds in _slices(timeout):
                self._keep((await store.await_([self.id], seconds)).get(self.id))
                if self._outcome is not None:
                    break
        return self._outcome

    def _open(self, outcome: Outcome | None, timeout: float | None, propagate: bool) -> R:
        if outcome is None:
            raise ResultTimeout(
                f"The result of {self.task or 'task'} {self.id} was not there "
                f"{'in time' if timeout is None else f'within {timeout:g} s'}; "
                "the task may still be waiting or running: call get() again, or see `gtask status`."
            )
        error = self._error(outcome)
        if error is None:
            value: R = outcome.value
            return value
        if propagate:
            raise error
        return error  # type: ignore[return-value]

    def _error(self, outcome: Outcome) -> BaseException | None:
        if outcome.state is State.SUCCESS:
            return None
        info = outcome.error or ErrorInfo("", "The task ended without saying why.")
        return rebuild(info, self.app.throws_of(outcome.task or self.task))

    def _keep(self, record: Record | None) -> Outcome | None:
        if record is None:
            return None
        outcome = record_to_outcome(record, self.app.returns_of(self.task))
        if outcome.ready:
            self._outcome = outcome
        return outcome

    def _store(self) -> ResultStore:
        store = self.app.store
        if store is None:
            raise StoreRequired(NO_STORE)
        if self._ignored:
            raise ResultError(
                f"{self.task} was sent with ignore_result, so there is no result to wait for; "
                "send it without, or set ignore_result=False for this call."
            )
        return store

    # --- looking ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Where the task stands now: asks the store and, where that knows nothing, the job servers.

        It is UNKNOWN where nobody knows the id: one of a task that has ended, too, when no result was stored.
        """
        outcome = self._look() if self._stored else None
        if outcome is not None and outcome.state is not State.PENDING:
            return outcome.state
        state = self.app.state_on_servers(self.id)
        if state is State.UNKNOWN and self.parent is not None and not self.parent.state.ready:
            # A later step of a chain is known to nobody before the step in front of it has ended.
            return State.PENDING
        return state

    status = state

    async def astate(self) -> State:
        """`state` for async code."""
        outcome = await self._alook() if self._stored else None
        if outcome is not None and outcome.state is not State.PENDING:
            return outcome.state
        state = await self.app.astate_on_servers(self.id)
        if state is State.UNKNOWN and self.parent is not None and not (await self.parent.astate()).ready:
            return State.PENDING
        return state

    @property
    def _stored(self) -> bool:
        return self.app.store is not None and not self._ignored

    def _look(self) -> Outcome | None:
        if self._outcome is not None:
            return self._outcome
        return self._keep(self._store().get([self.id]).get(self.id))

    async def _alook(self) -> Outcome | None:
        if self._outcome is not None:
            return self._outcome
        return self._keep((await self._store().aget([self.id])).get(self.id))

    @property
    def result(self) -> Any:
        """The result, or the exception, as far as it is there now; None before."""
        outcome = self._look()
        if outcome is None or not outcome.ready:
            return None
        return self._error(outcome) or outcome.value

    @property
    def traceback(self) -> str | None:
        """The remote traceback of a task that failed, else None."""
        outcome = self._look()
        return outcome.error.traceback if outcome is not None and outcome.error is not None else None

    @property
    def info(self) -> Outcome | None:
        """Everything that is stored of the task: times, retries, worker; None when nothing is."""
        return self._look()

    @property
    def children(self) -> tuple[AsyncResult[Any], ...]:
        """The handles of the tasks that this one sent when it ended, as far as they are stored."""
        outcome = self._look()
        return tuple(AsyncResult(self.app, child) for child in outcome.children) if outcome is not None else ()

    def ready(self) -> bool:
        """Whether the task has ended."""
        outcome = self._look()
        return outcome is not None and outcome.ready

    async def aready(self) -> bool:
        """`ready` for async code."""
        outcome = await self._alook()
        return outcome is not None and outcome.ready

    def successful(self) -> bool:
        """Whether the task has ended well."""
        outcome = self._look()
        return outcome is not None and outcome.state is State.SUCCESS

    def failed(self) -> bool:
        """Whether the task has failed."""
        outcome = self._look()
        return outcome is not None and outcome.state is State.FAILURE

    async def asuccessful(self) -> bool:
        """`successful` for async code."""
        return await self.aready() and self.successful()

    async def afailed(self) -> bool:
        """`failed` for async code."""
        return await self.aready() and self.failed()

    def forget(self) -> None:
        """Drops the result from the store."""
        self._store().forget([self.id])
        self._outcome = None

    async def aforget(self) -> None:
        """`forget` for async code."""
        await self._store().aforget([self.id])
        self._outcome = None


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
        waiting, slices = self._unfinished(), _slices(timeout)
        yield from [result for result in self.results if result.id not in waiting]
        while waiting:
            found = self._store(waiting).wait(list(waiting), self._next(slices, timeout))
            yield from self._ended(found, waiting)

    async def aiterate(self, timeout: float | None = None) -> AsyncGenerator[AsyncResult[R], None]:
        """`iterate` for async code; whoever leaves the loop early closes it (`contextlib.aclosing`)."""
        waiting, slices = self._unfinished(), _slices(timeout)
        for result in [result for result in self.results if result.id not in waiting]:
            yield result
        while waiting:
            found = await self._store(waiting).await_(list(waiting), self._next(slices, timeout))
            for result in self._ended(found, waiting):
                yield result

    def completed_count(self) -> int:
        """How many members have succeeded."""
        return sum(self._states(lambda state: state is State.SUCCESS))

    def ready(self) -> bool:
        """Whether all members have ended."""
        return all(self._states(lambda state: state.ready))

    def successful(self) -> bool:
        """Whether all members have ended well."""
        return all(self._states(lambda state: state is State.SUCCESS))

    def failed(self) -> bool:
        """Whether a member has failed."""
        return any(self._states(lambda state: state is State.FAILURE))

    def forget(self) -> None:
        """Drops the results of all members from the store."""
        self._store({"": self.results}).forget([result.id for result in self.results])
        for result in self.results:
            result._outcome = None

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

    def _next(self, slices: Iterator[float], timeout: float | None) -> float:
        seconds = next(slices, None)
        if seconds is None:
            raise ResultTimeout(f"Not all of the group's {len(self)} results were there within {timeout:g} s.")
        return seconds

    def _states(self, is_so: Callable[[State], bool]) -> list[bool]:
        waiting = self._unfinished()
        if waiting:
            for record in self._store(waiting).get(list(waiting)).values():
                for result in waiting[record.id]:
                    result._keep(record)
        return [is_so(result._outcome.state if result._outcome else State.PENDING) for result in self.results]


def _slices(timeout: float | None) -> Iterator[float]:
    """Seconds for each question to the store: one question at least, the last one until `timeout` seconds are over."""
    if timeout is None:
        while True:
            yield SLICE
    deadline, left = time.monotonic() + timeout, max(0.0, timeout)
    while True:
        yield min(left, SLICE)
        left = deadline - time.monotonic()
        if left <= 0:
            return
