"""OpenAI Agents SDK: its runner with its sessions. A session is written as a run goes; a crashed run is not resumed."""

from __future__ import annotations

import asyncio
import itertools

from agents import (
    Agent,
    ModelResponse,
    ModelSettings,
    Runner,
    SQLiteSession,
    Usage,
    function_tool,
    set_tracing_disabled,
)
from agents.extensions.memory import SQLAlchemySession
from agents.models.interface import Model
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText
from peer import AGENT_ROUNDS, HISTORY, ROUNDS, TEXT, arguments, measure, model_time, tell_versions
from sqlalchemy.ext.asyncio import create_async_engine

NUMBERS = itertools.count()
set_tracing_disabled(True)


@function_tool
async def look(path: str) -> str:
    """Look at something."""
    return f"{path}: nothing special"


class Scripted(Model):
    """Calls the tool so often since the last user message, and then answers."""

    def __init__(self, rounds, slow=False):
        self.rounds, self.slow = rounds, slow

    async def get_response(self, system_instructions, input, *args, **kwargs):
        """One reply."""
        if self.slow:
            await model_time()
        called = 0
        for item in reversed(input if isinstance(input, list) else []):
            if item.get("role") == "user":
                break
            called += item.get("type") == "function_call"
        if called < self.rounds:
            n = next(NUMBERS)
            out = ResponseFunctionToolCall(
                id=f"f{n}", call_id=f"c{n}", name="look", arguments='{"path": "a.py"}', type="function_call"
            )
        else:
            text = ResponseOutputText(text="Done.", type="output_text", annotations=[])
            out = ResponseOutputMessage(id="m", content=[text], role="assistant", status="completed", type="message")
        return ModelResponse(output=[out], usage=Usage(), response_id=None)

    def stream_response(self, *args, **kwargs):
        """Not measured."""
        raise NotImplementedError


def agent(rounds, slow=False):
    """An agent of that many rounds."""
    return Agent(
        "bench", instructions="Look.", model=Scripted(rounds, slow), tools=[look], model_settings=ModelSettings()
    )


async def turn(who, session):
    """One turn of a session."""
    result = await Runner.run(who, "go", session=session, max_turns=50)
    assert result.final_output == "Done."


async def main():
    """All rows on all stores."""
    asked = arguments()
    tell_versions("openai-agents", "sqlalchemy", "asyncpg")
    url = asked.postgres.replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(url, pool_size=10, max_overflow=0, pool_timeout=300)
    await SQLAlchemySession("first", engine=engine, create_tables=True).get_items()
    sqlite = f"{asked.folder}/a.db"
    stores = {
        "memory (no session)": lambda name: None,
        "sqlite": lambda name: SQLiteSession(name, sqlite),
        "postgres": lambda name: SQLAlchemySession(name, engine=engine),
    }
    for store, session in stores.items():
        ten, many, one = agent(ROUNDS), agent(AGENT_ROUNDS, slow=True), agent(0)
        await measure("ten", store, lambda a=ten, s=session: turn(a, s(f"t{next(NUMBERS)}")), asked.times)

        async def all_of_them(many=many, session=session):
            await asyncio.gather(*(turn(many, session(f"m{next(NUMBERS)}")) for _ in range(asked.agents)))

        if store != "sqlite":  # a thread and a connection each: 1,000 of them end in "too many open files"
            await measure("agents", store, all_of_them, 1, warm=0)
        if session("x") is not None:
            long = session("long")
            roles = ("user", "assistant")
            await long.add_items([{"role": roles[n % 2], "content": TEXT} for n in range(HISTORY)])
            await measure("turn", store, lambda a=one, s=session: turn(a, s("long")), asked.times)


asyncio.run(main())
