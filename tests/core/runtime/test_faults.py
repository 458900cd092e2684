"""A store that fails, an agent that crashes again and again, children and parents."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from kode.core.config import AgentConfig
from kode.core.errors import StoreUnavailableError
from kode.core.kernel.invariants import check_history
from kode.core.kernel.limits import Limits
from kode.core.kernel.state import Parent
from kode.core.kernel.words import Status
from kode.core.provider.script import Gate, call, say
from kode.core.runtime.agent import Agent
from kode.core.template import AgentTemplate
from kode.core.testing.crash import Crashed, CrashPlan, crash_at, until_crash
from kode.core.testing.faulty import Fault, FaultyStore
from kode.core.tools.base import ToolContext
from kode.core.tools.define import tool


@tool
async def ping(context: ToolContext) -> str:
    """Ping."""
    context.services["ledger"].append(context.call_id)
    return "pong"


@tool
async def nap(context: ToolContext) -> str:
    """Sleep."""
    await context.clock.sleep(60)
    return "slept"


def faulty(lab: Any, *faults: Fault) -> FaultyStore:
    return FaultyStore(lab.store, *faults, clock=lab.clock)


# ---- the store ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["fail", "drop"])
@pytest.mark.parametrize("nth", range(1, 6))
async def test_a_commit_that_fails_is_repeated(lab: Any, act: Any, nth: int) -> None:
    """Whether it landed or not, everything happens once."""
    ledger: list[str] = []
    store = faulty(lab, Fault("commit", act, nth=nth, times=2))
    deps = lab.deps([call("ping", {}), say("end")], ping, store=store, services={"ledger": ledger})
    agent = await lab.agent((), ping, deps=deps)
    async with anyio.create_task_group() as tasks:
        result = await lab.pass_until(lab.later(tasks, lambda: agent.run("go")), 0.1)
    assert result.text == "end"
    assert len(store.struck) == (2 if nth <= 4 else 0)
    assert ledger == ["1.1.1"]
    assert await lab.texts() == ["user: go", "assistant: <ping>", "user: [pong]", "assistant: end"]
    cursors = [event.cursor for event in await lab.events()]
    assert cursors == list(range(1, len(cursors) + 1))


async def test_a_store_that_is_away_for_a_while(lab: Any) -> None:
    """Shorter than the lease: a tool that runs meanwhile is not disturbed, and nothing starts."""
    store = faulty(lab)
    deps = lab.deps([call("nap", {}), say("end")], nap, store=store)
    agent = await lab.agent((), nap, deps=deps, limits=Limits(lease_s=30))
    failures: list[Any] = []
    agent.on("storage_failure", failures.append)
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("go"))
        await lab.clock.advance(50)
        store.down = True
        await lab.clock.advance(13)
        assert not run.done
        store.down = False
        assert (await lab.pass_until(run)).text == "end"
    assert failures
    assert "user: [slept]" in await lab.texts()


async def test_a_store_that_is_away_for_longer_than_the_lease(lab: Any) -> None:
    store = faulty(lab)
    deps = lab.deps([call("nap", {}), say("end")], nap, store=store)
    agent = await lab.agent((), nap, deps=deps, limits=Limits(lease_s=10, lease_margin_s=1))
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("go"))
        await lab.clock.advance(5.5)
        store.down = True
        with pytest.raises(StoreUnavailableError):
            await lab.pass_until(run)
    assert lab.clock.monotonic() < 30
    assert (await lab.store.read_state("a")).status is Status.WORKING
    store.down = False
    await lab.clock.advance(10)
    again = await Agent.open("a", lab.deps([say("end")], nap))
    assert (await again.complete()).text == "end"
    assert "unknown" in (await lab.texts())[2]
    check_history((await lab.store.read_messages("a")).items)


NTH = {"commit": 2, "renew": 1, "apply_and_look": 3}
"""Which call of it is the first that a drive makes under its lease: the agent is made, and the lease taken, before."""


@pytest.mark.parametrize("method", NTH)
async def test_a_store_that_never_answers(lab: Any, method: str) -> None:
    """The driver gives up with its lease, and gives back what it can."""
    store = faulty(lab, Fault(method, "hang", nth=NTH[method], times=None))
    deps = lab.deps([call("nap", {}), say("end")], nap, store=store)
    agent = await lab.agent((), nap, deps=deps, limits=Limits(lease_s=10, lease_margin_s=1))
    async with anyio.create_task_group() as tasks:
        with pytest.raises(StoreUnavailableError):
            await lab.pass_until(lab.later(tasks, lambda: agent.run("go")))
    assert lab.clock.monotonic() < 90
    again = await Agent.open("a", lab.deps([say("end")], nap))
    async with anyio.create_task_group() as tasks:
        assert (await lab.pass_until(lab.later(tasks, again.complete))).text == "end"


async def test_a_release_that_never_answers_holds_nobody_up(lab: Any) -> None:
    store = faulty(lab, Fault("release", "hang"))
    agent = await lab.agent((), deps=lab.deps((), store=store))
    async with anyio.create_task_group() as tasks:
        await lab.pass_until(lab.later(tasks, agent.complete))
    assert lab.clock.monotonic() <= 3


async def test_the_inbox_cannot_be_read_for_a_while(lab: Any) -> None:
    """That is no reason to stop a tool."""
    store = faulty(lab, Fault("look_up", nth=2, times=40))
    deps = lab.deps([call("nap", {}), say("end")], nap, store=store)
    agent = await lab.agent((), nap, deps=deps)
    store.faults = []
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("go"))
        await lab.clock.advance(1)
        store.faults = [Fault("look_up", nth=1, times=None)]
        await lab.clock.advance(30)
        store.faults = []
        assert (await lab.pass_until(run)).text == "end"
    assert len(store.struck) > 10
    assert "user: [slept]" in await lab.texts()


# ---- the seams themselves -------------------------------------------------------------------------------------


async def test_after_a_crash_everything_is_refused(lab: Any) -> None:
    plan = crash_at("after commit", 2)
    ledger: list[str] = []
    deps = lab.deps([call("ping", {}), say("end")], store=plan.store(lab.store), services={"ledger": ledger})
    deps.tools = [plan.tool(ping)]
    agent = await lab.agent((), ping, deps=deps)
    assert await until_crash(plan, lambda: agent.run("go")) is None
    assert plan.crashed
    assert plan.points[-1] == "after commit"
    assert ledger == []
    lease = await lab.store.lease_of("a")
    assert lease is not None, "a dead process gives nothing back"
    for refused in (agent.status, agent.interrupt, lambda: agent.send("x"), agent.delete):
        with pytest.raises(Crashed):
            await refused()
    with pytest.raises(Crashed):
        plan.check()
    assert (await lab.store.load("a")).inbox == ()


async def test_what_is_no_crash_passes_through() -> None:
    async def fails() -> None:
        raise ValueError("real")

    with pytest.raises(ValueError, match="real"):
        await until_crash(CrashPlan(), fails)


async def test_faults_strike_the_calls_they_name(lab: Any) -> None:
    store = faulty(lab, Fault("now", nth=2, times=2), Fault("exists"))
    outcomes = []
    for _ in range(4):
        try:
            await store.now()
            outcomes.append("ok")
        except StoreUnavailableError:
            outcomes.append("failed")
    assert outcomes == ["ok", "failed", "failed", "ok"]
    assert store.calls["now"] == 4


# ---- crash loops ----------------------------------------------------------------------------------------------


async def test_a_crash_loop_parks_the_agent(lab: Any) -> None:
    """And only a resume by hand drives it again."""
    limits = Limits(max_recoveries=3)
    config = AgentConfig(AgentTemplate("t", model="m", limits=limits), agent_id="a")
    first = await Agent.create(config, lab.deps())
    await first.send("go")
    crashes = 0
    for _ in range(10):
        plan = crash_at("before model")
        deps = lab.deps(store=plan.store(lab.store))
        deps.providers = {"m": plan.provider(deps.providers["m"])}
        await until_crash(plan, lambda deps=deps: _complete(deps))
        if not plan.crashed:
            break
        crashes += 1
        await lab.clock.advance(limits.lease_s + 1)
    assert crashes == limits.max_recoveries + 1
    view = await first.status()
    assert view.parked == "crash_loop"
    assert await lab.store.due(lab.clock.now() + 10**12, 10) == []
    healthy = lab.deps([say("at last"), say("more")])
    agent = await Agent.open("a", healthy)
    stuck = await agent.run("hello?")
    assert stuck.status in ("queued", "error")
    await Agent.resume("a", healthy)
    assert (await agent.status()).parked is None
    texts = await lab.texts()
    assert texts.count("user: go") == texts.count("user: hello?") == 1
    assert "assistant: at last" in texts


async def _complete(deps: Any) -> None:
    await (await Agent.open("a", deps)).complete()


async def test_resume_strategies(lab: Any) -> None:
    for strategy, status in (("manual", Status.WORKING), ("crash", Status.READY), ("continue", Status.READY)):
        id = f"a-{strategy}"
        plan = crash_at("before model")
        deps = lab.deps(store=plan.store(lab.store))
        deps.providers = {"m": plan.provider(deps.providers["m"])}
        agent = await lab.agent((), deps=deps, id=id)
        await until_crash(plan, lambda agent=agent: agent.run("go"))
        await lab.clock.advance(31)
        provider_deps = lab.deps([say("end")])
        again = await Agent.resume(id, provider_deps, strategy=strategy)
        assert (await again.status()).status is status
        asked = provider_deps.providers["m"].calls
        assert asked == (1 if strategy == "continue" else 0)
        run = await lab.store.read_run(id, 1)
        ended = {"manual": None, "crash": "interrupted", "continue": "end_turn"}[strategy]
        assert (None if run is None else run.stop_reason) == ended


# ---- parents and children -------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_child_answers_its_parent(lab: Any, when: str) -> None:
    """Also when it is faster than the parent's suspension."""

    @tool
    async def ask_child(context: ToolContext) -> Any:
        """Hand the call to a child."""
        parent = Parent(context.agent_id, context.uid, context.call_id)
        config = AgentConfig(AgentTemplate("c", model="m"), agent_id="a/child", parent=parent)
        child = await Agent.create(config, lab.deps([say("the child says so")]))
        await child.send("work")
        if when == "before":
            await child.complete()
        return context.suspend(child="a/child")

    agent = await lab.agent([call("ask_child", {}), say("heard")], ask_child)
    await agent.send("go")
    drive = await agent.drive()
    if when == "after":
        assert drive.runs[1].stop_reason.value == "suspended"
        child = await Agent.open("a/child", lab.deps([say("the child says so")]))
        await child.complete()
        assert [d.agent_id for d in await lab.store.due(lab.clock.now(), 10)] == ["a"]
    assert (await agent.complete()).text == "heard"
    assert (await lab.texts())[2] == "user: [the child says so]"
    assert (await lab.store.read_state("a/child")).parent.answered


async def test_a_parent_that_is_gone(lab: Any) -> None:
    parent = Parent("gone", "uid", "1.1.1")
    config = AgentConfig(AgentTemplate("c", model="m"), agent_id="c", parent=parent)
    child = await Agent.create(config, lab.deps([say("anyone?"), say("still there")]))
    assert (await child.run("go")).text == "anyone?"
    assert "delivery_failed" in await lab.kinds("c")
    assert (await child.run("again")).text == "still there"


async def test_a_sealed_call_interrupts_its_child(lab: Any) -> None:
    @tool
    async def ask_child(context: ToolContext) -> Any:
        """Hand the call to a child."""
        return context.suspend(child="child")

    gate = Gate()
    child = await lab.agent([say("never", gate=gate)], id="child")
    agent = await lab.agent([call("ask_child", {})], ask_child)
    await agent.run("go")
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: child.run("work"))
        await gate.reached()
        await agent.interrupt()
        assert (await agent.complete()).status == "interrupted"
        assert (await lab.pass_until(run)).status == "interrupted"
