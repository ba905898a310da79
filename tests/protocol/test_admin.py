"""The text protocol, both ways: what one side formats, the other parses."""

from __future__ import annotations

import pytest

from gtask.errors import LocalProtocolError, RemoteProtocolError, ServerError
from gtask.protocol import admin
from gtask.protocol.admin import (
    Answer,
    AnswerReader,
    Command,
    JobRow,
    PriorityRow,
    Refusal,
    StatusRow,
    WorkerRow,
    parse_answer,
    parse_command,
)

COMMANDS = [
    Command("version"),
    Command("getpid"),
    Command("verbose"),
    Command("status"),
    Command("prioritystatus"),
    Command("workers"),
    Command("show jobs"),
    Command("show unique jobs"),
    Command("cancel job", ("H:host:1",)),
    Command("maxqueue", ("f",)),
    Command("maxqueue", ("f", "10")),
    Command("maxqueue", ("f", "1", "2", "3")),
    Command("create function", ("grün",)),
    Command("drop function", ("f",)),
]


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_survives_the_trip(command: Command) -> None:
    line = command.encode()
    assert line.endswith(b"\r\n")
    assert parse_command(line[:-2]) == command


@pytest.mark.parametrize(
    "command",
    [
        Command("nonsense"),
        Command("status", ("x",)),
        Command("cancel job"),
        Command("maxqueue", ("f", "1", "2")),
        Command("create function", ("two words",)),
        Command("create function", ("",)),
        Command("create function", ("a\nb",)),
    ],
    ids=str,
)
def test_a_command_that_cannot_travel_is_refused(command: Command) -> None:
    with pytest.raises(LocalProtocolError):
        command.encode()


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"", b"ERR UNKNOWN_COMMAND Unknown+server+command\r\n"),
        (b" status", b"ERR UNKNOWN_COMMAND Unknown+server+command\r\n"),
        (b"bogus x", b"ERR UNKNOWN_COMMAND Unknown+server+commandbogus\r\n"),
        (b"show", b"ERR UNKNOWN_COMMAND Unknown+server+commandshow\r\n"),
        (b"cancel job", b"ERR UNKNOWN_COMMAND Unknown+server+commandcancel\r\n"),
        (b"cancel it now", b"ERR UNKNOWN_ERROR\r\n"),
        (b"cancel job a b", b"ERR UNKNOWN_ERROR\r\n"),
        (b"show jobs now", b"ERR UNKNOWN_SHOW_ARGUMENTS\r\n"),
        (
            b"maxqueue",
            b"ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+maxqueue\r\n",
        ),
        (b"drop x y", b"ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+drop\r\n"),
        (b"a b c d e f", b"ERR INVALID_ARGUMENTS A+command+has+5+words+at+most\r\n"),
    ],
)
def test_what_is_no_command_has_its_answer(line: bytes, answer: bytes) -> None:
    command = parse_command(line)
    assert isinstance(command, Refusal)
    assert command.answer == answer


def test_words_are_split_at_spaces_whatever_their_case() -> None:
    assert parse_command(b"CANCEL  Job   H:x") == Command("cancel job", ("H:x",))
    assert parse_command(b"status and more") == Command("status")


LISTS: list[tuple[Command, bytes, admin.Rows]] = [
    (Command("status"), admin.format_table([StatusRow("a", 3, 1, 2)]), [StatusRow("a", 3, 1, 2)]),
    (Command("status"), admin.format_table([]), []),
    (
        Command("status"),
        admin.format_table([StatusRow("tab\there", 3, 1, 2), StatusRow(".", 0, 0, 0)]),
        [StatusRow("tab\there", 3, 1, 2), StatusRow(".", 0, 0, 0)],
    ),
    (
        Command("prioritystatus"),
        admin.format_table([PriorityRow("\udcff", 1, 2, 3, 4)]),
        [PriorityRow("\udcff", 1, 2, 3, 4)],
    ),
    (
        Command("show jobs"),
        admin.format_table([JobRow("H:h:1", 2, False, True)]),
        [JobRow("H:h:1", 2, False, True)],
    ),
    (Command("show unique jobs"), admin.format_uniques([b"u", b""]), ["u", ""]),
    (
        Command("workers"),
        admin.format_workers([WorkerRow(7, "127.0.0.1", "-", ()), WorkerRow(8, "::1", "me too", ("f", "g"))]),
        [WorkerRow(7, "127.0.0.1", "-", ()), WorkerRow(8, "::1", "me too", ("f", "g"))],
    ),
]


