"""Todos of a living agent: durable with the call that wrote them, written by code at any time, recalled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest

from kode.core.config import AgentConfig
from kode.core.errors import UsageError
from kode.core.kernel.inputs import Instructed, TodosSet
from kode.core.kernel.message import Json
from kode.core.provider.script import call, say
from kode.core.runtime.agent import Agent
from kode.core.runtime.pool import AgentPool
from kode.core.runtime.sending import enqueue
from kode.core.template import AgentTemplate
from kode.core.testing.crash import CrashPlan, crash_at, until_crash
from kode.core.testing.wrapped import WrappedStore
from kode.core.tools.base import ToolContext
from kode.core.tools.builtin import todo_read, todo_write
from kode.core.tools.define import tool
from kode.core.tools.todos import Todo, TodoList, write_todos


@tool(readonly=True)
async def look(context: ToolContext) -> str:
    """Look."""
    return "seen"


@tool
async def slow(context: ToolContext) -> str:
    """Take ten seconds."""
    await context.clock.sleep(10)
    return "slept"


TOOLS = (todo_read, todo_write, look, slow)


def write(*todos: Any) -> Any:
    rows = [{"title": t} if isinstance(t, str) else {"title": t[0], "status": t[1]} for t in todos]
    return call("todo_write", {"todos": rows})


async def planner(lab: Any, script: Any, every: int | None = None, deps: Any = None) -> Agent:
    template = AgentTemplate("t", model="m", tools=tuple(t.name for t in TOOLS), remind_todos_every=every)
    return await Agent.create(AgentConfig(template, agent_id="a"), deps or lab.deps(script, *TOOLS))


async def changes(lab: Any) -> list[Any]:
    return [e for e in await lab.events() if e.type == "todo_changed"]


# ---- events and durability --------------------------------------------------------------------------------------


async def test_a_change_is_told_in_numbers_and_only_if_it_is_one(lab: Any) -> None:
    script = [write("a", "b"), write("a", "b"), write(("a", "completed"), ("b", "in_progress")), say("end")]
    agent = await planner(lab, script)
    await agent.run("go")
    assert [dict(e.data) for e in await changes(lab)] == [
        {"by": "model", "pending": 2, "in_progress": 0, "completed": 0},
        {"by": "model", "pending": 0, "in_progress": 1, "completed": 1},
    ]
    todos = await agent.todos()
    assert [(t.title, t.status) for t in todos.items] == [("a", "completed"), ("b", "in_progress")]
    assert {t.created_at for t in todos.items} == {lab.clock.now()}


async def test_a_crash_anywhere_leaves_the_list_and_its_event_together(lab: Any) -> None:
    async def life(lab: Any, plan: CrashPlan) -> list[str]:
        script = [write("a", "b"), write("a", ("b", "completed")), say("end")]
        await planner(lab, script)

        def turn(request: Any) -> Any:
            return script[sum(m.role == "assistant" for m in request.messages)]

        def deps() -> Any:
            return lab.deps(turn, *TOOLS)

        mortal = deps()
        mortal.store, mortal.providers["m"] = plan.store(lab.store), plan.provider(mortal.providers["m"])
        agent = await Agent.open("a", deps())
        await agent.send("go")

        async def drive() -> None:
            await (await Agent.open("a", mortal)).complete()

        await until_crash(plan, drive)
        if plan.crashed:
            await lab.clock.advance(60)
            agent = await Agent.resume("a", deps())
            await agent.complete()
        titles = [f"{t.title} {t.status}" for t in (await agent.todos()).items]
        assert len(await changes(lab)) == 2, "one for each list, in its commit"
        return titles

    plan = CrashPlan()
    wanted = await life(type(lab)(), plan)
    assert wanted == ["a pending", "b completed"]
    for point in range(len(plan.points)):
        assert await life(type(lab)(), crash_at(point)) == wanted, plan.points[point]


# ---- from code ----------------------------------------------------------------------------------------------------


async def test_code_sets_the_list_and_reads_it_back_before_anybody_drives(lab: Any) -> None:
    agent = await planner(lab, [say("ok")])
    first = await agent.set_todos([Todo("a"), Todo("b", "in_progress")])
    assert await agent.todos() == first
    second = await agent.set_todos([*first.items, Todo("c")], expects=first)
    assert (await agent.todos(), [t.id for t in second.items]) == (second, ["1", "2", "3"])
    assert await agent.set_todos(second.items) == second, "no change, nothing sent"
    assert await changes(lab) == []
    await agent.run("go")
    assert await agent.todos() == second
    # Both were taken in one commit: there was but one change.
    assert [dict(e.data) for e in await changes(lab)] == [
        {"by": "code", "pending": 2, "in_progress": 1, "completed": 0}
    ]


async def test_code_is_told_that_its_list_is_old(lab: Any) -> None:
    agent = await planner(lab, [say("ok")])
    first = await agent.todos()
    await agent.set_todos([Todo("a")])
    with pytest.raises(UsageError, match="changed since you read it") as caught:
        await agent.set_todos([Todo("b")], expects=first)
    assert caught.value.code == "todos_changed"
    with pytest.raises(UsageError, match="2 todos are in_progress"):
        await agent.set_todos([Todo("a", "in_progress"), Todo("b", "in_progress")])
    assert [t.title for t in (await agent.todos()).items] == ["a"]


async def test_neither_the_model_nor_code_loses_the_others_work_unseen(lab: Any) -> None:
    """Code writes while a tool runs; the model, which has not seen that, is refused and shown the list."""
    script = [write("a"), call("slow", {}), write(("a", "completed")), write(("a", "completed"), "b"), say("end")]
    agent = await planner(lab, script)
    other = await Agent.open("a", lab.deps((), *TOOLS, store=WrappedStore(lab.store)))
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("go"))
        await lab.clock.advance(1)
        seen = await other.todos()
        await other.set_todos([*seen.items, Todo("b")], expects=seen)
        await lab.clock.advance(3)
        assert [e.data["by"] for e in await changes(lab)] == ["model", "code"], "at once, in the middle of the step"
        await lab.pass_until(run)
    assert '"code":"todos_changed"' in "".join(await lab.texts())
    assert [(t.title, t.status) for t in (await other.todos()).items] == [("a", "completed"), ("b", "pending")]


async def test_a_list_that_comes_too_late_is_dropped_with_an_event(lab: Any) -> None:
    agent = await planner(lab, [write("model's"), say("end")])
    empty = await agent.todos()
    run_first = await agent.run("go")
    assert run_first.text == "end"
    await enqueue(lab.store, "a", Instructed("late", TodosSet(write_todos(TodoList()), empty.digest)))
    now = (await agent.todos()).digest
    for n, text in enumerate(("[5]", "no json", '{"v":1,"items":[{"title":"a","status":"done"}]}')):
        await enqueue(lab.store, "a", Instructed(f"bad{n}", TodosSet(Json(text), now)))
    await agent.complete()
    rejected = [e.data["item"] for e in await lab.events() if e.type == "input_rejected"]
    assert rejected == ["late", "bad0", "bad1", "bad2"]
    assert [t.title for t in (await agent.todos()).items] == ["model's"]


async def test_a_pool_takes_up_what_another_process_sets(lab: Any) -> None:
    await planner(lab, ())
    other = await Agent.open("a", lab.deps((), *TOOLS, store=WrappedStore(lab.store)))
    async with AgentPool(lab.deps((), *TOOLS)):
        await other.set_todos([Todo("a")])
        await lab.clock.advance(2)
        assert len(await changes(lab)) == 1
    assert await lab.store.read_inbox("a", other.uid) == ()


# ---- reminders --------------------------------------------------------------------------------------------------


async def test_the_model_is_reminded_after_so_many_steps_without_a_change(lab: Any) -> None:
    looks = [call("look", {})] * 2
    script = [write("a", ("b", "in_progress")), *looks, write(("b", "completed"), "a"), *looks, *looks, write(), *looks]
    agent = await planner(lab, [*script, *looks, say("end")], every=2)
    await agent.run("go")
    texts = [m.blocks[0].text if m.origin == "timer:kode:todos" else m.role for m in await history(lab)]
    reminders = [(n, text) for n, text in enumerate(texts) if text.startswith("Reminder")]
    first = "Reminder: 2 of your 2 todos are open.\n- a\n- b (in progress)\n"
    second = "Reminder: 1 of your 2 todos are open.\n- a\n"
    tail = "Go on with them, and keep the list true with todo_write."
    assert [text for _, text in reminders] == [first + tail, second + tail, second + tail]
    told = [e for e in await lab.events() if e.type == "todo_reminder"]
    assert len(told) == 3
    assert "scheduler_triggered" not in await lab.kinds()
    # Behind the results of a step, never between a call and its result: the store would have refused that.
    assert all(texts[n - 1 : n + 2] == ["user", text, "assistant"] for n, text in reminders)
    assert (await lab.store.read_state("a")).timers == (), "nothing is open"
    assert await agent.schedule.list() == ()


async def history(lab: Any) -> list[Any]:
    return list((await lab.store.read_messages("a", limit=100)).items)


async def test_a_reminder_is_short(lab: Any) -> None:
    agent = await planner(lab, [call("look", {}), say("end")], every=1)
    await agent.set_todos([Todo(f"{n} " + "x" * 190) for n in range(100)])
    assert await agent.schedule.list() == (), "the runtime's own is not shown"
    await agent.complete()
    (timer,) = (await lab.store.read_state("a")).timers
    assert "- and 90 more" in timer.data
    assert len(timer.data) < 800
    await agent.run("go")
    assert "user: Reminder: 100 of your 100 todos are open." in "\n".join(await lab.texts())


async def test_no_reminders_if_the_template_says_so(lab: Any) -> None:
    agent = await planner(lab, [write("a"), *[call("look", {})] * 12, say("end")], every=None)
    await agent.run("go")
    assert "todo_reminder" not in await lab.kinds()


async def test_a_reminder_survives_the_process(lab: Any) -> None:
    agent = await planner(lab, [write("a"), say("ok")], every=3)
    await agent.run("go")
    again = await Agent.open("a", lab.deps([call("look", {}), say("end")], *TOOLS, store=WrappedStore(lab.store)))
    await again.run("more")
    assert (await lab.kinds()).count("todo_reminder") == 1


async def test_with_every_timer_taken_there_is_a_reminder_still(lab: Any) -> None:
    agent = await planner(lab, [write("a"), call("look", {}), say("end")], every=1)
    for n in range(32):
        await agent.schedule.after(10**6, "x", id=str(n))
    assert (await agent.run("go")).text == "end"
    assert "todo_reminder" in await lab.kinds()
    assert [t.title for t in (await agent.todos()).items] == ["a"]
    with pytest.raises(UsageError, match="32 timers"):
        await agent.schedule.after(10**6, "x")


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "3", True])
def test_the_interval_is_a_whole_number(wrong: Any) -> None:
    with pytest.raises(UsageError, match="remind_todos_every"):
        replace(AgentTemplate("t"), remind_todos_every=wrong)
