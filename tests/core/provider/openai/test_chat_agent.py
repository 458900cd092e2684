"""Agents over the real wire: tool loops, live text, retries, refusals, interrupts, and a server that comes and goes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from tests.core.provider.asking import look
from tests.servers.chat import ChatServer, Said, Seen, call, calls, fail, html, say

from kode.core import (
    Agent,
    AgentConfig,
    AgentTemplate,
    Dependencies,
    MemoryStore,
    OpenAIProvider,
    RunResult,
    Tool,
)
from kode.core.provider import HttpOptions, RetryPolicy

pytestmark = pytest.mark.integration

STORY = "Once upon a time there was a story that went on and on. " * 10


class World:
    """One store, and processes that come and go."""

    def __init__(self, server: ChatServer) -> None:
        self.server = server
        self.store = MemoryStore()
        self.providers: list[OpenAIProvider] = []

    def deps(self, *, key: str | None = None, retry: RetryPolicy | None = None) -> Dependencies:
        options = HttpOptions(idle_timeout_s=30.0)
        provider = OpenAIProvider(model="m", base_url=self.server.url, api_key=key, http=options, environ={})
        self.providers.append(provider)
        tools: list[Tool] = [look]
        quick = retry or RetryPolicy(base_s=0.02, cap_s=0.05)
        return Dependencies(store=self.store, tools=tools, providers={"openai": provider}, retry=quick)

    async def agent(self, **more: Any) -> Agent:
        template = AgentTemplate("t", model="openai", system_prompt="Be brief.", tools=("look",))
        return await Agent.create(AgentConfig(template, agent_id="a"), self.deps(**more))

    async def kinds(self) -> list[str]:
        return [event.type for event in (await self.store.read_events("a", limit=1_000)).items]


@pytest.fixture
async def world(chat_server: ChatServer) -> AsyncIterator[World]:
    world = World(chat_server)
    yield world
    for provider in world.providers:
        await provider.close()


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - the server lives in threads
            await anyio.sleep(0.005)


async def test_a_tool_loop_streams_its_text(world: World) -> None:
    world.server.reply(
        calls(("look", {"path": "a"}), ("look", {"path": "b"}), text="Let me see.", usage=(20, 7)),
        say("Both are there.", reasoning="Easy.", piece=3, usage=(40, 9)),
    )
    agent = await world.agent()
    async with agent.stream("What is in a and b?") as events:
        shown = [event.delta async for event in events if event.type == "text_chunk"]
    result = events.result
    assert result is not None
    assert (result.status, result.text, result.steps) == ("ok", "Both are there.", 2)
    assert (result.usage.input, result.usage.output) == (60, 16)
    assert "".join(shown) == "Let me see.Both are there."
    assert len(shown) >= 4
    first, second = world.server.requests
    assert [each["role"] for each in second.messages] == ["system", "user", "assistant", "tool", "tool"]
    assert [each["content"] for each in second.messages[3:]] == ["content of a", "content of b"]
    assert [each["function"]["name"] for each in first.body["tools"]] == ["look"]
    stored = (await world.store.read_messages("a", limit=10)).items
    assert (stored[-1].provider, stored[-1].model) == ("openai", "m-2026")


async def test_text_is_shown_while_the_server_still_speaks(world: World) -> None:
    """The first delta reaches the subscriber although the rest of the reply never comes."""
    world.server.reply(say(STORY).but(fault="stall", at="time"))
    agent = await world.agent()
    with anyio.fail_after(10):
        async with agent.stream("Tell.") as events:
            async for event in events:
                if event.type == "text_chunk":
                    assert STORY.startswith(event.delta)
                    break
    await until(lambda: world.server.left == 1)


@pytest.mark.parametrize(
    "first",
    [
        fail(500), fail(429, retry_after="0.01"), html(502),
        call("look", {"path": STORY}).but(fault="cut", at="upon"), say(STORY).but(fault="reset", at="story"),
        say(STORY).but(fault="cut"),
    ],
    ids=["500", "429", "html", "half a call", "reset", "no answer"],
)  # fmt: skip
async def test_a_new_attempt_follows_what_may_pass(world: World, first: Any) -> None:
    world.server.reply(first, first, "Here I am.")
    agent = await world.agent()
    async with agent.stream("Go.") as events:
        attempts = [event.attempt async for event in events if event.type == "attempt_started"]
    assert events.result is not None
    assert (events.result.status, events.result.text) == ("ok", "Here I am.")
    assert len(attempts) == len(set(attempts)) == 3
    assert len(world.server.requests) == 3
    assert world.server.requests[0].body == world.server.requests[2].body
    assert (await world.kinds()).count("error") == 2


async def test_a_refused_key_ends_the_run_and_the_agent_goes_on_with_another(world: World) -> None:
    world.server.key = "sk-right-0123"
    world.server.reply("Here I am.")
    agent = await world.agent(key="sk-wrong-0123")
    result = await agent.run("Go.")
    assert (result.status, str(result.stop_reason)) == ("error", "provider_error")
    assert result.error is not None
    assert result.error.code == "authentication"
    assert "sk-wrong-0123" not in result.error.text
    assert len(world.server.requests) == 1
    await agent.close()
    again = await Agent.open("a", world.deps(key="sk-right-0123"))
    assert (await again.run("Go on.")).text == "Here I am."


async def test_too_long_a_history_says_so(world: World) -> None:
    world.server.reply(fail(400, "This model's maximum context length is 10 tokens.", code="context_length_exceeded"))
    agent = await world.agent()
    assert str((await agent.run("Go.")).stop_reason) == "context_too_long"


async def test_a_bad_call_gets_an_answer_and_the_next_request_is_legal(world: World) -> None:
    world.server.reply(
        calls(("look", '{"path": '), ("no such tool", {}), ("look", "[1]")), call("look", {"path": "a"}), "Done."
    )
    agent = await world.agent()
    assert (await agent.run("Go.")).text == "Done."
    answers = [each["content"] for each in world.server.requests[1].messages if each["role"] == "tool"]
    assert len(answers) == 3
    assert all(answer.startswith("Error") for answer in answers)


@pytest.mark.parametrize("at", [None, 0, "story"])
async def test_an_interrupt_is_prompt_while_the_server_stalls(world: World, at: Any) -> None:
    world.server.reply(say(STORY).but(fault="stall", at=at), "Here I am.")
    agent = await world.agent()
    results: list[RunResult] = []

    async def run() -> None:
        results.append(await agent.run("Go."))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await until(lambda: len(world.server.requests) == 1)
            await agent.interrupt()
    assert results[0].status == "interrupted"
    await until(lambda: world.server.left == 1)
    assert (await agent.run("Go on.")).text == "Here I am."


async def test_cancelling_the_caller_leaves_an_agent_that_goes_on(world: World) -> None:
    world.server.reply(say(STORY).but(fault="stall", at="story"), "Here I am.")
    agent = await world.agent()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(agent.run, "Go.")
            await until(lambda: len(world.server.requests) == 1)
            tasks.cancel_scope.cancel()
    await agent.close()
    again = await Agent.resume("a", world.deps())
    assert (await again.complete()).text == "Here I am."


async def test_the_server_goes_away_and_comes_back(world: World) -> None:
    def script(seen: Seen) -> str:
        return f"I saw {len(seen.messages)} messages."

    world.server.script = script
    agent = await world.agent(retry=RetryPolicy(max_tries=1_000, base_s=0.02, cap_s=0.05, total_s=30.0))
    assert (await agent.run("One.")).text == "I saw 2 messages."
    await anyio.to_thread.run_sync(world.server.stop)
    attempts = 0
    with anyio.fail_after(20):
        async with agent.stream("Two.") as events:
            async for event in events:
                attempts += event.type == "attempt_started"
                if attempts == 4:
                    await anyio.to_thread.run_sync(world.server.start)
    assert events.result is not None
    assert events.result.text == "I saw 4 messages."


async def test_by_name(chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", chat_server.url)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    chat_server.reply("Here I am.")
    deps = Dependencies(store=MemoryStore())
    template = AgentTemplate("t", model="openai:qwen3:8b")
    agent = await Agent.create(AgentConfig(template, agent_id="a"), deps)
    assert (await agent.run("Go.")).text == "Here I am."
    assert chat_server.requests[0].body["model"] == "qwen3:8b"
    assert "authorization" not in chat_server.requests[0].headers
    await deps.provider_named("openai:qwen3:8b").close()


async def test_who_resolves_a_provider_closes_it(chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handle made of keywords owns what they became; Dependencies own what they found by name, not what they got."""
    monkeypatch.setenv("OPENAI_BASE_URL", chat_server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "")
    chat_server.reply("One.", "Two.", "Three.")
    store, template = MemoryStore(), AgentTemplate("t", model="openai:m")

    async with await Agent.create(template=template, agent_id="own", store=store) as agent:
        assert (await agent.run("go")).text == "One."
    found = agent._binding.provider
    assert isinstance(found, OpenAIProvider)
    assert not found.http.connected

    async with Dependencies(store) as deps:
        async with await Agent.open("own", deps) as agent:
            assert (await agent.run("go")).text == "Two."
        found = agent._binding.provider
        assert isinstance(found, OpenAIProvider)
        assert found.http.connected, "other agents of these dependencies may still use it"
    assert not found.http.connected

    given = OpenAIProvider(model="m")
    async with Dependencies(store, providers={"openai": given}) as deps, await Agent.open("own", deps) as agent:
        assert (await agent.run("go")).text == "Three."
    assert given.http.connected
    await given.close()


