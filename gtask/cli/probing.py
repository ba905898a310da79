"""What `gtask doctor` finds out about one job server, without leaving anything behind.

Three sources: the admin protocol, the command line of a server on this very machine, and a probe: a few jobs of a
function of its own, submitted, grabbed and ended over one connection. How a server takes them tells its queue module
(protocol reference, section 20).
"""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Self

from gtask.cli.looking import ANSWER, CONNECT, Look, look
from gtask.client.admin import AdminClient
from gtask.errors import GtaskError, ServerError
from gtask.protocol.codec import Decoder, encode_request
from gtask.protocol.packets import RESPONSE_MAGIC, Packet, PacketType
from gtask.transport.blocking import connect
from gtask.transport.tls import TLS
from gtask.types import Server

_T = PacketType

ROUNDS: Final = 8
"""Submissions of each kind that are timed."""

PAYLOAD: Final = b"a probe of `gtask doctor`; it may be dropped"

_SHORT: Final = {
    "j": "job-retries",
    "q": "queue-type",
    "L": "listen",
    "w": "worker-wakeup",
    "b": "backlog",
    "p": "port",
}
_SWITCHES: Final = {"R": "round-robin"}


@dataclass
class Probe:
    """What the probe's jobs have told.

    `epoch`, `long_name`, `binary_unique` and `case` say whether the queue took a job with a time, one of a function of
    256 bytes, one whose unique is no UTF-8, and two whose uniques differ only in case. `background` and `foreground`
    are the shortest times in seconds for the answer to a submission. `exceptions` says whether a caller that has not
    asked gets exceptions. `error` is why the probe was not finished.
    """

    handles: list[str] = field(default_factory=list)
    epoch: bool | None = None
    long_name: bool | None = None
    binary_unique: bool | None = None
    case: bool | None = None
    background: float | None = None
    foreground: float | None = None
    exceptions: bool | None = None
    error: str = ""


@dataclass
class Facts:
    """Everything that was found out about one job server.

    `plaintext` says whether the port answers without TLS, None when that was not tried. `certificate_left` is how many
    seconds its certificate is still good for, `takes_strangers` whether it takes peers that show none; both are None
    without TLS. `options` are those of its command line and configuration file where they can be read, else None.
    """

    server: Server
    look: Look
    plaintext: bool | None = None
    speaks_tls: bool = False
    certificate_left: float | None = None
    takes_strangers: bool | None = None
    options: dict[str, str] | None = None
    handles: list[str] = field(default_factory=list)
    probe: Probe | None = None

    @property
    def embedded(self) -> bool:
        """Whether it is gtask's own job server."""
        return self.look.version.startswith("gtask")

    @property
    def version(self) -> tuple[int, ...]:
        """The version of gearmand as numbers, () when it cannot be read."""
        head = self.look.version.partition("+")[0].partition("-")[0]
        parts = head.split(".")
        return tuple(map(int, parts)) if head and all(part.isdecimal() for part in parts) else ()


def examine(server: Server, tls: TLS | None, probe: bool) -> Facts:
    """Finds out everything about one job server; never raises for one that is away or refuses."""
    facts = Facts(server, look(server, tls))
    if server.tls:
        facts.plaintext = _answers_plaintext(server)
        facts.speaks_tls = not facts.look.error
    elif facts.look.error:
        facts.speaks_tls = _speaks_tls(server)
    if facts.look.error:
        return facts
    if server.tls:
        facts.certificate_left = _certificate_left(server, tls)
        facts.takes_strangers = _takes_strangers(server, tls)
    with suppress(GtaskError), AdminClient(server, timeout=ANSWER, connect_timeout=CONNECT, tls=tls) as admin:
        facts.handles = [row.handle for row in admin.jobs()]
        facts.options = local_options(server.host, admin.pid())
    if probe and not facts.embedded:
        facts.probe = run_probe(server, tls)
    return facts


# --- TLS -----------------------------------------------------------------------------------------------------


def _answers_plaintext(server: Server) -> bool:
    return not look(server._replace(tls=False), None).error


def _speaks_tls(server: Server) -> bool:
    """Whether the port takes a TLS handshake, whatever its certificate."""
    try:
        with socket.create_connection((server.host, server.port), CONNECT) as sock:
            return _handshakes(sock)
    except ssl.SSLError as error:
        # A refusal in TLS's own words: it asks for a certificate, or for another version.
        return "ALERT" in (error.reason or "")
    except OSError:
        return False


def _handshakes(sock: socket.socket) -> bool:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with context.wrap_socket(sock):
        return True


def _certificate_left(server: Server, tls: TLS | None) -> float | None:
    with suppress(GtaskError):
        connection = connect(server, CONNECT, tls)
        end = connection.certificate_end
        connection.close()
        return None if end is None else end - time.time()
    return None


def _takes_strangers(server: Server, tls: TLS | None) -> bool:
    """Whether a peer without a certificate is served; this one has been served already, with its own if it has one."""
    if tls is None or not tls.certfile:
        return True
    return not look(server, replace(tls, certfile=None, keyfile=None)).error


# --- a server on this machine --------------------------------------------------------------------------------


def local_options(host: str, pid: int) -> dict[str, str] | None:
    """The options of the job server with this process id, None when it is not on this machine or cannot be read."""
    if host not in ("localhost", "::1") and not host.startswith("127."):
        return None
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return None
    if not words or os.path.basename(words[0]) != "gearmand":
        return _embedded_options(words)
    options = parse_options(words[1:])
    return {**_config_file(options.get("config-file", "/etc/gearmand.conf")), **options}


