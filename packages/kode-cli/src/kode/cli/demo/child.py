"""The agent's process: `python -m kode.cli.demo.child WORK`. It is killed and started again; both do the same.

Whatever an earlier process left is resumed from the store. The task is sent under a fixed id, so sending it again
adds nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from kode.cli.demo.planner import Planner
from kode.cli.demo.settings import AGENT_ID, Settings
from kode.cli.demo.tools import demo_tools
from kode.core import Agent, AgentConfig, AgentTemplate, Dependencies, KodeError, Limits, ScriptedProvider, SqliteStore
from kode.core.jsontext import dump

__all__ = ["work"]

TASK = "Survey the files below files/ and write REPORT.md: how many, how large, what is in them."


async def work(settings: Settings) -> str | None:
    """Resume the agent, or make it, and see its task through. Returns what went wrong, or None."""
    tools = demo_tools(settings)
    template = AgentTemplate(
        "surveyor",
        system_prompt="Survey files with your tools. Look before you run anything twice.",
        model="scripted",
        tools=tuple(one.name for one in tools),
        limits=Limits(max_tool_result_bytes=1_000_000),
        sandbox_options=dump({"root": str(settings.work)}),
    )
    async with SqliteStore(settings.database, durability="power") as store:
        provider = ScriptedProvider(Planner(settings), keep_requests=False)
        deps = Dependencies(store, tools=tools, providers={"scripted": provider})
        agent = await Agent.resume_or_create(AgentConfig(template, AGENT_ID), deps)
        async with agent:
            result = await agent.run(TASK, item_id="task")
    if result.ok:
        return None
    return result.error.text if result.error is not None else f"The run ended with {result.stop_reason}."


def main() -> int:
    """Run one process of the agent."""
    settings = Settings.load(Path(sys.argv[1]))
    if settings is None:
        print(f"{sys.argv[1]} is no work folder of a demo.", file=sys.stderr)
        return 2
    try:
        problem = anyio.run(work, settings)
    except KeyboardInterrupt:
        return 130
    except KodeError as error:
        problem = error.message
    except OSError as error:
        problem = str(error)
    if problem:
        print(problem, file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
