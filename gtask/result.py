"""The handle of a task that was sent: `AsyncResult`. Design, sections 2 to 4.

The name is Celery's; the handle blocks in `get()` and can be awaited in async code. It is only an id and what is
needed to read the record behind it, so it can be made anew in any process: `app.AsyncResult(id)`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Generator, Iterator
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeGuard, TypeVar

import anyio

from gtask.errors import (
    ConfigurationError,
    NetworkError,
    ResultError,
    ResultsUnavailable,
    ResultTimeout,
    StoreRequired,
)
from gtask.failures import rebuild
from gtask.known import ais_unknown, is_unknown
from gtask.progress import Progress, seen
from gtask.results.base import ResultStore
from gtask.results.records import record_to_outcome
from gtask.revoking import arevoke, revoke
from gtask.states import ErrorInfo, Outcome, Record, State
from gtask.waiting import (
    LOOK,
    NAP,
    NO_STORE,
    WORD,
    Watch,
    check_wait,
    in_time,
    lending,
    nobody_knows,
    slices,
    sync_subtasks,
)

if TYPE_CHECKING:
    from gtask.app import App
    from gtask.group_result import GroupResult

R = TypeVar("R")


class AsyncResult(Generic[R]):
    """The handle of one task.

    `id` is the task's id, `task` its name where it is known, `parent` the handle of the step before in a chain,
    which is a `GroupResult` for the body of a chord.
    """

    def __init__(
        self,
        app: App,
        id: str,
        task: str | None = None,
        parent: AsyncResult[Any] | GroupResult[Any] | None = None,
        ignored: bool = False,
    ) -> None:
        self.app = app
        self.id = id
        self.task = task
        self.parent = parent
        self._ignored = ignored
        self._outcome: Outcome | None = None
        self._due: float | None = None
        """The Unix time before which the task does not run, where this handle knows it."""
        self._many = False
        """Whether its result is a list of those of the task, since it runs over a list."""
        self._before: tuple[AsyncResult[Any], ...] = (parent,) if isinstance(parent, AsyncResult) else ()
        """What has to end before anybody knows this task: the step before in a chain, the members of a chord."""

    def __repr__(self) -> str:
        return f"<AsyncResult {self.id}{f' of {self.task}' if self.task else ''}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"A handle cannot be pickled. Send its id ({self.id}) and write app.AsyncResult(id) there.")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncResult) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    # --- waiting ---------------------------------------------------------------------------------------------

    def get(self, timeout: float | None = None, propagate: bool = True, disable_sync_subtasks: bool = True) -> R:
        """Waits for the result and returns it.

        `timeout` is in seconds, None for as long as it takes. Raises what the task raised (unless `propagate` is
        false: then the exception is returned), `ResultTimeout` when the time is over, `ResultsUnavailable` within two
        seconds when no results service answers, `StoreRequired` when the App has no store. Without a timeout
        `ResultError` is raised when nobody has known the id for a minute: a job server without a queue file forgets
        its jobs. A later step of a chain whose handle was made from its id alone is unknown as well until its turn
        comes; give a timeout there.
        """
        begun = time.monotonic()
        with sync_subtasks(disable_sync_subtasks):
            outcome = self._wait(timeout)
        if outcome is None and timeout and in_time(begun, timeout) and self._unknown(WORD):
            raise ResultTimeout(self._late(timeout) + nobody_knows(self.app))
        return self._open(outcome, timeout, propagate)

    async def aget(self, timeout: float | None = None, propagate: bool = True, disable_sync_subtasks: bool = True) -> R:
        """`get` for async code; `await result` is the same without a timeout."""
        begun = time.monotonic()
        with sync_subtasks(disable_sync_subtasks):
            outcome = await self._await(timeout)
        if outcome is None and timeout and in_time(begun, timeout) and await self._aunknown(WORD):
            raise ResultTimeout(self._late(timeout) + nobody_knows(self.app))
        return self._open(outcome, timeout, propagate)

    def __await__(self) -> Generator[Any, None, R]:
        return self.aget().__await__()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the task has ended, in whatever way; false when `timeout` seconds were over first."""
        return self._wait(timeout) is not None

    async def await_(self, timeout: float | None = None) -> bool:
        """`wait` for async code."""
        return await self._await(timeout) is not None

    def _wait(self, timeout: float | None) -> Outcome | None:
        if self._outcome is not None:
            return self._outcome
        check_wait(self, timeout)
        store, watch = self._store(), Watch(self)
        for seconds in slices(timeout, LOOK):
            try:
                self._keep(store.wait([self.id], seconds).get(self.id))
            except ResultsUnavailable as error:
                if timeout is not None or watch.gone(error):
                    raise
                time.sleep(NAP)
                continue
            if self._outcome is not None:
                break
            if timeout is None:
                watch.looked(self._unknown())
        return self._outcome

    async def _await(self, timeout: float | None) -> Outcome | None:
        if self._outcome is not None:
            return self._outcome
        with lending(self, timeout):
            return await self._alent(timeout)

    async def _alent(self, timeout: float | None) -> Outcome | None:
        store, watch = self._store(), Watch(self)
        for seconds in slices(timeout, LOOK):
            try:
                self._keep((await store.await_([self.id], seconds)).get(self.id))
            except ResultsUnavailable as error:
                if timeout is not None or watch.gone(error):
                    raise
                await anyio.sleep(NAP)
                continue
            if self._outcome is not None:
                break
            if timeout is None:
                watch.looked(await self._aunknown())
        return self._outcome

    def _unknown(self, limit: float | None = None) -> bool:
        return is_unknown(self, limit)

    async def _aunknown(self, limit: float | None = None) -> bool:
        return await ais_unknown(self, limit)

    def _late(self, timeout: float | None) -> str:
        within = "in time" if timeout is None else f"within {timeout:g} s"
        return f"The result of {self.task or 'task'} {self.id} was not there {within}. "

    def _open(self, outcome: Outcome | None, timeout: float | None, propagate: bool) -> R:
        if outcome is None:
            raise ResultTimeout(
                f"{self._late(timeout)}The task may still be waiting or running: call get() again, or see "
                "`gtask status`."
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
        returns = self.app.returns_of(self.task)
        outcome = record_to_outcome(record, GenericAlias(list, returns) if self._many else returns)
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

    # --- revoking --------------------------------------------------------------------------------------------

    def revoke(self, terminate: bool = False) -> None:
        """Revokes the task: it is not run, and whoever waits for it gets `TaskRevoked` at once.

        With it are revoked the steps before it in a chain and the members of its chord, as far as this handle knows
        them, the steps behind it, and what its tasks have sent themselves. A task that runs already runs on, its result
        is not kept and nothing follows from it; with `terminate` it is stopped, in the pools prefork, solo and async
        (async functions there). What has ended keeps its result. It holds for every worker, those that are started
        later too, for `result_expires` seconds, or as long as the call is delayed. Raises `StoreRequired` when the App
        has no store, and `ConfigurationError` when its store keeps no marks.
        """
        revoke(self.app, [self], terminate)

    async def arevoke(self, terminate: bool = False) -> None:
        """`revoke` for async code."""
        await arevoke(self.app, [self], terminate)

    # --- looking ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Where the task stands now: asks the store and, where that knows nothing, the job servers.

        It is UNKNOWN where nobody knows the id: one of a task that has ended, too, when no result was stored.
        """
        outcome = self._look() if self._stored else None
        if _is_final(outcome):
            return outcome.state
        try:
            state = self.app.state_on_servers(self.id)
        except NetworkError:
            if outcome is None or outcome.state is State.PENDING:
                raise
            return outcome.state
        state = _merged(outcome, state)
        if state is State.UNKNOWN and self.parent is not None and not self.parent.state.ready:
            # A later step of a chain is known to nobody before the step in front of it has ended.
            return State.PENDING
        return state

    status = state

    async def astate(self) -> State:
        """`state` for async code."""
        outcome = await self._alook() if self._stored else None
        if _is_final(outcome):
            return outcome.state
        try:
            state = await self.app.astate_on_servers(self.id)
        except NetworkError:
            if outcome is None or outcome.state is State.PENDING:
                raise
            return outcome.state
        state = _merged(outcome, state)
        if state is State.UNKNOWN and self.parent is not None and not (await self.parent.astate()).ready:
            return State.PENDING
        return state

    @property
    def progress(self) -> Progress | None:
        """How far the task is, by what it says with `TaskContext.progress`; None where it runs not, or says nothing.

        Asks the job servers and, for the message, the store. It works in any process that has the id.
        """
        return seen(self.app.jobs_on_servers(self.id), self._look() if self._stored else None)

    async def aprogress(self) -> Progress | None:
        """`progress` for async code."""
        return seen(await self.app.ajobs_on_servers(self.id), await self._alook() if self._stored else None)

    def stream(self) -> Iterator[Any]:
        """Not possible: nobody listens to a background job. Raises `ConfigurationError`, which says what to write."""
        raise ConfigurationError(
            f"A background job sends no stream. Write {self.task or 'task'}.stream(...) to read its items as they "
            "come, or get() for the whole list."
        )

    def astream(self) -> AsyncIterator[Any]:
        """Not possible, as `stream`."""
        raise ConfigurationError(
            f"A background job sends no stream. Write {self.task or 'task'}.astream(...) to read its items as they "
            "come, or `await result` for the whole list."
        )

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


def _is_final(outcome: Outcome | None) -> TypeGuard[Outcome]:
    return outcome is not None and outcome.ready


def _merged(outcome: Outcome | None, on_servers: State) -> State:
    """The state of a task that has not ended, from what is stored of it and what the job servers say."""
    if outcome is None or outcome.state is State.PENDING:
        return on_servers
    if outcome.state is State.RETRY:
        # It is a retry until it runs again.
        return on_servers if on_servers in (State.STARTED, State.PROGRESS) else State.RETRY
    return outcome.state if on_servers is State.UNKNOWN else on_servers
