"""`StatelessAgent`: one request at a time, and nothing of it left behind."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, TypeVar

import anyio
import pytest

from kode.core.config import AgentConfig, Dependencies
from kode.core.errors import (
    DuplicateIdError,
    KodeError,
    NotBoundError,
    NotFoundError,
    StoreUnavailableError,
    UsageError,
)
from kode.core.kernel.limits import Limits
from kode.core.kernel.toolcall import CallStatus
from kode.core.provider.base import ModelRequest
from kode.core.provider.catalog import ProviderCatalog
from kode.core.provider.script import Gate, call, calls, delay, last_text, say
from kode.core.provider.scripted import ScriptedProvider
from kode.core.runtime.agent import Agent
from kode.core.runtime.stateless import StatelessAgent
from kode.core.sandbox.catalog import SandboxFactory
from kode.core.sandbox.local import LocalSandbox
from kode.core.store.base import Store
from kode.core.store.layers.reading import Reading
from kode.core.store.memory import MemoryStore
from kode.core.template import AgentTemplate, TemplateRegistry
from kode.core.testing.wrapped import WrappedStore
from kode.core.tools.base import ToolContext
from kode.core.tools.catalog import ToolRegistry
from kode.core.tools.define import tool

T = TypeVar("T")
PLAIN = AgentTemplate("plain", model="m")


@tool
async def ping(context: ToolContext) -> str:
    """Ping."""
    return "pong"


@tool(needs_approval=True)
async def risky(context: ToolContext) -> str:
    """Needs a person."""
    return "done"


@tool(recovery="retry", readonly=True)
async def slow(context: ToolContext) -> str:
    """Take ten seconds."""
    await context.clock.sleep(10)
    return "slept"


def echo(request: ModelRequest) -> str:
    """Answer the last message."""
    return f"re {last_text(request)}"


def using(*tools: Any, **more: Any) -> AgentTemplate:
    """A template with these tools."""
    return AgentTemplate("t", model="m", tools=tuple(t.name for t in tools), **{"sandbox": "near", **more})


class Near(LocalSandbox):
    """It opens at once: what takes real time cannot be waited for by a clock that is moved by hand."""

    kind = "near"
    ref = "near:0"  # type: ignore[assignment]

    def __init__(self, *, ref: str | None = None) -> None:
        super().__init__()

    async def open(self) -> None:
        pass

    @classmethod
    async def kill_ref(cls, ref: str) -> int:
        return 0


NEAR = SandboxFactory()
NEAR.register("near", Near)
NEAR.register("local", LocalSandbox)


# ---- the snippet ----------------------------------------------------------------------------------------------


async def test_an_unknown_agent_is_made_and_found_again(lab: Any) -> None:
    deps = lab.deps(echo)
    first = await StatelessAgent.run("a", "one", template_id=PLAIN, dependencies=deps)
    second = await StatelessAgent.run("a", "two", dependencies=deps)
    assert [(r.status, r.text, r.run) for r in (first, second)] == [("ok", "re one", 1), ("ok", "re two", 2)]
    assert await lab.store.lease_of("a") is None


@pytest.fixture
def defaults(monkeypatch: pytest.MonkeyPatch) -> tuple[ProviderCatalog, ToolRegistry, TemplateRegistry]:
    """The process's registries, empty and for one test."""
    found = ProviderCatalog(), ToolRegistry(), TemplateRegistry()
    monkeypatch.setattr("kode.core.provider.catalog.default_providers", found[0])
    monkeypatch.setattr("kode.core.tools.catalog.default_tools", found[1])
    monkeypatch.setattr("kode.core.config.default_templates", found[2])
    return found


