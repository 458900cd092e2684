"""The scripted provider."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from kode.core.clock import RealClock
from kode.core.errors import ProviderError, UsageError
from kode.core.jsontext import dump
from kode.core.kernel.message import Message, ReasoningBlock, TextBlock, ToolResultBlock, ToolUseBlock, Usage
from kode.core.kernel.words import StopReason
from kode.core.provider import (
    Answer,
    Assembler,
    CountsTokens,
    Gate,
    ModelRequest,
    Prices,
    Provider,
    Reply,
    ScriptedProvider,
    broken,
    call,
    calls,
    cut,
    delay,
    fail,
    last_text,
    say,
)


class SleepLog(RealClock):
    __slots__ = ("slept",)

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def asked(*texts: str, agent: str = "a") -> ModelRequest:
    """A request with messages of both sides, the user's first."""
    roles = ("user", "assistant")
    messages = tuple(Message(n, roles[n % 2], (TextBlock(text),), 0) for n, text in enumerate(texts))  # type: ignore[arg-type]
    return ModelRequest("scripted-1", messages, agent_id=agent)


async def ask(provider: Provider, request: ModelRequest | None = None) -> Reply:
    assembler = Assembler(provider.name, provider.model)
    async with provider.stream(request or asked("hi")) as stream:
        async for chunk in stream:
            assembler.feed(chunk)
    return assembler.finish()


async def test_turns_are_taken_in_order_and_requests_kept() -> None:
    provider = ScriptedProvider([call("look", {"b": 1}, text="So:"), "plain", say("Done", think="Hm")])
    assert (await ask(provider)).blocks == (TextBlock("So:"), ToolUseBlock("call-0", "look", dump({"b": 1})))
    second = await ask(provider, asked("1", "2", "3"))
    assert (second.text, second.provider, second.model) == ("plain", "scripted", "scripted-1")
    assert second.usage == Usage(input=10, output=5)
    assert (await ask(provider)).blocks == (ReasoningBlock("Hm"), TextBlock("Done"))
    assert provider.calls == 3
    assert [len(request.messages) for request in provider.requests] == [1, 3, 1]
    provider.check()
    assert isinstance(provider, CountsTokens)
    assert await provider.count_tokens(asked("12345678", "9")) == 3


async def test_a_script_that_runs_out_says_so_there_and_in_check() -> None:
    provider = ScriptedProvider([say("one")])
    await ask(provider)
    with pytest.raises(ProviderError, match=r"has 1 turns and was asked for turn 2.*'more'") as caught:
        await ask(provider, asked("more"))
    assert (caught.value.code, caught.value.retryable) == ("script", False)
    with pytest.raises(AssertionError, match="turn 2"):
        provider.check()


async def test_check_counts_turns_left_over() -> None:
    provider = ScriptedProvider([say("one"), say("two")])
    await ask(provider)
    with pytest.raises(AssertionError, match="2 turns, of which 1"):
        provider.check()


def fine(request: ModelRequest) -> None:
    assert last_text(request) == "hi"


@pytest.mark.parametrize(
    ("expect", "says"),
    [
        ("hi", None),
        ("ho", "'ho' is not in its last message: 'hi'"),
        (1, None),
        (2, "holds 1 messages, not 2"),
        (fine, None),
        (lambda request: request.model == "other", "returned False"),
        ((1, "hi", fine), None),
        ((1, "ho"), "'ho' is not in"),
    ],
)
async def test_expectations(expect: object, says: str | None) -> None:
    provider = ScriptedProvider([say("x", expect=expect)])
    if says is None:
        assert (await ask(provider)).text == "x"
        provider.check()
    else:
        with pytest.raises(ProviderError, match=says):
            await ask(provider)


async def test_an_assertion_of_an_expectation_is_told() -> None:
    provider = ScriptedProvider([say("x", expect=fine)])
    with pytest.raises(ProviderError, match="fine says"):
        await ask(provider, asked("ho"))


async def test_expects_tool_results() -> None:
    result = ToolResultBlock("call-0", (TextBlock("42 lines"),))
    request = ModelRequest("m", (Message(0, "user", (result,), 0),))
    assert (await ask(ScriptedProvider([say("x", expect="42")]), request)).text == "x"


@pytest.mark.parametrize("script", ["Yes.", say("Yes."), {"*": "Yes."}, {"*": say("Yes.")}])
async def test_a_lone_answer_is_that_to_every_request(script: Any) -> None:
    provider = ScriptedProvider(script)
    for _ in range(3):
        assert (await ask(provider)).text == "Yes."
    provider.check()


async def test_a_function_decides_sync_or_async() -> None:
    def decide(request: ModelRequest) -> Answer:
        return call("look") if last_text(request) == "go" else Reply((TextBlock("r"),), usage=Usage(1, 2))

    async def decide_later(request: ModelRequest) -> Answer:
        await anyio.lowlevel.checkpoint()
        return last_text(request).upper()

    assert len((await ask(ScriptedProvider(decide), asked("go"))).calls) == 1
    assert (await ask(ScriptedProvider(decide))).usage == Usage(1, 2)
    assert (await ask(ScriptedProvider(decide_later))).text == "HI"


async def test_what_a_function_does_wrong_is_told() -> None:
    def raises(request: ModelRequest) -> Answer:
        raise ZeroDivisionError("oh")

    async def raises_later(request: ModelRequest) -> Answer:
        raise KeyError("oh")

    for script, says in (
        (raises, "ZeroDivisionError: oh"),
        (raises_later, "KeyError"),
        (lambda request: 5, "gave a value of type int"),
    ):
        with pytest.raises(ProviderError, match=says):
            await ask(ScriptedProvider(script))  # type: ignore[arg-type]


