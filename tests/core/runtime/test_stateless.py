"""`StatelessAgent`: one request at a time, and nothing of it left behind."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import anyio
import pytest
from tests.core.runtime.requests import NEAR, PLAIN, echo, in_time, ping, risky, slow, using

from kode.core.config import AgentConfig, Dependencies
from kode.core.errors import (
    DuplicateIdError,
    KodeError,
    NotBoundError,
    NotFoundError,
    UsageError,
)
from kode.core.kernel.limits import Limits
from kode.core.provider.catalog import ProviderCatalog
from kode.core.provider.script import Gate, call, say
from kode.core.provider.scripted import ScriptedProvider
from kode.core.runtime.stateless import StatelessAgent
from kode.core.template import AgentTemplate, TemplateRegistry
from kode.core.tools.base import ToolContext
from kode.core.tools.catalog import ToolRegistry
from kode.core.tools.define import tool

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
