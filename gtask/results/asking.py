"""How a caller asks the results service, and how it finds out that none is there. No socket, no thread, no clock.

Each call is a generator, its flow. It yields what is to be done (a `Question`, `More`, a look for `Presence`, a
`Nap`), and the store's blocking or async face does it and sends back what came of it. Design, sections 3 and 4.

A question is a foreground job. A service that holds it says so at once, by a WORK_STATUS. Where no sign comes within
a second, the job servers are asked whether a worker offers the function: a service that is there and busy is waited
for, and only one that is not there is an error. Whoever saw the service in the same call goes on asking for a while:
it is being restarted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from enum import Enum
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

from gtask.errors import GtaskError, JobException, JobFailed, NetworkError, ResultError, ResultsUnavailable
from gtask.results.base import Marks
from gtask.results.checks import is_id
from gtask.results.keyed import Claim, Keyed, Value
from gtask.results.wire import MAX_IDS, Answer, Ask, AskMarks, decode_answer, encode_ask
from gtask.states import Record
from gtask.types import Server

SIGN: Final = 1.0
"""Seconds without any sign after which the job servers are asked whether a results service is there."""

SLICE: Final = 20.0
"""Seconds a service is asked to hold a question; a longer wait asks again, and so finds out that it was restarted."""

OVERDUE: Final = 3.0
"""Seconds beyond the time it was to hold the question after which a service that gave a sign is given up."""

LATE: Final = 0.25
"""Seconds that the answer to the last question of a wait may come after the wait's own time: its way here."""

LOOK: Final = 0.8
"""Seconds all job servers together may take to say whether a results service is there."""

RESTART: Final = 15.0
"""Seconds a service that was there at the beginning of a wait may be away before the wait is given up."""

PATIENCE: Final = 30.0
"""Seconds an answer may take that is not to be waited for: a service that is busy for longer is as good as none."""

UNKNOWN: Final = 10.0
"""Seconds the job servers may leave the question unanswered whether a service is there."""

ROUND: Final = 0.25
"""Seconds to hold each of several questions, where a wait names more ids than one question may."""

MAX_FAILURES: Final = 5
MAX_LOOK: Final = 5.0
FIRST_NAP: Final = 0.05
MAX_NAP: Final = 1.0


class Question(NamedTuple):
    """Ask on one of `servers` (any, if empty), and wait for a sign up to `sign` seconds; it is answered by a `Heard`.

    `workload` is the question. After a sign it may take `hold` seconds, and `limit` in all.
    """

    workload: bytes
    hold: float
    servers: tuple[Server, ...]
    sign: float
    limit: float


class More(NamedTuple):
    """Wait on for a sign or the answer to the same question, so many seconds."""

    sign: float


class Presence(NamedTuple):
    """Ask the job servers on which of them a results service is connected; None when no job server answers.

    All of them together have `limit` seconds.
    """

    limit: float = LOOK


class Nap(NamedTuple):
    """Do nothing for so many seconds."""

    seconds: float


class Silence(Enum):
    """What became of a question that is not answered: no sign of life at all, or one and then no answer in time."""

    NO_SIGN = "no sign"
    NO_ANSWER = "no answer"


Heard = bytes | Silence | GtaskError
Step = Question | More | Presence | Nap
T = TypeVar("T")
Flow = Generator[Step, Any, T]


