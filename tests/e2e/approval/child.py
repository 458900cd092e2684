"""One real process; started by the tests beside it.

child.py ask    <store> <folder> <version> <days>           make agents whose calls wait, and say "paused"
child.py finish <store> <folder> <version> <days>           decide them all and go on; print what came of each
child.py decide <store> <folder> <name> <decision> <agents> on "go", decide a call of each agent; print won or lost
child.py pool   <store> <folder>                            look after all agents until killed
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import anyio

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.e2e.approval.world import dependencies, new_agent, open_store, version

from kode.core import decide
from kode.core.errors import DuplicateIdError
from kode.core.runtime.agent import Agent
from kode.core.runtime.pool import AgentPool


async def ask(kind: str, folder: Path, number: str, days: str) -> None:
    """Agent ``a`` waits; ``b`` was answered already, and has a message besides, both still in its inbox."""
    with version(int(number)):
        async with open_store(kind, folder, float(days)) as store:
            deps = dependencies(store, folder, float(days))
            for name in ("a", "b"):
                agent = await new_agent(deps, name)
                assert (await agent.run("Ann Bob")).status == "paused"
            await decide(store, "b", "1.1.1", "allow", by="Early", note="Go")
            await agent.send("Zoe")
    print("paused", flush=True)


async def finish(kind: str, folder: Path, number: str, days: str) -> None:
    with version(int(number)):
        async with open_store(kind, folder, float(days)) as store:
            deps = dependencies(store, folder, float(days))
            await decide(store, "a", "1.1.1", "allow", by="Late", note="Well")
            for name in ("a", "b"):
                agent = await Agent.open(name, deps)
                await decide(store, name, "1.1.2", "deny", by="Late", note="No")
                result = await agent.complete()
                print(json.dumps([name, result.status, result.text]), flush=True)


async def race(kind: str, folder: Path, name: str, decision: Any, agents: str) -> None:
    async with open_store(kind, folder) as store:
        print("ready", flush=True)
        sys.stdin.readline()
        for n in range(int(agents)):
            try:
                await decide(store, f"a{n}", "1.1.1", decision, by=name, note="mine")
                print("won", flush=True)
            except DuplicateIdError:
                print("lost", flush=True)


async def look_after(kind: str, folder: Path) -> None:
    async with open_store(kind, folder) as store, AgentPool(dependencies(store, folder)):
        print("ready", flush=True)
        await anyio.sleep_forever()


TASKS: dict[str, Any] = {"ask": ask, "finish": finish, "decide": race, "pool": look_after}

if __name__ == "__main__":
    mode, kind, place, *rest = sys.argv[1:]
    anyio.run(TASKS[mode], kind, Path(place), *rest)
