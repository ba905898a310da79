"""The admin text protocol: commands and their answers, both ways. Protocol reference, section 17.

A job server parses commands and formats answers, an admin client formats commands and parses answers. Names are
`str`; bytes that are no UTF-8 survive the trip as surrogates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from gtask.errors import LocalProtocolError, RemoteProtocolError, ServerError

MAX_WORDS: Final = 5
"""Words a command may have (protocol reference, section 3)."""

MAX_ANSWER: Final = 64 * 1024 * 1024
"""Bytes an answer may have before a client gives up on it."""

OK: Final = b"OK\r\n"
END: Final = b".\n"


def to_text(name: bytes) -> str:
    """Bytes of a name as text; `to_bytes` turns it back, whatever the bytes."""
    return name.decode("utf-8", "surrogateescape")


def to_bytes(name: str) -> bytes:
    """The bytes of a name that `to_text` made."""
    return name.encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Command:
    """One admin command: its name, as in ``show jobs``, and its arguments.

    `listing` says that the answer is many lines with a single dot at the end, and not one line.
    """

    name: str
    args: tuple[str, ...] = ()

    @property
    def listing(self) -> bool:
        """Whether the answer ends with a line of one dot."""
        return self.name in LISTINGS

    def encode(self) -> bytes:
        """The line to send; raises `LocalProtocolError` when an argument cannot travel in it.

        It ends in CRLF, because gearmand cuts a character off ``create function`` after a bare LF.
        """
        for arg in self.args:
            if not arg or any(character in arg for character in " \r\n\0"):
                raise LocalProtocolError(
                    f"{arg!r} cannot be sent in the text protocol, which separates words by spaces."
                )
        words = (*self.name.split(), *self.args)
        if self.name not in _ARGUMENTS or len(self.args) not in _ARGUMENTS[self.name]:
            raise LocalProtocolError(f"There is no admin command {' '.join(words)!r}.")
        return to_bytes(" ".join(words)) + b"\r\n"


LISTINGS: Final = frozenset({"status", "prioritystatus", "workers", "show jobs", "show unique jobs"})
"""The commands whose answers are lists."""

_ARGUMENTS: Final = {
    **dict.fromkeys(LISTINGS, (0,)),
    "version": (0,),
    "getpid": (0,),
    "verbose": (0,),
    "cancel job": (1,),
    "maxqueue": (1, 2, 4),
    "create function": (1,),
    "drop function": (1,),
}
"""How many arguments each command may have."""


class StatusRow(NamedTuple):
    """A line of ``status``: jobs queued and running together, jobs running, workers able to run it."""

    function: str
    total: int
    running: int
    workers: int


class PriorityRow(NamedTuple):
    """A line of ``prioritystatus``: jobs queued by priority, workers able to run the function."""

    function: str
    high: int
    normal: int
    low: int
    workers: int


class WorkerRow(NamedTuple):
    """A line of ``workers``: one connection, its address and client id, and what it can do, newest first."""

    descriptor: int
    address: str
    client_id: str
    functions: tuple[str, ...]


class JobRow(NamedTuple):
    """A line of ``show jobs``: the job's handle, how often it was lost, whether nobody wants it, whether it is kept."""

    handle: str
    retries: int
    ignored: bool
    persisted: bool


# --- for a job server ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refusal(Command):
    """A line that is no command, with the `answer` that gearmand gives to it."""

    answer: bytes = b""


def unknown_command(word: bytes) -> bytes:
    """gearmand's answer to a command it does not know; the word follows without a space, as there."""
    return b"ERR UNKNOWN_COMMAND Unknown+server+command" + word + b"\r\n"


def incomplete(word: str) -> bytes:
    """gearmand's answer to a command that lacks arguments."""
    return f"ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+{word}\r\n".encode()


TOO_MANY_WORDS: Final = f"ERR INVALID_ARGUMENTS A+command+has+{MAX_WORDS}+words+at+most\r\n".encode()
UNKNOWN_SHOW: Final = b"ERR UNKNOWN_SHOW_ARGUMENTS\r\n"
UNKNOWN_JOB: Final = b"ERR UNKNOWN_JOB\r\n"
UNKNOWN_ERROR: Final = b"ERR UNKNOWN_ERROR\r\n"
NO_FUNCTION: Final = b"ERR function not found\r\n"
NO_ROOM: Final = b"ERR QUEUE_ERROR There+are+as+many+functions+as+there+may+be\r\n"
FUNCTION_BUSY: Final = b"ERR there are still connected workers or executing clients\r\n"


