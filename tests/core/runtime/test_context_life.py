"""A compaction in an agent's life: crashes at every point of it, interrupts, deadlines, messages meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from kode.core import Agent, AgentConfig, AgentTemplate, Dependencies, MemoryStore, SqliteStore
from kode.core.kernel.context import ContextPolicy
from kode.core.kernel.invariants import check, check_history
from kode.core.kernel.message import TextBlock, ToolResultBlock, ToolUseBlock, Usage
from kode.core.kernel.words import Status
from kode.core.provider.base import ModelRequest
from kode.core.provider.failure import provider_error
from kode.core.provider.script import Turn, call, say
from kode.core.provider.scripted import ScriptedProvider
from kode.core.runtime.context.estimate import request_tokens
from kode.core.store import JSONStore
from kode.core.store.base import Store
from kode.core.store.contract import Scan
from kode.core.testing.clock import VirtualClock
from kode.core.testing.crash import CrashPlan, crash_at, until_crash
from kode.core.testing.ids import SeededIds
from kode.core.tools.define import tool

LEASE_S = 30.0
MOST = 900


def policy(**more: Any) -> ContextPolicy:
    return ContextPolicy(max_tokens=MOST, **more)


TEMPLATE = AgentTemplate("t", model="m", tools=("look",), context=policy())
CONFIG = AgentConfig(TEMPLATE, agent_id="a")


@tool(recovery="retry")
async def look(n: int) -> str:
    """Look at page n."""
    return f"page {n}: " + "words and more words. " * 40


def summing(request: ModelRequest) -> bool:
    return str(request.system).startswith("You write the summary")


class Model:
    """Looks at one page after the other; what it does follows from what it is shown alone. It counts honestly."""

    def __init__(self, pages: int, *, limit: int | None = None, summary_s: float = 0.0) -> None:
        self.pages, self.limit, self.summary_s = pages, limit, summary_s
        self.sizes: list[int] = []

    def __call__(self, request: ModelRequest) -> Turn:
        size = request_tokens(request)
        if summing(request):
            return say(f"Seen up to {_seen(request)}.", usage=Usage(size, 9), delay_s=self.summary_s)
        if self.limit is not None and size > self.limit and _seen(request) < 4:
            raise provider_error("context_too_long", "too long")
        self.sizes.append(size)
        _valid(request)
        n = _seen(request)
        turn = say(f"seen {n}") if n >= self.pages else call("look", {"n": n + 1}, id=f"c{n + 1}")
        return replace(turn, usage=Usage(size, 9))


def _seen(request: ModelRequest) -> int:
    """The last page that the request tells of, in a result or in a summary."""
    found = [0]
    for message in request.messages:
        for block in message.blocks:
            inner = block.content if isinstance(block, ToolResultBlock) else (block,)
            text = " ".join(b.text for b in inner if isinstance(b, TextBlock))
            for word in ("page ", "Seen up to "):
                found += [int("".join(filter(str.isdigit, part[:4])) or 0) for part in text.split(word)[1:]]
    return max(found)


def _valid(request: ModelRequest) -> None:
    asked: list[str] = []
    for message in request.messages:
        assert [b.tool_use_id for b in message.blocks if isinstance(b, ToolResultBlock)] == asked
        asked = [b.id for b in message.blocks if isinstance(b, ToolUseBlock)]
    assert not asked


class World:
    """What outlives a process."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.clock = VirtualClock()
        self._stores: list[Store] = []
        self._kind, self._folder, self._names = kind, folder, 0
        self.every = {"memory": 1, "sqlite": 2, "json": 5}[kind]
        """How many points are passed over: a file costs more than memory."""

    def store(self) -> Store:
        if self._kind == "sqlite":
            self._stores.append(SqliteStore(self._folder / "agents.db", durability="process", clock=self.clock))
        elif self._kind == "json":
            self._stores.append(JSONStore(self._folder / "agents", durability="process", clock=self.clock))
        elif not self._stores:
            self._stores.append(MemoryStore(self.clock))
        return self._stores[-1]

    def process(self, plan: CrashPlan, model: Any) -> Dependencies:
        self._names += 1
        provider = ScriptedProvider(model, clock=self.clock)
        return Dependencies(
            store=plan.store(self.store()), tools=[plan.tool(look)], providers={"m": plan.provider(provider)},
            clock=self.clock, ids=SeededIds(f"p{self._names}-"),
        )  # fmt: skip

    async def close(self) -> None:
        for store in self._stores:
            await store.close()


