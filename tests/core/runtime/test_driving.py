"""Driving: two at once, steering, interrupts, time, tools that misbehave, people who decide."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from kode.core.errors import LeaseLostError, UsageError
from kode.core.kernel.invariants import check_history
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import Json
from kode.core.kernel.words import Status
from kode.core.provider.base import ModelRequest
from kode.core.provider.script import Gate, call, calls, last_text, say, text_of
from kode.core.runtime.agent import Agent
from kode.core.store.memory import MemoryStore
from kode.core.testing.clock import VirtualClock
from kode.core.testing.wrapped import WrappedStore
from kode.core.tools.base import Tool, ToolContext
from kode.core.tools.define import tool


def make(name: str, work: Callable[[ToolContext], Awaitable[Any]], **options: Any) -> Tool:
    """A tool without arguments."""

    async def run(context: ToolContext) -> Any:
        return await work(context)

    return tool(name=name, description=name, **options)(run)


def sleeper(seconds: float = 1_000.0, **options: Any) -> Tool:
    async def sleep(context: ToolContext) -> str:
        await context.clock.sleep(seconds)
        return "slept"

    return make("nap", sleep, **options)


def echo(request: ModelRequest) -> str:
    return f"re {last_text(request)}"


# ---- two at once ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("handles", ["one", "two"])
async def test_each_caller_gets_its_own_answer(lab: Any, handles: str) -> None:
    """Predecessor: A17."""
    gate = Gate()
    deps = lab.deps([say("to one", gate=gate), say("to two")])
    one = await lab.agent((), deps=deps)
    two = one if handles == "one" else await Agent.open("a", deps)
    async with anyio.create_task_group() as tasks:
        first = lab.later(tasks, lambda: one.run("1"))
        await gate.reached()
        second = lab.later(tasks, lambda: two.run("2"))
        await lab.clock.advance(0)
        gate.release()
        assert (await first.wait()).text == "to one"
        assert (await lab.pass_until(second)).text == "to two"
    assert await lab.texts() == ["user: 1", "assistant: to one", "user: 2", "assistant: to two"]


async def test_whoever_follows_takes_over(lab: Any) -> None:
    """The driver is cancelled in the middle; who waits for it goes on with its work."""
    gate = Gate()
    agent = await lab.agent([say("lost", gate=gate), say("one"), say("two")])
    async with anyio.create_task_group() as tasks:
        first = lab.later(tasks, lambda: agent.run("1"))
        await gate.reached()
        second = lab.later(tasks, lambda: agent.run("2"))
        await lab.clock.advance(0.1)
        await first.cancel()
        assert (await lab.pass_until(second)).text == "two"
    assert await lab.texts() == ["user: 1", "assistant: one", "user: 2", "assistant: two"]


async def test_a_message_steers_at_the_next_step(lab: Any) -> None:
    """What comes while calls are open is seen with their results, once."""
    go = anyio.Event()

    async def wait(context: ToolContext) -> str:
        await go.wait()
        return "waited"

    agent = await lab.agent([call("wait", {}), say("seen")], make("wait", wait))
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("go"))
        await lab.clock.advance(0.1)
        await agent.send("and this")
        go.set()
        assert (await run.wait()).text == "seen"
    assert await lab.texts() == ["user: go", "assistant: <wait>", "user: [waited]", "user: and this", "assistant: seen"]
    assert text_of(lab.provider.requests[-1].messages[-1].blocks) == "and this"
    assert (await agent.complete()).run == 1


# ---- interrupts -----------------------------------------------------------------------------------------------


async def test_interrupt_an_idle_agent(lab: Any) -> None:
    """The message after it is answered as ever (predecessor: A3)."""
    agent = await lab.agent(echo)
    await agent.interrupt()
    assert (await agent.run("hi")).text == "re hi"
    assert "input_rejected" in await lab.kinds()


async def test_interrupt_while_streaming(lab: Any) -> None:
    gate = Gate()
    agent = await lab.agent([say("never", gate=gate), say("after")])
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("1"))
        await gate.reached()
        await agent.interrupt("stop it", by="Ann")
        result = await run.wait()
    assert (result.status, result.text) == ("interrupted", "")
    assert "Ann" in result.error.text
    assert lab.provider.abandoned == 1
    assert (await agent.run("2")).text == "after"
    assert await lab.texts() == ["user: 1", "user: 2", "assistant: after"]


async def test_interrupt_more_calls_than_slots(lab: Any) -> None:
    """What had not started says so; nothing hangs (predecessor: A4)."""
    agent = await lab.agent([calls(*[("nap", {})] * 5), say("after")], sleeper(readonly=True))
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("1"))
        await lab.clock.advance(0.1)
        await agent.interrupt()
        assert (await run.wait()).status == "interrupted"
    history = (await lab.store.read_messages("a")).items
    check_history(history)
    results = [text_of(b.content) for b in history[-1].blocks]
    assert ["unknown" in text for text in results] == [True, True, True, False, False]
    assert all("no effect" in text for text in results[3:])
    assert (await agent.run("2")).text == "after"


async def test_grace_keeps_a_real_result(lab: Any) -> None:
    async def careful(context: ToolContext) -> str:
        try:
            await context.clock.sleep(100)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await context.clock.sleep(2)
            return "stopped in order"
        return "done"

    agent = await lab.agent([call("careful", {}), say("after")], make("careful", careful))
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("1"))
        await lab.clock.advance(0.1)
        await agent.interrupt()
        assert (await lab.pass_until(run, 0.5)).status == "interrupted"
    assert (await lab.texts())[-1] == "user: [stopped in order]"


async def test_a_tool_that_does_not_stop_is_sealed(lab: Any) -> None:
    async def stubborn(context: ToolContext) -> str:
        with anyio.CancelScope(shield=True):
            await context.clock.sleep(50)
        return "at last"

    agent = await lab.agent([call("stubborn", {}), say("after")], make("stubborn", stubborn))
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("1"))
        await lab.clock.advance(0.1)
        await agent.interrupt()
        assert (await lab.pass_until(run)).status == "interrupted"
    assert "unknown" in (await lab.texts())[-1]
    assert (await agent.run("2")).text == "after"


async def test_interrupt_while_paused(lab: Any) -> None:
    """A late decision runs nothing (predecessor: A5)."""
    ran: list[str] = []
    asked = make("asked", _note(ran), needs_approval=True)
    agent = await lab.agent([call("asked", {}), say("after")], asked)
    (pending,) = (await agent.run("1")).pending
    await agent.interrupt()
    await agent.decide(pending, "allow")
    assert (await agent.complete()).status == "interrupted"
    with pytest.raises(UsageError) as caught:
        await agent.decide(pending, "allow")
    assert caught.value.code == "not_pending"
    assert (await agent.run("2")).text == "after"
    assert ran == []
    check_history((await lab.store.read_messages("a")).items)


def _note(ran: list[str]) -> Callable[[ToolContext], Awaitable[str]]:
    async def note(context: ToolContext) -> str:
        ran.append(context.idempotency_key)
        return "ran"

    return note


# ---- people ---------------------------------------------------------------------------------------------------


async def test_an_approval_that_takes_a_month(lab: Any) -> None:
    """Nothing times out while a person thinks; another process decides (predecessor: A8)."""
    ran: list[str] = []
    tools = (make("asked", _note(ran), needs_approval=True),)
    agent = await lab.agent([call("asked", {}), say("after")], *tools)
    result = await agent.run("1")
    assert (result.status, result.pending, (await agent.status()).driven) == ("paused", ("1.1.1",), False)
    await agent.close()
    await lab.clock.advance(30 * 86_400)
    assert await lab.store.due(lab.clock.now(), 10) == []
    other = await Agent.open("a", lab.deps([say("after")], *tools))
    await other.decide("1.1.1", "allow", by="Ann", note="fine")
    assert [d.agent_id for d in await lab.store.due(lab.clock.now(), 10)] == ["a"]
    assert (await other.complete()).text == "after"
    assert ran == [f"{agent.uid}:1.1.1"]


async def test_a_denial_reaches_the_model(lab: Any) -> None:
    """Its note too (predecessor: B6)."""
    ran: list[str] = []
    agent = await lab.agent([call("asked", {}), lambda_say], make("asked", _note(ran), needs_approval=True))
    await agent.run("1")
    await agent.decide("1.1.1", "deny", by="Ann", note="too dear")
    await agent.complete()
    assert "Denied by Ann: too dear." in text_of(lab.provider.requests[-1].messages[-1].blocks)
    assert ran == []


lambda_say = say("all right")


async def test_of_two_deciders_one_wins(lab: Any) -> None:
    ran: list[str] = []
    tools = (make("asked", _note(ran), needs_approval=True),)
    agent = await lab.agent([call("asked", {}), say("after")], *tools)
    await agent.run("1")
    other = await Agent.open("a", lab.deps((), *tools))
    outcomes: list[str] = []

    async def decide(who: Agent, how: Any) -> None:
        try:
            await who.decide("1.1.1", how, by=how)
            outcomes.append(how)
        except UsageError:
            outcomes.append("lost")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(decide, agent, "allow")
        tasks.start_soon(decide, other, "deny")
    assert sorted(outcomes)[-1] == "lost"
    assert len(outcomes) == 2
    await agent.complete()
    assert len(ran) == outcomes.count("allow")


async def test_a_decision_may_change_the_arguments(lab: Any) -> None:
    seen: list[int] = []

    @tool(needs_approval=True)
    async def spend(amount: int) -> str:
        """Spend."""
        seen.append(amount)
        return "spent"

    agent = await lab.agent([call("spend", {"amount": 100}), call("spend", {"amount": 7}), say("ok")], spend)
    await agent.run("1")
    with pytest.raises(UsageError):
        await agent.decide("1.1.1", "allow", input=Json("{"))
    await agent.decide("1.1.1", "allow", input=Json('{"amount":5}'))
    await agent.complete()
    await agent.decide("1.2.1", "allow", input=Json('{"amount":"much"}'))
    assert (await agent.complete()).text == "ok"
    assert seen == [5]
    assert "amount" in (await lab.texts())[-2]


async def test_an_approval_expires(lab: Any) -> None:
    ran: list[str] = []
    agent = await lab.agent(
        [call("asked", {}), say("after")],
        make("asked", _note(ran), needs_approval=True),
        limits=Limits(approval_deadline_s=60),
    )
    await agent.run("1")
    await lab.clock.advance(61)
    assert (await agent.complete()).text == "after"
    assert ran == []
    assert "nobody approved" in (await lab.texts())[-2]


# ---- time -----------------------------------------------------------------------------------------------------


async def test_a_request_that_runs_out_of_time_rests_the_run(lab: Any) -> None:
    agent = await lab.agent([say("slow", delay_s=20), say("there")])
    async with anyio.create_task_group() as tasks:
        result = await lab.pass_until(lab.later(tasks, lambda: agent.run("1", timeout_s=10)))
        assert (result.status, result.run) == ("deadline", 1)
        assert lab.clock.monotonic() <= 11
        assert not (await agent.status()).driven
        assert [d.agent_id for d in await lab.store.due(lab.clock.now(), 10)] == ["a"]
        result = await lab.pass_until(lab.later(tasks, agent.complete))
    assert (result.text, result.run) == ("there", 1)


async def test_at_a_deadline_calls_stay_as_after_a_crash(lab: Any) -> None:
    agent = await lab.agent([call("nap", {}), say("there")], sleeper())
    async with anyio.create_task_group() as tasks:
        result = await lab.pass_until(lab.later(tasks, lambda: agent.run("1", timeout_s=10)))
        assert result.status == "deadline"
        assert (await lab.store.read_state("a")).status is Status.WORKING
        assert (await agent.complete()).text == "there"
    assert "unknown" in (await lab.texts())[2]


@pytest.mark.parametrize("what", ["tool", "model"])
async def test_processing_time_is_bounded(lab: Any, what: str) -> None:
    """Also when the wait is interrupted again and again by the driver's own looks."""
    script = [call("nap", {}), say("after")] if what == "tool" else [say("slow", delay_s=100), say("after")]
    limits = Limits(processing_timeout_s=10, tool_timeout_s=None)
    agent = await lab.agent(script, sleeper(), limits=limits)
    async with anyio.create_task_group() as tasks:
        result = await lab.pass_until(lab.later(tasks, lambda: agent.run("1")), 0.7)
    assert (result.status, result.stop_reason.value) == ("limit", "processing_timeout")
    assert 10 <= lab.clock.monotonic() < 13
    assert (await lab.store.read_run("a", 1)).used_us >= 9_900_000
    assert (await agent.run("2")).text == "after"


