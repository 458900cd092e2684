"""What the rows measure with: an agent, models that cost nothing, fresh stores, histories."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from kode.core import Agent, AgentTemplate, Dependencies, JSONStore, ScriptedProvider, SqliteStore
from kode.core.kernel.context import ContextPolicy
from kode.core.kernel.message import Message, TextBlock
from kode.core.provider import call, say
from kode.core.store.base import Store
from kode.core.store.contract import Commit
from kode.core.tools import tool

ROUNDS = 10


@tool(readonly=True, recovery="retry")
async def look(path: str) -> str:
    """Look at something.

    Args:
        path: What to look at.
    """
    return f"{path}: nothing special"


# Nothing is summed up: a history is loaded, and shown to the model, whole.
TEMPLATE = AgentTemplate(
    "bench", "You are measured.", model="scripted", tools=("look",), context=ContextPolicy(method="off")
)


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


async def thousand(store: Store) -> float:
    """Seconds that 1,000 agents take at once, made before: three rounds each, a model that takes 50 ms."""
    deps = dependencies(store, ScriptedProvider(rounds(3), delay_s=0.05, keep_requests=False))
    made: list[Agent] = []

    async def make() -> None:
        made.append(await Agent.create(template=TEMPLATE, dependencies=deps))

    async with anyio.create_task_group() as tasks:
        for _ in range(1_000):
            tasks.start_soon(make)
    gc.collect()
    gc.freeze()
    start = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for agent in made:
            tasks.start_soon(agent.run, "go")
    taken = time.perf_counter() - start
    gc.unfreeze()
    return taken


def open_sqlite(folder: str, durability: str) -> SqliteStore:
    """A fresh file."""
    return SqliteStore(Path(folder) / f"{durability}-{time.monotonic_ns()}.db", durability=durability)  # type: ignore[arg-type]


def open_json(folder: str, durability: str) -> JSONStore:
    """A fresh folder."""
    return JSONStore(Path(folder) / f"{durability}-{time.monotonic_ns()}", durability=durability)  # type: ignore[arg-type]


async def fill(store: Store, agent: Agent, count: int, text: str) -> None:
    """Give an agent a history of so many messages, in commits of 500."""
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
