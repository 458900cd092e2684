"""What stores cost: bytes, commits, loading, copying."""

from __future__ import annotations

import itertools
import os
import sqlite3
import statistics
import time
from dataclasses import replace
from typing import Any

from figures import spread, timed
from workload import TEMPLATE, dependencies, fill, open_json, open_sqlite

from kode.core import Agent, Dependencies, JSONStore, ScriptedProvider, SqliteStore
from kode.core.kernel.message import Message, TextBlock
from kode.core.kernel.window import Range, Window
from kode.core.provider import call, say
from kode.core.store.base import Store
from kode.core.store.contract import Commit
from kode.core.store.copying import copy_store
from kode.core.tools import tool


async def bytes_written(folder: str) -> dict[str, Any]:
    """What a step writes at 10 and at 10,000 messages, and what a file holds beside its payload."""
    rows: dict[str, Any] = {}
    text = "x" * 1_000

    @tool(name="look", readonly=True, recovery="retry")
    async def wordy(path: str) -> str:
        """Answer with 1 KB."""
        return text

    turn = call("look", {"path": "y" * 950}, text=None)

    asked = itertools.count(1)

    def script(request: Any) -> Any:
        return say("Done.") if next(asked) % 15 == 0 else turn

    for messages in (10, 10_000):
        store = open_sqlite(folder, "process")
        async with store:
            deps = Dependencies(store, tools=[wordy], providers={"scripted": ScriptedProvider(script)})
            agent = await Agent.create(template=TEMPLATE, dependencies=deps)
            await fill(store, agent, messages, text)
            assert (await agent.run("go")).ok
            before = os.stat(f"{store.path}-wal").st_size if messages < 0 else written(store)
            result = await agent.run("go")
            rows[f"bytes per step at {messages:,} messages"] = round((written(store) - before) / result.steps)
    rows |= await file_ratio(folder, script, wordy)
    return rows


def written(store: SqliteStore) -> int:
    """Bytes of records so far: rows, not pages."""
    db = sqlite3.connect(store.path)
    total = 0
    for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchall():
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({name})")]
        if "body" in columns:
            total += db.execute(f"SELECT coalesce(sum(length(body)), 0) FROM {name}").fetchone()[0]
    db.close()
    return int(total)


async def file_ratio(folder: str, script: Any, wordy: Any) -> dict[str, float]:
    """File size over payload: messages alone, and a whole agent that worked."""
    rows = {}
    store = open_sqlite(folder, "process")
    async with store:
        deps = dependencies(store, ScriptedProvider(say("Done.")))
        agent = await Agent.create(template=TEMPLATE, dependencies=deps)
        await fill(store, agent, 10_000, "x" * 1_000)
    rows["file / payload, 10,000 messages of 1 KB alone"] = round(size(store.path) / 10_000_000, 2)
    store = open_sqlite(folder, "process")
    async with store:
        deps = Dependencies(store, tools=[wordy], providers={"scripted": ScriptedProvider(script)})
        agent = await Agent.create(template=TEMPLATE, dependencies=deps)
        while (await agent.status()).messages < 2_000:
            await agent.run("x" * 1_000)
        payload = (await agent.status()).messages * 1_000
    rows["file / payload, a whole agent with calls and events"] = round(size(store.path) / payload, 2)
    return rows