async def test_a_tool_runs_out_of_time(lab: Any) -> None:
    agent = await lab.agent([call("nap", {}), say("after")], sleeper(timeout_s=3))
    async with anyio.create_task_group() as tasks:
        result = await lab.pass_until(lab.later(tasks, lambda: agent.run("1")))
    assert result.text == "after"
    assert "did not end within 3 s" in (await lab.texts())[2]


async def test_a_long_run_keeps_its_lease(lab: Any) -> None:
    agent = await lab.agent([call("nap", {}), say("after")], sleeper(100), limits=Limits(lease_s=10, lease_margin_s=1))
    other = await Agent.open("a", lab.deps((), sleeper(100)))
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("1"))
        for _ in range(90):
            await lab.clock.advance(1)
            with pytest.raises(LeaseLostError):
                await lab.store.acquire("a", "someone", 10)
        assert (await other.status()).driven
        assert (await lab.pass_until(run)).text == "after"


# ---- tools ----------------------------------------------------------------------------------------------------


async def test_a_result_is_cut(lab: Any) -> None:
    async def long(context: ToolContext) -> str:
        return "head" + "x" * 5_000 + "tail"

    agent = await lab.agent([call("long", {}), say("ok")], make("long", long), limits=Limits(max_tool_result_bytes=600))
    await agent.run("1")
    text = (await lab.texts())[2]
    assert len(text) < 800
    assert "[head" in text
    assert text.endswith("tail]")
    assert (await lab.store.read_calls("a")).items[0].cut_bytes > 4_000


