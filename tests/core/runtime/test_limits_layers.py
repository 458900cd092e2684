"""Limits come from a template, an agent, a run and a pool; of what they name the narrower wins, through any store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from kode.core.config import AgentConfig
from kode.core.errors import InboxFullError, SchemaTooNewError, StoreUnavailableError, UsageError
from kode.core.kernel.inputs import Instructed, InterruptRequested, LimitsChanged, MessageReceived, TimerSet
from kode.core.kernel.limits import Limits, named
from kode.core.kernel.message import Json, TextBlock, Usage
from kode.core.provider.script import Gate, call, say
from kode.core.runtime.agent import Agent
from kode.core.runtime.birth import inbox_bounds
from kode.core.runtime.pool import AgentPool
from kode.core.runtime.sending import enqueue
from kode.core.store.open import open_store
from kode.core.store.records import input_item
from kode.core.store.sqlite import SqliteStore
from kode.core.template import AgentTemplate
from kode.core.tools.base import ToolContext
from kode.core.tools.define import tool

PRICED = Usage(10, 5, cost_nanos=400_000_000)


@tool
async def touch(context: ToolContext) -> str:
    """Do next to nothing."""
    return "touched"


@tool
async def nap(context: ToolContext) -> str:
    """Sleep."""
    await context.clock.sleep(10)
    return "slept"


def touching(request: Any) -> Any:
    return replace(call("touch", {}), usage=PRICED)


async def rejected(lab: Any) -> list[str]:
    return [str(event.preview) for event in await lab.events() if event.type == "input_rejected"]


# ---- four layers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", ["template", "agent", "run", "pool"])
async def test_whoever_names_the_least_wins(lab: Any, last: str) -> None:
    most = dict.fromkeys(("template", "agent", "run", "pool"), 4) | {last: 2}
    template = AgentTemplate("t", model="m", tools=("touch",), limits=Limits(max_steps_per_run=most["template"]))
    config = AgentConfig(template, "a", limits=Limits(max_steps_per_run=most["agent"]))
    deps = lab.deps(touching, touch)
    await Agent.create(config, deps)
    async with AgentPool(deps, limits=Limits(max_steps_per_run=most["pool"]), find=False) as pool:
        agent = await pool.open("a")
        result = await agent.run("go", limits=Limits(max_steps_per_run=most["run"]))
        assert (result.stop_reason, result.steps) == ("max_steps", 2)
        wide = await agent.run("go")
        assert wide.steps == (4 if last == "run" else 2), "what a run brought is gone with it"


@pytest.mark.parametrize("opened", ["made here", "opened later"])
async def test_a_default_keeps_nobody_from_more(lab: Any, opened: str) -> None:
    """Also where the recipe was read back, which writes down every value."""
    deps = lab.deps([call("nap", {}), say("end")], nap)
    agent = await lab.agent((), nap, deps=deps, limits=Limits(max_inbox=7))
    if opened == "opened later":
        agent = await Agent.open("a", deps)
    assert named(agent.limits) == ("max_inbox",)
    async with anyio.create_task_group() as tasks:
        seen: list[float] = []
        run = lab.later(tasks, lambda: agent.run("go", limits=Limits(tool_timeout_s=500)))
        await lab.clock.advance(1)
        seen.append((await lab.store.read_state("a")).effects[0].timeout_s)
        await lab.pass_until(run)
    assert seen == [500]


async def test_a_run_keeps_its_bounds_when_another_process_goes_on(lab: Any) -> None:
    gate = Gate()
    agent = await lab.agent([call("touch", {}), replace(call("touch", {}), gate=gate)], touch)
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("go", limits=Limits(max_steps_per_run=3)))
        await gate.reached()
        await run.cancel()
    other = await Agent.resume("a", lab.deps(touching, touch))
    record = await lab.store.read_run("a", 1)
    assert (record.stop_reason, record.steps) == ("max_steps", 3)
    assert (await other.run("go", limits=Limits(max_steps_per_run=1))).steps == 1


async def test_what_a_run_brings_binds_its_tools_and_its_waits_too(lab: Any) -> None:
    @tool
    async def long(context: ToolContext) -> str:
        """Say much, and how much it may hold."""
        return f"{context.limits.tool_buffer_size} " + "x" * 5_000

    agent = await lab.agent([call("long", {}), call("nap", {}), call("long", {}), say("end")], long, nap)
    narrow = Limits(max_tool_result_bytes=300, tool_buffer_size=2_048, processing_timeout_s=5)
    async with anyio.create_task_group() as tasks:
        result = await lab.pass_until(lab.later(tasks, lambda: agent.run("go", limits=narrow)))
    assert result.stop_reason == "processing_timeout"
    first = (await lab.texts())[2]
    assert first.startswith("user: [2048 xxx")
    assert len(first) < 400
    await agent.run("again")
    again = (await lab.texts())[-2]
    assert again.startswith("user: [10485760 xxx")
    assert len(again) > 5_000


async def test_limits_of_a_message_are_checked_at_the_door(lab: Any) -> None:
    agent = await lab.agent([say("ok")])
    for wrong in ({"max_steps_per_run": 2}, "many", 3):
        with pytest.raises(UsageError, match=r"limits is (dict|str|int); give Limits\(…\)"):
            await agent.send("go", limits=wrong)
    assert (await lab.store.load("a")).inbox == ()


@pytest.mark.parametrize("text", ['{"max_steps_per_run":0}', "[" * 1_000, "no JSON", '"a"'])
async def test_limits_that_somebody_wrote_by_hand_are_refused_with_an_event(lab: Any, text: str) -> None:
    agent = await lab.agent([say("never"), say("ok")][1:])
    by_hand = MessageReceived("odd", (TextBlock("go"),), limits=Json(text))
    await enqueue(lab.store, "a", by_hand)
    await agent.complete()
    assert len(await rejected(lab)) == 1
    assert await lab.texts() == []
    assert (await agent.run("go")).text == "ok"


async def test_a_run_with_limits_of_a_newer_version_is_left_as_it_is(lab: Any) -> None:
    """A bound that cannot be kept must not be taken for none; who knows it may go on."""
    gate = Gate()
    agent = await lab.agent([say("never", gate=gate), say("end")])
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("go"))
        await gate.reached()
        await run.cancel()
    state = (await lab.store.load("a")).state

    loads = lab.store.load

    async def load(agent_id: str) -> Any:
        loaded = await loads(agent_id)
        run = replace(loaded.state.run, limits=Json('{"max_wishes":3}'))
        return replace(loaded, state=replace(loaded.state, run=run))

    lab.store.load = load
    for _ in range(8):  # more often than max_recoveries: it counts as no breakdown
        with pytest.raises(SchemaTooNewError, match="Run 1 has limits that this KODE cannot keep; upgrade it"):
            await (await Agent.open("a", agent._deps)).complete()
    lab.store.load = loads
    after = (await lab.store.load("a")).state
    assert (after, after.parked) == (state, None)
    assert (await agent.complete()).text == "end"


# ---- a live agent ---------------------------------------------------------------------------------------------


async def test_a_changed_limit_is_seen_by_the_next_step(lab: Any, tmp_path: Path) -> None:
    """By another process, through SQLite: the one at work takes it up and stores it; whoever opens it later has it."""
    url = tmp_path / "a.db"
    gate = Gate()

    def script(request: Any) -> Any:
        return replace(call("touch", {}), gate=gate) if len(request.messages) == 5 else call("touch", {})

    async with SqliteStore(url, clock=lab.clock) as ours, SqliteStore(url, clock=lab.clock) as theirs:
        lab.store = ours
        at_work = await lab.agent(script, touch, limits=Limits(tool_timeout_s=50))
        other = await Agent.open("a", lab.deps((), touch, store=theirs))
        async with anyio.create_task_group() as tasks:
            run = lab.later(tasks, lambda: at_work.run("go"))
            await gate.reached()  # in its third step
            await other.set_limits(max_steps_per_run=4, tool_timeout_s=7, max_inbox=9)
            await lab.clock.advance(1.5)  # another process rings nobody here
            gate.release()
            result = await run.wait()
        assert (result.stop_reason, result.steps) == ("max_steps", 4)
        assert (at_work.limits.tool_timeout_s, at_work.limits.max_steps_per_run) == (7, 4)
        times = [row.plan.timeout_s for row in (await ours.read_calls("a")).items]
        assert len(times) == 4
        # The handle of the other process learns it when it drives, a new one at once.
        assert other.limits.tool_timeout_s == 50
        assert (await (await Agent.open("a", lab.deps((), touch, store=theirs))).status()).parked is None
        again = await Agent.open("a", lab.deps(touching, touch, store=theirs))
        assert named(again.limits) == ("tool_timeout_s", "max_steps_per_run", "max_inbox")
        loaded = await theirs.load("a")
        assert loaded is not None
        assert loaded.bounds == inbox_bounds(again.limits)
        assert (await again.run("go")).steps == 4
        kinds = await lab.kinds()
        assert kinds.count("limits_changed") == 1


async def test_a_handle_that_drives_learns_what_another_stored(lab: Any) -> None:
    agent = await lab.agent(touching, touch)
    other = await Agent.open("a", lab.deps(touching, touch))
    await other.set_limits(max_steps_per_run=2)
    await other.complete()
    assert (other.limits.max_steps_per_run, agent.limits.max_steps_per_run) == (2, 200)
    assert (await agent.run("go")).steps == 2
    assert agent.limits == other.limits
    await agent.set_limits(max_steps_per_run=5)
    assert (await other.run("go")).steps == 5, "of its own, for it took the instruction itself"
    assert (await agent.run("go")).steps == 5


async def test_a_live_agent_in_a_pool(lab: Any) -> None:
    gate = Gate()
    deps = lab.deps(lambda request: replace(call("touch", {}), gate=gate), touch)
    await lab.agent((), touch, deps=deps)
    stranger = await Agent.open("a", lab.deps((), touch))
    async with AgentPool(deps, limits=Limits(max_steps_per_run=6), find=False) as pool:
        agent = await pool.open("a")
        async with anyio.create_task_group() as tasks:
            run = lab.later(tasks, lambda: agent.run("go"))
            await gate.reached()
            await stranger.set_limits(max_steps_per_run=3)
            gate.release()
            assert (await lab.pass_until(run)).steps == 3
        await stranger.set_limits(max_steps_per_run=100)
        assert (await agent.run("go")).steps == 6, "the pool's still binds"
        assert agent.limits.max_steps_per_run == 6
    assert (await Agent.open("a", deps)).limits.max_steps_per_run == 100


async def test_an_agent_at_rest_takes_it_up_in_a_pool_by_itself(lab: Any) -> None:
    deps = lab.deps([say("ok")])
    await lab.agent((), deps=deps)
    async with AgentPool(deps, limits=Limits(due_poll_s=1)) as pool:
        await (await Agent.open("a", lab.deps(()))).set_limits(max_inbox=3)
        await lab.clock.advance(3)
        await pool.wait_idle()
    assert (await lab.store.load("a")).inbox == ()
    assert (await lab.store.load("a")).bounds.max_inbox == 3
    assert await lab.store.due(lab.clock.now() + 10**12, 10) == []


async def test_a_budget_is_widened_and_the_agent_goes_on(lab: Any) -> None:
    agent = await lab.agent(touching, touch, limits=Limits(max_cost_per_agent=1.0))
    result = await agent.run("go")
    assert (result.status, result.stop_reason, result.steps) == ("limit", "max_cost", 3)
    assert (await agent.run("go")).steps == 0
    await agent.set_limits(max_cost_per_agent=2.0)
    assert (await agent.run("go")).steps == 2
    await agent.set_limits(max_cost_per_agent=None, max_steps_per_run=9)
    assert (await agent.run("go")).stop_reason == "max_steps"


async def test_the_stores_own_bounds_change_with_it(lab: Any) -> None:
    agent = await lab.agent(lambda request: "ok", limits=Limits(max_inbox=1, max_message_bytes=400))
    await agent.send("1")
    await agent.set_limits(max_inbox=2, max_message_bytes=900)  # no message, so a full inbox does not refuse it
    await agent.complete()
    await agent.set_limits(max_agents=9)
    await agent.send("x" * 600)
    await agent.send("2")
    with pytest.raises(UsageError, match="max_inbox"):
        await agent.send("3")
    await agent.complete()


async def test_limits_of_the_process_change_too(lab: Any) -> None:
    agent = await lab.agent(lambda request: "ok", limits=Limits(event_buffer=5))
    await agent.run("1")
    assert (agent.hub.keep, agent.hub.keep_live) == (5, 1_048_576)
    await agent.set_limits(event_buffer=50, live_buffer_bytes=7)
    await agent.run("2")
    assert (agent.hub.keep, agent.hub.keep_live) == (50, 7)


async def test_the_beat_of_a_drive_changes_with_due_poll_s(lab: Any) -> None:
    limits = Limits(due_poll_s=1, lease_s=1_000, tool_timeout_s=None, cancel_grace_s=0)

    @tool
    async def long(context: ToolContext) -> str:
        """Sleep long."""
        await context.clock.sleep(1_000)
        return "slept"

    agent = await lab.agent([call("long", {})], long, limits=limits)
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("go"))
        await lab.clock.advance(0.5)
        await agent.set_limits(due_poll_s=40)
        await lab.clock.advance(2)
        await lab.store.enqueue("a", input_item(InterruptRequested("far"), at=0))
        await lab.pass_until(run, 0.5)
    assert 40 <= lab.clock.monotonic() <= 43


# ---- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "set_limits got nothing to change"),
        ({"max_wishes": 3}, "set_limits got no field 'max_wishes'"),
        ({"max_steps_per_run": 0}, r"Limits.max_steps_per_run is 0; give a whole number from 1"),
        ({"max_steps_per_run": True}, r"Limits.max_steps_per_run is True"),
        ({"tool_timeout_s": float("nan")}, r"Limits.tool_timeout_s is nan"),
        ({"tool_timeout_s": "5"}, r"Limits.tool_timeout_s is '5'"),
        ({"tool_timeout_s": object}, r"Limits.tool_timeout_s is <class 'object'>"),
        ({"max_inbox": 10**5_000}, r"Limits.max_inbox is a number of more than 100 digits"),
        ({"max_inbox": None}, r"Limits.max_inbox is None"),
        ({"lease_s": 2, "lease_margin_s": 3}, r"Limits.lease_margin_s is 3; give less than lease_s \(2\)"),
    ],
)
async def test_bad_values_are_refused_at_the_door(lab: Any, fields: dict[str, Any], said: str) -> None:
    agent = await lab.agent([say("ok")])
    with pytest.raises(UsageError, match=said) as caught:
        await agent.set_limits(**fields)
    assert caught.value.code == "bad_limit"
    assert (await lab.store.load("a")).inbox == ()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (LimitsChanged(Json('{"max_inbox":0}')), "Limits.max_inbox is 0"),
        (LimitsChanged(Json('{"lease_s":0.5}')), "Limits.lease_margin_s is 4; give less than lease_s (0.5)"),
        (LimitsChanged(Json("[" * 5_000)), "Limits are '[["),
        (TimerSet("t", 5), "Timer 't' is to speak, but has no text"),
    ],
)
async def test_a_stored_instruction_that_makes_no_sense_stops_nothing(lab: Any, what: Any, said: str) -> None:
    agent = await lab.agent([say("one"), say("two")], limits=Limits(lease_margin_s=4))
    before = agent.limits
    await enqueue(lab.store, "a", Instructed("odd", what))
    assert (await agent.run("go")).text == "one"
    (told,) = await rejected(lab)
    assert told.startswith(said)
    assert agent.limits == before == (await Agent.open("a", agent._deps)).limits
    assert (await agent.run("go")).text == "two"


@pytest.mark.parametrize("kind", ["instruction", "message"])
async def test_limits_of_a_newer_version_wait_for_it(lab: Any, kind: str) -> None:
    """Used up here they would be lost, though whoever sent them was told that they are durable."""
    agent = await lab.agent([say("one")])
    text = Json('{"max_wishes":3,"max_steps_per_run":7}')
    newer = (
        Instructed("new", LimitsChanged(text))
        if kind == "instruction"
        else MessageReceived("new", (TextBlock("go"),), limits=text)
    )
    await enqueue(lab.store, "a", newer)
    for _ in range(8):  # more often than max_recoveries: it counts as no breakdown
        with pytest.raises(SchemaTooNewError, match="Item 'new' names limits that this KODE does not know; upgrade it"):
            await agent.complete()
    loaded = await lab.store.load("a")
    assert ([item.id for item in loaded.inbox], loaded.state.parked) == (["new"], None)
    assert await rejected(lab) == []


async def test_instructions_have_room_of_their_own(lab: Any) -> None:
    """Neither do they pile up, nor do waiting messages keep limits from being changed."""
    agent = await lab.agent([say("ok")], limits=Limits(max_inbox=3))
    for n in range(3):
        await agent.send(f"m{n}")
        await agent.set_limits(max_steps_per_run=n + 1)
    with pytest.raises(InboxFullError, match="3 instructions wait"):
        await agent.set_limits(max_steps_per_run=9)
    with pytest.raises(InboxFullError, match="3 messages wait"):
        await agent.send("m3")
    await agent.interrupt()
    await agent.complete()
    assert agent.limits.max_steps_per_run == 3
    await agent.set_limits(max_steps_per_run=9)


async def test_an_instruction_of_an_unknown_kind_is_refused_at_the_door(lab: Any) -> None:
    await lab.agent([say("one")])
    item = input_item(Instructed("odd", TimerSet("t", 5, "signal")), at=0)
    with pytest.raises(UsageError, match="item 'odd' cannot be sent"):
        await lab.store.enqueue("a", replace(item, payload=Json(item.payload.replace('"timer"', '"wish"'))))


async def test_several_changes_at_once_are_laid_one_over_the_other(lab: Any) -> None:
    agent = await lab.agent([say("ok")])
    for fields in ({"max_inbox": 5, "max_agents": 4}, {"max_inbox": 6}, {"lease_s": 50}):
        await agent.set_limits(**fields)
    await agent.complete()
    assert (agent.limits.max_inbox, agent.limits.max_agents, agent.limits.lease_s) == (6, 4, 50)
    assert (await Agent.open("a", agent._deps)).limits == agent.limits


async def test_a_change_that_could_not_be_stored_does_not_hold(lab: Any) -> None:
    agent = await lab.agent(touching, touch, limits=Limits(lease_s=2))
    await agent.set_limits(max_steps_per_run=3)
    commit = lab.store.commit

    async def away(_: Any) -> Any:
        raise StoreUnavailableError("away", code="away")

    lab.store.commit = away
    async with anyio.create_task_group() as tasks:
        with pytest.raises(StoreUnavailableError):
            await lab.pass_until(lab.later(tasks, agent.complete))
    lab.store.commit = commit
    assert (await Agent.open("a", agent._deps)).limits.max_steps_per_run == 200
    assert (await agent.run("go")).steps == 3, "the instruction waits still"


@pytest.mark.parametrize("at", ["now", "then"])
async def test_a_fork_has_the_limits_of_the_place_it_is_made_from(lab: Any, at: str) -> None:
    agent = await lab.agent(lambda request: "ok", limits=Limits(max_inbox=50))
    await agent.run("1")
    snapshot = await agent.snapshot()
    await agent.set_limits(max_inbox=5)
    await agent.run("2")
    fork = await agent.fork("b", at=None if at == "now" else snapshot)
    expected = 5 if at == "now" else 50
    assert fork.limits.max_inbox == (await Agent.open("b", agent._deps)).limits.max_inbox == expected
    await fork.run("3")
    loaded = await lab.store.load("b")
    assert loaded.bounds.max_inbox == expected
    assert fork.limits.max_inbox == expected


@pytest.mark.parametrize("kind", ["memory", "json", "sqlite"])
async def test_every_store_keeps_an_instruction(lab: Any, tmp_path: Path, kind: str) -> None:
    url = {"memory": "memory:", "json": f"json:{tmp_path}/json", "sqlite": f"sqlite:///{tmp_path}/a.db"}[kind]
    async with open_store(url) as store:
        lab.store = store
        agent = await lab.agent(touching, touch)
        await agent.set_limits(max_steps_per_run=3)
        await agent.set_limits(max_steps_per_run=2, max_inbox=9)
        result = await agent.run("go", limits=Limits(max_tool_calls_per_run=100))
        assert (result.stop_reason, result.steps) == ("max_steps", 2)
        loaded = await store.load("a")
        assert loaded is not None
        assert (loaded.inbox, loaded.bounds.max_inbox) == ((), 9)
        assert named((await Agent.open("a", agent._deps)).limits) == ("max_steps_per_run", "max_inbox")
