"""Agents that ask a person, and the formats that an earlier and a later KODE would write; used by both processes."""

from __future__ import annotations

import json
import os
import re
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from kode.core.clock import RealClock
from kode.core.config import AgentConfig, Dependencies
from kode.core.kernel.limits import Limits
from kode.core.provider.base import ModelRequest
from kode.core.provider.script import Turn, calls, last_text, say
from kode.core.provider.scripted import ScriptedProvider
from kode.core.runtime.agent import Agent
from kode.core.store.base import Store
from kode.core.store.json import JSONStore
from kode.core.store.records import codec
from kode.core.store.sqlite import SqliteStore
from kode.core.template import AgentTemplate
from kode.core.tools.base import ToolContext
from kode.core.tools.define import tool

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY_S = 86_400.0


class Later(RealClock):
    """The machine's clock, so many days later."""

    def __init__(self, days: float = 0) -> None:
        self.days = days

    def now(self) -> int:
        return super().now() + round(self.days * DAY_S * 1e6)


@tool(needs_approval=True)
async def pay(context: ToolContext, to: str, amount: int = 1) -> str:
    """Pay somebody."""
    file = os.open(context.services["ledger"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{context.agent_id} {to} {amount}\n".encode())
    os.close(file)
    return f"paid {to}"


def think(request: ModelRequest) -> Turn:
    """Pay all who are named, then tell what came of it."""
    if request.messages[-1].origin == "tools":
        return say(f"done: {last_text(request)}", delay_s=0.0)
    return calls(*(("pay", {"to": name}) for name in last_text(request).split()))


TEMPLATE = AgentTemplate("t", model="m", tools=("pay",), limits=Limits(due_poll_s=0.1, approval_deadline_s=60 * DAY_S))


def open_store(kind: str, folder: Path, days: float = 0) -> Store:
    clock = Later(days)
    if kind == "json":
        return JSONStore(folder / "kode", durability="process", clock=clock)
    return SqliteStore(folder / "agents.db", durability="process", clock=clock)


def dependencies(store: Store, folder: Path, days: float = 0) -> Dependencies:
    services = {"ledger": str(folder / "ledger")}
    return Dependencies(store, [pay], {"m": ScriptedProvider(think)}, services=services, clock=Later(days))


async def new_agent(deps: Dependencies, agent_id: str) -> Agent:
    return await Agent.create(AgentConfig(TEMPLATE, agent_id=agent_id), deps)


def ledger(folder: Path) -> list[str]:
    file = folder / "ledger"
    return file.read_text().splitlines() if file.exists() else []


# ---- formats ----------------------------------------------------------------------------------------------------

OLD_NAMES = {"reason": "why", "note": "remark", "blocks": "parts", "window": "view", "call": "about"}
"""Fields of today as version 1 would have called them, had they been renamed since."""


class _Older:
    """Writes and reads bodies with the names of old."""

    def __init__(self, now: Any) -> None:
        self._now = now

    def write(self, value: Any) -> bytes:
        return _renamed(self._now.write(value), OLD_NAMES)

    def read(self, data: bytes) -> Any:
        return self._now.read(_renamed(data, {old: new for new, old in OLD_NAMES.items()}))


def _renamed(data: bytes, names: dict[str, str]) -> bytes:
    return re.sub(rb'(?<!\\)"(\w+)":', lambda m: b'"%b":' % names.get(m[1].decode(), m[1].decode()).encode(), data)


def upgrade(kind: codec.BodyKind, parsed: Any) -> Any:
    """Version 2 renamed some fields."""
    return json.loads(_renamed(json.dumps(parsed).encode(), {old: new for new, old in OLD_NAMES.items()}))


@contextmanager
def version(number: int) -> Iterator[None]:
    """Be a KODE of that version: 1 with its old names, or 2, which has today's and takes version 1 up to them."""
    real = codec.adapter
    with ExitStack() as patches:
        if number == 1:
            patches.enter_context(patch.object(codec, "adapter", cache(lambda kind: _Older(real(kind)))))
        else:
            for name, value in {
                "VERSION": 2, "_NOW": b"2", "_OPENINGS": (b"2{", b"2["), "UPGRADES": {1: upgrade},
            }.items():  # fmt: skip
                patches.enter_context(patch.object(codec, name, value))
        yield
