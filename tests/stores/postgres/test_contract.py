"""`PostgresStore` keeps the whole contract, on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import asyncpg
import pytest

from kode.core.store import Key, Store
from kode.core.store.records import COLUMNS
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store import StoreConformance
from kode.core.testing.conformance.store.author import Place
from kode.store.postgres import PostgresStore

pytestmark = [pytest.mark.anyio, pytest.mark.integration]


class TestPostgresStore(StoreConformance):
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def store(self, clock: VirtualClock, server_url: str, kept_schema: str) -> AsyncIterator[Store]:
        async with PostgresStore(server_url, schema=kept_schema, clock=clock) as store:
            yield store
        empty = "".join(f"DELETE FROM {kept_schema}.{kind}; " for kind in COLUMNS)
        await _execute(store, f"{empty} DELETE FROM {kept_schema}.migration WHERE number > 9000")

    def place(self, store: Any) -> Place:
        return partial(PostgresStore, store.dsn, schema=store.schema)

    async def spoil(self, store: Any, key: Key) -> bool:
        await _execute(
            store,
            f'UPDATE {store.schema}.{key.kind} SET body = $1 WHERE owner = $2 AND "key" = $3',
            b"\xff",
            key.uid,
            key.key,
        )
        return True

    async def make_newer(self, store: Any) -> bool:
        await _execute(
            store,
            f"INSERT INTO {store.schema}.migration (number, phase, name, checksum) VALUES (9999, 'post', 'x', '')",
        )
        return True


async def _execute(store: Any, sql: str, *values: Any) -> None:
    db = await asyncpg.connect(store.dsn)
    try:
        await db.execute(sql, *values)
    finally:
        await db.close()
