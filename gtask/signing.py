"""Signatures of what travels over the job server: who may send a task, and who may answer. Design, section 5.

Gearman knows no passwords: whoever reaches a job server's port can submit jobs, and register as a worker for any
function. With keys, what gtask sends is put behind a small frame, and what comes without a good one is refused before a
byte of it is decoded::

    offset  bytes
    0       4   c1 "gts": c1 starts neither msgpack nor UTF-8, so neither an envelope, JSON nor text
    4       1   version, 1
    5       1   n, the length of the key's id
    6       n   the key's id, ASCII
    6+n     8   the time from which the age counts: microseconds of Unix time, big-endian
    14+n    32  HMAC-SHA-256
    46+n        the workload

The MAC covers the version, the kind of what is signed (`Kind`), the key's id, the time, the function, the MAC of the
question that an answer is for, and the workload, each behind its length. So nothing can be replayed under another
function's name, no answer can be given to another question, and a piece of data cannot be passed for an answer.

Pure: no clock, no chance; the caller says what time it is.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final, NamedTuple, Self

from gtask.errors import ConfigurationError, SignatureError

MAGIC: Final = b"\xc1gts"
VERSION: Final = 1

MIN_KEY: Final = 16
"""Bytes that a key has at least."""

MAX_KEYS: Final = 16
"""Keys that one side knows at most: one that signs, and those that are being replaced."""

MAX_OVERHEAD: Final = 14 + 32 + 32
"""Bytes that a signature adds at most."""

_KEY_ID: Final = re.compile(r"[A-Za-z0-9_.\-]{1,32}")
_START: Final = MAGIC + bytes([VERSION])
_MAC: Final = 32
_SETTING: Final = "signing_keys (GTASK_SIGNING_KEYS)"


class Kind(IntEnum):
    """What is signed: a job's workload, its answer, its failure, or a piece of data or a warning sent before these."""

    JOB = 1
    ANSWER = 2
    FAILURE = 3
    DATA = 4
    WARNING = 5


class Opened(NamedTuple):
    """What was in a frame. `proof` is its MAC, which answers to it are bound to; empty for what was not signed."""

    workload: bytes
    proof: bytes = b""


class Keyring:
    """The keys of one side: the first signs, all of them verify.

    `keys` are secrets by their ids, each of `MIN_KEY` bytes at least (text counts in UTF-8). Jobs that are older than
    `max_age` seconds are refused; None takes them however old they are. Raises `ConfigurationError`, which names a
    key by its id and never shows it. The secrets themselves are not kept, so nothing that prints this object, its
    attributes or a traceback with local variables shows them.
    """

    __slots__ = ("_keys", "_signer", "max_age")

    def __init__(self, keys: Mapping[str, str | bytes], max_age: float | None = None) -> None:
        if not keys or len(keys) > MAX_KEYS:
            raise ConfigurationError(
                f"signing_keys holds 1 to {MAX_KEYS} keys, not {len(keys)}; leave it out to sign nothing."
            )
        if max_age is not None and not (isinstance(max_age, int | float) and max_age > 0):
            raise ConfigurationError(f"signing_max_age is a number of seconds above zero, not {max_age!r:.40}.")
        self._keys = {id: _prepare(id, secret) for id, secret in keys.items()}
        self._signer = next(iter(keys))
        self.max_age = max_age

    @classmethod
    def of(cls, given: Any, max_age: float | None = None) -> Self | None:
        """Reads the setting: None, a mapping, a ready keyring, or text as ``k2:secret2,k1:secret1``."""
        if given is None or isinstance(given, cls):
            return given
        if isinstance(given, str):
            return cls(_parse(given), max_age)
        if isinstance(given, Mapping):
            return cls(given, max_age)
        raise ConfigurationError(
            f"signing_keys is a mapping from ids to secrets, or text as 'k2:secret2,k1:secret1'; not a "
            f"{type(given).__name__}."
        )

    def __repr__(self) -> str:
        return f"<Keyring {self._signer} signs, {', '.join(self._keys)} verify>"

    # --- signing ---------------------------------------------------------------------------------------------

    def sign(self, function: str, workload: bytes, time: float, kind: Kind = Kind.JOB, proof: bytes = b"") -> bytes:
        """Puts a workload for (or from) `function` behind a frame.

        `time` is the Unix time in seconds from which its age counts: now, or when it is due. `proof` is that of the
        question, for everything that answers one.
        """
        id = self._signer.encode()
        when = max(0, int(time * 1e6)).to_bytes(8, "big")
        return b"".join(
            (_START, bytes([len(id)]), id, when, self._mac(id, when, function, workload, kind, proof), workload)
        )

    # --- verifying -------------------------------------------------------------------------------------------

    def open(
        self, function: str, data: bytes, now: float | None = None, kind: Kind = Kind.JOB, proof: bytes = b""
    ) -> Opened:
        """Verifies a frame, and returns what is behind it; nothing of that is looked at before.

        With `now`, Unix time in seconds, its age is held against `max_age`. Raises `SignatureError`.
        """
        what = f"{_WHAT[kind]} of {function}"
        frame = _split(data)
        if frame is None:
            if is_signed(data):
                raise SignatureError(f"{what} is signed in a way that is not read here; update the older side.")
            raise SignatureError(
                f"{what} is not signed, and only what is signed is taken here; give its sender the same {_SETTING}."
            )
        id, when, mac, workload = frame
        text = id.decode("ascii", "replace")
        if text not in self._keys:
            raise SignatureError(
                f"{what} is signed with the key {_shown(id)}, which is not known here; known are "
                f"{', '.join(self._keys)}. Add it to {_SETTING}."
            )
        if not hmac.compare_digest(mac, self._mac(id, when, function, workload, kind, proof)):
            raise SignatureError(
                f"{what} has a wrong signature by the key {_shown(id)}: it was changed, or was made for something "
                "else, or the two sides have different secrets under this id."
            )
        if now is not None and self.max_age is not None:
            age = now - int.from_bytes(when, "big") / 1e6
            if age > self.max_age:
                raise SignatureError(
                    f"{what} was signed {age:.0f} s ago, and signing_max_age takes nothing older than "
                    f"{self.max_age:g} s."
                )
        return Opened(bytes(workload), mac)

    def _mac(
        self, id: bytes, when: bytes, function: str, workload: bytes | memoryview, kind: Kind, proof: bytes
    ) -> bytes:
        name = function.encode()
        found = self._keys[id.decode()].copy()
        found.update(
            b"".join((_START, bytes([kind, len(id), len(proof)]), len(name).to_bytes(4, "big"), when, id, proof, name))
        )
        found.update(workload)
        return found.digest()


