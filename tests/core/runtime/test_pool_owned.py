"""Whose background work is a pool's: it hears of them, tries again who failed, and forgets who is dead."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import pytest
from tests.core.runtime.test_pool_places import Boxes, echo
from tests.core.runtime.test_pool_turns import Counting, elsewhere

from kode.core.errors import KodeError, LeaseLostError, NotFoundError, SandboxError, StoreUnavailableError, UsageError
from kode.core.event.hub import switchboard
from kode.core.kernel.limits import Limits
from kode.core.provider.script import call, say
from kode.core.runtime.agent import Agent
from kode.core.runtime.binding import bind
from kode.core.runtime.pool import AgentPool
from kode.core.runtime.sending import decide
from kode.core.sandbox.catalog import SandboxFactory
from kode.core.template import AgentTemplate
from kode.core.tools.base import ToolContext
from kode.core.tools.define import tool


@tool(needs_approval=True)
async def asked(context: ToolContext) -> str:
    """Ask."""
    return "done"


@tool
async def nap(context: ToolContext) -> str:
    """Sleep."""
    await context.clock.sleep(1_000)
    return "slept"


# ---- rung for -------------------------------------------------------------------------------------------------


async def test_whom_a_pool_let_go_it_still_hears_of(lab: Any) -> None:
    """Without a search nobody else remembers that the agent is the pool's."""
    deps = lab.deps({"a": [call("asked", {}), say("ok")]}, asked)
    await lab.agent((), asked, deps=deps)
    async with AgentPool(deps, find=False, idle_s=2) as pool:
        await (await pool.open("a")).send("go")
        await pool.wait_idle()
        await lab.clock.advance(5)
        assert len(pool) == 0
        await decide(lab.store, "a", "1.1.1", "allow")
        await lab.clock.advance(0)
        assert (await lab.texts())[-1] == "assistant: ok"
        await pool.delete("a")
        await lab.agent((), asked, deps=deps)
        await enqueue_hello(lab)
        assert await lab.texts() == [], "another agent of that id is not the pool's"


async def enqueue_hello(lab: Any) -> None:
    await elsewhere(lab.store, "a", "hello")
    switchboard(lab.store, "a").ring()
    await lab.clock.advance(0)


async def test_it_drives_nobody_who_is_not_its_own(lab: Any) -> None:
    deps = lab.deps(echo)
    await lab.agent((), deps=deps)
    async with AgentPool(deps, find=False):
        await enqueue_hello(lab)
        await lab.clock.advance(5)
        assert await lab.texts() == []


async def test_a_pool_that_ended_leaves_the_other_ones_bell(lab: Any) -> None:
    deps = lab.deps(echo)
    agent = await lab.agent((), deps=deps)
    async with AgentPool(deps, find=False) as one:
        await one.open("a")
        async with AgentPool(deps, find=False) as two:
            await two.open("a")
        await agent.send("hello")
        await lab.clock.advance(0)
        assert (await lab.texts())[-1] == "assistant: re hello"
    assert list(agent.hub.listeners) == []
    await agent.send("nobody hears")
    await lab.clock.advance(0)
    assert len(await lab.texts()) == 2


# ---- tried again ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [StoreUnavailableError, LeaseLostError])
@pytest.mark.parametrize("find", [False, True])
async def test_who_failed_is_tried_again(lab: Any, find: bool, error: type[KodeError]) -> None:
    """Also by a pool that does not search: it was rung for once."""
    store = Counting(lab.store)
    deps = lab.deps(echo, store=store)
    await lab.agent((), deps=deps)
    async with AgentPool(deps, find=find) as pool:
        store.broken["a"] = error("Not now.")
        await (await pool.open("a")).send("hello")
        await lab.clock.advance(5)
        store.broken.clear()
        await lab.clock.advance(10)
        assert (await lab.texts())[-1] == "assistant: re hello"
        assert pool.stats().retrying == 0


async def test_who_is_rung_for_is_tried_soon_and_not_with_every_message(lab: Any) -> None:
    store = Counting(lab.store)
    deps = lab.deps(echo, store=store)
    await lab.agent((), deps=deps)
    async with AgentPool(deps, limits=Limits(due_poll_s=0.5)) as pool:
        agent = await pool.open("a")
        store.broken["a"] = ZeroDivisionError("a bug")
        for _ in range(100):
            await agent.send("x")
            await lab.clock.advance(0.1)
        assert len(store.taken) in range(5, 12), "once a second at most"
        await lab.clock.advance(100)
        tried = len(store.taken)
        store.broken.clear()
        await agent.send("well?")
        await lab.clock.advance(1)
        assert len(store.taken) == tried + 1, "long before its next turn"
        assert (await lab.texts())[-1].startswith("assistant: re")


async def test_who_is_gone_is_not_tried_again(lab: Any) -> None:
    store = Counting(lab.store)
    deps = lab.deps(echo, store=store)
    await lab.agent((), deps=deps)
    async with AgentPool(deps, find=False) as pool:
        store.broken["a"] = ZeroDivisionError("a bug")
        await (await pool.open("a")).send("x")
        await lab.clock.advance(0)
        assert pool.stats().retrying == 1
        await lab.store.delete("a")
        store.broken.clear()
        await lab.clock.advance(3)
        assert pool.stats().retrying == 0


