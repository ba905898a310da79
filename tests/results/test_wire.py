"""Items, asks and answers as bytes, and everything that is none."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtask.errors import DecodeError, EncodeError
from gtask.results import wire
from gtask.results.base import Mark, Marks
from gtask.results.checks import MAX_TTL
from gtask.results.joins import Body, Join
from gtask.results.keyed import Acquire, Claim, Count, Keyed, Release, Take, Unclaim, check_claim
from gtask.results.wire import Answer, Ask, AskMarks, Item, JoinItem, RevokeItem
from gtask.states import Record, State

records = st.builds(
    Record,
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60),
    st.sampled_from(State),
    st.binary(max_size=200),
)
ttls = st.floats(0, MAX_TTL)

BODY = Body("b", "add_up", "u", "normal", b"")


@given(st.lists(st.tuples(records, ttls)))
def test_items_are_joined_by_joining_their_bytes(pairs: list[tuple[Record, float]]) -> None:
    workload = b"".join(wire.encode_item(record, ttl) for record, ttl in pairs)
    assert wire.decode_items(workload) == ([Item(*pair) for pair in pairs], [])


@given(st.lists(records, max_size=5), st.binary(max_size=30), st.lists(records, max_size=5))
def test_items_before_a_broken_one_are_kept(before: list[Record], junk: bytes, after: list[Record]) -> None:
    """Whatever the bytes are: nothing is raised, and nothing in front of them is lost."""
    items = [wire.encode_item(record, 5.0) for record in before]
    found, _ = wire.decode_items(b"".join(items) + junk + b"".join(wire.encode_item(record, 5.0) for record in after))
    assert found[: len(before)] == [Item(record, 5.0) for record in before]


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(junk: bytes) -> None:
    wire.decode_items(junk)
    for decode in (wire.decode_ask, wire.decode_answer):
        try:
            decode(junk)
        except DecodeError:
            pass


def test_a_bomb_of_nested_lists_is_dropped() -> None:
    items, complaints = wire.decode_items(b"\x91" * 100_000)
    assert items == []
    assert len(complaints) == 1
    with pytest.raises(DecodeError):
        wire.decode_ask(b"\x81\xa3ids" + b"\x91" * 100_000)


def test_only_some_of_the_bad_items_are_described() -> None:
    _, complaints = wire.decode_items(b"\x07" * 5000)
    assert len(complaints) == wire.MAX_COMPLAINTS + 1
    assert complaints[-1] == "and 4990 more"


def test_a_text_that_is_no_utf8_spoils_only_its_own_item() -> None:
    good = wire.encode_item(Record("a", State.SUCCESS), 5.0)
    bad = b"\x94\xa1\xff\xa7SUCCESS\xc4\x00\x05"
    items, complaints = wire.decode_items(good + bad + good)
    assert len(items) == 2
    assert "its id is" in complaints[0]


def test_times_are_bounded() -> None:
    item = msgpack.packb(["a", "SUCCESS", b"", 1e300]) + msgpack.packb(["b", "SUCCESS", b"", -5])
    assert [item.ttl for item in wire.decode_items(item)[0]] == [MAX_TTL, 0.0]
    assert wire.decode_ask(wire.encode_ask(Ask(("a",), 1e9))) == Ask(("a",), wire.MAX_HOLD)


@pytest.mark.parametrize(
    ("record", "ttl", "match"),
    [
        (Record("", State.SUCCESS), 1.0, "task id"),
        (Record("x" * 256, State.SUCCESS), 1.0, "task id"),
        (Record("\udcff", State.SUCCESS), 1.0, "task id"),
        (Record("a", "DONE"), 1.0, "no state"),  # type: ignore[arg-type]
        (Record("a", State.SUCCESS, "text"), 1.0, "body"),  # type: ignore[arg-type]
        (Record("a", State.SUCCESS), float("nan"), "seconds"),
    ],
)
def test_what_cannot_be_kept_is_refused_where_it_is_put(record: Record, ttl: float, match: str) -> None:
    with pytest.raises(EncodeError, match=match):
        wire.encode_item(record, ttl)


def test_an_answer_is_cut_where_it_is_too_long() -> None:
    large = [Record(str(number), State.SUCCESS, bytes(wire.MAX_ANSWER // 2)) for number in range(4)]
    assert wire.cut_answer(large) == (large[:1], True)
    assert wire.cut_answer(large[:1]) == (large[:1], False)
    huge = Record("a", State.SUCCESS, bytes(wire.MAX_ANSWER + 1))
    assert wire.cut_answer([huge]) == ([huge], False)


def test_answers_and_refusals() -> None:
    records = [Record("a", State.FAILURE, b"x")]
    assert wire.decode_answer(wire.encode_answer(records, True)) == Answer(records, True)
    assert wire.decode_answer(wire.encode_refusal("no")) == "no"
    bads: list[object] = [{"records": 7}, {"records": [["a", "DONE", b""]]}, {"records": [7]}, {}, []]
    for bad in bads:
        with pytest.raises(DecodeError):
            wire.decode_answer(msgpack.packb(bad))


def test_members_of_chords_travel_among_records() -> None:
    body = Body("body", "add_up", "u" * 32, "normal", b"sealed", True)
    join = Join("chord", 2, 3, Record("c", State.FAILURE, b"x"), body)
    record = Record("a", State.SUCCESS, b"y")
    workload = wire.encode_item(record, 5.0) + wire.encode_join(join, 6.0) + wire.encode_item(record, 7.0)
    assert wire.decode_items(workload) == ([Item(record, 5.0), JoinItem(join, 6.0), Item(record, 7.0)], [])
    without = join._replace(body=None)
    assert wire.decode_items(wire.encode_join(without, 6.0)) == ([JoinItem(without, 6.0)], [])


@pytest.mark.parametrize(
    "change",
    [
        {"group": ""},
        {"position": 3},
        {"position": -1},
        {"position": True},
        {"size": 10**9},
        {"record": Record("", State.SUCCESS)},
        {"body": None},
        {"body": None, "position": 3},
        {"body": Body("", "add_up", "u", "normal", b"")},
        {"body": Body("b", "add up", "u", "normal", b"")},
        {"body": Body("b", "add\0up", "u", "normal", b"")},
        {"body": Body("b", "", "u", "normal", b"")},
        {"body": Body("b", "f" * 201, "u", "normal", b"")},
        {"body": Body("b", "add_up", "u" * 64, "normal", b"")},
        {"body": Body("b", "add_up", "", "normal", b"")},
        {"body": Body("b", "add_up", "u", "urgent", b"")},
        {"body": Body("b", "add_up", "u", "normal", "text")},  # type: ignore[arg-type]
    ],
)
def test_members_that_a_job_server_could_not_go_on_from_are_no_members(change: dict[str, object]) -> None:
    """A service that submitted such a job would break the conversation with its job server."""
    fields = {"group": "chord", "position": 0, "size": 3, "record": Record("c", State.SUCCESS), "body": BODY} | change
    with pytest.raises(EncodeError):
        wire.encode_join(Join(**fields), 5.0)  # type: ignore[arg-type]
    plain = [list(value) if isinstance(value, tuple) else value for value in fields.values()]
    items, complaints = wire.decode_items(msgpack.packb({"join": plain, "ttl": 5}))
    assert items == []
    assert len(complaints) == 1


def test_claims() -> None:
    claim = check_claim("order:7", "a", 1e300)
    assert wire.decode_ask(wire.encode_ask(claim)) == Claim("order:7", "a", MAX_TTL) == claim
    assert wire.decode_answer(wire.encode_value("a")) == Answer([], id="a")
    bads: list[object] = [7, ["k", "a"], ["", "a", 1], ["k", "", 1], ["k", "a", "1"], ["k", "a", float("nan")]]
    for bad in bads:
        with pytest.raises(DecodeError):
            wire.decode_ask(msgpack.packb({"claim": bad}))
    with pytest.raises(EncodeError, match="task id"):
        check_claim("key", "", 1.0)


@pytest.mark.parametrize(
    "ask",
    [
        Claim("k", "a", 5.0),
        Unclaim("k", "a"),
        Acquire("k", "h", 2, 5.0),
        Release("k", "h"),
        Take("k", 0.5, 3),
        Count("k", 5.0),
    ],
)
def test_questions_about_keys(ask: Keyed) -> None:
    """Each comes as it was sent, and is refused with a field too many, too few or of another kind."""
    assert wire.decode_ask(wire.encode_ask(ask)) == ask
    name, fields = type(ask).__name__.lower(), list(ask)
    for bad in ([*fields, 1], fields[:-1], [None, *fields[1:]], [*fields[:-1], b"x"], "text"):
        with pytest.raises(DecodeError, match=type(ask).__name__):
            wire.decode_ask(msgpack.packb({name: bad}))
    assert wire.decode_answer(wire.encode_value(2.5)) == Answer([], value=2.5)


def test_marks_travel_among_records() -> None:
    record = Record("a", State.REVOKED, b"y")
    workload = wire.encode_item(record, 5.0) + wire.encode_revoke(record, True, 1e300)
    assert wire.decode_items(workload) == ([Item(record, 5.0), RevokeItem(record, True, MAX_TTL)], [])
    items, complaints = wire.decode_items(msgpack.packb({"revoke": list(record), "terminate": 1, "ttl": 5}))
    assert (items, len(complaints)) == ([], 1)


def test_questions_for_marks_and_their_answers() -> None:
    assert wire.decode_ask(wire.encode_ask(AskMarks("era:5", 1e9))) == AskMarks("era:5", wire.MAX_HOLD)
    marks = Marks([Mark("a", True), Mark("b")], "era:7")
    assert wire.decode_answer(wire.encode_marks(marks)) == Answer([], marks=marks)
    for bad in ({"revoked": 7}, {"revoked": "x" * 300}, {"revoked": "", "timeout": "1"}):
        with pytest.raises(DecodeError):
            wire.decode_ask(msgpack.packb(bad))
    answers: list[object] = [{"marks": 7, "cursor": ""}, {"marks": [], "cursor": 7}, {"marks": [["a"]], "cursor": ""}]
    for answer in [*answers, {"marks": [["a", 1]], "cursor": ""}, {"value": "1"}, {"value": True}]:
        with pytest.raises(DecodeError):
            wire.decode_answer(msgpack.packb(answer))


@given(st.lists(st.binary(min_size=1, max_size=30)), st.integers(1, 5), st.integers(1, 50))
def test_items_are_cut_into_jobs(items: list[bytes], most: int, size: int) -> None:
    jobs = list(wire.cut_items(items, most, size))
    assert b"".join(jobs) == b"".join(items)
    assert all(jobs)
    assert all(len(job) <= max(size, max(map(len, items))) for job in jobs)
