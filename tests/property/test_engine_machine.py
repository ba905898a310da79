"""The engine as a state machine, against a model that is too simple to be wrong.

The model keeps a list of jobs for each function and priority. Whatever order requests come in: every accepted job is
queued, running or ended; no job has two workers; inside a priority the first goes first; the stored rows are exactly
the background jobs that have not ended; and nobody sleeps while there is work that nobody was woken for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from gtask.protocol.admin import Command
from gtask.protocol.packets import Packet, PacketType
from gtask.server.effects import Close, Effect, Forget, Persist, Send
from gtask.server.engine import Engine
from gtask.server.jobs import RUNNING, Peer
from gtask.server.state import WAKE_AGAIN

T = PacketType
FUNCTIONS = (b"a", b"b")
SUBMIT = {
    (0, True): T.SUBMIT_JOB_HIGH_BG,
    (1, True): T.SUBMIT_JOB_BG,
    (2, True): T.SUBMIT_JOB_LOW_BG,
    (0, False): T.SUBMIT_JOB_HIGH,
    (1, False): T.SUBMIT_JOB,
    (2, False): T.SUBMIT_JOB_LOW,
}


@dataclass(eq=False)
class Model:
    """What the test knows of one job."""

    handle: bytes
    function: bytes
    unique: bytes
    data: bytes
    priority: int
    background: bool
    clients: list[Client] = field(default_factory=list)
    when: float = 0.0
    worker: Client | None = None
    cancelled: bool = False

    @property
    def wanted(self) -> bool:
        return not self.cancelled and (self.background or bool(self.clients))


@dataclass(eq=False)
class Client:
    """One connection and what the test knows of it."""

    peer: Peer
    abilities: set[bytes] = field(default_factory=set)
    inbox: list[bytes] = field(default_factory=list)
    sleeping: bool = False
    woken: float | None = None
    """When it was woken, until it grabs or a second has passed."""

    def take(self) -> list[tuple[int, bytes]]:
        """Everything received since the last look: type and body."""
        found = [(int.from_bytes(data[4:8], "big"), data[12:]) for data in self.inbox]
        self.inbox.clear()
        return found


class EngineMachine(RuleBasedStateMachine):
    """Requests in any order."""

    clients = Bundle("clients")

    @initialize(target=clients)
    def start(self) -> MultipleResults[Client]:
        self.engine = Engine()
        self.now = 1_000_000.0
        self.stored: set[bytes] = set()
        self.peers: dict[Peer, Client] = {}
        self.queue: list[Model] = []
        self.later: list[Model] = []
        self.running: list[Model] = []
        self.count = 0
        # Sleepers with different abilities, so that what wakes whom is tried from the first step.
        found = [self.connect(abilities) for abilities in ({b"a"}, {b"a", b"b"}, {b"a"}, set[bytes]())]
        for client in found:
            self.put_to_sleep(client)
        return multiple(*found)

    # --- plumbing --------------------------------------------------------------------------------------------

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(peer, data, job):
                    assert job is None or job.handle in self.stored
                    client = self.peers[peer]
                    if data[7] == T.NOOP:
                        # Only sleepers are woken, and PRE_SLEEP itself may be answered so.
                        assert client.sleeping, "NOOP to a connection that does not sleep"
                        client.sleeping = False
                        client.woken = self.now if client.woken is None else client.woken
                    else:
                        client.inbox.append(data)
                case Persist(job):
                    assert job.handle not in self.stored
                    self.stored.add(job.handle)
                case Forget(job):
                    self.stored.discard(job.handle)
                case Close():
                    raise AssertionError("nothing here breaks the protocol")

    def send(self, client: Client, type: PacketType, *args: bytes) -> list[tuple[int, bytes]]:
        self.perform(self.engine.handle(client.peer, Packet(type, args), self.now))
        return client.take()

    def every(self) -> list[Model]:
        return [*self.queue, *self.later, *self.running]

    def find(self, function: bytes, unique: bytes) -> Model | None:
        found = [j for j in self.every() if unique and (j.function, j.unique) == (function, unique) and not j.cancelled]
        assert len(found) <= 1
        return found[0] if found else None

    def end(self, job: Model) -> None:
        for jobs in (self.queue, self.later, self.running):
            if job in jobs:
                jobs.remove(job)

    def put_to_sleep(self, client: Client) -> None:
        client.sleeping = True
        assert self.send(client, T.PRE_SLEEP) == []
        ready = any(job.function in client.abilities for job in self.queue)
        assert client.sleeping != ready
        if not ready:
            client.woken = None

    # --- rules -----------------------------------------------------------------------------------------------

    def connect(self, abilities: set[bytes]) -> Client:
        client = Client(Peer())
        self.peers[client.peer] = client
        self.perform(self.engine.connected(client.peer, self.now))
        for function in abilities:
            assert self.send(client, T.CAN_DO, function) == []
        client.abilities = set(abilities)
        return client

    @rule(
        client=clients,
        function=st.sampled_from(FUNCTIONS),
        unique=st.sampled_from([b"", b"", b"u", b"v"]),
        priority=st.integers(0, 2),
        background=st.booleans(),
        delay=st.sampled_from([0, 0, 0, 3]),
    )
    def submit(
        self, client: Client, function: bytes, unique: bytes, priority: int, background: bool, delay: int
    ) -> None:
        self.count += 1
        data = b"%d" % self.count
        joined = self.find(function, unique)
        if delay:
            priority, background = 1, True
            answer = self.send(client, T.SUBMIT_JOB_EPOCH, function, unique, b"%d" % (self.now + delay), data)
        else:
            answer = self.send(client, SUBMIT[priority, background], function, unique, data)
        ((type, handle),) = answer
        assert type == T.JOB_CREATED
        if joined is not None:
            assert handle == joined.handle
            joined.background = joined.background or background
            job = joined
        else:
            assert all(handle != other.handle for other in self.every())
            job = Model(handle, function, unique, data, priority, background, when=self.now + delay if delay else 0)
            (self.later if delay else self.queue).append(job)
        if not background:
            job.clients.append(client)

    @rule(client=clients)
    def grab(self, client: Client) -> None:
        client.sleeping, client.woken = False, None
        ((type, body),) = self.send(client, T.GRAB_JOB_UNIQ)
        ready = [job for job in self.queue if job.function in client.abilities]
        if not ready:
            assert type == T.NO_JOB
            return
        assert type == T.JOB_ASSIGN_UNIQ
        handle, function, unique, data = body.split(b"\0", 3)
        (job,) = [job for job in self.queue if job.handle == handle]
        assert (job.function, job.unique, job.data) == (function, unique, data)
        assert job.priority == min(other.priority for other in ready)
        first = next(o for o in self.queue if (o.function, o.priority) == (job.function, job.priority))
        assert job is first
        self.queue.remove(job)
        job.worker = client
        self.running.append(job)

    @rule(target=clients, abilities=st.sets(st.sampled_from(FUNCTIONS)))
    def arrive(self, abilities: set[bytes]) -> Client:
        return self.connect(abilities)

    @rule(client=clients)
    def sleep(self, client: Client) -> None:
        self.put_to_sleep(client)

    @rule(client=clients, type=st.sampled_from([T.WORK_COMPLETE, T.WORK_FAIL, T.WORK_EXCEPTION]))
    def finish(self, client: Client, type: PacketType) -> None:
        job = next((job for job in self.running if job.worker is client), None)
        if job is None:
            return
        for other in job.clients:
            other.take()
        self.end(job)
        args = (job.handle,) if type == T.WORK_FAIL else (job.handle, b"out")
        answer = self.send(client, type, *args)
        expected = T.WORK_FAIL if type == T.WORK_EXCEPTION else type
        mine = [(expected, job.handle + (b"\0out" if expected == T.WORK_COMPLETE else b""))]
        assert answer == mine * job.clients.count(client)
        for other in set(job.clients) - {client}:
            assert other.take() == mine * job.clients.count(other)

    @rule(client=clients)
    def steal(self, client: Client) -> None:
        for job in self.running:
            if job.worker is not client:
                ((type, _),) = self.send(client, T.WORK_COMPLETE, job.handle, b"")
                assert type == T.ERROR

    @rule(client=clients, function=st.sampled_from(FUNCTIONS), can=st.booleans())
    def change_ability(self, client: Client, function: bytes, can: bool) -> None:
        assert self.send(client, T.CAN_DO if can else T.CANT_DO, function) == []
        (client.abilities.add if can else client.abilities.discard)(function)

    @rule(client=consumes(clients))
    def disconnect(self, client: Client) -> None:
        client.sleeping = False
        effects = self.engine.disconnected(client.peer, self.now)
        del self.peers[client.peer]
        for job in self.every():
            job.clients = [other for other in job.clients if other is not client]
        for job in [job for job in self.queue if not job.wanted]:
            self.end(job)
        for job in [job for job in self.running if job.worker is client]:
            self.end(job)
            job.worker = None
            if job.wanted:
                self.queue.append(job)
        self.perform(effects)
        assert all(other.take() == [] for other in self.peers.values())

    @rule(client=clients, data=st.data())
    def cancel(self, client: Client, data: st.DataObject) -> None:
        if not self.every():
            return
        job = data.draw(st.sampled_from(self.every()))
        for other in self.peers.values():
            other.take()
        from_text = self.engine.handle(client.peer, Command("cancel job", (job.handle.decode(),)), self.now)
        answers = [e for e in from_text if isinstance(e, Send) and e.data == b"OK\r\n"]
        assert len(answers) == 1
        self.perform([e for e in from_text if e not in answers])
        for other in self.peers.values():
            assert other.take() == [(T.WORK_FAIL, job.handle)] * job.clients.count(other)
        job.clients = []
        if job in self.running:
            job.cancelled = True
        else:
            self.end(job)

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for client in self.peers.values():
            if client.woken is not None and self.now - client.woken >= WAKE_AGAIN:
                client.woken = None  # given up on: others are woken in its place
        due = [job for job in self.later if job.when <= self.now]
        for job in sorted(due, key=lambda job: job.when):
            self.later.remove(job)
            self.queue.append(job)
        self.perform(self.engine.tick(self.now))
        deadline = self.engine.next_deadline()
        assert deadline is None or deadline > self.now

    # --- invariants ------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_lost(self) -> None:
        known = {job.handle: job for job in self.engine.jobs()}
        assert set(known) == {job.handle for job in self.every()}
        assert self.engine.running == len(self.running)
        assert self.engine.queued == len(self.queue) + len(self.later)
        for job in self.running:
            assert known[job.handle].state == RUNNING
            assert job.worker is not None
            assert known[job.handle].worker is job.worker.peer
            assert job.worker.peer.running[job.handle] is known[job.handle]

    @invariant()
    def the_store_has_what_must_survive(self) -> None:
        assert self.stored == {job.handle for job in self.every() if job.background and not job.cancelled}

    @invariant()
    def nobody_sleeps_while_work_waits(self) -> None:
        for function in FUNCTIONS:
            work = sum(job.function == function for job in self.queue)
            able = [client for client in self.peers.values() if function in client.abilities]
            coming = sum(client.woken is not None for client in able)
            assert coming >= work or not any(client.sleeping for client in able)


EngineMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
test_engine = EngineMachine.TestCase
