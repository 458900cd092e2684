"""A sandbox that is slow to open, cannot be opened, is cancelled half open, is found again, or is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from kode.core.config import AgentConfig
from kode.core.errors import SandboxError
from kode.core.kernel.limits import Limits
from kode.core.provider.script import call, say
from kode.core.runtime.agent import Agent
from kode.core.sandbox.catalog import SandboxFactory
from kode.core.sandbox.local import LocalSandbox
from kode.core.template import AgentTemplate
from kode.core.tools.define import tool

SCRIPT = [call("ping", {}), say("end")]


@tool
async def ping() -> str:
    """Ping."""
    return "pong"


class World:
    """Sandboxes of one kind that live elsewhere; the class attributes of `far` say how they behave."""

    def __init__(self, lab: Any, folder: Path) -> None:
        self.lab = lab
        self.slow_s = 0.0
        self.problem: SandboxError | None = None
        self.there: set[str] = set()
        self.made: list[Any] = []
        self.open: set[str] = set()
        world = self

        class Far(LocalSandbox):
            kind = "far"

            def __init__(self, *, ref: str | None = None) -> None:
                super().__init__(folder)
                self._far = ref or f"far:{len(world.made)}"
                self._known = ref is not None
                world.made.append(self)

            @property
            def ref(self) -> str:
                return self._far

            async def open(self) -> None:
                await lab.clock.sleep(world.slow_s)
                if world.problem is not None:
                    raise world.problem
                if self._known and self._far not in world.there:
                    raise SandboxError("It is gone.", code="sandbox_gone")
                world.there.add(self._far)
                world.open.add(self._far)
                await super().open()

            async def close(self) -> None:
                world.open.discard(self._far)
                await super().close()

            @classmethod
            async def kill_ref(cls, ref: str) -> int:
                return 0

        self.factory = SandboxFactory()
        self.factory.register("far", Far)

    def deps(self, script: Any = SCRIPT) -> Any:
        return self.lab.deps(script, ping, sandboxes=self.factory)

    async def agent(self, **limits: Any) -> Agent:
        template = AgentTemplate("t", model="m", tools=("ping",), sandbox="far", limits=Limits(**limits))
        return await Agent.create(AgentConfig(template, "a"), self.deps())

    async def ref(self) -> str | None:
        state = await self.lab.store.read_state("a")
        found: str | None = state.sandbox_ref
        return found


@pytest.fixture
def world(lab: Any, tmp_path: Path) -> World:
    return World(lab, tmp_path)


async def test_the_lease_is_held_while_a_sandbox_opens(world: World, lab: Any) -> None:
    world.slow_s = 95.0
    agent = await world.agent(lease_s=30.0)
    async with anyio.create_task_group() as tasks:
        running = lab.later(tasks, lambda: agent.run("go"))
        for _ in range(90):
            await lab.clock.advance(1.0)
            lease = await lab.store.lease_of("a")
            assert lease is not None
            assert lease.until > await lab.store.now(), "somebody else could take the agent"
        assert not running.done
        assert (await lab.pass_until(running)).text == "end"
    assert len(world.made) == 1
    assert await world.ref() == "far:0"


async def test_time_that_runs_out_does_not_wait_for_a_sandbox(world: World, lab: Any) -> None:
    world.slow_s = 600.0
    agent = await world.agent()
    async with anyio.create_task_group() as tasks:
        began = lab.clock.monotonic()
        result = await lab.pass_until(lab.later(tasks, lambda: agent.run("go", timeout_s=10.0)), 0.1)
        assert lab.clock.monotonic() - began < 11
    assert result.status in ("deadline", "queued")
    assert world.open == set()
    world.slow_s = 0.0
    async with anyio.create_task_group() as tasks:
        assert (await lab.pass_until(lab.later(tasks, agent.complete))).text == "end"


async def test_who_is_told_to_stop_does_not_wait_for_a_sandbox(world: World, lab: Any) -> None:
    world.slow_s = 600.0
    agent = await world.agent()
    async with anyio.create_task_group() as tasks:
        running = lab.later(tasks, agent.drive)
        await lab.clock.advance(1.0)
        agent.stop()
        assert (await lab.pass_until(running, 0.1, 20)).stop == "stopped"
    assert world.open == set()


async def test_a_sandbox_that_cannot_be_opened_says_why_and_the_agent_goes_on_later(world: World, lab: Any) -> None:
    world.problem = SandboxError("No image of that name.", code="bad_root")
    agent = await world.agent()
    with pytest.raises(SandboxError, match="No image"):
        await agent.run("go", item_id="m")
    assert await lab.kinds() == ["agent_created"]
    world.problem = None
    assert (await agent.run("go", item_id="m")).text == "end"


@pytest.mark.parametrize("how", ["cancelled", "failed"])
async def test_a_sandbox_that_is_not_opened_to_its_end_is_closed(world: World, lab: Any, how: str) -> None:
    world.slow_s = 5.0
    if how == "failed":
        world.problem = SandboxError("No.")
    closed: list[str] = []
    agent = await world.agent()
    async with anyio.create_task_group() as tasks:
        running = lab.later(tasks, lambda: agent.run("go"))
        await lab.clock.advance(1.0)
        (sandbox,) = world.made
        inner = sandbox.close

        async def close() -> None:
            closed.append(sandbox.ref)
            await inner()

        sandbox.close = close
        if how == "cancelled":
            await running.cancel()
        else:
            with pytest.raises(SandboxError):
                await lab.pass_until(running)
    assert closed == ["far:0"]


async def test_another_process_finds_the_sandbox_again(world: World) -> None:
    await (await world.agent()).run("go")
    again = await Agent.open("a", world.deps([*SCRIPT, *SCRIPT]))
    assert (await again.run("again")).ok
    assert [sandbox.ref for sandbox in world.made] == ["far:0", "far:0"]
    assert await world.ref() == "far:0"


async def test_a_sandbox_that_is_gone_is_replaced(world: World) -> None:
    await (await world.agent()).run("go")
    world.there.clear()
    again = await Agent.open("a", world.deps([*SCRIPT, *SCRIPT]))
    assert (await again.run("again")).ok
    assert await world.ref() == "far:2"
