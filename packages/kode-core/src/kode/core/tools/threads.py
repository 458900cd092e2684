"""Worker threads of tools and hooks: whatever works for longer than a blink must not stand in the event loop's way."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread  # noqa: TID251 - what blocks or computes must not block the event loop

__all__ = ["Seat", "in_thread"]

THREADS = 100
"""Functions that may run at once; more wait. Apart from the threads that stores use."""
_seats: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar("kode_hook_threads")
_limiter: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar("kode_tool_threads")

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """Run a function in a worker thread. When cancelled the thread is left behind."""
    return await anyio.to_thread.run_sync(  # noqa: TID251 - see above
        function, abandon_on_cancel=True, limiter=_of_loop(_limiter)
    )


class Seat:
    """A place for one function of a hook, apart from those of tools.

    It is taken until the function has ended, also when nobody waits for that any more: what hangs stays counted.
    """

    def __init__(self) -> None:
        self.taken = False
        self._begun = False

    async def take(self) -> None:
        """Wait for one that is free."""
        await _of_loop(_seats).acquire_on_behalf_of(self)
        self.taken = True

    def leave(self) -> None:
        """Let the next one have it."""
        if self.taken:
            self.taken = False
            _of_loop(_seats).release_on_behalf_of(self)

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function in a worker thread. When cancelled the thread is left behind."""

        def work() -> T:
            self._begun = True
            try:
                return function()
            finally:
                with suppress(RuntimeError):  # the event loop is gone
                    anyio.from_thread.run_sync(self.leave)

        try:
            return await anyio.to_thread.run_sync(  # noqa: TID251 - as above
                work, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
            )
        finally:
            if not self._begun:
                self.leave()


def _of_loop(variable: anyio.lowlevel.RunVar[anyio.CapacityLimiter]) -> anyio.CapacityLimiter:
    try:
        return variable.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(THREADS)
        variable.set(limiter)
        return limiter
