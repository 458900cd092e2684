"""KODE: agents on its own stores, every step committed before the next, called as the peers are."""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

from peer import AGENT_ROUNDS, HISTORY, ROUNDS, TEXT, arguments, measure, tell_versions

sys.path.append(str(Path(__file__).resolve().parent.parent))

from workload import TEMPLATE, dependencies, fill, rounds

from kode.core import Agent, MemoryStore, ScriptedProvider, SqliteStore
from kode.core.provider import say
from kode.store.postgres import PostgresStore


async def turn(agent):
    """One turn."""
    result = await agent.run("go")
    assert result.ok, result


async def main():
    """All rows on all stores."""
    asked = arguments()
    tell_versions("kode-core", "kode-store-postgres", "asyncpg")
    stores = {
        "memory": MemoryStore(),
        "sqlite": SqliteStore(f"{asked.folder}/a.db"),
        "postgres": PostgresStore(asked.postgres),
    }
    for label, store in stores.items():
        async with store:
            ten = dependencies(store, ScriptedProvider(rounds(ROUNDS), keep_requests=False))
            names = (f"t{n}" for n in itertools.count())

            # With the creation of the agent: the peers make a thread, a session or a workflow too.
            async def fresh(ten=ten, names=names):
                await turn(await Agent.create(agent_id=next(names), template=TEMPLATE, dependencies=ten))

            await measure("ten", label, fresh, asked.times)
            slow = ScriptedProvider(rounds(AGENT_ROUNDS), delay_s=0.05, keep_requests=False)
            many = dependencies(store, slow)

            async def one_of_them(many=many, names=names):
                await turn(await Agent.create(agent_id=next(names), template=TEMPLATE, dependencies=many))

            async def all_of_them(one_of_them=one_of_them):
                await asyncio.gather(*(one_of_them() for _ in range(asked.agents)))

            await measure("agents", label, all_of_them, 1, warm=0)
            one = dependencies(store, ScriptedProvider(say("Done."), keep_requests=False))
            agent = await Agent.create(agent_id="long", template=TEMPLATE, dependencies=one)
            await fill(store, agent, HISTORY, TEXT)

            # A handle opened anew: nothing is resident, as with the peers.
            async def cold(one=one):
                await turn(await Agent.open("long", one))

            await measure("turn", label, cold, asked.times)


asyncio.run(main())
