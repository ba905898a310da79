"""The engine's own promises, where the conformance scripts cannot look: effects, restarts, failed stores, bounds."""

from __future__ import annotations

import itertools

from gtask.protocol.packets import Packet, PacketType
from gtask.protocol.server import Request, Violation
from gtask.server import answers, jobs, state, timers
from gtask.server.effects import Close, Effect, Forget, Persist, Send
from gtask.server.engine import Engine
from gtask.server.jobs import Job, Peer
from gtask.server.state import Settings
from gtask.server.store import Row

T = PacketType


class Bench:
    """An engine, its clock, and shorthand."""

    def __init__(self, **settings: object) -> None:
        self.engine = Engine(Settings(**settings))  # type: ignore[arg-type]  # tests only
        self.now = 100.0

    def peer(self, *abilities: bytes) -> Peer:
        peer = Peer()
        self.engine.connected(peer, self.now)
        for function in abilities:
            self.send(peer, T.CAN_DO, function)
        return peer

    def send(self, peer: Peer, type: PacketType, *args: bytes) -> list[Effect]:
        return self.engine.handle(peer, Packet(type, args), self.now)

    def submit(self, peer: Peer, unique: bytes = b"", data: bytes = b"data", type: T = T.SUBMIT_JOB_BG) -> list[Effect]:
        return self.send(peer, type, b"f", unique, data)


def kinds(effects: list[Effect]) -> list[str]:
    return [type(effect).__name__ for effect in effects]


def handle_of(effects: list[Effect]) -> bytes:
    (handle,) = [e.data[12:] for e in effects if isinstance(e, Send) and e.data[7] == T.JOB_CREATED]
    return handle


def persisted(effects: list[Effect]) -> list[Job]:
    return [effect.job for effect in effects if isinstance(effect, Persist)]


# --- effects -------------------------------------------------------------------------------------------------


def test_a_row_is_stored_before_its_handle_is_sent() -> None:
    bench = Bench()
    assert kinds(bench.submit(bench.peer())) == ["Persist", "Send"]


def test_a_foreground_job_is_never_stored() -> None:
    bench = Bench()
    c, w = bench.peer(), bench.peer(b"f")
    effects = bench.submit(c, type=T.SUBMIT_JOB)
    assert kinds(effects) == ["Send"]
    bench.send(w, T.GRAB_JOB)
    assert kinds(bench.send(w, T.WORK_COMPLETE, handle_of(effects), b"")) == ["Send"]


def test_the_answer_is_forwarded_before_the_row_is_deleted() -> None:
    bench = Bench()
    c, w = bench.peer(), bench.peer(b"f")
    handle = handle_of(bench.submit(c, b"key"))
    bench.submit(c, b"key", type=T.SUBMIT_JOB)
    bench.send(w, T.GRAB_JOB)
    assert kinds(bench.send(w, T.WORK_COMPLETE, handle, b"done")) == ["Send", "Forget"]


def test_a_joined_foreground_job_is_stored_from_then_on() -> None:
    bench = Bench()
    c, w = bench.peer(), bench.peer(b"f")
    bench.submit(c, b"key", type=T.SUBMIT_JOB)
    first, second = bench.submit(bench.peer(), b"key")
    assert isinstance(first, Persist)
    assert first.upgrade
    assert isinstance(second, Send)
    assert kinds(bench.submit(bench.peer(), b"key")) == ["Send"]
    bench.send(w, T.GRAB_JOB)
    assert "Forget" in kinds(bench.send(w, T.WORK_COMPLETE, second.data[12:], b""))


def test_a_dash_joined_by_background_gets_a_key_of_its_own() -> None:
    bench = Bench()
    c = bench.peer()
    (a,) = persisted(bench.submit(c, b"-", b"a"))
    (b,) = persisted(bench.submit(c, b"-", b"b"))
    (empty,) = persisted(bench.submit(c, b"", b"b"))
    assert len({a.key, b.key, empty.key}) == 3
    assert (a.unique, b.unique, empty.unique) == (b"-", b"-", b"")


def test_a_fatal_violation_answers_and_closes_and_ends_the_batch() -> None:
    bench = Bench()
    c = bench.peer()
    requests: list[Request] = [
        Packet(T.ECHO_REQ, (b"1",)),
        Violation("It is wrong.", "CODE", "text"),
        Packet(T.ECHO_REQ, (b"2",)),
    ]
    effects = bench.engine.handle_all(c, requests, 0)
    assert kinds(effects) == ["Send", "Send", "Close"]
    assert effects[2] == Close(c, "It is wrong.")


def test_a_connection_ends_once() -> None:
    bench = Bench()
    w = bench.peer(b"f")
    bench.submit(bench.peer())
    bench.send(w, T.GRAB_JOB)
    bench.engine.disconnected(w, bench.now)
    assert (bench.engine.queued, bench.engine.running) == (1, 0)
    assert bench.engine.disconnected(w, bench.now) == []
    assert bench.engine.queued == 1


