"""Whose turn it is: nobody starves, nobody's failure is another's, and work is found soon after it was written."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import anyio
import pytest

from kode.core.clock import RealClock
from kode.core.config import AgentConfig, Dependencies
from kode.core.errors import StoreError, StoreUnavailableError
from kode.core.kernel.inputs import MessageReceived
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import TextBlock
from kode.core.provider.base import ModelRequest
from kode.core.provider.script import Gate, call, last_text, say
from kode.core.provider.scripted import ScriptedProvider
from kode.core.runtime.agent import Agent
from kode.core.runtime.backoff import Backoff
from kode.core.runtime.pool import AgentPool
from kode.core.store.contract import Due, Enqueued
from kode.core.store.liveness import holder_name
from kode.core.store.records import input_item
from kode.core.store.sqlite import SqliteStore
from kode.core.template import AgentTemplate
from kode.core.testing.wrapped import WrappedStore
from kode.core.tools.base import ToolContext
from kode.core.tools.define import tool


def echo(request: ModelRequest) -> str:
    return f"re {last_text(request)}"


class Counting(WrappedStore):
    """Counts what is asked of it, and fails where it is told to."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.looks = 0
        self.taken: list[str] = []
        self.broken: dict[str, Exception] = {}
        self.away: Exception | None = None

    async def due(self, now: int, limit: int, after: Due | None = None) -> list[Due]:
        self.looks += 1
        if self.away is not None:
            raise self.away
        return await super().due(now, limit, after)

    async def acquire(self, agent_id: str, holder: str, ttl_s: float) -> Any:
        self.taken.append(agent_id)
        if agent_id in self.broken:
            raise self.broken[agent_id]
        return await super().acquire(agent_id, holder, ttl_s)

    async def acquire_on(self, footing: Any, holder: str, ttl_s: float) -> Any:
        if footing.agent_id in self.broken:
            raise self.broken[footing.agent_id]
        found = await super().acquire_on(footing, holder, ttl_s)
        self.taken += [footing.agent_id] if found is not None else []
        return found


async def elsewhere(store: Any, agent_id: str, text: str) -> Enqueued:
    """Enqueue without ringing at any pool's door, as another process does."""
    input = MessageReceived(text, (TextBlock(text),))
    done: Enqueued = await store.enqueue(agent_id, input_item(input, at=await store.now()))
    return done


async def test_an_agent_that_always_has_work_makes_way_after_each_run(lab: Any) -> None:
    """One place, and an inbox that is never empty: the others have their turn all the same."""
    order: list[str] = []
    agents: dict[str, Agent] = {}

    async def answer(request: ModelRequest) -> str:
        text = last_text(request)
        order.append(text)
        if text == "more" and len(order) < 40:
            await agents["busy"].send("more")
        return "x"

    deps = lab.deps(answer)
    for id in ("busy", "b", "c"):
        agents[id] = await lab.agent((), deps=deps, id=id)
    for _ in range(3):
        await agents["busy"].send("more")
    async with AgentPool(deps, limits=Limits(max_agents=1), find=False) as pool:
        pool.wake("busy")
        for id in "bc":
            await agents[id].send(f"from {id}")
            pool.wake(id)
        await pool.wait_idle()
    assert [order.index(f"from {id}") for id in "bc"] == [1, 2]
    assert len(order) == 40


async def test_a_long_queue_goes_through_few_places_without_waiting_for_the_clock(lab: Any) -> None:
    deps = lab.deps(echo)
    for n in range(350):
        await elsewhere(lab.store, (await lab.agent((), deps=deps, id=f"a{n}")).agent_id, "go")
    most = 0
    async with AgentPool(deps, limits=Limits(max_agents=4)) as pool:

        def count(_: object) -> None:
            nonlocal most
            most = max(most, len(pool))

        deps.store.on_commit = count
        await lab.clock.advance(0)
        count(None)
        assert await lab.store.due(lab.clock.now(), 1) == [], "all were driven in no time"
    assert most <= 4


async def test_broken_agents_do_not_stand_before_the_others(lab: Any, caplog: pytest.LogCaptureFixture) -> None:
    """More than a page of them, all longer due than the one that works; each tried ever more rarely and logged once."""
    store = Counting(lab.store)
    deps = lab.deps(echo, store=store)
    for n in range(120):
        await elsewhere(lab.store, (await lab.agent((), deps=deps, id=f"broken{n}")).agent_id, "go")
        store.broken[f"broken{n}"] = StoreError("The record is damaged.", code="damaged")
    await lab.clock.advance(1)
    await elsewhere(lab.store, (await lab.agent((), deps=deps, id="well")).agent_id, "go")
    with caplog.at_level(logging.WARNING, "kode"):
        async with AgentPool(deps, limits=Limits(max_agents=3)) as pool:
            await lab.clock.advance(1.5)
            assert await lab.texts("well") == ["user: go", "assistant: re go"]
            assert pool.stats().retrying == 120
            await lab.clock.advance(60)
            tries = [store.taken.count(f"broken{n}") for n in range(120)]
            assert (min(tries), max(tries)) == (6, 6), "at 0, 1, 3, 7, 15 and 31 seconds"
            assert len(caplog.records) == 120
            store.broken.clear()
            await lab.clock.advance(64)
            assert pool.stats().retrying == 0
    assert await lab.store.due(lab.clock.now(), 1) == []


