"""What agents at work cost: rounds of model and tool, many agents at once, an idle one, streams of deltas."""

from __future__ import annotations

import gc
import os
import sqlite3
import time
import tracemalloc
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from figures import spread, timed
from workload import ROUNDS, TEMPLATE, dependencies, open_json, open_sqlite, rounds, thousand

from kode.core import Agent, MemoryStore, ScriptedProvider
from kode.core.provider import BlockStart, BlockStop, Capabilities, ReplyEnd, TextDelta
from kode.core.store.base import Store

WORKER = (20_000, 20, 50)
"""Thresholds of the garbage collector for a process that does nothing but work: see docs/guides/pool.md."""


async def ten(folder: str) -> dict[str, Any]:
    """Ten rounds of model and tool with an instant model, create excluded."""
    rows: dict[str, Any] = {}
    for name in ("memory", "sqlite process", "sqlite power", "json process", "json power"):
        kind, _, durability = name.partition(" ")
        opened = open_json if kind == "json" else open_sqlite
        store: Store = opened(folder, durability) if durability else MemoryStore()
        async with store:
            deps = dependencies(store, ScriptedProvider(rounds(ROUNDS), keep_requests=False))
            agents = [await Agent.create(template=TEMPLATE, dependencies=deps) for _ in range(30)]
            todo = iter(agents)

            async def work(todo: Any = todo) -> None:
                result = await next(todo).run("go")
                assert result.ok, result
                assert result.steps == ROUNDS + 1, result

            rows[name] = await timed(work, 25)
    rows["floor file power"] = floor_file(folder)
    rows["floor sqlite process"] = floor_ten(folder, "NORMAL")
    rows["floor sqlite power"] = floor_ten(folder, "FULL")
    return rows


def floor_ten(folder: str, synchronous: str) -> dict[str, float]:
    """The same number of commits, written by hand: one row of about the same bytes each."""
    taken = []
    for i in range(26):
        db = sqlite3.connect(Path(folder) / f"floor-{synchronous}-{i}.db", isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(f"PRAGMA synchronous={synchronous}")
        db.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, body BLOB)")
        start = time.perf_counter()
        for n in range(2 * ROUNDS + 2):
            db.execute("INSERT INTO log VALUES (?, ?)", (n, b"x" * 600))
        taken.append((time.perf_counter() - start) * 1e3)
        db.close()
    taken = taken[1:]
    return spread(taken)


def floor_file(folder: str) -> dict[str, float]:
    """The same again, appended to one file with an fsync each."""
    taken = []
    for i in range(26):
        fd = os.open(Path(folder) / f"floor-{i}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        start = time.perf_counter()
        for _ in range(2 * ROUNDS + 2):
            os.write(fd, b"x" * 600)
            os.fsync(fd)
        taken.append((time.perf_counter() - start) * 1e3)
        os.close(fd)
    taken = taken[1:]
    return spread(taken)


async def agents(folder: str) -> dict[str, Any]:
    """1,000 agents at once, three rounds each, a model that takes 50 ms; also with what the guide of pools advises."""
    rows: dict[str, Any] = {}
    before = gc.get_threshold()
    for name in ("memory", "sqlite power", "memory, gc thresholds", "sqlite power, gc thresholds"):
        store_name, _, advised = name.partition(", ")
        gc.set_threshold(*(WORKER if advised else before))
        taken = []
        for _ in range(3):
            store: Store = MemoryStore() if store_name == "memory" else open_sqlite(folder, "power")
            async with store:
                taken.append(await thousand(store))
        rows[f"1,000 agents x 3 rounds, {name}, s"] = spread(taken)
    gc.set_threshold(*before)
    return rows


async def memory(folder: str) -> dict[str, Any]:
    """Bytes of an idle agent after three rounds, its window released."""
    store = open_sqlite(folder, "process")
    async with store:
        deps = dependencies(store, ScriptedProvider(rounds(3), keep_requests=False))
        warm = await Agent.create(template=TEMPLATE, dependencies=deps)
        await warm.run("go")
        kept = []
        gc.collect()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(300):
            agent = await Agent.create(template=TEMPLATE, dependencies=deps)
            await agent.run("go")
            agent.release_window()
            kept.append(agent)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return {"bytes per idle agent": round((after - before) / len(kept))}


class Bursts:
    """A model that says 2,000 deltas, 20 at a time, as a network would bring them."""

    name = model = "bursts"
    window_tokens = 100_000
    capabilities = Capabilities()

    def stream(self, request: Any) -> Any:
        """One reply."""
        return self._open()

    @asynccontextmanager
    async def _open(self) -> Any:
        yield self._chunks()

    async def _chunks(self) -> Any:
        yield BlockStart(0, "text")
        for n in range(2_000):
            if n % 20 == 0:
                await anyio.lowlevel.checkpoint()
            yield TextDelta(0, "ab ")
        yield BlockStop(0)
        yield ReplyEnd()

    async def close(self) -> None:
        """Nothing to close."""


async def deltas(folder: str) -> dict[str, Any]:
    """2,000 deltas in bursts of 20 to 10 subscribers, the whole run from enqueue to the last subscriber's last."""
    async with MemoryStore() as store:
        deps = dependencies(store, Bursts())  # type: ignore[arg-type]

        async def work() -> None:
            agent = await Agent.create(template=TEMPLATE, dependencies=deps)
            await agent.send("go")
            counts = []

            async def follow(events: Any) -> None:
                count = 0
                async for envelope in events:
                    count += envelope.type == "text_chunk"
                    if envelope.type == "done":
                        break
                counts.append(count)

            async with anyio.create_task_group() as tasks:
                for _ in range(10):
                    tasks.start_soon(follow, await agent.subscribe())
                await anyio.lowlevel.checkpoint()
                await agent.complete()
            assert counts == [2_000] * 10, counts

        return {"2,000 deltas to 10 subscribers": await timed(work, 9)}
