"""One real process with a pool; started and killed by ``test_subagent_kill.py``.

family.py <folder>   drive agents and their sub-agents until killed
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio

from kode.core import AgentPool, AgentTemplate, Dependencies, Limits, SqliteStore, ToolContext
from kode.core.kernel.message import ToolUseBlock
from kode.core.provider.base import ModelRequest
from kode.core.provider.script import Turn, calls, delay, last_text, say
from kode.core.provider.scripted import ScriptedProvider
from kode.core.tools.builtin import task_run
from kode.core.tools.define import tool

LIMITS = Limits(lease_s=2.0, due_poll_s=0.05, max_recoveries=1_000)
HELPER = AgentTemplate("helper", "helper", tools=("mark",), limits=LIMITS)
BOSS = AgentTemplate("boss", "boss", model="m", tools=("task_run",), subagents=("helper",), limits=LIMITS)


@tool
async def mark(context: ToolContext) -> str:
    """Write the ledger."""
    ledger = os.open(context.services["ledger"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, f"{context.idempotency_key}\n".encode())
    os.close(ledger)
    await anyio.sleep(0.05)
    return "marked"


def think(request: ModelRequest) -> Turn:
    """Five rounds of two tasks each, then done; a task is one call of the tool."""
    asked = sum(isinstance(b, ToolUseBlock) for m in request.messages for b in m.blocks)
    if request.system.startswith("boss"):
        work = calls(*[("task_run", {"agent": "helper", "prompt": f"{asked}.{n}"}) for n in (1, 2)])
        return delay(0.06, work if asked < 10 else say("all done"))
    return delay(0.06, say(last_text(request)) if asked else calls(("mark", {})))


def dependencies(folder: Path) -> Dependencies:
    return Dependencies(
        SqliteStore(folder / "agents.db", durability="process"),
        tools=[task_run, mark],
        templates=[HELPER],
        providers={"m": ScriptedProvider(think)},
        services={"ledger": str(folder / "ledger")},
    )


async def main(folder: Path) -> None:
    deps = dependencies(folder)
    async with deps.store, AgentPool(deps, limits=Limits(due_poll_s=0.05)):
        print("ready", flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