async def test_with_the_default_registries_a_store_is_enough(lab: Any, defaults: Any) -> None:
    """A store, a template's id, a time: no more."""
    providers, tools, templates = defaults
    providers.register("snippet", lambda model, **_: ScriptedProvider([call("ping", {}), say("hello")]))
    tools.register(ping)
    templates.register(AgentTemplate("default", model="snippet:x", tools=("ping",)))
    result = await StatelessAgent.run("a", "hi", store=lab.store, template_id="default", timeout_s=25)
    assert (result.status, result.text, result.steps) == ("ok", "hello", 2)
    assert json.loads(json.dumps(result.to_dict()))["text"] == "hello"


async def test_fields_of_dependencies_and_a_whole_config(lab: Any) -> None:
    config = AgentConfig(using(ping), agent_id="another", tenant="acme", limits=Limits(max_steps_per_run=1))
    result = await StatelessAgent.run(
        "a", "go", store=lab.store, config=config, tools=[ping], clock=lab.clock, sandboxes=NEAR,
        providers={"m": ScriptedProvider([call("ping", {}), say("end")])},
    )  # fmt: skip
    assert (result.agent_id, result.status, result.stop_reason) == ("a", "limit", "max_steps")
    assert (await lab.store.read_state("a")).tenant == "acme"
    assert not await lab.store.exists("another")


async def test_every_result_is_plain_json(lab: Any) -> None:
    deps = lab.deps([call("risky", {}), say("end")], risky, sandboxes=NEAR)
    paused = await StatelessAgent.run("a", "go", template_id=using(risky), dependencies=deps)
    plain = json.loads(json.dumps(paused.to_dict()))
    assert (plain["status"], plain["stop_reason"], plain["pending"]) == ("paused", "approval", ["1.1.1"])
    assert (plain["usage"], plain["error"]) == (asdict(paused.usage), None)


# ---- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"timeout_s": -1}, "bad_option"),
        ({"timeout_s": float("nan")}, "bad_option"),
        ({"timeout_s": float("inf")}, "bad_option"),
        ({"timeout_s": "25"}, "bad_option"),
        ({"timeout_s": True}, "bad_option"),
        ({"margin_s": -0.1}, "bad_option"),
        ({"on_busy": "later"}, "bad_option"),
        ({"sender": 5}, "bad_option"),
        ({"metadata": "{"}, "bad_option"),
        ({"limits": {"max_steps_per_run": 1}}, "bad_option"),
        ({"request_id": "decision:1.1.1:1"}, "bad_item_id"),
        ({"message": " "}, "bad_message"),
        ({"agent_id": "../a"}, "bad_agent_id"),
        ({"strange": 1}, "bad_argument"),
        ({"store": None}, "bad_argument"),
        ({"store": "agents.db"}, "bad_store"),
    ],
    ids=str,
)
async def test_bad_arguments_are_refused(lab: Any, options: dict[str, Any], code: str) -> None:
    given = {"agent_id": "a", "message": "hi", "store": lab.store, "template_id": PLAIN, **options}
    given.setdefault("providers", {"m": ScriptedProvider([])})
    with pytest.raises(KodeError) as caught:
        await StatelessAgent.run(given.pop("agent_id"), given.pop("message"), **given)
    assert caught.value.code == code
    assert (await lab.store.list_agents()) == [] or (await lab.store.load("a")).inbox == ()


async def test_dependencies_and_a_store_are_one_too_many(lab: Any) -> None:
    with pytest.raises(UsageError, match="store, not both"):
        await StatelessAgent.run("a", "hi", dependencies=lab.deps(echo), store=lab.store)
    with pytest.raises(UsageError, match="tools, not both"):
        await StatelessAgent.run("a", "hi", dependencies=lab.deps(echo), tools=[ping])


async def test_what_is_not_bound_stores_nothing(lab: Any) -> None:
    with pytest.raises(NotBoundError):
        await StatelessAgent.run("a", "hi", template_id=using(ping), dependencies=lab.deps(echo))
    with pytest.raises(NotBoundError):
        await StatelessAgent.run("a", "hi", template_id="nobody's", dependencies=lab.deps(echo))
    assert await lab.store.list_agents() == []
    await StatelessAgent.run("a", "hi", template_id=using(ping), dependencies=lab.deps(echo, ping, sandboxes=NEAR))
    before = await lab.store.load("a")
    with pytest.raises(NotBoundError):
        await StatelessAgent.run("a", "more", dependencies=lab.deps(echo))
    after = await lab.store.load("a")
    assert (after.version, after.inbox, after.lease) == (before.version, (), None)


