"""Use the installed wheel `kode-store-postgres` without a source tree or test tools; scripts/check-wheels runs it.

KODE_TEST_POSTGRES_URL names a server.
"""

import os
import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path

import anyio

from kode.core import Agent, AgentConfig, AgentTemplate, Dependencies, ScriptedProvider, open_store, tool
from kode.core.provider import calls, say

assert any("kode-store-postgres" in one and "postgres" in one for one in requires("kode-core") or ()), "no such extra"
assert version("kode-store-postgres")

URL = f"{os.environ['KODE_TEST_POSTGRES_URL']}?schema=kode_wheel_{os.getpid()}"
KODE = Path(sys.executable).with_name("kode")


@tool(readonly=True)
async def shout(text: str) -> str:
    """Say it louder."""
    return text.upper()


async def main() -> None:
    """One run, then the same agent from another store object."""
    model = ScriptedProvider([calls(("shout", {"text": "hi"})), say("Done.")])
    config = AgentConfig(AgentTemplate("wheel", model="scripted", tools=("shout",)), agent_id="wheel/1")
    async with open_store(f"{URL}&auto_migrate=never") as store:
        bound = Dependencies(store, tools=[shout], providers={"scripted": model})
        async with await Agent.create(config, bound) as agent:
            result = await agent.run("Go.")
            assert (result.status, result.text, result.steps) == ("ok", "Done.", 2), result
    async with open_store(URL) as store:
        assert "HI" in str((await store.read_messages("wheel/1")).items)
        await store.server.fetch(f"DROP SCHEMA {store.schema} CASCADE", again=frozenset())


def run(*command: str) -> str:
    """Run a command and give what it says."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command[:-1], done.stdout + done.stderr)
    return done.stdout


# The migrations are in the wheel, with the command that applies them, with the CLI and without.
assert run(str(KODE), "store", "schema", "status", URL).startswith("missing 0001_pre_begin")
assert run(str(KODE), "store", "schema", "upgrade", URL).startswith("applied 0001_pre_begin")
assert run(sys.executable, "-I", "-m", "kode.store.postgres", "status", URL).startswith("applied 0001_pre_begin")
anyio.run(main)
