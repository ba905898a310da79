# Whatever several peers send, in whatever order they come and go, and whatever the disk refuses: the engine raises
# nothing; every packet it sends is one; what it says is stored was stored; no job has two workers or none that knows of
# it; its counts are those of its tables; and when all are gone nothing runs and nothing but background jobs is left.
# Jobs and functions stay within what the settings allow.
"""Fuzzes the job server's engine with requests of several peers."""

from __future__ import annotations

from struct import pack

from gtask.protocol.codec import Decoder
from gtask.protocol.packets import LAYOUT, REQUEST_MAGIC, RESPONSE_MAGIC, PacketType
from gtask.protocol.server import ServerProtocol
from gtask.server.effects import Close, Effect, Forget, Persist, Send
from gtask.server.engine import Engine
from gtask.server.jobs import ENDED, QUEUED, RUNNING, WAITING, Job, Peer
from gtask.server.state import Settings
from gtask.server.store import Row
from tests.fuzz.supply import Supply

MAX_BODY = 300
REQUESTS = tuple(type for type, layout in LAYOUT.items() if layout.request)
USUAL = (
    PacketType.SUBMIT_JOB,
    PacketType.SUBMIT_JOB_BG,
    PacketType.SUBMIT_JOB_HIGH_BG,
    PacketType.SUBMIT_JOB_EPOCH,
    PacketType.CAN_DO,
    PacketType.CAN_DO_TIMEOUT,
    PacketType.GRAB_JOB_UNIQ,
    PacketType.PRE_SLEEP,
    PacketType.WORK_COMPLETE,
    PacketType.WORK_STATUS,
)
FUNCTIONS = (b"f", b"g", b"", b"h")
ARGUMENTS = (b"f", b"u", b"-", b"", b"1", b"3", b"exceptions", b"\xff", b"9" * 30, b"v")
LINES = (b"status\n", b"workers\n", b"show jobs\n", b"maxqueue f 1\n", b"drop function f\n", b"create function h\n")


def fuzz(data: bytes) -> None:
    """The life of one engine."""
    supply = Supply(data)
    rig = Rig(supply)
    steps = 0
    while supply:
        rig.step()
        steps += 1
        if steps % 4 == 0:
            rig.check()
    rig.end()


