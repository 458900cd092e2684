"""Defects of the predecessor that no other test is about, one test for each; see ``defects.py`` for all of them."""

from __future__ import annotations

import inspect
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from kode.core.config import AgentConfig
from kode.core.errors import RecordCorruptError, UsageError
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import Json, ReasoningBlock, TextBlock, Usage
from kode.core.kernel.toolcall import CallStatus
from kode.core.kernel.words import Breakpoint, Status
from kode.core.provider.base import Prices
from kode.core.provider.script import call, say
from kode.core.provider.scripted import ScriptedProvider
from kode.core.runtime.agent import Agent
from kode.core.store.base import Store
from kode.core.store.contract import Key
from kode.core.store.json import JSONStore
from kode.core.store.memory import MemoryStore
from kode.core.store.records import int_key
from kode.core.store.sqlite import SqliteStore
from kode.core.template import AgentTemplate
from kode.core.testing.faulty import Fault, FaultyStore
from kode.core.tools.base import ToolContext
from kode.core.tools.define import tool

SOURCES = Path(__file__).parents[3] / "packages"


@tool(needs_approval=True, prompt="Ask nicely.")
async def asked(context: ToolContext) -> str:
    """Ask."""
    return "done"


async def damage(store: Any, key: Key) -> bytes:
    """Break the body of a record of agent ``a``, and give it as it is now."""
    (row,) = await store.get("a", [key])
    await store.apply("a", [], [replace(row, body=b"1{broken")], [])
    return b"1{broken"


async def body_of(store: Any, key: Key) -> bytes:
    (row,) = await store.get("a", [key])
    return bytes(row.body)


# ---- A: data ----------------------------------------------------------------------------------------------------


async def test_damage_is_no_reason_to_begin_anew(lab: Any) -> None:
    """A6: what cannot be read is said, and neither removed nor replaced by a new agent."""
    agent = await lab.agent([say("hello")])
    await agent.run("hi")
    key = Key("header", "", "a")
    broken = await damage(lab.store, key)
    with pytest.raises(RecordCorruptError) as caught:
        await Agent.resume_or_create(AgentConfig(AgentTemplate("t", model="m"), agent_id="a"), lab.deps([say("new")]))
    assert caught.value.fields["raw"] == broken
    assert await body_of(lab.store, key) == broken


async def test_a_history_that_cannot_be_read_is_not_taken_for_none(lab: Any) -> None:
    """A9: the model is not asked without what was said before, and nothing is written over it."""
    agent = await lab.agent([say("hello"), say("amnesia")])
    await agent.run("hi")
    key = Key("message", agent.uid, int_key(0))
    broken = await damage(lab.store, key)
    again = await Agent.open("a", lab.deps([say("amnesia")]))
    with pytest.raises(RecordCorruptError):
        await again.run("who am I?")
    assert await body_of(lab.store, key) == broken
    assert len(lab.provider.requests) == 1


@pytest.mark.parametrize("act", ["fail", "drop"])
@pytest.mark.parametrize("nth", range(1, 5))
async def test_no_question_is_lost_when_the_store_fails(lab: Any, act: Any, nth: int) -> None:
    """A13: a question is in the commit that asks it, so it is there once whatever had to be repeated."""
    store = FaultyStore(lab.store, Fault("commit", act, nth=nth, times=2), clock=lab.clock)
    agent = await lab.agent((), asked, deps=lab.deps([call("asked", {}), say("end")], asked, store=store))
    async with anyio.create_task_group() as tasks:
        result = await lab.pass_until(lab.later(tasks, lambda: agent.run("go")), 0.1)
    assert result.pending == ("1.1.1",)
    kinds = await lab.kinds()
    assert (kinds.count("permission_required"), kinds.count("tool_start")) == (1, 1)
    assert [e.cursor for e in await lab.events()] == list(range(1, len(kinds) + 1))


# ---- B: semantics -----------------------------------------------------------------------------------------------


async def test_every_process_sees_what_an_agent_is_at(lab: Any) -> None:
    """B2: the breakpoint is derived from what is stored, so it is never an old one."""
    agent = await lab.agent([call("asked", {}), say("end")], asked)
    outside = await Agent.open("a", lab.deps((), asked))

    async def at() -> tuple[Status, Breakpoint]:
        view = await outside.status()
        return view.status, view.breakpoint

    assert await at() == (Status.READY, Breakpoint.READY)
    await agent.run("go")
    assert await at() == (Status.PAUSED, Breakpoint.AWAITING_APPROVAL)
    await agent.decide("1.1.1", "allow")
    await agent.complete()
    assert await at() == (Status.READY, Breakpoint.READY)