def parse_command(line: bytes) -> Command:
    """Reads one line, without its end; what gearmand refuses comes back as a `Refusal`."""
    words = [word for word in line.split(b" ") if word]
    if not words or line.startswith(b" "):
        return _refuse(unknown_command(b""))
    if len(words) > MAX_WORDS:
        return _refuse(TOO_MANY_WORDS)
    name = to_text(words[0]).lower()
    rest = [to_text(word) for word in words[1:]]
    if name in ("version", "getpid", "verbose", "status", "prioritystatus", "workers"):
        return Command(name)  # further words are ignored, as gearmand does
    if name == "show":
        return _parse_show(words[0], [word.lower() for word in rest])
    if name == "cancel":
        if len(rest) < 2:
            return _refuse(unknown_command(words[0]))
        if len(rest) > 2 or rest[0].lower() != "job":
            return _refuse(UNKNOWN_ERROR)
        return Command("cancel job", (rest[1],))
    if name in ("create", "drop"):
        if len(rest) != 2 or rest[0].lower() != "function":
            return _refuse(incomplete(name))
        return Command(f"{name} function", (rest[1],))
    if name == "maxqueue":
        return Command(name, tuple(rest)) if rest else _refuse(incomplete(name))
    return _refuse(unknown_command(words[0]))


def _parse_show(word: bytes, rest: list[str]) -> Command:
    if not rest:
        return _refuse(unknown_command(word))
    if rest == ["jobs"]:
        return Command("show jobs")
    if rest == ["unique", "jobs"]:
        return Command("show unique jobs")
    return _refuse(UNKNOWN_SHOW)


def _refuse(answer: bytes) -> Refusal:
    return Refusal("", (), answer)


def format_line(text: str) -> bytes:
    """The answer to ``version``, ``getpid`` and ``verbose``: these end in a bare LF."""
    return b"OK " + to_bytes(text) + b"\n"


def format_table(rows: Iterable[StatusRow | PriorityRow | JobRow]) -> bytes:
    """The answer to ``status``, ``prioritystatus`` and ``show jobs``."""
    lines = [to_bytes("\t".join([row[0], *(str(int(value)) for value in row[1:])])) + b"\n" for row in rows]
    return b"".join(lines) + END


def format_workers(rows: Iterable[WorkerRow]) -> bytes:
    """The answer to ``workers``."""
    lines = []
    for row in rows:
        names = "".join(f" {name}" for name in row.functions)
        lines.append(to_bytes(f"{row.descriptor} {row.address} {row.client_id} :{names}\n"))
    return b"".join(lines) + END


def format_uniques(uniques: Iterable[bytes]) -> bytes:
    """The answer to ``show unique jobs``: one unique a line, an empty line for an empty one."""
    return b"".join(unique + b"\n" for unique in uniques) + END


# --- for an admin client -------------------------------------------------------------------------------------

Rows = Sequence[StatusRow] | Sequence[PriorityRow] | Sequence[WorkerRow] | Sequence[JobRow] | Sequence[str]


class Answer(NamedTuple):
    """What the job server answered: the text after ``OK``, or the rows of a list."""

    command: Command
    text: str = ""
    rows: Rows = ()


