"""Every limit is hit once, and what happens then is what docs/guides/limits.md says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from kode.core.config import AgentConfig
from kode.core.errors import DuplicateIdError, InboxFullError, LeaseLostError, UsageError
from kode.core.kernel.inputs import CallResolved, InterruptRequested
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import TextBlock, Usage
from kode.core.kernel.words import Status
from kode.core.provider.retry import RetryPolicy
from kode.core.provider.script import Gate, call, calls, say
from kode.core.runtime.agent import Agent
from kode.core.runtime.pool import AgentPool
from kode.core.sandbox.catalog import SandboxFactory
from kode.core.sandbox.local import LocalSandbox
from kode.core.store.records import input_item
from kode.core.template import AgentTemplate
from kode.core.tools.base import Suspended, Tool, ToolContext
from kode.core.tools.builtin import bash_run
from kode.core.tools.define import tool

PRICED = Usage(10, 5, cost_nanos=400_000_000)


def sleeper(seconds: float = 1_000.0, **options: Any) -> Tool:
    async def nap(context: ToolContext) -> str:
        """Sleep."""
        await context.clock.sleep(seconds)
        return "slept"

    return tool(**options)(nap)


@tool
async def touch(context: ToolContext) -> str:
    """Do next to nothing."""
    return "touched"


@tool(needs_approval=True)
async def asked(context: ToolContext) -> str:
    """Ask first."""
    return "done"


async def timed(lab: Any, agent: Agent, step_s: float = 1.0) -> Any:
    async with anyio.create_task_group() as tasks:
        return await lab.pass_until(lab.later(tasks, lambda: agent.run("go")), step_s)


# ---- time -----------------------------------------------------------------------------------------------------


async def test_processing_timeout_s(lab: Any) -> None:
    limits = Limits(processing_timeout_s=10, tool_timeout_s=None)
    agent = await lab.agent([call("nap", {}), say("after")], sleeper(), limits=limits)
    result = await timed(lab, agent)
    assert (result.status, result.stop_reason) == ("limit", "processing_timeout")
    assert 10 <= lab.clock.monotonic() <= 12
    assert "time" in (await lab.texts())[-1]


async def test_processing_time_stands_still_for_a_human_and_a_child(lab: Any) -> None:
    @tool
    async def ask_child(context: ToolContext) -> Suspended:
        """Wait for somebody else."""
        return Suspended()

    script = [call("asked", {}), call("ask_child", {}), call("nap", {}), say("end")]
    agent = await lab.agent(script, asked, ask_child, sleeper(8), limits=Limits(processing_timeout_s=10))
    assert (await agent.run("go")).status == "paused"
    for day in range(3):
        await lab.clock.advance(86_400)
        assert (await agent.complete()).status == "paused", day
    await agent.decide("1.1.1", "allow")
    assert (await agent.complete()).stop_reason == "suspended"
    await lab.clock.advance(86_400)
    await agent._enqueue(CallResolved("r", "1.2.1", (TextBlock("It agrees."),)))
    async with anyio.create_task_group() as tasks:
        result = await lab.pass_until(lab.later(tasks, agent.complete))
    assert (result.status, result.text) == ("ok", "end")
    assert 8_000_000 <= (await lab.store.read_run("a", 1)).used_us < 9_000_000


async def test_processing_time_stands_still_for_a_human_in_a_pool(lab: Any) -> None:
    """Also for one who is asked while another agent is at work, under the driver that stays."""
    deps = lab.deps([call("asked", {}), say("end")], asked)
    await lab.agent((), asked, deps=deps, limits=Limits(processing_timeout_s=10))
    async with AgentPool(deps) as pool, anyio.create_task_group() as tasks:
        agent = await pool.open("a")
        run = lab.later(tasks, lambda: agent.run("go"))
        for _ in range(30):
            await lab.clock.advance(1)
        assert (await lab.pass_until(run)).status == "paused"
        await agent.decide("1.1.1", "allow")
        assert (await lab.pass_until(lab.later(tasks, agent.complete))).status == "ok"
    assert (await lab.store.read_run("a", 1)).used_us < 2_000_000


async def test_tool_timeout_s(lab: Any) -> None:
    agent = await lab.agent([call("nap", {}), say("after")], sleeper(), limits=Limits(tool_timeout_s=3))
    result = await timed(lab, agent)
    assert (result.status, result.text) == ("ok", "after")
    assert "nap did not end within 3 s and was stopped" in (await lab.texts())[2]
    assert lab.clock.monotonic() < 5


async def test_a_tool_that_names_its_own_time_is_not_bound_by_tool_timeout_s(lab: Any) -> None:
    agent = await lab.agent([call("nap", {}), say("after")], sleeper(9, timeout_s=10), limits=Limits(tool_timeout_s=3))
    await timed(lab, agent)
    assert (await lab.texts())[2] == "user: [slept]"


async def test_model_timeout_s(lab: Any) -> None:
    deps = lab.deps([say("slow", delay_s=100)], retry=RetryPolicy(max_tries=1))
    agent = await lab.agent((), deps=deps, limits=Limits(model_timeout_s=5))
    result = await timed(lab, agent)
    assert (result.status, result.stop_reason, result.error.code) == ("error", "provider_error", "timeout")
    assert "within 5 s; raise Limits.model_timeout_s" in result.error.text
    assert lab.clock.monotonic() < 7


async def test_approval_deadline_s(lab: Any) -> None:
    agent = await lab.agent([call("asked", {}), say("after")], asked, limits=Limits(approval_deadline_s=60))
    assert (await agent.run("go")).status == "paused"
    await lab.clock.advance(59)
    assert (await agent.complete()).status == "paused"
    await lab.clock.advance(2)
    assert (await agent.complete()).text == "after"
    assert "nobody approved" in (await lab.texts())[2]


async def test_cancel_grace_s(lab: Any) -> None:
    """A tool that does not stop is sealed after the grace; the run is over then, whatever the tool does."""

    @tool
    async def stubborn(context: ToolContext) -> str:
        """Go on."""
        with anyio.CancelScope(shield=True):
            await context.clock.sleep(30)
        return "never seen"

    agent = await lab.agent([call("stubborn", {})], stubborn, limits=Limits(cancel_grace_s=3))
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("go"))
        await lab.clock.advance(1)
        at = lab.clock.now()
        await agent.interrupt()
        result = await lab.pass_until(run)
    assert (result.status, result.stop_reason) == ("interrupted", "interrupted")
    assert (await lab.store.read_run("a", 1)).ended_at - at == pytest.approx(3_000_000, abs=1_000_000)
    assert "never seen" not in "".join(await lab.texts())


# ---- budgets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "reason", "steps"),
    [
        (Limits(max_steps_per_run=3), "max_steps", 3),
        (Limits(max_tool_calls_per_run=2), "max_tool_calls", 3),
        (Limits(max_tool_calls_per_run=0), "max_tool_calls", 1),
        (Limits(max_tokens_per_run=40), "max_tokens", 3),
        (Limits(max_cost_per_run=0.5), "max_cost", 2),
        (Limits(max_cost_per_run=0), "max_cost", 0),
    ],
    ids=lambda value: str(value)[:12],
)
async def test_budgets_of_a_run(lab: Any, limits: Limits, reason: str, steps: int) -> None:
    agent = await lab.agent(lambda request: replace(call("touch", {}), usage=PRICED), touch, limits=limits)
    for number in (1, 2):
        result = await agent.run("go")
        assert (result.status, result.stop_reason, result.steps, result.run) == ("limit", reason, steps, number)
    assert (await agent.status()).status is Status.READY


async def test_what_is_over_max_tool_calls_per_run_is_answered(lab: Any) -> None:
    script = [calls(("touch", {}), ("touch", {}), ("touch", {}))]
    agent = await lab.agent(script, touch, limits=Limits(max_tool_calls_per_run=2))
    assert (await agent.run("go")).stop_reason == "max_tool_calls"
    said = (await lab.texts())[-1]
    assert said.count("[touched]") == 2
    assert "Not run: this run may make 2 tool calls" in said


@pytest.mark.parametrize(
    ("limits", "reason"),
    [(Limits(max_tokens_per_agent=40), "max_tokens"), (Limits(max_cost_per_agent=1.0), "max_cost")],
)
async def test_budgets_of_an_agent(lab: Any, limits: Limits, reason: str) -> None:
    """What is used up is used up: over runs, and for whoever opens it later."""
    agent = await lab.agent(lambda request: replace(say("ok"), usage=PRICED), limits=limits)
    assert [(await agent.run("go")).status for _ in range(4)] == ["ok", "ok", "ok", "limit"]
    other = await Agent.open("a", lab.deps(lambda request: say("free")))
    result = await other.run("go")
    assert (result.status, result.stop_reason, result.steps) == ("limit", reason, 0)


# ---- sizes and numbers ----------------------------------------------------------------------------------------


async def test_max_tool_result_bytes(lab: Any) -> None:
    @tool
    async def long(context: ToolContext) -> str:
        """Say much."""
        return "head" + "x" * 5_000 + "tail"

    agent = await lab.agent([call("long", {}), say("ok")], long, limits=Limits(max_tool_result_bytes=600))
    await agent.run("go")
    text = (await lab.texts())[2]
    assert len(text) < 700
    assert text.startswith("user: [head")
    assert text.endswith("tail]")
    assert "bytes" in text, "the cut is said"
    assert (await lab.store.read_calls("a")).items[0].cut_bytes > 4_000


@pytest.mark.integration
async def test_tool_buffer_size(lab: Any) -> None:
    """A command that floods: head and tail are kept, what was cut is said, before the result is cut at all."""
    script = [call("bash_run", {"cmd": "echo first; yes 0123456789 | head -c 3000000; echo last"}), say("end")]
    limits = Limits(tool_buffer_size=4_096, max_tool_result_bytes=1_000_000)
    agent = await lab.agent(script, bash_run, limits=limits)
    async with agent:
        await agent.run("go")
    text = (await lab.texts())[2]
    assert "first" in text
    assert "last" in text
    assert '"truncated":true' in text.replace(" ", "")
    assert len(text) < 6_000
    assert (await lab.store.read_calls("a")).items[0].cut_bytes > 2_900_000


async def test_max_tool_concurrency(lab: Any) -> None:
    running = most = 0

    @tool(readonly=True)
    async def look(context: ToolContext) -> str:
        """Look."""
        nonlocal running, most
        running += 1
        most = max(most, running)
        await context.clock.sleep(1)
        running -= 1
        return "seen"

    script = [calls(*[("look", {})] * 5), say("end")]
    agent = await lab.agent(script, look, limits=Limits(max_tool_concurrency=2))
    await timed(lab, agent, 0.5)
    assert most == 2
    assert (await lab.texts())[2].count("[seen]") == 5


async def test_max_inbox_and_max_message_bytes(lab: Any) -> None:
    agent = await lab.agent([say("ok")], limits=Limits(max_inbox=2, max_message_bytes=500))
    with pytest.raises(UsageError, match=r"message is \d+ bytes; 'a' takes at most 500, its max_message_bytes") as big:
        await agent.send("x" * 600)
    assert (big.value.code, big.value.fields["limit"]) == ("too_big", 500)
    await agent.send("1")
    await agent.send("2")
    with pytest.raises(InboxFullError, match=r"2 messages wait for 'a', its max_inbox; let it work, or raise") as full:
        await agent.send("3")
    assert full.value.fields["limit"] == 2
    await agent.interrupt()


async def test_dedupe_for_s(lab: Any) -> None:
    agent = await lab.agent(lambda request: "ok", limits=Limits(dedupe_for_s=60))
    await agent.run("one", item_id="x")
    assert (await agent.send("one", item_id="x")).duplicate
    with pytest.raises(DuplicateIdError):
        await agent.send("two", item_id="x")
    await lab.clock.advance(61)
    assert not (await agent.send("two", item_id="x")).duplicate


async def test_max_agents(lab: Any) -> None:
    gate = Gate()
    deps = lab.deps([say("later", gate=gate)])
    for id in "ab":
        await lab.agent((), deps=deps, id=id)
    async with AgentPool(deps, limits=Limits(max_agents=1), find=False) as pool:
        await (await pool.open("a")).send("go")
        await gate.reached()
        with pytest.raises(UsageError, match=r"max_agents is 1; .*raise Limits\.max_agents") as full:
            await pool.open("b")
        assert (full.value.code, full.value.fields) == ("pool_full", {"limit": 1, "count": 1})
        gate.release()
        await pool.wait_idle()


# ---- who watches ----------------------------------------------------------------------------------------------


async def test_event_buffer(lab: Any) -> None:
    """Few events are kept in memory; who is behind reads the store and misses nothing."""
    agent = await lab.agent(
        lambda request: call("touch", {}), touch, limits=Limits(event_buffer=8, max_steps_per_run=30)
    )
    events = await agent.subscribe()
    await agent.run("go")
    assert len(agent.hub.log) <= 8 + 4 + 8
    durable = await lab.events()
    seen = []
    async for envelope in events:
        if envelope.event.cursor:
            seen.append(envelope.cursor)
        if envelope.event.type == "done":
            break
    assert len(seen) > 100
    assert seen == [event.cursor for event in durable if seen[0] <= event.cursor <= seen[-1]]


async def test_live_buffer_bytes(lab: Any) -> None:
    """Who attaches in mid-stream is shown so much of what the model has said."""
    gate = Gate()
    script = [say("0123456789" * 10, chunk=10, gate=gate, gate_at=9)]
    agent = await lab.agent(script, limits=Limits(live_buffer_bytes=20))
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("go"))
        await gate.reached()
        events = await agent.subscribe(["progress"])
        async for envelope in events:
            if envelope.event.type == "text_chunk":
                break
        assert envelope.delta == "01234567890123456789"
        gate.release()
        await lab.pass_until(run)


# ---- the lease ------------------------------------------------------------------------------------------------


async def test_lease_s(lab: Any) -> None:
    gate = Gate()
    agent = await lab.agent([say("ok", gate=gate)], limits=Limits(lease_s=7))
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("go"))
        await gate.reached()
        assert (await lab.store.lease_of("a")).until - lab.clock.now() == 7_000_000
        with pytest.raises(LeaseLostError):
            await lab.store.acquire("a", "somebody", 7)
        lab.clock.jump(7.1)
        await lab.store.acquire("a", "somebody", 7)
        await run.cancel()


@pytest.mark.parametrize(("margin", "left"), [(35, 40), (1, 30)])
async def test_lease_margin_s(lab: Any, margin: float, left: float) -> None:
    """Nothing is started with less than this left: the lease is renewed first."""
    seen: list[float] = []

    @tool
    async def peek(context: ToolContext) -> str:
        """See how long the lease lasts."""
        lease = await lab.store.lease_of("a")
        seen.append((lease.until - lab.clock.now()) / 1e6)
        return "ok"

    limits = Limits(lease_s=40, lease_margin_s=margin)
    agent = await lab.agent([replace(call("peek", {}), delay_s=10), say("end")], peek, limits=limits)
    await timed(lab, agent)
    assert seen == [pytest.approx(left, abs=1)]


async def test_max_recoveries(lab: Any) -> None:
    gate = Gate()
    agent = await lab.agent([say("never", gate=gate), say("fine")], limits=Limits(max_recoveries=2))
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("go"))
        await gate.reached()
        await run.cancel()
    for name in ("one", "two", "three"):  # take it and die
        await lab.store.acquire("a", name, 1)
        lab.clock.jump(2)
    result = await agent.complete()
    assert (result.status, result.stop_reason) == ("error", "crash_loop")
    view = await agent.status()
    assert view.parked == "crash_loop"
    assert await lab.store.due(lab.clock.now() + 10**12, 10) == []
    await Agent.resume("a", agent._deps)
    assert (await agent.status()).parked is None
    assert (await lab.store.read_run("a", 1)).stop_reason == "end_turn"


@pytest.mark.parametrize("poll", [1.0, 40.0])
async def test_due_poll_s(lab: Any, poll: float) -> None:
    """What another process enqueued is found by who drives within this time."""
    limits = Limits(due_poll_s=poll, lease_s=1_000, tool_timeout_s=None, cancel_grace_s=0)
    agent = await lab.agent([call("nap", {})], sleeper(), limits=limits)
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("go"))
        await lab.clock.advance(0.1)
        await lab.store.enqueue("a", input_item(InterruptRequested("far"), at=0))
        result = await lab.pass_until(run, 0.5)
    assert result.status == "interrupted"
    assert poll <= lab.clock.monotonic() <= poll + 1


async def test_processing_time_does_not_begin_before_the_work(lab: Any, tmp_path: Path) -> None:
    """A sandbox that takes long to open, for a new run and for one that a human has just let go on."""

    class Slow(LocalSandbox):
        kind = "slow"

        def __init__(self, *, ref: str | None = None) -> None:
            super().__init__(tmp_path)

        async def open(self) -> None:
            await lab.clock.sleep(20)
            await super().open()

    kinds = SandboxFactory()
    kinds.register("slow", Slow)
    script = [call("asked", {}), say("end")]
    limits = Limits(processing_timeout_s=10)
    template = AgentTemplate("t", model="m", tools=("asked",), sandbox="slow", limits=limits)
    deps = lab.deps(script, asked, sandboxes=kinds)
    async with await Agent.create(AgentConfig(template, "a"), deps) as agent:
        assert (await timed(lab, agent)).status == "paused"
    async with await Agent.open("a", deps) as agent, anyio.create_task_group() as tasks:
        await agent.decide("1.1.1", "allow")
        result = await lab.pass_until(lab.later(tasks, agent.complete))
    assert lab.clock.monotonic() >= 40
    assert (result.status, result.text) == ("ok", "end")
    assert (await lab.store.read_run("a", 1)).used_us < 1_000_000
