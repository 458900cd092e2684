"""The provider itself, over real HTTP: addresses, keys, headers, refusals, pauses, and agents that use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anthropic
import pytest
from tests.core.provider.asking import answer, ask, kept_in, look
from tests.servers.anthropic import (
    MessagesServer,
    error_event,
    events,
    message,
    redacted,
    refuse,
    sse,
    text,
    thinking,
    tool_use,
)
from tests.servers.chat import Said, html

from kode.core import Agent, AgentConfig, AgentTemplate, Dependencies, open_store
from kode.core.errors import NotBoundError, ProviderError, UsageError
from kode.core.jsontext import dump
from kode.core.kernel.message import MediaBlock, ReasoningBlock
from kode.core.kernel.words import StopReason
from kode.core.provider import (
    CountsTokens,
    HttpOptions,
    Provider,
    ProviderCatalog,
    Reasoning,
    RetryPolicy,
    ToolSpec,
)
from kode.core.provider.anthropic import AnthropicProvider, ModelFacts

CANARY = "sk-ant-canary-0123456789"


def at(url: str | None = None, **more: Any) -> AnthropicProvider:
    return AnthropicProvider(base_url=url, **{"environ": {}, "api_key": CANARY, "model": "claude-sonnet-5", **more})


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (None, "https://api.anthropic.com/v1"),
        ("https://api.anthropic.com/", "https://api.anthropic.com/v1"),
        ("https://host/anthropic", "https://host/anthropic/v1"),
        ("https://host/anthropic/v1/messages", "https://host/anthropic/v1"),
        ("https://host/api/v2/", "https://host/api/v2"),
    ],
)
def test_addresses(given: str | None, used: str) -> None:
    assert at(given).base_url == used


def test_an_address_that_is_none() -> None:
    with pytest.raises(UsageError, match="base URL"):
        at("localhost:1")


def test_a_key_is_needed_only_by_the_vendor() -> None:
    with pytest.raises(NotBoundError, match="set ANTHROPIC_API_KEY, or pass api_key") as caught:
        AnthropicProvider(environ={})
    assert caught.value.code == "missing_key"
    AnthropicProvider(environ={"ANTHROPIC_API_KEY": "sk-1"})
    AnthropicProvider(environ={"ANTHROPIC_BASE_URL": "http://localhost:1"})


def test_it_is_a_provider_found_by_name() -> None:
    catalog = ProviderCatalog(environ={})
    provider: Provider = catalog.resolve("anthropic:claude-opus-5", api_key=CANARY, environ={})
    assert (provider.name, provider.model, provider.window_tokens) == ("anthropic", "claude-opus-5", 1_000_000)
    assert repr(provider) == "AnthropicProvider(model='claude-opus-5', base_url='https://api.anthropic.com/v1')"
    assert isinstance(provider, CountsTokens)
    assert at(facts=ModelFacts(9)).window_tokens == 9
    assert at(window_tokens=7).window_tokens == 7


@pytest.mark.integration
@pytest.mark.parametrize("chop", [1, 2, 7, None])
async def test_byte_by_byte(messages_server: MessagesServer, chop: int | None) -> None:
    blocks = (thinking("Hm. 😀"), redacted("x="), text("Grüße"), tool_use("f", {"ä": ["😀"]}))
    messages_server.reply(message(*blocks, interleaved=True).but(chop=chop))
    provider = at(messages_server.url)
    reply = await answer(provider)
    assert [block.type for block in reply.blocks] == ["reasoning", "reasoning", "text", "tool_use"]
    assert (reply.text, reply.calls[0][1].input) == ("Grüße", dump({"ä": ["😀"]}))
    await provider.close()


@pytest.mark.integration
async def test_the_vendors_own_client_reads_the_same(messages_server: MessagesServer) -> None:
    blocks = (thinking("Hm."), text("Grüße"), tool_use("f", {"x": [1, {"y": None}]}))
    usage = {"input_tokens": 3, "cache_read_input_tokens": 5}
    messages_server.reply(*[message(*blocks, usage=usage, interleaved=True).but(chop=3)] * 2)
    provider = at(messages_server.url)
    ours = await answer(provider)
    await provider.close()
    url = messages_server.url.removesuffix("/v1")
    with anthropic.Anthropic(api_key=CANARY, base_url=url, max_retries=0) as client:
        said: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
        with client.messages.stream(model="claude-sonnet-5", max_tokens=64_000, messages=said) as stream:
            theirs = stream.get_final_message()
    assert [block.type for block in theirs.content] == ["thinking", "text", "tool_use"]
    assert ours.text == theirs.content[1].text  # type: ignore[union-attr]
    assert json.loads(ours.calls[0][1].input) == theirs.content[2].input  # type: ignore[union-attr]
    assert ours.blocks[0] == ReasoningBlock("Hm.", theirs.content[0].signature)  # type: ignore[union-attr]
    assert (ours.usage.input, ours.usage.output) == (8, theirs.usage.output_tokens)
    mine, other = messages_server.requests
    assert {name: value for name, value in mine.body.items() if name != "messages"} == {
        name: value for name, value in other.body.items() if name != "messages"
    }


@pytest.mark.integration
async def test_headers(messages_server: MessagesServer) -> None:
    messages_server.reply(*[message(text("a"))] * 3)
    plain = at(messages_server.url)
    await answer(plain)
    picture = MediaBlock("image", file_id="file_1")
    picked = at(messages_server.url, model="claude-haiku-4-5", betas=("mine-1",), extra_headers={"X-Team": "t"})
    tools = [ToolSpec("f", "", dump({"type": "object"}))]
    await answer(picked, ask(picture, tools=tools, reasoning=Reasoning("low")))
    newer = at(messages_server.url, version="2026-10-21", api_key=" sk-2\n")
    await answer(newer, ask(temperature=0.5))
    for provider in (plain, picked, newer):
        await provider.close()
    one, two, three = messages_server.requests
    assert (one.headers["x-api-key"], one.headers["anthropic-version"]) == (CANARY, "2023-06-01")
    assert "anthropic-beta" not in one.headers
    assert one.body["messages"][0]["content"][0]["cache_control"] == {"type": "ephemeral"}
    assert two.headers["anthropic-beta"] == "mine-1,interleaved-thinking-2025-05-14,files-api-2025-04-14"
    assert two.headers["x-team"] == "t"
    assert (three.headers["anthropic-version"], three.headers["x-api-key"]) == ("2026-10-21", "sk-2")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("said", "code", "retryable", "after"),
    [
        (refuse(401, "authentication_error", "invalid x-api-key"), "authentication", False, None),
        (refuse(403, "permission_error", "No."), "permission", False, None),
        (refuse(404, "not_found_error", "model: claude-0"), "model_not_found", False, None),
        (refuse(400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
         "context_too_long", False, None),
        (refuse(400, "invalid_request_error",
                "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000"),
         "context_too_long", False, None),
        (refuse(400, "invalid_request_error", "messages.0: bad"), "bad_request", False, None),
        (refuse(400, "invalid_request_error", "Your credit balance is too low."), "quota", False, None),
        (refuse(413, "request_too_large", "Request exceeds the maximum size"), "context_too_long", False, None),
        (refuse(429, "rate_limit_error", "Slow down.", **{"retry-after": "7"}), "rate_limited", True, 7.0),
        (refuse(500, "api_error", "Internal server error"), "overloaded", True, None),
        (refuse(529, "overloaded_error", "Overloaded"), "overloaded", True, None),
        (refuse(504, "timeout_error", "Timed out"), "timeout", True, None),
        (html(502), "overloaded", True, None),
        (sse([*events(text("a"))[:4], error_event()]), "overloaded", True, None),
        (sse(events(text("a"))[:-2]), "truncated", True, None),
        (message(text("abc")).but(fault="reset", at="abc"), "connection", True, None),
        (message(text("abc")).but(fault="cut", at=40), "truncated", True, None),
    ],
)  # fmt: skip
async def test_how_it_fails(
    messages_server: MessagesServer, said: Said, code: str, retryable: bool, after: Any
) -> None:
    messages_server.reply(said)
    provider = at(messages_server.url)
    with pytest.raises(ProviderError) as caught:
        await answer(provider)
    await provider.close()
    error = caught.value
    assert (error.code, error.retryable, error.fields.get("retry_after_s")) == (code, retryable, after)
    if said.status != 200 and "request-id" in said.headers:
        assert error.fields["request_id"] == "req_1"


@pytest.mark.integration
async def test_a_pause_is_continued_over_the_wire(messages_server: MessagesServer) -> None:
    server = ({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}, [])
    found = ({"type": "web_search_tool_result", "tool_use_id": "s", "content": [{}]}, [])
    messages_server.reply(message(text("I look."), server, stop="pause_turn"), message(found, text("Found.")))
    provider = at(messages_server.url)
    search = dump({"tools": [{"type": "web_search_20260209", "name": "web_search"}]})
    reply = await answer(provider, ask(extra_body=search))
    await provider.close()
    assert reply.text == "I look.Found."
    assert reply.stop is StopReason.END_TURN
    first, second = messages_server.requests
    assert second.body["messages"] == [
        *first.body["messages"],
        {"role": "assistant", "content": [{"type": "text", "text": "I look."}, {**server[0]}]},
    ]
    assert messages_server.connections == 1, "the connection is used again"


@pytest.mark.integration
async def test_counting(messages_server: MessagesServer) -> None:
    messages_server.reply(
        Said(body=b'{"input_tokens": 42}', headers={"content-type": "application/json"}),
        Said(body=b'{"tokens": 42}', headers={"content-type": "application/json"}),
        refuse(429, "rate_limit_error", "Slow down."),
    )
    provider = at(messages_server.url)
    request = ask(system="S", max_tokens=5, stop=("x",), metadata={"user_id": "u"})
    assert await provider.count_tokens(request) == 42
    for code in ("protocol", "rate_limited"):
        with pytest.raises(ProviderError) as caught:
            await provider.count_tokens(request)
        assert caught.value.code == code
    await provider.close()
    assert messages_server.requests[0].path == "/v1/messages/count_tokens"


# ---- agents ---------------------------------------------------------------------------------------------------------


@pytest.mark.integration
async def test_a_tool_loop_with_thoughts_and_the_key_stays_nowhere(
    messages_server: MessagesServer, tmp_path: Path
) -> None:
    messages_server.key = CANARY
    messages_server.reply(
        message(thinking("Two files."), redacted("x="), text("Let me see."),
                tool_use("look", {"path": "a"}, "toolu_1"), tool_use("look", {"path": "b"}, "toolu_2"),
                interleaved=True, usage={"input_tokens": 1, "cache_creation_input_tokens": 30}),
        refuse(529, "overloaded_error", f"Overloaded, {CANARY}."),
        message(thinking("Easy.", "c2Vjb25k"), text("Both are there."), usage={"cache_read_input_tokens": 30}),
    )  # fmt: skip
    store = open_store(f"json:{tmp_path}")
    await store.open()
    provider = at(messages_server.url, model="claude-opus-5-5", http=HttpOptions(idle_timeout_s=30.0))
    deps = Dependencies(
        store=store, tools=[look], providers={"anthropic": provider}, retry=RetryPolicy(base_s=0.01, cap_s=0.02)
    )
    template = AgentTemplate("t", model="anthropic", system_prompt="Be brief.", tools=("look",))
    agent = await Agent.create(AgentConfig(template, agent_id="a"), deps)
    async with agent.stream("What is in a and b?") as live:
        seen = [event async for event in live]
    result = live.result
    assert result is not None
    assert (result.status, result.text, result.steps) == ("ok", "Both are there.", 2)
    assert (result.usage.input, result.usage.cache_read, result.usage.cache_write) == (71, 30, 30)
    first, again, third = messages_server.requests
    assert again.body == third.body
    assert first.body["thinking"]["type"] == "adaptive"
    said, results = third.body["messages"][1:]
    assert [block["type"] for block in said["content"]] == [
        "thinking", "redacted_thinking", "text", "tool_use", "tool_use",
    ]  # fmt: skip
    assert said["content"][0]["signature"] == "c2lnbmF0dXJl"
    assert [block["tool_use_id"] for block in results["content"]] == ["toolu_1", "toolu_2"]
    messages_server.reply(message(text("Again.")))
    await agent.run("Once more.")
    # Everything that was kept, shown or can be printed.
    printed = repr([seen, result, agent, provider, provider.http, vars(provider)])
    await agent.close()
    await provider.close()
    await store.close()
    kept = kept_in(tmp_path)
    assert b"Both are there." in kept
    assert CANARY.encode() not in kept
    assert CANARY not in printed
    assert all(CANARY not in seen.path and CANARY.encode() not in seen.raw for seen in messages_server.requests)
