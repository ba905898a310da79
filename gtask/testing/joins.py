"""The part of the contract of result stores that is about claims and chords; see `gtask.testing.contracts`."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from gtask.errors import EncodeError
from gtask.message import Message, decode_message, encode_message
from gtask.results.base import ResultStore
from gtask.results.joins import Body, Join
from gtask.results.records import outcome_to_record, record_to_outcome
from gtask.states import ErrorInfo, Outcome, Record, State
from gtask.testing.programs import wait_until
from gtask.types import Priority, Submission

TTL = 3600.0
PATIENCE = 30.0
"""Seconds after which something that should have come is given up; nothing here waits for this time to pass."""


def new_id() -> str:
    """A task id nobody else has."""
    return uuid.uuid4().hex


def settle(store: ResultStore) -> None:
    """Waits until everything that was put before is there: a store keeps the order."""
    marker = Record(new_id(), State.SUCCESS, b"marker")
    store.put([marker], TTL)
    assert store.wait([marker.id], PATIENCE) == {marker.id: marker}


def result(value: object) -> Record:
    """The record of a member that has succeeded."""
    return outcome_to_record(Outcome(new_id(), State.SUCCESS, value))


def chord_of(records: Sequence[Record], *, all_bring: bool = False) -> list[Join]:
    """The members of a chord whose body takes their results and the word "and"; the first one brings it, or all do."""
    id, function = new_id(), "add_up"
    message = encode_message(Message(id, function, ("and",)))
    body = Body(id, function, new_id(), str(Priority.HIGH), message)
    chord = new_id()
    return [
        Join(chord, position, len(records), record, body if all_bring or position == 0 else None)
        for position, record in enumerate(records)
    ]


def body_of(joins: Sequence[Join]) -> Body:
    """The body that the first member of a chord brings."""
    body = joins[0].body
    assert body is not None
    return body


class ClaimsContract:
    """Who may run for a key."""

    def test_the_first_to_claim_a_key_has_it(self, store: ResultStore) -> None:
        """Whoever claims it later shares the first one's id; the first one may claim it again."""
        key, first = f"order:{new_id()}", new_id()
        assert store.claim(key, first, TTL) == first
        assert store.claim(key, new_id(), TTL) == first
        assert store.claim(key, first, TTL) == first
        other = new_id()
        assert store.claim(f"{key}!", other, TTL) == other

    def test_a_claim_ends_with_its_task(self, store: ResultStore) -> None:
        """And not before: STARTED is no end."""
        key, first, second = f"order:{new_id()}", new_id(), new_id()
        store.claim(key, first, TTL)
        store.put([Record(first, State.STARTED)], TTL)
        settle(store)
        assert store.claim(key, second, TTL) == first
        store.put([Record(first, State.FAILURE)], TTL)
        settle(store)
        assert store.claim(key, second, TTL) == second
        assert store.claim(key, new_id(), TTL) == second

    def test_a_claim_ends_with_its_time(self, store: ResultStore) -> None:
        """For a claimer that died."""
        key, second = f"order:{new_id()}", new_id()
        store.claim(key, new_id(), 0.1)
        wait_until(lambda: store.claim(key, second, TTL) == second, PATIENCE, "the end of the claim")

    def test_a_key_is_any_text(self, store: ResultStore) -> None:
        """Long ones that differ at the end are different."""
        first, second = new_id(), new_id()
        assert store.claim("k" * 10_000 + "1", first, TTL) == first
        assert store.claim("k" * 10_000 + "2", second, TTL) == second
        assert store.claim("k" * 10_000 + "1", second, TTL) == first

    def test_one_of_many_claimers_has_it(self, store: ResultStore) -> None:
        """Thirty at once agree on one."""
        key, ids = f"order:{new_id()}", [new_id() for _ in range(30)]
        with ThreadPoolExecutor(10) as pool:
            shared = set(pool.map(lambda mine: store.claim(key, mine, TTL), ids))
        assert len(shared) == 1
        assert shared <= set(ids)


