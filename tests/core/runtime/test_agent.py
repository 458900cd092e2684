"""Agents: made, opened, talked to, watched, copied, deleted."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest

from kode.core.config import AgentConfig, Dependencies
from kode.core.errors import (
    AgentExistsError,
    DuplicateIdError,
    InboxFullError,
    KodeError,
    NotBoundError,
    NotFoundError,
    UsageError,
)
from kode.core.hook.base import Hooks
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import MediaBlock
from kode.core.kernel.words import Status
from kode.core.provider.base import ModelRequest
from kode.core.provider.retry import RetryPolicy
from kode.core.provider.script import Gate, call, fail, last_text, say
from kode.core.provider.scripted import ScriptedProvider
from kode.core.runtime.agent import Agent
from kode.core.runtime.pool import AgentPool
from kode.core.template import AgentTemplate
from kode.core.tools.base import ToolContext
from kode.core.tools.define import tool
from kode.core.tools.todos import Todo


@tool
async def ping(context: ToolContext) -> str:
    """Ping."""
    return "pong"


def echo(request: ModelRequest) -> str:
    """Answer the last message."""
    return f"re {last_text(request)}"


# ---- handles --------------------------------------------------------------------------------------------------


async def test_create_and_talk(lab: Any) -> None:
    agent = await lab.agent(echo)
    result = await agent.run("one")
    assert (result.status, result.text, result.run) == ("ok", "re one", 1)
    assert (await agent.chat("two")).text == "re two"
    assert (await agent.complete("three")).text == "re three"
    assert (await agent.complete()).text == "re three"
    view = await agent.status()
    assert (view.status, view.messages, view.driven, view.waiting) == (Status.READY, 6, False, 0)


async def test_an_agent_may_be_given_its_time(lab: Any) -> None:
    agent = await lab.agent(echo, expires_in_s=1.5)
    born = await lab.store.read_state("a")
    assert born.expires_at == born.created_at + 1_500_000
    assert (await lab.store.list_agents())[0].version == 1  # in the commit that made it
    await lab.agent(echo, id="b")
    assert (await lab.store.read_state("b")).expires_at is None
    await agent.run("one")
    fork = await agent.fork("c")
    assert (await lab.store.read_state(fork.agent_id)).expires_at == born.expires_at
    await lab.clock.advance(1.499)
    assert (await lab.store.expire()).erased == ()
    await lab.clock.advance(0.001)
    assert sorted((await lab.store.expire()).erased) == ["a", "c"]
    assert await lab.store.exists("b")


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
async def test_a_time_that_is_none_is_refused(lab: Any, seconds: float) -> None:
    with pytest.raises(UsageError, match="expires_in_s") as caught:
        await lab.agent(echo, expires_in_s=seconds)
    assert caught.value.code == "bad_expiry"
    assert not await lab.store.exists("a")


async def test_what_stands_in_the_wrong_place_is_named(lab: Any) -> None:
    """Each of these is a slip that somebody makes on the first day."""
    config, deps, template = AgentConfig(AgentTemplate("t", model="m")), lab.deps(), AgentTemplate("other")
    slips: list[tuple[Callable[[], Any], str]] = [
        (lambda: Agent.create(template, deps), "AgentConfig is needed here, not AgentTemplate"),
        (lambda: Agent.create({"template": "t"}, deps), "AgentConfig is needed here, not dict"),
        (lambda: Agent.create(config, lab.store), "Dependencies is needed here, not MemoryStore"),
        (lambda: Agent.create(AgentConfig({"id": "t"}), deps), "AgentConfig.template is of type dict"),
        (lambda: Agent.open("a", lab.store), "Dependencies is needed here, not MemoryStore"),
        (lambda: Agent.resume("a", None), "Dependencies is needed here, not None"),
        (lambda: Agent.resume_or_create(replace(config, agent_id="a"), lab.store), "Dependencies is needed here"),
        (lambda: AgentConfig("t", agent_id=5), "AgentConfig.agent_id is of type int"),
        (lambda: AgentConfig("t", limits={"max_steps_per_run": 3}), "AgentConfig.limits is of type dict; give Limits("),
        (lambda: AgentConfig("t", expires_in_s="9"), "AgentConfig.expires_in_s is of type str; give seconds"),
        (lambda: Dependencies(lab.store, tools=echo), "Dependencies.tools is of type function; give a list of"),
        (lambda: Dependencies(lab.store, templates="t"), "Dependencies.templates is of type str; give a list of"),
        (lambda: Dependencies(lab.store, hooks=Hooks("h")), "Dependencies.hooks is of type Hooks; give a list of"),
        (lambda: Dependencies(lab.store, providers=ScriptedProvider([])), "Dependencies.providers is of type Scripted"),
        (lambda: AgentPool(lab.store), "Dependencies is needed here"),
        (lambda: AgentPool(deps, limits=50), "limits is 50; give Limits("),
        (lambda: Agent.create(replace(config, agent_id=""), deps), "'' is no agent id"),
    ]

    async def make(slip: Callable[[], Any]) -> None:
        made = slip()  # some fail here, others when they are waited for
        await made

    for slip, told in slips:
        with pytest.raises(UsageError, match=re.escape(told)) as caught:
            await make(slip)
        assert caught.value.code in ("bad_argument", "bad_option", "bad_agent_id")
    agent = await lab.agent(echo)
    for wrong, told in (
        (lambda: agent.run("go", timeout_s="3"), "timeout_s is '3'; give seconds"),
        (lambda: agent.subscribe(kinds="done"), "kinds is the text 'done'; give a list"),
        (lambda: agent.send(MediaBlock("picture", data="QUJD")), "has MediaBlock of type 'picture'; send text"),
    ):
        with pytest.raises(UsageError, match=re.escape(told)):
            await wrong()
    await agent.delete()

    @tool
    def ping() -> str:
        """Answer."""
        return "pong"

    assert Dependencies(lab.store, tools=(ping,), templates=(template,)).tool_registry().get("ping") is ping
    assert not await lab.store.list_agents()


async def test_an_id_is_taken_once(lab: Any) -> None:
    agent = await lab.agent(echo)
    await agent.run("one")
    with pytest.raises(AgentExistsError):
        await lab.agent(echo)
    assert (await agent.run("two")).text == "re two"


async def test_open_writes_nothing(lab: Any) -> None:
    agent = await lab.agent(echo)
    before = (await agent.status()).version
    again = await Agent.open("a", lab.deps(echo))
    assert (await again.status()).version == before
    with pytest.raises(NotFoundError):
        await Agent.open("nobody", lab.deps(echo))


async def test_what_is_not_bound_leaves_the_agent_untouched(lab: Any) -> None:
    await lab.agent(echo, ping)
    before = await lab.store.load("a")
    config = AgentConfig(AgentTemplate("t", model="m", tools=("ping",)), agent_id="a")
    for attempt in (
        lambda: Agent.open("a", lab.deps(echo)),
        lambda: Agent.resume("a", lab.deps(echo)),
        lambda: Agent.resume_or_create(config, lab.deps(echo)),
    ):
        with pytest.raises(NotBoundError, match="ping"):
            await attempt()
    after = await lab.store.load("a")
    assert (after.version, after.state, after.lease) == (before.version, before.state, None)
    assert (await (await Agent.open("a", lab.deps(echo, ping))).run("hi")).text == "re hi"


async def test_resume_or_create_creates_once(lab: Any) -> None:
    config = AgentConfig(AgentTemplate("t", model="m"), agent_id="a")
    agent = await Agent.resume_or_create(config, lab.deps(echo))
    await agent.run("one")
    again = await Agent.resume_or_create(config, lab.deps(echo))
    assert again.uid == agent.uid
    assert (await again.status()).messages == 2
    assert config == AgentConfig(AgentTemplate("t", model="m"), agent_id="a")


@pytest.mark.parametrize("message", ["", "  ", [], 5, None, {"a": 1}, [3], ["text"], b"bytes"], ids=lambda m: repr(m))
async def test_bad_messages_are_refused(lab: Any, message: Any) -> None:
    agent = await lab.agent(echo)
    with pytest.raises(UsageError):
        await agent.send(message)
    assert (await agent.status()).waiting == 0


@pytest.mark.parametrize(
    "options",
    [
        {"item_id": "x" * 600},
        {"item_id": 5},
        {"metadata": "{"},
        {"metadata": "NaN"},
        {"metadata": {"a": 1}},
        {"kind": "strange"},
        {"sender": 5},
        {"priority": "high"},
        {"not_before": "soon"},
        {"context": "]"},
    ],
    ids=str,
)
async def test_bad_options_are_refused(lab: Any, options: dict[str, Any]) -> None:
    agent = await lab.agent(echo)
    with pytest.raises(KodeError):
        await agent.send("hi", **options)
    assert (await agent.status()).waiting == 0
    assert (await agent.run("hi")).text == "re hi"


# ---- the inbox ------------------------------------------------------------------------------------------------


async def test_an_item_id_is_taken_once(lab: Any) -> None:
    agent = await lab.agent(echo)
    assert not (await agent.send("one", item_id="i")).duplicate
    assert (await agent.send("one", item_id="i")).duplicate
    with pytest.raises(DuplicateIdError):
        await agent.send("other", item_id="i")
    assert (await agent.run("one", item_id="i")).text == "re one"
    assert (await agent.run("one", item_id="i")).text == "re one"
    assert await lab.texts() == ["user: one", "assistant: re one"]
    with pytest.raises(DuplicateIdError):
        await agent.run("other", item_id="i")


async def test_a_queue_of_twenty(lab: Any) -> None:
    """All are taken, in their order, each once (predecessor: A2)."""
    agent = await lab.agent(lambda request: say("ok"))
    for n in range(20):
        await agent.send(f"m{n}")
    await agent.complete()
    texts = [t for t in await lab.texts() if t.startswith("user")]
    assert texts == [f"user: m{n}" for n in range(20)]


async def test_the_inbox_is_bounded(lab: Any) -> None:
    agent = await lab.agent(echo, limits=Limits(max_inbox=2))
    await agent.send("1")
    await agent.send("2")
    with pytest.raises(InboxFullError):
        await agent.send("3")
    await agent.interrupt()
    await agent.complete()
    assert (await agent.run("4")).text == "re 4"


async def test_priority_and_not_before(lab: Any) -> None:
    agent = await lab.agent(echo)
    await agent.send("late", not_before=lab.clock.now() + 10_000_000)
    await agent.send("low")
    await agent.send("high", priority=5)
    await agent.complete()
    assert [t for t in await lab.texts() if t.startswith("user")] == ["user: high", "user: low"]
    assert await lab.store.due(lab.clock.now(), 10) == []
    await lab.clock.advance(10)
    assert [d.agent_id for d in await lab.store.due(lab.clock.now(), 10)] == ["a"]
    assert (await agent.complete()).text == "re late"


async def test_a_clock_that_is_set_back_loses_nothing(lab: Any) -> None:
    gate = Gate()
    agent = await lab.agent([say("first", gate=gate), say("second")])
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("one"))
        await gate.reached()
        await agent.send("two", not_before=lab.clock.now())
        await lab.clock.advance(0.1)  # offered, and postponed
        lab.clock.jump(-60)
        gate.release()
        assert (await run.wait()).text == "first"
    lab.clock.jump(60)
    assert (await agent.complete()).text == "second"
    assert "user: two" in await lab.texts()


async def test_a_reminder_starts_nothing(lab: Any) -> None:
    agent = await lab.agent(lambda request: say(f"{len(request.messages)}"))
    await agent.send("remember", kind="reminder")
    assert (await agent.complete()).status == "queued"
    assert (await agent.run("go")).text == "2"


# ---- errors of the model --------------------------------------------------------------------------------------


async def test_a_failed_run_never_shows_the_older_answer(lab: Any) -> None:
    agent = await lab.agent([say("old"), fail("bad_request"), say("new")])
    assert (await agent.run("1")).text == "old"
    result = await agent.run("2")
    assert (result.status, result.text) == ("error", "")
    assert result.error is not None
    assert result.error.code == "bad_request"
    assert (await agent.complete()).status == "error"
    assert (await agent.run("3")).text == "new"


async def test_a_retry_is_a_new_attempt(lab: Any) -> None:
    agent = await lab.agent([fail("overloaded"), fail("overloaded"), say("there")])
    attempts: list[str] = []
    agent.on("attempt_started", lambda envelope: attempts.append(envelope.attempt))
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("hi"))
        result = await lab.pass_until(run, 0.5)
    assert result.text == "there"
    assert attempts == ["1.1", "1.2", "1.3"]
    assert (await lab.kinds()).count("error") == 2
    assert (await lab.store.read_messages("a")).items[-1].attempt == "1.3"


async def test_retries_end(lab: Any) -> None:
    deps = lab.deps([fail("overloaded")] * 3, retry=RetryPolicy(max_tries=3))
    agent = await lab.agent((), deps=deps)
    async with anyio.create_task_group() as tasks:
        result = await lab.pass_until(lab.later(tasks, lambda: agent.run("hi")), 0.5)
    assert (result.status, result.error.code) == ("error", "overloaded")


async def test_a_model_that_does_not_answer(lab: Any) -> None:
    deps = lab.deps([say("late", delay_s=100)], retry=RetryPolicy(max_tries=1))
    agent = await lab.agent((), deps=deps, limits=Limits(model_timeout_s=5))
    async with anyio.create_task_group() as tasks:
        result = await lab.pass_until(lab.later(tasks, lambda: agent.run("hi")))
    assert (result.status, result.error.code) == ("error", "timeout")
    assert lab.clock.monotonic() < 8


# ---- snapshots, forks, deletion -------------------------------------------------------------------------------


async def test_a_handle_acts_on_its_own_agent_only(lab: Any) -> None:
    """Somebody deleted the agent and made another one under its id."""
    old = await lab.agent(["one", "two"])
    await old.run("go")
    await (await Agent.open("a", lab.deps())).delete()
    new = await lab.agent(["three"])
    await new.run("secret")
    before = await lab.store.load("a")
    members: dict[str, Callable[[], Any]] = {
        "send": lambda: old.send("x"), "run": lambda: old.run("x"), "complete": old.complete,
        "remind": lambda: old.remind("x"), "todos": old.todos, "set_todos": lambda: old.set_todos([Todo("t")]),
        "drive": old.drive, "interrupt": old.interrupt, "compact": old.compact, "compactions": old.compactions,
        "set_limits": lambda: old.set_limits(max_inbox=9), "decide": lambda: old.decide("1.1.1", "allow"),
        "revert": lambda: old.revert("s"), "snapshot": lambda: old.snapshot("s"), "fork": lambda: old.fork("b"),
        "batch_fork": lambda: old.batch_fork(2), "status": old.status, "subscribe": lambda: old.subscribe(since=0),
        "go_on": lambda: old.go_on(run=1), "timers": old.schedule.list, "delete": old.delete,
    }  # fmt: skip
    for name, member in members.items():
        old.gone = False
        try:
            await member()
        except NotFoundError:
            assert old.gone or name == "timers", f"{name} does not note that the agent is gone"
        else:
            pytest.fail(f"{name} acted on another agent")
    assert await lab.store.load("a") == before
    assert [info.agent_id for info in await lab.store.list_agents()] == ["a"]


async def test_a_reminder_goes_through_the_same_door(lab: Any) -> None:
    agent = await lab.agent(["one"])
    for kind in (agent.remind, agent.send):
        with pytest.raises(UsageError, match="base64"):
            await kind([MediaBlock("image", "image/png", data="?")])


async def test_many_forks_at_once(lab: Any) -> None:
    agent = await lab.agent(["1", "2", "3"])
    await agent.run("one")
    forks = await agent.batch_fork(3)
    assert len({fork.uid for fork in (agent, *forks)}) == 4
    assert (await forks[2].run("two")).text == "2"
    for fork in forks[:2]:
        assert await lab.texts(fork.agent_id) == await lab.texts(agent.agent_id)
    assert await agent.batch_fork(0) == []
    with pytest.raises(UsageError):
        await agent.batch_fork(True)


async def test_snapshot_and_fork(lab: Any) -> None:
    agent = await lab.agent(lambda request: say(str(len(request.messages))))
    await agent.run("one")
    name = await agent.snapshot(tags=["x"])
    await agent.run("two")
    fork = await agent.fork("b", at=name)
    assert fork.uid != agent.uid
    assert await lab.texts("b") == ["user: one", "assistant: 1"]
    assert (await fork.run("three")).text == "3"
    assert (await agent.run("four")).text == "5"
    with pytest.raises(AgentExistsError):
        await agent.fork("b")
    with pytest.raises(NotFoundError):
        await agent.fork("c", at="no such")
    assert not await lab.store.exists("c")


async def test_a_snapshot_leaves_nobody_due(lab: Any) -> None:
    agent = await lab.agent(echo)
    await agent.snapshot()
    assert await lab.store.due(lab.clock.now() + 10**9, 10) == []
    assert not (await agent.status()).driven


async def test_an_agent_that_is_due_for_nothing_is_due_no_more(lab: Any) -> None:
    """Its last driver died between a commit that kept the lease and the next one."""
    agent = await lab.agent(echo)
    loaded = await lab.store.load("a")
    lease = await lab.store.acquire("a", "someone", 30)
    from kode.core.store.contract import Commit

    await lab.store.commit(Commit(loaded.state, "c", loaded.version, lease.fence, lab.clock.now()))
    await lab.clock.advance(31)
    assert len(await lab.store.due(lab.clock.now(), 10)) == 1
    await agent.complete()
    assert await lab.store.due(lab.clock.now(), 10) == []


async def test_no_snapshot_in_mid_step(lab: Any) -> None:
    asked = tool(needs_approval=True)(_nothing)
    agent = await lab.agent([call("_nothing", {}), say("done")], asked)
    assert (await agent.run("go")).status == "paused"
    with pytest.raises(UsageError) as caught:
        await agent.snapshot()
    assert caught.value.code == "not_safe"
    with pytest.raises(UsageError):
        await agent.fork("b")
    assert not (await agent.status()).driven


async def _nothing(context: ToolContext) -> str:
    """Do nothing."""
    return "nothing"


async def test_delete(lab: Any) -> None:
    agent = await lab.agent(echo)
    await agent.run("one")
    other = await Agent.open("a", lab.deps(echo))
    await agent.delete()
    assert not await lab.store.exists("a")
    for use in (lambda: other.run("x"), lambda: other.send("x"), other.status, other.interrupt, other.delete):
        with pytest.raises(NotFoundError):
            await use()
    again = await lab.agent(echo)
    assert again.uid != agent.uid
    assert await lab.texts() == []


async def test_a_message_whose_run_rests_at_a_deadline_goes_on_when_it_is_sent_again(lab: Any) -> None:
    """A pause of the request's own making is no result: the same request again takes the run to its end."""
    agent = await lab.agent([say("there", delay_s=60.0)])
    async with anyio.create_task_group() as tasks:
        first = await lab.pass_until(lab.later(tasks, lambda: agent.run("go", item_id="m", timeout_s=5.0)), 0.5)
    assert first.status == "deadline"
    again = await Agent.open("a", lab.deps([say("there"), say("there")]))
    async with anyio.create_task_group() as tasks:
        result = await lab.pass_until(lab.later(tasks, lambda: again.run("go", item_id="m")), 0.5)
    assert (result.status, result.text, result.run) == ("ok", "there", first.run)
