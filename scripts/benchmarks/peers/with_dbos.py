"""DBOS: the loop of model and tool written by hand as a durable workflow, each call a step."""

from __future__ import annotations

import asyncio

from dbos import DBOS, DBOSConfig
from peer import AGENT_ROUNDS, ROUNDS, arguments, measure, model_time, tell_versions


@DBOS.step()
async def model(messages: list[dict], rounds: int, slow: bool) -> dict:
    """One reply."""
    if slow:
        await model_time()
    called = sum(1 for message in messages if message["role"] == "assistant")
    if called < rounds:
        return {"role": "assistant", "call": {"name": "look", "input": {"path": "a.py"}}}
    return {"role": "assistant", "text": "Done."}


@DBOS.step()
async def look(path: str) -> str:
    """One call of the tool."""
    return f"{path}: nothing special"


@DBOS.workflow()
async def agent(message: str, rounds: int, slow: bool) -> str:
    """One run."""
    messages = [{"role": "user", "text": message}]
    while True:
        reply = await model(messages, rounds, slow)
        messages.append(reply)
        if "call" not in reply:
            return reply["text"]
        messages.append({"role": "user", "result": await look(reply["call"]["input"]["path"])})


async def main():
    """Ten rounds and many agents; a workflow has no history from turn to turn."""
    asked = arguments()
    tell_versions("dbos")
    for store, url in (("sqlite", f"sqlite:///{asked.folder}/a.db"), ("postgres", asked.postgres)):
        DBOS(config=DBOSConfig(name="bench", system_database_url=url, run_admin_server=False, log_level="ERROR"))
        DBOS.launch()

        async def one():
            assert await agent("go", ROUNDS, False) == "Done."

        async def all_of_them():
            await asyncio.gather(*(agent("go", AGENT_ROUNDS, True) for _ in range(asked.agents)))

        await measure("ten", store, one, asked.times)
        await measure("agents", store, all_of_them, 1, warm=0)
        DBOS.destroy()


asyncio.run(main())
