"""What compaction costs where it cannot help, and how large a window is that was taken back."""

from __future__ import annotations

from typing import Any

import pytest

from kode.core.kernel.context import ContextPolicy
from kode.core.kernel.message import Usage
from kode.core.provider.base import ModelRequest
from kode.core.provider.script import Turn, call, say
from kode.core.runtime.agent import Agent
from kode.core.runtime.context.estimate import request_tokens
from kode.core.template import AgentTemplate
from kode.core.tools.define import tool


@tool(readonly=True)
async def page(x: int) -> str:
    """Read a page."""
    return "word " * 900


@pytest.mark.parametrize("pinned", [False, True])
async def test_a_prompt_above_the_bound_is_no_storm_of_summaries(lab: Any, pinned: bool) -> None:
    asked = {"summaries": 0, "steps": 0}

    def think(request: ModelRequest) -> Turn:
        summing = "You write the summary" in str(request.system)
        asked["summaries" if summing else "steps"] += 1
        turn = say("sum") if summing else call("page", {"x": 1}) if asked["steps"] < 40 else say("end")
        return Turn(turn.blocks, usage=Usage())

    words = "word " * 20_000
    template = AgentTemplate(
        "t",
        model="m",
        tools=("page",),
        system_prompt="be" if pinned else words,
        context=ContextPolicy(max_tokens=10_000),
    )
    agent = await Agent.create(template=template, agent_id="a", dependencies=lab.deps(think, page))
    if pinned:
        for _ in range(3):
            await agent.send("word " * 4_500, metadata='{"pinned": true}')
        await agent.complete()
        asked.update(steps=0, summaries=0)
    await agent.run("go")
    assert asked["steps"] >= 40
    assert 1 <= asked["summaries"] <= 10


async def test_the_size_of_a_window_that_was_taken_back_is_estimated(lab: Any) -> None:
    """What came since the compaction is shown again too: it must not be sent whole because an old number is small."""
    sizes: list[int] = []

    def think(request: ModelRequest) -> Turn:
        if "You write the summary" in str(request.system):
            return say("sum")
        sizes.append(request_tokens(request))
        return Turn(say("word " * 200).blocks, usage=Usage())

    template = AgentTemplate("t", model="m", context=ContextPolicy(max_tokens=4_000))
    agent = await Agent.create(template=template, agent_id="a", dependencies=lab.deps(think))
    for _ in range(3):
        await agent.run("word " * 200)
    await agent.compact()
    await agent.complete()
    for _ in range(30):
        await agent.run("word " * 200)
    await agent.revert((await agent.compactions())[0].id)
    await agent.run("hi")
    assert max(sizes) <= 4_500
