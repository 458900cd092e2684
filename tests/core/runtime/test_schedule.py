"""Timers that are set by anybody, kept in the agent's state, and fired by whoever finds it due."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import anyio
import pytest

from kode.core.errors import NotFoundError, UsageError
from kode.core.kernel.inputs import Instructed, TimerSet
from kode.core.kernel.limits import Limits
from kode.core.kernel.words import Status
from kode.core.provider.base import ModelRequest
from kode.core.provider.script import call, last_text, say
from kode.core.runtime.agent import Agent
from kode.core.runtime.pool import AgentPool
from kode.core.runtime.schedule import Scheduler
from kode.core.runtime.sending import enqueue
from kode.core.store import JSONStore, SqliteStore
from kode.core.testing.crash import CrashPlan, crash_at, until_crash
from kode.core.testing.wrapped import WrappedStore
from kode.core.tools.base import ToolContext
from kode.core.tools.define import tool

DAY_S = 86_400


def echo(request: ModelRequest) -> str:
    return f"re {last_text(request)}"


@tool(readonly=True)
async def look(context: ToolContext) -> str:
    """Look."""
    return "seen"


@tool(needs_approval=True)
async def risky(context: ToolContext) -> str:
    """Needs a person."""
    return "done"


async def wake(lab: Any, deps: Any) -> int:
    """What a worker does: drive who is due, once; how many there were."""
    found = await lab.store.due(await lab.store.now(), 100, None)
    for due in found:
        await (await Agent.open(due.agent_id, deps)).complete()
    return len(found)


async def fired(lab: Any, id: str = "a") -> list[Any]:
    return [e for e in await lab.events(id) if e.type == "scheduler_triggered"]


# ---- the three kinds, from any process ----------------------------------------------------------------------


async def test_a_message_starts_a_run_wherever_a_pool_finds_it(lab: Any) -> None:
    await lab.agent(())
    other = Scheduler(WrappedStore(lab.store), "a")
    async with AgentPool(lab.deps(echo)):
        id = await other.after(60, "Look at the build.")
        await lab.clock.advance(59)
        assert ([t.id for t in await other.list()], await lab.texts()) == ([id], [])
        await lab.clock.advance(3)
        assert await lab.texts() == ["user: Look at the build.", "assistant: re Look at the build."]
        assert await other.list() == ()
    (message, _) = (await lab.store.read_messages("a")).items
    assert message.origin == f"timer:{id}"


async def test_a_reminder_starts_no_run_and_a_signal_says_nothing(lab: Any) -> None:
    agent = await lab.agent(echo)
    heard: list[str] = []
    agent.on("scheduler_triggered", lambda envelope: heard.append(envelope.event.preview))
    await agent.schedule.after(0, "Mind the tests.", kind="reminder", id="r")
    await agent.schedule.after(0, "tick", kind="signal", id="s")
    await agent.complete()
    assert await lab.texts() == ["user: Mind the tests."]
    assert heard == ["Mind the tests.", "tick"]
    await agent.remind("And the docs.")
    assert (await agent.run("go")).text == "re go"
    assert await lab.texts() == ["user: Mind the tests.", "user: And the docs.", "user: go", "assistant: re go"]


async def test_what_is_over_fires_at_once(lab: Any) -> None:
    agent = await lab.agent(echo)
    await agent.schedule.at(datetime(2001, 1, 1, tzinfo=timezone(timedelta(hours=5))), "Late.")
    await agent.complete()
    assert await lab.texts() == ["user: Late.", "assistant: re Late."]


async def test_a_timer_is_set_anew_and_cancelled(lab: Any) -> None:
    agent = await lab.agent(echo)
    when = datetime(2030, 1, 1, tzinfo=UTC)
    assert await agent.schedule.at(when, "one", id="t") == "t"
    await agent.schedule.at(when + timedelta(microseconds=1), "two", id="t")
    await agent.schedule.after(5, "three", id="u")
    waiting = await agent.schedule.list()
    assert (waiting[0].id, waiting[0].data, waiting[0].due_at) == ("t", "two", 1_893_456_000_000_001)
    await agent.complete()
    assert await agent.schedule.list() == waiting
    await agent.schedule.cancel("t")
    await agent.schedule.cancel("never was")
    assert [t.id for t in await agent.schedule.list()] == ["u"]
    assert len({await agent.schedule.after(9, "x"), await agent.schedule.after(9, "x"), "u"}) == 3
    for timer in await agent.schedule.list():
        if timer.id != "u":
            await agent.schedule.cancel(timer.id)
    await agent.complete()
    assert [t.id for t in (await lab.store.read_state("a")).timers] == ["u"]


async def test_two_pools_fire_it_once(lab: Any) -> None:
    agent = await lab.agent(())
    await agent.schedule.every(10, "Tick.")
    async with AgentPool(lab.deps(echo)), AgentPool(lab.deps(echo, store=WrappedStore(lab.store))):
        await lab.clock.advance(35)
    assert (await lab.texts()).count("user: Tick.") == 3
    assert len(await fired(lab)) == 3


# ---- when it may speak ---------------------------------------------------------------------------------------


async def test_in_the_middle_of_a_step_it_waits_for_the_end_of_it(lab: Any) -> None:
    @tool(readonly=True)
    async def slow(context: ToolContext) -> str:
        """Take a while."""
        await context.clock.sleep(5)
        return "seen"

    agent = await lab.agent([call("slow", {}), say("end")], slow)
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("go"))
        await lab.clock.advance(0)
        await agent.schedule.after(1, "Stop soon.", id="m")
        await agent.schedule.after(1, "now", id="s", kind="signal")
        await lab.clock.advance(2)
        assert [e.data["id"] for e in await fired(lab)] == ["s"]
        await lab.clock.advance(5)
        assert (await run.wait()).text == "end"
    assert await lab.texts() == ["user: go", "assistant: <slow>", "user: [seen]", "user: Stop soon.", "assistant: end"]


async def test_while_an_approval_is_asked_for_it_waits_and_wakes_nobody(lab: Any) -> None:
    agent = await lab.agent([call("risky", {}), say("end")], risky)
    (pending,) = (await agent.run("go")).pending
    await agent.schedule.after(10, "Hurry.", id="m")
    await agent.schedule.after(20, "tick", id="s", kind="signal")
    deps = lab.deps([say("end")], risky)
    assert await wake(lab, deps) == 1  # takes what was set
    await lab.clock.advance(15)
    assert await wake(lab, deps) == 0
    await lab.clock.advance(15)
    assert (await wake(lab, deps), await wake(lab, deps)) == (1, 0)  # for the signal
    assert (await agent.status()).status is Status.PAUSED
    await agent.decide(pending, "allow")
    assert (await agent.complete()).text == "end"
    assert (await lab.texts())[2:4] == ["user: [done]", "user: Hurry."]


# ---- steps ----------------------------------------------------------------------------------------------------


async def test_every_step_is_every_step(lab: Any) -> None:
    """Also that which ends the run; and one chat is as many steps as it takes, not two."""
    script = [call("look", {}), call("look", {}), say("one"), say("two")]
    agent = await lab.agent(script, look)
    await agent.schedule.every_steps(1, kind="signal", id="each")
    await agent.schedule.every_steps(2, "Two more.", id="second")
    await agent.run("go")
    steps = [(e.data["id"], e.step) for e in await fired(lab)]
    assert steps == [("each", 1), ("each", 2), ("second", 2), ("each", 0)], "0: its run has ended"
    assert await lab.texts() == [
        *("user: go", "assistant: <look>", "user: [seen]", "assistant: <look>", "user: [seen]", "user: Two more."),
        "assistant: one",
    ]
    await agent.run("again")
    assert [e.data["id"] for e in await fired(lab)] == ["each", "each", "second", "each", "second", "each"]
    assert {t.id: t.due_step for t in await agent.schedule.list()} == {"each": 5, "second": 6}


async def test_steps_are_counted_from_now(lab: Any) -> None:
    agent = await lab.agent(echo)
    for _ in range(3):
        await agent.run("go")
    await agent.schedule.every_steps(2, "Mind.", id="n")
    assert [(t.due_step, t.every_steps) for t in await agent.schedule.list()] == [(5, 2)]
    await agent.run("go")
    assert await fired(lab) == []
    await agent.run("go")
    assert len(await fired(lab)) == 1


# ---- time -------------------------------------------------------------------------------------------------------


async def test_over_months_with_nobody_there(lab: Any) -> None:
    """What was slept through is one, and the next is on the beat."""
    agent = await lab.agent(())
    start = lab.clock.now()
    await agent.schedule.every(DAY_S, "Daily.")
    deps = lab.deps(echo)
    await wake(lab, deps)
    for days in (1, 1, 30.5, 0.25, 0.25, 90):
        await lab.clock.advance(days * DAY_S)
        await wake(lab, deps)
        assert await wake(lab, deps) == 0
    told = [(e.data["due_at"], e.data["next_at"], e.data.get("missed")) for e in await fired(lab)]
    day = DAY_S * 1_000_000
    assert [((due - start) / day, (then - start) / day, missed) for due, then, missed in told] == [
        *((1, 2, None), (2, 3, None), (3, 33, 29), (33, 34, None), (34, 124, 89)),
    ]
    assert (await lab.texts()).count("user: Daily.") == 5


async def test_a_clock_that_is_set_back_repeats_nothing(lab: Any) -> None:
    pytest.importorskip("cronsim")
    agent = await lab.agent(echo)
    await agent.schedule.every(60, "Beat.", id="b")
    await agent.schedule.cron("*/10 * * * *", "Tick.", id="t")
    await agent.complete()
    await lab.clock.advance(600)
    await agent.complete()
    before = await agent.schedule.list()
    assert len(await fired(lab)) == 2
    lab.clock.jump(-3_600)
    for _ in range(3):
        await wake(lab, lab.deps(echo))
        await agent.complete()
    assert (len(await fired(lab)), await agent.schedule.list()) == (2, before)
    await lab.clock.advance(3_600 + 600)
    await agent.complete()
    assert len(await fired(lab)) == 4


# ---- crashes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "step"), [("memory", 1), ("sqlite", 5), ("json", 5)])
@pytest.mark.parametrize("line", [None, "*/10 * * * *"])
async def test_a_crash_anywhere_loses_no_time_and_repeats_none(
    lab: Any, line: str | None, kind: str, step: int, tmp_path: Path
) -> None:
    """Firing and being armed again is one commit: there is no moment between the two."""
    made = itertools.count()

    async def life(lab: Any, plan: CrashPlan) -> list[int]:
        if kind == "sqlite":
            lab.store = SqliteStore(tmp_path / f"{next(made)}.db", durability="process", clock=lab.clock)
        elif kind == "json":
            lab.store = JSONStore(tmp_path / f"{next(made)}", durability="process", clock=lab.clock)
        async with lab.store:
            return await lived(lab, plan)

    async def lived(lab: Any, plan: CrashPlan) -> list[int]:
        agent = await lab.agent(())
        if line is None:
            await agent.schedule.every(600, "Tick.", id="t")
        else:
            await agent.schedule.cron(line, "Tick.", id="t")
        await wake(lab, lab.deps(echo))
        for _ in range(3):
            await lab.clock.advance(610)
            deps = lab.deps(echo)
            deps.store, deps.providers["m"] = plan.store(lab.store), plan.provider(deps.providers["m"])
            if not plan.crashed:
                await until_crash(plan, lambda deps=deps: wake(lab, deps))
            if plan.crashed:
                await lab.clock.advance(60)  # past the dead driver's lease
                await wake(lab, lab.deps(echo))
        assert len(await agent.schedule.list()) == 1
        assert (await lab.store.read_state("a")).run is None
        return [e.data["due_at"] for e in await fired(lab)]

    plan = CrashPlan()
    wanted = await life(type(lab)(), plan)
    assert len(wanted) == 3
    assert len(plan.points) > 20
    for point in range(0, len(plan.points), step):
        assert await life(type(lab)(), crash_at(point)) == wanted, plan.points[point]


# ---- what is wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("set_it", "match"),
    [
        (lambda s: s.after(-1, "x"), "seconds is -1; give a number from 0"),
        (lambda s: s.after(float("nan"), "x"), "seconds is nan"),
        (lambda s: s.every(0.5, "x"), "seconds is 0.5; give a number from 1"),
        (lambda s: s.every(True, "x"), "seconds is True"),
        (lambda s: s.at(datetime(2030, 1, 1), "x"), "with a time zone"),  # noqa: DTZ001 - that is the mistake
        (lambda s: s.at(2**60, "x"), "when is 1152921504606846976"),
        (lambda s: s.every_steps(0, "x"), "a whole number from 1"),
        (lambda s: s.every_steps(2.0, "x"), "a whole number from 1"),
        (lambda s: s.every_steps(1, "x", kind="message"), "one run after another"),
        (lambda s: s.after(1), "the text is ''; give what is to be said"),
        (lambda s: s.after(1, "x" * 1_001), "1,001 characters, and at most 1,000 are kept"),
        (lambda s: s.after(1, "x", kind="alarm"), "give 'message', 'reminder' or 'signal'"),
        (lambda s: s.after(1, "x", id=""), "give 1 to 256 characters"),
        (lambda s: s.after(1, "x", id="kode:todos"), "do not begin with 'kode:'"),
        (lambda s: s.cancel("kode:todos"), "do not begin with 'kode:'"),
    ],
)
async def test_what_makes_no_sense_is_refused_where_it_is_said(lab: Any, set_it: Any, match: str) -> None:
    agent = await lab.agent(())
    with pytest.raises(UsageError, match=match) as caught:
        await set_it(agent.schedule)
    assert caught.value.code == "bad_timer"
    assert await lab.store.read_inbox("a", agent.uid) == ()


async def test_there_are_at_most_32(lab: Any) -> None:
    agent = await lab.agent(())
    for n in range(32):
        await agent.schedule.after(n + 1, "x", id=str(n))
        if n == 20:
            await agent.complete()
    with pytest.raises(UsageError, match="has 32 timers, and at most 32 are kept"):
        await agent.schedule.after(1, "x")
    await agent.schedule.after(1, "y", id="7")
    await agent.schedule.cancel("8")
    await agent.schedule.after(1, "x")


async def test_an_agent_that_is_not_there(lab: Any) -> None:
    with pytest.raises(NotFoundError):
        await Scheduler(lab.store, "nobody").after(1, "x")
    await lab.agent(())
    with pytest.raises(NotFoundError):
        await Scheduler(lab.store, "a", uid="another").after(1, "x")


async def test_nonsense_that_came_past_the_door_is_consumed_with_an_event(lab: Any) -> None:
    agent = await lab.agent(echo)
    schedules = ("", "x", "x UTC", "0 0 31 2 * UTC", "* * * * * Nowhere/At", "* * * * * ../../etc/passwd")
    for n, wrong in enumerate(TimerSet("t", 5, "signal", schedule=one) for one in schedules):
        await enqueue(lab.store, "a", Instructed(f"i{n}", wrong))
    await enqueue(lab.store, "a", Instructed("none", TimerSet("u", None, "signal", schedule="* * * * * UTC")))
    await agent.complete()
    assert await fired(lab) == []
    assert (await lab.kinds()).count("input_rejected") == len(schedules) + 1
    assert await agent.schedule.list() == ()
    assert await lab.store.due(await lab.store.now(), 9, None) == []


async def test_limits_are_no_obstacle(lab: Any) -> None:
    """A full inbox refuses messages, not what steers."""
    agent = await lab.agent(echo, limits=Limits(max_inbox=1))
    await agent.send("one")
    await agent.schedule.after(0, "two")
    await agent.complete()
    assert "user: two" in await lab.texts()
