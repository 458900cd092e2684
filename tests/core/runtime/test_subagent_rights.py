"""Sub-agents: what one may do at most, which is never more than all above it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.core.runtime.home import Home, asks, by_role, echo, everyone, look, task, template, uses, write

from kode.core.errors import NotBoundError
from kode.core.jsontext import dump
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import Usage
from kode.core.kernel.permission import PermissionPolicy
from kode.core.runtime.agent import Agent
from kode.core.tools.base import Suspended, Tool, ToolContext
from kode.core.tools.builtin import task_run
from kode.core.tools.define import tool


async def within(
    lab: Any, policy: PermissionPolicy, own: PermissionPolicy | None = None, **modes: Any
) -> tuple[Any, list[str]]:
    """A parent of this policy has a sub-agent use both tools."""
    written: list[str] = []
    helper = template("helper", tools=("write", "look"), permission=own or PermissionPolicy())
    home = Home(
        lab, by_role(boss=asks(task()), helper=uses("write", "look")), helper,
        tools=(write, look), services={"written": written}, modes=modes,
    )  # fmt: skip
    parent = await home.parent(permission=policy)
    return await parent.run("go"), written


async def test_a_readonly_parent_has_readonly_sub_agents(lab: Any) -> None:
    result, written = await within(lab, PermissionPolicy("readonly"))
    assert "Mode readonly denies write" in result.text
    assert result.text.endswith("looked")
    assert written == []


async def test_the_strictest_of_all_counts(lab: Any) -> None:
    result, written = await within(lab, PermissionPolicy(), PermissionPolicy("readonly"))
    assert "Mode readonly denies write" in result.text
    assert written == []


async def test_a_mode_of_ones_own_is_asked_and_fails_closed(lab: Any) -> None:
    asked: list[str] = []

    def mode(tool: Tool, arguments: Any, policy: Any) -> str:
        asked.append(f"{tool.name} in {policy.mode}")
        if tool.name == "write":
            raise ValueError("broken")
        return "allow"

    result, written = await within(lab, PermissionPolicy("mine"), mine=mode)
    assert "Permission mode 'mine' failed (ValueError)" in result.text
    assert written == []
    assert asked == ["task_run in mine", "write in mine", "look in mine"]


async def test_a_child_cannot_be_opened_where_a_mode_above_it_is_unknown(lab: Any) -> None:
    home = Home(lab, by_role(boss=asks(task()), helper=echo), modes={"mine": lambda *_: "allow"})
    parent = await home.parent(permission=PermissionPolicy("mine"))
    await parent.run("go")
    with pytest.raises(NotBoundError, match="mine"):
        await Agent.open(f"{parent.uid}/1.1.1", lab.deps((), task_run))


async def test_every_generation_lies_within_all_above_it(lab: Any) -> None:
    middle = template("middle", tools=("task_run",), subagents=("helper",), permission=PermissionPolicy("readonly"))
    helper = template("helper", tools=("write",))
    home = Home(
        lab, by_role(boss=asks(task(agent="middle")), middle=asks(task()), helper=uses("write")), middle, helper,
        tools=(write,), services={"written": []},
    )  # fmt: skip
    parent = await home.parent(permission=PermissionPolicy(ask=()))
    assert "Mode readonly denies write" in (await parent.run("go")).text
    grandchild = await Agent.open(next(a.agent_id for a in await everyone(lab) if "helper" in a.template), home.deps)
    assert [link.mode for link in grandchild.template.permission.links] == ["auto", "readonly", "auto"]


async def test_its_budget_is_a_share_of_what_is_left(lab: Any) -> None:
    used = Usage(600, 400, cost_nanos=10**9)
    home = Home(lab, by_role(used, boss=asks(task("one"), task("two")), helper=echo))
    limits = Limits(max_tokens_per_agent=7_000, max_tokens_per_run=9_000, max_cost_per_run=9.0)
    parent = await home.parent(limits=limits)
    result = await parent.run("go")
    assert result.text == "did one | did two"
    children = [await Agent.open(f"{parent.uid}/1.1.{n}", home.deps) for n in (1, 2)]
    assert [one.limits.max_tokens_per_run for one in children] == [3_000, 3_000]
    assert [one.limits.max_cost_per_run for one in children] == [4.0, 4.0]
    assert result.usage.tokens == 4_000  # two replies of its own, one of each
    assert result.usage.cost_nanos == 4 * 10**9
    assert (await parent.run("again")).status == "limit"


async def test_a_spent_budget_starts_nobody(lab: Any) -> None:
    home = Home(lab, by_role(Usage(60, 40), boss=asks(task()), helper=echo))
    parent = await home.parent(limits=Limits(max_tokens_per_run=100))
    result = await parent.run("go")
    assert result.stop_reason == "max_tokens"
    assert "budget of tokens is spent" in (await lab.texts())[-1]
    assert len(await everyone(lab)) == 1


async def test_a_tool_of_ones_own_chooses_model_tools_and_limits(lab: Any) -> None:
    @tool(spawns=True, recovery="retry")
    async def hire(context: ToolContext, tools: list[str]) -> Suspended:
        """Hire."""
        assert context.subagents is not None
        return await context.subagents.start(
            "helper", "work", model="m:big", tools=tools, limits=Limits(max_steps_per_run=7)
        )

    helper = template("helper", model="none", tools=("write", "look"))
    hired = [("hire", {"tools": ["look"]}), ("hire", {"tools": ["task_run"]})]
    home = Home(lab, by_role(boss=asks(*hired), helper=echo), helper, tools=(hire, write, look))
    parent = await home.parent(tools=("hire",))
    result = await parent.run("go")
    assert result.text.startswith("did work | ")
    assert "Sub-agent 'helper' has no tool 'task_run'; it has: write, look" in result.text
    child = (await Agent.open(f"{parent.uid}/1.1.1", home.deps)).template
    assert (child.model, child.tools, child.limits.max_steps_per_run) == ("m:big", ("look",), 7)


async def test_only_tools_that_say_so_may_start_sub_agents(lab: Any) -> None:
    @tool
    async def sneak(context: ToolContext) -> str:
        """Try."""
        return str(context.subagents)

    home = Home(lab, by_role(boss=uses("sneak")), tools=(sneak,))
    assert (await (await home.parent(tools=("sneak",))).run("go")).text == "None"


async def test_its_sandbox_is_the_parents_where_its_template_names_none(lab: Any, tmp_path: Any) -> None:
    options = dump({"root": str(tmp_path)})
    other = dump({"root": str(tmp_path / "other")})
    home = Home(
        lab, by_role(boss=asks(task(), task(agent="apart")), helper=echo, apart=echo),
        template("helper"), template("apart", sandbox_options=other),
    )  # fmt: skip
    parent = await home.parent(sandbox_options=options)
    await parent.run("go")
    found = [(await Agent.open(f"{parent.uid}/1.1.{n}", home.deps)).template.sandbox_options for n in (1, 2)]
    assert found == [options, options], "its root stays the parent's"
