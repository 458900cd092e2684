"""What every peer's program shares: which rows it is asked for, how they are timed, how they are told.

A peer's program runs in an environment of its own, so nothing of KODE is imported here. It is called as
``program.py --postgres URL``, and prints one line of JSON for each row: ``{"row": …, "store": …, "ms": [...]}``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version

ROUNDS = 10
AGENTS = 1_000
AGENT_ROUNDS = 3
MODEL_S = 0.05
HISTORY = 5_000
TEXT = "x" * 500


@dataclass
class Asked:
    """What a program was called with."""

    postgres: str
    folder: str
    times: int
    agents: int


def arguments() -> Asked:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--postgres", required=True, help="URL of an empty database")
    parser.add_argument("--times", type=int, default=12, help="runs of each short row")
    parser.add_argument("--agents", type=int, default=AGENTS, help="how many agents work at once")
    given = parser.parse_args()
    return Asked(given.postgres, tempfile.mkdtemp(prefix="peer-"), given.times, given.agents)


def tell_versions(*distributions: str) -> None:
    """Say what is measured."""
    print(json.dumps({"versions": {name: version(name) for name in distributions}}), flush=True)


async def measure(row: str, store: str, work: Callable[[], Awaitable[object]], times: int, warm: int = 2) -> None:
    """Run it so often after `warm` runs that do not count, and print the milliseconds."""
    taken = []
    for n in range(times + warm):
        start = time.perf_counter()
        await work()
        if n >= warm:
            taken.append((time.perf_counter() - start) * 1e3)
    print(
        json.dumps({"row": row, "store": store, "min": min(taken), "median": statistics.median(taken)}),
        flush=True,
    )


async def model_time() -> None:
    """What the slow model of the row `agents` takes."""
    await asyncio.sleep(MODEL_S)
