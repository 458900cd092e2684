"""Use the installed wheel `kode-core` without a source tree or test tools; scripts/check-wheels runs it."""

import tempfile
from importlib.metadata import entry_points, version
from importlib.resources import files
from pathlib import Path

import anyio

import kode.core
from kode.core import Agent, AgentConfig, AgentTemplate, Dependencies, ScriptedProvider, open_store, tool
from kode.core.provider import calls, say

assert version("kode-core")
assert files(kode.core).joinpath("py.typed").is_file(), "type checkers would ignore the wheel's annotations"
assert "memory" in entry_points(group="kode.store").names


@tool(readonly=True)
async def shout(text: str) -> str:
    """Say it louder."""
    return text.upper()


async def main(url: str, root: str) -> None:
    """One run with a tool of our own and a built-in one, then the same agent opened again."""
    model = ScriptedProvider([calls(("shout", {"text": "hi"}), ("bash_run", {"cmd": "echo $((6*7))"})), say("Done.")])
    template = AgentTemplate(
        "wheel", model="scripted", tools=("shout", "bash_run"), sandbox_options=f'{{"root":"{root}"}}'
    )
    config = AgentConfig(template, agent_id="wheel/1")
    async with open_store(url) as store:
        bound = Dependencies(store, tools=[shout], providers={"scripted": model})
        async with await Agent.create(config, bound) as agent:
            result = await agent.run("Go.")
            assert (result.status, result.text, result.steps) == ("ok", "Done.", 2), result
        again = await Agent.open("wheel/1", bound)
        told = str((await store.read_messages(again.agent_id)).items)
        assert "HI" in told, told
        assert "42" in told, told


with tempfile.TemporaryDirectory() as folder:
    for backend in ("asyncio",):
        for url in ("memory:", f"sqlite:///{Path(folder) / 'agents.db'}"):
            anyio.run(main, url, folder, backend=backend)
