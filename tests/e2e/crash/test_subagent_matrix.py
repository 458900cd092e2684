"""The crash matrix of sub-agents: a parent and two sub-agents, crashed at every point of the I/O of either side.

The scenario: two tasks in one reply. One sub-agent runs a tool that may run again and one that may not; the other
needs an approval. Once both sides are driven by one process, which crashes as a whole; once by two, of which one
crashes and the other goes on.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from kode.core import Agent, AgentConfig, AgentTemplate, Dependencies, JSONStore, MemoryStore, SqliteStore, ToolContext
from kode.core.errors import ConflictError, FencedError, LeaseLostError, NotFoundError, UsageError
from kode.core.kernel.invariants import check, check_history
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import TextBlock, ToolResultBlock, ToolUseBlock, Usage
from kode.core.kernel.toolcall import CallStatus
from kode.core.kernel.words import ResumeStrategy
from kode.core.provider.base import ModelRequest
from kode.core.provider.script import Turn, calls, say
from kode.core.provider.scripted import ScriptedProvider
from kode.core.store.base import Store
from kode.core.testing.clock import VirtualClock
from kode.core.testing.crash import CrashPlan, crash_at, until_crash
from kode.core.testing.ids import SeededIds
from kode.core.tools.base import Tool
from kode.core.tools.builtin import task_run
from kode.core.tools.define import tool

LEASE_S = 30.0
USAGE = Usage(10, 5, cost_nanos=1_000)
LIMITS = Limits(lease_s=LEASE_S, max_tokens_per_run=10_000)
HELPER = AgentTemplate("helper", "helper", tools=("fetch", "note"), limits=Limits(lease_s=LEASE_S))
ASKER = AgentTemplate("asker", "asker", tools=("deploy",), limits=Limits(lease_s=LEASE_S))
CONFIG = AgentConfig(
    AgentTemplate("boss", "boss", model="m", tools=("task_run",), subagents=("helper", "asker"), limits=LIMITS),
    agent_id="a",
)
TASKS = [("task_run", {"agent": name, "prompt": "work"}) for name in ("helper", "asker")]
LOST = (LeaseLostError, ConflictError, FencedError)


class World:
    """What outlives a process."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.clock = VirtualClock()
        self.ledger: list[tuple[str, str]] = []
        self._folder = folder
        self._kind = kind
        self._stores: list[Store] = [MemoryStore(self.clock)] if kind == "memory" else []
        self._names = 0

    def store(self) -> Store:
        if self._kind == "sqlite":
            self._stores.append(SqliteStore(self._folder / "agents.db", durability="process", clock=self.clock))
        elif self._kind == "json":
            self._stores.append(JSONStore(self._folder / "kode", durability="process", clock=self.clock))
        return self._stores[-1]

    def process(self, plan: CrashPlan) -> Dependencies:
        """One process: its code, its registries, its way to the store."""
        self._names += 1

        def effect(name: str, **flags: Any) -> Tool:
            @tool(name=name, description=name, **flags)
            async def run(context: ToolContext) -> str:
                await anyio.lowlevel.checkpoint()
                plan.check()
                self.ledger.append((name, context.idempotency_key))
                return f"{name} done"

            return plan.tool(run)

        tools = [effect("fetch", recovery="retry"), effect("note"), effect("deploy", needs_approval=True)]
        return Dependencies(
            store=plan.store(self.store()),
            tools=[plan.tool(task_run), *tools],
            providers={"m": plan.provider(ScriptedProvider(think, clock=self.clock, usage=USAGE))},
            templates=[HELPER, ASKER],
            clock=self.clock,
            ids=SeededIds(f"p{self._names}-"),
        )

    async def close(self) -> None:
        for store in self._stores:
            await store.close()


def think(request: ModelRequest) -> Turn:
    """The model: what it does depends on what it is shown, and on nothing else."""
    called = {b.name for m in request.messages for b in m.blocks if isinstance(b, ToolUseBlock)}
    if not called:
        return calls(*(TASKS if request.system.startswith("boss") else [(spec.name, {}) for spec in request.tools]))
    blocks = [b for m in request.messages for b in m.blocks if isinstance(b, ToolResultBlock)]
    return say(" + ".join(c.text for b in blocks for c in b.content if isinstance(c, TextBlock)))


# ---- one process drives all -----------------------------------------------------------------------------------


