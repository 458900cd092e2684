"""Several providers behind one: who is asked, when it is passed over, and what those who watch are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import anyio
import pytest

from kode.core.errors import NotBoundError, ProviderError, UsageError
from kode.core.jsontext import dump
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import Message, TextBlock, Usage
from kode.core.provider import (
    FAILURES,
    PASSED_ON,
    Assembler,
    FallbackProvider,
    MediaRule,
    ModelRequest,
    Reply,
    ReplyError,
    RetryPolicy,
    ScriptedProvider,
    UsageReport,
    broken,
    cut,
    delay,
    fail,
    provider_error,
    say,
)
from kode.core.provider.base import Capabilities, Chunk
from kode.core.testing.clock import VirtualClock

ASKED = ModelRequest("whatever", (Message(0, "user", (TextBlock("hi"),), 0),))
HALF = say("Half of it", chunk=1)


class World:
    """Scripted members on one virtual clock."""

    def __init__(self, *scripts: list[Any], **options: Any) -> None:
        self.clock = VirtualClock()
        self.members = [
            ScriptedProvider(script, name=name, model=f"{name}-1", clock=self.clock)
            for name, script in zip("abc", scripts, strict=False)
        ]
        self.told: list[str] = []
        self.front = FallbackProvider(self.members, clock=self.clock, on_failure=self._note, **options)

    def _note(self, who: str, error: ProviderError) -> None:
        self.told.append(f"{who} {error.code}")

    @property
    def calls(self) -> list[int]:
        return [member.calls for member in self.members]

    async def ask(self, request: ModelRequest = ASKED) -> Reply:
        return await _ask(self.front, request)

    async def fails(self, request: ModelRequest = ASKED) -> ProviderError:
        with pytest.raises(ProviderError) as caught:
            await self.ask(request)
        return caught.value


async def _ask(provider: Any, request: ModelRequest) -> Reply:
    assembler = Assembler(provider.name, provider.model)
    async with provider.stream(request) as chunks:
        async for chunk in chunks:
            assembler.feed(chunk)
    return assembler.finish()


async def test_the_first_answers_and_is_named() -> None:
    world = World([say("A")], [say("B")])
    reply = await world.ask()
    assert (reply.text, reply.provider, reply.model) == ("A", "a", "a-1")
    assert world.members[0].requests[0].model == "a-1"
    assert world.calls == [1, 0]
    assert world.told == []


@pytest.mark.parametrize("code", sorted(FAILURES))
async def test_which_failures_are_passed_on(code: str) -> None:
    world = World([fail(code)], [say("B", usage=Usage(3, 4))])
    if code in PASSED_ON:
        reply = await world.ask()
        assert (reply.text, reply.provider, reply.model, reply.usage) == ("B", "b", "b-1", Usage(3, 4))
        assert world.members[1].requests[0].model == "b-1"
        assert world.told == [f"a:a-1 {code}"]
    else:
        assert (await world.fails()).code == code
        assert world.calls == [1, 0]


async def test_which_are_passed_on_is_a_setting() -> None:
    world = World([fail("context_too_long")], [say("B")], pass_on={"context_too_long"})
    assert (await world.ask()).text == "B"
    world = World([fail("overloaded")], [say("B")], pass_on={"context_too_long"})
    assert (await world.fails()).code == "overloaded"


@pytest.mark.parametrize("begun", [cut(HALF, 0), broken(HALF, 0, fail("overloaded"))])
async def test_before_anything_was_shown_nobody_notices(begun: Any) -> None:
    world = World([begun], [say("B")])
    assert (await world.ask()).text == "B"
    assert world.told[0].startswith("a:a-1 ")
    assert world.members[0].abandoned == 0


@pytest.mark.parametrize("failure", [fail("overloaded", retry_after_s=60), fail("authentication")])
async def test_after_something_was_shown_a_new_attempt_asks_the_next(failure: Any) -> None:
    world = World([broken(HALF, 4, failure)], [say("B")])
    error = await world.fails()
    assert (error.code, error.retryable) == (failure.error.code, True)
    assert "retry_after_s" not in error.fields, "the next one asks for no rest"
    assert world.calls == [1, 0]
    assert (await world.ask()).text == "B"
    assert world.calls == [1, 1]


async def test_of_one_alone_a_failure_stays_what_it_is() -> None:
    world = World([broken(HALF, 4, fail("authentication"))])
    assert not (await world.fails()).retryable


async def test_a_cut_after_something_was_shown_is_the_members_fault() -> None:
    world = World([cut(HALF, 4)], [say("B")])
    assert (await world.fails()).code == "truncated"
    assert (await world.ask()).text == "B"


async def test_who_failed_rests_and_comes_back() -> None:
    world = World([fail("overloaded"), say("A")], [say("B"), say("B2")], rest_s=30)
    assert [(await world.ask()).text, (await world.ask()).text] == ["B", "B2"]
    assert world.calls == [1, 2]
    await world.clock.advance(29.9)
    assert world.front.in_turn()[0].provider is world.members[1]
    await world.clock.advance(0.2)
    assert (await world.ask()).text == "A"


async def test_it_rests_as_long_as_it_asks_for() -> None:
    world = World([fail("rate_limited", retry_after_s=100)], [say("B")], rest_s=30)
    await world.ask()
    await world.clock.advance(99)
    assert world.front.in_turn()[0].provider is world.members[1]
    await world.clock.advance(2)
    assert world.front.in_turn()[0].provider is world.members[0]


async def test_a_short_wait_is_waited_once_only() -> None:
    world = World([fail("rate_limited", retry_after_s=1), fail("rate_limited", retry_after_s=1)], [say("B")])
    error = await world.fails()
    assert (error.code, error.fields["retry_after_s"]) == ("rate_limited", 1.0)
    assert world.calls == [1, 0]
    assert (await world.ask()).text == "B"
    assert world.calls == [2, 1]


async def test_who_rests_is_asked_when_nobody_else_is_left() -> None:
    world = World([fail("overloaded"), say("A")], [fail("quota"), fail("quota")])
    assert (await world.fails()).code == "overloaded"
    await world.clock.advance(1)
    assert (await world.ask()).text == "A"


async def test_all_fail_and_each_is_named() -> None:
    world = World(
        [fail("quota", "No budget.")], [fail("overloaded", "Busy.", retry_after_s=70)],
        [fail("rate_limited", "Slow down.", retry_after_s=50)],
    )  # fmt: skip
    error = await world.fails()
    assert (error.code, error.retryable, error.fields["retry_after_s"]) == ("overloaded", True, 50.0)
    assert error.message == (
        "None of 3 providers answered. a:a-1 (quota): No budget. b:b-1 (overloaded): Busy."
        " c:c-1 (rate_limited): Slow down."
    )
    hopeless = World([fail("quota")], [fail("authentication")])
    error = await hopeless.fails()
    assert (error.code, error.retryable) == ("quota", False)


async def test_a_refusal_of_the_request_ends_the_search() -> None:
    world = World([fail("overloaded")], [fail("context_too_long")], [say("C")])
    assert (await world.fails()).retryable
    assert world.calls == [1, 1, 0]


async def test_a_silent_member_has_its_share_of_the_time() -> None:
    world = World([delay(1_000, say("A"))], [delay(70, say("B"))])
    got: list[Reply] = []
    async with anyio.create_task_group() as tasks:

        async def work() -> None:
            got.append(await world.ask(replace(ASKED, timeout_s=120)))

        tasks.start_soon(work)
        for _ in range(200):
            await world.clock.advance(1)
    assert got[0].text == "B"
    assert world.told == ["a:a-1 timeout"]


async def test_who_does_not_end_in_time_rests() -> None:
    world = World([say("A" * 50, chunk=1, gap_s=10)], [say("B")])
    async with anyio.create_task_group() as tasks:

        async def work() -> None:
            with world.clock.move_on_after(60):
                await world.ask(replace(ASKED, timeout_s=60))

        tasks.start_soon(work)
        for _ in range(70):
            await world.clock.advance(1)
    assert (await world.ask()).text == "B"
    assert world.told == ["a:a-1 timeout"]


async def test_cancelling_is_prompt_and_nobody_is_blamed() -> None:
    world = World([delay(1_000, say("A")), say("A2")], [say("B")])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.ask)
        await world.clock.advance(1)
        tasks.cancel_scope.cancel()
    assert (await world.ask()).text == "A2"
    assert world.calls == [2, 0]


async def test_who_is_left_early_is_not_blamed() -> None:
    world = World([HALF, say("A2")], [say("B")])
    async with world.front.stream(replace(ASKED, timeout_s=60)) as chunks:
        await anext(chunks)
    assert world.members[0].abandoned == 1
    assert (await world.ask()).text == "A2"
    assert world.told == []


class _Odd(ScriptedProvider):
    closed = 0

    async def close(self) -> None:
        self.closed += 1
        if self.name == "a":
            raise OSError("broken pipe")


async def test_all_are_closed_even_if_one_fails_to() -> None:
    members = [_Odd(name=name) for name in "ab"]
    with pytest.raises(OSError, match="broken pipe"):
        await FallbackProvider(members).close()
    assert [member.closed for member in members] == [1, 1]


def test_it_can_do_what_all_of_them_can() -> None:
    image = MediaRule(frozenset({"image/png", "image/webp"}), 10, 5, file_ids="file-", max_upload_bytes=9)
    one = Capabilities(reasoning=True, media={"image": image, "audio": MediaRule()}, max_output_tokens=9)
    other = Capabilities(
        tools=False, reasoning=True, media={"image": MediaRule(frozenset({"image/png"}), 20, urls=False)}
    )
    members = [
        ScriptedProvider(capabilities=one, window_tokens=100),
        ScriptedProvider(capabilities=other, window_tokens=50),
    ]
    front = FallbackProvider(members)
    assert front.window_tokens == 50
    rule = MediaRule(frozenset({"image/png"}), 10, 5, urls=False, file_ids=None)
    assert front.capabilities == Capabilities(tools=False, reasoning=True, media={"image": rule}, max_output_tokens=9)
    assert FallbackProvider(members, capabilities=one, window_tokens=70).capabilities is one


def test_names_are_looked_up_and_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-canary-1")
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    front = FallbackProvider(["deepseek:deepseek-chat", "ollama:qwen3:8b"])
    assert repr(front) == "FallbackProvider(['deepseek:deepseek-chat', 'ollama:qwen3:8b'])"
    assert front.model == "deepseek-chat"
    with pytest.raises(NotBoundError, match="GROQ_API_KEY"):
        FallbackProvider(["deepseek", "groq"])


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"providers": []}, "needs a list"),
        ({"providers": "anthropic"}, "needs a list"),
        ({"pass_on": {"overlaoded"}}, "knows no failure overlaoded"),
        ({"rest_s": -1}, "less than 0"),
        ({"patience_s": -1}, "less than 0"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], text: str) -> None:
    given: dict[str, Any] = {"providers": [ScriptedProvider()], **wrong}
    with pytest.raises(UsageError, match=text):
        FallbackProvider(**given)


# ---- in an agent -----------------------------------------------------------------------------------------------------


async def test_an_agent_shows_nothing_twice(lab: Any) -> None:
    """The first member breaks in the middle: watchers are told to forget, the second says it all."""
    first = ScriptedProvider([broken(HALF, 4, fail("overloaded"))], name="a", model="a-1", clock=lab.clock)
    second = ScriptedProvider([say("Whole", chunk=2), say("Again")], name="b", model="b-1", clock=lab.clock)
    deps = replace(lab.deps(), retry=RetryPolicy(base_s=0))
    deps.providers = {"m": FallbackProvider([first, second], clock=lab.clock)}
    agent = await lab.agent([], deps=deps)
    seen: list[Any] = []
    async with agent.stream("Go") as events:
        seen = [event async for event in events]
    assert events.result is not None
    assert (events.result.status, events.result.text) == ("ok", "Whole")
    kinds = [event.type for event in seen if event.type in ("attempt_started", "text_chunk")]
    assert kinds.index("text_chunk") > kinds.index("attempt_started")
    assert kinds.count("attempt_started") == 2
    last = max(at for at, event in enumerate(seen) if event.type == "attempt_started")
    assert "".join(e.delta for e in seen[last:] if e.type == "text_chunk") == "Whole"
    assert [m.provider for m in (await lab.store.read_messages("a", limit=9)).items] == [None, "b"]
    assert (await agent.run("More")).text == "Again", "the first one rests"
    assert first.calls == 1


async def test_the_retry_policy_bounds_it_all(lab: Any) -> None:
    members = [ScriptedProvider(lambda _: fail("overloaded"), name=name, clock=lab.clock) for name in "ab"]
    deps = replace(lab.deps(), retry=RetryPolicy(max_tries=3, base_s=1))
    deps.providers = {"m": FallbackProvider(members, clock=lab.clock)}
    agent = await lab.agent([], deps=deps, limits=Limits(model_timeout_s=60))
    async with anyio.create_task_group() as tasks:
        result = await lab.pass_until(lab.later(tasks, lambda: agent.run("Go")))
    assert (result.status, result.error.code) == ("error", "overloaded")
    assert "a:scripted-1 (overloaded)" in result.error.text
    assert [member.calls for member in members] == [3, 3]


async def test_an_interrupt_gets_through(lab: Any) -> None:
    slow = ScriptedProvider([delay(1_000, say("A"))], name="a", clock=lab.clock)
    deps = lab.deps()
    deps.providers = {"m": FallbackProvider([slow, ScriptedProvider([say("B")])], clock=lab.clock)}
    agent = await lab.agent([], deps=deps)
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("Go"))
        await lab.clock.advance(1)
        await agent.interrupt()
        result = await lab.pass_until(run)
    assert result.status == "interrupted"


class _Leaky:
    """A provider that counts the streams it has open."""

    name, model, window_tokens, capabilities = "x", "x-1", 1_000, Capabilities()
    open = 0

    def stream(self, request: ModelRequest) -> _Leaky:
        return self

    async def __aenter__(self) -> AsyncIterator[Chunk]:
        self.open += 1
        return self._chunks()

    async def __aexit__(self, *error: Any) -> None:
        self.open -= 1

    async def _chunks(self) -> AsyncIterator[Chunk]:
        raise ValueError("a bug of its own")
        yield

    async def close(self) -> None:
        pass


class _Counts(_Leaky):
    """Says what it has read, and then that it can do no more."""

    async def _chunks(self) -> AsyncIterator[Chunk]:
        yield UsageReport(Usage(1_000, 1))
        yield ReplyError(provider_error("overloaded", "Busy."))


async def test_usage_alone_is_nothing_shown_and_is_not_counted_to_another() -> None:
    counts = _Counts()
    front = FallbackProvider([counts, ScriptedProvider([say("B", usage=Usage(3, 4))])])
    reply = await _ask(front, ASKED)
    assert (reply.text, reply.usage) == ("B", Usage(3, 4))
    assert counts.open == 0


async def test_a_bug_of_a_member_is_no_reason_to_leave_it_open() -> None:
    leaky = _Leaky()
    with pytest.raises(ValueError, match="a bug"):
        await _ask(FallbackProvider([leaky, ScriptedProvider([say("B")])]), ASKED)
    assert leaky.open == 0


@pytest.mark.parametrize("shared", [False, True])
async def test_what_was_made_for_one_vendor_is_not_given_to_all(shared: bool) -> None:
    asked: list[ModelRequest] = []

    class Watched(ScriptedProvider):
        def stream(self, request: ModelRequest) -> Any:
            asked.append(request)
            return super().stream(request)

    front = FallbackProvider([Watched([fail("overloaded")]), Watched([say("x")])], share_extras=shared)
    own: dict[str, Any] = {"extra_headers": {"x-api-key": "sk-one"}, "extra_body": dump({"speed": "fast"})}
    await _ask(front, replace(ASKED, **own))
    assert len(asked) == 2
    for each in asked:
        found = {"extra_headers": each.extra_headers, "extra_body": each.extra_body}
        assert found == (own if shared else dict.fromkeys(own))


def test_a_kind_of_which_they_take_no_type_alike_is_none() -> None:
    takes = [Capabilities(media={"image": MediaRule(frozenset({kind}))}) for kind in ("image/png", "image/webp")]
    members = [ScriptedProvider([], name=name) for name in "ab"]
    for member, capabilities in zip(members, takes, strict=True):
        member.capabilities = capabilities
    assert FallbackProvider(members).capabilities.media == {}
