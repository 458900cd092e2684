"""Sub-agents: who drives them, and what becomes of both sides that are interrupted, cancelled, deleted or late."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from tests.core.runtime.home import Home, asked, asks, by_role, echo, everyone, task, template, uses

from kode.core.config import AgentConfig
from kode.core.errors import NotBoundError, UsageError
from kode.core.kernel.inputs import CallResolved
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import TextBlock
from kode.core.kernel.state import Parent
from kode.core.provider.script import Gate, Turn, delay, say
from kode.core.runtime.agent import Agent
from kode.core.runtime.pool import AgentPool
from kode.core.runtime.sending import enqueue
from kode.core.runtime.stateless import StatelessAgent
from kode.core.tools.base import Suspended, ToolContext
from kode.core.tools.builtin import task_run
from kode.core.tools.define import tool


async def test_a_sub_agent_that_waits_for_a_person_pauses_the_parent_for_a_month(lab: Any) -> None:
    home = asked(lab)
    parent = await home.parent()
    result = await parent.run("go")
    id = f"{parent.uid}/1.1.1"
    assert (result.status, result.stop_reason, result.pending) == ("paused", "suspended", ())
    assert result.children == {"1.1.1": id}
    assert json.loads(json.dumps(result.to_dict()))["children"] == {"1.1.1": id}
    assert (await parent.complete()).children == {"1.1.1": id}
    with pytest.raises(UsageError, match=f"it waits for the sub-agent '{id}', whose own calls"):
        await parent.decide("1.1.1", "allow")
    await lab.clock.advance(30 * 86_400.0)
    other = home.process()
    child = await Agent.open(id, other)
    (pending,) = (await child.status()).pending
    await child.decide(pending, "allow", by="Ann")
    later = await Agent.open("a", other)
    done = await later.complete()
    assert (done.status, done.text, done.children) == ("ok", "written", {})


async def test_two_pools_drive_both_sides(lab: Any) -> None:
    home = asked(lab)
    parent = await home.parent()
    id = f"{parent.uid}/1.1.1"
    async with AgentPool(home.process()), AgentPool(home.process()) as pool, anyio.create_task_group() as tasks:
        await parent.send("go")

        async def pending() -> Any:
            while not (await lab.store.exists(id) and (await (await pool.open(id)).status()).pending):
                await lab.clock.sleep(0.1)
            return (await (await pool.open(id)).status()).pending[0]

        one = await lab.pass_until(lab.later(tasks, pending), 0.1)
        await (await Agent.open(id, home.deps)).decide(one, "allow")

        async def ended() -> Any:
            while "done" not in await lab.kinds():
                await lab.clock.sleep(0.1)

        await lab.pass_until(lab.later(tasks, ended), 0.1)
    assert (await lab.texts())[-1] == "assistant: written"
    assert len(home.more["services"]["written"]) == 1


async def test_a_caller_and_a_pool_side_by_side(lab: Any) -> None:
    home = Home(lab, by_role(boss=asks(task("one"), task("two")), helper=lambda r: delay(0.5, echo(r))))
    parent = await home.parent()
    async with AgentPool(home.process()) as pool, anyio.create_task_group() as tasks:
        inside = lab.later(tasks, lambda: pool.run("a", "go"))
        result = await lab.pass_until(inside, 0.1, 200)
        outside = lab.later(tasks, lambda: parent.run("again"))
        again = await lab.pass_until(outside, 0.1, 200)
    assert (result.text, again.text) == ("did one | did two", "did one | did two")
    assert len(await everyone(lab)) == 5


async def test_requests_without_a_pool_drive_sub_agents_too(lab: Any) -> None:
    home = asked(lab)
    boss = template("boss", model="m", tools=("task_run",), subagents=("helper",))
    paused = await StatelessAgent.run("s", "go", template_id=boss, dependencies=home.deps, request_id="r")
    assert paused.status == "paused"
    (id,) = paused.children.values()
    child = await StatelessAgent.continue_(id, dependencies=home.process())
    decided = await StatelessAgent.decide(id, child.pending[0], "allow", dependencies=home.process())
    assert (decided.status, decided.text) == ("ok", "written")
    result = await StatelessAgent.run("s", "go", template_id=boss, dependencies=home.process(), request_id="r")
    assert (result.status, result.text) == ("ok", "written")


async def test_a_stream_ends_with_the_run_of_the_parent(lab: Any) -> None:
    home = Home(lab, by_role(boss=asks(task()), helper=echo))
    parent = await home.parent()
    async with parent.stream("go", kinds=["done", "tool_suspended"]) as events:
        seen = [(envelope.agent_id, envelope.type) async for envelope in events]
    assert seen == [("a", "tool_suspended"), ("a", "done")]
    assert events.result is not None
    assert events.result.text == "did work"


async def test_closing_the_handle_rests_the_sub_agents(lab: Any) -> None:
    gate = Gate()
    home = Home(lab, by_role(boss=asks(task()), helper=lambda _: Turn(say("late").blocks, gate=gate)))
    parent = await home.parent()
    async with anyio.create_task_group() as tasks:
        running = lab.later(tasks, lambda: parent.run("go"))
        await gate.reached()
        assert parent.driving
        await parent.close()
        result = await lab.pass_until(running, 0.2, 100)
    assert (result.status, list(result.children)) == ("paused", ["1.1.1"])
    gate.release()
    assert (await (await Agent.open("a", home.process())).complete()).text == "late"


async def test_a_cancelled_caller_leaves_all_resumable(lab: Any) -> None:
    gate = Gate()
    home = Home(lab, by_role(boss=asks(task()), helper=lambda _: Turn(say("late").blocks, gate=gate)))
    parent = await home.parent()
    async with anyio.create_task_group() as tasks:
        running = lab.later(tasks, lambda: parent.run("go"))
        await gate.reached()
        await running.cancel()
    gate.release()
    assert not parent.driving
    assert (await parent.complete()).text == "late"


async def test_the_deadline_leaves_both_resumable(lab: Any) -> None:
    home = Home(lab, by_role(boss=asks(task()), helper=lambda _: delay(60.0, say("late"))))
    parent = await home.parent()
    async with anyio.create_task_group() as tasks:
        result = await lab.pass_until(lab.later(tasks, lambda: parent.run("go", timeout_s=10.0)), 0.5)
        assert (result.status, result.children) == ("deadline", {"1.1.1": f"{parent.uid}/1.1.1"})
        done = await lab.pass_until(lab.later(tasks, parent.complete))
    assert (done.status, done.text) == ("ok", "late")


@pytest.mark.parametrize("outside", [True, False])
async def test_an_interrupt_reaches_the_sub_agent(lab: Any, outside: bool) -> None:
    gate = Gate()
    home = Home(lab, by_role(boss=asks(task()), helper=lambda _: Turn(say("no").blocks, gate=gate)))
    parent = await home.parent()
    async with anyio.create_task_group() as tasks:
        running = lab.later(tasks, lambda: parent.run("go"))
        await gate.reached()
        other = await Agent.open("a", home.process()) if outside else parent
        await other.interrupt("enough")
        result = await lab.pass_until(running, 0.2, 100)
    assert result.status == "interrupted"
    child = await home.child(parent)
    assert (child.run, child.effects) == (None, ())
    assert (await lab.store.read_run(child.agent_id, 1)).stop_reason == "interrupted"


async def test_an_interrupt_of_a_parent_at_rest_reaches_a_sub_agent_at_rest(lab: Any) -> None:
    home = asked(lab)
    parent = await home.parent()
    await parent.run("go")
    await parent.interrupt("enough")
    assert (await parent.complete()).status == "interrupted"
    child = await home.child(parent)
    assert (child.run, child.calls, child.effects) == (None, (), ())


@pytest.mark.parametrize("again", [False, True])
async def test_a_sub_agent_that_was_deleted_is_not_waited_for(lab: Any, again: bool) -> None:
    home = asked(lab)
    parent = await home.parent()
    await parent.run("go")
    await lab.store.delete(f"{parent.uid}/1.1.1")
    if again:
        await home.parent(f"{parent.uid}/1.1.1")
    result = await parent.complete()
    assert result.status == "ok"
    assert "was deleted before it answered" in result.text


async def test_a_parent_that_was_deleted_leaves_its_sub_agent_in_peace(lab: Any) -> None:
    home = asked(lab)
    parent = await home.parent()
    await parent.run("go")
    await lab.store.delete("a")
    await home.parent()  # another one, under the same id
    child = await Agent.open(f"{parent.uid}/1.1.1", home.deps)
    await child.decide((await child.status()).pending[0], "allow")
    assert (await child.complete()).text == "written"
    events = await lab.events(child.agent_id)
    (delivered,) = [e for e in events if e.type == "delivery_failed" or "gone" in str(e.data)]
    assert delivered
    assert (await lab.store.load("a")).inbox == ()


async def test_an_answer_before_the_suspension_is_committed(lab: Any) -> None:
    @tool(spawns=True, recovery="retry")
    async def hire(context: ToolContext) -> Suspended:
        """Hire somebody who is done before we are."""
        assert context.subagents is not None
        suspended = await context.subagents.start("helper", "work")
        child = await Agent.open(str(suspended.child), home.deps)
        with anyio.CancelScope(shield=True):  # the answer closes the call, which stops this one
            assert (await child.complete()).text == "did work"
            await lab.clock.advance(1.0)
            again.append(await context.subagents.start("helper", "work") == suspended)
        return suspended

    again: list[bool] = []

    # An inbox that forgets at once stands for one that was left alone for more than a week.
    helper = template("helper", limits=Limits(dedupe_for_s=0))
    home = Home(lab, by_role(boss=uses("hire"), helper=echo), helper, tools=(hire,))
    parent = await home.parent(tools=("hire",))
    result = await parent.run("go")
    assert (result.status, result.text) == ("ok", "did work")
    assert (await lab.store.load(f"{parent.uid}/1.1.1")).inbox == ()
    child = await home.child(parent)
    assert (child.next_run, child.effects, again) == (2, (), [True])


@pytest.mark.parametrize("forged", [None, Parent("a", "another", "1.1.1"), Parent("a", "uid-1-1", "1.1.2")])
async def test_a_forged_id_is_not_taken_over(lab: Any, forged: Parent | None) -> None:
    home = Home(lab, by_role(boss=asks(task()), helper=echo))
    parent = await home.parent()
    assert parent.uid == "uid-1-1"
    await Agent.create(AgentConfig(template("x", model="m"), agent_id=f"{parent.uid}/1.1.1", parent=forged), home.deps)
    assert json.loads((await parent.run("go")).text)["code"] == "id_taken"


async def test_what_keeps_a_sub_agent_from_being_driven_is_raised_when_the_others_are_done(lab: Any) -> None:
    home = Home(
        lab, by_role(boss=asks(task("x"), task(agent="lost")), helper=echo), template("helper"), template("lost")
    )
    parent = await home.parent()
    await parent.send("go")
    await parent.drive()
    process = lab.deps(home.think, task_run, templates=list(home.children))
    elsewhere = await Agent.open("a", process)
    broken = f"{parent.uid}/1.1.2"
    original = Agent.open

    async def opening(id: str, deps: Any) -> Agent:
        if id == broken:
            raise NotBoundError("A tool is missing here.")
        return await original(id, deps)

    type(elsewhere).open, kept = opening, Agent.__dict__["open"]  # type: ignore[method-assign,assignment]
    try:
        with pytest.raises(NotBoundError, match="missing here"):
            await elsewhere.complete()
    finally:
        Agent.open = kept  # type: ignore[method-assign]
    assert (await home.child(parent)).parent.answered
    assert (await lab.store.load("a")).inbox == ()


async def test_an_answer_for_a_call_of_somebody_else_is_late(lab: Any) -> None:
    home = asked(lab)
    parent = await home.parent()
    await parent.run("go")
    answer = CallResolved("x", "1.1.9", (TextBlock("no"),))
    await enqueue(lab.store, "a", answer)
    assert (await parent.complete()).status == "paused"
    assert "late_answer" in await lab.kinds()
