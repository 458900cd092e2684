"""What the requests of these tests do; imported by the tests and by the processes that they start."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.sandboxes.near import Near

from kode.core.config import Dependencies
from kode.core.kernel.limits import Limits
from kode.core.provider.base import ModelRequest
from kode.core.provider.script import Turn, call, calls, say
from kode.core.provider.scripted import ScriptedProvider
from kode.core.sandbox.catalog import SandboxFactory
from kode.core.store.base import Store
from kode.core.store.json import JSONStore
from kode.core.store.memory import MemoryStore
from kode.core.store.open import open_store as store_at
from kode.core.store.sqlite import SqliteStore
from kode.core.template import AgentTemplate
from kode.core.tools.base import ToolContext
from kode.core.tools.define import tool

NEAR = SandboxFactory()
NEAR.register("near", Near)


@tool(readonly=True, recovery="retry")
async def look(context: ToolContext) -> str:
    """Take a while; it may be done again."""
    await context.clock.sleep(context.services["chance"].uniform(0, context.services["slow_s"]))
    return "seen"


@tool
async def pay(context: ToolContext) -> str:
    """Do what must not be done twice, and take a while before and after."""
    await context.clock.sleep(context.services["slow_s"] / 4)
    write(context.services["ledger"], context.idempotency_key)
    await context.clock.sleep(context.services["slow_s"] / 4)
    return "paid"


@tool
async def hang(context: ToolContext) -> str:
    """Do what must not be done twice, and never end."""
    write(context.services["ledger"], context.idempotency_key)
    print("in tool", flush=True)
    await context.clock.sleep(10**6)
    return "never"


def write(ledger: str, line: str) -> None:
    """Add a line that outlives this process."""
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{line}\n".encode())
    os.close(file)


def think(request: ModelRequest) -> Turn:
    """Look twice at once, pay, look again, and say what was asked; or hang, or only pay, if that is asked."""
    steps, asked = 0, ""
    for message in reversed(request.messages):
        if message.origin is None or message.origin.startswith("inbox:"):
            if message.role == "user":
                asked = getattr(message.blocks[0], "text", "")
                break
        steps += message.role == "assistant"
    way = {"hang": [call("hang", {})], "once": [call("pay", {})]}.get(asked.partition(" ")[0], LONG)
    return way[steps] if steps < len(way) else say(f"end {asked}")


LONG = [calls(("look", {}), ("look", {})), call("pay", {}), call("look", {})]
TEMPLATE = AgentTemplate(
    "t", model="m", tools=("look", "pay", "hang"), sandbox="near", limits=Limits(max_recoveries=1_000, due_poll_s=0.1)
)


def template(kind: str) -> AgentTemplate:
    """A store over a network does not take a dead process's lease before its term is over, so that is short there."""
    return (
        TEMPLATE.changed(limits=replace(TEMPLATE.limits, lease_s=1.0, lease_margin_s=0.3))
        if "://" in kind
        else TEMPLATE
    )


def open_store(kind: str, folder: Path, **options: Any) -> Store:
    if kind == "memory":
        return MemoryStore(**options)
    if "://" in kind:
        return store_at(kind, **options)
    if kind == "json":
        return JSONStore(folder / "kode", durability="process", **options)
    return SqliteStore(folder / "agents.db", durability="process", **options)


def dependencies(store: Store, folder: Path, *, seed: int = 0, slow_s: float = 0.0, **more: Any) -> Dependencies:
    services = {"ledger": str(folder / "ledger"), "slow_s": slow_s, "chance": random.Random(seed)}
    clock = {"clock": more["clock"]} if "clock" in more else {}
    provider = ScriptedProvider(think, keep_requests=False, **clock)
    return Dependencies(store, [look, pay, hang], {"m": provider}, sandboxes=NEAR, services=services, **more)
