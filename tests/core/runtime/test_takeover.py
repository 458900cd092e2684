"""What happens around a drive: who may drive, by whose clock, what a broken one leaves, what came in time."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from kode.core.errors import NotFoundError, StoreUnavailableError, UsageError
from kode.core.kernel.limits import Limits
from kode.core.kernel.toolcall import CallStatus
from kode.core.kernel.words import Status
from kode.core.provider.script import Gate, call, say
from kode.core.runtime.agent import Agent
from kode.core.runtime.pool import AgentPool
from kode.core.store.lookups import lease_key
from kode.core.testing.clock import VirtualClock
from kode.core.testing.faulty import Fault, FaultyStore
from kode.core.tools.base import ToolContext
from kode.core.tools.define import tool

DAY_S = 86_400


@tool(needs_approval=True)
async def risky(context: ToolContext) -> str:
    """Needs a person."""
    return "done"


async def test_a_decision_given_in_time_counts_whenever_the_agent_is_driven(lab: Any) -> None:
    agent = await lab.agent([call("risky", {}), say("end")], risky, limits=Limits(approval_deadline_s=10))
    result = await agent.run("go")
    await agent.decide(result.pending[0], "allow", by="Ann")
    await lab.clock.advance(60)  # nobody drives meanwhile
    assert (await agent.complete()).text == "end"
    (made,) = (await lab.store.read_calls("a")).items
    assert (made.status, made.approvals[0].state) == (CallStatus.COMPLETED, "approved")


@tool(recovery="ask")
async def stuck(context: ToolContext) -> str:
    """Never ends."""
    await context.clock.sleep(10**6)
    return "no"


async def test_the_input_of_a_call_that_may_have_run_cannot_be_changed(lab: Any) -> None:
    agent = await lab.agent([call("stuck", {}), say("end")], stuck)
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("go"))
        await lab.clock.advance(1)
        await run.cancel()
    again = await Agent.resume("a", lab.deps([say("end")], stuck))
    (pending,) = (await again.status()).pending
    with pytest.raises(UsageError, match="may have run already"):
        await again.decide(pending, "allow", input="{}")
    await again.decide(pending, "deny")
    assert (await again.complete()).text == "end"


async def test_giving_a_run_up_works_while_it_waits_for_a_person(lab: Any) -> None:
    agent = await lab.agent([call("risky", {})], risky)
    assert (await agent.run("go")).status == "paused"
    again = await Agent.resume("a", lab.deps((), risky), strategy="crash")
    view = await again.status()
    assert (view.status, view.run, view.pending) == (Status.READY, None, ())
    assert (await lab.store.read_run("a", 1)).status == "interrupted"


async def test_a_lease_whose_grant_was_not_heard_is_given_back(lab: Any) -> None:
    store = FaultyStore(lab.store, Fault("acquire", "drop"), clock=lab.clock)
    agent = await lab.agent((), deps=lab.deps([say("end")], store=store))
    with pytest.raises(StoreUnavailableError):
        await agent.run("go")
    assert await lab.store.lease_of("a") is None
    assert (await agent.complete()).text == "end", "at once: no time passed"


async def test_a_drive_that_breaks_down_counts_and_parks_in_the_end(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives its lease back, so nothing but the count would ever stop a pool from trying again."""
    agent = await lab.agent([say("x")], limits=Limits(max_recoveries=2))
    await agent.send("go")
    broken = RuntimeError("a fault of ours")

    def perform(*_: Any) -> Any:
        raise broken

    monkeypatch.setattr("kode.core.runtime.hands.perform", perform)
    for takes in (1, 2, 3):
        with pytest.raises(RuntimeError):
            await agent.complete()
        (lease,) = await lab.store.get("a", [lease_key(agent.uid)])
        assert (lease.columns["holder"], lease.columns["takes"]) == (None, takes)
    monkeypatch.undo()
    await agent.complete()
    assert (await agent.status()).parked == "crash_loop"


async def test_a_handle_does_not_speak_for_an_agent_made_again(lab: Any) -> None:
    old = await lab.agent([say("old")])
    await old.run("hi")
    await lab.store.delete("a")
    new = await lab.agent([say("new")])
    for act in (lambda: old.send("hi"), old.complete):
        with pytest.raises(NotFoundError):
            await act()
    assert (await new.run("hi")).text == "new"


async def test_times_are_those_of_the_store(lab: Any) -> None:
    """A driver whose clock is a day ahead would leave an agent that is due tomorrow."""
    ahead = VirtualClock(lab.clock.now() + DAY_S * 1_000_000)
    deps = lab.deps([say("never", gate=Gate())])
    deps.clock = ahead
    agent = await lab.agent((), deps=lab.deps([say("x")]))
    other = await Agent.open("a", deps)
    await agent.send("go")
    async with anyio.create_task_group() as tasks:
        driving = lab.later(tasks, other.complete)
        while not deps.provider_named("m").calls:
            await anyio.lowlevel.checkpoint()
        state = await lab.store.read_state("a")
        assert state.model is not None
        assert state.updated_at <= lab.clock.now()
        await driving.cancel()
    assert [due.agent_id for due in await lab.store.due(lab.clock.now(), 10)] == ["a"]


async def test_a_pool_waits_longer_after_each_failure_and_goes_round_it(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = await lab.agent([say("x")], risky, id="a-broken")
    await broken.send("go")
    well = await lab.agent([say("fine")], id="b-well")
    await well.send("go")
    opened: list[str] = []
    really = Agent.open.__func__  # type: ignore[attr-defined]

    async def counting(cls: type[Agent], agent_id: str, deps: Any) -> Agent:
        opened.append(agent_id)
        found: Agent = await really(cls, agent_id, deps)
        return found

    monkeypatch.setattr(Agent, "open", classmethod(counting))
    async with AgentPool(lab.deps([say("fine")]), limits=Limits(max_agents=1, due_poll_s=0.1)):
        await lab.clock.advance(10)
    assert (await well.status()).messages == 2, "one that cannot be opened does not stand before it"
    assert opened.count("a-broken") == 4, "at 0, 1, 3 and 7 seconds"