async def test_there_must_be_something_to_continue_or_decide(lab: Any) -> None:
    deps = lab.deps(echo)
    with pytest.raises(NotFoundError):
        await StatelessAgent.continue_("a", dependencies=deps)
    with pytest.raises(NotFoundError):
        await StatelessAgent.decide("a", "1.1.1", "allow", dependencies=deps)
    assert await lab.store.list_agents() == []


# ---- twice ----------------------------------------------------------------------------------------------------


async def test_a_request_that_comes_twice_runs_once(lab: Any) -> None:
    deps = lab.deps([say("first"), say("second")])
    results = [
        await StatelessAgent.run("a", "go", template_id=PLAIN, request_id="r", dependencies=deps) for _ in range(3)
    ]
    assert results == [results[0]] * 3
    assert len(lab.provider.requests) == 1
    assert (await lab.store.load("a")).footing.lease.columns["fence"] == 1, "who only asks again takes no lease"
    with pytest.raises(DuplicateIdError):
        await StatelessAgent.run("a", "other", request_id="r", dependencies=deps)


async def test_both_of_two_at_once_get_the_result_of_one_run(lab: Any) -> None:
    gate = Gate()
    deps = lab.deps([say("there", gate=gate), say("twice")])
    async with anyio.create_task_group() as tasks:
        request = {"template_id": PLAIN, "request_id": "r", "dependencies": deps}
        both = [lab.later(tasks, lambda: StatelessAgent.run("a", "go", **request)) for _ in range(2)]
        await gate.reached()
        await lab.clock.advance(3)
        gate.release()
        first, second = [await lab.pass_until(one, 0.5) for one in both]
    assert first == second
    assert (first.text, first.run) == ("there", 1)
    assert await lab.texts() == ["user: go", "assistant: there"]


async def test_a_duplicate_of_an_older_run_gets_that_one(lab: Any) -> None:
    deps = lab.deps(echo)
    await StatelessAgent.run("a", "one", template_id=PLAIN, request_id="r1", dependencies=deps)
    await StatelessAgent.run("a", "two", request_id="r2", dependencies=deps)
    again = await StatelessAgent.run("a", "one", request_id="r1", dependencies=deps)
    assert (again.text, again.run) == ("re one", 1)


# ---- one at a time --------------------------------------------------------------------------------------------


async def test_while_another_drives_a_message_waits_or_is_queued(lab: Any) -> None:
    gate = Gate()
    deps = lab.deps([say("one", gate=gate), say("rest")])
    async with anyio.create_task_group() as tasks:
        first = lab.later(tasks, lambda: StatelessAgent.run("a", "1", template_id=PLAIN, dependencies=deps))
        await gate.reached()
        queued = await StatelessAgent.run("a", "2", on_busy="queue", dependencies=deps)
        assert (queued.status, queued.run, queued.text) == ("queued", None, "")
        patient = lab.later(tasks, lambda: StatelessAgent.run("a", "3", timeout_s=5.0, dependencies=deps))
        waited = await lab.pass_until(patient, 0.5)
        assert waited.status == "queued"
        assert 4 <= lab.clock.monotonic() <= 6
        last = lab.later(tasks, lambda: StatelessAgent.run("a", "4", request_id="r4", dependencies=deps))
        await lab.clock.advance(1)
        gate.release()
        assert (await lab.pass_until(first, 0.5)).text == "one"
        assert (await lab.pass_until(last, 0.5)).text == "rest"
    asked = [text for text in await lab.texts() if text.startswith("user")]
    assert asked == ["user: 1", "user: 2", "user: 3", "user: 4"], "the holder of the lease serves them all, in order"


