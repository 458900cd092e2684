"""Which agents a pool has open: the idle ones go, handles stay good, and no two callers make two of one."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest

from kode.core.config import AgentConfig
from kode.core.errors import AgentExistsError, KodeError, LeaseLostError, NotFoundError, UsageError
from kode.core.event.hub import Hub
from kode.core.kernel.limits import Limits
from kode.core.provider.base import ModelRequest
from kode.core.provider.script import Gate, call, last_text, say
from kode.core.runtime.agent import Agent
from kode.core.runtime.pool import AgentPool
from kode.core.runtime.resident import Resident
from kode.core.sandbox.catalog import SandboxFactory
from kode.core.sandbox.local import LocalSandbox
from kode.core.template import AgentTemplate
from kode.core.testing.wrapped import WrappedStore
from kode.core.tools.base import ToolContext
from kode.core.tools.define import tool


def echo(request: ModelRequest) -> str:
    return f"re {last_text(request)}"


@tool
async def touch(context: ToolContext) -> str:
    """Touch."""
    return "done"


class Door(WrappedStore):
    """Holds operations back until it is opened."""

    def __init__(self, inner: Any, *names: str) -> None:
        super().__init__(inner)
        self.names = names
        self.waiting = 0
        self.opened = anyio.Event()

    async def operate(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        await self._stand(name)
        return await super().operate(name, call)

    async def around(self, method: str, call: Callable[[], Awaitable[Any]]) -> Any:
        await self._stand(method)
        return await super().around(method, call)

    async def _stand(self, name: str) -> None:
        if name in self.names and not self.opened.is_set():
            self.waiting += 1
            await self.opened.wait()


class Boxes(SandboxFactory):
    """Sandboxes that are counted, and may fail or hang at their end."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[Any] = []
        self.made = 0
        self.trouble: Callable[[], Awaitable[None]] | None = None

    def create(self, kind: str, **options: Any) -> Any:
        boxes = self

        class Box(LocalSandbox):
            async def open(self) -> None:
                boxes.made += 1
                boxes.open.append(self)

            async def close(self) -> None:
                if boxes.trouble is not None:
                    await boxes.trouble()
                boxes.open.remove(self)

        return Box(**options)

    async def kill_ref(self, ref: str) -> int:
        return 0


async def test_who_is_idle_goes_and_its_handle_stays_good(lab: Any) -> None:
    deps = lab.deps({id: [say("one"), say("two")] for id in "abc"}, touch, sandboxes=Boxes())
    async with AgentPool(deps, limits=Limits(max_agents=2), find=False) as pool:
        handles = {}
        for id in "abc":
            handles[id] = await lab.agent((), touch, deps=deps, id=id)
            handles[id] = await pool.open(id)
            await handles[id].send("go")
            await pool.wait_idle()
        assert [agent.agent_id for agent in pool] == ["b", "c"], "who was longest unused has gone"
        assert len(deps.sandboxes.open) == 2
        await pool.open("b")
        assert await pool.open("a") is handles["a"], "one handle while anybody holds it"
        assert [agent.agent_id for agent in pool] == ["b", "a"]
        await handles["c"].send("again")
        await pool.wait_idle()
        assert (await lab.texts("c"))[-1] == "assistant: two"
        assert {agent.agent_id for agent in pool} == {"a", "c"}


async def test_nobody_who_is_driven_goes(lab: Any) -> None:
    """Not by the pool, and not by the owner of its handle."""
    gate = Gate()
    deps = lab.deps({"a": [say("one", gate=gate)], "b": [say("x")]})
    await lab.agent((), deps=deps, id="b")
    await lab.agent((), deps=deps, id="a")
    async with anyio.create_task_group() as tasks, AgentPool(deps, limits=Limits(max_agents=1), find=False) as pool:
        agent = await pool.open("a")
        running = lab.later(tasks, lambda: agent.run("go"))
        await gate.reached()
        assert pool.stats().driving == 0
        for _ in range(2):
            with pytest.raises(UsageError, match="max_agents is 1"):
                await pool.open("b")
            await pool.evict("a")
            await lab.clock.advance(100)  # longer than idle_s
        assert [agent.agent_id for agent in pool] == ["a"]
        gate.release()
        assert (await running.wait()).text == "one"
        await lab.clock.advance(100)
        assert len(pool) == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_thousand_idle_agents_give_their_memory_back(lab: Any) -> None:
    text = "word " * 2_000

    def answer(request: ModelRequest) -> str:
        return text

    deps = lab.deps(answer)
    strange = _alive(Resident, Agent, Hub)  # a test that failed before this one leaves its own behind its traceback
    async with AgentPool(deps, limits=Limits(max_agents=2_000), idle_s=30, find=False) as pool:
        for n in range(1_000):
            agent = await pool.create(AgentConfig(AgentTemplate("t", model="m")))
            await agent.send(f"{n} {text}")
        del agent
        await pool.wait_idle()
        assert len(_alive(Resident).keys() - strange.keys()) == pool.stats().open == 1_000
        await lab.clock.advance(32)
        assert pool.stats().open == 0
        assert not _alive(Resident, Agent, Hub).keys() - strange.keys()


