"""One real process that runs an agent; started, stopped and killed by ``test_kill.py``.

child.py once  <store> <folder> <message id>      send a message, work until nothing is left, say "done"
child.py fight <store> <folder> <name>  send and work, against another process, until the folder has `over`
"""

from __future__ import annotations

import itertools
import os
import random
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from kode.core.config import AgentConfig, Dependencies
from kode.core.jsontext import dump
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import TextBlock, ToolUseBlock
from kode.core.provider.base import ModelRequest
from kode.core.provider.script import Turn, calls, say
from kode.core.provider.scripted import ScriptedProvider
from kode.core.runtime.agent import Agent
from kode.core.runtime.driver import Driver
from kode.core.store.base import Store
from kode.core.store.json import JSONStore
from kode.core.store.open import open_store as store_at
from kode.core.store.sqlite import SqliteStore
from kode.core.template import AgentTemplate
from kode.core.tools.base import ToolContext
from kode.core.tools.define import tool


@tool
async def work(context: ToolContext) -> str:
    """Do something that takes a while: a real command that writes the ledger itself."""
    return await _command(context)


@tool(recovery="retry")
async def fetch(context: ToolContext) -> str:
    """Do something that may be done again."""
    return await _command(context)


async def _command(context: ToolContext) -> str:
    nap = context.services["nap"]
    text = f"printf '%s\\n' {context.idempotency_key} >> ledger; sleep {nap}; echo finished"
    result = await context.need_sandbox().exec(text)
    return result.output


@tool
async def mark(context: ToolContext) -> str:
    """Write the ledger."""
    ledger = os.open(context.services["ledger"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, f"{context.idempotency_key}\n".encode())
    os.close(ledger)
    await anyio.sleep(0.02)
    return "marked"


def think(request: ModelRequest) -> Turn:
    """Call the tools once for what was said last, then answer."""
    last = request.messages[-1]
    names = {spec.name for spec in request.tools}
    asked = any(isinstance(b, ToolUseBlock) for m in request.messages[-2:] for b in m.blocks)
    if asked and last.origin == "tools":
        return say("answered")
    heard = "".join(b.text for b in last.blocks if isinstance(b, TextBlock))
    if "mark" in names:
        return calls(("mark", {})) if "quiet" not in heard else say("answered")
    return calls(("work", {}), ("fetch", {}))


def open_store(kind: str, folder: Path) -> Store:
    if kind == "json":
        return JSONStore(folder / "kode", durability="process")
    if "://" in kind:
        return store_at(kind)
    return SqliteStore(folder / "agents.db", durability="process")


def dependencies(store: Store, folder: Path, nap: str = "0") -> Dependencies:
    return Dependencies(
        store=store,
        tools=[work, fetch, mark],
        providers={"m": ScriptedProvider(think)},
        services={"ledger": str(folder / "ledger"), "nap": nap},
    )


def config(folder: Path, limits: Limits, *tools: str) -> AgentConfig:
    options = dump({"root": str(folder)})
    return AgentConfig(AgentTemplate("t", model="m", tools=tools, limits=limits, sandbox_options=options), agent_id="a")


def tell(*words: str) -> None:
    print(*words, flush=True)


async def once(store: Store, folder: Path, id: str, nap: str) -> None:
    deps = dependencies(store, folder, nap)
    limits = Limits(max_recoveries=1_000, due_poll_s=0.1)
    if not store.same_host:
        # Over a network a dead process's lease is not taken before its term is over, so that is short.
        limits = replace(limits, lease_s=1.0, lease_margin_s=0.3)
    async with deps.store:
        tell("ready")
        agent = await Agent.resume_or_create(config(folder, limits, "work", "fetch"), deps, strategy="manual")
        await agent.send(f"go {id}", item_id=id)
        tell("sent", id)
        await agent.complete()
        await agent.close()
    tell("done")


async def fight(store: Store, folder: Path, name: str) -> None:
    deps = dependencies(store, folder)
    chance = random.Random(name)
    limits = Limits(lease_s=1.0, lease_margin_s=0.3, due_poll_s=0.02, max_recoveries=1_000, cancel_grace_s=0.5)
    Driver.run = _told(Driver.run)  # type: ignore[method-assign]
    async with deps.store:
        agent = await Agent.resume_or_create(config(folder, limits, "mark"), deps, strategy="manual")
        over = (folder / "over").exists
        for count in itertools.count(1):
            id = f"{name}{count}"
            await agent.send(f"go {id}", item_id=id)
            tell("sent", id)
            if chance.random() < 0.7:
                result = await agent.run(f"go {id}", item_id=id)
                tell("ran", id, result.status)
            if over():
                break
        await agent.close()
    tell("done")


def _told(run: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Tell how each drive ended."""

    async def told(self: Driver, **options: Any) -> Any:
        try:
            drive = await run(self, **options)
        except Exception as error:
            tell("lost", type(error).__name__, getattr(error, "code", ""))
            raise
        tell("drove")
        return drive

    return told


if __name__ == "__main__":
    mode, kind, place, who, *rest = sys.argv[1:]
    opened = open_store(kind, Path(place))
    if mode == "once":
        anyio.run(once, opened, Path(place), who, *rest)
    else:
        anyio.run(fight, opened, Path(place), who)
