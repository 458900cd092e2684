"""Sub-agents: made for a call, driven by whoever drives the parent, answered once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest

from kode.core.config import AgentConfig, Dependencies
from kode.core.errors import NotBoundError, UsageError
from kode.core.hook import Deny, Hooks, ToolUse
from kode.core.jsontext import dump
from kode.core.kernel.inputs import CallResolved
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import TextBlock, ToolResultBlock, Usage
from kode.core.kernel.permission import PermissionPolicy
from kode.core.kernel.state import Parent
from kode.core.plugin import Plugin
from kode.core.provider.base import ModelRequest
from kode.core.provider.script import Gate, Turn, call, calls, delay, fail, last_text, say
from kode.core.runtime.agent import Agent
from kode.core.runtime.pool import AgentPool
from kode.core.runtime.sending import enqueue
from kode.core.runtime.stateless import StatelessAgent
from kode.core.template import AgentTemplate
from kode.core.tools.base import Suspended, Tool, ToolContext
from kode.core.tools.builtin import task_run
from kode.core.tools.define import tool

Think = Callable[[ModelRequest], Turn]


def task(prompt: str = "work", agent: str = "helper") -> tuple[str, dict[str, Any]]:
    return ("task_run", {"agent": agent, "prompt": prompt})


def results(request: ModelRequest) -> list[str]:
    """Texts of the tool results that came last."""
    blocks = [b for b in request.messages[-1].blocks if isinstance(b, ToolResultBlock)]
    return ["".join(c.text for c in b.content if isinstance(c, TextBlock)) for b in blocks]


def by_role(usage: Usage | None = None, **thinkers: Think) -> Think:
    """One model for all: the first word of the system prompt says who is asked."""

    def think(request: ModelRequest) -> Turn:
        return replace(thinkers[(request.system or "").split()[0]](request), usage=usage)

    return think


def asks(*tasks: tuple[str, dict[str, Any]]) -> Think:
    """A parent that gives these tasks and repeats what came back."""

    def think(request: ModelRequest) -> Turn:
        return say(" | ".join(results(request))) if results(request) else calls(*tasks)

    return think


def template(id: str, role: str | None = None, **more: Any) -> AgentTemplate:
    return AgentTemplate(id, system_prompt=role or id, **more)


class Home:
    """A parent, what it may start, and the processes that drive them."""

    def __init__(self, lab: Any, think: Think, *children: AgentTemplate, tools: tuple[Tool, ...] = (), **deps: Any):
        self.lab = lab
        self.think = think
        self.children = children or (template("helper"),)
        self.tools = tools
        self.more = deps
        self.deps = self.process()

    def process(self, **more: Any) -> Dependencies:
        """Dependencies of one more process."""
        found = self.lab.deps(self.think, task_run, *self.tools, templates=list(self.children), **self.more, **more)
        assert isinstance(found, Dependencies)
        return found

    async def parent(self, id: str = "a", deps: Dependencies | None = None, **more: Any) -> Agent:
        fields: dict[str, Any] = {
            "model": "m",
            "tools": ("task_run",),
            "subagents": tuple(one.id for one in self.children),
            **more,
        }
        config = AgentConfig(template("boss", **fields), agent_id=id, tenant="acme")
        return await Agent.create(config, deps or self.deps)

    async def child(self, parent: Agent, call: str = "1.1.1") -> Any:
        """State of the sub-agent of a call."""
        return await self.lab.store.read_state(f"{parent.uid}/{call}")


def echo(request: ModelRequest) -> Turn:
    return say(f"did {last_text(request)}")


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


# ---- what it may do at most -----------------------------------------------------------------------------------


@tool
async def write(context: ToolContext, text: str = "") -> str:
    """Change something."""
    context.services["written"].append(text)
    return "written"


@tool(readonly=True)
async def look() -> str:
    """Change nothing."""
    return "looked"


def uses(*names: str) -> Think:
    def think(request: ModelRequest) -> Turn:
        return say(" | ".join(results(request))) if results(request) else calls(*((name, {}) for name in names))

    return think


async def within(
    lab: Any, policy: PermissionPolicy, own: PermissionPolicy | None = None, **modes: Any
) -> tuple[Any, list[str]]:
    """A parent of this policy has a sub-agent use both tools."""
    written: list[str] = []
    helper = template("helper", tools=("write", "look"), permission=own or PermissionPolicy())
    home = Home(
        lab, by_role(boss=asks(task()), helper=uses("write", "look")), helper,
        tools=(write, look), services={"written": written}, modes=modes,
    )  # fmt: skip
    parent = await home.parent(permission=policy)
    return await parent.run("go"), written


async def test_a_readonly_parent_has_readonly_sub_agents(lab: Any) -> None:
    result, written = await within(lab, PermissionPolicy("readonly"))
    assert "Mode readonly denies write" in result.text
    assert result.text.endswith("looked")
    assert written == []


async def test_the_strictest_of_all_counts(lab: Any) -> None:
    result, written = await within(lab, PermissionPolicy(), PermissionPolicy("readonly"))
    assert "Mode readonly denies write" in result.text
    assert written == []


async def test_a_mode_of_ones_own_is_asked_and_fails_closed(lab: Any) -> None:
    asked: list[str] = []

    def mode(tool: Tool, arguments: Any, policy: Any) -> str:
        asked.append(f"{tool.name} in {policy.mode}")
        if tool.name == "write":
            raise ValueError("broken")
        return "allow"

    result, written = await within(lab, PermissionPolicy("mine"), mine=mode)
    assert "Permission mode 'mine' failed (ValueError)" in result.text
    assert written == []
    assert asked == ["task_run in mine", "write in mine", "look in mine"]


async def test_a_child_cannot_be_opened_where_a_mode_above_it_is_unknown(lab: Any) -> None:
    home = Home(lab, by_role(boss=asks(task()), helper=echo), modes={"mine": lambda *_: "allow"})
    parent = await home.parent(permission=PermissionPolicy("mine"))
    await parent.run("go")
    with pytest.raises(NotBoundError, match="mine"):
        await Agent.open(f"{parent.uid}/1.1.1", lab.deps((), task_run))


async def test_every_generation_lies_within_all_above_it(lab: Any) -> None:
    middle = template("middle", tools=("task_run",), subagents=("helper",), permission=PermissionPolicy("readonly"))
    helper = template("helper", tools=("write",))
    home = Home(
        lab, by_role(boss=asks(task(agent="middle")), middle=asks(task()), helper=uses("write")), middle, helper,
        tools=(write,), services={"written": []},
    )  # fmt: skip
    parent = await home.parent(permission=PermissionPolicy(ask=()))
    assert "Mode readonly denies write" in (await parent.run("go")).text
    grandchild = await Agent.open(next(a.agent_id for a in await everyone(lab) if "helper" in a.template), home.deps)
    assert [link.mode for link in grandchild.template.permission.links] == ["auto", "readonly", "auto"]


async def everyone(lab: Any) -> list[Any]:
    return list(await lab.store.list_agents())


async def test_its_budget_is_a_share_of_what_is_left(lab: Any) -> None:
    used = Usage(600, 400, cost_nanos=10**9)
    home = Home(lab, by_role(used, boss=asks(task("one"), task("two")), helper=echo))
    limits = Limits(max_tokens_per_agent=7_000, max_tokens_per_run=9_000, max_cost_per_run=9.0)
    parent = await home.parent(limits=limits)
    result = await parent.run("go")
    assert result.text == "did one | did two"
    children = [await Agent.open(f"{parent.uid}/1.1.{n}", home.deps) for n in (1, 2)]
    assert [one.limits.max_tokens_per_run for one in children] == [3_000, 3_000]
    assert [one.limits.max_cost_per_run for one in children] == [4.0, 4.0]
    assert result.usage.tokens == 4_000  # two replies of its own, one of each
    assert result.usage.cost_nanos == 4 * 10**9
    assert (await parent.run("again")).status == "limit"


async def test_a_spent_budget_starts_nobody(lab: Any) -> None:
    home = Home(lab, by_role(Usage(60, 40), boss=asks(task()), helper=echo))
    parent = await home.parent(limits=Limits(max_tokens_per_run=100))
    result = await parent.run("go")
    assert result.stop_reason == "max_tokens"
    assert "budget of tokens is spent" in (await lab.texts())[-1]
    assert len(await everyone(lab)) == 1


async def test_a_tool_of_ones_own_chooses_model_tools_and_limits(lab: Any) -> None:
    @tool(spawns=True, recovery="retry")
    async def hire(context: ToolContext, tools: list[str]) -> Suspended:
        """Hire."""
        assert context.subagents is not None
        return await context.subagents.start(
            "helper", "work", model="m:big", tools=tools, limits=Limits(max_steps_per_run=7)
        )

    helper = template("helper", model="none", tools=("write", "look"))
    hired = [("hire", {"tools": ["look"]}), ("hire", {"tools": ["task_run"]})]
    home = Home(lab, by_role(boss=asks(*hired), helper=echo), helper, tools=(hire, write, look))
    parent = await home.parent(tools=("hire",))
    result = await parent.run("go")
    assert result.text.startswith("did work | ")
    assert "Sub-agent 'helper' has no tool 'task_run'; it has: write, look" in result.text
    child = (await Agent.open(f"{parent.uid}/1.1.1", home.deps)).template
    assert (child.model, child.tools, child.limits.max_steps_per_run) == ("m:big", ("look",), 7)


async def test_only_tools_that_say_so_may_start_sub_agents(lab: Any) -> None:
    @tool
    async def sneak(context: ToolContext) -> str:
        """Try."""
        return str(context.subagents)

    home = Home(lab, by_role(boss=uses("sneak")), tools=(sneak,))
    assert (await (await home.parent(tools=("sneak",))).run("go")).text == "None"


async def test_its_sandbox_is_the_parents_where_its_template_names_none(lab: Any, tmp_path: Any) -> None:
    options = dump({"root": str(tmp_path)})
    other = dump({"root": str(tmp_path / "other")})
    home = Home(
        lab, by_role(boss=asks(task(), task(agent="apart")), helper=echo, apart=echo),
        template("helper"), template("apart", sandbox_options=other),
    )  # fmt: skip
    parent = await home.parent(sandbox_options=options)
    await parent.run("go")
    found = [(await Agent.open(f"{parent.uid}/1.1.{n}", home.deps)).template.sandbox_options for n in (1, 2)]
    assert found == [options, options], "its root stays the parent's"


# ---- waiting --------------------------------------------------------------------------------------------------


def asked(lab: Any) -> Home:
    helper = template("helper", tools=("write",), permission=PermissionPolicy("approval"))
    return Home(lab, by_role(boss=asks(task()), helper=uses("write")), helper, tools=(write,), services={"written": []})


async def test_a_sub_agent_that_waits_for_a_person_pauses_the_parent_for_a_month(lab: Any) -> None:
    home = asked(lab)
    parent = await home.parent()
    result = await parent.run("go")
    id = f"{parent.uid}/1.1.1"
    assert (result.status, result.stop_reason, result.pending) == ("paused", "suspended", ())
    assert result.children == {"1.1.1": id}
    assert json.loads(json.dumps(result.to_dict()))["children"] == {"1.1.1": id}
    assert (await parent.complete()).children == {"1.1.1": id}
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


# ---- following ------------------------------------------------------------------------------------------------


async def test_the_family_can_be_followed(lab: Any) -> None:
    helper = template("helper", tools=("task_run",), subagents=("leaf",))
    home = Home(
        lab, by_role(boss=asks(task(), task()), helper=asks(task(agent="leaf")), leaf=echo), helper, template("leaf")
    )
    parent = await home.parent(subagents=("helper",))
    seen: list[tuple[str, int]] = []
    answers: list[str] = []
    async with anyio.create_task_group() as tasks:
        events = await parent.follow(["progress"])

        async def read() -> None:
            async for envelope in events:
                assert envelope.channel == "progress"
                if envelope.event.durable:
                    seen.append((envelope.agent_id, envelope.cursor))
                if envelope.type == "done":
                    answers.append(envelope.agent_id)
                    if len(answers) == 5:
                        return

        reading = lab.later(tasks, read)
        await parent.run("go")
        await lab.pass_until(reading, 0.5, 50)
    assert set(answers) == {a.agent_id for a in await everyone(lab)}
    for id in answers:
        cursors = [cursor for one, cursor in seen if one == id]
        assert cursors == sorted(set(cursors))
        wanted = [e.cursor for e in await lab.events(id) if e.channel == "progress"]
        assert cursors == [c for c in wanted if c >= cursors[0]]
        assert cursors[0] == wanted[0]


async def test_following_begins_with_who_is_at_work(lab: Any) -> None:
    home = asked(lab)
    parent = await home.parent()
    await parent.run("go")
    events = await parent.follow(kinds=["permission_decided", "done"])
    child = await Agent.open(f"{parent.uid}/1.1.1", home.deps)
    await child.decide((await child.status()).pending[0], "allow")
    await parent.complete()
    found = [await anext(events) for _ in range(3)]
    mine = [(e.agent_id, e.type) for e in found if e.agent_id != "a"]
    assert mine == [(child.agent_id, "permission_decided"), (child.agent_id, "done")]
    assert [(e.agent_id, e.type) for e in found if e.agent_id == "a"] == [("a", "done")]


async def test_an_answer_for_a_call_of_somebody_else_is_late(lab: Any) -> None:
    home = asked(lab)
    parent = await home.parent()
    await parent.run("go")
    answer = CallResolved("x", "1.1.9", (TextBlock("no"),))
    await enqueue(lab.store, "a", answer)
    assert (await parent.complete()).status == "paused"
    assert "late_answer" in await lab.kinds()


async def test_who_watches_the_parent_watches_its_sub_agents(lab: Any) -> None:
    """Hooks and plugins of the parent stand before the sub-agent's own, and so at every depth; none is there twice."""
    ran: list[str] = []

    @tool
    async def remove(path: str) -> str:
        """Remove."""
        ran.append(path)
        return "gone"

    def guard(use: ToolUse) -> Deny | None:
        return Deny("never") if use.name == "remove" else None

    class Watch(Plugin):
        name = "watch"

    below = template("below", tools=("remove",), hooks=("own",))
    helper = template("helper", tools=("task_run",), subagents=("below",), hooks=("own", "guard"))
    lead = template("lead", model="m", tools=("task_run",), subagents=("helper",), hooks=("guard",), plugins=("watch",))

    def deeper(request: ModelRequest) -> Turn:
        return say(" | ".join(results(request))) if results(request) else calls(("remove", {"path": "/"}))

    think = by_role(lead=asks(task()), helper=asks(task(agent="below")), below=deeper)
    deps = lab.deps(
        think, remove, task_run, templates=[below, helper], plugins=[Watch()],
        hooks=[Hooks("guard", pre_tool_use=guard), Hooks("own", pre_tool_use=lambda use: None)],
    )  # fmt: skip
    agent = await Agent.create(template=lead, agent_id="a", dependencies=deps)
    assert (await agent.run("go")).text == "never"
    assert ran == []
    (made,) = (await lab.store.read_calls("a")).items
    child = await Agent.open(made.wait.child, deps)
    (made,) = (await lab.store.read_calls(child.agent_id)).items
    grandchild = await Agent.open(made.wait.child, deps)
    assert (child.template.hooks, child.template.plugins) == (("guard", "own"), ("watch",))
    assert (grandchild.template.hooks, grandchild.template.plugins) == (("guard", "own"), ("watch",))