async def test_who_may_not_wait_is_told_so_by_continue_as_well(lab: Any) -> None:
    gate = Gate()
    deps = lab.deps([say("one", gate=gate)])
    async with anyio.create_task_group() as tasks:
        first = lab.later(tasks, lambda: StatelessAgent.run("a", "1", template_id=PLAIN, dependencies=deps))
        await gate.reached()
        assert (await StatelessAgent.continue_("a", on_busy="queue", dependencies=deps)).status == "queued"
        gate.release()
        assert (await first.wait()).text == "one"


# ---- time -----------------------------------------------------------------------------------------------------


async def in_time(lab: Any, work: Callable[[], Awaitable[T]], step_s: float = 0.25) -> tuple[T, float]:
    """What comes of it, and after how long."""
    began = lab.clock.monotonic()
    async with anyio.create_task_group() as tasks:
        result = await lab.pass_until(lab.later(tasks, work), step_s)
    return result, lab.clock.monotonic() - began


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
                "a", "go", template_id=using(stubborn), timeout_s=0.6, margin_s=0.3, dependencies=deps
            )
            took = time.monotonic() - began
        finally:
            over.set()
        assert (result.status, result.unfinished) == ("deadline", ("1.1.1",))
        assert took < 5, "it did not wait for the thread"
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


@pytest.mark.parametrize("method", ["read_plan", "append_inbox"])
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


# ---- people ---------------------------------------------------------------------------------------------------


async def test_an_approval_across_requests(lab: Any) -> None:
    deps = lab.deps([call("risky", {}), say("end")], risky, sandboxes=NEAR)
    paused = await StatelessAgent.run("a", "go", template_id=using(risky), request_id="r", dependencies=deps)
    assert (paused.status, paused.pending) == ("paused", ("1.1.1",))
    assert (await StatelessAgent.run("a", "go", request_id="r", dependencies=deps)).pending == ("1.1.1",)
    done = await StatelessAgent.decide("a", "1.1.1", "allow", by="Ann", dependencies=deps)
    assert (done.status, done.text, done.run) == ("ok", "end", 1)
    assert (await StatelessAgent.run("a", "go", request_id="r", dependencies=deps)) == done


async def test_the_same_answer_twice_counts_once_and_another_is_refused(lab: Any) -> None:
    deps = lab.deps([call("risky", {}), say("end"), say("twice")], risky, sandboxes=NEAR)
    await StatelessAgent.run("a", "go", template_id=using(risky), dependencies=deps)
    first = await StatelessAgent.decide("a", "1.1.1", "allow", by="Ann", dependencies=deps)
    assert await StatelessAgent.decide("a", "1.1.1", "allow", by="Ann", dependencies=deps) == first
    for decision, by in (("deny", "Ann"), ("allow", "Bob")):
        with pytest.raises(UsageError) as caught:
            await StatelessAgent.decide("a", "1.1.1", decision, by=by, dependencies=deps)  # type: ignore[arg-type]
        assert caught.value.code == "not_pending"
    with pytest.raises(UsageError, match="'allow' or 'deny'"):
        await StatelessAgent.decide("a", "1.1.1", "perhaps", dependencies=deps)  # type: ignore[arg-type]
    assert len(lab.provider.requests) == 2
    assert len((await lab.store.read_calls("a")).items) == 1


# ---- events ---------------------------------------------------------------------------------------------------


async def test_a_stream_gives_the_events_of_its_run_and_the_result(lab: Any) -> None:
    deps = lab.deps([call("ping", {}), say("end")], ping, sandboxes=NEAR)
    seen = []
    async with StatelessAgent.stream("a", "go", template_id=using(ping), dependencies=deps) as events:
        seen = [envelope.type async for envelope in events]
    assert events.result is not None
    assert (events.result.status, events.result.text) == ("ok", "end")
    assert {"tool_start", "tool_end", "text_chunk", "done"} <= set(seen)
    only = []
    async with StatelessAgent.stream(
        "a", "more", kinds=["done"], dependencies=lab.deps(echo, ping, sandboxes=NEAR)
    ) as events:
        only = [envelope.type async for envelope in events]
    assert only == ["done"]