@pytest.mark.parametrize(("command", "whole", "rows"), LISTS)
@pytest.mark.parametrize("step", [1, 10_000])
def test_a_list_survives_the_trip(command: Command, whole: bytes, rows: admin.Rows, step: int) -> None:
    reader = AnswerReader()
    reader.expect(command)
    found: list[Answer | ServerError] = []
    for position in range(0, len(whole), step):
        found += reader.receive_data(whole[position : position + step])
    assert found == [Answer(command, rows=rows)]
    assert reader.waiting == 0


def test_the_bytes_are_those_of_gearmand() -> None:
    assert admin.format_table([StatusRow("f", 3, 1, 2)]) == b"f\t3\t1\t2\n.\n"
    assert admin.format_table([JobRow("H:h:1", 0, True, False)]) == b"H:h:1\t0\t1\t0\n.\n"
    assert admin.format_workers([WorkerRow(37, "127.0.0.1", "-", ())]) == b"37 127.0.0.1 - :\n.\n"
    assert admin.format_workers([WorkerRow(37, "127.0.0.1", "-", ("b", "a"))]) == b"37 127.0.0.1 - : b a\n.\n"
    assert admin.format_line("1.1.20+ds") == b"OK 1.1.20+ds\n"


def test_answers_are_matched_in_order() -> None:
    reader = AnswerReader()
    commands = [Command("version"), Command("status"), Command("cancel job", ("H:x",)), Command("show jobs")]
    for command in commands:
        reader.expect(command)
    found = reader.receive_data(b"OK 1.1.20+ds\nf\t0\t0\t1\n.\nERR UNKNOWN_JOB\r\n.\n")
    assert found[0] == Answer(commands[0], "1.1.20+ds")
    assert found[1] == Answer(commands[1], rows=[StatusRow("f", 0, 0, 1)])
    assert isinstance(found[2], ServerError)
    assert found[2].code == "UNKNOWN_JOB"
    assert found[3] == Answer(commands[3], rows=[])


@pytest.mark.parametrize(
    ("whole", "code", "text"),
    [
        (b"ERR UNKNOWN_COMMAND Unknown+server+commandx\r\n", "UNKNOWN_COMMAND", "Unknown server commandx"),
        (b"ERR function not found\r\n", "ERR", "function not found"),
    ],
)
def test_a_refusal_is_an_error(whole: bytes, code: str, text: str) -> None:
    for command in (Command("version"), Command("status")):
        error = parse_answer(command, whole)
        assert isinstance(error, ServerError)
        assert (error.code, error.text) == (code, text)


@pytest.mark.parametrize(
    ("command", "whole"),
    [
        (Command("version"), b"HTTP/1.1 400 Bad Request\r\n"),
        (Command("status"), b"only a name\n.\n"),
        (Command("status"), b"f\ta\tb\tc\n.\n"),
        (Command("workers"), b"no colon\n.\n"),
    ],
)
def test_what_is_no_answer_is_refused(command: Command, whole: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_answer(command, whole)


def test_text_that_nothing_asked_for_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        AnswerReader().receive_data(b"OK\r\n")


def test_an_answer_without_end_is_given_up_on() -> None:
    reader = AnswerReader(max_answer=1000)
    reader.expect(Command("status"))
    assert reader.receive_data(b"f\t0\t0\t0\n" * 100) == []
    with pytest.raises(RemoteProtocolError):
        reader.receive_data(b"f\t0\t0\t0\n" * 100)
