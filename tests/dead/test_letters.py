"""Letters to bytes and back; whatever bytes come, a letter or the one documented error comes out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtask.codecs import pack, unpack
from gtask.errors import DecodeError, EncodeError
from gtask.letters import MAX_HISTORY, MAX_LETTER, Attempt, Letter, add_attempt, decode_letter, encode_letter
from gtask.states import ErrorInfo

LETTER = Letter(
    id="a" * 32 + "02",
    task="pay",
    task_id="a" * 32,
    function="pay",
    unique="a" * 32 + "02",
    message=b"\x00\xffgtask",
    error=ErrorInfo("ValueError", "größer", None, "Traceback"),
    failed_at=1.7e9,
    worker="host:1",
    priority="high",
    retries=2,
    history=(Attempt("OSError", "no", 1.6e9),),
    stored="SqliteStore",
    refused=True,
)


def test_a_letter_survives_the_trip() -> None:
    assert decode_letter(encode_letter(LETTER)) == LETTER


def test_copies_share_a_key_and_others_do_not() -> None:
    assert decode_letter(encode_letter(LETTER)).key == LETTER.key
    assert replace(LETTER, failed_at=2e9, worker="other").key == LETTER.key
    assert replace(LETTER, message=b"else").key != LETTER.key
    assert replace(LETTER, id="b").key != LETTER.key


def test_a_letter_that_no_job_server_takes_is_refused() -> None:
    with pytest.raises(EncodeError):
        encode_letter(replace(LETTER, message=bytes(MAX_LETTER)))


@pytest.mark.parametrize(
    "changes",
    [
        {"letter": 2},
        {"letter": None},
        {"id": ""},
        {"id": 7},
        {"task": b"pay"},
        {"function": ""},
        {"message": "text"},
        {"error": None},
        {"error": ["ValueError", "x"]},
        {"error": ["ValueError", "x", 7]},
        {"failed_at": "now"},
        {"failed_at": float("nan")},
        {"failed_at": 1e300},
        {"failed_at": True},
        {"priority": "highest"},
        {"retries": "2"},
        {"retries": True},
        {"stored": 1},
        {"refused": 1},
    ],
    ids=str,
)
def test_a_damaged_letter_is_none(changes: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        decode_letter(pack({**unpack(encode_letter(LETTER)), **changes}))


@given(st.binary())
def test_any_bytes_are_a_letter_or_the_one_error(data: bytes) -> None:
    try:
        assert isinstance(decode_letter(data), Letter)
    except DecodeError:
        pass


@given(st.binary(max_size=30), st.integers(0, 400), st.integers(0, 30))
def test_so_are_damaged_ones(noise: bytes, start: int, length: int) -> None:
    data = encode_letter(LETTER)
    try:
        decode_letter(data[:start] + noise + data[start + length :])
    except DecodeError:
        pass


@given(st.lists(st.tuples(st.text(max_size=400), st.text(max_size=2000), st.floats(0, 1e10)), max_size=12))
def test_a_history_keeps_the_last_attempts(errors: list[tuple[str, str, float]]) -> None:
    header: list[Any] = []
    for type_, message, at in errors:
        history = tuple(Attempt(*entry) for entry in header)
        header = add_attempt(history, ErrorInfo(type_, message), at)
    assert [entry[2] for entry in header] == [at for _, _, at in errors][-MAX_HISTORY:]
    letter = replace(LETTER, history=tuple(Attempt(*entry) for entry in header))
    if all(_sendable(*entry[:2]) for entry in header):
        assert decode_letter(encode_letter(letter)).history == letter.history


def _sendable(*texts: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for text in texts for character in text)