def _alive(*kinds: type) -> dict[int, object]:
    """What is in memory of some kinds, by identity; what holds it keeps an identity from being given again."""
    gc.collect()
    return {id(one): one for one in gc.get_objects() if issubclass(type(one), kinds)}


async def test_two_who_open_one_agent_at_once_get_one_handle(lab: Any) -> None:
    deps = lab.deps(echo, store=Door(lab.store, "look_up"))
    await lab.agent(echo)
    deps.store.opened.set()
    got: list[Agent] = []
    async with AgentPool(deps, find=False) as pool, anyio.create_task_group() as tasks:

        async def reopen() -> None:
            got.append(await pool.open("a"))

        deps.store.opened = anyio.Event()
        for _ in range(10):
            tasks.start_soon(reopen)
        await lab.clock.advance(0)
        assert (deps.store.waiting, len(got)) == (1, 0), "one asks the store for all"
        deps.store.opened.set()
        await lab.clock.advance(0)
        assert len(set(map(id, got))) == 1
        assert len(got) == 10


async def test_of_two_who_create_one_agent_at_once_one_wins(lab: Any) -> None:
    deps = lab.deps(echo, store=Door(lab.store, "create"))
    outcomes: list[Any] = []
    async with AgentPool(deps, limits=Limits(max_agents=1), find=False) as pool, anyio.create_task_group() as tasks:

        async def create() -> None:
            try:
                outcomes.append(await pool.create(AgentConfig(AgentTemplate("t", model="m"), "a")))
            except KodeError as error:
                outcomes.append(error)

        async def reopen() -> None:
            outcomes.append(await pool.open("a"))

        tasks.start_soon(create)
        await lab.clock.advance(0)
        tasks.start_soon(create)
        tasks.start_soon(reopen)
        await lab.clock.advance(0)
        assert outcomes == []
        deps.store.opened.set()
        await lab.clock.advance(0)
        (lost,) = [one for one in outcomes if isinstance(one, KodeError)]
        assert isinstance(lost, AgentExistsError)
        first, second = [one for one in outcomes if one is not lost]
        assert first is second, "who created it and who opened it hold the same handle"
        assert len(pool) == 1


async def test_places_are_taken_before_anything_is_waited_for(lab: Any) -> None:
    """Many at once are never more than ``max_agents``, and what is refused was not created."""
    deps = lab.deps(echo, store=Door(lab.store, "create"))
    refused: list[str] = []
    async with AgentPool(deps, limits=Limits(max_agents=3), find=False) as pool, anyio.create_task_group() as tasks:

        async def create(id: str) -> None:
            try:
                await pool.create(AgentConfig(AgentTemplate("t", model="m"), id))
            except UsageError as error:
                refused.append(error.code)

        for n in range(10):
            tasks.start_soon(create, f"a{n}")
        await lab.clock.advance(0)
        assert len(pool) == 3
        deps.store.opened.set()
        await lab.clock.advance(0)
    assert refused == ["pool_full"] * 7
    assert len(await lab.store.list_agents()) == 3


@pytest.mark.parametrize("why", ["evicted", "idle", "crowded out"])
async def test_an_agent_that_goes_while_it_is_opened_again(lab: Any, why: str) -> None:
    """Its old sandbox is closed before a new one of the same name is opened."""
    boxes, gate = Boxes(), anyio.Event()
    deps = lab.deps([say("one"), say("two")], touch, sandboxes=boxes)
    await lab.agent((), touch, deps=deps)
    pool = AgentPool(deps, limits=Limits(max_agents=2), find=False, idle_s=5)
    async with pool, anyio.create_task_group() as tasks:
        agent = await pool.open("a")
        await agent.run("go")
        boxes.trouble = gate.wait
        if why == "evicted":
            tasks.start_soon(pool.evict, "a")
        elif why == "crowded out":
            for id in ("new", "newer"):
                tasks.start_soon(pool.create, AgentConfig(AgentTemplate("t", model="m"), id))
        await lab.clock.advance(5 if why == "idle" else 0)
        again = lab.later(tasks, lambda: pool.run("a", "again"))
        await lab.clock.advance(0)
        assert (boxes.made, again.done) == (1, False)
        gate.set()
        assert (await again.wait()).text == "two"
        assert boxes.made == 2
        assert len(boxes.open) == 1


