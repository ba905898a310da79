"""Bad input: each is a clear error to whoever caused it, and the worker and the job server live on."""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Iterator

import pytest

from gtask import App, TaskFailed
from gtask.client import Client
from gtask.dead import Parked, Verdict, work_through
from gtask.errors import BadArguments, DecodeError, EncodeError, JobException, ResultTimeout
from gtask.letters import Letter
from gtask.message import Message, encode_message, new_task_id
from gtask.protocol.codec import encode_request
from gtask.protocol.packets import PacketType
from gtask.testing import wait_until
from gtask.types import Submission
from tests.e2e.conftest import LIMIT, Staffed


@pytest.fixture(autouse=True)
def _everything_lives(staffed: Staffed) -> Iterator[None]:
    """The same processes answer before and after each test."""
    server, workers = staffed.house.server, staffed.worker.children()
    assert len(workers) == 3
    yield
    assert server.running
    assert staffed.worker.running
    assert staffed.app.tasks["add"].options(timeout=LIMIT).call(1, 2) == 3
    assert staffed.app.tasks["add"].delay(1, 2).get(timeout=LIMIT) == 3
    assert staffed.app.tasks["add"].apply_async((1, 2), countdown=0.01).get(timeout=LIMIT) == 3
    assert staffed.worker.children() == workers


def foreground(staffed: Staffed, function: str, workload: bytes) -> bytes:
    """Runs a job as a caller that knows nothing of gtask."""
    with Client(staffed.house.server.url) as client:
        return client.call(Submission(function, workload, background=False), LIMIT)


def test_a_function_nobody_serves(staffed: Staffed) -> None:
    with App("stranger", staffed.app.servers, results=None) as stranger:
        task = stranger.task(name="nobody")(lambda: 1)
        with pytest.raises(ResultTimeout, match=r"nobody did not answer within 0\.3 s.*gtask status"):
            task.options(timeout=0.3).call()


def test_a_message_for_another_task(staffed: Staffed) -> None:
    task_id = new_task_id("add", os.urandom(12))
    message = encode_message(Message(task_id, "total", ([1],), {}, {"task": "total"}))
    with pytest.raises(JobException, match="for the task 'total'"):
        foreground(staffed, "add", message)
    with Client(staffed.house.server.url) as client:
        client.submit(Submission("add", message, task_id))
    with pytest.raises(DecodeError, match="This message is for the task 'total', not for 'add'"):
        staffed.app.AsyncResult(task_id).get(timeout=LIMIT)


@pytest.mark.parametrize(
    "workload",
    [
        b"\x85\xa5gtask\x01\xa2id",
        b"\x81\xa5gtask\x02",
        b"\x82\xa5gtask\x01\xa4args\x05",
        b"\x85\xa5gtask" + b"\x91" * 5000,
        b"\x85\xa5gtask\x01\xa4args\xdd\xff\xff\xff\xff",
        b'{"gtask": 7}',
        b'{"gtask": 1, "headers": {"retries": "many"}}',
    ],
)
def test_a_corrupt_envelope(staffed: Staffed, workload: bytes) -> None:
    with pytest.raises(JobException, match=r"gtask\.errors\.DecodeError"):
        foreground(staffed, "add", workload)
    task_id = new_task_id("add", os.urandom(12))
    with Client(staffed.house.server.url) as client:
        client.submit(Submission("add", workload, task_id))
    with pytest.raises(DecodeError):
        staffed.app.AsyncResult(task_id).get(timeout=LIMIT)


def test_random_bytes_in_a_message(staffed: Staffed) -> None:
    chance = random.Random(7)
    whole = encode_message(Message("x" * 32, "add", (1, 2), {}, {"task": "add", "sent": 1.0}))
    with Client(staffed.house.server.url) as client:
        broken = []
        for _ in range(200):
            data = bytearray(whole)
            for _ in range(chance.randrange(1, 4)):
                data[chance.randrange(7, len(data))] = chance.randrange(256)
            broken.append(Submission("add", bytes(data), background=False))
        answers = client.call_many(broken, LIMIT)
    assert all(isinstance(answer, bytes | JobException) for answer in answers)
    assert any(isinstance(answer, JobException) for answer in answers)


def test_wrong_argument_types(staffed: Staffed) -> None:
    app = staffed.app
    for way in (app.tasks["add"].delay, app.tasks["add"].call, lambda *args: unchecked(app, "add", *args)):
        with pytest.raises(BadArguments, match=r"add: a: .*'seven'"):
            way("seven", 1)
    for way in (app.tasks["double"].delay, app.tasks["double"].call, lambda *args: unchecked(app, "double", *args)):
        with pytest.raises(BadArguments, match=r"double: order\.amount: "):
            way({"id": 1, "amount": "much"})
    with pytest.raises(TypeError, match="does not take these arguments: too many"):
        unchecked(app, "total", 1, 2, 3)
    with pytest.raises(JobException, match=r"BadArguments: add: a: "):
        foreground(staffed, "add", b'"seven"')


