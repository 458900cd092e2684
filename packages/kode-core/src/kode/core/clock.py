"""The one home of time: everything but the kernel takes a `Clock`, so that a test can move it.

`now` is what is written down; `monotonic` is what time-outs and lease margins are measured with. The second
one counts while the machine sleeps: a lease runs out during a suspension, and its owner must notice on
waking.
"""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import anyio

__all__ = ["Clock", "Reading", "RealClock"]


@runtime_checkable
class Clock(Protocol):
    """Tells and waits for time. `kode.core.testing.clock.VirtualClock` is the other implementation."""

    def now(self) -> int:
        """Tell the time: microseconds since the epoch, UTC. May jump when the machine's clock is set."""
        ...

    def monotonic(self) -> float:
        """Tell seconds since some fixed moment; never goes back, counts suspension."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait that long."""
        ...

    def move_on_after(
        self, seconds: float | None, *, shield: bool = False
    ) -> AbstractContextManager[anyio.CancelScope, bool]:
        """Cancel what is inside after that long and go on behind it; None: never."""
        ...

    def fail_after(self, seconds: float | None, *, shield: bool = False) -> AbstractContextManager[anyio.CancelScope]:
        """Cancel what is inside after that long and raise `TimeoutError`; None: never."""
        ...


# Linux's CLOCK_MONOTONIC stands still while the machine is suspended, macOS's does not.
_SUSPEND_CLOCK = time.CLOCK_BOOTTIME if sys.platform == "linux" else time.CLOCK_MONOTONIC


class RealClock:
    """The machine's clock."""

    __slots__ = ()

    def now(self) -> int:
        """Tell the time: microseconds since the epoch, UTC."""
        return time.time_ns() // 1_000

    def monotonic(self) -> float:
        """Tell seconds since some fixed moment, suspension counted."""
        return time.clock_gettime(_SUSPEND_CLOCK)

    async def sleep(self, seconds: float) -> None:
        """Wait that long."""
        await anyio.sleep(seconds)

    def move_on_after(
        self, seconds: float | None, *, shield: bool = False
    ) -> AbstractContextManager[anyio.CancelScope, bool]:
        """Cancel what is inside after that long and go on behind it; None: never."""
        return anyio.move_on_after(seconds, shield=shield)

    def fail_after(self, seconds: float | None, *, shield: bool = False) -> AbstractContextManager[anyio.CancelScope]:
        """Cancel what is inside after that long and raise `TimeoutError`; None: never."""
        return anyio.fail_after(seconds, shield=shield)


@dataclass(frozen=True, slots=True)
class Reading:
    """What another clock said, microseconds, and ``Clock.monotonic`` here before and after it was asked."""

    said: int
    asked_at: float
    read_at: float

    def least(self, monotonic: float) -> int:
        """Its time at a later moment; it may be later by as long as the answer took."""
        return self.said + round((monotonic - self.read_at) * 1_000_000)

    def most(self, monotonic: float) -> int:
        """The same; it may be earlier by as long as the question took."""
        return self.said + round((monotonic - self.asked_at) * 1_000_000)
