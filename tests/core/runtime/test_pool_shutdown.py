"""The end of a pool: in order, at a signal, in a hurry; and what it says of its agents."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import anyio
import pytest
from tests.core.runtime.test_pool_places import Boxes, Door

from kode.core.config import AgentConfig
from kode.core.errors import UsageError
from kode.core.provider.script import Gate, call, say
from kode.core.runtime.pool import AgentPool
from kode.core.template import AgentTemplate
from kode.core.testing.wrapped import WrappedStore
from kode.core.tools.base import ToolContext
from kode.core.tools.define import tool


@tool
async def nap(context: ToolContext) -> str:
    """Sleep, and say how far it came."""
    try:
        await context.clock.sleep(1_000)
    except anyio.get_cancelled_exc_class():
        return "stopped early"
    return "slept"


@tool
async def stubborn(context: ToolContext) -> str:
    """Take 60 seconds to stop."""
    with context.clock.move_on_after(60, shield=True):
        await anyio.sleep_forever()
    return "at last"


@tool(needs_approval=True)
async def asked(context: ToolContext) -> str:
    """Ask."""
    return "done"


async def three(lab: Any, gate: Gate) -> Any:
    """Agents in the middle of a reply, of a tool that stops, and of one that does not; and two that are at rest."""
    deps = lab.deps(
        {
            "model": [say("never", gate=gate), say("again")],
            "stops": [call("nap", {}), say("went on")],
            "stays": [call("stubborn", {}), say("sealed")],
            "waits": [call("asked", {})],
            "idle": [say("well")],
        },
        nap, stubborn, asked,
    )  # fmt: skip
    for id, tools in {"model": (), "stops": (nap,), "stays": (stubborn,), "waits": (asked,), "idle": ()}.items():
        await lab.agent((), *tools, deps=deps, id=id)
    return deps


async def begin(pool: AgentPool, gate: Gate, lab: Any) -> None:
    for id in ("model", "stops", "stays", "waits", "idle"):
        await (await pool.open(id)).send("go")
    await gate.reached()
    await lab.clock.advance(0)
    assert pool.stats().driving == 3


async def test_everybody_rests_and_the_report_says_how(lab: Any) -> None:
    gate = Gate()
    deps = await three(lab, gate)
    async with anyio.create_task_group() as tasks, AgentPool(deps) as pool:
        await begin(pool, gate, lab)
        ending = lab.later(tasks, pool.graceful_shutdown)
        twice = lab.later(tasks, pool.graceful_shutdown)
        await lab.clock.advance(1)
        await (await pool.open("idle")).send("too late for this pool")
        with pytest.raises(UsageError, match="shutting down"):
            await pool.open("nobody")
        with pytest.raises(UsageError, match="shutting down"):
            await pool.create(AgentConfig(AgentTemplate("t", model="m"), "new"))
        report = await lab.pass_until(ending, 0.5)
        assert (report.finished, report.rested, report.recovering) == ((), ("model", "stops"), ("stays",))
        assert 0 < report.took_s < 30
        assert await twice.wait() is report
        assert await pool.graceful_shutdown() is report is pool.report
        await lab.clock.advance(60)
        assert pool.stats().driving == 0
    for id in ("model", "stops", "stays"):
        assert await lab.store.lease_of(id) is None
    after = lab.deps(
        {"model": [say("again")], "stops": [say("went on")], "stays": [say("sealed")], "idle": [say("x")]},
        nap,
        stubborn,
    )
    async with AgentPool(after) as pool:
        await pool.wait_idle()
    assert (await lab.store.load("idle")).inbox == ()
    assert not await lab.store.exists("new")
    assert "assistant: again" in await lab.texts("model")
    assert "user: [stopped early]" in await lab.texts("stops")
    assert (await lab.texts("stops"))[-1] == "assistant: went on"
    assert (await lab.texts("stays"))[-1] == "assistant: sealed"
    assert "unknown" in "".join(await lab.texts("stays"))


async def test_who_ends_meanwhile_is_finished(lab: Any) -> None:
    """An interrupt on its way ends the run."""
    gate = Gate()
    deps = lab.deps([say("x", gate=gate)])
    await lab.agent((), deps=deps)
    async with anyio.create_task_group() as tasks, AgentPool(deps, find=False) as pool:
        agent = await pool.open("a")
        await agent.send("go")
        await gate.reached()
        await agent.interrupt()
        ending = lab.later(tasks, pool.graceful_shutdown)
        report = await lab.pass_until(ending, 0.1)
    assert (report.finished, report.rested, report.recovering) == (("a",), (), ())
    assert (await lab.store.read_state("a")).effects == ()


async def test_what_does_not_rest_in_time_is_cancelled(lab: Any) -> None:
    gate = Gate()
    deps = await three(lab, gate)
    async with anyio.create_task_group() as tasks, AgentPool(deps) as pool:
        await begin(pool, gate, lab)
        ending = lab.later(tasks, lambda: pool.graceful_shutdown(0.5))
        report = await lab.pass_until(ending, 0.1)
        assert report.took_s < 5
        assert "stays" in report.recovering
        assert "model" in report.rested
        await lab.clock.advance(60)


async def test_a_drive_by_a_handles_owner_rests_too(lab: Any) -> None:
    gate = Gate()
    deps = lab.deps([say("never", gate=gate)])
    await lab.agent((), deps=deps)
    async with anyio.create_task_group() as tasks, AgentPool(deps, find=False) as pool:
        running = lab.later(tasks, lambda: pool.run("a", "go"))
        await gate.reached()
        report = await lab.pass_until(lab.later(tasks, pool.graceful_shutdown), 0.1)
        assert report.rested == ("a",)
        assert (await running.wait()).status in ("deadline", "queued")


async def test_leaving_without_a_word_reports_as_well(lab: Any) -> None:
    gate = Gate()
    deps = lab.deps([say("never", gate=gate)])
    await lab.agent((), deps=deps)
    async with AgentPool(deps) as pool:
        await (await pool.open("a")).send("go")
        await gate.reached()
    assert pool.report is not None
    assert pool.report.rested == ("a",)
    with pytest.raises(UsageError, match="once"):
        await pool.__aenter__()


async def test_an_error_in_the_body_comes_out_as_it_is(lab: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        async with AgentPool(lab.deps(())):
            raise ZeroDivisionError


async def test_a_cancelled_body_ends_the_pool_and_stays_cancelled(lab: Any) -> None:
    gate = Gate()
    deps = lab.deps([say("never", gate=gate)])
    await lab.agent((), deps=deps)
    behind = False
    with anyio.CancelScope() as scope:
        async with AgentPool(deps) as pool:
            await (await pool.open("a")).send("go")
            await gate.reached()
            scope.cancel()
            await anyio.sleep_forever()
        behind = True
    assert not behind
    assert scope.cancelled_caught
    assert pool.report is not None
    assert await lab.store.lease_of("a") is None
    assert [due.agent_id for due in await lab.store.due(lab.clock.now(), 10)] == ["a"]


async def test_a_signal_ends_it_in_order(lab: Any) -> None:
    gate = Gate()
    deps = lab.deps([say("never", gate=gate)])
    await lab.agent((), deps=deps)
    before = signal.getsignal(signal.SIGTERM)
    ended_by_itself = False
    async with AgentPool(deps, signals=True) as pool:
        await (await pool.open("a")).send("go")
        await gate.reached()
        os.kill(os.getpid(), signal.SIGTERM)
        await anyio.sleep_forever()
        ended_by_itself = True
    assert not ended_by_itself
    assert pool.report is not None
    assert pool.report.rested == ("a",)
    assert signal.getsignal(signal.SIGTERM) == before


async def test_a_store_that_hangs_holds_nobody_up(lab: Any) -> None:
    deps = lab.deps([say("x")], store=Door(lab.store, "commit"))
    await lab.agent((), deps=lab.deps(()))
    async with anyio.create_task_group() as tasks, AgentPool(deps, find=False) as pool:
        await (await pool.open("a")).send("go")
        await lab.clock.advance(0)
        assert deps.store.waiting == 1
        report = await lab.pass_until(lab.later(tasks, lambda: pool.graceful_shutdown(2)), 0.1)
        assert 1.5 <= report.took_s <= 2.1
        assert pool.stats().driving == 0
    assert await lab.store.lease_of("a") is None


async def test_a_store_that_does_not_read_does_not_delay_the_report(lab: Any) -> None:
    """All of it is within the time, however many agents there are."""

    class Silent(WrappedStore):
        silent = False

        async def read_state(self, agent_id: str) -> Any:
            if self.silent:
                await anyio.sleep_forever()
            return await super().read_state(agent_id)

    ids = [f"a{n}" for n in range(8)]
    deps = lab.deps({id: [call("stubborn", {})] for id in ids}, stubborn, store=Silent(lab.store))
    for id in ids:
        await lab.agent((), stubborn, deps=deps, id=id)
    async with anyio.create_task_group() as tasks, AgentPool(deps, find=False) as pool:
        for id in ids:
            await (await pool.open(id)).send("go")
        await lab.clock.advance(0)
        driven = pool.stats().driving
        deps.store.silent = True
        report = await lab.pass_until(lab.later(tasks, lambda: pool.graceful_shutdown(2)), 0.1)
        await lab.clock.advance(60)
    assert driven == 8
    assert report.took_s <= 2.1
    assert report.recovering == tuple(ids)


async def test_sandboxes_that_hang_at_the_end_hang_together(lab: Any) -> None:
    boxes, ids = Boxes(), [f"a{n}" for n in range(5)]
    deps = lab.deps(lambda request: say("x"), nap, sandboxes=boxes)
    for id in ids:
        await lab.agent((), nap, deps=deps, id=id)
    began = lab.clock.monotonic()

    async def work() -> None:
        async with AgentPool(deps, find=False) as pool:
            for id in ids:
                await pool.run(id, "go")
            boxes.trouble = anyio.sleep_forever

    async with anyio.create_task_group() as tasks:
        await lab.pass_until(lab.later(tasks, work), 0.5)
    assert len(boxes.open) == 5
    assert lab.clock.monotonic() - began < 8, "cancel_grace_s and a second, once"


async def test_a_second_signal_ends_it_at_once(lab: Any) -> None:
    """The store hangs, so that the first one alone would take the whole time that there is."""
    deps = lab.deps([say("x")], store=Door(lab.store, "commit"))
    await lab.agent((), deps=lab.deps(()))
    began = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def work() -> Any:
            async with AgentPool(deps, signals=True) as pool:
                await (await pool.open("a")).send("go")
                await lab.clock.advance(0)
                began.set()
                await anyio.sleep_forever()
            return pool.report

        working = lab.later(tasks, work)
        await began.wait()
        os.kill(os.getpid(), signal.SIGINT)
        await anyio.sleep(0.05)  # a signal comes in real time
        await lab.clock.advance(1)
        assert not working.done
        os.kill(os.getpid(), signal.SIGINT)
        await anyio.sleep(0.05)
        report = await lab.pass_until(working, 0.01, most=10)
        assert 1 <= report.took_s < 2
        assert report.finished == ("a",), "its message waits in the inbox, nothing was begun"


def test_signals_are_for_the_main_thread(lab: Any) -> None:
    caught: list[BaseException] = []

    async def enter() -> None:
        async with AgentPool(lab.deps(()), signals=True):
            pass

    def run() -> None:
        try:
            anyio.run(enter)
        except BaseException as error:  # noqa: BLE001 - looked at below
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert isinstance(caught[0], UsageError)
    assert "main thread" in str(caught[0])
