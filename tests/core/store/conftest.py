"""Every store that comes with core, and one that stages its commits: what is asked of one is asked of all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from kode.core.store import MemoryStore, SqliteStore, Store
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import AT


class SmallStore(MemoryStore):
    """Stands for an engine that writes few records at once, and has no other way to be asked than the default."""

    max_batch = 3


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(AT)


def made(kind: str, folder: Path, clock: VirtualClock) -> Store:
    """A store of that kind; those of files share them."""
    if kind == "json":
        from kode.core.store.json import JSONStore

        return JSONStore(folder / "agents", durability="process", clock=clock)
    if kind == "sqlite":
        return SqliteStore(folder / "a.db", durability="process", clock=clock)
    return {"memory": MemoryStore, "small": SmallStore}[kind](clock)


@pytest.fixture
def make(tmp_path: Path, clock: VirtualClock) -> Callable[[str], Store]:
    return lambda kind: made(kind, tmp_path, clock)


@pytest.fixture(params=["memory", "small", "sqlite", "json"])
async def store(request: Any, make: Callable[[str], Store]) -> AsyncIterator[Store]:
    async with make(request.param) as store:
        yield store


@pytest.fixture
def memory(clock: VirtualClock) -> Store:
    """For what the base decides by itself, whatever it is built on."""
    return MemoryStore(clock)
