"""Real processes: one pool is killed in the middle, or told to end, and the next one finishes all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import anyio
import pytest

from kode.core.store import open_store

pytestmark = pytest.mark.integration

AGENTS = 20
PROGRAM = """
import os, sys
import anyio
from kode.core import AgentPool, AgentTemplate, Dependencies, Limits, ScriptedProvider, ToolContext
from kode.core import open_store, tool
from kode.core.provider.script import call, say

url, ledger, what = sys.argv[1:]

@tool(recovery="retry")
async def work(context: ToolContext) -> str:
    '''Work; in the first process it takes for ever.'''
    with open(ledger, "a") as file:  # one write, so that lines do not mix
        file.write(f"{context.agent_id} {context.idempotency_key}\\n")
    if what == "begin":
        await anyio.sleep_forever()
    return "worked"

def answer(request):
    worked = request.messages[-1].blocks[0].type == "tool_result"
    return say("done") if worked else call("work", {})

async def main():
    async with open_store(url) as store:
        deps = Dependencies(store, tools=[work], providers={"m": ScriptedProvider(answer)})
        async with AgentPool(deps, limits=Limits(max_agents=30, lease_s=120), signals=True) as pool:
            if what == "begin":
                for n in range(20):
                    agent = await pool.create(template=AgentTemplate("t", model="m", tools=("work",)), agent_id=f"a{n}")
                    await agent.send("go")
                print("begun", flush=True)
                await anyio.sleep_forever()
            while any([(await store.read_state(f"a{n}")).effects for n in range(20)]):
                await anyio.sleep(0.1)  # long before the leases of a killed driver run out: here it is known to be dead
        print(len(pool.report.recovering), len(pool.report.rested), flush=True)

anyio.run(main, backend=os.environ["LOOP"])
"""


@pytest.mark.parametrize(
    ("kind", "how", "loop"),
    [("sqlite", "kill", "asyncio"), ("json", "kill", "trio"), ("sqlite", "end", "trio"), ("json", "end", "asyncio")],
)
def test_the_next_pool_finishes_what_the_last_one_left(tmp_path: Path, kind: str, how: str, loop: str) -> None:
    ledger = tmp_path / "ledger"
    url = f"sqlite:///{tmp_path}/agents.db" if kind == "sqlite" else f"json:{tmp_path}/agents"
    command = [sys.executable, "-W", "error", "-c", PROGRAM, url, str(ledger)]
    environment = {**os.environ, "LOOP": loop}

    with subprocess.Popen(
        [*command, "begin"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    ) as first:
        for _ in range(3_000):
            if ledger.exists() and len(ledger.read_text().splitlines()) == AGENTS:
                break
            assert first.poll() is None, first.communicate()[1]
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL if how == "kill" else signal.SIGTERM)
        said, errors = first.communicate(timeout=60)
    if how == "kill":
        assert first.returncode == -signal.SIGKILL
    else:  # the tools were cancelled, and what became of them the next process has to say
        assert (said.split(), errors, first.returncode) == (["begun", "20", "0"], "", 0)

    second = subprocess.run(
        [*command, "finish"], capture_output=True, env=environment, text=True, check=False, timeout=40
    )
    assert (second.returncode, second.stderr) == (0, "")
    lines = Counter(ledger.read_text().splitlines())
    assert len(lines) == AGENTS
    assert set(lines.values()) == {2}, "each call was made again once, under its key"
    anyio.run(finished, url)


async def finished(url: str) -> None:
    async with open_store(url) as store:
        for n in range(AGENTS):
            messages = (await store.read_messages(f"a{n}")).items
            assert [message.role for message in messages] == ["user", "assistant", "user", "assistant"]
        assert await store.due(await store.now(), 1) == []
