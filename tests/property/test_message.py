"""Messages, failures and records: any of them comes back as it was; any bytes give one or `DecodeError`."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from gtask.codecs import pack
from gtask.errors import DecodeError, TaskFailed
from gtask.failures import error_info, rebuild
from gtask.message import (
    Form,
    Message,
    SignatureData,
    decode_answer,
    decode_failure,
    decode_message,
    encode_failure,
    encode_message,
    new_task_id,
    parse_wire_unique,
    wire_unique,
)
from gtask.results.records import outcome_to_record, record_to_outcome
from gtask.states import ErrorInfo, Outcome, Record, State
from tests.property.test_codecs import values

codecs = st.sampled_from(["auto", "json", "text", "raw", "msgpack"])
ids = st.binary(min_size=12, max_size=12).map(lambda chance: new_task_id("f", chance))
names = st.text(max_size=10)
kwargs = st.dictionaries(names, values, max_size=3)

signatures = st.builds(
    SignatureData,
    names,
    st.lists(values, max_size=2).map(tuple),
    kwargs,
    kwargs,
    st.booleans(),
    ids,
    st.sampled_from([None, "json", "text", "raw"]),
)
headers = st.fixed_dictionaries(
    {},
    optional={
        "task": st.just("f"),
        "retries": st.integers(0, 1000),
        "eta": st.floats(0, 1e10),
        "chain": st.lists(signatures.map(SignatureData.to_list), max_size=2),
        "trace": st.dictionaries(names, names, max_size=2),
        "users own": values,
    },
)
messages = st.builds(Message, ids, st.just("f"), st.lists(values, max_size=3).map(tuple), kwargs, headers)


@given(messages, codecs.filter(lambda codec: codec != "raw"))
def test_a_message_comes_back_as_it_was(message: Message, codec: str) -> None:
    assert decode_message("f", encode_message(message), codec) == message


@given(signatures)
def test_a_signature_comes_back_as_it_was(signature: SignatureData) -> None:
    assert SignatureData.from_list(signature.to_list()) == signature


loose = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=70), st.lists(values, max_size=2), kwargs
)
HEADERS = (
    "task",
    "retries",
    "max_retries",
    "eta",
    "expires",
    "root",
    "chain",
    "link",
    "time_limit",
    "fg",
    "trace",
    "priority",
    "x",
)
envelopes = st.fixed_dictionaries(
    {"gtask": st.just(1) | loose},
    optional={
        "id": loose,
        "args": st.lists(values, max_size=2) | loose,
        "kwargs": kwargs | loose,
        "headers": st.dictionaries(st.sampled_from(HEADERS), loose, max_size=3) | loose,
    },
)


def check(data: bytes, codec: str) -> None:
    """Whatever is decoded is a message in all its parts."""
    try:
        found = decode_message("f", data, codec, "fallback")
    except DecodeError:
        return
    assert found.task == "f"
    assert isinstance(found.id, str)
    assert isinstance(found.args, tuple)
    assert all(type(key) is str for key in (*found.kwargs, *found.headers))
    assert isinstance(found.headers.get("retries", 0), int)


@given(st.binary(max_size=300), codecs)
def test_any_bytes_are_a_message_or_decode_error(data: bytes, codec: str) -> None:
    check(data, codec)
    check(b"\x85\xa5gtask" + data, codec)


@given(envelopes, codecs)
def test_any_envelope_is_a_message_or_decode_error(envelope: dict[str, Any], codec: str) -> None:
    check(pack(envelope), codec)
    try:
        data = orjson.dumps(envelope, default=str, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # JSON has no keys of such types
        return
    check(data, codec)


@given(messages, st.integers(0, 500), st.binary(max_size=2))
def test_a_damaged_message_is_a_message_or_decode_error(message: Message, position: int, damage: bytes) -> None:
    data = encode_message(message)
    check(data[:position], "auto")
    check(data[:position] + damage + data[position + 1 :], "auto")


@given(st.binary(max_size=200), st.sampled_from(Form))
def test_any_bytes_are_an_answer_or_decode_error(data: bytes, form: Form) -> None:
    try:
        decode_answer(data, form)
    except DecodeError:
        pass


@given(st.binary(max_size=200))
def test_any_bytes_are_a_failure_or_decode_error(data: bytes) -> None:
    for variant in (data, b"\x82\xa5gtask\x01\xa5error" + data):
        try:
            info = decode_failure(variant)
        except DecodeError:
            continue
        assert isinstance(rebuild(info), Exception)


@given(names, st.text(max_size=50), st.none() | st.lists(values, max_size=3).map(tuple), st.none() | st.text())
def test_a_failure_comes_back_as_it_was(
    type: str, message: str, args: tuple[Any, ...] | None, text: str | None
) -> None:
    info = ErrorInfo(type, message, args, text)
    assert decode_failure(encode_failure(Form.ENVELOPE, info)) == info


builtin_errors = st.sampled_from(
    [ValueError, KeyError, OSError, UnicodeDecodeError, StopIteration, RuntimeError, SystemExit]
)


@given(builtin_errors, st.lists(values, max_size=5))
def test_an_exception_is_rebuilt_or_task_failed(kind: type[BaseException], args: list[Any]) -> None:
    try:
        exception = kind(*args)
    except TypeError:
        return
    found = rebuild(decode_failure(encode_failure(Form.ENVELOPE, error_info(exception))))
    assert type(found) is type(exception) or type(found) is TaskFailed


@given(ids, st.sampled_from(State), values, kwargs, st.lists(ids, max_size=3))
def test_an_outcome_comes_back_as_it_was(
    id: str, state: State, value: Any, more: dict[str, Any], children: list[str]
) -> None:
    outcome = Outcome(id, state, [value, more], task="f", retries=2, started=1.5, children=tuple(children))
    assert record_to_outcome(outcome_to_record(outcome)) == outcome


@given(st.binary(max_size=100), envelopes)
def test_any_record_is_an_outcome_or_decode_error(data: bytes, body: dict[str, Any]) -> None:
    for variant in (data, pack(body), pack({"gtask": 1, "error": body, "children": data})):
        try:
            record_to_outcome(Record("i", State.SUCCESS, variant))
        except DecodeError:
            pass


@given(ids, st.integers(0, 2**24 - 1), st.booleans())
def test_a_unique_says_which_run_it_is(id: str, retries: int, later: bool) -> None:
    assert parse_wire_unique("f", wire_unique(id, retries, later)) == (id, retries, later)