async def test_a_template_stays_as_it_is_however_often_it_is_used(lab: Any) -> None:
    """B3: what tools say of themselves is laid under the prompt of each agent, not added to the template."""
    template = AgentTemplate("t", system_prompt="Be brief.", model="m", tools=("asked",))
    before = repr(template)
    deps = lab.deps(lambda request: say("ok"), asked, templates=[template])
    prompts = []
    for name in ("a", "b", "c"):
        agent = await Agent.create(AgentConfig("t", agent_id=name), deps)
        await agent.run("hi")
        await (await Agent.resume(name, deps)).run("hi")
        prompts += [[part.text for part in request.system_parts] for request in lab.provider.requests]
    assert len(lab.provider.requests) == 6
    assert all(prompt == prompts[0] for prompt in prompts)
    assert str(prompts[0]).count("Ask nicely.") == 1
    assert repr(template) == before


async def test_a_config_makes_an_agent_each_time(lab: Any) -> None:
    """B4: the id that was made up stays with the agent; the caller's object is as it was."""
    config = AgentConfig(AgentTemplate("t", model="m"))
    deps = lab.deps(lambda request: say("ok"))
    one, two = await Agent.create(config, deps), await Agent.create(config, deps)
    assert config.agent_id is None
    assert one.agent_id != two.agent_id
    await one.run("hi")
    assert (await two.status()).messages == 0


async def test_who_opens_an_agent_cannot_name_what_would_not_be_heeded(lab: Any) -> None:
    """B11: opening takes no recipe that could be ignored; the agent keeps its own until somebody changes it."""
    template = AgentTemplate("t", model="m", limits=Limits(max_steps_per_run=7))
    await Agent.create(AgentConfig(template, agent_id="a"), lab.deps())
    for opener in (Agent.open, Agent.resume):
        assert set(inspect.signature(opener).parameters) <= {"agent_id", "dependencies", "strategy", "by_hand"}
    changed = replace(template, limits=Limits(max_steps_per_run=9))
    again = await Agent.resume_or_create(AgentConfig(changed, agent_id="a"), lab.deps((), templates=[changed]))
    assert again.limits.max_steps_per_run == 7
    await again.set_limits(max_steps_per_run=9)
    await again.complete()
    assert (await Agent.open("a", lab.deps())).limits.max_steps_per_run == 9


async def test_what_is_sealed_ends_like_any_call(lab: Any) -> None:
    """B12: its end is told, the step counts, and the agent stands at a safe point."""
    agent = await lab.agent([call("asked", {})], asked)
    await agent.run("go")
    again = await Agent.resume("a", lab.deps((), asked), strategy="crash")
    kinds = await lab.kinds()
    assert kinds[-8:].count("tool_sealed") == kinds.count("tool_end") == kinds.count("tool_start") == 1
    assert kinds.count("step_complete") == 1
    assert (await again.status()).step == 1
    assert await again.snapshot("here") == "here"
    (made,) = (await lab.store.read_calls("a")).items
    assert made.status is CallStatus.SEALED


async def test_a_message_says_where_it_comes_from(lab: Any) -> None:
    """B21: number, time, run, step, sender, metadata, and on the model's side who answered and at what cost."""
    agent = await lab.agent([say("hello")])
    sent = await agent.send("hi", sender="Ann", metadata=Json('{"ticket":7}'))
    await agent.complete()
    asked, answered = (await lab.store.read_messages("a")).items
    assert (asked.seq, asked.at, asked.run, asked.origin) == (0, lab.clock.now(), 1, f"inbox:{sent.item_id}")
    assert asked.metadata == '{"ticket":7}'
    assert (answered.seq, answered.run, answered.step) == (1, 1, 1)
    assert None not in (answered.provider, answered.model, answered.attempt, answered.usage)


def test_all_that_is_said_is_said_in_english() -> None:
    """B24: no text in another script, in errors, prompts, reminders or anywhere else in the packages."""
    sources = [*SOURCES.rglob("*.py")]
    assert len(sources) > 100
    other = [
        path
        for path in sources
        if re.search(
            r"[\u0400-\u04ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]", path.read_text(encoding="utf-8")
        )
    ]
    assert other == []


async def test_reasoning_goes_back_with_its_signature(lab: Any) -> None:
    """B25: what a model thought before its calls is in the request that brings their results."""
    use = call("plain", {})
    script = [replace(use, blocks=(ReasoningBlock("Hm", "sig"), *use.blocks)), say("end")]
    agent = await lab.agent(script, plain)
    assert (await agent.run("go")).text == "end"
    request = lab.provider.requests[-1]
    assert request.messages[-2].blocks[0] == ReasoningBlock("Hm", "sig")
    assert request.reasoning.retain


@tool
async def plain(context: ToolContext) -> str:
    """Do."""
    return "done"


