"""`MemoryStore` keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from kode.core.store import MemoryStore, Store
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store import StoreConformance


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    async def store(self, clock: VirtualClock) -> AsyncIterator[Store]:
        async with MemoryStore(clock) as store:
            yield store


class SmallStore(MemoryStore):
    """Stands for an engine that writes few records at once: larger commits are staged."""

    max_batch = 3

    async def apply(self, agent_id, conditions, puts, deletes):  # type: ignore[no-untyped-def]
        assert len(puts) + len(deletes) <= 3
        return await super().apply(agent_id, conditions, puts, deletes)


class TestSmallBatches(StoreConformance):
    @pytest.fixture
    async def store(self, clock: VirtualClock) -> AsyncIterator[Store]:
        async with SmallStore(clock) as store:
            yield store
