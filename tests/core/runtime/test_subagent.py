"""Sub-agents: made for a call, driven by whoever drives the parent, answered once."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from tests.core.runtime.home import Home, asks, by_role, echo, results, task, template, uses, write

from kode.core.errors import NotBoundError, UsageError
from kode.core.jsontext import dump
from kode.core.kernel.limits import Limits
from kode.core.kernel.permission import PermissionPolicy
from kode.core.kernel.state import Parent
from kode.core.provider.base import ModelRequest
from kode.core.provider.script import Gate, Turn, call, calls, fail, last_text, say
from kode.core.tools.define import tool

# ---- one task -------------------------------------------------------------------------------------------------


async def test_a_task_is_done_and_its_answer_is_the_result(lab: Any) -> None:
    home = Home(lab, by_role(boss=asks(task("paint")), helper=echo))
    parent = await home.parent()
    result = await parent.run("go")
    assert (result.status, result.text, result.children) == ("ok", "did paint", {})
    child = await home.child(parent)
    assert child.parent == Parent("a", parent.uid, "1.1.1", 1, answered=True)
    assert child.tenant == "acme"
    assert child.effects == ()
    found = (await lab.store.read_calls("a")).items[0]
    assert found.plan.child
    assert (found.plan.recovery, found.plan.readonly) == ("retry", True)
    assert (found.wait.child, found.wait.child_uid) == (child.agent_id, child.uid)
    assert await lab.texts(child.agent_id) == ["user: paint", "assistant: did paint"]


async def test_the_parents_prompt_lists_its_sub_agents(lab: Any) -> None:
    seen: list[str] = []

    def look(request: ModelRequest) -> Turn:
        seen.append(request.system or "")
        return say("ok")

    painter = template("painter", metadata=dump({"description": "Paints walls."}))
    home = Home(lab, by_role(boss=look), painter, template("helper"))
    await (await home.parent()).run("go")
    assert "- painter: Paints walls.\n- helper" in seen[0]


async def test_a_template_that_is_not_registered_is_named_when_the_parent_is_made(lab: Any) -> None:
    home = Home(lab, by_role(boss=echo))
    with pytest.raises(NotBoundError, match="nobody"):
        await home.parent(subagents=("nobody",))
    assert not await lab.store.exists("a")


async def test_what_is_not_on_the_list_is_refused_and_said(lab: Any) -> None:
    home = Home(lab, by_role(boss=asks(task(agent="root"))), template("helper"), template("root"))
    parent = await home.parent(subagents=("helper",))
    result = await parent.run("go")
    assert json.loads(result.text)["code"] == "unknown_subagent"
    assert "helper" in result.text
    assert not await lab.store.exists(f"{parent.uid}/1.1.1")


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        (fail("authentication", "no key"), "failed"),
        (call("nap", {}), "did not finish: max_steps"),
    ],
)
async def test_a_sub_agent_that_fails_says_why(lab: Any, turn: Turn, said: str) -> None:
    @tool(readonly=True)
    async def nap() -> str:
        """Rest."""
        return "rested"

    helper = template("helper", tools=("nap",), limits=Limits(max_steps_per_run=1))
    home = Home(lab, by_role(boss=asks(task()), helper=lambda _: turn), helper, tools=(nap,))
    parent = await home.parent()
    result = await parent.run("go")
    assert result.status == "ok"
    assert said in result.text
    assert (await lab.store.read_calls("a")).items[0].is_error


async def test_an_answer_that_is_too_long_is_cut(lab: Any) -> None:
    home = Home(lab, by_role(boss=asks(task()), helper=lambda _: say("x" * 5_000)))
    parent = await home.parent(limits=Limits(max_tool_result_bytes=1_000))
    result = await parent.run("go")
    assert len(result.text) < 1_200
    assert "bytes cut" in result.text


async def test_several_work_side_by_side(lab: Any) -> None:
    gates = {"one": Gate(), "two": Gate(), "three": Gate()}

    def held(request: ModelRequest) -> Turn:
        return Turn(say(f"did {last_text(request)}").blocks, gate=gates[last_text(request)])

    home = Home(lab, by_role(boss=asks(*map(task, gates)), helper=held))
    parent = await home.parent(limits=Limits(max_tool_concurrency=3))
    async with anyio.create_task_group() as tasks:
        running = lab.later(tasks, lambda: parent.run("go"))
        for gate in gates.values():
            await gate.reached()  # all three are asked before one is answered
        for gate in reversed(gates.values()):
            gate.release()
        result = await running.wait()
    assert result.text == "did one | did two | did three"


async def test_a_sub_agent_may_have_its_own(lab: Any) -> None:
    def deeper(request: ModelRequest) -> Turn:
        if results(request):
            return say(f"({results(request)[0]})")
        depth = int(last_text(request))
        return calls(task(str(depth + 1))) if depth < 6 else say("too deep")

    helper = template("helper", tools=("task_run",), subagents=("helper",), limits=Limits(max_subagent_depth=90))
    home = Home(lab, by_role(boss=asks(task("1")), helper=deeper), helper)
    parent = await home.parent(limits=Limits(max_subagent_depth=2))
    result = await parent.run("go")
    assert "at depth 3, and max_subagent_depth is 2" in result.text
    assert result.text.startswith("(({")
    assert len(await lab.store.list_agents()) == 3


async def test_depth_zero_means_none(lab: Any) -> None:
    home = Home(lab, by_role(boss=asks(task())))
    parent = await home.parent(limits=Limits(max_subagent_depth=0))
    assert json.loads((await parent.run("go")).text)["code"] == "too_deep"


# ---- by code --------------------------------------------------------------------------------------------------


async def test_delegate_runs_a_sub_agent_outside_any_run(lab: Any) -> None:
    home = Home(
        lab, by_role(boss=echo, helper=uses("write")), template("helper", tools=("write",)),
        tools=(write,), services={"written": []},
    )  # fmt: skip
    parent = await home.parent(permission=PermissionPolicy("readonly"))
    result = await parent.delegate("helper", "work")
    assert "Mode readonly denies write" in result.text
    child = await lab.store.read_state(result.agent_id)
    assert result.agent_id.startswith(f"{parent.uid}/d-")
    assert (child.parent.agent_id, child.parent.depth, child.effects) == ("a", 1, ())
    assert (await parent.status()).waiting == 0
    with pytest.raises(UsageError, match="no tool 'look'"):
        await parent.delegate("helper", "work", tools=["look"])
