"""A clock that a test moves by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from heapq import heappop, heappush
from itertools import count
from typing import cast

import anyio
from anyio.lowlevel import checkpoint

__all__ = ["VirtualClock"]

START = 1_700_000_000_000_000
"""Where a virtual clock begins, unless told otherwise: 2023-11-14T22:13:20Z."""
ROUNDS = 10_000


class VirtualClock:
    """A `Clock` whose time moves only by `advance` and `set_back`; works on asyncio and trio.

    Sleepers and time-outs wake in the order of their moments, and each may run until it waits again before
    the next is woken. What runs in a worker thread is not waited for.

    Args:
        now: Microseconds since the epoch at which it begins.
    """

    def __init__(self, now: int = START) -> None:
        self._base = now
        self._elapsed = 0  # microseconds
        self._alarms: list[tuple[int, int, Callable[[], object]]] = []
        self._numbers = count()

    def now(self) -> int:
        """Tell the time: microseconds since the epoch."""
        return self._base + self._elapsed

    def monotonic(self) -> float:
        """Tell the seconds it was advanced so far."""
        return self._elapsed / 1_000_000

    async def sleep(self, seconds: float) -> None:
        """Wait until it was advanced that far."""
        if seconds <= 0:
            await checkpoint()
            return
        event = anyio.Event()
        alarm = self._set(seconds, event.set)
        try:
            await event.wait()
        finally:
            self._unset(alarm)

    def move_on_after(
        self, seconds: float | None, *, shield: bool = False
    ) -> AbstractContextManager[anyio.CancelScope, bool]:
        """Cancel what is inside once it was advanced that far, and go on behind it."""
        return cast("AbstractContextManager[anyio.CancelScope, bool]", self._scope(seconds, shield, False))

    def fail_after(self, seconds: float | None, *, shield: bool = False) -> AbstractContextManager[anyio.CancelScope]:
        """Cancel what is inside once it was advanced that far, and raise `TimeoutError`."""
        return self._scope(seconds, shield, True)

    async def advance(self, seconds: float) -> None:
        """Let time pass: wakes whoever it is due for, one moment after the other, and lets them run."""
        await settle()
        end = self._elapsed + round(seconds * 1_000_000)
        while self._alarms and self._alarms[0][0] <= end:
            moment, _, wake = heappop(self._alarms)
            self._elapsed = max(self._elapsed, moment)
            wake()
            await settle()
        self._elapsed = max(self._elapsed, end)
        await settle()

    def jump(self, seconds: float) -> None:
        """Set what `now` tells, forwards or back, as when a machine's clock is set; nothing wakes."""
        self._base += round(seconds * 1_000_000)

    @property
    def waiting(self) -> int:
        """Number of sleeps and time-outs that are set."""
        return len(self._alarms)

    @property
    def next_in(self) -> float | None:
        """Seconds until the next of them; None without one."""
        return (self._alarms[0][0] - self._elapsed) / 1_000_000 if self._alarms else None

    def _set(self, seconds: float, wake: Callable[[], object]) -> tuple[int, int, Callable[[], object]]:
        # Who waits for less than a microsecond would ask again at the same moment, for ever.
        alarm = (self._elapsed + max(1, round(seconds * 1_000_000)), next(self._numbers), wake)
        heappush(self._alarms, alarm)
        return alarm

    def _unset(self, alarm: tuple[int, int, Callable[[], object]]) -> None:
        if alarm in self._alarms:
            self._alarms.remove(alarm)
            self._alarms.sort()  # a sorted list is a heap

    @contextmanager
    def _scope(self, seconds: float | None, shield: bool, fails: bool) -> Iterator[anyio.CancelScope]:
        alarm = None
        rang = False
        with anyio.CancelScope(shield=shield) as scope:

            def ring() -> None:
                nonlocal rang
                rang = True
                scope.cancel()

            if seconds is not None and seconds <= 0:
                ring()
            elif seconds is not None:
                alarm = self._set(seconds, ring)
            try:
                yield scope
            finally:
                if alarm is not None:
                    self._unset(alarm)
        if fails and rang and scope.cancelled_caught:
            raise TimeoutError


async def settle() -> None:
    """Let every other task run until it waits for something that is not there yet."""
    if anyio.get_cancelled_exc_class() is not asyncio.CancelledError:
        await anyio.wait_all_tasks_blocked()
        return
    # anyio's own way on asyncio sleeps for real between its looks.
    this = asyncio.current_task()
    for _ in range(ROUNDS):
        await checkpoint()
        if all(_blocked(task) for task in asyncio.all_tasks() if task is not this):
            await checkpoint()  # what a callback has just made ready shows only now
            if all(_blocked(task) for task in asyncio.all_tasks() if task is not this):
                return
    raise TimeoutError(f"Other tasks are still busy after {ROUNDS} rounds.")


def _blocked(task: asyncio.Task[object]) -> bool:
    waiter = getattr(task, "_fut_waiter", None)
    return waiter is not None and not waiter.done()