async def test_what_raises_is_a_result(lab: Any) -> None:
    """A tool, a listener: neither ends the run (predecessor: A12)."""

    async def broken(context: ToolContext) -> str:
        raise ValueError("out of order")

    async def strange(context: ToolContext) -> Any:
        return {"a": object()}

    agent = await lab.agent(
        [calls(("broken", {}), ("strange", {}), ("nobody", {}), ("broken", "{")), say("ok")],
        make("broken", broken),
        make("strange", strange),
    )

    def listener(envelope: Any) -> None:
        raise RuntimeError("listener")

    agent.on("tool_end", listener)
    agent.on("tool_start", listener)
    assert (await agent.run("1")).text == "ok"
    check_history((await lab.store.read_messages("a")).items)
    assert "out of order" in (await lab.texts())[2]
    statuses = [c.status.value for c in (await lab.store.read_calls("a")).items]
    assert statuses == ["FAILED"] * 4


# ---- cancellation ---------------------------------------------------------------------------------------------


async def test_cancel_a_run_at_any_await(lab: Any) -> None:
    """However far it came, the lease is free, nothing is lost, and the next call finishes."""
    for n in range(40):
        id = f"a{n}"
        ran: list[str] = []
        agent = await lab.agent(
            lambda r: call("t", {}) if len(r.messages) < 2 else say("end"),
            make("t", _note(ran), recovery="retry"),
            id=id,
        )
        await agent.send("go", item_id="i")
        with anyio.CancelScope() as scope:
            await _cancel_after(n, scope, agent)
        assert await lab.store.lease_of(id) is None
        assert (await agent.run("go", item_id="i")).text == "end"
        assert (await lab.texts(id)).count("user: go") == 1
        check_history((await lab.store.read_messages(id)).items)
        if not scope.cancelled_caught:
            break
    else:
        raise AssertionError("never ran to the end")
    assert n > 3