def _embedded_options(words: list[str]) -> dict[str, str] | None:
    if "server" not in words or not any("gtask" in os.path.basename(word) for word in words):
        return None
    return parse_options(words[words.index("server") + 1 :])


def parse_options(words: list[str]) -> dict[str, str]:
    """Reads options as gearmand does: ``--name=value``, ``--name value``, ``-nvalue``, ``-n value``; ``--switch``."""
    found: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            found[name] = value
        elif word.startswith("-") and len(word) > 1:
            name = _SHORT.get(word[1], _SWITCHES.get(word[1], word[1]))
            found[name] = word[2:]
        elif name and not found[name]:
            found[name] = word
    return found


def _config_file(path: str) -> dict[str, str]:
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return {}
    rows = [line.partition("#")[0].partition("=") for line in lines]
    return {name.strip(): value.strip() for name, _, value in rows if name.strip()}


# --- the probe -----------------------------------------------------------------------------------------------


def run_probe(server: Server, tls: TLS | None) -> Probe:
    """Runs the probe; what was submitted is ended again, and the probe's functions are dropped."""
    probe = Probe()
    name = f"gtask.doctor.{secrets.token_hex(6)}"
    functions = (name, name + "x" * (256 - len(name)))
    try:
        with _Talk(server, tls, probe) as talk:
            try:
                _ask(talk, probe, *(function.encode() for function in functions))
            finally:
                talk.leave()
    except GtaskError as error:
        probe.error = str(error)
    with suppress(GtaskError), AdminClient(server, timeout=ANSWER, connect_timeout=CONNECT, tls=tls) as admin:
        for function in functions:
            with suppress(ServerError):  # it was never made
                admin.drop_function(function)
    return probe


def _ask(talk: _Talk, probe: Probe, function: bytes, long_name: bytes) -> None:
    mark = secrets.token_hex(4).encode()
    talk.tell(_T.CAN_DO, function)
    # A time in the past: the job can be run at once, yet a queue module that takes no times refuses it.
    probe.epoch = talk.submit(_T.SUBMIT_JOB_EPOCH, function, mark + b"e", b"1")
    probe.binary_unique = talk.submit(_T.SUBMIT_JOB_BG, function, mark + b"\xff\xfe")
    if talk.submit(_T.SUBMIT_JOB_BG, function, mark + b"a"):
        probe.case = talk.submit(_T.SUBMIT_JOB_BG, function, mark + b"A")
    probe.long_name = talk.submit(_T.SUBMIT_JOB_BG, long_name, mark + b"l")
    if probe.long_name:
        talk.tell(_T.CAN_DO, long_name)
    times = {_T.SUBMIT_JOB_BG: ANSWER, _T.SUBMIT_JOB: ANSWER}
    for number in range(ROUNDS):
        for kind, shortest in times.items():
            started = time.perf_counter()
            talk.submit(kind, function, mark + b"%d.%d" % (kind, number))
            times[kind] = min(shortest, time.perf_counter() - started)
    probe.background, probe.foreground = times[_T.SUBMIT_JOB_BG], times[_T.SUBMIT_JOB]
    talk.end_all()
    if talk.submit(_T.SUBMIT_JOB, function, mark + b"x"):
        probe.exceptions = talk.end_all(_T.WORK_EXCEPTION)


class _Talk:
    """A connection that is the probe's caller and worker at once, one question after the other."""

    def __init__(self, server: Server, tls: TLS | None, probe: Probe) -> None:
        self._connection = connect(server, CONNECT, tls)
        self._probe = probe
        self._decoder = Decoder(RESPONSE_MAGIC)
        self._packets: list[Packet] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()

    def tell(self, type: PacketType, *args: bytes) -> None:
        """Sends what has no answer."""
        self._connection.send(encode_request(type, *args), time.monotonic() + ANSWER)

    def submit(self, type: PacketType, *args: bytes) -> bool:
        """Submits a job; false when it is refused."""
        self.tell(type, *args, PAYLOAD)
        packet = self._next(_T.JOB_CREATED, _T.ERROR)
        if packet.type is not _T.JOB_CREATED:
            return False
        self._probe.handles.append(packet.args[0].decode(errors="replace"))
        return True

    def end_all(self, how: PacketType = _T.WORK_COMPLETE) -> bool:
        """Grabs and ends all jobs of the probe; whether their caller was told of an exception as of an exception."""
        heard = False
        self.tell(_T.GRAB_JOB)
        while (packet := self._next(_T.JOB_ASSIGN, _T.NO_JOB)).type is _T.JOB_ASSIGN:
            self.tell(how, packet.args[0], b"")
            if how is _T.WORK_EXCEPTION:
                heard = self._next(_T.WORK_EXCEPTION, _T.WORK_FAIL).type is how
            self.tell(_T.GRAB_JOB)
        return heard

    def leave(self) -> None:
        """Ends what is left and takes the functions back, so that they can be dropped."""
        self.end_all()
        self.tell(_T.RESET_ABILITIES)
        self.tell(_T.ECHO_REQ, b"")
        self._next(_T.ECHO_RES)

    def _next(self, *wanted: PacketType) -> Packet:
        """The next packet of these types; what else comes (NOOP, the ends of the probe's own jobs) is passed over."""
        deadline = time.monotonic() + ANSWER
        while True:
            while self._packets:
                packet = self._packets.pop(0)
                if packet.type in wanted:
                    return packet
            data = self._connection.recv(deadline)
            if not data:
                raise self._connection.lost()
            self._packets = self._decoder.feed(data)
            if self._decoder.error is not None:
                raise self._decoder.error