async def test_a_client_that_comes_back_misses_nothing_and_runs_nothing_twice(lab: Any) -> None:
    deps = lab.deps([call("ping", {}), say("end"), say("twice")], ping, sandboxes=NEAR)
    options = {"template_id": using(ping), "request_id": "r", "dependencies": deps}
    async with StatelessAgent.stream("a", "go", **options) as events:
        whole = [envelope.cursor async for envelope in events if not envelope.delta]
    async with StatelessAgent.stream("a", "go", since=whole[2], **options) as events:
        part = [envelope.cursor async for envelope in events if not envelope.delta]
    assert part == whole[3:]
    assert events.result is not None
    assert events.result.text == "end"
    assert len(lab.provider.requests) == 2


async def test_a_stream_left_early_cancels_the_run_and_leaves_the_agent_whole(lab: Any) -> None:
    gate = Gate()
    deps = lab.deps([say("one", gate=gate), say("one")])
    async with StatelessAgent.stream("a", "go", template_id=PLAIN, request_id="r", dependencies=deps) as events:
        async for _ in events:
            await gate.reached()
            break
    assert events.result is None
    assert await lab.store.lease_of("a") is None
    assert (await StatelessAgent.run("a", "go", request_id="r", dependencies=deps)).text == "one"
    assert await lab.texts() == ["user: go", "assistant: one"]


async def test_a_stream_fails_as_run_does(lab: Any) -> None:
    deps = lab.deps(echo)
    with pytest.raises(UsageError):
        StatelessAgent.stream("a", "go", on_busy="never", dependencies=deps)  # type: ignore[arg-type]
    with pytest.raises(NotBoundError):
        async with StatelessAgent.stream("a", "go", template_id="nobody's", dependencies=deps):
            pass
    with pytest.raises(UsageError):
        async with StatelessAgent.stream("a", " ", template_id=PLAIN, dependencies=deps) as events:
            assert [envelope async for envelope in events] == []


# ---- nothing is left ------------------------------------------------------------------------------------------


class Closing(ScriptedProvider):
    """Counts how often it was closed."""

    closed = 0

    async def close(self) -> None:
        self.closed += 1


async def test_what_is_made_is_closed_and_what_is_given_is_not(lab: Any, defaults: Any) -> None:
    made, given = Closing(echo), Closing(echo)
    defaults[0].register("made", lambda model, **_: made)
    template = AgentTemplate("t", model="made:x")
    await StatelessAgent.run("a", "hi", store=lab.store, template_id=template)
    assert made.closed == 1
    async with StatelessAgent.stream("a", "hi", store=lab.store) as events:
        assert made.closed == 1
        async for _ in events:
            pass
    assert made.closed == 2
    deps = Dependencies(lab.store)
    await StatelessAgent.run("a", "hi", dependencies=deps)
    assert made.closed == 2
    await deps.close()
    assert made.closed == 3
    await StatelessAgent.run("b", "hi", store=lab.store, template_id=PLAIN, providers={"m": given})
    assert given.closed == 0
    assert (await StatelessAgent.run("b", "hi", dependencies=lab.deps(echo))).ok, "the store is still open"


