"""Signatures in the runner and the stores: what a job whose signature is wrong may not bring about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gtask import App, State
from gtask.answers import decode_failure
from gtask.dead import Parked, Queue, read_parked, resend
from gtask.errors import SignatureError
from gtask.letters import decode_letter
from gtask.message import Message, encode_message
from gtask.middleware import Middleware
from gtask.publish import FAR, SOON, Later, later_submission, unpack_later
from gtask.results import SqliteStore
from gtask.runner import Runner
from gtask.signing import Keyring, Kind, is_signed, proof_of
from gtask.testing.joins import TTL, body_of, chord_of, result
from gtask.types import Submission
from gtask.worker.job import End, Ending, Job
from tests.app.helpers import NOWHERE, foreign, run_one, seal

SECRET = "a secret of sixteen bytes or more"
KEYS = Keyring({"k1": SECRET})


class Heard(Middleware):
    """What was refused."""

    def __init__(self) -> None:
        self.refusals: list[tuple[str, str]] = []

    def refused(self, function: str, error: Exception) -> None:
        self.refusals.append((function, type(error).__name__))


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def app(tmp_path: Path, heard: Heard) -> Iterator[App]:
    store = SqliteStore(tmp_path / "results.db")
    with App("shop", NOWHERE, store, middleware=[heard], signing_keys={"k1": SECRET}, signing_max_age=60) as app:

        @app.task
        def add(a: int = 0, b: int = 0) -> int:
            return a + b

        @app.task(allow_unsigned=True)
        def welcome(name: str = "") -> str:
            return name

        yield app


def ending_of(app: App, submission: Submission) -> Ending:
    ending = run_one(app, submission)
    assert isinstance(ending, Ending)
    return ending


def test_a_signed_job_runs_and_its_answer_is_bound_to_it(app: App, heard: Heard) -> None:
    submission = seal(app, app.tasks["add"].s(1, 2), foreground=True)
    ending = ending_of(app, submission)
    keys = app.settings.signing_keys
    assert keys is not None
    assert keys.open("add", ending.data, kind=Kind.ANSWER, proof=proof_of(submission.workload)).workload == b"\x03"
    other = seal(app, app.tasks["add"].s(1, 2), foreground=True)
    with pytest.raises(SignatureError):
        keys.open("add", ending.data, kind=Kind.ANSWER, proof=proof_of(other.workload))
    assert heard.refusals == []


def forgeries(submission: Submission) -> Iterator[Submission]:
    """The same job without a signature, with others, and with one that was good once."""
    inner = KEYS.open(submission.function, submission.workload).workload
    strangers = Keyring({"k1": SECRET[::-1]})
    for workload in (
        inner,
        b"",
        submission.workload[:-1],
        submission.workload + b"\0",
        strangers.sign(submission.function, inner, 2e9),
        KEYS.sign("welcome", inner, 2e9),
        KEYS.sign(submission.function, inner, 2e9, Kind.ANSWER),
        KEYS.sign(submission.function, inner, 1e9),
    ):
        yield replace(submission, workload=workload)


def test_a_forged_job_ends_nothing_but_itself(app: App, heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    """It has the unique of a task that is waited for, whose result it must not become."""
    submission = seal(app, app.tasks["add"].s(1, 2))
    forged = list(forgeries(submission))
    for one in forged:
        ending = ending_of(app, one)
        assert (ending.end, ending.submissions, ending.carried) == (End.EXCEPTION, (), None)
        assert decode_failure(ending.data).type == "gtask.errors.SignatureError"
        assert not is_signed(ending.data)
        # It is kept with its bytes, for whoever has lost a key and not a secret.
        (parked,) = ending.optional
        letter = decode_letter(KEYS.open(parked.function, parked.workload).workload)
        assert (letter.message, letter.task_id, bool(letter.stored)) == (one.workload, "", False)
    assert app.AsyncResult(submission.unique).info is None
    assert heard.refusals == [("add", "SignatureError")] * len(forged)
    assert "cannot be run" in caplog.text
    assert SECRET not in caplog.text
    assert ending_of(app, submission).end is End.COMPLETE
    assert app.AsyncResult(submission.unique).get(timeout=0) == 3


def test_what_is_signed_and_broken_fails_its_task(app: App, heard: Heard) -> None:
    submission = seal(app, app.tasks["add"].s(1, 2))
    keys = app.settings.signing_keys
    assert keys is not None
    workload = keys.sign("add", b"\x85\xa5gtask", app.now())
    ending = ending_of(app, replace(submission, workload=workload))
    told = keys.open("add", ending.data, kind=Kind.FAILURE, proof=proof_of(workload)).workload
    assert decode_failure(told).type == "gtask.errors.DecodeError"
    assert app.AsyncResult(submission.unique).state is State.FAILURE
    assert heard.refusals == [("add", "DecodeError")]


def test_an_unsigned_call_has_no_id_of_another_task(app: App) -> None:
    """Its job's unique is its caller's to choose; the id that the task sees is not."""
    seen: list[str] = []

    @app.task(bind=True, allow_unsigned=True)
    def looks(ctx: Any, value: Any = None) -> None:
        seen.append(ctx.id)

    victim = seal(app, app.tasks["looks"].s())
    for unique in (victim.unique, "order-7", "x" * 60):
        ending = ending_of(app, replace(foreign("looks", b"1"), unique=unique))
        assert ending.end is End.COMPLETE
        assert not is_signed(ending.data)
    assert seen == [f"unsigned:{victim.unique}", "unsigned:order-7", ""]


def test_an_unsigned_call_that_cannot_be_read_ends_no_other_task(app: App) -> None:
    victim = seal(app, app.tasks["welcome"].s("you"))
    ending = ending_of(app, replace(victim, workload=b"[" * 100 + b"]" * 100))
    assert decode_failure(ending.data).message.startswith("The JSON is nested deeper")
    assert ending.carried is None
    assert app.AsyncResult(victim.unique).info is None


def test_an_open_task_takes_no_unsigned_envelope(app: App) -> None:
    message = Message("a" * 32, "welcome", ("you",), {}, {"link": [["add", [1, 2], {}, {}, True, "", None]]})
    for workload in (encode_message(message), b'{"gtask": 1, "args": ["you"]}'):
        ending = ending_of(app, foreign("welcome", workload))
        assert decode_failure(ending.data).message.endswith("without a signature only bare values go.")


def test_a_delayed_job_is_signed_outside_and_inside(app: App) -> None:
    due = app.now() + 3600
    submission = seal(app, app.tasks["add"].s(1, 2).set(countdown=3600))
    assert submission.function == FAR
    # Its age counts from when it is due, so it may wait for longer than signing_max_age.
    later = unpack_later(KEYS.open(FAR, submission.workload).workload)
    keys = app.settings.signing_keys
    assert keys is not None
    for function, workload in ((FAR, submission.workload), ("add", later.workload)):
        assert keys.open(function, workload, due + 59)
        with pytest.raises(SignatureError, match="signing_max_age"):
            keys.open(function, workload, due + 62)
    sent_back = later_submission(later, "u", later.due - 1, keys)
    assert unpack_later(keys.open(SOON, sent_back.workload, app.now()).workload) == later


def test_without_keys_nothing_is_signed() -> None:
    app = App("shop", NOWHERE, None)
    add = app.task(name="add")(lambda a: a)
    assert not is_signed(seal(app, add.s(1)).workload)
    assert not is_signed(later_submission(Later("add", "u", "normal", 1.0, b""), "u", 1.0).workload)
    assert app.publisher.pack("f", [b"a", b"b"]) == b"ab"


def test_a_worker_without_keys_says_so() -> None:
    app = App("shop", NOWHERE, None)
    app.task(name="add")(lambda *args: None)
    app.task(name="raw", codec="raw")(lambda *args: None)
    for function in ("add", "raw"):
        ending = ending_of(app, foreign(function, KEYS.sign(function, b"x", 0.0)))
        assert "signed with the key 'k1', and there are no keys here" in decode_failure(ending.data).message


def test_functions_in_other_languages_get_what_they_can_read(app: App) -> None:
    sent = app.function("sent", codec="json")
    assert seal(app, sent.s(7), foreground=True).workload == b"7"
    assert seal(app, sent.s(7).set(ignore_result=True)).workload == b"7"
    assert is_signed(seal(app, sent.s(7)).workload)  # a job of gtask.call, which asks it


# --- chords --------------------------------------------------------------------------------------------------


def test_a_store_signs_the_body_of_a_chord_anew(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "results.db")
    store.keys = Keyring({"k2": "a newer secret of bytes", "k1": SECRET})
    joins = chord_of([result(1), result(2)])
    body = body_of(joins)
    sealed = body._replace(workload=KEYS.sign(body.function, body.workload, 0.0))
    assert store.join(joins[0]._replace(body=sealed), TTL) is None
    job = store.join(joins[1], TTL)
    assert job is not None
    opened = Keyring({"k2": "a newer secret of bytes"}).open(job.function, job.workload).workload
    assert opened.startswith(b"\x85\xa5gtask")
    store.close()


def test_a_store_completes_no_chord_whose_body_is_forged(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "results.db")
    store.keys = KEYS
    for workload in (
        None,
        KEYS.sign("another", b"x", 0.0),
        Keyring({"k1": "another secret of bytes"}).sign("f", b"", 0.0),
    ):
        (join,) = chord_of([result(1)])
        body = body_of([join]) if workload is None else body_of([join])._replace(workload=workload)
        assert store.join(join._replace(body=body), TTL) is None
        (record,) = store.get([body.id]).values()
        assert record.state is State.FAILURE
    store.close()


def test_a_store_without_keys_cannot_complete_a_signed_chord(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "results.db")
    (join,) = chord_of([result(1)])
    body = body_of([join])
    body = body._replace(workload=KEYS.sign(body.function, body.workload, 0.0))
    assert store.join(join._replace(body=body), TTL) is None
    assert b"no keys here" in store.get([body.id])[body.id].body
    store.close()


def test_the_app_gives_its_keys_to_its_store(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "results.db")
    with App("shop", NOWHERE, store, signing_keys={"k1": SECRET}) as app:
        assert app.store is store
        assert store.keys is app.settings.signing_keys
    with App("other", NOWHERE, store, signing_keys={"k2": SECRET}) as other:
        assert other.store is store
        assert store.keys is app.settings.signing_keys


def test_a_job_of_a_task_that_is_not_here_is_refused_as_ever(app: App) -> None:
    ending = Runner(app).open(Job(None, b"H:1", "nowhere", "u", b""), None)  # type: ignore[arg-type]
    assert isinstance(ending, Ending)
    assert decode_failure(ending.data).type == "gtask.errors.UnknownTask"


# --- dead letters --------------------------------------------------------------------------------------------


def parked_by(app: App, submission: Submission) -> Parked:
    """What is parked of a job, as `gtask dead` reads it."""
    (job,) = ending_of(app, submission).optional
    assert is_signed(job.workload)
    return read_parked(app, Queue(job.function, app.servers[0], 1), job.workload)


def test_a_dead_task_is_signed_anew_when_it_is_sent_again(app: App) -> None:
    @app.task
    def fails() -> None:
        raise ValueError("no")

    submission = seal(app, fails.s())
    letter = parked_by(app, submission).letter
    assert letter is not None
    again, _ = resend(app, letter)
    keys = app.settings.signing_keys
    assert keys is not None
    assert b"runs" in keys.open("fails", again.workload, app.now()).workload


def test_a_forged_job_is_sent_again_as_it_came(app: App) -> None:
    """Looking at what was parked makes no good signature of a bad one."""
    forged = replace(seal(app, app.tasks["add"].s(1, 2)), workload=Keyring({"k1": SECRET[::-1]}).sign("add", b"x", 2e9))
    letter = parked_by(app, forged).letter
    assert letter is not None
    again, ids = resend(app, letter)
    assert (again.workload, ids) == (forged.workload, [])


def test_a_letter_that_is_not_signed_is_not_read(app: App) -> None:
    (job,) = ending_of(app, replace(seal(app, app.tasks["add"].s(1)), workload=b"x")).optional
    forged = KEYS.open(job.function, job.workload).workload
    found = read_parked(app, Queue(job.function, app.servers[0], 1), forged)
    assert found.letter is None
    assert "not signed" in found.problem
