"""pydantic-ai: in memory as it comes, and durable on DBOS. The history is handed in by its user, turn by turn."""

from __future__ import annotations

import asyncio

from dbos import DBOS, DBOSConfig
from peer import AGENT_ROUNDS, HISTORY, ROUNDS, TEXT, arguments, measure, model_time, tell_versions
from pydantic_ai import Agent
from pydantic_ai.durable_exec.dbos import DBOSDurability
from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, ToolCallPart, UserPromptPart
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.usage import UsageLimits


def agent(name: str, rounds: int, slow: bool = False) -> Agent:
    """An agent of that many rounds."""

    async def model(messages, info):
        if slow:
            await model_time()
        called = 0
        for message in reversed(messages):
            if any(part.part_kind == "user-prompt" for part in message.parts):
                break
            called += message.kind == "response"
        if called < rounds:
            return ModelResponse([ToolCallPart("look", {"path": "a.py"})])
        return ModelResponse([TextPart("Done.")])

    # Transparent outside a workflow, so that the same agent serves the rows in memory.
    made = Agent(FunctionModel(model), name=name, instructions="Look.", capabilities=[DBOSDurability()])

    @made.tool_plain
    async def look(path: str) -> str:
        """Look at something."""
        return f"{path}: nothing special"

    return made


AGENTS = {
    name: agent(name, rounds, slow)
    for name, rounds, slow in (("ten", ROUNDS, False), ("many", AGENT_ROUNDS, True), ("one", 0, False))
}


async def turn(name: str, history: list | None = None) -> str:
    """One turn of an agent."""
    result = await AGENTS[name].run("go", message_history=history, usage_limits=UsageLimits(request_limit=None))
    assert result.output == "Done."
    return result.output


# The workflow takes the history as its input, which DBOS keeps: that is how a user of both would do it.
durable_turn = DBOS.workflow()(turn)


async def main():
    """All rows in memory, then as DBOS workflows."""
    asked = arguments()
    tell_versions("pydantic-ai-slim", "dbos")
    history = [
        kind([part(TEXT)])
        for _ in range(HISTORY // 2)
        for kind, part in ((ModelRequest, UserPromptPart), (ModelResponse, TextPart))
    ]

    async def rows(store, turn):
        await measure("ten", store, lambda: turn("ten"), asked.times)

        async def all_of_them():
            await asyncio.gather(*(turn("many") for _ in range(asked.agents)))

        await measure("agents", store, all_of_them, 1, warm=0)
        await measure("turn", store, lambda: turn("one", history), asked.times)

    await rows("memory (no store)", turn)
    for store, url in (("sqlite (DBOS)", f"sqlite:///{asked.folder}/a.db"), ("postgres (DBOS)", asked.postgres)):
        DBOS(config=DBOSConfig(name="bench", system_database_url=url, run_admin_server=False, log_level="ERROR"))
        DBOS.launch()
        await rows(store, durable_turn)
        DBOS.destroy()


asyncio.run(main())
