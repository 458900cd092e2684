"""The pool: background work has an owner, and ends with it."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest

from kode.core.errors import UsageError
from kode.core.kernel.limits import Limits
from kode.core.kernel.words import Status
from kode.core.provider.base import ModelRequest
from kode.core.provider.script import Gate, call, last_text, say
from kode.core.runtime.agent import Agent
from kode.core.runtime.pool import AgentPool
from kode.core.testing.wrapped import WrappedStore
from kode.core.tools.base import ToolContext
from kode.core.tools.define import tool


def echo(request: ModelRequest) -> str:
    return f"re {last_text(request)}"


async def test_a_send_is_worked_on_in_the_background(lab: Any) -> None:
    deps = lab.deps(echo)
    await lab.agent((), deps=deps)
    async with AgentPool(deps, find=False) as pool:
        agent = await pool.open("a")
        await agent.send("one")
        await lab.clock.advance(0)
        assert (await lab.texts())[-1] == "assistant: re one"
        await agent.send("two")
        await agent.send("three")
        await lab.clock.advance(0)
        assert (await lab.texts()).count("user: three") == 1
        assert (await agent.status()).status is Status.READY


async def test_a_ring_at_the_last_moment_is_heard(lab: Any) -> None:
    """It falls between the driver's last commit and its end."""
    deps = lab.deps(echo)
    await lab.agent((), deps=deps)
    async with AgentPool(deps, find=False) as pool:
        agent = await pool.open("a")
        again = True

        async def once_more() -> None:
            await agent.send("two")

        async with anyio.create_task_group() as tasks:

            def at_the_end(envelope: Any) -> None:
                nonlocal again
                if again:
                    again = False
                    tasks.start_soon(once_more)

            agent.on("done", at_the_end)
            await agent.send("one")
            await lab.clock.advance(0)
        await lab.clock.advance(0)
        assert "assistant: re two" in "\n".join(await lab.texts())


async def test_what_another_process_enqueued_is_found(lab: Any) -> None:
    await lab.agent(echo)
    outside = await Agent.open("a", lab.deps((), store=WrappedStore(lab.store)))
    async with AgentPool(lab.deps(echo)) as pool:
        await lab.clock.advance(5)
        assert len(pool) == 0
        await outside.send("hello")
        await lab.clock.advance(1.1)
        assert await lab.texts() == ["user: hello", "assistant: re hello"]


async def test_a_decision_and_a_deadline_are_found(lab: Any) -> None:
    @tool(needs_approval=True)
    async def asked(context: ToolContext) -> str:
        """Ask."""
        return "done"

    script = [call("asked", {}), call("asked", {}), say("end")]
    deps = lab.deps(script, asked)
    await lab.agent((), asked, deps=deps, limits=Limits(approval_deadline_s=600))
    outside = await Agent.open("a", lab.deps((), asked, store=WrappedStore(lab.store)))
    async with AgentPool(deps):
        await outside.send("go")
        await lab.clock.advance(2)
        (pending,) = (await outside.status()).pending
        await outside.decide(pending, "allow")
        await lab.clock.advance(2)
        assert len((await outside.status()).pending) == 1
        await lab.clock.advance(601)
        assert (await lab.texts())[-1] == "assistant: end"
    assert [c.status.value for c in (await lab.store.read_calls("a")).items] == ["COMPLETED", "DENIED"]


async def test_a_postponed_message_makes_nobody_busy(lab: Any) -> None:
    """Its moment has come, but the agent waits for a person: no pool may run in circles."""

    @tool(needs_approval=True)
    async def asked(context: ToolContext) -> str:
        """Ask."""
        return "done"

    deps = lab.deps([call("asked", {}), say("end")], asked)
    agent = await lab.agent((), asked, deps=deps)
    await agent.run("go")
    await agent.send("later", not_before=lab.clock.now() + 1_000_000)
    await lab.clock.advance(2)
    await agent.complete()
    assert await lab.store.due(lab.clock.now(), 10) == []


