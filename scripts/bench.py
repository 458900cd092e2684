"""Benchmarks of the core: run by ``scripts/bench``. Each prints one row; nothing here is a test."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from kode.core import (
    Agent,
    AgentTemplate,
    Dependencies,
    JSONStore,
    LocalSandbox,
    MemoryStore,
    ScriptedProvider,
    SqliteStore,
    StatelessAgent,
)
from kode.core.kernel.message import Message, TextBlock
from kode.core.provider import BlockStart, BlockStop, Capabilities, ReplyEnd, TextDelta, call, say
from kode.core.store.base import Store
from kode.core.tools import tool

ROUNDS = 10


@tool(readonly=True, recovery="retry")
async def look(path: str) -> str:
    """Look at something.

    Args:
        path: What to look at.
    """
    return f"{path}: nothing special"


TEMPLATE = AgentTemplate("bench", "You are measured.", model="scripted", tools=("look",))


def rounds(n: int) -> Callable[[Any], Any]:
    """A model that calls a tool n times and then answers; it decides from the request alone."""
    turn, last = call("look", {"path": "a.py"}), say("Done.")

    def script(request: Any) -> Any:
        since = 0
        for message in reversed(request.messages):
            if message.role == "user" and message.blocks[0].type == "text":
                break
            since += message.role == "assistant"
        return turn if since < n else last

    return script


def dependencies(store: Store, provider: ScriptedProvider) -> Dependencies:
    """One agent's surroundings."""
    return Dependencies(store, tools=[look], providers={"scripted": provider})


def open_sqlite(folder: str, durability: str) -> SqliteStore:
    """A fresh file."""
    return SqliteStore(Path(folder) / f"{durability}-{time.monotonic_ns()}.db", durability=durability)  # type: ignore[arg-type]


def open_json(folder: str, durability: str) -> JSONStore:
    """A fresh folder."""
    return JSONStore(Path(folder) / f"{durability}-{time.monotonic_ns()}", durability=durability)  # type: ignore[arg-type]


async def timed(work: Callable[[], Awaitable[Any]], times: int) -> dict[str, float]:
    """Milliseconds of several runs after one to warm up."""
    await work()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        await work()
        taken.append((time.perf_counter() - start) * 1e3)
    return {"min": min(taken), "median": statistics.median(taken), "max": max(taken)}


# ---- ten rounds -----------------------------------------------------------------------------------------------


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
    return {"min": min(taken), "median": statistics.median(taken), "max": max(taken)}


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
    return {"min": min(taken), "median": statistics.median(taken), "max": max(taken)}


# ---- bytes ----------------------------------------------------------------------------------------------------


async def bytes_written(folder: str) -> dict[str, Any]:
    """What a step writes at 10 and at 10,000 messages, and what a file holds beside its payload."""
    rows: dict[str, Any] = {}
    text = "x" * 1_000

    @tool(name="look", readonly=True, recovery="retry")
    async def wordy(path: str) -> str:
        """Answer with 1 KB."""
        return text

    turn = call("look", {"path": "y" * 950}, text=None)

    def script(request: Any) -> Any:
        return say("Done.") if len(request.messages) % 40 == 39 else turn

    for messages in (10, 10_000):
        store = open_sqlite(folder, "process")
        async with store:
            deps = Dependencies(store, tools=[wordy], providers={"scripted": ScriptedProvider(script)})
            agent = await Agent.create(template=TEMPLATE, dependencies=deps)
            await fill(store, agent, messages, text)
            await agent.run("go")
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


async def fill(store: Store, agent: Agent, count: int, text: str) -> None:
    """Give an agent a history of so many messages, in commits of 500."""
    from dataclasses import replace

    from kode.core.store.contract import Commit

    loaded = await store.load(agent.agent_id)
    assert loaded is not None
    state, version = loaded.state, loaded.version
    while state.next_seq < count:
        batch = [
            Message(seq, "user" if seq % 2 == 0 else "assistant", (TextBlock(text),), state.updated_at)
            for seq in range(state.next_seq, min(state.next_seq + 500, count))
        ]
        state = replace(state, next_seq=batch[-1].seq + 1)
        done = await store.commit(
            Commit(state, f"fill-{state.next_seq}", version, None, state.updated_at, messages=batch)
        )
        version = done.version


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


# ---- loading --------------------------------------------------------------------------------------------------


async def load(folder: str) -> dict[str, Any]:
    """A stored agent of 10,000 messages: to READY, to the first request, and with a short window."""
    from dataclasses import replace

    from kode.core.kernel.window import Range, Window
    from kode.core.store.contract import Commit

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
            await fresh.run("go")

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


# ---- many agents ----------------------------------------------------------------------------------------------


