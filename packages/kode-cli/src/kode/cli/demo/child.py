"""The agent's process: `python -m kode.cli.demo.child WORK`. It is killed and started again; all do the same.

Whatever an earlier process left is resumed from the store. The task is sent under a fixed id, so sending it again
adds nothing. When a call needs a person's decision, the process ends: the question is in the store.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from kode.cli.demo.agent import TASK, config, dependencies
from kode.cli.demo.settings import Settings
from kode.core import Agent, KodeError, SqliteStore

__all__ = ["work"]


async def work(settings: Settings) -> str | None:
    """Resume the agent, or make it, and see its task through. Returns what went wrong, or None."""
    async with SqliteStore(settings.database, durability="power") as store:
        agent = await Agent.resume_or_create(config(settings), dependencies(settings, store))
        async with agent:
            result = await agent.run(TASK, item_id="task")
    if result.ok or result.status == "paused":
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