class JoinsContract:
    """Chords: who completes them, and what follows."""

    def handed_in(self, store: ResultStore, joins: Sequence[Join]) -> list[Submission]:
        """Hands members in, and returns the jobs that are submitted for them. A store that `carries` overrides it."""
        return [job for join in joins if (job := store.join(join, TTL)) is not None]

    def test_the_last_member_completes_a_chord(self, store: ResultStore) -> None:
        """Whatever the order in which they come: the results are in the order of the members."""
        joins = chord_of([result(number) for number in range(5)])
        assert self.handed_in(store, [joins[3], joins[0], joins[4], joins[1]]) == []
        (job,) = self.handed_in(store, [joins[2]])
        body = body_of(joins)
        assert (job.function, job.unique, job.priority) == (body.function, body.unique, Priority.HIGH)
        assert decode_message(job.function, job.workload).args == ([0, 1, 2, 3, 4], "and")

    def test_the_body_may_come_at_any_time(self, store: ResultStore) -> None:
        """It is brought by one member: the first to come, one between others, or the last, without which all wait."""
        for order in ((0, 1, 2), (2, 0, 1), (2, 1, 0)):
            joins = chord_of([result(number) for number in range(3)])
            assert self.handed_in(store, [joins[place] for place in order[:2]]) == []
            last = joins[order[2]]
            jobs = self.handed_in(store, [last])
            # Whoever completes it has the job again, with the body or without.
            jobs += self.handed_in(store, [joins[order[0]], joins[order[1]], last])
            assert [job.unique for job in jobs] == [body_of(joins).unique] * 2
            for job in jobs:
                assert decode_message(job.function, job.workload).args == ([0, 1, 2], "and")

    def test_all_members_may_bring_the_body(self, store: ResultStore) -> None:
        """As those of an earlier gtask do, also among others that do not: the first to come stands."""
        all_bring = chord_of([result(number) for number in range(3)], all_bring=True)
        assert self.handed_in(store, [all_bring[2], all_bring[1]]) == []
        (job,) = self.handed_in(store, [all_bring[0]._replace(body=body_of(all_bring)._replace(unique=new_id()))])
        assert job.unique == body_of(all_bring).unique
        mixed = chord_of([result(number) for number in range(3)])
        with_body = mixed[1]._replace(body=body_of(mixed))
        (job,) = self.handed_in(store, [mixed[2], with_body, mixed[0]])
        assert decode_message(job.function, job.workload).args == ([0, 1, 2], "and")

    def test_a_member_counts_once(self, store: ResultStore) -> None:
        """It may be run again by another worker; its first outcome is the one that counts."""
        joins = chord_of([result(number) for number in range(3)])
        again = joins[0]._replace(record=result("other"))
        assert self.handed_in(store, [joins[0], again, joins[0], joins[1], joins[1]]) == []
        (job,) = self.handed_in(store, [joins[2]])
        assert decode_message(job.function, job.workload).args == ([0, 1, 2], "and")

    def test_only_the_last_member_has_the_job_again(self, store: ResultStore) -> None:
        """Its worker may have died before it submitted it; when the body has a result there is no more need."""
        joins = chord_of([result(number) for number in range(2)])
        self.handed_in(store, joins)
        assert self.handed_in(store, [joins[0]]) == []
        (job,) = self.handed_in(store, [joins[1]])
        assert job.unique == body_of(joins).unique
        store.put([Record(body_of(joins).id, State.SUCCESS)], TTL)
        settle(store)
        assert self.handed_in(store, joins) == []

    def test_a_member_that_fails_fails_the_body(self, store: ResultStore) -> None:
        """Once all are in, with the member's error; nothing is submitted."""
        failed = outcome_to_record(Outcome(new_id(), State.FAILURE, error=ErrorInfo("ValueError", "no such order")))
        joins = chord_of([result(0), failed, result(2)])
        body = body_of(joins).id
        assert self.handed_in(store, joins[1:]) == []
        settle(store)
        assert store.get([body]) == {}
        with ThreadPoolExecutor(1) as pool:
            wait = pool.submit(store.wait, [body], PATIENCE)
            assert self.handed_in(store, joins[:1]) == []
            outcome = record_to_outcome(wait.result(PATIENCE)[body])
        assert outcome.state is State.FAILURE
        assert outcome.error is not None
        assert outcome.error.message == "no such order"

    def test_a_large_chord_with_repeated_members(self, store: ResultStore) -> None:
        """A thousand, every twentieth of them twice."""
        joins = chord_of([result(number) for number in range(1000)])
        (job,) = self.handed_in(
            store, [one for join in joins for one in [join] * (2 if join.position % 20 == 7 else 1)]
        )
        assert decode_message(job.function, job.workload).args[0] == list(range(1000))

    def test_a_member_that_cannot_be_counted_is_refused(self, store: ResultStore) -> None:
        """Where it is handed in."""
        (join,) = chord_of([result(1)])
        bad = [
            join._replace(position=1),
            join._replace(group=""),
            join._replace(body=body_of([join])._replace(function="a b")),
            join._replace(body=None),
        ]
        for one in bad:
            with pytest.raises(EncodeError):
                store.join(one, TTL)
