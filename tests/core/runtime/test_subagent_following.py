"""Sub-agents: a family can be followed, and nobody else answers for them."""

from __future__ import annotations

from typing import Any

import anyio
from tests.core.runtime.home import Home, asked, asks, by_role, echo, everyone, results, task, template

from kode.core.hook import Deny, Hooks, ToolUse
from kode.core.plugin import Plugin
from kode.core.provider.base import ModelRequest
from kode.core.provider.script import Turn, calls, say
from kode.core.runtime.agent import Agent
from kode.core.tools.builtin import task_run
from kode.core.tools.define import tool


async def test_the_family_can_be_followed(lab: Any) -> None:
    helper = template("helper", tools=("task_run",), subagents=("leaf",))
    home = Home(
        lab, by_role(boss=asks(task(), task()), helper=asks(task(agent="leaf")), leaf=echo), helper, template("leaf")
    )
    parent = await home.parent(subagents=("helper",))
    seen: list[tuple[str, int]] = []
    answers: list[str] = []
    async with anyio.create_task_group() as tasks:
        events = await parent.follow(["progress"])

        async def read() -> None:
            async for envelope in events:
                assert envelope.channel == "progress"
                if envelope.event.durable:
                    seen.append((envelope.agent_id, envelope.cursor))
                if envelope.type == "done":
                    answers.append(envelope.agent_id)
                    if len(answers) == 5:
                        return

        reading = lab.later(tasks, read)
        await parent.run("go")
        await lab.pass_until(reading, 0.5, 50)
    assert set(answers) == {a.agent_id for a in await everyone(lab)}
    for id in answers:
        cursors = [cursor for one, cursor in seen if one == id]
        assert cursors == sorted(set(cursors))
        wanted = [e.cursor for e in await lab.events(id) if e.channel == "progress"]
        assert cursors == [c for c in wanted if c >= cursors[0]]
        assert cursors[0] == wanted[0]


async def test_following_begins_with_who_is_at_work(lab: Any) -> None:
    home = asked(lab)
    parent = await home.parent()
    await parent.run("go")
    events = await parent.follow(kinds=["permission_decided", "done"])
    child = await Agent.open(f"{parent.uid}/1.1.1", home.deps)
    await child.decide((await child.status()).pending[0], "allow")
    await parent.complete()
    found = [await anext(events) for _ in range(3)]
    mine = [(e.agent_id, e.type) for e in found if e.agent_id != "a"]
    assert mine == [(child.agent_id, "permission_decided"), (child.agent_id, "done")]
    assert [(e.agent_id, e.type) for e in found if e.agent_id == "a"] == [("a", "done")]


async def test_who_watches_the_parent_watches_its_sub_agents(lab: Any) -> None:
    """Hooks and plugins of the parent stand before the sub-agent's own, and so at every depth; none is there twice."""
    ran: list[str] = []

    @tool
    async def remove(path: str) -> str:
        """Remove."""
        ran.append(path)
        return "gone"

    def guard(use: ToolUse) -> Deny | None:
        return Deny("never") if use.name == "remove" else None

    class Watch(Plugin):
        name = "watch"

    below = template("below", tools=("remove",), hooks=("own",))
    helper = template("helper", tools=("task_run",), subagents=("below",), hooks=("own", "guard"))
    lead = template("lead", model="m", tools=("task_run",), subagents=("helper",), hooks=("guard",), plugins=("watch",))

    def deeper(request: ModelRequest) -> Turn:
        return say(" | ".join(results(request))) if results(request) else calls(("remove", {"path": "/"}))

    think = by_role(lead=asks(task()), helper=asks(task(agent="below")), below=deeper)
    deps = lab.deps(
        think, remove, task_run, templates=[below, helper], plugins=[Watch()],
        hooks=[Hooks("guard", pre_tool_use=guard), Hooks("own", pre_tool_use=lambda use: None)],
    )  # fmt: skip
    agent = await Agent.create(template=lead, agent_id="a", dependencies=deps)
    assert (await agent.run("go")).text == "never"
    assert ran == []
    (made,) = (await lab.store.read_calls("a")).items
    child = await Agent.open(made.wait.child, deps)
    (made,) = (await lab.store.read_calls(child.agent_id)).items
    grandchild = await Agent.open(made.wait.child, deps)
    assert (child.template.hooks, child.template.plugins) == (("guard", "own"), ("watch",))
    assert (grandchild.template.hooks, grandchild.template.plugins) == (("guard", "own"), ("watch",))
