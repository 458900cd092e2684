"""The crash matrix: one scenario, crashed at every point of its I/O, resumed by another process, compared.

The scenario: parallel readers and writers (one ``retry``, two ``seal``, one ``ask``), an approval decided by another
process, a message queued meanwhile, an interrupt from outside, and a last message. Side effects are counted in a
ledger that the tools write themselves.
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
from kode.core.errors import UsageError
from kode.core.kernel.invariants import check, check_history
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import TextBlock, ToolResultBlock, ToolUseBlock, Usage
from kode.core.kernel.toolcall import Call, CallStatus
from kode.core.kernel.words import ResumeStrategy, Status
from kode.core.provider.base import ModelRequest
from kode.core.provider.script import Turn, call, calls, say
from kode.core.provider.scripted import ScriptedProvider
from kode.core.runtime.result import RunResult
from kode.core.store.base import Store
from kode.core.testing.clock import VirtualClock
from kode.core.testing.crash import CrashPlan, crash_at, until_crash
from kode.core.testing.ids import SeededIds
from kode.core.tools.base import Tool
from kode.core.tools.define import tool

LEASE_S = 30.0
RETRY = ("look", "count", "fetch")
LIMITS = Limits(lease_s=LEASE_S)
CONFIG = AgentConfig(
    AgentTemplate("t", model="m", tools=("look", "count", "note", "fetch", "pay", "deploy", "slow"), limits=LIMITS),
    agent_id="a",
)
MESSAGES = {"m1": "go", "m2": "more", "m3": "finish"}


class World:
    """What outlives a process: the stored bytes, the time, the ledger."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.clock = VirtualClock()
        self.ledger: list[tuple[str, str]] = []
        self.acknowledged: set[str] = set()
        self.pause = 0.0 if kind == "memory" else 0.001
        self._folder = folder
        self._stores: list[Store] = [MemoryStore(self.clock)] if kind == "memory" else []
        self._kind = kind

    def store(self) -> Store:
        """The store as a process of its own would open it."""
        if self._kind == "sqlite":
            self._stores.append(SqliteStore(self._folder / "agents.db", durability="process", clock=self.clock))
        elif self._kind == "json":
            self._stores.append(JSONStore(self._folder / "kode", durability="process", clock=self.clock))
        return self._stores[-1]

    async def close(self) -> None:
        for store in self._stores:
            await store.close()


class Process:
    """One process: its code, its registries, its way to the store."""

    def __init__(self, world: World, name: str, plan: CrashPlan | None = None) -> None:
        self.world = world
        self.plan = plan or CrashPlan()
        self.slow_runs = anyio.Event()
        self.slow_ended = anyio.Event()
        model = ScriptedProvider(think, clock=world.clock, usage=Usage(10, 5))
        self.deps = Dependencies(
            store=self.plan.store(world.store()),
            tools=[self.plan.tool(one) for one in self.tools()],
            providers={"m": self.plan.provider(model)},
            clock=world.clock,
            ids=SeededIds(name),
        )

    def write(self, name: str, context: ToolContext) -> str:
        """A side effect: it outlives us, so it must not happen once we are dead."""
        self.plan.check()
        self.world.ledger.append((name, context.idempotency_key))
        return f"{name} done"

    def tools(self) -> list[Tool]:
        async def effect(context: ToolContext, name: str) -> str:
            await anyio.lowlevel.checkpoint()
            return self.write(name, context)

        @tool(readonly=True)
        async def look(context: ToolContext) -> str:
            """Look."""
            return await effect(context, "look")

        @tool(readonly=True)
        async def count(context: ToolContext) -> str:
            """Count."""
            return await effect(context, "count")

        @tool
        async def note(context: ToolContext) -> str:
            """Note."""
            return await effect(context, "note")

        @tool(recovery="retry")
        async def fetch(context: ToolContext) -> str:
            """Fetch."""
            return await effect(context, "fetch")

        @tool(recovery="ask")
        async def pay(context: ToolContext) -> str:
            """Pay."""
            return await effect(context, "pay")

        @tool(needs_approval=True)
        async def deploy(context: ToolContext) -> str:
            """Deploy."""
            return await effect(context, "deploy")

        @tool
        async def slow(context: ToolContext) -> str:
            """Take long."""
            self.write("slow", context)
            self.slow_runs.set()
            try:
                await context.clock.sleep(100)
            finally:
                self.slow_ended.set()
            return "slow done"

        return [look, count, note, fetch, pay, deploy, slow]


