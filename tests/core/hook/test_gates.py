"""Gates: who is asked, whose word counts, and what becomes of one that fails."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import anyio
import pytest

from kode.core import jsontext
from kode.core.errors import KodeError, UsageError
from kode.core.hook import Allow, Answer, Ask, Deny, Hooks, Replace, ToolUse
from kode.core.hook.asking import Asker, HookFailed
from kode.core.hook.reading import read_decision
from kode.core.kernel.limits import Limits
from kode.core.kernel.permission import PermissionPolicy, Rule
from kode.core.kernel.toolcall import CallStatus
from kode.core.provider.script import call, calls, say
from kode.core.provider.scripted import ScriptedProvider
from kode.core.runtime.agent import Agent
from kode.core.template import AgentTemplate
from kode.core.testing.crash import crash_at, until_crash
from kode.core.tools import threads
from kode.core.tools.base import Tool, ToolContext, ToolOutcome
from kode.core.tools.define import tool


def gate(name: str, *words: Any, seen: list[str] | None = None) -> Hooks:
    """Hooks that say one word after the other, the last one for ever; an exception is raised."""
    left = list(words)

    async def say_it(use: ToolUse) -> Any:
        if seen is not None:
            seen.append(f"{name} {use.input}")
        word = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(word, BaseException):
            raise word
        return word

    return Hooks(name, pre_tool_use=say_it)


def echo(ran: list[Any], **flags: Any) -> Tool:
    """A tool that notes what it was run with."""

    async def echo(context: ToolContext, n: int) -> str:
        ran.append(n)
        return f"ran {n}"

    return tool(description="Echo.", **flags)(echo)


DENY, ASK, REPLACE, ALLOW, ANSWER = Deny("no"), Ask("why not?"), Replace({"n": 2}), Allow(), Answer("made up")


def told(n: int) -> str:
    """What the model reads of a call whose arguments a hook changed."""
    return f'ran {n}It was run with other arguments than you gave: {{"n":{n}}}.'


TABLE = [
    # what the gates say, in their order -> status, what the model is shown, what the tool was run with
    ((None,), CallStatus.COMPLETED, "ran 1", [1]),
    ((ALLOW, None), CallStatus.COMPLETED, "ran 1", [1]),
    ((REPLACE,), CallStatus.COMPLETED, told(2), [2]),
    ((REPLACE, ALLOW), CallStatus.COMPLETED, told(2), [2]),
    ((REPLACE, Replace(jsontext.dump({"n": 3}))), CallStatus.COMPLETED, told(3), [3]),
    ((ANSWER,), CallStatus.COMPLETED, "made up", []),
    ((REPLACE, ANSWER), CallStatus.COMPLETED, "made up", []),
    ((ANSWER, REPLACE), CallStatus.COMPLETED, "made up", []),
    ((ANSWER, Answer("later")), CallStatus.COMPLETED, "made up", []),
    ((Answer({"n": [1]}),), CallStatus.COMPLETED, '{"n":[1]}', []),
    ((ALLOW, ASK), CallStatus.APPROVAL_REQUIRED, None, []),
    ((ASK, ALLOW), CallStatus.APPROVAL_REQUIRED, None, []),
    ((ASK, ANSWER), CallStatus.APPROVAL_REQUIRED, None, []),
    ((REPLACE, ASK), CallStatus.APPROVAL_REQUIRED, None, []),
    ((DENY, ALLOW), CallStatus.DENIED, "no", []),
    ((ASK, DENY), CallStatus.DENIED, "no", []),
    ((ANSWER, DENY), CallStatus.DENIED, "no", []),
    ((REPLACE, DENY), CallStatus.DENIED, "no", []),
    ((Deny("first"), DENY), CallStatus.DENIED, "first", []),
    ((Deny("no", {"hint": "x"}),), CallStatus.DENIED, '{"hint":"x"}', []),
    ((ValueError("a secret"), ALLOW), CallStatus.DENIED, "The hook 'g0' failed (ValueError) at pre_tool_use, so the"
     " call is denied.", []),
    (("yes",), CallStatus.DENIED, "The hook 'g0' failed (UsageError) at pre_tool_use, so the call is denied.", []),
    ((Replace([1]),), CallStatus.DENIED, "The hook 'g0' failed (TypeError) at pre_tool_use, so the call is denied.",
     []),
    ((Deny(""),), CallStatus.DENIED, "The hook 'g0' failed (UsageError) at pre_tool_use, so the call is denied.", []),
]  # fmt: skip


@pytest.mark.parametrize(("words", "status", "shown", "ran"), TABLE, ids=lambda value: str(value)[:60])
async def test_what_gates_say_together(
    lab: Any, born: Any, words: Any, status: CallStatus, shown: str, ran: list[int]
) -> None:
    """Deny, ask, answer, replace, allow: the strictest word counts, and every gate was asked."""
    made: list[int] = []
    seen: list[str] = []
    gates = [gate(f"g{n}", word, seen=seen) for n, word in enumerate(words)]
    agent = await born([call("echo", {"n": 1}), say("end")], *gates, tools=(echo(made),))
    result = await agent.run("go")
    (made_call,) = (await lab.store.read_calls("a")).items
    assert made_call.status is status
    assert made == ran
    assert [line.split()[0] for line in seen] == [one.name for one in gates]
    if shown is None:
        changed = """ Hook 'g0' changed the arguments to {"n":2}.""" if REPLACE in words else ""
        assert (result.status, made_call.approval.reason) == ("paused", f"why not?{changed}")
    else:
        assert (await lab.texts())[2] == f"user: [{shown}]"
        assert result.text == "end"


async def test_gates_are_asked_in_the_order_named(lab: Any, born: Any) -> None:
    """The agent's, then the tool's own; each sees what those before it made of the arguments."""
    seen: list[str] = []
    own = gate("own", Replace({"n": 9}), seen=seen)
    ran: list[int] = []
    agent = await born(
        [call("echo", {"n": 1}), say("end")], gate("b", REPLACE, seen=seen), gate("a", None, seen=seen),
        tools=(echo(ran, hooks=own),),
    )  # fmt: skip
    await agent.run("go")
    assert (seen, ran) == (['b {"n":1}', 'a {"n":2}', 'own {"n":2}'], [9])
    (made,) = (await lab.store.read_calls("a")).items
    assert made.changed_input == '{"n":9}'
    assert '"n":1' in str((await lab.store.read_messages("a")).items[1].blocks)  # what the model asked for stays


async def test_a_tools_own_hooks_see_its_own_calls_only(lab: Any, born: Any) -> None:
    """A tool of a third party cannot veto, rewrite or fake what the others do."""
    seen: list[str] = []
    changed: list[str] = []

    def fake(use: ToolUse, outcome: ToolOutcome) -> ToolOutcome:
        changed.append(use.name)
        return ToolOutcome.of("faked")

    own = replace(gate("own", DENY, seen=seen), post_tool_use=fake)
    ran: list[int] = []
    stranger = replace(echo(ran, hooks=own), name="stranger")
    agent = await born([calls(("echo", {"n": 1}), ("stranger", {"n": 2})), say("end")], tools=(echo(ran), stranger))
    await agent.run("go")
    assert (await lab.texts())[2] == "user: [ran 1] [no]"
    assert (seen, changed, ran) == (['own {"n":2}'], [], [1])


@pytest.mark.parametrize("word", [ALLOW, REPLACE, ANSWER])
async def test_no_hook_lifts_a_denial(lab: Any, born: Any, word: Any) -> None:
    """What the rules deny is denied, and no hook is asked about it."""
    seen: list[str] = []
    ran: list[int] = []
    policy = PermissionPolicy(deny=(Rule("echo"),))
    agent = await born(
        [call("echo", {"n": 1}), say("end")], gate("g", word, seen=seen), tools=(echo(ran),), policy=policy
    )
    await agent.run("go")
    assert (await lab.texts())[2] == "user: [The policy denies echo.]"
    assert (seen, ran) == ([], [])


@pytest.mark.parametrize(
    ("word", "shown", "runs"), [(ALLOW, "ran 1", [1]), (ANSWER, "made up", []), (REPLACE, told(2), [2])]
)
@pytest.mark.parametrize("how", ["policy", "tool"])
async def test_no_hook_lifts_a_question(lab: Any, born: Any, word: Any, shown: str, runs: list[int], how: str) -> None:
    """A required approval is required, whatever a hook answers or makes of the arguments."""
    ran: list[int] = []
    policy = PermissionPolicy(ask=(Rule("echo", (("n", "1"),)),) if how == "policy" else ())
    agent = await born(
        [call("echo", {"n": 1}), say("end")], gate("g", word),
        tools=(echo(ran, needs_approval=how == "tool"),), policy=policy,
    )  # fmt: skip
    paused = await agent.run("go")
    assert (paused.status, ran) == ("paused", [])
    await agent.decide(paused.pending[0], "allow")
    assert (await agent.complete()).text == "end"
    assert ((await lab.texts())[2], ran) == (f"user: [{shown}]", runs)


@pytest.mark.parametrize(
    ("policy", "shown"),
    [
        (PermissionPolicy(deny=(Rule("echo", (("n", "2"),)),)), "Hook 'g' changed the arguments. The policy denies"),
        (PermissionPolicy(ask=(Rule("echo", (("n", "2"),)),)), None),
        (PermissionPolicy(), "ran 2"),
    ],
    ids=["deny binds", "ask asks", "allowed"],
)
async def test_new_arguments_are_judged_anew(lab: Any, born: Any, policy: PermissionPolicy, shown: str | None) -> None:
    ran: list[int] = []
    script = [call("echo", {"n": 1}), say("end")]
    agent = await born(script, gate("g", REPLACE), tools=(echo(ran),), policy=policy)
    result = await agent.run("go")
    if shown is None:
        assert (result.status, ran) == ("paused", [])
    else:
        assert (await lab.texts())[2].startswith(f"user: [{shown}")


async def test_new_arguments_are_checked_against_the_schema(lab: Any, born: Any) -> None:
    ran: list[int] = []
    agent = await born([call("echo", {"n": 1}), say("end")], gate("g", Replace({"n": "x"}), ALLOW), tools=(echo(ran),))
    await agent.run("go")
    (made,) = (await lab.store.read_calls("a")).items
    assert (made.status, made.plan.verdict, ran) == (CallStatus.FAILED, "invalid", [])
    assert "Hook 'g' changed the arguments. The arguments of echo are not valid" in (await lab.texts())[2]


async def test_a_bad_call_asks_no_gate(born: Any) -> None:
    seen: list[str] = []
    script = [calls(("echo", {"n": "x"}), ("nobody", {})), say("end")]
    agent = await born(script, gate("g", None, seen=seen), tools=(echo([]),))
    await agent.run("go")
    assert seen == []


async def test_what_a_hook_answers_is_bounded(lab: Any, born: Any) -> None:
    """As any result, and so is its reason."""
    limits = Limits(max_tool_result_bytes=1_000)
    script = [calls(("echo", {"n": 1}), ("echo", {"n": 2})), say("end")]
    words = {1: Answer("x" * 10_000), 2: Deny("y" * 10_000)}
    hooks = Hooks("g", pre_tool_use=lambda use: words[use.arguments["n"]])
    await (await born(script, hooks, tools=(echo([]),), limits=limits)).run("go")
    answered, denied = (await lab.texts())[2].split("] [")
    assert "9000 bytes cut" in answered
    assert denied == "y" * 2_000 + "]"


# ---- approvals ---------------------------------------------------------------------------------------------


async def test_gates_see_what_an_approver_changed(lab: Any, born: Any) -> None:
    """The rules judge a changed input at once, the gates when its turn comes; a denial binds."""
    ran: list[int] = []
    seen: list[str] = []
    agent = await born(
        [call("echo", {"n": 1}), say("end")], gate("g", None, DENY, seen=seen),
        tools=(echo(ran, needs_approval=True),),
    )  # fmt: skip
    paused = await agent.run("go")
    await agent.decide(paused.pending[0], "allow", input=jsontext.dump({"n": 7}))
    assert (await agent.complete()).text == "end"
    assert (seen, ran) == (['g {"n":1}', 'g {"n":7}'], [])
    assert (await lab.texts())[2] == 'user: [noApproved by someone, with other arguments than you gave: {"n":7}.]'


async def test_each_gate_judges_what_will_run(born: Any) -> None:
    """A replacement that is not made hides nothing from the gates behind it."""
    ran: list[int] = []
    seen: list[str] = []
    agent = await born(
        [call("echo", {"n": 1}), say("end")], gate("jail", REPLACE, seen=seen), gate("guard", None, seen=seen),
        tools=(echo(ran, needs_approval=True),),
    )  # fmt: skip
    paused = await agent.run("go")
    await agent.decide(paused.pending[0], "allow", input=jsontext.dump({"n": 7}))
    await agent.complete()
    assert (seen, ran) == (['jail {"n":1}', 'guard {"n":2}', 'jail {"n":7}', 'guard {"n":7}'], [7])


async def test_denied_when_its_turn_comes(lab: Any, born: Any) -> None:
    """It is denied like any other: it did not fail, nobody is shown a result, and the tool's time is not the gate's."""
    after: list[str] = []
    ran: list[int] = []

    async def slow(use: ToolUse) -> None:
        await lab.clock.sleep(3 if use.call_id else 0)

    async def note(use: ToolUse, outcome: ToolOutcome) -> None:
        after.append(use.name)

    shown = Hooks("shown", pre_tool_use=slow, post_tool_use=note)
    agent = await born(
        [calls(("echo", {"n": 1}), ("echo", {"n": 2})), say("end")], shown, gate("g", None, None, DENY, None),
        tools=(echo(ran, needs_approval=True, timeout_s=1.0),),
    )  # fmt: skip
    paused = await agent.run("go")
    for one in paused.pending:
        await agent.decide(one, "allow")
    async with anyio.create_task_group() as tasks:
        await lab.pass_until(lab.later(tasks, agent.complete), 0.5)
    assert [one.status for one in (await lab.store.read_calls("a")).items] == [CallStatus.DENIED, CallStatus.COMPLETED]
    assert (after, ran) == (["echo"], [2])
    assert "tool_error" not in await lab.kinds()


async def test_an_approver_sees_what_will_run(lab: Any, born: Any) -> None:
    agent = await born([call("echo", {"n": 1}), say("end")], gate("g", REPLACE), tools=(echo([], needs_approval=True),))
    paused = await agent.run("go")
    told_of = {event.type: event.preview for event in await lab.events()}
    assert told_of["tool_start"] == '{"n":2}'
    assert """Hook 'g' changed the arguments to {"n":2}.""" in told_of["permission_required"]
    await agent.decide(paused.pending[0], "allow")
    await agent.complete()
    assert (await lab.texts())[2] == f"user: [{told(2)}]"


@pytest.mark.parametrize("word", [ASK, REPLACE, ALLOW])
async def test_what_was_approved_is_what_runs(born: Any, word: Any) -> None:
    ran: list[int] = []
    agent = await born([call("echo", {"n": 1}), say("end")], gate("g", ASK, word), tools=(echo(ran),))
    paused = await agent.run("go")
    await agent.decide(paused.pending[0], "allow")
    assert (await agent.complete()).text == "end"
    assert ran == [1]


async def test_both_reasons_reach_the_approver(lab: Any, born: Any) -> None:
    agent = await born(
        [call("echo", {"n": 1})], gate("g", ASK), gate("h", Ask("Really?")), tools=(echo([], needs_approval=True),)
    )
    await agent.run("go")
    (made,) = (await lab.store.read_calls("a")).items
    assert made.approval.reason == "echo always asks. why not? Really?"


# ---- failures, time, crashes -------------------------------------------------------------------------------


async def test_a_failure_is_an_event_without_its_words(lab: Any, born: Any) -> None:
    agent = await born([call("echo", {"n": 1}), say("end")], gate("g", ValueError("password 123")), tools=(echo([]),))
    assert (await agent.run("go")).text == "end"
    (failed,) = [event for event in await lab.events() if event.type == "hook_failed"]
    assert dict(failed.data) == {"hooks": "g", "stage": "pre_tool_use", "error": "ValueError"}
    stored = str(await lab.events()) + str((await lab.store.read_messages("a")).items)
    assert "password" not in stored


@pytest.mark.parametrize("plain", [False, True])
async def test_a_gate_that_takes_too_long_denies(lab: Any, born: Any, plain: bool) -> None:
    release = threading.Event()

    async def slow(use: ToolUse) -> None:
        await lab.clock.sleep(10**6)

    def stuck(use: ToolUse) -> None:
        release.wait(10)

    ran: list[int] = []
    hooks = Hooks("slow", pre_tool_use=stuck if plain else slow, timeout_s=7)
    agent = await born([call("echo", {"n": 1}), say("end")], hooks, tools=(echo(ran),))
    began = lab.clock.monotonic()
    async with anyio.create_task_group() as tasks:
        work = lab.later(tasks, lambda: agent.run("go"))
        if plain:
            await anyio.sleep(0.05)  # a thread is not seen by the virtual clock
        assert (await lab.pass_until(work, 1.0)).text == "end"
    release.set()
    assert 7 <= lab.clock.monotonic() - began < 10
    assert (await lab.texts())[
        2
    ] == "user: [The hook 'slow' did not end in time at pre_tool_use, so the call is denied.]"
    assert ran == []


async def test_gates_of_one_reply_are_asked_side_by_side(lab: Any, born: Any) -> None:
    """And who did not end in time for one call is not waited for again."""
    asked: list[str] = []

    async def first(use: ToolUse) -> None:
        await lab.clock.sleep(use.arguments["n"])

    async def hangs(use: ToolUse) -> None:
        asked.append(use.input)
        await lab.clock.sleep(10**6)

    sets = (Hooks("first", pre_tool_use=first), Hooks("hangs", pre_tool_use=hangs, timeout_s=3))
    agent = await born([calls(*(("echo", {"n": n}) for n in (1, 2, 5))), say("end")], *sets, tools=(echo([]),))
    began = lab.clock.monotonic()
    async with anyio.create_task_group() as tasks:
        await lab.pass_until(lab.later(tasks, lambda: agent.run("go")), 0.5)
    assert lab.clock.monotonic() - began < 6
    assert asked == ['{"n":1}', '{"n":2}']
    assert [one.status for one in (await lab.store.read_calls("a")).items] == [CallStatus.DENIED] * 3
    assert "did not end in time for another call" in (await lab.texts())[2]


async def test_plain_gates_have_threads_of_their_own(lab: Any, born: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What hangs in one stays counted; the next one waits for a thread, and its time begins then."""
    monkeypatch.setattr(threads, "THREADS", 1)
    release = threading.Event()
    ran: list[int] = []

    def blocks(n: int) -> str:
        release.wait(20)
        return "blocked"

    def look(use: ToolUse) -> None:
        if use.arguments["n"] == 3:
            release.wait(20)

    busy = tool(description="Block.", readonly=True)(blocks)
    quick = echo(ran, readonly=True)
    script = [calls(("blocks", {"n": 1}), ("echo", {"n": 2})), call("echo", {"n": 3}), say("end")]
    agent = await born(script, Hooks("g", pre_tool_use=look, timeout_s=2), tools=(busy, quick))
    async with anyio.create_task_group() as tasks:
        work = lab.later(tasks, lambda: agent.run("go"))
        with anyio.fail_after(10):
            while not ran:  # noqa: ASYNC110 - a tool tells nobody
                await anyio.sleep(0.01)
        assert ran == [2]  # while all threads of tools were taken
        release.set()
        assert (await work.wait()).text == "end"
    before = threading.active_count()
    release.clear()
    asker = Asker(lab.clock, lambda event: None)
    use = ToolUse("a", "u", quick, jsontext.dump({"n": 3}))
    hooks = Hooks("g", pre_tool_use=look, timeout_s=2)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            failed = lab.later(tasks, lambda: asker.ask(hooks, "pre_tool_use", read_decision, use))
            await anyio.sleep(0.05)
            await lab.clock.advance(2.1)
            with pytest.raises(HookFailed):
                await failed.wait()
    assert threading.active_count() <= before + 1
    release.set()
    assert await asker.ask(hooks, "pre_tool_use", read_decision, replace(use, input=jsontext.dump({"n": 4}))) == ALLOW


