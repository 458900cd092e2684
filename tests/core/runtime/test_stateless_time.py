"""`StatelessAgent` and time: a request rests a margin before its end, whatever it is doing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from tests.core.runtime.requests import NEAR, PLAIN, T, echo, in_time, ping, slow, using

from kode.core.config import Dependencies
from kode.core.errors import (
    StoreUnavailableError,
)
from kode.core.kernel.toolcall import CallStatus
from kode.core.provider.script import call, calls, delay, say
from kode.core.provider.scripted import ScriptedProvider
from kode.core.runtime.stateless import StatelessAgent
from kode.core.store.base import Store
from kode.core.store.memory import MemoryStore
from kode.core.testing.wrapped import WrappedStore
from kode.core.tools.base import ToolContext
from kode.core.tools.define import tool


@pytest.mark.parametrize(("timeout_s", "margin_s", "rests"), [(5.0, None, 4.5), (60.0, None, 58.0), (8.0, 3.0, 5.0)])
async def test_a_request_rests_a_margin_before_its_time(
    lab: Any, timeout_s: float, margin_s: float | None, rests: float
) -> None:
    deps = lab.deps([say("late", delay_s=1_000.0), say("there")])
    result, took = await in_time(
        lab,
        lambda: StatelessAgent.run(
            "a", "go", template_id=PLAIN, timeout_s=timeout_s, margin_s=margin_s, dependencies=deps
        ),
    )
    assert (result.status, result.stop_reason, result.run) == ("deadline", "deadline", 1)
    assert rests <= took <= rests + 0.5
    assert [due.agent_id for due in await lab.store.due(lab.clock.now(), 9)] == ["a"], "a pool would find it"
    result = await StatelessAgent.continue_("a", dependencies=deps)
    assert (result.status, result.text, result.run) == ("ok", "there", 1)
    assert await lab.store.due(lab.clock.now() + 10**9, 9) == []


async def test_nothing_new_is_started_within_the_margin(lab: Any) -> None:
    """The reply comes in time, and its call would begin too late."""
    started: list[str] = []

    @tool(recovery="retry")
    async def note(context: ToolContext) -> str:
        """Note that it ran."""
        started.append(context.call_id)
        return "noted"

    deps = lab.deps([delay(4.0, call("note", {})), call("note", {}), say("end")], note, sandboxes=NEAR)
    result, _ = await in_time(
        lab, lambda: StatelessAgent.run("a", "go", template_id=using(note), timeout_s=5, margin_s=2, dependencies=deps)
    )
    assert (result.status, started) == ("deadline", [])
    assert (await StatelessAgent.continue_("a", dependencies=deps)).text == "end"
    assert len(started) == 1


async def test_a_result_that_comes_within_the_margin_is_kept(lab: Any) -> None:
    @tool
    async def tidy(context: ToolContext) -> str:
        """Answer when it is cancelled."""
        try:
            await context.clock.sleep(1_000)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await context.clock.sleep(0.2)
            raise
        return "never"

    deps = lab.deps([calls(("tidy", {}), ("ping", {})), say("end")], tidy, ping, sandboxes=NEAR)
    result, took = await in_time(
        lab, lambda: StatelessAgent.run("a", "go", template_id=using(tidy, ping), timeout_s=5, dependencies=deps), 0.1
    )
    assert result.status == "deadline"
    assert took <= 5
    assert result.unfinished == ("1.1.1",)
    again = await StatelessAgent.continue_("a", dependencies=deps)
    assert again.text == "end"
    statuses = {c.tool: c.status for c in (await lab.store.read_calls("a")).items}
    assert statuses["tidy"] is CallStatus.SEALED


async def test_a_tool_that_stops_is_run_again_or_sealed_by_its_recovery(lab: Any) -> None:
    deps = lab.deps([call("slow", {}), say("end")], slow, sandboxes=NEAR)
    result, _ = await in_time(
        lab, lambda: StatelessAgent.run("a", "go", template_id=using(slow), timeout_s=5, dependencies=deps)
    )
    assert (result.status, result.unfinished) == ("deadline", ("1.1.1",))
    result, _ = await in_time(lab, lambda: StatelessAgent.continue_("a", timeout_s=30, dependencies=deps))
    assert (result.text, result.unfinished) == ("end", ())
    assert "user: [slept]" in await lab.texts()


async def test_a_tool_in_a_thread_that_will_not_stop_is_named() -> None:
    over = threading.Event()

    @tool(recovery="seal")
    def stubborn(context: ToolContext) -> str:
        """Wait for somebody else."""
        over.wait(20)
        return "too late"

    async with MemoryStore() as store:
        deps = Dependencies(
            store, [stubborn], {"m": ScriptedProvider([call("stubborn", {}), say("end")])}, sandboxes=NEAR
        )
        began = time.monotonic()
        try:
            result = await StatelessAgent.run(
                "a", "go", template_id=using(stubborn), timeout_s=1.0, margin_s=0.3, dependencies=deps
            )
            took = time.monotonic() - began
        finally:
            over.set()
        assert (result.status, result.unfinished) == ("deadline", ("1.1.1",))
        assert took < 15, "it did not wait for the thread"
        assert json.dumps(result.to_dict())
        assert (await StatelessAgent.continue_("a", dependencies=deps)).text == "end"
        (made,) = (await store.read_calls("a")).items
        assert made.status is CallStatus.SEALED


async def test_without_time_nothing_is_begun(lab: Any) -> None:
    deps = lab.deps(echo)
    result = await StatelessAgent.run("a", "go", template_id=PLAIN, timeout_s=0, dependencies=deps)
    assert (result.status, lab.provider.requests) == ("deadline", [])
    assert (await StatelessAgent.continue_("a", dependencies=deps)).text == "re go"


class Hanging(WrappedStore):
    """It does not answer one kind of question."""

    def __init__(self, inner: Store, method: str) -> None:
        super().__init__(inner)
        self.method = method

    async def around(self, method: str, call: Callable[[], Awaitable[T]]) -> T:
        if method == self.method:
            await anyio.sleep_forever()
        return await call()


@pytest.mark.parametrize("method", ["look_up", "append_inbox"])
async def test_a_store_that_does_not_answer_takes_the_request_s_time_and_no_more(lab: Any, method: str) -> None:
    await StatelessAgent.run("a", "one", template_id=PLAIN, dependencies=lab.deps(echo))
    deps = lab.deps(echo, store=Hanging(lab.store, method))
    began = lab.clock.monotonic()
    async with anyio.create_task_group() as tasks:
        later = lab.later(tasks, lambda: StatelessAgent.run("a", "two", timeout_s=3.0, dependencies=deps))
        with pytest.raises(StoreUnavailableError) as caught:
            await lab.pass_until(later, 0.5)
    assert (caught.value.code, lab.clock.monotonic() - began) == ("no_answer", 3.0)
    assert (await lab.store.load("a")).lease is None
