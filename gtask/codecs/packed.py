"""Values to msgpack and back. The plain case is one call of msgpack, with no walk before or after it."""

from __future__ import annotations

from typing import Any, Final

import msgpack

from gtask.codecs.annotations import convert
from gtask.codecs.extensions import MARK, Decoding, check_hashes, default, extension
from gtask.codecs.limits import MAX_DEPTH, MAX_SIZE
from gtask.codecs.paths import explain
from gtask.errors import DecodeError, EncodeError

_SMALL: Final = 4096
"""Bytes up to which declared lengths are harmless: some MiB are allocated at worst."""

_CONTAINERS: Final = bytes((*range(0x80, 0xA0), *range(0xDC, 0xE0)))
"""The first bytes of arrays and maps. They may occur inside values too: counting them gives an upper bound."""

_ARRAY: Final = b"\x91"


def pack(value: Any, where: str = "value", *, max_size: int = MAX_SIZE, max_depth: int = MAX_DEPTH) -> bytes:
    """Encodes a value as msgpack with gtask's extension types (`gtask.codecs.extensions`).

    `max_size` is in bytes, `max_depth` in containers inside each other. Raises `EncodeError`, which names the
    offending value by its path from `where`: ``value[3].customer: a Foo cannot be sent; ...``.
    """
    try:
        data = msgpack.Packer(default=default, strict_types=True, use_bin_type=True, buf_size=1024).pack(value)
    except Exception as error:
        raise EncodeError(explain(value, where, max_depth, _leaf_problem, str(error))) from error
    if len(data) > max_size:
        raise EncodeError(
            f"{where or 'message'}: {len(data)} bytes encoded, and {max_size} is the limit; send a reference instead."
        )
    try:
        _check_structure(data, max_depth)
    except msgpack.StackError:
        raise EncodeError(explain(value, where, max_depth, _leaf_problem, _too_deep(max_depth))) from None
    return bytes(data)


def unpack(data: bytes, annotation: Any = Any, *, max_size: int = MAX_SIZE, max_depth: int = MAX_DEPTH) -> Any:
    """Decodes what `pack` made, or any other msgpack, and rebuilds it as `annotation` says (see `convert`).

    Size, nesting and declared lengths are checked before anything is built. Raises `DecodeError` and nothing else,
    whatever the bytes are.
    """
    value = _load(data if type(data) is bytes else bytes(data), max_size, max_depth)
    return value if annotation is Any else convert(value, annotation, "value")


def _load(data: bytes, max_size: int, max_depth: int) -> Any:
    if len(data) > max_size:
        raise DecodeError(f"{len(data)} bytes are more than the {max_size} that are taken; nothing was decoded.")
    try:
        _check_structure(data, max_depth)
        if MARK in data:
            return _load_marked(data)
        try:
            return msgpack.unpackb(data, ext_hook=extension, timestamp=3, strict_map_key=True)
        except ValueError as error:
            if "not allowed for map key" not in str(error):
                raise
            return _load_marked(data)
    except DecodeError:
        raise
    except msgpack.StackError:
        raise DecodeError(_too_deep(max_depth)) from None
    except Exception as error:
        if "incomplete input" in str(error):
            raise DecodeError(
                "This msgpack is cut off: its end is missing. A job server that keeps its queue in Redis cuts what it "
                "replays at the first NUL byte; `gtask doctor` tells which queue it has."
            ) from error
        raise DecodeError(f"This is no msgpack that gtask can read: {error or type(error).__name__}.") from error


def _load_marked(data: bytes) -> Any:
    """The slower way: tuples, sets, and maps with keys that are not text."""
    decoding = Decoding()
    value = msgpack.unpackb(
        data,
        ext_hook=decoding.extension,
        list_hook=decoding.array,
        object_pairs_hook=_map,
        timestamp=3,
        strict_map_key=False,
    )
    if decoding.open:
        raise DecodeError("The mark of a tuple or a set stands where none may stand.")
    return value


def _map(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    check_hashes([key for key, _ in pairs] if len(pairs) > 1000 else (), "map")
    return dict(pairs)


def _too_deep(max_depth: int) -> str:
    return f"nested deeper than {max_depth} containers, which is the limit; flatten it."


def _check_structure(data: bytes, max_depth: int) -> None:
    """Lets msgpack skip over the bytes, which builds nothing: the nesting, and that declared lengths are there.

    msgpack's stack has a fixed height, so arrays put before the data leave `max_depth` of it. Raises msgpack's errors,
    StackError for what is nested too deep.
    """
    size = len(data)
    if size <= _SMALL and size - len(data.translate(None, _CONTAINERS)) <= max_depth:
        return
    prefix = _ARRAY * (_STACK - max_depth) if _STACK else b""
    room = size + len(prefix)
    unpacker = msgpack.Unpacker(max_buffer_size=room, read_size=room)
    unpacker.feed(prefix + data if size <= _SMALL else prefix)
    if size > _SMALL:
        unpacker.feed(data)
    unpacker.skip()


def _stack_height() -> int:
    """How deep msgpack's reader goes before it raises StackError; 0 for its stand-in in Python, which has no stack."""
    if "fallback" in msgpack.Unpacker.__module__:
        return 0
    low, high = 1, 1 << 16
    while high - low > 1:
        middle = (low + high) // 2
        unpacker = msgpack.Unpacker(max_buffer_size=middle + 1, read_size=middle + 1)
        unpacker.feed(_ARRAY * middle + b"\xc0")
        try:
            unpacker.skip()
            low = middle
        except msgpack.StackError:
            high = middle
    return low


_STACK: Final = _stack_height()


def _leaf_problem(value: Any) -> str:
    """Why this value, which has nothing inside, cannot be packed; empty when it can."""
    try:
        msgpack.packb(value, default=default, strict_types=True)
    except Exception as error:
        return str(error)
    return ""