async def test_who_is_chosen_to_go_and_needed_at_that_moment(lab: Any) -> None:
    """``b`` takes the place of ``a`` while ``a`` is rung for; both are driven in the end, one after the other."""
    gate = anyio.Event()
    boxes = Boxes()
    deps = lab.deps({"a": [say("one"), say("two")], "b": [say("bee")]}, touch, sandboxes=boxes)
    for id in "ab":
        await lab.agent((), touch, deps=deps, id=id)
    async with AgentPool(deps, limits=Limits(max_agents=1), find=False) as pool, anyio.create_task_group() as tasks:
        a = await pool.open("a")
        await a.send("go")
        await pool.wait_idle()
        boxes.trouble = gate.wait
        opening = lab.later(tasks, lambda: pool.open("b"))
        await lab.clock.advance(0)
        await a.send("again")
        await lab.clock.advance(0)
        assert len(pool) == 1
        gate.set()
        boxes.trouble = None
        await (await opening.wait()).send("go")
        await lab.clock.advance(2)
        await pool.wait_idle()
        assert (await lab.texts("a"))[-1] == "assistant: two"
        assert (await lab.texts("b"))[-1] == "assistant: bee"
        assert len(boxes.open) == 1


async def test_a_sandbox_that_does_not_close_keeps_nobody_out(lab: Any, caplog: pytest.LogCaptureFixture) -> None:
    boxes = Boxes()
    deps = lab.deps([say("one"), say("two")], touch, sandboxes=boxes)
    for id in "ab":
        await lab.agent((), touch, deps=deps, id=id)
    async with anyio.create_task_group() as tasks, AgentPool(deps, limits=Limits(max_agents=1), find=False) as pool:
        await (await pool.open("a")).run("go")

        async def fail() -> None:
            raise OSError("busy")

        boxes.trouble = fail
        await pool.open("b")
        assert "did not close" in caplog.text
        await (await pool.open("b")).run("go")
        boxes.trouble = anyio.sleep_forever
        opening = lab.later(tasks, lambda: pool.open("a"))
        assert (await lab.pass_until(opening)).agent_id == "a"
        boxes.trouble = None


async def test_the_pool_closes_while_an_agent_is_created(lab: Any) -> None:
    """The agent is there, its handle is good, and nothing of the pool holds it."""
    deps = lab.deps([say("one")], store=Door(lab.store, "create"))
    async with anyio.create_task_group() as tasks:
        async with AgentPool(deps) as pool:
            creating = lab.later(tasks, lambda: pool.create(AgentConfig(AgentTemplate("t", model="m"), "a")))
            await lab.clock.advance(0)
        deps.store.opened.set()
        agent = await creating.wait()
    assert len(pool) == 0
    assert (await agent.run("go")).text == "one"
    with pytest.raises(UsageError, match="inside its 'async with'"):
        await pool.open("b")


async def test_an_agent_whose_id_is_being_made_is_not_chosen_to_go(lab: Any) -> None:
    deps = lab.deps(echo, store=Door(lab.store, "create"))
    for id in "ab":
        await lab.agent((), id=id)
    async with AgentPool(deps, limits=Limits(max_agents=1), find=False) as pool, anyio.create_task_group() as tasks:
        agent = await pool.open("a")
        creating = lab.later(tasks, lambda: pool.create(AgentConfig(AgentTemplate("t", model="m"), "a")))
        await lab.clock.advance(0)
        with pytest.raises(UsageError, match="max_agents"):
            await pool.open("b")
        deps.store.opened.set()
        with pytest.raises(AgentExistsError):
            await creating.wait()
        assert list(pool) == [agent]


@pytest.mark.parametrize("what", ["open", "create"])
async def test_cancelled_it_leaves_its_place(lab: Any, what: str) -> None:
    deps = lab.deps([say("one")], store=Door(lab.store, "look_up", "create"))
    await lab.agent((), id="a")
    await lab.agent((), id="b")
    async with AgentPool(deps, limits=Limits(max_agents=1), find=False) as pool, anyio.create_task_group() as tasks:
        new = AgentConfig(AgentTemplate("t", model="m"), "new")
        working = lab.later(tasks, partial(pool.open, "a") if what == "open" else partial(pool.create, new))
        await lab.clock.advance(0)
        assert (deps.store.waiting, len(pool)) == (1, what == "create")
        await working.cancel()
        assert len(pool) == 0
        deps.store.opened.set()
        for id in ("b", "a"):
            await pool.open(id)


