"""States, and outcomes as result stores keep them. Design, section 4."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from gtask.codecs import MAX_DEPTH, pack
from gtask.errors import DecodeError, EncodeError
from gtask.results.records import outcome_to_record, record_to_outcome
from gtask.states import READY, ErrorInfo, Outcome, Record, State
from tests.unit.samples import Line, Opaque

ERROR = ErrorInfo("ValueError", "bad", ("bad",), "Traceback ...")


def test_a_states_value_is_its_name() -> None:
    assert [state.value for state in State] == [state.name for state in State]
    assert {state for state in State if state.ready} == READY == {State.SUCCESS, State.FAILURE, State.REVOKED}


@pytest.mark.parametrize("state", list(State))
def test_a_record_and_an_outcome_know_whether_they_are_the_end(state: State) -> None:
    assert Record("i", state).ready is Outcome("i", state).ready is state.ready


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome("i", State.PENDING),
        Outcome("i", State.SUCCESS, (1, {2: Decimal("1.5")})),
        Outcome("i", State.SUCCESS, None),
        Outcome("i", State.SUCCESS, 0),
        Outcome("i", State.FAILURE, error=ERROR),
        Outcome("i", State.RETRY, None, ERROR, "f", 2, 1.5, 2.5, "host:1", "p", ("a", "b"), 7.5),
        Outcome("i", State.PROGRESS, [1, 10]),
    ],
)
def test_an_outcome_comes_back_as_it_was(outcome: Outcome) -> None:
    record = outcome_to_record(outcome)
    assert (record.id, record.state) == (outcome.id, outcome.state)
    assert record_to_outcome(record) == outcome


def test_a_result_is_rebuilt_as_annotated() -> None:
    record = outcome_to_record(Outcome("i", State.SUCCESS, [Line("a", Decimal(1))]))
    assert record_to_outcome(record, list[Line]).value == [Line("a", Decimal(1))]
    assert record_to_outcome(outcome_to_record(Outcome("i", State.PROGRESS, [1, 2])), int).value == [1, 2]
    with pytest.raises(DecodeError, match=r"^result: expected int, got list"):
        record_to_outcome(record, int)


def test_a_record_without_a_body_is_its_state() -> None:
    assert record_to_outcome(Record("i", State.PENDING)) == Outcome("i", State.PENDING)


def test_a_result_that_cannot_be_sent_is_named() -> None:
    with pytest.raises(EncodeError, match=r"^result\[3\]\.customer: a tests\.unit\.samples\.Opaque cannot be sent"):
        outcome_to_record(Outcome("i", State.SUCCESS, [1, 2, 3, {"customer": Opaque()}]))


def test_a_value_as_deep_as_allowed_is_kept() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    assert record_to_outcome(outcome_to_record(Outcome("i", State.SUCCESS, value))).value == value


@pytest.mark.parametrize(
    "body",
    [
        b"\xff",
        pack([]),
        pack({}),
        pack({"gtask": 2}),
        pack({"gtask": 1, "task": 5}),
        pack({"gtask": 1, "retries": -1}),
        pack({"gtask": 1, "retries": True}),
        pack({"gtask": 1, "started": "x"}),
        pack({"gtask": 1, "finished": float("nan")}),
        pack({"gtask": 1, "delay": 10**400}),
        pack({"gtask": 1, "parent": b"x"}),
        pack({"gtask": 1, "children": "ab"}),
        pack({"gtask": 1, "children": [1]}),
        pack({"gtask": 1, "error": "x"}),
    ],
)
def test_a_damaged_record_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        record_to_outcome(Record("i", State.SUCCESS, body))
