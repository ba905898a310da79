"""Settles a month for many merchants, and checks every cent of it: ``python -m examples.settlement.run``.

It makes the merchants' CSV files, starts a job server with results, a worker and a mail server of its own on free
ports, sends `calculate | send` for every merchant, and compares what came back, the mails and the workbooks in them
with an independent sum. Exit code 0 when all of it agrees to the cent, else 1 and a sentence for each difference.
Whatever it started it ends, and nothing else.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.settlement.check import Expected, check_mails, check_settlement, expected_of
from examples.settlement.mail import SMTP_VARIABLE, mail_address
from examples.settlement.orders import generate, merchant_name, read_csv, write_csv
from examples.settlement.settle import NOTHING, Settlement
from examples.settlement.smtp_sink import SmtpSink
from examples.settlement.workbook import AMOUNTS
from gtask.errors import GtaskError
from gtask.testing.processes import find_program, gearmand, job_server, worker
from gtask.testing.programs import Program, ProgramFailed

ROOT = Path(__file__).resolve().parents[2]
PHP_WORKER = Path(__file__).with_name("php") / "send_worker.php"
ANSWER_TIMEOUT = 300.0
MAIL_TIMEOUT = 30.0
TABLE_WIDTH = 120
IN_FLIGHT = 4
"""Chains under way per process of the worker: enough to keep it busy, and few enough to hold in memory."""


@dataclass(slots=True)
class Outcome:
    """What came back for one merchant; `fault` instead where something was raised."""

    merchant: str
    settlement: Settlement | None = None
    mail: str = ""
    fault: str = ""


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Settles a month for many merchants and checks every cent of it.")
    parser.add_argument("--merchants", type=int, default=20, help="how many merchants (20)")
    parser.add_argument("--orders", type=int, default=10_000, help="orders of each of them (10000)")
    parser.add_argument("-c", "--concurrency", type=int, default=8, help="processes of the worker (8)")
    parser.add_argument("--pool", default="prefork", help="the worker's pool (prefork)")
    parser.add_argument("--folder", type=Path, help="keep CSV files, mails and queue here; without it they are deleted")
    parser.add_argument("--gearmand", action="store_true", help="start gearmand, not the embedded job server")
    parser.add_argument("--servers", help="use job servers that run already, such as gearman://127.0.0.1:4730")
    parser.add_argument("--no-worker", action="store_true", help="use workers that run already (see --smtp-port)")
    parser.add_argument("--smtp-port", type=int, default=0, help="where the mail server listens (a free port)")
    parser.add_argument("--php", action="store_true", help="let a worker in PHP serve the task send")
    options = parser.parse_args(given)
    if options.merchants < 1 or options.orders < 1 or options.concurrency < 1:
        parser.error("--merchants, --orders and -c are at least 1.")
    if options.php and find_program("php") is None:
        parser.error("--php needs PHP with its gearman extension; on Debian: apt-get install php-cli php-gearman")
    if options.gearmand and find_program("gearmand") is None:
        parser.error("--gearmand needs gearmand; on Debian: apt-get install gearman-job-server")
    return options


def make_files(folder: Path, merchants: int, orders: int) -> list[Path]:
    """Writes one CSV file per merchant and returns their paths."""
    paths = []
    for number in range(1, merchants + 1):
        merchant = merchant_name(number)
        paths.append(folder / f"{merchant}.csv")
        write_csv(paths[-1], generate(merchant, orders))
    return paths


def start(options: argparse.Namespace, folder: Path, sink: SmtpSink, stack: ExitStack) -> tuple[str, list[Program]]:
    """Starts the job server and the workers, unless others are to be used.

    Returns the job servers' addresses, and the programs that were started.
    """
    programs: list[Program] = []
    extra: list[str] = []
    url: str = options.servers
    if not options.servers:
        if options.gearmand:
            server = stack.enter_context(gearmand())
            extra = [f"--with-results={folder / 'results.db'}"]
        else:
            server = stack.enter_context(job_server(db=folder / "queue.db", results=folder / "results.db"))
        url = server.url
        programs.append(server)
    if options.no_worker:
        return url, programs
    serving = worker(
        f"examples.settlement.{'with_php' if options.php else 'app'}:app",
        *extra,
        cwd=ROOT,
        servers=url,
        concurrency=options.concurrency,
        pool=options.pool,
        env={SMTP_VARIABLE: sink.address},
    )
    programs.append(stack.enter_context(serving))
    if options.php:
        address = url.removeprefix("gearman://").partition(",")[0]
        command = ["php", str(PHP_WORKER), f"--server={address}", f"--smtp={sink.address}"]
        programs.append(stack.enter_context(Program(command, cwd=ROOT)))
    return url, programs


def ended(programs: list[Program]) -> list[str]:
    """Which of the programs are no longer there, with their last words."""
    return [
        f"{' '.join(program.argv[:5])} ended with {program.exit_code} before its time:\n{program.tail()}"
        for program in programs
        if not program.running
    ]


def settle_all(chain: Any, paths: list[Path], in_flight: int) -> Iterator[Outcome]:
    """Sends `chain` for each file, some at a time, and yields what came back in the order of the files."""
    under_way: deque[tuple[Path, Any]] = deque()
    for path in paths:
        if len(under_way) == in_flight:
            yield collect(*under_way.popleft())
        under_way.append((path, chain.delay(list(read_csv(path)))))
    while under_way:
        yield collect(*under_way.popleft())


def collect(path: Path, sent: Any) -> Outcome:
    """Waits for the end of one chain; its last step returns the mail's address, the one before it the settlement."""
    outcome = Outcome(path.stem)
    try:
        outcome.mail = sent.get(timeout=ANSWER_TIMEOUT)
        outcome.settlement = sent.parent.get(timeout=ANSWER_TIMEOUT)
    except Exception as error:  # whatever it is, it is this merchant's fault line and not the end of the others
        outcome.fault = f"{outcome.merchant}: {type(error).__name__}: {error}"
    return outcome


