"""A commit alone goes by a function of its own, which must do what the one for any acts does."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest

from kode.core.store import Condition, Key, Record
from kode.core.store.contract import Scan
from kode.core.store.records import COLUMNS, int_key
from kode.core.testing.conformance.store.author import Author, head, item, row
from kode.store.postgres import PostgresStore, alone, rows
from kode.store.postgres.tables import LAYOUTS

pytestmark = [pytest.mark.anyio, pytest.mark.integration]
HEADER, LEASE = Key("header", "", "a"), Key("lease", "u", "")


@pytest.fixture
async def stores(server_url: str, schema: str, db: Any) -> AsyncIterator[list[PostgresStore]]:
    async with PostgresStore(server_url, schema=schema) as one, PostgresStore(server_url, schema=f"{schema}_b") as two:
        yield [one, two]
    await db.execute(f'DROP SCHEMA "{schema}_b" CASCADE')


def conditions(random: Random, version: int, fence: int) -> list[Condition]:
    """Mostly those that a commit has, and mostly such as hold."""

    def often(right: Any, *wrong: Any) -> Any:
        return right if random.random() < 0.93 else random.choice(wrong)

    listed = [
        Condition("equals", HEADER, "uid", often("u", "other")),
        Condition("equals", LEASE, "fence", often(fence, fence - 1))
        if random.random() < 0.6
        else Condition("free", LEASE, value=often(10, 4)),
        Condition("equals", HEADER, "version", often(version, version - 1)),
        Condition("equals", HEADER, "staged", often(None, "c0")),
    ]
    if random.random() < 0.3:
        listed.append(Condition("no_inbox_after", Key("inbox", "u", ""), value=often(int_key(99), int_key(2))))
    if random.random() < 0.1:
        listed.append(random.choice((Condition("absent", Key("snapshot", "u", "s")), listed[0], listed[1])))
    return listed


def puts(random: Random, version: int, fence: int) -> list[Record]:
    """Rows of all kinds that a commit writes, some of them for the second time, and the header."""
    found: list[Record] = []
    for kind in (*alone.WRITTEN, "document"):
        for _ in range(
            random.choices((0, 1, 2), (40, 57, 3))[0] if kind not in ("lease", "document") else random.random() < 0.1
        ):
            n = version if kind in ("message", "events") and random.random() < 0.8 else random.randrange(3, 6)
            key = "" if kind == "lease" else f"{int_key(version)}{n}" if n == version else int_key(n)
            columns = {
                name: random.choice((None, random.choice("xyz") if sort == "text" else random.randrange(9)))
                for name, sort in COLUMNS[kind]
            }
            if kind == "lease":
                columns |= {"fence": fence, "until": random.choice((3, 8)), "holder": random.choice((None, "h"))}
            found.append(row(kind, key, "u", random.randbytes(random.randrange(9)), **columns))
    random.shuffle(found)
    return [*found, head("a", version=version + 1, wake_at=random.choice((None, version)), status="s")]


def act(random: Random, version: int, fence: int) -> rows.Act:
    deletes = [Key("inbox", "u", int_key(random.randrange(1, 5)))] if random.random() < 0.2 else []
    look = ("u", int_key(random.randrange(4))) if random.random() < 0.9 else None
    return rows.Act("a", conditions(random, version, fence), puts(random, version, fence), deletes, look)


async def test_it_leaves_and_answers_what_it_would_among_others(stores: list[PostgresStore], db: Any) -> None:
    """Random acts, one store by the one way, one by the other."""
    random, (one, two) = Random(7), stores
    for store in stores:
        first = [head("a", version=1), row("lease", "", "u", b"", fence=5, until=3)]
        assert await store.apply("a", (), first, ()) is None
        for n in range(5):
            await store.append_inbox(
                "a", row("inbox", "", "u", id=f"i{n}", kind="decision", size=1), now=1, bounded=False
            )
    version, ways = 1, Counter[str]()
    for _ in range(250):
        doing = act(random, version, 5)
        by_itself = await one._commit(doing)
        ways["alone" if by_itself else "refused" if alone.commit(doing) else "other"] += 1
        answer = by_itself or await one._bring(doing)
        _, *found = await two.server.fetch(two._apply_sql, *rows.apply([doing]), again=frozenset())
        assert [answer] == rows.applied([doing], found), doing
        version += answer[0] is None
    assert len(ways) == 3
    assert min(ways.values()) > 15
    for kind, layout in LAYOUTS.items():
        listed = f'SELECT owner, {layout.listed} FROM "{{}}".{kind} AS r ORDER BY owner, "key"'
        assert await db.fetch(listed.format(one.schema)) == await db.fetch(listed.format(two.schema)), kind


async def test_a_commit_takes_one_journey_and_a_lease_two(stores: list[PostgresStore]) -> None:
    store, asked = stores[0], list[str]()
    author = Author(store)
    await author.create()
    fetch = store.server.fetch

    async def counted(query: str, *values: Any, **how: Any) -> list[Any]:
        asked.append(query)
        return await fetch(query, *values, **how)

    await store.now()
    store.server.fetch = counted  # type: ignore[method-assign]
    await author.drive()
    assert len(asked) == 2
    await author.say("hi", events=2)
    assert len(asked) == 3
    assert "commit_v1" in asked[2]
    assert await store.lease_of("agent") is not None
    assert len(asked) == 4


async def test_little_is_logged_beside_what_is_said(stores: list[PostgresStore], db: Any) -> None:
    """A header is replaced on its page, no index is written to for it; what is new is not tried first."""
    author = Author(stores[0])
    await author.create()
    await author.drive()
    logged = []
    for _ in range(5):  # the server's own housekeeping may come into one of them
        before = await db.fetchval("SELECT pg_current_wal_insert_lsn()")
        for _ in range(20):
            await author.say("hi", events=1)
        logged.append(await db.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1)", before) / 20)
    assert min(logged) < 700, logged


async def test_what_is_written_again_finds_room_on_its_page(stores: list[PostgresStore], db: Any) -> None:
    """Also where many agents write at once; on another page each index would be written to as well."""
    store, ids = stores[0], [f"a{n}" for n in range(120)]

    async def write(size: int) -> None:
        rows = {id: [row("call", "c", f"u{id}", b"x" * size, status="x"), head(id, version=size)] for id in ids}
        assert not any(await asyncio.gather(*[store.apply(id, (), rows[id], ()) for id in ids]))

    async def pages() -> dict[str, str]:
        sql = f"SELECT owner || '/' || \"key\" AS id, split_part(ctid::text, ',', 1) AS page FROM {store.schema}."
        return {one["id"]: one["page"] for kind in ("call", "header") for one in await db.fetch(sql + kind)}

    await write(500)
    before = await pages()
    await write(501)
    moved = Counter(id[0] == "/" for id, page in (await pages()).items() if page != before[id])
    assert moved[False] <= 0.4 * len(ids), "calls"
    assert moved[True] <= 0.1 * len(ids), "headers"


async def test_a_long_inbox_is_read_whole_and_in_parts(stores: list[PostgresStore]) -> None:
    store, author = stores[0], Author(stores[0])
    await author.create()
    await asyncio.gather(*[store.enqueue(author.id, item(f"i{n}", kind="interrupt")) for n in range(1_100)])
    positions = [int_key(n) for n in range(1, 1_101)]
    for after, limit in (("", 3), (positions[4], 5), ("", 0), (positions[-1], 5)):
        found = await store.scan(author.id, Scan("inbox", author.state.uid, after=after, limit=limit))
        start = bisect_right(positions, after)
        assert [record.key for record in found] == positions[start : start + limit]
    assert len(await store.read_inbox(author.id, author.state.uid)) == 1_100
    loaded = await store.load(author.id)
    assert loaded is not None
    assert len(loaded.inbox) == 1_100


async def test_few_connections_are_enough_for_many_callers(
    server_url: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is kept for the next use is not kept from who waits for it."""
    monkeypatch.setattr("kode.store.postgres.server.KEEP_S", 60)
    async with PostgresStore(server_url, schema=schema, pool_max=1) as store:
        authors = [Author(store, f"agent-{n}", f"uid-{n}") for n in range(5)]

        async def work(author: Author) -> None:
            await author.create()
            for n in range(5):
                await store.enqueue(author.id, item(f"{n}"))
                assert (await store.read_state(author.id)).agent_id == author.id
                await store.due(10**18, 5)
            await author.say("hi")

        async with asyncio.timeout(20):
            await asyncio.gather(*map(work, authors))
        assert len(store.server.kept) <= 1
    assert not store.server.kept
