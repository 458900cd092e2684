"""What a start costs: imports, a cold process, one request to a stored agent."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

import anyio
from figures import spread, timed
from workload import TEMPLATE, dependencies, fill, open_sqlite

from kode.core import Agent, Dependencies, ScriptedProvider, StatelessAgent
from kode.core.provider import say


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
        rows[name] = spread(taken)
    return rows


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
    return {name: spread(all_) for name, (_, *all_) in taken.items()}


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
            rows[f"1,000 messages, from the request to its model call, sqlite {durability}"] = spread(to_model)
    return rows