def faults_of(expected: list[Expected], outcomes: list[Outcome], mails: list[bytes]) -> list[str]:
    """Everything that is not as the independent sum says, one sentence each; both lists in the merchants' order."""
    faults = []
    for wanted, outcome in zip(expected, outcomes, strict=True):
        if outcome.settlement is None:
            faults.append(outcome.fault)
            continue
        faults += check_settlement(wanted, outcome.settlement)
        if outcome.mail != mail_address(wanted.merchant):
            faults.append(f"{wanted.merchant}: send returned {outcome.mail!r}.")
    return faults + check_mails(expected, mails)


def table_of(outcomes: list[Outcome]) -> Table:
    """The summary, one row per merchant and one for all."""
    table = Table(title="Settlements, in EUR", show_footer=True, box=SIMPLE, padding=(0, 1), collapse_padding=True)
    done = [outcome.settlement for outcome in outcomes if outcome.settlement is not None]
    table.add_column("Merchant", f"{len(done)} of {len(outcomes)}")
    table.add_column("Orders", f"{sum(one.orders for one in done):,}", justify="right", no_wrap=True)
    for name in AMOUNTS:
        label = "VAT" if name == "vat" else name.capitalize()
        total = sum((getattr(one, name) for one in done), NOTHING)
        table.add_column(label, f"{total:,}", justify="right", no_wrap=True)
    table.add_column("Mail")
    for outcome in outcomes:
        settlement = outcome.settlement
        if settlement is None:
            table.add_row(outcome.merchant, *[""] * 6, "[red]failed[/red]")
            continue
        amounts = [f"{getattr(settlement, name):,}" for name in AMOUNTS]
        table.add_row(settlement.merchant, f"{settlement.orders:,}", *amounts, outcome.mail)
    return table


def run(options: argparse.Namespace, folder: Path, console: Console) -> list[str]:
    """Does it all in `folder` and returns what is wrong."""
    columns = (TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with ExitStack() as stack:
        paths = make_files(folder, options.merchants, options.orders)
        console.print(f"{len(paths)} CSV files with {options.orders:,} orders each are in {folder}.")
        sink = stack.enter_context(SmtpSink(port=options.smtp_port, folder=folder / "mails"))
        servers, programs = start(options, folder, sink, stack)
        console.print(f"Job server {servers}, mail server {sink.address}, -c {options.concurrency}.")
        # The app reads where its job servers are when it is made, so it is imported once that is known.
        os.environ["GTASK_SERVERS"] = servers
        tasks = importlib.import_module(f"examples.settlement.{'with_php' if options.php else 'app'}")
        began = time.monotonic()
        outcomes = []
        with tasks.app, Progress(*columns, console=console) as progress:
            bar = progress.add_task("Settlements", total=len(paths))
            chain = tasks.calculate | tasks.send
            for outcome in settle_all(chain, paths, IN_FLIGHT * options.concurrency):
                outcomes.append(outcome)
                progress.advance(bar)
        seconds = time.monotonic() - began
        mails = sink.wait(sum(1 for outcome in outcomes if outcome.settlement), MAIL_TIMEOUT)
        faults = ended(programs)
    console.print(table_of(outcomes))
    orders = options.merchants * options.orders
    console.print(f"{orders:,} orders in {seconds:.1f} s, {orders / seconds:,.0f} a second.")
    return faults + faults_of([expected_of(path) for path in paths], outcomes, mails)


def main(given: list[str] | None = None) -> int:
    """Runs the example and returns the exit code."""
    options = arguments(given)
    console = Console(soft_wrap=True)
    # Amounts must not be cut, so the table has its width also where nobody says how wide the terminal is.
    console.width = max(console.width, TABLE_WIDTH)
    with tempfile.TemporaryDirectory(prefix="settlement-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            faults = run(options, folder, console)
        except (GtaskError, ProgramFailed, OSError) as error:  # nothing could be compared
            faults = [str(error)]
    for fault in faults:
        print(fault, file=sys.stderr)
    if not faults:
        console.print("Every total, every mail and every workbook agrees with the independent sum, to the cent.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