async def test_each_kind_of_broken_agent_is_skipped_and_the_others_go_on(
    lab: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @tool
    async def hang(context: ToolContext) -> str:
        """Never end."""
        await anyio.sleep_forever()
        return ""

    @tool
    async def missing(context: ToolContext) -> str:
        """Not bound in the pool's process."""
        return ""

    def answer(request: ModelRequest) -> Any:
        return call("hang", {}) if last_text(request) == "hang" else echo(request)

    everything = lab.deps(answer, hang, missing)
    here = lab.deps(answer, hang)
    for id, tools in {"hangs": (hang,), "unbound": (missing,), "corrupt": (), "poison": (), "well": ()}.items():
        await lab.agent((), *tools, deps=everything, id=id)
        await elsewhere(lab.store, id, "hang" if id == "hangs" else "go")
    shelf = lab.store._shelves["header", ""].rows
    shelf["corrupt"] = replace(shelf["corrupt"], body=b"1\n{not json")
    with caplog.at_level(logging.WARNING, "kode"):
        store = here.store = Counting(lab.store)
        store.broken["poison"] = ZeroDivisionError("a bug")
        async with AgentPool(here, limits=Limits(max_agents=5, tool_timeout_s=20)) as pool:
            for n in range(30):
                await elsewhere(lab.store, "well", f"m{n}")
                await lab.clock.advance(1)
                assert (await lab.texts("well"))[-1] == f"assistant: re m{n}", "whatever the others do"
            assert pool.stats().retrying == 3
            assert "did not end" in "".join(await lab.texts("hangs")) or len(await lab.texts("hangs")) > 2
    said = [record.getMessage().split(" failed")[0] for record in caplog.records]
    assert sorted(said) == ["Driving agent corrupt", "Driving agent poison", "Driving agent unbound"]
    poison = next(record for record in caplog.records if "poison" in record.getMessage())
    assert poison.exc_info is not None, "a bug shows where it is"
    assert shelf["corrupt"].body == b"1\n{not json", "nothing is overwritten because of an error"


async def test_another_error_is_news(lab: Any, caplog: pytest.LogCaptureFixture) -> None:
    backoff = Backoff(lab.clock)
    first, other = StoreError("x", code="one"), StoreError("x", code="two")
    assert [backoff.failed("a", error) for error in (first, first, other, other, first)] == [
        True, False, True, False, True,
    ]  # fmt: skip
    assert not backoff.ready("a")
    await lab.clock.advance(16)
    assert backoff.ready("a")
    for _ in range(2_000):
        backoff.failed("a", first)
    await lab.clock.advance(300)
    assert backoff.ready("a")
    backoff.keep({"b"})
    assert len(backoff) == 0


@pytest.mark.parametrize("error", [StoreUnavailableError("away"), StoreError("odd"), ZeroDivisionError("a bug")])
async def test_a_store_that_cannot_be_searched_is_asked_again(
    lab: Any, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    store = Counting(lab.store)
    store.away = error
    deps = lab.deps(echo, store=store)
    agent = await lab.agent((), deps=deps)
    await lab.agent((), deps=deps, id="b")
    await elsewhere(lab.store, "b", "go")
    with caplog.at_level(logging.WARNING, "kode"):
        async with AgentPool(deps) as pool:
            await lab.clock.advance(20)
            await (await pool.open("a")).send("rung")
            await lab.clock.advance(0)
            assert (await lab.texts())[-1] == "assistant: re rung", "whom one rings for is driven"
            store.away = None
            await lab.clock.advance(2)
            assert (await lab.texts("b"))[-1] == "assistant: re go"
    assert [record.getMessage().split(" failed")[0] for record in caplog.records] == ["Looking for due agents"]
    assert agent.agent_id == "a"


async def test_what_is_written_through_this_store_is_found_at_once(lab: Any) -> None:
    """Sooner than by looking at intervals; and a burst of writing is not a burst of looking."""
    looks: list[float] = []
    due = lab.store.due

    async def counted(now: int, limit: int, after: Any = None) -> Any:
        looks.append(lab.clock.monotonic())
        return await due(now, limit, after)

    lab.store.due = counted
    deps = lab.deps(echo)
    await lab.agent((), deps=deps)
    async with AgentPool(deps):
        await lab.clock.advance(10.0)
        assert len(looks) == 11, "the net under it stays: once per second"
        await elsewhere(lab.store, "a", "one")
        await lab.clock.advance(0.26)
        assert (await lab.texts())[-1] == "assistant: re one"
        seen = len(looks)
        for n in range(40):
            await elsewhere(lab.store, "a", f"m{n}")
            await lab.clock.advance(0.05)
        assert (await lab.texts())[-1].startswith("assistant: re m3")
        assert len(looks) - seen in range(2, 10), "four per second at most"


async def test_who_dies_beside_a_pool_is_inherited_long_before_the_lease_runs_out(lab: Any) -> None:
    lab.store.same_host, lab.store.alone = True, False
    deps = lab.deps(echo)
    living = holder_name("theirs")
    parts = living.split("#")
    dead = "#".join([*parts[:4], "4194305", parts[5]])  # above the largest number that a process may have
    async with AgentPool(deps):
        await lab.clock.advance(1)
        for id, holder in (("a", dead), ("b", living)):
            await lab.agent((), deps=deps, id=id)
            await lab.store.acquire(id, holder, 30.0)
            await elsewhere(lab.store, id, "go")
        await lab.clock.advance(8)
        assert (await lab.texts("a"))[-1] == "assistant: re go"
        await lab.clock.advance(15)
        assert await lab.texts("b") == [], "its driver lives"
        await lab.clock.advance(8)
        assert (await lab.texts("b"))[-1] == "assistant: re go", "its lease ran out"


@pytest.mark.integration
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_another_process_wrote_is_found_sooner_where_the_store_can_tell(tmp_path: Any) -> None:
    path = str(tmp_path / "agents.db")
    async with SqliteStore(path) as store, SqliteStore(path) as other:
        deps = Dependencies(store, providers={"m": ScriptedProvider(echo)})
        await Agent.create(AgentConfig(AgentTemplate("t", model="m"), "a"), deps)
        clock = RealClock()
        async with AgentPool(deps, limits=Limits(due_poll_s=60.0)):
            await anyio.sleep(0.3)
            await elsewhere(other, "a", "go")
            with clock.fail_after(30):  # before the next regular look
                while (await other.read_state("a")).next_seq < 2:  # noqa: ASYNC110 - as another process sees it
                    await anyio.sleep(0.02)


async def test_run_takes_the_lease_once(lab: Any) -> None:
    """The pool does not race with the caller who drives by hand, nor leave its message to chance."""
    store = Counting(lab.store)
    deps = lab.deps(echo, store=store)
    async with AgentPool(deps, find=False) as pool:
        await pool.create(template=AgentTemplate("t", model="m"), agent_id="a")
        for n in range(5):
            assert (await pool.run("a", f"m{n}", item_id=f"i{n}")).text == f"re m{n}"
        await pool.wait_idle()
        assert store.taken == ["a"] * 5
        assert (await pool.run("a", "m0", item_id="i0")).text == "re m0", "said again, not done again"


async def test_what_a_cancelled_run_left_is_gone_on_with(lab: Any) -> None:
    gate = Gate()
    deps = lab.deps([say("never", gate=gate), say("then")])
    await lab.agent((), deps=deps)
    async with anyio.create_task_group() as tasks, AgentPool(deps) as pool:
        running = lab.later(tasks, lambda: pool.run("a", "go"))
        await gate.reached()
        await running.cancel()
        await lab.clock.advance(2)
        assert (await lab.texts())[-1] == "assistant: then"


async def test_wait_idle_and_stats_and_iteration(lab: Any) -> None:
    gate = Gate()
    deps = lab.deps({"a": [say("one", gate=gate)], "b": [say("bee")], "c": [say("sea")]})
    async with anyio.create_task_group() as tasks, AgentPool(deps, limits=Limits(max_agents=1)) as pool:
        for id in "abc":
            await lab.agent((), deps=deps, id=id)
        await pool.wait_idle()
        assert list(pool) == []
        for id in "abc":
            await elsewhere(lab.store, id, "go")
        waiting = lab.later(tasks, pool.wait_idle)
        await lab.clock.advance(1)
        assert not waiting.done
        stats = pool.stats()
        assert (stats.open, stats.driving, stats.waiting, stats.retrying) == (1, 1, 2, 0)
        assert [agent.agent_id for agent in pool] == ["a"]
        gate.release()
        await waiting.wait()
        assert pool.stats().driving == pool.stats().waiting == 0
        for id in "abc":
            assert len(await lab.texts(id)) == 2
