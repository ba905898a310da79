"""Jobs, the functions they wait for and the peers that want or run them: tables, without rules. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

HIGH: Final = 0
NORMAL: Final = 1
LOW: Final = 2

WAITING: Final = 0
"""An epoch job whose time has not come."""
QUEUED: Final = 1
RUNNING: Final = 2
ENDED: Final = 3

COMPACT_AT: Final = 1024
"""Dead entries a queue may hold before it is swept, unless more of it is alive."""

JOB_SIZE: Final = 800
"""Bytes that a job takes beside its workload: about 650 were measured, and the tables it is in grow by doubling."""

DASH: Final = b"-"
"""The unique that stands for the data itself (protocol reference, section 11)."""

MAX_CLIENT_ID: Final = 127
"""Bytes of a client id that are kept (protocol reference, section 3)."""


class Job:
    """One job: what was submitted, who wants it and who runs it.

    `key` is the unique under which it is stored, which is never empty. `clients` are the attached foreground
    callers, one entry for each submission. `size` is how many bytes it takes in memory, or about that.
    """

    __slots__ = (
        "background",
        "cancelled",
        "clients",
        "data",
        "denominator",
        "function",
        "handle",
        "key",
        "numerator",
        "priority",
        "reducer",
        "retries",
        "size",
        "state",
        "timer",
        "unique",
        "when",
        "worker",
    )

    def __init__(self, handle: bytes, function: Function, unique: bytes, data: bytes, priority: int) -> None:
        self.handle = handle
        self.function = function
        self.unique = unique
        self.data = data
        self.size = JOB_SIZE + len(data)
        self.priority = priority
        self.key = unique
        self.when = 0
        self.reducer: bytes | None = None
        self.background = False
        self.cancelled = False
        self.clients: tuple[Peer, ...] = ()
        self.worker: Peer | None = None
        self.state = QUEUED
        self.retries = 0
        self.numerator = 0
        self.denominator = 0
        self.timer: Timer | None = None

    @property
    def ignored(self) -> bool:
        """Whether nobody wants the job's outcome: its callers left, or it was cancelled."""
        return self.cancelled or not (self.background or self.clients)


Timer = tuple[float, int, Job]
"""When a job is to be looked at, a number that keeps the order of equal times, and the job."""


class Function:
    """One function: its queues, its workers and the uniques in use.

    `queues` are three, first come first served, HIGH to LOW; `counts` says how many live jobs each holds, and
    `ready` how many together. A job that leaves from the middle stays in its queue as a dead entry, so that leaving
    costs nothing, and is swept later.
    """

    __slots__ = (
        "counts",
        "created",
        "dashes",
        "dead",
        "limits",
        "name",
        "pending",
        "queues",
        "ready",
        "running",
        "sleepers",
        "uniques",
        "waiting",
        "workers",
    )

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.queues: tuple[deque[Job], deque[Job], deque[Job]] = (deque(), deque(), deque())
        self.counts = [0, 0, 0]
        self.ready = 0
        self.dead = 0
        self.waiting = 0
        self.running = 0
        self.workers = 0
        self.pending = 0
        """Workers that were woken and have not grabbed yet."""
        self.sleepers: OrderedDict[Peer, None] = OrderedDict()
        self.uniques: dict[bytes, Job] = {}
        self.dashes: dict[bytes, Job] = {}
        self.limits: tuple[int, int, int] | None = None
        self.created = False

    @property
    def total(self) -> int:
        """Jobs queued, waiting for their time and running."""
        return self.ready + self.waiting + self.running

    @property
    def idle(self) -> bool:
        """Whether nothing would be lost if the function were forgotten."""
        return not (self.workers or self.limits or self.created or self.ready or self.waiting or self.running)

    def push(self, job: Job) -> None:
        """Puts a job at the tail of its queue."""
        priority = job.priority
        job.state = QUEUED
        self.queues[priority].append(job)
        self.counts[priority] += 1
        self.ready += 1

    def pop(self) -> Job:
        """Takes the first job of the highest priority; there must be one (`ready`)."""
        counts = self.counts
        priority = 0 if counts[0] else 1 if counts[1] else 2
        queue = self.queues[priority]
        job = queue.popleft()
        while job.state != QUEUED:
            self.dead -= 1
            job = queue.popleft()
        counts[priority] -= 1
        self.ready -= 1
        return job

    def drop(self, job: Job) -> None:
        """Takes a queued job out from wherever it is in its queue."""
        job.state = ENDED
        job.data = b""
        self.counts[job.priority] -= 1
        self.ready -= 1
        self.dead += 1
        if self.dead > COMPACT_AT and self.dead > self.ready:
            for queue in self.queues:
                living = [other for other in queue if other.state == QUEUED]
                queue.clear()
                queue.extend(living)
            self.dead = 0

    def find(self, unique: bytes, data: bytes) -> Job | None:
        """The job a submission with this unique joins, if there is one (protocol reference, section 11)."""
        if unique == DASH:
            return self.dashes.get(data) if data else None
        return self.uniques.get(unique) if unique else None

    def index(self, job: Job) -> None:
        """Makes a job findable by its unique."""
        if job.unique == DASH:
            if job.data:
                self.dashes[job.data] = job
        elif job.unique:
            self.uniques[job.unique] = job

    def unindex(self, job: Job) -> None:
        """Makes a job no longer findable, so that a new submission starts afresh."""
        if job.unique == DASH:
            if self.dashes.get(job.data) is job:
                del self.dashes[job.data]
        elif self.uniques.get(job.unique) is job:
            del self.uniques[job.unique]


class Peer:
    """One connection: client, worker, admin, or all of them at once.

    `descriptor` and `address` are only shown, in ``workers``. `functions` are what it can do, in the order of
    registration, with the time limit in seconds in `abilities` (0: none); `turn` is where the next grab starts
    looking. `running` are the jobs it holds, by handle; `waiting` those it waits for.
    """

    __slots__ = (
        "abilities",
        "address",
        "client_id",
        "descriptor",
        "exceptions",
        "functions",
        "gone",
        "running",
        "sleeping",
        "turn",
        "waiting",
    )

    def __init__(self, descriptor: int = 0, address: str = "", exceptions: bool = False) -> None:
        self.descriptor = descriptor
        self.address = address
        self.exceptions = exceptions
        self.client_id = b"-"
        self.functions: list[Function] = []
        self.abilities: dict[Function, float] = {}
        self.turn = 0
        self.running: dict[bytes, Job] = {}
        self.waiting: dict[Job, None] = {}
        self.sleeping = False
        self.gone = False