async def test_one_agents_failure_is_its_own(lab: Any, caplog: pytest.LogCaptureFixture) -> None:
    @tool
    async def missing(context: ToolContext) -> str:
        """Be missing."""
        return ""

    await lab.agent(echo, missing, id="a-broken")
    await lab.agent(echo, id="b")
    outside = lab.deps((), missing, store=WrappedStore(lab.store))
    with caplog.at_level(logging.WARNING, "kode"):
        async with AgentPool(lab.deps(echo)):
            await (await Agent.open("a-broken", outside)).send("x")
            await (await Agent.open("b", outside)).send("y")
            await lab.clock.advance(3)
    assert "a-broken" in caplog.text
    assert await lab.texts("b") == ["user: y", "assistant: re y"]
    assert (await lab.store.load("a-broken")).inbox != ()


async def test_the_pool_is_bounded(lab: Any) -> None:
    """An idle agent makes room for another one; agents at work do not, and it is said what to do."""
    gate = Gate()
    deps = lab.deps({"a": [say("later", gate=gate)], "b": [say("later", gate=gate)], "c": [say("now")]})
    for id in "abc":
        await lab.agent((), deps=deps, id=id)
    pool = AgentPool(deps, limits=Limits(max_agents=2), find=False)
    with pytest.raises(UsageError) as outside:
        await pool.open("a")
    assert outside.value.code == "pool_closed"
    async with pool:
        for id in "cab":
            await (await pool.open(id)).send("go")
            assert [agent.agent_id for agent in pool] == list({"c": "c", "a": "ca", "b": "ab"}[id])
            await lab.clock.advance(0)
        with pytest.raises(UsageError) as caught:
            await pool.open("c")
        assert (caught.value.code, caught.value.fields) == ("pool_full", {"limit": 2, "count": 2})
        assert "max_agents is 2" in caught.value.message
        gate.release()
        await pool.wait_idle()
        await pool.open("c")
        assert len(pool) == 2
    assert len(pool) == 0


async def test_closing_stops_drivers_and_leaves_agents_resumable(lab: Any) -> None:
    gate, naps = Gate(), anyio.Event()

    @tool
    async def nap(context: ToolContext) -> str:
        """Sleep, and say how far it came."""
        naps.set()
        try:
            await context.clock.sleep(1_000)
        except anyio.get_cancelled_exc_class():
            return "stopped early"
        return "slept"

    deps = lab.deps({"a": [say("never", gate=gate)], "b": [call("nap", {})]}, nap)
    await lab.agent((), deps=deps, id="a")
    await lab.agent((), nap, deps=deps, id="b")
    async with anyio.create_task_group() as tasks:

        async def work() -> None:
            async with AgentPool(deps) as pool:
                for id in "ab":
                    await (await pool.open(id)).send("go")
                await gate.reached()
                await naps.wait()

        await lab.pass_until(lab.later(tasks, work), 0.1)
    for id in "ab":
        assert await lab.store.lease_of(id) is None
        assert (await lab.store.read_state(id)).status is Status.WORKING
    due = await lab.store.due(lab.clock.now(), 10)
    assert sorted(d.agent_id for d in due) == ["a", "b"]
    after = lab.deps(lambda r: say("end"), nap)
    for id in "ab":
        assert (await (await Agent.open(id, after)).complete()).text == "end"
    assert "user: [stopped early]" in await lab.texts("b")


async def test_many_agents_at_once(lab: Any) -> None:
    deps = lab.deps(echo)
    async with AgentPool(deps, limits=Limits(max_agents=100)) as pool:
        for n in range(60):
            agent = await lab.agent((), deps=deps, id=f"a{n}")
            await (await pool.open(agent.agent_id)).send(f"m{n}")
        await lab.clock.advance(2)
        for n in range(60):
            assert await lab.texts(f"a{n}") == [f"user: m{n}", f"assistant: re m{n}"]
