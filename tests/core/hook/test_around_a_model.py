"""Hooks about the model: what it is asked, what it says, and what wraps the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import anyio
import pytest

from kode.core.hook import Hooks, NextModel
from kode.core.kernel.message import Json, TextBlock, ToolResultBlock, ToolUseBlock, Usage
from kode.core.kernel.words import StopReason
from kode.core.provider.assemble import Reply
from kode.core.provider.base import ModelRequest
from kode.core.provider.failure import provider_error
from kode.core.provider.script import call, delay, fail, say
from kode.core.tools.base import ToolContext
from kode.core.tools.define import tool


async def failures(lab: Any) -> list[tuple[Any, ...]]:
    """Failures of hooks, as stored."""
    failed = [event.data for event in await lab.events() if event.type == "hook_failed"]
    return [(data["hooks"], data["stage"], data["error"]) for data in failed]


def text_reply(text: str, usage: Usage = Usage()) -> Reply:
    return Reply((TextBlock(text),), usage=usage, provider="cache", model="none")


def reworded(request: ModelRequest, reply: Reply) -> Reply:
    """Say everything in capitals."""
    blocks = [replace(one, text=one.text.upper()) if isinstance(one, TextBlock) else one for one in reply.blocks]
    return replace(reply, blocks=tuple(blocks))


# ---- pre_model and post_model ------------------------------------------------------------------------------


async def test_a_request_is_edited_and_nothing_stored_changes(lab: Any, born: Any) -> None:
    """Also in place of each other: each sees what the one before made of it."""

    def shorter(request: ModelRequest) -> ModelRequest:
        return replace(request, messages=request.messages[-1:], system="one")

    async def louder(request: ModelRequest) -> ModelRequest:
        return replace(request, system=f"{request.system} two")

    agent = await born(
        [say("a"), say("b")],
        Hooks("1", pre_model=shorter),
        Hooks("2", pre_model=louder),
        Hooks("3", pre_model=_nothing),
    )
    await agent.run("first")
    await agent.run("second")
    asked: Sequence[ModelRequest] = lab.provider.requests
    assert [(one.system, len(one.messages)) for one in asked] == [("one two", 1), ("one two", 1)]
    assert await lab.texts() == ["user: first", "assistant: a", "user: second", "assistant: b"]
    assert agent.template.system_prompt == ""


def _nothing(*given: Any) -> None:
    """No objection."""


async def test_a_reply_is_changed_before_it_is_stored(lab: Any, born: Any) -> None:
    agent = await born([say("hello")], Hooks("loud", post_model=reworded), Hooks("none", post_model=_nothing))
    assert (await agent.run("go")).text == "HELLO"
    assert await lab.texts() == ["user: go", "assistant: HELLO"]


async def test_calls_of_a_changed_reply_are_planned(lab: Any, born: Any) -> None:
    """A hook's calls are held to the same rules as the model's."""

    def add(request: ModelRequest, reply: Reply) -> Reply | None:
        if reply.calls:
            return None
        strange = ToolUseBlock("x", "nobody" * 20_000, Json("{}"))
        return replace(reply, blocks=(strange,)) if reply.text == "one" else None

    agent = await born([say("one"), say("end")], Hooks("h", post_model=add))
    assert (await agent.run("go")).text == "end"
    told = (await lab.texts())[2]
    assert "There is no tool 'nobody" in told
    assert len(told) < 2_000  # a model may make up a name of any length


BAD = [
    "a text",
    (replace(text_reply(""), blocks=(TextBlock(5),)),),  # type: ignore[arg-type]
    replace(text_reply(""), blocks=(TextBlock("\ud800"),)),
    replace(text_reply(""), blocks=(ToolUseBlock("", "t", Json("{}")),)),
    replace(text_reply(""), blocks=(ToolUseBlock("x", "t", Json("{}")), ToolUseBlock("x", "t", Json("{}")))),
    replace(text_reply(""), blocks=(ToolUseBlock("x", "t", Json("[]")),)),
    replace(text_reply(""), blocks=(ToolUseBlock("x", "t", Json("{no")),)),
    replace(text_reply(""), blocks=(ToolResultBlock("x", ()),)),
    replace(text_reply(""), stop=StopReason.MAX_COST),
    replace(text_reply(""), stop="no reason"),  # type: ignore[arg-type]
    text_reply("", Usage(-5)),
    text_reply("", Usage(10**30)),
]
WRONG: list[dict[str, Any]] = [
    {"messages": None},
    {"messages": ("x",)},
    {"tools": None},
    {"tools": (5,)},
    {"model": None},
    {"model": ""},
    {"system": None},
    {"timeout_s": "x"},
    {"timeout_s": 0},
    {"max_tokens": "y"},
    {"max_tokens": True},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
async def test_a_request_that_is_none_reaches_no_provider(lab: Any, born: Any, wrong: dict[str, Any]) -> None:
    agent = await born([say("hello")], Hooks("bad", pre_model=lambda request: replace(request, **wrong)))
    assert (await agent.run("go")).text == "hello"
    assert [(name, stage) for name, stage, _ in await failures(lab)] == [("bad", "pre_model")]


async def test_whose_request_it_is_stays(lab: Any, born: Any) -> None:
    """And under which key it is tried again."""
    seen: list[tuple[str, str | None]] = []

    def claim(request: ModelRequest) -> ModelRequest:
        seen.append((request.agent_id, request.idempotency_key))
        return replace(request, agent_id="b", idempotency_key="same")

    await (await born([say("hello")], Hooks("h", pre_model=claim))).run("go")
    asked = lab.provider.requests[-1]
    assert [(asked.agent_id, asked.idempotency_key)] == seen


@pytest.mark.parametrize("stage", ["post_model", "around_model"])
@pytest.mark.parametrize("strict", [False, True])
async def test_nobody_sees_what_a_strict_hook_has_not_seen(lab: Any, born: Any, stage: str, strict: bool) -> None:
    """Not live, either; and who attaches in the middle is given nothing of it."""

    async def redact(*given: Any) -> Reply:
        return replace(given[1] if stage == "post_model" else await given[1](given[0]), blocks=(TextBlock("[…]"),))

    agent = await born([delay(5, say("card 4111"))], Hooks("dlp", **{stage: redact}, strict=strict))
    seen: list[str] = []
    async with anyio.create_task_group() as tasks:
        agent.on("text_chunk", lambda envelope: seen.append(envelope.delta))
        agent.on("text_chunk_start", lambda envelope: seen.append("start"))
        run = lab.later(tasks, lambda: agent.run("go"))
        await lab.clock.advance(1)
        assert (agent.hub.reply is None) is strict
        assert (await lab.pass_until(run)).text == "[…]"
    assert ("card" in "".join(seen)) is not strict
    assert bool(seen) is not strict


@pytest.mark.parametrize("wrong", BAD, ids=range(len(BAD)))
async def test_a_reply_that_cannot_be_kept_never_reaches_the_history(lab: Any, born: Any, wrong: Any) -> None:
    hooks = Hooks("bad", post_model=lambda request, reply: wrong)
    agent = await born([say("hello")], hooks)
    assert (await agent.run("go")).text == "hello"
    assert [(name, stage) for name, stage, _ in await failures(lab)] == [("bad", "post_model")]


async def test_unreadable_arguments_stay_unreadable(lab: Any, born: Any) -> None:
    """A reply whose blocks a hook moved is still planned block by block."""

    @tool
    async def work(context: ToolContext) -> str:
        """Work."""
        raise AssertionError("it was not run")

    def ahead(request: ModelRequest, reply: Reply) -> Reply | None:
        return replace(reply, blocks=(TextBlock("so:"), *reply.blocks)) if reply.calls else None

    agent = await born([call("work", "{no"), say("end")], Hooks("h", post_model=ahead), tools=(work,))
    assert (await agent.run("go")).text == "end"
    assert "cannot be read" in (await lab.texts())[2]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("stage", ["pre_model", "post_model", "around_model"])
async def test_what_fails_is_passed_by_unless_it_is_strict(lab: Any, born: Any, stage: str, strict: bool) -> None:
    """A strict hook that could not look at something lets it go nowhere. The history stays whole either way."""

    async def fails(*given: Any) -> Any:
        raise RuntimeError("secret")

    agent = await born([say("hello"), say("again")], Hooks("h", strict=strict, **{stage: fails}))
    result = await agent.run("go")
    assert (result.status, result.text) == (("error", "") if strict else ("ok", "hello"))
    assert await failures(lab) == [("h", stage, "RuntimeError")]
    if strict:
        assert result.error.code == "hook_failed"
        assert "secret" not in result.error.text
        assert await lab.texts() == ["user: go"]
        assert len(lab.provider.requests) == (1 if stage == "post_model" else 0)


@pytest.mark.parametrize("stage", ["pre_model", "post_model", "around_model"])
async def test_time_is_bounded(lab: Any, born: Any, stage: str) -> None:
    async def hangs(*given: Any) -> Any:
        await lab.clock.sleep(10**6)

    agent = await born([say("hello")], Hooks("h", timeout_s=3, **{stage: hangs}))
    began = lab.clock.monotonic()
    async with anyio.create_task_group() as tasks:
        assert (await lab.pass_until(lab.later(tasks, lambda: agent.run("go")), 0.5)).text == "hello"
    assert 3 <= lab.clock.monotonic() - began <= 4
    assert await failures(lab) == [("h", stage, "timeout")]


# ---- around_model ------------------------------------------------------------------------------------------


async def test_the_first_is_the_outermost(lab: Any, born: Any) -> None:
    trace: list[str] = []

    def wrap(name: str) -> Hooks:
        async def around(request: ModelRequest, go_on: NextModel) -> Reply:
            trace.append(f"{name}(")
            reply = await go_on(replace(request, system=f"{request.system}{name}"))
            trace.append(f"){name}")
            return reply

        return Hooks(name, around_model=around)

    agent = await born([say("hello")], wrap("a"), wrap("b"))
    assert (await agent.run("go")).text == "hello"
    assert "".join(trace) == "a(b()b)a"
    assert lab.provider.requests[0].system == "ab"


async def test_a_cache_answers_without_the_model(lab: Any, born: Any) -> None:
    kept: dict[str, Reply] = {}

    async def cache(request: ModelRequest, go_on: NextModel) -> Reply:
        key = str(request.messages[-1].blocks)
        if key not in kept:
            kept[key] = await go_on(request)
        return replace(kept[key], usage=Usage())

    agent = await born([say("hello")], Hooks("cache", around_model=cache))
    assert [(await agent.run("same")).text for _ in range(3)] == ["hello"] * 3
    assert len(lab.provider.requests) == 1


async def test_a_retry_is_an_attempt_of_its_own(lab: Any, born: Any) -> None:
    """Watchers are told of each; what every reply used is counted; another model may be asked."""

    async def again(request: ModelRequest, go_on: NextModel) -> Reply:
        reply = await go_on(request)
        return reply if reply.text == "good" else await go_on(replace(request, model="better"))

    agent = await born([say("bad"), say("good")], Hooks("again", around_model=again))
    started: list[str] = []
    agent.on("attempt_started", lambda envelope: started.append(envelope.attempt))
    result = await agent.run("go")
    one = (await lab.agent([say("good")], id="b")).run("go")
    assert (result.text, len(set(started))) == ("good", 2)
    assert [one.model for one in lab.provider.requests][1] == "better"
    assert result.usage.output > (await one).usage.output


async def test_a_hook_takes_a_providers_failure_up(born: Any) -> None:
    async def fall_back(request: ModelRequest, go_on: NextModel) -> Reply:
        try:
            return await go_on(request)
        except Exception as error:  # noqa: BLE001
            return text_reply(f"instead of {type(error).__name__}")

    agent = await born([fail("bad_request")], Hooks("h", around_model=fall_back))
    assert (await agent.run("go")).text == "instead of ProviderError"


async def test_a_providers_failure_passes_through(lab: Any, born: Any) -> None:
    async def trace(request: ModelRequest, go_on: NextModel) -> Reply:
        return await go_on(request)

    async def refuse(request: ModelRequest, go_on: NextModel) -> Reply:
        raise provider_error("quota", "Your own budget is used up.")

    agent = await born([fail("bad_request")], Hooks("h", around_model=trace))
    assert (await agent.run("go")).error.code == "bad_request"
    agent = await lab.agent([say("no")], id="b", deps=lab.deps([say("no")], hooks=[Hooks("r", around_model=refuse)]),
                            hooks=("r",))  # fmt: skip
    assert (await agent.run("go")).error.code == "quota"
    assert await failures(lab) == []


async def test_what_fails_afterwards_takes_nothing_away(lab: Any, born: Any) -> None:
    async def trace(request: ModelRequest, go_on: NextModel) -> Any:
        await go_on(request)
        raise RuntimeError("the exporter is gone")

    async def forgets(request: ModelRequest, go_on: NextModel) -> Any:
        await go_on(request)

    agent = await born([say("hello")], Hooks("t", around_model=trace, strict=True), Hooks("f", around_model=forgets))
    assert (await agent.run("go")).text == "hello"
    assert await failures(lab) == [("f", "around_model", "UsageError"), ("t", "around_model", "RuntimeError")]
    assert len(lab.provider.requests) == 1


async def test_what_is_wrapped_may_take_its_time(lab: Any, born: Any) -> None:
    """Only the hook's own time is bounded, before and after."""

    async def trace(request: ModelRequest, go_on: NextModel) -> Reply:
        await lab.clock.sleep(4)
        reply = await go_on(request)
        await lab.clock.sleep(4)
        return reply

    agent = await born([delay(100, say("hello"))], Hooks("t", around_model=trace, timeout_s=5, strict=True))
    async with anyio.create_task_group() as tasks:
        assert (await lab.pass_until(lab.later(tasks, lambda: agent.run("go")))).text == "hello"
    assert await failures(lab) == []


async def test_an_interrupt_passes_through(lab: Any, born: Any) -> None:
    ended: list[str] = []

    async def trace(request: ModelRequest, go_on: NextModel) -> Reply:
        try:
            return await go_on(request)
        finally:
            ended.append("hook")

    async def hangs(request: ModelRequest, go_on: NextModel) -> Reply:
        await lab.clock.sleep(10**6)
        return await go_on(request)

    agent = await born([say("x")], Hooks("t", around_model=trace), Hooks("h", around_model=hangs, timeout_s=10**5))
    async with anyio.create_task_group() as tasks:
        work = lab.later(tasks, lambda: agent.run("go"))
        await lab.clock.advance(1)
        await agent.interrupt()
        await lab.clock.advance(0.1)
        assert (await work.wait()).status == "interrupted"
    assert ended == ["hook"]
    assert await failures(lab) == []
