"""The signing frame of `gtask.signing`: what it lets through, and everything that it refuses. Design, section 5."""

from __future__ import annotations

import hmac
import traceback

import pytest

from gtask.codecs import pack, unpack
from gtask.errors import ConfigurationError, DecodeError, SignatureError
from gtask.signing import MAX_OVERHEAD, Keyring, Kind, is_signed, open_job, proof_of, refuse_signed

OLD = "old secret, 18 byte"
NEW = "new secret, 18 byte"
NOW = 1_700_000_000.25
KEYS = Keyring({"k1": OLD})
FRAME = KEYS.sign("add", b"the workload", NOW)


class TestWhatIsSigned:
    def test_it_comes_back_as_it_was(self) -> None:
        opened = KEYS.open("add", FRAME)
        assert opened.workload == b"the workload"
        assert opened.proof == proof_of(FRAME)
        assert len(opened.proof) == 32

    def test_it_is_what_the_documentation_says(self) -> None:
        """docs/wire-format.md, so that others can read and write it."""
        proof = bytes(range(32))
        when = (1_700_000_000_250_000).to_bytes(8, "big")
        covered = b"\xc1gts\x01" + b"\x02\x02\x20" + b"\0\0\0\x03" + when + b"k1" + proof + b"add" + b"42"
        mac = hmac.digest(OLD.encode(), covered, "sha256")
        frame = b"\xc1gts" + b"\x01" + b"\x02" + b"k1" + when + mac + b"42"
        assert KEYS.sign("add", b"42", NOW, Kind.ANSWER, proof) == frame

    @pytest.mark.parametrize("workload", [b"", b"\0", FRAME, bytes(1 << 20)])
    def test_it_is_any_bytes(self, workload: bytes) -> None:
        frame = KEYS.sign("add", workload, NOW)
        assert KEYS.open("add", frame).workload == workload
        assert len(frame) - len(workload) <= MAX_OVERHEAD

    def test_the_longest_id_of_a_key_fits(self) -> None:
        keys = Keyring({"k" * 32: OLD})
        frame = keys.sign("add", b"x", NOW)
        assert keys.open("add", frame).workload == b"x"
        assert len(frame) == 1 + MAX_OVERHEAD

    def test_nothing_else_starts_like_it(self) -> None:
        assert is_signed(FRAME)
        for other in (b"", b"\xc1", b"{}", b"gts", pack({"gtask": 1}), "\u0107".encode()):
            assert not is_signed(other)
        with pytest.raises(UnicodeDecodeError):
            FRAME.decode()
        with pytest.raises(DecodeError):
            # c1 is the one byte that msgpack never uses.
            unpack(FRAME)


class TestWhatIsRefused:
    def test_every_single_bit_counts(self) -> None:
        for position in range(len(FRAME)):
            for bit in range(8):
                forged = bytearray(FRAME)
                forged[position] ^= 1 << bit
                with pytest.raises(SignatureError):
                    KEYS.open("add", bytes(forged))

    def test_every_shorter_one(self) -> None:
        for length in range(len(FRAME)):
            with pytest.raises(SignatureError):
                KEYS.open("add", FRAME[:length])

    def test_a_longer_one(self) -> None:
        with pytest.raises(SignatureError):
            KEYS.open("add", FRAME + b"\0")

    def test_one_that_is_not_signed_names_the_setting(self) -> None:
        with pytest.raises(SignatureError, match=r"A job of add is not signed.*signing_keys \(GTASK_SIGNING_KEYS\)"):
            KEYS.open("add", b"the workload")

    def test_one_of_a_later_version(self) -> None:
        with pytest.raises(SignatureError, match="update the older side"):
            KEYS.open("add", FRAME[:4] + b"\2" + FRAME[5:])

    def test_one_under_the_name_of_another_function(self) -> None:
        for function in ("ad", "addd", "add\0", "", "gtask.later"):
            with pytest.raises(SignatureError, match="wrong signature"):
                KEYS.open(function, FRAME)

    def test_the_end_of_a_name_is_not_the_start_of_the_workload(self) -> None:
        frame = KEYS.sign("add", b"up the numbers", NOW)
        moved = frame.replace(b"up the numbers", b" the numbers")
        with pytest.raises(SignatureError):
            KEYS.open("addup", moved)

    def test_one_kind_for_another(self) -> None:
        for kind in Kind:
            frame = KEYS.sign("add", b"x", NOW, kind)
            for other in Kind:
                if other is kind:
                    assert KEYS.open("add", frame, kind=other).workload == b"x"
                else:
                    with pytest.raises(SignatureError):
                        KEYS.open("add", frame, kind=other)

    def test_the_answer_to_another_question(self) -> None:
        answer = KEYS.sign("add", b"42", NOW, Kind.ANSWER, proof_of(FRAME))
        assert KEYS.open("add", answer, kind=Kind.ANSWER, proof=proof_of(FRAME)).workload == b"42"
        asked_again = KEYS.sign("add", b"the workload", NOW + 0.001)
        for proof in (proof_of(asked_again), b"", proof_of(FRAME)[:-1]):
            with pytest.raises(SignatureError):
                KEYS.open("add", answer, kind=Kind.ANSWER, proof=proof)

    def test_one_by_a_key_that_is_not_known(self) -> None:
        with pytest.raises(SignatureError, match=r"with the key 'k1', which is not known here; known are k2\."):
            Keyring({"k2": OLD}).open("add", FRAME)

    def test_one_by_another_secret_under_the_same_id(self) -> None:
        with pytest.raises(SignatureError, match="different secrets under this id"):
            Keyring({"k1": NEW}).open("add", FRAME)

    def test_an_id_that_is_none_is_not_repeated(self) -> None:
        with pytest.raises(SignatureError, match="of an id that is none") as caught:
            KEYS.open("add", FRAME.replace(b"k1", b"\n\x1b"))
        assert "\x1b" not in str(caught.value)


