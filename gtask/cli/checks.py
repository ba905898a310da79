"""What the facts about a job server mean: findings, each with its severity, a sentence and a remedy. Pure.

The reasons are in the protocol reference, sections 8 to 22.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from gtask.cli.looking import DEAD, Function
from gtask.cli.probing import Facts, Probe

WAIT: Final = "gtask.results.wait"
LATER: Final = "gtask.later"

MAX_HANDLE: Final = 63
COUNTER: Final = 10
"""Bytes of a handle, and digits that the counter in it may grow to."""

STORED: Final = 3.0
"""How much slower a background submission is than a foreground one when a queue module stores it."""

FIRST_SOUND: Final = (1, 1, 19)
"""The first release that survives a worker's exception."""

KEEPALIVE: Final = "--keepalive --keepalive-idle=30 --keepalive-interval=10 --keepalive-count=6"


RENEW: Final = 21 * 86400.0
URGENT: Final = 3 * 86400.0
"""Seconds before its end at which a certificate is to be renewed, and at which it is serious."""


class Severity(StrEnum):
    """How much a finding matters: something is broken or unsafe, something will hurt one day, good to know."""

    SERIOUS = "serious"
    WARNING = "warning"
    NOTE = "note"


class Finding(NamedTuple):
    """One finding: a short code for programs, what it is, and what to do."""

    severity: Severity
    code: str
    what: str
    remedy: str


def serious(code: str, what: str, remedy: str) -> Finding:
    """A finding that makes `gtask doctor` fail."""
    return Finding(Severity.SERIOUS, code, what, remedy)


def warning(code: str, what: str, remedy: str) -> Finding:
    """A finding that will hurt one day."""
    return Finding(Severity.WARNING, code, what, remedy)


def note(code: str, what: str, remedy: str) -> Finding:
    """A finding that is good to know."""
    return Finding(Severity.NOTE, code, what, remedy)


def diagnose(facts: Facts, needs_results: bool) -> list[Finding]:
    """Everything there is to say about one job server, the serious things first.

    `needs_results` says whether results are to be had from a results service at the job servers.
    """
    findings = list(_connection(facts))
    if not facts.look.error:
        findings += [*_release(facts), *_queue(facts), *_handles(facts), *_functions(facts)]
        if needs_results:
            findings += _results(facts)
        if not facts.embedded:
            findings += _options(facts)
    order = list(Severity)
    return sorted(findings, key=lambda finding: order.index(finding.severity))


# --- the connection ------------------------------------------------------------------------------------------


def _connection(facts: Facts) -> Iterator[Finding]:
    server = facts.server
    if server.tls and facts.plaintext:
        yield serious(
            "plaintext",
            "The port speaks plaintext although its address asks for TLS. A gearmand that is built without TLS takes "
            "--ssl and ignores it; Debian's package is such a build.",
            "Use a gearmand that is built with TLS, or put stunnel in front of it. Until then gtask does not connect.",
        )
    elif facts.look.error and not server.tls and facts.speaks_tls:
        yield serious(
            "tls-expected",
            "The port speaks TLS, and its address asks for plaintext.",
            f"Write {server._replace(tls=True)}.",
        )
    elif facts.look.error:
        remedy = "Start it, or correct its address; `gtask server` starts one on this machine."
        if "certificate" in facts.look.error:
            remedy = (
                "Correct the certificate, or the settings here: --tls-ca and --tls-cert, or App(tls=...) and --app."
            )
        yield serious("unreachable", facts.look.error, remedy)
    elif not server.tls and facts.options is not None and "ssl" in facts.options:
        yield serious(
            "plaintext",
            "The server was started with --ssl, and its port speaks plaintext: it is built without TLS and ignores the "
            "option, as Debian's package does.",
            "Use a gearmand that is built with TLS, or put stunnel in front of it.",
        )
    elif not server.tls and not server.is_loopback:
        yield warning(
            "open",
            "Everything to and from this server travels unencrypted, and Gearman has no passwords: whoever reaches the "
            "port can run tasks, read them, and end gearmand by one malformed packet.",
            "Let only your own machines reach the port, or use gearmans:// through TLS.",
        )
    else:
        yield from _certificates(facts)