async def together(deps: Dependencies, outside: Dependencies, strategy: ResumeStrategy = "continue") -> Any:
    agent = await Agent.resume_or_create(CONFIG, deps, strategy=strategy)
    result = await agent.run("go", item_id="m1")
    for _ in range(10):
        if result.status != "paused":
            break
        await decide(result.children.values(), outside)
        result = await agent.complete()
    return result


async def settle(deps: Dependencies) -> None:
    """Drive who is due, as any pool does: one that died behind its answer has yet to note that it was given."""
    for one in await deps.store.list_agents():
        await (await Agent.open(one.agent_id, deps)).drive()


async def decide(children: Any, outside: Dependencies) -> None:
    for id in children:
        with suppress(UsageError, NotFoundError):
            child = await Agent.open(id, outside)
            for one in (await child.status()).pending:
                await child.decide(one, "allow", by="Ann")


async def crash_together(
    world: World, *points: int, strategy: ResumeStrategy = "continue"
) -> tuple[Any, list[CrashPlan]]:
    outside = world.process(CrashPlan())
    plans = [*map(crash_at, points), CrashPlan()]
    for plan in plans:
        deps = world.process(plan)
        how: ResumeStrategy = "continue" if plan is plans[0] else strategy
        result = await until_crash(plan, partial(together, deps, outside, how))
        if result is not None:
            await settle(outside)
            return result, plans
        await world.clock.advance(LEASE_S + 1)
    raise AssertionError("the last process has no crash planned")


# ---- each side in a process of its own ------------------------------------------------------------------------


async def above(deps: Dependencies) -> str:
    """Drive the parent alone, as a pool of its own does."""
    agent = await Agent.resume_or_create(CONFIG, deps, strategy="manual")
    await agent.send("go", item_id="m1")
    with suppress(*LOST):
        await agent.drive()
    return "rests"


async def below(deps: Dependencies, outside: Dependencies) -> str:
    """Drive whatever sub-agents there are."""
    children = [one.agent_id for one in await deps.store.list_agents() if one.agent_id != "a"]
    await decide(children, outside)
    for id in children:
        with suppress(*LOST):
            await (await Agent.open(id, deps)).drive()
    return "rests"


async def crash_apart(world: World, side: str, point: int | None) -> dict[str, CrashPlan]:
    """Both sides take turns until the parent is done; one of them crashes and is started again."""
    outside = world.process(CrashPlan())
    plans = {
        name: crash_at(point) if name == side and point is not None else CrashPlan() for name in ("above", "below")
    }
    first = dict(plans)
    living = {name: world.process(plan) for name, plan in plans.items()}
    for _ in range(20):
        for name in ("above", "below"):
            plan, deps = plans[name], living[name]

            async def turn(name: str = name, deps: Dependencies = deps) -> str:
                return await (above(deps) if name == "above" else below(deps, outside))

            if await until_crash(plan, turn) is None:
                plans[name] = CrashPlan()
                living[name] = world.process(plans[name])
                if point is not None and point % 2:  # the other side goes on at once, or when the lease has run out
                    await world.clock.advance(LEASE_S + 1)
        await world.clock.advance(LEASE_S / 3)
        with suppress(NotFoundError):
            if (await outside.store.read_state("a")).next_run == 2 and await rests(outside.store):
                await world.clock.advance(LEASE_S + 1)  # a process that died before it gave a lease back
                return first
    raise AssertionError("the parent is not done")


async def rests(store: Store) -> bool:
    states = [await store.read_state(one.agent_id) for one in await store.list_agents()]
    return all(state.run is None and not state.effects for state in states)


# ---- what must be true afterwards -----------------------------------------------------------------------------


async def judge(world: World) -> None:
    store = world.store()
    states = {one.agent_id: await store.read_state(one.agent_id) for one in await store.list_agents()}
    parent = states.pop("a")
    assert set(states) == {f"{parent.uid}/1.1.1", f"{parent.uid}/1.1.2"}
    for state in (parent, *states.values()):
        await judge_one(store, state)
    (record,) = (await store.read_runs("a")).items
    assert record.stop_reason == "end_turn"
    own = [m.usage for m in (await store.read_messages("a")).items if m.usage]
    used = sum((state.usage_total for state in states.values()), sum(own, Usage()))
    assert (record.usage, parent.usage_total) == (used, used)
    assert len(own) == 2
    counts = Counter(world.ledger)
    assert max((n for (name, _), n in counts.items() if name != "fetch"), default=0) <= 1
    found = (await store.read_calls("a")).items
    assert [c.status for c in found] == [CallStatus.COMPLETED] * 2
    for one in found:
        child = states[f"{parent.uid}/{one.id}"]
        assert child.parent is not None
        assert (child.parent.call, child.parent.answered) == (one.id, True)


