"""One real process that serves requests; started and killed by ``test_processes.py``.

child.py deliver <store> <folder> <name> <agents> <requests>  serve all requests; tell each result
child.py hang    <store> <folder> <request id>                serve one that never ends
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.e2e.stateless.world import TEMPLATE, dependencies, open_store, template

from kode.core.config import Dependencies
from kode.core.runtime.stateless import StatelessAgent


async def deliver(kind: str, folder: Path, name: str, agents: int, requests: int) -> None:
    async with open_store(kind, folder) as store:
        deps = dependencies(store, folder, holder=name)
        print("ready", flush=True)
        sys.stdin.readline()
        async with anyio.create_task_group() as tasks:
            for one in range(agents):
                tasks.start_soon(serve, deps, one, agents, requests)


async def serve(deps: Dependencies, one: int, agents: int, requests: int) -> None:
    for n in range(one, requests, agents):
        result = await StatelessAgent.run(
            f"a{one}", f"once {n}", template_id=TEMPLATE, request_id=f"r{n}", dependencies=deps, timeout_s=60.0
        )
        print("result", n, json.dumps(result.to_dict(), sort_keys=True), flush=True)


async def stand(kind: str, folder: Path, request_id: str) -> None:
    async with open_store(kind, folder) as store:
        deps = dependencies(store, folder)
        await StatelessAgent.run("a", "hang", template_id=template(kind), request_id=request_id, dependencies=deps)


if __name__ == "__main__":
    mode, kind, place, who, *rest = sys.argv[1:]
    if mode == "deliver":
        anyio.run(deliver, kind, Path(place), who, int(rest[0]), int(rest[1]))
    else:
        anyio.run(stand, kind, Path(place), who)