async def _cancel_after(n: int, scope: anyio.CancelScope, agent: Agent) -> None:
    """Run, and cancel from beside after n turns of the event loop."""

    async def count() -> None:
        for _ in range(n):
            await anyio.lowlevel.checkpoint()
        scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        await agent.complete()
        tasks.cancel_scope.cancel()


async def test_processing_time_is_counted_once(lab: Any) -> None:
    agent = await lab.agent([call("nap", {}), call("nap", {}), say("end")], sleeper(10))
    async with anyio.create_task_group() as tasks:
        await lab.pass_until(lab.later(tasks, lambda: agent.run("1")), 0.7)
    assert (await lab.store.read_run("a", 1)).used_us == 20_000_000


async def test_at_the_end_of_its_time_a_tool_has_the_grace(lab: Any) -> None:
    async def careful(context: ToolContext) -> str:
        try:
            await context.clock.sleep(100)
        except anyio.get_cancelled_exc_class():
            return "stopped in order"
        return "done"

    limits = Limits(processing_timeout_s=10)
    agent = await lab.agent([call("careful", {})], make("careful", careful), limits=limits)
    async with anyio.create_task_group() as tasks:
        await lab.pass_until(lab.later(tasks, lambda: agent.run("1")))
    assert (await lab.texts())[-1] == "user: [stopped in order]"


async def test_who_was_taken_over_stops(lab: Any) -> None:
    """Its lease ran out by the store's clock; its tool is cancelled, and its caller is told what the other made."""
    store_clock = VirtualClock()
    lab.store = MemoryStore(store_clock)
    script = [call("nap", {}), say("end")]
    first = await lab.agent((), deps=lab.deps(script, sleeper()), tools=("nap",))
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: first.run("go"))
        await lab.clock.advance(1)
        store_clock.jump(100)
        other = await Agent.resume("a", lab.deps([say("end")], sleeper(), store=WrappedStore(lab.store)))
        assert (await other.status()).status is Status.READY
        result = await lab.pass_until(run)
    assert (result.status, result.text) == ("ok", "end")
    assert lab.clock.monotonic() < 40
    texts = await lab.texts()
    assert texts[-1] == "assistant: end"
    assert "unknown" in texts[-2]
    assert texts.count("user: go") == 1
    assert lab.clock.waiting == 0, "something of the old driver is still at work"
