"""When a task is run again; the formulas are Celery's. Design, section 6a."""

from __future__ import annotations

import pytest

from gtask.errors import GtaskError
from gtask.retry import MAX_RETRY_DELAY, Retry, RetryPolicy

NET = RetryPolicy(max_retries=5, autoretry_for=(OSError,), dont_autoretry_for=(PermissionError,), retry_backoff=True)


def half() -> float:
    """Chance, always the same."""
    return 0.5


class TestRetry:
    """What a task raises."""

    def test_it_is_no_error_of_gtasks(self) -> None:
        assert not isinstance(Retry(), GtaskError)

    def test_what_it_says(self) -> None:
        assert str(Retry(2.5)) == "The task asked to be run again in 2.5 s."
        assert (
            str(Retry(exc=KeyError("k"))) == "The task asked to be run again after the task's own delay: KeyError('k')"
        )

    @pytest.mark.parametrize("delay", [-1, float("nan")])
    def test_a_delay_that_is_none(self, delay: float) -> None:
        with pytest.raises(ValueError, match="0 seconds or more"):
            Retry(delay)

    def test_its_reason(self) -> None:
        given, raised = KeyError("given"), ValueError("raised")
        assert Retry(exc=given).reason is given
        assert Retry().reason is None
        with pytest.raises(Retry) as caught:
            raise Retry() from raised
        assert caught.value.reason is raised
        try:
            raise raised
        except ValueError:
            with pytest.raises(Retry) as caught:
                raise Retry()  # noqa: B904
            assert caught.value.reason is raised
            with pytest.raises(Retry) as caught:
                raise Retry() from None
            assert caught.value.reason is None


class TestDecide:
    """After how many seconds, or no more."""

    def test_an_error_nobody_named_gives_up(self) -> None:
        assert RetryPolicy().decide(ValueError(), 0, half) is None
        assert NET.decide(ValueError(), 0, half) is None
        assert NET.decide(PermissionError(), 0, half) is None

    def test_a_retry_takes_its_own_delay(self) -> None:
        assert RetryPolicy().decide(Retry(7), 0, half) == 7
        assert RetryPolicy().decide(Retry(0), 0, half) == 0

    def test_without_one_the_policys(self) -> None:
        assert RetryPolicy().decide(Retry(), 0, half) == 180
        assert RetryPolicy(default_retry_delay=5).decide(Retry(), 2, half) == 5
        assert NET.decide(Retry(), 2, half) == 2

    @pytest.mark.parametrize(("retries", "delay"), [(0, 0.5), (1, 1), (2, 2), (3, 4), (4, 8)])
    def test_backoff_doubles_and_jitter_spreads_it(self, retries: int, delay: float) -> None:
        assert NET.decide(OSError(), retries, half) == delay
        assert NET.decide(ConnectionError(), retries, lambda: 0.0) == 0
        assert NET.decide(TimeoutError(), retries, lambda: 1.0) == 2 * delay

    def test_backoff_without_jitter_and_with_a_factor(self) -> None:
        policy = RetryPolicy(None, autoretry_for=(OSError,), retry_backoff=1.5, retry_jitter=False)
        assert [policy.decide(OSError(), n, half) for n in range(3)] == [1.5, 3, 6]
        assert policy.decide(OSError(), 1000, half) == 600

    def test_no_delay_is_endless(self) -> None:
        policy = RetryPolicy(None, retry_backoff=1e300, retry_backoff_max=float("inf"), retry_jitter=False)
        assert policy.decide(Retry(), 10_000, half) == MAX_RETRY_DELAY
        assert policy.decide(Retry(float("inf")), 0, half) == MAX_RETRY_DELAY

    @pytest.mark.parametrize(
        ("limit", "retries", "again"), [(3, 2, True), (3, 3, False), (0, 0, False), (None, 10**6, True)]
    )
    def test_retries_end(self, limit: int | None, retries: int, again: bool) -> None:
        policy = RetryPolicy(limit, autoretry_for=(OSError,))
        assert (policy.decide(OSError(), retries, half) is not None) is again
        assert (policy.decide(Retry(1), retries, half) is not None) is again

    def test_a_retrys_own_limit_counts(self) -> None:
        assert RetryPolicy(3).decide(Retry(1, max_retries=10), 5, half) == 1
        assert RetryPolicy(3).decide(Retry(1, max_retries=1), 1, half) is None
