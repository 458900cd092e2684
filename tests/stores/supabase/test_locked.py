"""Somebody else has an agent locked, in the database."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from tests.stores.supabase.conftest import Project

from kode.core.errors import StoreUnavailableError
from kode.core.testing.conformance.store import Author
from kode.core.testing.conformance.store.author import item
from kode.store.supabase import SupabaseStore

pytestmark = [pytest.mark.anyio, pytest.mark.integration]


async def test_others_go_on_while_it_waits_and_in_the_end_it_says_so(project: Project) -> None:
    db = await asyncpg.connect(project.dsn)
    patient = SupabaseStore(project.url, project.key, schema=project.kept, retry_s=30)
    hasty = SupabaseStore(project.url, project.key, schema=project.kept, retry_s=0.2)
    async with patient, hasty, asyncio.timeout(25):
        locked, *free = [Author(patient, f"lock-{n}", f"lock-{n}") for n in range(3)]
        for author in (locked, *free):
            await author.create()
        async with db.transaction():
            name = f'"{project.kept}"/{locked.id}'
            await db.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", name)
            waits = [asyncio.create_task(patient.enqueue(locked.id, item(f"{n}"))) for n in range(8)]
            # These cannot end by the lock's end, for that comes after theirs.
            for _ in range(2):
                await asyncio.gather(*[author.say("hi") for author in free])
                with pytest.raises(StoreUnavailableError) as told:
                    await hasty.enqueue(locked.id, item("not"))
                assert told.value.code == "contended"
            assert not any(one.done() for one in waits)
        await asyncio.gather(*waits)
        assert {one.id for one in await patient.read_inbox(locked.id, locked.id)} == set("01234567")
        for author in (locked, *free):
            await patient.delete(author.id, force=True)
    await db.close()
