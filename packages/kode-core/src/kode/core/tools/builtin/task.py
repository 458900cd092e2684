"""Work for another agent: a sub-agent with a template of its own takes a task and its answer is the call's result."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kode.core.tools.base import Suspended, ToolContext, ToolError
from kode.core.tools.define import tool

__all__ = ["task_run"]


@tool(
    readonly=True,
    spawns=True,
    prompt="Use task_run for work that stands by itself. The sub-agent knows nothing of this conversation: put all it "
    "needs into the prompt and say what it is to answer. Several calls in one reply run side by side.",
)
async def task_run(
    agent: Annotated[str, Field(min_length=1)],
    prompt: Annotated[str, Field(min_length=1)],
    context: ToolContext,
) -> Suspended:
    """Give a task to a sub-agent and wait for its answer, which is returned as text.

    Args:
        agent: Which sub-agent, by its name.
        prompt: The whole task.
        context: For whom it works; not shown to the model.
    """
    # It changes nothing by itself: what the sub-agent does is judged by its own policy, within this agent's.
    if context.subagents is None:
        raise ToolError("There are no sub-agents here; do the task yourself.", code="no_subagents")
    return await context.subagents.start(agent, prompt)