async def test_scripts_by_agent() -> None:
    provider = ScriptedProvider({"a": [say("A")], "*": [say("1"), say("2")]})
    said = [(await ask(provider, asked("hi", agent=agent))).text for agent in ("b", "a", "c", "b", "c")]
    assert said == ["1", "A", "1", "2", "2"]
    with pytest.raises(ProviderError, match="agent 'a' has run out"):
        await ask(provider, asked("hi"))
    with pytest.raises(ProviderError, match="knows no agent 'b'; there are scripts for a"):
        await ask(ScriptedProvider({"a": []}), asked("hi", agent="b"))


async def test_by_replies_a_script_depends_on_the_history_only() -> None:
    turns = [say("first"), say("second")]
    for _ in range(2):  # the second one is the process after the crash
        provider = ScriptedProvider(turns, by="replies")
        for _ in range(2):  # and the retry
            assert (await ask(provider, asked("q", "first", "q"))).text == "second"
            assert (await ask(provider, asked("q"))).text == "first"


async def test_chunks_and_pace() -> None:
    clock = SleepLog()
    turn = say("abcdefg", think="xyz", chunk=2, burst=3, gap_s=0.1, delay_s=1.0)
    provider = ScriptedProvider([delay(0.5, turn)], clock=clock, delay_s=0.25)
    assert (await ask(provider)).blocks == (ReasoningBlock("xyz"), TextBlock("abcdefg"))
    # start, xy, z, stop; start, ab, cd, ef, g, stop; usage, end: a gap after each three but the last
    assert clock.slept == [1.75, 0.1, 0.1, 0.1]
    spread = calls(("a", {"k": "v"}), ("b", None, "own"), text="t", chunk=1)
    reply = await ask(ScriptedProvider([spread]))
    assert [block for _, block in reply.calls] == [
        ToolUseBlock("call-0", "a", dump({"k": "v"})),
        ToolUseBlock("own", "b", dump({})),
    ]


async def test_raw_arguments_reach_the_fold_as_they_are() -> None:
    reply = await ask(ScriptedProvider([call("t", '{"a": ')]))
    assert reply.bad_inputs[0].raw == '{"a": '


async def test_failures() -> None:
    provider = ScriptedProvider(
        [
            fail("rate_limited", retry_after_s=3),
            fail("quota", "No money", retryable=True),
            cut(say("abc", chunk=1), 2),
            broken(say("abc", chunk=1), 2, fail("overloaded")),
            say("a", stop=StopReason.LENGTH, usage=Usage(1, 1)),
        ]
    )
    for code in ("rate_limited", "quota", "truncated", "overloaded"):
        with pytest.raises(ProviderError) as caught:
            await ask(provider)
        assert caught.value.code == code
        assert caught.value.retryable
    assert (await ask(provider)).stop is StopReason.LENGTH
    with pytest.raises(UsageError, match="made by fail"):
        broken(say("x"), 1, say("y"))
    with pytest.raises(UsageError, match="'oops'"):
        fail("oops")


async def test_a_failure_given_often_gathers_no_tracebacks() -> None:
    turn = fail("overloaded")
    provider = ScriptedProvider(lambda request: turn)
    depths = []
    for _ in range(3):
        with pytest.raises(ProviderError) as caught:
            await ask(provider)
        depths.append(len(caught.traceback))
    assert len(set(depths)) == 1


async def test_prices() -> None:
    provider = ScriptedProvider(["a", say("b", usage=Usage(1, 1))], prices=Prices(1, 2))
    assert (await ask(provider)).usage == Usage(10, 5, cost_nanos=20_000)
    assert (await ask(provider)).usage == Usage(1, 1, cost_nanos=3_000)


async def test_a_gate_holds_the_stream_at_a_chunk() -> None:
    gate = Gate()
    provider = ScriptedProvider([say("abc", chunk=1, gate=gate, gate_at=3)])
    seen: list[object] = []

    async def read() -> None:
        async with provider.stream(asked("hi")) as stream:
            async for chunk in stream:
                seen.append(chunk)  # noqa: PERF401 - it is looked at while it grows

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await gate.reached()
            await anyio.wait_all_tasks_blocked()
            assert len(seen) == 3
            gate.release()
    assert len(seen) == 7


async def test_a_stream_that_is_left_or_cancelled_is_counted() -> None:
    provider = ScriptedProvider([say("abc", chunk=1), say("abc", gate=Gate()), say("whole")])
    async with provider.stream(asked("hi")) as stream:
        await anext(stream)
    with anyio.move_on_after(0.01):
        await ask(provider)
    await ask(provider)
    assert provider.abandoned == 2


async def test_one_turn_serves_two_providers_with_their_own_usage() -> None:
    turn = say("x")
    cheap, dear = ScriptedProvider([turn]), ScriptedProvider([turn], usage=Usage(99, 9))
    assert (await ask(cheap)).usage == Usage(10, 5)
    assert (await ask(dear)).usage == Usage(99, 9)


async def test_closed_it_goes_on_as_every_provider_does() -> None:
    provider = ScriptedProvider(["a"], keep_requests=False)
    await provider.close()
    await provider.close()
    assert (await ask(provider)).text == "a"
    assert provider.requests == []
