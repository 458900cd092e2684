"""Observers: told in order, beside the driver and never in its way; and plugins, which bring them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import EntryPoint, EntryPoints
from types import ModuleType
from typing import Any

import anyio
import pytest

from kode.core import discovery
from kode.core.config import AgentConfig
from kode.core.discovery import Registry
from kode.core.errors import NotBoundError, UsageError
from kode.core.event.base import Envelope
from kode.core.hook import Deny, Hooks
from kode.core.kernel.message import Message
from kode.core.plugin import Plugin, default_hooks, default_plugins
from kode.core.provider.script import call, say
from kode.core.provider.scripted import ScriptedProvider
from kode.core.runtime.agent import Agent
from kode.core.template import AgentTemplate
from kode.core.tools.define import tool


class Watch(Plugin):
    """Notes what it sees, and whether it runs."""

    def __init__(self, name: str = "watch", **options: Any) -> None:
        self.name = name
        self.seen: list[Envelope] = []
        self.life: list[str] = []
        self.on: Any = None
        for option, value in options.items():
            setattr(self, option, value)

    async def on_event(self, envelope: Envelope) -> None:
        self.seen.append(envelope)
        if self.on is not None:
            await self.on(envelope)

    def lifespan(self) -> Any:
        return _Life(self.life)

    @property
    def cursors(self) -> list[int]:
        return [one.cursor for one in self.seen]


class _Life:
    def __init__(self, life: list[str]) -> None:
        self.life = life

    async def __aenter__(self) -> None:
        self.life.append("in")

    async def __aexit__(self, *_: object) -> None:
        self.life.append("out")


class Plain(Plugin):
    """Observes with a plain function."""

    name = "plain"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_event(self, envelope: Envelope) -> None:
        self.seen.append(envelope.type)


# ---- events ------------------------------------------------------------------------------------------------


async def test_every_event_in_order_and_once(lab: Any, born: Any) -> None:
    watch, plain = Watch(), Plain()
    agent = await born([say("a"), say("b")], watch, plain)
    await agent.run("go")
    first = len(watch.seen)
    assert watch.cursors == list(range(2, 2 + first))  # the first one says that the agent was made
    await agent.run("again")
    stored = [event for event in await lab.events() if event.cursor > 1]
    assert [one.event for one in watch.seen] == stored
    assert plain.seen == [event.type for event in stored]


async def test_it_names_what_it_wants_to_see(born: Any) -> None:
    """Live ones too."""
    watch = Watch(kinds=("text_chunk", "done"))
    agent = await born([say("hello")], watch)
    await agent.run("go")
    assert {one.type for one in watch.seen} == {"text_chunk", "done"}
    assert "".join(one.delta for one in watch.seen) == "hello"


async def test_its_failure_is_its_own(lab: Any, born: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def fails(envelope: Envelope) -> None:
        raise RuntimeError("no")

    watch, other = Watch("bad", on=fails), Watch("good")
    agent = await born([say("a")], watch, other)
    assert (await agent.run("go")).text == "a"
    assert watch.cursors == other.cursors != []
    assert "Plugin bad failed on event" in caplog.text
    assert "hook_failed" not in await lab.kinds()


@pytest.mark.parametrize("between", ["nothing", "a snapshot"])
async def test_a_slow_one_holds_up_nobody(lab: Any, born: Any, between: str) -> None:
    """It has a blink at the end of a drive, and sees the rest with the next one. Nothing is seen twice."""

    async def slow(envelope: Envelope) -> None:
        await lab.clock.sleep(3)
        shown.append(envelope.cursor)

    shown: list[int] = []
    watch = Watch(on=slow)
    agent = await born([call("nobody", {}), say("a"), say("b")], watch)
    began = lab.clock.monotonic()
    async with anyio.create_task_group() as tasks:
        await lab.pass_until(lab.later(tasks, lambda: agent.run("go")), 0.05)
        assert lab.clock.monotonic() - began <= 0.2
        own = [event.cursor for event in await lab.events() if event.cursor > 1]
        assert shown == []
        if between == "a snapshot":
            await agent.snapshot("s")
        snapshot = (await lab.events())[-1].cursor
        watch.on = None
        watch.seen.clear()
        await agent.run("again")
    later = [event.cursor for event in await lab.events() if event.cursor > snapshot]
    assert watch.cursors == [*own, *later]


async def test_a_handle_that_is_closed_shows_the_rest(lab: Any, born: Any) -> None:
    async def slow(envelope: Envelope) -> None:
        await lab.clock.sleep(0.06)

    watch = Watch(on=slow)
    told: list[int] = []

    async def changed(agent_id: str, messages: Sequence[Message]) -> None:
        await lab.clock.sleep(0.15)
        told.extend(one.seq for one in messages)

    agent = await born([say("a")], watch, Hooks("h", messages_changed=changed))
    async with anyio.create_task_group() as tasks:
        await lab.pass_until(lab.later(tasks, lambda: agent.run("go")), 0.05)
        left = len(watch.seen)
        assert told == []
        began = lab.clock.monotonic()
        await lab.pass_until(lab.later(tasks, agent.close), 0.05)
    assert lab.clock.monotonic() - began < 1.2
    assert left < len(watch.seen)
    assert told == [0, 1]
    assert watch.seen[-1].cursor == (await lab.events())[-1].cursor


async def test_one_that_hangs_is_left_behind(lab: Any, born: Any) -> None:
    """Its time for one event is bounded too."""

    async def hangs(envelope: Envelope) -> None:
        if envelope.type == "message_received":
            await lab.clock.sleep(10**6)

    async def work() -> str:
        await lab.clock.sleep(3)
        return "done"

    watch = Watch(on=hangs, timeout_s=2.0)
    agent = await born([call("work", {}), say("a")], watch, tools=(tool(description="Work.")(work),))
    async with anyio.create_task_group() as tasks:
        await lab.pass_until(lab.later(tasks, lambda: agent.run("go")), 0.5)
    assert watch.seen[-1].cursor == (await lab.events())[-1].cursor


async def test_what_another_process_did_is_not_its_to_see(lab: Any, born: Any) -> None:
    here, there = Watch(), Watch()
    agent = await born([say("a"), say("c")], here)
    other = await Agent.open("a", lab.deps([say("b")], plugins=[there]))
    await agent.run("1")
    await other.run("2")
    await agent.run("3")
    together = sorted([*here.cursors, *there.cursors])
    assert together == [event.cursor for event in await lab.events() if event.cursor > 1]
    assert there.cursors


# ---- messages_changed --------------------------------------------------------------------------------------


async def test_messages_once_they_are_durable(lab: Any, born: Any) -> None:
    told: list[tuple[str, int]] = []

    async def changed(agent_id: str, messages: Sequence[Message]) -> None:
        stored = [one.seq for one in (await lab.store.read_messages(agent_id)).items]
        for one in messages:
            assert one.seq in stored
            told.append((agent_id, one.seq))

    agent = await born([call("nobody", {}), say("a"), say("b")], Hooks("h", messages_changed=changed))
    await agent.run("go")
    await agent.run("again")
    assert told == [("a", seq) for seq in range(6)]
    assert "hook_failed" not in await lab.kinds()


@pytest.mark.parametrize("how", ["raises", "hangs"])
async def test_its_failure_is_a_durable_event(lab: Any, born: Any, how: str) -> None:
    """Also when no commit follows that it could ride in."""

    async def fails(agent_id: str, messages: Sequence[Message]) -> None:
        if messages[-1].role == "assistant":
            if how == "hangs":
                await lab.clock.sleep(10**6)
            raise RuntimeError("secret")

    async def work() -> str:
        await lab.clock.sleep(3)
        return "done"

    script = [call("work", {}), say("a"), say("b")]
    hooks = Hooks("h", messages_changed=fails, timeout_s=1.0)
    agent = await born(script, hooks, tools=(tool(description="Work.")(work),))
    async with anyio.create_task_group() as tasks:
        assert (await lab.pass_until(lab.later(tasks, lambda: agent.run("go")), 0.5)).text == "a"
        assert (await lab.pass_until(lab.later(tasks, lambda: agent.run("go")), 0.5)).text == "b"
    failed = [event for event in await lab.events() if event.type == "hook_failed"]
    error = "timeout" if how == "hangs" else "RuntimeError"
    assert failed
    assert dict(failed[0].data) == {"hooks": "h", "stage": "messages_changed", "error": error}
    assert (await agent.status()).status == "READY"


async def test_a_failure_behind_the_last_commit_is_said_with_the_next_drive(lab: Any, born: Any) -> None:
    """It asks for no commit of its own."""

    async def fails(agent_id: str, messages: Sequence[Message]) -> None:
        if messages[-1].role == "assistant":
            raise RuntimeError("secret")

    agent = await born([say("a"), say("b")], Hooks("h", messages_changed=fails))
    await agent.run("go")
    assert (await lab.kinds())[-1] != "hook_failed"
    before = len(await lab.events())
    await agent.run("go")
    assert "hook_failed" in [event.type for event in (await lab.events())[before:]]


# ---- plugins -----------------------------------------------------------------------------------------------


async def test_instances_can_be_given_to_create(lab: Any) -> None:
    """Their names are in the recipe, so that whoever opens the agent later must have them."""
    watch = Watch(hooks=Hooks("guard", post_model=lambda request, reply: None))
    provider = ScriptedProvider([say("a")], clock=lab.clock)
    mine = Hooks("mine", pre_model=lambda request: None)
    agent = await Agent.create(
        template=AgentTemplate("t", model="m"), agent_id="a", store=lab.store, providers={"m": provider},
        clock=lab.clock, plugins=[watch], hooks=[mine],
    )  # fmt: skip
    assert (agent.template.plugins, agent.template.hooks) == (("watch",), ("mine",))
    await agent.run("go")
    assert watch.seen
    await agent.close()
    assert watch.life == ["in", "out"]
    for missing in ({"hooks": [mine]}, {"plugins": [watch]}):
        with pytest.raises(NotBoundError, match="Known are: none"):
            await Agent.open("a", lab.deps(**missing))
    assert (await Agent.open("a", lab.deps(plugins=[watch], hooks=[mine]))).template == agent.template


async def test_a_lifespan_is_entered_once(lab: Any) -> None:
    """By the first drive, not by a handle; left when the dependencies are closed, and entered anew after that."""
    watch = Watch()
    deps = lab.deps([say("a")] * 4, plugins={"w": watch})
    async with deps:
        template = AgentTemplate("t", model="m", plugins=("w",))
        one = await Agent.create(AgentConfig(template, "a"), deps)
        two = await Agent.create(AgentConfig(template, "b"), deps)
        assert watch.life == []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.run, "go")
            tasks.start_soon(two.run, "go")
        assert watch.life == ["in"]
    assert watch.life == ["in", "out"]
    await one.run("again")
    assert watch.life == ["in", "out", "in"]
    await deps.close()


async def test_a_plugin_of_two_processes_parts_runs_once(lab: Any, born: Any) -> None:
    """Several dependencies share it: the first one starts it, the last one stops it."""
    watch = Watch()
    one, two = lab.deps([say("a")] * 2, plugins=[watch]), lab.deps([say("b")] * 2, plugins=[watch])
    await (await born((), watch, deps=one)).run("go")
    other = await Agent.open("a", two)
    await other.run("go")
    assert watch.life == ["in"]
    await one.close()
    assert watch.life == ["in"]
    await other.run("go")
    await two.close()
    assert watch.life == ["in", "out"]


async def test_a_plugin_that_does_not_start_keeps_nobody_else(lab: Any) -> None:
    class Stuck:
        async def __aenter__(self) -> None:
            await lab.clock.sleep(10**6)

    bad, good = Watch("bad", lifespan=Stuck), Watch("good")
    deps = lab.deps([say("a")], plugins=[bad, good])
    async with anyio.create_task_group() as tasks:
        late = lab.later(tasks, lambda: deps.start([bad]))
        await lab.clock.advance(1)
        await deps.start([good])
        assert good.life == ["in"]
        await lab.clock.advance(30)
        with pytest.raises(NotBoundError, match="did not start within"):
            await late.wait()
    await deps.close()


async def test_closing_waits_for_a_start(lab: Any) -> None:
    """What is being started is stopped, and started anew for whoever comes later."""
    life: list[str] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        life.append("in")
        await lab.clock.sleep(1)
        yield
        life.append("out")

    watch = Watch(lifespan=lifespan)
    deps = lab.deps([say("a")], plugins=[watch])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deps.start, [watch])
        await lab.clock.advance(0.5)
        tasks.start_soon(deps.close)
        await lab.clock.advance(0.1)
        tasks.start_soon(deps.start, [watch])
        await lab.clock.advance(0.5)
        await lab.clock.advance(1)
    assert life == ["in", "out", "in"]
    await deps.close()
    assert life == ["in", "out", "in", "out"]


@pytest.mark.parametrize("wrong", [{"kinds": ("doen",)}, {"kinds": "done"}, {"timeout_s": 0}, {"hooks": 5}])
def test_plugins_are_checked_when_they_are_given(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as raised:
        default_plugins.given([Watch(**wrong)])
    assert raised.value.code == "bad_plugin"


async def test_a_lifespan_that_cannot_begin(lab: Any, born: Any) -> None:
    """The agent is not driven, and nothing is lost: it goes on when the plugin can."""
    first, broken = Watch("first"), Watch("broken", lifespan=lambda: _life("begin"))
    deps = lab.deps([say("a")], plugins=[first, broken])
    agent = await born((), first, broken, deps=deps)
    with pytest.raises(OSError, match="disk full"):
        await agent.run("go")
    assert await lab.kinds() == ["agent_created"]
    del broken.lifespan
    assert (await agent.complete()).text == "a"
    await deps.close()
    assert (first.life, broken.life) == (["in", "out"], ["in", "out"])


@pytest.mark.parametrize("how", ["end", "hang"])
async def test_a_lifespan_that_cannot_end(lab: Any, born: Any, caplog: pytest.LogCaptureFixture, how: str) -> None:
    """The others end all the same, in time."""
    first, broken = Watch("first"), Watch("broken", lifespan=lambda: _life(how, lab.clock))
    deps = lab.deps([say("a")], plugins=[first, broken])
    await (await born((), first, broken, deps=deps)).run("go")
    async with anyio.create_task_group() as tasks:
        await lab.pass_until(lab.later(tasks, deps.close))
    assert first.life == ["in", "out"]
    assert "Plugin broken" in caplog.text


@asynccontextmanager
async def _life(how: str, clock: Any = None) -> AsyncIterator[None]:
    if how == "begin":
        raise OSError("disk full")
    yield
    if how == "hang":
        await clock.sleep(10**6)
    raise OSError("disk full")


async def test_its_hooks_come_after_the_agents(born: Any) -> None:
    order: list[str] = []

    def noting(name: str) -> Hooks:
        return Hooks(name, pre_model=lambda request: order.append(name))

    await (await born([say("a")], Watch("p", hooks=noting("plugin")), noting("agent"))).run("go")
    assert order == ["agent", "plugin"]


# ---- names -------------------------------------------------------------------------------------------------


class Brought(Plugin):
    """What a wheel brings."""

    name = "brought"
    hooks = Hooks("brought", pre_tool_use=lambda use: Deny("no"))


def test_plugins_of_installed_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    points: list[EntryPoint] = []
    monkeypatch.setattr(discovery, "entry_points", lambda **names: EntryPoints(points).select(**names))

    def registry() -> Registry[Plugin]:
        return default_plugins.given([])

    def claim(name: str, value: str) -> None:
        points.append(EntryPoint(name, value, "kode.plugin"))

    wheel = ModuleType("a_wheel")
    wheel.Brought = Brought  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_wheel", wheel)
    claim("brought", "a_wheel:Brought")
    found = registry()
    assert isinstance(found.get("brought"), Brought)
    assert found.get("brought") is found.get("brought")
    assert found.names() == ("brought",)
    claim("gone", "kode.core.nowhere:Plugin")
    claim("number", "math:pi")
    for name in ("gone", "number"):
        with pytest.raises(UsageError, match=name):
            registry().get(name)
    claim("brought", "math:pi")
    with pytest.raises(UsageError, match="Two wheels claim"):
        registry().get("brought")


def test_a_registry_holds_one_of_each_name() -> None:
    one, two = Hooks("x"), Hooks("x", timeout_s=1)
    registry = default_hooks.given([one, one])
    assert registry.get("x") is one
    with pytest.raises(UsageError, match="two hooks named 'x'"):
        registry.register(two)
    with pytest.raises(UsageError, match="is no Hooks"):
        default_hooks.given([Plugin()])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="has no name"):
        default_plugins.given([Plugin()])
    assert default_hooks.given({"y": one}).names() == ("y",)
    assert default_hooks.given(None) is default_hooks