async def judge_given_up(world: World) -> None:
    """Whoever was stopped is at rest, and nothing happened twice."""
    store = world.store()
    for one in await store.list_agents():
        await judge_one(store, await store.read_state(one.agent_id), given_up=True)
    assert max((n for (name, _), n in Counter(world.ledger).items() if name != "fetch"), default=0) <= 1


async def judge_one(store: Store, state: Any, *, given_up: bool = False) -> None:
    check(state)
    loaded = await store.load(state.agent_id)
    assert loaded is not None
    assert (state.effects, state.calls, state.run, loaded.inbox, loaded.lease) == ((), (), None, (), None)
    assert state.next_run == 2 or (given_up and state.agent_id != "a")
    messages = (await store.read_messages(state.agent_id)).items
    check_history(messages)
    assert sum(m.origin.startswith("inbox:") for m in messages if m.origin) == state.next_run - 1
    cursors = [e.cursor for e in (await store.read_events(state.agent_id, limit=1000)).items]
    assert cursors == list(range(1, state.next_cursor))


@pytest.fixture(params=["memory", "sqlite", "json"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stride(kind: str, anyio_backend_name: str) -> int:
    """Every point in memory, a sample elsewhere; with ``KODE_EVERY_POINT=1``, by hand, every point everywhere."""
    if os.environ.get("KODE_EVERY_POINT"):
        return 1
    sampled = {
        ("memory", "trio"): 11, ("sqlite", "asyncio"): 7, ("sqlite", "trio"): 23,
        ("json", "asyncio"): 9, ("json", "trio"): 29,
    }  # fmt: skip
    return sampled.get((kind, anyio_backend_name), 1)


NewWorld = Callable[[], World]


@pytest.fixture
async def new_world(kind: str, tmp_path: Path) -> AsyncIterator[NewWorld]:
    worlds: list[World] = []

    def make() -> World:
        folder = tmp_path / str(len(worlds))
        folder.mkdir()
        worlds.append(World(kind, folder))
        return worlds[-1]

    yield make
    for world in worlds:
        await world.close()


async def test_crash_at_every_point_of_one_process(new_world: NewWorld, stride: int) -> None:
    world = new_world()
    result, (plan,) = await crash_together(world)
    assert result.text == "fetch done + note done + deploy done"
    await judge(world)
    points = plan.points
    for what in ("create", "enqueue", "commit", "acquire", "release", "model", "task_run", "fetch", "note", "deploy"):
        assert f"before {what}" in points
    for point in range(0, len(points), stride):
        world = new_world()
        result, plans = await crash_together(world, point)
        try:
            assert result.status == "ok"
            await judge(world)
        except AssertionError as error:
            raise AssertionError(f"crashed at {point}: {plans[0].points[-1]}") from error


async def test_crash_at_every_point_and_give_the_run_up(new_world: NewWorld, stride: int) -> None:
    _, (plan,) = await crash_together(new_world())
    ends: Counter[str] = Counter()
    for point in range(0, len(plan.points), 5 * stride):
        world = new_world()
        result, plans = await crash_together(world, point, strategy="crash")
        ends[result.status] += 1
        try:
            await judge_given_up(world)
        except AssertionError as error:
            raise AssertionError(f"crashed at {point}: {plans[0].points[-1]}") from error
    assert set(ends) == {"ok", "interrupted"} or stride > 5


async def test_crash_again_while_resuming(new_world: NewWorld, stride: int) -> None:
    _, (plan,) = await crash_together(new_world())
    for point in range(stride, len(plan.points), 13 * stride):
        for second in (0, 3, 9):
            world = new_world()
            await crash_together(world, point, second)
            await judge(world)


@pytest.mark.parametrize("side", ["above", "below"])
async def test_crash_at_every_point_of_one_side(new_world: NewWorld, stride: int, side: str) -> None:
    world = new_world()
    plans = await crash_apart(world, side, None)
    await judge(world)
    points, reached = range(0, len(plans[side].points), 2 * stride), 0
    for point in points:
        world = new_world()
        crashed = await crash_apart(world, side, point)
        reached += crashed[side].crashed
        try:
            await judge(world)
        except AssertionError as error:
            raise AssertionError(f"{side} crashed at {point}: {crashed[side].points[-1]}") from error
    assert reached >= len(points) - 3  # a lease may go back in one commit or by itself
