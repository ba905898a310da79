"""The forms in which workloads, answers and failures travel. Design, section 5.

An answer goes back in the form its question came in, so a caller in another language never meets msgpack unless it
sent it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, Protocol

from gtask.codecs import MAX_SIZE, convert, from_json, pack, to_json, unpack
from gtask.errors import DecodeError, EncodeError
from gtask.states import ErrorInfo

MAX_FAILURE: Final = 64 * 1024
"""Characters of a foreign worker's exception that are kept, and bytes of one that is sent to a foreign caller."""


class Form(StrEnum):
    """How a workload came.

    ENVELOPE is gtask's own, in msgpack; JSON_ENVELOPE the same in JSON. JSON is one value as JSON, TEXT is UTF-8 text,
    RAW is bytes that nobody looks into.
    """

    ENVELOPE = "envelope"
    JSON_ENVELOPE = "json-envelope"
    JSON = "json"
    TEXT = "text"
    RAW = "raw"

    @property
    def is_envelope(self) -> bool:
        """Whether it is an envelope, with an id and headers, in msgpack or in JSON."""
        return self is Form.ENVELOPE or self is Form.JSON_ENVELOPE


class HasForm(Protocol):
    """A message, or whatever else knows the form it came in."""

    @property
    def form(self) -> Form:
        """The form it came in."""


FOREIGN: Final = {"json": Form.JSON, "text": Form.TEXT, "raw": Form.RAW, "msgpack": Form.ENVELOPE}
"""The form that a codec's name stands for, in ``app.function(name, codec=...)``. msgpack here is a bare value."""


def encode_answer(form: Form | HasForm, value: Any, where: str = "result") -> bytes:
    """Encodes what a task returned, in the form its message came in; takes the message or its form.

    As text, str and bytes go as they are, None as nothing, everything else as JSON. As raw, only bytes, str (in UTF-8)
    and None go. Raises `EncodeError`, which names the offending part of the value.
    """
    match form if isinstance(form, Form) else form.form:
        case Form.ENVELOPE:
            return pack(value, where)
        case Form.JSON | Form.JSON_ENVELOPE:
            return to_json(value, where)
        case Form.TEXT:
            plain = _plain(value, where)
            return to_json(value, where) if plain is None else plain
        case Form.RAW:
            plain = _plain(value, where)
            if plain is None:
                raise EncodeError(
                    f"{where}: a {type(value).__name__} is not bytes; with codec='raw' only bytes and str travel."
                )
            return plain


def _plain(value: Any, where: str) -> bytes | None:
    if value is None:
        return b""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str):
        try:
            return str.encode(value)
        except UnicodeEncodeError as error:
            raise EncodeError(f"{where}: {error}.") from error
    return None


def decode_answer(data: bytes, form: Form = Form.ENVELOPE, annotation: Any = Any, where: str = "result") -> Any:
    """Decodes an answer that came in `form`, and rebuilds it as `annotation` says.

    No bytes at all are None, except in RAW, where they are what they are. TEXT that is no UTF-8 stays bytes. Raises
    `DecodeError`.
    """
    value: Any
    match form:
        case Form.RAW:
            value = bytes(data)
        case _ if not data:
            return None
        case Form.ENVELOPE:
            value = unpack(data)
        case Form.JSON | Form.JSON_ENVELOPE:
            value = from_json(data)
        case Form.TEXT:
            value = read_text(data)
    return convert(value, annotation, where)


def read_text(data: bytes) -> str | bytes:
    """Text where the bytes are UTF-8, else the bytes themselves."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return bytes(data)


def encode_foreign(args: Sequence[Any], kwargs: Mapping[str, Any], codec: str = "json") -> bytes:
    """Encodes a call of a function that lives in another language: ``app.function("send", codec="json")``.

    As JSON (and as bare msgpack) one positional argument is its own value, several are an array, keyword arguments are
    an object, none at all is null. Text and raw take one positional argument. Raises `EncodeError`.
    """
    form = FOREIGN.get(codec)
    if form is None:
        raise EncodeError(f"{codec!r} is no codec for a foreign function; it is one of {', '.join(FOREIGN)}.")
    if args and kwargs:
        raise EncodeError(f"A foreign function with codec={codec!r} takes positional or keyword arguments, not both.")
    if form is Form.TEXT or form is Form.RAW:
        if kwargs or len(args) > 1:
            raise EncodeError(f"A foreign function with codec={codec!r} takes one positional argument; send one value.")
        return encode_answer(form, args[0] if args else None, "argument")
    if len(args) == 1:
        return encode_answer(form, args[0], "argument")
    return encode_answer(form, list(args) if args else dict(kwargs) if kwargs else None, "arguments")


# --- failures ------------------------------------------------------------------------------------------------


def encode_failure(form: Form | HasForm, error: ErrorInfo) -> bytes:
    """The data of WORK_EXCEPTION: all of the error for a gtask caller, ``ValueError: message`` for anyone else."""
    if (form if isinstance(form, Form) else form.form) is not Form.ENVELOPE:
        text = f"{error.type}: {error.message}" if error.type and error.message else error.type or error.message
        return text.encode(errors="replace")[:MAX_FAILURE]
    try:
        return pack({"gtask": 1, "error": error_to_plain(error)})
    except EncodeError:
        # Something in the arguments does not travel; the text always does.
        type_, message, _, traceback = error_to_plain(error)
        return pack({"gtask": 1, "error": [_clean(type_), _clean(message), None, traceback and _clean(traceback)]})


def decode_failure(data: bytes) -> ErrorInfo:
    """Reads the data of WORK_EXCEPTION, from a gtask worker or any other.

    Raises `DecodeError` only for what starts like gtask's own and is broken.
    """
    if is_envelope(data):
        found = unpack(data)
        if not isinstance(found, dict) or "error" not in found:
            raise DecodeError("This envelope holds no error.")
        return error_from_plain(found["error"])
    text = data[:MAX_FAILURE].decode(errors="replace").strip("\0\r\n ")
    named = _NAMED.match(text)
    if named is not None:
        return ErrorInfo(named[1], named[2])
    return ErrorInfo("", text or "The worker reported an exception without saying which.")


_NAMED: Final = re.compile(r"([A-Za-z_][\w.\\]{0,199}): (.*)", re.DOTALL)


def _clean(text: str) -> str:
    return text.encode(errors="replace").decode()


def is_envelope(data: bytes) -> bool:
    """Whether bytes start like a message of gtask: a msgpack map whose first key is ``"gtask"``. Costs a glance."""
    return data[1:7] == b"\xa5gtask" and data[0] & 0xF0 == 0x80


def error_to_plain(error: ErrorInfo) -> list[Any]:
    """An error as plain data: type, message, arguments, traceback."""
    return [error.type, error.message, None if error.args is None else list(error.args), error.traceback]


def error_from_plain(data: Any) -> ErrorInfo:
    """The error behind plain data; raises `DecodeError` where it is none."""
    match data:
        case [str(type_), str(message), None | list() as args, None | str() as traceback]:
            return ErrorInfo(type_, message, None if args is None else tuple(args), traceback)
    raise DecodeError("This is no error as gtask sends it: four values, its type, message, arguments and traceback.")


__all__ = [
    "FOREIGN",
    "MAX_FAILURE",
    "MAX_SIZE",
    "Form",
    "HasForm",
    "decode_answer",
    "decode_failure",
    "encode_answer",
    "encode_failure",
    "encode_foreign",
    "error_from_plain",
    "error_to_plain",
    "is_envelope",
    "read_text",
]