async def agents(folder: str) -> dict[str, Any]:
    """1,000 agents at once, three rounds each, a model that takes 50 ms."""
    rows: dict[str, Any] = {}
    for name in ("memory", "sqlite power"):
        taken = []
        for _ in range(3):
            store: Store = MemoryStore() if name == "memory" else open_sqlite(folder, "power")
            async with store:
                provider = ScriptedProvider(rounds(3), delay_s=0.05, keep_requests=False)
                deps = dependencies(store, provider)
                made = []
                async with anyio.create_task_group() as tasks:

                    async def make(made: list[Agent] = made, deps: Dependencies = deps) -> None:
                        made.append(await Agent.create(template=TEMPLATE, dependencies=deps))

                    for _ in range(1_000):
                        tasks.start_soon(make)
                gc.collect()
                gc.freeze()
                start = time.perf_counter()
                async with anyio.create_task_group() as tasks:
                    for agent in made:
                        tasks.start_soon(agent.run, "go")
                taken.append(time.perf_counter() - start)
                gc.unfreeze()
        rows[f"1,000 agents x 3 rounds, {name}, s"] = {
            "min": min(taken),
            "median": statistics.median(taken),
            "max": max(taken),
        }
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


# ---- stores ---------------------------------------------------------------------------------------------------


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
            rows[f"append at message {count:,}, SQLite process"] = {
                "min": min(times),
                "median": statistics.median(times),
                "max": max(times),
            }
        rows["the same, ratio of the medians"] = round(
            statistics.median(taken[100_000]) / statistics.median(taken[10]), 3
        )
    return rows


async def one_by_one(store: Store, agent: Agent, count: int) -> list[float]:
    """Append messages, a commit each; milliseconds of each commit."""
    from dataclasses import replace

    from kode.core.store.contract import Commit

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
    from kode.core.store.copying import copy_store

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
        rows[f"messages/s, {count:,} agents of {messages:,}"] = {
            "min": min(speeds),
            "median": statistics.median(speeds),
            "max": max(speeds),
        }
    return rows


# ---- streaming ------------------------------------------------------------------------------------------------


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


async def import_time(folder: str) -> dict[str, Any]:
    """``import kode.core`` and what a first agent needs, in a fresh process, interpreter start taken off."""
    rows = {}
    for name, code in {
        "import kode.core": "import kode.core",
        "import what an agent needs": "from kode.core import Agent, SqliteStore, Dependencies, AgentTemplate",
    }.items():
        taken = []
        for _ in range(9):
            script = f"import time; s = time.perf_counter(); {code}; print((time.perf_counter() - s) * 1e3)"
            out = await anyio.run_process([sys.executable, "-c", script])
            taken.append(float(out.stdout))
        rows[name] = {"min": min(taken), "median": statistics.median(taken), "max": max(taken)}
    return rows


# ---- requests -------------------------------------------------------------------------------------------------

FIRST = """
import sys, time
import anyio
from kode.core import AgentTemplate, ScriptedProvider, SqliteStore, StatelessAgent
imported = time.clock_gettime(time.CLOCK_MONOTONIC)

class Told(SqliteStore):
    first = 0.0
    async def commit(self, commit):
        done = await super().commit(commit)
        self.first = self.first or time.clock_gettime(time.CLOCK_MONOTONIC)
        return done

async def main():
    async with Told(sys.argv[1]) as store:
        result = await StatelessAgent.run(
            "a", "go", store=store, template_id=AgentTemplate("t", model="m"), timeout_s=25,
            providers={"m": ScriptedProvider(lambda request: "Done.")},
        )
        assert result.ok, result
        start = float(sys.argv[2])
        print(imported - start, store.first - start, time.clock_gettime(time.CLOCK_MONOTONIC) - start)

anyio.run(main)
"""


async def cold(folder: str) -> dict[str, Any]:
    """A process that starts, makes an agent and serves its first request: SQLite, nothing warm but the disk's cache."""
    names = ("process start to imported", "process start to the first durable commit", "process start to the result")
    taken: dict[str, list[float]] = {name: [] for name in names}
    for n in range(16):
        start = time.clock_gettime(time.CLOCK_MONOTONIC)
        out = await anyio.run_process([sys.executable, "-c", FIRST, f"{folder}/cold-{n}.db", str(start)])
        for name, seconds in zip(names, out.stdout.split(), strict=True):
            taken[name].append(float(seconds) * 1e3)
    code = "from kode.core import StatelessAgent, SqliteStore"
    taken["import of what a function needs"] = [await imported(code) for _ in range(16)]
    return {
        name: {"min": min(all_), "median": statistics.median(all_), "max": max(all_)}
        for name, (_, *all_) in taken.items()
    }