async def test_a_fork_outlives_its_origin_and_who_is_last_closes(
    chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", chat_server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "")
    chat_server.script = lambda seen: f"I saw {len(seen.messages)} messages."
    agent = await Agent.create(template=AgentTemplate("t", model="openai:m"), store=MemoryStore())
    assert (await agent.run("go")).text == "I saw 1 messages."
    fork = await agent.fork()
    await agent.close()
    provider = fork._binding.provider
    assert isinstance(provider, OpenAIProvider)
    assert provider.http.connected, "the fork may be in the middle of a reply"
    assert (await fork.run("go on")).text == "I saw 3 messages."
    assert provider.http.connected
    await fork.close()
    assert not provider.http.connected
    assert (await agent.run("again")).text == "I saw 3 messages.", "a closed handle is one that lets go, not a dead one"
    await agent.close()
    assert not provider.http.connected


async def test_what_a_server_counts_can_be_stored_and_read_back(world: World) -> None:
    huge = int("9" * 4_300)
    usage = {"prompt_tokens": huge, "completion_tokens": huge}
    one, two = (
        Said(frames=({"choices": [{"delta": {"content": text}, "finish_reason": "stop"}], "usage": usage},))
        for text in ("One.", "Two.")
    )
    world.server.reply(one, two, "Three.")
    agent = await world.agent()
    assert (await agent.run("go")).text == "One."
    assert (await agent.run("go")).usage.input == 2**53 - 1
    await agent.close()
    again = await Agent.open("a", world.deps())
    assert (await again.run("go")).text == "Three."
