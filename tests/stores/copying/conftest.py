"""Two open stores in memory, on one clock that is moved by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from kode.core.store import MemoryStore, Store
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import AT


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(AT)


@pytest.fixture
async def source(clock: VirtualClock) -> AsyncIterator[Store]:
    async with MemoryStore(clock) as store:
        yield store


@pytest.fixture
async def target(clock: VirtualClock) -> AsyncIterator[Store]:
    async with MemoryStore(clock) as store:
        yield store