_WHAT: Final = {
    Kind.JOB: "A job",
    Kind.ANSWER: "An answer",
    Kind.FAILURE: "A failure",
    Kind.DATA: "A piece of data",
    Kind.WARNING: "A warning",
}


def open_job(keys: Keyring | None, function: str, data: bytes, now: float) -> Opened:
    """Opens a job of one of gtask's own functions, with keys or without; raises `SignatureError`."""
    if keys is not None:
        return keys.open(function, data, now)
    refuse_signed(data)
    return Opened(data)


def refuse_signed(data: bytes) -> None:
    """Raises `SignatureError` for what is signed, where there are no keys; it names the setting."""
    if is_signed(data):
        frame = _split(data)
        key = f" with the key {_shown(frame[0])}" if frame is not None else ""
        raise SignatureError(f"The message is signed{key}, and there are no keys here to verify it; set {_SETTING}.")


def is_signed(data: bytes) -> bool:
    """Whether bytes start like a signed workload."""
    return data[:4] == MAGIC


def proof_of(frame: bytes) -> bytes:
    """The MAC in a frame that this side has made: what the answers to it are bound to."""
    start = 14 + frame[5]
    return frame[start : start + _MAC]


def _split(data: bytes) -> tuple[bytes, bytes, bytes, memoryview] | None:
    """The id, time, MAC and workload of a frame; None for what is none."""
    if data[:5] != _START or len(data) < 6:
        return None
    middle = 6 + data[5]
    end = middle + 8 + _MAC
    if len(data) < end or not 1 <= data[5] <= 32:
        return None
    return data[6:middle], data[middle : middle + 8], data[middle + 8 : end], memoryview(data)[end:]


def _shown(id: bytes) -> str:
    text = id.decode("ascii", "replace")
    return repr(text) if _KEY_ID.fullmatch(text) else "of an id that is none"


def _prepare(id: Any, secret: Any) -> hmac.HMAC:
    if not isinstance(id, str) or not _KEY_ID.fullmatch(id):
        raise ConfigurationError(
            "signing_keys: a key's id is 1 to 32 letters, digits and _ . - ; one of those given is none. Write "
            "signing_keys={'k1': 'secret'}, or GTASK_SIGNING_KEYS=k1:secret."
        )
    if not isinstance(secret, str | bytes):
        raise ConfigurationError(f"signing_keys: the key {id!r} is text or bytes, not a {type(secret).__name__}.")
    data = secret.encode() if isinstance(secret, str) else secret
    if len(data) < MIN_KEY:
        raise ConfigurationError(
            f"signing_keys: the key {id!r} has {len(data)} bytes and needs {MIN_KEY} at least. Make one: "
            'python -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    return hmac.new(data, digestmod="sha256")


def _parse(text: str) -> dict[str, str]:
    pairs = [part.strip().partition(":") for part in text.split(",") if part.strip()]
    keys = {id.strip(): secret.strip() for id, colon, secret in pairs if colon}
    if len(keys) != len(pairs):
        raise ConfigurationError(
            "signing_keys as text is id:secret, several of them separated by commas, and each id once: "
            "GTASK_SIGNING_KEYS=k2:secret2,k1:secret1"
        )
    return keys


__all__ = [
    "MAGIC",
    "MAX_KEYS",
    "MAX_OVERHEAD",
    "MIN_KEY",
    "VERSION",
    "Keyring",
    "Kind",
    "Opened",
    "is_signed",
    "open_job",
    "proof_of",
    "refuse_signed",
]