async def test_a_sandbox_ends_with_its_request(lab: Any, tmp_path: Any) -> None:
    opened: list[Any] = []

    @tool
    async def work(context: ToolContext) -> str:
        """Use the sandbox."""
        opened.append(context.need_sandbox())
        await context.clock.sleep(1_000)
        return "never"

    options = json.dumps({"root": str(tmp_path)})
    deps = lab.deps([call("work", {}), say("end")], work, sandboxes=NEAR)
    async with anyio.create_task_group() as tasks:
        template = using(work, sandbox="local", sandbox_options=options)
        later = lab.later(tasks, lambda: StatelessAgent.run("a", "go", template_id=template, dependencies=deps))
        while not opened:
            await lab.clock.advance(0.1)
            await anyio.sleep(0.01)
        await later.cancel()
    from kode.core.errors import SandboxError

    with pytest.raises(SandboxError):
        await opened[0].exec("true")
    assert lab.clock.waiting == 0, "no time-out and no sleeper is left"
    assert await lab.store.lease_of("a") is None


async def test_a_cancelled_request_leaves_the_agent_for_the_next(lab: Any) -> None:
    deps = lab.deps([call("slow", {}), say("end")], slow, sandboxes=NEAR)
    async with anyio.create_task_group() as tasks:
        request = {"template_id": using(slow), "request_id": "r", "dependencies": deps}
        later = lab.later(tasks, lambda: StatelessAgent.run("a", "go", **request))
        await lab.clock.advance(1)
        await later.cancel()
    assert lab.clock.waiting == 0
    assert (await lab.store.load("a")).lease is None
    result, _ = await in_time(lab, lambda: StatelessAgent.run("a", "go", request_id="r", dependencies=deps))
    assert (result.text, result.run) == ("end", 1)


# ---- limits of a request --------------------------------------------------------------------------------------


async def test_limits_of_a_request_bind_its_run_alone(lab: Any) -> None:
    turns = [call("ping", {}), say("end"), call("ping", {}), say("end")]
    deps = lab.deps(turns, ping, sandboxes=NEAR)
    narrow = Limits(max_steps_per_run=1)
    result = await StatelessAgent.run("a", "go", template_id=using(ping), limits=narrow, dependencies=deps)
    assert (result.status, result.stop_reason) == ("limit", "max_steps")
    assert (await StatelessAgent.run("a", "go", dependencies=lab.deps(turns, ping, sandboxes=NEAR))).status == "ok"


# ---- what it costs --------------------------------------------------------------------------------------------


class Counting(WrappedStore):
    """Counts what goes to the store and back. ``whole``: a plan is one journey, as where the engine reads in one."""

    def __init__(self, inner: Store, *, whole: bool) -> None:
        super().__init__(inner)
        self.whole = whole
        self.asked: Counter[str] = Counter()

    async def around(self, method: str, call: Callable[[], Awaitable[T]]) -> T:
        self.asked[method] += 1
        return await call()

    async def read_plan(self, agent_id: str, plan: Any) -> Any:
        if self.whole:
            return await super().read_plan(agent_id, plan)
        return await Reading.read_plan(self, agent_id, plan)


COMMITS = 2
"""Of a run of one step: what asks the model, and what it answered."""


@pytest.mark.parametrize("cold", [True, False], ids=["cold", "warm"])
async def test_a_request_costs_three_journeys_beside_its_commits(lab: Any, cold: bool) -> None:
    """Load, enqueue, and the lease; ``now`` is no journey where the store goes by this machine's clock."""
    await StatelessAgent.run("a", "one", template_id=PLAIN, dependencies=lab.deps(echo))
    store = Counting(lab.store, whole=True)
    deps = lab.deps(echo, store=store)
    if not cold:
        await StatelessAgent.run("a", "two", dependencies=deps)
    store.asked.clear()
    assert (await StatelessAgent.run("a", "three", dependencies=deps)).text == "re three"
    assert store.asked == {"now": 2, "read_plan": 1, "append_inbox": 1, "apply_and_look": 1 + COMMITS}


async def test_where_a_plan_is_read_piece_by_piece(lab: Any) -> None:
    """Header; lease and template; inbox; window: each depends on the one before."""
    await StatelessAgent.run("a", "one", template_id=PLAIN, dependencies=lab.deps(echo))
    store = Counting(lab.store, whole=False)
    assert (await StatelessAgent.run("a", "two", dependencies=lab.deps(echo, store=store))).ok
    assert store.asked == {"now": 2, "get": 2, "scan": 2, "append_inbox": 1, "apply_and_look": 1 + COMMITS}


