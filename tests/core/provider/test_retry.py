"""When to try again."""

from __future__ import annotations

import math

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kode.core.clock import RealClock
from kode.core.errors import ProviderError, UsageError
from kode.core.provider import RetryPolicy, next_delay, provider_error, retrying

BUSY = provider_error("overloaded", "busy")
FINAL = provider_error("bad_request", "no")


class FakeClock(RealClock):
    """Time passes by sleeping only."""

    __slots__ = ("slept", "time")

    def __init__(self) -> None:
        self.time = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
        await anyio.lowlevel.checkpoint()


@given(
    tried=st.integers(1, 10_000),
    elapsed=st.floats(0, 1_000),
    draw=st.floats(0, 1),
    after=st.none() | st.floats(0, 1_000),
)
def test_a_delay_keeps_every_bound(tried: int, elapsed: float, draw: float, after: float | None) -> None:
    policy = RetryPolicy(max_tries=5_000, base_s=0.5, cap_s=30, total_s=300)
    error = provider_error("rate_limited", "x", retry_after_s=after)
    delay = next_delay(policy, error, tried=tried, elapsed_s=elapsed, draw=draw)
    least = after or 0.0
    if delay is None:
        assert tried >= 5_000 or elapsed + least + min(30, 0.5 * 2 ** min(tried - 1, 10)) > 300
    else:
        assert least <= delay <= least + min(30, 0.5 * 2.0 ** min(tried - 1, 10))
        assert elapsed + delay <= 300
        assert tried < 5_000


def test_full_jitter_draws_from_zero_to_a_doubling_bound() -> None:
    policy = RetryPolicy(max_tries=9, base_s=1, cap_s=10, total_s=None)
    full = [next_delay(policy, BUSY, tried=n, elapsed_s=1e9, draw=1.0) for n in range(1, 10)]
    assert full == [1, 2, 4, 8, 10, 10, 10, 10, None]
    assert next_delay(policy, BUSY, tried=3, elapsed_s=0, draw=0.0) == 0.0
    assert next_delay(policy, FINAL, tried=1, elapsed_s=0, draw=0.5) is None


@pytest.mark.parametrize("bad", [{"max_tries": 0}, {"base_s": -1}, {"cap_s": math.nan}, {"total_s": -0.1}])
def test_bad_policies_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        RetryPolicy(**bad)  # type: ignore[arg-type]


async def test_tries_until_it_works() -> None:
    clock, waits = FakeClock(), []

    async def attempt(n: int) -> str:
        if n < 3:
            raise provider_error("rate_limited", "x", retry_after_s=10 * n)
        return f"try {n}"

    result = await retrying(
        attempt, policy=RetryPolicy(), clock=clock, random=lambda: 0.5, on_wait=lambda e, s: waits.append(s)
    )
    assert result == "try 3"
    assert clock.slept == waits == [10.25, 20.5]


@pytest.mark.parametrize(("error", "tries"), [(FINAL, 1), (BUSY, 3)])
async def test_gives_up_with_the_last_error(error: ProviderError, tries: int) -> None:
    seen = []

    async def attempt(n: int) -> None:
        seen.append(n)
        raise error

    with pytest.raises(ProviderError) as caught:
        await retrying(attempt, policy=RetryPolicy(max_tries=3), clock=FakeClock(), random=lambda: 1.0)
    assert caught.value is error
    assert seen == list(range(1, tries + 1))


async def test_does_not_wait_for_a_try_that_may_not_start() -> None:
    clock = FakeClock()

    async def attempt(n: int) -> None:
        raise provider_error("rate_limited", "x", retry_after_s=61)

    with pytest.raises(ProviderError):
        await retrying(attempt, policy=RetryPolicy(total_s=60), clock=clock, random=lambda: 0.0)
    assert clock.slept == []


async def test_cancellation_ends_the_wait_at_once() -> None:
    async def attempt(n: int) -> None:
        raise provider_error("rate_limited", "x", retry_after_s=50)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:

            def cancel(error: ProviderError, delay: float) -> None:
                group.cancel_scope.cancel()

            await retrying(attempt, policy=RetryPolicy(), clock=RealClock(), random=lambda: 0.0, on_wait=cancel)
            raise AssertionError
