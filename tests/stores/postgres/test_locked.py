"""Somebody else has an agent locked: another process that is slow, a person's open transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from kode.core.errors import StoreUnavailableError
from kode.core.store import Key
from kode.core.store.contract import Scan
from kode.core.testing.conformance.store.author import Author, head, item, row
from kode.store.postgres import PostgresStore

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

Locked = Callable[..., AbstractAsyncContextManager[None]]


@pytest.fixture
async def store(server_url: str, schema: str) -> AsyncIterator[PostgresStore]:
    async with PostgresStore(server_url, schema=schema, retry_s=30) as store:
        yield store


@pytest.fixture
async def authors(store: PostgresStore) -> list[Author]:
    made = [Author(store, f"a{n}", f"u{n}") for n in range(8)]
    for author in made:
        await author.create()
        await author.drive()
    return made


@pytest.fixture
def locked(db: Any, schema: str) -> Locked:
    @asynccontextmanager
    async def locked(*agents: str) -> AsyncIterator[None]:
        async with db.transaction():
            for agent in agents:
                await db.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f'"{schema}"/{agent}')
            yield

    return locked


async def test_others_go_on_while_it_waits_and_it_goes_on_when_it_may(
    store: PostgresStore, authors: list[Author], locked: Locked
) -> None:
    """One commit alone, commits together, items."""
    begun: list[asyncio.Future[Any]] = []

    def begin(*works: Awaitable[Any]) -> asyncio.Future[Any]:
        begun.append(asyncio.gather(*works))
        return begun[-1]

    async with asyncio.timeout(25):
        async with locked("a0", "a1", "a2"):
            # Each by itself, with a way of its own to the server; there are two.
            for n in (0, 2):
                begin(authors[n].say("alone"))
                await asyncio.sleep(0.02)
            begin(*[store.enqueue("a1", item(f"i{n}")) for n in range(3)])
            # Nothing of these can end by the lock's end, for that comes after theirs.
            for _ in range(3):
                await asyncio.gather(*[author.say("free") for author in authors[3:]])
                await asyncio.gather(*[store.enqueue(author.id, item("x")) for author in authors[3:]])
                await authors[3].say("free, alone")
            assert not any(one.done() for one in begun)
            after = begin(store.enqueue("a1", item("i3")), store.apply("a0", (), [row("blob", "k", "u0")], ()))
            await asyncio.sleep(0.2)
            assert not after.done(), "it overtook what was brought before it"
        await asyncio.gather(*begun)
    waiting = await store.read_inbox("a1", "u1")
    assert [(one.id, one.position) for one in waiting] == [(f"i{n}", n + 1) for n in range(4)]
    assert [len(await store.scan(f"a{n}", Scan("message", f"u{n}", limit=99))) for n in (0, 2, 3, 4)] == [1, 1, 6, 3]


async def test_in_the_end_it_says_which_agent_it_is(
    server_url: str, store: PostgresStore, authors: list[Author], locked: Locked
) -> None:
    async with PostgresStore(server_url, schema=store.schema, retry_s=0.2) as hasty:
        acts = [hasty.apply(f"a{n}", (), [head(f"a{n}", f"u{n}"), row("blob", "k", f"u{n}")], ()) for n in (4, 5, 6)]
        async with asyncio.timeout(25), locked("a5"):
            told = await asyncio.gather(*acts, hasty.enqueue("a5", item("i")), return_exceptions=True)
            assert (told[0], told[2]) == (None, None)
            for error in (told[1], told[3]):
                assert isinstance(error, StoreUnavailableError)
                assert (error.code, error.fields) == ("contended", {"agent_id": "a5", "sqlstate": "55P03"})
                assert "'a5'" in str(error)
        assert await hasty.get("a5", [Key("blob", "u5", "k")]) == [None]
        assert await hasty.apply("a5", (), [row("blob", "k", "u5")], ()) is None


async def test_many_that_are_locked_do_not_take_all_connections(
    store: PostgresStore, authors: list[Author], locked: Locked, db: Any
) -> None:
    names = [f"b{n}" for n in range(40)]
    ids = [await db.fetchval("SELECT hashtextextended($1, 0)", f'"{store.schema}"/{name}') for name in names]
    waiting = (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
        "AND (classid::bigint << 32 | objid::bigint) = ANY ($1::bigint[])"
    )
    seen = []
    async with asyncio.timeout(25):
        async with locked(*names):
            held = [asyncio.create_task(store.apply(id, (), [row("blob", "k", id)], ())) for id in names]
            while len(seen) < 30 or not any(seen):
                await authors[0].say("free")
                assert await store.load("a0") is not None
                seen.append(await db.fetchval(waiting, ids))
            assert max(seen) <= 4, seen
            assert not any(one.done() for one in held)
        assert await asyncio.gather(*held) == [None] * 40