@pytest.fixture(params=["memory", "sqlite", "json"])
async def world(request: Any, tmp_path: Path) -> AsyncIterator[World]:
    world = World(request.param, tmp_path)
    yield world
    await world.close()


async def program(deps: Dependencies) -> Any:
    """A run with compactions by itself and by a refused request, and a compaction by hand; repeated after a crash."""
    agent = await Agent.resume_or_create(CONFIG, deps)
    result = await agent.run("Look at all pages.", item_id="m1")
    if not any(one.id.startswith("1.7") for one in await agent.compactions()):
        await agent.compact()
        await agent.complete()
    return result


async def test_a_crash_at_every_point(world: World) -> None:
    plan, model = CrashPlan(), Model(6, limit=700)
    await program(world.process(plan, model))
    points = len(plan.points)
    assert points > 60
    store = world.store()
    made = len(await store.scan("a", Scan("compaction", (await store.read_state("a")).uid, limit=99)))
    refused = [e for e in (await store.read_events("a", limit=999)).items if e.data.get("code") == "context_too_long"]
    assert made >= 3
    assert refused
    for point in range(0, points, world.every):
        await store.delete("a")
        crashed = crash_at(point)
        await until_crash(crashed, partial(program, world.process(crashed, Model(6, limit=700))))
        await world.clock.advance(LEASE_S + 1)
        result = await program(world.process(CrashPlan(), Model(6, limit=700)))
        assert (result.status, result.text) == ("ok", "seen 6"), plan.points[point]
        state = await store.read_state("a")
        check(state)
        assert (state.effects, state.run, state.window.compaction is None) == ((), None, False)
        messages = (await store.read_messages("a", limit=100)).items
        check_history(messages)
        assert len(messages) == 14
        rows = await store.scan("a", Scan("compaction", state.uid, limit=99))
        assert made <= len(rows) <= made + 1, "one that was recorded is not made again"


# ---- what happens meanwhile -----------------------------------------------------------------------------------


async def slow(lab: Any, pages: int = 5, **more: Any) -> tuple[Agent, Model]:
    """An agent whose summaries take 50 seconds."""
    model = Model(pages, summary_s=50)
    deps = lab.deps(model, look)
    return await Agent.create(AgentConfig(TEMPLATE, agent_id="a", **more), deps), model


async def until_compacting(lab: Any) -> None:
    for _ in range(200):
        if any(e.type == "context_compression" for e in await lab.events()):
            return
        await lab.clock.advance(0.1)
    raise AssertionError("no compaction began")


async def test_an_interrupt_ends_it(lab: Any) -> None:
    agent, _ = await slow(lab)
    async with anyio.create_task_group() as tasks:
        work = lab.later(tasks, lambda: agent.run("go"))
        await until_compacting(lab)
        await agent.interrupt("enough")
        result = await lab.pass_until(work, 0.1, 20)
    assert result.status == "interrupted"
    state = await lab.store.read_state("a")
    assert (state.effects, state.window.compaction, state.status) == ((), None, Status.READY)
    assert [e.data["phase"] for e in await lab.events() if e.type == "context_compression"] == ["start", "cancelled"]


