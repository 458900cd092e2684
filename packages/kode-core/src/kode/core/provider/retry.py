"""When to try again, in one place: full jitter, what the vendor asks for, bounded in tries and in time.

Full jitter (a delay drawn evenly from 0 to the exponential bound) spreads a thousand agents that failed
together; see "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from kode.core.clock import Clock
from kode.core.errors import ProviderError, UsageError
from kode.core.provider.failure import retry_after_s

__all__ = ["RetryPolicy", "next_delay", "retrying"]

_T = TypeVar("_T")
_LAST_DOUBLING = 60
"""Beyond it the bound stays: a float has an end, ``max_tries`` may not."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long one request is tried.

    Raises:
        UsageError: A value is out of range.
    """

    max_tries: int = 6
    """The first one counted; 1: never again."""
    base_s: float = 0.5
    """Bound of the first delay; it doubles from try to try."""
    cap_s: float = 30.0
    """Bound of every delay, unless the vendor asks for more."""
    total_s: float | None = 180.0
    """No try starts later than this after the first; None: only ``max_tries`` ends it."""

    def __post_init__(self) -> None:
        wrong = (
            ("max_tries", self.max_tries, "1 or more", self.max_tries >= 1),
            ("base_s", self.base_s, "0 or more", self.base_s >= 0),
            ("cap_s", self.cap_s, "0 or more", self.cap_s >= 0),
            ("total_s", self.total_s, "0 or more, or None", self.total_s is None or self.total_s >= 0),
        )
        for name, value, allowed, fine in wrong:
            if not fine:
                raise UsageError(
                    f"RetryPolicy.{name} is {value!r}; give {allowed}.", code="bad_retry_policy", field=name
                )


def next_delay(policy: RetryPolicy, error: ProviderError, *, tried: int, elapsed_s: float, draw: float) -> float | None:
    """Tell how long to wait before the next try, or None to give up.

    Args:
        policy: The bounds.
        error: How the last try failed.
        tried: Tries so far, at least 1.
        elapsed_s: Seconds since the first try began.
        draw: A random number from 0 to 1.

    Returns:
        Seconds. Never less than the vendor asked for; the jitter comes on top of that, or all who were
        refused together would come back together. None at once if the wait would end too late.
    """
    if not error.retryable or tried >= policy.max_tries:
        return None
    bound = min(policy.cap_s, policy.base_s * 2.0 ** min(tried - 1, _LAST_DOUBLING))
    delay = max(0.0, retry_after_s(error) or 0.0) + draw * bound
    if policy.total_s is not None and elapsed_s + delay > policy.total_s:
        return None
    return delay


async def retrying(
    attempt: Callable[[int], Awaitable[_T]],
    *,
    policy: RetryPolicy,
    clock: Clock,
    random: Callable[[], float],
    on_wait: Callable[[ProviderError, float], object] | None = None,
) -> _T:
    """Call ``attempt(n)``, n counting from 1, until it returns or is given up; then raise its last error.

    Each call is a new attempt: who shows deltas withdraws the last one's when ``on_wait(error, delay)`` is
    called. Cancellation passes through at once, from the attempt and from the wait.
    """
    began = clock.monotonic()
    tried = 0
    while True:
        tried += 1
        try:
            return await attempt(tried)
        except ProviderError as error:
            elapsed = clock.monotonic() - began
            delay = next_delay(policy, error, tried=tried, elapsed_s=elapsed, draw=random())
            if delay is None:
                raise
            if on_wait is not None:
                on_wait(error, delay)
        await clock.sleep(delay)
