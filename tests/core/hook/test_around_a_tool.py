"""Hooks about a tool that runs: what wraps it, and what is made of its answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest

from kode.core.hook import Hooks, NextTool, ToolUse
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import TextBlock, Usage
from kode.core.kernel.toolcall import CallStatus
from kode.core.provider.script import call, calls, say
from kode.core.tools.base import Tool, ToolContext, ToolOutcome, ToolResult
from kode.core.tools.define import tool


def worker(ran: list[str], **flags: Any) -> Tool:
    @tool(**flags)
    async def work(context: ToolContext, how: str = "well") -> ToolOutcome | str:
        """Work."""
        ran.append(how)
        if how == "badly":
            raise ValueError("broken")
        if how == "slowly":
            await context.clock.sleep(10**6)
        return ToolOutcome((TextBlock(f"worked {how}"),), usage=Usage(input=7))

    return work


async def failures(lab: Any) -> list[tuple[Any, ...]]:
    failed = [event for event in await lab.events() if event.type == "hook_failed"]
    return [(one.data["hooks"], one.data["stage"], one.data["error"], one.call) for one in failed]


# ---- post_tool_use -----------------------------------------------------------------------------------------


async def test_outcomes_are_changed_in_order(lab: Any, born: Any) -> None:
    """Updated or replaced, successes and failures; what the tool used is counted whatever a hook makes of it."""

    def update(use: ToolUse, outcome: ToolOutcome) -> ToolOutcome:
        (text,) = outcome.content
        return replace(outcome, content=(TextBlock(f"{use.call_id} {use.arguments}: {text.text}"),), is_error=False)

    async def put_instead(use: ToolUse, outcome: ToolOutcome) -> ToolOutcome | None:
        return ToolOutcome.of(f"({outcome.content[0].text})", is_error=True) if "well" in use.input else None

    hooks = (Hooks("1", post_tool_use=update), Hooks("2", post_tool_use=put_instead))
    script = [calls(("work", {"how": "well"}), ("work", {"how": "badly"})), say("end")]
    agent = await born(script, *hooks, tools=(worker([]),))
    result = await agent.run("go")
    text = (await lab.texts())[2]
    assert text.startswith("user: [(1.1.1 {'how': 'well'}: worked well)] [1.1.2 {'how': 'badly'}: {\"error\"")
    made = {one.id: one for one in (await lab.store.read_calls("a")).items}
    assert (made["1.1.1"].status, made["1.1.2"].status) == (CallStatus.FAILED, CallStatus.COMPLETED)
    assert made["1.1.1"].usage == Usage(input=7)
    assert result.usage.input >= 7


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("how", ["raises", "wrong", "unwritable", "hangs"])
async def test_a_failure_leaves_the_result_or_withholds_it(lab: Any, born: Any, how: str, strict: bool) -> None:
    async def fails(use: ToolUse, outcome: ToolOutcome) -> Any:
        if how == "hangs":
            await lab.clock.sleep(10**6)
        if how == "raises":
            raise RuntimeError("secret")
        return "a text" if how == "wrong" else ToolOutcome((TextBlock("\ud800"),))

    agent = await born([call("work", {}), say("end")], Hooks("h", post_tool_use=fails, strict=strict, timeout_s=2),
                       tools=(worker([]),))  # fmt: skip
    async with anyio.create_task_group() as tasks:
        assert (await lab.pass_until(lab.later(tasks, lambda: agent.run("go")), 0.5)).text == "end"
    text = (await lab.texts())[2]
    assert ("worked well" in text) is not strict
    assert ("has run, but its result is withheld" in text) is strict
    (made,) = (await lab.store.read_calls("a")).items
    assert made.usage == Usage(input=7)
    ((name, stage, _, of),) = await failures(lab)
    assert (name, stage, of) == ("h", "post_tool_use", "1.1.1")


async def test_a_tool_that_is_stopped_has_an_outcome_too(lab: Any, born: Any) -> None:
    seen: list[ToolOutcome] = []

    async def look(use: ToolUse, outcome: ToolOutcome) -> None:
        seen.append(outcome)

    hooks = Hooks("h", post_tool_use=look)
    agent = await born([call("work", {"how": "slowly"}), say("end")], hooks, tools=(worker([], timeout_s=3.0),))
    async with anyio.create_task_group() as tasks:
        assert (await lab.pass_until(lab.later(tasks, lambda: agent.run("go")))).text == "end"
    (outcome,) = seen
    assert outcome.is_error
    assert "did not end within 3.0 s" in (await lab.texts())[2]


# ---- around_tool -------------------------------------------------------------------------------------------


async def test_the_first_is_the_outermost(lab: Any, born: Any) -> None:
    trace: list[str] = []

    def wrap(name: str) -> Hooks:
        async def around(use: ToolUse, go_on: NextTool) -> ToolResult:
            trace.append(f"{name}(")
            result = await go_on()
            trace.append(f"){name}")
            return result

        return Hooks(name, around_tool=around)

    work = replace(worker([]), hooks=wrap("own"))
    agent = await born([call("work", {}), say("end")], wrap("a"), wrap("b"), tools=(work,))
    await agent.run("go")
    assert "".join(trace) == "a(b(own()own)b)a"
    assert (await lab.texts())[2] == "user: [worked well]"


async def test_a_result_from_elsewhere(lab: Any, born: Any) -> None:
    async def cache(use: ToolUse, go_on: NextTool) -> ToolResult:
        return ToolOutcome.of("from the cache")

    ran: list[str] = []
    agent = await born([call("work", {}), say("end")], Hooks("c", around_tool=cache), tools=(worker(ran),))
    await agent.run("go")
    assert ((await lab.texts())[2], ran) == ("user: [from the cache]", [])


@pytest.mark.parametrize(("flags", "times"), [({"recovery": "retry"}, 2), ({"readonly": True}, 2), ({}, 1)])
async def test_a_tool_runs_twice_only_if_it_may(lab: Any, born: Any, flags: Any, times: int) -> None:
    """One with side effects keeps its first result, whatever wraps it."""

    async def again(use: ToolUse, go_on: NextTool) -> ToolResult:
        await go_on()
        return await go_on()

    ran: list[str] = []
    agent = await born([call("work", {}), say("end")], Hooks("r", around_tool=again), tools=(worker(ran, **flags),))
    await agent.run("go")
    assert ((await lab.texts())[2], len(ran)) == ("user: [worked well]", times)
    assert await failures(lab) == ([] if times == 2 else [("r", "around_tool", "UsageError", "1.1.1")])


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("when", ["before", "after", "plain"])
async def test_a_wrapper_that_fails(lab: Any, born: Any, when: str, strict: bool) -> None:
    """Before the tool: it is run without the wrapper, or not at all. After it: its result stands."""

    async def fails(use: ToolUse, go_on: NextTool) -> Any:
        if when == "after":
            await go_on()
        raise RuntimeError("secret")

    ran: list[str] = []
    function: Any = (lambda use, go_on: None) if when == "plain" else fails
    hooks = Hooks("h", around_tool=function, strict=strict)
    agent = await born([call("work", {}), say("end")], hooks, tools=(worker(ran),))
    assert (await agent.run("go")).text == "end"
    runs = when == "after" or not strict
    assert len(ran) == runs
    assert ((await lab.texts())[2] == "user: [worked well]") is runs
    assert [one[:2] for one in await failures(lab)] == [("h", "around_tool")]
    assert "secret" not in (await lab.texts())[2]


async def test_a_tool_that_its_wrapper_stops_is_not_run_again(lab: Any, born: Any) -> None:
    async def hasty(use: ToolUse, go_on: NextTool) -> ToolResult:
        with lab.clock.fail_after(1):
            return await go_on()

    ran: list[str] = []
    agent = await born([call("work", {"how": "slowly"}), say("end")], Hooks("h", around_tool=hasty),
                       tools=(worker(ran),))  # fmt: skip
    async with anyio.create_task_group() as tasks:
        assert (await lab.pass_until(lab.later(tasks, lambda: agent.run("go")))).text == "end"
    assert ran == ["slowly"]
    assert "it may have had part of its effect" in (await lab.texts())[2]


async def test_only_a_wrappers_own_time_is_bounded(lab: Any, born: Any) -> None:
    async def slow(use: ToolUse, go_on: NextTool) -> ToolResult:
        await lab.clock.sleep(5)
        return await go_on()

    @tool
    async def long(context: ToolContext) -> str:
        """Take long."""
        await context.clock.sleep(100)
        return "done"

    agent = await born([call("long", {}), say("end")], Hooks("ok", around_tool=slow, timeout_s=6),
                       Hooks("late", around_tool=slow, timeout_s=4), tools=(long,))  # fmt: skip
    async with anyio.create_task_group() as tasks:
        assert (await lab.pass_until(lab.later(tasks, lambda: agent.run("go")))).text == "end"
    assert (await lab.texts())[2] == "user: [done]"
    assert await failures(lab) == [("late", "around_tool", "timeout", "1.1.1")]


async def test_a_suspended_call_stays_suspended(born: Any) -> None:
    @tool
    async def hand_on(context: ToolContext) -> Any:
        """Hand the call on."""
        return context.suspend()

    async def trace(use: ToolUse, go_on: NextTool) -> ToolResult:
        return await go_on()

    seen: list[Any] = []
    hooks = Hooks("h", around_tool=trace, post_tool_use=lambda use, outcome: seen.append(outcome))
    agent = await born([call("hand_on", {})], hooks, tools=(hand_on,))
    assert (await agent.run("go")).status == "paused"
    assert seen == []


async def test_an_interrupt_passes_through(lab: Any, born: Any) -> None:
    ended: list[str] = []

    async def trace(use: ToolUse, go_on: NextTool) -> ToolResult:
        try:
            return await go_on()
        finally:
            ended.append(use.name)

    agent = await born([call("work", {"how": "slowly"})], Hooks("h", around_tool=trace), tools=(worker([]),),
                       limits=Limits(cancel_grace_s=1.0))  # fmt: skip
    async with anyio.create_task_group() as tasks:
        work = lab.later(tasks, lambda: agent.run("go"))
        await lab.clock.advance(1)
        await agent.interrupt()
        await lab.clock.advance(0.1)
        assert (await work.wait()).status == "interrupted"
    assert ended == ["work"]
    assert await failures(lab) == []


@pytest.mark.parametrize("strict", [False, True])
async def test_an_interrupt_behind_the_tool_keeps_its_result(lab: Any, born: Any, strict: bool) -> None:
    """It has run; that its result could not be looked at is no reason to forget it, but one to withhold it."""

    async def looks(use: ToolUse, outcome: ToolOutcome) -> None:
        await lab.clock.sleep(8)

    ran: list[str] = []
    agent = await born(
        [call("work", {})], Hooks("slow", post_tool_use=looks, strict=strict), tools=(worker(ran),),
        limits=Limits(cancel_grace_s=2.0),
    )  # fmt: skip
    async with anyio.create_task_group() as tasks:
        work = lab.later(tasks, lambda: agent.run("go"))
        await lab.clock.advance(1)
        await agent.interrupt()
        assert (await lab.pass_until(work, 0.5)).status == "interrupted"
    (made,) = (await lab.store.read_calls("a")).items
    said = "user: [work has run, but its result is withheld: hook 'slow' was interrupted before it had looked at it.]"
    assert ran == ["well"]
    assert said in await lab.texts() if strict else "user: [worked well]" in await lab.texts()
    assert made.status is (CallStatus.FAILED if strict else CallStatus.COMPLETED)
    assert made.usage.input == 7
