"""How figures are taken: several runs of one thing, the least, the median and the most of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any


def spread(taken: Sequence[float]) -> dict[str, float]:
    """The least, the median and the most."""
    return {"min": min(taken), "median": statistics.median(taken), "max": max(taken)}


async def timed(work: Callable[[], Awaitable[Any]], times: int) -> dict[str, float]:
    """Milliseconds of several runs after one to warm up."""
    await work()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        await work()
        taken.append((time.perf_counter() - start) * 1e3)
    return spread(taken)
