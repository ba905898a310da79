"""Signatures end to end: real processes, both job servers, and every packet looked at. Design, section 5."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gtask import App, State, chain, chord, group
from gtask.answers import decode_failure
from gtask.client import Client
from gtask.codecs import pack
from gtask.errors import JobException, ResultError, SignatureError
from gtask.message import Message, encode_message
from gtask.signing import Keyring, Kind, is_signed, proof_of
from gtask.testing import job_server, worker
from gtask.types import Submission
from tests.signing.conftest import KEYS, NEW, OLD, OTHER, PATIENCE, SOURCE, Rig, results_service, stranger


@pytest.fixture
def app(rig: Rig) -> Iterator[App]:
    with rig.caller() as app:
        yield app


def foreground(rig: Rig, function: str, workload: bytes) -> bytes:
    """A foreground job of somebody who knows nothing of keys; raises what comes back instead of an answer."""
    with Client(rig.server.url) as client:
        return client.call(Submission(function, workload, background=False), PATIENCE)


def refusal(rig: Rig, function: str, workload: bytes) -> str:
    """What a worker says to a foreground job that it does not take."""
    with pytest.raises(JobException) as caught:
        foreground(rig, function, workload)
    return caught.value.data.decode(errors="replace")


# --- with the keys -------------------------------------------------------------------------------------------


def test_everything_works_and_nothing_goes_unsigned(rig: Rig, app: App) -> None:
    task = app.tasks
    add, total = task["add"], task["total"]

    assert add.call(1, 2) == 3
    assert add.options(background=False).delay(3, 4).get(timeout=PATIENCE) == 7
    with pytest.raises(ValueError, match="as told"):
        task["fails"].call("as told")
    heard: list[object] = []
    listen = {"on_data": heard.append, "on_warning": heard.append, "on_progress": lambda *two: heard.append(two)}
    assert task["tells"].options(**listen).call() == "done"  # type: ignore[arg-type]
    assert heard == [(1, 2), b"a piece", b"careful"]
    assert task["reversed_bytes"].call(b"\xc1gts") == b"stg\xc1"
    assert task["packed"].call({"a": 1}) == {"a": 1}
    assert task["welcome"].call("you") == "hello you"

    assert add.delay(20, 22).get(timeout=PATIENCE) == 42
    assert task["reversed_bytes"].delay(b"abc").get(timeout=PATIENCE) == b"cba"
    with pytest.raises(ValueError, match="as told"):
        task["fails"].delay("as told").get(timeout=PATIENCE)
    assert chain(add.s(1, 2), add.s(3), add.s(4)).delay().get(timeout=PATIENCE) == 10
    assert group(add.s(n, n) for n in range(10)).delay().get(timeout=PATIENCE) == [2 * n for n in range(10)]
    assert chord([add.s(n, n) for n in range(5)], total.s()).delay().get(timeout=PATIENCE) == 20
    assert task["third_time"].delay().get(timeout=PATIENCE) == 2
    for delay in (0.1, 2.2):
        assert add.apply_async((1, 1), countdown=delay).get(timeout=PATIENCE) == 2
    assert (add.s(3, 4) | task["double"].s() | add.s(1)).delay().get(timeout=PATIENCE) == 15
    assert chord([add.s(1, 2), task["double"].s(4)], task["double"].s()).delay().get(timeout=PATIENCE) == [3, 8, 3, 8]
    linked = add.s(5, 5).set(link=add.s(1)).delay()
    assert linked.get(timeout=PATIENCE) == 10
    (child,) = linked.children
    assert child.get(timeout=PATIENCE) == 11
    shared = add.apply_async((6, 6), unique="six")
    assert shared.get(timeout=PATIENCE) == 12
    shared.forget()
    assert app.AsyncResult(shared.id).state is State.UNKNOWN

    seen = rig.sniffer.payloads()
    names = {one.packet for one in seen}
    functions = {one.function for one in seen}
    # What was meant to be seen was seen: the sniffer is not blind.
    assert {"SUBMIT_JOB", "SUBMIT_JOB_BG", "SUBMIT_JOB_EPOCH", "WORK_COMPLETE", "WORK_DATA"} <= names
    assert {"add", "gtask.later", "gtask.later.soon", "gtask.call"} <= functions
    assert {"gtask.results.put", "gtask.results.wait"} <= functions
    assert {one.data for one in seen if one.function == "double"} >= {b"7", b"4"}
    answers_of_double = {b"14", b"8", b"[3, 8, 3, 8]"}
    assert [one for one in rig.sniffer.unsigned(["double"]) if one.data not in answers_of_double] == []


@pytest.mark.anyio
async def test_async_code_too(rig: Rig) -> None:
    with rig.caller() as app:
        async with app:
            add = app.tasks["add"]
            assert await add.acall(1, 2) == 3
            assert await (await add.adelay(3, 4)).aget(timeout=PATIENCE) == 7
            chorded = await chord([add.s(1, 1), add.s(2, 2)], app.tasks["total"].s()).adelay()
            assert await chorded.aget(timeout=PATIENCE) == 6


@pytest.mark.parametrize("keys", [{"k1": OLD}, {"k2": NEW}, {"k2": NEW, "k1": OLD}, f"k2:{NEW}, k1:{OLD}"])
def test_keys_are_replaced_one_after_the_other(rig: Rig, keys: dict[str, str] | str) -> None:
    """A caller that is ahead, or behind; but it has to know the key that the workers sign with."""
    with rig.caller(keys) as app:
        if "k1" in keys:
            assert app.tasks["add"].call(1, 2) == 3
            assert app.tasks["add"].delay(3, 4).get(timeout=PATIENCE) == 7
        else:
            with pytest.raises(SignatureError, match=r"signed with the key 'k1', which is not known here"):
                app.tasks["add"].call(1, 2)


@pytest.mark.parametrize("pool", ["thread", "async", "solo"])
def test_every_pool_signs(rig: Rig, tmp_path: Path, pool: str) -> None:
    (tmp_path / "app.py").write_text(SOURCE.replace('App("signed")', f'App("signed", namespace="{pool}.")'))
    keys = {"GTASK_SIGNING_KEYS": f"k1:{OLD}"}
    with (
        worker("app:app", cwd=tmp_path, servers=rig.sniffer.url, pool=pool, env=keys, timeout=PATIENCE),
        rig.caller() as app,
    ):
        heard: list[bytes] = []
        tells = app.task(name=f"{pool}.tells")(lambda: None)
        assert tells.options(on_data=heard.append, on_warning=heard.append).call() == "done"
        assert heard == [b"a piece", b"careful"]
        again = app.task(name=f"{pool}.third_time")(lambda: None)
        assert again.delay().get(timeout=PATIENCE) == 2
        assert again.call() == 2


@pytest.mark.parametrize("where", ["server", "worker", "app"])
def test_every_results_service_has_its_keys(tmp_path: Path, where: str) -> None:
    """That of `gtask server` and of `gtask worker --with-results`, and `gtask results` which asks an App."""
    keys: dict[str, str | None] = {"GTASK_SIGNING_KEYS": f"k1:{OLD}"}
    (tmp_path / "app.py").write_text(SOURCE)
    (tmp_path / "keyed.py").write_text(f"from gtask import App\napp = App('keyed', signing_keys={{'k1': '{OLD}'}})")
    file = tmp_path / "results.db"
    with ExitStack() as stack:
        server = stack.enter_context(job_server(results=file if where == "server" else None, env=keys))
        extra = [f"--with-results={file}"] if where == "worker" else []
        stack.enter_context(worker("app:app", *extra, cwd=tmp_path, servers=server.url, env=keys, timeout=PATIENCE))
        if where == "app":
            stack.enter_context(results_service(server.url, file, None, "--app=keyed:app", cwd=tmp_path))
        app = stack.enter_context(App("caller", server.url, signing_keys={"k1": OLD}))
        add, total = app.task(name="add")(lambda a, b: None), app.task(name="total")(lambda values: None)
        assert add.delay(1, 2).get(timeout=PATIENCE) == 3
        assert chord([add.s(1, 1), add.s(2, 2)], total.s()).delay().get(timeout=PATIENCE) == 6


# --- without them --------------------------------------------------------------------------------------------


def test_a_caller_without_keys_is_refused(rig: Rig) -> None:
    with rig.caller(None) as app:
        with pytest.raises(SignatureError, match=r"A job of add is not signed.*signing_keys \(GTASK_SIGNING_KEYS\)"):
            app.tasks["add"].call(1, 2)
        rig.worker.wait_for_line("A job of add is not signed", PATIENCE)
        result = app.tasks["add"].delay(1, 2)
        with pytest.raises(ResultError, match=r"The results service refused: .*not signed"):
            result.get(timeout=PATIENCE)
        with pytest.raises(ResultError, match="not signed"):
            app.tasks["add"].apply_async((1, 2), unique="mine")
        result = app.tasks["add"].apply_async((1, 2), countdown=1)
        rig.worker.wait_for_line(r"A job of gtask\.later\.soon is not signed", PATIENCE)


@pytest.mark.parametrize("keys", [{"k1": OTHER}, {"k3": OTHER}])
def test_a_caller_with_other_keys_is_refused_and_believes_nothing(rig: Rig, keys: dict[str, str]) -> None:
    with rig.caller(keys) as app:
        with pytest.raises(SignatureError, match="add failed, and why is not believed"):
            app.tasks["add"].call(1, 2)
        result = app.tasks["add"].delay(1, 2)
        with pytest.raises(SignatureError, match="The results service is not believed"):
            result.get(timeout=PATIENCE)
    with rig.caller() as app:
        # Nobody was told that the task failed: anybody could have made it so.
        assert app.AsyncResult(result.id).info is None


def test_other_languages_are_refused_where_the_task_does_not_ask_for_them(rig: Rig) -> None:
    for workload in (b"[1, 2]", b"text", b"", b"\xff\xfe"):
        assert refusal(rig, "add", workload).startswith("gtask.errors.SignatureError: A job of add is not signed")
    assert foreground(rig, "welcome", json.dumps("you").encode()) == b'"hello you"'
    assert foreground(rig, "welcome", b"you") == b"hello you"
    assert foreground(rig, "packed", pack("you")) == pack("you")


def test_an_open_task_is_no_way_in_for_envelopes(rig: Rig) -> None:
    """The links of an unsigned one would be signed by the worker."""
    link = ["add", [1, 2], {}, {}, True, "", None]
    message = Message("a" * 32, "welcome", ("you",), {}, {"fg": True, "link": [link]})
    envelopes = (
        encode_message(message),
        json.dumps({"gtask": 1, "args": ["you"], "headers": {"fg": True, "link": [link]}}).encode(),
    )
    for envelope in envelopes:
        assert "without a signature only bare values go" in refusal(rig, "welcome", envelope)
    assert "without a signature" in refusal(rig, "packed", envelopes[0])


def test_an_open_task_takes_no_broken_signature(rig: Rig) -> None:
    frame = Keyring({"k1": OTHER}).sign("welcome", b"you", 0.0)
    assert "wrong signature" in refusal(rig, "welcome", frame)


def test_what_was_recorded_is_not_taken_under_another_name(rig: Rig, app: App) -> None:
    assert app.tasks["add"].call(1, 2) == 3
    recorded = [one for one in rig.sniffer.payloads() if one.function == "add" and one.packet == "SUBMIT_JOB"][-1]
    assert is_signed(foreground(rig, "add", recorded.data))
    for function in ("total", "welcome", "reversed_bytes"):
        assert f"A job of {function} has a wrong signature" in refusal(rig, function, recorded.data)
    for function in ("gtask.call", "gtask.later"):
        with Client(rig.server.url) as client:
            client.submit(Submission(function, recorded.data, "replayed" + function[-4:]))
        rig.worker.wait_for_line(f"A job of {function} has a wrong signature", PATIENCE)


def test_an_answer_to_one_call_is_none_to_another(rig: Rig, app: App) -> None:
    """Whoever registers as a worker can answer with something recorded before; it is not believed."""
    app.task(name="stolen")(lambda: None)
    assert app.tasks["add"].call(1, 2) == 3
    recorded = [one for one in rig.sniffer.payloads() if one.packet == "WORK_COMPLETE"][-1].data
    for data in (recorded, pack(3), b"", b"3"):
        with stranger(rig.server.url, "stolen", lambda _, data=data: data), pytest.raises(SignatureError):  # type: ignore[misc]
            app.tasks["stolen"].call()


def test_results_that_are_not_signed_are_not_kept(rig: Rig, app: App) -> None:
    forged = pack([["a" * 32, "SUCCESS", b"", 60.0]])[1:]
    with Client(rig.server.url) as client:
        client.submit(Submission("gtask.results.put", forged))
    rig.results.wait_for_line(r"gtask\.results\.put is refused", PATIENCE)
    assert app.AsyncResult("a" * 32).info is None


# --- keys on one side only -----------------------------------------------------------------------------------


def test_a_worker_without_keys_names_the_setting(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(SOURCE.replace('App("signed")', 'App("signed", namespace="plain.")'))
    with worker(
        "app:app", cwd=tmp_path, servers=rig.server.url, env={"GTASK_SIGNING_KEYS": None}, timeout=PATIENCE
    ) as program:
        with App("caller", rig.server.url, signing_keys=KEYS) as app:
            app.task(name="plain.add")(lambda a, b: None)
            with pytest.raises(SignatureError, match="not signed"):
                app.tasks["plain.add"].call(1, 2)
        program.wait_for_line(r"signed with the key 'k1', and there are no keys here.*GTASK_SIGNING_KEYS", PATIENCE)


def test_a_results_service_without_keys_is_not_believed(rig: Rig, tmp_path: Path) -> None:
    with job_server() as server, results_service(server.url, tmp_path / "results.db", None) as program:
        with App("caller", server.url, signing_keys=KEYS) as app:
            with pytest.raises(SignatureError, match="The results service is not believed"):
                app.AsyncResult("a" * 32).get(timeout=PATIENCE)
        program.wait_for_line("there are no keys here", PATIENCE)


def test_a_failure_to_decode_is_told_with_a_signature(rig: Rig, app: App) -> None:
    keys = app.settings.signing_keys
    assert keys is not None
    broken = keys.sign("add", b"\x85\xa5gtask", 0.0)
    with pytest.raises(JobException) as caught:
        foreground(rig, "add", broken)
    told = keys.open("add", caught.value.data, kind=Kind.FAILURE, proof=proof_of(broken)).workload
    assert decode_failure(told).type == "gtask.errors.DecodeError"
