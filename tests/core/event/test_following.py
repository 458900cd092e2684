"""Following events: live, from any process, from any point, without gaps and repeats."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from kode.core.config import AgentConfig
from kode.core.errors import UsageError
from kode.core.event.base import Position
from kode.core.event.hub import Hub, switchboard
from kode.core.kernel.events import Event
from kode.core.provider.script import Gate, broken, call, fail, say
from kode.core.runtime.agent import Agent
from kode.core.store.memory import MemoryStore
from kode.core.store.sqlite import SqliteStore
from kode.core.template import AgentTemplate
from kode.core.testing.wrapped import WrappedStore
from kode.core.tools.base import ToolContext
from kode.core.tools.define import tool


async def take(events: Any, last: str = "done", most: int = 1_000) -> list[Any]:
    """Read until an event of that type."""
    found = []
    async for envelope in events:
        found.append(envelope)
        if envelope.type == last or len(found) >= most:
            break
    return found


def text_of(found: list[Any]) -> str:
    return "".join(e.delta for e in found if e.type == "text_chunk")


def cursors(found: list[Any]) -> list[int]:
    return [e.cursor for e in found if e.event.durable]


# ---- positions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0", "17", "17:3.1.0.25", "1:1.1.999999999.0"])
def test_a_position_is_read_back(text: str) -> None:
    assert str(Position.parse(text)) == text


@pytest.mark.parametrize("text", ["", "-1", "x", "1:", "1:2", "1:2.3.4", "1:2.3.4.5.6", "1 ", "9" * 30, "1.5", "١"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Position.parse(text)
    assert caught.value.code == "bad_position"


# ---- streams --------------------------------------------------------------------------------------------------


async def test_a_stream_is_the_run_and_its_events(lab: Any) -> None:
    agent = await lab.agent([say("Hello there", chunk=3), say("again")])
    async with agent.stream("hi") as events:
        found = [envelope async for envelope in events]
    assert text_of(found) == "Hello there"
    assert events.result.text == "Hello there"
    assert cursors(found) == list(range(2, 2 + len(cursors(found))))
    assert [e.type for e in found if e.event.durable] == (await lab.kinds())[1:]
    async with agent.stream("hi", kinds=["done"]) as events:
        assert [e.type async for e in events] == ["done"]


async def test_leaving_a_stream_early_stops_the_run(lab: Any) -> None:
    """With nobody left to own it; the agent can be resumed (predecessor: A17)."""
    gate = Gate()
    agent = await lab.agent([say("never", chunk=1, gate=gate, gate_at=3), say("after")])
    async with agent.stream("hi") as events:
        async for envelope in events:
            if envelope.type == "text_chunk":
                break
    assert not (await agent.status()).driven
    assert (await agent.complete()).text == "after"


async def test_a_stream_raises_what_the_run_raised(lab: Any) -> None:
    agent = await lab.agent([])

    async def use() -> None:
        async with agent.stream("") as events:
            async for _ in events:
                pass

    with pytest.raises(UsageError):
        await use()


async def test_a_filter_that_nothing_can_pass_is_refused(lab: Any) -> None:
    agent = await lab.agent([])
    for options in ({"kinds": ["text"]}, {"channels": ["news"]}, {"kinds": ["done", "Done"]}):
        with pytest.raises(UsageError) as caught:
            await agent.subscribe(**options)
        assert caught.value.code == "bad_filter"
    with pytest.raises(UsageError):
        agent.on("no_such_event", print)


async def test_channels(lab: Any) -> None:
    @tool(needs_approval=True)
    async def asked(context: ToolContext) -> str:
        """Ask."""
        return "done"

    agent = await lab.agent([call("asked", {}), say("end")], asked)
    control = await agent.subscribe(["control"])
    await agent.run("go")
    await agent.decide("1.1.1", "allow")
    await agent.complete()
    found = await take(control, "permission_decided")
    assert [e.type for e in found] == ["permission_required", "permission_decided"]


# ---- in mid-stream --------------------------------------------------------------------------------------------


async def test_who_comes_late_gets_the_text_so_far_once(lab: Any) -> None:
    gate = Gate()
    agent = await lab.agent([say("one two three", chunk=1, gate=gate, gate_at=6)])
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("hi"))
        await gate.reached()
        late = [await agent.subscribe(), await agent.subscribe(["progress"]), await agent.subscribe()]
        gate.release()
        await run.wait()
    for events in late:
        assert text_of(await take(events)) == "one two three"


async def test_reconnect_inside_a_reply(lab: Any) -> None:
    """Wherever it broke off, every character comes once."""
    text = "a character – or two 🙂 – each"
    for at in range(2, 12, 3):
        gate = Gate()
        agent = await lab.agent([say(text, chunk=1, gate=gate, gate_at=14)], id=f"a{at}")
        first = await agent.subscribe()
        async with anyio.create_task_group() as tasks:
            run = lab.later(tasks, lambda agent=agent: agent.run("hi"))
            await gate.reached()
            seen: list[Any] = []
            async for envelope in first:
                seen.append(envelope)
                if len(text_of(seen)) == at:
                    break
            place = seen[-1].id
            assert Position.parse(place).offset == at
            again = await agent.subscribe(since=place)
            gate.release()
            await run.wait()
        rest = await take(again)
        assert text_of(seen) + text_of(rest) == text
        assert sorted({*cursors(seen), *cursors(rest)}) == cursors(seen) + cursors(rest)


async def test_reconnect_between_the_stream_and_its_commit(lab: Any) -> None:
    """The reply is complete but not durable yet: what was shown is not shown again."""
    hold, held = anyio.Event(), anyio.Event()

    class Slow(WrappedStore):
        async def operate(self, name: str, call: Any) -> Any:
            if name == "commit" and switched:
                held.set()
                await hold.wait()
            return await super().operate(name, call)

    switched: list[bool] = []
    agent = await lab.agent((), deps=lab.deps([say("one two three", chunk=1)], store=Slow(lab.store)))
    agent.on("text_chunk", lambda envelope: switched.append(True))
    first = await agent.subscribe()
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("hi"))
        await held.wait()
        seen: list[Any] = []
        async for envelope in first:
            seen.append(envelope)
            if len(text_of(seen)) == 5:
                break
        again = await agent.subscribe(since=seen[-1].id)
        hold.set()
        await run.wait()
    assert text_of(seen) + text_of(await take(again)) == "one two three"


async def test_a_new_attempt_withdraws_the_old_text(lab: Any) -> None:
    agent = await lab.agent([broken(say("wrong start", chunk=1), 5, fail("overloaded")), say("right", chunk=1)])
    events = await agent.subscribe()
    async with anyio.create_task_group() as tasks:
        await lab.pass_until(lab.later(tasks, lambda: agent.run("hi")), 0.5)
    shown: dict[str, str] = {}
    order = []
    for envelope in await take(events):
        if envelope.type == "attempt_started":
            order.append(envelope.attempt)
        elif envelope.type == "text_chunk":
            shown[envelope.attempt] = shown.get(envelope.attempt, "") + envelope.delta
    assert order == ["1.1", "1.2"]
    assert shown["1.2"] == "right"
    assert "wrong start".startswith(shown["1.1"])


# ---- replay ---------------------------------------------------------------------------------------------------


async def test_replay_from_every_cursor(lab: Any) -> None:
    agent = await lab.agent(lambda request: say("answer"))
    for n in range(3):
        await agent.run(f"m{n}")
    every = await lab.events()
    outside = await Agent.open("a", lab.deps((), store=WrappedStore(lab.store)))
    for handle in (agent, outside):
        for since in range(len(every)):
            events = await handle.subscribe(since=since)
            found = []
            while len(found) < len(every) - since:
                envelope = await anext(events)
                found += [envelope.event] if envelope.event.durable else []
            assert found == every[since:]


async def test_follow_from_another_process(lab: Any) -> None:
    """It reads the store at intervals; nothing is missed or repeated."""
    agent = await lab.agent(lambda request: say("answer"))
    outside = await Agent.open("a", lab.deps((), store=WrappedStore(lab.store)))
    events = await outside.subscribe(since=0)
    found: list[Any] = []

    async def read() -> None:
        async for envelope in events:
            found.append(envelope)  # noqa: PERF401 - it never ends

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        for n in range(4):
            await agent.run(f"m{n}")
            await lab.clock.advance(1.1)
        tasks.cancel_scope.cancel()
    assert [e.event for e in found] == await lab.events()


async def test_follow_the_driver_wherever_it_is(lab: Any) -> None:
    """This process drives, then another one, then this one again."""
    here = await lab.agent(lambda request: say("here"))
    there = await Agent.open("a", lab.deps(lambda request: say("there"), store=WrappedStore(lab.store)))
    events = await here.subscribe(since=0)
    found: list[Any] = []

    async def read() -> None:
        async for envelope in events:
            if envelope.event.durable:
                found.append(envelope)  # noqa: PERF401 - it never ends

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        for n in range(6):
            await (here, there)[n % 2].run(f"m{n}")
            if n in (1, 4):
                await lab.clock.advance(1.1)
        await lab.clock.advance(1.1)
        tasks.cancel_scope.cancel()
    assert [e.event for e in found] == await lab.events()


async def test_replay_on_the_same_file(lab: Any, tmp_path: Path) -> None:
    async with (
        SqliteStore(tmp_path / "a.db", clock=lab.clock) as one,
        SqliteStore(tmp_path / "a.db", clock=lab.clock) as two,
    ):
        agent = await lab.agent((), deps=lab.deps(lambda request: say("x"), store=one))
        await agent.run("hi")
        watcher = await Agent.open("a", lab.deps((), store=two))
        found = await take(await watcher.subscribe(since=0))
        assert cursors(found) == list(range(1, len(found) + 1))
        assert found[0].type == "agent_created"


# ---- slow readers, bursts, handlers ---------------------------------------------------------------------------


async def test_a_slow_reader_misses_nothing_durable(lab: Any) -> None:
    agent = await lab.agent(lambda request: say("x" * 50, chunk=1))
    hub = switchboard(lab.store, "a")
    hub.keep = 40
    await agent.run("first")
    events = await agent.subscribe(since=0)
    first = [await anext(events) for _ in range(3)]
    for n in range(10):
        await agent.run(f"m{n}")
    assert hub.base > 0, "the log was never cut, so this shows nothing"
    every = await lab.events()
    found = [*first]
    while not found or found[-1].cursor < every[-1].cursor or not found[-1].event.durable:
        found.append(await anext(events))
    assert [e.event for e in found if e.event.durable] == every


async def test_readers_are_woken_once_per_burst(lab: Any) -> None:
    hub = Hub("a")
    hub.begin(0, print)
    woken = 0

    async def read() -> None:
        nonlocal woken
        while True:
            await hub.wait(lab.clock, None)
            woken += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(read)
        await lab.clock.advance(0)
        hub.publish([Event("done", 1, n) for n in range(1, 100)])
        hub.wake()
        await lab.clock.advance(0)
        assert woken == 3
        tasks.cancel_scope.cancel()


async def test_handlers(lab: Any) -> None:
    agent = await lab.agent(lambda request: say("x"))
    heard: list[str] = []
    off = agent.on("done", lambda envelope: heard.append(envelope.id))
    agent.on("run_started", lambda envelope: heard.append("run"))
    await agent.run("1")
    off()
    off()
    await agent.run("2")
    done = [e.cursor for e in await lab.events() if e.type == "done"]
    assert heard == ["run", str(done[0]), "run"]


async def test_one_hub_per_agent_and_store() -> None:
    one, two = MemoryStore(), MemoryStore()
    a = switchboard(one, "a")
    assert switchboard(one, "a") is a
    assert switchboard(one, "b") is not a
    assert switchboard(two, "a") is not a


def test_the_type_of_an_iterator() -> None:
    from kode.core.event.subscription import Subscription

    assert issubclass(Subscription, AsyncIterator)


async def test_a_reader_who_had_read_it_all_notices_a_gap() -> None:
    """Another process wrote between two drives of this one: what it wrote is fetched from the store, not skipped."""
    hub = Hub("a")
    hub.has_readers = True
    hub.begin(0, print)
    hub.publish([Event("run_started", cursor=1)])
    read_all = hub.base + len(hub.log)
    hub.end(print)
    hub.begin(5, print)
    assert read_all < hub.base
    hub.publish([Event("run_started", cursor=6)])
    hub.publish([Event("done", cursor=9)])
    assert [envelope.cursor for envelope in hub.log] == [9], "what does not follow starts the log anew"
    hub.publish([Event("done", cursor=9), Event("run_started", cursor=10)])
    assert [envelope.cursor for envelope in hub.log] == [9, 10], "what is known is not shown again"


async def test_who_waits_for_a_rest_is_told_of_one_that_came_before() -> None:
    hub = Hub("a")
    since = hub.rests
    hub.rest()
    await hub.rested(since)
    told: list[int] = []

    async def wait() -> None:
        await hub.rested(hub.rests)
        told.append(hub.rests)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert told == []
        hub.rest()
    assert told == [2, 2]


async def test_where_nobody_reads_nothing_durable_is_kept_and_who_comes_misses_nothing(lab: Any) -> None:
    agent = await lab.agent([say("one"), say("two"), say("three")])
    heard: list[str] = []
    agent.on("done", lambda envelope: heard.append(envelope.type))
    await agent.run("1")
    assert (agent.hub.log, heard) == ([], ["done"])
    late = await agent.subscribe(since=0)
    now = await agent.subscribe()
    await agent.run("2")
    assert agent.hub.log, "from now on somebody reads"
    stored = [event.cursor for event in await lab.events()]
    found = [(await anext(late)).cursor for _ in stored]
    assert found == stored == list(range(1, len(stored) + 1))
    kinds = [(await anext(now)).type for _ in range(12)]
    assert "attempt_started" in kinds
    assert kinds.count("done") == 1


async def test_a_reader_meets_a_gap_in_the_log_itself(lab: Any) -> None:
    """An event that the log skips is read from the store before what follows it."""
    agent = await lab.agent([say("one")])
    events = await agent.subscribe(since=0)
    await agent.run("1")
    stored = await lab.events()
    hub = agent.hub
    hub.begin(len(stored), print)
    events.cursor, events._index = 2, hub.base
    hub.log[:] = [e for e in hub.log if e.cursor > 5]
    events._buffer, events._next = [], 0
    assert [(await anext(events)).cursor for _ in range(3)] == [3, 4, 5]


async def test_a_stale_driver_does_not_end_the_next_one() -> None:
    hub = Hub("a")
    old, new = (lambda: None), (lambda: None)
    hub.begin(0, old)
    hub.begin(0, new)
    hub.end(old)
    assert (hub.driven, hub.on_ring) == (True, new)
    hub.end(new)
    assert (hub.driven, hub.on_ring) == (False, None)


@pytest.mark.parametrize("expose", [False, True])
async def test_reasoning_is_shown_to_late_readers_only_if_it_is_exposed(lab: Any, expose: bool) -> None:
    gate = Gate()
    template = AgentTemplate("t", model="m", expose_thinking=expose)
    deps = lab.deps([say("Well", think="secret", chunk=2, gate=gate, gate_at=5)])
    agent = await Agent.create(AgentConfig(template, agent_id="a"), deps)
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("go"))
        await gate.reached()
        late = await agent.subscribe(channels=["progress"])
        gate.release()
        await run.wait()
        seen = []
        async for envelope in late:
            seen.append(envelope)
            if envelope.type == "done":
                break
    assert any(e.type == "think_chunk" for e in seen) is expose
    assert ("secret" in "".join(e.delta for e in seen)) is expose