async def imported(code: str) -> float:
    """Milliseconds of an import in a fresh process."""
    script = f"import time; s = time.perf_counter(); {code}; print((time.perf_counter() - s) * 1e3)"
    return float((await anyio.run_process([sys.executable, "-c", script])).stdout)


async def stateless(folder: str) -> dict[str, Any]:
    """One request to an agent that is stored, and the same through a handle that is kept; SQLite."""
    rows: dict[str, Any] = {}
    asked: list[float] = []

    def note(request: Any) -> Any:
        asked.append(time.perf_counter())
        return say("Done.")

    for durability in ("process", "power"):
        async with open_sqlite(folder, durability) as store:
            deps = dependencies(store, ScriptedProvider(note, keep_requests=False))
            agent = await Agent.create(template=TEMPLATE, dependencies=deps)

            async def request(id: str = agent.agent_id, deps: Dependencies = deps) -> None:
                assert (await StatelessAgent.run(id, "go", dependencies=deps, timeout_s=25)).ok

            rows[f"a request, sqlite {durability}"] = await timed(request, 25)
            rows[f"the same by a handle that is kept, sqlite {durability}"] = await timed(partial(agent.run, "go"), 25)
            await fill(store, agent, 1_000, "x" * 500)
            to_model = []
            for _ in range(15):
                start = time.perf_counter()
                await request()
                to_model.append((asked[-1] - start) * 1e3)
            rows[f"1,000 messages, from the request to its model call, sqlite {durability}"] = {
                "min": min(to_model),
                "median": statistics.median(to_model),
                "max": max(to_model),
            }
    return rows


# ---- searching ------------------------------------------------------------------------------------------------


async def grep(folder: str) -> dict[str, Any]:
    """`LocalSandbox.grep` over 100,000 files beside ripgrep, in turns; and 100 MB that a command says."""
    root = Path(folder) / "many"
    line = "the quick brown fox jumps over the lazy dog and comes back again\n"
    for n in range(1_000):
        (root / f"{n // 50:02}" / f"{n:03}").mkdir(parents=True)
        for m in range(100):
            text = line * 32 + (f"needle {n} {m}\n" if m == 50 and n % 10 == 0 else "")
            (root / f"{n // 50:02}" / f"{n:03}" / f"{m}.txt").write_text(text)
    rows: dict[str, Any] = {}
    sandbox = LocalSandbox(root)
    cases = {"plain text": ("needle", False), "a pattern": (r"needle \d+", True), "hits everywhere": ("fox", False)}
    for name, (pattern, regex) in cases.items():
        ours, rg = [], []
        for _ in range(6):
            start = time.perf_counter()
            found = await sandbox.grep(pattern, regex=regex)
            ours.append((time.perf_counter() - start) * 1e3)
            assert found.matches
            start = time.perf_counter()
            # As fs_grep searches: hidden and ignored files too, line numbers asked for.
            subprocess.run(["rg", "-n", "--no-ignore", "--hidden", pattern, str(root)], stdout=subprocess.DEVNULL)  # noqa: ASYNC221
            rg.append((time.perf_counter() - start) * 1e3)
        for label, taken in ((f"100,000 files, {name}", ours[1:]), (f"the same, rg -n, {name}", rg[1:])):
            rows[label] = {"min": min(taken), "median": statistics.median(taken), "max": max(taken)}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    result = await sandbox.exec("head -c 100000000 /dev/zero | tr '\\0' x")
    rows["100 MB of output, seconds"] = round(time.perf_counter() - start, 2)
    rows["the same, growth of the process's peak, MB"] = round(
        (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1
    )
    assert result.cut_bytes > 80_000_000
    await sandbox.close()
    return rows


ROWS: dict[str, Callable[[str], Awaitable[dict[str, Any]]]] = {
    "ten": ten,
    "bytes": bytes_written,
    "load": load,
    "agents": agents,
    "memory": memory,
    "append": append,
    "copy": copy,
    "deltas": deltas,
    "grep": grep,
    "cold": cold,
    "stateless": stateless,
    "import": import_time,
}


def main() -> None:
    """Run the rows asked for and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    strange = [name for name in options.rows if name not in ROWS]
    if strange:
        parser.error(f"no row {', '.join(strange)}; there are {', '.join(ROWS)}")
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} cores")
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.rows or ROWS:
            found = anyio.run(ROWS[name], folder)
            figures[name] = found
            for label, value in found.items():
                shown = value
                if isinstance(value, dict):
                    shown = " / ".join(f"{value[k]:.2f}" for k in ("min", "median", "max"))
                print(f"{name:8} {label:58} {shown}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