def test_a_foreign_job_of_the_wrong_type_is_parked_with_the_path(staffed: Staffed) -> None:
    order = b'{"id": 1, "amount": "much"}'
    with pytest.raises(JobException, match=r"BadArguments: double: order\.amount: expected Decimal, got str 'much'"):
        foreground(staffed, "double", order)
    with Client(staffed.house.server.url) as client:
        client.submit(Submission("double", order))
    letters: list[Letter | None] = []

    def drop(parked: Parked) -> Verdict:
        letters.append(parked.letter)
        return Verdict.DROP

    def found() -> bool:
        work_through(staffed.app, "double", drop)
        return any(letter is not None and letter.message == order for letter in letters)

    wait_until(found, LIMIT, "the dead letter")
    letter = next(one for one in letters if one is not None and one.message == order)
    assert letter.refused
    assert letter.error.type == "gtask.errors.BadArguments"
    assert letter.error.message.startswith("double: order.amount: expected Decimal, got str 'much'")


def unchecked(app: App, name: str, *args: object) -> object:
    """Sends a task without knowing its parameters."""
    stranger = App("stranger", app.servers)
    with stranger:
        return stranger.send_task(name, args).get(timeout=LIMIT)


def test_a_result_that_cannot_be_sent(staffed: Staffed) -> None:
    task = staffed.app.tasks["unsendable"]
    with pytest.raises(EncodeError, match=r"deep\[0\].*object"):
        task.delay().get(timeout=LIMIT)
    with pytest.raises(EncodeError, match=r"deep\[0\].*object"):
        task.call()
    with pytest.raises(EncodeError):
        (task | staffed.app.tasks["add"]).delay().get(timeout=LIMIT)
    with pytest.raises(JobException, match="EncodeError"):
        foreground(staffed, "unsendable", b"")


def test_arguments_that_cannot_be_sent(staffed: Staffed) -> None:
    with pytest.raises(EncodeError, match=r"args\[0\].*object"):
        unchecked(staffed.app, "add", object())
    with pytest.raises(BadArguments, match=r"add: a: expected int, got object"):
        staffed.app.tasks["add"].delay(object(), 1)


def test_what_is_too_large(staffed: Staffed) -> None:
    large = staffed.app.tasks["large"]
    size = 65 * 1024 * 1024
    with pytest.raises(EncodeError, match=r"max_message|bytes"):
        staffed.app.tasks["fails"].delay("x" * size)
    with pytest.raises(EncodeError, match=r"max_message|bytes"):
        large.call(size)
    with pytest.raises(EncodeError, match=r"max_message|bytes"):
        large.delay(size).get(timeout=LIMIT)
    assert len(large.call(10_000_000)) == 10_000_000
    assert len(large.delay(10_000_000).get(timeout=LIMIT)) == 10_000_000


def test_failures_of_a_task(staffed: Staffed) -> None:
    with pytest.raises(ValueError, match="broken") as caught:
        staffed.app.tasks["fails"].delay("broken").get(timeout=LIMIT)
    assert isinstance(caught.value.__cause__, TaskFailed)
    assert "in fails" in (caught.value.__cause__.traceback or "")
    with pytest.raises(JobException, match="ValueError: broken"):
        foreground(staffed, "fails", b'"broken"')


# --- bytes on the job server's port ------------------------------------------------------------------------------


def talk(staffed: Staffed, data: bytes, expect_end: bool = True) -> bytes:
    """Sends bytes to the job server's port, and returns what it says until it closes the connection."""
    server = staffed.house.server
    with socket.create_connection((server.host, server.port), LIMIT) as peer:
        heard = b""
        try:
            peer.sendall(data)
            if expect_end:
                peer.shutdown(socket.SHUT_WR)
            while piece := peer.recv(65536):
                heard += piece
        except TimeoutError:
            raise
        except OSError:
            pass  # it was quicker to close the connection than we to finish
        return heard


@pytest.mark.parametrize(
    "data",
    [
        b"\x00",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"\x00REQ",
        b"\x00RES" + struct.pack(">II", 1, 0),
        b"\x00REQ" + struct.pack(">II", 9999, 0),
        b"\x00REQ" + struct.pack(">II", 7, 3) + b"abc",
        bytes(range(256)) * 100,
    ],
)
def test_garbage_on_the_port(staffed: Staffed, data: bytes) -> None:
    talk(staffed, data)


def test_strangers_among_packets(staffed: Staffed) -> None:
    """Not for gearmand: 1.1.20 dies of some of these."""
    if staffed.house.server.kind == "gearmand":
        return
    chance = random.Random(11)
    for _ in range(50):
        talk(staffed, b"\x00REQ" + chance.randbytes(chance.randrange(60)))


def test_a_packet_that_claims_to_be_huge(staffed: Staffed) -> None:
    """The embedded server closes the connection at once; gearmand waits for the rest, and lives."""
    server = staffed.house.server
    header = b"\x00REQ" + struct.pack(">II", 18, 0xFFFFFFF0)
    if server.kind == "gtask":
        heard = talk(staffed, header + b"x" * 100, expect_end=False)
        assert b"ERROR" in heard or not heard or heard.startswith(b"\x00RES")
    else:
        talk(staffed, header + b"x" * 100)


def test_a_peer_that_says_nothing_more(staffed: Staffed) -> None:
    server = staffed.house.server
    with socket.create_connection((server.host, server.port), LIMIT) as peer:
        peer.sendall(encode_request(PacketType.SUBMIT_JOB_BG, b"add", b"u", b"1")[:-3])
        assert staffed.app.tasks["add"].call(1, 2) == 3


def test_a_result_for_a_job_nobody_holds(staffed: Staffed) -> None:
    heard = talk(staffed, encode_request(PacketType.WORK_COMPLETE, b"H:nowhere:1", b"x"))
    assert b"JOB_NOT_FOUND" in heard.upper() or heard == b"" or heard.startswith(b"\x00RES")