async def test_a_sandbox_that_does_not_open_keeps_no_turn_for_ever(lab: Any) -> None:
    """Not before a run exists either, when nothing of the run's own time passes."""

    class Stuck(Boxes):
        def create(self, kind: str, **options: Any) -> Any:
            box = super().create(kind, **options)
            box.open = anyio.sleep_forever
            box.close = partial(anyio.sleep, 0)
            return box

    deps = lab.deps(echo, nap, sandboxes=Stuck())
    bad = await lab.agent((), nap, deps=deps, id="bad", limits=Limits(tool_timeout_s=3))
    await lab.agent((), deps=deps, id="good")
    await elsewhere(lab.store, "bad", "x")
    await lab.clock.advance(1)
    await elsewhere(lab.store, "good", "hello")
    async with AgentPool(deps, limits=Limits(max_agents=1)) as pool:
        await lab.clock.advance(2)
        assert pool.stats().driving == 1
        await lab.clock.advance(2)
        assert (await lab.texts("good"))[-1] == "assistant: re hello"
        assert pool.stats().retrying == 1
    async with anyio.create_task_group() as tasks:
        with pytest.raises(SandboxError, match="did not open within 3 s") as caught:
            await lab.pass_until(lab.later(tasks, bad.complete))
    assert caught.value.code == "open_timeout"
    assert await lab.store.lease_of("bad") is None


# ---- dead handles ---------------------------------------------------------------------------------------------


async def test_a_handle_whose_agent_was_made_again_elsewhere_is_replaced(lab: Any) -> None:
    deps = lab.deps(echo)
    await lab.agent((), deps=deps)
    async with AgentPool(deps, find=False) as pool:
        old = await pool.open("a")
        await pool.run("a", "one")
        await lab.store.delete("a")
        with pytest.raises(NotFoundError):
            await pool.run("a", "to nobody")
        with pytest.raises(NotFoundError):
            await pool.open("a")
        new = await lab.agent((), deps=deps)
        assert (await pool.run("a", "two")).text == "re two"
        again = await pool.open("a")
        assert (again is not old, again.uid, old.gone) == (True, new.uid, True)
        with pytest.raises(NotFoundError):
            await old.send("too late")
        assert await pool.open("a") is again


async def test_run_takes_a_time_as_a_handle_does(lab: Any) -> None:
    deps = lab.deps([call("nap", {}), say("ok")], nap)
    await lab.agent((), nap, deps=deps)
    async with AgentPool(deps, find=False) as pool, anyio.create_task_group() as tasks:
        running = lab.later(tasks, lambda: pool.run("a", "go", timeout_s=20))
        assert (await lab.pass_until(running)).status == "deadline"


async def test_delete_stops_who_is_driven_by_its_owner(lab: Any) -> None:
    deps = lab.deps([call("nap", {})], nap)
    await lab.agent((), nap, deps=deps)
    async with AgentPool(deps, find=False) as pool, anyio.create_task_group() as tasks:
        running = lab.later(tasks, lambda: pool.run("a", "go"))
        await lab.clock.advance(0)
        await lab.pass_until(lab.later(tasks, lambda: pool.delete("a")), 0.1)
        assert not await lab.store.exists("a")
        assert (await lab.pass_until(running, 0.1)).status in ("deadline", "queued"), "it rested, then it was deleted"
        assert len(pool) == 0


# ---- what forks share -----------------------------------------------------------------------------------------


async def test_the_last_fork_that_closes_closes_what_they_share(lab: Any) -> None:
    deps = lab.deps(echo)
    agent = await lab.agent((), deps=deps)
    closed: list[str] = []

    class Owned(type(deps)):  # type: ignore[misc]
        async def close(self) -> None:
            closed.append("closed")

    shared = Owned(lab.store, providers=deps.providers, clock=lab.clock)
    one = Agent("a", agent.uid, agent._binding, shared, owns_deps=True)
    two, three = await one.batch_fork(2)
    await one.close()
    await one.close()
    assert (await two.run("go")).text == "re go"
    await two.close()
    assert closed == []
    assert (await one.run("go")).text == "re go", "a handle that was closed may be used again"
    await three.close()
    assert closed == []
    await one.close()
    assert closed == ["closed"]
    with pytest.raises(UsageError, match="count is -1"):
        await one.batch_fork(-1)


# ---- what is kept of templates --------------------------------------------------------------------------------


async def test_what_names_nothing_is_not_kept(lab: Any) -> None:
    """Each agent may have metadata, limits and a sandbox of its own; what its names mean is found once."""

    class Seen(SandboxFactory):
        def create(self, kind: str, **options: Any) -> Any:
            return kind, options

    deps = lab.deps(echo, sandboxes=Seen())
    first, second = [
        await lab.agent((), deps=deps, id=id, limits=Limits(max_steps_per_run=n + 1), metadata=f'{{"user":{n}}}',
                        sandbox=kind, sandbox_options=f'{{"root":"{id}"}}')
        for n, (id, kind) in enumerate({"a": "local", "b": "other"}.items())
    ]  # fmt: skip
    assert len(deps.bound) == 1
    assert (first.template.metadata, second.template.metadata) == ('{"user":0}', '{"user":1}')
    made: list[Any] = [one._binding.make_sandbox(None) for one in (first, second)]
    assert made == [("local", {"root": "a"}), ("other", {"root": "b"})]


async def test_no_more_kinds_of_templates_are_kept_than_some(lab: Any) -> None:
    deps = lab.deps(echo)
    for n in range(300):
        bind(AgentTemplate("t", model="m", system_prompt=f"p{n}"), deps)
        bind(AgentTemplate("t", model="m"), deps)
    kept = [kind.system_prompt for kind in deps.bound]
    assert len(kept) == 256
    assert kept[-2:] == ["p299", ""], "what is used stays"
    assert "p0" not in kept