async def test_for_an_id_that_nobody_has_nobody_goes(lab: Any) -> None:
    deps = lab.deps(echo)
    for id in "ab":
        await lab.agent((), deps=deps, id=id)
    async with AgentPool(deps, limits=Limits(max_agents=2), find=False) as pool:
        for id in "ab":
            await pool.open(id)
        for n in range(3):
            with pytest.raises(NotFoundError):
                await pool.open(f"nobody{n}")
        assert [agent.agent_id for agent in pool] == ["a", "b"]


async def test_a_fork_is_the_pools_too(lab: Any) -> None:
    deps = lab.deps({"a": [say("one")], "b": [say("two")]})
    await lab.agent((), deps=deps)
    async with AgentPool(deps, find=False) as pool:
        await pool.run("a", "go")
        fork = await pool.fork("a", "b")
        await fork.send("on")
        await pool.wait_idle()
        assert await lab.texts("b") == ["user: go", "assistant: one", "user: on", "assistant: two"]
        assert await pool.open("b") is fork
        with pytest.raises(AgentExistsError):
            await pool.fork("a", "b")
        assert await pool.open("b") is fork


async def test_delete_stops_the_agent_first(lab: Any) -> None:
    boxes, naps = Boxes(), anyio.Event()

    @tool
    async def nap(context: ToolContext) -> str:
        """Sleep."""
        naps.set()
        await context.clock.sleep(1_000)
        return "slept"

    deps = lab.deps({"a": [call("nap", {})]}, nap, sandboxes=boxes)
    await lab.agent((), nap, deps=deps)
    async with AgentPool(deps) as pool, anyio.create_task_group() as tasks:
        agent = await pool.open("a")
        await agent.send("go")
        await naps.wait()
        with pytest.raises(LeaseLostError):
            await lab.store.delete("a")
        deleting = lab.later(tasks, lambda: pool.delete("a"))
        await lab.clock.advance(0)
        opening = lab.later(tasks, lambda: pool.open("a"))
        await lab.pass_until(deleting, 0.1)
        with pytest.raises(NotFoundError):
            await opening.wait()
        assert boxes.open == []
        assert (len(pool), pool.stats().driving) == (0, 0)
        assert not await lab.store.exists("a")
        await lab.agent(echo, id="a")
        assert await pool.open("a") is not agent, "the old handle speaks for the old one"
        await lab.clock.advance(5)


async def test_what_another_process_drives_is_not_deleted(lab: Any) -> None:
    gate = Gate()
    there = await lab.agent([say("one", gate=gate)])
    async with anyio.create_task_group() as tasks, AgentPool(lab.deps(echo)) as pool:
        running = lab.later(tasks, lambda: there.run("go"))
        await gate.reached()
        await pool.open("a")
        with pytest.raises(LeaseLostError):
            await pool.delete("a")
        gate.release()
        assert (await running.wait()).text == "one"
        await pool.delete("a")
        with pytest.raises(NotFoundError):
            await pool.delete("a")


async def test_an_agent_made_again_under_its_id_is_opened_again(lab: Any) -> None:
    deps = lab.deps(echo)
    await lab.agent((), deps=deps)
    async with AgentPool(deps, find=False) as pool:
        old = await pool.open("a")
        await old.run("go")
        await lab.store.delete("a")
        new = await lab.agent((), deps=deps)
        await new.send("hello")
        await pool.wait_idle()
        assert await lab.texts() == ["user: hello", "assistant: re hello"]
        assert (await pool.open("a")).uid == new.uid


@pytest.mark.parametrize("idle_s", [0, -1, float("nan")])
def test_idle_s_is_checked(lab: Any, idle_s: float) -> None:
    with pytest.raises(UsageError, match="idle_s"):
        AgentPool(lab.deps(()), idle_s=idle_s)


async def test_what_the_pool_names_binds_its_agents(lab: Any) -> None:
    deps = lab.deps(lambda request: call("touch", {}), touch)
    await lab.agent((), touch, deps=deps, id="a")
    async with AgentPool(deps, limits=Limits(max_steps_per_run=2), find=False) as pool:
        assert (await pool.run("a", "go")).stop_reason == "max_steps"
        made = await pool.create(AgentConfig(AgentTemplate("t", model="m", tools=("touch",)), "b"))
        assert (await made.run("go")).stop_reason == "max_steps"