def think(request: ModelRequest) -> Turn:
    """The model: what it does depends on what it is shown, and on nothing else."""
    called = {b.name for m in request.messages for b in m.blocks if isinstance(b, ToolUseBlock)}
    heard = [b.text for m in request.messages if m.origin for b in m.blocks if isinstance(b, TextBlock)]
    if "look" not in called:
        return calls(*((name, {}) for name in ("look", "count", "note", "fetch", "pay", "deploy")))
    if "slow" not in called:
        return call("slow", {})
    return say("heard: " + ", ".join(heard))


async def program(process: Process, outside: Process, strategy: ResumeStrategy = "continue") -> RunResult:
    """What the application does. It may be started again at any time: its messages have ids."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(interrupt, process, outside)
        agent = await Agent.resume_or_create(CONFIG, process.deps, strategy=strategy)
        await say_to(agent, process.world, "m1")
        await agent.run(MESSAGES["m1"], item_id="m1")
        other = await Agent.open("a", outside.deps)
        await say_to(other, process.world, "m2")
        for _ in range(10):
            view = await agent.status()
            for one in view.pending:
                with suppress(UsageError):
                    await other.decide(one, "allow", by="Ann")
            if view.status is Status.READY and not view.waiting:
                break
            await agent.complete()
        await agent.complete()
        await say_to(agent, process.world, "m3")
        result = await agent.run(MESSAGES["m3"], item_id="m3")
        tasks.cancel_scope.cancel()
        return result


async def say_to(agent: Agent, world: World, id: str) -> None:
    await agent.send(MESSAGES[id], item_id=id)
    world.acknowledged.add(id)


async def interrupt(process: Process, outside: Process) -> None:
    """Another process interrupts the slow tool; ours has renewed its lease by then, and finds it in the inbox."""
    await process.slow_runs.wait()
    for _ in range(17):
        await process.world.clock.advance(1.01)
        await anyio.sleep(process.world.pause)
    other = await Agent.open("a", outside.deps)
    await other.interrupt("enough", by="Bob")
    while not process.slow_ended.is_set():
        await process.world.clock.advance(1.01)
        await anyio.sleep(process.world.pause)


async def crash_then_resume(
    world: World, *points: int, strategy: ResumeStrategy = "continue"
) -> tuple[RunResult, list[CrashPlan]]:
    """Run the program; crash each process at its point; the last one runs to the end."""
    outside = Process(world, "out")
    plans: list[CrashPlan] = []
    for number, point in enumerate((*points, None)):
        plan = CrashPlan() if point is None else crash_at(point)
        plans.append(plan)
        how: ResumeStrategy = strategy if number else "continue"
        work = partial(program, Process(world, f"p{number}-", plan), outside, how)
        result = await until_crash(plan, work)
        if result is not None:
            return result, plans
        await world.clock.advance(LEASE_S + 1)
    raise AssertionError("the last process has no crash planned")


# ---- what must be true afterwards -----------------------------------------------------------------------------


async def judge(world: World, result: RunResult, *, given_up: bool = False) -> None:
    store = world.store()
    loaded = await store.load("a")
    assert loaded is not None
    state = loaded.state
    check(state)
    assert (state.effects, state.calls, state.run, loaded.inbox, loaded.lease) == ((), (), None, (), None)
    messages = (await store.read_messages("a", limit=1000)).items
    found = (await store.read_calls("a", limit=1000)).items
    check_history(messages)
    if given_up and result.status == "interrupted":
        assert result.text == ""
    else:
        assert (result.status, result.text) == ("ok", "heard: go, more, finish")
    said = Counter(m.origin for m in messages if m.origin and m.origin.startswith("inbox:"))
    assert said == {f"inbox:{id}": 1 for id in world.acknowledged} == {f"inbox:{id}": 1 for id in MESSAGES}
    events = (await store.read_events("a", limit=5000)).items
    assert [e.cursor for e in events] == list(range(1, state.next_cursor))
    replies = [m for m in messages if m.role == "assistant"]
    assert state.next_seq == len(messages)
    assert state.steps_total == len(replies)
    assert state.usage_total == sum((m.usage or Usage() for m in replies), Usage())
    runs = (await store.read_runs("a", limit=100)).items
    assert [r.number for r in runs] == list(range(1, state.next_run))
    assert all(r.ended_at is not None for r in runs)
    assert sum(r.steps for r in runs) == state.steps_total
    assert sum(r.calls for r in runs) == len(found)
    judge_effects(world, state.uid, found, messages)


def judge_effects(world: World, uid: str, found: Any, messages: Any) -> None:
    """Nothing twice unless the tool or a person said so, and nothing claimed that did not happen."""
    counts = Counter(world.ledger)
    shown = {b.call: b for m in messages for b in m.blocks if isinstance(b, ToolResultBlock)}
    assert {key for _, key in counts} <= {f"{uid}:{one.id}" for one in found}
    for one in found:
        times = counts[one.tool, f"{uid}:{one.id}"]
        text = "".join(b.text for b in shown[one.id].content if isinstance(b, TextBlock))
        again = sum(a.kind == "recovery" and a.state == "approved" for a in one.approvals)
        if one.tool not in RETRY:
            assert times <= 1 + again, (one.tool, times, again)
        assert times <= len(one.attempts)
        judge_call(one, times, text)


def judge_call(one: Call, times: int, text: str) -> None:
    if one.status is CallStatus.COMPLETED:
        assert times >= 1
        assert text == f"{one.tool} done"
    else:
        assert one.status is CallStatus.SEALED, one
        assert ("outcome is unknown" in text) == bool(one.attempts), text
        assert times == 0 or one.attempts


@pytest.fixture(params=["memory", "sqlite", "json"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


NewWorld = Callable[[], World]


@pytest.fixture
def stride(kind: str, anyio_backend_name: str) -> int:
    """Every point on asyncio and SQLite, and in memory; a sample of them where it is all the same code.

    With ``KODE_EVERY_POINT=1`` in the environment, by hand, it is every point everywhere.
    """
    if os.environ.get("KODE_EVERY_POINT"):
        return 1
    sampled = {("sqlite", "trio"): 7, ("json", "asyncio"): 4, ("json", "trio"): 13}
    return sampled.get((kind, anyio_backend_name), 1)


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


async def count_points(new_world: NewWorld) -> list[str]:
    world = new_world()
    result, (plan,) = await crash_then_resume(world)
    await judge(world, result)
    return plan.points


# ---- the tests ------------------------------------------------------------------------------------------------


async def test_the_scenario_has_every_kind_of_point(new_world: NewWorld) -> None:
    points = await count_points(new_world)
    io = ("create", "enqueue", "commit", "acquire", "renew", "release", "model")
    for what in (*io, "look", "note", "fetch", "pay", "deploy", "slow"):
        assert f"before {what}" in points
        assert f"after {what}" in points or what == "slow"
    assert len(points) > 50


async def test_crash_at_every_point(new_world: NewWorld, stride: int) -> None:
    points = await count_points(new_world)
    crashed = 0
    for point in range(0, len(points), stride):
        world = new_world()
        result, plans = await crash_then_resume(world, point)
        crashed += len(plans) > 1
        try:
            await judge(world, result)
        except AssertionError as error:
            raise AssertionError(f"crashed at {point}: {plans[0].points[-1]}") from error
    # Which of two tasks is first may differ from run to run, and with it the number of points.
    assert crashed >= len(points) // stride - 6


async def test_crash_at_every_point_and_give_the_run_up(new_world: NewWorld, kind: str, stride: int) -> None:
    points = await count_points(new_world)
    for point in range(0, len(points), stride * (1 if kind == "memory" else 4)):
        world = new_world()
        result, _ = await crash_then_resume(world, point, strategy="crash")
        await judge(world, result, given_up=True)


async def test_crash_again_while_resuming(new_world: NewWorld, kind: str, stride: int) -> None:
    """The second process crashes too: at its first points, where it takes over, and later."""
    points = await count_points(new_world)
    for point in range(4, len(points), (7 if kind == "memory" else 16) * (2 if stride > 1 else 1)):
        for second in (0, 1, 2, 3, 5, 8, 13):
            world = new_world()
            result, plans = await crash_then_resume(world, point, second)
            try:
                await judge(world, result)
            except AssertionError as error:
                raise AssertionError(f"crashed at {[p.points[-1] for p in plans]}") from error