async def test_an_item_that_comes_between_load_and_lease_is_taken(lab: Any) -> None:
    """The lease is taken on what was loaded; what came since is read with it, or behind it."""
    await StatelessAgent.run("a", "one", template_id=PLAIN, dependencies=lab.deps(echo))

    class Between(WrappedStore):
        looks = True

        async def enqueue(self, agent_id: str, item: Any, *, uid: str | None = None) -> Any:
            other = await Agent.open("a", lab.deps(echo))
            await other.send("from elsewhere")
            return await super().enqueue(agent_id, item, uid=uid)

        async def apply_and_look(self, *args: Any, **look: Any) -> Any:
            failed, waiting = await super().apply_and_look(*args, **look)
            return failed, waiting if self.looks else []

    for looks in (True, False):
        store = Between(lab.store)
        store.looks = looks
        assert (await StatelessAgent.run("a", f"mine {looks}", dependencies=lab.deps(echo, store=store))).ok
    heard = [text for text in await lab.texts() if text.startswith("user")]
    assert heard == [
        "user: one",
        *["user: from elsewhere", "user: mine True"],
        "user: from elsewhere",
        "user: mine False",
    ]


@pytest.mark.parametrize("by", ["a request", "a commit without a lease"])
async def test_a_lease_is_not_taken_on_what_is_not_so_any_more(lab: Any, by: str) -> None:
    """Somebody wrote between load and lease: the agent is loaded again."""
    await StatelessAgent.run("a", "one", template_id=PLAIN, dependencies=lab.deps(echo))

    class Overtaken(WrappedStore):
        async def acquire_on(self, footing: Any, holder: str, ttl_s: float) -> Any:
            if by == "a request":
                await StatelessAgent.run("a", "overtakes", dependencies=lab.deps(echo))
            else:
                await lab.store.append_message("a", "user", "overtakes")
            found = await super().acquire_on(footing, holder, ttl_s)
            assert found is None
            return found

    assert (await StatelessAgent.run("a", "two", dependencies=lab.deps(echo, store=Overtaken(lab.store)))).ok
    said = [text for text in await lab.texts() if text.startswith("user")]
    assert sorted(said) == ["user: one", "user: overtakes", "user: two"]


async def test_what_waits_is_known_before_anything_is_started_again(lab: Any) -> None:
    """Also where the store does not look at the inbox while it gives the lease."""
    deps = lab.deps([say("late", delay_s=1_000.0), say("never")])
    await in_time(lab, lambda: StatelessAgent.run("a", "go", template_id=PLAIN, timeout_s=5, dependencies=deps))

    class Blind(WrappedStore):
        async def acquire_on(self, footing: Any, holder: str, ttl_s: float) -> Any:
            await (await Agent.open("a", lab.deps(()))).interrupt("enough")
            return await super().acquire_on(footing, holder, ttl_s)

        async def apply_and_look(self, *args: Any, **look: Any) -> Any:
            return (await super().apply_and_look(*args, **look))[0], []

    deps = lab.deps([say("never")], store=Blind(lab.store))
    result, _ = await in_time(lab, lambda: StatelessAgent.continue_("a", dependencies=deps))
    assert (result.status, result.text) == ("interrupted", "")


async def test_of_two_that_make_an_agent_one_does(lab: Any) -> None:
    class Raced(WrappedStore):
        async def load(self, agent_id: str, **options: Any) -> Any:
            found = await super().load(agent_id, **options)
            if found is None:
                await StatelessAgent.run("a", "first", template_id=PLAIN, dependencies=lab.deps(echo))
            return found

    deps = lab.deps(echo, store=Raced(lab.store))
    result = await StatelessAgent.run("a", "second", template_id=PLAIN, dependencies=deps)
    assert (result.text, result.run) == ("re second", 2)