class Asking:
    """The questions of one call; `now` is a monotonic clock."""

    def __init__(self, servers: Sequence[Server], now: Callable[[], float]) -> None:
        self._servers = servers
        self._now = now
        self._where: tuple[Server, ...] = ()
        self._seen: float | None = None
        self._started = now()
        self._failures = 0

    # --- the calls -------------------------------------------------------------------------------------------

    def get(self, ids: Collection[str]) -> Flow[dict[str, Record]]:
        """Flow of `ResultStore.get`."""
        found: dict[str, Record] = {}
        for chunk in _chunks(ids):
            yield from self._all(chunk, "get", found)
        return found

    def forget(self, ids: Collection[str]) -> Flow[None]:
        """Flow of `ResultStore.forget`."""
        for chunk in _chunks(ids):
            yield from self._at_once(Ask(chunk, 0.0, "forget"))

    def wait(self, ids: Collection[str], timeout: float) -> Flow[dict[str, Record]]:
        """Flow of `ResultStore.wait`."""
        deadline = self._now() + max(0.0, timeout)
        chunks = list(_chunks(ids))
        found: dict[str, Record] = {}
        nap = FIRST_NAP
        turn = 0
        while chunks:
            chunk = chunks[turn % len(chunks)]
            started = self._now()
            hold = min(deadline - started, SLICE)
            if len(chunks) > 1:
                # All of them are looked up once before any is held.
                hold = min(hold, ROUND) if turn >= len(chunks) else 0.0
            turn += 1
            answer = yield from self._ask(Ask(chunk, max(0.0, hold), "wait"), deadline)
            if answer is None:
                break
            if answer.records:
                found.update((record.id, record) for record in answer.records)
                if answer.more:
                    yield from self._all(chunk, "wait", found)
                # What else is ready, among ids that this question did not name.
                for other in chunks if len(chunks) > 1 else ():
                    yield from self._all(other, "wait", found)
                break
            now = self._now()
            if now >= deadline and turn >= len(chunks):
                break
            if now - started < hold / 2:
                # It was not held: the service is stopping, or has too many questions.
                yield Nap(min(nap, deadline - now))
                nap = min(nap * 2, MAX_NAP)
        return found

    def _all(self, chunk: tuple[str, ...], mode: str, found: dict[str, Record]) -> Flow[None]:
        """Asks at once, again and again while an answer says that it left something out."""
        more = True
        while more:
            left = tuple(id for id in chunk if id not in found)
            if not left:
                return
            answer = yield from self._at_once(Ask(left, 0.0, mode))
            found.update((record.id, record) for record in answer.records)
            more = answer.more and bool(answer.records)

    def keyed(self, ask: Keyed) -> Flow[Value]:
        """Flow of `KeyedStore.keyed`."""
        answer = yield from self._at_once(ask)
        return answer.id if isinstance(ask, Claim) else answer.value

    def revoked(self, cursor: str, timeout: float) -> Flow[Marks]:
        """Flow of `ResultStore.revoked`."""
        deadline = self._now() + max(0.0, timeout)
        nap = FIRST_NAP
        while True:
            started = self._now()
            hold = max(0.0, min(deadline - started, SLICE))
            answer = yield from self._ask(AskMarks(cursor, hold), deadline)
            marks = Marks([], cursor) if answer is None or answer.marks is None else answer.marks
            now = self._now()
            if answer is None or marks.marks or now >= deadline:
                return marks
            cursor = marks.cursor
            if now - started < hold / 2:
                # It was not held, as in `wait`.
                yield Nap(min(nap, deadline - now))
                nap = min(nap * 2, MAX_NAP)

    def _at_once(self, ask: Ask | Keyed) -> Flow[Answer]:
        answer = yield from self._ask(ask, self._now() + PATIENCE)
        if answer is None:
            raise ResultsUnavailable(
                f"The results service is connected but did not answer within {PATIENCE:g} s: it has too much to do, or "
                "it hangs. See its log."
            )
        return answer

    # --- one question ----------------------------------------------------------------------------------------

    def _ask(self, ask: Ask | AskMarks | Keyed, deadline: float) -> Flow[Answer | None]:
        """Asks until there is an answer; None when the time is over and a service is there."""
        again = False
        asked = False
        while True:
            left = max(0.0, deadline - self._now())
            hold = 0.0
            if isinstance(ask, Ask | AskMarks):
                hold = min(ask.timeout, left)
                ask = ask._replace(timeout=hold)
            workload = encode_ask(ask)
            # A caller who waits for two seconds is not kept for five by a service that has fallen silent.
            limit = left + LATE if asked else max(left + LATE, SIGN)
            heard: Heard = yield Question(workload, min(hold + OVERDUE, limit), self._where, min(SIGN, limit), limit)
            look = SIGN
            while heard is Silence.NO_SIGN:
                # The first look has its whole time: without it, it could not be said that no service is there.
                left = deadline - self._now()
                serving: tuple[Server, ...] | None = yield Presence(min(LOOK, max(left, LATE)) if asked else LOOK)
                self._judge(serving)
                asked = True
                if self._now() >= deadline:
                    return None
                if serving and (not again or len(serving) < len(self._where or self._servers)):
                    # Not everywhere: the question may be waiting where nobody will take it. Everywhere: it may have
                    # gone out over a connection that is dead, so it is asked once more, over another one.
                    self._where = serving
                    again = True
                    break
                heard = yield More(max(0.01, min(look, deadline - self._now())))
                look = min(look * 2, MAX_LOOK)
            if isinstance(heard, bytes):
                self._seen = self._now()
                self._failures = 0
                return self._read(heard)
            if heard is Silence.NO_ANSWER:
                self._seen = self._now()
            elif isinstance(heard, GtaskError):
                yield from self._failed(heard, deadline)
            asked = True
            if self._now() >= deadline:
                return None

    def _read(self, data: bytes) -> Answer:
        answer = decode_answer(data)
        if isinstance(answer, str):
            raise ResultError(f"The results service refused: {answer}")
        return answer

    def _judge(self, serving: tuple[Server, ...] | None) -> None:
        """Raises `ResultsUnavailable` when no service is there; one that was there a moment ago may come back."""
        now = self._now()
        if serving:
            return
        if self._seen is not None and now - self._seen < RESTART:
            return
        if serving is None and self._seen is None and now - self._started < UNKNOWN:
            return
        raise unavailable(self._servers)

    def _failed(self, error: GtaskError, deadline: float) -> Flow[None]:
        """A question failed: goes on where another one may succeed."""
        now = self._now()
        if isinstance(error, JobFailed | JobException):
            # The service died with it too often, or is another program.
            self._failures += 1
            if self._failures >= MAX_FAILURES:
                raise ResultsUnavailable(
                    f"The results service fails ({error}); see its log, and whether others offer its functions."
                ) from error
        elif not isinstance(error, NetworkError):
            raise error
        elif self._seen is None:
            if not isinstance(error, TimeoutError) or now - self._started >= UNKNOWN:
                raise ResultsUnavailable(f"Results cannot be had: {error}") from error
        elif now - self._seen >= RESTART:
            raise ResultsUnavailable(f"Results cannot be had any more: {error}") from error
        self._where = ()
        yield Nap(max(0.0, min(MAX_NAP, FIRST_NAP * 2**self._failures, deadline - now)))


def unavailable(servers: Sequence[Server]) -> ResultsUnavailable:
    """The error for job servers without a results service; it names the ways out."""
    return ResultsUnavailable(
        f"No results service is connected to {', '.join(map(str, servers))}, so no result can be had there. Start "
        "`gtask results`, or `gtask server`, which includes it, or `gtask worker` with `--with-results FILE`; or "
        'create the App with results="sqlite:///results.db"; or use call(), whose answer needs no store.'
    )


def _chunks(ids: Collection[str]) -> Iterator[tuple[str, ...]]:
    """The ids that can be known to a store, without duplicates, as many as one question may name."""
    rest = iter(dict.fromkeys(id for id in ids if is_id(id)))
    while chunk := tuple(islice(rest, MAX_IDS)):
        yield chunk