# ---- C: providers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [None, 1])
async def test_no_piece_that_is_shown_is_empty(lab: Any, chunk: int | None) -> None:
    """C2: what carries no text, such as a signature or an empty delta, is no piece for those who watch."""
    blocks = (ReasoningBlock("Hm", "sig"), TextBlock(""), TextBlock("Yes"))
    deps = lab.deps([replace(say(""), blocks=blocks, chunk=chunk)])
    template = AgentTemplate("t", model="m", expose_thinking=True)
    agent = await Agent.create(AgentConfig(template, agent_id="a"), deps)
    async with agent.stream("go") as events:
        shown = [(e.type, e.delta) async for e in events if e.type in ("text_chunk", "think_chunk")]
    assert all(delta for _, delta in shown)
    assert "".join(delta for _, delta in shown) == "HmYes"
    assert len(shown) == (2 if chunk is None else 5)


async def test_what_a_step_costs_is_told_and_bounded(lab: Any) -> None:
    """C8: by a table of prices, in each ``token_usage`` event, in the result, and as a limit."""
    deps = lab.deps()
    deps.providers = {"m": ScriptedProvider(by_turns, prices=Prices(1, 2, cache_read=0.1), clock=lab.clock)}
    deps.tools = [plain]
    agent = await lab.agent([], plain, deps=deps, limits=Limits(max_cost_per_run=0.000_05))
    result = await agent.run("go")
    told = [event.data["cost_nanos"] for event in await lab.events() if event.type == "token_usage"]
    assert told == [20_000 + 3_000 + 10_000] * 2
    assert (result.usage.cost_nanos, result.stop_reason) == (sum(told), "max_cost")


def by_turns(request: Any) -> Any:
    return replace(call("plain", {}), usage=Usage(50, 5, cache_read=30))


async def test_a_resumed_agent_asks_as_before(lab: Any) -> None:
    """C9: another process opens it and its model is asked the same way; how that is connected stands in no record."""
    template = AgentTemplate(
        "t", "Be brief.", model="m", temperature=0.5, max_output_tokens=99, expose_thinking=True, retain_thinking=False,
        output_schema=Json('{"type":"object"}'),
    )  # fmt: skip
    requests = []
    for turn in range(2):
        deps = lab.deps([say("{}")])
        made = Agent.create(AgentConfig(template, agent_id="a"), deps) if turn == 0 else Agent.open("a", deps)
        agent = await made
        await agent.run("go")
        requests.append(deps.providers["m"].requests[-1])
        await agent.close()
    first, second = (replace(each, messages=(), idempotency_key=None) for each in requests)
    assert first == second
    assert (first.temperature, first.max_tokens, first.reasoning.retain) == (0.5, 99, False)


async def test_calls_of_one_id_in_every_step_are_kept_apart(lab: Any) -> None:
    """C10: a vendor's id is only what goes back to it; records go by ours."""
    agent = await lab.agent([call("plain", {}, id="same"), call("plain", {}, id="same"), say("end")], plain)
    assert (await agent.run("go")).text == "end"
    calls = (await lab.store.read_calls("a", limit=9)).items
    assert len({one.id for one in calls}) == len(calls) == 2
    asked_last = lab.provider.requests[-1].messages
    results = [block.call for m in asked_last for block in m.blocks if block.type == "tool_result"]
    assert len(set(results)) == 2


# ---- F: security ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "sqlite", "json"])
async def test_a_name_leads_nowhere(lab: Any, tmp_path: Path, kind: str) -> None:
    """F2: ids of agents, forks and snapshots are checked before they are used for anything."""
    inside = tmp_path / "deep" / "store"
    store: Store = MemoryStore(lab.clock)
    if kind == "sqlite":
        store = SqliteStore(inside / "agents.db", clock=lab.clock, durability="process")
    elif kind == "json":
        store = JSONStore(inside, clock=lab.clock, durability="process")
    async with store:
        deps = lab.deps([say("hello")], store=store)
        template = AgentTemplate("t", model="m")
        agent = await Agent.create(AgentConfig(template, agent_id="fine/id"), deps)
        for bad in ("../x", "a/../../x", "/etc/x", "a//b", ".", "..", "a\0b", "a\\..\\b", "x" * 201, "a b"):
            with pytest.raises(UsageError):
                await Agent.create(AgentConfig(template, agent_id=bad), deps)
            with pytest.raises(UsageError):
                await agent.fork(bad)
            with suppress(UsageError):  # a snapshot's name is a key and no path, so it may be odd
                await agent.snapshot(bad)
    made = {str(path.relative_to(tmp_path)).split("/")[0] for path in files(tmp_path)}
    assert made == (set() if kind == "memory" else {"deep"})
    assert all(path.is_relative_to(inside) for path in files(tmp_path) if path.is_file())


def files(folder: Path) -> list[Path]:
    return [*folder.rglob("*")]