async def test_an_interrupt_ends_one_by_hand(lab: Any) -> None:
    model = Model(3, summary_s=50)
    template = replace(TEMPLATE, context=ContextPolicy(max_tokens=50_000))
    agent = await Agent.create(AgentConfig(template, agent_id="a"), lab.deps(model, look))
    await agent.run("go")
    await agent.compact()
    async with anyio.create_task_group() as tasks:
        work = lab.later(tasks, agent.complete)
        await until_compacting(lab)
        assert (await lab.store.read_state("a")).run is None
        await agent.interrupt("enough")
        await lab.pass_until(work, 0.1, 20)
    assert (await lab.store.read_state("a")).effects == ()
    assert await agent.compactions() == ()
    assert "input_rejected" not in await lab.kinds()


async def test_a_message_that_comes_meanwhile_is_seen_with_the_next_request(lab: Any) -> None:
    agent, model = await slow(lab)
    async with anyio.create_task_group() as tasks:
        work = lab.later(tasks, lambda: agent.run("go"))
        await until_compacting(lab)
        sent = await agent.send("One more thing.")
        result = await lab.pass_until(work)
    assert result.text == "seen 5"
    assert (await lab.store.consumed_by("a", sent.item_id)) == 1
    texts = [" ".join(b.text for b in m.blocks if isinstance(b, TextBlock)) for m in lab.provider.requests[-1].messages]
    assert "One more thing." in texts
    assert max(model.sizes) < MOST + 300


async def test_a_deadline_rests_the_run_and_the_compaction_goes_on_later(lab: Any) -> None:
    agent, _ = await slow(lab)
    async with anyio.create_task_group() as tasks:
        work = lab.later(tasks, lambda: agent.run("go", timeout_s=20))
        result = await lab.pass_until(work)
    assert result.status == "deadline"
    state = await lab.store.read_state("a")
    assert [e.kind for e in state.effects] == ["CompactHistory"]
    assert [d.agent_id for d in await lab.store.due(lab.clock.now(), 10)] == ["a"]
    async with anyio.create_task_group() as tasks:
        other = await Agent.open("a", lab.deps(Model(5), look))
        result = await lab.pass_until(lab.later(tasks, other.complete))
    assert (result.status, result.text) == ("ok", "seen 5")
    assert (await agent.compactions())[0].method == "model"


async def test_a_summary_that_takes_too_long_is_replaced(lab: Any) -> None:
    agent, _ = await slow(lab)
    await agent.set_limits(model_timeout_s=10)
    async with anyio.create_task_group() as tasks:
        result = await lab.pass_until(lab.later(tasks, lambda: agent.run("go")))
    assert result.text == "seen 5"
    assert {one.method for one in await agent.compactions()} == {"digest"}
    said = [e.preview for e in await lab.events() if e.type == "error"]
    assert said[0] == "No summary by the model, a digest instead: no summary within 10 s"


async def test_a_fork_and_a_process_that_comes_later_see_the_same_window(lab: Any) -> None:
    agent = await Agent.create(CONFIG, lab.deps(Model(10), look))
    await agent.run("go")
    fork = await agent.fork("b")
    shown = []
    for id in ("a", "b"):
        deps = lab.deps(Model(10), look)
        other = await Agent.open(id, deps)
        await other.run("again")
        shown.append([m.blocks for m in deps.providers["m"].requests[-1].messages])
    assert shown[0] == shown[1]
    assert [one.id for one in await fork.compactions()] == [one.id for one in await agent.compactions()] != []
    await fork.revert((await fork.compactions())[0].id)
    assert (await lab.store.read_state("b")).window.compaction is None


async def test_an_agent_of_before_has_the_usual_policy() -> None:
    from kode.core.kernel.message import Json
    from kode.core.template import decode_template, encode_template

    body, _ = encode_template(AgentTemplate("t", model="m"))
    without = body.replace(body[body.index(',"context"') : body.index("}", body.index(',"context"')) + 1], "")
    assert "context" in body
    assert "context" not in without
    assert decode_template(Json(without)).context == ContextPolicy()
    assert decode_template(encode_template(TEMPLATE)[0]).context == policy()