class Rig:
    """An engine, those who are connected, and what is on its disk."""

    def __init__(self, supply: Supply) -> None:
        self.supply = supply
        self.settings = Settings(
            job_retries=supply.number(2), exceptions=supply.number(1) == 1, max_memory=5000, max_functions=5
        )
        self.engine = Engine(self.settings)
        self.engine.set_epoch(1_000_000)
        self.now = 1000.0
        self.peers: dict[Peer, ServerProtocol] = {}
        self.stored: set[Job] = set()
        self.handles: list[bytes] = [b"H:gtask:0:1"]
        self.closed: set[Peer] = set()

    def step(self) -> None:
        """One thing that happens."""
        kind = self.supply.number(15)
        if kind == 0 or not self.peers:
            peer = Peer(len(self.peers), "127.0.0.1")
            self.peers[peer] = ServerProtocol(MAX_BODY)
            self.perform(self.engine.connected(peer, self.now))
        elif kind == 1:
            peer = self.supply.choice(tuple(self.peers))
            del self.peers[peer]
            self.perform(self.engine.disconnected(peer, self.now))
        elif kind == 2:
            self.now += self.supply.choice((0.1, 1.0, 5.0))
            self.perform(self.engine.tick(self.now))
            deadline = self.engine.next_deadline()
            assert deadline is None or deadline > self.now
        else:
            peer = self.supply.choice(tuple(self.peers))
            requests = self.peers[peer].receive_data(b"".join(self.packet() for _ in range(1 + self.supply.number(3))))
            if peer not in self.closed:
                self.perform(self.engine.handle_all(peer, requests, self.now))

    def packet(self) -> bytes:
        """Something from a peer: mostly a packet that makes sense."""
        kind = self.supply.number(9)
        if kind == 0:
            return self.supply.choice(LINES)
        if kind == 1:
            return self.supply.piece(30)
        type = self.supply.choice(USUAL if kind < 8 else REQUESTS)
        args = [self.argument(name) for name in LAYOUT[type].args]
        body = b"\0".join(args)
        return REQUEST_MAGIC + pack(">II", type, len(body)) + body

    def argument(self, name: str) -> bytes:
        if name == "function":
            return self.supply.choice(FUNCTIONS)
        if name == "handle":
            return self.supply.choice(self.handles[-8:])
        if name in ("when", "epoch", "time"):
            return b"%d" % (1_000_000 + self.now + self.supply.number(5) - 2)
        return self.supply.choice(ARGUMENTS)

    def perform(self, effects: list[Effect]) -> None:
        """Does what the engine wants, with a disk that sometimes refuses."""
        new = [effect.job for effect in effects if isinstance(effect, Persist)]
        if new and self.supply.number(7) == 7:
            failed = [job for job in new if self.supply.number(1)]
            effects = self.engine.refused(effects, failed, self.now)
        for effect in effects:
            if isinstance(effect, Persist):
                assert effect.job not in self.stored
                self.stored.add(effect.job)
            elif isinstance(effect, Forget):
                self.stored.discard(effect.job)
            elif isinstance(effect, Send):
                job = effect.job
                assert job is None or job in self.stored or job.state == ENDED or not (job.background or effect.durable)
                self.check_packet(effect)
            else:
                assert isinstance(effect, Close)
                self.closed.add(effect.peer)

    def check_packet(self, effect: Send) -> None:
        """What is sent is packets, or text."""
        assert effect.data
        if effect.data[0]:
            assert effect.data.endswith(b"\n")
            return
        decoder = Decoder(RESPONSE_MAGIC)
        packets = decoder.feed(effect.data)
        assert packets
        assert decoder.error is None
        assert not decoder.buffered
        for packet in packets:
            assert LAYOUT[packet.type].response
            if packet.type is PacketType.JOB_CREATED:
                self.handles.append(packet.args[0])

    def check(self) -> None:
        """The tables and what is counted of them."""
        state = self.engine._state
        jobs = list(state.jobs.values())
        assert state.running == sum(job.state == RUNNING for job in jobs)
        assert state.held == sum(job.size for job in jobs)
        assert len(state.functions) <= self.settings.max_functions
        for job in jobs:
            assert (job.state == RUNNING) == (job.worker is not None)
            if job.worker is not None:
                assert job.worker in self.peers
                assert job.worker.running[job.handle] is job
            for client in job.clients:
                assert client in self.peers
                assert job in client.waiting
        for function in state.functions.values():
            own = [job for job in jobs if job.function is function]
            assert function.ready == sum(function.counts) == sum(job.state == QUEUED for job in own)
            assert function.waiting == sum(job.state == WAITING for job in own)
            assert function.running == sum(job.state == RUNNING for job in own)
            assert function.workers == sum(function in peer.abilities for peer in self.peers)
            assert all(peer.sleeping for peer in function.sleepers)
            # Nobody sleeps beside work that nobody was woken for.
            assert not function.sleepers or function.ready <= function.pending or state.draining
        for peer in state.peers:
            assert peer in self.peers
            for job in peer.running.values():
                assert job.worker is peer
        assert {job for job in jobs if job.background and not job.cancelled} <= self.stored

    def end(self) -> None:
        """All leave; then the server starts again with what was stored."""
        self.now += 10
        self.perform(self.engine.tick(self.now))
        for peer in list(self.peers):
            del self.peers[peer]
            self.perform(self.engine.disconnected(peer, self.now))
        self.check()
        assert self.engine.running == 0
        left = list(self.engine.jobs())
        assert all(job.background for job in left)
        assert self.stored == set(left)
        again = Engine(self.settings)
        again.set_epoch(1_000_000)
        rows = [Row(job.key, job.function.name, job.priority, job.data, job.when) for job in left]
        assert again.restore(rows, self.now) == len(rows) == again.queued


def seeds() -> list[bytes]:
    """Inputs to begin with."""
    # Two peers; one offers f, grabs and sleeps, the other submits; then they leave.
    connect = bytes([0])
    steps = [
        bytes([5, peer, 0, 3, use, *rest]) for peer in (0, 1) for use in range(10) for rest in ((0, 0, 0), (1, 1, 1))
    ]
    return [
        bytes([0, 0]) + connect * 2 + b"".join(steps),
        bytes([1, 1]) + connect * 3 + b"".join(reversed(steps)),
        *(bytes([0, 0]) + connect * 2 + step * 3 + bytes([2, 1, 1, 0]) for step in steps),
        bytes([2, 0]) + connect * 2 + bytes([5, 0, 0, 0, 0, 1]) * 4,
    ]
