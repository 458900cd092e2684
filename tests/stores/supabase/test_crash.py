"""The crash matrix on a stand-in for a project: some points; with ``KODE_EVERY_POINT=1`` in the environment all."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.e2e.crash.test_matrix import NewWorld, World, test_crash_at_every_point
from tests.stores.supabase.conftest import Project

from kode.core.store.base import Store
from kode.core.store.records import COLUMNS
from kode.store.supabase import SupabaseStore

__all__ = ["test_crash_at_every_point"]

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


class SupabaseWorld(World):
    """Each of its processes has a client of its own."""

    def __init__(self, project: Project) -> None:
        super().__init__("supabase", Path())
        self.pause = 0.01
        self._project = project
        empty = "".join(f"DELETE FROM {project.kept}.{kind};" for kind in COLUMNS)
        with ThreadPoolExecutor(1) as aside:  # a world is made at once
            aside.submit(asyncio.run, project.execute(empty)).result()

    def store(self) -> Store:
        there = self._project
        self._stores.append(SupabaseStore(there.url, there.key, schema=there.kept, clock=self.clock))
        return self._stores[-1]


@pytest.fixture
def kind() -> str:
    return "supabase"


@pytest.fixture
def stride() -> int:
    return 1 if os.environ.get("KODE_EVERY_POINT") else 23


@pytest.fixture
async def new_world(project: Project) -> AsyncIterator[NewWorld]:
    worlds: list[SupabaseWorld] = []

    def make() -> World:
        worlds.append(SupabaseWorld(project))
        return worlds[-1]

    yield make
    for world in worlds:
        await world.close()
