"""`SupabaseStore` keeps the whole contract, on a stand-in for a project before a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from tests.stores.supabase.conftest import Project

from kode.core.store import Key, Store
from kode.core.store.records import COLUMNS
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store import StoreConformance
from kode.core.testing.conformance.store.author import Place
from kode.store.supabase import SupabaseStore

pytestmark = [pytest.mark.anyio, pytest.mark.integration]


class TestSupabaseStore(StoreConformance):
    spare_s = 0.8

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture(autouse=True)
    def behind(self, project: Project) -> Project:
        self.project = project
        return project

    @pytest.fixture
    async def store(self, clock: VirtualClock, behind: Project) -> AsyncIterator[Store]:
        async with SupabaseStore(behind.url, behind.key, schema=behind.kept, clock=clock) as store:
            yield store
        empty = "".join(f"DELETE FROM {behind.kept}.{kind}; " for kind in COLUMNS)
        await behind.execute(f"{empty} DELETE FROM {behind.kept}.migration WHERE number > 9000")

    def place(self, store: Any) -> Place:
        return partial(SupabaseStore, self.project.url, self.project.key, schema=self.project.kept)

    async def spoil(self, store: Any, key: Key) -> bool:
        await self.project.execute(
            f'UPDATE {store.schema}.{key.kind} SET body = $1 WHERE owner = $2 AND "key" = $3', b"\xff", key.uid, key.key
        )
        return True

    async def make_newer(self, store: Any) -> bool:
        await self.project.execute(
            f"INSERT INTO {store.schema}.migration (number, phase, name, checksum) VALUES (9999, 'post', 'x', '')"
        )
        return True
