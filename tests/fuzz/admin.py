# Whatever line is sent to a job server: a command, or a refusal with its answer. A command that can be written is
# read again as the same. Whatever a job server answers: `Answer`, `ServerError`, or `RemoteProtocolError` and no other
# error; never more is held back than an answer may have, and how the bytes are cut changes nothing. Rows that are
# written are read as the same again.
"""Fuzzes the admin text protocol, both directions."""

from __future__ import annotations

from gtask.errors import LocalProtocolError, RemoteProtocolError, ServerError
from gtask.protocol.admin import (
    LISTINGS,
    Answer,
    AnswerReader,
    Command,
    JobRow,
    PriorityRow,
    Refusal,
    StatusRow,
    WorkerRow,
    format_line,
    format_table,
    format_uniques,
    format_workers,
    parse_command,
    to_bytes,
)
from tests.fuzz.supply import Supply

MAX_ANSWER = 300
COMMANDS = (
    *(Command(name) for name in sorted(LISTINGS)),
    Command("version"),
    Command("maxqueue", ("f", "1")),
    Command("cancel job", ("H:a:1",)),
)
LINES = (
    b"f\t1\t0\t2\n",
    b"f\t1\t0\t2\t3\n",
    b"30 127.0.0.1 id : f g\n",
    b"H:a:1\t0\t0\t1\n",
    b".\n",
    b"OK\r\n",
    b"OK 1.1.20\n",
    b"ERR UNKNOWN_JOB\r\n",
    b"ERR function not found\r\n",
    b"\n",
    b"f\t\xc2\xb2\t1\t1\n",
    b"f\t" + b"9" * 5000 + b"\t1\t1\n",
)


def fuzz(data: bytes) -> None:
    """A line to a server, or some answers to a client."""
    supply = Supply(data)
    kind = supply.number(2)
    if kind == 0:
        command(supply.rest())
    elif kind == 1:
        answers(supply)
    else:
        rows(supply)


def command(line: bytes) -> None:
    """A line as a job server reads it."""
    found = parse_command(line.split(b"\n", 1)[0])
    if isinstance(found, Refusal):
        assert found.answer.endswith(b"\n")
        return
    try:
        written = found.encode()
    except LocalProtocolError:
        return
    assert parse_command(written.removesuffix(b"\r\n")) == found


def answers(supply: Supply) -> None:
    """Some commands under way, and what comes back."""
    sent = [supply.choice(COMMANDS) for _ in range(supply.number(4))]
    stream = b"".join(supply.choice(LINES) for _ in range(supply.number(12))) + supply.piece(100)
    pieces = supply.cut(stream)
    whole, error = listen(sent, [stream])
    cut, cut_error = listen(sent, pieces)
    # What is complete before the error is heard of where it came in an earlier piece.
    assert (error is None) == (cut_error is None), error or cut_error
    if error is None:
        assert cut == whole


def listen(sent: list[Command], pieces: list[bytes]) -> tuple[list[str], RemoteProtocolError | None]:
    """What a client hears: the answers as text, and the error that ended them."""
    reader = AnswerReader(MAX_ANSWER)
    for one in sent:
        reader.expect(one)
    heard: list[str] = []
    for piece in pieces:
        try:
            found = reader.receive_data(piece)
        except RemoteProtocolError as error:
            return heard, error
        assert len(reader._buffer) <= MAX_ANSWER
        for answer in found:
            assert isinstance(answer, Answer | ServerError)
            heard.append(f"{answer!r} {answer}")
    return heard, None


def rows(supply: Supply) -> None:
    """Lists as they are written and read again."""
    name = name_of(supply)
    kind = supply.number(4)
    numbers = [supply.number(65535) for _ in range(4)]
    written: bytes
    if kind == 0:
        listed: list[object] = [StatusRow(name, *numbers[:3])]
        command, written = Command("status"), format_table(listed)  # type: ignore[arg-type]
    elif kind == 1:
        listed = [PriorityRow(name, *numbers)]
        command, written = Command("prioritystatus"), format_table(listed)  # type: ignore[arg-type]
    elif kind == 2:
        listed = [JobRow(name, numbers[0], numbers[1] > 9, numbers[2] > 9)]
        command, written = Command("show jobs"), format_table(listed)  # type: ignore[arg-type]
    elif kind == 3:
        listed = [WorkerRow(numbers[0], "127.0.0.1", "id", ("f",) * supply.number(3))]
        command, written = Command("workers"), format_workers(listed)  # type: ignore[arg-type]
    else:
        listed = [name]
        command, written = Command("show unique jobs"), format_uniques([to_bytes(name)])
    reader = AnswerReader()
    reader.expect(command)
    reader.expect(Command("version"))
    first, second = reader.receive_data(written + format_line("1"))
    assert first == Answer(command, rows=listed)  # type: ignore[arg-type]
    assert second == Answer(Command("version"), "1")


def name_of(supply: Supply) -> str:
    """A name that fits into a line, and is not what ends a list."""
    raw = supply.piece(40).translate(None, b"\n\r")
    name = raw.decode("utf-8", "surrogateescape")
    return "f" if name in (".", "") or name.startswith(("ERR", ".")) else name


def seeds() -> list[bytes]:
    """Inputs to begin with."""
    return [
        b"\0status",
        b"\0maxqueue f 1 2 3",
        b"\0cancel job H:a:1",
        b"\0create function f",
        *(bytes([1, 1, place, 2, place, 4]) for place in range(len(LINES))),
        bytes([1, 4, 0, 1, 2, 3, 12, *range(12), 3, *range(8)]),
        *(bytes([2, 1, 102, kind, *range(8)]) for kind in range(5)),
    ]
