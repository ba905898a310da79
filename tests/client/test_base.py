"""The client's decisions, without a socket or a clock."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtask.client import base
from gtask.client.base import Router
from gtask.errors import ConnectFailed, LocalProtocolError
from gtask.types import JobStatus, Server, Submission

A, B, C = (Server("host", port) for port in (1, 2, 3))


class Low(Random):
    """Draws the lowest of everything: no jitter, and the first server preferred."""

    def random(self) -> float:
        """0."""
        return 0.0

    def randrange(self, *_: object, **__: object) -> int:
        """0."""
        return 0


# --- which server --------------------------------------------------------------------------------------------


def test_each_client_has_a_preferred_server_and_together_they_use_all() -> None:
    """The start is drawn, the order stays that of the list."""
    orders = {tuple(Router([A, B, C], Random(seed)).order(None, 0.0)) for seed in range(30)}

    assert orders == {(A, B, C), (B, C, A), (C, A, B)}


def test_a_coalescing_unique_has_its_server_whoever_asks() -> None:
    """Rendezvous hashing: the order depends on the unique, not on the client."""
    for number in range(50):
        assert len({tuple(Router([A, B, C], Random(seed)).order(f"u{number}", 0.0)) for seed in range(5)}) == 1
    firsts = [Router([A, B, C], Low()).order(f"u{number}", 0.0)[0] for number in range(300)]
    assert all(60 < firsts.count(server) < 140 for server in (A, B, C))


def test_a_server_less_moves_only_its_own_uniques() -> None:
    """The others stay where they were."""
    for number in range(100):
        with_all = Router([A, B, C], Low()).order(f"u{number}", 0.0)
        without_c = Router([A, B], Low()).order(f"u{number}", 0.0)
        assert [server for server in with_all if server != C] == without_c


def test_a_server_that_failed_comes_last_for_a_time_that_doubles() -> None:
    """From half a second to a minute, here without jitter's other half."""
    router = Router([A, B, C], Low())
    now, backoffs = 0.0, []
    for _ in range(10):
        router.failed(A, now)
        assert router.order(None, now) == [B, C, A]
        backoff = next(step / 100 for step in range(10_000) if not router.avoided(A, now + step / 100))
        assert router.order(None, now + backoff) == [A, B, C]
        backoffs.append(backoff)
        now += 100

    assert backoffs == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_a_server_that_works_is_forgiven() -> None:
    """Its next failure is the first again."""
    router = Router([A, B], Low())
    router.failed(A, 0.0)
    router.failed(A, 0.0)
    router.worked(A)
    assert router.order(None, 0.0) == [A, B]
    router.failed(A, 0.0)
    assert not router.avoided(A, 0.3)


def test_when_all_have_failed_the_one_that_is_due_first_comes_first() -> None:
    """And none is left out."""
    router = Router([A, B, C], Low())
    router.failed(A, 0.0)
    router.failed(A, 0.0)
    router.failed(B, 0.0)
    router.failed(C, 0.1)

    assert router.order(None, 0.1) == [B, C, A]


def test_patience_is_shared_among_servers() -> None:
    """A call with little time keeps some for the others; a server that failed before is not waited for long."""
    router = Router([A, B, C], Low())
    assert router.patience(A, 0.0, base.INF, 5.0) == 5.0
    assert router.patience(A, 0.0, 3.0, 5.0) == 1.0
    assert router.patience(A, 0.0, -1.0, 5.0) == 0.0
    router.failed(A, 0.0)
    assert router.patience(A, 1.0, base.INF, 5.0) == base.REJOIN_PATIENCE
    assert Router([A], Low()).patience(A, 0.0, 3.0, 5.0) == 3.0


@given(st.integers(min_value=0, max_value=10_000), st.integers())
def test_a_pause_is_short_and_never_nothing(count: int, seed: int) -> None:
    """Jittered between half and all of its span."""
    assert 0.025 <= Router([A], Random(seed)).pause(count) <= 5.0


def test_a_router_shows_what_it_knows() -> None:
    """For whoever reads a log."""
    router = Router([A, B], Low())
    router.failed(B, 0.0)

    assert repr(router) == "<Router gearman://host:1, gearman://host:2; 1 failed>"


# --- what is sent --------------------------------------------------------------------------------------------


def test_fresh_uniques_are_fresh() -> None:
    """24 random digits and 8 of the function's hash, which 63 bytes have room for."""
    uniques = {base.fresh_unique("f") for _ in range(1000)}

    assert len(uniques) == 1000
    assert {unique[24:] for unique in uniques} == {"252f10c8"}
    assert all(len(unique) == 32 and int(unique, 16) >= 0 for unique in uniques)
    assert base.fresh_unique("g")[24:] != "252f10c8"


def test_a_background_job_keeps_its_unique_and_a_foreground_job_never_does() -> None:
    """The unique of an abandoned foreground job would swallow the next one (protocol reference, section 11)."""
    given = Submission("f", b"x", "u1")
    assert base.as_background(given) is given
    assert len(base.as_background(Submission("f", b"x")).unique) == 32
    later = Submission("f", b"x", "u1", background=False, when=5)
    assert base.as_background(later) is later

    first, second = base.as_foreground(given), base.as_foreground(given)
    assert len({given.unique, first.unique, second.unique}) == 3
    assert (first.function, first.workload, first.background) == ("f", b"x", False)

    with pytest.raises(LocalProtocolError, match="for background jobs"):
        base.as_background(Submission("f", b"", background=False))
    with pytest.raises(LocalProtocolError, match="runs in the background"):
        base.as_foreground(later)


# --- what is said --------------------------------------------------------------------------------------------


def test_the_server_that_knows_more_is_believed() -> None:
    """Running before queued before unknown, further before less far."""
    unknown, queued = JobStatus(), JobStatus(known=True)
    running, further = JobStatus(True, True, 1, 9), JobStatus(True, True, 5, 9)

    for less, more in ((unknown, queued), (queued, running), (running, further), (unknown, further)):
        assert base.better_status(less, more) is base.better_status(more, less) is more


def test_a_call_that_found_no_server_says_which_and_why() -> None:
    """And what to do next."""
    reasons = {A: ConnectFailed("A is away."), B: ConnectFailed("B is away.")}

    assert str(base.no_server(reasons, [A, B])).startswith("A is away. B is away. Check that a job server runs")
    assert str(base.no_server({}, [A, B])).startswith("No job server could be reached in time: gearman://host:1, gear")


def test_a_server_that_wasted_time_is_left_alone_for_as_long() -> None:
    router = Router([A, B], Low())
    router.failed(A, 0.0, cost=10.0)
    assert router.order(None, 9.9) == [B, A]
    assert router.order(None, 10.1) == [A, B]
