"""How a run reaches its job server while it runs: over the connection that its job came by. Design, section 7."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import anyio.from_thread
from anyio.lowlevel import EventLoopToken

from gtask.context import LocalReporter
from gtask.protocol import Event, WorkerProtocol
from gtask.timers import REPORTS
from gtask.types import Submission
from gtask.worker.aio import AsyncDriver
from gtask.worker.blocking import BlockingDriver
from gtask.worker.job import Job


class JobReporter(LocalReporter):
    """Reports of a running job through its driver, from any thread.

    `loop` is the token of the driver's event loop, None for a driver that needs none.
    """

    __slots__ = ("_driver", "_job", "_loop")

    def __init__(self, driver: BlockingDriver | AsyncDriver, job: Job, loop: EventLoopToken | None = None) -> None:
        self._driver = driver
        self._job = job
        self._loop = loop

    def _send(self, say: Callable[[WorkerProtocol, bytes], object]) -> bool:
        job = self._job

        def send() -> None:
            protocol = job.link.protocol
            if protocol is not None and job.handle in protocol.held:  # else it has ended: a timer came too late
                say(protocol, job.handle)

        if self._loop is not None:
            try:
                return anyio.from_thread.run_sync(self._driver.report, job, send)
            except RuntimeError:
                pass  # this is no thread that runs a plain function, so it is the loop itself
        if not self.in_main_thread or threading.current_thread() is not threading.main_thread():
            return self._driver.report(job, send)
        self.busy = True
        try:
            return self._driver.report(job, send)
        finally:
            self.busy = False

    def progress(self, numerator: int, denominator: int) -> bool:
        """WORK_STATUS."""
        return self._send(lambda protocol, handle: protocol.send_status(handle, numerator, denominator))

    def data(self, data: bytes) -> bool:
        """WORK_DATA."""
        return self._send(lambda protocol, handle: protocol.send_data(handle, data))

    def warning(self, data: bytes) -> bool:
        """WORK_WARNING."""
        return self._send(lambda protocol, handle: protocol.send_warning(handle, data))

    def submit(self, submission: Submission, tell: Callable[[Event], None] | None = None) -> bool:
        """SUBMIT_JOB of any kind."""
        return self._send(lambda protocol, handle: protocol.submit(submission, tell))

    def ask(self, unique: str, tell: Callable[[Event], None]) -> bool:
        """GET_STATUS_UNIQUE."""
        return self._send(lambda protocol, handle: protocol.get_status_unique(unique, tell))

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        """Calls in the loop of the driver, or in the thread of the timers where there is none."""
        REPORTS.call(seconds, call if self._loop is None else partial(_in_loop, call, self._loop))


def _in_loop(call: Callable[[], object], loop: EventLoopToken) -> None:
    try:
        anyio.from_thread.run_sync(call, token=loop)
    except RuntimeError:
        pass  # the loop has ended, and with it what was to be said