class TestRotation:
    def test_the_first_key_signs_and_all_verify(self) -> None:
        both = Keyring({"k2": NEW, "k1": OLD})
        assert both.open("add", FRAME).workload == b"the workload"
        assert Keyring({"k2": NEW}).open("add", both.sign("add", b"x", NOW)).workload == b"x"
        with pytest.raises(SignatureError):
            KEYS.open("add", both.sign("add", b"x", NOW))

    def test_a_key_that_is_taken_away_verifies_no_more(self) -> None:
        with pytest.raises(SignatureError):
            Keyring({"k2": NEW}).open("add", FRAME)


class TestAge:
    keys = Keyring({"k1": OLD}, max_age=60)

    def test_it_is_not_looked_at_without_max_age(self) -> None:
        assert KEYS.open("add", FRAME, NOW + 1e9).workload == b"the workload"

    def test_it_is_looked_at_where_the_time_is_given(self) -> None:
        assert self.keys.open("add", FRAME, NOW + 60).workload == b"the workload"
        assert self.keys.open("add", FRAME).workload == b"the workload"
        with pytest.raises(SignatureError, match=r"signed 61 s ago, and signing_max_age .* older than 60 s"):
            self.keys.open("add", FRAME, NOW + 61)

    def test_what_is_due_later_counts_from_then(self) -> None:
        frame = self.keys.sign("add", b"x", NOW + 3600)
        assert self.keys.open("add", frame, NOW).workload == b"x"
        assert self.keys.open("add", frame, NOW + 3660).workload == b"x"
        with pytest.raises(SignatureError):
            self.keys.open("add", frame, NOW + 3661)

    def test_a_time_before_1970_is_1970(self) -> None:
        assert KEYS.open("add", KEYS.sign("add", b"x", -5.0)).workload == b"x"

    @pytest.mark.parametrize("age", [0, -1, "60"])
    def test_no_age(self, age: object) -> None:
        with pytest.raises(ConfigurationError, match="number of seconds above zero"):
            Keyring({"k1": OLD}, age)  # type: ignore[arg-type]


class TestKeys:
    def test_they_are_read_from_text(self) -> None:
        keys = Keyring.of(f" k2 : {NEW.replace(', ', '-')} , k1:secret:with:colons ")
        assert keys is not None
        assert repr(keys) == "<Keyring k2 signs, k2, k1 verify>"
        only = Keyring({"k1": "secret:with:colons"})
        assert keys.open("add", only.sign("add", b"x", NOW)).workload == b"x"

    def test_they_are_read_from_a_mapping(self) -> None:
        keys = Keyring.of({"k1": OLD.encode()})
        assert keys is not None
        assert keys.open("add", FRAME).workload == b"the workload"
        assert Keyring.of(keys) is keys
        assert Keyring.of(None) is None

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({}, "1 to 16 keys, not 0"),
            ("", "1 to 16 keys, not 0"),
            ({str(n): OLD for n in range(17)}, "1 to 16 keys, not 17"),
            ({"k1": "fifteen bytes !"}, "the key 'k1' has 15 bytes and needs 16"),
            ({"k1": 12345678901234567}, "the key 'k1' is text or bytes, not a int"),
            ({"": OLD}, "1 to 32 letters"),
            ({"k 1": OLD}, "1 to 32 letters"),
            ({"k" * 33: OLD}, "1 to 32 letters"),
            ({1: OLD}, "1 to 32 letters"),
            ("only a secret of many bytes", "id:secret"),
            ("k1:one secret of many,k1:two secrets of many", "each id once"),
            (b"k1:secret", "not a bytes"),
            ([OLD], "not a list"),
        ],
    )
    def test_others_are_refused(self, given: object, says: str) -> None:
        with pytest.raises(ConfigurationError, match=says):
            Keyring.of(given)

    @pytest.mark.parametrize("given", [{"k1": "a short one"}, {"a short one": OLD}, "a short one", "a short one,k1:x"])
    def test_no_secret_is_in_an_error(self, given: object) -> None:
        """A secret may also be where an id belongs, for who mixes the two up."""
        with pytest.raises(ConfigurationError) as caught:
            Keyring.of(given)
        assert "a short one" not in str(caught.value)

    def test_no_secret_is_in_what_is_printed_of_it(self) -> None:
        keys = Keyring({"k1": "a very secret secret"})
        shown = repr(keys) + str({name: getattr(keys, name) for name in Keyring.__slots__})
        try:
            keys.open("add", FRAME)
        except SignatureError as error:
            shown += "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        assert "a very secret secret" not in shown


class TestWithoutKeys:
    def test_what_is_signed_names_the_setting(self) -> None:
        with pytest.raises(SignatureError, match=r"signed with the key 'k1'.*set signing_keys \(GTASK_SIGNING_KEYS\)"):
            refuse_signed(FRAME)
        with pytest.raises(SignatureError, match="set signing_keys"):
            open_job(None, "add", FRAME[:5], NOW)

    def test_everything_else_is_taken_as_it_is(self) -> None:
        assert open_job(None, "add", b"x", NOW) == (b"x", b"")

    def test_with_keys_it_is_opened(self) -> None:
        assert open_job(KEYS, "add", FRAME, NOW) == (b"the workload", proof_of(FRAME))
