"""What other processes write is told of by the server, and found where it is not told of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest

from kode.core.testing.conformance.store import Author
from kode.core.testing.conformance.store.author import item
from kode.store.postgres import PostgresStore

pytestmark = [pytest.mark.anyio, pytest.mark.integration]


@pytest.fixture
async def two(server_url: str, schema: str) -> AsyncIterator[tuple[PostgresStore, PostgresStore]]:
    async with PostgresStore(server_url, schema=schema) as one, PostgresStore(server_url, schema=schema) as other:
        yield one, other


async def test_the_server_tells_of_what_others_write(two: tuple[PostgresStore, PostgresStore]) -> None:
    here, there = two
    author = Author(there)
    acts: list[Callable[[], Awaitable[Any]]] = [
        author.create,
        lambda: author.say("hi"),
        lambda: there.enqueue("agent", item("a")),
        lambda: there.delete("agent"),
    ]
    # So seldom that only the server can be who wakes them.
    async with here.watch("agent", poll_s=600) as one, here.watch(poll_s=600) as everybody:
        with anyio.fail_after(20):
            await here._ears.listening.wait()
            for act in acts:
                await act()
                await one.wait()
                await everybody.wait()


async def test_a_lease_is_no_change_and_nobody_is_told_while_nobody_watches(
    two: tuple[PostgresStore, PostgresStore], db: Any
) -> None:
    here, there = two
    told: list[str] = []
    await db.add_listener(f'kode/"{here.schema}"', lambda *notice: told.append(notice[-1]))
    author = Author(there)
    await author.create()
    await author.say("nobody watches")
    async with here.watch("agent", poll_s=600):
        with anyio.fail_after(20):
            await here._ears.listening.wait()
        await author.drive()
        await author.say("somebody does")
        await db.fetchval("SELECT 1")
        with anyio.fail_after(20):
            while not told:
                await anyio.lowlevel.checkpoint()
    assert told == ["agent"]


async def test_changes_are_found_where_the_server_does_not_tell(server_url: str, schema: str) -> None:
    async with (
        PostgresStore(server_url, schema=schema, pgbouncer=True) as here,
        PostgresStore(server_url, schema=schema) as there,
    ):
        async with here.watch("agent", poll_s=0.02) as changes:
            await Author(there).create()
            with anyio.fail_after(20):
                await changes.wait()


async def test_listening_goes_on_after_its_connection_broke(two: tuple[PostgresStore, PostgresStore], db: Any) -> None:
    here, there = two
    async with here.watch("agent", poll_s=600) as changes:
        with anyio.fail_after(20):
            ears = here._ears
            await ears.listening.wait()
            broken = await db.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'kode watch'"
            )
            assert broken >= 1
            while ears.listening.is_set():
                await anyio.lowlevel.checkpoint()
            await ears.listening.wait()
            await Author(there).create()
            await changes.wait()
