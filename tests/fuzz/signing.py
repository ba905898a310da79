# Whatever bytes come: `open` gives back exactly what was signed, for the very function, kind and question it was signed
# for and by a key that is known, or it raises `SignatureError`; never anything else. Settings are read, or refused with
# `ConfigurationError`, and no secret is in what is said.
"""Fuzzes the signing frame, and the setting with its keys."""
# ruff: noqa: PT017

from __future__ import annotations

from gtask.errors import ConfigurationError, SignatureError
from gtask.signing import Keyring, Kind, is_signed, open_job, proof_of, refuse_signed
from tests.fuzz.supply import Supply

OLD, NEW = "an old secret of 24 byte", "a new secret of 24 bytes"
KEYS = Keyring({"k2": NEW, "k1": OLD}, max_age=60)
SIGNERS = (KEYS, Keyring({"k1": OLD}), Keyring({"k3": OLD}), Keyring({"k1": NEW}))
FUNCTIONS = ("add", "addx", "", "gtask.later")
PROOFS = (b"", bytes(32), bytes(range(32)))
NOW = 1_700_000_000.0


def fuzz(data: bytes) -> None:
    """A frame, as it is or changed; or a setting."""
    supply = Supply(data)
    kind = supply.number(3)
    if kind == 0:
        setting(supply.rest())
    elif kind == 1:
        anything(supply.rest())
    else:
        changed(supply)


def anything(frame: bytes) -> None:
    """Bytes that nobody has signed."""
    for function in FUNCTIONS:
        try:
            KEYS.open(function, frame, NOW)
        except SignatureError:
            continue
        raise AssertionError("bytes that nobody signed were opened")
    try:
        refuse_signed(frame)
        assert open_job(None, "add", frame, NOW) == (frame, b"")
        assert not is_signed(frame)
    except SignatureError:
        assert is_signed(frame)


def changed(supply: Supply) -> None:
    """A frame that is changed, or offered for something else."""
    signer = supply.choice(SIGNERS)
    function, kind, proof = supply.choice(FUNCTIONS), supply.choice(tuple(Kind)), supply.choice(PROOFS)
    workload = supply.piece()
    time = NOW - supply.number(100)
    frame = signer.sign(function, workload, time, kind, proof)
    assert len(proof_of(frame)) == 32
    came = change(supply, frame)
    as_function, as_kind, as_proof = supply.choice(FUNCTIONS), supply.choice(tuple(Kind)), supply.choice(PROOFS)
    good = (
        came == frame
        and signer in SIGNERS[:2]
        and (as_function, as_kind, as_proof) == (function, kind, proof)
        and NOW - time <= 60
    )
    try:
        opened = KEYS.open(as_function, came, NOW, as_kind, as_proof)
    except SignatureError as error:
        assert not good, error
        assert OLD not in str(error)
        assert str(error).isprintable()
    else:
        assert good
        assert opened == (workload, proof_of(frame))


def change(supply: Supply, frame: bytes) -> bytes:
    """A frame with some bytes changed, taken away or put in."""
    for _ in range(supply.number(3)):
        place = supply.number(len(frame))
        action = supply.number(3)
        if action == 0:
            frame = frame[:place] + supply.piece(3) + frame[place:]
        elif action == 1:
            frame = frame[:place]
        elif action == 2:
            frame = frame[:place] + frame[place + supply.number(3) :]
        elif place < len(frame):
            frame = frame[:place] + bytes([frame[place] ^ (1 << supply.number(7))]) + frame[place + 1 :]
    return frame


def setting(data: bytes) -> None:
    """What somebody wrote into GTASK_SIGNING_KEYS."""
    text = data.decode(errors="replace")
    secrets = [part.partition(":")[2].strip() for part in text.split(",")]
    try:
        keys = Keyring.of(text)
    except ConfigurationError as error:
        # Short ones may be in the sentence by chance.
        assert not any(len(secret) > 8 and secret in str(error) for secret in secrets)
        return
    assert keys is not None
    assert keys.open("f", keys.sign("f", b"x", NOW)).workload == b"x"
    assert not any(len(secret) >= 16 and secret in repr(keys) for secret in secrets)


def seeds() -> list[bytes]:
    """Inputs to begin with."""
    return [
        b"\0k2:a new secret of 24 bytes,k1:an old secret of 24 byte",
        b"\1" + KEYS.sign("add", b"the workload", NOW)[:-1],
        bytes([2, 0, 0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 0, 0]),
        bytes([2, 1, 1, 1, 1, 3, 1, 2, 3, 0, 0, 1, 1, 1]),
        *(bytes([2, 0, 0, 0, 0, 3, 1, 2, 3, 0, 1, place, 3, 0, 0, 0, 0]) for place in range(0, 52, 4)),
    ]
