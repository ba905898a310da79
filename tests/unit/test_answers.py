"""Answers, calls of foreign functions and failures, in every form. Design, section 5."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgpack
import pytest

from gtask.answers import MAX_FAILURE
from gtask.codecs import pack
from gtask.errors import DecodeError, EncodeError
from gtask.message import Form, Message, decode_answer, decode_failure, encode_answer, encode_failure, encode_foreign
from gtask.states import ErrorInfo
from tests.unit.samples import Line, Opaque

MOMENT = datetime(2024, 7, 1, 12, tzinfo=UTC)


class TestAnswers:
    """An answer goes back in the form of its question."""

    @pytest.mark.parametrize(
        ("form", "value", "data"),
        [
            (Form.JSON, Decimal("1.50"), b'"1.50"'),
            (Form.JSON, None, b"null"),
            (Form.JSON_ENVELOPE, {"a": (1, 2)}, b'{"a":[1,2]}'),
            (Form.TEXT, "grün", "grün".encode()),
            (Form.TEXT, b"\xff", b"\xff"),
            (Form.TEXT, None, b""),
            (Form.TEXT, {"a": Decimal(1)}, b'{"a":"1"}'),
            (Form.TEXT, 7, b"7"),
            (Form.RAW, b"\xff\x00", b"\xff\x00"),
            (Form.RAW, bytearray(b"x"), b"x"),
            (Form.RAW, "grün", "grün".encode()),
            (Form.RAW, None, b""),
            (Form.ENVELOPE, (1, {2}), pack((1, {2}))),
        ],
    )
    def test_what_is_sent(self, form: Form, value: Any, data: bytes) -> None:
        assert encode_answer(form, value) == data
        assert encode_answer(Message("i", "f", form=form), value) == data

    @pytest.mark.parametrize(
        ("form", "data", "annotation", "value"),
        [
            (Form.ENVELOPE, pack((1, MOMENT)), Any, (1, MOMENT)),
            (Form.ENVELOPE, pack(Line("a", Decimal(1))), Line, Line("a", Decimal(1))),
            (Form.ENVELOPE, b"", Any, None),
            (Form.JSON, b'{"sku": "a", "price": "1"}', Line, Line("a", Decimal(1))),
            (Form.JSON, b"", Any, None),
            (Form.JSON_ENVELOPE, b"[1]", tuple[int, ...], (1,)),
            (Form.TEXT, "grün".encode(), Any, "grün"),
            (Form.TEXT, b"1.50", Decimal, Decimal("1.50")),
            (Form.TEXT, b"\xff", Any, b"\xff"),
            (Form.TEXT, b"", Any, None),
            (Form.RAW, b"", Any, b""),
            (Form.RAW, b"\xff", bytes, b"\xff"),
        ],
    )
    def test_what_is_read(self, form: Form, data: bytes, annotation: Any, value: Any) -> None:
        assert decode_answer(data, form, annotation) == value

    @pytest.mark.parametrize(
        ("form", "value", "sentence"),
        [
            (Form.ENVELOPE, [Opaque()], r"^result\[0\]: a tests.unit.samples.Opaque cannot be sent;"),
            (Form.JSON, [Opaque()], r"^result\[0\]: a tests.unit.samples.Opaque cannot be sent as JSON"),
            (Form.TEXT, Opaque(), r"^result: a tests.unit.samples.Opaque cannot be sent as JSON"),
            (Form.TEXT, "\ud800", r"^result: 'utf-8' codec"),
            (Form.RAW, 5, r"^result: a int is not bytes; with codec='raw'"),
        ],
    )
    def test_what_cannot_be_sent_is_named(self, form: Form, value: Any, sentence: str) -> None:
        with pytest.raises(EncodeError, match=sentence):
            encode_answer(form, value)

    def test_what_cannot_be_read_is_named(self) -> None:
        with pytest.raises(DecodeError, match="no JSON"):
            decode_answer(b"hello", Form.JSON)
        with pytest.raises(DecodeError, match=r"^result: expected int, got str 'x'"):
            decode_answer(b'"x"', Form.JSON, int)


class TestForeignCalls:
    """What a function in another language is handed."""

    @pytest.mark.parametrize(
        ("args", "kwargs", "codec", "data"),
        [
            ((Decimal("1.50"),), {}, "json", b'"1.50"'),
            (([1, 2],), {}, "json", b"[1,2]"),
            ((1, "a"), {}, "json", b'[1,"a"]'),
            ((), {"a": 1}, "json", b'{"a":1}'),
            ((), {}, "json", b"null"),
            (("hello",), {}, "text", b"hello"),
            ((5,), {}, "text", b"5"),
            ((), {}, "text", b""),
            ((b"\xff",), {}, "raw", b"\xff"),
            (("x",), {}, "raw", b"x"),
            ((), {}, "raw", b""),
            ((1,), {}, "msgpack", b"\x01"),
            ((), {"a": 1}, "msgpack", msgpack.packb({"a": 1})),
        ],
    )
    def test_what_is_sent(self, args: tuple[Any, ...], kwargs: dict[str, Any], codec: str, data: bytes) -> None:
        assert encode_foreign(args, kwargs, codec) == data

    @pytest.mark.parametrize(
        ("args", "kwargs", "codec", "sentence"),
        [
            ((1,), {"a": 1}, "json", "positional or keyword arguments, not both"),
            ((1, 2), {}, "text", "takes one positional argument"),
            ((), {"a": 1}, "raw", "takes one positional argument"),
            ((5,), {}, "raw", "^argument: a int is not bytes"),
            (([Opaque()],), {}, "json", r"^argument\[0\]: a tests"),
            ((1, Opaque()), {}, "json", r"^arguments\[1\]: a tests"),
            ((1,), {}, "pickle", "'pickle' is no codec"),
        ],
    )
    def test_what_does_not_fit_is_named(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], codec: str, sentence: str
    ) -> None:
        with pytest.raises(EncodeError, match=sentence):
            encode_foreign(args, kwargs, codec)


class TestFailures:
    """The data of WORK_EXCEPTION."""

    ERROR = ErrorInfo("ValueError", "no such order", ("no such order", 7), "Traceback ...")

    def test_a_gtask_caller_gets_all_of_it(self) -> None:
        assert decode_failure(encode_failure(Form.ENVELOPE, self.ERROR)) == self.ERROR
        assert decode_failure(encode_failure(Message("i", "f"), self.ERROR)) == self.ERROR

    def test_anyone_else_gets_a_line(self) -> None:
        for form in Form:
            if form is not Form.ENVELOPE:
                assert encode_failure(form, self.ERROR) == b"ValueError: no such order"
        assert encode_failure(Form.JSON, ErrorInfo("ValueError")) == b"ValueError"
        assert encode_failure(Form.JSON, ErrorInfo("", "\ud800 broken")) == b"? broken"

    def test_what_cannot_be_packed_is_left_out(self) -> None:
        @dataclass
        class Odd:
            thing: object

        broken = ErrorInfo("E", "text \ud800", (Odd(print),), "trace \ud800")
        assert decode_failure(encode_failure(Form.ENVELOPE, broken)) == ErrorInfo("E", "text ?", None, "trace ?")

    @pytest.mark.parametrize(
        ("data", "error"),
        [
            (b"ValueError: no such order", ErrorInfo("ValueError", "no such order")),
            (b"My\\Php\\Exception: several\nlines\n", ErrorInfo("My\\Php\\Exception", "several\nlines")),
            (b"it broke at line 5\0", ErrorInfo("", "it broke at line 5")),
            (b"", ErrorInfo("", "The worker reported an exception without saying which.")),
            (b"\xff\xfe", ErrorInfo("", "\ufffd\ufffd")),
            (b"a: " + b"x" * 100_000, ErrorInfo("a", "x" * (MAX_FAILURE - 3))),
        ],
    )
    def test_anything_that_any_worker_sends_is_read(self, data: bytes, error: ErrorInfo) -> None:
        assert decode_failure(data) == error

    @pytest.mark.parametrize(
        "data",
        [
            pack({"gtask": 1}),
            pack({"gtask": 1, "error": None}),
            pack({"gtask": 1, "error": ["E", "m", 5, None]}),
            pack({"gtask": 1, "error": ["E", "m", None]}),
            pack({"gtask": 1, "error": ["E", "m", None, None]})[:-1],
        ],
    )
    def test_a_broken_envelope_is_refused(self, data: bytes) -> None:
        with pytest.raises(DecodeError):
            decode_failure(data)
