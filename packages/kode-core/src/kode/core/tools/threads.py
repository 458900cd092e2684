"""Worker threads of tools: whatever works for longer than a blink must not stand in the event loop's way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread  # noqa: TID251 - what blocks or computes must not block the event loop

__all__ = ["in_thread"]

THREADS = 100
"""Functions that may run at once; more wait. Apart from the threads that stores use."""
_limiter: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar("kode_tool_threads")

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """Run a function in a worker thread. When cancelled the thread is left behind."""
    return await anyio.to_thread.run_sync(  # noqa: TID251 - see above
        function, abandon_on_cancel=True, limiter=_threads()
    )


def _threads() -> anyio.CapacityLimiter:
    try:
        return _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(THREADS)
        _limiter.set(limiter)
        return limiter