def size(path: Any) -> int:
    """Bytes of a database after a checkpoint."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return os.stat(path).st_size


async def load(folder: str) -> dict[str, Any]:
    """A stored agent of 10,000 messages: to READY, to the first request, and with a short window."""
    rows = {}
    store = open_sqlite(folder, "process")
    async with store:
        deps = dependencies(store, ScriptedProvider(say("Done."), keep_requests=False))
        agent = await Agent.create(template=TEMPLATE, dependencies=deps)
        await fill(store, agent, 10_000, "x" * 500)

        async def ready() -> None:
            assert await store.load(agent.agent_id) is not None

        async def first() -> None:
            fresh = await Agent.open(agent.agent_id, deps)
            assert (await fresh.run("go")).ok

        rows["10,000 messages to READY, undecoded"] = await timed(ready, 7)
        rows["10,000 messages, one turn from cold"] = await timed(first, 7)
        loaded = await store.load(agent.agent_id)
        assert loaded is not None
        state = replace(loaded.state, window=Window(None, (), (Range(loaded.state.next_seq - 200),)))
        await store.commit(Commit(state, "window", loaded.version, None, state.updated_at))
        rows["200-message window of 10,000, one turn from cold"] = await timed(first, 7)
    return rows | await load_json(folder)


async def load_json(folder: str) -> dict[str, Any]:
    """The same agent as folders of JSON: by a store that knows it, and by one that has just been opened."""
    rows = {}
    async with open_json(folder, "process") as store:
        agent = await Agent.create(
            template=TEMPLATE, dependencies=dependencies(store, ScriptedProvider(say("Done."), keep_requests=False))
        )
        await fill(store, agent, 10_000, "x" * 500)

        async def known() -> None:
            assert await store.load(agent.agent_id) is not None

        async def cold() -> None:
            async with JSONStore(store.path, durability="process") as fresh:
                assert await fresh.load(agent.agent_id) is not None

        rows["json, 10,000 messages to READY, undecoded"] = await timed(known, 7)
        rows["json, the same by a store just opened"] = await timed(cold, 7)
    return rows


async def append(folder: str) -> dict[str, Any]:
    """One commit that appends one message, at message 10 and at message 100,000, taken in turns."""
    rows: dict[str, Any] = {}
    async with open_sqlite(folder, "process") as store:
        deps = dependencies(store, ScriptedProvider(say("Done.")))
        taken: dict[int, list[float]] = {10: [], 100_000: []}
        agents = {count: await Agent.create(template=TEMPLATE, dependencies=deps) for count in taken}
        for count, agent in agents.items():
            await fill(store, agent, count, "x" * 500)
        for turn in range(12):
            for count, agent in agents.items():
                found = await one_by_one(store, agent, 100)
                if turn > 1:  # what comes before warms up
                    taken[count] += found
        for count, times in taken.items():
            rows[f"append at message {count:,}, SQLite process"] = spread(times)
        rows["the same, ratio of the medians"] = round(
            statistics.median(taken[100_000]) / statistics.median(taken[10]), 3
        )
    return rows


async def one_by_one(store: Store, agent: Agent, count: int) -> list[float]:
    """Append messages, a commit each; milliseconds of each commit."""
    loaded = await store.load(agent.agent_id)
    assert loaded is not None
    state, version = loaded.state, loaded.version
    taken = []
    for _ in range(count):
        seq = state.next_seq
        message = Message(seq, "user" if seq % 2 == 0 else "assistant", (TextBlock("x" * 500),), state.updated_at)
        state = replace(state, next_seq=seq + 1)
        commit = Commit(state, f"append-{seq}", version, None, state.updated_at, messages=[message])
        start = time.perf_counter()
        version = (await store.commit(commit)).version
        taken.append((time.perf_counter() - start) * 1e3)
    return taken


async def copy(folder: str) -> dict[str, Any]:
    """`copy_store` from JSON files to SQLite `power`: many small agents, few large ones."""
    rows: dict[str, Any] = {}
    for count, messages in ((1_000, 20), (20, 2_000)):
        speeds = []
        async with open_json(folder, "process") as source:
            deps = dependencies(source, ScriptedProvider(say("Done.")))
            for _ in range(count):
                await fill(source, await Agent.create(template=TEMPLATE, dependencies=deps), messages, "x" * 500)
            path = source.path
        for _ in range(6):
            async with JSONStore(path) as source, open_sqlite(folder, "power") as target:
                start = time.perf_counter()
                report = await copy_store(source, target)
                speeds.append(report.messages / (time.perf_counter() - start))
                assert report.ok, report.problems
        speeds = [round(speed) for speed in speeds[1:]]
        rows[f"messages/s, {count:,} agents of {messages:,}"] = spread(speeds)
    return rows
