"""The envelope, ids and signatures of `gtask.message`, and what a worker makes of any workload. Design, section 5."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgpack
import pytest

from gtask.codecs import MAX_DEPTH, pack
from gtask.errors import ConfigurationError, DecodeError, EncodeError
from gtask.message import (
    MAX_TASK_ID,
    Form,
    Message,
    SignatureData,
    WireUnique,
    check_task_id,
    decode_message,
    encode_message,
    new_task_id,
    parse_wire_unique,
    wire_unique,
)
from gtask.types import MAX_UNIQUE
from tests.unit.samples import Line, Opaque

ID = new_task_id("calculate", bytes(range(12)))
STEP = SignatureData("send", (1, Decimal("2.5")), {"to": ("a", "b")}, {"priority": "high"}, True, "b" * 32, None)


class TestIds:
    """24 characters of chance, 8 of the function; one unique for every run."""

    def test_an_id_is_32_hex_characters_with_the_function_in_it(self) -> None:
        assert ID == "000102030405060708090a0b" + "edca249d"
        assert new_task_id("send", bytes(range(12)))[:24] == ID[:24]
        assert new_task_id("send", bytes(range(12))) != ID

    def test_chance_of_the_wrong_length_is_refused(self) -> None:
        with pytest.raises(ValueError, match="12 random bytes, not 16"):
            new_task_id("calculate", bytes(16))

    @pytest.mark.parametrize(
        ("retries", "later", "suffix"),
        [
            (0, False, ""),
            (0, True, "00d0"),
            (1, False, "01"),
            (1, True, "01d0"),
            (255, False, "ff"),
            (256, True, "000100d0"),
        ],
    )
    def test_every_run_has_its_own_unique(self, retries: int, later: bool, suffix: str) -> None:
        unique = wire_unique(ID, retries, later)
        assert unique == ID + suffix
        assert parse_wire_unique("calculate", unique) == WireUnique(ID, retries, later)

    def test_no_two_runs_share_one(self) -> None:
        made = [wire_unique(ID, retries, later) for retries in range(5000) for later in (False, True)]
        assert len(set(made)) == len(made)

    def test_the_longest_id_fits_with_all_that_follows_it(self) -> None:
        assert len(wire_unique("x" * MAX_TASK_ID, 2**24 - 1, later=True)) <= MAX_UNIQUE

    @pytest.mark.parametrize(
        "unique", ["order-7", "d41d8cd98f00b204e9800998ecf8427e", "d41d8cd98f00b204e9800998ecf8427e01", "-"]
    )
    def test_a_foreign_unique_is_an_id_itself(self, unique: str) -> None:
        assert parse_wire_unique("calculate", unique) == WireUnique(unique)

    @pytest.mark.parametrize("unique", ["", "with space", "ünique", "x" * 64, "a\0b"])
    def test_what_can_be_no_id_is_none(self, unique: str) -> None:
        assert parse_wire_unique("calculate", unique) == WireUnique("")

    def test_an_id_of_the_users_own(self) -> None:
        assert check_task_id("Order:7.a-b_c") == "Order:7.a-b_c"
        for bad in ("", "a b", "ü", "x" * (MAX_TASK_ID + 1)):
            with pytest.raises(ConfigurationError, match="cannot be a task's id"):
                check_task_id(bad)


class TestEnvelope:
    """What a gtask caller sends."""

    def test_a_message_comes_back_as_it_was(self) -> None:
        message = Message(
            ID,
            "calculate",
            (1, (2, {3}), Decimal("1.5"), datetime(2024, 7, 1, tzinfo=UTC)),
            {"rows": [{"a": b"x"}]},
            {
                "task": "calculate",
                "retries": 2,
                "max_retries": None,
                "eta": 1.5,
                "chain": [STEP.to_list()],
                "trace": {"traceparent": "00-1"},
                "mine": {"any": [("thing",)]},
            },
        )
        assert decode_message("calculate", encode_message(message)) == message

    def test_the_first_bytes_say_what_it_is(self) -> None:
        assert encode_message(Message(ID, "calculate"))[:8] == b"\x85\xa5gtask\x01"

    def test_the_least_that_is_needed(self) -> None:
        assert decode_message("f", msgpack.packb({"gtask": 1}), fallback_id="u") == Message("u", "f")
        assert decode_message("f", msgpack.packb({"gtask": 1, "id": "", "args": None, "headers": None})) == Message(
            "", "f"
        )

    def test_later_versions_may_say_more(self) -> None:
        data = msgpack.packb({"gtask": 1, "id": ID, "later": [1]})
        assert decode_message("calculate", data) == Message(ID, "calculate")

    @pytest.mark.parametrize("codec", ["auto", "json", "text", "msgpack"])
    def test_it_is_known_to_every_codec(self, codec: str) -> None:
        message = Message(ID, "calculate", (1,))
        assert decode_message("calculate", encode_message(message), codec) == message

    @pytest.mark.parametrize("unique", [ID, wire_unique(ID, 1), wire_unique(ID, 1, later=True)])
    def test_to_raw_only_where_its_unique_vouches_for_it(self, unique: str) -> None:
        message = Message(ID, "calculate", (b"x",), {}, {"retries": 1})
        assert decode_message("calculate", encode_message(message), "raw", unique) == message

    @pytest.mark.parametrize("unique", ["", "order-7", "f" + ID[1:], ID[:24] + "0" * 8])
    def test_to_raw_it_is_bytes_like_any_others(self, unique: str) -> None:
        data = encode_message(Message(ID, "calculate", (b"x",), {}, {"retries": 1}))
        found = decode_message("calculate", data, "raw", unique)
        assert (found.args, found.form, found.headers) == ((data,), Form.RAW, {})
        broken = data[:-1]
        assert decode_message("calculate", broken, "raw", ID).args == (broken,)

    @pytest.mark.parametrize("form", list(Form))
    def test_a_message_of_any_form_is_sent_on_as_an_envelope(self, form: Form) -> None:
        message = Message(ID, "calculate", (1,), form=form)
        assert decode_message("calculate", encode_message(message)) == replace(message, form=Form.ENVELOPE)

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"gtask": 2}, "has version 2, and 1 is read here"),
            ({"gtask": True}, "has version True"),
            ({"gtask": 10**400}, "has version"),
            ({"id": 7}, "id is 7"),
            ({"id": "a b"}, "id is 'a b'"),
            ({"id": "x" * 64}, "id is 'x"),
            ({"args": 5}, "args are a int"),
            ({"args": {"a": 1}}, "args are a dict"),
            ({"kwargs": [1]}, "kwargs are no map"),
            ({"kwargs": {1: 2}}, "kwargs are no map from text"),
            ({"headers": "x"}, "headers are no map"),
            ({"headers": {b"a": 1}}, "headers are no map from text"),
            ({"headers": {"task": "send"}}, "for the task 'send', not for 'calculate'"),
            ({"headers": {"task": 5}}, "header 'task' is 5; it is text"),
            ({"headers": {"retries": -1}}, "header 'retries' is -1; it is a count"),
            ({"headers": {"retries": True}}, "header 'retries' is True"),
            ({"headers": {"retries": 10**5000}}, "header 'retries' is <int>"),
            ({"headers": {"eta": "soon"}}, "header 'eta' is 'soon'; it is a Unix time"),
            ({"headers": {"eta": float("nan")}}, "header 'eta' is nan"),
            ({"headers": {"expires": float("inf")}}, "header 'expires' is inf"),
            ({"headers": {"expires": 10**400}}, "header 'expires' is 1000"),
            ({"headers": {"chain": "x"}}, "header 'chain' is 'x'; it is an array"),
            ({"headers": {"trace": {"a": 1}}}, "header 'trace' is"),
            ({"headers": {"trace": {str(n): "" for n in range(33)}}}, "header 'trace' is"),
            ({"headers": {"time_limit": -1}}, "header 'time_limit' is -1"),
            ({"headers": {"ignore_result": 1}}, "header 'ignore_result' is 1; it is true or false"),
            ({"headers": {"priority": ["high"]}}, "header 'priority' is ['high']"),
            ({"headers": {"origin": "x" * 1001}}, "header 'origin' is 'x"),
        ],
    )
    def test_a_broken_one_is_refused(self, change: dict[str, Any], sentence: str) -> None:
        with pytest.raises(DecodeError) as caught:
            decode_message("calculate", pack({"gtask": 1, "id": ID} | change))
        assert sentence in str(caught.value)
        assert len(str(caught.value)) < 400

    def test_a_header_name_of_any_length_is_the_users_own(self) -> None:
        headers = {"x" * 5000: 1}
        assert decode_message("f", pack({"gtask": 1, "headers": headers})).headers == headers

    def test_a_damaged_one_is_refused(self) -> None:
        data = encode_message(Message(ID, "calculate", ("abc" * 50,)))
        for end in range(7, len(data)):
            with pytest.raises(DecodeError):
                decode_message("calculate", data[:end])

    def test_gtasks_own_carrier_takes_messages_for_others(self) -> None:
        message = Message(ID, "send", (1,), {}, {"task": "send"})
        assert decode_message("gtask.call", encode_message(message)) == message

    def test_what_cannot_be_sent_is_named(self) -> None:
        with pytest.raises(EncodeError, match=r"^args\[1\]\.price: a tests\.unit\.samples\.Opaque cannot be sent"):
            encode_message(Message(ID, "f", (1, Line("a", Opaque()))))  # type: ignore[arg-type]
        with pytest.raises(EncodeError, match=r"^kwargs\.orders\[0\]: a tests\.unit\.samples\.Opaque cannot be sent"):
            encode_message(Message(ID, "f", (), {"orders": [Opaque()]}))

    def test_a_value_as_deep_as_allowed_fits_into_the_step_of_a_chain(self) -> None:
        value: Any = 1
        for _ in range(MAX_DEPTH):
            value = [value]
        step = replace(STEP, args=(value,))
        message = Message(ID, "f", (value,), {}, {"chain": [step.to_list()]})
        assert decode_message("f", encode_message(message)) == message


class TestForeignWorkloads:
    """What callers in other languages send, with codec="auto"."""

    @pytest.mark.parametrize(
        ("workload", "form", "args"),
        [
            (b"", Form.JSON, ()),
            (b"5", Form.JSON, (5,)),
            (b" [1, 2]\n", Form.JSON, ([1, 2],)),
            (b'{"a": 1}', Form.JSON, ({"a": 1},)),
            (b'"text"', Form.JSON, ("text",)),
            (b"null", Form.JSON, (None,)),
            (b"hello", Form.TEXT, ("hello",)),
            ("grüße".encode(), Form.TEXT, ("grüße",)),
            (b"{not json", Form.TEXT, ("{not json",)),
            (b"\xff\x00", Form.RAW, (b"\xff\x00",)),
            (b"\x85\xa5gtas", Form.RAW, (b"\x85\xa5gtas",)),
        ],
    )
    def test_auto(self, workload: bytes, form: Form, args: tuple[Any, ...]) -> None:
        assert decode_message("calculate", workload, fallback_id="u1") == Message("u1", "calculate", args, form=form)

    @pytest.mark.parametrize(
        ("codec", "workload", "form", "args"),
        [
            ("json", b"", Form.JSON, ()),
            ("json", b" \n", Form.JSON, ()),
            ("json", b"[1]", Form.JSON, ([1],)),
            ("text", b"5", Form.TEXT, ("5",)),
            ("text", b'{"gtask": 1}', Form.TEXT, ('{"gtask": 1}',)),
            ("text", b"", Form.TEXT, ()),
            ("raw", b"5", Form.RAW, (b"5",)),
            ("raw", b"", Form.RAW, ()),
            ("raw", b'{"gtask": 1}', Form.RAW, (b'{"gtask": 1}',)),
            ("msgpack", msgpack.packb({"a": 1}), Form.ENVELOPE, ({"a": 1},)),
            ("msgpack", b"", Form.ENVELOPE, ()),
        ],
    )
    def test_a_codec_forces_one_form(self, codec: str, workload: bytes, form: Form, args: tuple[Any, ...]) -> None:
        # Who sends msgpack that is no envelope may be waiting, as all those do who send another form.
        headers = {"fg": True} if codec == "msgpack" else {}
        assert decode_message("calculate", workload, codec) == Message("", "calculate", args, {}, headers, form)

    @pytest.mark.parametrize(
        ("codec", "workload", "sentence"),
        [
            ("json", b"hello", "no JSON"),
            ("text", b"\xff", "no UTF-8 text"),
            ("msgpack", b"hello", "no msgpack"),
            ("auto", b"[" * 100_000, "nested deeper"),
            ("auto", b"[" * 100 + b"]" * 100, "nested deeper"),
            ("pickle", b"x", "'pickle' is no codec"),
        ],
    )
    def test_what_does_not_fit_the_codec_is_refused(self, codec: str, workload: bytes, sentence: str) -> None:
        with pytest.raises(DecodeError, match=sentence):
            decode_message("calculate", workload, codec)

    def test_an_envelope_in_json(self) -> None:
        workload = b'{"gtask": 1, "args": [1], "kwargs": {"a": "1.50"}, "headers": {"priority": "high"}}'
        expected = Message("u", "f", (1,), {"a": "1.50"}, {"priority": "high"}, Form.JSON_ENVELOPE)
        assert decode_message("f", workload, fallback_id="u") == expected
        assert decode_message("f", workload, "json", "u") == expected

    @pytest.mark.parametrize(
        "workload", [b'{"gtask": 2}', b'{"gtask": "1"}', b'{"gtask": 1, "args": 5}', b'{"gtask":1,"id":5}']
    )
    def test_a_broken_envelope_in_json_is_no_argument(self, workload: bytes) -> None:
        with pytest.raises(DecodeError):
            decode_message("f", workload)

    def test_a_retry_without_an_envelope_knows_its_number_from_its_unique(self) -> None:
        found = decode_message("calculate", b"\xff", "raw", wire_unique(ID, 3))
        assert (found.id, found.headers) == (ID, {"retries": 3})

    def test_too_many_bytes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gtask.message.MAX_SIZE", 10)
        for codec in ("auto", "json", "text", "raw"):
            with pytest.raises(DecodeError, match="11 bytes, more than the 10"):
                decode_message("f", b"x" * 11, codec)


class TestSignatures:
    """Steps to come, as they stand in headers."""

    def test_one_comes_back_as_it_was(self) -> None:
        assert SignatureData.from_list(STEP.to_list()) == STEP
        assert SignatureData.from_list(SignatureData("f", codec="json").to_list()) == SignatureData("f", codec="json")

    @pytest.mark.parametrize(
        "data",
        [
            None,
            [],
            {},
            "send",
            ["send"],
            [1, [], {}, {}, False, "", None],
            ["f", (), 1, {}, False, "", None],
            ["f", [], {1: 2}, {}, False, "", None],
            ["f", [], {}, {b"a": 1}, False, "", None],
            ["f", [], {}, {}, 1, "", None],
            ["f", [], {}, {}, False, None, None],
            ["f", [], {}, {}, False, "", 5],
        ],
    )
    def test_what_is_none_is_refused(self, data: Any) -> None:
        with pytest.raises(DecodeError, match="no signature"):
            SignatureData.from_list(data)