def _certificates(facts: Facts) -> Iterator[Finding]:
    if facts.certificate_left is not None and facts.certificate_left < RENEW:
        hours = max(0, int(facts.certificate_left // 3600))
        left = f"{hours // 24} days" if hours >= 48 else f"{hours} hours"
        yield (serious if facts.certificate_left < URGENT else warning)(
            "certificate",
            f"Its certificate is good for another {left}; after that nobody connects to it any more.",
            "Renew it; `gtask server` reads the files again at SIGHUP, and so does stunnel.",
        )
    if facts.takes_strangers and not facts.server.is_loopback:
        yield warning(
            "strangers",
            "It asks its peers for no certificates, and Gearman has no passwords: whoever reaches the port can run "
            "tasks, and read what others are given to do.",
            "Let only your own machines reach the port, or ask for certificates: --tls-client-ca of `gtask server`, "
            "verifyChain of stunnel.",
        )


# --- the release and its options -----------------------------------------------------------------------------


def _release(facts: Facts) -> Iterator[Finding]:
    if facts.embedded:
        return
    version = facts.version
    if not version:
        yield note(
            "version",
            f"The server calls itself {facts.look.version[:40]!r}, which is no release of gearmand known here.",
            "gtask is made for gearmand 1.1.19 and later, and for its own `gtask server`.",
        )
    elif version < FIRST_SOUND:
        yield serious(
            "version",
            "Releases before 1.1.19 may crash when a worker reports an exception.",
            "Use gearmand 1.1.20 (Debian 12 and later has it), or 2.x.",
        )
    elif version < (2,):
        yield note(
            "version",
            "Release 1.1 wakes no worker when a delayed job is due, and hides low-priority jobs behind delayed ones of "
            "their function. gtask keeps delays in a queue of its own and is not hurt; other callers are.",
            "Let other callers submit no epoch jobs, or use gearmand 2.x.",
        )


def _options(facts: Facts) -> Iterator[Finding]:
    options, old = facts.options, facts.version < (2,)
    if options is None:
        yield note(
            "options",
            "Its command line cannot be seen from here, so whether a job that kills its workers is handed out for ever "
            f"is not known{', nor whether it serves functions in turn' if old else ''}.",
            f"See that it runs with --job-retries=10{' -R' if old else ''} {KEEPALIVE}.",
        )
    else:
        yield from _known_options(options, old)
    exceptions = facts.probe.exceptions if facts.probe is not None else None
    if exceptions is False or (exceptions is None and options is not None and "exceptions" not in options):
        yield note(
            "exceptions",
            "A caller that does not ask for exceptions is told of a failed task under a broken handle; the `gearman` "
            "tool, for one, then waits for ever. gtask asks.",
            "Run gearmand with --exceptions.",
        )


def _known_options(options: Mapping[str, str], old: bool) -> Iterator[Finding]:
    retries = int(options["job-retries"]) if options.get("job-retries", "").isdecimal() else 0
    if not retries % 256:
        yield warning(
            "job-retries",
            "A job that kills its worker is handed out again without end"
            + (f": of --job-retries={retries} only 8 bits count." if retries else "."),
            "Run gearmand with --job-retries=10, or another number up to 255; above 3, so that gtask gives up first.",
        )
    if old and "round-robin" not in options:
        yield warning(
            "round-robin",
            "The server gives a worker the jobs of the function it registered last, and starves the others. gtask's "
            "workers take turns themselves; others do not.",
            "Run gearmand with -R (--round-robin).",
        )
    if "keepalive" not in options:
        yield warning(
            "keepalive",
            "The jobs of a worker whose machine vanishes are given to another only after two hours.",
            f"Run gearmand with {KEEPALIVE}.",
        )
    if options.get("worker-wakeup", "0") not in ("", "0"):
        yield note(
            "worker-wakeup",
            "With --worker-wakeup a job waits when the worker that was woken dies; gtask's workers look by themselves "
            "now and then.",
            "Leave --worker-wakeup away unless there are hundreds of idle workers.",
        )
    if "listen" not in options:
        yield warning(
            "listen",
            "The server listens at every address of its machine, and Gearman has no passwords.",
            "Run gearmand with --listen=ADDRESS, and let only your own machines reach the port.",
        )


# --- the queue -----------------------------------------------------------------------------------------------


def queue_of(facts: Facts) -> tuple[str, bool]:
    """The queue module, "" when it cannot be told, and whether that is certain (said by the command line)."""
    if facts.options is not None:
        if facts.embedded:
            return ("sqlite" if facts.options.get("db") else "memory"), True
        return _canonical(facts.options.get("queue-type", "builtin")), True
    return ("", False) if facts.probe is None else (_guess(facts.probe), False)


def _canonical(name: str) -> str:
    lowered = name.lower()
    return {"mysql": "mysql", "postgres": "postgres", "libpq": "postgres", "redis": "redis"}.get(lowered, lowered)


def _guess(probe: Probe) -> str:
    if probe.error or probe.background is None or probe.foreground is None:
        return ""
    if probe.epoch is False:
        return "redis or libmemcached"
    if probe.long_name is False:
        # Only columns of 255 characters refuse it; the default collation of MySQL also takes A for a.
        if probe.case is False:
            return "mysql"
        return "postgres" if probe.binary_unique is False else "mysql with binary columns"
    return "libsqlite3" if probe.background > STORED * probe.foreground else "builtin"


def _queue(facts: Facts) -> Iterator[Finding]:
    queue, certain = queue_of(facts)
    seems = "is" if certain else "seems to be"
    if facts.probe is not None and facts.probe.epoch is False:
        yield serious(
            "epoch",
            "The queue refuses jobs for a later time: countdown, eta and the delays of retries do not work.",
            "Use the MySQL or the libsqlite3 queue.",
        )
    match queue:
        case "builtin" | "memory":
            flag = "--db FILE" if facts.embedded else "-q mysql, or with -q libsqlite3 --libsqlite3-db=FILE"
            yield warning(
                "queue",
                f"The queue {seems} in memory: background jobs are gone when the server ends.",
                f"Run it with {flag}, where jobs must survive.",
            )
        case "redis" | "libmemcached" | "redis or libmemcached":
            yield serious(
                "queue",
                f"The queue {seems} {queue}: it cuts jobs at their first NUL byte, or loses them, when the server "
                "starts again.",
                "Use the MySQL or the libsqlite3 queue.",
            )
        case "postgres":
            yield serious(
                "queue",
                f"The queue {seems} postgres: it forgets priorities and times when the server starts again, and "
                "release 1.1 does not reconnect to its database.",
                "Use the MySQL or the libsqlite3 queue.",
            )
        case "mysql" if facts.probe is not None and facts.probe.case is False:
            yield warning(
                "collation",
                "The table of the queue takes uniques that differ only in case, accents or spaces at the end for the "
                "same, so a job with unique= may be refused.",
                "Create the table beforehand, with VARBINARY columns and a BIGINT time.",
            )
        case "":
            yield note(
                "queue", "Whether background jobs survive the end of the server cannot be told.", "See its options."
            )
    if facts.options is not None and "store-queue-on-shutdown" in facts.options:
        yield warning(
            "store-on-shutdown",
            "The queue is written only when the server is stopped in order; what was new is lost when it is killed.",
            "Leave --store-queue-on-shutdown away.",
        )
    if facts.probe is not None and facts.probe.error:
        yield warning("probe", f"The probe of the queue was not finished: {facts.probe.error}", "Run it once more.")


# --- handles, functions, results -----------------------------------------------------------------------------


def _handles(facts: Facts) -> Iterator[Finding]:
    handles = facts.handles + (facts.probe.handles if facts.probe is not None else [])
    probed = Counter(facts.probe.handles) if facts.probe is not None else Counter[str]()
    twice = [handle for handle, count in (Counter(facts.handles) + probed).items() if count > 1 and handle]
    if twice:
        yield serious(
            "handles",
            f"Several jobs have the same handle ({twice[0]}): they cannot be ended one by one.",
            "Run gearmand with a short --job-handle-prefix, such as H:queue1.",
        )
    longest = max((len(handle.rpartition(":")[0].encode()) for handle in handles), default=0)
    if not twice and longest + 1 + COUNTER > MAX_HANDLE:
        yield warning(
            "handle-prefix",
            f"Handles start with {longest} bytes, so that they become the same once the counter behind has grown.",
            "Run gearmand with a short --job-handle-prefix, such as H:queue1.",
        )


def _functions(facts: Facts) -> Iterator[Finding]:
    for function in facts.look.functions:
        if function.unserved:
            yield _unserved(function)
        elif function.name.endswith(DEAD) and function.waiting:
            yield note(
                "dead",
                f"{_jobs(function.waiting)} that failed for good {_are(function.waiting)} parked in {function.name}.",
                f"See `gtask dead list {function.name.removesuffix(DEAD)}`; then send them again, or drop them.",
            )


def _unserved(function: Function) -> Finding:
    what = f"{_jobs(function.waiting)} of {function.name} {_are(function.waiting)} waiting, and no worker serves it."
    if function.name == LATER or function.name.startswith(f"{LATER}."):
        return warning("unserved", what, "These are delayed jobs: start any gtask worker for this server.")
    if function.name.startswith("gtask.results."):
        return warning("unserved", what, "These are results: start `gtask results`, which stores them.")
    return warning("unserved", what, f"Start a worker that has {function.name}: `gtask worker app:app`.")


def _results(facts: Facts) -> Iterator[Finding]:
    count = sum(function.workers for function in facts.look.functions if function.name == WAIT)
    if not count:
        yield warning(
            "results",
            "No results service is connected: get() on a background job says so instead of waiting.",
            "Run `gtask results --db results.db`, or one worker with --with-results results.db.",
        )
    elif count > 1:
        yield serious(
            "results",
            f"{count} results services serve at once: a result is known only to the one that got it, so get() times "
            "out for the others and chords never finish.",
            "Keep one for each job server, all of this release of gtask: then a second one stands by.",
        )


def _jobs(count: int) -> str:
    return f"{count} job{'' if count == 1 else 's'}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
