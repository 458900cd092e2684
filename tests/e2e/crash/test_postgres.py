"""The crash matrix on a real PostgreSQL: every sixth point; with ``KODE_EVERY_POINT=1`` in the environment, all."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.e2e.crash.test_matrix import (
    NewWorld,
    World,
    test_crash_again_while_resuming,
    test_crash_at_every_point,
    test_crash_at_every_point_and_give_the_run_up,
)

from kode.core.store.base import Store
from kode.store.postgres import PostgresStore

__all__ = [
    "test_crash_again_while_resuming",
    "test_crash_at_every_point",
    "test_crash_at_every_point_and_give_the_run_up",
]

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

NUMBERS = count()


class PostgresWorld(World):
    """Its processes have one pool of connections, for a server has few."""

    def __init__(self, pool: Any, schema: str) -> None:
        super().__init__("postgres", Path())
        self.pause = 0.004
        self.schema = schema
        self._pool = pool

    def store(self) -> Store:
        self._stores.append(PostgresStore(pool=self._pool, schema=self.schema, clock=self.clock))
        return self._stores[-1]


@pytest.fixture
def anyio_backend() -> str:
    """The driver knows asyncio only."""
    return "asyncio"


@pytest.fixture
def kind() -> str:
    return "postgres"


@pytest.fixture
def stride() -> int:
    return 1 if os.environ.get("KODE_EVERY_POINT") else 6


@pytest.fixture
async def new_world(postgres_url: str) -> AsyncIterator[NewWorld]:
    worlds: list[PostgresWorld] = []
    async with asyncpg.create_pool(postgres_url, min_size=1, max_size=12) as pool:

        def make() -> World:
            worlds.append(PostgresWorld(pool, f"kode_crash_{os.getpid()}_{next(NUMBERS)}"))
            return worlds[-1]

        yield make
        for world in worlds:
            await world.close()
            await pool.execute(f"DROP SCHEMA IF EXISTS {world.schema} CASCADE")