class AnswerReader:
    """Cuts what a job server sends into the answers to the commands that were sent, in order.

    `expect` each command as it is sent; `receive_data` returns the answers that are complete. An answer that
    starts with ``ERR`` comes back as a `ServerError`. Protocol reference, section 17.
    """

    def __init__(self, max_answer: int = MAX_ANSWER) -> None:
        self._expected: list[Command] = []
        self._buffer = bytearray()
        self._searched = 0
        self._max_answer = max_answer

    @property
    def waiting(self) -> int:
        """How many answers are still to come."""
        return len(self._expected)

    def expect(self, command: Command) -> None:
        """Says that `command` was sent, so that its answer is read as such."""
        self._expected.append(command)

    def receive_data(self, data: bytes) -> list[Answer | ServerError]:
        """Takes bytes as they came; raises `RemoteProtocolError` for what is no answer to anything sent."""
        self._buffer += data
        answers: list[Answer | ServerError] = []
        while self._expected and (whole := self._cut(self._expected[0])) is not None:
            # Before it is read, so that one which comes at once is held to the same bound as one in pieces.
            self._check(len(whole))
            answers.append(parse_answer(self._expected.pop(0), whole))
        if self._buffer and not self._expected:
            raise RemoteProtocolError("The job server sent text that no command asked for.")
        self._check(len(self._buffer))
        return answers

    def _check(self, length: int) -> None:
        if length > self._max_answer:
            raise RemoteProtocolError(f"An answer of more than {self._max_answer} bytes came; the rest was not read.")

    def _cut(self, command: Command) -> bytes | None:
        buffer = self._buffer
        refused = command.listing and buffer.startswith(b"ERR ")
        if command.listing and not refused:
            if buffer.startswith(END):
                end = len(END)
            else:
                found = buffer.find(b"\n" + END, max(0, self._searched - 3))
                end = found + 1 + len(END) if found >= 0 else 0
        else:
            end = buffer.find(b"\n") + 1
        if not end:
            self._searched = len(buffer)
            return None
        whole = bytes(buffer[:end])
        del buffer[:end]
        self._searched = 0
        return whole


def parse_answer(command: Command, whole: bytes) -> Answer | ServerError:
    """Reads one complete answer, its end included; raises `RemoteProtocolError` when it is none."""
    if whole.startswith(b"ERR"):
        code, _, text = to_text(whole[3:].strip()).partition(" ")
        if not code.isupper():
            return ServerError("ERR", f"{code} {text}".strip())
        return ServerError(code, text.replace("+", " "))
    if not command.listing:
        line = to_text(whole.rstrip(b"\r\n"))
        if line != "OK" and not line.startswith("OK "):
            raise RemoteProtocolError(f"{command.name!r} is answered with OK or ERR; {line[:80]!r} came.")
        return Answer(command, line[3:])
    lines = [to_text(line) for line in whole[: -len(END)].split(b"\n")[:-1]]
    try:
        return Answer(command, rows=_ROWS[command.name](lines))
    except ValueError as error:
        raise RemoteProtocolError(f"A line of the answer to {command.name!r} cannot be read: {error}.") from error


def _numbers(line: str, count: int) -> tuple[str, list[int]]:
    # From the right: a function's name may hold tabs itself.
    name, *numbers = line.rsplit("\t", count)
    if len(numbers) != count:
        raise ValueError(f"{line[:80]!r} has {len(numbers)} columns after the name, not {count}")
    return name, [int(number) for number in numbers]


def _status(lines: list[str]) -> list[StatusRow]:
    return [StatusRow(name, *numbers) for name, numbers in (_numbers(line, 3) for line in lines)]


def _priorities(lines: list[str]) -> list[PriorityRow]:
    return [PriorityRow(name, *numbers) for name, numbers in (_numbers(line, 4) for line in lines)]


def _jobs(lines: list[str]) -> list[JobRow]:
    found = [_numbers(line, 3) for line in lines]
    return [JobRow(handle, retries, bool(ignored), bool(kept)) for handle, (retries, ignored, kept) in found]


def _workers(lines: list[str]) -> list[WorkerRow]:
    rows = []
    for line in lines:
        # An address may begin with a colon itself.
        descriptor, _, rest = line.partition(" ")
        address, _, rest = rest.partition(" ")
        client_id, colon, names = rest.partition(" :")
        if not colon:
            raise ValueError(f"{line[:80]!r} has no colon")
        rows.append(WorkerRow(int(descriptor), address, client_id, tuple(names.split())))
    return rows


_ROWS: Final[dict[str, Callable[[list[str]], Rows]]] = {
    "status": _status,
    "prioritystatus": _priorities,
    "workers": _workers,
    "show jobs": _jobs,
    "show unique jobs": list,
}