def test_handles_stay_within_63_bytes_and_do_not_repeat() -> None:
    bench = Bench(prefix=b"H:" + b"h" * 36 + b":12345678")
    c = bench.peer()
    handles = {handle_of(bench.submit(c)) for _ in range(100)}
    assert len(handles) == 100
    assert max(map(len, handles)) <= 63 - 7


# --- restart -------------------------------------------------------------------------------------------------


def test_what_was_stored_comes_back_in_order_with_priority_and_time() -> None:
    bench = Bench(prefix=b"H:old:1")
    c = bench.peer()
    stored: list[Job] = []
    stored += persisted(bench.submit(c, b"low", type=T.SUBMIT_JOB_LOW_BG))
    stored += persisted(bench.submit(c, b"", b"empty"))
    stored += persisted(bench.submit(c, b"-", b"dash"))
    stored += persisted(bench.submit(c, b"high", type=T.SUBMIT_JOB_HIGH_BG))
    stored += persisted(bench.send(c, T.SUBMIT_JOB_EPOCH, b"f", b"later", b"150", b"later"))
    rows = [Row(job.key, job.function.name, job.priority, job.data, job.when) for job in stored]

    again = Bench(prefix=b"H:new:2")
    assert again.engine.restore(rows, again.now) == 5
    w = again.peer(b"f")

    def grab() -> tuple[bytes, bytes]:
        (effect,) = again.send(w, T.GRAB_JOB_UNIQ)
        assert isinstance(effect, Send)
        handle, _, unique, data = effect.data[12:].split(b"\0", 3)
        assert handle.startswith(b"H:new:2:")
        return unique, data

    assert [grab() for _ in range(4)] == [(b"high", b"data"), (b"", b"empty"), (b"-", b"dash"), (b"low", b"data")]
    assert again.send(w, T.GRAB_JOB) == [Send(w, answers.NO_JOB)]
    assert again.engine.next_deadline() == 150
    assert again.engine.tick(150) == []
    assert grab() == (b"later", b"later")


def test_a_restored_job_is_joined_and_forgotten_under_its_key() -> None:
    bench = Bench()
    bench.engine.restore([Row(b"key", b"f", 1, b"data", 0), Row(b"~H:x:1:5", b"f", 9, b"", 0)], bench.now)
    c, w = bench.peer(), bench.peer(b"f")
    assert kinds(bench.submit(c, b"key")) == ["Send"]
    forgotten = []
    for _ in range(2):
        (sent,) = bench.send(w, T.GRAB_JOB)
        assert isinstance(sent, Send)
        for effect in bench.send(w, T.WORK_COMPLETE, sent.data[12:].split(b"\0")[0], b""):
            assert isinstance(effect, Forget)
            forgotten.append(effect.job.key)
    assert forgotten == [b"key", b"~H:x:1:5"]


# --- a store that fails --------------------------------------------------------------------------------------


def test_a_refused_job_is_an_error_and_gone() -> None:
    bench = Bench()
    c = bench.peer()
    good, bad = bench.submit(c, b"good"), bench.submit(c, b"bad")
    effects = bench.engine.refused([*good, *bad], persisted(bad), bench.now)
    assert effects == [*good, Send(c, answers.QUEUE_ERROR)]
    assert bench.engine.queued == 1
    assert kinds(bench.submit(c, b"bad")) == ["Persist", "Send"]


def test_all_who_joined_a_refused_job_in_its_round_are_told() -> None:
    bench = Bench()
    a, b = bench.peer(), bench.peer()
    effects = [*bench.submit(a, b"key"), *bench.submit(b, b"key", type=T.SUBMIT_JOB), *bench.submit(b, b"key")]
    found = bench.engine.refused(effects, persisted(effects), bench.now)
    assert found == [Send(a, answers.QUEUE_ERROR), Send(b, answers.QUEUE_ERROR), Send(b, answers.QUEUE_ERROR)]
    assert bench.engine.queued == 0
    assert not b.waiting


def test_a_worker_that_grabbed_a_refused_job_gets_nothing() -> None:
    bench = Bench()
    c, w = bench.peer(), bench.peer(b"f")
    effects = [*bench.submit(c), *bench.send(w, T.GRAB_JOB)]
    found = bench.engine.refused(effects, persisted(effects), bench.now)
    assert found == [Send(c, answers.QUEUE_ERROR), Send(w, answers.NO_JOB)]
    assert (bench.engine.queued, bench.engine.running) == (0, 0)
    assert not w.running


def test_a_refused_job_that_has_ended_in_its_round_ends_once() -> None:
    """What jobs take in memory is counted, and would be too little for ever."""
    bench = Bench()
    w = bench.peer(b"f")
    effects = [*bench.submit(w), *(grabbed := bench.send(w, T.GRAB_JOB))]
    (sent,) = grabbed
    assert isinstance(sent, Send)
    effects += bench.send(w, T.WORK_COMPLETE, sent.data[12:].split(b"\0")[0], b"")
    bench.engine.refused(effects, persisted(effects), bench.now)
    assert (bench.engine.queued, bench.engine.running) == (0, 0)
    assert bench.engine._state.held == 0


