"""When a task is run again: `Retry`, which a task raises, and `RetryPolicy`, which decides. Design, section 6a.

Pure: chance comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

MAX_RETRY_DELAY: Final = 10 * 365 * 86400.0
"""Seconds; a longer delay is cut to it, so that a due time always fits the wire."""


class Retry(Exception):
    """Raise this inside a task to have it run again: ``raise Retry(delay=10)``.

    It steers and is no `GtaskError`, so ``except GtaskError`` around a task's body does not swallow it.

    `delay` is in seconds, None for what the task's policy says. `exc` is the reason, and the error the caller sees
    once the retries are used up; without it the exception in whose handler the `Retry` was raised is that.
    `max_retries` stands in for the task's own for this decision.
    """

    def __init__(
        self, delay: float | None = None, *, exc: BaseException | None = None, max_retries: int | None = None
    ) -> None:
        if delay is not None and not delay >= 0:
            raise ValueError(f"A retry's delay is 0 seconds or more, not {delay}.")
        when = "after the task's own delay" if delay is None else f"in {delay:g} s"
        super().__init__(f"The task asked to be run again {when}{f': {exc!r}' if exc is not None else '.'}")
        self.delay = delay
        self.exc = exc
        self.max_retries = max_retries

    @property
    def reason(self) -> BaseException | None:
        """The error behind the retry: `exc`, else what it was raised from or while handling, else None."""
        if self.exc is not None:
            return self.exc
        if self.__cause__ is not None:
            return self.__cause__
        return None if self.__suppress_context__ else self.__context__


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how fast a task is run again; names, defaults and formulas are Celery's.

    - `max_retries`: runs after the first one; None for no end.
    - `default_retry_delay`: seconds, where no backoff is asked for.
    - `autoretry_for`: exceptions that bring a retry without a word in the task, unless in `dont_autoretry_for`.
    - `retry_backoff`: True for 1, 2, 4, 8... seconds, a number for that many times as long, False for none.
    - `retry_backoff_max`: seconds that a backoff never exceeds.
    - `retry_jitter`: whether a backoff is spread evenly over 0 to its full length (full jitter), so that what failed
      together does not come back together.
    """

    max_retries: int | None = 3
    default_retry_delay: float = 180.0
    autoretry_for: tuple[type[BaseException], ...] = ()
    dont_autoretry_for: tuple[type[BaseException], ...] = ()
    retry_backoff: bool | float = False
    retry_backoff_max: float = 600.0
    retry_jitter: bool = True

    def decide(self, error: BaseException, retries: int, random: Callable[[], float]) -> float | None:
        """The delay in seconds after which the task is run again, or None for giving up.

        `error` is what the task raised, `retries` the number of retries that lie behind this run, and `random` gives
        numbers from 0 to 1 like `random.random`.
        """
        limit = self.max_retries
        delay: float | None = None
        if isinstance(error, Retry):
            delay = error.delay
            if error.max_retries is not None:
                limit = error.max_retries
        elif not isinstance(error, self.autoretry_for) or isinstance(error, self.dont_autoretry_for):
            return None
        if limit is not None and retries >= limit:
            return None
        if delay is None:
            delay = self.backoff(retries, random)
        return min(max(0.0, delay), MAX_RETRY_DELAY)

    def backoff(self, retries: int, random: Callable[[], float]) -> float:
        """The delay in seconds that this policy sets before retry number `retries` + 1, jitter included."""
        if not self.retry_backoff:
            return self.default_retry_delay
        # True is 1: the factor in seconds. Beyond 2**62 nothing grows any more, and no number overflows.
        delay = min(self.retry_backoff_max, MAX_RETRY_DELAY, float(self.retry_backoff) * 2.0 ** min(retries, 62))
        return delay * random() if self.retry_jitter else delay