class Odd(BaseException):
    """What nobody expects."""


@pytest.mark.parametrize(
    "stage", ["pre_tool_use", "post_tool_use", "pre_model", "post_model", "around_model", "around_tool"]
)
@pytest.mark.parametrize("how", ["cancelled", "odd"])
async def test_what_a_stranger_raises_is_his_failure(
    lab: Any, born: Any, stage: str, how: str, anyio_backend_name: str
) -> None:
    """Whatever it is: also what looks like a cancellation of ours."""
    if how == "cancelled" and anyio_backend_name == "trio":
        pytest.skip("nobody can raise it there")

    async def bad(*given: Any) -> None:
        if how == "odd":
            raise Odd
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    agent = await born([call("echo", {"n": 1}), say("end")], Hooks("h", **{stage: bad}), tools=(echo([]),))
    assert (await agent.run("go")).text == "end"
    assert "hook_failed" in await lab.kinds()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_tool_whose_own_work_was_cancelled_has_failed(lab: Any, born: Any) -> None:
    async def fetch() -> str:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        return str(await future)

    agent = await born([call("fetch", {}), say("end")], tools=(tool(description="Fetch.", recovery="retry")(fetch),))
    assert (await agent.run("go")).text == "end"
    assert "CancelledError" in (await lab.texts())[2]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_drive_that_a_stranger_cut_short_says_so(born: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no success."""

    async def gone(worker: Any, effect: Any) -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    agent = await born([say("end")])
    monkeypatch.setattr("kode.core.runtime.hands.perform", gone)
    with pytest.raises(KodeError, match="cancelled"):
        await agent.run("go")


async def test_an_interrupt_ends_a_gate(lab: Any, born: Any) -> None:
    """Cancellation passes through: nobody waits for a hook's time-out."""
    ended: list[str] = []

    async def slow(use: ToolUse) -> None:
        try:
            await lab.clock.sleep(10**6)
        finally:
            ended.append("gate")

    agent = await born([call("echo", {"n": 1})], Hooks("slow", pre_tool_use=slow), tools=(echo([]),))
    async with anyio.create_task_group() as tasks:
        work = lab.later(tasks, lambda: agent.run("go"))
        await lab.clock.advance(1)
        await agent.interrupt()
        await lab.clock.advance(0.1)
        assert (await work.wait()).status == "interrupted"
    assert ended == ["gate"]
    assert await lab.texts() == ["user: go"]


@pytest.mark.parametrize("point", ["gate", "before commit", "after commit", "before echo"])
async def test_gates_are_asked_again_after_a_crash(lab: Any, point: str) -> None:
    """Between the plan and its commit the reply is lost, so that its calls are planned again. Later they are not."""
    seen: list[str] = []
    ran: list[int] = []
    plan = crash_at(point, 2 if "commit" in point else 1)

    async def look(use: ToolUse) -> Replace:
        plan.point("gate") if not plan.crashed else None
        seen.append(use.input)
        return Replace({"n": 2})

    hooks = Hooks("g", pre_tool_use=look)
    work = echo(ran)
    deps = lab.deps((), plan.tool(work), hooks=[hooks], store=plan.store(lab.store))
    again = lab.deps((), work, hooks=[hooks])
    script = [call("echo", {"n": 1}), say("end")]
    deps.providers = {"m": plan.provider(ScriptedProvider(script, clock=lab.clock, by="replies"))}
    again.providers = {"m": ScriptedProvider(script, clock=lab.clock, by="replies")}
    template = AgentTemplate("t", model="m", tools=("echo",), hooks=("g",))
    await Agent.create(template=template, agent_id="a", dependencies=again)
    agent = await Agent.open("a", deps)
    await until_crash(plan, lambda: agent.run("go"))
    assert plan.crashed
    await lab.clock.advance(60)
    async with await Agent.resume("a", again) as survivor, anyio.create_task_group() as tasks:
        assert (await lab.pass_until(lab.later(tasks, survivor.complete))).text == "end"
    asked_twice = point == "before commit"
    assert len(seen) == (2 if asked_twice else 1)
    (made,) = (await lab.store.read_calls("a")).items
    assert made.changed_input == '{"n":2}'
    assert ran in ([2], [])  # a call that may have run is sealed


def test_hooks_are_checked_when_they_are_made() -> None:
    for wrong in (
        {"name": ""},
        {"name": "x", "timeout_s": 0},
        {"name": "x", "timeout_s": "1"},
        {"name": "x", "pre_tool_use": 5},
    ):
        with pytest.raises(UsageError):
            Hooks(**wrong)
    with pytest.raises(UsageError, match="pre_model"):
        echo([], hooks=Hooks("x", pre_model=lambda request: None))
