"""What other processes write is told of by the server, and found where it is not told of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest
from tests.stores.postgres.test_opening import at

from kode.core.errors import StoreError
from kode.core.testing.conformance.store import Author
from kode.core.testing.conformance.store.author import item
from kode.store.postgres import PostgresStore, ears

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


async def test_listening_goes_on_after_its_connection_broke(
    two: tuple[PostgresStore, PostgresStore], db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ears, "PAUSE_S", 0.05)
    here, there = two
    async with here.watch("agent", poll_s=600) as changes:
        with anyio.fail_after(20):
            listening = here._ears.listening
            await listening.wait()
            broken = await db.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'kode watch'"
            )
            assert broken >= 1
            while listening.is_set():
                await anyio.lowlevel.checkpoint()
            await listening.wait()
            await Author(there).create()
            await changes.wait()


async def test_who_was_cut_off_is_forgotten_by_the_next_who_listens(
    two: tuple[PostgresStore, PostgresStore], db: Any
) -> None:
    here, _ = two
    rows = f"{here.schema}.watcher"
    await db.execute(f"INSERT INTO {rows} SELECT n::text, now() - interval '1 s' FROM generate_series(-100, -1) AS n")
    await db.execute(f"INSERT INTO {rows} VALUES ('another', now() + interval '1 h')")
    async with here.watch("agent", poll_s=600):
        with anyio.fail_after(20):
            await here._ears.listening.wait()
        assert [name for (name,) in await db.fetch(f"SELECT name FROM {rows} WHERE name !~ '^[0-9]+$'")] == ["another"]
        assert await db.fetchval(f"SELECT count(*) FROM {rows}") == 2


async def test_a_closed_store_does_not_listen(server_url: str, schema: str) -> None:
    """Nobody would end it."""
    store = PostgresStore(server_url, schema=schema)
    async with store, store.watch("agent", poll_s=600):
        with anyio.fail_after(20):
            await store._ears.listening.wait()
    with pytest.raises(StoreError, match="is closed"):
        async with store.watch("agent", poll_s=600):
            pass
    assert store._ears._task is None
    async with store, store.watch("agent", poll_s=600):
        with anyio.fail_after(20):
            await store._ears.listening.wait()
    assert store._ears._task is None


async def test_who_listens_is_misled_by_nothing_on_his_path(server_url: str, schema: str, db: Any) -> None:
    trap = f"CREATE FUNCTION {schema}."
    await db.execute(
        f"CREATE SCHEMA {schema}; CREATE ROLE l_{schema} SUPERUSER LOGIN;"
        f"ALTER ROLE l_{schema} SET search_path = {schema}, pg_catalog;"
        f"{trap}pg_backend_pid() RETURNS int LANGUAGE sql AS 'SELECT -7';"
        f"{trap}clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz 'infinity' $$"
    )
    try:
        async with PostgresStore(at(server_url, username=f"l_{schema}"), schema=schema) as store:
            async with store.watch("agent", poll_s=600):
                with anyio.fail_after(20):
                    await store._ears.listening.wait()
                row = await db.fetchrow(f"SELECT name, until < now() + interval '1 h' FROM {schema}.watcher")
                assert (row[0] != "-7", row[1]) == (True, True)
    finally:
        await db.execute(f"DROP OWNED BY l_{schema} CASCADE; DROP ROLE l_{schema}")