def test_a_foreground_job_that_could_not_be_made_durable_stays_what_it_was() -> None:
    bench = Bench()
    a, b = bench.peer(), bench.peer()
    bench.submit(a, b"key", type=T.SUBMIT_JOB)
    effects = bench.submit(b, b"key")
    found = bench.engine.refused(effects, persisted(effects), bench.now)
    assert found == [Send(b, answers.QUEUE_ERROR)]
    assert bench.engine.queued == 1
    bench.engine.disconnected(a, bench.now)
    assert bench.engine.queued == 0


def test_everybody_who_wanted_it_durable_is_told_and_nobody_else() -> None:
    """Whoever asked for it in the background, all in one round; whoever waits for it goes on waiting."""
    bench = Bench()
    a, b, c = bench.peer(), bench.peer(), bench.peer()
    (handle,) = (effect.data for effect in bench.submit(a, b"key", type=T.SUBMIT_JOB) if isinstance(effect, Send))
    effects = [
        *bench.submit(b, b"key"),
        *bench.submit(b, b"key", type=T.SUBMIT_JOB),
        *bench.submit(c, b"key"),
    ]
    found = [
        (effect.peer, effect.data)
        for effect in bench.engine.refused(effects, persisted(effects), bench.now)
        if isinstance(effect, Send)
    ]
    assert found == [(b, answers.QUEUE_ERROR), (b, handle), (c, answers.QUEUE_ERROR)]


def test_a_foreground_job_whose_caller_left_in_that_round_is_dropped() -> None:
    bench = Bench()
    a, b = bench.peer(), bench.peer()
    bench.submit(a, b"key", type=T.SUBMIT_JOB)
    effects = [*bench.submit(b, b"key"), *bench.engine.disconnected(a, bench.now)]
    bench.engine.refused(effects, persisted(effects), bench.now)
    assert bench.engine.queued == 0


# --- draining ------------------------------------------------------------------------------------------------


def test_a_draining_engine_hands_nothing_out_and_wakes_nobody() -> None:
    bench = Bench()
    c, w, sleeper = bench.peer(), bench.peer(b"f"), bench.peer(b"f")
    handle = handle_of(bench.submit(c))
    bench.send(w, T.GRAB_JOB)
    bench.send(sleeper, T.PRE_SLEEP)
    bench.engine.drain()
    assert kinds(bench.submit(c)) == ["Persist", "Send"]
    assert bench.send(w, T.GRAB_JOB) == [Send(w, answers.NO_JOB)]
    assert bench.send(w, T.PRE_SLEEP) == []
    assert bench.engine.running == 1
    bench.send(w, T.WORK_COMPLETE, handle, b"")
    assert bench.engine.running == 0


# --- bounds --------------------------------------------------------------------------------------------------


def test_abandoned_jobs_do_not_pile_up() -> None:
    """Without a worker nobody passes the dead entries; they are swept."""
    function = jobs.Function(b"f")
    kept = Job(b"H:0", function, b"", b"", 1)
    function.push(kept)
    for n in range(20 * jobs.COMPACT_AT):
        job = Job(b"H:%d" % n, function, b"", b"", n % 3)
        function.push(job)
        function.drop(job)
    assert sum(map(len, function.queues)) <= 2 * jobs.COMPACT_AT
    assert function.ready == 1
    assert function.pop() is kept


def test_cancelled_timers_do_not_pile_up() -> None:
    heap = timers.Timers()
    function = jobs.Function(b"f")
    last = Job(b"H:last", function, b"", b"", 1)
    heap.set(last, 10.0**9)
    for n in range(20 * timers.COMPACT_AT):
        job = Job(b"H:%d" % n, function, b"", b"", 1)
        heap.set(job, float(n))
        heap.cancel(job)
    assert len(heap) == 1
    assert len(heap._heap) <= 2 * timers.COMPACT_AT + 2
    assert heap.due(10.0**9) == [last]


def test_functions_that_nobody_uses_do_not_pile_up() -> None:
    bench = Bench()
    w = bench.peer(b"kept by its worker")
    bench.submit(bench.peer())
    count = itertools.count()
    for _ in range(3 * state.IDLE_FUNCTIONS):
        passing = b"%d" % next(count)
        bench.send(w, T.CAN_DO, passing)
        bench.send(w, T.CANT_DO, passing)
    functions = bench.engine._state.functions
    assert len(functions) <= 2 * state.IDLE_FUNCTIONS
    assert {b"kept by its worker", b"f"} <= set(functions)


def test_many_wake_ups_cost_what_they_wake() -> None:
    """A job wakes one of a thousand sleepers, and the next another."""
    bench = Bench()
    workers = [bench.peer(b"f") for _ in range(1000)]
    for w in workers:
        bench.send(w, T.PRE_SLEEP)
    c = bench.peer()
    woken = []
    for _ in range(10):
        woken += [e.peer for e in bench.submit(c) if isinstance(e, Send) and e.data == answers.NOOP]
    assert woken == workers[:10]
