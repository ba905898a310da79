"""How long a caller is kept beyond its time, at the worst: the flow of a wait, at a time that only the test moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gtask.errors import ConnectFailed, ResultsUnavailable
from gtask.results.asking import Asking, Heard, More, Nap, Presence, Question, Silence
from gtask.types import parse_servers

SERVERS = parse_servers("127.0.0.1")
OVERSHOOT = 0.5


class Clock:
    """Seconds since the wait began."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def spent(timeout: float, hears: Callable[[Question, float], tuple[Heard, float]], serves: bool | None) -> float:
    """The time a wait takes: `hears` gives what a question meets at a time and how long that takes."""
    clock = Clock()
    flow = Asking(SERVERS, clock).wait(["a"], timeout)
    value: object = None
    question: Question | None = None
    try:
        while True:
            step = flow.send(value)
            if isinstance(step, Question):
                question = step
                value, seconds = hears(step, clock.now)
            elif isinstance(step, More):
                assert question is not None
                value, seconds = hears(question._replace(sign=step.sign), clock.now)
            elif isinstance(step, Presence):
                value, seconds = (SERVERS if serves else None), (0.01 if serves else step.limit)
            else:
                assert isinstance(step, Nap)
                value, seconds = None, step.seconds
            clock.now += seconds
            assert clock.now < timeout + 60
    except (StopIteration, ResultsUnavailable):
        return clock.now


@pytest.mark.parametrize("timeout", [2.0, 3.0, 5.0, 8.0])
@pytest.mark.parametrize("serves", [None, True])
def test_a_server_that_is_silent_from_the_start(timeout: float, serves: bool | None) -> None:
    """It says neither that it has the question nor who serves; or only the latter."""
    assert spent(timeout, lambda question, now: (Silence.NO_SIGN, question.sign), serves) <= timeout + OVERSHOOT


@pytest.mark.parametrize("timeout", [2.0, 3.0, 12.0, 20.0])
@pytest.mark.parametrize("slow", [False, True])
def test_a_server_that_dies_under_a_wait(timeout: float, slow: bool) -> None:
    """The connection is cut after a second; then it is refused, at once or when all the time for it is over."""

    def hears(question: Question, now: float) -> tuple[Heard, float]:
        if now < 1.0:
            return Silence.NO_ANSWER, 1.0
        return ConnectFailed("refused"), question.limit if slow else 0.001

    assert spent(timeout, hears, None) <= timeout + OVERSHOOT


@pytest.mark.parametrize("timeout", [1.0, 3.0, 30.0])
def test_a_service_that_falls_silent(timeout: float) -> None:
    def hears(question: Question, now: float) -> tuple[Heard, float]:
        return Silence.NO_ANSWER, min(question.hold, question.limit)

    assert spent(timeout, hears, True) <= timeout + OVERSHOOT
